//! How the device follows a chain of descriptors (VIRTIO 1.4, 2.7.5).

use super::split::SplitRing;
use super::split_layout::{self as layout, Descriptor, Parts};
use crate::chain::{Batch, Token};
use crate::fault::{Fault, Rule};
use crate::memory::{AccessError, Snapshot, Space};

/// Pieces of host memory that a chain may have beyond one for each descriptor.
const EXTRA_SEGMENTS: usize = 1024;

/// A chain as far as it has been walked.
struct Walk {
    /// Descriptors that may still come.
    left: u32,
    /// Segments before the first device-writable one; meaningful once `writing`.
    readable: usize,
    writing: bool,
    lengths: (u64, u64),
}

impl SplitRing {
    /// Walks the chain at `head` into `batch`.
    #[inline]
    pub(super) fn walk(
        &self,
        memory: &Snapshot,
        parts: &Parts,
        batch: &mut Batch,
        head: u16,
    ) -> Result<(), Fault> {
        let mut walk = Walk {
            left: self.config.size,
            readable: 0,
            writing: false,
            lengths: (0, 0),
        };
        let mut index = head;
        loop {
            let descriptor = self.at(parts, index)?;
            if descriptor.flags & layout::INDIRECT != 0 {
                self.walk_table(memory, batch, &mut walk, &descriptor)?;
                break;
            }
            self.buffer(memory, batch, &mut walk, &descriptor)?;
            if descriptor.flags & layout::NEXT == 0 {
                break;
            }
            index = descriptor.next;
        }
        let readable = if walk.writing {
            walk.readable
        } else {
            batch.open_segments()
        };
        batch.finish_chain(Token { id: head, slots: 1 }, readable, walk.lengths);
        Ok(())
    }

    #[inline]
    fn at(&self, parts: &Parts, index: u16) -> Result<Descriptor, Fault> {
        if u32::from(index) >= self.config.size {
            let size = self.config.size;
            return Err(Fault::new(
                Rule::DescriptorIndex,
                format!("index {index}, queue size {size}"),
            ));
        }
        Ok(parts.descriptor(index))
    }

    /// Follows an indirect descriptor, which ends its chain.
    #[inline]
    fn walk_table(
        &self,
        memory: &Snapshot,
        batch: &mut Batch,
        walk: &mut Walk,
        table: &Descriptor,
    ) -> Result<(), Fault> {
        if !self.indirect {
            return Err(Fault::new(
                Rule::NotNegotiated,
                "indirect descriptor without VIRTIO_F_INDIRECT_DESC",
            ));
        }
        if table.flags & layout::NEXT != 0 {
            return Err(Fault::new(Rule::IndirectNext, "INDIRECT and NEXT are both set"));
        }
        if table.len == 0 || table.len % layout::DESCRIPTOR_SIZE != 0 {
            return Err(Fault::new(Rule::IndirectLength, format!("length {}", table.len)));
        }
        let entries = table.len / layout::DESCRIPTOR_SIZE;
        // Usually one piece; a table that crosses regions is read entry by entry.
        let whole = match memory.contiguous(Space::Guest, table.addr, u64::from(table.len), false) {
            Ok(found) => Some(found.host),
            Err(AccessError::Divided { .. }) => None,
            Err(error) => return Err(Fault::new(Rule::Address, format!("indirect table: {error}"))),
        };
        let mut index = 0;
        loop {
            if u32::from(index) >= entries {
                let detail = format!("index {index} in an indirect table of {entries}");
                return Err(Fault::new(Rule::DescriptorIndex, detail));
            }
            let offset = u32::from(index) * layout::DESCRIPTOR_SIZE;
            let descriptor = match whole {
                // SAFETY: the table was resolved in `memory`; `index` is within it.
                Some(host) => unsafe { Descriptor::read(host.wrapping_add(offset as usize)) },
                None => {
                    let mut bytes = [0; layout::DESCRIPTOR_SIZE as usize];
                    memory.read(Space::Guest, table.addr + u64::from(offset), &mut bytes)?;
                    Descriptor::from_bytes(bytes)
                }
            };
            if descriptor.flags & layout::INDIRECT != 0 {
                return Err(Fault::new(
                    Rule::NestedIndirect,
                    format!("at index {index} of a table"),
                ));
            }
            self.buffer(memory, batch, walk, &descriptor)?;
            if descriptor.flags & layout::NEXT == 0 {
                return Ok(());
            }
            index = descriptor.next;
        }
    }

    /// Adds the buffer of one descriptor to the open chain. A buffer of no bytes adds nothing.
    #[inline]
    fn buffer(
        &self,
        memory: &Snapshot,
        batch: &mut Batch,
        walk: &mut Walk,
        descriptor: &Descriptor,
    ) -> Result<(), Fault> {
        let Descriptor { addr, len, flags, .. } = *descriptor;
        if walk.left == 0 {
            return Err(Fault::new(
                Rule::ChainLength,
                format!("a loop, or more than {} descriptors", self.config.size),
            ));
        }
        walk.left -= 1;
        let write = flags & layout::WRITE != 0;
        if write {
            if !walk.writing {
                walk.writing = true;
                walk.readable = batch.open_segments();
            }
            walk.lengths.1 += u64::from(len);
        } else {
            if walk.writing {
                let detail = format!("device-readable buffer at {addr:#x} follows a device-writable one");
                return Err(Fault::new(Rule::ReadableAfterWritable, detail));
            }
            walk.lengths.0 += u64::from(len);
        }
        memory.segments(addr, len, write, |segment| batch.push_segment(segment))?;
        if batch.open_segments() > self.config.size as usize + EXTRA_SEGMENTS
            || walk.lengths.0 + walk.lengths.1 > 1 << 32
        {
            let detail = "more than 2^32 bytes, or in too many pieces of memory";
            return Err(Fault::new(Rule::ChainLength, detail));
        }
        Ok(())
    }
}
