//! Reads of an image that lies in memory anyway, without a system call.

use crate::memory::Mapping;
use libc::iovec;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use vm_memory::VolatileSlice;

/// An image in memory, mapped for reading.
///
/// Only while it has no holes: reading one through a mapping would give it memory. And should someone cut the
/// file, reads go back to the kernel, which says so.
#[derive(Debug)]
pub(super) struct Mapped {
    mapping: Mapping,
    whole: AtomicBool,
}

impl Mapped {
    /// Maps a file of a memory file system. `None`: it has holes, or cannot be mapped.
    pub(super) fn new(file: &File) -> Option<Self> {
        let facts = file.metadata().ok()?;
        if facts.blocks() * 512 < facts.len() {
            return None;
        }
        Some(Self {
            mapping: Mapping::new(file.as_fd(), 0, facts.len(), false).ok()?,
            whole: AtomicBool::new(true),
        })
    }

    /// There may be holes from now on.
    pub(super) fn pierce(&self) {
        self.whole.store(false, Ordering::Relaxed);
    }

    /// Fills the list from `offset` on; returns how much that was. `None`: the kernel has to.
    ///
    /// # Safety
    /// The list names valid memory.
    pub(super) unsafe fn read(&self, offset: u64, list: &[iovec]) -> Option<usize> {
        if !self.whole.load(Ordering::Relaxed) || self.mapping.truncated() {
            return None;
        }
        let total: usize = list.iter().map(|entry| entry.iov_len).sum();
        let mut at = usize::try_from(offset).ok()?;
        if at.checked_add(total)? > self.mapping.size() {
            return None;
        }
        for entry in list {
            let from = self.mapping.as_ptr().wrapping_add(at);
            // SAFETY: within the mapping, as just checked, and within the caller's list.
            let (from, into) = unsafe {
                (
                    VolatileSlice::new(from, entry.iov_len),
                    VolatileSlice::new(entry.iov_base.cast(), entry.iov_len),
                )
            };
            from.copy_to_volatile_slice(into);
            at += entry.iov_len;
        }
        // Zeros may have come in the place of what was cut off.
        (!self.mapping.truncated()).then_some(total)
    }
}
