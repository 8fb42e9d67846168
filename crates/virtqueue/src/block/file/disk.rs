//! Operations on an image, each on the caller's time.

use super::mapped::Mapped;
use crate::block::buffer::AlignedBuffer;
use crate::block::engine::{Kind, MAX_LIST, Operation, whole_sectors};
use crate::block::segments;
use libc::iovec;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

const BLKGETSIZE64: u64 = 0x8008_1272;
const BLKDISCARD: u64 = 0x1277;
const BLKSECDISCARD: u64 = 0x127d;

/// Data copied at once where it cannot go straight between guest and file.
const BOUNCE: usize = 256 << 10;

/// What an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Medium {
    Regular,
    Block,
}

/// Access past the page cache.
#[derive(Debug)]
pub(super) struct Direct {
    /// Guest memory must start on a multiple of this.
    pub memory_align: u32,
    /// Offsets and lengths must be multiples of this.
    pub offset_align: u32,
    /// The same image through the page cache.
    pub buffered: Option<File>,
}

/// An open image.
#[derive(Debug)]
pub(super) struct Disk {
    file: File,
    medium: Medium,
    pub direct: Option<Direct>,
    pub block_size: u32,
    /// Off: flushes do nothing.
    pub sync: bool,
    /// No access ever waits for a device.
    pub in_memory: bool,
    /// What of such an image can be read without asking the kernel.
    pub mapped: Option<Mapped>,
    /// Writing back has failed. The kernel drops what it could not write and reports that once;
    /// later flushes must not pass for success.
    lost: AtomicBool,
}

/// Which way data can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Straight between guest memory and the file.
    Straight,
    /// Through an aligned buffer: guest memory is not aligned.
    Bounce,
    /// Through the page cache: the range is not aligned.
    Cache,
}

fn check(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

impl Disk {
    pub(super) fn new(
        file: File,
        medium: Medium,
        direct: Option<Direct>,
        block_size: u32,
        sync: bool,
        in_memory: bool,
    ) -> Self {
        Self {
            mapped: in_memory.then(|| Mapped::new(&file)).flatten(),
            file,
            medium,
            direct,
            block_size,
            sync,
            in_memory,
            lost: AtomicBool::new(false),
        }
    }

    pub(super) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    pub(super) fn size(&self) -> io::Result<u64> {
        if self.medium == Medium::Regular {
            return Ok(self.file.metadata()?.len());
        }
        let mut size = 0u64;
        // SAFETY: the ioctl writes one u64.
        if unsafe { libc::ioctl(self.fd(), BLKGETSIZE64 as _, &raw mut size) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(size)
    }

    /// Whether holes can be punched, by trying it where there is nothing.
    pub(super) fn can_discard(&self) -> bool {
        match self.medium {
            Medium::Block => true,
            Medium::Regular => {
                let beyond = self.size().unwrap_or(0).next_multiple_of(1 << 20);
                self.fallocate(libc::FALLOC_FL_PUNCH_HOLE, beyond, 1 << 12)
                    .is_ok()
            }
        }
    }

    /// Extends a regular file; block devices are as large as they are.
    pub(super) fn grow(&self, size: u64) -> io::Result<()> {
        if self.medium == Medium::Regular && self.size()? < size {
            self.file.set_len(size)?;
        }
        Ok(())
    }

    pub(super) fn route(&self, operation: &Operation<'_>) -> Route {
        let Some(direct) = &self.direct else {
            return Route::Straight;
        };
        let (memory, offset) = (direct.memory_align as usize - 1, direct.offset_align as usize - 1);
        if (operation.offset as usize | segments::total(operation.list)) & offset != 0 {
            return Route::Cache;
        }
        let aligned = |entry: &iovec| entry.iov_base as usize & memory == 0 && entry.iov_len & offset == 0;
        if operation.list.iter().all(aligned) {
            Route::Straight
        } else {
            Route::Bounce
        }
    }

    /// Performs an operation once; data operations perhaps in part.
    ///
    /// # Safety
    /// The list names valid memory, writable for reads.
    pub(super) unsafe fn perform(
        &self,
        operation: &Operation<'_>,
        bounce: &mut Option<AlignedBuffer>,
    ) -> io::Result<usize> {
        let (offset, len) = (operation.offset, operation.len);
        if let (Kind::Discard | Kind::WriteZeroes, Some(mapped)) = (operation.kind, &self.mapped) {
            mapped.pierce();
        }
        match operation.kind {
            // SAFETY: the caller's promise.
            Kind::Read | Kind::Write => unsafe { self.transfer(operation, bounce) },
            Kind::Flush => self.flush(),
            Kind::Discard => self.discard(offset, len),
            Kind::WriteZeroes => self.write_zeroes(offset, len, operation.unmap),
            Kind::SecureErase => self.secure_erase(offset, len),
        }
    }

    /// Performs an operation completely.
    ///
    /// # Safety
    /// The list names valid memory, writable for reads.
    pub(super) unsafe fn perform_all(&self, operation: &Operation<'_>) -> io::Result<()> {
        let mut list = operation.list.to_vec();
        let mut left = segments::total(&list);
        let (mut first, mut offset, mut bounce) = (0, operation.offset, None);
        loop {
            let rest = list.get_mut(first..).unwrap_or_default();
            let window = rest.get(..MAX_LIST).unwrap_or(rest);
            let part = Operation {
                offset,
                list: window,
                ..*operation
            };
            // SAFETY: the caller's promise.
            let count = match unsafe { self.perform(&part, &mut bounce) } {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            if left > 0 && count == 0 {
                // SAFETY: the caller's promise.
                return unsafe { self.past_end(operation.kind, offset, rest) };
            }
            left -= count.min(left);
            if left == 0 {
                return Ok(());
            }
            offset += count as u64;
            first += segments::advance(rest, count);
        }
    }

    /// Only the last sector of an image may be there in part; the rest of it reads as zeroes.
    ///
    /// # Safety
    /// As for `perform`.
    unsafe fn past_end(&self, kind: Kind, offset: u64, list: &[iovec]) -> io::Result<()> {
        let end = offset.saturating_add(segments::total(list) as u64);
        if kind != Kind::Read || end > whole_sectors(self.size()?) {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        // SAFETY: the caller's promise.
        unsafe { segments::zero(list) };
        Ok(())
    }

    /// # Safety
    /// As for `perform`.
    unsafe fn transfer(
        &self,
        operation: &Operation<'_>,
        bounce: &mut Option<AlignedBuffer>,
    ) -> io::Result<usize> {
        let flags = if operation.stable && self.sync {
            libc::RWF_DSYNC
        } else {
            0
        };
        match (self.route(operation), &self.direct) {
            (Route::Cache, Some(direct)) => {
                let cached = direct
                    .buffered
                    .as_ref()
                    .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
                // Nothing stays dirty in the cache, where direct writes could be overtaken by it.
                // SAFETY: the caller's promise.
                unsafe { self.vectored(cached.as_raw_fd(), operation, libc::RWF_DSYNC) }
            }
            (Route::Bounce, _) => {
                let buffer = match bounce {
                    Some(buffer) => buffer,
                    None => bounce.insert(AlignedBuffer::new(BOUNCE)?),
                };
                // SAFETY: the caller's promise.
                unsafe { self.bounced(operation, flags, buffer) }
            }
            // SAFETY: the caller's promise.
            _ => unsafe { self.vectored(self.fd(), operation, flags) },
        }
    }

    /// # Safety
    /// As for `perform`.
    pub(super) unsafe fn vectored(
        &self,
        fd: RawFd,
        operation: &Operation<'_>,
        flags: i32,
    ) -> io::Result<usize> {
        let (list, entries, offset) = (
            operation.list.as_ptr(),
            operation.list.len() as i32,
            operation.offset as libc::off_t,
        );
        // SAFETY: the caller's promise.
        let result = check(unsafe {
            match operation.kind {
                // Without flags the older calls are faster by a tenth.
                Kind::Read if flags & !libc::RWF_DSYNC == 0 => libc::preadv(fd, list, entries, offset),
                Kind::Read => libc::preadv2(fd, list, entries, offset, flags & !libc::RWF_DSYNC),
                _ if flags == 0 => libc::pwritev(fd, list, entries, offset),
                _ => libc::pwritev2(fd, list, entries, offset, flags),
            }
        });
        if flags & libc::RWF_DSYNC != 0 && operation.kind == Kind::Write {
            self.note_stable_write(&result);
        }
        result
    }

    /// # Safety
    /// As for `perform`.
    unsafe fn bounced(
        &self,
        operation: &Operation<'_>,
        flags: i32,
        buffer: &AlignedBuffer,
    ) -> io::Result<usize> {
        let len = segments::total(operation.list).min(buffer.len());
        if operation.kind == Kind::Write {
            // SAFETY: the caller's promise; the buffer has `len` bytes.
            unsafe { segments::collect(operation.list, buffer.as_ptr(), len) };
        }
        let flat = [iovec {
            iov_base: buffer.as_ptr().cast(),
            iov_len: len,
        }];
        let aligned = Operation {
            list: &flat,
            ..*operation
        };
        // SAFETY: the list names the buffer.
        let count = unsafe { self.vectored(self.fd(), &aligned, flags) }?;
        if operation.kind == Kind::Read {
            // SAFETY: the caller's promise; the buffer has at least `count` bytes.
            unsafe { segments::spread(buffer.as_ptr(), count.min(len), operation.list) };
        }
        Ok(count)
    }

    fn flush(&self) -> io::Result<usize> {
        if !self.sync {
            return Ok(0);
        }
        // SAFETY: no pointers involved.
        let result = match unsafe { libc::fdatasync(self.fd()) } {
            0 => Ok(0),
            _ => Err(io::Error::last_os_error()),
        };
        self.flushed(result)
    }

    /// What to say of a flush whose fdatasync ended like this.
    pub(super) fn flushed(&self, result: io::Result<usize>) -> io::Result<usize> {
        match &result {
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EIO | libc::ENOSPC | libc::EDQUOT)
                ) =>
            {
                self.lost.store(true, Ordering::Release);
            }
            Ok(_) if self.lost.load(Ordering::Acquire) => {
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            _ => {}
        }
        result
    }

    /// A stable write that fails with EIO may have been the one to be told of earlier losses.
    pub(super) fn note_stable_write(&self, result: &io::Result<usize>) {
        if let Err(error) = result {
            if error.raw_os_error() == Some(libc::EIO) {
                self.lost.store(true, Ordering::Release);
            }
        }
    }

    fn fallocate(&self, mode: i32, offset: u64, len: u64) -> io::Result<usize> {
        let mode = mode | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: no pointers involved.
        match unsafe { libc::fallocate(self.fd(), mode, offset as libc::off_t, len as libc::off_t) } {
            0 => Ok(0),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn range_ioctl(&self, request: u64, offset: u64, len: u64) -> io::Result<usize> {
        let range = [offset, len];
        // SAFETY: the ioctl reads two u64.
        match unsafe { libc::ioctl(self.fd(), request as _, range.as_ptr()) } {
            0 => Ok(0),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Gives blocks back. Advice: a medium that cannot, or not at this alignment, has done its duty.
    fn discard(&self, offset: u64, len: u64) -> io::Result<usize> {
        let result = match self.medium {
            Medium::Regular => self.fallocate(libc::FALLOC_FL_PUNCH_HOLE, offset, len),
            Medium::Block => self.range_ioctl(BLKDISCARD, offset, len),
        };
        if result.as_ref().is_err_and(unable) {
            Ok(0)
        } else {
            result
        }
    }

    /// Without `unmap` the blocks stay allocated; with it they may go.
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<usize> {
        if unmap {
            let result = self.fallocate(libc::FALLOC_FL_PUNCH_HOLE, offset, len);
            if !result.as_ref().is_err_and(unable) {
                return result;
            }
        }
        let result = self.fallocate(libc::FALLOC_FL_ZERO_RANGE, offset, len);
        if result.as_ref().is_err_and(unable) {
            self.overwrite(offset, len)
        } else {
            result
        }
    }

    /// A block device erases by itself or not at all. A file's blocks are overwritten, on the medium
    /// before they are given back; copies that the file system made elsewhere are out of reach.
    fn secure_erase(&self, offset: u64, len: u64) -> io::Result<usize> {
        if self.medium == Medium::Block {
            return self
                .range_ioctl(BLKSECDISCARD, offset, len)
                .map_err(|error| match unable(&error) {
                    true => io::Error::from_raw_os_error(libc::EOPNOTSUPP),
                    false => error,
                });
        }
        self.overwrite(offset, len)?;
        // SAFETY: no pointers involved.
        let result = match unsafe { libc::fdatasync(self.fd()) } {
            0 => Ok(0),
            _ => Err(io::Error::last_os_error()),
        };
        self.flushed(result)?;
        self.discard(offset, len)
    }

    fn overwrite(&self, offset: u64, len: u64) -> io::Result<usize> {
        let zeroes = AlignedBuffer::new(BOUNCE.min(usize::try_from(len).unwrap_or(BOUNCE)))?;
        let mut done = 0;
        while done < len {
            let count = (len - done).min(zeroes.len() as u64) as usize;
            let list = [iovec {
                iov_base: zeroes.as_ptr().cast(),
                iov_len: count,
            }];
            let operation = Operation {
                kind: Kind::Write,
                offset: offset + done,
                len: 0,
                unmap: false,
                stable: false,
                list: &list,
            };
            // SAFETY: the list names the buffer of zeroes.
            match unsafe { self.transfer(&operation, &mut None) } {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero)),
                Ok(count) => done += count as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(0)
    }
}

/// The file system or device does not have this operation, or not for this range.
fn unable(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY | libc::EINVAL)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any file will do: a flush needs no permission to write.
    fn disk() -> Disk {
        let file = File::open("/proc/self/exe").unwrap();
        Disk::new(file, Medium::Regular, None, 512, true, false)
    }

    fn flush(disk: &Disk) -> io::Result<usize> {
        // SAFETY: a flush has no data.
        unsafe { disk.perform(&Operation::FLUSH, &mut None) }
    }

    #[test]
    fn what_was_lost_stays_lost() {
        for error in [libc::EIO, libc::ENOSPC, libc::EDQUOT] {
            let disk = disk();
            assert!(flush(&disk).is_ok());
            assert!(disk.flushed(Err(io::Error::from_raw_os_error(error))).is_err());
            // The kernel has nothing more to complain about, but the data is gone.
            assert_eq!(flush(&disk).unwrap_err().raw_os_error(), Some(libc::EIO));
            assert!(flush(&disk).is_err());
        }
    }

    #[test]
    fn a_stable_write_may_be_the_one_to_learn_of_a_loss() {
        let disk = disk();
        disk.note_stable_write(&Err(io::Error::from_raw_os_error(libc::ENOSPC)));
        assert!(
            flush(&disk).is_ok(),
            "the write itself found no room: nothing was lost"
        );
        disk.note_stable_write(&Err(io::Error::from_raw_os_error(libc::EIO)));
        assert!(flush(&disk).is_err());
    }

    #[test]
    fn an_interrupted_flush_loses_nothing() {
        let disk = disk();
        assert!(
            disk.flushed(Err(io::Error::from_raw_os_error(libc::EINTR)))
                .is_err()
        );
        assert!(flush(&disk).is_ok());
    }
}
