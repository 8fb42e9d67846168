//! Parts of a ring that lie scattered in memory, seen in one piece.
//!
//! A driver behind an IOMMU may give its ring consecutive addresses that lead to pages here and there. The
//! rings' code wants consecutive memory, so those pages are mapped once more, side by side.

use super::{AccessError, Contiguous, Error, Snapshot, Space, sigbus};
use std::io;
use std::os::fd::RawFd;
use std::ptr::null_mut;
use std::sync::Arc;

const PAGE: u64 = 4096;

/// Pages of guest memory mapped side by side, until the last owner drops it.
#[derive(Debug)]
pub struct Joined {
    // Dropped first: no fault may be taken for this mapping's once it is gone.
    _guard: sigbus::Guard,
    area: Area,
    /// Which bytes it shows: host address and length of each piece.
    pieces: Vec<(usize, u64)>,
    write: bool,
    /// Where the first byte is in the first page.
    skip: u64,
}

#[derive(Debug)]
struct Area {
    start: *mut libc::c_void,
    size: usize,
}

// SAFETY: an address of memory that this owns; whoever dereferences it uses atomic access.
unsafe impl Send for Area {}
// SAFETY: as above.
unsafe impl Sync for Area {}

impl Area {
    fn reserve(size: u64) -> Result<Self, Error> {
        let size = usize::try_from(size).map_err(|_| Error::Empty)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: new addresses, where the system likes.
        let start = unsafe { libc::mmap(null_mut(), size, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(Error::System("mmap", io::Error::last_os_error()));
        }
        Ok(Self { start, size })
    }

    /// Maps a part of a file into it, from `at` on.
    fn fill(&self, at: u64, size: u64, (fd, offset): (RawFd, u64), write: bool) -> Result<(), Error> {
        let access = libc::PROT_READ | if write { libc::PROT_WRITE } else { 0 };
        let flags = libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE;
        let target = self.start.wrapping_byte_add(at as usize);
        debug_assert!(at + size <= self.size as u64);
        // SAFETY: replaces pages within the area, which nobody uses yet.
        let mapped = unsafe { libc::mmap(target, size as usize, access, flags, fd, offset as libc::off_t) };
        if mapped == libc::MAP_FAILED {
            return Err(Error::System("mmap", io::Error::last_os_error()));
        }
        Ok(())
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: mapped by `reserve`, and not used any more.
        unsafe { libc::munmap(self.start, self.size) };
    }
}

impl Snapshot {
    /// Resolves a part of a ring; `None` while some of it is not there. What lies scattered is mapped into
    /// `joined`, or found there from the last time.
    pub fn ring_part(
        &self,
        space: Space,
        address: u64,
        size: u64,
        write: bool,
        joined: &mut Option<Arc<Joined>>,
    ) -> Result<Option<Contiguous>, AccessError> {
        match self.contiguous(space, address, size, write) {
            Ok(found) => {
                *joined = None;
                Ok(Some(found))
            }
            Err(AccessError::Unmapped { .. } | AccessError::Untranslated { .. }) => Ok(None),
            Err(AccessError::Divided { .. }) if space == Space::Guest => {
                let mut pieces = Vec::new();
                self.pieces(space, address, size, write, |host, _, length| {
                    pieces.push((host as usize, length));
                })?;
                let known = joined
                    .take()
                    .filter(|old| old.pieces == pieces && old.write >= write);
                let now = match known {
                    Some(known) => known,
                    None => Arc::new(
                        self.join(pieces, write)
                            .map_err(|_| AccessError::Divided { address, size })?,
                    ),
                };
                let host = now.area.start.cast::<u8>().wrapping_add(now.skip as usize);
                *joined = Some(now);
                Ok(Some(Contiguous { host, guest: address }))
            }
            Err(error) => Err(error),
        }
    }

    fn join(&self, pieces: Vec<(usize, u64)>, write: bool) -> Result<Joined, Error> {
        let skip = pieces.first().map_or(0, |(host, _)| *host as u64 % PAGE);
        let total = skip + pieces.iter().map(|(_, size)| size).sum::<u64>();
        let area = Area::reserve(total.next_multiple_of(PAGE))?;
        let mut at = 0;
        for (index, (host, size)) in pieces.iter().enumerate() {
            let (file, offset) = self.source(*host)?;
            let before = if index == 0 { skip } else { 0 };
            // Only whole pages can be put side by side.
            let last = index + 1 == pieces.len();
            let whole = last || (before + size) % PAGE == 0;
            let Some(from) = offset
                .checked_sub(before)
                .filter(|from| whole && from % PAGE == 0)
            else {
                return Err(Error::Wraps {
                    address: offset,
                    size: *size,
                });
            };
            area.fill(at, (before + size).next_multiple_of(PAGE), (file, from), write)?;
            at += before + size;
        }
        let guard = sigbus::Guard::new(area.start as usize, area.size)?;
        Ok(Joined {
            _guard: guard,
            area,
            pieces,
            write,
            skip,
        })
    }

    /// The file behind a host address, and the offset in it.
    fn source(&self, host: usize) -> Result<(RawFd, u64), Error> {
        let missing = || Error::NotFound {
            address: host as u64,
            size: 1,
        };
        let found = self.regions().iter().find_map(|region| {
            let offset = host.checked_sub(region.mapping.as_ptr() as usize)?;
            (offset < region.mapping.size()).then_some((region, offset as u64))
        });
        let (region, offset) = found.ok_or_else(missing)?;
        Ok((region.mapping.file().ok_or_else(missing)?, region.offset + offset))
    }
}
