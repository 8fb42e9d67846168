//! Shared memory for requests whose data lies elsewhere.

use crate::memory::Snapshot;
use std::sync::Arc;
use vm_memory::VolatileSlice;

/// Pieces of equal size; which are free, the ledger knows.
#[derive(Debug)]
pub(super) struct Bounce {
    guest: u64,
    host: *mut u8,
    pub(super) size: u32,
    _memory: Arc<Snapshot>,
}

// SAFETY: an address in memory that is kept; only volatile copies are made through it, under the queue's lock.
unsafe impl Send for Bounce {}
// SAFETY: as above.
unsafe impl Sync for Bounce {}

impl Bounce {
    /// # Safety
    ///
    /// At `host` there must be memory for all pieces, writable and mapped in `memory`.
    pub(super) unsafe fn new(guest: u64, host: *mut u8, size: u32, memory: Arc<Snapshot>) -> Self {
        Self {
            guest,
            host,
            size,
            _memory: memory,
        }
    }

    /// Guest address of a piece.
    pub(super) fn address(&self, chunk: u32) -> u64 {
        self.guest + u64::from(chunk) * u64::from(self.size)
    }

    fn slice(&self, chunk: u32, len: usize) -> VolatileSlice<'_> {
        let at = self.host.wrapping_add(chunk as usize * self.size as usize);
        // SAFETY: a piece is within the memory that `new` was promised, and no longer than `size`.
        unsafe { VolatileSlice::new(at, len.min(self.size as usize)) }
    }

    /// Copies `len` bytes into a piece.
    ///
    /// # Safety
    ///
    /// They must be readable.
    pub(super) unsafe fn fill(&self, chunk: u32, from: *mut u8, len: usize) {
        // SAFETY: as the caller promises. Volatile: they may be another thread's at the same time.
        let from = unsafe { VolatileSlice::new(from, len) };
        from.copy_to_volatile_slice(self.slice(chunk, len));
    }

    /// Copies `len` bytes out of a piece.
    ///
    /// # Safety
    ///
    /// There must be room for them.
    pub(super) unsafe fn empty(&self, chunk: u32, into: *mut u8, len: usize) {
        // SAFETY: as above.
        let into = unsafe { VolatileSlice::new(into, len) };
        self.slice(chunk, len).copy_to_volatile_slice(into);
    }
}
