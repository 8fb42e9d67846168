//! Back ends outside this crate: batches of requests out, results back from any thread.

use super::buffer::AlignedBuffer;
use super::engine::{Backend, Completed, Engine, Kind, Operation, Outcome, Submitted};
use super::mailbox::Mailbox;
use super::segments;
use crate::memory::Snapshot;
use libc::iovec;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

/// Data in more than one piece is handed out in one, through a buffer of ours.
/// Longer requests are split, so that a driver cannot make us allocate at will.
const MAX_BOUNCE: usize = 1 << 20;
const MIN_BOUNCE: usize = 1 << 12;
/// Bytes of such buffers that one queue may have out at a time.
const BOUNCE_BUDGET: usize = 32 << 20;
/// Idle buffers kept per size.
const KEPT: usize = 16;

/// A block back end outside this crate.
///
/// Shared by all queues of a device: `submit` is called from several threads.
pub trait External: Send + Sync {
    /// Takes a batch. Each request is completed at once or later, from any thread, by
    /// [`ExternalRequest::complete`]. One that is dropped has failed; so have those left in `requests`.
    fn submit(&self, requests: &mut Vec<ExternalRequest>);
}

/// Why an external back end could not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// VIRTIO_BLK_S_IOERR
    Io,
    /// VIRTIO_BLK_S_UNSUPP
    Unsupported,
}

/// The data of a request: one contiguous piece of memory.
///
/// It is guest memory itself where the driver's buffer is contiguous, so it may change at any
/// time. A clone keeps the memory mapped, but means nothing once the request is complete.
#[derive(Clone, Debug)]
pub struct ExternalData {
    start: *mut u8,
    len: usize,
    _owner: Owner,
}

#[derive(Clone, Debug)]
#[allow(dead_code, reason = "held for what it keeps alive")]
enum Owner {
    Nobody,
    Guest(Arc<Snapshot>),
    Bounce(Arc<AlignedBuffer>),
}

// SAFETY: an address whose memory `_owner` keeps alive; bytes are copied, never referenced.
unsafe impl Send for ExternalData {}
// SAFETY: as above; racing copies yield some mix of bytes, as guest memory always may.
unsafe impl Sync for ExternalData {}

impl ExternalData {
    const NONE: Self = Self {
        start: std::ptr::null_mut(),
        len: 0,
        _owner: Owner::Nobody,
    };

    /// Address of the first byte. Valid, for `len` bytes, as long as this object or a clone lives.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start
    }

    /// Length in bytes; 0 for requests without data.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no data.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies data out, from byte `offset` on; how many bytes there were.
    pub fn copy_to(&self, offset: usize, into: &mut [u8]) -> usize {
        let count = into.len().min(self.len.saturating_sub(offset));
        if count > 0 {
            // SAFETY: `offset + count <= len`, and the memory is alive.
            unsafe { segments::copy(into.as_mut_ptr(), self.start.add(offset), count) };
        }
        count
    }

    /// Copies data in, from byte `offset` on; how many bytes fitted.
    pub fn copy_from(&self, offset: usize, from: &[u8]) -> usize {
        let count = from.len().min(self.len.saturating_sub(offset));
        if count > 0 {
            // SAFETY: `offset + count <= len`, and the memory is alive.
            unsafe { segments::copy(self.start.add(offset), from.as_ptr(), count) };
        }
        count
    }
}

/// A request for an external back end, already checked against the device's capacity and limits.
#[derive(Debug)]
pub struct ExternalRequest {
    /// What to do.
    pub kind: Kind,
    /// First byte on the medium.
    pub offset: u64,
    /// Bytes of the range, or of the data.
    pub size: u64,
    /// Write zeroes may deallocate.
    pub unmap: bool,
    data: ExternalData,
    reply: Option<(Arc<Mailbox>, u32)>,
}

impl ExternalRequest {
    /// Where a read puts its bytes and a write finds them.
    pub fn data(&self) -> &ExternalData {
        &self.data
    }

    /// Ends the request. May be called from any thread.
    pub fn complete(mut self, result: Result<(), Failure>) {
        let outcome = match result {
            Ok(()) => self.data.len as Outcome,
            Err(Failure::Io) => -Outcome::from(libc::EIO),
            Err(Failure::Unsupported) => -Outcome::from(libc::EOPNOTSUPP),
        };
        self.reply(outcome);
    }

    fn reply(&mut self, outcome: Outcome) {
        if let Some((mailbox, tag)) = self.reply.take() {
            // First, so that the queue finds the buffer free again.
            self.data = ExternalData::NONE;
            mailbox.push(Completed { tag, outcome });
        }
    }
}

impl Drop for ExternalRequest {
    fn drop(&mut self) {
        self.reply(-Outcome::from(libc::EIO));
    }
}

/// The back end of a device whose requests an [`External`] answers.
pub(super) struct ExternalBackend(pub Arc<dyn External>, pub std::sync::atomic::AtomicU64);

impl Backend for ExternalBackend {
    fn engine(self: Arc<Self>) -> io::Result<Box<dyn Engine>> {
        Ok(Box::new(ExternalEngine {
            external: Arc::clone(&self.0),
            mailbox: Arc::new(Mailbox::new()?),
            batch: Vec::new(),
            bounced: Vec::new(),
            pool: BouncePool::default(),
        }))
    }

    unsafe fn perform(&self, _: &Operation<'_>) -> io::Result<()> {
        // Whoever supplies the back end has it at hand and need not come through us.
        Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
    }

    fn grow(&self, size: u64) -> io::Result<()> {
        self.1.fetch_max(size, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.1.load(std::sync::atomic::Ordering::Relaxed))
    }

    fn name(&self) -> &'static str {
        "external"
    }
}

/// A request whose data is in a buffer of ours.
struct Bounced {
    buffer: Arc<AlignedBuffer>,
    /// Where a read goes when it is done.
    read_into: Option<(*const iovec, usize)>,
}

struct ExternalEngine {
    external: Arc<dyn External>,
    mailbox: Arc<Mailbox>,
    batch: Vec<ExternalRequest>,
    /// By tag.
    bounced: Vec<Option<Bounced>>,
    pool: BouncePool,
}

// SAFETY: the pointers in `bounced` are lists that the caller of `submit` keeps valid.
unsafe impl Send for ExternalEngine {}

impl ExternalEngine {
    /// One contiguous piece for the list's data.
    ///
    /// # Safety
    /// As for `submit`.
    unsafe fn bounce(&mut self, operation: &Operation<'_>, tag: u32) -> Result<ExternalData, Submitted> {
        let len = segments::total(operation.list).min(MAX_BOUNCE);
        let buffer = match self.pool.take(len) {
            Ok(Some(buffer)) => buffer,
            Ok(None) => return Err(Submitted::Full),
            Err(_) => return Err(Submitted::Done(-Outcome::from(libc::ENOMEM))),
        };
        let read_into = match operation.kind {
            Kind::Read => Some((operation.list.as_ptr(), operation.list.len())),
            _ => {
                // SAFETY: the caller's list is mapped, the buffer has at least `len` bytes.
                unsafe { segments::collect(operation.list, buffer.as_ptr(), len) };
                None
            }
        };
        let data = ExternalData {
            start: buffer.as_ptr(),
            len,
            _owner: Owner::Bounce(Arc::clone(&buffer)),
        };
        let index = tag as usize;
        if self.bounced.len() <= index {
            self.bounced.resize_with(index + 1, || None);
        }
        self.bounced[index] = Some(Bounced { buffer, read_into });
        Ok(data)
    }
}

impl Engine for ExternalEngine {
    unsafe fn submit(&mut self, operation: &Operation<'_>, memory: &Arc<Snapshot>, tag: u32) -> Submitted {
        let data = match (operation.kind, operation.list) {
            (Kind::Read | Kind::Write, [only]) => ExternalData {
                start: only.iov_base.cast(),
                len: only.iov_len,
                _owner: Owner::Guest(Arc::clone(memory)),
            },
            // SAFETY: the caller's promise.
            (Kind::Read | Kind::Write, _) => match unsafe { self.bounce(operation, tag) } {
                Ok(data) => data,
                Err(answer) => return answer,
            },
            _ => ExternalData::NONE,
        };
        let size = if data.is_empty() {
            operation.len
        } else {
            data.len as u64
        };
        self.batch.push(ExternalRequest {
            kind: operation.kind,
            offset: operation.offset,
            size,
            unmap: operation.unmap,
            data,
            reply: Some((Arc::clone(&self.mailbox), tag)),
        });
        Submitted::Pending
    }

    fn commit(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        // What completes within the call is reaped right after it: no system call to wake ourselves.
        self.mailbox.set_quiet(true);
        self.external.submit(&mut self.batch);
        self.batch.clear();
        self.mailbox.set_quiet(false);
    }

    fn reap(&mut self, out: &mut Vec<Completed>) {
        let first = out.len();
        self.mailbox.drain(out);
        for completed in &out[first..] {
            let Some(bounced) = self
                .bounced
                .get_mut(completed.tag as usize)
                .and_then(Option::take)
            else {
                continue;
            };
            if let (Some((list, entries)), Ok(len)) = (bounced.read_into, usize::try_from(completed.outcome))
            {
                // SAFETY: the caller of `submit` keeps the list and its memory until this reap.
                unsafe {
                    let list = std::slice::from_raw_parts(list, entries);
                    segments::spread(bounced.buffer.as_ptr(), len.min(bounced.buffer.len()), list);
                }
            }
            self.pool.give_back(bounced.buffer);
        }
    }

    fn completion_fd(&self) -> Option<RawFd> {
        Some(self.mailbox.fd())
    }

    fn keeps_memory(&self) -> bool {
        true
    }

    fn writes_stably(&self) -> bool {
        false
    }
}

/// Buffers by size, powers of two.
#[derive(Default)]
struct BouncePool {
    idle: [Vec<Arc<AlignedBuffer>>; 9],
    out: usize,
}

impl BouncePool {
    fn class(len: usize) -> usize {
        (len.max(MIN_BOUNCE).next_power_of_two() / MIN_BOUNCE).trailing_zeros() as usize
    }

    /// `None`: the budget is used up.
    fn take(&mut self, len: usize) -> io::Result<Option<Arc<AlignedBuffer>>> {
        let class = Self::class(len);
        let size = MIN_BOUNCE << class;
        if self.out + size > BOUNCE_BUDGET {
            return Ok(None);
        }
        let buffer = match self.idle.get_mut(class).and_then(Vec::pop) {
            Some(buffer) => buffer,
            None => Arc::new(AlignedBuffer::new(size)?),
        };
        self.out += size;
        Ok(Some(buffer))
    }

    fn give_back(&mut self, buffer: Arc<AlignedBuffer>) {
        self.out = self.out.saturating_sub(buffer.len());
        let class = Self::class(buffer.len());
        // Someone may still look at it through a clone of its data: such a buffer is not used again.
        if let Some(idle) = self.idle.get_mut(class) {
            if idle.len() < KEPT && Arc::strong_count(&buffer) == 1 {
                idle.push(buffer);
            }
        }
    }
}
