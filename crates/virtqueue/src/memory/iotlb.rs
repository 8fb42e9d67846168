//! What the front end has said about I/O virtual addresses: ranges, sorted, without overlaps.

use super::Error;
use std::fmt;

/// Most ranges that are kept. A front end that tells of more has its oldest ones forgotten: they are
/// asked for again should they be needed.
pub const MAX_TRANSLATIONS: usize = 4096;

/// What a device may do with a range of addresses, or wants to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Access(u8);

impl Access {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Read it.
    pub const READ: Self = Self(1);
    /// Write it.
    pub const WRITE: Self = Self(2);
    /// Both.
    pub const READ_WRITE: Self = Self(3);

    /// The form that vhost gives it; other bits mean nothing.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & 3)
    }

    /// The same back.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// What it takes to write, or else to read.
    #[inline]
    pub const fn to(write: bool) -> Self {
        if write { Self::WRITE } else { Self::READ }
    }

    /// Whether all of `other` is in it.
    #[inline]
    pub const fn allows(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether it allows to write, or else to read: the same as `allows` of `to`.
    #[inline]
    pub(super) const fn allows_one(self, write: bool) -> bool {
        self.0 >> (write as u8) & 1 != 0
    }

    /// What is in both.
    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in either.
    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "no access",
            1 => "read",
            2 => "write",
            _ => "read and write",
        })
    }
}

/// A range of I/O virtual addresses and the front end's own addresses for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The first I/O virtual address.
    pub iova: u64,
    /// Length in bytes.
    pub size: u64,
    /// The front end's address of the first byte.
    pub user_address: u64,
    /// What the device may do there.
    pub access: Access,
}

/// What an update has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing: it was known.
    None,
    /// More can be reached, and nothing else is different.
    Growth,
    /// Something that could be reached before cannot any more, or is elsewhere.
    Removal,
}

/// A range; `last` is in it, so that the last byte of all has a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    first: u64,
    last: u64,
    user: u64,
    access: Access,
    age: u64,
}

impl Entry {
    /// What is added to an address to translate it.
    fn delta(&self) -> u64 {
        self.user.wrapping_sub(self.first)
    }

    /// The part from `first` to `last`.
    fn part(&self, first: u64, last: u64) -> Self {
        Self {
            first,
            last,
            user: self.delta().wrapping_add(first),
            ..*self
        }
    }

    /// Whether `next`, which is behind it, continues it.
    fn continues_in(&self, next: &Self) -> bool {
        self.last.checked_add(1) == Some(next.first)
            && self.delta() == next.delta()
            && self.access == next.access
    }
}

/// The translations that are known.
#[derive(Debug, Default)]
pub(super) struct Iotlb {
    entries: Vec<Entry>,
    clock: u64,
}

impl Iotlb {
    /// All ranges in order.
    pub(super) fn translations(&self) -> impl Iterator<Item = Translation> {
        self.entries.iter().map(|entry| Translation {
            iova: entry.first,
            size: (entry.last - entry.first).saturating_add(1),
            user_address: entry.user,
            access: entry.access,
        })
    }

    /// Takes a translation, whose user addresses the caller has checked; of what was known of the same
    /// addresses nothing stays.
    pub(super) fn update(&mut self, new: &Translation) -> Result<Change, Error> {
        let last = end(new.iova, new.size)?;
        let mut entry = Entry {
            first: new.iova,
            last,
            user: new.user_address,
            access: new.access,
            age: self.clock,
        };
        self.clock += 1;
        let known = self.overlapping(entry.first, last);
        let same = |old: &Entry| old.delta() == entry.delta();
        let old = &self.entries[known.clone()];
        if let [old] = old {
            if same(old) && old.first <= entry.first && last <= old.last && old.access == entry.access {
                return Ok(Change::None);
            }
        }
        let lost = old
            .iter()
            .any(|old| !same(old) || !entry.access.allows(old.access));
        self.cut(entry.first, last);
        let mut at = self.entries.partition_point(|other| other.first < entry.first);
        // Joined with its neighbours, so that memory mapped piece by piece is one range to look up.
        if let Some(next) = self.entries.get(at).filter(|next| entry.continues_in(next)) {
            entry.last = next.last;
            self.entries.remove(at);
        }
        if let Some(before) = at.checked_sub(1) {
            if self.entries[before].continues_in(&entry) {
                entry.first = self.entries[before].first;
                entry.user = self.entries[before].user;
                self.entries.remove(before);
                at = before;
            }
        }
        self.entries.insert(at, entry);
        let full = self.entries.len() > MAX_TRANSLATIONS;
        while self.entries.len() > MAX_TRANSLATIONS {
            self.forget_oldest();
        }
        Ok(if lost || full {
            Change::Removal
        } else {
            Change::Growth
        })
    }

    /// Forgets a range; whether anything of it was known. A size of 0 at address 0 is all there is: what
    /// comes of 2^64 in 64 bits.
    pub(super) fn invalidate(&mut self, iova: u64, size: u64) -> Result<bool, Error> {
        let last = if (iova, size) == (0, 0) {
            u64::MAX
        } else {
            end(iova, size)?
        };
        let any = !self.overlapping(iova, last).is_empty();
        self.cut(iova, last);
        Ok(any)
    }

    /// Forgets ranges for which `keep` (user address, size) does not hold any more.
    pub(super) fn retain(&mut self, keep: impl Fn(u64, u64) -> bool) {
        self.entries
            .retain(|entry| keep(entry.user, (entry.last - entry.first).saturating_add(1)));
    }

    /// The entries that have addresses in common with a range.
    fn overlapping(&self, first: u64, last: u64) -> std::ops::Range<usize> {
        let start = self.entries.partition_point(|entry| entry.last < first);
        let end = self.entries.partition_point(|entry| entry.first <= last);
        start..end.max(start)
    }

    /// Takes a range out, and leaves what entries have before it and behind it.
    fn cut(&mut self, first: u64, last: u64) {
        let range = self.overlapping(first, last);
        let Some((&head, &tail)) = self.entries[range.clone()]
            .first()
            .zip(self.entries[range.clone()].last())
        else {
            return;
        };
        let before = (head.first < first).then(|| head.part(head.first, first - 1));
        let behind = (tail.last > last).then(|| tail.part(last + 1, tail.last));
        self.entries.splice(range, before.into_iter().chain(behind));
    }

    fn forget_oldest(&mut self) {
        let oldest = (0..self.entries.len()).min_by_key(|index| self.entries[*index].age);
        if let Some(index) = oldest {
            self.entries.remove(index);
        }
    }
}

/// The last address of a range.
fn end(address: u64, size: u64) -> Result<u64, Error> {
    let before = size.checked_sub(1).ok_or(Error::Empty)?;
    // The whole of the address space has no size in 64 bits, so nothing is lost by counting from 1.
    address.checked_add(before).ok_or(Error::Wraps { address, size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: u64 = 4096;

    fn translation(iova: u64, size: u64, user_address: u64, access: Access) -> Translation {
        Translation {
            iova,
            size,
            user_address,
            access,
        }
    }

    fn known(iotlb: &Iotlb) -> Vec<(u64, u64, u64, u8)> {
        iotlb
            .translations()
            .map(|t| (t.iova, t.size, t.user_address, t.access.bits()))
            .collect()
    }

    #[test]
    fn neighbours_are_joined_and_ranges_split() {
        let mut iotlb = Iotlb::default();
        let both = Access::READ_WRITE;
        for page in [2, 0, 1] {
            let update = translation(page * PAGE, PAGE, 0x10_0000 + page * PAGE, both);
            assert_eq!(iotlb.update(&update).unwrap(), Change::Growth);
        }
        assert_eq!(known(&iotlb), [(0, 3 * PAGE, 0x10_0000, 3)]);
        assert_eq!(
            iotlb.update(&translation(PAGE, PAGE, 0x10_1000, both)).unwrap(),
            Change::None
        );
        // Elsewhere, and then with less permission: both take something away.
        let moved = translation(PAGE, PAGE, 0x20_0000, both);
        assert_eq!(iotlb.update(&moved).unwrap(), Change::Removal);
        let less = translation(PAGE, PAGE, 0x20_0000, Access::READ);
        assert_eq!(iotlb.update(&less).unwrap(), Change::Removal);
        assert_eq!(
            known(&iotlb),
            [
                (0, PAGE, 0x10_0000, 3),
                (PAGE, PAGE, 0x20_0000, 1),
                (2 * PAGE, PAGE, 0x10_2000, 3)
            ]
        );
        // More permission does not.
        let more = translation(PAGE, PAGE, 0x20_0000, both);
        assert_eq!(iotlb.update(&more).unwrap(), Change::Growth);
        assert!(iotlb.invalidate(PAGE / 2, 2 * PAGE).unwrap());
        assert_eq!(
            known(&iotlb),
            [
                (0, PAGE / 2, 0x10_0000, 3),
                (5 * PAGE / 2, PAGE / 2, 0x10_2800, 3)
            ]
        );
        assert!(!iotlb.invalidate(PAGE, PAGE).unwrap());
        assert!(iotlb.invalidate(0, 0).unwrap());
        assert!(known(&iotlb).is_empty());
    }

    #[test]
    fn the_ends_of_the_address_space() {
        let mut iotlb = Iotlb::default();
        let top = translation(u64::MAX - PAGE + 1, PAGE, 0, Access::READ);
        assert_eq!(iotlb.update(&top).unwrap(), Change::Growth);
        assert!(matches!(
            iotlb.update(&translation(u64::MAX, 2, 0, Access::READ)),
            Err(Error::Wraps { .. })
        ));
        assert!(matches!(
            iotlb.update(&translation(PAGE, 0, 0, Access::READ)),
            Err(Error::Empty)
        ));
        assert!(matches!(iotlb.invalidate(PAGE, 0), Err(Error::Empty)));
        assert!(matches!(iotlb.invalidate(u64::MAX, 2), Err(Error::Wraps { .. })));
        assert!(iotlb.invalidate(u64::MAX, 1).unwrap());
        assert_eq!(known(&iotlb), [(top.iova, PAGE - 1, 0, 1)]);
    }

    #[test]
    fn a_flood_is_forgotten_from_its_beginning() {
        let mut iotlb = Iotlb::default();
        let total = MAX_TRANSLATIONS as u64 + 100;
        for page in 0..total {
            // Every other page: nothing to join.
            let update = translation(2 * page * PAGE, PAGE, 0, Access::READ);
            let change = iotlb.update(&update).unwrap();
            assert_eq!(change == Change::Removal, page >= MAX_TRANSLATIONS as u64);
        }
        let known = known(&iotlb);
        assert_eq!(known.len(), MAX_TRANSLATIONS);
        assert_eq!(known[0].0, 200 * PAGE);
    }

    proptest! {
        /// Against a map of single bytes.
        #[test]
        fn equals_a_table_of_bytes(steps in prop::collection::vec((0u64..64, 1u64..16, 0u64..4, 0u8..5), 1..60)) {
            let mut iotlb = Iotlb::default();
            let mut bytes = [None; 80];
            for (iova, size, place, bits) in steps {
                let range = iova as usize..(iova + size) as usize;
                if bits == 4 {
                    let any = bytes[range.clone()].iter().any(Option::is_some);
                    prop_assert_eq!(iotlb.invalidate(iova, size).unwrap(), any);
                    bytes[range].fill(None);
                    continue;
                }
                let delta = place * 1000;
                let lost = bytes[range.clone()].iter().flatten().any(|(old, access): &(u64, Access)| {
                    *old != delta || !Access::from_bits(bits).allows(*access)
                });
                let new = (delta, Access::from_bits(bits));
                let change = iotlb.update(&translation(iova, size, iova + delta, new.1)).unwrap();
                prop_assert_eq!(change == Change::Removal, lost);
                bytes[range].fill(Some(new));
            }
            let mut found = [None; 80];
            let mut end = 0;
            for t in iotlb.translations() {
                prop_assert!(t.iova >= end && t.size > 0);
                end = t.iova + t.size;
                found[t.iova as usize..end as usize].fill(Some((t.user_address - t.iova, t.access)));
            }
            prop_assert_eq!(found, bytes);
        }
    }
}
