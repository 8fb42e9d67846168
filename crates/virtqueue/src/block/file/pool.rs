//! A few threads that may block, shared by the queues of one image.

use super::disk::Disk;
use crate::block::engine::{Completed, Kind, Operation, outcome};
use crate::block::mailbox::Mailbox;
use libc::iovec;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Requests of a disk that block at the same time, most of them on the same medium.
const MAX_THREADS: usize = 8;

/// An operation on its way to a thread.
struct Job {
    kind: Kind,
    offset: u64,
    len: u64,
    unmap: bool,
    stable: bool,
    list: *const iovec,
    entries: usize,
    mailbox: Arc<Mailbox>,
    tag: u32,
}

// SAFETY: the list and what it names stay valid until the job's result has been reaped.
unsafe impl Send for Job {}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Threads are started when there is work that no idle one takes.
pub(super) struct Pool {
    disk: Arc<Disk>,
    shared: Arc<Shared>,
}

impl Pool {
    pub(super) fn new(disk: Arc<Disk>) -> Self {
        Self {
            disk,
            shared: Arc::default(),
        }
    }

    /// Hands an operation to a thread; its result goes to the mailbox.
    ///
    /// # Safety
    /// The list and the memory that it names stay valid until the result has been taken.
    pub(super) unsafe fn submit(
        &self,
        operation: &Operation<'_>,
        mailbox: &Arc<Mailbox>,
        tag: u32,
    ) -> io::Result<()> {
        let mut state = self.shared.lock();
        if state.idle <= state.jobs.len() && state.threads < MAX_THREADS {
            let (disk, shared) = (Arc::clone(&self.disk), Arc::clone(&self.shared));
            let thread = std::thread::Builder::new()
                .name("virtio-blk-io".into())
                .spawn(move || run(&disk, &shared));
            match thread {
                Ok(_) => state.threads += 1,
                Err(error) if state.threads == 0 => return Err(error),
                Err(_) => {}
            }
        }
        state.jobs.push_back(Job {
            kind: operation.kind,
            offset: operation.offset,
            len: operation.len,
            unmap: operation.unmap,
            stable: operation.stable,
            list: operation.list.as_ptr(),
            entries: operation.list.len(),
            mailbox: Arc::clone(mailbox),
            tag,
        });
        drop(state);
        self.shared.work.notify_one();
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
    }
}

fn run(disk: &Disk, shared: &Shared) {
    let mut bounce = None;
    while let Some(job) = next(shared) {
        let operation = Operation {
            kind: job.kind,
            offset: job.offset,
            len: job.len,
            unmap: job.unmap,
            stable: job.stable,
            // SAFETY: valid until the result has been taken, by the promise made to `submit`.
            list: unsafe { std::slice::from_raw_parts(job.list, job.entries) },
        };
        // SAFETY: likewise.
        let result = unsafe { disk.perform(&operation, &mut bounce) };
        job.mailbox.push(Completed {
            tag: job.tag,
            outcome: outcome(result),
        });
    }
}

fn next(shared: &Shared) -> Option<Job> {
    let mut state = shared.lock();
    loop {
        if let Some(job) = state.jobs.pop_front() {
            return Some(job);
        }
        if state.closed {
            return None;
        }
        state.idle += 1;
        state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.idle -= 1;
    }
}
