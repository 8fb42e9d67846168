//! Handlers written in Python, and the native one that does nothing.

use crate::attached::ThreadState;
use crate::batch::Batch;
use crate::chain::Chain;
use crate::inside;
use crate::ledger::Ledger;
use crate::log;
use crate::taken::Taken;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use virtqueue::chain;
use virtqueue::fault::Fault;
use virtqueue::memory::Snapshot;
use virtqueue::worker::{self, Completions};

/// How long chains are answered one by one before the driver is shown the completions.
const SLICE: Duration = Duration::from_micros(200);
/// Batches kept for reuse per queue.
const SPARE: usize = 4;

/// What answers the chains of a queue; the base of all handlers.
#[pyclass(subclass, frozen, module = "virtio._native")]
pub(crate) struct Handler;

/// Calls a function for each chain.
#[pyclass(extends = Handler, frozen, module = "virtio._native")]
pub(crate) struct CallHandler(Callback);

/// Calls a function for each batch of chains.
#[pyclass(extends = Handler, frozen, module = "virtio._native")]
pub(crate) struct BatchHandler(Callback);

/// Completes each chain at once with 0 bytes written, natively.
#[pyclass(extends = Handler, frozen, module = "virtio._native")]
pub(crate) struct NullHandler;

#[pymethods]
impl CallHandler {
    #[new]
    #[pyo3(signature = (function, on_error=None))]
    fn new(function: Py<PyAny>, on_error: Option<Py<PyAny>>) -> (Self, Handler) {
        (Self(Callback { function, on_error }), Handler)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.traverse(&visit)
    }
}

#[pymethods]
impl BatchHandler {
    #[new]
    #[pyo3(signature = (function, on_error=None))]
    fn new(function: Py<PyAny>, on_error: Option<Py<PyAny>>) -> (Self, Handler) {
        (Self(Callback { function, on_error }), Handler)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.traverse(&visit)
    }
}

#[pymethods]
impl NullHandler {
    #[new]
    fn new() -> (Self, Handler) {
        (Self, Handler)
    }
}

impl CallHandler {
    pub(crate) fn callback(&self) -> &Callback {
        &self.0
    }
}

impl BatchHandler {
    pub(crate) fn callback(&self) -> &Callback {
        &self.0
    }
}

/// A function to call, and another one for when it raises.
#[derive(Debug)]
pub(crate) struct Callback {
    function: Py<PyAny>,
    on_error: Option<Py<PyAny>>,
}

impl Callback {
    pub(crate) fn clone_ref(&self, py: Python<'_>) -> Self {
        Self {
            function: self.function.clone_ref(py),
            on_error: self.on_error.as_ref().map(|function| function.clone_ref(py)),
        }
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.function)?;
        visit.call(&self.on_error)
    }
}

/// Completes everything at once.
pub(crate) struct Null;

impl worker::Handler for Null {
    fn handle(
        &mut self,
        _memory: &Arc<Snapshot>,
        batch: &chain::Batch,
        done: &mut Completions,
    ) -> Result<(), Fault> {
        for chain in batch.iter() {
            done.push(chain.token, 0);
        }
        Ok(())
    }
}

/// A native handler that calls Python by itself.
pub(crate) struct Calling<H> {
    queue: usize,
    inner: H,
    thread: ThreadState,
}

impl<H> Calling<H> {
    /// `queue` is the number of the queue that it is for.
    pub(crate) fn new(queue: usize, inner: H) -> Self {
        Self {
            queue,
            inner,
            thread: ThreadState::default(),
        }
    }
}

impl<H: worker::Handler> worker::Handler for Calling<H> {
    fn handle(
        &mut self,
        memory: &Arc<Snapshot>,
        batch: &chain::Batch,
        done: &mut Completions,
    ) -> Result<(), Fault> {
        if !self.thread.kept() {
            Python::try_attach(|py| self.thread.keep(py));
        }
        inside::enter(self.queue, || self.inner.handle(memory, batch, done))
    }

    fn reap(&mut self, done: &mut Completions) -> Result<(), Fault> {
        inside::enter(self.queue, || self.inner.reap(done))
    }

    fn completion_fd(&self) -> Option<RawFd> {
        self.inner.completion_fd()
    }

    fn busy(&self) -> usize {
        self.inner.busy()
    }

    fn release(&mut self) {
        self.inner.release();
    }

    fn cancel(&mut self) {
        self.inner.cancel();
    }
}

/// How Python wants its chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// One call for each.
    Chain,
    /// One call for all that came together.
    Batch,
}

/// The worker's side of a handler written in Python.
pub(crate) struct PyHandler {
    form: Form,
    callback: Callback,
    ledger: Arc<Ledger>,
    /// Batches that Python has not seen all of, and how far it got.
    backlog: VecDeque<(Arc<Taken>, usize)>,
    spare: Vec<Arc<Taken>>,
    errors: Arc<AtomicU64>,
    thread: ThreadState,
}

impl PyHandler {
    /// `errors` counts exceptions.
    pub(crate) fn new(form: Form, callback: Callback, ledger: Ledger, errors: Arc<AtomicU64>) -> Self {
        let (backlog, spare) = (VecDeque::new(), Vec::new());
        Self {
            form,
            callback,
            ledger: Arc::new(ledger),
            backlog,
            spare,
            errors,
            thread: ThreadState::default(),
        }
    }

    fn fill(&mut self, batch: &chain::Batch) -> Arc<Taken> {
        let mut taken = self
            .spare
            .pop()
            .unwrap_or_else(|| Arc::new(Taken::new(self.ledger.clone())));
        match Arc::get_mut(&mut taken) {
            Some(unshared) => unshared.fill(batch),
            None => {
                let mut fresh = Taken::new(self.ledger.clone());
                fresh.fill(batch);
                taken = Arc::new(fresh);
            }
        }
        taken
    }

    fn recycle(&mut self, mut taken: Arc<Taken>) {
        if self.spare.len() < SPARE {
            if let Some(unshared) = Arc::get_mut(&mut taken) {
                unshared.forget();
                self.spare.push(taken);
            }
        }
    }

    /// Lets Python answer what is in the backlog, for one slice of time.
    fn run(&mut self, done: &mut Completions) {
        if !self.backlog.is_empty() {
            self.ledger.set_quiet(true);
            // None: the interpreter is going away, and nobody is there to answer.
            let attached = inside::enter(self.ledger.id, || Python::try_attach(|py| self.call(py, done)));
            if attached.is_none() {
                self.backlog.clear();
            }
            self.ledger.set_quiet(false);
        }
        self.ledger.drain(done);
        if !self.backlog.is_empty() {
            self.ledger.call_again();
        }
    }

    fn call(&mut self, py: Python<'_>, done: &mut Completions) {
        self.thread.keep(py);
        let end = Instant::now() + SLICE;
        while let Some((taken, mut next)) = self.backlog.pop_front() {
            match self.form {
                Form::Batch => {
                    self.call_one(py, &taken, Batch::new(taken.clone()));
                    (0..taken.len()).for_each(|index| self.settle(py, &taken, index, done));
                }
                Form::Chain => {
                    while next < taken.len() {
                        self.call_one(py, &taken, Chain::new(taken.clone(), next));
                        self.settle(py, &taken, next, done);
                        next += 1;
                        if Instant::now() >= end {
                            break;
                        }
                    }
                    if next < taken.len() {
                        self.backlog.push_front((taken, next));
                        return;
                    }
                }
            }
            self.recycle(taken);
            if Instant::now() >= end {
                return;
            }
        }
    }

    /// Calls the function with a chain or batch. What it raises ends here.
    fn call_one<T>(&self, py: Python<'_>, taken: &Taken, argument: T)
    where
        T: pyo3::PyClass + Into<PyClassInitializer<T>>,
    {
        let result = Bound::new(py, argument).map(|argument| {
            let failure = self.callback.function.bind(py).call1((&argument,)).err()?;
            self.errors.fetch_add(1, Ordering::Relaxed);
            log::exception(py, &format!("{}: the handler raised", taken.queue()), &failure);
            let on_error = self.callback.on_error.as_ref()?;
            on_error.bind(py).call1((argument, failure.into_value(py))).err()
        });
        match result {
            Ok(None) => {}
            Ok(Some(failure)) => {
                log::exception(py, &format!("{}: on_error raised", taken.queue()), &failure);
            }
            Err(failure) => {
                log::exception(py, &format!("{}: no memory for a chain", taken.queue()), &failure);
            }
        }
    }

    fn settle(&self, py: Python<'_>, taken: &Taken, index: usize, done: &mut Completions) {
        let Some(settled) = taken.settle(index) else {
            return;
        };
        if settled.excess {
            self.errors.fetch_add(1, Ordering::Relaxed);
            log::warning(
                py,
                &format!(
                    "{}: the handler claims to have written more than there is room for",
                    taken.queue()
                ),
            );
        }
        done.push(settled.token, settled.written);
    }
}

impl worker::Handler for PyHandler {
    fn handle(
        &mut self,
        _memory: &Arc<Snapshot>,
        batch: &chain::Batch,
        done: &mut Completions,
    ) -> Result<(), Fault> {
        let taken = self.fill(batch);
        self.backlog.push_back((taken, 0));
        self.run(done);
        Ok(())
    }

    fn reap(&mut self, done: &mut Completions) -> Result<(), Fault> {
        self.run(done);
        Ok(())
    }

    fn completion_fd(&self) -> Option<RawFd> {
        Some(self.ledger.fd())
    }

    fn busy(&self) -> usize {
        self.ledger.busy()
            + self
                .backlog
                .iter()
                .map(|(taken, next)| taken.len() - next)
                .sum::<usize>()
    }

    fn release(&mut self) {
        self.ledger.release();
    }

    fn cancel(&mut self) {
        self.ledger.cancel();
    }
}

impl Drop for PyHandler {
    fn drop(&mut self) {
        self.ledger.close();
    }
}
