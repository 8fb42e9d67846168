//! `SharedBuffer`: memory that a driver shares with its device.

use crate::errors::configuration;
use crate::memory::Memory;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use std::ffi::c_int;
use std::ptr;
use virtqueue::memory::{Space, View};

/// Bytes that device and driver share; given back when nothing refers to them any more.
#[pyclass(frozen, module = "virtio._native", weakref)]
pub(crate) struct SharedBuffer {
    view: View,
    #[pyo3(get)]
    address: u64,
    shape: [isize; 1],
    release: Py<PyAny>,
}

#[pymethods]
impl SharedBuffer {
    #[new]
    fn new(memory: &Bound<'_, Memory>, address: u64, size: u64, release: Py<PyAny>) -> PyResult<Self> {
        let view = memory.get().inner.snapshot().view(Space::Guest, address, size);
        let view = view.map_err(|error| configuration(error.to_string()))?;
        Ok(Self {
            shape: [view.size() as isize],
            view,
            address,
            release,
        })
    }

    fn __len__(&self) -> usize {
        self.view.size()
    }

    /// Fills in the description of the memory (PEP 3118).
    ///
    /// # Safety
    ///
    /// Called by the interpreter with a valid `view`.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err(
                "no place for the description of the buffer",
            ));
        }
        let this = slf.get();
        let asked = |flag: c_int| flags & flag == flag;
        // SAFETY: the interpreter gave a valid place; the fields are those of PEP 3118. The exported
        // object, held in `obj`, keeps the memory mapped and the shape in its place.
        unsafe {
            (*view).buf = this.view.as_ptr().cast();
            (*view).len = this.shape[0];
            (*view).readonly = 0;
            (*view).itemsize = 1;
            (*view).format = if asked(ffi::PyBUF_FORMAT) {
                c"B".as_ptr().cast_mut()
            } else {
                ptr::null_mut()
            };
            (*view).ndim = 1;
            (*view).shape = if asked(ffi::PyBUF_ND) {
                this.shape.as_ptr().cast_mut()
            } else {
                ptr::null_mut()
            };
            (*view).strides = if asked(ffi::PyBUF_STRIDES) {
                &raw mut (*view).itemsize
            } else {
                ptr::null_mut()
            };
            (*view).suboffsets = ptr::null_mut();
            (*view).internal = ptr::null_mut();
            (*view).obj = slf.into_any().into_ptr();
        }
        Ok(())
    }
}

impl Drop for SharedBuffer {
    fn drop(&mut self) {
        let _ = Python::try_attach(|py| {
            if let Err(error) = self.release.call0(py) {
                error.write_unraisable(py, None);
            }
        });
    }
}
