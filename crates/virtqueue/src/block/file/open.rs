//! Opening an image, and finding out what it is.

use super::disk::{Direct, Disk, Medium};
use super::{FileOptions, Source};
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

/// BLKSSZGET: logical block size. libc names none of the block ioctls on all its platforms.
const BLKSSZGET: u32 = 0x1268;

const TMPFS_MAGIC: u32 = 0x0102_1994;
const RAMFS_MAGIC: u32 = 0x8584_58f6;

pub(super) fn open(options: FileOptions) -> io::Result<Disk> {
    let direct = if options.direct { libc::O_DIRECT } else { 0 };
    let file = match options.source {
        Source::Path(path) => open_flags(&options.read_only, direct)
            .open(&path)
            .map_err(|error| explain(error, options.direct))?,
        Source::Fd(fd) => adopt(File::from(fd), options.read_only, options.direct)?,
    };
    let medium = medium(&file)?;
    let logical = match medium {
        Medium::Block => logical_block_size(file.as_raw_fd())?,
        Medium::Regular => 512,
    };
    let in_memory = medium == Medium::Regular && in_memory(&file);
    // There is no device to go to past the page cache: such files take any alignment.
    let direct = match options.direct && !in_memory {
        true => Some(direct_access(&file, options.read_only, logical)),
        false => None,
    };
    let block_size = direct
        .as_ref()
        .map_or(logical, |direct| direct.offset_align.max(logical));
    Ok(Disk::new(
        file,
        medium,
        direct,
        block_size,
        options.sync,
        in_memory,
    ))
}

fn open_flags(read_only: &bool, extra: i32) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(!read_only).custom_flags(extra);
    options
}

fn explain(error: io::Error, direct: bool) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EINVAL) if direct => io::Error::new(
            io::ErrorKind::Unsupported,
            "this file system does not allow direct access (O_DIRECT)",
        ),
        _ => error,
    }
}

fn invalid(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// Takes over a descriptor; opens it anew where its flags are not those asked for.
fn adopt(file: File, read_only: bool, direct: bool) -> io::Result<File> {
    // SAFETY: no pointers involved.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    let access = flags & libc::O_ACCMODE;
    if access == libc::O_WRONLY || (access == libc::O_RDONLY && !read_only) {
        return Err(invalid(
            "the descriptor is not open for reading and, unless read-only, writing",
        ));
    }
    // With O_APPEND, pwrite would write at the end whatever the offset.
    if (flags & libc::O_DIRECT != 0) == direct && flags & libc::O_APPEND == 0 {
        return Ok(file);
    }
    reopen(&file, read_only, if direct { libc::O_DIRECT } else { 0 }).map_err(|error| explain(error, direct))
}

fn reopen(file: &File, read_only: bool, flags: i32) -> io::Result<File> {
    open_flags(&read_only, flags).open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn medium(file: &File) -> io::Result<Medium> {
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        Ok(Medium::Regular)
    } else if kind.is_block_device() {
        Ok(Medium::Block)
    } else {
        Err(invalid("neither a regular file nor a block device"))
    }
}

/// Whether the file lives in memory alone. Such file systems do not know RWF_NOWAIT, and need not.
fn in_memory(file: &File) -> bool {
    let mut answer = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the buffer is a statfs, of which all zeroes is a valid one.
    let (result, answer) = unsafe {
        (
            libc::fstatfs(file.as_raw_fd(), answer.as_mut_ptr()),
            answer.assume_init(),
        )
    };
    result == 0 && matches!(answer.f_type as u32, TMPFS_MAGIC | RAMFS_MAGIC)
}

fn logical_block_size(fd: RawFd) -> io::Result<u32> {
    let mut size: libc::c_int = 0;
    // SAFETY: the ioctl writes one int.
    if unsafe { libc::ioctl(fd, BLKSSZGET as _, &raw mut size) } < 0 {
        return Err(io::Error::last_os_error());
    }
    u32::try_from(size)
        .ok()
        .filter(|size| size.is_power_of_two())
        .ok_or_else(|| invalid("odd logical block size"))
}

fn direct_access(file: &File, read_only: bool, logical: u32) -> Direct {
    let (memory_align, offset_align) = direct_alignment(file).unwrap_or((4096, logical.max(4096)));
    // For what is not aligned. Without /proc there is none, and such requests fail.
    Direct {
        memory_align,
        offset_align,
        buffered: reopen(file, read_only, 0).ok(),
    }
}

/// What the kernel says that direct access must be aligned to (Linux 6.1 and later).
fn direct_alignment(file: &File) -> Option<(u32, u32)> {
    let mut answer = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: an empty path with AT_EMPTY_PATH names the descriptor; the buffer is a statx.
    let result = unsafe {
        let mask = libc::STATX_DIOALIGN;
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            mask,
            answer.as_mut_ptr(),
        )
    };
    // SAFETY: all zeroes is a valid statx, and the kernel has written over it.
    let answer = unsafe { answer.assume_init() };
    let (memory, offset) = (answer.stx_dio_mem_align, answer.stx_dio_offset_align);
    let known = result == 0 && answer.stx_mask & libc::STATX_DIOALIGN != 0;
    (known && memory.is_power_of_two() && offset.is_power_of_two()).then_some((memory, offset))
}
