//! One file mapped into this process.

use super::{Error, sigbus};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use vm_memory::{FileOffset, MmapRegion, mmap::MmapRegionBuilder};

/// A part of a file in this process' memory, unmapped when the last owner drops it.
#[derive(Debug)]
pub struct Mapping {
    // Dropped first: no fault may be taken for this mapping's once it is gone.
    guard: sigbus::Guard,
    map: MmapRegion<()>,
    skip: usize,
    size: usize,
    writable: bool,
}

impl Mapping {
    /// Maps `size` bytes of `fd` from `offset`. Neither needs to be aligned: whole pages are
    /// mapped (huge ones, where the file consists of those).
    pub fn new(fd: BorrowedFd<'_>, offset: u64, size: u64, writable: bool) -> Result<Self, Error> {
        if size == 0 {
            return Err(Error::Empty);
        }
        let wraps = Error::Wraps {
            address: offset,
            size,
        };
        let Some(end) = offset.checked_add(size).filter(|end| *end <= i64::MAX as u64) else {
            return Err(wraps);
        };
        let (length, page) = examine(fd)?;
        if end > length {
            return Err(Error::BeyondFile { end, file: length });
        }
        let start = offset & !(page - 1);
        // munmap of a huge page mapping wants whole huge pages, too.
        let (Some(aligned), Ok(skip), Ok(wanted)) = (
            (end - start)
                .checked_next_multiple_of(page)
                .and_then(|size| usize::try_from(size).ok()),
            usize::try_from(offset - start),
            usize::try_from(size),
        ) else {
            return Err(wraps);
        };
        let file = File::from(fd.try_clone_to_owned().map_err(|e| Error::System("dup", e))?);
        let access = if writable {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            libc::PROT_READ
        };
        let map = MmapRegionBuilder::new(aligned)
            .with_file_offset(FileOffset::new(file, start))
            .with_mmap_prot(access)
            .with_mmap_flags(libc::MAP_NORESERVE | libc::MAP_SHARED)
            .build()
            .map_err(|e| match e {
                vm_memory::mmap::MmapRegionError::Mmap(e) => Error::System("mmap", e),
                other => Error::System("mmap", io::Error::other(other)),
            })?;
        let guard = sigbus::Guard::new(map.as_ptr() as usize, aligned)?;
        Ok(Self {
            guard,
            map,
            skip,
            size: wanted,
            writable,
        })
    }

    /// Host address of the first byte asked for.
    pub fn as_ptr(&self) -> *mut u8 {
        self.map.as_ptr().wrapping_add(self.skip)
    }

    /// Bytes asked for.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The file behind it.
    pub(super) fn file(&self) -> Option<RawFd> {
        self.map.file_offset().map(|file| file.file().as_raw_fd())
    }

    /// Whether it may be written to.
    pub fn writable(&self) -> bool {
        self.writable
    }

    /// Whether the file turned out to be shorter than the mapping: its owner truncated it
    /// under us, and zeros have taken its place.
    pub fn truncated(&self) -> bool {
        self.guard.tripped()
    }
}

/// Size of a file that can be mapped, and the size of its pages.
fn examine(fd: BorrowedFd<'_>) -> Result<(u64, u64), Error> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: fstat fills the structure given or fails.
    let stat = unsafe {
        if libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr()) != 0 {
            return Err(Error::System("fstat", io::Error::last_os_error()));
        }
        stat.assume_init()
    };
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(Error::WrongKind);
    }
    let mut fs = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: fstatfs fills the structure given or fails.
    let fs = unsafe {
        if libc::fstatfs(fd.as_raw_fd(), fs.as_mut_ptr()) != 0 {
            return Err(Error::System("fstatfs", io::Error::last_os_error()));
        }
        fs.assume_init()
    };
    // SAFETY: asks for a constant.
    let mut page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64;
    if fs.f_type == libc::HUGETLBFS_MAGIC {
        page = page.max(fs.f_bsize as u64);
    }
    Ok((stat.st_size as u64, page))
}
