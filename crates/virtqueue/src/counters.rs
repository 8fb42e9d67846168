//! Counters of a queue: always on, read without locks.

use crate::fault::Rule;
use std::sync::atomic::{AtomicU64, Ordering};

/// A counter with one writer, the queue's worker, and any number of readers.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. A load and a store: with a single writer no locked operation is needed.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0
            .store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The count so far.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a queue has done since it was made. Survives its restarts.
///
/// Aligned to cache lines of its own: the worker writes them all the time.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    /// Chains taken from the ring.
    pub chains: Counter,
    /// Bytes in the device-readable parts of the chains taken.
    pub bytes_read: Counter,
    /// Bytes written into device-writable parts, as reported in used lengths.
    pub bytes_written: Counter,
    /// Kicks received (an eventfd that was written to several times before the worker
    /// woke counts each).
    pub kicks: Counter,
    /// Notifications sent to the driver.
    pub interrupts: Counter,
    /// Batches published that the driver wanted no notification for.
    pub interrupts_suppressed: Counter,
    /// Notifications that had nobody to go to any more (the other end has closed).
    pub interrupts_lost: Counter,
    /// Batches handed to the handler.
    pub batches: Counter,
    /// Looks at the ring without having been kicked.
    pub polls: Counter,
    errors: [Counter; Rule::ALL.len()],
}

impl Counters {
    /// Faults for breaking `rule`.
    pub fn errors(&self, rule: Rule) -> &Counter {
        &self.errors[rule as usize]
    }
}
