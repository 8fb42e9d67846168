//! Virtqueues: both ends of both layouts.

mod areas;
mod barriers;
mod driver;
pub mod inflight;
mod notification;
mod order;
mod packed;
mod packed_driver;
mod packed_layout;
mod packed_log;
mod packed_used;
mod packed_walk;
mod policy;
mod split;
mod split_driver;
mod split_layout;
mod split_used;
mod split_walk;
#[cfg(test)]
mod tests;
mod wakeup;
mod walk;

pub use driver::{Buffer, Driver, Used};
pub use notification::Notification;
pub use packed::PackedRing;
pub use packed_driver::PackedDriver;
pub use policy::IndirectPolicy;
pub use split::SplitRing;
pub use split_driver::SplitDriver;

use crate::chain::{Batch, Token};
use crate::fault::Fault;
use crate::memory::{Snapshot, Space};
use inflight::{Area, PackedTracking, SplitTracking};
use std::fmt;

/// Reserved feature bits (VIRTIO 1.4, 6) that change how a ring works.
pub mod feature {
    use crate::spec;

    /// `VIRTIO_F_INDIRECT_DESC`
    pub const INDIRECT_DESC: u128 = spec::VIRTIO_F_INDIRECT_DESC;
    /// `VIRTIO_F_EVENT_IDX`
    pub const EVENT_IDX: u128 = spec::VIRTIO_F_EVENT_IDX;
    /// `VIRTIO_F_RING_PACKED`
    pub const RING_PACKED: u128 = spec::VIRTIO_F_RING_PACKED;
    /// `VIRTIO_F_IN_ORDER`
    pub const IN_ORDER: u128 = spec::VIRTIO_F_IN_ORDER;
    /// `VIRTIO_F_ORDER_PLATFORM`
    pub const ORDER_PLATFORM: u128 = spec::VIRTIO_F_ORDER_PLATFORM;
}

/// The largest queue size (VIRTIO 1.4, 2.7).
pub const MAX_SIZE: u32 = 32768;

/// Where a ring lies and how it was negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Number of entries.
    pub size: u32,
    /// The descriptor area: descriptor table, or packed ring.
    pub descriptors: u64,
    /// The driver area: available ring, or driver event suppression.
    pub available: u64,
    /// The device area: used ring, or device event suppression.
    pub used: u64,
    /// What the three addresses are addresses in. Those in descriptors are always guest addresses, and with
    /// VIRTIO_F_ACCESS_PLATFORM these are, too.
    pub space: Space,
    /// Where to continue, as [`DeviceRing::base`] returned it; 0 for a new split ring.
    pub base: u32,
    /// All negotiated features, 0 to 127; only those in [`feature`] are looked at.
    pub features: u128,
}

/// Why a ring cannot be made from a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// 0, too large, or not a power of two where it must be one.
    Size(u32),
    /// An area is not aligned (its name, its address).
    Alignment(&'static str, u64),
    /// An area wraps around (its name, its address).
    Wraps(&'static str, u64),
    /// A base that no ring of this layout returns.
    Base(u32),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(size) => write!(
                f,
                "queue size {size} is not possible: at most {MAX_SIZE}, split: a power of two"
            ),
            Self::Alignment(area, address) => write!(f, "{area} at {address:#x} is misaligned"),
            Self::Wraps(area, address) => write!(f, "{area} at {address:#x} wraps around"),
            Self::Base(base) => write!(f, "{base:#x} is no base of such a virtqueue"),
        }
    }
}

impl std::error::Error for ConfigError {}

/// The device's end of a ring: all that a worker needs, and no layout.
///
/// A ring keeps its own position; guest memory is passed in, so that a region can be unmapped
/// between two calls. It resolves its own addresses once per snapshot. While they are not
/// mapped it is as if empty: `take` finds nothing and nothing may be completed.
pub trait DeviceRing: Send {
    /// Resolves the ring's addresses; false while they are not mapped.
    fn map(&mut self, memory: &Snapshot) -> Result<bool, Fault>;
    /// Appends up to `max` chains to `batch`, which must be attached to `memory`.
    /// `Ok(0)`: nothing is available. Chains before a malformed one are delivered first;
    /// the fault comes with the next call.
    fn take(&mut self, memory: &Snapshot, batch: &mut Batch, max: usize) -> Result<usize, Fault>;
    /// Records a completion. Nothing is visible to the driver before `publish`.
    fn complete(&mut self, memory: &Snapshot, token: Token, written: u32) -> Result<(), Fault>;
    /// The same for several, in this order.
    #[inline]
    fn complete_all(&mut self, memory: &Snapshot, chains: &[(Token, u32)]) -> Result<(), Fault> {
        chains
            .iter()
            .try_for_each(|(token, written)| self.complete(memory, *token, *written))
    }
    /// The same for several of which the driver is to find all or none used after any `publish`: in order, they
    /// wait until none of them has to wait for an older one.
    fn complete_together(&mut self, memory: &Snapshot, chains: &[(Token, u32)]) -> Result<(), Fault>;
    /// Makes all recorded completions visible; true if the driver wants a notification.
    fn publish(&mut self, memory: &Snapshot) -> Result<bool, Fault>;
    /// The same for a driver that only polls, so that there is no way to notify it: what it wants is
    /// not looked at, which saves a full barrier. Who goes over to `publish` notifies once first.
    fn reveal(&mut self, memory: &Snapshot) -> Result<(), Fault>;
    /// Asks the driver for kicks, then looks again: true if chains are there already.
    fn arm(&mut self, memory: &Snapshot) -> Result<bool, Fault>;
    /// Tells the driver that no kick is needed while this end is polling.
    fn disarm(&mut self, memory: &Snapshot) -> Result<(), Fault>;
    /// The driver's notification says that the next entry or descriptor will be made available at
    /// `next` ([`Notification`]). Returns how many are available before it: chains (split) or
    /// descriptors (packed). Nonsense is as good as no hint.
    fn available_hint(&mut self, next: u16) -> u32;
    /// Address and size of the ring's parts, and whether the device writes there.
    fn areas(&self) -> [(u64, u64, bool); 3];
    /// Entries.
    fn size(&self) -> u32;
    /// Chains taken and not completed.
    fn outstanding(&self) -> u32;
    /// Where a successor continues, in the form of vhost-user's VRING_BASE. Chains not completed
    /// are offered again, as far as no younger one has been completed.
    fn base(&self) -> u32;
    /// Chains held that a successor at `base` does not get to see.
    fn lost(&self) -> u32;
    /// The same as `base` if nothing were offered again: cheap, and never wrong about what was completed.
    fn position(&self) -> u32;
}

/// A ring of one of the layouts, without the cost of a virtual call per chain.
#[derive(Debug)]
pub enum Ring {
    /// VIRTIO 1.4, 2.7.
    Split(SplitRing),
    /// VIRTIO 1.4, 2.8.
    Packed(PackedRing),
}

impl Ring {
    /// The layout that `config.features` say.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        if config.features & feature::RING_PACKED != 0 {
            return Ok(Self::Packed(PackedRing::new(config)?));
        }
        Ok(Self::Split(SplitRing::new(config)?))
    }

    /// Keeps what it has taken in in-flight memory; before the ring is mapped for the first time. If a
    /// predecessor has used that, the ring goes on where it was, whatever the base says.
    pub fn track(&mut self, area: Area) {
        match self {
            Self::Split(ring) => {
                let Config { size, features, .. } = ring.config;
                let in_order = features & feature::IN_ORDER != 0;
                ring.tracking = Some(Box::new(SplitTracking::new(area, size, in_order)));
            }
            Self::Packed(ring) => {
                let Config { size, features, .. } = ring.config;
                let in_order = features & feature::IN_ORDER != 0;
                ring.tracking = Some(Box::new(PackedTracking::new(area, size, in_order)));
            }
        }
    }

    /// Where the in-flight memory is mapped.
    pub(crate) fn in_flight(&self) -> Option<&Snapshot> {
        match self {
            Self::Split(ring) => ring.tracking.as_ref().map(|tracking| tracking.area.memory()),
            Self::Packed(ring) => ring.tracking.as_ref().map(|tracking| tracking.area.memory()),
        }
    }
}

macro_rules! each_layout {
    ($self:ident, $ring:ident => $call:expr) => {
        match $self {
            Ring::Split($ring) => $call,
            Ring::Packed($ring) => $call,
        }
    };
}

impl DeviceRing for Ring {
    fn map(&mut self, memory: &Snapshot) -> Result<bool, Fault> {
        each_layout!(self, ring => ring.map(memory))
    }
    fn take(&mut self, memory: &Snapshot, batch: &mut Batch, max: usize) -> Result<usize, Fault> {
        each_layout!(self, ring => ring.take(memory, batch, max))
    }
    #[inline]
    fn complete(&mut self, memory: &Snapshot, token: Token, written: u32) -> Result<(), Fault> {
        each_layout!(self, ring => ring.complete(memory, token, written))
    }
    fn complete_all(&mut self, memory: &Snapshot, chains: &[(Token, u32)]) -> Result<(), Fault> {
        each_layout!(self, ring => ring.complete_all(memory, chains))
    }
    fn complete_together(&mut self, memory: &Snapshot, chains: &[(Token, u32)]) -> Result<(), Fault> {
        each_layout!(self, ring => ring.complete_together(memory, chains))
    }
    fn publish(&mut self, memory: &Snapshot) -> Result<bool, Fault> {
        each_layout!(self, ring => ring.publish(memory))
    }
    #[inline]
    fn reveal(&mut self, memory: &Snapshot) -> Result<(), Fault> {
        each_layout!(self, ring => ring.reveal(memory))
    }
    fn arm(&mut self, memory: &Snapshot) -> Result<bool, Fault> {
        each_layout!(self, ring => ring.arm(memory))
    }
    fn disarm(&mut self, memory: &Snapshot) -> Result<(), Fault> {
        each_layout!(self, ring => ring.disarm(memory))
    }
    fn available_hint(&mut self, next: u16) -> u32 {
        each_layout!(self, ring => ring.available_hint(next))
    }
    fn areas(&self) -> [(u64, u64, bool); 3] {
        each_layout!(self, ring => ring.areas())
    }
    fn size(&self) -> u32 {
        each_layout!(self, ring => ring.size())
    }
    fn outstanding(&self) -> u32 {
        each_layout!(self, ring => ring.outstanding())
    }
    fn base(&self) -> u32 {
        each_layout!(self, ring => ring.base())
    }
    fn lost(&self) -> u32 {
        each_layout!(self, ring => ring.lost())
    }
    fn position(&self) -> u32 {
        each_layout!(self, ring => ring.position())
    }
}
