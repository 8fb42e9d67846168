//! `Chain` and `Buffers`: one buffer from the driver.

use crate::contents::Contents;
use crate::errors::configuration;
use crate::log;
use crate::taken::Taken;
use crate::view::{Element, memoryview};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};
use std::sync::Arc;
use virtqueue::chain::Segment;

/// One buffer from the driver.
#[pyclass(frozen, module = "virtio._native")]
pub(crate) struct Chain {
    taken: Arc<Taken>,
    index: usize,
}

impl Chain {
    pub(crate) fn new(taken: Arc<Taken>, index: usize) -> Self {
        taken.grasp(index);
        Self { taken, index }
    }

    /// The batch that it is in, and where.
    pub(crate) fn place(&self) -> (&Arc<Taken>, usize) {
        (&self.taken, self.index)
    }

    fn buffers(&self, writable: bool) -> Buffers {
        Buffers {
            taken: self.taken.clone(),
            index: self.index,
            writable,
        }
    }
}

#[pymethods]
impl Chain {
    #[getter]
    fn readable(&self) -> Buffers {
        self.buffers(false)
    }

    #[getter]
    fn writable(&self) -> Buffers {
        self.buffers(true)
    }

    #[pyo3(signature = (size=-1), text_signature = "($self, size=-1)")]
    fn read<'py>(&self, py: Python<'py>, size: isize) -> PyResult<Bound<'py, PyBytes>> {
        let left = self.taken.unread(self.index)?;
        let size = usize::try_from(size).map_or(left, |size| left.min(size as u64));
        PyBytes::new_with(py, size as usize, |into| self.taken.read(self.index, into))
    }

    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<usize> {
        if let Ok(bytes) = data.cast_exact::<PyBytes>() {
            let bytes = bytes.as_bytes();
            // SAFETY: a bytes object's contents.
            unsafe { self.taken.write(self.index, bytes.as_ptr(), bytes.len()) }?;
            return Ok(bytes.len());
        }
        let contents = Contents::of(data)?;
        // SAFETY: the buffer is held.
        unsafe { self.taken.write(self.index, contents.as_ptr(), contents.len()) }?;
        Ok(contents.len())
    }

    #[getter]
    fn written(&self) -> u64 {
        self.taken.written(self.index)
    }

    #[getter]
    fn completed(&self) -> bool {
        self.taken.finished(self.index)
    }

    #[pyo3(signature = (*, idle=false))]
    fn hold(&self, idle: bool) -> PyResult<()> {
        self.taken.hold(self.index, idle)
    }

    #[pyo3(signature = (written=None))]
    fn complete(&self, written: Option<u64>) -> PyResult<()> {
        self.taken.complete(self.index, written)
    }

    fn __repr__(&self) -> PyResult<String> {
        let chain = self.taken.chain(self.index)?;
        let state = if self.taken.finished(self.index) {
            ", completed"
        } else {
            ""
        };
        Ok(format!(
            "<Chain of {}: {} bytes to read, room for {}{state}>",
            self.taken.queue(),
            chain.readable_len,
            chain.writable_len
        ))
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        if self.taken.let_go(self.index) {
            lost(self.taken.queue(), 1);
        }
    }
}

/// Logs that held chains were dropped without completion.
pub(crate) fn lost(queue: &str, count: usize) {
    Python::try_attach(|py| {
        log::warning(
            py,
            &format!("{queue}: {count} held chain(s) dropped without completion; completed with 0 bytes"),
        );
    });
}

/// The device-readable or device-writable part of a chain.
#[pyclass(frozen, module = "virtio._native")]
pub(crate) struct Buffers {
    taken: Arc<Taken>,
    index: usize,
    writable: bool,
}

impl Buffers {
    fn segments(&self) -> PyResult<&[Segment]> {
        let chain = self.taken.chain(self.index)?;
        Ok(if self.writable {
            chain.writable
        } else {
            chain.readable
        })
    }
}

#[pymethods]
impl Buffers {
    fn __len__(&self) -> PyResult<usize> {
        let chain = self.taken.chain(self.index)?;
        Ok(if self.writable {
            chain.writable_len
        } else {
            chain.readable_len
        } as usize)
    }

    #[getter]
    fn pieces(&self) -> PyResult<usize> {
        Ok(self.segments()?.len())
    }

    fn __iter__(slf: Bound<'_, Self>) -> Pieces {
        Pieces {
            buffers: slf.unbind(),
            next: 0.into(),
        }
    }

    fn __bytes__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let segments = self.segments()?;
        PyBytes::new_with(py, self.__len__()?, |into| {
            let mut rest = into;
            for segment in segments {
                let (head, tail) = rest
                    .split_at_mut_checked(segment.len as usize)
                    .ok_or_else(|| configuration("the chain changed its length"))?;
                // SAFETY: the segment is mapped while the batch is held; the bytes object is new.
                unsafe { std::ptr::copy_nonoverlapping(segment.host, head.as_mut_ptr(), head.len()) };
                rest = tail;
            }
            Ok(())
        })
    }

    fn __repr__(&self) -> PyResult<String> {
        let what = if self.writable { "writable" } else { "readable" };
        Ok(format!(
            "<{} {what} bytes in {} piece(s)>",
            self.__len__()?,
            self.pieces()?
        ))
    }
}

/// Yields a memoryview per piece.
#[pyclass(frozen, module = "virtio._native")]
pub(crate) struct Pieces {
    buffers: Py<Buffers>,
    next: std::sync::atomic::AtomicUsize,
}

#[pymethods]
impl Pieces {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyMemoryView>>> {
        let buffers = self.buffers.get();
        let index = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let Some(segment) = buffers.segments()?.get(index).copied() else {
            return Ok(None);
        };
        let Some(memory) = buffers.taken.batch().memory().cloned() else {
            return Ok(None);
        };
        let size = segment.len as usize;
        // SAFETY: the segment lies in this memory, and was checked to be writable if it is to be.
        unsafe { memoryview(py, segment.host, size, Element::Byte, !buffers.writable, memory) }.map(Some)
    }
}
