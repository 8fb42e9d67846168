//! `BlockRequests`: a request queue of a block device, seen from the driver.

use crate::contents::Contents;
use crate::driver::{DriverQueue, Native, RingPlace, TablePlace, failure, settings, shared_address, waiting};
use crate::errors::configuration;
use crate::memory::{self, Memory};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::Arc;
use virtqueue::driver::{Area, BlockQueue, BlockSettings, Error, Kind, Load, Measured, Mix, Place};
use virtqueue::memory::GuestMemory;

/// What a load came to.
#[pyclass(frozen, get_all, module = "virtio._native")]
#[derive(Debug)]
pub(crate) struct LoadResult {
    requests: u64,
    failed: u64,
    mismatches: u64,
    nanoseconds: u64,
    cpu_nanoseconds: u64,
}

#[pymethods]
impl LoadResult {
    fn __repr__(&self) -> String {
        format!("{self:?}")
    }
}

impl From<Measured> for LoadResult {
    fn from(native: Measured) -> Self {
        Self {
            requests: native.requests,
            failed: native.failed,
            mismatches: native.mismatches,
            nanoseconds: native.nanoseconds,
            cpu_nanoseconds: native.cpu_nanoseconds,
        }
    }
}

/// A request queue of a block device; any thread may use it.
#[pyclass(frozen, module = "virtio._native")]
pub(crate) struct BlockRequests {
    native: Arc<Native>,
    memory: Arc<GuestMemory>,
}

impl BlockRequests {
    fn block(&self) -> &BlockQueue {
        match &*self.native {
            Native::Block(block) => block,
            Native::Plain(_) => unreachable!("made so below, and never changed"),
        }
    }

    fn place(&self, contents: &Contents) -> Address {
        match shared_address(&self.memory, contents) {
            Some(address) => Address::Shared(address),
            None => Address::Own(contents.as_ptr() as usize),
        }
    }

    fn transfer(
        &self,
        py: Python<'_>,
        kind: Kind,
        sector: u64,
        place: Address,
        len: u64,
        timeout: Option<f64>,
    ) -> PyResult<(u8, u64)> {
        let block = self.block();
        waiting(py, timeout, move |limit| {
            let place = match place {
                Address::Shared(address) => Place::Shared(address),
                Address::Own(host) => Place::Own(host as *mut u8),
            };
            // SAFETY: our callers hold the buffer for the duration of the call.
            unsafe { block.transfer(kind, sector, place, len, limit) }
        })
        .map(|(done, before)| (done.status, before))
    }
}

/// [`Place`] that may go to another thread: the buffer behind it is held meanwhile.
#[derive(Clone, Copy)]
enum Address {
    Shared(u64),
    Own(usize),
}

#[pymethods]
impl BlockRequests {
    #[new]
    #[pyo3(signature = (memory, ring, *, kick, call, area, tables=None, polling=0, segment=4294967295, segments=1))]
    #[allow(clippy::too_many_arguments, reason = "by name in Python")]
    fn new(
        memory: &Bound<'_, Memory>,
        ring: RingPlace,
        kick: &Bound<'_, PyAny>,
        call: Option<i32>,
        area: (u64, u32, u32),
        tables: Option<TablePlace>,
        polling: u64,
        segment: u32,
        segments: u32,
    ) -> PyResult<Self> {
        let (address, chunk, chunks) = area;
        let queue = BlockQueue::new(BlockSettings {
            queue: settings(memory.get(), &ring, kick, call, tables, polling)?,
            area: Area {
                address,
                chunk,
                chunks,
            },
            segment,
            segments,
        })
        .map_err(failure)?;
        Ok(Self {
            native: Arc::new(Native::Block(queue)),
            memory: memory.get().inner.clone(),
        })
    }

    #[staticmethod]
    fn area_size(size: u32, chunk: u32, chunks: u32) -> u64 {
        Area::bytes(size, chunk, chunks)
    }

    #[getter]
    fn queue(&self) -> DriverQueue {
        DriverQueue {
            native: self.native.clone(),
        }
    }

    #[getter]
    fn longest(&self) -> u32 {
        self.block().longest
    }

    fn shared(&self, buffer: &Bound<'_, PyAny>) -> PyResult<Option<u64>> {
        Ok(shared_address(&self.memory, &Contents::of(buffer)?))
    }

    #[pyo3(signature = (kind, sector, address, size, *, watched=false, timeout=None))]
    #[allow(clippy::too_many_arguments, reason = "by name in Python")]
    fn submit(
        &self,
        py: Python<'_>,
        kind: u32,
        sector: u64,
        address: u64,
        size: u32,
        watched: bool,
        timeout: Option<f64>,
    ) -> PyResult<Option<u64>> {
        let block = self.block();
        loop {
            match block.submit(Kind(kind), sector, (address, size), watched) {
                Ok(ticket) => return Ok(Some(ticket.0)),
                // An event loop comes again when something has finished.
                Err(Error::Full) if watched => return Ok(None),
                Err(Error::Full) => {
                    waiting(py, timeout, |limit| block.wait_for_room(size, limit))?;
                }
                Err(error) => return Err(failure(error)),
            }
        }
    }

    #[pyo3(signature = (kind, sector, size, timeout=None))]
    fn take<'py>(
        &self,
        py: Python<'py>,
        kind: u32,
        sector: u64,
        size: usize,
        timeout: Option<f64>,
    ) -> PyResult<(Bound<'py, PyBytes>, u8, u64)> {
        let mut answer = (0, 0);
        let data = PyBytes::new_with(py, size, |into| {
            let place = Address::Own(into.as_mut_ptr() as usize);
            answer = self.transfer(py, Kind(kind), sector, place, size as u64, timeout)?;
            Ok(())
        })?;
        Ok((data, answer.0, answer.1))
    }

    #[pyo3(signature = (kind, sector, buffer, timeout=None))]
    fn fill(
        &self,
        py: Python<'_>,
        kind: u32,
        sector: u64,
        buffer: &Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<(u8, u64)> {
        let contents = Contents::writable(buffer)?;
        let (place, len) = (self.place(&contents), contents.len() as u64);
        self.transfer(py, Kind(kind), sector, place, len, timeout)
    }

    #[pyo3(signature = (kind, sector, data, timeout=None))]
    fn give(
        &self,
        py: Python<'_>,
        kind: u32,
        sector: u64,
        data: &Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<(u8, u64)> {
        let contents = Contents::of(data)?;
        let (place, len) = (self.place(&contents), contents.len() as u64);
        self.transfer(py, Kind(kind), sector, place, len, timeout)
    }

    #[pyo3(signature = (kind, sectors, buffer, *, depth=None, timeout=None))]
    fn run<'py>(
        &self,
        py: Python<'py>,
        kind: u32,
        sectors: &Bound<'py, PyAny>,
        buffer: &Bound<'py, PyAny>,
        depth: Option<usize>,
        timeout: Option<f64>,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let sectors = Contents::of(sectors)?.to_vec();
        let count = sectors.len() / 8;
        let contents = if kind == Kind::IN.0 {
            Contents::writable(buffer)?
        } else {
            Contents::of(buffer)?
        };
        let address = shared_address(&self.memory, &contents)
            .ok_or_else(|| configuration("a batch needs a buffer in shared memory: allocate() gives one"))?;
        if count == 0 || sectors.len() % 8 != 0 || contents.len() % count != 0 {
            return Err(configuration(format!(
                "{} bytes cannot be divided among {count} requests",
                contents.len()
            )));
        }
        let each = u32::try_from(contents.len() / count).map_err(|_| failure(Error::TooLarge))?;
        let mut statuses = vec![0u8; count];
        let block = self.block();
        waiting(py, timeout, |limit| {
            let sectors = sectors.chunks_exact(8).map(|bytes| {
                let mut word = [0; 8];
                word.copy_from_slice(bytes);
                u64::from_ne_bytes(word)
            });
            block.run(
                Kind(kind),
                sectors,
                (address, each),
                &mut statuses,
                depth.unwrap_or(usize::MAX),
                limit,
            )
        })?;
        let failed = statuses.iter().any(|status| *status != 0);
        Ok(failed.then(|| PyBytes::new(py, &statuses)))
    }

    #[pyo3(signature = (mix, buffer, *, sectors, depth, requests=u64::MAX, seconds=f64::INFINITY, size=4096, sequential=false, seed=1, timeout=None))]
    #[allow(clippy::too_many_arguments, reason = "by name in Python")]
    fn load(
        &self,
        py: Python<'_>,
        mix: &str,
        buffer: &Bound<'_, PyAny>,
        sectors: u64,
        depth: usize,
        requests: u64,
        seconds: f64,
        size: u32,
        sequential: bool,
        seed: u64,
        timeout: Option<f64>,
    ) -> PyResult<LoadResult> {
        let mix = match mix {
            "read" => Mix::Read,
            "write" => Mix::Write,
            "verify" => Mix::Verify,
            other => {
                let text = format!("{other:?} is neither \"read\" nor \"write\" nor \"verify\"");
                return Err(configuration(text));
            }
        };
        let contents = Contents::writable(buffer)?;
        let address = shared_address(&self.memory, &contents)
            .filter(|_| contents.len() / depth.max(1) >= size as usize)
            .ok_or_else(|| configuration("a load needs shared memory for all requests that are out"))?;
        let load = Load {
            mix,
            sequential,
            each: size,
            sectors,
            depth,
            requests,
            time: memory::seconds(seconds)?,
            timeout: timeout.map(memory::seconds).transpose()?,
            seed,
        };
        let (block, memory) = (self.block(), self.memory.snapshot());
        waiting(py, None, |limit| {
            block.load(load, &memory, address, limit.give_up)
        })
        .map(LoadResult::from)
    }
}
