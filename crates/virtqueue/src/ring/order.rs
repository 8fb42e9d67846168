//! VIRTIO_F_IN_ORDER: completions in the order in which chains were taken, several told by one
//! used entry (VIRTIO 1.4, 2.7.9 and 2.8.8).

use crate::chain::Token;

/// The room of a chain that needs a used entry of its own.
const ALONE: u64 = u64::MAX;

/// What [`Order::taken`] takes for the room of a chain with this many bytes in its parts.
///
/// Where the driver has only provided room (for packets, events), the length is what it waits for.
/// It could infer that of a buffer used completely, but DPDK's network driver looks for each buffer's
/// length in an entry of the buffer's own. A batch of one is always allowed.
#[inline(always)]
pub(super) const fn room(readable: u64, writable: u64) -> u64 {
    if readable == 0 && writable != 0 {
        ALONE
    } else {
        writable
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    room: u64,
    token: Token,
    /// Of one that is complete.
    written: u32,
    /// The driver may hear of this chain only once this many younger ones are complete, too.
    tied: u16,
    complete: bool,
}

/// Chains that the device has taken, oldest first.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// A circle of a power of two; it grows to the most that were ever out.
    entries: Box<[Entry]>,
    /// The oldest chain that is not in `group`, and where the next one goes.
    oldest: u32,
    next: u32,
    /// Chains that are complete and not in `group`.
    early: u32,
    /// Complete chains that the next used entry stands for.
    group: Group,
}

/// What came of a completion.
pub(super) enum InTurn {
    /// It was not the turn of this chain, or others wait behind it: nothing was done.
    No,
    /// It is in the group that grows.
    Gathered,
    /// A used entry is to be written.
    Told(Group),
}

/// Chains that one used entry stands for.
///
/// Kept in one word and another, as is a [`Token`]: parts that were stored one by one cannot be loaded together before
/// they, and all stores before them, to the driver's lines too, have left the processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Group {
    /// The youngest chain's token, but with the slots of all; above that, how many chains they are.
    word: u64,
    /// Bytes written into the youngest.
    pub(super) written: u32,
}

impl Group {
    const CHAIN: u64 = 1 << 32;
    const SLOT: u32 = 16;

    /// The youngest of them: the one that the entry names.
    #[inline(always)]
    pub(super) const fn id(self) -> u16 {
        self.word as u16
    }

    /// Descriptors of all of them (packed).
    #[inline(always)]
    pub(super) const fn slots(self) -> u16 {
        (self.word >> Self::SLOT) as u16
    }

    /// How many chains they are.
    #[inline(always)]
    pub(super) const fn chains(self) -> u16 {
        (self.word / Self::CHAIN) as u16
    }

    /// The same with the next chain.
    #[inline(always)]
    const fn with(self, token: Token, written: u32) -> Self {
        // The id is exchanged and slots are added, no more than a ring has, 32768: they stay within their part.
        Self {
            word: (self.word & !(u16::MAX as u64)) + token.word() as u64 + Self::CHAIN,
            written,
        }
    }
}

impl Order {
    /// A chain was taken. Once `room` bytes are written (see [`room`]) it is used completely.
    #[inline]
    pub(super) fn taken(&mut self, token: Token, room: u64) {
        if self.next.wrapping_sub(self.oldest) as usize == self.entries.len() {
            self.grow();
        }
        let at = self.at(self.next);
        let entry = &mut self.entries[at];
        (entry.room, entry.token) = (room, token);
        (entry.tied, entry.complete) = (0, false);
        self.next = self.next.wrapping_add(1);
    }

    #[inline]
    fn at(&self, number: u32) -> usize {
        number as usize & (self.entries.len() - 1)
    }

    #[cold]
    fn grow(&mut self) {
        let size = (2 * self.entries.len()).max(16);
        let mut larger = vec![Entry::default(); size];
        let mut number = self.oldest;
        while number != self.next {
            larger[number as usize & (size - 1)] = self.entries[self.at(number)];
            number = number.wrapping_add(1);
        }
        self.entries = larger.into_boxed_slice();
    }

    /// A chain is complete; the driver hears of it when all older ones are.
    #[inline]
    pub(super) fn completed(&mut self, id: u16, written: u32) {
        // Most handlers keep the order themselves: then it is the oldest.
        let mut number = self.oldest;
        while number != self.next {
            let at = self.at(number);
            let entry = &mut self.entries[at];
            if entry.token.id() == id && !entry.complete {
                entry.written = written;
                entry.complete = true;
                self.early += 1;
                return;
            }
            number = number.wrapping_add(1);
        }
    }

    /// A chain is complete; does all there is to do if it is the oldest and no other waits, as it is where the handler keeps
    /// the order itself.
    #[inline(always)]
    pub(super) fn completed_in_turn(&mut self, id: u16, written: u32) -> InTurn {
        let at = self.oldest as usize & self.entries.len().wrapping_sub(1);
        let (room, token) = match self.entries.get(at) {
            Some(entry)
                if entry.token.id() == id
                    && entry.tied == 0
                    && self.early == 0
                    && self.oldest != self.next =>
            {
                (entry.room, entry.token)
            }
            _ => return InTurn::No,
        };
        self.oldest = self.oldest.wrapping_add(1);
        if u64::from(written) == room {
            self.group = self.group.with(token, written);
            InTurn::Gathered
        } else if self.group.chains() == 0 {
            InTurn::Told(Group::default().with(token, written))
        } else {
            InTurn::Told(std::mem::take(&mut self.group).with(token, written))
        }
    }

    /// The group that was gathered, if it is time to tell the driver and nothing else can be told.
    #[inline(always)]
    pub(super) fn tell_gathered(&mut self) -> Option<Group> {
        (self.group.chains() > 0).then(|| std::mem::take(&mut self.group))
    }

    /// The driver is to hear of all these chains, which are out, at once.
    pub(super) fn tie(&mut self, chains: &[(Token, u32)]) {
        let mut missing = chains.len();
        let (mut first, mut last) = (None, self.oldest);
        let mut number = self.oldest;
        while number != self.next && missing > 0 {
            let entry = &self.entries[self.at(number)];
            if !entry.complete && chains.iter().any(|(token, _)| token.id() == entry.token.id()) {
                first.get_or_insert(number);
                last = number;
                missing -= 1;
            }
            number = number.wrapping_add(1);
        }
        if let Some(first) = first {
            let at = self.at(first);
            // At most the queue size, 32768. The others are behind this one.
            self.entries[at].tied = last.wrapping_sub(first) as u16;
        }
    }

    /// Whether the oldest chain, tied to younger ones, has to wait for one of them.
    #[cold]
    fn tied_up(&self) -> bool {
        let (mut ahead, mut step) = (0, 0);
        while step <= ahead {
            let entry = &self.entries[self.at(self.oldest.wrapping_add(step))];
            if !entry.complete {
                return true;
            }
            // Those in between may be tied to still younger ones.
            ahead = ahead.max(step + u32::from(entry.tied));
            step += 1;
        }
        false
    }

    /// Chains that no used entry has been written for.
    pub(super) fn len(&self) -> usize {
        self.next.wrapping_sub(self.oldest) as usize + usize::from(self.group.chains())
    }

    /// The next chains to tell the driver of by one used entry; those that could still be joined by
    /// younger ones only when it is time to `tell`.
    ///
    /// Those that an entry skips count as used completely, so a chain that was not, or whose driver
    /// would not know, is the last of its group.
    #[inline]
    pub(super) fn next_group(&mut self, tell: bool) -> Option<Group> {
        while self.oldest != self.next {
            let Entry {
                room,
                written,
                token,
                tied,
                complete,
            } = self.entries[self.at(self.oldest)];
            if !complete || tied != 0 && self.tied_up() {
                break;
            }
            self.oldest = self.oldest.wrapping_add(1);
            self.early -= 1;
            self.group = self.group.with(token, written);
            if u64::from(written) != room {
                return Some(std::mem::take(&mut self.group));
            }
        }
        (tell && self.group.chains() > 0).then(|| std::mem::take(&mut self.group))
    }
}
