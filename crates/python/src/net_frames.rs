//! `NetFrames` and `NetFrame`: frames of a network device in Python's hands.

use crate::errors::configuration;
use crate::view::{Element, memoryview};
use pyo3::exceptions::PyIndexError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};
use std::cell::UnsafeCell;
use std::sync::Arc;
use virtqueue::net::{Frame, Frames, Offload};

/// Frames that Python may read and change. Their number and places stay as they are.
#[derive(Default)]
pub(crate) struct Lent(UnsafeCell<Frames>);

// SAFETY: the list of frames is only changed with the only reference in hand. The bytes are reached by address
// or copied while the interpreter's lock is held, which everyone who writes to them holds.
unsafe impl Send for Lent {}
// SAFETY: as above.
unsafe impl Sync for Lent {}

impl Lent {
    /// Takes frames over.
    pub(crate) fn new(frames: Frames) -> Self {
        Self(UnsafeCell::new(frames))
    }

    /// The frames again, when Python has let go of them.
    pub(crate) fn get_mut(&mut self) -> &mut Frames {
        self.0.get_mut()
    }

    /// The frames. Their bytes must not be looked at through this.
    fn frames(&self) -> &Frames {
        // SAFETY: the list does not change while there is more than one reference.
        unsafe { &*self.0.get() }
    }

    fn address(&self) -> *mut u8 {
        // SAFETY: as above; this only takes the address.
        unsafe { (*self.0.get()).data_mut().as_mut_ptr() }
    }

    /// A copy of all frames, as they are now.
    pub(crate) fn copy(&self, _: Python<'_>, into: &mut Frames) {
        into.extend(self.frames());
    }
}

/// Frames that came together.
#[pyclass(frozen, sequence, module = "virtio._native")]
pub(crate) struct NetFrames {
    pub(crate) lent: Arc<Lent>,
}

impl NetFrames {
    fn each<'py>(
        &self,
        py: Python<'py>,
        value: impl Fn(&Frame) -> u32,
    ) -> PyResult<Bound<'py, PyMemoryView>> {
        let values: Box<[u32]> = self.lent.frames().list().iter().map(value).collect();
        let values = Arc::new(values);
        let address = values.as_ptr().cast_mut().cast();
        // SAFETY: the numbers live as long as their owner, and nobody writes to them.
        unsafe { memoryview(py, address, values.len(), Element::Word, true, values) }
    }
}

#[pymethods]
impl NetFrames {
    fn __len__(&self) -> usize {
        self.lent.frames().len()
    }

    fn __iter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        // SAFETY: takes a sequence and gives a new reference, or null with an exception.
        unsafe { Bound::from_owned_ptr_or_err(slf.py(), ffi::PySeqIter_New(slf.as_ptr())) }
    }

    fn __getitem__(&self, index: isize) -> PyResult<NetFrame> {
        let list = self.lent.frames().list();
        let place = if index < 0 {
            index + list.len() as isize
        } else {
            index
        };
        let frame = usize::try_from(place).ok().and_then(|place| list.get(place));
        let frame = frame.ok_or_else(|| PyIndexError::new_err(format!("frame {index} of {}", list.len())))?;
        Ok(NetFrame {
            lent: self.lent.clone(),
            frame: *frame,
        })
    }

    #[getter]
    fn data<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyMemoryView>> {
        let (address, size) = (self.lent.address(), self.lent.frames().bytes());
        // SAFETY: the bytes live as long as the owner, which is not filled anew while it is shared.
        unsafe { memoryview(py, address, size, Element::Byte, false, self.lent.clone()) }
    }

    #[getter]
    fn starts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyMemoryView>> {
        self.each(py, |frame| frame.range().start as u32)
    }

    #[getter]
    fn sizes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyMemoryView>> {
        self.each(py, |frame| frame.size() as u32)
    }

    fn __repr__(&self) -> String {
        let frames = self.lent.frames();
        format!("<NetFrames {} of {} bytes>", frames.len(), frames.bytes())
    }
}

/// One frame, with what is left to be done to it.
#[pyclass(frozen, module = "virtio._native")]
pub(crate) struct NetFrame {
    lent: Arc<Lent>,
    frame: Frame,
}

#[pymethods]
impl NetFrame {
    fn __len__(&self) -> usize {
        self.frame.size()
    }

    #[getter]
    fn data<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyMemoryView>> {
        let address = self.lent.address().wrapping_add(self.frame.range().start);
        // SAFETY: the frame lies within the bytes, which live as long as the owner.
        unsafe {
            memoryview(
                py,
                address,
                self.frame.size(),
                Element::Byte,
                false,
                self.lent.clone(),
            )
        }
    }

    fn __bytes__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        PyBytes::new_with(py, self.frame.size(), |into| {
            let from = self.lent.address().wrapping_add(self.frame.range().start);
            // SAFETY: the frame lies within the bytes; the copy is new.
            unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
            Ok(())
        })
    }

    #[getter]
    fn flags(&self) -> u8 {
        self.frame.offload.flags
    }

    #[getter]
    fn gso_type(&self) -> u8 {
        self.frame.offload.gso_type
    }

    #[getter]
    fn hdr_len(&self) -> u16 {
        self.frame.offload.hdr_len
    }

    #[getter]
    fn gso_size(&self) -> u16 {
        self.frame.offload.gso_size
    }

    #[getter]
    fn csum_start(&self) -> u16 {
        self.frame.offload.csum_start
    }

    #[getter]
    fn csum_offset(&self) -> u16 {
        self.frame.offload.csum_offset
    }

    #[getter]
    fn outer_th_offset(&self) -> u16 {
        self.frame.offload.outer_th_offset
    }

    #[getter]
    fn inner_nh_offset(&self) -> u16 {
        self.frame.offload.inner_nh_offset
    }

    fn __repr__(&self) -> String {
        format!("<NetFrame of {} bytes>", self.frame.size())
    }
}

/// The fields of a header as Python gives them: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset,
/// outer_th_offset, inner_nh_offset.
pub(crate) type Fields = (u8, u8, u16, u16, u16, u16, u16, u16);

/// Checks what Python says about a frame: what goes to a driver must be right.
pub(crate) fn checked(fields: Option<Fields>, frame: &[u8]) -> PyResult<Offload> {
    let offload = fields.map_or(Offload::default(), |fields| Offload {
        flags: fields.0,
        gso_type: fields.1,
        hdr_len: fields.2,
        gso_size: fields.3,
        csum_start: fields.4,
        csum_offset: fields.5,
        outer_th_offset: fields.6,
        inner_nh_offset: fields.7,
    });
    virtqueue::net::check(offload, frame, virtqueue::net::HOST_OFFLOADS)
        .map_err(|why| configuration(format!("this frame cannot be sent: {why:?}")))
}
