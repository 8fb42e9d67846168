//! `Batch`: chains that came together.

use crate::chain::{Chain, lost};
use crate::contents::Contents;
use crate::errors::configuration;
use crate::taken::{Taken, copy_in};
use crate::view::{Element, memoryview};
use pyo3::exceptions::{PyIndexError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyList, PyMemoryView, PySlice};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use virtqueue::chain;

/// Chains that came together, in the driver's order.
#[pyclass(frozen, sequence, module = "virtio._native")]
pub(crate) struct Batch {
    taken: Arc<Taken>,
}

impl Batch {
    pub(crate) fn new(taken: Arc<Taken>) -> Self {
        for index in 0..taken.len() {
            taken.grasp(index);
        }
        Self { taken }
    }

    fn chain(&self, index: usize) -> Chain {
        Chain::new(self.taken.clone(), index)
    }

    fn each_length<'py>(
        &self,
        py: Python<'py>,
        length: impl Fn(chain::Chain<'_>) -> u64,
    ) -> PyResult<Bound<'py, PyMemoryView>> {
        let lengths: Box<[u32]> = self
            .taken
            .batch()
            .iter()
            .map(|chain| u32::try_from(length(chain)).unwrap_or(u32::MAX))
            .collect();
        let lengths = Arc::new(lengths);
        let address = lengths.as_ptr().cast_mut().cast();
        // SAFETY: the numbers live as long as their owner, and nobody writes to them.
        unsafe { memoryview(py, address, lengths.len(), Element::Word, true, lengths) }
    }
}

#[pymethods]
impl Batch {
    fn __len__(&self) -> usize {
        self.taken.len()
    }

    fn __iter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        // SAFETY: takes a sequence and gives a new reference, or null with an exception.
        unsafe { Bound::from_owned_ptr_or_err(slf.py(), ffi::PySeqIter_New(slf.as_ptr())) }
    }

    fn __getitem__<'py>(&self, py: Python<'py>, index: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let len = self.taken.len() as isize;
        if let Ok(slice) = index.cast::<PySlice>() {
            let range = slice.indices(len)?;
            let mut chains = Vec::with_capacity(range.slicelength);
            let mut at = range.start;
            for _ in 0..range.slicelength {
                chains.push(Bound::new(py, self.chain(at as usize))?);
                at += range.step;
            }
            return Ok(PyList::new(py, chains)?.into_any());
        }
        let index: isize = index
            .extract()
            .map_err(|_| PyTypeError::new_err("a batch is indexed by integers and slices"))?;
        let place = if index < 0 { index + len } else { index };
        if !(0..len).contains(&place) {
            return Err(PyIndexError::new_err(format!("chain {index} of {len}")));
        }
        Ok(Bound::new(py, self.chain(place as usize))?.into_any())
    }

    #[getter]
    fn readable_lengths<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyMemoryView>> {
        self.each_length(py, |chain| chain.readable_len)
    }

    #[getter]
    fn writable_lengths<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyMemoryView>> {
        self.each_length(py, |chain| chain.writable_len)
    }

    #[getter]
    fn written<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyMemoryView>> {
        let lengths: &[AtomicU32] = self.taken.lengths();
        let address = lengths.as_ptr().cast_mut().cast();
        // SAFETY: the numbers live as long as the batch, which is not filled anew while it is shared;
        // being atomic, they may be written to through the address.
        unsafe {
            memoryview(
                py,
                address,
                lengths.len(),
                Element::Word,
                false,
                self.taken.clone(),
            )
        }
    }

    fn gather<'py>(&self, py: Python<'py>, offset: u64, size: usize) -> PyResult<Bound<'py, PyByteArray>> {
        let batch = self.taken.batch();
        let total = size
            .checked_mul(batch.len())
            .ok_or_else(|| configuration(format!("{} rows of {size} bytes", batch.len())))?;
        PyByteArray::new_with(py, total, |rows| {
            if size > 0 {
                for (chain, row) in batch.iter().zip(rows.chunks_exact_mut(size)) {
                    chain.read_at(offset, row);
                }
            }
            Ok(())
        })
    }

    fn scatter(&self, offset: u64, rows: &Bound<'_, PyAny>) -> PyResult<()> {
        let contents = Contents::of(rows)?;
        let count = self.taken.len();
        if count == 0 || contents.len() % count != 0 {
            return Err(configuration(format!(
                "{} bytes are not {count} rows of equal size",
                contents.len()
            )));
        }
        let size = contents.len() / count;
        for (index, chain) in self.taken.batch().iter().enumerate() {
            if self.taken.finished(index) {
                return Err(configuration(
                    "a chain of the batch was completed before, or its queue was stopped",
                ));
            }
            if size > 0 {
                // SAFETY: the chain's memory is held by the batch; there are `count` rows of `size` bytes.
                unsafe { copy_in(chain.writable, offset, contents.as_ptr().add(index * size), size) };
            }
        }
        Ok(())
    }

    fn __repr__(&self) -> String {
        format!("<Batch of {} chains of {}>", self.taken.len(), self.taken.queue())
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let dropped = (0..self.taken.len())
            .filter(|index| self.taken.let_go(*index))
            .count();
        if dropped > 0 {
            lost(self.taken.queue(), dropped);
        }
    }
}
