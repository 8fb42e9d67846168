//! Several threads that answer chains of one queue.
//!
//! The queue's worker alone touches the ring: it takes chains in batches and deals them out, and tells the
//! driver what has become complete, whoever completed it and in whatever order. So there is no lock
//! around the ring, and what is handed between threads is whole batches. Where the driver was promised an order
//! (VIRTIO_F_IN_ORDER), the ring keeps it: chains then wait for older ones.

use super::{Completions, Handler, lock};
use crate::chain::Batch;
use crate::fault::Fault;
use crate::memory::Snapshot;
use crate::notify::EventFd;
use crate::worker::engine::{guarded, wait};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Batch>,
    /// Batches to be filled again.
    spare: Vec<Batch>,
}

#[derive(Default)]
struct Done {
    list: Completions,
    /// `Shared::event` is readable.
    told: bool,
}

/// What the worker and the pool's threads share.
struct Shared {
    jobs: Mutex<Jobs>,
    /// One for each thread: readable when there may be jobs, or something else has changed.
    work: Vec<EventFd>,
    done: Mutex<Done>,
    fault: Mutex<Option<Fault>>,
    /// Readable when something is complete, has failed, or is no longer under way.
    event: EventFd,
    /// Batches waiting or being handled.
    under_way: AtomicUsize,
    /// Operations that handlers have under way besides.
    busy: AtomicUsize,
    /// How often handlers were asked to release what they hold.
    releases: AtomicU32,
    /// They are to give up what they can.
    cancelled: AtomicBool,
    ended: AtomicBool,
}

impl Shared {
    /// Wakes the worker, with more that is complete.
    fn tell(&self, more: &Completions) {
        let mut done = lock(&self.done);
        done.list.append(more);
        if !std::mem::replace(&mut done.told, true) {
            self.event.signal();
        }
    }

    fn wake_all(&self) {
        self.work.iter().for_each(EventFd::signal);
    }
}

/// A handler that spreads chains over threads with a handler each.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// One thread for each of `handlers`.
    pub fn new(name: &str, handlers: Vec<Box<dyn Handler>>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            jobs: Mutex::default(),
            work: handlers
                .iter()
                .map(|_| EventFd::new())
                .collect::<io::Result<_>>()?,
            done: Mutex::default(),
            fault: Mutex::default(),
            event: EventFd::new()?,
            under_way: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            releases: AtomicU32::new(0),
            cancelled: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        let mut pool = Self {
            shared: shared.clone(),
            threads: Vec::new(),
        };
        for (index, handler) in handlers.into_iter().enumerate() {
            let shared = shared.clone();
            let thread = thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || Member::new(shared, index, handler).run())?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }
}

impl Handler for Pool {
    fn handle(&mut self, _: &Arc<Snapshot>, batch: &Batch, _: &mut Completions) -> Result<(), Fault> {
        let share = batch.len().div_ceil(self.threads.len().max(1)).max(1);
        {
            let mut jobs = lock(&self.shared.jobs);
            for first in (0..batch.len()).step_by(share) {
                let mut job = jobs.spare.pop().unwrap_or_default();
                job.copy_range(batch, first..(first + share).min(batch.len()));
                self.shared.under_way.fetch_add(1, Ordering::SeqCst);
                jobs.waiting.push_back(job);
            }
        }
        self.shared.wake_all();
        Ok(())
    }

    fn reap(&mut self, done: &mut Completions) -> Result<(), Fault> {
        let mut ready = lock(&self.shared.done);
        if std::mem::take(&mut ready.told) {
            self.shared.event.clear();
        }
        done.append(&ready.list);
        ready.list.clear();
        drop(ready);
        lock(&self.shared.fault).take().map_or(Ok(()), Err)
    }

    fn completion_fd(&self) -> Option<RawFd> {
        Some(self.shared.event.as_raw_fd())
    }

    fn busy(&self) -> usize {
        // In this order: a batch leaves the first number when its operations are in the second, and what is
        // complete is in the list before it leaves either.
        let busy = self.shared.under_way.load(Ordering::SeqCst) + self.shared.busy.load(Ordering::SeqCst);
        busy + usize::from(!lock(&self.shared.done).list.is_empty())
    }

    fn cancel(&mut self) {
        let waiting = std::mem::take(&mut lock(&self.shared.jobs).waiting).len();
        self.shared.under_way.fetch_sub(waiting, Ordering::SeqCst);
        self.shared.cancelled.store(true, Ordering::SeqCst);
        self.release();
    }

    fn release(&mut self) {
        self.shared.releases.fetch_add(1, Ordering::SeqCst);
        self.shared.wake_all();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.wake_all();
        for thread in self.threads.drain(..) {
            // It has reported a panic as a fault.
            let _ = thread.join();
        }
    }
}

/// One of the threads.
struct Member {
    shared: Arc<Shared>,
    index: usize,
    handler: Box<dyn Handler>,
    done: Completions,
    /// What of `Shared::busy` is this one's.
    busy: usize,
    releases: u32,
}

impl Member {
    fn new(shared: Arc<Shared>, index: usize, handler: Box<dyn Handler>) -> Self {
        Self {
            shared,
            index,
            handler,
            done: Completions::default(),
            busy: 0,
            releases: 0,
        }
    }

    fn run(mut self) {
        while !self.shared.ended.load(Ordering::SeqCst) {
            if let Err(fault) = self.turn() {
                *lock(&self.shared.fault) = Some(fault);
                self.shared.tell(&Completions::default());
            }
        }
        let Self { handler, .. } = self;
        let _ = guarded(|| {
            drop(handler);
            Ok(())
        });
    }

    fn turn(&mut self) -> Result<(), Fault> {
        // First: what comes from now on wakes.
        self.shared.work[self.index].clear();
        let releases = self.shared.releases.load(Ordering::SeqCst);
        if releases != self.releases {
            self.releases = releases;
            let cancel = self.shared.cancelled.load(Ordering::SeqCst);
            guarded(|| {
                if cancel {
                    self.handler.cancel();
                } else {
                    self.handler.release();
                }
                Ok(())
            })?;
        }
        let job = lock(&self.shared.jobs).waiting.pop_front();
        let Some(mut job) = job else {
            guarded(|| self.handler.reap(&mut self.done))?;
            if !self.pass_on() && !self.shared.ended.load(Ordering::SeqCst) {
                self.sleep();
            }
            return Ok(());
        };
        let result = match job.memory() {
            Some(memory) => guarded(|| self.handler.handle(memory, &job, &mut self.done)),
            None => Ok(()),
        };
        let result = result.and_then(|()| guarded(|| self.handler.reap(&mut self.done)));
        self.pass_on();
        // Unmapping does not wait for what is only kept to be used again.
        job.detach();
        lock(&self.shared.jobs).spare.push(job);
        self.shared.under_way.fetch_sub(1, Ordering::SeqCst);
        self.shared.tell(&Completions::default());
        result
    }

    /// Hands what is complete to the worker; false if nothing is.
    fn pass_on(&mut self) -> bool {
        let any = !self.done.is_empty();
        if any {
            self.shared.tell(&self.done);
            self.done.clear();
        }
        let busy = self.handler.busy();
        self.shared.busy.fetch_add(busy, Ordering::SeqCst);
        self.shared.busy.fetch_sub(self.busy, Ordering::SeqCst);
        if busy < self.busy {
            // The worker may be waiting for just that.
            self.shared.tell(&Completions::default());
        }
        self.busy = busy;
        any
    }

    fn sleep(&self) {
        let completion = self.handler.completion_fd();
        // Without a descriptor nothing tells of completions.
        let tick = (self.busy > 0 && completion.is_none()).then_some(Duration::from_millis(1));
        let work = self.shared.work[self.index].as_raw_fd();
        wait([Some(work), completion, None], tick);
    }
}
