//! `PcapReader` and `PcapWriter`: files of frames.

use crate::contents::Contents;
use crate::errors::configuration;
use crate::memory::borrow;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::fs::File;
use std::io::BufReader;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use virtqueue::net::{Format, PcapError};

fn failed(error: PcapError) -> PyErr {
    match error {
        PcapError::Io(error) => error.into(),
        other => configuration(other.to_string()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn file(fd: i32) -> PyResult<File> {
    Ok(borrow(fd)?.try_clone_to_owned()?.into())
}

/// Reads frames: (nanoseconds since 1970, bytes).
#[pyclass(frozen, module = "virtio._native")]
pub(crate) struct PcapReader(Mutex<virtqueue::net::PcapReader<BufReader<File>>>);

#[pymethods]
impl PcapReader {
    #[new]
    fn new(fd: i32) -> PyResult<Self> {
        let reader = virtqueue::net::PcapReader::new(BufReader::new(file(fd)?)).map_err(failed)?;
        Ok(Self(Mutex::new(reader)))
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<(u64, Bound<'py, PyBytes>)>> {
        let mut frame = Vec::new();
        let time = py.detach(|| lock(&self.0).next(&mut frame)).map_err(failed)?;
        Ok(time.map(|time| (time.as_nanos() as u64, PyBytes::new(py, &frame))))
    }
}

/// Writes frames.
#[pyclass(frozen, module = "virtio._native")]
pub(crate) struct PcapWriter(Mutex<virtqueue::net::PcapWriter<File>>);

#[pymethods]
impl PcapWriter {
    #[new]
    #[pyo3(signature = (fd, *, pcapng=false))]
    fn new(fd: i32, pcapng: bool) -> PyResult<Self> {
        let format = if pcapng { Format::Pcapng } else { Format::Pcap };
        let writer = virtqueue::net::PcapWriter::new(file(fd)?, format)?;
        Ok(Self(Mutex::new(writer)))
    }

    /// Adds a frame that was seen so many nanoseconds after 1970; by default, now.
    #[pyo3(signature = (frame, time=None))]
    fn add(&self, frame: &Bound<'_, PyAny>, time: Option<u64>) -> PyResult<()> {
        let bytes = Contents::of(frame)?.to_vec();
        let time = time.map_or_else(virtqueue::net::now, Duration::from_nanos);
        lock(&self.0).add(time, &bytes);
        Ok(())
    }

    /// Writes all that was added.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        Ok(py.detach(|| lock(&self.0).flush())?)
    }
}
