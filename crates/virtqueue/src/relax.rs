//! Looking for news at the pace at which there can be any.
//!
//! A line that this end polls has to come from the other end's cache. Looking again as soon as possible
//! takes the line back while the other end is still at work on it: each of its stores then has to claim
//! the line once more. Looking about as often as a line can arrive makes both ends faster, the one that
//! waits too (`benches/README.md` has the figures).

use std::hint::spin_loop;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Time between two looks.
const PACE: Duration = Duration::from_nanos(45);

/// So often as long is the wait after bursts of this size, and larger ones.
const PER_BURST: u32 = 64;
const LARGEST: usize = 32;

/// How processors say "a while", at the pace of this one.
#[derive(Clone, Copy, Debug)]
pub struct Relax {
    hints: u32,
}

impl Relax {
    /// Finds out, once for the process, how long this processor's hint takes: 10 to 150 cycles.
    pub fn new() -> Self {
        static HINTS: OnceLock<u32> = OnceLock::new();
        const TRIED: u32 = 200;
        let hints = *HINTS.get_or_init(|| {
            // The fastest of some: an interrupt in one does not matter.
            let fastest = (0..16)
                .map(|_| {
                    let start = Instant::now();
                    (0..TRIED).for_each(|_| spin_loop());
                    start.elapsed()
                })
                .min();
            let all = fastest.unwrap_or_default().as_nanos().max(1) as u32;
            (PACE.as_nanos() as u32 * TRIED).div_ceil(all).clamp(1, 64)
        });
        Self { hints }
    }

    /// Waits until it is worth looking again.
    #[inline]
    pub fn wait(self) {
        self.wait_after(0);
    }

    /// The same where so many came at once the last time, and may well come again: as long as the other end works at
    /// them, each look takes a line from it.
    #[inline]
    pub fn wait_after(self, burst: usize) {
        let times = 1 + burst.min(LARGEST) as u32 * PER_BURST / LARGEST as u32;
        for _ in 0..self.hints * times {
            spin_loop();
        }
    }
}

impl Default for Relax {
    fn default() -> Self {
        Self::new()
    }
}
