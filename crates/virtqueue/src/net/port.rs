//! A network device between its queues and its back end.

use super::filter::Filter;
use super::flow::{Rules, Verdict};
use super::frames::Frames;
use super::header::ETHERNET;
use super::layers::vlan;
use super::steering::{Flows, Steering, steer};
use super::tally::{Received, Transmitted};
use super::toeplitz::Hasher;
use crate::notify::EventFd;
use crate::spec::net::*;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Frames that wait for receive buffers, per queue. More are dropped.
const INBOX_FRAMES: usize = 4096;
/// Who leaves frames behind so many lets the receive queue's worker go first, should they share a processor.
const INBOX_AHEAD: usize = 512;
/// Their bytes.
const INBOX_BYTES: usize = 8 << 20;
/// The queue of frames that no queue gets.
const NOWHERE: u16 = u16::MAX;

/// All that a driver can take of large packets and partial checksums (`GUEST_…`).
pub const GUEST_OFFLOADS: u128 = VIRTIO_NET_F_GUEST_CSUM
    | VIRTIO_NET_F_GUEST_TSO4
    | VIRTIO_NET_F_GUEST_TSO6
    | VIRTIO_NET_F_GUEST_ECN
    | VIRTIO_NET_F_GUEST_UFO
    | VIRTIO_NET_F_GUEST_USO4
    | VIRTIO_NET_F_GUEST_USO6
    | VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO
    | VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO_CSUM;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where frames go to and come from.
pub trait Backend: Send + Sync {
    /// What it takes besides complete frames: `VIRTIO_NET_F_CSUM` and `VIRTIO_NET_F_HOST_…` bits. All else is done
    /// in software before.
    fn accepts(&self) -> u128;
    /// Frames from the driver, on the worker of a transmit queue. It may change and keep them (by swapping), and
    /// leaves a batch behind that will be cleared.
    fn transmit(&self, queue: usize, frames: &mut Frames);
    /// Adds up to `room` frames for a receive queue, on its worker, which asks whenever there are free buffers.
    /// For back ends that make frames up; all others call [`Port::deliver`].
    fn pull(&self, queue: usize, room: usize, frames: &mut Frames) {
        let _ = (queue, room, frames);
    }
    /// The port that it serves from now on.
    fn attach(&self, port: Weak<Port>) {
        let _ = port;
    }
}

/// What the driver has negotiated and set. Replaced as a whole.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Negotiated features.
    pub features: u128,
    /// The `GUEST_…` features that are switched on now.
    pub offloads: u128,
    /// Which frames are wanted.
    pub filter: Filter,
    /// Rules that come before steering; `None`: there are none.
    pub rules: Option<Arc<Rules>>,
    /// Where they go.
    pub steering: Steering,
    /// Hashes frames, for steering or for the report.
    pub hasher: Option<Arc<Hasher>>,
    /// Encapsulations whose inner headers it hashes.
    pub tunnels: u32,
    /// Whether there is a link. Without, nothing passes.
    pub link: bool,
    /// The longest packet without its Ethernet header, if the driver was told of one.
    pub mtu: Option<usize>,
}

impl Settings {
    /// The `HOST_…` features that say what may be handed to the driver.
    pub fn receivable(&self) -> u128 {
        let mut host = 0;
        for (guest, as_host) in [
            (VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_CSUM),
            (VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_HOST_TSO4),
            (VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_TSO6),
            (VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_HOST_ECN),
            (VIRTIO_NET_F_GUEST_UFO, VIRTIO_NET_F_HOST_UFO),
            (
                VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO,
                VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO,
            ),
            (
                VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO_CSUM,
                VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO_CSUM,
            ),
        ] {
            if self.offloads & guest != 0 {
                host |= as_host;
            }
        }
        // One kind of header for both versions of IP: only who takes either can be given it unseen.
        if self.offloads & VIRTIO_NET_F_GUEST_USO4 != 0 && self.offloads & VIRTIO_NET_F_GUEST_USO6 != 0 {
            host |= VIRTIO_NET_F_HOST_USO;
        }
        if host & VIRTIO_NET_F_CSUM == 0 { 0 } else { host }
    }
}

/// Frames on their way into a receive queue.
#[derive(Debug)]
pub(super) struct Inbox {
    frames: Mutex<Frames>,
    /// There is something in it.
    ready: AtomicBool,
    pub(super) event: EventFd,
}

impl Inbox {
    fn new() -> io::Result<Self> {
        Ok(Self {
            frames: Mutex::default(),
            ready: AtomicBool::new(false),
            event: EventFd::new()?,
        })
    }

    /// Exchanges what is in it for an empty batch. False if there is nothing.
    #[inline]
    pub(super) fn take(&self, empty: &mut Frames) -> bool {
        if !self.ready.load(Ordering::Relaxed) {
            return false;
        }
        let mut frames = lock(&self.frames);
        self.event.clear();
        self.ready.store(false, Ordering::Relaxed);
        std::mem::swap(&mut *frames, empty);
        true
    }

    /// Puts frames back that were taken and not delivered, before those that came since. Returns how many of them
    /// all are lost for want of room. `wanted` is asked when nobody can clear it any more without these being there.
    fn put_back(&self, mut frames: Frames, wanted: impl FnOnce() -> bool) -> usize {
        let mut waiting = lock(&self.frames);
        if !wanted() {
            return 0;
        }
        let mut lost = 0;
        for frame in waiting.list() {
            if has_room(&frames, frame.size()) {
                frames.push_frame(&waiting, frame);
            } else {
                lost += 1;
            }
        }
        *waiting = frames;
        if !waiting.is_empty() && !self.ready.swap(true, Ordering::Relaxed) {
            self.event.signal();
        }
        lost
    }

    fn clear(&self) {
        let mut frames = lock(&self.frames);
        self.event.clear();
        self.ready.store(false, Ordering::Relaxed);
        frames.clear();
    }
}

/// Whether another frame may wait.
pub(super) fn has_room(frames: &Frames, size: usize) -> bool {
    frames.len() < INBOX_FRAMES && frames.bytes() + size <= INBOX_BYTES
}

/// One pair of queues.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) inbox: Inbox,
    pub(super) received: Received,
    pub(super) transmitted: Transmitted,
    /// Who serves the receive queue: one, or two for the moment in which one follows another.
    pub(super) open: AtomicUsize,
}

/// What the queues of a network device share.
pub struct Port {
    settings: Mutex<Arc<Settings>>,
    generation: AtomicU64,
    /// Counts drivers: what waits for one is not for the next.
    driver: AtomicU64,
    pub(super) pairs: Box<[Pair]>,
    pub(super) flows: Flows,
    backend: Mutex<Option<Arc<dyn Backend>>>,
}

impl std::fmt::Debug for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Port")
            .field("pairs", &self.pairs.len())
            .finish_non_exhaustive()
    }
}

impl Port {
    /// A port with so many pairs of queues, no back end and no link.
    pub fn new(pairs: usize) -> io::Result<Self> {
        let pair = || {
            Ok(Pair {
                inbox: Inbox::new()?,
                received: Received::default(),
                transmitted: Transmitted::default(),
                open: AtomicUsize::new(0),
            })
        };
        Ok(Self {
            settings: Mutex::default(),
            generation: AtomicU64::new(1),
            driver: AtomicU64::new(0),
            pairs: (0..pairs.max(1)).map(|_| pair()).collect::<io::Result<_>>()?,
            flows: Flows::default(),
            backend: Mutex::new(None),
        })
    }

    /// Changes where frames go to and come from.
    pub fn set_backend(self: &Arc<Self>, backend: Option<Arc<dyn Backend>>) {
        if let Some(backend) = &backend {
            backend.attach(Arc::downgrade(self));
        }
        let before = std::mem::replace(&mut *lock(&self.backend), backend);
        self.generation.fetch_add(1, Ordering::Release);
        drop(before);
    }

    /// Where frames go to and come from.
    pub fn backend(&self) -> Option<Arc<dyn Backend>> {
        lock(&self.backend).clone()
    }

    /// What is set at the moment.
    pub fn settings(&self) -> Arc<Settings> {
        lock(&self.settings).clone()
    }

    /// Changes settings, all at once.
    pub fn update(&self, change: impl FnOnce(&mut Settings)) {
        let mut settings = lock(&self.settings);
        let mut next = Settings::clone(&settings);
        change(&mut next);
        *settings = Arc::new(next);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The driver is gone: settings as at the start but for the link, and no frames waiting.
    pub fn reset(&self) {
        self.update(|settings| {
            *settings = Settings {
                link: settings.link,
                ..Settings::default()
            };
        });
        self.flows.clear();
        self.driver.fetch_add(1, Ordering::AcqRel);
        self.pairs.iter().for_each(|pair| pair.inbox.clear());
    }

    /// Changes with the settings and the back end.
    #[inline]
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Which driver this is.
    pub(super) fn driver(&self) -> u64 {
        self.driver.load(Ordering::Acquire)
    }

    /// A receive queue stops, and these frames for `driver` were not delivered: they wait for it to be enabled again.
    pub(super) fn put_back(&self, queue: usize, driver: u64, frames: Frames) {
        let Some(pair) = self.pairs.get(queue) else { return };
        // Not if its worker was given up with its driver, and ends only now.
        let lost = pair.inbox.put_back(frames, || self.driver() == driver);
        pair.received.drops.add(lost as u64);
        pair.received.drop_overruns.add(lost as u64);
    }

    /// What a receive queue has done.
    pub fn received(&self, queue: usize) -> Option<&Received> {
        Some(&self.pairs.get(queue)?.received)
    }

    /// What a transmit queue has done.
    pub fn transmitted(&self, queue: usize) -> Option<&Transmitted> {
        Some(&self.pairs.get(queue)?.transmitted)
    }

    /// Takes frames for the driver, from any thread: filters them, chooses their queues, and leaves them there.
    /// Returns how many were not dropped; those that the driver does not want do not count as dropped.
    pub fn deliver(&self, frames: &mut Frames) -> usize {
        let settings = self.settings();
        if !settings.link {
            return 0;
        }
        // Most often all go to one queue.
        let single = matches!(settings.steering, Steering::Automatic(0 | 1))
            && settings.hasher.is_none()
            && settings.rules.is_none();
        let mut taken = 0;
        let mut at = 0;
        while at < frames.len() {
            let queue = if single {
                0
            } else {
                self.classify(&settings, frames, at)
            };
            let mut end = at + 1;
            while end < frames.len() && (single || self.classify(&settings, frames, end) == queue) {
                end += 1;
            }
            taken += self.put(&settings, usize::from(queue), frames, at..end);
            at = end;
        }
        taken
    }

    /// How many frames wait for the receive queue that most wait for.
    pub(super) fn waiting(&self) -> usize {
        let waiting = self.pairs.iter().map(|pair| lock(&pair.inbox.frames).len());
        waiting.max().unwrap_or(0)
    }

    fn classify(&self, settings: &Settings, frames: &mut Frames, index: usize) -> u16 {
        let mut frame = frames.list()[index];
        let hasher = settings.hasher.as_deref();
        let queue = steer(
            &settings.steering,
            hasher,
            &self.flows,
            frames.get(&frame),
            &mut frame,
        );
        frames.list_mut()[index] = frame;
        if let Some(rules) = &settings.rules {
            let bytes = frames.get(&frame);
            // 5.1.9.6.4: rules are for what the receive modes, the addresses and the VLANs have let in.
            if bytes.len() < ETHERNET || !settings.filter.accepts(bytes) {
                return NOWHERE;
            }
            match rules.find(bytes) {
                Some(Verdict::Drop) => return NOWHERE,
                // Dropped there if that queue is being reset.
                Some(Verdict::Queue(queue)) => return queue,
                None => {}
            }
        }
        // Automatic steering takes another queue for one that is being reset, RSS drops (5.1.9.5.6.2, 5.1.9.5.7.3).
        match settings.steering {
            Steering::Automatic(pairs) if !self.is_open(queue) => {
                (0..pairs).find(|other| self.is_open(*other)).unwrap_or(queue)
            }
            _ => queue,
        }
    }

    fn is_open(&self, queue: u16) -> bool {
        self.pairs
            .get(usize::from(queue))
            .is_some_and(|pair| pair.open.load(Ordering::Relaxed) > 0)
    }

    fn put(
        &self,
        settings: &Settings,
        queue: usize,
        frames: &Frames,
        range: std::ops::Range<usize>,
    ) -> usize {
        let Some(pair) = self.pairs.get(queue) else {
            return 0;
        };
        let (mut taken, mut dropped, mut overruns) = (0, 0, 0);
        let open = pair.open.load(Ordering::Relaxed) > 0;
        let mut inbox = lock(&pair.inbox.frames);
        for frame in &frames.list()[range] {
            let bytes = frames.get(frame);
            if bytes.len() < ETHERNET || !settings.filter.accepts(bytes) {
                continue;
            }
            if !open || !fits(settings, bytes, frame.offload.is_large()) {
                dropped += 1;
            } else if has_room(&inbox, bytes.len()) {
                inbox.push_frame(frames, frame);
                taken += 1;
            } else {
                overruns += 1;
            }
        }
        if taken > 0 && !pair.inbox.ready.swap(true, Ordering::Relaxed) {
            pair.inbox.event.signal();
        }
        let ahead = inbox.len() >= INBOX_AHEAD;
        drop(inbox);
        if ahead {
            std::thread::yield_now();
        }
        if dropped + overruns > 0 {
            pair.received.drops.add(dropped + overruns);
            pair.received.drop_overruns.add(overruns);
        }
        taken
    }
}

/// Whether a frame is as short as the MTU wants it (5.1.4.1); a VLAN tag belongs to the Ethernet header.
fn fits(settings: &Settings, frame: &[u8], large: bool) -> bool {
    let Some(mtu) = settings.mtu else { return true };
    large || frame.len() <= mtu + ETHERNET || (vlan(frame).is_some() && frame.len() <= mtu + ETHERNET + 4)
}
