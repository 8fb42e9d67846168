//! One virtqueue, shared by the threads of a driver: kicks, and waiting for completions.

use super::Error;
use super::engine::{Counters, Engine, Tables};
use super::ledger::{Done, Owner, Ticket};
use crate::memory::Snapshot;
use crate::notify::{CallFd, EventFd};
use crate::ring::{Buffer, Config};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a thread sleeps at most before it looks whether its caller still wants to wait.
const SLICE: Duration = Duration::from_millis(100);
/// Looks at the ring, all with something to do, after which the clock is looked at, too.
const BUSY: u32 = 64;

/// How the device is notified.
pub enum Doorbell {
    /// By writing to a descriptor, which carries nothing.
    Fd(CallFd),
    /// By a function, which gets what VIRTIO_F_NOTIFICATION_DATA tells ([`Notification::to_word`]).
    ///
    /// [`Notification::to_word`]: crate::ring::Notification::to_word
    Function(Arc<dyn Fn(u32) + Send + Sync>),
}

/// What a queue is made with.
pub struct Settings {
    /// The ring.
    pub config: Config,
    /// Memory that device and driver share.
    pub memory: Arc<Snapshot>,
    /// Memory for indirect descriptors, if they are to be used.
    pub tables: Option<Tables>,
    /// What the queue is called in notifications: its number.
    pub identifier: u16,
    /// How the device is notified.
    pub kick: Doorbell,
    /// What becomes readable when the device notifies (an eventfd, duplicated); `None`: whoever
    /// receives notifications calls [`Queue::notify`].
    pub call: Option<OwnedFd>,
    /// How long a thread polls the ring before it sleeps, at most.
    pub polling: Duration,
}

/// For how long to wait.
#[derive(Clone, Copy, Default)]
pub struct Limit<'a> {
    /// Until then; `None`: for ever.
    pub deadline: Option<Instant>,
    /// Asked about every 100 ms, without a lock: whether to give up.
    pub give_up: Option<&'a dyn Fn() -> bool>,
}

impl Limit<'_> {
    /// At most `timeout` from now.
    pub fn within(timeout: Duration) -> Self {
        Self {
            deadline: Some(Instant::now() + timeout),
            give_up: None,
        }
    }

    fn left(&self) -> Option<Duration> {
        self.deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }
}

/// One virtqueue of a driver.
pub struct Queue {
    engine: Mutex<Engine>,
    turned: Condvar,
    /// Wakes the thread that sleeps for all.
    control: EventFd,
    /// Tells the event loop that something it watches has finished.
    watch: EventFd,
    identifier: u16,
    kick: Doorbell,
    call: Option<OwnedFd>,
    polling_ns: AtomicU64,
}

impl Queue {
    /// A queue on a ring that is zero, and that the device does not look at yet or knows to be empty.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        Self::with_chunks(settings, 0)
    }

    pub(super) fn with_chunks(settings: Settings, chunks: u32) -> Result<Self, Error> {
        let system = |error: std::io::Error| Error::System(error.to_string());
        let engine =
            Engine::new(&settings.config, settings.memory, settings.tables, chunks).map_err(Error::Fault)?;
        let queue = Self {
            engine: Mutex::new(engine),
            turned: Condvar::new(),
            control: EventFd::new().map_err(system)?,
            watch: EventFd::new().map_err(system)?,
            identifier: settings.identifier,
            kick: settings.kick,
            call: settings.call,
            polling_ns: AtomicU64::new(0),
        };
        queue.set_polling(settings.polling);
        Ok(queue)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Engine> {
        // A panic under this lock would be one of slices out of bounds; the ring checks itself anyway.
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a thread polls the ring before it sleeps, at most.
    pub fn set_polling(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.polling_ns.store(ns, Ordering::Relaxed);
    }

    /// What has been done so far.
    pub fn counters(&self) -> Counters {
        self.lock().counters
    }

    /// Requests that the device has.
    pub fn outstanding(&self) -> u32 {
        self.lock().outstanding()
    }

    /// Why the queue is of no use any more, if it is not.
    pub fn failure(&self) -> Option<Error> {
        self.lock().failed.clone()
    }

    /// The queue is of no use any more: whoever waits is told, and so is every later call.
    pub fn fail(&self, reason: Error) {
        let mut engine = self.lock();
        engine.failed.get_or_insert(reason);
        engine.news = true;
        self.spread(&mut engine, false);
    }

    /// A notification that did not come by the call descriptor.
    pub fn notify(&self) {
        self.control.signal();
        if self.lock().ledger.watched > 0 {
            self.watch.signal();
        }
    }

    /// Tells others of completions that this thread found.
    fn spread(&self, engine: &mut MutexGuard<'_, Engine>, collector: bool) {
        if !std::mem::take(&mut engine.news) {
            return;
        }
        if engine.followers > 0 {
            self.turned.notify_all();
        }
        if engine.asleep {
            self.control.signal();
        }
        if !collector && (!engine.ledger.finished.is_empty() || engine.failed.is_some()) {
            self.watch.signal();
        }
        // An event loop sleeps on the call: the next completion must notify again.
        while engine.ledger.watched > 0 && engine.arm() && engine.turn().is_ok() {
            engine.news = false;
            if !collector {
                self.watch.signal();
            }
            if engine.followers > 0 {
                self.turned.notify_all();
            }
        }
    }

    /// Sends the kick that is due. A function is called without the lock: it may want another one.
    fn send_kick<'a>(&'a self, mut engine: MutexGuard<'a, Engine>) -> MutexGuard<'a, Engine> {
        if engine.held || !std::mem::take(&mut engine.kick_due) {
            return engine;
        }
        match &self.kick {
            Doorbell::Fd(fd) => {
                fd.signal();
                engine
            }
            Doorbell::Function(function) => {
                let word = engine.notification(self.identifier);
                engine.kicking += 1;
                drop(engine);
                function(word);
                let mut engine = self.lock();
                engine.kicking -= 1;
                if engine.held {
                    self.turned.notify_all();
                }
                engine
            }
        }
    }

    /// Makes nothing available any more and sends no kick, until it is let go again: the device is
    /// suspended (VIRTIO 1.4, 3.4.1). What is submitted meanwhile waits in the ring, unseen.
    pub fn hold(&self, held: bool) {
        let mut engine = self.lock();
        engine.held = held;
        if !held {
            if std::mem::take(&mut engine.unpublished) {
                engine.publish();
            }
            drop(self.send_kick(engine));
            return;
        }
        while engine.kicking > 0 {
            engine = self.turned.wait(engine).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Makes a request available. `watched`: its completion is for the event loop. [`Error::Full`]
    /// if there is no room now.
    pub fn submit(&self, readable: &[Buffer], writable: &[Buffer], watched: bool) -> Result<Ticket, Error> {
        let owner = if watched { Owner::Watcher } else { Owner::Waiter };
        self.with(|engine| {
            if !engine.room(readable.len() + writable.len())? {
                engine.turn()?;
            }
            let ticket = engine.add(readable, writable, owner, None).ok_or(Error::Full)?;
            engine.publish();
            Ok(ticket)
        })
    }

    /// Does something with the engine, then what follows from it: kicks, waking others, arming.
    #[inline]
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Engine) -> Result<T, Error>) -> Result<T, Error> {
        let mut engine = self.lock();
        let watched = engine.ledger.watched;
        let result = act(&mut engine);
        if watched == 0 && engine.ledger.watched > 0 {
            engine.news = true;
        }
        self.spread(&mut engine, false);
        drop(self.send_kick(engine));
        result
    }

    /// Looks at the ring once, without waiting.
    pub fn poll(&self) -> Result<usize, Error> {
        self.with(Engine::turn)
    }

    /// The answer to a request if it is there, which is then forgotten.
    pub fn try_take(&self, ticket: Ticket) -> Result<Option<Done>, Error> {
        self.with(|engine| {
            if let Some(None) = engine.ledger.answer(ticket) {
                engine.turn()?;
            }
            take(engine, ticket)
        })
    }

    /// Waits for the answer to a request, which is then forgotten. After [`Error::TimedOut`] the
    /// request is still out.
    pub fn wait(&self, ticket: Ticket, limit: Limit<'_>) -> Result<Done, Error> {
        self.wait_until(limit, |engine| take(engine, ticket))
    }

    /// Waits until a request of so many descriptors fits.
    pub fn wait_for_room(&self, descriptors: usize, limit: Limit<'_>) -> Result<(), Error> {
        self.wait_until(limit, |engine| Ok(engine.room(descriptors)?.then_some(())))
    }

    /// Gives up a request. True if its buffers are free; else its ticket comes out of
    /// [`Self::returned`] once the device has answered.
    pub fn abandon(&self, ticket: Ticket) -> Result<bool, Error> {
        self.lock().ledger.abandon(ticket).ok_or(Error::NoSuchRequest)
    }

    /// Abandoned requests that are still out, after taking out those that came back.
    pub fn returned(&self, mut each: impl FnMut(Ticket)) -> u32 {
        // A queue that failed never gives them back; its end does.
        let _ = self.poll();
        let mut engine = self.lock();
        engine.ledger.returned.drain(..).for_each(&mut each);
        engine.ledger.abandoned
    }

    /// Descriptors that become readable when watched requests may have finished: the device's
    /// notifications, and a second one for those that other threads have found.
    pub fn descriptors(&self) -> (Option<RawFd>, RawFd) {
        (self.call.as_ref().map(AsRawFd::as_raw_fd), self.watch.as_raw_fd())
    }

    /// Takes all watched requests that have finished.
    pub fn collect(&self, mut each: impl FnMut(Ticket, Done)) -> Result<(), Error> {
        let mut engine = self.lock();
        self.watch.clear();
        engine.counters.interrupts += self.clear_call();
        let outcome = loop {
            let outcome = engine.turn();
            while let Some(ticket) = engine.ledger.finished.pop() {
                if let Some(Some(done)) = engine.ledger.answer(ticket) {
                    engine.ledger.collect(ticket);
                    each(ticket, done);
                }
            }
            if outcome.is_err() || engine.ledger.watched == 0 || !engine.arm() {
                break outcome;
            }
        };
        engine.news = true;
        self.spread(&mut engine, true);
        outcome.map(|_| ())
    }

    fn clear_call(&self) -> u64 {
        let Some(fd) = &self.call else { return 0 };
        match crate::notify::read_count(fd.as_raw_fd()) {
            crate::notify::Read::Count(count) => count,
            _ => 0,
        }
    }

    /// Waits until `ready` has something. It is asked under the lock, after each look at the ring,
    /// and may add and publish requests.
    pub(super) fn wait_until<T>(
        &self,
        limit: Limit<'_>,
        mut ready: impl FnMut(&mut Engine) -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        let mut engine = self.lock();
        let (mut looks, mut asked) = (0u32, None);
        loop {
            let seen = engine.counters.completions;
            // First what is there already; the ring is looked at only for want of it.
            match ready(&mut engine) {
                Ok(None) => {}
                outcome => {
                    self.spread(&mut engine, false);
                    drop(self.send_kick(engine));
                    return outcome.and_then(|found| found.ok_or(Error::TimedOut));
                }
            }
            engine = self.send_kick(engine);
            looks = looks.wrapping_add(1);
            if looks % BUSY == 0 {
                engine = self.heed(engine, limit, &mut asked)?;
            }
            let turned = engine.turn();
            self.spread(&mut engine, false);
            turned?;
            if engine.counters.completions != seen {
                continue;
            }
            if limit.left().is_some_and(|left| left.is_zero()) {
                return Err(Error::TimedOut);
            }
            engine = if engine.led {
                self.follow(engine, limit)?
            } else {
                self.lead(engine, limit, seen)?
            };
        }
    }

    /// Looks at the limit on behalf of a thread that always finds something, and so never sleeps.
    #[cold]
    fn heed<'a>(
        &'a self,
        engine: MutexGuard<'a, Engine>,
        limit: Limit<'_>,
        asked: &mut Option<Instant>,
    ) -> Result<MutexGuard<'a, Engine>, Error> {
        let now = Instant::now();
        if limit.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Error::TimedOut);
        }
        let Some(give_up) = limit.give_up else {
            return Ok(engine);
        };
        if now - *asked.get_or_insert(now) < SLICE {
            return Ok(engine);
        }
        *asked = Some(now);
        // Not under the lock: it may wait for a thread that wants it.
        drop(engine);
        if give_up() {
            return Err(Error::Interrupted);
        }
        Ok(self.lock())
    }

    /// Waits for the thread that looks at the ring.
    fn follow<'a>(
        &'a self,
        mut engine: MutexGuard<'a, Engine>,
        limit: Limit<'_>,
    ) -> Result<MutexGuard<'a, Engine>, Error> {
        engine.followers += 1;
        let time = limit.left().map_or(SLICE, |left| left.min(SLICE));
        let (mut engine, waited) = self
            .turned
            .wait_timeout(engine, time)
            .unwrap_or_else(PoisonError::into_inner);
        engine.followers -= 1;
        if let (true, Some(give_up)) = (waited.timed_out(), limit.give_up) {
            // Not under the lock: it may wait for a thread that wants it.
            drop(engine);
            if give_up() {
                return Err(Error::Interrupted);
            }
            engine = self.lock();
        }
        Ok(engine)
    }

    /// Polls, then sleeps, until something has come back or the time is up.
    fn lead<'a>(
        &'a self,
        mut engine: MutexGuard<'a, Engine>,
        limit: Limit<'_>,
        seen: u64,
    ) -> Result<MutexGuard<'a, Engine>, Error> {
        engine.led = true;
        let (mut engine, outcome) = self.look(engine, limit, seen);
        engine.led = false;
        self.spread(&mut engine, false);
        if engine.followers > 0 {
            // One of them is next to look.
            self.turned.notify_all();
        }
        outcome.map(|()| engine)
    }

    fn look<'a>(
        &'a self,
        mut engine: MutexGuard<'a, Engine>,
        limit: Limit<'_>,
        seen: u64,
    ) -> (MutexGuard<'a, Engine>, Result<(), Error>) {
        let polling = self.polling_ns.load(Ordering::Relaxed);
        if polling > 0 {
            engine.disarm();
            let mut window = engine.window.now(polling);
            if let Some(left) = limit.left() {
                window = window.min(left);
            }
            let start = Instant::now();
            loop {
                drop(engine);
                for _ in 0..8 {
                    std::hint::spin_loop();
                }
                engine = self.lock();
                engine.counters.polls += 1;
                let outcome = engine.turn();
                // Another thread may have found what this one waits for.
                if outcome.is_err() || engine.counters.completions != seen {
                    engine.window.hit(polling);
                    return (engine, outcome.map(|_| ()));
                }
                if start.elapsed() >= window {
                    engine.window.miss();
                    break;
                }
            }
        }
        if engine.arm() {
            return (engine, Ok(()));
        }
        self.sleep(engine, limit, polling)
    }

    fn sleep<'a>(
        &'a self,
        mut engine: MutexGuard<'a, Engine>,
        limit: Limit<'_>,
        polling: u64,
    ) -> (MutexGuard<'a, Engine>, Result<(), Error>) {
        engine.asleep = true;
        engine.counters.sleeps += 1;
        drop(engine);
        let start = Instant::now();
        let slice = if limit.give_up.is_some() {
            Some(SLICE)
        } else {
            None
        };
        let time = match (limit.left(), slice) {
            (Some(left), Some(slice)) => Some(left.min(slice)),
            (left, slice) => left.or(slice),
        };
        let woken = wait(
            [Some(self.control.as_fd()), self.call.as_ref().map(AsFd::as_fd)],
            time,
        );
        // Not under the lock: it may wait for a thread that wants it.
        let enough = !woken && limit.give_up.is_some_and(|give_up| give_up());
        let mut engine = self.lock();
        engine.asleep = false;
        self.control.clear();
        let calls = self.clear_call();
        engine.counters.interrupts += calls;
        if woken {
            engine.window.woken(start.elapsed(), polling);
        }
        (engine, if enough { Err(Error::Interrupted) } else { Ok(()) })
    }
}

fn take(engine: &mut Engine, ticket: Ticket) -> Result<Option<Done>, Error> {
    match engine.ledger.answer(ticket) {
        None => Err(engine.failed.clone().unwrap_or(Error::NoSuchRequest)),
        Some(None) => engine.failed.clone().map_or(Ok(None), Err),
        Some(Some(done)) => {
            engine.ledger.collect(ticket);
            Ok(Some(done))
        }
    }
}

/// Waits for one of two descriptors; false if the time is up.
fn wait(fds: [Option<BorrowedFd<'_>>; 2], timeout: Option<Duration>) -> bool {
    // poll ignores negative descriptors.
    let mut list = fds.map(|fd| libc::pollfd {
        fd: fd.map_or(-1, |fd| fd.as_raw_fd()),
        events: libc::POLLIN,
        revents: 0,
    });
    let time = timeout.map(|t| libc::timespec {
        tv_sec: t.as_secs().min(i32::MAX as u64) as libc::time_t,
        tv_nsec: t.subsec_nanos().into(),
    });
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both point to live values of the right length.
    unsafe { libc::ppoll(list.as_mut_ptr(), 2, time, std::ptr::null()) > 0 }
}
