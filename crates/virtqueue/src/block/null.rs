//! A medium that keeps nothing.

use super::engine::{Backend, Engine, Kind, Operation, Submitted};
use super::segments;
use crate::memory::Snapshot;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) struct NullBackend {
    size: AtomicU64,
    zeroes: bool,
}

impl NullBackend {
    pub(super) fn new(size: u64, zeroes: bool) -> Self {
        Self {
            size: AtomicU64::new(size),
            zeroes,
        }
    }
}

impl Backend for NullBackend {
    fn engine(self: Arc<Self>) -> io::Result<Box<dyn Engine>> {
        Ok(Box::new(NullEngine { zeroes: self.zeroes }))
    }

    unsafe fn perform(&self, operation: &Operation<'_>) -> io::Result<()> {
        if self.zeroes && operation.kind == Kind::Read {
            // SAFETY: the caller's promise.
            unsafe { segments::zero(operation.list) };
        }
        Ok(())
    }

    fn grow(&self, size: u64) -> io::Result<()> {
        self.size.fetch_max(size, Ordering::Relaxed);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.size.load(Ordering::Relaxed))
    }

    fn name(&self) -> &'static str {
        "null"
    }
}

struct NullEngine {
    zeroes: bool,
}

impl Engine for NullEngine {
    unsafe fn submit(&mut self, operation: &Operation<'_>, _: &Arc<Snapshot>, _: u32) -> Submitted {
        if self.zeroes && operation.kind == Kind::Read {
            // SAFETY: the caller's promise.
            unsafe { segments::zero(operation.list) };
        }
        Submitted::Done(segments::total(operation.list) as i64)
    }
}
