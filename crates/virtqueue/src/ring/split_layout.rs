//! Where things are in a split virtqueue, and the accesses to them.
//!
//! All of it may change at any moment. Each field is one atomic access of its own
//! width, little-endian; what orders them is said where they are used.

use super::areas::Area;
use super::wakeup::SplitWords;
use super::{Config, feature};
use crate::prefetch;
use crate::spec::ring as spec;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

pub(super) use crate::spec::ring::{
    VIRTQ_AVAIL_F_NO_INTERRUPT as NO_INTERRUPT, VIRTQ_DESC_F_INDIRECT as INDIRECT, VIRTQ_DESC_F_NEXT as NEXT,
    VIRTQ_DESC_F_WRITE as WRITE, VIRTQ_USED_F_NO_NOTIFY as NO_NOTIFY,
};

/// Bytes of a descriptor.
pub(super) const DESCRIPTOR_SIZE: u32 = spec::DESC_SIZE as u32;
/// Bytes of an entry in the used ring.
pub(super) const USED_ENTRY_SIZE: u64 = spec::USED_ELEM_SIZE as u64;

pub(super) const fn descriptors_size(size: u32) -> u64 {
    size as u64 * DESCRIPTOR_SIZE as u64
}

pub(super) const fn available_size(size: u32, event_idx: bool) -> u64 {
    spec::AVAIL_RING as u64 + 2 * size as u64 + if event_idx { 2 } else { 0 }
}

pub(super) const fn used_size(size: u32, event_idx: bool) -> u64 {
    spec::USED_RING as u64 + USED_ENTRY_SIZE * size as u64 + if event_idx { 2 } else { 0 }
}

/// The areas of the ring that `config` describes.
pub(super) fn areas(config: &Config) -> [Area; 3] {
    let event_idx = config.features & feature::EVENT_IDX != 0;
    let area = |name, address, length, align, host_align, writable| Area {
        name,
        address,
        length,
        align,
        host_align,
        writable,
    };
    let Config {
        size,
        descriptors,
        available,
        used,
        ..
    } = *config;
    [
        area(
            "descriptor table",
            descriptors,
            descriptors_size(size),
            16,
            8,
            false,
        ),
        area(
            "available ring",
            available,
            available_size(size, event_idx),
            2,
            2,
            false,
        ),
        area("used ring", used, used_size(size, event_idx), 4, 4, true),
    ]
}

/// Whether an index that went from `old` to `new` has passed `event`: the entry at `event` is
/// among those that were added.
#[inline]
pub(super) const fn passed(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// A descriptor, copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) addr: u64,
    pub(super) len: u32,
    pub(super) flags: u16,
    pub(super) next: u16,
}

impl Descriptor {
    #[inline]
    const fn from_words(addr: u64, rest: u64) -> Self {
        Self {
            addr,
            len: rest as u32,
            flags: (rest >> 32) as u16,
            next: (rest >> 48) as u16,
        }
    }

    #[inline]
    pub(super) fn from_bytes(bytes: [u8; 16]) -> Self {
        let value = u128::from_le_bytes(bytes);
        Self::from_words(value as u64, (value >> 64) as u64)
    }

    #[inline]
    pub(super) fn to_bytes(self) -> [u8; 16] {
        let rest = u64::from(self.len) | u64::from(self.flags) << 32 | u64::from(self.next) << 48;
        (u128::from(self.addr) | u128::from(rest) << 64).to_le_bytes()
    }

    /// Stores a descriptor into a table.
    ///
    /// # Safety
    /// `host` is valid for writes of 16 bytes and aligned to 8.
    #[inline]
    pub(super) unsafe fn write(&self, host: *mut u8) {
        let value = u128::from_ne_bytes(self.to_bytes());
        let words: *mut u64 = host.cast();
        // SAFETY: as the caller promises. Atomic: the device may read it.
        let (first, second) = unsafe { (AtomicU64::from_ptr(words), AtomicU64::from_ptr(words.add(1))) };
        let halves = if cfg!(target_endian = "little") {
            (value as u64, (value >> 64) as u64)
        } else {
            ((value >> 64) as u64, value as u64)
        };
        first.store(halves.0, Ordering::Relaxed);
        second.store(halves.1, Ordering::Relaxed);
    }

    /// Copies a descriptor out of guest memory.
    ///
    /// # Safety
    /// `host` is valid for reads of 16 bytes and aligned to 8.
    #[inline(always)]
    pub(super) unsafe fn read_aligned(host: *mut u8) -> Self {
        let words: *mut u64 = host.cast();
        // SAFETY: as the caller promises. Atomic: the driver may write it.
        let (addr, rest) = unsafe { (AtomicU64::from_ptr(words), AtomicU64::from_ptr(words.add(1))) };
        Self::from_words(
            u64::from_le(addr.load(Ordering::Relaxed)),
            u64::from_le(rest.load(Ordering::Relaxed)),
        )
    }

    /// The same from anywhere: indirect tables need no alignment.
    ///
    /// # Safety
    /// `host` is valid for reads of 16 bytes.
    #[inline]
    pub(super) unsafe fn read(host: *mut u8) -> Self {
        if host as usize % 8 == 0 {
            // SAFETY: aligned, and valid as the caller promises.
            return unsafe { Self::read_aligned(host) };
        }
        Self::from_bytes(std::array::from_fn(|i| {
            // SAFETY: as the caller promises.
            unsafe { AtomicU8::from_ptr(host.add(i)) }.load(Ordering::Relaxed)
        }))
    }
}

/// The three parts of a ring in host memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    size: u32,
    descriptors: *mut u8,
    available: *mut u8,
    used: *mut u8,
    used_guest: u64,
}

// SAFETY: addresses; whoever makes Parts promises that they are used with the
// memory at hand, and all accesses are atomic.
unsafe impl Send for Parts {}

impl Parts {
    /// # Safety
    /// For as long as the value is used, the three are valid for the sizes that this module
    /// gives for `size` (the used ring for writes), and aligned to 8, 2 and 4 bytes. Event fields
    /// are accessed only if those sizes included them.
    pub(super) unsafe fn new(
        size: u32,
        descriptors: *mut u8,
        available: *mut u8,
        used: *mut u8,
        used_guest: u64,
    ) -> Self {
        Self {
            size,
            descriptors,
            available,
            used,
            used_guest,
        }
    }

    #[inline]
    fn u16_at(&self, base: *mut u8, offset: usize) -> &AtomicU16 {
        // SAFETY: in the part, and aligned, by the promise of `new` and the offsets below.
        unsafe { AtomicU16::from_ptr(base.add(offset).cast()) }
    }

    /// `index` is less than the size.
    #[inline]
    pub(super) fn descriptor(&self, index: u16) -> Descriptor {
        debug_assert!(u32::from(index) < self.size);
        // SAFETY: in the table, which is aligned.
        unsafe {
            Descriptor::read_aligned(
                self.descriptors
                    .add(usize::from(index) * DESCRIPTOR_SIZE as usize),
            )
        }
    }

    /// `slot` is less than the size.
    #[inline]
    pub(super) fn available_entry(&self, slot: u16) -> u16 {
        debug_assert!(u32::from(slot) < self.size);
        u16::from_le(
            self.u16_at(self.available, spec::AVAIL_RING + 2 * usize::from(slot))
                .load(Ordering::Relaxed),
        )
    }

    /// `slot` is less than the size.
    #[inline]
    pub(super) fn set_used_entry(&self, slot: u16, id: u32, len: u32) {
        let words = self.used_words(slot);
        words.0.store(id.to_le(), Ordering::Relaxed);
        words.1.store(len.to_le(), Ordering::Relaxed);
    }

    /// Fetches the line of descriptor `index`, which this end is about to read.
    #[inline(always)]
    pub(super) fn expect(&self, index: u16) {
        prefetch::for_reading(
            self.descriptors
                .wrapping_add(usize::from(index) * DESCRIPTOR_SIZE as usize),
        );
    }

    /// Fetches the line of used entry number `index`, which this end is about to write to.
    #[inline(always)]
    pub(super) fn claim_used(&self, index: u16) {
        let slot = u32::from(index) & (self.size - 1);
        let offset = spec::USED_RING + slot as usize * USED_ENTRY_SIZE as usize;
        prefetch::for_writing(self.used.wrapping_add(offset));
    }

    /// Fetches the line of descriptor `index`, which this end is about to write to.
    #[inline(always)]
    pub(super) fn claim_descriptor(&self, index: u16) {
        let offset = usize::from(index) * DESCRIPTOR_SIZE as usize;
        prefetch::for_writing(self.descriptors.wrapping_add(offset));
    }

    /// The same for an entry of the available ring; `slot` is less than the size.
    #[inline(always)]
    pub(super) fn claim_available(&self, slot: u16) {
        let offset = spec::AVAIL_RING + 2 * usize::from(slot);
        prefetch::for_writing(self.available.wrapping_add(offset));
    }

    #[inline]
    fn used_words(&self, slot: u16) -> (&AtomicU32, &AtomicU32) {
        debug_assert!(u32::from(slot) < self.size);
        let offset = spec::USED_RING + USED_ENTRY_SIZE as usize * usize::from(slot);
        // SAFETY: in the used ring; an entry is aligned to 4.
        unsafe {
            let entry: *mut u32 = self.used.add(offset).cast();
            (AtomicU32::from_ptr(entry), AtomicU32::from_ptr(entry.add(1)))
        }
    }

    /// `index` is less than the size.
    #[inline]
    pub(super) fn set_descriptor(&self, index: u16, descriptor: &Descriptor) {
        debug_assert!(u32::from(index) < self.size);
        // SAFETY: in the table.
        unsafe {
            descriptor.write(
                self.descriptors
                    .add(usize::from(index) * DESCRIPTOR_SIZE as usize),
            )
        }
    }

    /// `slot` is less than the size.
    #[inline]
    pub(super) fn set_available_entry(&self, slot: u16, head: u16) {
        debug_assert!(u32::from(slot) < self.size);
        self.u16_at(self.available, spec::AVAIL_RING + 2 * usize::from(slot))
            .store(head.to_le(), Ordering::Relaxed);
    }

    /// Id and length; `slot` is less than the size.
    #[inline]
    pub(super) fn used_entry(&self, slot: u16) -> (u32, u32) {
        let (id, len) = self.used_words(slot);
        (
            u32::from_le(id.load(Ordering::Relaxed)),
            u32::from_le(len.load(Ordering::Relaxed)),
        )
    }

    /// Guest addresses of what the device writes, for the dirty log.
    pub(super) fn used_flags_guest(&self) -> u64 {
        self.used_guest
    }

    pub(super) fn used_idx_guest(&self) -> u64 {
        self.used_guest + spec::USED_IDX as u64
    }

    pub(super) fn used_entry_guest(&self, slot: u16) -> u64 {
        self.used_guest + spec::USED_RING as u64 + USED_ENTRY_SIZE * u64::from(slot)
    }

    pub(super) fn avail_event_guest(&self) -> u64 {
        self.used_guest + spec::USED_RING as u64 + USED_ENTRY_SIZE * u64::from(self.size)
    }
}

impl SplitWords for Parts {
    #[inline]
    fn available_idx(&self, order: Ordering) -> u16 {
        u16::from_le(self.u16_at(self.available, spec::AVAIL_IDX).load(order))
    }
    #[inline]
    fn set_available_idx(&self, index: u16, order: Ordering) {
        self.u16_at(self.available, spec::AVAIL_IDX)
            .store(index.to_le(), order);
    }
    #[inline]
    fn used_idx(&self, order: Ordering) -> u16 {
        u16::from_le(self.u16_at(self.used, spec::USED_IDX).load(order))
    }
    #[inline]
    fn set_used_idx(&self, index: u16, order: Ordering) {
        self.u16_at(self.used, spec::USED_IDX).store(index.to_le(), order);
    }
    #[inline]
    fn available_flags(&self) -> u16 {
        u16::from_le(
            self.u16_at(self.available, spec::AVAIL_FLAGS)
                .load(Ordering::Relaxed),
        )
    }
    #[inline]
    fn set_available_flags(&self, flags: u16) {
        self.u16_at(self.available, spec::AVAIL_FLAGS)
            .store(flags.to_le(), Ordering::Relaxed);
    }
    #[inline]
    fn used_flags(&self) -> u16 {
        u16::from_le(self.u16_at(self.used, spec::USED_FLAGS).load(Ordering::Relaxed))
    }
    #[inline]
    fn set_used_flags(&self, flags: u16) {
        self.u16_at(self.used, spec::USED_FLAGS)
            .store(flags.to_le(), Ordering::Relaxed);
    }
    #[inline]
    fn avail_event(&self) -> u16 {
        let offset = spec::USED_RING + USED_ENTRY_SIZE as usize * self.size as usize;
        u16::from_le(self.u16_at(self.used, offset).load(Ordering::Relaxed))
    }
    #[inline]
    fn set_avail_event(&self, index: u16) {
        let offset = spec::USED_RING + USED_ENTRY_SIZE as usize * self.size as usize;
        self.u16_at(self.used, offset)
            .store(index.to_le(), Ordering::Relaxed);
    }
    #[inline]
    fn used_event(&self) -> u16 {
        let offset = spec::AVAIL_RING + 2 * self.size as usize;
        u16::from_le(self.u16_at(self.available, offset).load(Ordering::Relaxed))
    }
    #[inline]
    fn set_used_event(&self, index: u16) {
        let offset = spec::AVAIL_RING + 2 * self.size as usize;
        self.u16_at(self.available, offset)
            .store(index.to_le(), Ordering::Relaxed);
    }
}
