//! `NetBackend`: where the frames of a network device go to and come from.

use crate::contents::Contents;
use crate::errors::configuration;
use crate::log;
use crate::memory::{borrow, seconds};
use crate::net_frames::{Lent, NetFrames};
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use virtqueue::net::{
    Backend, Descriptor, Format, Frames, Framing, Loop, Play, Recording, Sink, Source, Switch, SwitchPort,
    WireOptions,
};

/// A back end written in Python.
struct Called {
    callback: Arc<Py<PyAny>>,
    accepts: u128,
    /// Frames to be lent again.
    spare: Mutex<Vec<Arc<Lent>>>,
}

impl Called {
    fn call(&self, py: Python<'_>, queue: usize, lent: &Arc<Lent>) {
        let frames = NetFrames { lent: lent.clone() };
        let result = Bound::new(py, frames).and_then(|frames| self.callback.bind(py).call1((frames, queue)));
        if let Err(error) = result {
            log::exception(py, "the network back end raised", &error);
        }
    }
}

impl Backend for Called {
    fn accepts(&self) -> u128 {
        self.accepts
    }

    fn transmit(&self, queue: usize, frames: &mut Frames) {
        let spare = || self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lent = spare().pop().unwrap_or_default();
        match Arc::get_mut(&mut lent) {
            Some(lent) => std::mem::swap(lent.get_mut(), frames),
            None => lent = Arc::new(Lent::new(std::mem::take(frames))),
        }
        Python::try_attach(|py| self.call(py, queue, &lent));
        if let Some(again) = Arc::get_mut(&mut lent) {
            // The caller's batch is as empty as it is to be; this one is cleared before it is lent again.
            again.get_mut().clear();
            spare().push(lent);
        }
    }
}

enum Kind {
    Sink(Arc<Sink>),
    Source(Arc<Source>),
    Descriptor(&'static str, Arc<Descriptor>),
    Switch(Arc<SwitchPort>),
    Recording(Arc<Recording>),
    Other(&'static str, Arc<dyn Backend>),
}

/// Where frames go to and come from.
#[pyclass(frozen, module = "virtio._native")]
pub(crate) struct NetBackend {
    kind: Kind,
    /// Of a back end in Python, for the garbage collector.
    callback: Option<Arc<Py<PyAny>>>,
}

impl NetBackend {
    fn of(kind: Kind) -> Self {
        Self { kind, callback: None }
    }

    fn descriptor(name: &'static str, fd: i32, framing: Framing, accepts: u128) -> PyResult<Self> {
        let failed = |error: std::io::Error| configuration(format!("descriptor {fd}: {error}"));
        let own = borrow(fd)?.try_clone_to_owned().map_err(failed)?;
        let descriptor = Descriptor::new(own, framing, accepts).map_err(failed)?;
        Ok(Self::of(Kind::Descriptor(name, Arc::new(descriptor))))
    }

    pub(crate) fn native(&self) -> Arc<dyn Backend> {
        match &self.kind {
            Kind::Sink(sink) => sink.clone(),
            Kind::Source(source) => source.clone(),
            Kind::Descriptor(_, descriptor) => descriptor.clone(),
            Kind::Switch(port) => port.clone(),
            Kind::Recording(recording) => recording.clone(),
            Kind::Other(_, backend) => backend.clone(),
        }
    }

    /// Whether it calls Python.
    pub(crate) fn calls(&self) -> bool {
        self.callback.is_some()
    }
}

#[pymethods]
impl NetBackend {
    #[staticmethod]
    fn sink() -> Self {
        Self::of(Kind::Sink(Arc::default()))
    }

    #[staticmethod]
    fn source(frame: &Bound<'_, PyAny>) -> PyResult<Self> {
        let frame = Contents::of(frame)?.to_vec();
        if frame.len() < 14 {
            return Err(configuration("a frame has at least 14 bytes"));
        }
        Ok(Self::of(Kind::Source(Arc::new(Source::new(&frame)))))
    }

    #[staticmethod]
    fn r#loop() -> Self {
        Self::of(Kind::Other("loop", Arc::new(Loop::default())))
    }

    /// A stream socket that is connected: each frame behind its length.
    #[staticmethod]
    fn stream(fd: i32) -> PyResult<Self> {
        Self::descriptor("stream", fd, Framing::Stream, 0)
    }

    /// A datagram or packet socket: a frame for each message.
    #[staticmethod]
    fn datagrams(fd: i32) -> PyResult<Self> {
        Self::descriptor("datagrams", fd, Framing::Messages, 0)
    }

    /// A TAP device, with a header of so many bytes before each frame; 0: none.
    #[staticmethod]
    #[pyo3(signature = (fd, *, header, accepts=0))]
    fn tap(fd: i32, header: usize, accepts: u128) -> PyResult<Self> {
        match header {
            0 => Self::descriptor("tap", fd, Framing::Messages, 0),
            10 | 12 => Self::descriptor("tap", fd, Framing::Headers(header), accepts),
            _ => Err(configuration(format!(
                "a header of a TAP device has 10 or 12 bytes, not {header}"
            ))),
        }
    }

    /// Files of frames: `to` is written, `source` is read.
    #[staticmethod]
    #[pyo3(signature = (to=None, *, pcapng=false, source=None, timed=false, again=false))]
    fn recording(
        to: Option<i32>,
        pcapng: bool,
        source: Option<i32>,
        timed: bool,
        again: bool,
    ) -> PyResult<Self> {
        let file = |fd: i32| {
            let own = borrow(fd)?.try_clone_to_owned();
            own.map(File::from)
                .map_err(|error| configuration(format!("descriptor {fd}: {error}")))
        };
        let format = if pcapng { Format::Pcapng } else { Format::Pcap };
        let to = to.map(file).transpose()?.map(|to| (to, format));
        let play = Play { timed, again };
        let source = source.map(file).transpose()?.map(|source| (source, play));
        let recording = Recording::new(to, source).map_err(|error| configuration(error.to_string()))?;
        Ok(Self::of(Kind::Recording(Arc::new(recording))))
    }

    #[staticmethod]
    #[pyo3(signature = (callback, *, accepts=0))]
    fn python(callback: Py<PyAny>, accepts: u128) -> Self {
        let callback = Arc::new(callback);
        let called = Called {
            callback: callback.clone(),
            accepts,
            spare: Mutex::default(),
        };
        Self {
            kind: Kind::Other("python", Arc::new(called)),
            callback: Some(callback),
        }
    }

    /// Starts or stops a source.
    fn run(&self, run: bool) -> PyResult<()> {
        match &self.kind {
            Kind::Source(source) => {
                source.run(run);
                Ok(())
            }
            _ => Err(configuration("only a source is started and stopped")),
        }
    }

    /// Whether the other end has gone, or has said nonsense; of a file, whether it was played to its end.
    #[getter]
    fn closed(&self) -> bool {
        match &self.kind {
            Kind::Descriptor(_, descriptor) => descriptor.closed(),
            Kind::Recording(recording) => recording.done(),
            _ => false,
        }
    }

    /// Why a file is no longer read or written.
    #[getter]
    fn failed(&self) -> Option<String> {
        match &self.kind {
            Kind::Recording(recording) => recording.failed(),
            _ => None,
        }
    }

    #[allow(clippy::too_many_arguments, reason = "what a wire does, by name in Python")]
    #[pyo3(signature = (*, loss=0.0, duplication=0.0, reordering=0.0, delay=0.0, jitter=0.0, rate=0, seed=1))]
    fn set_wire(
        &self,
        py: Python<'_>,
        loss: f64,
        duplication: f64,
        reordering: f64,
        delay: f64,
        jitter: f64,
        rate: u64,
        seed: u64,
    ) -> PyResult<()> {
        let Kind::Switch(port) = &self.kind else {
            return Err(configuration("only a switch has wires"));
        };
        if [loss, duplication, reordering]
            .iter()
            .any(|probability| !(0.0..=1.0).contains(probability))
        {
            return Err(configuration("a probability is from 0 to 1"));
        }
        let options = WireOptions {
            loss,
            duplication,
            reordering,
            delay: seconds(delay)?,
            jitter: seconds(jitter)?,
            rate,
            seed,
        };
        let plain = WireOptions {
            seed,
            ..WireOptions::default()
        };
        let options = (options != plain).then_some(options);
        py.detach(|| port.set_wire(options))
            .map_err(|error| configuration(error.to_string()))
    }

    #[getter]
    fn packets(&self) -> PyResult<u64> {
        match &self.kind {
            Kind::Sink(sink) => Ok(sink.packets.get()),
            Kind::Source(source) => Ok(source.packets.get()),
            _ => Err(configuration(format!("a {} counts no packets", self.name()))),
        }
    }

    #[getter]
    fn name(&self) -> &'static str {
        match &self.kind {
            Kind::Sink(_) => "sink",
            Kind::Source(_) => "source",
            Kind::Switch(_) => "switch",
            Kind::Recording(_) => "pcap",
            Kind::Descriptor(name, _) | Kind::Other(name, _) => name,
        }
    }

    fn __repr__(&self) -> String {
        format!("<NetBackend {}>", self.name())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        match &self.callback {
            Some(callback) => visit.call(&**callback),
            None => Ok(()),
        }
    }
}

/// Joins network devices of this process.
#[pyclass(frozen, module = "virtio._native")]
pub(crate) struct NetSwitch(Arc<Switch>);

#[pymethods]
impl NetSwitch {
    #[new]
    fn new() -> Self {
        Self(Arc::default())
    }

    /// A new port: an access port of a VLAN, or a trunk.
    #[pyo3(signature = (vlan=None))]
    fn port(&self, vlan: Option<u16>) -> PyResult<NetBackend> {
        if vlan.is_some_and(|vlan| !(1..4095).contains(&vlan)) {
            return Err(configuration("a VLAN is a number from 1 to 4094"));
        }
        Ok(NetBackend::of(Kind::Switch(self.0.port(vlan))))
    }

    /// The addresses learnt: (VLAN, address, number of the port).
    #[getter]
    fn learnt(&self) -> Vec<(u16, Vec<u8>, usize)> {
        let learnt = self.0.learnt().into_iter();
        learnt
            .map(|(vlan, mac, port)| (vlan, mac.to_vec(), port))
            .collect()
    }
}
