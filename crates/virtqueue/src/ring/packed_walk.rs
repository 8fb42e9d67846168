//! How the device follows a list of descriptors in a packed ring (VIRTIO 1.4, 2.8.5 to 2.8.7).

use super::order;
use super::packed::{Held, PackedRing};
use super::packed_layout::{Head, Parts};
use super::split_layout::{Descriptor, INDIRECT, NEXT, WRITE};
use super::wakeup::PackedWords;
use super::walk::{Table, Walk};
use crate::chain::{Batch, Token};
use crate::fault::{Fault, Rule};
use crate::memory::Snapshot;
use std::sync::atomic::Ordering;

impl PackedRing {
    /// Takes the chain at `self.next`, whose first descriptor is `head`.
    #[inline(always)]
    pub(super) fn take_one(
        &mut self,
        memory: &Snapshot,
        parts: &Parts,
        batch: &mut Batch,
        head: Head,
    ) -> Result<(), Fault> {
        if head.flags & (INDIRECT | NEXT) == 0 {
            // One buffer in one piece of memory, as most are: nothing to keep count of.
            let (addr, write) = (parts.addr(self.next.offset), head.flags & WRITE != 0);
            if let Some(segment) = memory.segment_nearby(self.nearby, addr, head.len, write) {
                let token = Token {
                    id: head.id,
                    slots: 1,
                };
                let len = u64::from(head.len);
                let room = if write { order::room(0, len) } else { 0 };
                self.admit(memory, token, room)?;
                batch.push_single(token, segment, write);
                if memory.dirty_log().is_some() {
                    self.log.remember(usize::from(token.id), batch);
                }
                return Ok(());
            }
        }
        if head.flags & INDIRECT != 0 {
            self.take_table(memory, parts.addr(self.next.offset), batch, head)
        } else {
            self.take_list(memory, parts, batch, head)
        }
    }

    /// The same for a list of any length. What it counts stays within this function, and so in registers.
    #[inline(never)]
    fn take_list(
        &mut self,
        memory: &Snapshot,
        parts: &Parts,
        batch: &mut Batch,
        mut head: Head,
    ) -> Result<(), Fault> {
        let size = self.config.size;
        let mut nearby = self.nearby;
        let mut walk = Walk::new(size);
        let mut at = self.next;
        let mut slots = 1;
        loop {
            let (addr, write) = (parts.addr(at.offset), head.flags & WRITE != 0);
            walk.buffer(memory, &mut nearby, batch, addr, head.len, write)?;
            if head.flags & NEXT == 0 {
                break;
            }
            if u32::from(slots) == size {
                return Err(Fault::with(Rule::PackedLength, || {
                    format!("more than {size} descriptors")
                }));
            }
            slots += 1;
            at = at.after(1, size);
            // Relaxed: the driver wrote it before the first one's flags, which were acquired.
            head = parts.head(at.offset, Ordering::Relaxed);
            if !head.available_at(at) {
                return Err(Fault::with(Rule::PackedPartial, || {
                    format!("descriptor {} of a list is not available", at.offset)
                }));
            }
            if head.flags & INDIRECT != 0 {
                return Err(in_a_list(at.offset));
            }
        }
        self.nearby = nearby;
        // The last descriptor's id is the list's (2.8.6).
        self.accept(memory, batch, walk, Token { id: head.id, slots })
    }

    /// Takes a chain whose buffers are in an indirect table: all of its entries in order; of their
    /// flags only WRITE counts (2.8.7).
    #[inline(never)]
    fn take_table(
        &mut self,
        memory: &Snapshot,
        addr: u64,
        batch: &mut Batch,
        head: Head,
    ) -> Result<(), Fault> {
        if head.flags & NEXT != 0 {
            return Err(in_a_list(self.next.offset));
        }
        if !self.indirect {
            return Err(Fault::with(Rule::PackedNotNegotiated, || {
                "indirect descriptor without VIRTIO_F_INDIRECT_DESC".to_owned()
            }));
        }
        let mut nearby = self.nearby;
        let mut walk = Walk::new(self.config.size);
        let table = Table::new(memory, batch, addr, head.len, Rule::PackedIndirectLength)?;
        for index in 0..table.entries() {
            let Descriptor {
                addr,
                len,
                next: flags,
                ..
            } = table.entry(memory, index)?;
            // As in the ring, flags are the last two bytes: what a split descriptor calls `next`.
            walk.buffer(memory, &mut nearby, batch, addr, len, flags & WRITE != 0)?;
        }
        self.nearby = nearby;
        let token = Token {
            id: head.id,
            slots: 1,
        };
        self.accept(memory, batch, walk, token)
    }

    /// Takes a list that a predecessor had taken, by the copy that was kept of its descriptors: those in
    /// the ring may have been overwritten by used ones.
    #[cold]
    pub(super) fn retake(
        &mut self,
        memory: &Snapshot,
        list: &[(u64, Head)],
        batch: &mut Batch,
    ) -> Result<(), Fault> {
        let taken = match *list {
            [] => Ok(()),
            [(addr, head)] if head.flags & INDIRECT != 0 => self.take_table(memory, addr, batch, head),
            [.., (_, last)] => self.retake_list(memory, list, batch, last.id),
        };
        taken.inspect_err(|_| batch.abandon_chain())
    }

    fn retake_list(
        &mut self,
        memory: &Snapshot,
        list: &[(u64, Head)],
        batch: &mut Batch,
        id: u16,
    ) -> Result<(), Fault> {
        let mut nearby = self.nearby;
        let mut walk = Walk::new(self.config.size);
        for (addr, head) in list {
            let write = head.flags & WRITE != 0;
            walk.buffer(memory, &mut nearby, batch, *addr, head.len, write)?;
        }
        let token = Token {
            id,
            slots: list.len() as u16,
        };
        self.accept(memory, batch, walk, token)
    }

    /// Ends the open chain of `batch`.
    #[inline(always)]
    fn accept(
        &mut self,
        memory: &Snapshot,
        batch: &mut Batch,
        walk: Walk,
        token: Token,
    ) -> Result<(), Fault> {
        self.admit(memory, token, walk.room(batch)?)?;
        walk.finish(batch, token);
        if memory.dirty_log().is_some() {
            self.log.remember(usize::from(token.id), batch);
        }
        Ok(())
    }

    /// Books a chain that begins at `self.next`.
    #[inline(always)]
    fn admit(&mut self, memory: &Snapshot, token: Token, room: u64) -> Result<(), Fault> {
        // A driver that flips flags back could make the same descriptors available again and again.
        if self.busy + u32::from(token.slots) > self.config.size {
            return Err(Fault::with(Rule::PackedDescriptorInUse, || {
                format!("{} descriptors at offset {}", token.slots, self.next.offset)
            }));
        }
        let index = usize::from(token.id);
        if index >= self.ids.len() {
            self.more_ids(index);
        }
        let held = &mut self.ids[index];
        if held.slots != 0 {
            return Err(Fault::with(Rule::BufferId, || {
                format!("buffer id {} is in use already", token.id)
            }));
        }
        *held = Held {
            turn: self.turn,
            slots: token.slots,
            logged: memory.dirty_log().is_some(),
        };
        if let Some(order) = &mut self.order {
            order.taken(token, room);
        }
        self.turn = self.turn.wrapping_add(1);
        self.held += 1;
        self.busy += u32::from(token.slots);
        self.next = self.next.after(token.slots, self.config.size);
        Ok(())
    }

    #[cold]
    fn more_ids(&mut self, index: usize) {
        self.ids.resize(index + 1, Held::default());
    }
}

#[cold]
fn in_a_list(offset: u16) -> Fault {
    let detail = format!("at offset {offset}, in a list");
    Fault::new(Rule::PackedIndirectInList, detail)
}
