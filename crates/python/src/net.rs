//! `NetPort` and the handlers of a network device's queues.

use crate::contents::Contents;
use crate::errors::configuration;
use crate::handler::{Calling, Handler};
use crate::net_backend::NetBackend;
use crate::net_frames::{Fields, NetFrames, checked};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use virtqueue::net::{
    Filter, Frames, GUEST_OFFLOADS, Hasher, Mac, Port, Receiver, Rule, Rules, Steering, Transmitter, Verdict,
    Vlans,
};
use virtqueue::spec::net::{VIRTIO_NET_F_MQ, VIRTIO_NET_F_RSS};
use virtqueue::worker;

/// Types of headers, masks, keys, and a receive queue or nobody.
type FlowRule = (Vec<u8>, Vec<u8>, Vec<u8>, Option<u16>);

/// What the queues of one network device share.
#[pyclass(frozen, module = "virtio._native")]
pub(crate) struct NetPort {
    inner: Arc<Port>,
    backend: Mutex<Option<Py<NetBackend>>>,
    pairs: usize,
}

impl NetPort {
    /// The back end's Python object.
    fn calls(&self, py: Python<'_>) -> bool {
        let backend = self.backend.lock().unwrap_or_else(PoisonError::into_inner);
        backend
            .as_ref()
            .is_some_and(|backend| backend.bind(py).get().calls())
    }

    fn queue(&self, queue: u16) -> PyResult<u16> {
        if usize::from(queue) < self.pairs {
            Ok(queue)
        } else {
            Err(configuration(format!(
                "pair {queue} of a device with {}",
                self.pairs
            )))
        }
    }
}

fn mac(bytes: &[u8]) -> PyResult<Mac> {
    Mac::try_from(bytes).map_err(|_| configuration(format!("a MAC address has 6 bytes, not {}", bytes.len())))
}

#[pymethods]
impl NetPort {
    #[new]
    fn new(pairs: usize) -> PyResult<Self> {
        if !(1..=0x8000).contains(&pairs) {
            return Err(configuration(format!(
                "{pairs} pairs: from 1 to 32768 are possible"
            )));
        }
        let inner = Port::new(pairs).map_err(|error| PyOSError::new_err(error.to_string()))?;
        Ok(Self {
            inner: Arc::new(inner),
            backend: Mutex::new(None),
            pairs,
        })
    }

    fn set_backend(&self, py: Python<'_>, backend: Option<Py<NetBackend>>) {
        let native = backend.as_ref().map(|backend| backend.bind(py).get().native());
        let before = {
            let mut slot = self.backend.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *slot, backend)
        };
        py.detach(|| self.inner.set_backend(native));
        drop(before);
    }

    /// A driver has chosen its features; all its offloads are switched on.
    #[pyo3(signature = (features, *, mtu=None))]
    fn negotiated(&self, features: u128, mtu: Option<usize>) {
        self.inner.update(|settings| {
            settings.features = features;
            settings.offloads = features & GUEST_OFFLOADS;
            settings.mtu = mtu;
        });
    }

    fn set_offloads(&self, offloads: u128) {
        self.inner.update(|settings| {
            settings.offloads = offloads & settings.features & GUEST_OFFLOADS;
        });
    }

    #[allow(clippy::too_many_arguments, reason = "the receive modes, by name in Python")]
    #[pyo3(signature = (address, *, promiscuous=false, all_multicast=false, all_unicast=false,
                        no_multicast=false, no_unicast=false, no_broadcast=false, macs=Vec::new(), vlans=None))]
    fn set_filter(
        &self,
        address: &[u8],
        promiscuous: bool,
        all_multicast: bool,
        all_unicast: bool,
        no_multicast: bool,
        no_unicast: bool,
        no_broadcast: bool,
        macs: Vec<Vec<u8>>,
        vlans: Option<Vec<u16>>,
    ) -> PyResult<()> {
        let vlans = vlans.map(|ids| {
            let mut set: Box<Vlans> = Box::new([0; 64]);
            ids.iter()
                .filter(|id| **id < 4096)
                .for_each(|id| set[usize::from(id >> 6)] |= 1 << (id & 63));
            set
        });
        let filter = Filter {
            promiscuous,
            all_multicast,
            all_unicast,
            no_multicast,
            no_unicast,
            no_broadcast,
            mac: mac(address)?,
            macs: macs.iter().map(|bytes| mac(bytes)).collect::<PyResult<_>>()?,
            vlans,
        };
        self.inner.update(|settings| settings.filter = filter);
        Ok(())
    }

    /// Rules that come before steering, in their order.
    fn set_rules(&self, rules: Vec<FlowRule>) -> PyResult<()> {
        let read = |(types, masks, keys, queue): &FlowRule| {
            let verdict = match queue {
                Some(queue) => Verdict::Queue(self.queue(*queue)?),
                None => Verdict::Drop,
            };
            Rule::new(types, masks, keys, verdict)
                .ok_or_else(|| configuration(format!("a rule about headers {types:?} of another length")))
        };
        let rules = Rules::new(rules.iter().map(read).collect::<PyResult<Vec<_>>>()?);
        let rules = (!rules.is_empty()).then(|| Arc::new(rules));
        self.inner.update(|settings| settings.rules = rules);
        Ok(())
    }

    /// Spreads frames over the first `pairs` receive queues, each to where its flow is sent from.
    fn steer_automatically(&self, pairs: u16) -> PyResult<()> {
        self.queue(pairs.wrapping_sub(1))?;
        self.inner
            .update(|settings| settings.steering = Steering::Automatic(pairs));
        Ok(())
    }

    /// Spreads frames by hash.
    fn steer_by_table(&self, table: Vec<u16>, unclassified: u16) -> PyResult<()> {
        if !table.len().is_power_of_two() {
            return Err(configuration(format!(
                "an indirection table has a power of two of entries, not {}",
                table.len()
            )));
        }
        table
            .iter()
            .chain([&unclassified])
            .try_for_each(|queue| self.queue(*queue).map(drop))?;
        self.inner.update(|settings| {
            settings.steering = Steering::Table {
                table: table.into(),
                unclassified,
            };
        });
        Ok(())
    }

    /// Computes hashes of these types; none: no longer.
    fn set_hash(&self, types: u32, key: &[u8]) {
        let hasher = (types != 0).then(|| Hasher::new(types, key));
        self.inner.update(|settings| {
            settings.hasher = hasher.map(|hasher| Arc::new(hasher.into_tunnels(settings.tunnels)));
        });
    }

    /// Hashes the inner headers of packets in these tunnels, and the outer ones of all others.
    fn set_tunnels(&self, tunnels: u32) {
        self.inner.update(|settings| {
            settings.tunnels = tunnels;
            settings.hasher = settings
                .hasher
                .take()
                .map(|hasher| Arc::new(Hasher::clone(&hasher).into_tunnels(tunnels)));
        });
    }

    #[getter]
    fn link(&self) -> bool {
        self.inner.settings().link
    }

    #[setter]
    fn set_link(&self, link: bool) {
        self.inner.update(|settings| settings.link = link);
    }

    /// Forgets what a driver has set.
    fn reset(&self) {
        self.inner.reset();
    }

    /// Gives the driver a frame. False: it was dropped or filtered.
    #[pyo3(signature = (frame, offload=None))]
    fn deliver(&self, frame: &Bound<'_, PyAny>, offload: Option<Fields>) -> PyResult<bool> {
        let bytes = Contents::of(frame)?.to_vec();
        let mut frames = Frames::default();
        frames.push(&bytes, checked(offload, &bytes)?);
        Ok(self.inner.deliver(&mut frames) == 1)
    }

    /// Gives the driver frames as they are now; returns how many it gets.
    fn deliver_batch(&self, py: Python<'_>, frames: &Bound<'_, NetFrames>) -> usize {
        let mut copy = Frames::default();
        frames.get().lent.copy(py, &mut copy);
        py.detach(|| self.inner.deliver(&mut copy))
    }

    /// What a pair of queues has done, by the names of the standard.
    fn statistics(&self, pair: usize) -> PyResult<HashMap<&'static str, u64>> {
        let (Some(rx), Some(tx)) = (self.inner.received(pair), self.inner.transmitted(pair)) else {
            return Err(configuration(format!(
                "pair {pair} of a device with {}",
                self.pairs
            )));
        };
        Ok([
            ("rx_packets", &rx.packets),
            ("rx_bytes", &rx.bytes),
            ("rx_drops", &rx.drops),
            ("rx_drop_overruns", &rx.drop_overruns),
            ("rx_csum_valid", &rx.csum_valid),
            ("rx_needs_csum", &rx.needs_csum),
            ("rx_csum_none", &rx.csum_none),
            ("rx_csum_bad", &rx.csum_bad),
            ("rx_gso_packets", &rx.gso_packets),
            ("rx_gso_bytes", &rx.gso_bytes),
            ("tx_packets", &tx.packets),
            ("tx_bytes", &tx.bytes),
            ("tx_drops", &tx.drops),
            ("tx_drop_malformed", &tx.drop_malformed),
            ("tx_csum_none", &tx.csum_none),
            ("tx_needs_csum", &tx.needs_csum),
            ("tx_gso_packets", &tx.gso_packets),
            ("tx_gso_bytes", &tx.gso_bytes),
            ("tx_gso_segments", &tx.gso_segments),
            ("tx_gso_segments_bytes", &tx.gso_segments_bytes),
            ("tx_gso_packets_noseg", &tx.gso_packets_noseg),
            ("tx_gso_bytes_noseg", &tx.gso_bytes_noseg),
        ]
        .into_iter()
        .map(|(name, count)| (name, count.get()))
        .collect())
    }

    fn __repr__(&self) -> String {
        format!("<NetPort of {} pairs>", self.pairs)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Ok(backend) = self.backend.try_lock() {
            if let Some(backend) = &*backend {
                visit.call(backend)?;
            }
        }
        Ok(())
    }
}

/// Puts frames into the buffers of a receive queue.
#[pyclass(extends = Handler, frozen, module = "virtio._native")]
pub(crate) struct NetReceiver {
    port: Py<NetPort>,
    pair: usize,
    otherwise: Option<Py<Handler>>,
}

/// Takes frames out of a transmit queue.
#[pyclass(extends = Handler, frozen, module = "virtio._native")]
pub(crate) struct NetTransmitter {
    port: Py<NetPort>,
    pair: usize,
}

impl NetReceiver {
    /// What answers the queue if the driver uses one pair only: then it is another one (5.1.2).
    pub(crate) fn otherwise<'py>(&self, py: Python<'py>, features: u128) -> Option<Bound<'py, Handler>> {
        const PAIRS: u128 = VIRTIO_NET_F_MQ | VIRTIO_NET_F_RSS;
        let otherwise = self.otherwise.as_ref()?;
        (features & PAIRS == 0).then(|| otherwise.bind(py).clone())
    }

    /// The native handler of a queue with `size` entries.
    pub(crate) fn start(&self, size: u32) -> Box<dyn worker::Handler> {
        let port = self.port.get().inner.clone();
        Box::new(Receiver::new(port, self.pair, size as usize))
    }
}

impl NetTransmitter {
    /// The native handler of the queue with this number.
    pub(crate) fn start(&self, py: Python<'_>, queue: usize) -> Box<dyn worker::Handler> {
        let port = self.port.get();
        let native = Transmitter::new(port.inner.clone(), self.pair);
        if port.calls(py) {
            Box::new(Calling::new(queue, native))
        } else {
            Box::new(native)
        }
    }
}

#[pymethods]
impl NetReceiver {
    #[new]
    #[pyo3(signature = (port, pair, *, otherwise=None))]
    fn new(port: Py<NetPort>, pair: u16, otherwise: Option<Py<Handler>>) -> PyResult<(Self, Handler)> {
        let pair = port.get().queue(pair)?.into();
        let receiver = Self {
            port,
            pair,
            otherwise,
        };
        Ok((receiver, Handler))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(otherwise) = &self.otherwise {
            visit.call(otherwise)?;
        }
        visit.call(&self.port)
    }
}

#[pymethods]
impl NetTransmitter {
    #[new]
    fn new(port: Py<NetPort>, pair: u16) -> PyResult<(Self, Handler)> {
        let pair = port.get().queue(pair)?.into();
        Ok((Self { port, pair }, Handler))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.port)
    }
}
