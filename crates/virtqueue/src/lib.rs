//! Guest memory, virtqueues and native data paths. Knows no Python.
//!
//! The way data takes: a [`worker`] thread wakes on a kick, its [`ring`] takes
//! a batch of chains out of guest [`memory`], a [`worker::Handler`] (a native
//! data path such as [`block`], or a call into Python) answers them, and the
//! ring publishes the completions and decides whether the driver wants a
//! notification.
//!
//! Whatever lies in guest memory is hostile: each value is read once, copied,
//! then checked. A broken rule is a [`fault::Fault`] that names the clause of
//! the standard; it costs the driver its device, never this process.

pub mod bench;
pub mod block;
pub mod chain;
pub mod counters;
pub mod driver;
pub mod fault;
pub mod loopback;
pub mod memory;
pub mod net;
pub mod notify;
mod prefetch;
pub mod relax;
pub mod ring;
#[allow(missing_docs, non_upper_case_globals)]
pub mod spec;
pub mod worker;
