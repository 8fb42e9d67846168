//! A packed ring that keeps in-flight memory, and goes on where a device that died had been.

use super::packed::{PackedInflight, Resubmit};
use super::{Area, InflightError};
use crate::chain::{Batch, Token};
use crate::fault::{Fault, Rule};
use crate::memory::{DirtyLog, Snapshot};
use crate::ring::packed_layout::{Head, Parts, Position};
use crate::ring::wakeup::PackedWords;
use crate::ring::{DeviceRing, PackedRing};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::vec;

/// What a packed ring keeps of its in-flight memory.
#[derive(Debug)]
pub(in crate::ring) struct PackedTracking {
    pub(in crate::ring) area: Area,
    /// None before the ring was mapped: its descriptors say what a predecessor has shown.
    tracker: Option<PackedInflight>,
    /// Lists to be taken again, oldest first.
    again: vec::IntoIter<Resubmit>,
    /// By buffer id: the entry of its list; grows to the greatest id that the driver uses.
    entries: Vec<u16>,
    /// Lists that the next used descriptors are for. In order these are the oldest, and one descriptor may
    /// stand for several: lists in the order of taking.
    done: VecDeque<Token>,
    in_order: bool,
}

impl PackedTracking {
    pub(in crate::ring) fn new(area: Area, size: u32, in_order: bool) -> Self {
        Self {
            area,
            tracker: None,
            again: Vec::new().into_iter(),
            entries: Vec::new(),
            done: VecDeque::with_capacity(size as usize),
            in_order,
        }
    }

    /// The ring is mapped. If there was a predecessor, returns where it goes on and how many descriptors are in
    /// flight from there on; for the rest see [`PackedInflight::new`].
    pub(in crate::ring) fn begin(
        &mut self,
        size: u32,
        start: Position,
        flags: impl FnOnce(u16) -> u16,
    ) -> Result<Option<(Position, u32)>, InflightError> {
        let (tracker, left) = PackedInflight::new(&self.area, size as u16, start, flags)?;
        self.tracker = Some(tracker);
        Ok(left.map(|left| {
            let slots = left.lists.iter().map(|list| list.descriptors.len() as u32).sum();
            self.again = left.lists.into_iter();
            (left.used, slots)
        }))
    }

    /// A list was taken, whose descriptors `descriptor` returns one by one.
    #[inline]
    fn taken(&mut self, token: Token, descriptor: impl FnMut() -> (u64, Head)) -> Result<(), Fault> {
        let entry = self
            .tracker
            .as_mut()
            .and_then(|tracker| tracker.taken(token.slots(), descriptor));
        match entry {
            Some(entry) => self.book(token, entry),
            // The ring has no room for more than there are entries.
            None => return Err(Fault::new(Rule::Device, "in-flight memory: no room")),
        }
        Ok(())
    }

    #[inline]
    fn book(&mut self, token: Token, entry: u16) {
        let index = usize::from(token.id());
        if index >= self.entries.len() {
            self.entries.resize(index + 1, 0);
        }
        self.entries[index] = entry;
        if self.in_order {
            self.done.push_back(token);
        }
    }

    /// Lists are complete, to be told of by the next used descriptors, or in order when it is their turn.
    pub(in crate::ring) fn complete(&mut self, lists: &[(Token, u32)]) {
        if !self.in_order {
            self.done.extend(lists.iter().map(|(token, _)| *token));
        }
    }

    /// Used descriptors are about to be shown that move the device by `moved`, to `used`.
    pub(in crate::ring) fn publishing(&mut self, used: Position, moved: u32) {
        let Some(tracker) = &mut self.tracker else { return };
        let mut left = moved;
        while left > 0 {
            let Some(token) = self.done.pop_front() else { break };
            if let Some(entry) = self.entries.get(usize::from(token.id())) {
                tracker.completed(*entry);
            }
            left = left.saturating_sub(token.slots().into());
        }
        tracker.publishing(used);
    }

    /// They were shown.
    #[inline]
    pub(in crate::ring) fn published(&mut self, used: Position) {
        if let Some(tracker) = &mut self.tracker {
            tracker.published(used);
        }
    }

    /// The process dies after so many stores to the memory.
    #[cfg(test)]
    pub(in crate::ring) fn dies_after(&self, stores: u32) {
        self.tracker.as_ref().unwrap().dies_after(stores);
    }

    /// Whether it is alive to make one more store, outside the memory.
    #[cfg(test)]
    pub(in crate::ring) fn lives_on(&self) -> bool {
        self.tracker.as_ref().is_none_or(PackedInflight::lives_on)
    }

    #[cfg(test)]
    pub(in crate::ring) fn dead(&self) -> bool {
        self.tracker.as_ref().is_some_and(PackedInflight::dead)
    }
}

/// Takes back used descriptors that a predecessor wrote behind one that it did not come to show. As soon as a
/// successor shows another one in its place, the driver would take them for what follows it.
pub(in crate::ring) fn hide(
    parts: &Parts,
    log: Option<&dyn DirtyLog>,
    guest: u64,
    size: u32,
    used: Position,
    slots: u32,
) {
    let mut at = used;
    for _ in 0..slots.min(size) {
        let head = parts.head(at.offset, Ordering::Relaxed);
        if head.used_at(at) {
            // As the driver had left it, as far as it matters: nobody reads the rest any more.
            let flags = at.available();
            parts.set_head(at.offset, Head { flags, ..head }, Ordering::Relaxed);
            if let Some(log) = log {
                log.mark(guest + 16 * u64::from(at.offset) + 8, 8);
            }
        }
        at = at.after(1, size);
    }
}

impl PackedRing {
    /// [`DeviceRing::take`] of a ring with in-flight memory: first what a predecessor had taken and not
    /// completed, oldest first; then what is new, which is noted before anyone answers it.
    #[inline(never)]
    pub(in crate::ring) fn take_tracked(
        &mut self,
        memory: &Snapshot,
        batch: &mut Batch,
        max: usize,
    ) -> Result<usize, Fault> {
        let Some(parts) = self.parts(memory)? else {
            return Ok(0);
        };
        // Without it the ring takes as ever.
        let Some(mut tracking) = self.tracking.take() else {
            return Ok(0);
        };
        let (first, mut at) = (batch.len(), self.next);
        let mut result;
        if tracking.again.len() > 0 {
            result = self.take_again(memory, batch, max, &mut tracking);
        } else {
            result = self.take(memory, batch, max);
            for chain in (first..batch.len()).filter_map(|index| batch.get(index)) {
                // What has changed since the device read it is looked at again when it is taken again.
                let descriptor = || {
                    let here = at.offset;
                    at = at.after(1, self.config.size);
                    (parts.addr(here), parts.head(here, Ordering::Relaxed))
                };
                if let Err(fault) = tracking.taken(chain.token, descriptor) {
                    result = Err(self.fault(fault));
                    break;
                }
            }
        }
        self.tracking = Some(tracking);
        result
    }

    #[cold]
    fn take_again(
        &mut self,
        memory: &Snapshot,
        batch: &mut Batch,
        max: usize,
        tracking: &mut PackedTracking,
    ) -> Result<usize, Fault> {
        let mut taken = 0;
        while taken < max && !self.is_full(batch) {
            let Some(list) = tracking.again.as_slice().first() else {
                break;
            };
            if let Err(fault) = self.retake(memory, &list.descriptors, batch) {
                if batch.waits_for_translations(&fault) {
                    break;
                }
                let fault = self.fault(fault);
                return if taken > 0 { Ok(taken) } else { Err(fault) };
            }
            if let Some(chain) = batch.len().checked_sub(1).and_then(|last| batch.get(last)) {
                let entry = list.entry;
                tracking.book(chain.token, entry);
            }
            tracking.again.next();
            taken += 1;
        }
        Ok(taken)
    }
}
