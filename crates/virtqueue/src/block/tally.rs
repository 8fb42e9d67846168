//! What the driver is told, and requests that did not succeed, counted by reason.

use crate::spec::block::{VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP};
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a request was not carried out. The device lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Refusal {
    /// Sectors beyond the capacity.
    Range,
    /// Data that is no multiple of its unit.
    Length,
    /// More segments of data than `seg_max`.
    Segments,
    /// A segment of data longer than `size_max`.
    SegmentSize,
    /// A change to a read-only device.
    ReadOnly,
    /// A type that this device does not have, or whose feature was not negotiated.
    Type,
    /// A flag that is unknown, or not allowed with this type.
    Flags,
    /// More or longer ranges than announced for this type.
    Limit,
    /// More scattered data outstanding than this end is willing to keep track of.
    Resources,
    /// The back end failed.
    Backend,
}

impl Refusal {
    /// All reasons, in the order of their discriminants.
    pub const ALL: [Refusal; 10] = [
        Refusal::Range,
        Refusal::Length,
        Refusal::Segments,
        Refusal::SegmentSize,
        Refusal::ReadOnly,
        Refusal::Type,
        Refusal::Flags,
        Refusal::Limit,
        Refusal::Resources,
        Refusal::Backend,
    ];

    /// The status byte that the driver finds (section 5.2.6.2).
    pub fn status(self) -> u8 {
        match self {
            Refusal::Type | Refusal::Flags => VIRTIO_BLK_S_UNSUPP,
            _ => VIRTIO_BLK_S_IOERR,
        }
    }

    /// Lower-case name, for counters.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::Range => "range",
            Refusal::Length => "length",
            Refusal::Segments => "segments",
            Refusal::SegmentSize => "segment_size",
            Refusal::ReadOnly => "read_only",
            Refusal::Type => "type",
            Refusal::Flags => "flags",
            Refusal::Limit => "limit",
            Refusal::Resources => "resources",
            Refusal::Backend => "backend",
        }
    }
}

/// The status byte of a request with this result.
pub(super) fn status(result: Result<(), Refusal>) -> u8 {
    result.map_or_else(Refusal::status, |()| VIRTIO_BLK_S_OK)
}

/// Counters per reason, read without locks.
#[derive(Debug, Default)]
pub struct Tally([AtomicU64; Refusal::ALL.len()]);

impl Tally {
    pub(super) fn count(&self, refusal: Refusal) {
        self.0[refusal as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Requests refused for a reason.
    pub fn get(&self, refusal: Refusal) -> u64 {
        self.0[refusal as usize].load(Ordering::Relaxed)
    }
}
