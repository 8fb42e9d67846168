//! Results of operations on their way back to the queue that started them.

use super::engine::Completed;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Collects results from any thread and wakes the queue's worker.
#[derive(Debug)]
pub(super) struct Mailbox {
    event: OwnedFd,
    letters: Mutex<Letters>,
    /// There is something to drain. A hint, so that polling costs one load.
    ready: AtomicBool,
}

#[derive(Debug, Default)]
struct Letters {
    list: Vec<Completed>,
    /// The receiver is about to look by itself: no wake-up needed.
    quiet: bool,
    signalled: bool,
}

impl Mailbox {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: no pointers involved.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            // SAFETY: a new descriptor that nobody else owns.
            event: unsafe { OwnedFd::from_raw_fd(fd) },
            letters: Mutex::default(),
            ready: AtomicBool::new(false),
        })
    }

    /// Readable when there is something to drain.
    pub(super) fn fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    fn lock(&self) -> MutexGuard<'_, Letters> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, completed: Completed) {
        let mut letters = self.lock();
        letters.list.push(completed);
        self.ready.store(true, Ordering::Release);
        if !letters.quiet && !letters.signalled {
            // Under the lock, so that `drain` knows exactly whether the event is set.
            letters.signalled = true;
            self.signal();
        }
    }

    /// Moves everything that has arrived to `out`.
    pub(super) fn drain(&self, out: &mut Vec<Completed>) {
        if !self.ready.load(Ordering::Acquire) {
            return;
        }
        let mut letters = self.lock();
        self.ready.store(false, Ordering::Release);
        out.append(&mut letters.list);
        if letters.signalled {
            letters.signalled = false;
            self.clear();
        }
    }

    /// While quiet, results do not wake anybody. The receiver ends the quiet before it drains.
    pub(super) fn set_quiet(&self, quiet: bool) {
        self.lock().quiet = quiet;
    }

    /// Wakes the receiver.
    pub(super) fn signal(&self) {
        let one = 1u64;
        // SAFETY: eight readable bytes. The counter cannot be full; if it were, the event is set anyway.
        unsafe { libc::write(self.fd(), (&raw const one).cast(), 8) };
    }

    /// Resets the event.
    pub(super) fn clear(&self) {
        let mut count = 0u64;
        // SAFETY: eight writable bytes; the descriptor does not block.
        unsafe { libc::read(self.fd(), (&raw mut count).cast(), 8) };
    }
}
