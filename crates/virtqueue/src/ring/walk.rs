//! A chain on its way from descriptors into a batch: the rules that both layouts share.

use super::order;
use super::split_layout::{DESCRIPTOR_SIZE, Descriptor};
use crate::chain::{Batch, Token};
use crate::fault::{Fault, Rule};
use crate::memory::{AccessError, Nearby, Snapshot, Space, Wanted};

/// Pieces of host memory that a chain may have beyond one for each descriptor.
const EXTRA_SEGMENTS: usize = 1024;

/// A chain as far as it has been walked.
#[derive(Clone, Copy)]
pub(super) struct Walk {
    size: u32,
    /// Descriptors that may still come.
    left: u32,
    /// Segments before the first device-writable one; meaningful once `writing`.
    readable: usize,
    writing: bool,
    lengths: (u64, u64),
}

impl Walk {
    /// Nothing walked yet, of a queue of `size`.
    #[inline]
    pub(super) fn new(size: u32) -> Self {
        Self {
            size,
            left: size,
            readable: 0,
            writing: false,
            lengths: (0, 0),
        }
    }

    /// Adds the buffer of one descriptor to the open chain. A buffer of no bytes adds nothing.
    #[inline(always)]
    pub(super) fn buffer(
        &mut self,
        memory: &Snapshot,
        nearby: &mut Nearby,
        batch: &mut Batch,
        addr: u64,
        len: u32,
        write: bool,
    ) -> Result<(), Fault> {
        if self.left == 0 {
            return Err(Fault::with(Rule::ChainLength, || {
                format!("a loop, or more than {} descriptors", self.size)
            }));
        }
        self.left -= 1;
        if write {
            if !self.writing {
                self.writing = true;
                self.readable = batch.open_segments();
            }
            self.lengths.1 += u64::from(len);
        } else {
            if self.writing {
                return Err(Fault::with(Rule::ReadableAfterWritable, || {
                    format!("device-readable buffer at {addr:#x} follows a device-writable one")
                }));
            }
            self.lengths.0 += u64::from(len);
        }
        if let Err(error) = memory.segments(nearby, addr, len, write, batch) {
            lack(batch, error)?;
        }
        if batch.open_segments() > self.size as usize + EXTRA_SEGMENTS
            || self.lengths.0 + self.lengths.1 > 1 << 32
        {
            return Err(Fault::with(Rule::ChainLength, || {
                "more than 2^32 bytes, or in too many pieces of memory".to_owned()
            }));
        }
        Ok(())
    }

    /// Bytes to write until the chain is used completely, for [`Order::taken`](super::order::Order::taken).
    /// A fault if translations are missing, all of which `batch` knows by now.
    #[inline(always)]
    pub(super) fn room(&self, batch: &Batch) -> Result<u64, Fault> {
        if !batch.missing().is_empty() {
            return Err(untranslated());
        }
        Ok(order::room(self.lengths.0, self.lengths.1))
    }

    /// Ends the chain.
    #[inline]
    pub(super) fn finish(self, batch: &mut Batch, token: Token) {
        let readable = if self.writing {
            self.readable
        } else {
            batch.open_segments()
        };
        batch.finish_chain(token, readable, self.lengths);
    }
}

/// Notes a translation that is missing, so that the rest of the chain is looked at before the front end is
/// asked; other errors stay errors.
#[cold]
fn lack(batch: &mut Batch, error: AccessError) -> Result<(), Fault> {
    let AccessError::Untranslated { address, size, write } = error else {
        return Err(error.into());
    };
    batch.lack(Wanted { address, size, write });
    Ok(())
}

/// Ends a walk; whoever takes chains sees in the batch that this is not the driver's fault.
#[cold]
fn untranslated() -> Fault {
    Fault::new(Rule::Translation, "translations are missing")
}

/// An indirect table in guest memory.
pub(super) struct Table {
    addr: u64,
    entries: u32,
    /// Its host address, if it is one piece; one that crosses regions is read entry by entry.
    whole: Option<*mut u8>,
}

impl Table {
    /// Resolves a table of `len` bytes; a length that is no whole number of entries breaks `rule`.
    #[inline]
    pub(super) fn new(
        memory: &Snapshot,
        batch: &mut Batch,
        addr: u64,
        len: u32,
        rule: Rule,
    ) -> Result<Self, Fault> {
        if len == 0 || len % DESCRIPTOR_SIZE != 0 {
            return Err(Fault::with(rule, || format!("length {len}")));
        }
        let whole = match memory.contiguous(Space::Guest, addr, u64::from(len), false) {
            Ok(found) => Some(found.host),
            Err(AccessError::Divided { .. }) => None,
            Err(error @ AccessError::Untranslated { .. }) => {
                lack(batch, error)?;
                return Err(untranslated());
            }
            Err(error) => return Err(Fault::with(Rule::Address, || format!("indirect table: {error}"))),
        };
        Ok(Self {
            addr,
            entries: len / DESCRIPTOR_SIZE,
            whole,
        })
    }

    /// Number of entries.
    pub(super) fn entries(&self) -> u32 {
        self.entries
    }

    /// Copies an entry out; `memory` is the one that it was resolved in.
    #[inline(always)]
    pub(super) fn entry(&self, memory: &Snapshot, index: u32) -> Result<Descriptor, Fault> {
        if index >= self.entries {
            return Err(Fault::with(Rule::DescriptorIndex, || {
                format!("index {index} in an indirect table of {}", self.entries)
            }));
        }
        let offset = index * DESCRIPTOR_SIZE;
        match self.whole {
            // SAFETY: the table was resolved in `memory`; `index` is within it.
            Some(host) => Ok(unsafe { Descriptor::read(host.wrapping_add(offset as usize)) }),
            None => self.entry_anywhere(memory, offset),
        }
    }

    #[cold]
    fn entry_anywhere(&self, memory: &Snapshot, offset: u32) -> Result<Descriptor, Fault> {
        let mut bytes = [0; DESCRIPTOR_SIZE as usize];
        memory.read(Space::Guest, self.addr + u64::from(offset), &mut bytes)?;
        Ok(Descriptor::from_bytes(bytes))
    }
}
