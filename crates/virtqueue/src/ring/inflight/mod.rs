//! In-flight tracking: memory that outlives the device's process and says which chains it had taken.
//!
//! The layouts and rules are those that vhost-user defines (its specification, "Inflight I/O tracking"), one
//! for each layout of rings. A front end keeps the memory and gives it to the successor of a back
//! end that died. Each rule is a store whose place among the others matters: a process may die
//! between any two of them.
//!
//! The memory is the other side's as much as the ring is. While a tracker lives it only writes there and
//! goes by what it knows itself; what a successor reads is checked.

mod packed;
mod packed_tracking;
mod split;
mod split_tracking;

pub(super) use packed_tracking::{PackedTracking, hide};
pub(super) use split_tracking::SplitTracking;

use crate::fault::{Fault, Rule};
use crate::memory::{self, AccessError, GuestMemory, RegionRequest, Snapshot, Space};
use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, compiler_fence};

/// The version that the layouts have.
const VERSION: u16 = 1;
/// Offsets of what both layouts begin with.
const AT_VERSION: usize = 8;
const AT_SIZE: usize = 10;

/// Why in-flight memory cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InflightError {
    /// It is not where it is said to be, too small, or misaligned.
    Memory(String),
    /// A version of the layout that is not known.
    Version(u16),
    /// Made for a queue of another size, or a smaller one.
    Size(u16),
    /// What it says cannot be.
    Contents(&'static str),
}

impl fmt::Display for InflightError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(what) => write!(f, "in-flight memory: {what}"),
            Self::Version(version) => write!(f, "in-flight memory of version {version}"),
            Self::Size(size) => write!(f, "in-flight memory for a queue of {size}"),
            Self::Contents(what) => write!(f, "in-flight memory: {what}"),
        }
    }
}

impl std::error::Error for InflightError {}

impl From<AccessError> for InflightError {
    fn from(error: AccessError) -> Self {
        Self::Memory(error.to_string())
    }
}

impl From<InflightError> for Fault {
    fn from(error: InflightError) -> Self {
        // No rule of the standard's: what goes on is not known, so nothing can.
        Self::new(Rule::Device, error.to_string())
    }
}

/// One queue's part of in-flight memory.
#[derive(Clone, Debug)]
pub struct Area {
    memory: Arc<Snapshot>,
    entries: u16,
}

impl Area {
    /// Maps `size` bytes of `fd` from `offset`: made for a queue of `entries`. The descriptor is duplicated.
    pub fn new(fd: BorrowedFd<'_>, offset: u64, size: u64, entries: u16) -> Result<Self, memory::Error> {
        let memory = GuestMemory::new();
        memory.add(&RegionRequest {
            guest_address: 0,
            user_address: None,
            size,
            fd,
            offset,
            writable: true,
        })?;
        Ok(Self {
            memory: memory.snapshot(),
            entries,
        })
    }

    /// A map of its own, of nothing else.
    pub(crate) fn memory(&self) -> &Snapshot {
        &self.memory
    }
}

/// A queue's region, accessed field by field.
#[derive(Debug)]
struct Fields {
    host: *mut u8,
    /// Keeps it mapped.
    _memory: Arc<Snapshot>,
    /// Stores until the process "dies", in tests.
    #[cfg(test)]
    life: std::cell::Cell<Option<u32>>,
}

// SAFETY: an address in memory that is kept mapped; all accesses are atomic.
unsafe impl Send for Fields {}

macro_rules! field {
    ($load:ident, $store:ident, $value:ty, $atomic:ty) => {
        /// Little-endian, at an offset within the region that is a multiple of the width.
        #[inline]
        fn $load(&self, at: usize) -> $value {
            // SAFETY: the region is long enough by `new` and aligned to 8.
            let value = unsafe { <$atomic>::from_ptr(self.host.add(at).cast()) }.load(Ordering::Relaxed);
            <$value>::from_le(value)
        }

        #[inline]
        fn $store(&self, at: usize, value: $value) {
            #[cfg(test)]
            if !self.lives_on() {
                return;
            }
            // A process dies at one of its instructions: what counts is that the compiler keeps to
            // their order, also against the stores to the ring.
            compiler_fence(Ordering::SeqCst);
            // SAFETY: as above.
            unsafe { <$atomic>::from_ptr(self.host.add(at).cast()) }.store(value.to_le(), Ordering::Relaxed);
            compiler_fence(Ordering::SeqCst);
        }
    };
}

#[allow(dead_code, reason = "one layout has no loads of some widths")]
impl Fields {
    /// The memory of `area`, for a ring of `size` in one of the layouts.
    fn new(area: &Area, packed: bool, size: u16) -> Result<Self, InflightError> {
        if area.entries < size {
            return Err(InflightError::Size(area.entries));
        }
        let len = inflight_size(packed, area.entries);
        let found = area.memory.contiguous(Space::Guest, 0, len, true)?;
        if found.host as usize % 8 != 0 {
            return Err(InflightError::Memory("misaligned".to_owned()));
        }
        Ok(Self {
            host: found.host,
            _memory: area.memory.clone(),
            #[cfg(test)]
            life: std::cell::Cell::new(None),
        })
    }

    /// Whether the region has been in use. If so, its version and number of entries must be right.
    fn check(&self, entries: u16) -> Result<bool, InflightError> {
        match self.u16(AT_VERSION) {
            0 => Ok(false),
            VERSION if self.u16(AT_SIZE) == entries => Ok(true),
            VERSION => Err(InflightError::Size(self.u16(AT_SIZE))),
            other => Err(InflightError::Version(other)),
        }
    }

    #[cfg(test)]
    fn lives_on(&self) -> bool {
        match self.life.get() {
            Some(0) => false,
            Some(left) => {
                self.life.set(Some(left - 1));
                true
            }
            None => true,
        }
    }

    field!(u8, set_u8, u8, AtomicU8);
    field!(u16, set_u16, u16, AtomicU16);
    field!(u32, set_u32, u32, AtomicU32);
    field!(u64, set_u64, u64, AtomicU64);
}

/// The size of the memory for a queue of `size`, in the layout of its ring.
pub const fn inflight_size(packed: bool, size: u16) -> u64 {
    let entries = size as u64;
    if packed {
        packed::ENTRIES as u64 + entries * packed::ENTRY as u64
    } else {
        split::ENTRIES as u64 + entries * split::ENTRY as u64
    }
}
