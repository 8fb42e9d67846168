//! What a driver does with a virtqueue: requests in flight, completions, waiting.
//!
//! A [`Queue`] is one virtqueue seen from the driver. Any thread may submit to it and wait for what
//! it submitted; while several wait, one of them looks at the ring for all. A request that nobody
//! waits for any more keeps its buffers until the device has answered it: its owner learns when.
//!
//! The device is trusted no more than a driver is at the other end: an answer that breaks a rule
//! ends the queue with a [`Fault`], and every later call tells it.

mod block;
mod bounce;
mod engine;
mod ledger;
mod load;
mod queue;
#[cfg(test)]
mod tests;

pub use block::{Area, BlockQueue, BlockSettings, Kind, Place};
pub use engine::{Counters, Tables};
pub use ledger::{Done, Ticket};
pub use load::{Load, Measured, Mix};
pub use queue::{Doorbell, Limit, Queue, Settings};

use crate::fault::Fault;
use std::fmt;

/// Why a request was not made or not answered.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The device broke a rule of the standard: the queue is of no use until the device is reset.
    Fault(Fault),
    /// The wire or the device has gone.
    Gone(String),
    /// The device said DEVICE_NEEDS_RESET (VIRTIO 1.4, 2.1).
    NeedsReset(String),
    /// No answer in time. The request is still out.
    TimedOut,
    /// The caller's own check said that it does not want to wait any longer.
    Interrupted,
    /// There is no such request: it was never made, or its answer was collected before.
    NoSuchRequest,
    /// What was asked for cannot be.
    Invalid(&'static str),
    /// A request that this queue can never hold.
    TooLarge,
    /// All of the ring is in use.
    Full,
    /// A failure of the system.
    System(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => fault.fmt(f),
            Self::Gone(text) | Self::NeedsReset(text) | Self::System(text) => f.write_str(text),
            Self::TimedOut => f.write_str("the device did not answer in time"),
            Self::Interrupted => f.write_str("interrupted"),
            Self::NoSuchRequest => f.write_str("no such request is out, or its answer was collected"),
            Self::Invalid(text) => f.write_str(text),
            Self::TooLarge => f.write_str("the request needs more descriptors than the queue has"),
            Self::Full => f.write_str("the queue is full: collect completions first"),
        }
    }
}

impl std::error::Error for Error {}
