//! How far apart two processors are just now: a cache line there and back.
//!
//! On virtual machines this changes by factors without warning, and every figure that two threads
//! make together changes with it. So it is measured beside each.

use super::{failed, thread};
use crate::fault::Fault;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// One line, and no neighbour that a prefetcher would fetch with it.
#[repr(align(256))]
#[derive(Debug, Default)]
struct Line(AtomicU64);

/// Two lines that two threads throw to and fro.
#[derive(Debug, Default)]
pub struct Probe {
    there: Line,
    back: Line,
}

/// Throws in a burst, and bursts in a probe: their median is not moved by an interrupt in one.
const THROWS: u64 = 50;
const BURSTS: u64 = 15;
/// Throws in one probe.
const ALL: u64 = THROWS * BURSTS;

impl Probe {
    /// The end that measures; returns nanoseconds for one round trip. `turn` counts the probes made
    /// with these lines, the same at both ends.
    pub fn throw(&self, turn: u64) -> f64 {
        let mut number = turn * ALL;
        let mut bursts = [0.0; BURSTS as usize];
        for burst in &mut bursts {
            let start = Instant::now();
            for _ in 0..THROWS {
                number += 1;
                self.there.0.store(number, Ordering::Release);
                while self.back.0.load(Ordering::Acquire) != number {}
            }
            *burst = start.elapsed().as_nanos() as f64 / THROWS as f64;
        }
        bursts.sort_by(f64::total_cmp);
        bursts[bursts.len() / 2]
    }

    /// The other end.
    pub fn echo(&self, turn: u64) {
        for number in turn * ALL + 1..=(turn + 1) * ALL {
            while self.there.0.load(Ordering::Acquire) != number {}
            self.back.0.store(number, Ordering::Release);
        }
    }
}

/// A cache line there and back between two processors, in nanoseconds: one probe on threads of its own.
pub fn distance(processors: (usize, usize), precedence: bool) -> Result<f64, Fault> {
    let probe = &Probe::default();
    std::thread::scope(|scope| {
        let other = scope.spawn(move || {
            thread::settle(processors.1, precedence)?;
            probe.echo(0);
            Ok::<_, Fault>(())
        });
        let own = scope.spawn(move || {
            thread::settle(processors.0, precedence)?;
            Ok::<_, Fault>(probe.throw(0))
        });
        other
            .join()
            .map_err(|_| failed("a thread of the probe has died"))??;
        own.join().map_err(|_| failed("a thread of the probe has died"))?
    })
}
