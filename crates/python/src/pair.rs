//! `measure_pair` and `measure_distance`: two threads of our own, with nothing of Python between them.

use crate::loopback::broken;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use virtqueue::bench::pair::{self, Pair, Wait};
use virtqueue::bench::probe;

/// Measures both ends of a ring on two threads.
#[pyfunction]
#[allow(
    clippy::too_many_arguments,
    reason = "what there is to vary, by name in Python"
)]
#[pyo3(signature = (*, requests, batch, outstanding, processors, size=256, descriptors=1, indirect=false, features=0, wait="poll", precedence=false))]
pub(crate) fn measure_pair(
    py: Python<'_>,
    requests: u64,
    batch: usize,
    outstanding: usize,
    processors: (usize, usize),
    size: u32,
    descriptors: usize,
    indirect: bool,
    features: u128,
    wait: &str,
    precedence: bool,
) -> PyResult<(f64, f64, f64, u64, u64)> {
    let wait = match wait {
        "poll" => Wait::Poll,
        "check" => Wait::PollChecked,
        "notify" => Wait::Notify,
        other => {
            let text = format!("{other:?} is neither \"poll\" nor \"check\" nor \"notify\"");
            return Err(PyValueError::new_err(text));
        }
    };
    let shape = Pair {
        requests,
        batch,
        outstanding,
        size,
        descriptors,
        indirect,
        features,
        wait,
        processors,
        precedence,
    };
    let timing = py.detach(|| pair::pair(shape)).map_err(|fault| broken(&fault))?;
    let (before, after) = timing.probes;
    let (kicks, calls) = timing.notifications;
    Ok((timing.nanoseconds, before, after, kicks, calls))
}

/// Measures how long a cache line takes there and back.
#[pyfunction]
#[pyo3(signature = (processors, *, precedence=false))]
pub(crate) fn measure_distance(
    py: Python<'_>,
    processors: (usize, usize),
    precedence: bool,
) -> PyResult<f64> {
    py.detach(|| probe::distance(processors, precedence))
        .map_err(|fault| broken(&fault))
}
