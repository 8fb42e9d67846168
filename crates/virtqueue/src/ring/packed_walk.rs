//! How the device follows a list of descriptors in a packed ring (VIRTIO 1.4, 2.8.5 to 2.8.7).

use super::order;
use super::packed::{Held, PackedRing};
use super::packed_layout::{Head, Parts, Position};
use super::split_layout::{Descriptor, INDIRECT, NEXT, WRITE};
use super::wakeup::{self, PackedWords};
use super::walk::{Table, Usual, Walk, Walked};
use crate::chain::{Batch, Token};
use crate::fault::{Fault, Rule};
use crate::memory::{Near, Snapshot};
use std::sync::atomic::Ordering;

impl PackedRing {
    /// Takes chains of one buffer each, as most are, while all is as it mostly is: up to `max` of them.
    /// Returns how many. For bursts: what it counts on stays in registers, and is not worth bringing there for one chain.
    #[inline(never)]
    pub(super) fn take_singles(
        &mut self,
        near: Near<'_>,
        parts: &Parts,
        batch: &mut Batch,
        max: usize,
    ) -> usize {
        let size = self.config.size;
        // A ring has no room for more, whatever its flags say: they may be flipped at any time.
        let limit = max.min((size - self.busy) as usize).min(batch.room());
        let (mut at, mut turn) = (self.next, self.turn);
        let mut count = 0;
        let mut singles = batch.singles();
        while count < limit {
            let head = wakeup::look_at_head(parts, &self.barriers, at.offset);
            if !head.available_at(at) || head.flags & (INDIRECT | NEXT) != 0 {
                break;
            }
            let write = head.flags & WRITE != 0;
            let Some(segment) = near.segment(parts.addr(at.offset), head.len, write) else {
                break;
            };
            let held = match self.ids.get_mut(usize::from(head.id)) {
                Some(held) if held.slots == 0 => held,
                _ => break,
            };
            let Some(single) = singles.next() else {
                break;
            };
            *held = Held {
                turn,
                slots: 1,
                logged: false,
            };
            let token = Token::new(head.id, 1);
            if let Some(order) = &mut self.order {
                let len = u64::from(head.len);
                order.taken(token, if write { order::room(0, len) } else { 0 });
            }
            turn = turn.wrapping_add(1);
            at = at.after(1, size);
            single.fill(token, segment, write);
            count += 1;
        }
        self.busy += count as u32;
        (self.next, self.turn) = (at, turn);
        batch.filled_singles(count);
        count
    }

    /// The same for chains of any kind, one by one. Also returns the first descriptor of the next chain, if that is not as it mostly is.
    #[inline(always)]
    pub(super) fn take_usual(
        &mut self,
        memory: &Snapshot,
        near: Near<'_>,
        parts: &Parts,
        batch: &mut Batch,
        max: usize,
    ) -> (usize, Option<Head>) {
        let size = self.config.size;
        let mut count = 0;
        // A ring has no room for more, whatever its flags say: they may be flipped at any time.
        while count < max && self.busy < size && batch.room() > 0 {
            let first = wakeup::look_at_head(parts, &self.barriers, self.next.offset);
            if !first.available_at(self.next) {
                return (count, None);
            }
            self.singly = first.flags & (INDIRECT | NEXT) == 0;
            let taken = if self.singly {
                self.take_usual_single(near, parts, batch, first)
            } else if first.flags & INDIRECT == 0 {
                self.take_usual_list(near, parts, batch, first)
            } else {
                self.take_usual_table(memory, near, parts, batch, first)
            };
            if !taken {
                return (count, Some(first));
            }
            count += 1;
        }
        (count, None)
    }

    /// Takes the chain at `self.next`, which is one buffer, if all of it is as it mostly is.
    #[inline(always)]
    fn take_usual_single(&mut self, near: Near<'_>, parts: &Parts, batch: &mut Batch, head: Head) -> bool {
        let write = head.flags & WRITE != 0;
        let Some(segment) = near.segment(parts.addr(self.next.offset), head.len, write) else {
            return false;
        };
        let Some(single) = batch.singles().next() else {
            return false;
        };
        let turn = self.turn;
        match self.ids.get_mut(usize::from(head.id)) {
            Some(held) if held.slots == 0 => {
                *held = Held {
                    turn,
                    slots: 1,
                    logged: false,
                }
            }
            _ => return false,
        }
        let token = Token::new(head.id, 1);
        single.fill(token, segment, write);
        batch.filled_singles(1);
        if let Some(order) = &mut self.order {
            let len = u64::from(head.len);
            order.taken(token, if write { order::room(0, len) } else { 0 });
        }
        self.turn = turn.wrapping_add(1);
        self.busy += 1;
        self.next = self.next.after(1, self.config.size);
        true
    }

    /// Takes the chain at `self.next`, whose first descriptor is `first`, if all of it is as it mostly is.
    #[inline(never)]
    fn take_usual_list(&mut self, near: Near<'_>, parts: &Parts, batch: &mut Batch, first: Head) -> bool {
        let size = self.config.size;
        let (mut at, mut head) = (self.next, first);
        // Of descriptors that the device has already, none is part of a list.
        let mut usual = Usual::new(near, batch, size - self.busy);
        loop {
            let write = head.flags & WRITE != 0;
            if head.flags & INDIRECT != 0 || !usual.buffer(parts.addr(at.offset), head.len, write) {
                return false;
            }
            at = at.after(1, size);
            if head.flags & NEXT == 0 {
                break;
            }
            // Relaxed: the driver wrote it before the first one's flags, which were acquired.
            head = parts.head(at.offset, Ordering::Relaxed);
            if !head.available_at(at) {
                return false;
            }
        }
        // The last descriptor's id is the list's (2.8.6).
        let Some(walked) = usual.end() else {
            return false;
        };
        self.book(batch, walked.buffers as u16, head.id, at, walked)
    }

    /// The same if it is a table.
    #[inline(never)]
    fn take_usual_table(
        &mut self,
        memory: &Snapshot,
        near: Near<'_>,
        parts: &Parts,
        batch: &mut Batch,
        head: Head,
    ) -> bool {
        let size = self.config.size;
        let addr = parts.addr(self.next.offset);
        let found = Table::near(near, addr, head.len).filter(|_| self.indirect && head.flags & NEXT == 0);
        let Some(table) = found else {
            return false;
        };
        let mut usual = Usual::new(near, batch, size);
        for index in 0..table.entries() {
            let Ok(entry) = table.entry(memory, index) else {
                return false;
            };
            // As in the ring, flags are the last two bytes: what a split descriptor calls `next`.
            if !usual.buffer(entry.addr, entry.len, entry.next & WRITE != 0) {
                return false;
            }
        }
        let Some(walked) = usual.end() else {
            return false;
        };
        self.book(batch, 1, head.id, self.next.after(1, size), walked)
    }

    /// Books a chain that was walked as chains mostly are; `next` is behind it. False if its id is in use, or new.
    #[inline(always)]
    fn book(&mut self, batch: &mut Batch, slots: u16, id: u16, next: Position, walked: Walked) -> bool {
        let turn = self.turn;
        let logged = false;
        match self.ids.get_mut(usize::from(id)) {
            Some(held) if held.slots == 0 => *held = Held { turn, slots, logged },
            _ => return false,
        }
        let token = Token::new(id, slots);
        if let Some(order) = &mut self.order {
            order.taken(token, walked.room());
        }
        self.turn = turn.wrapping_add(1);
        self.busy += u32::from(slots);
        self.next = next;
        walked.finish(batch, token);
        true
    }

    /// Takes the chain at `self.next`, whatever it is.
    #[inline(never)]
    pub(super) fn take_any(
        &mut self,
        memory: &Snapshot,
        parts: &Parts,
        batch: &mut Batch,
        head: Head,
    ) -> Result<(), Fault> {
        if head.flags & INDIRECT != 0 {
            self.take_table(memory, parts.addr(self.next.offset), batch, head)
        } else {
            self.take_list(memory, parts, batch, head)
        }
    }

    /// The same for a list. What it counts stays within this function, and so in registers.
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
        self.accept(memory, batch, walk, Token::new(head.id, slots))
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
        let token = Token::new(head.id, 1);
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
        let token = Token::new(id, list.len() as u16);
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
            self.log.remember(usize::from(token.id()), batch);
        }
        Ok(())
    }

    /// Books a chain that begins at `self.next`.
    #[inline(always)]
    fn admit(&mut self, memory: &Snapshot, token: Token, room: u64) -> Result<(), Fault> {
        // A driver that flips flags back could make the same descriptors available again and again.
        if self.busy + u32::from(token.slots()) > self.config.size {
            return Err(Fault::with(Rule::PackedDescriptorInUse, || {
                format!("{} descriptors at offset {}", token.slots(), self.next.offset)
            }));
        }
        let index = usize::from(token.id());
        if index >= self.ids.len() {
            self.more_ids(index);
        }
        let held = &mut self.ids[index];
        if held.slots != 0 {
            return Err(Fault::with(Rule::BufferId, || {
                format!("buffer id {} is in use already", token.id())
            }));
        }
        *held = Held {
            turn: self.turn,
            slots: token.slots(),
            logged: memory.dirty_log().is_some(),
        };
        if let Some(order) = &mut self.order {
            order.taken(token, room);
        }
        self.turn = self.turn.wrapping_add(1);
        self.busy += u32::from(token.slots());
        self.next = self.next.after(token.slots(), self.config.size);
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
