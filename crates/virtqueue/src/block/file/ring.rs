//! Operations through io_uring.

use super::disk::Disk;
use crate::block::engine::{Completed, Kind, Operation, Submitted, outcome};
use io_uring::{IoUring, opcode, types};
use std::io;
use std::os::fd::RawFd;

const SUBMISSIONS: u32 = 128;
/// Room for completions, and so the most that is under way: nothing ever overflows.
const COMPLETIONS: u32 = 1024;

/// Marks in the user data of which operations a failure means lost data.
const FLUSH: u64 = 1 << 32;
const STABLE: u64 = 1 << 33;

/// One queue's ring.
pub(super) struct Ring {
    ring: IoUring,
    in_flight: u32,
}

impl Ring {
    /// Whether the kernel lets us have rings, of a kind that copies lists when they are submitted.
    pub(super) fn probe() -> io::Result<()> {
        let ring = IoUring::new(1)?;
        match ring.params().is_feature_submit_stable() && ring.params().is_feature_nodrop() {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::ENOSYS)),
        }
    }

    /// A ring that sets `event` when something has completed.
    pub(super) fn new(event: RawFd) -> io::Result<Self> {
        let ring: IoUring = IoUring::builder().setup_cqsize(COMPLETIONS).build(SUBMISSIONS)?;
        ring.submitter().register_eventfd(event)?;
        Ok(Self { ring, in_flight: 0 })
    }

    /// Queues a read, write or flush.
    ///
    /// # Safety
    /// The list and the memory that it names stay valid until the operation has been reaped.
    pub(super) unsafe fn submit(&mut self, disk: &Disk, operation: &Operation<'_>, tag: u32) -> Submitted {
        if self.in_flight >= COMPLETIONS {
            return Submitted::Full;
        }
        let fd = types::Fd(disk.fd());
        let (list, entries) = (operation.list.as_ptr(), operation.list.len() as u32);
        let stable = operation.stable && disk.sync;
        let (entry, mark) = match operation.kind {
            Kind::Read => (
                opcode::Readv::new(fd, list, entries)
                    .offset(operation.offset)
                    .build(),
                0,
            ),
            Kind::Write => {
                let entry = opcode::Writev::new(fd, list, entries).offset(operation.offset);
                match stable {
                    true => (entry.rw_flags(libc::RWF_DSYNC).build(), STABLE),
                    false => (entry.build(), 0),
                }
            }
            _ => (
                opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
                FLUSH,
            ),
        };
        let entry = entry.user_data(u64::from(tag) | mark);
        if self.ring.submission().is_full() {
            self.commit();
        }
        // SAFETY: the caller's promise; the descriptor lives as long as the disk, which outlives the ring.
        match unsafe { self.ring.submission().push(&entry) } {
            Ok(()) => {
                self.in_flight += 1;
                Submitted::Pending
            }
            Err(_) => Submitted::Full,
        }
    }

    /// Gives the kernel what was queued; false if it did not take all of it.
    pub(super) fn commit(&mut self) -> bool {
        while !self.ring.submission().is_empty() {
            match self.ring.submit() {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Out of memory or requests for the moment.
                Err(_) => return false,
            }
        }
        true
    }

    pub(super) fn has_completions(&mut self) -> bool {
        self.in_flight > 0 && !self.ring.completion().is_empty()
    }

    pub(super) fn reap(&mut self, disk: &Disk, out: &mut Vec<Completed>) {
        if self.in_flight == 0 {
            return;
        }
        for entry in self.ring.completion() {
            self.in_flight -= 1;
            let result = match usize::try_from(entry.result()) {
                Ok(count) => Ok(count),
                Err(_) => Err(io::Error::from_raw_os_error(-entry.result())),
            };
            let result = match entry.user_data() {
                data if data & FLUSH != 0 => disk.flushed(result),
                data if data & STABLE != 0 => {
                    disk.note_stable_write(&result);
                    result
                }
                _ => result,
            };
            out.push(Completed {
                tag: entry.user_data() as u32,
                outcome: outcome(result),
            });
        }
    }
}
