//! `Loopback` and `measure_ring`: both ends in this process, natively, for benchmarks.

use crate::errors::{ProtocolError, configuration, transport};
use crate::memory::Memory;
use crate::queue::Queue;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use virtqueue::bench::{self, Shape};
use virtqueue::fault::Fault;
use virtqueue::loopback;
use virtqueue::ring::{Buffer, Config, SplitDriver};

/// The longest that any one chain may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Looks at the used ring before the processor is offered to others.
const SPINS: u32 = 2000;

pub(crate) fn broken(fault: &Fault) -> PyErr {
    ProtocolError::new_err((
        format!("{}: {}", fault.rule.text(), fault.detail),
        fault.rule.section(),
    ))
}

/// Guest memory with one split ring, and a native driver for it.
#[pyclass(frozen, module = "virtio._native")]
pub(crate) struct Loopback {
    config: Config,
    memory: Py<Memory>,
    driver: Mutex<SplitDriver>,
    /// Pieces of each chain: device-readable, device-writable; one set per entry of the ring.
    buffers: Vec<(Vec<Buffer>, Vec<Buffer>)>,
}

#[pymethods]
impl Loopback {
    #[new]
    #[pyo3(signature = (size=256, *, features=0, readable=16, writable=16))]
    fn new(py: Python<'_>, size: u32, features: u128, readable: u32, writable: u32) -> PyResult<Self> {
        if !size.is_power_of_two() || size > 32768 || (readable == 0 && writable == 0) {
            return Err(configuration(
                "a ring of up to 32768 entries, a power of two, and chains with contents",
            ));
        }
        let each = u64::from(readable) + u64::from(writable);
        let rig = loopback::Loopback::new(size, features, each * u64::from(size))
            .map_err(|error| transport(error.to_string()))?;
        let driver = SplitDriver::new(&rig.config, rig.memory.snapshot()).map_err(|fault| broken(&fault))?;
        let piece = |address, len| {
            if len == 0 {
                Vec::new()
            } else {
                vec![Buffer { address, len }]
            }
        };
        let buffers = (0..u64::from(size)).map(|index| {
            let start = rig.buffers + index * each;
            (
                piece(start, readable),
                piece(start + u64::from(readable), writable),
            )
        });
        Ok(Self {
            config: rig.config,
            buffers: buffers.collect(),
            memory: Py::new(py, Memory { inner: rig.memory })?,
            driver: Mutex::new(driver),
        })
    }

    #[getter]
    fn memory(&self, py: Python<'_>) -> Py<Memory> {
        self.memory.clone_ref(py)
    }

    #[getter]
    fn size(&self) -> u32 {
        self.config.size
    }

    #[getter]
    fn addresses(&self) -> BTreeMap<&'static str, u64> {
        let Config {
            descriptors,
            available,
            used,
            ..
        } = self.config;
        BTreeMap::from([
            ("descriptors", descriptors),
            ("available", available),
            ("used", used),
        ])
    }

    #[pyo3(signature = (queue, chains, *, batch=64, depth=None))]
    fn drive(
        &self,
        py: Python<'_>,
        queue: &Bound<'_, Queue>,
        chains: u64,
        batch: usize,
        depth: Option<usize>,
    ) -> PyResult<u64> {
        let depth = depth.unwrap_or(batch);
        let (readable, writable) = &self.buffers[0];
        let slots = readable.len() + writable.len();
        if batch == 0 || depth < batch || depth * slots > self.config.size as usize {
            return Err(configuration(format!(
                "{batch} at once and {depth} outstanding do not fit into the ring"
            )));
        }
        let queue = queue.get();
        py.detach(|| {
            let mut driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
            let start = Instant::now();
            self.feed(&mut driver, queue, chains, batch, depth)?;
            Ok(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX))
        })
    }
}

impl Loopback {
    /// Keeps up to `depth` chains outstanding, made available `batch` at once. Polls for their return.
    fn feed(
        &self,
        driver: &mut SplitDriver,
        queue: &Queue,
        chains: u64,
        batch: usize,
        depth: usize,
    ) -> PyResult<()> {
        let (mut added, mut returned) = (0u64, 0u64);
        let (mut idle, mut last) = (0u32, Instant::now());
        driver.disarm();
        while returned < chains {
            let room = depth - (added - returned) as usize;
            let wanted = batch.min(usize::try_from(chains - added).unwrap_or(batch));
            if wanted > 0 && room >= wanted {
                for _ in 0..wanted {
                    let (readable, writable) = &self.buffers[added as usize % self.buffers.len()];
                    driver
                        .add(readable, writable)
                        .ok_or_else(|| configuration("the ring is full"))?;
                    added += 1;
                }
                if driver.publish() {
                    queue.kick();
                }
            }
            let count = driver.reap(depth, |_| {}).map_err(|fault| broken(&fault))?;
            if count > 0 {
                returned += count as u64;
                idle = 0;
                continue;
            }
            std::hint::spin_loop();
            idle += 1;
            if idle % SPINS == 0 {
                std::thread::yield_now();
                if idle == SPINS {
                    last = Instant::now();
                } else if last.elapsed() > PATIENCE || !queue.is_running() {
                    let text = format!("{} of {chains} chains came back", returned);
                    return Err(transport(text));
                }
            }
        }
        Ok(())
    }
}

/// Measures a ring without a worker, on this thread.
#[pyfunction]
#[allow(
    clippy::too_many_arguments,
    reason = "what there is to vary, by name in Python"
)]
#[pyo3(signature = (ends, *, chains, batch, size=256, descriptors=1, indirect=false, features=0))]
pub(crate) fn measure_ring(
    py: Python<'_>,
    ends: &str,
    chains: u64,
    batch: usize,
    size: u32,
    descriptors: usize,
    indirect: bool,
    features: u128,
) -> PyResult<(u64, u64)> {
    let shape = Shape {
        chains,
        batch,
        size,
        descriptors,
        indirect,
        features,
    };
    let measure = match ends {
        "device" => bench::device_end,
        "both" => bench::both_ends,
        other => {
            return Err(PyValueError::new_err(format!(
                "{other:?} is neither \"device\" nor \"both\""
            )));
        }
    };
    let (time, chains) = py.detach(|| measure(shape)).map_err(|fault| broken(&fault))?;
    Ok((u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), chains))
}
