//! A dirty log in memory that is shared with whoever wants to know: one bit for each page.

use super::{DirtyLog, Error, Mapping};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};

/// Bytes that one bit stands for (VHOST_LOG_PAGE).
pub const LOG_PAGE: u64 = 4096;

/// vhost's dirty log: bit `n % 8` of byte `n / 8` stands for page `n` of guest memory.
#[derive(Debug)]
pub struct SharedLog {
    map: Mapping,
    notify: Option<OwnedFd>,
}

impl SharedLog {
    /// Logs into `size` bytes of `fd` from `offset` on; signals the eventfd `notify` when a page that was
    /// clean is not any more.
    pub fn new(
        fd: BorrowedFd<'_>,
        offset: u64,
        size: u64,
        notify: Option<BorrowedFd<'_>>,
    ) -> Result<Self, Error> {
        let notify = notify
            .map(|fd| fd.try_clone_to_owned())
            .transpose()
            .map_err(|error| Error::System("dup", error))?;
        Ok(Self {
            map: Mapping::new(fd, offset, size, true)?,
            notify,
        })
    }

    /// Sets bits of one byte; true if one was not set. Bytes that the log does not have: nothing.
    fn set(&self, byte: u64, bits: u8) -> bool {
        let Some(byte) = usize::try_from(byte).ok().filter(|byte| *byte < self.map.size()) else {
            return false;
        };
        // SAFETY: within the mapping, which lives as long as `self`; every access here is atomic, and what
        // the other side does there can change the bits only.
        let byte = unsafe { AtomicU8::from_ptr(self.map.as_ptr().add(byte)) };
        // Always stored, even if it is set already: who reads and clears it at the same time must either
        // leave the new bit, or copy the page after it was written.
        byte.fetch_or(bits, Ordering::SeqCst) & bits != bits
    }
}

impl DirtyLog for SharedLog {
    fn mark(&self, address: u64, size: u64) {
        if size == 0 {
            return;
        }
        let first = address / LOG_PAGE;
        let last = address.saturating_add(size - 1) / LOG_PAGE;
        let mut news = false;
        for byte in first / 8..=(last / 8).min(self.map.size() as u64) {
            let low = if byte == first / 8 { first % 8 } else { 0 };
            let high = if byte == last / 8 { last % 8 } else { 7 };
            news |= self.set(byte, (0xff >> (7 - high)) & (0xff << low));
        }
        if let (true, Some(fd)) = (news, &self.notify) {
            let one = 1u64.to_ne_bytes();
            // SAFETY: writes 8 bytes out of an array of 8. A full counter is as good as a signal.
            let _ = unsafe { libc::write(fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        }
    }
}
