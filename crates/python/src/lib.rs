//! `virtio._native`: the virtqueue crate for Python. Knows no policy.

use pyo3::prelude::*;

/// Guest memory, rings, workers and native data paths.
#[pymodule(gil_used = false)]
mod _native {
    use pyo3::prelude::*;

    /// The version of the native core, equal to the package's.
    #[pyfunction]
    fn version() -> &'static str {
        env!("CARGO_PKG_VERSION")
    }
}
