//! How the device follows a chain of descriptors (VIRTIO 1.4, 2.7.5).

use super::split::SplitRing;
use super::split_layout::{self as layout, Descriptor, Parts};
use super::walk::{Table, Walk};
use crate::chain::{Batch, Token};
use crate::fault::{Fault, Rule};
use crate::memory::Snapshot;

impl SplitRing {
    /// Walks the chain at `head` into `batch`; returns the bytes in its device-writable part.
    #[inline]
    pub(super) fn walk(
        &self,
        memory: &Snapshot,
        parts: &Parts,
        batch: &mut Batch,
        head: u16,
    ) -> Result<u64, Fault> {
        let mut walk = Walk::new(self.config.size);
        let mut index = head;
        loop {
            let descriptor = self.at(parts, index)?;
            if descriptor.flags & layout::INDIRECT != 0 {
                self.walk_table(memory, batch, &mut walk, &descriptor)?;
                break;
            }
            let Descriptor {
                addr,
                len,
                flags,
                next,
            } = descriptor;
            walk.buffer(memory, batch, addr, len, flags & layout::WRITE != 0)?;
            if flags & layout::NEXT == 0 {
                break;
            }
            index = next;
        }
        let room = walk.room();
        walk.finish(batch, Token { id: head, slots: 1 });
        Ok(room)
    }

    #[inline]
    fn at(&self, parts: &Parts, index: u16) -> Result<Descriptor, Fault> {
        if u32::from(index) >= self.config.size {
            let detail = format!("index {index}, queue size {}", self.config.size);
            return Err(Fault::new(Rule::DescriptorIndex, detail));
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
        descriptor: &Descriptor,
    ) -> Result<(), Fault> {
        if !self.indirect {
            let detail = "indirect descriptor without VIRTIO_F_INDIRECT_DESC";
            return Err(Fault::new(Rule::NotNegotiated, detail));
        }
        if descriptor.flags & layout::NEXT != 0 {
            return Err(Fault::new(Rule::IndirectNext, "INDIRECT and NEXT are both set"));
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
                let detail = format!("at index {index} of a table");
                return Err(Fault::new(Rule::NestedIndirect, detail));
            }
            walk.buffer(memory, batch, addr, len, flags & layout::WRITE != 0)?;
            if flags & layout::NEXT == 0 {
                return Ok(());
            }
            index = next;
        }
    }
}
