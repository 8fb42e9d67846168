//! In-flight tracking of a split ring.

use super::{AT_SIZE, AT_VERSION, Area, Fields, InflightError, VERSION};

const AT_LAST_BATCH_HEAD: usize = 12;
const AT_USED_IDX: usize = 14;
pub(super) const ENTRIES: usize = 16;
/// Bytes of an entry, which there is for each head.
pub(super) const ENTRY: usize = 16;
const INFLIGHT: usize = 0;
const NEXT: usize = 6;
const COUNTER: usize = 8;

/// Tracks the chains of a split ring.
#[derive(Debug)]
pub(super) struct SplitInflight {
    fields: Fields,
    entries: u16,
    counter: u64,
    last_batch_head: u16,
    /// Heads completed since the last `published`.
    batch: Vec<u16>,
}

impl SplitInflight {
    /// Uses `area` for a ring of `size` whose used index is `used_idx`. Also returns what a predecessor had
    /// taken and not completed, in the order in which it had taken it: to be submitted again, after which the
    /// device goes on as many entries behind the used index. `None`: there was no predecessor.
    pub(super) fn new(
        area: &Area,
        size: u16,
        used_idx: u16,
    ) -> Result<(Self, Option<Vec<u16>>), InflightError> {
        let entries = area.entries;
        let mut own = Self {
            fields: Fields::new(area, false, size)?,
            entries,
            counter: 0,
            last_batch_head: 0,
            batch: Vec::with_capacity(size.into()),
        };
        if own.fields.check(entries)? {
            let again = own.recover(used_idx)?;
            return Ok((own, Some(again)));
        }
        (0..entries).for_each(|head| own.fields.set_u8(own.entry(head) + INFLIGHT, 0));
        own.fields.set_u16(AT_LAST_BATCH_HEAD, 0);
        own.fields.set_u16(AT_USED_IDX, used_idx);
        own.fields.set_u16(AT_SIZE, entries);
        // Last: from now on the rest counts.
        own.fields.set_u16(AT_VERSION, VERSION);
        Ok((own, None))
    }

    fn entry(&self, head: u16) -> usize {
        ENTRIES + ENTRY * usize::from(head)
    }

    fn recover(&mut self, used_idx: u16) -> Result<Vec<u16>, InflightError> {
        // The last batch was shown to the driver, but perhaps not taken off in here.
        let batch = used_idx.wrapping_sub(self.fields.u16(AT_USED_IDX));
        if batch > self.entries {
            return Err(InflightError::Contents("a batch larger than the queue"));
        }
        let mut head = self.fields.u16(AT_LAST_BATCH_HEAD);
        for _ in 0..batch {
            if head >= self.entries {
                return Err(InflightError::Contents("a head beyond the queue"));
            }
            self.fields.set_u8(self.entry(head) + INFLIGHT, 0);
            head = self.fields.u16(self.entry(head) + NEXT);
        }
        self.fields.set_u16(AT_USED_IDX, used_idx);
        let mut again: Vec<(u64, u16)> = (0..self.entries)
            .filter(|head| self.fields.u8(self.entry(*head) + INFLIGHT) != 0)
            .map(|head| (self.fields.u64(self.entry(head) + COUNTER), head))
            .collect();
        again.sort_unstable();
        self.counter = again.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        self.last_batch_head = self
            .fields
            .u16(AT_LAST_BATCH_HEAD)
            .min(self.entries.saturating_sub(1));
        Ok(again.into_iter().map(|(_, head)| head).collect())
    }

    /// The device has taken the chain at `head` (less than the size, as the ring has checked).
    #[inline]
    pub(super) fn taken(&mut self, head: u16) {
        let entry = self.entry(head);
        self.fields.set_u64(entry + COUNTER, self.counter);
        self.counter = self.counter.wrapping_add(1);
        self.fields.set_u8(entry + INFLIGHT, 1);
    }

    /// The chain is complete and going to be told with the next batch.
    #[inline]
    pub(super) fn completed(&mut self, head: u16) {
        self.fields.set_u16(self.entry(head) + NEXT, self.last_batch_head);
        self.fields.set_u16(AT_LAST_BATCH_HEAD, head);
        self.last_batch_head = head;
        self.batch.push(head);
    }

    /// The ring's used index, now `used_idx`, covers all that were complete.
    #[inline]
    pub(super) fn published(&mut self, used_idx: u16) {
        for head in &self.batch {
            self.fields
                .set_u8(ENTRIES + ENTRY * usize::from(*head) + INFLIGHT, 0);
        }
        self.batch.clear();
        self.fields.set_u16(AT_USED_IDX, used_idx);
    }

    #[cfg(test)]
    pub(super) fn dies_after(&self, stores: u32) {
        self.fields.life.set(Some(stores));
    }

    #[cfg(test)]
    pub(super) fn lives_on(&self) -> bool {
        self.fields.lives_on()
    }

    #[cfg(test)]
    pub(super) fn dead(&self) -> bool {
        self.fields.life.get() == Some(0)
    }
}
