//! The block device's request queue.

use super::engine::{Completed, Engine, Kind, Submitted};
use super::request::{Action, Rules};
use super::tally::{Refusal, status};
use super::target::Target;
use super::work::{Progress, Work};
use crate::chain::{Batch, Chain};
use crate::fault::Fault;
use crate::memory::Snapshot;
use crate::spec::block::{
    LIFETIME_DEVICE_LIFETIME_EST_TYP_A, LIFETIME_DEVICE_LIFETIME_EST_TYP_B, LIFETIME_PRE_EOL_INFO,
    LIFETIME_SIZE,
};
use crate::worker::{Completions, Handler};
use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Pieces of data that may be outstanding in one queue, 16 bytes each to remember. A queue of
/// 1024 requests of 254 segments needs a quarter of it.
const MAX_PIECES: usize = 1 << 20;
/// A list longer than this is not kept for reuse.
const KEPT_PIECES: usize = 1024;
/// How long a handler that goes away waits for what the kernel still does to guest memory.
const DROP_PATIENCE: Duration = Duration::from_secs(5);

/// Answers the requests of one queue of a block device.
pub struct BlockHandler {
    target: Arc<Target>,
    rules: Rules,
    engine: Box<dyn Engine>,
    /// The request being worked on; becomes a slot if it has to wait.
    current: Box<Work>,
    slots: Vec<Option<Box<Work>>>,
    free: Vec<u32>,
    #[allow(clippy::vec_box, reason = "they move between here and the slots, by address")]
    spare: Vec<Box<Work>>,
    /// Slots whose next operation the engine had no room for.
    waiting: VecDeque<u32>,
    completed: Vec<Completed>,
    busy: usize,
    pieces: usize,
}

enum Step {
    Finished(Result<(), Refusal>),
    Pending,
    Full,
}

impl BlockHandler {
    /// A handler for one queue. `features` are those that the driver negotiated.
    pub fn new(target: Arc<Target>, features: u128) -> io::Result<Self> {
        Ok(Self {
            rules: Rules::new(&target, features),
            engine: target.engine()?,
            target,
            current: Box::default(),
            slots: Vec::new(),
            free: Vec::new(),
            spare: Vec::new(),
            waiting: VecDeque::new(),
            completed: Vec::new(),
            busy: 0,
            pieces: 0,
        })
    }

    fn start(
        &mut self,
        memory: &Arc<Snapshot>,
        chain: &Chain<'_>,
        done: &mut Completions,
    ) -> Result<(), Fault> {
        let work = &mut *self.current;
        work.lists.data.clear();
        work.lists.ranges.clear();
        let request = self.rules.parse(chain, self.target.capacity(), &mut work.lists)?;
        (work.token, work.status, work.status_guest) = (chain.token, request.status, request.status_guest);
        work.data_in = request.data_in;
        (work.next, work.left, work.offset, work.retries) = (0, 0, 0, 0);
        (work.stable, work.syncing) = (false, false);
        match request.action {
            Action::Refuse(refusal) => self.finish_current(memory, Err(refusal), 0, done),
            Action::Identify => {
                let count = chain.write_at(0, &self.target.serial());
                self.finish_current(memory, Ok(()), count as u64, done);
            }
            Action::Lifetime => self.lifetime(memory, chain, done),
            Action::Flush => {
                work.kind = Kind::Flush;
                self.run_current(memory, done);
            }
            Action::Transfer { kind, offset, len } => {
                (work.kind, work.offset, work.left) = (kind, offset, len);
                work.stable = kind == Kind::Write && self.rules.write_through(&self.target);
                self.run_current(memory, done);
            }
            Action::Ranges(kind) => {
                work.kind = kind;
                work.stable = kind != Kind::Discard && self.rules.write_through(&self.target);
                self.run_current(memory, done);
            }
        }
        Ok(())
    }

    fn lifetime(&mut self, memory: &Snapshot, chain: &Chain<'_>, done: &mut Completions) {
        let Some(lifetime) = self.target.lifetime() else {
            return self.finish_current(memory, Err(Refusal::Type), 0, done);
        };
        let mut bytes = [0; LIFETIME_SIZE];
        for (at, value) in [
            (LIFETIME_PRE_EOL_INFO, lifetime.pre_eol_info),
            (
                LIFETIME_DEVICE_LIFETIME_EST_TYP_A,
                lifetime.device_lifetime_est_typ_a,
            ),
            (
                LIFETIME_DEVICE_LIFETIME_EST_TYP_B,
                lifetime.device_lifetime_est_typ_b,
            ),
        ] {
            bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        let count = chain.write_at(0, &bytes);
        self.finish_current(memory, Ok(()), count as u64, done);
    }

    fn next_tag(&self) -> u32 {
        self.free.last().copied().unwrap_or(self.slots.len() as u32)
    }

    /// Carries the current request as far as it goes at once; parks it if it has to wait.
    fn run_current(&mut self, memory: &Arc<Snapshot>, done: &mut Completions) {
        let pieces = self.current.lists.data.len();
        if self.pieces + pieces > MAX_PIECES {
            return self.finish_current(memory, Err(Refusal::Resources), 0, done);
        }
        let tag = self.next_tag();
        let step = advance(&mut *self.engine, &mut self.current, memory, tag);
        if let Step::Finished(result) = step {
            let written = self.current.written(result);
            return self.finish_current(memory, result, written, done);
        }
        self.current.memory = Some(Arc::clone(memory));
        self.pieces += pieces;
        self.busy += 1;
        let next = self.spare.pop().unwrap_or_default();
        let work = std::mem::replace(&mut self.current, next);
        match self.free.pop().and_then(|tag| self.slots.get_mut(tag as usize)) {
            Some(slot) => *slot = Some(work),
            None => self.slots.push(Some(work)),
        }
        if matches!(step, Step::Full) {
            self.waiting.push_back(tag);
        }
    }

    fn finish_current(
        &mut self,
        memory: &Snapshot,
        result: Result<(), Refusal>,
        written: u64,
        done: &mut Completions,
    ) {
        finish(&self.target, &self.current, memory, result, written, done);
    }

    /// Goes on with a parked request. False if the engine still has no room.
    fn resume(&mut self, tag: u32, done: &mut Completions) -> bool {
        let Some(mut work) = self.slots.get_mut(tag as usize).and_then(Option::take) else {
            return true;
        };
        let Some(memory) = work.memory.take() else {
            return true;
        };
        let step = advance(&mut *self.engine, &mut work, &memory, tag);
        if let Step::Finished(result) = step {
            let written = work.written(result);
            finish(&self.target, &work, &memory, result, written, done);
            self.retire(tag, work);
            return true;
        }
        work.memory = Some(memory);
        if let Some(slot) = self.slots.get_mut(tag as usize) {
            *slot = Some(work);
        }
        matches!(step, Step::Pending)
    }

    fn retire(&mut self, tag: u32, mut work: Box<Work>) {
        self.busy -= 1;
        self.pieces -= work.lists.data.len();
        self.free.push(tag);
        work.lists.data.clear();
        work.lists.data.shrink_to(KEPT_PIECES);
        self.spare.push(work);
    }

    fn complete(&mut self, completed: Completed, done: &mut Completions) {
        let tag = completed.tag;
        let Some(slot) = self.slots.get_mut(tag as usize) else {
            return;
        };
        let Some(work) = slot.as_mut() else { return };
        match work.account(completed.outcome) {
            Progress::Finished(result) => {
                let Some(mut work) = slot.take() else { return };
                if let Some(memory) = work.memory.take() {
                    let written = work.written(result);
                    finish(&self.target, &work, &memory, result, written, done);
                }
                self.retire(tag, work);
            }
            Progress::Unfinished => {
                if !self.resume(tag, done) {
                    self.waiting.push_back(tag);
                }
            }
        }
    }

    /// Takes what has completed, and starts what waited for room, until neither gets any further.
    fn settle(&mut self, done: &mut Completions) {
        loop {
            self.engine.commit();
            let mut completed = std::mem::take(&mut self.completed);
            self.engine.reap(&mut completed);
            let mut progress = !completed.is_empty();
            for one in completed.drain(..) {
                self.complete(one, done);
            }
            self.completed = completed;
            while let Some(tag) = self.waiting.pop_front() {
                if !self.resume(tag, done) {
                    self.waiting.push_front(tag);
                    break;
                }
                progress = true;
            }
            if !progress {
                return;
            }
        }
    }
}

/// Submits operations until one has to wait or all are done.
fn advance(engine: &mut dyn Engine, work: &mut Work, memory: &Arc<Snapshot>, tag: u32) -> Step {
    let flush_after = work.stable && (work.kind != Kind::Write || !engine.writes_stably());
    loop {
        let Some(operation) = work.operation(flush_after) else {
            return Step::Finished(Ok(()));
        };
        // SAFETY: the list belongs to `work`, which stays where it is until the operation is
        // reaped; the guest memory it names is mapped while the snapshot is held.
        let submitted = unsafe { engine.submit(&operation, memory, tag) };
        let syncing = operation.kind == Kind::Flush;
        if !matches!(submitted, Submitted::Full) {
            work.syncing = syncing;
        }
        match submitted {
            Submitted::Full => return Step::Full,
            Submitted::Pending => return Step::Pending,
            Submitted::Done(outcome) => {
                if let Progress::Finished(result) = work.account(outcome) {
                    return Step::Finished(result);
                }
            }
        }
    }
}

/// Writes the status byte and completes the chain.
fn finish(
    target: &Target,
    work: &Work,
    memory: &Snapshot,
    result: Result<(), Refusal>,
    written: u64,
    done: &mut Completions,
) {
    if let Err(refusal) = result {
        target.tally().count(refusal);
    }
    // SAFETY: the last byte of the device-writable part, mapped while the snapshot is held.
    unsafe { work.status.write_volatile(status(result)) };
    // The used length says how many bytes from the first on were written (2.7.8.2): the status
    // byte counts only if all before it do.
    let whole = written == work.data_in;
    let written = written + u64::from(whole);
    if let (false, Some(log)) = (whole, memory.dirty_log()) {
        // The ring reports only as much as the used length says.
        log.mark(work.status_guest, 1);
    }
    done.push(work.token, u32::try_from(written).unwrap_or(u32::MAX));
}

impl Handler for BlockHandler {
    fn handle(&mut self, memory: &Arc<Snapshot>, batch: &Batch, done: &mut Completions) -> Result<(), Fault> {
        let mut result = Ok(());
        for chain in batch.iter() {
            result = self.start(memory, &chain, done);
            if result.is_err() {
                break;
            }
        }
        if self.busy > 0 {
            self.settle(done);
        }
        result
    }

    fn reap(&mut self, done: &mut Completions) -> Result<(), Fault> {
        self.settle(done);
        Ok(())
    }

    fn completion_fd(&self) -> Option<RawFd> {
        self.engine.completion_fd()
    }

    fn busy(&self) -> usize {
        self.busy
    }
}

impl Drop for BlockHandler {
    /// The kernel or a thread may still be at work on guest memory and on the lists here. Waits for
    /// them; those that take too long keep what they use for ever.
    fn drop(&mut self) {
        if self.engine.keeps_memory() {
            return;
        }
        for tag in self.waiting.drain(..) {
            if let Some(slot) = self.slots.get_mut(tag as usize) {
                *slot = None;
            }
        }
        let end = Instant::now() + DROP_PATIENCE;
        while self.slots.iter().any(Option::is_some) && Instant::now() < end {
            if let Some(fd) = self.engine.completion_fd() {
                let mut poll = libc::pollfd {
                    fd,
                    events: libc::POLLIN,
                    revents: 0,
                };
                // SAFETY: one valid entry.
                unsafe { libc::poll(&mut poll, 1, 100) };
            }
            let mut completed = Vec::new();
            self.engine.commit();
            self.engine.reap(&mut completed);
            for one in completed {
                if let Some(slot) = self.slots.get_mut(one.tag as usize) {
                    *slot = None;
                }
            }
        }
        std::mem::forget(std::mem::take(&mut self.slots));
    }
}
