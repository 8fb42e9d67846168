//! Scatter lists of guest memory for the kernel, and copies between them and memory of ours.
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

/// Host and guest address of the last byte of a part.
pub(super) fn last_byte(part: &[Segment]) -> Option<(*mut u8, u64)> {
    let last = part.last()?;
    let before = last.len.checked_sub(1)?;
    Some((
        last.host.wrapping_add(before as usize),
        last.guest.wrapping_add(u64::from(before)),
    ))
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
