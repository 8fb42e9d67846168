//! The device's end of a virtqueue, whatever its layout.

use crate::chain::{Batch, Token};
use crate::fault::Fault;
use crate::memory::Snapshot;

/// The device's end of a ring: all that a worker needs, and no layout.
///
/// A ring keeps its own position; guest memory is passed in, so that a region
/// can be unmapped between two calls.
pub trait DeviceRing: Send {
    /// Appends up to `max` chains to `batch`. `Ok(0)`: nothing is available.
    /// Chains before a malformed one are delivered first; the fault comes with the next call.
    fn take(&mut self, memory: &Snapshot, batch: &mut Batch, max: usize) -> Result<usize, Fault>;
    /// Records a completion. Nothing is visible to the driver before `publish`.
    fn complete(&mut self, memory: &Snapshot, token: Token, written: u32) -> Result<(), Fault>;
    /// Makes all recorded completions visible; true if the driver wants a notification.
    fn publish(&mut self, memory: &Snapshot) -> Result<bool, Fault>;
    /// Asks the driver for kicks, then looks again: true if chains are there already.
    fn arm(&mut self, memory: &Snapshot) -> Result<bool, Fault>;
    /// Tells the driver that no kick is needed while this end is polling.
    fn disarm(&mut self, memory: &Snapshot) -> Result<(), Fault>;
    /// Chains taken and not completed.
    fn outstanding(&self) -> u32;
    /// Where a successor continues, in the form of vhost-user's VRING_BASE.
    fn base(&self) -> u32;
}
