//! Guest memory: `Memory` and `Region`.

use crate::contents::Contents;
use crate::errors::{configuration, transport};
use crate::log;
use crate::view::{Element, memoryview};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;
use virtqueue::memory::{
    Access, AccessError, DirtyLog, Error, GuestMemory, RegionRequest, SharedLog, Space, Translation,
};

/// A time in seconds as Python gives it.
pub(crate) fn seconds(value: f64) -> PyResult<Duration> {
    // Not `min`, which turns NaN into a time.
    Duration::try_from_secs_f64(if value > 1e9 { 1e9 } else { value })
        .map_err(|_| configuration(format!("{value} seconds is not a time to wait")))
}

/// An address space by its name.
pub(crate) fn space(name: &str) -> PyResult<Space> {
    match name {
        "guest" => Ok(Space::Guest),
        "user" => Ok(Space::User),
        other => Err(PyValueError::new_err(format!(
            "address space {other:?} is neither \"guest\" nor \"user\""
        ))),
    }
}

/// Lends a descriptor that the caller keeps open for the duration of a call.
pub(crate) fn borrow<'fd>(fd: i32) -> PyResult<BorrowedFd<'fd>> {
    if fd < 0 {
        return Err(transport(format!("{fd} is not a descriptor")));
    }
    // SAFETY: not -1. That it is open and stays so for the call is checked by the system calls made on it:
    // a closed one makes them fail with EBADF, and nothing here depends on more.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

pub(crate) fn failure(error: &Error) -> PyErr {
    match error {
        Error::WrongKind | Error::BeyondFile { .. } | Error::System(..) | Error::InUse { .. } => {
            transport(error.to_string())
        }
        _ => configuration(error.to_string()),
    }
}

fn refusal(error: AccessError) -> PyErr {
    configuration(error.to_string())
}

/// A piece of guest memory, and where the front end says that its bytes are.
#[pyclass(frozen, eq, get_all, module = "virtio._native")]
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Region {
    guest_address: u64,
    size: u64,
    fd: i32,
    offset: u64,
    user_address: Option<u64>,
    writable: bool,
}

#[pymethods]
impl Region {
    #[new]
    #[pyo3(signature = (guest_address, size, fd, offset=0, user_address=None, writable=true))]
    fn new(
        guest_address: u64,
        size: u64,
        fd: i32,
        offset: u64,
        user_address: Option<u64>,
        writable: bool,
    ) -> Self {
        Self {
            guest_address,
            size,
            fd,
            offset,
            user_address,
            writable,
        }
    }

    fn __hash__(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    fn __repr__(&self) -> String {
        let user = self
            .user_address
            .map_or_else(|| "None".into(), |address| format!("{address:#x}"));
        let writable = if self.writable { "True" } else { "False" };
        format!(
            "Region(guest_address={:#x}, size={:#x}, fd={}, offset={:#x}, user_address={user}, writable={writable})",
            self.guest_address, self.size, self.fd, self.offset
        )
    }
}

impl Region {
    fn request<'fd>(&self) -> PyResult<RegionRequest<'fd>> {
        Ok(RegionRequest {
            guest_address: self.guest_address,
            user_address: self.user_address,
            size: self.size,
            fd: borrow(self.fd)?,
            offset: self.offset,
            writable: self.writable,
        })
    }
}

/// Guest memory: regions mapped from file descriptors, visible in two address spaces.
#[pyclass(frozen, module = "virtio._native")]
pub(crate) struct Memory {
    pub(crate) inner: Arc<GuestMemory>,
}

#[pymethods]
impl Memory {
    #[new]
    fn new() -> Self {
        Self {
            inner: Arc::new(GuestMemory::new()),
        }
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "the fields of a region, by name in Python"
    )]
    #[pyo3(signature = (guest_address, size, fd, offset=0, *, user_address=None, writable=true))]
    fn add(
        &self,
        py: Python<'_>,
        guest_address: u64,
        size: u64,
        fd: i32,
        offset: u64,
        user_address: Option<u64>,
        writable: bool,
    ) -> PyResult<()> {
        let request = Region {
            guest_address,
            size,
            fd,
            offset,
            user_address,
            writable,
        }
        .request()?;
        py.detach(|| self.inner.add(&request))
            .map_err(|error| failure(&error))
    }

    #[pyo3(signature = (guest_address, size, timeout=5.0))]
    fn remove(&self, py: Python<'_>, guest_address: u64, size: u64, timeout: f64) -> PyResult<()> {
        let timeout = seconds(timeout)?;
        py.detach(|| self.inner.remove(guest_address, size, timeout))
            .map_err(|error| failure(&error))
    }

    #[pyo3(signature = (regions, timeout=5.0))]
    fn replace(&self, py: Python<'_>, regions: Vec<Py<Region>>, timeout: f64) -> PyResult<()> {
        let timeout = seconds(timeout)?;
        let requests: Vec<RegionRequest<'_>> = regions
            .iter()
            .map(|region| region.get().request())
            .collect::<PyResult<_>>()?;
        py.detach(|| self.inner.replace(&requests, timeout))
            .map_err(|error| failure(&error))
    }

    #[pyo3(signature = (timeout=5.0))]
    fn clear(&self, py: Python<'_>, timeout: f64) -> PyResult<()> {
        let timeout = seconds(timeout)?;
        py.detach(|| self.inner.clear(timeout))
            .map_err(|error| failure(&error))
    }

    #[pyo3(signature = (fd, size=0, offset=0, *, notify=None, timeout=5.0))]
    fn set_dirty_log(
        &self,
        py: Python<'_>,
        fd: Option<i32>,
        size: u64,
        offset: u64,
        notify: Option<i32>,
        timeout: f64,
    ) -> PyResult<()> {
        let timeout = seconds(timeout)?;
        let notify = notify.map(borrow).transpose()?;
        let log = fd
            .map(borrow)
            .transpose()?
            .map(|fd| SharedLog::new(fd, offset, size, notify))
            .transpose()
            .map_err(|error| failure(&error))?
            .map(|log| Arc::new(log) as Arc<dyn DirtyLog>);
        py.detach(|| self.inner.set_dirty_log(log, timeout))
            .map_err(|error| failure(&error))
    }

    #[pyo3(signature = (on, timeout=5.0))]
    fn translate(&self, py: Python<'_>, on: bool, timeout: f64) -> PyResult<()> {
        let timeout = seconds(timeout)?;
        py.detach(|| self.inner.translate(on, timeout))
            .map_err(|error| failure(&error))
    }

    #[pyo3(signature = (iova, size, user_address, access, timeout=5.0))]
    fn update_translation(
        &self,
        py: Python<'_>,
        iova: u64,
        size: u64,
        user_address: u64,
        access: u8,
        timeout: f64,
    ) -> PyResult<()> {
        let timeout = seconds(timeout)?;
        let new = Translation {
            iova,
            size,
            user_address,
            access: Access::from_bits(access),
        };
        py.detach(|| self.inner.update(&new, timeout))
            .map_err(|error| failure(&error))
    }

    #[pyo3(signature = (iova, size, timeout=5.0))]
    fn invalidate_translation(&self, py: Python<'_>, iova: u64, size: u64, timeout: f64) -> PyResult<()> {
        let timeout = seconds(timeout)?;
        py.detach(|| self.inner.invalidate(iova, size, timeout))
            .map_err(|error| failure(&error))
    }

    fn refuse_translation(&self, py: Python<'_>, iova: u64, access: u8) {
        py.detach(|| self.inner.refuse(iova, Access::from_bits(access)));
    }

    fn on_miss(&self, py: Python<'_>, listener: Option<Py<PyAny>>) {
        let listener = listener.map(|function| -> Arc<dyn Fn() + Send + Sync> {
            Arc::new(move || {
                Python::try_attach(|py| {
                    if let Err(error) = function.bind(py).call0() {
                        log::exception(py, "the function for translation misses raised", &error);
                    }
                });
            })
        });
        py.detach(|| self.inner.on_miss(listener));
    }

    fn take_misses(&self, py: Python<'_>) -> Vec<(u64, u8, bool)> {
        let misses = py.detach(|| self.inner.take_misses());
        misses
            .iter()
            .map(|miss| (miss.iova, miss.access.bits(), miss.failed))
            .collect()
    }

    fn repeat_misses(&self, py: Python<'_>) {
        py.detach(|| self.inner.repeat_misses());
    }

    #[getter]
    fn translated(&self) -> bool {
        self.inner.translated()
    }

    #[getter]
    fn translations(&self, py: Python<'_>) -> Vec<(u64, u64, u64, u8)> {
        let known = py.detach(|| self.inner.translations());
        known
            .iter()
            .map(|entry| (entry.iova, entry.size, entry.user_address, entry.access.bits()))
            .collect()
    }

    #[getter]
    fn regions(&self) -> Vec<Region> {
        let snapshot = self.inner.snapshot();
        let region = |region: &Arc<virtqueue::memory::Region>| Region {
            guest_address: region.guest_address,
            size: region.size,
            fd: -1,
            offset: region.offset,
            user_address: region.user_address,
            writable: region.mapping.writable(),
        };
        snapshot.regions().iter().map(region).collect()
    }

    #[getter]
    fn generation(&self) -> u64 {
        self.inner.generation()
    }

    #[pyo3(signature = (address, size, space="guest"))]
    fn read<'py>(
        &self,
        py: Python<'py>,
        address: u64,
        size: usize,
        space: &str,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let space = self::space(space)?;
        let snapshot = self.inner.snapshot();
        // Before room for it is made: a size out of the air must not take gigabytes.
        if size > 0 && !snapshot.covers(space, address, size as u64) {
            return Err(refusal(AccessError::Unmapped {
                address,
                size: size as u64,
            }));
        }
        PyBytes::new_with(py, size, |into| {
            snapshot.read(space, address, into).map_err(refusal)
        })
    }

    #[pyo3(signature = (address, data, space="guest"))]
    fn write(&self, address: u64, data: &Bound<'_, PyAny>, space: &str) -> PyResult<()> {
        let space = self::space(space)?;
        let contents = Contents::of(data)?;
        self.inner
            .snapshot()
            .write(space, address, &contents.to_vec())
            .map_err(refusal)
    }

    #[pyo3(signature = (address, size, space="guest"))]
    fn view<'py>(
        &self,
        py: Python<'py>,
        address: u64,
        size: u64,
        space: &str,
    ) -> PyResult<Bound<'py, PyMemoryView>> {
        let view = self
            .inner
            .snapshot()
            .view(self::space(space)?, address, size)
            .map_err(refusal)?;
        let (host, size, read_only) = (view.as_ptr(), view.size(), !view.writable());
        // SAFETY: the memory is mapped for as long as the view, which becomes the owner, lives.
        unsafe { memoryview(py, host, size, Element::Byte, read_only, Arc::new(view)) }
    }

    fn __repr__(&self) -> String {
        let snapshot = self.inner.snapshot();
        let size: u64 = snapshot.regions().iter().map(|region| region.size).sum();
        format!(
            "<Memory of {} regions, {size:#x} bytes>",
            snapshot.regions().len()
        )
    }
}
