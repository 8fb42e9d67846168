//! Guest memory: regions mapped from file descriptors, in two address spaces.
//!
//! A [`GuestMemory`] is shared by the queues of a device. What it holds at one
//! moment is a [`Snapshot`], immutable and shared: a worker takes one, resolves
//! addresses in it, and notices by one relaxed load per batch that there is a
//! newer one. Whoever takes regions away waits until all workers have moved on
//! ([`Reader`]); a mapping itself lives until its last user is gone.

mod dirty;
mod error;
mod guest;
mod iotlb;
mod joined;
mod mapping;
mod misses;
mod quiesce;
mod sigbus;
mod snapshot;
#[cfg(test)]
mod tests;
mod translation;

pub use dirty::{LOG_PAGE, SharedLog};
pub use error::{AccessError, Error};
pub use guest::{GuestMemory, RegionRequest};
pub use iotlb::{Access, MAX_TRANSLATIONS, Translation};
pub use joined::Joined;
pub use mapping::Mapping;
pub use misses::{Asked, Miss, Wanted};
pub use quiesce::{Reader, Strike, Wake};
pub use snapshot::{Contiguous, Region, Snapshot, Space, View};
pub(crate) use snapshot::{Near, Nearby};

/// Learns which bytes of guest memory the device has written.
///
/// Buffers are reported up to the used length, when the chain is completed;
/// the used ring's entries, `idx` and `avail_event` when they are stored.
pub trait DirtyLog: Send + Sync + std::fmt::Debug {
    /// `size` bytes from guest address `address` were written. What a ring tells [`Snapshot::dirty_log`] are
    /// addresses like those in descriptors; the log itself learns of guest physical addresses.
    fn mark(&self, address: u64, size: u64);
}
