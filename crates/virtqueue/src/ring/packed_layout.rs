//! Where things are in a packed virtqueue, and the accesses to them.
//!
//! All of it may change at any moment. A descriptor's length, id and flags are one atomic
//! access of 64 bits: whoever sees the flags sees the rest, and nobody sees half of either.

use super::Config;
use super::areas::Area;
use super::wakeup::PackedWords;
use crate::prefetch;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

/// `VIRTQ_DESC_F_AVAIL`
pub(super) const AVAIL: u16 = 1 << 7;
/// `VIRTQ_DESC_F_USED`
pub(super) const USED: u16 = 1 << 15;

/// `RING_EVENT_FLAGS_ENABLE`
pub(super) const EVENT_ENABLE: u16 = 0;
/// `RING_EVENT_FLAGS_DISABLE`
pub(super) const EVENT_DISABLE: u16 = 1;
/// `RING_EVENT_FLAGS_DESC`
pub(super) const EVENT_DESC: u16 = 2;

/// Descriptors in a cache line.
const PER_LINE: u16 = (prefetch::LINE / 16) as u16;

/// How far ahead of itself the driver fetches descriptors: four lines.
pub(super) const AHEAD: u16 = 16;

/// The same for free descriptors, which it is about to fill: two lines.
const SOON: u16 = 8;

/// Bytes of an event suppression structure.
pub(super) const EVENT_SIZE: u64 = 4;

pub(super) const fn ring_size(size: u32) -> u64 {
    size as u64 * 16
}

/// The areas of the ring that `config` describes.
pub(super) fn areas(config: &Config) -> [Area; 3] {
    let event = |name, address, writable| Area {
        name,
        address,
        length: EVENT_SIZE,
        align: 4,
        host_align: 2,
        writable,
    };
    [
        Area {
            name: "descriptor ring",
            address: config.descriptors,
            length: ring_size(config.size),
            align: 16,
            host_align: 8,
            writable: true,
        },
        event("driver event suppression", config.available, false),
        event("device event suppression", config.used, true),
    ]
}

/// A place in the ring: the offset of a descriptor and the wrap counter that goes with it
/// (VIRTIO 1.4, 2.8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) offset: u16,
    /// The wrap counter in the form in which it is needed: the flags of a descriptor that is available here.
    available: u16,
}

impl Position {
    pub(super) const fn new(offset: u16, wrap: bool) -> Self {
        let available = if wrap { AVAIL } else { USED };
        Self { offset, available }
    }

    /// Bit 15 is the wrap counter: as in event structures, notifications and vhost-user's bases.
    pub(super) const fn from_word(word: u16) -> Self {
        Self::new(word & 0x7fff, word >> 15 != 0)
    }

    pub(super) const fn word(self) -> u16 {
        self.offset | (self.wrap() as u16) << 15
    }

    pub(super) const fn wrap(self) -> bool {
        self.available == AVAIL
    }

    /// The place `slots` further on; `slots` is at most `size`.
    #[inline(always)]
    pub(super) fn after(self, slots: u16, size: u32) -> Self {
        let offset = u32::from(self.offset) + u32::from(slots);
        if offset < size {
            let available = self.available;
            let offset = offset as u16;
            return Self { offset, available };
        }
        // Once a lap: a branch that is foreseen costs less than to compute both.
        once_a_lap();
        Self {
            offset: (offset - size) as u16,
            available: self.available ^ (AVAIL | USED),
        }
    }

    /// The two flags of a descriptor that is available here.
    #[inline(always)]
    pub(super) const fn available(self) -> u16 {
        self.available
    }

    /// The two flags of a descriptor that is used here.
    #[inline(always)]
    pub(super) const fn used(self) -> u16 {
        // As a sum: both flags, or none.
        (self.available & AVAIL) + ((self.available & AVAIL) << 8)
    }
}

/// Says that what calls it is done seldom.
#[cold]
#[inline]
fn once_a_lap() {}

/// What a descriptor says beside its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) len: u32,
    pub(super) id: u16,
    pub(super) flags: u16,
}

impl Head {
    #[inline]
    pub(super) const fn from_word(word: u64) -> Self {
        Self {
            len: word as u32,
            id: (word >> 32) as u16,
            flags: (word >> 48) as u16,
        }
    }

    #[inline]
    pub(super) const fn word(self) -> u64 {
        self.len as u64 | (self.id as u64) << 32 | (self.flags as u64) << 48
    }

    /// Whether this is an available descriptor of `position`'s lap.
    #[inline]
    pub(super) const fn available_at(self, position: Position) -> bool {
        self.flags & (AVAIL | USED) == position.available()
    }

    /// Whether this is a used descriptor of `position`'s lap.
    #[inline]
    pub(super) const fn used_at(self, position: Position) -> bool {
        self.flags & (AVAIL | USED) == position.used()
    }
}

/// The three parts of a ring in host memory, as either end uses them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    size: u32,
    ring: *mut u8,
    /// The suppression structure that this end writes.
    own: *mut u8,
    /// The suppression structure that the other end writes.
    other: *mut u8,
}

// SAFETY: addresses; whoever makes Parts promises that they are used with the memory at hand, and
// all accesses are atomic.
unsafe impl Send for Parts {}

impl Parts {
    /// # Safety
    /// For as long as the value is used, `ring` is valid for 16 times `size` bytes and aligned to 8,
    /// `own` and `other` are valid for 4 bytes and aligned to 2; all but `other` also for writes.
    pub(super) unsafe fn new(size: u32, ring: *mut u8, own: *mut u8, other: *mut u8) -> Self {
        Self {
            size,
            ring,
            own,
            other,
        }
    }

    /// The word of a descriptor at 0 (address) or 8 (the rest).
    #[inline]
    fn word(&self, offset: u16, at: usize) -> &AtomicU64 {
        debug_assert!(u32::from(offset) < self.size);
        // SAFETY: in the ring, and aligned, by the promise of `new`.
        unsafe { AtomicU64::from_ptr(self.ring.add(usize::from(offset) * 16 + at).cast()) }
    }

    /// Fetches the line of the descriptor at `position`, which this end is about to write to.
    #[inline]
    pub(super) fn claim(&self, position: Position) {
        prefetch::for_writing(self.ring.wrapping_add(usize::from(position.offset) * 16));
    }

    /// The same for `count` descriptors from `first` on.
    #[inline]
    pub(super) fn claim_all(&self, first: Position, count: u32) {
        let (mut at, mut left) = (first, count);
        while left > 0 {
            self.claim(at);
            let line = u32::from(PER_LINE - at.offset % PER_LINE);
            let here = line.min(self.size - u32::from(at.offset)).min(left);
            at = at.after(here as u16, self.size);
            left -= here;
        }
    }

    /// Of `free` descriptors from `position` on, fetches a line that will be written to before long: the
    /// other end had it last, a lap ago.
    #[inline]
    pub(super) fn claim_free(&self, position: Position, free: u32) {
        if free > SOON as u32 + 4 {
            self.claim(position.after(SOON, self.size));
        }
    }

    /// In a burst that is expected to go on, behind `position`: fetches a later line.
    #[inline(always)]
    pub(super) fn claim_ahead(&self, position: Position) {
        self.claim(position.after(AHEAD, self.size));
    }

    #[inline]
    pub(super) fn addr(&self, offset: u16) -> u64 {
        u64::from_le(self.word(offset, 0).load(Ordering::Relaxed))
    }

    #[inline]
    pub(super) fn set_addr(&self, offset: u16, addr: u64) {
        self.word(offset, 0).store(addr.to_le(), Ordering::Relaxed);
    }

    #[inline]
    fn half(&self, event: *mut u8, at: usize) -> &AtomicU16 {
        // SAFETY: in the structure, and aligned, by the promise of `new`.
        unsafe { AtomicU16::from_ptr(event.add(at).cast()) }
    }

    /// What this end, or its predecessor, has said last.
    pub(super) fn own_flags(&self) -> u16 {
        u16::from_le(self.half(self.own, 2).load(Ordering::Relaxed)) & 3
    }

    /// Whether that was the descriptor at `position`.
    pub(super) fn own_event_is(&self, position: Position) -> bool {
        let word = u16::from_le(self.half(self.own, 0).load(Ordering::Relaxed));
        self.own_flags() == EVENT_DESC && word == position.word()
    }
}

impl PackedWords for Parts {
    #[inline]
    fn head(&self, offset: u16, order: Ordering) -> Head {
        Head::from_word(u64::from_le(self.word(offset, 8).load(order)))
    }
    #[inline]
    fn set_head(&self, offset: u16, head: Head, order: Ordering) {
        self.word(offset, 8).store(head.word().to_le(), order);
    }

    #[inline]
    fn set_own_descriptor(&self, word: u16, order: Ordering) {
        self.half(self.own, 0).store(word.to_le(), order);
    }
    #[inline]
    fn set_own_flags(&self, flags: u16, order: Ordering) {
        self.half(self.own, 2).store(flags.to_le(), order);
    }
    #[inline]
    fn other_descriptor(&self, order: Ordering) -> u16 {
        u16::from_le(self.half(self.other, 0).load(order))
    }
    #[inline]
    fn other_flags(&self, order: Ordering) -> u16 {
        u16::from_le(self.half(self.other, 2).load(order))
    }
}

/// Whether an end that moved by `moved` descriptors to `new` has gone over `event`.
#[inline]
pub(super) const fn passed(event: Position, new: Position, moved: u32, size: u32) -> bool {
    // Distance from the event to the end of the move, in laps that the wrap counters tell apart. What
    // an event outside the ring means is not defined; whether it counts as passed does no harm to us.
    let lap = if event.wrap() == new.wrap() { 0 } else { size };
    let distance = (new.offset as u32 + lap).wrapping_sub(event.offset as u32);
    distance.wrapping_sub(1) < moved
}
