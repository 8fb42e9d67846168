//! A thread's own state in the interpreter, kept from call to call.

use pyo3::ffi;
use pyo3::prelude::*;

/// Keeps the interpreter's state of a worker's thread.
///
/// Without it each call into Python makes such a state and throws it away, and with it the thread's Python stack:
/// two system calls and the page faults behind them, ten times what an empty call costs.
#[derive(Debug, Default)]
pub(crate) struct ThreadState {
    kept: bool,
}

impl ThreadState {
    /// Whether it is kept already.
    pub(crate) fn kept(&self) -> bool {
        self.kept
    }

    /// To be called on the thread in question, first of all in any call.
    pub(crate) fn keep(&mut self, _: Python<'_>) {
        if !self.kept {
            self.kept = true;
            // SAFETY: the thread is attached. This only counts one more user of its state, whom `drop` takes off.
            unsafe { ffi::PyGILState_Ensure() };
        }
    }
}

impl Drop for ThreadState {
    /// On the same thread: workers drop their handlers themselves.
    fn drop(&mut self) {
        if self.kept {
            // An interpreter that is going away takes the states of all threads with it.
            Python::try_attach(|_| {
                // SAFETY: attached, and the counterpart of `keep`: the state goes when this closure's own use ends.
                unsafe { ffi::PyGILState_Release(ffi::PyGILState_STATE::PyGILState_LOCKED) };
            });
        }
    }
}
