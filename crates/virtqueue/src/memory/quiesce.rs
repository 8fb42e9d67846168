//! How unmapping waits for users without costing them anything.
//!
//! Every worker owns a slot with the generation of memory that it works on. It
//! moves on between batches, when nothing of its own is under way on the old
//! one; while it sleeps with nothing under way its slot says "parked". Whoever removes
//! regions publishes the new map, wakes everybody, and waits for the slots.

use super::misses::{Asked, Wanted};
use super::{GuestMemory, Snapshot};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Not working on any generation.
const PARKED: u64 = u64::MAX;

/// Wakes a worker that sleeps, so that it looks at the memory's generation.
pub trait Wake: Send + Sync {
    /// Makes the worker go round its loop once.
    fn wake(&self);
}

pub(super) struct Slot {
    seen: AtomicU64,
    waker: Arc<dyn Wake>,
}

impl Slot {
    /// Whether the owner can no longer touch anything older than `generation`.
    pub(super) fn passed(&self, generation: u64) -> bool {
        // PARKED is the largest number. Pairs with the release stores below: what the owner
        // did to the old memory has happened.
        self.seen.load(Ordering::Acquire) >= generation
    }

    /// Whether the owner sleeps with nothing under way.
    pub(super) fn parked(&self) -> bool {
        self.seen.load(Ordering::Acquire) == PARKED
    }

    pub(super) fn wake(&self) {
        self.waker.wake();
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot")
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}

/// A user of guest memory that removers wait for: a worker, normally.
#[derive(Debug)]
pub struct Reader {
    memory: Arc<GuestMemory>,
    slot: Arc<Slot>,
    snapshot: Arc<Snapshot>,
}

impl Reader {
    /// Registers a user of `memory`; `waker` is called when its map has changed.
    pub fn new(memory: Arc<GuestMemory>, waker: Arc<dyn Wake>) -> Self {
        // Counts as a user of the oldest memory from the moment that it is listed, so the
        // snapshot taken afterwards is covered, whichever it is.
        let slot = Arc::new(Slot {
            seen: AtomicU64::new(0),
            waker,
        });
        memory.enlist(slot.clone());
        let snapshot = memory.snapshot();
        slot.seen.store(snapshot.generation(), Ordering::Release);
        Self {
            memory,
            slot,
            snapshot,
        }
    }

    /// What addresses are to be resolved in.
    #[inline]
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Whether the map has changed. One relaxed load: a remover waits for this reader
    /// anyway, so seeing the change a moment later is no harm.
    #[inline]
    pub fn stale(&self) -> bool {
        self.memory.generation() != self.snapshot.generation()
    }

    /// Whether all that this reader uses is in the newest map, too: then it may move on while something is
    /// under way.
    pub fn grown(&self) -> bool {
        self.memory.snapshot().grew_from(self.snapshot.generation())
    }

    /// Has the front end asked for translations, unless they are there by now.
    pub fn ask(&self, wanted: &[Wanted]) -> Asked {
        self.memory.ask(&self.slot, &self.snapshot, wanted)
    }

    /// Has the front end told that an access has failed.
    pub fn fail(&self, wanted: Wanted) {
        self.memory.fail(wanted);
    }

    /// Moves on to the newest map. Only when nothing is under way on the old one, or it has [`grown`](Self::grown).
    pub fn refresh(&mut self) {
        self.snapshot = self.memory.snapshot();
        self.slot
            .seen
            .store(self.snapshot.generation(), Ordering::Release);
        self.memory.announce();
    }

    /// Going to sleep with nothing under way.
    pub fn park(&mut self) {
        self.slot.seen.store(PARKED, Ordering::Release);
    }

    /// Awake again: `stale` must be asked before the snapshot is used.
    pub fn unpark(&mut self) {
        self.slot
            .seen
            .store(self.snapshot.generation(), Ordering::Relaxed);
        // Either a remover's fence comes first and `stale` sees its generation,
        // or this one does and it sees the slot.
        fence(Ordering::SeqCst);
    }

    /// A handle by which someone else may strike this reader off: its thread is stuck.
    pub fn struck(&self) -> Strike {
        Strike {
            memory: self.memory.clone(),
            slot: self.slot.clone(),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.memory.discharge(&self.slot);
    }
}

/// Strikes a reader off the list of those that removers wait for.
#[derive(Debug)]
pub struct Strike {
    memory: Arc<GuestMemory>,
    slot: Arc<Slot>,
}

impl Strike {
    /// The reader is no longer waited for. Its snapshot still keeps the mappings.
    pub fn strike(&self) {
        self.memory.discharge(&self.slot);
    }
}
