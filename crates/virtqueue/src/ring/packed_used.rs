//! How the device uses buffers in a packed ring, and shows them to the driver (VIRTIO 1.4, 2.8.8).

use super::order::{Group, InTurn, Order};
use super::packed::PackedRing;
use super::packed_layout::{Head, Parts, Position};
use super::split_layout::WRITE;
use super::wakeup::{self, PackedWords};
use crate::chain::Token;
use crate::fault::{Fault, Rule};
use crate::memory::Snapshot;
use std::sync::atomic::Ordering;

impl PackedRing {
    #[inline(always)]
    pub(super) fn complete_plainly(&mut self, parts: &Parts, chains: &[(Token, u32)]) -> Result<(), Fault> {
        let size = self.config.size;
        let mut moved = 0;
        for (done, (token, written)) in chains.iter().enumerate() {
            let slots = match self.ids.get_mut(usize::from(token.id())) {
                Some(held) if held.slots != 0 => std::mem::take(&mut held.slots),
                _ => {
                    self.passed(done, moved);
                    return Err(twice(*token));
                }
            };
            self.put_head(parts, used_head(self.used, token.id(), *written));
            self.used = self.used.after(slots, size);
            moved += u32::from(slots);
        }
        self.passed(chains.len(), moved);
        Ok(())
    }

    /// Used descriptors were written for so many chains of so many descriptors.
    #[inline(always)]
    fn passed(&mut self, chains: usize, slots: u32) {
        self.completed = self.completed.wrapping_add(chains as u32);
        self.busy -= slots;
        self.moved += slots;
    }

    /// The same where completions wait for older ones.
    #[inline(never)]
    pub(super) fn complete_in_order(&mut self, parts: &Parts, chains: &[(Token, u32)]) -> Result<(), Fault> {
        for (token, written) in chains {
            match self.ids.get_mut(usize::from(token.id())) {
                Some(held) if held.slots != 0 => held.slots = 0,
                _ => return Err(twice(*token)),
            }
            self.completed = self.completed.wrapping_add(1);
            let Some(order) = &mut self.order else { break };
            match order.completed_in_turn(token.id(), *written) {
                InTurn::Gathered => {}
                InTurn::Told(group) => self.put_used(parts, group),
                InTurn::No => {
                    order.completed(token.id(), *written);
                    while let Some(group) = self.order.as_mut().and_then(|order| order.next_group(false)) {
                        self.put_used(parts, group);
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes a used descriptor for a group.
    #[inline(always)]
    fn put_used(&mut self, parts: &Parts, group: Group) {
        self.put_head(parts, used_head(self.used, group.id(), group.written));
        self.used = self.used.after(group.slots(), self.config.size);
        self.busy -= u32::from(group.slots());
        self.moved += u32::from(group.slots());
    }

    /// Writes a used descriptor where the next one goes.
    #[inline(always)]
    fn put_head(&mut self, parts: &Parts, head: Head) {
        if self.withheld.is_none() {
            self.withheld = Some((self.used.offset, head.word()));
        } else {
            // Behind a descriptor that the driver does not see yet, so neither does it see this one.
            parts.set_head(self.used.offset, head, Ordering::Relaxed);
        }
    }

    /// The same where something is to be told of it.
    #[inline(never)]
    pub(super) fn complete_otherwise(
        &mut self,
        memory: &Snapshot,
        chains: &[(Token, u32)],
    ) -> Result<(), Fault> {
        for (token, written) in chains {
            self.complete_one(memory, *token, *written)?;
        }
        if let Some(tracking) = &mut self.tracking {
            tracking.complete(chains);
        }
        Ok(())
    }

    /// The same as `put_used` where there may be a dirty log.
    #[inline]
    fn write_used(&mut self, memory: &Snapshot, parts: &Parts, id: u16, slots: u16, written: u32) {
        self.put_head(parts, used_head(self.used, id, written));
        if let Some(log) = memory.dirty_log() {
            log.mark(self.ring_guest + 16 * u64::from(self.used.offset) + 8, 8);
        }
        self.used = self.used.after(slots, self.config.size);
        self.busy -= u32::from(slots);
        self.moved += u32::from(slots);
    }

    #[inline]
    fn complete_one(&mut self, memory: &Snapshot, token: Token, written: u32) -> Result<(), Fault> {
        let Some(parts) = self.parts(memory)? else {
            return Err(Fault::with(Rule::Address, || {
                "completion while the ring is not mapped".to_owned()
            }));
        };
        let held = match self.ids.get_mut(usize::from(token.id())) {
            Some(held) if held.slots != 0 => std::mem::take(held),
            _ => return Err(twice(token)),
        };
        self.completed = self.completed.wrapping_add(1);
        if memory.dirty_log().is_some() {
            self.log
                .written(memory, usize::from(token.id()), held.logged, written);
        }
        match &mut self.order {
            Some(order) => {
                order.completed(token.id(), written);
                while let Some(group) = self.order.as_mut().and_then(|order| order.next_group(false)) {
                    self.write_used(memory, &parts, group.id(), group.slots(), group.written);
                }
            }
            None => self.write_used(memory, &parts, token.id(), held.slots, written),
        }
        Ok(())
    }

    /// Shows the driver all completions; returns the descriptors moved by, if there are any.
    #[inline(always)]
    pub(super) fn show(&mut self, memory: &Snapshot) -> Result<Option<(Parts, u32)>, Fault> {
        let Some(parts) = self.plainly(memory) else {
            return self.show_otherwise(memory);
        };
        // Whatever is complete, and need not wait, has been gathered.
        if let Some(group) = self.order.as_mut().and_then(Order::tell_gathered) {
            self.put_used(&parts, group);
        }
        Ok(self.withheld.take().map(|(offset, head)| {
            wakeup::show_head(&parts, &self.barriers, offset, Head::from_word(head));
            (parts, std::mem::take(&mut self.moved))
        }))
    }

    /// The same where something is to be told of it.
    #[inline(never)]
    fn show_otherwise(&mut self, memory: &Snapshot) -> Result<Option<(Parts, u32)>, Fault> {
        let Some(parts) = self.parts(memory)? else {
            return Ok(None);
        };
        while let Some(group) = self.order.as_mut().and_then(|order| order.next_group(true)) {
            self.write_used(memory, &parts, group.id(), group.slots(), group.written);
        }
        let Some((offset, head)) = self.withheld.take() else {
            return Ok(None);
        };
        if let Some(tracking) = &mut self.tracking {
            tracking.publishing(self.used, self.moved);
            #[cfg(test)]
            if !tracking.lives_on() {
                return Ok(None);
            }
        }
        wakeup::show_head(&parts, &self.barriers, offset, Head::from_word(head));
        if let Some(tracking) = &mut self.tracking {
            tracking.published(self.used);
        }
        if let Some(log) = memory.dirty_log() {
            log.mark(self.ring_guest + 16 * u64::from(offset) + 8, 8);
        }
        Ok(Some((parts, std::mem::take(&mut self.moved))))
    }
}

/// A used descriptor at `position`.
#[inline]
fn used_head(position: Position, id: u16, written: u32) -> Head {
    Head {
        len: written,
        id,
        flags: position.used() | if written > 0 { WRITE } else { 0 },
    }
}

#[cold]
#[inline(never)]
fn twice(token: Token) -> Fault {
    Fault::new(Rule::Device, format!("chain {} completed twice", token.id()))
}
