//! Which queue's worker calls into Python on this thread.

use std::cell::Cell;

thread_local! {
    static QUEUE: Cell<usize> = const { Cell::new(0) };
}

/// Runs a call into Python on behalf of the queue with this number.
pub(crate) fn enter<R>(queue: usize, call: impl FnOnce() -> R) -> R {
    let before = QUEUE.replace(queue);
    let result = call();
    QUEUE.set(before);
    result
}

/// Whether such a call of this queue is what is running.
pub(crate) fn is(queue: usize) -> bool {
    QUEUE.get() == queue
}
