//! Chains that were taken out of a ring for Python, and what has become of each.

use crate::errors::configuration;
use crate::ledger::Ledger;
use pyo3::prelude::*;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use virtqueue::chain::{Batch, Chain, Segment, Token};

const HANDLING: u8 = 0;
const HELD: u8 = 1;
const IDLE: u8 = 2;
const DONE: u8 = 3;

const COMPLETED: &str = "the chain was completed before";
const STOPPED: &str = "the chain's queue was stopped";

/// What has become of one chain.
#[derive(Debug, Default)]
struct State {
    phase: AtomicU8,
    /// Python objects by which it can still be completed.
    handles: AtomicU32,
    read: AtomicU64,
    written: AtomicU64,
}

/// A batch in Python's hands: it keeps the guest memory that its chains lie in mapped.
///
/// Shared by the objects that Python sees. Nothing here trusts them to be used in order, by one thread, or
/// before the queue is stopped.
#[derive(Debug)]
pub(crate) struct Taken {
    batch: Batch,
    states: Vec<State>,
    /// Lengths that a batch handler sets, exported as a buffer of uint32.
    lengths: Vec<AtomicU32>,
    ledger: Arc<Ledger>,
}

// SAFETY: the batch is not changed while it is shared; its segments are addresses, followed only to copy bytes
// that others may be changing anyway. All else is atomic.
unsafe impl Sync for Taken {}

impl Taken {
    pub(crate) fn new(ledger: Arc<Ledger>) -> Self {
        Self {
            batch: Batch::default(),
            states: Vec::new(),
            lengths: Vec::new(),
            ledger,
        }
    }

    /// Takes over the chains of `batch`, in the place of those of before.
    pub(crate) fn fill(&mut self, batch: &Batch) {
        self.batch.clone_from(batch);
        self.states.clear();
        self.states.resize_with(batch.len(), State::default);
        self.lengths.clear();
        self.lengths.resize_with(batch.len(), AtomicU32::default);
    }

    /// Lets go of the memory; only for one that nobody else shares.
    pub(crate) fn forget(&mut self) {
        self.batch.clear();
        self.states.clear();
        self.lengths.clear();
    }

    /// Number of chains.
    pub(crate) fn len(&self) -> usize {
        self.states.len()
    }

    /// A chain; `index` is within the batch.
    pub(crate) fn chain(&self, index: usize) -> PyResult<Chain<'_>> {
        self.batch
            .get(index)
            .ok_or_else(|| configuration("no such chain"))
    }

    pub(crate) fn batch(&self) -> &Batch {
        &self.batch
    }

    pub(crate) fn lengths(&self) -> &[AtomicU32] {
        &self.lengths
    }

    /// Bytes written so far through the chain itself.
    pub(crate) fn written(&self, index: usize) -> u64 {
        self.states[index].written.load(Ordering::Relaxed)
    }

    /// Whether the chain can no longer be used.
    pub(crate) fn finished(&self, index: usize) -> bool {
        let phase = self.states[index].phase.load(Ordering::Acquire);
        phase == DONE || self.ledger.taken_back(phase == IDLE)
    }

    /// How much of the device-readable part is left to read.
    pub(crate) fn unread(&self, index: usize) -> PyResult<u64> {
        let read = self.states[index].read.load(Ordering::Relaxed);
        Ok(self.chain(index)?.readable_len.saturating_sub(read))
    }

    /// Copies the next bytes of the device-readable part; there are as many.
    pub(crate) fn read(&self, index: usize, into: &mut [u8]) -> PyResult<()> {
        let read = self.states[index]
            .read
            .fetch_add(into.len() as u64, Ordering::Relaxed);
        self.chain(index)?.read_at(read, into);
        Ok(())
    }

    /// Copies `size` bytes from `from` behind what was written before.
    ///
    /// # Safety
    ///
    /// There must be `size` readable bytes at `from`. Others may change them.
    pub(crate) unsafe fn write(&self, index: usize, from: *const u8, size: usize) -> PyResult<()> {
        let phase = self.states[index].phase.load(Ordering::Acquire);
        if self.ledger.taken_back(phase == IDLE) {
            return Err(configuration(STOPPED));
        }
        if phase == DONE {
            return Err(configuration(COMPLETED));
        }
        // An idle chain can be taken back at any time, but not in the middle of this.
        let kept = if phase == IDLE {
            Some(self.ledger.keep().map_err(|_| configuration(STOPPED))?)
        } else {
            None
        };
        let chain = self.chain(index)?;
        let written = &self.states[index].written;
        let start = written.load(Ordering::Relaxed);
        let room = chain.writable_len.saturating_sub(start);
        if size as u64 > room {
            return Err(configuration(format!(
                "{size} bytes do not fit: the chain has room for {room} more"
            )));
        }
        // SAFETY: the caller's promise.
        unsafe { copy_in(chain.writable, start, from, size) };
        written.store(start + size as u64, Ordering::Relaxed);
        drop(kept);
        Ok(())
    }

    /// Lets the handler return without completing the chain.
    pub(crate) fn hold(&self, index: usize, idle: bool) -> PyResult<()> {
        let phase = &self.states[index].phase;
        let next = if idle { IDLE } else { HELD };
        let change = |old| if old == DONE { None } else { Some(next) };
        match phase.fetch_update(Ordering::AcqRel, Ordering::Acquire, change) {
            Ok(old) => self
                .ledger
                .hold(isize::from(next == HELD) - isize::from(old == HELD)),
            Err(_) => return Err(configuration(COMPLETED)),
        }
        Ok(())
    }

    /// What to complete the chain with: by default as much as was written into it.
    fn answer(&self, index: usize, written: Option<u64>) -> PyResult<(Token, u32)> {
        let chain = self.chain(index)?;
        let written = written.unwrap_or_else(|| self.written(index));
        if written > chain.writable_len {
            let room = chain.writable_len;
            return Err(configuration(format!(
                "{written} bytes cannot have been written into {room}"
            )));
        }
        Ok((chain.token, clamp(written)))
    }

    /// Completes the chain on behalf of Python.
    pub(crate) fn complete(&self, index: usize, written: Option<u64>) -> PyResult<()> {
        let (token, written) = self.answer(index, written)?;
        let phase = &self.states[index].phase;
        if self.ledger.taken_back(phase.load(Ordering::Acquire) == IDLE) {
            return Err(configuration(STOPPED));
        }
        let old = phase.swap(DONE, Ordering::AcqRel);
        if old == DONE {
            return Err(configuration(COMPLETED));
        }
        self.ledger
            .complete(token, written, old == HELD, old == IDLE)
            .map_err(|_| configuration(STOPPED))
    }

    /// Completes chains of the queue numbered `queue`, in this order, so that the driver finds all of them used at once;
    /// each comes with where it is and what was written. All or none.
    pub(crate) fn complete_together(
        queue: usize,
        chains: &[(&Arc<Self>, usize, Option<u64>)],
    ) -> PyResult<()> {
        let Some((first, ..)) = chains.first() else {
            return Ok(());
        };
        let ledger = &first.ledger;
        if chains.iter().any(|(taken, ..)| taken.ledger.id != queue) {
            return Err(configuration("a chain is not one of this queue"));
        }
        if chains
            .iter()
            .any(|(taken, ..)| !Arc::ptr_eq(&taken.ledger, ledger))
        {
            return Err(configuration(
                "chains of two runs, or of two workers, of the queue",
            ));
        }
        let mut places: Vec<_> = chains
            .iter()
            .map(|(taken, index, _)| (Arc::as_ptr(taken), *index))
            .collect();
        places.sort_unstable();
        if places.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(configuration("a chain was given twice"));
        }
        let phase_of = |taken: &'_ Self, index: usize| taken.states[index].phase.load(Ordering::Acquire);
        let mut answers = Vec::with_capacity(chains.len());
        for (taken, index, written) in chains {
            answers.push(taken.answer(*index, *written)?);
            match phase_of(taken, *index) {
                DONE => return Err(configuration(COMPLETED)),
                phase if ledger.taken_back(phase == IDLE) => return Err(configuration(STOPPED)),
                _ => {}
            }
        }
        let mut before = Vec::with_capacity(chains.len());
        for (taken, index, _) in chains {
            let old = taken.states[*index].phase.swap(DONE, Ordering::AcqRel);
            if old == DONE {
                // Someone else was faster with this one. The others are held, for nobody may have seen the handler
                // return while they seemed to be done.
                for ((taken, index, _), old) in chains.iter().zip(&before) {
                    let next = if *old == IDLE { IDLE } else { HELD };
                    ledger.hold(isize::from(*old == HANDLING));
                    taken.states[*index].phase.store(next, Ordering::Release);
                }
                return Err(configuration(COMPLETED));
            }
            before.push(old);
        }
        let held = before.iter().filter(|old| **old == HELD).count();
        ledger
            .complete_together(&answers, held, before.contains(&IDLE))
            .map_err(|_| configuration(STOPPED))
    }

    /// The handler has returned: what to complete the chain with, unless it is held or complete already.
    pub(crate) fn settle(&self, index: usize) -> Option<Settled> {
        let phase = &self.states[index].phase;
        phase
            .compare_exchange(HANDLING, DONE, Ordering::AcqRel, Ordering::Acquire)
            .ok()?;
        let chain = self.batch.get(index)?;
        let set = u64::from(self.lengths[index].load(Ordering::Relaxed));
        let written = if set == 0 { self.written(index) } else { set };
        let excess = written > chain.writable_len;
        Some(Settled {
            token: chain.token,
            written: if excess { 0 } else { clamp(written) },
            excess,
        })
    }

    /// One more Python object can complete the chain.
    pub(crate) fn grasp(&self, index: usize) {
        self.states[index].handles.fetch_add(1, Ordering::Relaxed);
    }

    /// One fewer. True: it was held, nobody could have completed it any more, and so it was completed with 0 bytes.
    pub(crate) fn let_go(&self, index: usize) -> bool {
        let state = &self.states[index];
        if state.handles.fetch_sub(1, Ordering::AcqRel) != 1 {
            return false;
        }
        matches!(state.phase.load(Ordering::Acquire), HELD | IDLE) && self.complete(index, Some(0)).is_ok()
    }

    /// The queue's name.
    pub(crate) fn queue(&self) -> &str {
        &self.ledger.queue
    }
}

/// How a chain ends when its handler returns.
pub(crate) struct Settled {
    pub(crate) token: Token,
    pub(crate) written: u32,
    /// The handler claimed to have written more than there is room for.
    pub(crate) excess: bool,
}

/// The used length has 32 bits; 2.7.8.2 allows it to be an underestimate.
fn clamp(written: u64) -> u32 {
    u32::try_from(written).unwrap_or(u32::MAX)
}

/// Calls `piece` with each piece of host memory of `size` bytes from `offset` on, as far as there are segments.
fn pieces(segments: &[Segment], offset: u64, size: usize, mut piece: impl FnMut(*mut u8, usize, usize)) {
    let (mut skip, mut done) = (offset, 0);
    for segment in segments {
        let len = u64::from(segment.len);
        if skip >= len {
            skip -= len;
            continue;
        }
        let here = (size - done).min((len - skip) as usize);
        piece(segment.host.wrapping_add(skip as usize), done, here);
        done += here;
        skip = 0;
        if done == size {
            break;
        }
    }
}

/// Copies into segments, as much as fits.
///
/// # Safety
///
/// The segments must be mapped, and `size` bytes at `from` readable.
pub(crate) unsafe fn copy_in(segments: &[Segment], offset: u64, from: *const u8, size: usize) {
    pieces(segments, offset, size, |host, done, len| {
        // SAFETY: `len` bytes at both addresses, as the caller promises. They may be the same guest memory,
        // hence a copy that allows for overlapping.
        unsafe { ptr::copy(from.add(done), host, len) };
    });
}
