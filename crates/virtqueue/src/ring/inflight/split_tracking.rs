//! A split ring that keeps in-flight memory, and goes on where a device that died had been.

use super::split::SplitInflight;
use super::{Area, InflightError};
use crate::chain::{Batch, Token};
use crate::fault::Fault;
use crate::memory::Snapshot;
use crate::ring::{DeviceRing, SplitRing};
use std::collections::VecDeque;
use std::vec;

/// What a split ring keeps of its in-flight memory.
#[derive(Debug)]
pub(in crate::ring) struct SplitTracking {
    pub(in crate::ring) area: Area,
    /// None before the ring was mapped: the used index says where a predecessor was.
    tracker: Option<SplitInflight>,
    /// Heads to be taken again, oldest first.
    again: vec::IntoIter<u16>,
    /// Heads that the next used entries are for. In order these are the oldest, and one entry may stand for
    /// several: heads in the order of taking.
    done: VecDeque<u16>,
    in_order: bool,
}

impl SplitTracking {
    pub(in crate::ring) fn new(area: Area, size: u32, in_order: bool) -> Self {
        Self {
            area,
            tracker: None,
            again: Vec::new().into_iter(),
            done: VecDeque::with_capacity(size as usize),
            in_order,
        }
    }

    /// The ring is mapped. Whether there was a predecessor: the ring then goes on from its used index.
    pub(in crate::ring) fn begin(&mut self, size: u32, used_idx: u16) -> Result<bool, InflightError> {
        let (tracker, again) = SplitInflight::new(&self.area, size as u16, used_idx)?;
        self.tracker = Some(tracker);
        let predecessor = again.is_some();
        self.again = again.unwrap_or_default().into_iter();
        Ok(predecessor)
    }

    #[inline]
    fn taken(&mut self, head: u16) {
        if let Some(tracker) = &mut self.tracker {
            tracker.taken(head);
        }
        self.taken_before(head);
    }

    #[inline]
    fn taken_before(&mut self, head: u16) {
        if self.in_order {
            self.done.push_back(head);
        }
    }

    /// Chains are complete, to be told of by the next used entries, or in order when it is their turn.
    pub(in crate::ring) fn complete(&mut self, chains: &[(Token, u32)]) {
        if !self.in_order {
            self.done.extend(chains.iter().map(|(token, _)| token.id()));
        }
    }

    /// The used index is about to move over the entries of so many `chains`.
    pub(in crate::ring) fn publishing(&mut self, chains: u16) {
        let Some(tracker) = &mut self.tracker else { return };
        let chains = usize::from(chains).min(self.done.len());
        self.done.drain(..chains).for_each(|head| tracker.completed(head));
    }

    /// The used index, now `used_idx`, covers all used entries.
    #[inline]
    pub(in crate::ring) fn published(&mut self, used_idx: u16) {
        if let Some(tracker) = &mut self.tracker {
            tracker.published(used_idx);
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
        self.tracker.as_ref().is_none_or(SplitInflight::lives_on)
    }

    #[cfg(test)]
    pub(in crate::ring) fn dead(&self) -> bool {
        self.tracker.as_ref().is_some_and(SplitInflight::dead)
    }
}

impl SplitRing {
    /// [`DeviceRing::take`] of a ring with in-flight memory: first what a predecessor had taken and not
    /// completed, oldest first; then what is new, which is noted before anyone answers it.
    #[inline(never)]
    pub(in crate::ring) fn take_tracked(
        &mut self,
        memory: &Snapshot,
        batch: &mut Batch,
        max: usize,
    ) -> Result<usize, Fault> {
        if !self.map(memory)? {
            return Ok(0);
        }
        // Without it the ring takes as ever.
        let Some(mut tracking) = self.tracking.take() else {
            return Ok(0);
        };
        let first = batch.len();
        let result = if tracking.again.len() > 0 {
            self.take_again(memory, batch, max, &mut tracking)
        } else {
            let result = self.take(memory, batch, max);
            (first..batch.len())
                .filter_map(|index| batch.get(index))
                .for_each(|chain| tracking.taken(chain.token.id()));
            result
        };
        self.tracking = Some(tracking);
        result
    }

    #[cold]
    fn take_again(
        &mut self,
        memory: &Snapshot,
        batch: &mut Batch,
        max: usize,
        tracking: &mut SplitTracking,
    ) -> Result<usize, Fault> {
        let mut taken = 0;
        while taken < max && !self.is_full(batch) {
            let Some(&head) = tracking.again.as_slice().first() else {
                break;
            };
            if let Err(fault) = self.retake(memory, head, batch) {
                if batch.waits_for_translations(&fault) {
                    break;
                }
                let fault = self.fault(fault);
                return if taken > 0 { Ok(taken) } else { Err(fault) };
            }
            tracking.again.next();
            tracking.taken_before(head);
            taken += 1;
        }
        Ok(taken)
    }
}
