//! Asking for a cache line before it is needed.

/// Bytes of a line, as most processors have it.
pub(crate) const LINE: usize = 64;

/// Fetches the line at `address` for writing. Of a line that the other end has written last, a plain
/// load fetches a copy only, and a store to it later has to claim it a second time.
#[inline(always)]
pub(crate) fn for_writing(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; it neither faults nor changes anything. Processors without it do nothing.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("prfm pstl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}

/// Fetches the line at `address` for reading.
#[inline(always)]
pub(crate) fn for_reading(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; it neither faults nor changes anything.
    unsafe {
        std::arch::asm!("prefetcht0 [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}
