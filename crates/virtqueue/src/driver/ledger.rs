//! Requests in flight: who waits for which, and what came back.

use crate::memory::Snapshot;
use crate::ring::Used;
use std::sync::Arc;

const NONE: u32 = u32::MAX;
/// What a status byte holds until the device has written it.
const UNANSWERED: u8 = 0xff;

/// Names a request to whoever made it. Never names another one later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

impl Ticket {
    fn new(slot: u32, generation: u32) -> Self {
        Self(u64::from(generation) << 32 | u64::from(slot))
    }
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Bytes that the device says it has written.
    pub len: u32,
    /// The status byte, where requests of this queue have one; else 0.
    pub status: u8,
}

/// Who is told of a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A thread that comes for it.
    Waiter,
    /// An event loop, which collects what has finished.
    Watcher,
    /// A run of many requests (its number), which knows them by an index.
    Run { run: u32, index: u32 },
    /// Nobody any more.
    Abandoned,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    generation: u32,
    owner: Owner,
    out: bool,
    used: bool,
    chunk: u32,
    done: Done,
}

/// Many requests that are counted and not named.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// Requests that the device has.
    pub(super) out: usize,
    /// Index and status of those that came back since they were last looked at.
    pub(super) done: Vec<(u32, u8)>,
    /// Nobody looks any more.
    abandoned: bool,
    used: bool,
}

/// A status byte for each head, in shared memory.
#[derive(Debug)]
pub(super) struct Statuses {
    host: *mut u8,
    count: u32,
    _memory: Arc<Snapshot>,
}

// SAFETY: an address in memory that is kept; only volatile accesses within `count` are made through it.
unsafe impl Send for Statuses {}

impl Statuses {
    /// # Safety
    ///
    /// `count` bytes at `host` must be mapped writable in `memory`.
    pub(super) unsafe fn new(host: *mut u8, count: u32, memory: Arc<Snapshot>) -> Self {
        for index in 0..count as usize {
            // SAFETY: as promised.
            unsafe { host.add(index).write_volatile(UNANSWERED) };
        }
        Self {
            host,
            count,
            _memory: memory,
        }
    }

    /// Takes the status of a request that came back, and makes its place ready for the next.
    #[inline]
    fn take(&self, head: u16) -> u8 {
        if u32::from(head) >= self.count {
            return UNANSWERED;
        }
        // SAFETY: within the bytes that `new` was promised.
        unsafe {
            let at = self.host.add(usize::from(head));
            let status = at.read_volatile();
            at.write_volatile(UNANSWERED);
            status
        }
    }
}

/// All requests that are out, and the answers that nobody has collected yet.
#[derive(Debug)]
pub(super) struct Ledger {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_head: Box<[u32]>,
    pub(super) statuses: Option<Statuses>,
    runs: Vec<Run>,
    /// Of watchers: finished and not collected.
    pub(super) finished: Vec<Ticket>,
    /// Of watchers: out.
    pub(super) watched: u32,
    /// Abandoned and out.
    pub(super) abandoned: u32,
    /// Abandoned ones that came back: their buffers are free.
    pub(super) returned: Vec<Ticket>,
    /// Free pieces of the bounce buffer.
    pub(super) chunks: Vec<u32>,
}

impl Ledger {
    pub(super) fn new(size: u32, chunks: u32) -> Self {
        Self {
            slots: Vec::with_capacity(size as usize),
            free: Vec::with_capacity(size as usize),
            by_head: vec![NONE; size as usize].into_boxed_slice(),
            statuses: None,
            runs: Vec::new(),
            finished: Vec::with_capacity(size as usize),
            watched: 0,
            abandoned: 0,
            returned: Vec::with_capacity(size as usize),
            chunks: (0..chunks).rev().collect(),
        }
    }

    /// Takes note of a request that was put into the ring with this head.
    #[inline]
    pub(super) fn open(&mut self, head: u16, owner: Owner, chunk: Option<u32>) -> Ticket {
        let index = match self.free.pop() {
            Some(index) => index,
            None => self.grow(),
        };
        let slot = &mut self.slots[index as usize];
        slot.owner = owner;
        slot.out = true;
        slot.used = true;
        slot.chunk = chunk.unwrap_or(NONE);
        self.by_head[usize::from(head)] = index;
        match owner {
            Owner::Watcher => self.watched += 1,
            Owner::Run { run, .. } => self.runs[run as usize].out += 1,
            Owner::Waiter | Owner::Abandoned => {}
        }
        Ticket::new(index, slot.generation)
    }

    #[cold]
    fn grow(&mut self) -> u32 {
        self.slots.push(Slot {
            generation: 0,
            owner: Owner::Waiter,
            out: false,
            used: false,
            chunk: NONE,
            done: Done { len: 0, status: 0 },
        });
        self.slots.len() as u32 - 1
    }

    /// Takes note of a completion.
    #[inline]
    pub(super) fn finish(&mut self, used: Used) {
        let index = std::mem::replace(&mut self.by_head[usize::from(used.head)], NONE);
        // Read once: the device may still write there.
        let status = match &self.statuses {
            Some(statuses) => statuses.take(used.head),
            None => 0,
        };
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return; // The ring returns only heads that it was given.
        };
        slot.out = false;
        slot.done = Done {
            len: used.len,
            status,
        };
        match slot.owner {
            Owner::Waiter => {}
            Owner::Watcher => {
                self.watched -= 1;
                self.finished.push(Ticket::new(index, slot.generation));
            }
            Owner::Run { run, index: number } => {
                let run = &mut self.runs[run as usize];
                run.out -= 1;
                if !run.abandoned {
                    run.done.push((number, status));
                } else {
                    self.abandoned -= 1;
                    run.used = run.out > 0;
                }
                self.release(index);
            }
            Owner::Abandoned => {
                self.abandoned -= 1;
                self.returned.push(Ticket::new(index, slot.generation));
                self.release(index);
            }
        }
    }

    #[inline]
    fn release(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.used = false;
        slot.generation = slot.generation.wrapping_add(1);
        if slot.chunk != NONE {
            self.chunks.push(slot.chunk);
        }
        self.free.push(index);
    }

    #[inline]
    fn find(&self, ticket: Ticket) -> Option<u32> {
        let index = ticket.0 as u32;
        let slot = self.slots.get(index as usize)?;
        let known = slot.used && slot.generation == (ticket.0 >> 32) as u32;
        (known && slot.owner != Owner::Abandoned).then_some(index)
    }

    /// The answer to a request, if it has come; `None` if there is no such request.
    #[inline]
    pub(super) fn answer(&self, ticket: Ticket) -> Option<Option<Done>> {
        let slot = &self.slots[self.find(ticket)? as usize];
        Some((!slot.out).then_some(slot.done))
    }

    /// Forgets a request whose answer has come.
    #[inline]
    pub(super) fn collect(&mut self, ticket: Ticket) {
        if let Some(index) = self.find(ticket).filter(|&i| !self.slots[i as usize].out) {
            self.release(index);
        }
    }

    /// Nobody waits for this request any more. True if it is over, so that its buffers are free;
    /// else its ticket will be among those returned. `None`: there is no such request.
    pub(super) fn abandon(&mut self, ticket: Ticket) -> Option<bool> {
        let index = self.find(ticket)?;
        let slot = &mut self.slots[index as usize];
        if !slot.out {
            if slot.owner == Owner::Watcher {
                self.finished.retain(|other| *other != ticket);
            }
            self.release(index);
            return Some(true);
        }
        if slot.owner == Owner::Watcher {
            self.watched -= 1;
        }
        slot.owner = Owner::Abandoned;
        self.abandoned += 1;
        Some(false)
    }

    /// Begins a run.
    pub(super) fn begin_run(&mut self) -> u32 {
        let found = self.runs.iter().position(|run| !run.used);
        let number = found.unwrap_or_else(|| {
            self.runs.push(Run::default());
            self.runs.len() - 1
        });
        let run = &mut self.runs[number];
        run.used = true;
        run.abandoned = false;
        run.done.clear();
        number as u32
    }

    #[inline]
    pub(super) fn run(&mut self, number: u32) -> &mut Run {
        &mut self.runs[number as usize]
    }

    /// Ends a run; what of it is still out is abandoned.
    pub(super) fn end_run(&mut self, number: u32) {
        let run = &mut self.runs[number as usize];
        run.abandoned = run.out > 0;
        run.used = run.out > 0;
        self.abandoned += run.out as u32;
    }
}
