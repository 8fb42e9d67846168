//! How the device follows a chain of descriptors (VIRTIO 1.4, 2.7.5).

use super::split::SplitRing;
use super::split_layout::{self as layout, Descriptor, Parts};
use super::walk::{Table, Walk};
use crate::chain::{Batch, Token};
use crate::fault::{Fault, Rule};
use crate::memory::{Nearby, Snapshot};

impl SplitRing {
    /// Walks the chain at `head` into `batch`; returns the bytes in its device-writable part.
    #[inline(always)]
    pub(super) fn walk(
        &self,
        memory: &Snapshot,
        nearby: &mut Nearby,
        parts: &Parts,
        batch: &mut Batch,
        head: u16,
    ) -> Result<u64, Fault> {
        let mut walk = Walk::new(self.config.size);
        let mut index = head;
        loop {
            let descriptor = self.at(parts, index)?;
            if descriptor.flags & layout::INDIRECT != 0 {
                walk = self.walk_table(memory, nearby, batch, walk, &descriptor)?;
                break;
            }
            let Descriptor {
                addr,
                len,
                flags,
                next,
            } = descriptor;
            walk.buffer(memory, nearby, batch, addr, len, flags & layout::WRITE != 0)?;
            if flags & layout::NEXT == 0 {
                break;
            }
            index = next;
        }
        let room = walk.room();
        walk.finish(batch, Token { id: head, slots: 1 });
        Ok(room)
    }

    #[inline(always)]
    fn at(&self, parts: &Parts, index: u16) -> Result<Descriptor, Fault> {
        if u32::from(index) >= self.config.size {
            return Err(Fault::with(Rule::DescriptorIndex, || {
                format!("index {index}, queue size {}", self.config.size)
            }));
        }
        Ok(parts.descriptor(index))
    }

    /// Follows an indirect descriptor, which ends its chain. Takes and returns the walk, so that one
    /// without tables stays in registers.
    #[inline(never)]
    fn walk_table(
        &self,
        memory: &Snapshot,
        nearby: &mut Nearby,
        batch: &mut Batch,
        mut walk: Walk,
        descriptor: &Descriptor,
    ) -> Result<Walk, Fault> {
        if !self.indirect {
            return Err(Fault::with(Rule::NotNegotiated, || {
                "indirect descriptor without VIRTIO_F_INDIRECT_DESC".to_owned()
            }));
        }
        if descriptor.flags & layout::NEXT != 0 {
            return Err(Fault::with(Rule::IndirectNext, || {
                "INDIRECT and NEXT are both set".to_owned()
            }));
        }
        let table = Table::new(memory, descriptor.addr, descriptor.len, Rule::IndirectLength)?;
        let mut index = 0;
        loop {
            let Descriptor {
                addr,
                len,
                flags,
                next,
            } = table.entry(memory, u32::from(index))?;
            if flags & layout::INDIRECT != 0 {
                return Err(Fault::with(Rule::NestedIndirect, || {
                    format!("at index {index} of a table")
                }));
            }
            walk.buffer(memory, nearby, batch, addr, len, flags & layout::WRITE != 0)?;
            if flags & layout::NEXT == 0 {
                return Ok(walk);
            }
            index = next;
        }
    }
}
