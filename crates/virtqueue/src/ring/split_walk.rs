//! How the device follows a chain of descriptors (VIRTIO 1.4, 2.7.5).

use super::split::{HELD, SplitRing};
use super::split_layout::{self as layout, Descriptor, Parts};
use super::walk::{Table, Usual, Walk, Walked};
use crate::chain::{Batch, Token};
use crate::fault::{Fault, Rule};
use crate::memory::{Near, Nearby, Snapshot};

impl SplitRing {
    /// Takes the chain at `head`, which the driver put at `self.next`, if all of it is as it mostly is.
    #[inline(always)]
    pub(super) fn take_usual(
        &mut self,
        memory: &Snapshot,
        near: Near<'_>,
        parts: &Parts,
        batch: &mut Batch,
        head: u16,
    ) -> bool {
        let size = self.config.size;
        if self
            .state
            .get(usize::from(head))
            .is_none_or(|state| state & HELD != 0)
        {
            return false;
        }
        let descriptor = parts.descriptor(head);
        let walked = if descriptor.flags & layout::INDIRECT == 0 {
            let next = |index| (u32::from(index) < size).then(|| parts.descriptor(index));
            usual_chain(Usual::new(near, batch, size), descriptor, next)
        } else {
            self.usual_table(memory, near, batch, descriptor)
        };
        let Some(walked) = walked else {
            return false;
        };
        if self
            .order
            .as_ref()
            .is_some_and(|order| order.len() >= size as usize)
        {
            return false;
        }
        self.book(head, walked.room());
        walked.finish(batch, Token::new(head, 1));
        true
    }

    #[inline(never)]
    fn usual_table(
        &self,
        memory: &Snapshot,
        near: Near<'_>,
        batch: &mut Batch,
        descriptor: Descriptor,
    ) -> Option<Walked> {
        if !self.indirect || descriptor.flags & layout::NEXT != 0 {
            return None;
        }
        let table = Table::near(near, descriptor.addr, descriptor.len)?;
        let first = table.entry(memory, 0).ok()?;
        let next = |index| table.entry(memory, u32::from(index)).ok();
        usual_chain(Usual::new(near, batch, self.config.size), first, next)
    }

    /// Takes the chain at `head`, which the driver put at `self.next`, whatever it is.
    #[inline(never)]
    pub(super) fn take_any(
        &mut self,
        memory: &Snapshot,
        parts: &Parts,
        batch: &mut Batch,
        head: u16,
    ) -> Result<(), Fault> {
        let size = self.config.size;
        match self.state.get(usize::from(head)) {
            None => {
                return Err(Fault::with(Rule::DescriptorIndex, || {
                    format!("head {head}, queue size {size}")
                }));
            }
            Some(state) if state & HELD != 0 => {
                return Err(Fault::with(Rule::DescriptorIndex, || {
                    format!("head {head} is in use already")
                }));
            }
            Some(_) => {}
        }
        if self
            .order
            .as_ref()
            .is_some_and(|order| order.len() >= size as usize)
        {
            // Chains that are complete, but not told of yet for the sake of their order, are not the
            // driver's to offer again.
            return Err(Fault::with(Rule::AvailableIndex, || {
                format!("{size} chains are not used yet")
            }));
        }
        let room = self.walk_from(memory, parts, batch, head)?;
        self.book(head, room);
        Ok(())
    }

    /// Walks the chain at `head`, which is less than the size, into `batch`; returns what [`Walk::room`] says.
    fn walk_from(
        &mut self,
        memory: &Snapshot,
        parts: &Parts,
        batch: &mut Batch,
        head: u16,
    ) -> Result<u64, Fault> {
        let descriptor = parts.descriptor(head);
        let mut nearby = self.nearby;
        let room = if descriptor.flags & layout::INDIRECT != 0 {
            self.walk_only_table(memory, &mut nearby, batch, head, descriptor)?
        } else {
            self.walk(memory, &mut nearby, parts, batch, head)?
        };
        self.nearby = nearby;
        Ok(room)
    }

    /// Takes a chain that a predecessor had taken: whatever the available ring says by now.
    #[cold]
    pub(super) fn retake(&mut self, memory: &Snapshot, head: u16, batch: &mut Batch) -> Result<(), Fault> {
        let Some(parts) = self.parts(memory)? else {
            return Err(Fault::new(Rule::Address, "the ring is not mapped"));
        };
        if self
            .state
            .get(usize::from(head))
            .is_none_or(|state| state & HELD != 0)
        {
            let detail = format!("head {head} was in flight");
            return Err(Fault::new(Rule::DescriptorIndex, detail));
        }
        let taken = self.walk_from(memory, &parts, batch, head);
        self.book(head, taken.inspect_err(|_| batch.abandon_chain())?);
        self.available = self.next;
        self.hinted = false;
        Ok(())
    }

    /// Reports what was written into a chain's buffers. Its descriptors are still the driver's
    /// promise; should they have changed, the driver has spoilt its own log.
    #[cold]
    pub(super) fn log_buffers(&self, memory: &Snapshot, parts: &Parts, head: u16, written: u32) {
        let Some(log) = memory.dirty_log() else { return };
        let mut batch = Batch::default();
        if self
            .walk(memory, &mut Nearby::default(), parts, &mut batch, head)
            .is_err()
        {
            return;
        }
        let mut left = written;
        for segment in batch.get(0).iter().flat_map(|chain| chain.writable) {
            let size = left.min(segment.len);
            if size == 0 {
                break;
            }
            log.mark(segment.guest, u64::from(size));
            left -= size;
        }
    }

    /// Walks the chain at `head` into `batch`; returns what [`Walk::room`] says.
    #[inline(always)]
    pub(super) fn walk(
        &self,
        memory: &Snapshot,
        nearby: &mut Nearby,
        parts: &Parts,
        batch: &mut Batch,
        head: u16,
    ) -> Result<u64, Fault> {
        // Nothing here leaves this function, so that all of it stays in registers.
        let mut walk = Walk::new(self.config.size);
        let mut index = head;
        loop {
            let Descriptor {
                addr,
                len,
                flags,
                next,
            } = self.at(parts, index)?;
            if flags & layout::INDIRECT != 0 {
                batch.abandon_chain();
                return self.walk_with_table(memory, nearby, parts, batch, head);
            }
            walk.buffer(memory, nearby, batch, addr, len, flags & layout::WRITE != 0)?;
            if flags & layout::NEXT == 0 {
                break;
            }
            index = next;
        }
        let room = walk.room(batch)?;
        walk.finish(batch, Token::new(head, 1));
        Ok(room)
    }

    /// The same for a chain that is a table, as drivers make them: `descriptor` is its only one.
    #[inline(never)]
    pub(super) fn walk_only_table(
        &self,
        memory: &Snapshot,
        nearby: &mut Nearby,
        batch: &mut Batch,
        head: u16,
        descriptor: Descriptor,
    ) -> Result<u64, Fault> {
        let mut walk = Walk::new(self.config.size);
        self.walk_table(memory, nearby, batch, &mut walk, &descriptor)?;
        let room = walk.room(batch)?;
        walk.finish(batch, Token::new(head, 1));
        Ok(room)
    }

    /// The same from the start for a chain that was seen to end in an indirect table. What was
    /// read before does not count: the driver may have changed it.
    #[inline(never)]
    fn walk_with_table(
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
                self.walk_table(memory, nearby, batch, &mut walk, &descriptor)?;
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
        let room = walk.room(batch)?;
        walk.finish(batch, Token::new(head, 1));
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

    /// Follows an indirect descriptor, which ends its chain.
    #[inline(always)]
    fn walk_table(
        &self,
        memory: &Snapshot,
        nearby: &mut Nearby,
        batch: &mut Batch,
        walk: &mut Walk,
        descriptor: &Descriptor,
    ) -> Result<(), Fault> {
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
        let table = Table::new(
            memory,
            batch,
            descriptor.addr,
            descriptor.len,
            Rule::IndirectLength,
        )?;
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
                return Ok(());
            }
            index = next;
        }
    }
}

/// Walks a chain as chains mostly are, from its first descriptor on; `next` has the others, if there are such.
#[inline(always)]
fn usual_chain(
    mut usual: Usual<'_>,
    first: Descriptor,
    next: impl Fn(u16) -> Option<Descriptor>,
) -> Option<Walked> {
    let mut descriptor = first;
    loop {
        let Descriptor { addr, len, flags, .. } = descriptor;
        if flags & layout::INDIRECT != 0 || !usual.buffer(addr, len, flags & layout::WRITE != 0) {
            return None;
        }
        if flags & layout::NEXT == 0 {
            return usual.end();
        }
        descriptor = next(descriptor.next)?;
    }
}
