//! `IndirectPolicy`: when a driver uses an indirect table.

use pyo3::prelude::*;
use virtqueue::ring;

/// When an indirect table pays.
#[pyclass(frozen, eq, skip_from_py_object, module = "virtio._native")]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndirectPolicy(pub(crate) ring::IndirectPolicy);

#[pymethods]
impl IndirectPolicy {
    #[new]
    #[pyo3(signature = (descriptors=16, *, spare=4))]
    fn new(descriptors: u32, spare: u32) -> Self {
        Self(ring::IndirectPolicy::From { descriptors, spare })
    }

    #[staticmethod]
    fn always() -> Self {
        Self(ring::IndirectPolicy::Always)
    }

    #[staticmethod]
    fn never() -> Self {
        Self(ring::IndirectPolicy::Never)
    }

    fn pays(&self, descriptors: u32, free: u32, size: u32) -> bool {
        self.0.pays(descriptors, free, size)
    }

    fn __repr__(&self) -> String {
        match self.0 {
            ring::IndirectPolicy::Always => "IndirectPolicy.always()".to_owned(),
            ring::IndirectPolicy::Never => "IndirectPolicy.never()".to_owned(),
            ring::IndirectPolicy::From { descriptors, spare } => {
                format!("IndirectPolicy({descriptors}, spare={spare})")
            }
        }
    }
}
