//! Copies between guest memory and ours, and scatter lists for the kernel.
//!
//! Guest memory changes under our hands: it is touched by volatile access,
//! by an opaque `memcpy`, or by the kernel, and never through a reference.

use crate::chain::Segment;
use libc::iovec;

/// `memcpy` that the compiler cannot look into, so that a racing guest can
/// change the bytes copied but nothing else.
///
/// # Safety
/// Both ranges are mapped for `len` bytes and do not overlap.
pub(super) unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { libc::memcpy(to.cast(), from.cast(), len) };
}

/// The pieces of `part` from byte `skip` on, at most `len` bytes of them.
fn pieces(part: &[Segment], skip: u64, len: u64) -> impl Iterator<Item = (*mut u8, usize)> + '_ {
    let (mut skip, mut left) = (skip, len);
    part.iter().filter_map(move |segment| {
        let size = u64::from(segment.len);
        if skip >= size {
            skip -= size;
            return None;
        }
        let take = (size - skip).min(left);
        let host = segment.host.wrapping_add(skip as usize);
        skip = 0;
        left -= take;
        (take > 0).then_some((host, take as usize))
    })
}

/// Copies bytes of a part out, from byte `skip` on; how many there were.
///
/// # Safety
/// The segments are mapped.
pub(super) unsafe fn copy_out(part: &[Segment], skip: u64, into: &mut [u8]) -> usize {
    let mut done = 0;
    for (host, len) in pieces(part, skip, into.len() as u64) {
        // SAFETY: the guest's side is mapped, ours has `into.len()` bytes left.
        unsafe { copy(into.as_mut_ptr().add(done), host, len) };
        done += len;
    }
    done
}

/// Copies bytes into a part, from byte `skip` on; how many fitted.
///
/// # Safety
/// The segments are mapped writable.
pub(super) unsafe fn copy_in(part: &[Segment], skip: u64, from: &[u8]) -> usize {
    let mut done = 0;
    for (host, len) in pieces(part, skip, from.len() as u64) {
        // SAFETY: the guest's side is mapped, `pieces` stays within `from`.
        unsafe { copy(host, from.as_ptr().add(done), len) };
        done += len;
    }
    done
}

/// Appends `len` bytes of a part as a scatter list. Neighbours become one
/// entry: guests' pages are often adjacent, and each entry costs time below.
pub(super) fn scatter(part: &[Segment], skip: u64, len: u64, list: &mut Vec<iovec>) {
    for (host, len) in pieces(part, skip, len) {
        if let Some(last) = list.last_mut() {
            if last.iov_base.cast::<u8>().wrapping_add(last.iov_len) == host {
                last.iov_len += len;
                continue;
            }
        }
        list.push(iovec {
            iov_base: host.cast(),
            iov_len: len,
        });
    }
}

/// Host address of the last byte of a part.
pub(super) fn last_byte(part: &[Segment]) -> Option<*mut u8> {
    let last = part.last()?;
    Some(last.host.wrapping_add((last.len as usize).checked_sub(1)?))
}

/// Bytes in a scatter list.
pub(super) fn total(list: &[iovec]) -> usize {
    list.iter()
        .fold(0, |sum, entry| sum.saturating_add(entry.iov_len))
}

/// Consumes `count` bytes at the head of a list; how many entries are used up.
pub(super) fn advance(list: &mut [iovec], count: usize) -> usize {
    let mut left = count;
    for (index, entry) in list.iter_mut().enumerate() {
        if left < entry.iov_len {
            entry.iov_base = entry.iov_base.cast::<u8>().wrapping_add(left).cast();
            entry.iov_len -= left;
            return index;
        }
        left -= entry.iov_len;
    }
    list.len()
}

/// Writes zeroes over a whole list.
///
/// # Safety
/// The entries are mapped writable.
pub(super) unsafe fn zero(list: &[iovec]) {
    for entry in list {
        // SAFETY: the caller's promise.
        unsafe { libc::memset(entry.iov_base, 0, entry.iov_len) };
    }
}

/// Copies from flat memory into a list; how many bytes fitted.
///
/// # Safety
/// `from` has `len` bytes and the entries are mapped writable.
pub(super) unsafe fn spread(from: *const u8, len: usize, list: &[iovec]) -> usize {
    let mut done = 0;
    for entry in list {
        let count = entry.iov_len.min(len - done);
        // SAFETY: `count` is within both sides.
        unsafe { copy(entry.iov_base.cast(), from.add(done), count) };
        done += count;
    }
    done
}

/// Copies the first `len` bytes of a list into flat memory; how many there were.
///
/// # Safety
/// `to` has room for `len` bytes and the entries are mapped.
pub(super) unsafe fn collect(list: &[iovec], to: *mut u8, len: usize) -> usize {
    let mut done = 0;
    for entry in list {
        let count = entry.iov_len.min(len - done);
        // SAFETY: `count` is within both sides.
        unsafe { copy(to.add(done), entry.iov_base.cast(), count) };
        done += count;
    }
    done
}
