//! A native thread per queue.

use crate::chain::{Batch, Token};
use crate::fault::Fault;
use crate::memory::Snapshot;
use std::os::fd::RawFd;
use std::sync::Arc;

/// Completions on their way to the ring, reused from batch to batch.
#[derive(Debug, Default)]
pub struct Completions {
    list: Vec<(Token, u32)>,
}

impl Completions {
    /// Completes a chain; `written` is the number of bytes put into its device-writable part.
    pub fn push(&mut self, token: Token, written: u32) {
        self.list.push((token, written));
    }
}

/// What answers chains: a native data path, or a call into Python.
///
/// Each chain is completed exactly once, through `done`: in `handle`, or later in `reap`.
pub trait Handler: Send {
    /// Answers a batch. `memory` keeps the segments' host addresses valid: a handler that
    /// holds a chain longer either counts it in `busy` (the worker then keeps the snapshot),
    /// or clones the `Arc`.
    fn handle(&mut self, memory: &Arc<Snapshot>, batch: &Batch, done: &mut Completions) -> Result<(), Fault>;
    /// Appends completions that have become ready since.
    fn reap(&mut self, done: &mut Completions) -> Result<(), Fault> {
        let _ = done;
        Ok(())
    }
    /// Readable when `reap` has something.
    fn completion_fd(&self) -> Option<RawFd> {
        None
    }
    /// Operations under way on guest memory. Unmapping waits until there are none,
    /// stopping until there are none or its time is up.
    fn busy(&self) -> usize {
        0
    }
    /// The queue stops: forget chains that wait for something else than I/O
    /// (a console's empty receive buffers); the ring offers them again later.
    fn release(&mut self) {}
}
