//! The loop of a worker's thread.

use super::window::Window;
use super::{BUSY, Coalescing, Completions, Handler, NO_HINT, Run, Shared, Stopped, lock};
use crate::chain::Batch;
use crate::fault::{Fault, Rule};
use crate::memory::{Asked, Reader, Wanted};
use crate::notify::{Kick, Read, Sent, read_count};
use crate::relax::Relax;
use crate::ring::{DeviceRing, Ring};
use std::any::Any;
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long a busy queue looks at nothing but its ring.
const BUSY_LOOK: Duration = Duration::from_millis(1);
/// How long a broken queue waits for its handler's operations to end.
const FAULT_PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct Engine {
    shared: Arc<Shared>,
    run: Arc<Run>,
    ring: Ring,
    handler: Box<dyn Handler>,
    reader: Reader,
    batch: Batch,
    done: Completions,
    max: usize,
    window: Window,
    kick: Option<Kick>,
    revision: Option<u32>,
    /// Completions were shown while there was no way to notify the driver, which may have asked to be.
    unasked: bool,
    truncations: u64,
    /// The front end has been asked for translations, without which nothing can be taken.
    waiting: bool,
    /// Chains completed since the driver was last notified, if it is to be; and when at the latest.
    unannounced: u32,
    due: Option<Instant>,
    /// The ring was empty, and the driver is going to kick when it is not.
    armed: bool,
    /// Chains that were there when there were any.
    burst: usize,
}

impl Engine {
    pub(super) fn new(
        shared: Arc<Shared>,
        run: Arc<Run>,
        ring: Ring,
        handler: Box<dyn Handler>,
        reader: Reader,
        max: usize,
    ) -> Self {
        Self {
            shared,
            run,
            ring,
            handler,
            reader,
            batch: Batch::default(),
            done: Completions::default(),
            max,
            window: Window::default(),
            kick: None,
            revision: None,
            unannounced: 0,
            due: None,
            unasked: false,
            // Not the number of now: a mapping may have been truncated before this queue started.
            truncations: 0,
            waiting: false,
            armed: false,
            burst: 0,
        }
    }

    /// Serves until told to stop, or until a fault. `ended` is called when all is over.
    pub(super) fn run(mut self, ended: impl FnOnce(Stopped)) {
        // Zeros in the place of truncated memory look like broken rules: name the cause.
        let served = self
            .serve()
            .map_err(|fault| self.truncation().err().unwrap_or(fault));
        let deadline = match &served {
            Ok(()) => lock(&self.run.deadline).unwrap_or_else(Instant::now),
            Err(_) => Instant::now() + FAULT_PATIENCE,
        };
        let drained = self.drain(deadline);
        if self.due.is_some() && !self.run.discard.load(Ordering::SeqCst) && !self.abandoned() {
            self.notify();
        }
        let abandoned = self.abandoned();
        let Self {
            shared,
            run,
            ring,
            handler,
            reader,
            ..
        } = self;
        // A handler's drop may panic like its other methods; the queue is over in any case.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(handler)));
        drop(reader);
        let base = ring.base();
        let lost = if run.discard.load(Ordering::SeqCst) {
            ring.outstanding()
        } else {
            ring.lost()
        };
        let stopped = Stopped { base, lost, drained };
        let Err(fault) = served else { return ended(stopped) };
        if abandoned {
            return;
        }
        shared.counters.errors(fault.rule).add(1);
        run.broken.store(true, Ordering::Release);
        // Before the callback, which may well ask this queue to stop.
        ended(stopped);
        if let Some(error) = &*lock(&shared.error) {
            error.signal();
        }
        let _ = catch_unwind(AssertUnwindSafe(|| (shared.on_fault)(&fault)));
    }

    fn abandoned(&self) -> bool {
        self.run.abandoned.load(Ordering::Relaxed)
    }

    fn stopping(&self) -> bool {
        self.run.stop.load(Ordering::Acquire)
    }

    fn serve(&mut self) -> Result<(), Fault> {
        while !self.stopping() {
            self.notice_changes()?;
            if self.turn()? || self.poll()? {
                continue;
            }
            if self.reader.stale() {
                // Not everybody is woken by every change, so there is no sleep before the newest map.
                if self.can_move() {
                    continue;
                }
            } else if self.handler.supplied() {
                self.armed = false;
                self.ring.disarm(self.reader.snapshot())?;
            } else if !self.waiting {
                let memory = self.reader.snapshot();
                if self.ring.arm(memory)? {
                    continue;
                }
                self.armed = self.ring.map(memory)?;
            }
            self.sleep(self.due);
        }
        Ok(())
    }

    /// Looks at what others may have changed: descriptors, the memory's map, the files under it.
    fn notice_changes(&mut self) -> Result<(), Fault> {
        let revision = self.shared.revision.load(Ordering::Acquire);
        if self.revision != Some(revision) {
            self.kick = lock(&self.shared.kick).clone();
            self.revision = Some(revision);
        }
        if self.unasked && self.shared.call.leads_somewhere() {
            self.unasked = false;
            self.notify();
        }
        self.move_on();
        self.truncation()
    }

    /// A fault if memory that the queue uses was truncated by its owner.
    fn truncation(&mut self) -> Result<(), Fault> {
        let mut seen = self.truncations;
        if self
            .ring
            .in_flight()
            .is_some_and(|memory| memory.truncated(&mut seen).is_some())
        {
            return Err(Fault::new(
                Rule::Address,
                "the file of the in-flight memory was truncated",
            ));
        }
        if let Some(region) = self.reader.snapshot().truncated(&mut self.truncations) {
            let detail = format!(
                "the file of the region at {:#x} was truncated",
                region.guest_address
            );
            return Err(Fault::new(Rule::Address, detail));
        }
        Ok(())
    }

    /// Whether the newest map may be gone over to: nothing is under way on the old one, or nothing of that is
    /// gone.
    fn can_move(&self) -> bool {
        self.handler.busy() == 0 || self.reader.grown()
    }

    /// Goes over to the newest map, if there is one and that may be.
    fn move_on(&mut self) {
        if self.reader.stale() && self.can_move() {
            self.batch = Batch::default();
            self.reader.refresh();
        }
        if !self.batch.lies_in(self.reader.snapshot()) {
            self.batch.attach(self.reader.snapshot());
        }
    }

    /// Takes a batch, has it answered, publishes what is complete. False if there was nothing to do.
    fn turn(&mut self) -> Result<bool, Fault> {
        guarded(|| self.handler.reap(&mut self.done))?;
        if self.due.is_some() {
            self.notify_if_due();
        }
        let mut taken = 0;
        // While a change of the map waits for operations to end, no new ones are begun.
        if !self.reader.stale() && !self.waiting {
            self.batch.clear();
            self.take_hint();
            let memory = self.reader.snapshot();
            taken = self.ring.take(memory, &mut self.batch, self.max)?;
            if taken > 0 {
                (self.armed, self.burst) = (false, taken);
                self.ring.disarm(memory)?;
                self.run.position.store(self.ring.position(), Ordering::Relaxed);
                self.run
                    .outstanding
                    .store(self.ring.outstanding(), Ordering::Relaxed);
                let counters = &self.shared.counters;
                counters.batches.add(1);
                counters.chains.add(taken as u64);
                counters
                    .bytes_read
                    .add(self.batch.iter().map(|chain| chain.readable_len).sum());
                guarded(|| self.handler.handle(memory, &self.batch, &mut self.done))?;
                if self.abandoned() {
                    return Err(Fault::new(
                        Rule::Device,
                        "the handler returned after its time was up",
                    ));
                }
            } else if self.reader.snapshot().translated() {
                self.translate()?;
            }
        }
        Ok(self.publish()? || taken > 0)
    }

    /// Nothing could be taken: has the front end asked for what the next chain, or the ring, lacks.
    #[cold]
    fn translate(&mut self) -> Result<(), Fault> {
        if self.batch.missing().is_empty() {
            if self.ring.map(self.reader.snapshot())? {
                return Ok(());
            }
            if self.armed {
                // A driver that takes its ring away and says no more may be gone.
                self.waiting = true;
                return Ok(());
            }
            return self.translate_ring();
        }
        match self.reader.ask(self.batch.missing()) {
            Asked::Waiting => self.waiting = true,
            Asked::Again => {}
            Asked::Denied(wanted) => {
                self.reader.fail(wanted);
                return Err(Fault::new(Rule::Translation, denied(&wanted)));
            }
        }
        Ok(())
    }

    /// The same for the ring itself. Without it the queue stands still: it may be that nobody is going to use
    /// it any more, so that the front end has nothing to say is no fault. A kick has it asked again.
    #[cold]
    fn translate_ring(&mut self) -> Result<(), Fault> {
        let memory = self.reader.snapshot();
        let missing: Vec<Wanted> = memory.missing(self.ring.areas()).collect();
        match self.reader.ask(&missing) {
            Asked::Waiting => self.waiting = true,
            Asked::Again => {}
            Asked::Denied(wanted) => {
                self.reader.fail(wanted);
                self.waiting = true;
            }
        }
        Ok(())
    }

    /// Passes on what the last notification said about how much is available.
    #[inline]
    fn take_hint(&mut self) {
        if self.shared.hint.load(Ordering::Relaxed) != NO_HINT {
            // Acquire: pairs with the release in `Worker::notify_at`.
            let next = self.shared.hint.swap(NO_HINT, Ordering::Acquire);
            self.ring.available_hint(next as u16);
        }
    }

    /// Makes completions visible and notifies the driver, once for all of them.
    fn publish(&mut self) -> Result<bool, Fault> {
        if self.done.is_empty() {
            return Ok(false);
        }
        if self.run.discard.load(Ordering::SeqCst) {
            // `Worker::reset` waits for this thread, so nothing is on its way to the ring when it returns.
            self.done.clear();
            return Ok(false);
        }
        let memory = self.reader.snapshot();
        if !self.ring.map(memory)? {
            // They wait for the ring to be mapped again.
            if memory.translated() && !self.waiting && !self.reader.stale() {
                self.translate_ring()?;
            }
            return Ok(false);
        }
        self.done.record(&mut self.ring, memory)?;
        let written = self
            .done
            .as_slice()
            .iter()
            .map(|(_, length)| u64::from(*length))
            .sum();
        let count = self.done.as_slice().len() as u32;
        self.done.clear();
        self.shared.counters.bytes_written.add(written);
        if !self.shared.call.leads_somewhere() {
            // A driver that only polls. Should it get a call after all, `notice_changes` makes up for this.
            self.unasked = true;
            self.ring.reveal(memory)?;
            return Ok(true);
        }
        let wanted = self.ring.publish(memory)?;
        if self.due.is_some() || (wanted && self.shared.coalescing.load(Ordering::Relaxed) != 0) {
            self.unannounced = self.unannounced.saturating_add(count);
            self.notify_if_due();
        } else if wanted {
            self.notify();
        } else {
            self.shared.counters.interrupts_suppressed.add(1);
        }
        Ok(true)
    }

    /// Tells the driver that there is something in the used ring.
    fn notify(&mut self) {
        (self.unannounced, self.due) = (0, None);
        let counters = &self.shared.counters;
        match self.shared.call.signal() {
            Sent::Yes => counters.interrupts.add(1),
            Sent::Lost => counters.interrupts_lost.add(1),
            Sent::Nowhere => {}
        }
    }

    /// Notifies the driver of what it wants to know of, if there is enough of that, or it is old enough.
    fn notify_if_due(&mut self) {
        let coalescing = Coalescing::unpack(self.shared.coalescing.load(Ordering::Relaxed));
        if coalescing.packets == 0 || coalescing.microseconds == 0 || self.unannounced >= coalescing.packets {
            return self.notify();
        }
        let now = Instant::now();
        match self.due {
            Some(due) if due <= now => self.notify(),
            Some(_) => {}
            None => self.due = Some(now + Duration::from_micros(coalescing.microseconds.into())),
        }
    }

    /// Looks for work without sleeping, for as long as that has paid recently.
    fn poll(&mut self) -> Result<bool, Fault> {
        let limit = self.shared.polling_ns.load(Ordering::Relaxed);
        if limit == 0 || self.waiting {
            return Ok(false);
        }
        self.armed = false;
        self.ring.disarm(self.reader.snapshot())?;
        let busy = limit == BUSY;
        let window = if busy { BUSY_LOOK } else { self.window.now(limit) };
        let relax = Relax::new();
        // Not where the driver needs these descriptors before it can go on.
        let burst = if self.handler.unhurried() && 4 * self.burst <= self.ring.size() as usize {
            self.burst
        } else {
            0
        };
        let start = Instant::now();
        while start.elapsed() < window {
            relax.wait_after(burst);
            self.shared.counters.polls.add(1);
            let changed = Some(self.shared.revision.load(Ordering::Relaxed)) != self.revision;
            if changed || self.stopping() || self.reader.stale() {
                return Ok(true);
            }
            if self.turn()? {
                if !busy {
                    self.window.hit(limit);
                }
                return Ok(true);
            }
        }
        if busy {
            // Not to sleep, but to see whether anything else has changed, such as the mode.
            return Ok(true);
        }
        self.window.miss();
        Ok(false)
    }

    /// Sleeps until there is a kick, a completion, or something changes; at most until `deadline`.
    fn sleep(&mut self, deadline: Option<Instant>) {
        let idle = self.handler.busy() == 0;
        let completion = self.handler.completion_fd();
        if idle {
            self.reader.park();
        }
        let mut timeout = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        if !idle && completion.is_none() {
            // Nothing will tell.
            let tick = Duration::from_millis(1);
            timeout = Some(timeout.map_or(tick, |t| t.min(tick)));
        }
        let start = Instant::now();
        let kick = self.kick.as_ref().map(|kick| kick.as_raw_fd());
        let ready = wait([Some(self.shared.control.as_raw_fd()), kick, completion], timeout);
        if idle {
            self.reader.unpark();
        }
        let mut kicks = 0;
        if ready[0] != 0 {
            self.shared.control.clear();
            kicks += self.shared.notified.swap(0, Ordering::Relaxed);
        }
        if let (Some(fd), true) = (kick, ready[1] != 0) {
            match read_count(fd) {
                Read::Count(count) => kicks += count,
                // An error on a descriptor that cannot be read would come again at once.
                Read::Nothing if ready[1] & libc::POLLIN != 0 => {}
                Read::Nothing | Read::Closed => self.kick = None,
            }
        }
        if ready[0] != 0 || kicks > 0 {
            self.waiting = false;
            self.armed &= kicks == 0;
        }
        self.shared.counters.kicks.add(kicks);
        if kicks > 0 {
            self.window
                .woken(start.elapsed(), self.shared.polling_ns.load(Ordering::Relaxed));
        }
    }

    /// Lets operations end until `deadline` and publishes what they give. Whether all have.
    fn drain(&mut self, deadline: Instant) -> bool {
        let discard = self.run.discard.load(Ordering::SeqCst);
        if guarded(|| {
            if discard {
                self.handler.cancel();
            } else {
                self.handler.release();
            }
            Ok(())
        })
        .is_err()
        {
            return false;
        }
        loop {
            if self.abandoned() {
                return false;
            }
            self.move_on();
            if guarded(|| self.handler.reap(&mut self.done)).is_err() || self.publish().is_err() {
                return self.handler.busy() == 0;
            }
            if self.handler.busy() == 0 {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            self.sleep(Some(deadline));
        }
    }
}

#[cold]
fn denied(wanted: &Wanted) -> String {
    let what = if wanted.write { "written to" } else { "read" };
    format!("I/O virtual address {:#x} may not be {what}", wanted.address)
}

/// Runs a part of the handler; a panic in it becomes a fault.
pub(super) fn guarded(call: impl FnOnce() -> Result<(), Fault>) -> Result<(), Fault> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| Err(panicked(&*panic)))
}

#[cold]
fn panicked(panic: &(dyn Any + Send)) -> Fault {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    Fault::new(Rule::Device, format!("the handler panicked: {text}"))
}

/// Waits for one of three descriptors; what `poll` says about each.
pub(super) fn wait(fds: [Option<RawFd>; 3], timeout: Option<Duration>) -> [i16; 3] {
    // poll ignores negative descriptors.
    let mut list = fds.map(|fd| libc::pollfd {
        fd: fd.unwrap_or(-1),
        events: libc::POLLIN,
        revents: 0,
    });
    let time = timeout.map(|t| libc::timespec {
        tv_sec: t.as_secs().min(i32::MAX as u64) as libc::time_t,
        tv_nsec: t.subsec_nanos().into(),
    });
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both point to live values of the right length.
    let n = unsafe {
        libc::ppoll(
            list.as_mut_ptr(),
            list.len() as libc::nfds_t,
            time,
            std::ptr::null(),
        )
    };
    if n <= 0 {
        [0; 3]
    } else {
        list.map(|entry| entry.revents)
    }
}
