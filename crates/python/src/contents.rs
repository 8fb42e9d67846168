//! The bytes of any object with the buffer protocol.

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;
use std::ptr;

/// Contiguous bytes that Python lent us.
///
/// Others may change them meanwhile (they may even be guest memory), so they are copied through the address,
/// never referenced.
pub(crate) struct Contents {
    buffer: PyUntypedBuffer,
}

impl Contents {
    /// Borrows the bytes of `object`.
    pub(crate) fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let buffer = PyUntypedBuffer::get(object)?;
        if !buffer.is_c_contiguous() {
            return Err(PyBufferError::new_err("the buffer is not contiguous"));
        }
        Ok(Self { buffer })
    }

    /// Borrows the bytes of `object` to be written to.
    pub(crate) fn writable(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let contents = Self::of(object)?;
        if contents.buffer.readonly() {
            return Err(PyBufferError::new_err("the buffer is read-only"));
        }
        Ok(contents)
    }

    /// Address of the first byte.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.buffer.buf_ptr().cast()
    }

    /// Number of bytes.
    pub(crate) fn len(&self) -> usize {
        self.buffer.len_bytes()
    }

    /// A copy.
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        let mut copy = Vec::with_capacity(self.len());
        // SAFETY: the buffer has `len` bytes and so does the room; they do not overlap, since that is new.
        unsafe {
            ptr::copy_nonoverlapping(self.as_ptr(), copy.as_mut_ptr(), self.len());
            copy.set_len(self.len());
        }
        copy
    }
}
