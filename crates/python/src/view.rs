//! The buffer protocol over memory that something native keeps alive.

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyMemoryView;
use std::any::Any;
use std::ffi::{CStr, c_int};
use std::ptr;
use std::sync::Arc;

/// The type of a view's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    /// One byte, format `B`.
    Byte,
    /// A native 32-bit unsigned integer, format `I`.
    Word,
}

impl Element {
    fn size(self) -> isize {
        match self {
            Element::Byte => 1,
            Element::Word => 4,
        }
    }

    fn format(self) -> &'static CStr {
        match self {
            Element::Byte => c"B",
            Element::Word => c"I",
        }
    }
}

/// Exports memory to Python; only ever seen as the object behind a memoryview.
#[pyclass(frozen, module = "virtio._native")]
pub(crate) struct View {
    address: *mut u8,
    shape: [isize; 1],
    strides: [isize; 1],
    element: Element,
    read_only: bool,
    _owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the address is only handed out, never followed here; what it points to is kept alive by the owner.
unsafe impl Send for View {}
// SAFETY: as above, and the fields never change.
unsafe impl Sync for View {}

/// Makes a memoryview of `count` elements at `address`.
///
/// # Safety
///
/// The elements must be mapped (writable unless `read_only`) for as long as `owner` lives.
pub(crate) unsafe fn memoryview<'py>(
    py: Python<'py>,
    address: *mut u8,
    count: usize,
    element: Element,
    read_only: bool,
    owner: Arc<dyn Any + Send + Sync>,
) -> PyResult<Bound<'py, PyMemoryView>> {
    let view = View {
        address,
        shape: [count as isize],
        strides: [element.size()],
        element,
        read_only,
        _owner: owner,
    };
    PyMemoryView::from(Bound::new(py, view)?.as_any())
}

#[pymethods]
impl View {
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
        if this.read_only && flags & ffi::PyBUF_WRITABLE == ffi::PyBUF_WRITABLE {
            return Err(PyBufferError::new_err("this memory is read-only"));
        }
        let asked = |flag: c_int| flags & flag == flag;
        // SAFETY: the interpreter gave a valid place; the fields are those of PEP 3118. The pointers to shape
        // and strides stay valid because the exported object, held in `obj`, does not move.
        unsafe {
            (*view).buf = this.address.cast();
            (*view).len = this.shape[0] * this.element.size();
            (*view).readonly = c_int::from(this.read_only);
            (*view).itemsize = this.element.size();
            (*view).format = if asked(ffi::PyBUF_FORMAT) {
                this.element.format().as_ptr().cast_mut()
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
                this.strides.as_ptr().cast_mut()
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
