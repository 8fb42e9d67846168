//! What orders the accesses of one end as the other end sees them (VIRTIO 1.4, 6,
//! VIRTIO_F_ORDER_PLATFORM).
//!
//! | step | between processors | hardware: x86-64 | aarch64 | elsewhere |
//! | --- | --- | --- | --- | --- |
//! | read what was said to be there | acquire load | `lfence` after it | `dmb oshld` | full fence |
//! | say that something is there | release store | `sfence` before it | `dmb oshst` | full fence |
//! | say something, then look | SeqCst fence | `mfence` | `dsb sy` | full fence |
//!
//! On x86-64 the fences matter for memory that is not cached as usual (write-combining, device memory),
//! where neither acquire nor release promise anything. The weak column is always in force, too: the
//! compiler needs it.

use super::feature;
use std::sync::atomic::{Ordering, fence};

/// The barriers of a ring, chosen when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Barriers {
    /// Both ends are software on processors that are coherent.
    Weak,
    /// VIRTIO_F_ORDER_PLATFORM: the other end may be a device.
    Platform,
}

impl Barriers {
    pub(super) const fn new(features: u128) -> Self {
        if features & feature::ORDER_PLATFORM != 0 {
            Self::Platform
        } else {
            Self::Weak
        }
    }
}

/// How an end orders its accesses; the steps in `wakeup` are written in terms of it.
pub(super) trait Fences {
    /// After an acquire load that said that something is there, before it is read.
    fn read(&self);
    /// Before a release store that says that something is there, after it was written.
    fn write(&self);
    /// Between a store and a load that must not be exchanged.
    fn full(&self);
}

impl Fences for Barriers {
    #[inline]
    fn read(&self) {
        if *self == Self::Platform {
            platform::read();
        }
    }

    #[inline]
    fn write(&self) {
        if *self == Self::Platform {
            platform::write();
        }
    }

    #[inline]
    fn full(&self) {
        fence(Ordering::SeqCst);
        if *self == Self::Platform {
            platform::full();
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod platform {
    use std::arch::x86_64::{_mm_lfence, _mm_mfence, _mm_sfence};

    #[cold]
    pub(super) fn read() {
        // SAFETY: SSE2 is part of x86-64.
        unsafe { _mm_lfence() }
    }

    #[cold]
    pub(super) fn write() {
        // SAFETY: SSE is part of x86-64.
        unsafe { _mm_sfence() }
    }

    #[cold]
    pub(super) fn full() {
        // SAFETY: SSE2 is part of x86-64.
        unsafe { _mm_mfence() }
    }
}

#[cfg(target_arch = "aarch64")]
mod platform {
    use std::arch::asm;

    #[cold]
    pub(super) fn read() {
        // SAFETY: a barrier changes nothing but the order.
        unsafe { asm!("dmb oshld", options(nostack, preserves_flags)) }
    }

    #[cold]
    pub(super) fn write() {
        // SAFETY: as above.
        unsafe { asm!("dmb oshst", options(nostack, preserves_flags)) }
    }

    #[cold]
    pub(super) fn full() {
        // SAFETY: as above.
        unsafe { asm!("dsb sy", options(nostack, preserves_flags)) }
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod platform {
    use std::sync::atomic::{Ordering, fence};

    #[cold]
    pub(super) fn read() {
        fence(Ordering::SeqCst);
    }
    #[cold]
    pub(super) fn write() {
        fence(Ordering::SeqCst);
    }
    #[cold]
    pub(super) fn full() {
        fence(Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_by_the_feature() {
        assert_eq!(Barriers::new(feature::ORDER_PLATFORM), Barriers::Platform);
        assert_eq!(Barriers::new(!feature::ORDER_PLATFORM), Barriers::Weak);
        for barriers in [Barriers::Weak, Barriers::Platform] {
            // Nothing to see, but no instruction that this processor lacks.
            barriers.read();
            barriers.write();
            barriers.full();
        }
    }
}
