//! The two ends of a ring without a worker, one step at a time: for tests and tools.

use crate::errors::{ProtocolError, configuration};
use crate::memory::Memory;
use pyo3::prelude::*;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use virtqueue::chain::{Batch, Segment, Token};
use virtqueue::fault::Fault;
use virtqueue::memory::{GuestMemory, Space};
use virtqueue::ring::{Buffer, Config, DeviceRing, PackedDriver, Ring, SplitDriver, feature};

/// Addresses and lengths of a chain's buffers.
type Buffers = Vec<(u64, u32)>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn raise(fault: Fault) -> PyErr {
    let text = format!("{}: {}", fault.rule.text(), fault.detail);
    ProtocolError::new_err((text, fault.rule.section()))
}

fn config(
    size: u32,
    descriptors: u64,
    available: u64,
    used: u64,
    base: Option<u32>,
    features: u128,
) -> Config {
    let packed = features & feature::RING_PACKED != 0;
    Config {
        size,
        descriptors,
        available,
        used,
        space: Space::Guest,
        base: base.unwrap_or(if packed { 0x8000_8000 } else { 0 }),
        features,
    }
}

/// The device's end of a ring.
#[pyclass(frozen, module = "virtio._native")]
pub(crate) struct RingDevice {
    memory: Arc<GuestMemory>,
    state: Mutex<(Ring, Batch)>,
}

#[pymethods]
impl RingDevice {
    #[new]
    #[pyo3(signature = (memory, *, size, descriptors, available, used, base=None, features=0))]
    fn new(
        memory: &Bound<'_, Memory>,
        size: u32,
        descriptors: u64,
        available: u64,
        used: u64,
        base: Option<u32>,
        features: u128,
    ) -> PyResult<Self> {
        let config = config(size, descriptors, available, used, base, features);
        let mut ring = Ring::new(&config).map_err(|error| configuration(error.to_string()))?;
        let memory = memory.get().inner.clone();
        if !ring.map(&memory.snapshot()).map_err(raise)? {
            return Err(configuration("the ring does not lie in this memory"));
        }
        Ok(Self {
            memory,
            state: Mutex::new((ring, Batch::default())),
        })
    }

    #[pyo3(signature = (limit=1))]
    fn take(&self, limit: usize) -> PyResult<Vec<(u16, u16, Buffers, Buffers)>> {
        let snapshot = self.memory.snapshot();
        let (ring, batch) = &mut *lock(&self.state);
        batch.attach(&snapshot);
        ring.take(&snapshot, batch, limit).map_err(raise)?;
        let buffers =
            |segments: &[Segment]| -> Buffers { segments.iter().map(|s| (s.guest, s.len)).collect() };
        let chains = batch.iter().map(|chain| {
            let (id, slots) = (chain.token.id(), chain.token.slots());
            (id, slots, buffers(chain.readable), buffers(chain.writable))
        });
        Ok(chains.collect())
    }

    fn complete(&self, head: u16, slots: u16, written: u32) -> PyResult<()> {
        let token = Token::new(head, slots);
        let ring = &mut lock(&self.state).0;
        ring.complete(&self.memory.snapshot(), token, written)
            .map_err(raise)
    }

    fn publish(&self) -> PyResult<bool> {
        let ring = &mut lock(&self.state).0;
        ring.publish(&self.memory.snapshot()).map_err(raise)
    }

    fn arm(&self) -> PyResult<bool> {
        let ring = &mut lock(&self.state).0;
        ring.arm(&self.memory.snapshot()).map_err(raise)
    }

    fn disarm(&self) -> PyResult<()> {
        let ring = &mut lock(&self.state).0;
        ring.disarm(&self.memory.snapshot()).map_err(raise)
    }

    #[getter]
    fn base(&self) -> u32 {
        lock(&self.state).0.base()
    }

    #[getter]
    fn outstanding(&self) -> u32 {
        lock(&self.state).0.outstanding()
    }
}

#[derive(Debug)]
enum Driver {
    Split(SplitDriver),
    Packed(PackedDriver),
}

macro_rules! each_layout {
    ($self:ident, $ring:ident => $call:expr) => {
        match &mut *lock(&$self.driver) {
            Driver::Split($ring) => $call,
            Driver::Packed($ring) => $call,
        }
    };
}

/// The driver's end of a ring.
#[pyclass(frozen, module = "virtio._native")]
pub(crate) struct RingDriver {
    driver: Mutex<Driver>,
}

#[pymethods]
impl RingDriver {
    #[new]
    #[pyo3(signature = (memory, *, size, descriptors, available, used, features=0))]
    fn new(
        memory: &Bound<'_, Memory>,
        size: u32,
        descriptors: u64,
        available: u64,
        used: u64,
        features: u128,
    ) -> PyResult<Self> {
        let config = config(size, descriptors, available, used, None, features);
        // Said by the device's end too, but there as a mistake of whoever configures.
        Ring::new(&config).map_err(|error| configuration(error.to_string()))?;
        let memory = memory.get().inner.snapshot();
        let driver = if features & feature::RING_PACKED != 0 {
            PackedDriver::new(&config, memory).map(Driver::Packed)
        } else {
            SplitDriver::new(&config, memory).map(Driver::Split)
        };
        Ok(Self {
            driver: Mutex::new(driver.map_err(raise)?),
        })
    }

    #[pyo3(signature = (readable, writable, table=None))]
    fn add(&self, readable: Buffers, writable: Buffers, table: Option<u64>) -> Option<u16> {
        let buffers = |list: Buffers| -> Vec<Buffer> {
            list.into_iter()
                .map(|(address, len)| Buffer { address, len })
                .collect()
        };
        let (readable, writable) = (buffers(readable), buffers(writable));
        each_layout!(self, driver => match table {
            Some(table) => driver.add_indirect(table, &readable, &writable),
            None => driver.add(&readable, &writable),
        })
    }

    fn publish(&self) -> bool {
        each_layout!(self, driver => driver.publish())
    }

    #[pyo3(signature = (limit=usize::MAX))]
    fn reap(&self, limit: usize) -> PyResult<Vec<(u16, u32)>> {
        let mut used = Vec::new();
        each_layout!(self, driver => driver.reap(limit, |entry| used.push((entry.head, entry.len))))
            .map_err(raise)?;
        Ok(used)
    }

    fn arm(&self) -> bool {
        each_layout!(self, driver => driver.arm())
    }

    fn disarm(&self) {
        each_layout!(self, driver => driver.disarm());
    }

    #[getter]
    fn outstanding(&self) -> u32 {
        match &*lock(&self.driver) {
            Driver::Split(driver) => driver.outstanding().into(),
            Driver::Packed(driver) => driver.outstanding(),
        }
    }

    #[getter]
    fn free(&self) -> u32 {
        match &*lock(&self.driver) {
            Driver::Split(driver) => driver.free().into(),
            Driver::Packed(driver) => driver.free(),
        }
    }
}
