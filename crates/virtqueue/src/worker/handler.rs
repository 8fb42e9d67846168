//! What answers chains.

use crate::chain::{Batch, Token};
use crate::fault::Fault;
use crate::memory::Snapshot;
use crate::ring::DeviceRing;
use std::ops::Range;
use std::os::fd::RawFd;
use std::sync::Arc;

/// Completions on their way to the ring, reused from batch to batch.
#[derive(Debug, Default)]
pub struct Completions {
    list: Vec<(Token, u32)>,
    /// Parts of `list` that were pushed together, in order.
    together: Vec<Range<usize>>,
}

impl Completions {
    /// Completes a chain; `written` is the number of bytes put into its device-writable part.
    #[inline]
    pub fn push(&mut self, token: Token, written: u32) {
        self.list.push((token, written));
    }

    /// Completes several chains that answer one thing, such as the buffers that a packet was merged from: the driver
    /// finds all of them used, or none (5.1.9.4.1), even if an older chain keeps some of them waiting in order.
    pub fn push_together(&mut self, chains: &[(Token, u32)]) {
        let first = self.list.len();
        self.list.extend_from_slice(chains);
        if chains.len() > 1 {
            self.together.push(first..self.list.len());
        }
    }

    /// Appends what another list has.
    pub fn append(&mut self, other: &Self) {
        let offset = self.list.len();
        self.list.extend_from_slice(&other.list);
        let moved = |range: &Range<usize>| range.start + offset..range.end + offset;
        self.together.extend(other.together.iter().map(moved));
    }

    /// Records all of it in the ring that the chains came from; the driver sees it after a `publish`.
    #[inline]
    pub fn record(&self, ring: &mut impl DeviceRing, memory: &Snapshot) -> Result<(), Fault> {
        let mut next = 0;
        for range in &self.together {
            ring.complete_all(memory, &self.list[next..range.start])?;
            ring.complete_together(memory, &self.list[range.clone()])?;
            next = range.end;
        }
        ring.complete_all(memory, &self.list[next..])
    }

    /// What has been pushed, in order.
    pub fn as_slice(&self) -> &[(Token, u32)] {
        &self.list
    }

    /// Whether nothing has been pushed.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Forgets everything and keeps the space.
    pub fn clear(&mut self) {
        self.list.clear();
        self.together.clear();
    }
}

/// What answers chains: a native data path, or a call into Python.
///
/// Each chain is completed exactly once, through `done`: in `handle`, or later in `reap`.
/// All methods are called on the queue's worker; a panic in one breaks the queue, not the process.
pub trait Handler: Send {
    /// Answers a batch. `memory` keeps the segments' host addresses valid: a handler that
    /// holds a chain longer either counts it in `busy` (the worker then keeps the snapshot),
    /// or clones the `Arc`.
    fn handle(&mut self, memory: &Arc<Snapshot>, batch: &Batch, done: &mut Completions) -> Result<(), Fault>;
    /// Appends completions that have become ready since. Called often: it should be cheap.
    fn reap(&mut self, done: &mut Completions) -> Result<(), Fault> {
        let _ = done;
        Ok(())
    }
    /// Readable when `reap` has something; `reap` makes it unreadable again.
    fn completion_fd(&self) -> Option<RawFd> {
        None
    }
    /// Whether it has so many chains that it need not be woken for more: none are asked for by a notification,
    /// and those that come are taken when it wakes for something else (receive buffers while frames are few).
    fn supplied(&self) -> bool {
        false
    }
    /// Whether drivers do not wait for completions: a worker that polls may then leave the ring alone for three
    /// microseconds after a large batch (packets to be sent).
    fn unhurried(&self) -> bool {
        false
    }
    /// Operations under way on guest memory. Unmapping waits until there are none,
    /// stopping until there are none or its time is up.
    fn busy(&self) -> usize {
        0
    }
    /// The queue stops: forget chains that wait for something else than I/O
    /// (a console's empty receive buffers); the ring offers them again later.
    fn release(&mut self) {}
    /// The queue is reset: as `release`, and what is under way is given up as far as that can be done at
    /// once; what it completes is thrown away.
    fn cancel(&mut self) {
        self.release();
    }
}
