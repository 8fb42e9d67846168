//! In-flight tracking of a packed ring.
//!
//! Used descriptors overwrite those of chains that are still out, so the descriptors themselves are
//! kept, in entries of a free list.

use super::{AT_SIZE, AT_VERSION, Area, Fields, InflightError, VERSION};
use crate::ring::packed_layout::{Head, Position};

const AT_FREE_HEAD: usize = 12;
const AT_OLD_FREE_HEAD: usize = 14;
const AT_USED_IDX: usize = 16;
const AT_OLD_USED_IDX: usize = 18;
const AT_USED_WRAP: usize = 20;
const AT_OLD_USED_WRAP: usize = 21;
pub(super) const ENTRIES: usize = 32;
/// Bytes of an entry, which there is for each descriptor.
pub(super) const ENTRY: usize = 32;
const INFLIGHT: usize = 0;
const NEXT: usize = 2;
const LAST: usize = 4;
const NUM: usize = 6;
const COUNTER: usize = 8;
const ID: usize = 16;
const FLAGS: usize = 18;
const LEN: usize = 20;
const ADDR: usize = 24;

/// A list to be submitted again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resubmit {
    /// Its entry, by which it is completed.
    pub(super) entry: u16,
    /// Its descriptors: address and the rest.
    pub(super) descriptors: Vec<(u64, Head)>,
}

/// What a predecessor left.
#[derive(Debug)]
pub(super) struct Left {
    /// Where the device goes on writing used descriptors.
    pub(super) used: Position,
    /// What had been taken and not completed, in the order in which it was taken.
    pub(super) lists: Vec<Resubmit>,
}

/// Tracks the lists of a packed ring.
#[derive(Debug)]
pub(super) struct PackedInflight {
    fields: Fields,
    entries: u16,
    counter: u64,
    free_head: u16,
    /// Entries that are free.
    free: u16,
    /// By entry: the next one, in a list or among the free ones.
    next: Box<[u16]>,
    /// By head entry: the last of its list, and how many it has; 0 where no list is.
    last: Box<[(u16, u16)]>,
    /// Head entries completed since the last `published`.
    batch: Vec<u16>,
}

impl PackedInflight {
    /// Uses `area` for a ring of `size`. `flags` reads the flags of the ring's descriptor at an offset; `start`
    /// is where the device writes the next used descriptor if there was no predecessor.
    pub(super) fn new(
        area: &Area,
        size: u16,
        start: Position,
        flags: impl FnOnce(u16) -> u16,
    ) -> Result<(Self, Option<Left>), InflightError> {
        let entries = area.entries;
        let mut own = Self {
            fields: Fields::new(area, true, size)?,
            entries,
            counter: 0,
            free_head: 0,
            free: entries,
            next: (1..=entries).collect(),
            last: vec![(0, 0); entries.into()].into_boxed_slice(),
            batch: Vec::with_capacity(size.into()),
        };
        if own.fields.check(entries)? {
            let left = own.recover(size, flags)?;
            return Ok((own, Some(left)));
        }
        for index in 0..entries {
            own.fields.set_u8(own.entry(index) + INFLIGHT, 0);
            own.fields.set_u16(own.entry(index) + NEXT, index + 1);
        }
        own.fields.set_u16(AT_FREE_HEAD, 0);
        own.set_used(start);
        own.commit(start);
        own.fields.set_u16(AT_SIZE, entries);
        // Last: from now on the rest counts.
        own.fields.set_u16(AT_VERSION, VERSION);
        Ok((own, None))
    }

    fn entry(&self, index: u16) -> usize {
        ENTRIES + ENTRY * usize::from(index)
    }

    fn set_used(&self, used: Position) {
        self.fields.set_u16(AT_USED_IDX, used.offset);
        self.fields.set_u8(AT_USED_WRAP, used.wrap().into());
    }

    fn commit(&self, used: Position) {
        // First: once the positions agree, this is what a successor goes by. Then the offset: with the wrap
        // counter alone it could name a descriptor that the driver has made available again.
        self.fields.set_u16(AT_OLD_FREE_HEAD, self.free_head);
        self.fields.set_u16(AT_OLD_USED_IDX, used.offset);
        self.fields.set_u8(AT_OLD_USED_WRAP, used.wrap().into());
    }

    fn position(&self, size: u16, offset: usize, wrap: usize) -> Result<Position, InflightError> {
        let position = Position::new(self.fields.u16(offset), self.fields.u8(wrap) != 0);
        if position.offset >= size {
            return Err(InflightError::Contents("a position beyond the ring"));
        }
        Ok(position)
    }

    fn recover(&mut self, size: u16, flags: impl FnOnce(u16) -> u16) -> Result<Left, InflightError> {
        let fields = &self.fields;
        let mut old = self.position(size, AT_OLD_USED_IDX, AT_OLD_USED_WRAP)?;
        let used = self.position(size, AT_USED_IDX, AT_USED_WRAP)?;
        let mut free_head = fields.u16(AT_OLD_FREE_HEAD);
        if used != old {
            let head = Head {
                len: 0,
                id: 0,
                flags: flags(old.offset),
            };
            if !head.available_at(old) {
                // The batch was shown to the driver.
                old = used;
                free_head = fields.u16(AT_FREE_HEAD);
            }
        }
        // Else it was not: all of it is still in flight.
        self.free_head = free_head;
        self.set_used(old);
        self.commit(old);
        self.fields.set_u16(AT_FREE_HEAD, free_head);

        // Entries in the free list are not in flight, whatever they say: a list may have been half taken.
        let mut owner = vec![false; self.entries.into()];
        let mut index = free_head;
        self.free = 0;
        while index < self.entries && !owner[usize::from(index)] {
            owner[usize::from(index)] = true;
            self.fields.set_u8(self.entry(index) + INFLIGHT, 0);
            let next = self.fields.u16(self.entry(index) + NEXT);
            self.next[usize::from(index)] = next;
            self.free += 1;
            index = next;
        }
        let mut heads: Vec<(u64, u16)> = (0..self.entries)
            .filter(|index| self.fields.u8(self.entry(*index) + INFLIGHT) != 0)
            .map(|index| (self.fields.u64(self.entry(index) + COUNTER), index))
            .collect();
        heads.sort_unstable();
        self.counter = heads.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        let mut again = Vec::with_capacity(heads.len());
        for (_, head) in heads {
            again.push(self.read_list(head, &mut owner)?);
        }
        Ok(Left {
            used: old,
            lists: again,
        })
    }

    /// Reads a list that is in flight; none of its entries may be anyone else's.
    fn read_list(&mut self, head: u16, owner: &mut [bool]) -> Result<Resubmit, InflightError> {
        let num = self.fields.u16(self.entry(head) + NUM);
        let (mut index, mut last) = (head, head);
        let mut descriptors = Vec::new();
        for _ in 0..num {
            match owner.get_mut(usize::from(index)) {
                Some(taken) if !*taken => *taken = true,
                _ => return Err(InflightError::Contents("lists that overlap or lead astray")),
            }
            let at = self.entry(index);
            let rest = Head {
                len: self.fields.u32(at + LEN),
                id: self.fields.u16(at + ID),
                flags: self.fields.u16(at + FLAGS),
            };
            descriptors.push((self.fields.u64(at + ADDR), rest));
            last = index;
            index = self.fields.u16(at + NEXT);
            self.next[usize::from(last)] = index;
        }
        if num == 0 || last != self.fields.u16(self.entry(head) + LAST) {
            return Err(InflightError::Contents(
                "a list that does not end where it should",
            ));
        }
        self.last[usize::from(head)] = (last, num);
        Ok(Resubmit {
            entry: head,
            descriptors,
        })
    }

    /// The device has taken a list of `num` descriptors, the next of which `descriptor` returns; not yet
    /// overwritten by used ones. Returns the entry by which it is completed; `None` if there is no room, or
    /// while a batch is complete and not published.
    #[inline]
    pub(super) fn taken(&mut self, num: u16, mut descriptor: impl FnMut() -> (u64, Head)) -> Option<u16> {
        if num == 0 || num > self.free || !self.batch.is_empty() {
            return None;
        }
        let head = self.free_head;
        let at = self.entry(head);
        self.fields.set_u16(at + NUM, 0);
        self.fields.set_u64(at + COUNTER, self.counter);
        self.counter = self.counter.wrapping_add(1);
        self.fields.set_u8(at + INFLIGHT, 1);
        let mut last = head;
        for done in 1..=num {
            let (addr, rest) = descriptor();
            let index = self.free_head;
            if done == num {
                last = index;
                self.fields.set_u16(at + LAST, index);
            }
            self.fields.set_u16(at + NUM, done);
            let entry = self.entry(index);
            self.fields.set_u64(entry + ADDR, addr);
            self.fields.set_u32(entry + LEN, rest.len);
            self.fields.set_u16(entry + FLAGS, rest.flags);
            self.fields.set_u16(entry + ID, rest.id);
            self.free_head = self.next[usize::from(index)];
            self.fields.set_u16(AT_FREE_HEAD, self.free_head);
        }
        // Until here the list lies in the free list that a successor begins with.
        self.fields.set_u16(AT_OLD_FREE_HEAD, self.free_head);
        self.last[usize::from(head)] = (last, num);
        self.free -= num;
        Some(head)
    }

    /// The list of head entry `entry` is complete and going to be told with the next batch.
    pub(super) fn completed(&mut self, entry: u16) {
        let Some((last, num)) = self.last.get_mut(usize::from(entry)) else {
            return;
        };
        let (last, num) = (*last, std::mem::take(num));
        if num == 0 {
            return;
        }
        self.next[usize::from(last)] = self.free_head;
        self.fields.set_u16(self.entry(last) + NEXT, self.free_head);
        self.free_head = entry;
        self.fields.set_u16(AT_FREE_HEAD, entry);
        self.free += num;
        self.batch.push(entry);
    }

    /// The batch is about to be shown: the device will go on at `used`. Comes before the descriptor's flags.
    pub(super) fn publishing(&mut self, used: Position) {
        self.set_used(used);
    }

    /// The batch has been shown; the device goes on at `used`.
    pub(super) fn published(&mut self, used: Position) {
        for entry in &self.batch {
            self.fields
                .set_u8(ENTRIES + ENTRY * usize::from(*entry) + INFLIGHT, 0);
        }
        self.batch.clear();
        self.commit(used);
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
