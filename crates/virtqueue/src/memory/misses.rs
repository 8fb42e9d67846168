//! What queues wait for that the front end has not translated yet.
//!
//! The front end is asked once for an address, whoever wants it, and is asked again only when an answer came
//! that was not enough. Who asked sleeps until all that it asked for is answered.

use super::guest::lock;
use super::iotlb::Access;
use super::quiesce::Slot;
use super::{GuestMemory, Snapshot};
use std::fmt;
use std::sync::Arc;

/// Addresses that one queue asks for at once.
const MAX_ASKS: usize = 64;
/// Smallest piece that is translated.
const PAGE: u64 = 4096;

/// A range that a queue needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The first address that is not translated.
    pub address: u64,
    /// Bytes from there, of which some may be translated.
    pub size: u64,
    /// To be written to, or else read.
    pub write: bool,
}

/// What the front end is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Miss {
    /// An I/O virtual address.
    pub iova: u64,
    /// What is to be done there.
    pub access: Access,
    /// Not a question: the access has failed, because the answer did not allow it.
    pub failed: bool,
}

/// What comes of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The front end is or has been asked. Whoever asked is woken when it has answered.
    Waiting,
    /// The map has changed meanwhile: look again.
    Again,
    /// It has answered before, and this is not allowed.
    Denied(Wanted),
}

/// One question of one queue.
#[derive(Clone, Copy, Debug)]
struct Ask {
    iova: u64,
    access: Access,
    denied: bool,
}

impl Ask {
    /// Whether the answer to this one, which has none yet, is likely to be the one to `other`, too. Most
    /// translations are of whole pages; where they are not, what is missing then is asked for after that.
    fn stands_for(&self, other: &Self) -> bool {
        !self.denied && self.iova / PAGE == other.iova / PAGE && self.access.allows(other.access)
    }
}

/// All questions that are open.
#[derive(Default)]
pub(super) struct Board {
    asks: Vec<(Arc<Slot>, Vec<Ask>)>,
    unsent: Vec<Miss>,
    /// How far apart the front end's translations are, as far as it has shown; 0: it has not.
    stride: u64,
    listener: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board")
            .field("asks", &self.asks)
            .field("unsent", &self.unsent)
            .finish_non_exhaustive()
    }
}

impl Board {
    /// A queue is gone.
    pub(super) fn forget(&mut self, slot: &Arc<Slot>) {
        self.asks.retain(|(other, _)| !Arc::ptr_eq(other, slot));
    }

    /// Nothing was ever asked; whoever waits looks again.
    pub(super) fn start_over(&mut self) {
        self.unsent.clear();
        self.stride = 0;
        for (slot, _) in self.asks.drain(..) {
            slot.wake();
        }
    }

    /// A translation of `size` bytes from `iova` on has come, and is in `snapshot`.
    pub(super) fn answered(&mut self, snapshot: &Snapshot, iova: u64, size: u64) {
        self.stride = size.clamp(PAGE, 1 << 30);
        let enough = |ask: &Ask| snapshot.allows(ask.iova, ask.access);
        let all = self.asks.iter().flat_map(|(_, asks)| asks);
        let answers: Vec<u64> = all.filter(|ask| enough(ask)).map(|ask| ask.iova).collect();
        self.settle(|ask| {
            if enough(&ask) {
                return None;
            }
            // Not enough, and not the answer to a question for less: so it is the answer to this one.
            let meant = ask.iova.wrapping_sub(iova) < size && !answers.contains(&ask.iova);
            Some(Ask {
                denied: ask.denied || meant,
                ..ask
            })
        });
    }

    /// The front end has no translation, and says so.
    pub(super) fn refused(&mut self, iova: u64, access: Access) {
        self.settle(|ask| {
            let denied = ask.denied || ask.iova == iova && access.allows(ask.access);
            Some(Ask { denied, ..ask })
        });
    }

    /// Puts `change` of each question in its place, and wakes queues for which there is nothing more to wait for.
    fn settle(&mut self, change: impl Fn(Ask) -> Option<Ask>) {
        for (slot, asks) in &mut self.asks {
            let open = asks.iter().any(|ask| !ask.denied);
            *asks = asks.drain(..).filter_map(&change).collect();
            if open && asks.iter().all(|ask| ask.denied) {
                slot.wake();
            }
        }
        self.asks.retain(|(_, asks)| !asks.is_empty());
    }

    /// What somebody has asked already of the same page, and at least so much, and has no answer to.
    fn open(&self, ask: &Ask) -> Option<Ask> {
        let mut asks = self.asks.iter().flat_map(|(_, asks)| asks);
        asks.find(|other| other.stands_for(ask)).copied()
    }

    /// The questions that stand for `wanted`.
    fn questions(&self, snapshot: &Snapshot, wanted: &[Wanted]) -> Vec<Ask> {
        let mut asks: Vec<Ask> = Vec::new();
        for range in wanted {
            let access = Access::to(range.write);
            let last = range.address.saturating_add(range.size.saturating_sub(1));
            let mut at = range.address;
            loop {
                if asks.len() == MAX_ASKS {
                    return asks;
                }
                let known = asks
                    .iter_mut()
                    .find(|ask| ask.iova == at || ask.iova / PAGE == at / PAGE && ask.access.allows(access));
                match known {
                    Some(ask) => ask.access = ask.access.or(access),
                    None if snapshot.allows(at, access) => {}
                    None => asks.push(Ask {
                        iova: at,
                        access,
                        denied: false,
                    }),
                }
                let next = (at & !(PAGE - 1)).checked_add(self.stride.max(PAGE) & !(PAGE - 1));
                match next {
                    // As long as it is not known how much one answer covers, the first tells.
                    Some(next) if self.stride > 0 && next <= last => at = next,
                    _ => break,
                }
            }
        }
        asks
    }
}

impl GuestMemory {
    /// Has translations asked for, for the queue that `slot` belongs to and that sees `snapshot`.
    pub(super) fn ask(&self, slot: &Arc<Slot>, snapshot: &Snapshot, wanted: &[Wanted]) -> Asked {
        let mut board = lock(&self.board);
        if self.generation() != snapshot.generation() {
            return Asked::Again;
        }
        let index = board.asks.iter().position(|(other, _)| Arc::ptr_eq(other, slot));
        let before = index
            .map(|index| board.asks.swap_remove(index).1)
            .unwrap_or_default();
        let denied = |range: &&Wanted| {
            let last = range.address.saturating_add(range.size.saturating_sub(1));
            before.iter().any(|ask| {
                let addresses = range.address..=last;
                ask.denied && addresses.contains(&ask.iova) && ask.access.allows(Access::to(range.write))
            })
        };
        if let Some(range) = wanted.iter().find(denied) {
            return Asked::Denied(*range);
        }
        let mut asks = board.questions(snapshot, wanted);
        for ask in &mut asks {
            let mine = before.iter().find(|old| old.stands_for(ask)).copied();
            if let Some(open) = mine.or_else(|| board.open(ask)) {
                *ask = open;
            } else {
                board.unsent.push(Miss {
                    iova: ask.iova,
                    access: ask.access,
                    failed: false,
                });
            }
        }
        board.asks.push((slot.clone(), asks));
        self.tell(board);
        Asked::Waiting
    }

    /// What the front end is to be told; each only once.
    pub fn take_misses(&self) -> Vec<Miss> {
        std::mem::take(&mut lock(&self.board).unsent)
    }

    /// Asks for everything again that is not answered: the front end can only now be asked.
    pub fn repeat_misses(&self) {
        let mut board = lock(&self.board);
        let mut again: Vec<Miss> = Vec::new();
        for ask in board
            .asks
            .iter()
            .flat_map(|(_, asks)| asks)
            .filter(|ask| !ask.denied)
        {
            let miss = Miss {
                iova: ask.iova,
                access: ask.access,
                failed: false,
            };
            if !again.contains(&miss) {
                again.push(miss);
            }
        }
        board.unsent = again;
        self.tell(board);
    }

    /// Calls this, on the thread of a queue, when there is something new in [`Self::take_misses`]. It must not
    /// wait for a change of this memory, which may be waiting for that queue.
    pub fn on_miss(&self, listener: Option<Arc<dyn Fn() + Send + Sync>>) {
        lock(&self.board).listener = listener;
    }

    /// The front end has no translation of `iova` for this access, and says so.
    pub fn refuse(&self, iova: u64, access: Access) {
        lock(&self.board).refused(iova, access);
    }

    /// An access has failed for good; the front end gets to know.
    pub(crate) fn fail(&self, wanted: Wanted) {
        let mut board = lock(&self.board);
        board.unsent.push(Miss {
            iova: wanted.address,
            access: Access::to(wanted.write),
            failed: true,
        });
        self.tell(board);
    }

    fn tell(&self, board: std::sync::MutexGuard<'_, Board>) {
        let listener = board.listener.clone().filter(|_| !board.unsent.is_empty());
        drop(board);
        if let Some(listener) = listener {
            listener();
        }
    }
}
