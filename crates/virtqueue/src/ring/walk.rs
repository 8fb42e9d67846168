//! A chain on its way from descriptors into a batch: the rules that both layouts share.

use super::order;
use super::split_layout::{DESCRIPTOR_SIZE, Descriptor};
use crate::chain::{Batch, Segment, Token};
use crate::fault::{Fault, Rule};
use crate::memory::{AccessError, Near, Nearby, Snapshot, Space, Wanted};
use std::slice::IterMut;

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

/// A chain as far as it has been walked where all is as it mostly is: each buffer in one piece, in the region that was hit last.
///
/// Whatever is not so, a broken rule too, is left to a [`Walk`] from the start, of the same descriptors as they are then. Here
/// nothing is judged, so that there is no fault to make, and nothing that a call could change to be kept in memory.
pub(super) struct Usual<'a> {
    near: Near<'a>,
    places: IterMut<'a, Segment>,
    /// Buffers so far, and how many were device-readable once one is not.
    buffers: u32,
    readable: u32,
    writing: bool,
    /// Bytes of the device-readable part once it has ended, and of the part that the next buffer is in.
    readable_len: u64,
    len: u64,
}

/// What a chain is that was walked so.
pub(super) struct Walked {
    pub(super) buffers: u32,
    readable: u32,
    lengths: (u64, u64),
}

impl<'a> Usual<'a> {
    /// Nothing walked yet, of a chain of at most `most` buffers.
    #[inline(always)]
    pub(super) fn new(near: Near<'a>, batch: &'a mut Batch, most: u32) -> Self {
        Self {
            near,
            places: batch.places(most as usize),
            buffers: 0,
            readable: 0,
            writing: false,
            readable_len: 0,
            len: 0,
        }
    }

    /// Adds the buffer of one descriptor; false if that is not as it mostly is.
    #[inline(always)]
    pub(super) fn buffer(&mut self, addr: u64, len: u32, write: bool) -> bool {
        let Some(segment) = self.near.segment(addr, len, write) else {
            return false;
        };
        if write != self.writing {
            if !write {
                return false;
            }
            self.writing = true;
            (self.readable, self.readable_len) = (self.buffers, self.len);
            self.len = 0;
        }
        let Some(place) = self.places.next() else {
            return false;
        };
        *place = segment;
        self.buffers += 1;
        self.len += u64::from(len);
        true
    }

    /// The end of the chain; `None` if it may not be so long in bytes.
    #[inline(always)]
    pub(super) fn end(self) -> Option<Walked> {
        let (readable, lengths) = if self.writing {
            (self.readable, (self.readable_len, self.len))
        } else {
            (self.buffers, (self.len, 0))
        };
        (self.readable_len + self.len <= 1 << 32).then_some(Walked {
            buffers: self.buffers,
            readable,
            lengths,
        })
    }
}

impl Walked {
    /// As [`Walk::room`].
    #[inline(always)]
    pub(super) fn room(&self) -> u64 {
        order::room(self.lengths.0, self.lengths.1)
    }

    /// Ends the chain in `batch`.
    #[inline(always)]
    pub(super) fn finish(self, batch: &mut Batch, token: Token) {
        batch.finish_placed(token, self.buffers as usize, self.readable as usize, self.lengths);
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

    /// The same for one that lies in the region that was hit last and has a proper length.
    #[inline(always)]
    pub(super) fn near(near: Near<'_>, addr: u64, len: u32) -> Option<Self> {
        let host = near.host(addr, len, false)?;
        (len % DESCRIPTOR_SIZE == 0).then_some(Self {
            addr,
            entries: len / DESCRIPTOR_SIZE,
            whole: Some(host),
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
