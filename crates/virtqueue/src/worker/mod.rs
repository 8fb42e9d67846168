//! A native thread per queue.
//!
//! A [`Worker`] is what a device keeps for a queue as long as it lives: the descriptors for
//! notifications, the counters, the polling time. Each [`Worker::start`] makes a ring and a
//! thread that serves it with a [`Handler`]; [`Worker::stop`] ends them.

mod engine;
mod handler;
mod pool;
#[cfg(test)]
mod tests;
mod window;

pub use handler::{Completions, Handler};
pub use pool::Pool;
pub(crate) use window::Window;

use crate::counters::Counters;
use crate::fault::Fault;
use crate::memory::{GuestMemory, Reader, Strike};
use crate::notify::{Call, CallFd, CallSlot, EventFd, Kick};
use crate::ring::inflight::Area;
use crate::ring::{Config, ConfigError, DeviceRing, Ring};
use engine::Engine;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The largest batch that can be asked for.
pub const MAX_BATCH: usize = 256;

/// No notification has come with data.
pub(crate) const NO_HINT: u32 = u32::MAX;

/// How a worker finds out that there is work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polling {
    /// It sleeps, and is kicked.
    Off,
    /// It looks at an empty ring for at most so long, for as long as that has paid recently, then sleeps.
    Adaptive(Duration),
    /// It never sleeps, and no kick is needed.
    Busy,
}

impl Polling {
    fn to_ns(self) -> u64 {
        match self {
            Self::Off => 0,
            Self::Adaptive(time) => u64::try_from(time.as_nanos()).unwrap_or(BUSY).min(BUSY - 1),
            Self::Busy => BUSY,
        }
    }
}

/// How notifications of the driver are put off: until so many chains are complete, or so much time has passed
/// since the first of them. A zero in either: not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coalescing {
    /// Chains.
    pub packets: u32,
    /// Microseconds.
    pub microseconds: u32,
}

impl Coalescing {
    fn pack(self) -> u64 {
        if self.packets == 0 || self.microseconds == 0 {
            return 0;
        }
        u64::from(self.packets) << 32 | u64::from(self.microseconds)
    }

    fn unpack(packed: u64) -> Self {
        Self {
            packets: (packed >> 32) as u32,
            microseconds: packed as u32,
        }
    }
}

/// [`Polling::Busy`] among times in nanoseconds.
pub(crate) const BUSY: u64 = u64::MAX;

/// What a worker is made with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the thread, as in `top -H`; the kernel keeps 15 bytes.
    pub name: String,
    /// Chains handed to the handler at once, at most ([`MAX_BATCH`]).
    pub batch: usize,
    /// Whether to poll the ring.
    pub polling: Polling,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: String::from("virtqueue"),
            batch: 64,
            polling: Polling::Off,
        }
    }
}

/// Why a queue did not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// It runs already.
    Running,
    /// The ring cannot be as described.
    Config(ConfigError),
    /// No thread.
    Thread(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running => write!(f, "the queue is running"),
            Self::Config(error) => error.fmt(f),
            Self::Thread(error) => write!(f, "cannot start a thread: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// How a queue ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Where a successor continues ([`DeviceRing::base`]).
    pub base: u32,
    /// Chains taken that will neither be completed nor offered again. 0 after a clean stop.
    pub lost: u32,
    /// Whether all operations ended in time. If not, the handler was left behind, with the
    /// memory that it uses.
    pub drained: bool,
}

/// What the worker's owner and its thread share.
pub(crate) struct Shared {
    pub(crate) counters: Arc<Counters>,
    /// Wakes the thread: something here, or the memory's map, has changed.
    pub(crate) control: Arc<EventFd>,
    pub(crate) kick: Mutex<Option<Kick>>,
    /// Counts changes of `kick` and `call`.
    pub(crate) revision: AtomicU32,
    pub(crate) call: CallSlot,
    pub(crate) error: Mutex<Option<CallFd>>,
    /// In-band kicks that the thread has not seen yet.
    pub(crate) notified: AtomicU64,
    /// What the last notification with data said (`next`), or [`NO_HINT`].
    pub(crate) hint: AtomicU32,
    pub(crate) polling_ns: AtomicU64,
    /// [`Coalescing`], packed.
    pub(crate) coalescing: AtomicU64,
    pub(crate) on_fault: Box<dyn Fn(&Fault) + Send + Sync>,
}

/// One run of the thread.
pub(crate) struct Run {
    /// No more chains are to be taken.
    pub(crate) stop: AtomicBool,
    /// The queue is being reset: no completion may reach the ring any more.
    pub(crate) discard: AtomicBool,
    /// When draining has to be over; valid once `stop` is set.
    pub(crate) deadline: Mutex<Option<Instant>>,
    /// The owner has given up on the thread: it must not touch the ring any more.
    pub(crate) abandoned: AtomicBool,
    /// [`DeviceRing::position`], for when the thread is stuck, and what was outstanding.
    pub(crate) position: AtomicU32,
    pub(crate) outstanding: AtomicU32,
    pub(crate) broken: AtomicBool,
    ended: Mutex<Option<Stopped>>,
    end: Condvar,
}

struct Running {
    run: Arc<Run>,
    thread: JoinHandle<()>,
    reader: Strike,
}

/// The device's end of one queue, with the thread that serves it.
pub struct Worker {
    memory: Arc<GuestMemory>,
    name: String,
    batch: usize,
    shared: Arc<Shared>,
    inflight: Mutex<Option<Area>>,
    running: Mutex<Option<Running>>,
    /// The latest run, for its flags after it has ended.
    latest: Mutex<Option<Arc<Run>>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these protect is replaced in one assignment: a panic leaves nothing half done.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Worker {
    /// A queue that is not started. `on_fault` is called on the worker's thread when the
    /// driver has broken a rule (or the handler has failed) and the queue has stopped for that.
    pub fn new(
        memory: Arc<GuestMemory>,
        options: Options,
        on_fault: Box<dyn Fn(&Fault) + Send + Sync>,
    ) -> io::Result<Self> {
        let shared = Shared {
            counters: Arc::default(),
            control: Arc::new(EventFd::new()?),
            kick: Mutex::new(None),
            revision: AtomicU32::new(0),
            call: CallSlot::default(),
            error: Mutex::new(None),
            notified: AtomicU64::new(0),
            hint: AtomicU32::new(NO_HINT),
            polling_ns: AtomicU64::new(0),
            coalescing: AtomicU64::new(0),
            on_fault,
        };
        let worker = Self {
            memory,
            name: options.name,
            batch: options.batch.clamp(1, MAX_BATCH),
            shared: Arc::new(shared),
            inflight: Mutex::new(None),
            running: Mutex::new(None),
            latest: Mutex::new(None),
        };
        worker.set_polling(options.polling);
        Ok(worker)
    }

    /// Where kicks come from, from now on. The descriptor is duplicated; a kind that cannot
    /// carry a kick is refused.
    pub fn set_kick(&self, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let kick = fd.map(Kick::new).transpose()?;
        *lock(&self.shared.kick) = kick;
        self.shared.revision.fetch_add(1, Ordering::Release);
        self.shared.control.signal();
        Ok(())
    }

    /// How the driver is notified, from now on: nothing goes to the old call after this returns. If there was none
    /// while chains were completed, the new one is signalled at once.
    pub fn set_call(&self, call: Call) -> io::Result<()> {
        self.shared.call.set(call)?;
        self.shared.revision.fetch_add(1, Ordering::Release);
        self.shared.control.signal();
        Ok(())
    }

    /// What is signalled when the queue has broken.
    pub fn set_error(&self, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let error = fd.map(CallFd::new).transpose()?;
        *lock(&self.shared.error) = error;
        Ok(())
    }

    /// Where to keep what is under way, from the next start on.
    pub fn set_inflight(&self, area: Option<Area>) {
        *lock(&self.inflight) = area;
    }

    /// Whether to poll the ring, from now on.
    pub fn set_polling(&self, polling: Polling) {
        self.shared.polling_ns.store(polling.to_ns(), Ordering::Relaxed);
        self.shared.control.signal();
    }

    /// How to put notifications of the driver off, from now on; also those that wait already.
    pub fn set_coalescing(&self, coalescing: Coalescing) {
        self.shared.coalescing.store(coalescing.pack(), Ordering::Relaxed);
        self.shared.control.signal();
    }

    /// A kick that came in-band.
    pub fn notify(&self) {
        self.shared.notified.fetch_add(1, Ordering::Relaxed);
        self.shared.control.signal();
    }

    /// A kick with data (VIRTIO_F_NOTIFICATION_DATA): the next entry will be made available at `next`.
    pub fn notify_at(&self, next: u16) {
        // Release: pairs with the acquire in the engine; what the driver did before it notified is seen.
        self.shared.hint.store(u32::from(next), Ordering::Release);
        self.notify();
    }

    /// Starts serving a ring. Should the ring not be mapped yet, it stays idle until it is.
    /// The ring is looked at once without a kick.
    pub fn start(&self, config: &Config, handler: Box<dyn Handler>) -> Result<(), StartError> {
        let mut running = lock(&self.running);
        // A run that has ended by itself, with a fault, is in nobody's way.
        if running
            .as_ref()
            .is_some_and(|running| lock(&running.run.ended).is_none())
        {
            return Err(StartError::Running);
        }
        let mut ring = Ring::new(config).map_err(StartError::Config)?;
        if let Some(area) = lock(&self.inflight).clone() {
            ring.track(area);
        }
        let run = Arc::new(Run {
            stop: AtomicBool::new(false),
            discard: AtomicBool::new(false),
            deadline: Mutex::new(None),
            abandoned: AtomicBool::new(false),
            position: AtomicU32::new(ring.position()),
            outstanding: AtomicU32::new(0),
            broken: AtomicBool::new(false),
            ended: Mutex::new(None),
            end: Condvar::new(),
        });
        let reader = Reader::new(self.memory.clone(), self.shared.control.clone());
        let strike = reader.struck();
        let (shared, own, batch) = (self.shared.clone(), run.clone(), self.batch);
        let thread = thread::Builder::new()
            .name(self.name.clone())
            .spawn(move || {
                let engine = Engine::new(shared, own.clone(), ring, handler, reader, batch);
                engine.run(|stopped| {
                    *lock(&own.ended) = Some(stopped);
                    own.end.notify_all();
                });
            })
            .map_err(StartError::Thread)?;
        *lock(&self.latest) = Some(run.clone());
        *running = Some(Running {
            run,
            thread,
            reader: strike,
        });
        Ok(())
    }

    /// Takes no more chains, lets those under way end, and stops; at the latest when `timeout`
    /// is over (and the handler's `release` and drop with it). `None` if the queue was not started.
    pub fn stop(&self, timeout: Duration) -> Option<Stopped> {
        self.end(timeout, false)
    }

    /// Stops at once (VIRTIO 1.4, 2.6.1.1.1): once this returns, nothing is taken from the ring, no
    /// completion is written and no notification sent. Operations under way on guest memory are waited
    /// for, until `timeout` is over: the driver is going to reuse that memory. What they give is thrown away.
    /// Returns how many chains the driver gets back unanswered.
    pub fn reset(&self, timeout: Duration) -> u32 {
        let lost = self.end(timeout, true).map_or(0, |stopped| stopped.lost);
        self.shared.hint.store(NO_HINT, Ordering::Relaxed);
        *lock(&self.latest) = None;
        lost
    }

    fn end(&self, timeout: Duration, discard: bool) -> Option<Stopped> {
        let Running { run, thread, reader } = lock(&self.running).take()?;
        if discard {
            run.discard.store(true, Ordering::SeqCst);
        }
        *lock(&run.deadline) = Some(Instant::now() + timeout);
        run.stop.store(true, Ordering::Release);
        self.shared.control.signal();
        // The thread keeps to the deadline by itself unless its handler is stuck.
        let patience = Instant::now() + timeout + Duration::from_millis(200);
        let own = thread.thread().id() == thread::current().id();
        let mut ended = lock(&run.ended);
        while ended.is_none() && !own {
            let left = patience.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            ended = match run.end.wait_timeout(ended, left) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        let stopped = *ended;
        drop(ended);
        if stopped.is_some() {
            return stopped;
        }
        run.abandoned.store(true, Ordering::SeqCst);
        reader.strike();
        Some(Stopped {
            base: run.position.load(Ordering::Acquire),
            lost: run.outstanding.load(Ordering::Acquire),
            drained: false,
        })
    }

    /// Whether it has been started and neither stopped nor broken.
    pub fn running(&self) -> bool {
        lock(&self.running)
            .as_ref()
            .is_some_and(|running| !running.run.broken.load(Ordering::Acquire))
    }

    /// Whether its last run ended with a fault.
    pub fn broken(&self) -> bool {
        lock(&self.latest)
            .as_ref()
            .is_some_and(|run| run.broken.load(Ordering::Acquire))
    }

    /// The counters, over all runs.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.shared.counters
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("name", &self.name)
            .field("running", &self.running())
            .finish()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop(Duration::from_secs(1));
    }
}
