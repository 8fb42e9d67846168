//! `Counters`: what a queue has done.

use pyo3::prelude::*;
use std::collections::BTreeMap;
use virtqueue::counters;
use virtqueue::fault::Rule;

/// What a queue has done since it was made; a snapshot.
#[pyclass(frozen, get_all, module = "virtio._native")]
#[derive(Debug)]
pub(crate) struct Counters {
    chains: u64,
    bytes_read: u64,
    bytes_written: u64,
    kicks: u64,
    interrupts: u64,
    interrupts_suppressed: u64,
    interrupts_lost: u64,
    batches: u64,
    polls: u64,
    handler_errors: u64,
    errors: BTreeMap<&'static str, u64>,
}

impl Counters {
    /// Reads the native counters.
    pub(crate) fn of(native: &counters::Counters, handler_errors: u64) -> Self {
        let mut errors = BTreeMap::new();
        for rule in Rule::ALL {
            let count = native.errors(rule).get();
            if count > 0 {
                *errors.entry(rule.section()).or_insert(0) += count;
            }
        }
        Self {
            chains: native.chains.get(),
            bytes_read: native.bytes_read.get(),
            bytes_written: native.bytes_written.get(),
            kicks: native.kicks.get(),
            interrupts: native.interrupts.get(),
            interrupts_suppressed: native.interrupts_suppressed.get(),
            interrupts_lost: native.interrupts_lost.get(),
            batches: native.batches.get(),
            polls: native.polls.get(),
            handler_errors,
            errors,
        }
    }
}

#[pymethods]
impl Counters {
    fn __repr__(&self) -> String {
        format!("{self:?}")
    }
}
