//! A ring that goes on where a device that died had been.

use super::packed::Resubmit;
use crate::chain::Batch;
use crate::fault::Fault;
use crate::memory::Snapshot;
use crate::ring::{PackedRing, SplitRing};

impl SplitRing {
    /// Takes chains again, oldest first, that a predecessor had taken and not completed, and goes on behind
    /// them. The ring was made with the ring's used index as its base, and has not taken anything.
    pub fn resume(&mut self, memory: &Snapshot, heads: &[u16], batch: &mut Batch) -> Result<(), Fault> {
        heads
            .iter()
            .try_for_each(|head| self.retake(memory, *head, batch))
    }
}

impl PackedRing {
    /// The same for lists. The ring was made with the used position as both halves of its base.
    pub fn resume(&mut self, memory: &Snapshot, lists: &[Resubmit], batch: &mut Batch) -> Result<(), Fault> {
        lists
            .iter()
            .try_for_each(|list| self.retake(memory, &list.descriptors, batch))
    }
}
