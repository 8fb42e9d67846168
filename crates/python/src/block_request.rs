//! `BlockRequest`: block devices whose backend is written in Python.

use crate::errors::configuration;
use crate::log;
use crate::view::{Element, memoryview};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyMemoryView};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use virtqueue::block::{External, ExternalData, ExternalRequest, Failure, Kind};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A block device whose requests are answered by Python.
pub(crate) struct PythonBackend {
    pub(crate) callback: Arc<Py<PyAny>>,
}

impl PythonBackend {
    fn call(&self, py: Python<'_>, requests: &mut Vec<ExternalRequest>) -> PyResult<()> {
        let wrap = |request: ExternalRequest| Bound::new(py, BlockRequest::new(request));
        let list = requests.drain(..).map(wrap).collect::<PyResult<Vec<_>>>()?;
        let result = self.callback.bind(py).call1((PyList::new(py, &list)?,));
        if let Err(error) = result {
            log::exception(py, "the block backend raised", &error);
            for request in list {
                if let Some(request) = request.get().take() {
                    request.complete(Err(Failure::Io));
                }
            }
        }
        Ok(())
    }
}

impl External for PythonBackend {
    fn submit(&self, requests: &mut Vec<ExternalRequest>) {
        // Requests that stay in the list fail, as they must when the interpreter is gone.
        Python::try_attach(|py| {
            if let Err(error) = self.call(py, requests) {
                log::exception(py, "no memory for block requests", &error);
            }
        });
    }
}

/// A request to a block device whose backend is written in Python.
#[pyclass(frozen, module = "virtio._native")]
pub(crate) struct BlockRequest {
    kind: Kind,
    offset: u64,
    size: u64,
    unmap: bool,
    /// None once it is answered.
    request: Mutex<Option<ExternalRequest>>,
}

impl BlockRequest {
    fn new(request: ExternalRequest) -> Self {
        let (kind, offset, size, unmap) = (request.kind, request.offset, request.size, request.unmap);
        Self {
            kind,
            offset,
            size,
            unmap,
            request: Mutex::new(Some(request)),
        }
    }

    fn take(&self) -> Option<ExternalRequest> {
        lock(&self.request).take()
    }
}

#[pymethods]
impl BlockRequest {
    #[getter]
    fn kind(&self) -> &'static str {
        self.kind.name()
    }

    #[getter]
    fn offset(&self) -> u64 {
        self.offset
    }

    #[getter]
    fn size(&self) -> u64 {
        self.size
    }

    #[getter]
    fn unmap(&self) -> bool {
        self.unmap
    }

    #[getter]
    fn data<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyMemoryView>> {
        let data: ExternalData = match &*lock(&self.request) {
            Some(request) => request.data().clone(),
            None => return Err(configuration("the request was answered before")),
        };
        let start = if data.is_empty() {
            NonNull::dangling().as_ptr()
        } else {
            data.as_ptr()
        };
        let (size, read_only) = (data.len(), self.kind != Kind::Read);
        // SAFETY: the memory is there for as long as the clone, which becomes the owner, lives.
        unsafe { memoryview(py, start, size, Element::Byte, read_only, Arc::new(data)) }
    }

    #[pyo3(signature = (error=None))]
    fn complete(&self, error: Option<&str>) -> PyResult<()> {
        let result = match error {
            None => Ok(()),
            Some("io") => Err(Failure::Io),
            Some("unsupported") => Err(Failure::Unsupported),
            Some(other) => {
                return Err(configuration(format!(
                    "{other:?} is neither \"io\" nor \"unsupported\""
                )));
            }
        };
        let request = self
            .take()
            .ok_or_else(|| configuration("the request was answered before"))?;
        request.complete(result);
        Ok(())
    }

    fn __repr__(&self) -> String {
        let state = if lock(&self.request).is_none() {
            ", answered"
        } else {
            ""
        };
        format!(
            "<BlockRequest {} of {} bytes at {}{state}>",
            self.kind.name(),
            self.size,
            self.offset
        )
    }
}
