//! A medium in anonymous memory.

use super::engine::{Backend, Engine, Kind, Operation, Outcome, Submitted, outcome, whole_sectors};
use super::segments;
use crate::memory::Snapshot;
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

/// Memory behind a descriptor, so that it can grow while mapped and give pages back.
pub(super) struct MemoryBackend {
    file: File,
    current: Mutex<Arc<Mapping>>,
}

/// The medium as it was mapped at one time; longer ones replace it, none moves under a user.
struct Mapping {
    start: NonNull<c_void>,
    len: usize,
}

// SAFETY: an address range, reached by copies only.
unsafe impl Send for Mapping {}
// SAFETY: queues may race on the same sectors, as on any disk; each byte is either old or new.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(file: &File, size: u64) -> io::Result<Self> {
        let len = usize::try_from(size).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        if len == 0 {
            return Ok(Self {
                start: NonNull::dangling(),
                len,
            });
        }
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
            libc::mmap(std::ptr::null_mut(), len, protection, flags, file.as_raw_fd(), 0)
        };
        match NonNull::new(start) {
            Some(start) if start.as_ptr() != libc::MAP_FAILED => Ok(Self { start, len }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn at(&self, offset: u64, len: u64) -> io::Result<*mut u8> {
        if offset.checked_add(len).is_none_or(|end| end > self.len as u64) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(self.start.as_ptr().cast::<u8>().wrapping_add(offset as usize))
    }

    /// Copies between the medium and a list.
    ///
    /// # Safety
    /// The list is mapped, writable for reads.
    unsafe fn transfer(&self, operation: &Operation<'_>) -> io::Result<usize> {
        let len = segments::total(operation.list);
        let start = self.at(operation.offset, len as u64)?;
        // SAFETY: `at` has checked our side, the caller promises the other.
        Ok(unsafe {
            match operation.kind {
                Kind::Read => segments::spread(start, len, operation.list),
                _ => segments::collect(operation.list, start, len),
            }
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: mapped in `new`; every user holds the Arc around this.
            unsafe { libc::munmap(self.start.as_ptr(), self.len) };
        }
    }
}

impl MemoryBackend {
    pub(super) fn new(size: u64) -> io::Result<Self> {
        // SAFETY: a literal name.
        let fd = unsafe { libc::memfd_create(c"virtio-block".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        let file = unsafe { File::from_raw_fd(fd) };
        let size = whole_sectors(size);
        file.set_len(size)?;
        let current = Mutex::new(Arc::new(Mapping::new(&file, size)?));
        Ok(Self { file, current })
    }

    fn mapping(&self) -> Arc<Mapping> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<usize> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: no pointers involved.
        match unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset as i64, len as i64) } {
            0 => Ok(0),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// # Safety
    /// As for `Mapping::transfer`.
    unsafe fn run(&self, mapping: &Mapping, operation: &Operation<'_>) -> io::Result<usize> {
        match operation.kind {
            // SAFETY: the caller's promise.
            Kind::Read | Kind::Write => unsafe { mapping.transfer(operation) },
            Kind::Flush => Ok(0),
            // Freed pages read as zeroes, and memory has no other place where data could linger.
            Kind::Discard | Kind::WriteZeroes | Kind::SecureErase => {
                self.punch(operation.offset, operation.len)
            }
        }
    }
}

impl Backend for MemoryBackend {
    fn engine(self: Arc<Self>) -> io::Result<Box<dyn Engine>> {
        Ok(Box::new(MemoryEngine {
            mapping: self.mapping(),
            backend: self,
        }))
    }

    unsafe fn perform(&self, operation: &Operation<'_>) -> io::Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.run(&self.mapping(), operation) }.map(|_| ())
    }

    fn grow(&self, size: u64) -> io::Result<()> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if size > current.len as u64 {
            self.file.set_len(size)?;
            *current = Arc::new(Mapping::new(&self.file, size)?);
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.mapping().len as u64)
    }

    fn name(&self) -> &'static str {
        "memory"
    }

    fn can_discard(&self) -> bool {
        true
    }
}

struct MemoryEngine {
    backend: Arc<MemoryBackend>,
    mapping: Arc<Mapping>,
}

impl Engine for MemoryEngine {
    unsafe fn submit(&mut self, operation: &Operation<'_>, _: &Arc<Snapshot>, _: u32) -> Submitted {
        let len = operation.len.max(segments::total(operation.list) as u64);
        if self.mapping.at(operation.offset, len).is_err() {
            self.mapping = self.backend.mapping();
        }
        // SAFETY: the caller's promise.
        let result: Outcome = outcome(unsafe { self.backend.run(&self.mapping, operation) });
        Submitted::Done(result)
    }
}
