//! Completions that Python makes, on their way back to the queue's worker.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use virtqueue::chain::Token;
use virtqueue::notify::EventFd;
use virtqueue::worker::Completions;

/// The queue was stopped, so that nobody waits for completions any more.
#[derive(Debug)]
pub(crate) struct Stopped;

#[derive(Debug, Default)]
struct State {
    ready: Completions,
    /// How many of `ready` were counted as held.
    ready_held: usize,
    /// Chains held for work that is under way.
    held: usize,
    /// The worker is about to drain by itself.
    quiet: bool,
    signalled: bool,
    /// The queue is stopping: chains that wait for nothing in particular went back to the ring.
    released: bool,
    closed: bool,
}

/// Keeps a queue from stopping; see [`Ledger::keep`].
pub(crate) struct Kept<'a>(#[allow(dead_code, reason = "held for its drop")] MutexGuard<'a, State>);

/// One run of a queue, from start to stop, as its chains see it.
#[derive(Debug)]
pub(crate) struct Ledger {
    state: Mutex<State>,
    event: EventFd,
    /// The queue's name, for logs.
    pub(crate) queue: String,
    /// The queue's number in this process.
    pub(crate) id: usize,
}

impl Ledger {
    pub(crate) fn new(queue: String, id: usize) -> std::io::Result<Self> {
        Ok(Self {
            state: Mutex::default(),
            event: EventFd::new()?,
            queue,
            id,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock panics, and it never waits for anything else.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Readable when there is something to drain.
    pub(crate) fn fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    fn wake(&self, state: &mut State) {
        if !state.quiet && !state.signalled {
            state.signalled = true;
            self.event.signal();
        }
    }

    /// A chain is held for work under way (+1), or is no longer (-1).
    pub(crate) fn hold(&self, change: isize) {
        let mut state = self.lock();
        state.held = state.held.saturating_add_signed(change);
    }

    /// Completes a chain that the handler has, holds (counted by [`Self::hold`]), or lets wait.
    pub(crate) fn complete(&self, token: Token, written: u32, held: bool, idle: bool) -> Result<(), Stopped> {
        let mut state = self.lock();
        if state.closed || idle && state.released {
            return Err(Stopped);
        }
        state.ready.push(token, written);
        state.ready_held += usize::from(held);
        self.wake(&mut state);
        Ok(())
    }

    /// Completes several for the driver to find used at once; `held` of them are counted by [`Self::hold`], `idle`
    /// says whether any waits.
    pub(crate) fn complete_together(
        &self,
        chains: &[(Token, u32)],
        held: usize,
        idle: bool,
    ) -> Result<(), Stopped> {
        let mut state = self.lock();
        if state.closed || idle && state.released {
            return Err(Stopped);
        }
        state.ready.push_together(chains);
        state.ready_held += held;
        self.wake(&mut state);
        Ok(())
    }

    /// Whether a chain, `idle` or not, was taken back because the queue stopped.
    pub(crate) fn taken_back(&self, idle: bool) -> bool {
        let state = self.lock();
        state.closed || idle && state.released
    }

    /// Keeps the queue from taking idle chains back, while one is written to.
    pub(crate) fn keep(&self) -> Result<Kept<'_>, Stopped> {
        let state = self.lock();
        if state.closed || state.released {
            Err(Stopped)
        } else {
            Ok(Kept(state))
        }
    }

    /// While quiet, completions wake nobody: the worker drains after its call into Python.
    pub(crate) fn set_quiet(&self, quiet: bool) {
        self.lock().quiet = quiet;
    }

    /// Makes the worker come back at once.
    pub(crate) fn call_again(&self) {
        self.wake(&mut self.lock());
    }

    /// Hands all completions over.
    pub(crate) fn drain(&self, done: &mut Completions) {
        let mut state = self.lock();
        if state.signalled {
            state.signalled = false;
            self.event.clear();
        }
        state.held -= state.ready_held.min(state.held);
        state.ready_held = 0;
        done.append(&state.ready);
        state.ready.clear();
    }

    /// Chains whose completion a stopping queue waits for. Those completed and not drained count.
    pub(crate) fn busy(&self) -> usize {
        self.lock().held
    }

    /// The queue stops: idle chains go back to the ring.
    pub(crate) fn release(&self) {
        self.lock().released = true;
    }

    /// The queue is reset: nobody waits for any chain.
    pub(crate) fn cancel(&self) {
        let mut state = self.lock();
        (state.released, state.closed) = (true, true);
        state.held = 0;
    }

    /// Nobody takes completions any more.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
    }
}
