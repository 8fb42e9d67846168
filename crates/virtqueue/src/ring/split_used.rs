//! How the device uses chains in a split ring, and shows them to the driver (VIRTIO 1.4, 2.7.8).

use super::order::{Group, InTurn, Order};
use super::split::{HELD, SplitRing};
use super::split_layout::{self as layout, Parts};
use super::wakeup;
use crate::chain::Token;
use crate::fault::{Fault, Rule};
use crate::memory::Snapshot;

impl SplitRing {
    #[inline(always)]
    pub(super) fn complete_plainly(&mut self, parts: &Parts, chains: &[(Token, u32)]) -> Result<(), Fault> {
        let first = self.used;
        let mut result = Ok(());
        for (token, written) in chains {
            match self.state.get_mut(usize::from(token.id())) {
                Some(state) if *state & HELD != 0 => *state = 0,
                _ => {
                    result = Err(twice(*token));
                    break;
                }
            }
            parts.set_used_entry(self.used & self.mask, u32::from(token.id()), *written);
            self.used = self.used.wrapping_add(1);
        }
        self.held -= u32::from(self.used.wrapping_sub(first));
        result
    }

    /// The same where completions wait for older ones.
    #[inline(never)]
    pub(super) fn complete_in_order(&mut self, parts: &Parts, chains: &[(Token, u32)]) -> Result<(), Fault> {
        for (token, written) in chains {
            match self.state.get_mut(usize::from(token.id())) {
                Some(state) if *state & HELD != 0 => *state = 0,
                _ => return Err(twice(*token)),
            }
            self.held -= 1;
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

    /// Writes a used entry for a group.
    #[inline(always)]
    fn put_used(&mut self, parts: &Parts, group: Group) {
        parts.set_used_entry(self.used & self.mask, u32::from(group.id()), group.written);
        self.used = self.used.wrapping_add(group.chains());
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

    #[inline]
    fn complete_one(&mut self, memory: &Snapshot, token: Token, written: u32) -> Result<(), Fault> {
        let Some(parts) = self.parts(memory)? else {
            return Err(Fault::with(Rule::Address, || {
                "completion while the ring is not mapped".to_owned()
            }));
        };
        match self.state.get_mut(usize::from(token.id())) {
            Some(state) if *state & HELD != 0 => *state = 0,
            _ => return Err(twice(token)),
        }
        self.held -= 1;
        if memory.dirty_log().is_some() {
            self.log_buffers(memory, &parts, token.id(), written);
        }
        match &mut self.order {
            Some(order) => {
                order.completed(token.id(), written);
                while let Some(group) = self.order.as_mut().and_then(|order| order.next_group(false)) {
                    self.write_used(memory, &parts, group.id(), group.chains(), group.written);
                }
            }
            None => self.write_used(memory, &parts, token.id(), 1, written),
        }
        Ok(())
    }

    /// Moves `used.idx` over all completions; returns what it was, if there are any.
    #[inline(always)]
    pub(super) fn show(&mut self, memory: &Snapshot) -> Result<Option<(Parts, u16)>, Fault> {
        let Some(parts) = self.plainly(memory) else {
            return self.show_otherwise(memory);
        };
        // Whatever is complete, and need not wait, has been gathered.
        if let Some(group) = self.order.as_mut().and_then(Order::tell_gathered) {
            self.put_used(&parts, group);
        }
        let (old, new) = (self.published, self.used);
        if old == new {
            return Ok(None);
        }
        wakeup::show_used(&parts, &self.barriers, new);
        self.published = new;
        Ok(Some((parts, old)))
    }

    /// The same where something is to be told of it.
    #[inline(never)]
    fn show_otherwise(&mut self, memory: &Snapshot) -> Result<Option<(Parts, u16)>, Fault> {
        let Some(parts) = self.parts(memory)? else {
            return Ok(None);
        };
        while let Some(group) = self.order.as_mut().and_then(|order| order.next_group(true)) {
            self.write_used(memory, &parts, group.id(), group.chains(), group.written);
        }
        let (old, new) = (self.published, self.used);
        if old == new {
            return Ok(None);
        }
        if let Some(tracking) = &mut self.tracking {
            tracking.publishing(new.wrapping_sub(old));
            #[cfg(test)]
            if !tracking.lives_on() {
                return Ok(None);
            }
        }
        wakeup::show_used(&parts, &self.barriers, new);
        if let Some(tracking) = &mut self.tracking {
            tracking.published(new);
        }
        if let Some(log) = memory.dirty_log() {
            log.mark(parts.used_idx_guest(), 2);
        }
        self.published = new;
        Ok(Some((parts, old)))
    }

    /// Writes a used entry that stands for `chains` chains.
    #[inline]
    fn write_used(&mut self, memory: &Snapshot, parts: &Parts, id: u16, chains: u16, written: u32) {
        let slot = self.used & self.mask;
        parts.set_used_entry(slot, u32::from(id), written);
        // After the store: whoever copies a page because of its mark has to find it there.
        if let Some(log) = memory.dirty_log() {
            log.mark(parts.used_entry_guest(slot), layout::USED_ENTRY_SIZE);
        }
        self.used = self.used.wrapping_add(chains);
    }
}

#[cold]
#[inline(never)]
fn twice(token: Token) -> Fault {
    Fault::new(Rule::Device, format!("chain {} completed twice", token.id()))
}
