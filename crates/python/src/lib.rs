//! `virtio._native`: the virtqueue crate for Python. Knows no policy.
//!
//! The modules mirror the Python names. Whatever may wait runs without the GIL; workers take it only to call
//! Python. Guest memory is never referenced, only copied to and from, or exported through the buffer protocol.

use pyo3::prelude::*;

mod attached;
mod batch;
mod block;
mod block_request;
mod chain;
mod contents;
mod counters;
mod driver;
mod driver_block;
mod driver_buffer;
mod errors;
mod handler;
mod inside;
mod ledger;
mod live;
mod log;
mod loopback;
mod memory;
mod net;
mod net_backend;
mod net_frames;
mod net_pcap;
mod pair;
mod policy;
mod queue;
mod ring;
mod taken;
mod view;

/// Guest memory, rings, workers and native data paths.
#[pymodule]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::batch::Batch;
    #[pymodule_export]
    use super::block::{BlockHandler, BlockTarget};
    #[pymodule_export]
    use super::block_request::BlockRequest;
    #[pymodule_export]
    use super::chain::{Buffers, Chain};
    #[pymodule_export]
    use super::counters::Counters;
    #[pymodule_export]
    use super::driver::{DriverCounters, DriverQueue};
    #[pymodule_export]
    use super::driver_block::{BlockRequests, LoadResult};
    #[pymodule_export]
    use super::driver_buffer::SharedBuffer;
    #[pymodule_export]
    use super::handler::{BatchHandler, CallHandler, Handler, NullHandler};
    #[pymodule_export]
    use super::loopback::{Loopback, measure_ring};
    #[pymodule_export]
    use super::memory::{Memory, Region};
    #[pymodule_export]
    use super::net::{NetPort, NetReceiver, NetTransmitter};
    #[pymodule_export]
    use super::net_backend::{NetBackend, NetSwitch};
    #[pymodule_export]
    use super::net_frames::{NetFrame, NetFrames};
    #[pymodule_export]
    use super::net_pcap::{PcapReader, PcapWriter};
    #[pymodule_export]
    use super::pair::{measure_distance, measure_pair};
    #[pymodule_export]
    use super::policy::IndirectPolicy;
    #[pymodule_export]
    use super::queue::Queue;
    #[pymodule_export]
    use super::ring::{RingDevice, RingDriver};

    /// The version of the native core, equal to the package's.
    #[pyfunction]
    fn version() -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let stop_all = wrap_pyfunction!(super::live::stop_all, module)?;
        module
            .py()
            .import("atexit")?
            .call_method1("register", (stop_all,))?;
        Ok(())
    }
}
