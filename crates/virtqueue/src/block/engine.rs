//! What performs operations for one queue.

use crate::memory::Snapshot;
use crate::spec::block::SECTOR_SIZE;
use libc::iovec;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

/// What an operation does to the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Data from the medium to the guest.
    Read,
    /// Data from the guest to the medium.
    Write,
    /// All completed writes become stable.
    Flush,
    /// A range is no longer needed.
    Discard,
    /// A range reads as zeroes from now on.
    WriteZeroes,
    /// A range can never be read again.
    SecureErase,
}

impl Kind {
    /// Lower-case name, for logs and for Python.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Read => "read",
            Kind::Write => "write",
            Kind::Flush => "flush",
            Kind::Discard => "discard",
            Kind::WriteZeroes => "write_zeroes",
            Kind::SecureErase => "secure_erase",
        }
    }
}

/// One operation as an engine sees it: checked against the capacity, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation<'a> {
    pub kind: Kind,
    pub offset: u64,
    /// Bytes of a range operation; data operations are as long as their list.
    pub len: u64,
    /// Write zeroes may deallocate.
    pub unmap: bool,
    /// A write is stable once it is done.
    pub stable: bool,
    /// Where data comes from or goes to. At most `MAX_LIST` entries.
    pub list: &'a [iovec],
}

impl Operation<'_> {
    pub(super) const FLUSH: Self = Self {
        kind: Kind::Flush,
        offset: 0,
        len: 0,
        unmap: false,
        stable: false,
        list: &[],
    };
}

/// What the kernel takes at once (IOV_MAX).
pub(super) const MAX_LIST: usize = 1024;

/// Rounds a size in bytes up to whole sectors.
pub(super) fn whole_sectors(bytes: u64) -> u64 {
    bytes.saturating_add(SECTOR_SIZE - 1) / SECTOR_SIZE * SECTOR_SIZE
}

/// Bytes done, or a negated errno: the form in which the kernel says it.
pub(super) type Outcome = i64;

pub(super) fn outcome(result: io::Result<usize>) -> Outcome {
    match result {
        Ok(count) => count as i64,
        Err(error) => -i64::from(error.raw_os_error().unwrap_or(libc::EIO)),
    }
}

/// The result of an operation that was pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Completed {
    pub tag: u32,
    pub outcome: Outcome,
}

/// What became of an operation given to an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Submitted {
    /// Done at once, perhaps in part.
    Done(Outcome),
    /// Comes back through `reap` with its tag.
    Pending,
    /// No room now. Offer it again after something has completed.
    Full,
}

/// Performs the operations of one queue.
pub(super) trait Engine: Send {
    /// Performs or starts an operation. Data operations may be done in part.
    ///
    /// # Safety
    /// The list and the memory that it names stay valid until the operation has
    /// been reaped, if it is pending.
    unsafe fn submit(&mut self, operation: &Operation<'_>, memory: &Arc<Snapshot>, tag: u32) -> Submitted;
    /// Ends a batch: what was submitted is really started now.
    fn commit(&mut self) {}
    /// Appends what has completed since.
    fn reap(&mut self, out: &mut Vec<Completed>) {
        let _ = out;
    }
    /// Readable when `reap` has something.
    fn completion_fd(&self) -> Option<RawFd> {
        None
    }
    /// Whether pending operations keep alive what they use even if the engine goes away.
    fn keeps_memory(&self) -> bool {
        false
    }
    /// Whether it heeds `Operation::stable`; if not, a flush follows each stable write.
    fn writes_stably(&self) -> bool {
        true
    }
}

/// Where the data of a device lives; shared by its queues.
pub(super) trait Backend: Send + Sync {
    /// An engine for one more queue.
    fn engine(self: Arc<Self>) -> io::Result<Box<dyn Engine>>;
    /// Performs an operation on the caller's time, wholly or not at all.
    ///
    /// # Safety
    /// The list names valid memory, writable for reads.
    unsafe fn perform(&self, operation: &Operation<'_>) -> io::Result<()>;
    /// Makes `size` bytes addressable.
    fn grow(&self, size: u64) -> io::Result<()>;
    /// Bytes that there are now.
    fn size(&self) -> io::Result<u64>;
    /// What performs the I/O.
    fn name(&self) -> &'static str;
    /// Whether discarding gives back space.
    fn can_discard(&self) -> bool {
        false
    }
    /// Smallest unit that is read and written without a detour.
    fn block_size(&self) -> u32 {
        512
    }
}
