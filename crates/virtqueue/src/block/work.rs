//! A request under way: what is done of it, and what comes next.

use super::engine::{Kind, MAX_LIST, Operation, Outcome};
use super::request::Lists;
use super::segments;
use super::tally::Refusal;
use crate::chain::Token;
use crate::memory::Snapshot;
use crate::spec::block::SECTOR_SIZE;
use std::sync::Arc;

/// How often an interrupted operation is tried again.
const MAX_RETRIES: u32 = 100;

/// A request under way.
pub(super) struct Work {
    pub token: Token,
    pub status: *mut u8,
    pub status_guest: u64,
    pub data_in: u64,
    pub kind: Kind,
    pub stable: bool,
    /// All that was asked for is done; what remains is to make it stable.
    pub syncing: bool,
    pub offset: u64,
    pub left: u64,
    pub lists: Lists,
    /// First entry of the data or of the ranges that is not done.
    pub next: usize,
    pub retries: u32,
    /// Keeps guest memory mapped while the request waits.
    pub memory: Option<Arc<Snapshot>>,
}

// SAFETY: the pointers are guest memory, kept mapped by `memory`.
unsafe impl Send for Work {}

impl Default for Work {
    fn default() -> Self {
        Self {
            token: Token::new(0, 0),
            status: std::ptr::null_mut(),
            status_guest: 0,
            data_in: 0,
            kind: Kind::Flush,
            stable: false,
            syncing: false,
            offset: 0,
            left: 0,
            lists: Lists::default(),
            next: 0,
            retries: 0,
            memory: None,
        }
    }
}

/// How far a request has got.
pub(super) enum Progress {
    Finished(Result<(), Refusal>),
    Unfinished,
}

impl Work {
    /// The next operation, or none if nothing is left to do.
    pub(super) fn operation(&self, flush_after: bool) -> Option<Operation<'_>> {
        let mut operation = Operation {
            kind: self.kind,
            offset: self.offset,
            len: 0,
            unmap: false,
            stable: self.stable,
            list: &[],
        };
        match self.kind {
            _ if self.syncing => operation = Operation::FLUSH,
            Kind::Flush => operation = Operation::FLUSH,
            Kind::Read | Kind::Write if self.left > 0 => {
                let end = self.lists.data.len().min(self.next + MAX_LIST);
                operation.list = self.lists.data.get(self.next..end)?;
            }
            Kind::Discard | Kind::WriteZeroes | Kind::SecureErase if self.next < self.lists.ranges.len() => {
                let range = self.lists.ranges.get(self.next)?;
                (operation.offset, operation.len, operation.unmap) = (range.offset, range.len, range.unmap);
            }
            _ if flush_after => operation = Operation::FLUSH,
            _ => return None,
        }
        Some(operation)
    }

    /// Takes note of an operation's outcome.
    pub(super) fn account(&mut self, outcome: Outcome) -> Progress {
        if outcome < 0 {
            return self.failed(outcome);
        }
        match self.kind {
            _ if self.syncing => return Progress::Finished(Ok(())),
            Kind::Flush => return Progress::Finished(Ok(())),
            Kind::Read | Kind::Write if self.left > 0 => return self.transferred(outcome as u64),
            Kind::Discard | Kind::WriteZeroes | Kind::SecureErase if self.next < self.lists.ranges.len() => {
                self.next += 1;
            }
            _ => {}
        }
        Progress::Unfinished
    }

    fn transferred(&mut self, count: u64) -> Progress {
        if count == 0 {
            return self.at_end();
        }
        self.retries = 0;
        let count = count.min(self.left);
        self.left -= count;
        self.offset += count;
        if self.left > 0 {
            if let Some(list) = self.lists.data.get_mut(self.next..) {
                self.next += segments::advance(list, count as usize);
            }
        }
        Progress::Unfinished
    }

    /// The medium ends here. Within its last sector that is an image whose size is no multiple of
    /// 512; elsewhere someone cut the image, and zeroes would pass for data.
    fn at_end(&mut self) -> Progress {
        if self.kind != Kind::Read || self.left >= SECTOR_SIZE || self.offset % SECTOR_SIZE == 0 {
            return Progress::Finished(Err(Refusal::Backend));
        }
        if let Some(list) = self.lists.data.get(self.next..) {
            // SAFETY: guest memory, mapped while the request is under way.
            unsafe { segments::zero(list) };
        }
        self.left = 0;
        Progress::Unfinished
    }

    fn failed(&mut self, outcome: Outcome) -> Progress {
        let error = outcome.unsigned_abs() as i32;
        if matches!(error, libc::EINTR | libc::EAGAIN) && self.retries < MAX_RETRIES {
            self.retries += 1;
            return Progress::Unfinished;
        }
        let refusal = if error == libc::EOPNOTSUPP {
            Refusal::Type
        } else {
            Refusal::Backend
        };
        Progress::Finished(Err(refusal))
    }

    /// Bytes of device-writable data that hold what was asked for, counted from the first.
    pub(super) fn written(&self, result: Result<(), Refusal>) -> u64 {
        match (self.kind, result) {
            (Kind::Read, Ok(())) => self.data_in,
            _ => 0,
        }
    }
}
