//! One queue's way to an image: at once where that does not block, else io_uring or threads.

use super::disk::Route;
use super::ring::Ring;
use super::{EngineChoice, FileBackend};
use crate::block::engine::{Completed, Engine, Kind, Operation, Submitted, outcome};
use crate::block::mailbox::Mailbox;
use crate::block::segments;
use crate::memory::Snapshot;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Writes into the page cache up to this size are made at once: they cost less than handing them over.
const INLINE_WRITE: usize = 64 << 10;
/// Such a write that took longer than this has met a full cache or a busy journal …
const SLOW_WRITE: Duration = Duration::from_micros(500);
/// … and writes are handed over for this long.
const HAND_OVER: Duration = Duration::from_millis(50);
/// The kernel sets the event a little after a completion can be seen, so one that has been taken may
/// leave the event set. To reset it at every look would cost a polling worker a system call each time.
const MAX_LOOKS: u32 = 32;
/// A write of part of a page may have to read the rest first.
const PAGE: u64 = 4096;

pub(super) struct FileEngine {
    ring: Option<Ring>,
    backend: Arc<FileBackend>,
    mailbox: Arc<Mailbox>,
    /// Looks since the event was last reset.
    looks: u32,
    inline: Inline,
}

/// What is tried on the queue's own thread.
struct Inline {
    reads: bool,
    /// The file system can say that a buffered write would block.
    nowait_writes: bool,
    writes: bool,
    hand_over_until: Option<Instant>,
}

impl FileEngine {
    pub(super) fn new(backend: Arc<FileBackend>) -> io::Result<Self> {
        let mailbox = Arc::new(Mailbox::new()?);
        let ring = match backend.choice {
            EngineChoice::Threads => None,
            EngineChoice::IoUring => Some(Ring::new(mailbox.fd())?),
            // There may be a limit to the number of rings.
            EngineChoice::Auto => Ring::new(mailbox.fd()).ok().filter(|_| backend.rings),
        };
        // Direct access waits for the device, whatever the flags say.
        let inline = backend.inline && backend.disk.direct.is_none();
        let inline = Inline {
            reads: inline,
            nowait_writes: inline,
            writes: inline,
            hand_over_until: None,
        };
        Ok(Self {
            ring,
            backend,
            mailbox,
            looks: 0,
            inline,
        })
    }

    /// What the page cache has, at once. `None`: it has to be waited for.
    ///
    /// # Safety
    /// As for `submit`.
    unsafe fn read_now(&mut self, operation: &Operation<'_>) -> Option<Submitted> {
        let disk = &self.backend.disk;
        if let Some(mapped) = &disk.mapped {
            // SAFETY: the caller's promise.
            if let Some(count) = unsafe { mapped.read(operation.offset, operation.list) } {
                return Some(Submitted::Done(count as i64));
            }
        }
        let flags = if disk.in_memory { 0 } else { libc::RWF_NOWAIT };
        // SAFETY: the caller's promise.
        match unsafe { disk.vectored(disk.fd(), operation, flags) } {
            Ok(count) => return Some(Submitted::Done(count as i64)),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => {}
                Some(libc::EOPNOTSUPP | libc::ENOSYS) => self.inline.reads = false,
                _ => return Some(Submitted::Done(outcome(Err(error)))),
            },
        }
        None
    }

    /// Into the page cache, at once. `None`: it has to be waited for.
    ///
    /// # Safety
    /// As for `submit`.
    unsafe fn write_now(&mut self, operation: &Operation<'_>) -> Option<Submitted> {
        let disk = &self.backend.disk;
        let len = segments::total(operation.list);
        if (operation.stable && disk.sync) || len > INLINE_WRITE {
            return None;
        }
        if disk.in_memory {
            // SAFETY: the caller's promise.
            return Some(Submitted::Done(outcome(unsafe {
                disk.vectored(disk.fd(), operation, 0)
            })));
        }
        if self.inline.nowait_writes {
            // SAFETY: the caller's promise.
            match unsafe { disk.vectored(disk.fd(), operation, libc::RWF_NOWAIT) } {
                Ok(count) => return Some(Submitted::Done(count as i64)),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::EINTR) => return None,
                    Some(libc::EOPNOTSUPP | libc::ENOSYS) => self.inline.nowait_writes = false,
                    _ => return Some(Submitted::Done(outcome(Err(error)))),
                },
            }
        }
        if (operation.offset | len as u64) % PAGE != 0 {
            return None;
        }
        let start = Instant::now();
        if self.inline.hand_over_until.is_some_and(|until| start < until) {
            return None;
        }
        // SAFETY: the caller's promise.
        let result = unsafe { disk.vectored(disk.fd(), operation, 0) };
        let end = Instant::now();
        self.inline.hand_over_until = (end - start > SLOW_WRITE).then(|| end + HAND_OVER);
        Some(Submitted::Done(outcome(result)))
    }

    /// # Safety
    /// As for `submit`.
    unsafe fn hand_over(&mut self, operation: &Operation<'_>, tag: u32) -> Submitted {
        let disk = &self.backend.disk;
        if let Some(ring) = &mut self.ring {
            let for_ring = match operation.kind {
                Kind::Read | Kind::Write => disk.route(operation) == Route::Straight,
                kind => kind == Kind::Flush,
            };
            if for_ring {
                // SAFETY: the caller's promise.
                return unsafe { ring.submit(disk, operation, tag) };
            }
        }
        // SAFETY: the caller's promise.
        match unsafe { self.backend.pool.submit(operation, &self.mailbox, tag) } {
            Ok(()) => Submitted::Pending,
            Err(error) => Submitted::Done(outcome(Err(error))),
        }
    }
}

impl Engine for FileEngine {
    unsafe fn submit(&mut self, operation: &Operation<'_>, _: &Arc<Snapshot>, tag: u32) -> Submitted {
        let now = match operation.kind {
            // SAFETY: the caller's promise.
            Kind::Read if self.inline.reads => unsafe { self.read_now(operation) },
            // SAFETY: the caller's promise.
            Kind::Write if self.inline.writes => unsafe { self.write_now(operation) },
            Kind::Flush if !self.backend.disk.sync => Some(Submitted::Done(0)),
            _ => None,
        };
        match now {
            Some(submitted) => submitted,
            // SAFETY: the caller's promise.
            None => unsafe { self.hand_over(operation, tag) },
        }
    }

    fn commit(&mut self) {
        if self.ring.as_mut().is_some_and(|ring| !ring.commit()) {
            // Look again soon: nothing else would wake the worker for what is still to be submitted.
            self.mailbox.signal();
        }
    }

    fn reap(&mut self, out: &mut Vec<Completed>) {
        self.looks += 1;
        let ready = self.ring.as_mut().is_some_and(Ring::has_completions);
        if ready || self.looks > MAX_LOOKS {
            // Before looking: what completes afterwards sets the event again.
            self.mailbox.clear();
            self.looks = 0;
        }
        self.mailbox.drain(out);
        if let Some(ring) = &mut self.ring {
            ring.reap(&self.backend.disk, out);
        }
    }

    fn completion_fd(&self) -> Option<RawFd> {
        Some(self.mailbox.fd())
    }
}
