//! VIRTIO_F_IN_ORDER: completions in the order in which chains were taken, several told by one
//! used entry (VIRTIO 1.4, 2.7.9 and 2.8.8).

use crate::chain::Token;
use std::collections::VecDeque;

#[derive(Clone, Copy, Debug)]
struct Entry {
    id: u16,
    slots: u16,
    room: u64,
    written: Option<u32>,
}

/// Chains that the device has taken, oldest first.
#[derive(Debug, Default)]
pub(super) struct Order {
    queue: VecDeque<Entry>,
    /// Entries at the front that are complete.
    ready: usize,
}

/// Chains that one used entry stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// The youngest of them: the one that the entry names.
    pub(super) id: u16,
    /// Descriptors of all of them (packed).
    pub(super) slots: u16,
    /// How many chains they are.
    pub(super) chains: u16,
    /// Bytes written into the youngest.
    pub(super) written: u32,
}

impl Order {
    /// A chain with `room` bytes in its device-writable part was taken.
    #[inline]
    pub(super) fn taken(&mut self, token: Token, room: u64) {
        let Token { id, slots } = token;
        self.queue.push_back(Entry {
            id,
            slots,
            room,
            written: None,
        });
    }

    /// A chain is complete; the driver hears of it when all older ones are.
    #[inline]
    pub(super) fn completed(&mut self, id: u16, written: u32) {
        // Most handlers keep the order themselves: then it is the first that is not ready.
        let rest = self.queue.range_mut(self.ready..);
        if let Some(entry) = rest
            .into_iter()
            .find(|entry| entry.id == id && entry.written.is_none())
        {
            entry.written = Some(written);
        }
        while self
            .queue
            .get(self.ready)
            .is_some_and(|entry| entry.written.is_some())
        {
            self.ready += 1;
        }
    }

    /// Chains that the driver has not been told of.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// The next chains to tell the driver of by one used entry.
    ///
    /// Those that an entry skips count as used completely, so a chain that was not written to its end
    /// is the last of its group.
    #[inline]
    pub(super) fn next_group(&mut self) -> Option<Group> {
        let mut group: Option<Group> = None;
        while let Some(Entry {
            id,
            slots,
            room,
            written: Some(written),
        }) = self.queue.front().copied()
        {
            let (before, chains) = group.map_or((0, 0), |group| (group.slots, group.chains));
            group = Some(Group {
                id,
                slots: before + slots,
                chains: chains + 1,
                written,
            });
            self.queue.pop_front();
            self.ready -= 1;
            if u64::from(written) != room {
                break;
            }
        }
        group
    }
}
