//! The queues that run, for when the interpreter ends.

use crate::attached;
use crate::errors::configuration;
use pyo3::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use virtqueue::worker::{Stopped, Worker};

/// How long the interpreter waits for all its queues.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long for handlers that did not return in that time, after they were interrupted.
const LAST_PATIENCE: Duration = Duration::from_secs(3);

static ENDING: AtomicBool = AtomicBool::new(false);
static QUEUES: Mutex<Queues> = Mutex::new(Queues {
    process: 0,
    list: Vec::new(),
});

struct Queues {
    /// A forked child has its parent's queues in memory, but not their threads.
    process: u32,
    list: Vec<Weak<Worker>>,
}

fn lock() -> MutexGuard<'static, Queues> {
    QUEUES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes note of a queue that is about to start.
pub(crate) fn add(worker: &Arc<Worker>) -> PyResult<()> {
    if ENDING.load(Ordering::Acquire) {
        return Err(configuration("the interpreter is ending"));
    }
    let mut queues = lock();
    let process = std::process::id();
    if queues.process != process {
        queues.process = process;
        queues.list.clear();
    }
    queues
        .list
        .retain(|other| other.strong_count() > 0 && !other.ptr_eq(&Arc::downgrade(worker)));
    queues.list.push(Arc::downgrade(worker));
    Ok(())
}

/// Stops a queue, if its thread is in this process.
pub(crate) fn stop(worker: &Worker, timeout: Duration) -> Option<Stopped> {
    let own = lock().process == std::process::id();
    worker.stop(if own { timeout } else { Duration::ZERO })
}

/// Resets a queue, if its thread is in this process.
pub(crate) fn reset(worker: &Worker, timeout: Duration) -> u32 {
    let own = lock().process == std::process::id();
    worker.reset(if own { timeout } else { Duration::ZERO })
}

/// Stops everything; registered with `atexit`, after which threads can no longer call Python.
#[pyfunction]
#[pyo3(name = "_stop_all")]
pub(crate) fn stop_all(py: Python<'_>) {
    ENDING.store(true, Ordering::Release);
    let list = {
        let mut queues = lock();
        if queues.process != std::process::id() {
            return;
        }
        std::mem::take(&mut queues.list)
    };
    py.detach(|| {
        let end = Instant::now() + PATIENCE;
        for worker in list.iter().filter_map(Weak::upgrade) {
            worker.stop(end.saturating_duration_since(Instant::now()));
        }
    });
    if attached::none() {
        return;
    }
    attached::interrupt(py);
    py.detach(|| {
        let end = Instant::now() + LAST_PATIENCE;
        while !attached::none() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
}
