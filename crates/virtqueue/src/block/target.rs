//! What the queues of one block device share.

use super::engine::{Backend, Engine, Kind, Operation, whole_sectors};
use super::external::{External, ExternalBackend};
use super::file::{FileBackend, FileOptions};
use super::memory::MemoryBackend;
use super::null::NullBackend;
use super::tally::Tally;
use crate::spec::block::{ID_LENGTH, SECTOR_SIZE};
use libc::iovec;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Limits that the configuration space announces and requests are held to.
///
/// A queue takes them over when its handler is made; sectors are 512 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `size_max`: bytes in one segment of data; 0: any number.
    pub size_max: u32,
    /// `seg_max`: segments of data in a request; 0: any number.
    pub seg_max: u32,
    /// `max_discard_sectors`, for one segment of a request.
    pub max_discard_sectors: u32,
    /// `max_discard_seg`
    pub max_discard_seg: u32,
    /// `max_write_zeroes_sectors`, for one segment of a request.
    pub max_write_zeroes_sectors: u32,
    /// `max_write_zeroes_seg`
    pub max_write_zeroes_seg: u32,
    /// `max_secure_erase_sectors`, for one segment of a request.
    pub max_secure_erase_sectors: u32,
    /// `max_secure_erase_seg`
    pub max_secure_erase_seg: u32,
}

impl Default for Limits {
    /// Discarding is quick whatever its size; the others may have to write, and
    /// then take about a tenth of a second for what is allowed here.
    fn default() -> Self {
        Self {
            size_max: 1 << 22,
            seg_max: 254,
            max_discard_sectors: 1 << 22,
            max_discard_seg: 64,
            max_write_zeroes_sectors: 1 << 18,
            max_write_zeroes_seg: 16,
            max_secure_erase_sectors: 1 << 18,
            max_secure_erase_seg: 16,
        }
    }
}

/// `struct virtio_blk_lifetime`: wear of the medium.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetime {
    /// 0 undefined, 1 normal, 2 warning, 3 urgent.
    pub pre_eol_info: u16,
    /// 0 undefined, then tenths of the lifetime of SLC cells, 11 exceeded.
    pub device_lifetime_est_typ_a: u16,
    /// The same of MLC cells.
    pub device_lifetime_est_typ_b: u16,
}

/// The medium of a block device and how it is presented; shared by all its queues.
pub struct Target {
    backend: Arc<dyn Backend>,
    capacity: AtomicU64,
    writeback: AtomicBool,
    read_only: bool,
    settings: Mutex<Settings>,
    tally: Tally,
}

#[derive(Clone, Copy, Default)]
struct Settings {
    serial: [u8; ID_LENGTH],
    limits: Limits,
    lifetime: Option<Lifetime>,
}

impl Target {
    /// A file or block device of the host.
    pub fn file(options: FileOptions) -> io::Result<Self> {
        let read_only = options.read_only;
        Self::new(Arc::new(FileBackend::open(options)?), read_only)
    }

    /// Anonymous memory, zero at first.
    pub fn memory(size: u64) -> io::Result<Self> {
        Self::new(Arc::new(MemoryBackend::new(size)?), false)
    }

    /// A medium that loses what is written. Reads give zeroes, or with `zeroes` off leave the
    /// driver's buffers as they were: for measurements only, since their bytes count as written.
    pub fn null(size: u64, zeroes: bool) -> io::Result<Self> {
        Self::new(Arc::new(NullBackend::new(size, zeroes)), false)
    }

    /// A back end outside this crate, of `size` bytes.
    pub fn external(external: Arc<dyn External>, size: u64, read_only: bool) -> io::Result<Self> {
        Self::new(
            Arc::new(ExternalBackend(external, AtomicU64::new(size))),
            read_only,
        )
    }

    pub(super) fn new(backend: Arc<dyn Backend>, read_only: bool) -> io::Result<Self> {
        let size = backend.size()?;
        Ok(Self {
            backend,
            // A last sector that the image holds only in part reads as if padded with zeroes.
            capacity: AtomicU64::new(whole_sectors(size)),
            writeback: AtomicBool::new(true),
            read_only,
            settings: Mutex::default(),
            tally: Tally::default(),
        })
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn engine(&self) -> io::Result<Box<dyn Engine>> {
        Arc::clone(&self.backend).engine()
    }

    /// Bytes that the driver can reach, a multiple of 512.
    pub fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// Changes the capacity while queues may run. A regular file or memory grows along;
    /// nothing shrinks but what the driver can reach.
    pub fn set_capacity(&self, bytes: u64) -> io::Result<()> {
        if bytes % SECTOR_SIZE != 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the capacity is not a multiple of 512 bytes",
            ));
        }
        if bytes > self.capacity() {
            if !self.read_only {
                self.backend.grow(bytes)?;
            }
            if bytes > whole_sectors(self.backend.size()?) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "the capacity exceeds the back end",
                ));
            }
        }
        self.capacity.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Takes over the size that the back end has now; the new capacity.
    pub fn refresh_capacity(&self) -> io::Result<u64> {
        let bytes = whole_sectors(self.backend.size()?);
        self.capacity.store(bytes, Ordering::Relaxed);
        Ok(bytes)
    }

    /// The `writeback` field: whether completed writes may be volatile.
    pub fn writeback(&self) -> bool {
        self.writeback.load(Ordering::Acquire)
    }

    /// Switches between write-back and write-through, for requests from now on.
    pub fn set_writeback(&self, writeback: bool) {
        self.writeback.store(writeback, Ordering::Release);
    }

    /// Whether VIRTIO_BLK_F_RO is offered: all that would change the medium is refused.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Smallest unit in bytes that the back end reads and writes without a detour, for `blk_size`.
    pub fn block_size(&self) -> u32 {
        self.backend.block_size()
    }

    /// What performs the I/O: `io_uring`, `threads`, `memory`, `null` or `external`.
    pub fn engine_name(&self) -> &'static str {
        self.backend.name()
    }

    /// Whether discarding gives back space.
    pub fn can_discard(&self) -> bool {
        !self.read_only && self.backend.can_discard()
    }

    /// The device ID string, NUL-padded.
    pub fn serial(&self) -> [u8; ID_LENGTH] {
        self.settings().serial
    }

    /// Sets the device ID string; at most 20 bytes.
    pub fn set_serial(&self, serial: &[u8]) -> io::Result<()> {
        let mut padded = [0; ID_LENGTH];
        match padded.get_mut(..serial.len()) {
            Some(head) => head.copy_from_slice(serial),
            None => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "the serial is longer than 20 bytes",
                ));
            }
        }
        self.settings().serial = padded;
        Ok(())
    }

    /// The limits for queues that start from now on.
    pub fn limits(&self) -> Limits {
        self.settings().limits
    }

    /// Sets the limits for queues that start from now on.
    pub fn set_limits(&self, limits: Limits) {
        self.settings().limits = limits;
    }

    /// Wear of the medium, if it is known.
    pub fn lifetime(&self) -> Option<Lifetime> {
        self.settings().lifetime
    }

    /// Sets what VIRTIO_BLK_T_GET_LIFETIME answers. `None`: unsupported.
    pub fn set_lifetime(&self, lifetime: Option<Lifetime>) {
        self.settings().lifetime = lifetime;
    }

    /// Requests that were refused or failed, by reason.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Reads, as the driver would; `offset` and length of any alignment.
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let list = [iovec {
            iov_base: into.as_mut_ptr().cast(),
            iov_len: into.len(),
        }];
        self.perform(Kind::Read, offset, into.len() as u64, false, &list)
    }

    /// Writes, as the driver would; `offset` and length of any alignment.
    pub fn write_at(&self, offset: u64, from: &[u8]) -> io::Result<()> {
        let list = [iovec {
            iov_base: from.as_ptr().cast_mut().cast(),
            iov_len: from.len(),
        }];
        self.perform(Kind::Write, offset, from.len() as u64, false, &list)
    }

    /// [`Self::read_at`] for memory that others may look at meanwhile.
    ///
    /// # Safety
    /// `len` bytes at `into` stay valid for writing until this returns.
    pub unsafe fn read_to(&self, offset: u64, into: *mut u8, len: usize) -> io::Result<()> {
        let list = [iovec {
            iov_base: into.cast(),
            iov_len: len,
        }];
        self.perform(Kind::Read, offset, len as u64, false, &list)
    }

    /// [`Self::write_at`] for memory that others may change meanwhile.
    ///
    /// # Safety
    /// `len` bytes at `from` stay valid for reading until this returns.
    pub unsafe fn write_from(&self, offset: u64, from: *const u8, len: usize) -> io::Result<()> {
        let list = [iovec {
            iov_base: from.cast_mut().cast(),
            iov_len: len,
        }];
        self.perform(Kind::Write, offset, len as u64, false, &list)
    }

    /// Makes all completed writes stable.
    pub fn flush(&self) -> io::Result<()> {
        self.perform(Kind::Flush, 0, 0, false, &[])
    }

    /// Gives up a range of bytes.
    pub fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.perform(Kind::Discard, offset, len, false, &[])
    }

    /// Makes a range of bytes read as zeroes; `unmap`: it may be deallocated.
    pub fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.perform(Kind::WriteZeroes, offset, len, unmap, &[])
    }

    /// Erases a range of bytes for good (see [`Kind::SecureErase`] and the back end).
    pub fn secure_erase(&self, offset: u64, len: u64) -> io::Result<()> {
        self.perform(Kind::SecureErase, offset, len, false, &[])
    }

    fn perform(&self, kind: Kind, offset: u64, len: u64, unmap: bool, list: &[iovec]) -> io::Result<()> {
        if offset.checked_add(len).is_none_or(|end| end > self.capacity()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the range ends beyond the capacity",
            ));
        }
        if self.read_only && !matches!(kind, Kind::Read | Kind::Flush) {
            return Err(io::Error::from_raw_os_error(libc::EROFS));
        }
        if len == 0 && kind != Kind::Flush {
            return Ok(());
        }
        let stable = kind == Kind::Write && !self.writeback();
        let operation = Operation {
            kind,
            offset,
            len,
            unmap,
            stable,
            list,
        };
        // SAFETY: the list comes from slices borrowed for this call, mutable ones for reads.
        unsafe { self.backend.perform(&operation) }
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target")
            .field("capacity", &self.capacity())
            .field("writeback", &self.writeback())
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}
