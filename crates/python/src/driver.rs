//! `DriverQueue`: a virtqueue seen from the driver.

use crate::contents::Contents;
use crate::errors::{configuration, needs_reset, transport};
use crate::loopback::broken;
use crate::memory::{Memory, borrow, seconds};
use crate::policy::IndirectPolicy;
use pyo3::exceptions::{PyRuntimeError, PyTimeoutError};
use pyo3::prelude::*;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use virtqueue::driver::{self, BlockQueue, Doorbell, Error, Limit, Queue, Settings, Tables, Ticket};
use virtqueue::memory::{GuestMemory, Space};
use virtqueue::notify::CallFd;
use virtqueue::ring::{Buffer, Config, feature};

/// A queue of any kind: what they have in common is done by [`DriverQueue`].
pub(crate) enum Native {
    Plain(Queue),
    Block(BlockQueue),
}

impl Native {
    pub(crate) fn queue(&self) -> &Queue {
        match self {
            Self::Plain(queue) => queue,
            Self::Block(block) => &block.queue,
        }
    }
}

pub(crate) fn failure(error: Error) -> PyErr {
    match error {
        Error::Fault(fault) => broken(&fault),
        Error::Gone(text) | Error::System(text) => transport(text),
        Error::NeedsReset(text) => needs_reset(text),
        Error::TimedOut => PyTimeoutError::new_err(error.to_string()),
        _ => configuration(error.to_string()),
    }
}

/// Runs something that waits, without the GIL, for `timeout` seconds at most; signals are heeded.
pub(crate) fn waiting<T: Send>(
    py: Python<'_>,
    timeout: Option<f64>,
    wait: impl FnOnce(Limit<'_>) -> Result<T, Error> + Send,
) -> PyResult<T> {
    let deadline = timeout
        .map(|timeout| seconds(timeout.max(0.0)).map(|time| Instant::now() + time))
        .transpose()?;
    let raised: Mutex<Option<PyErr>> = Mutex::new(None);
    let outcome = py.detach(|| {
        let give_up = || {
            let error = Python::try_attach(|py| py.check_signals().err()).flatten();
            let give_up = error.is_some();
            *raised.lock().unwrap_or_else(PoisonError::into_inner) = error;
            give_up
        };
        wait(Limit {
            deadline,
            give_up: Some(&give_up),
        })
    });
    outcome.map_err(|error| match error {
        Error::Interrupted => raised
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .unwrap_or_else(|| PyRuntimeError::new_err("interrupted")),
        other => failure(other),
    })
}

/// The guest address of bytes that lie in `memory`, if they do.
pub(crate) fn shared_address(memory: &GuestMemory, contents: &Contents) -> Option<u64> {
    let (host, len) = (contents.as_ptr() as usize, contents.len());
    memory.snapshot().regions().iter().find_map(|region| {
        let offset = host.checked_sub(region.mapping.as_ptr() as usize)? as u64;
        (offset.checked_add(len as u64)? <= region.size).then_some(region.guest_address + offset)
    })
}

/// How to notify: an eventfd or a function.
fn kick(target: &Bound<'_, PyAny>) -> PyResult<Doorbell> {
    if let Ok(fd) = target.extract::<i32>() {
        let fd = CallFd::new(borrow(fd)?).map_err(|error| transport(error.to_string()))?;
        return Ok(Doorbell::Fd(fd));
    }
    let function = target.clone().unbind();
    Ok(Doorbell::Function(Arc::new(move |word| {
        let _ = Python::try_attach(|py| {
            if let Err(error) = function.call1(py, (word,)) {
                error.write_unraisable(py, Some(function.bind(py)));
            }
        });
    })))
}

/// Address, descriptors in each, and when to use one.
pub(crate) type TablePlace = (u64, u32, Py<IndirectPolicy>);

/// Where a ring is, as keywords of Python say it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct RingPlace {
    index: u16,
    size: u32,
    descriptors: u64,
    available: u64,
    used: u64,
    features: u128,
}

pub(crate) fn settings(
    memory: &Memory,
    ring: &RingPlace,
    kick_target: &Bound<'_, PyAny>,
    call: Option<i32>,
    tables: Option<TablePlace>,
    polling: u64,
) -> PyResult<Settings> {
    let call = call
        .map(|fd| borrow(fd)?.as_fd().try_clone_to_owned().map_err(PyErr::from))
        .transpose()?;
    Ok(Settings {
        config: Config {
            size: ring.size,
            descriptors: ring.descriptors,
            available: ring.available,
            used: ring.used,
            space: Space::Guest,
            base: if ring.features & feature::RING_PACKED != 0 {
                0x8000_8000
            } else {
                0
            },
            features: ring.features,
        },
        memory: memory.inner.snapshot(),
        tables: tables.map(|(address, entries, policy)| Tables {
            address,
            entries,
            policy: policy.get().0,
        }),
        identifier: ring.index,
        kick: kick(kick_target)?,
        call,
        polling: Duration::from_micros(polling),
    })
}

/// What a driver's end of a queue has done; a snapshot.
#[pyclass(frozen, get_all, module = "virtio._native")]
#[derive(Debug)]
pub(crate) struct DriverCounters {
    requests: u64,
    completions: u64,
    indirect: u64,
    bytes_readable: u64,
    bytes_written: u64,
    batches: u64,
    kicks: u64,
    kicks_suppressed: u64,
    interrupts: u64,
    polls: u64,
    sleeps: u64,
}

impl From<driver::Counters> for DriverCounters {
    fn from(native: driver::Counters) -> Self {
        let driver::Counters {
            requests,
            completions,
            indirect,
            bytes_readable,
            bytes_written,
            batches,
            kicks,
            kicks_suppressed,
            interrupts,
            polls,
            sleeps,
        } = native;
        Self {
            requests,
            completions,
            indirect,
            bytes_readable,
            bytes_written,
            batches,
            kicks,
            kicks_suppressed,
            interrupts,
            polls,
            sleeps,
        }
    }
}

#[pymethods]
impl DriverCounters {
    fn __repr__(&self) -> String {
        format!("{self:?}")
    }
}

/// A virtqueue seen from the driver; any thread may use it.
#[pyclass(frozen, module = "virtio._native")]
pub(crate) struct DriverQueue {
    pub(crate) native: Arc<Native>,
}

fn buffers(list: &[(u64, u32)]) -> Vec<Buffer> {
    list.iter()
        .map(|&(address, len)| Buffer { address, len })
        .collect()
}

#[pymethods]
impl DriverQueue {
    #[new]
    #[pyo3(signature = (memory, ring, *, kick, call, tables=None, polling=0))]
    fn new(
        memory: &Bound<'_, Memory>,
        ring: RingPlace,
        kick: &Bound<'_, PyAny>,
        call: Option<i32>,
        tables: Option<TablePlace>,
        polling: u64,
    ) -> PyResult<Self> {
        let settings = settings(memory.get(), &ring, kick, call, tables, polling)?;
        let queue = Queue::new(settings).map_err(failure)?;
        Ok(Self {
            native: Arc::new(Native::Plain(queue)),
        })
    }

    #[pyo3(signature = (readable, writable, *, watched=false))]
    fn submit(
        &self,
        readable: Vec<(u64, u32)>,
        writable: Vec<(u64, u32)>,
        watched: bool,
    ) -> PyResult<Option<u64>> {
        let queue = self.native.queue();
        match queue.submit(&buffers(&readable), &buffers(&writable), watched) {
            Ok(ticket) => Ok(Some(ticket.0)),
            Err(Error::Full) => Ok(None),
            Err(error) => Err(failure(error)),
        }
    }

    #[pyo3(signature = (descriptors, timeout=None))]
    fn wait_for_room(&self, py: Python<'_>, descriptors: usize, timeout: Option<f64>) -> PyResult<()> {
        let queue = self.native.queue();
        waiting(py, timeout, |limit| queue.wait_for_room(descriptors, limit))
    }

    fn poll(&self, token: u64) -> PyResult<Option<(u32, u8)>> {
        let done = self.native.queue().try_take(Ticket(token)).map_err(failure)?;
        Ok(done.map(|done| (done.len, done.status)))
    }

    #[pyo3(signature = (token, timeout=None))]
    fn wait(&self, py: Python<'_>, token: u64, timeout: Option<f64>) -> PyResult<(u32, u8)> {
        let queue = self.native.queue();
        let done = waiting(py, timeout, |limit| queue.wait(Ticket(token), limit))?;
        Ok((done.len, done.status))
    }

    fn abandon(&self, token: u64) -> PyResult<bool> {
        self.native.queue().abandon(Ticket(token)).map_err(failure)
    }

    fn returned(&self) -> (Vec<u64>, u32) {
        let mut list = Vec::new();
        let out = self.native.queue().returned(|ticket| list.push(ticket.0));
        (list, out)
    }

    fn collect(&self) -> PyResult<Vec<(u64, u32, u8)>> {
        let mut list = Vec::new();
        let outcome = self
            .native
            .queue()
            .collect(|ticket, done| list.push((ticket.0, done.len, done.status)));
        match outcome {
            // What has come is told first; the error comes again.
            Err(error) if list.is_empty() => Err(failure(error)),
            _ => Ok(list),
        }
    }

    #[getter]
    fn descriptors(&self) -> (Option<i32>, i32) {
        self.native.queue().descriptors()
    }

    fn notify(&self) {
        self.native.queue().notify();
    }

    #[pyo3(signature = (reason, *, needs_reset=false))]
    fn fail(&self, reason: String, needs_reset: bool) {
        self.native.queue().fail(if needs_reset {
            Error::NeedsReset(reason)
        } else {
            Error::Gone(reason)
        });
    }

    fn hold(&self, py: Python<'_>, held: bool) {
        py.detach(|| self.native.queue().hold(held));
    }

    fn set_polling(&self, microseconds: u64) {
        self.native
            .queue()
            .set_polling(Duration::from_micros(microseconds));
    }

    #[getter]
    fn outstanding(&self) -> u32 {
        self.native.queue().outstanding()
    }

    #[getter]
    fn failed(&self) -> Option<String> {
        self.native.queue().failure().map(|error| error.to_string())
    }

    #[getter]
    fn counters(&self) -> DriverCounters {
        self.native.queue().counters().into()
    }
}
