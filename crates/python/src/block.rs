//! `BlockTarget` and `BlockHandler`: the native block device's data path.

use crate::block_request::PythonBackend;
use crate::contents::Contents;
use crate::errors::{ConfigurationError, configuration};
use crate::handler::{Calling, Handler};
use crate::memory::borrow;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use virtqueue::block::{EngineChoice, FileOptions, Lifetime, Limits, Source, Target};
use virtqueue::worker;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An error of the system, or of the caller where it was found without asking the system.
fn failure(error: io::Error) -> PyErr {
    match error.raw_os_error() {
        Some(_) => error.into(),
        None if error.kind() == io::ErrorKind::InvalidInput => ConfigurationError::new_err(error.to_string()),
        None => PyOSError::new_err(error.to_string()),
    }
}

/// What the queues of one block device share.
#[pyclass(frozen, module = "virtio._native")]
pub(crate) struct BlockTarget {
    inner: Mutex<Option<Arc<Target>>>,
    block_size: AtomicU32,
    /// Of a back end in Python, for the garbage collector.
    callback: Option<Arc<Py<PyAny>>>,
}

impl BlockTarget {
    fn wrap(target: io::Result<Target>, callback: Option<Arc<Py<PyAny>>>) -> PyResult<Self> {
        let target = target.map_err(|error| configuration(error.to_string()))?;
        let block_size = AtomicU32::new(target.block_size());
        Ok(Self {
            inner: Mutex::new(Some(Arc::new(target))),
            block_size,
            callback,
        })
    }

    /// The native target, unless it was closed.
    pub(crate) fn native(&self) -> PyResult<Arc<Target>> {
        lock(&self.inner)
            .clone()
            .ok_or_else(|| configuration("the block target is closed"))
    }

    fn limit(&self, of: impl Fn(&Limits) -> u32) -> PyResult<u32> {
        Ok(of(&self.native()?.limits()))
    }

    fn set_limit(&self, set: impl Fn(&mut Limits)) -> PyResult<()> {
        let target = self.native()?;
        let mut limits = target.limits();
        set(&mut limits);
        target.set_limits(limits);
        Ok(())
    }
}

#[pymethods]
impl BlockTarget {
    #[staticmethod]
    #[pyo3(signature = (path, *, read_only=false, direct=false, cache="writeback", engine="auto"))]
    fn file(
        py: Python<'_>,
        path: &Bound<'_, PyAny>,
        read_only: bool,
        direct: bool,
        cache: &str,
        engine: &str,
    ) -> PyResult<Self> {
        let (source, name) = match path.extract::<i32>() {
            Ok(fd) => {
                let own = borrow(fd)?.try_clone_to_owned();
                let own = own.map_err(|error| configuration(format!("descriptor {fd}: {error}")))?;
                (Source::Fd(own), format!("descriptor {fd}"))
            }
            Err(_) => {
                let path: PathBuf = path.extract()?;
                let name = path.display().to_string();
                (Source::Path(path), name)
            }
        };
        let (sync, writeback) = match cache {
            "writeback" => (true, true),
            "writethrough" => (true, false),
            "unsafe" => (false, true),
            other => return Err(configuration(format!("{other:?} is no cache mode"))),
        };
        let engine = match engine {
            "auto" => EngineChoice::Auto,
            "io_uring" => EngineChoice::IoUring,
            "threads" => EngineChoice::Threads,
            other => return Err(configuration(format!("{other:?} is no engine"))),
        };
        let options = FileOptions {
            read_only,
            direct,
            sync,
            engine,
            ..FileOptions::new(source)
        };
        let target = py
            .detach(|| Target::file(options))
            .map_err(|error| configuration(format!("cannot open {name}: {error}")))?;
        target.set_writeback(writeback);
        Self::wrap(Ok(target), None)
    }

    #[staticmethod]
    fn memory(size: u64) -> PyResult<Self> {
        Self::wrap(Target::memory(size), None)
    }

    #[staticmethod]
    #[pyo3(signature = (size, *, zeroes=true))]
    fn null(size: u64, zeroes: bool) -> PyResult<Self> {
        Self::wrap(Target::null(size, zeroes), None)
    }

    #[staticmethod]
    #[pyo3(signature = (callback, size, *, read_only=false))]
    fn python(callback: Py<PyAny>, size: u64, read_only: bool) -> PyResult<Self> {
        let callback = Arc::new(callback);
        let backend = Arc::new(PythonBackend {
            callback: callback.clone(),
        });
        Self::wrap(Target::external(backend, size, read_only), Some(callback))
    }

    #[getter]
    fn capacity(&self) -> PyResult<u64> {
        Ok(self.native()?.capacity())
    }

    #[setter]
    fn set_capacity(&self, py: Python<'_>, capacity: u64) -> PyResult<()> {
        let target = self.native()?;
        py.detach(|| target.set_capacity(capacity)).map_err(failure)
    }

    #[getter]
    fn writeback(&self) -> PyResult<bool> {
        Ok(self.native()?.writeback())
    }

    #[setter]
    fn set_writeback(&self, writeback: bool) -> PyResult<()> {
        self.native()?.set_writeback(writeback);
        Ok(())
    }

    #[getter]
    fn serial(&self) -> PyResult<String> {
        let serial = self.native()?.serial();
        let text = serial.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    #[setter]
    fn set_serial(&self, serial: &str) -> PyResult<()> {
        self.native()?.set_serial(serial.as_bytes()).map_err(failure)
    }

    #[getter]
    fn block_size(&self) -> u32 {
        self.block_size.load(Ordering::Relaxed)
    }

    #[setter]
    fn set_block_size(&self, block_size: u32) -> PyResult<()> {
        if block_size < 512 || !block_size.is_power_of_two() {
            return Err(configuration(format!(
                "a block size is a power of two from 512 on, not {block_size}"
            )));
        }
        self.block_size.store(block_size, Ordering::Relaxed);
        Ok(())
    }

    #[getter]
    fn size_max(&self) -> PyResult<u32> {
        self.limit(|limits| limits.size_max)
    }

    #[setter]
    fn set_size_max(&self, value: u32) -> PyResult<()> {
        self.set_limit(|limits| limits.size_max = value)
    }

    #[getter]
    fn seg_max(&self) -> PyResult<u32> {
        self.limit(|limits| limits.seg_max)
    }

    #[setter]
    fn set_seg_max(&self, value: u32) -> PyResult<()> {
        self.set_limit(|limits| limits.seg_max = value)
    }

    #[getter]
    fn max_discard_sectors(&self) -> PyResult<u32> {
        self.limit(|limits| limits.max_discard_sectors)
    }

    #[setter]
    fn set_max_discard_sectors(&self, value: u32) -> PyResult<()> {
        self.set_limit(|limits| limits.max_discard_sectors = value)
    }

    #[getter]
    fn max_discard_seg(&self) -> PyResult<u32> {
        self.limit(|limits| limits.max_discard_seg)
    }

    #[setter]
    fn set_max_discard_seg(&self, value: u32) -> PyResult<()> {
        self.set_limit(|limits| limits.max_discard_seg = value)
    }

    #[getter]
    fn max_write_zeroes_sectors(&self) -> PyResult<u32> {
        self.limit(|limits| limits.max_write_zeroes_sectors)
    }

    #[setter]
    fn set_max_write_zeroes_sectors(&self, value: u32) -> PyResult<()> {
        self.set_limit(|limits| limits.max_write_zeroes_sectors = value)
    }

    #[getter]
    fn max_write_zeroes_seg(&self) -> PyResult<u32> {
        self.limit(|limits| limits.max_write_zeroes_seg)
    }

    #[setter]
    fn set_max_write_zeroes_seg(&self, value: u32) -> PyResult<()> {
        self.set_limit(|limits| limits.max_write_zeroes_seg = value)
    }

    #[getter]
    fn max_secure_erase_sectors(&self) -> PyResult<u32> {
        self.limit(|limits| limits.max_secure_erase_sectors)
    }

    #[setter]
    fn set_max_secure_erase_sectors(&self, value: u32) -> PyResult<()> {
        self.set_limit(|limits| limits.max_secure_erase_sectors = value)
    }

    #[getter]
    fn max_secure_erase_seg(&self) -> PyResult<u32> {
        self.limit(|limits| limits.max_secure_erase_seg)
    }

    #[setter]
    fn set_max_secure_erase_seg(&self, value: u32) -> PyResult<()> {
        self.set_limit(|limits| limits.max_secure_erase_seg = value)
    }

    #[getter]
    fn lifetime(&self) -> PyResult<Option<(u16, u16, u16)>> {
        let lifetime = self.native()?.lifetime();
        Ok(lifetime.map(|l| {
            (
                l.pre_eol_info,
                l.device_lifetime_est_typ_a,
                l.device_lifetime_est_typ_b,
            )
        }))
    }

    #[setter]
    fn set_lifetime(&self, value: Option<(u16, u16, u16)>) -> PyResult<()> {
        let lifetime = value.map(|(pre_eol_info, a, b)| Lifetime {
            pre_eol_info,
            device_lifetime_est_typ_a: a,
            device_lifetime_est_typ_b: b,
        });
        self.native()?.set_lifetime(lifetime);
        Ok(())
    }

    #[getter]
    fn read_only(&self) -> PyResult<bool> {
        Ok(self.native()?.read_only())
    }

    #[getter]
    fn engine(&self) -> PyResult<&'static str> {
        Ok(match self.native()?.engine_name() {
            "external" => "python",
            name => name,
        })
    }

    #[getter]
    fn can_discard(&self) -> PyResult<bool> {
        Ok(self.native()?.can_discard())
    }

    fn read(&self, py: Python<'_>, offset: u64, into: &Bound<'_, PyAny>) -> PyResult<()> {
        let (target, contents) = (self.native()?, Contents::writable(into)?);
        // SAFETY: the buffer is held until this returns.
        py.detach(|| unsafe { target.read_to(offset, contents.as_ptr(), contents.len()) })
            .map_err(failure)
    }

    fn write(&self, py: Python<'_>, offset: u64, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let (target, contents) = (self.native()?, Contents::of(data)?);
        // SAFETY: the buffer is held until this returns.
        py.detach(|| unsafe { target.write_from(offset, contents.as_ptr(), contents.len()) })
            .map_err(failure)
    }

    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        let target = self.native()?;
        py.detach(|| target.flush()).map_err(failure)
    }

    fn discard(&self, py: Python<'_>, offset: u64, size: u64) -> PyResult<()> {
        let target = self.native()?;
        py.detach(|| target.discard(offset, size)).map_err(failure)
    }

    #[pyo3(signature = (offset, size, *, unmap=true))]
    fn write_zeroes(&self, py: Python<'_>, offset: u64, size: u64, unmap: bool) -> PyResult<()> {
        let target = self.native()?;
        py.detach(|| target.write_zeroes(offset, size, unmap))
            .map_err(failure)
    }

    fn close(&self, py: Python<'_>) {
        let target = lock(&self.inner).take();
        // The last one closes the file and ends its threads.
        py.detach(|| drop(target));
    }

    fn __repr__(&self) -> PyResult<String> {
        let Ok(target) = self.native() else {
            return Ok("<BlockTarget, closed>".into());
        };
        Ok(format!(
            "<BlockTarget {}, {} bytes>",
            self.engine()?,
            target.capacity()
        ))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        match &self.callback {
            Some(callback) => visit.call(&**callback),
            None => Ok(()),
        }
    }
}

/// Answers the requests of a block device natively.
#[pyclass(extends = Handler, frozen, module = "virtio._native")]
pub(crate) struct BlockHandler {
    target: Py<BlockTarget>,
}

impl BlockHandler {
    /// The native handler of one queue, whose number is `queue`.
    pub(crate) fn start(&self, queue: usize, features: u128) -> PyResult<Box<dyn worker::Handler>> {
        let target = self.target.get();
        let native = virtqueue::block::BlockHandler::new(target.native()?, features).map_err(failure)?;
        Ok(if target.callback.is_some() {
            Box::new(Calling::new(queue, native))
        } else {
            Box::new(native)
        })
    }
}

#[pymethods]
impl BlockHandler {
    #[new]
    fn new(target: Py<BlockTarget>) -> (Self, Handler) {
        (Self { target }, Handler)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.target)
    }
}
