//! `Queue`: the device's end of one virtqueue, with a worker thread while it runs.

use crate::block::BlockHandler;
use crate::chain::Chain;
use crate::counters::Counters;
use crate::errors::{ProtocolError, configuration, transport};
use crate::handler::{BatchHandler, CallHandler, Form, Handler, Null, NullHandler, PyHandler};
use crate::ledger::Ledger;
use crate::memory::{Memory, borrow, failure, seconds, space};
use crate::net::{NetReceiver, NetTransmitter};
use crate::taken::Taken;
use crate::{inside, live, log};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use virtqueue::fault::Fault;
use virtqueue::notify::{Call, CallFd};
use virtqueue::ring::inflight::Area;
use virtqueue::ring::{Config, Notification, Ring};
use virtqueue::worker::{self, Coalescing, MAX_BATCH, Options, Polling, Pool, StartError, Worker};

/// Numbers queues; 0 is none.
static NEXT_ID: AtomicUsize = AtomicUsize::new(1);
/// Threads that may answer one queue.
const MAX_WORKERS: usize = 64;
/// How long a queue that nobody refers to any more is waited for.
const LAST_PATIENCE: Duration = Duration::from_secs(5);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wire(error: &io::Error) -> PyErr {
    transport(error.to_string())
}

/// The device's end of one virtqueue.
#[pyclass(frozen, module = "virtio._native")]
pub(crate) struct Queue {
    id: usize,
    index: u32,
    name: String,
    handler: Py<Handler>,
    workers: usize,
    on_fault: Arc<Py<PyAny>>,
    call: Mutex<Option<Arc<Py<PyAny>>>>,
    worker: Arc<Worker>,
    config: Mutex<Option<Config>>,
    /// Where the last run ended.
    base: AtomicU32,
    /// Configured since the last run: what was broken then does not matter any more.
    renewed: AtomicBool,
    errors: Arc<AtomicU64>,
}

#[pymethods]
impl Queue {
    #[new]
    #[pyo3(signature = (memory, index, handler, *, on_fault, name="", workers=1))]
    fn new(
        memory: &Bound<'_, Memory>,
        index: u32,
        handler: Bound<'_, Handler>,
        on_fault: Py<PyAny>,
        name: &str,
        workers: usize,
    ) -> PyResult<Self> {
        if !(1..=MAX_WORKERS).contains(&workers) {
            return Err(configuration(format!(
                "{workers} workers: from 1 to {MAX_WORKERS} are possible"
            )));
        }
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let name = if name.is_empty() {
            format!("queue {index}")
        } else {
            name.to_owned()
        };
        let on_fault = Arc::new(on_fault);
        let batch = if handler.is_instance_of::<BatchHandler>() {
            MAX_BATCH
        } else {
            Options::default().batch
        };
        let options = Options {
            name: name.clone(),
            batch,
            ..Options::default()
        };
        let report = {
            let (on_fault, name) = (on_fault.clone(), name.clone());
            move |fault: &Fault| {
                Python::try_attach(|py| tell(py, &on_fault, &name, fault));
            }
        };
        let worker = Worker::new(memory.get().inner.clone(), options, Box::new(report));
        Ok(Self {
            id,
            index,
            name,
            handler: handler.unbind(),
            workers,
            on_fault,
            call: Mutex::new(None),
            worker: Arc::new(worker.map_err(|error| wire(&error))?),
            config: Mutex::new(None),
            base: AtomicU32::new(0),
            renewed: AtomicBool::new(false),
            errors: Arc::default(),
        })
    }

    #[getter]
    fn index(&self) -> u32 {
        self.index
    }

    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "what there is to configure, by name in Python"
    )]
    #[pyo3(signature = (*, size, descriptors, available, used, space="guest", base=0, features=0))]
    fn configure(
        &self,
        size: u32,
        descriptors: u64,
        available: u64,
        used: u64,
        space: &str,
        base: u32,
        features: u128,
    ) -> PyResult<()> {
        if self.worker.running() {
            return Err(configuration(format!(
                "{} is running; its rings cannot be moved",
                self.name
            )));
        }
        let space = self::space(space)?;
        let config = Config {
            size,
            descriptors,
            available,
            used,
            space,
            base,
            features,
        };
        Ring::new(&config).map_err(|error| configuration(format!("{}: {error}", self.name)))?;
        *lock(&self.config) = Some(config);
        self.base.store(base, Ordering::Relaxed);
        self.renewed.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn set_kick(&self, fd: Option<i32>) -> PyResult<()> {
        let fd = fd.map(borrow).transpose()?;
        self.worker.set_kick(fd).map_err(|error| wire(&error))
    }

    fn set_call(&self, py: Python<'_>, target: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        let mut function = None;
        let call = match target {
            None => Call::None,
            Some(target) if target.is_callable() => {
                let target = Arc::new(target.unbind());
                function = Some(target.clone());
                let (id, name) = (self.id, self.name.clone());
                Call::Function(Arc::new(move || notify(id, &name, &target)))
            }
            Some(target) => {
                let fd = target
                    .extract::<i32>()
                    .map_err(|_| PyTypeError::new_err("a call is a descriptor, a function or None"))?;
                Call::Fd(CallFd::new(borrow(fd)?).map_err(|error| wire(&error))?)
            }
        };
        py.detach(|| self.worker.set_call(call))
            .map_err(|error| wire(&error))?;
        let before = std::mem::replace(&mut *lock(&self.call), function);
        drop(before);
        Ok(())
    }

    fn set_error(&self, fd: Option<i32>) -> PyResult<()> {
        let fd = fd.map(borrow).transpose()?;
        self.worker.set_error(fd).map_err(|error| wire(&error))
    }

    #[pyo3(signature = (fd, offset=0, size=0, *, entries=0))]
    fn set_inflight(
        &self,
        py: Python<'_>,
        fd: Option<i32>,
        offset: u64,
        size: u64,
        entries: u16,
    ) -> PyResult<()> {
        let fd = fd.map(borrow).transpose()?;
        let area = py
            .detach(|| fd.map(|fd| Area::new(fd, offset, size, entries)).transpose())
            .map_err(|error| failure(&error))?;
        self.worker.set_inflight(area);
        Ok(())
    }

    #[pyo3(signature = (data=None))]
    fn notify(&self, data: Option<u32>) {
        match data.map(Notification::from_word) {
            Some(notification) => self.worker.notify_at(notification.next),
            None => self.kick(),
        }
    }

    fn start(&self, py: Python<'_>) -> PyResult<()> {
        let Some(mut config) = *lock(&self.config) else {
            return Err(configuration(format!("{} is not configured", self.name)));
        };
        if self.worker.running() {
            return Err(configuration(format!("{} is running", self.name)));
        }
        if self.broken() {
            return Ok(());
        }
        config.base = self.base.load(Ordering::Relaxed);
        let handler = self.answering(py, config.features, config.size)?;
        live::add(&self.worker)?;
        self.renewed.store(false, Ordering::Relaxed);
        py.detach(|| {
            // A broken run is over, but not yet taken note of.
            self.worker.stop(Duration::ZERO);
            self.worker.start(&config, handler)
        })
        .map_err(|error| match error {
            StartError::Thread(_) => transport(format!("{}: {error}", self.name)),
            _ => configuration(format!("{}: {error}", self.name)),
        })
    }

    #[pyo3(signature = (timeout=5.0))]
    fn stop(&self, py: Python<'_>, timeout: f64) -> PyResult<u32> {
        let patience = seconds(timeout)?;
        if inside::is(self.id) {
            return Err(configuration(format!(
                "{} cannot be stopped from its own handler",
                self.name
            )));
        }
        if let Some(stopped) = py.detach(|| live::stop(&self.worker, patience)) {
            self.base.store(stopped.base, Ordering::Relaxed);
            if !stopped.drained {
                let text = format!(
                    "{}: requests were still under way after {timeout} s and are given up",
                    self.name
                );
                log::warning(py, &text);
            }
            if stopped.lost > 0 {
                let text = format!("{}: {} chain(s) will not be answered", self.name, stopped.lost);
                log::warning(py, &text);
            }
        }
        Ok(self.base.load(Ordering::Relaxed))
    }

    #[getter]
    fn running(&self) -> bool {
        self.is_running()
    }

    #[getter]
    fn broken(&self) -> bool {
        self.worker.broken() && !self.renewed.load(Ordering::Relaxed)
    }

    #[getter]
    fn counters(&self) -> Counters {
        Counters::of(self.worker.counters(), self.errors.load(Ordering::Relaxed))
    }

    #[pyo3(signature = (mode, *, microseconds=50))]
    fn set_polling(&self, mode: &Bound<'_, PyAny>, microseconds: u64) -> PyResult<()> {
        let polling = if let Ok(name) = mode.extract::<&str>() {
            match name {
                "off" => Polling::Off,
                "adaptive" => Polling::Adaptive(Duration::from_micros(microseconds)),
                "busy" => Polling::Busy,
                _ => return Err(configuration(format!("{name:?} is not busy, adaptive or off"))),
            }
        } else {
            Polling::Adaptive(Duration::from_micros(mode.extract()?))
        };
        self.worker.set_polling(polling);
        Ok(())
    }

    fn set_coalescing(&self, packets: u32, microseconds: u32) {
        self.worker.set_coalescing(Coalescing {
            packets,
            microseconds,
        });
    }

    #[pyo3(signature = (timeout=5.0))]
    fn reset(&self, py: Python<'_>, timeout: f64) -> PyResult<u32> {
        let patience = seconds(timeout)?;
        if inside::is(self.id) {
            return Err(configuration(format!(
                "{} cannot be reset from its own handler",
                self.name
            )));
        }
        let returned = py.detach(|| live::reset(&self.worker, patience));
        *lock(&self.config) = None;
        self.base.store(0, Ordering::Relaxed);
        self.renewed.store(true, Ordering::Relaxed);
        Ok(returned)
    }

    #[pyo3(signature = (chains, written=None))]
    fn complete_together(
        &self,
        chains: Vec<PyRef<'_, Chain>>,
        written: Option<Vec<Option<u64>>>,
    ) -> PyResult<()> {
        let written = written.unwrap_or_else(|| vec![None; chains.len()]);
        if written.len() != chains.len() {
            let (lengths, chains) = (written.len(), chains.len());
            return Err(configuration(format!("{lengths} lengths for {chains} chains")));
        }
        let chains: Vec<_> = chains
            .iter()
            .zip(written)
            .map(|(chain, written)| {
                let (taken, index) = chain.place();
                (taken, index, written)
            })
            .collect();
        Taken::complete_together(self.id, &chains)
    }

    fn __repr__(&self) -> String {
        let state = if self.broken() {
            "broken"
        } else if self.running() {
            "running"
        } else {
            "stopped"
        };
        format!("<Queue {} {:?}, {state}>", self.index, self.name)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // A running queue keeps what it calls alive, whoever else has forgotten it.
        if self.worker.running() {
            return Ok(());
        }
        visit.call(&self.handler)?;
        visit.call(&*self.on_fault)?;
        if let Ok(call) = self.call.try_lock() {
            if let Some(function) = &*call {
                visit.call(&**function)?;
            }
        }
        Ok(())
    }
}

impl Queue {
    /// Whether the worker runs.
    pub(crate) fn is_running(&self) -> bool {
        self.worker.running()
    }

    /// An in-band kick.
    pub(crate) fn kick(&self) {
        self.worker.notify();
    }

    /// The handler, or several on threads of their own.
    fn answering(&self, py: Python<'_>, features: u128, size: u32) -> PyResult<Box<dyn worker::Handler>> {
        if self.workers == 1 {
            return self.native_handler(py, features, size);
        }
        let handlers: PyResult<Vec<_>> = (0..self.workers)
            .map(|_| self.native_handler(py, features, size))
            .collect();
        let pool = Pool::new(&self.name, handlers?).map_err(|error| wire(&error))?;
        Ok(Box::new(pool))
    }

    fn native_handler(
        &self,
        py: Python<'_>,
        features: u128,
        size: u32,
    ) -> PyResult<Box<dyn worker::Handler>> {
        let mut handler = self.handler.clone_ref(py).into_bound(py).into_any();
        if let Ok(receiver) = handler.cast::<NetReceiver>() {
            if let Some(otherwise) = receiver.get().otherwise(py, features) {
                handler = otherwise.into_any();
            }
        }
        let in_python = |form, callback: &crate::handler::Callback| -> PyResult<Box<dyn worker::Handler>> {
            let ledger = Ledger::new(self.name.clone(), self.id).map_err(|error| wire(&error))?;
            Ok(Box::new(PyHandler::new(
                form,
                callback.clone_ref(py),
                ledger,
                self.errors.clone(),
            )))
        };
        if let Ok(handler) = handler.cast::<CallHandler>() {
            in_python(Form::Chain, handler.get().callback())
        } else if let Ok(handler) = handler.cast::<BatchHandler>() {
            in_python(Form::Batch, handler.get().callback())
        } else if handler.is_instance_of::<NullHandler>() {
            Ok(Box::new(Null))
        } else if let Ok(handler) = handler.cast::<BlockHandler>() {
            handler.get().start(self.id, features)
        } else if let Ok(handler) = handler.cast::<NetReceiver>() {
            Ok(handler.get().start(size))
        } else if let Ok(handler) = handler.cast::<NetTransmitter>() {
            Ok(handler.get().start(py, self.id))
        } else {
            Err(configuration(
                "a Handler by itself answers nothing: use one of its subclasses",
            ))
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if self.worker.running() {
            Python::try_attach(|py| py.detach(|| live::stop(&self.worker, LAST_PATIENCE)));
        }
    }
}

/// Calls a function of Python instead of an eventfd.
fn notify(queue: usize, name: &str, function: &Py<PyAny>) {
    inside::enter(queue, || {
        Python::try_attach(|py| {
            if let Err(failure) = function.bind(py).call0() {
                log::exception(py, &format!("{name}: the call function raised"), &failure);
            }
        });
    });
}

/// Reports a broken rule.
fn tell(py: Python<'_>, on_fault: &Py<PyAny>, name: &str, fault: &Fault) {
    let text = format!("{name}: {}: {}", fault.rule.text(), fault.detail);
    let error = ProtocolError::new_err((text.clone(), fault.rule.section()));
    log::warning(py, &format!("{text} (VIRTIO 1.4, {})", fault.rule.section()));
    if let Err(failure) = on_fault.bind(py).call1((error.value(py),)) {
        log::exception(py, &format!("{name}: on_fault raised"), &failure);
    }
}
