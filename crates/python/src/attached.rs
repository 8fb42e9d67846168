//! A thread's own state in the interpreter, kept from call to call.

use pyo3::exceptions::PySystemExit;
use pyo3::ffi;
use pyo3::prelude::*;
use std::ffi::c_long;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The threads whose state is kept, as Python numbers them.
static THREADS: Mutex<Vec<u64>> = Mutex::new(Vec::new());

fn threads() -> MutexGuard<'static, Vec<u64>> {
    THREADS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether no worker has a state in the interpreter.
pub(crate) fn none() -> bool {
    threads().is_empty()
}

/// Raises SystemExit in all workers that are in Python, at the next instruction of what they run.
///
/// For the end of the interpreter: CPython up to 3.13 ends a thread that comes back to it later by unwinding it,
/// which must not happen to frames of Rust.
pub(crate) fn interrupt(py: Python<'_>) {
    let ids = threads().clone();
    for id in ids {
        let exit = py.get_type::<PySystemExit>();
        // SAFETY: attached; a number that is no thread's is ignored.
        unsafe { ffi::PyThreadState_SetAsyncExc(id as c_long, exit.as_ptr()) };
    }
}

/// Keeps the interpreter's state of a worker's thread.
///
/// Without it each call into Python makes such a state and throws it away, and with it the thread's Python stack:
/// two system calls and the page faults behind them, ten times what an empty call costs.
#[derive(Debug, Default)]
pub(crate) struct ThreadState {
    /// The thread's number, once the state is kept.
    kept: Option<u64>,
}

impl ThreadState {
    /// Whether it is kept already.
    pub(crate) fn kept(&self) -> bool {
        self.kept.is_some()
    }

    /// To be called on the thread in question, first of all in any call.
    pub(crate) fn keep(&mut self, py: Python<'_>) {
        if self.kept.is_some() {
            return;
        }
        let ident = py
            .import("threading")
            .and_then(|threading| threading.call_method0("get_ident"));
        let Ok(id) = ident.and_then(|ident| ident.extract::<u64>()) else {
            return;
        };
        self.kept = Some(id);
        threads().push(id);
        // SAFETY: the thread is attached. This only counts one more user of its state, whom `drop` takes off.
        unsafe { ffi::PyGILState_Ensure() };
    }
}

impl Drop for ThreadState {
    /// On the same thread: workers drop their handlers themselves.
    fn drop(&mut self) {
        let Some(own) = self.kept else { return };
        // An interpreter that is going away takes the states of all threads with it.
        Python::try_attach(|_| {
            // SAFETY: attached, and the counterpart of `keep`: the state goes when this closure's own use ends.
            unsafe { ffi::PyGILState_Release(ffi::PyGILState_STATE::PyGILState_LOCKED) };
        });
        threads().retain(|id| *id != own);
    }
}
