//! Load for a block device: random or sequential requests, with their contents verified if wanted.

use super::Error;
use super::block::{BlockQueue, Kind};
use super::engine::Engine;
use super::ledger::Owner;
use super::queue::Limit;
use crate::memory::{Snapshot, Space};
use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vm_memory::VolatileSlice;

/// What kinds of requests to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// Reads; what comes back is not looked at.
    Read,
    /// Writes.
    Write,
    /// As many reads as writes, at random. Each write puts new contents in its place, each read is
    /// compared with what was last written there; what never was is written first.
    Verify,
}

/// What load to make.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Reads or writes.
    pub mix: Mix,
    /// One place after another; else at random.
    pub sequential: bool,
    /// Bytes of each request, a multiple of 512.
    pub each: u32,
    /// Sectors of the device to use, from its start.
    pub sectors: u64,
    /// Requests that are out at once.
    pub depth: usize,
    /// Requests in all.
    pub requests: u64,
    /// Stop then, even if there were fewer.
    pub time: Duration,
    /// How long the device may take to answer anything at all; `None`: for ever.
    pub timeout: Option<Duration>,
    /// Seed of the places and contents.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Requests that came back.
    pub requests: u64,
    /// Of these, answered with a status that is not 0.
    pub failed: u64,
    /// Reads that gave something else than was written.
    pub mismatches: u64,
    /// Time on the wall.
    pub nanoseconds: u64,
    /// Time of this thread on a processor.
    pub cpu_nanoseconds: u64,
}

/// Random numbers (xorshift64*): places and contents need no better ones.
struct Random(u64);

impl Random {
    #[inline]
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `end`.
    #[inline]
    fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }
}

/// What each place contains, as a version; the highest bit: a request for it is out.
struct Contents {
    versions: Vec<u32>,
    seed: u64,
}

const BUSY: u32 = 1 << 31;

/// Requests after which the clock is looked at: it costs as much as a part of one.
const CLOCK: usize = 64;

impl Contents {
    /// One word of the contents of a place: no two places, versions or positions share it.
    #[inline]
    fn word(&self, place: u64, version: u32, position: u64) -> u64 {
        let mixed =
            self.seed ^ (place << 24) ^ (u64::from(version) << 56) ^ u64::from(version) ^ position << 40;
        mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ place ^ position
    }

    fn fill(&self, slice: VolatileSlice<'_>, scratch: &mut [u64], place: u64, version: u32) {
        for (position, word) in scratch.iter_mut().enumerate() {
            *word = self.word(place, version, position as u64);
        }
        slice.copy_from(scratch);
    }

    fn holds(&self, slice: VolatileSlice<'_>, scratch: &mut [u64], place: u64, version: u32) -> bool {
        slice.copy_to(scratch);
        scratch
            .iter()
            .enumerate()
            .all(|(position, word)| *word == self.word(place, version, position as u64))
    }
}

#[derive(Clone, Copy)]
struct Going {
    place: u64,
    reading: bool,
}

impl BlockQueue {
    /// Makes load with buffers at guest address `buffers`, `depth` times `each` bytes of `memory`.
    /// The calling thread does nothing else meanwhile. [`Error::TimedOut`] if the device has not answered
    /// anything for [`Load::timeout`], or for twice that at most; what is out then is its own until it does.
    pub fn load(
        &self,
        load: Load,
        memory: &Arc<Snapshot>,
        buffers: u64,
        give_up: Option<&dyn Fn() -> bool>,
    ) -> Result<Measured, Error> {
        let each = load.each as usize;
        let places = load.sectors * 512 / u64::from(load.each.max(512));
        let fits = load.each % 512 == 0 && each > 0 && load.each <= self.longest;
        if !fits || load.depth == 0 || places <= load.depth as u64 {
            return Err(Error::Invalid(
                "a load needs requests of whole sectors, and more places than requests at once",
            ));
        }
        let room = memory
            .contiguous(Space::Guest, buffers, (load.depth * each) as u64, true)
            .map_err(|error| Error::Fault(error.into()))?;
        let buffer = |index: u32| {
            // SAFETY: resolved above, in memory that outlives this call; `index` is below `depth`.
            unsafe { VolatileSlice::new(room.host.add(index as usize * each), each) }
        };
        let verify = load.mix == Mix::Verify;
        let mut contents = Contents {
            versions: vec![0; if verify { places as usize } else { 0 }],
            seed: load.seed,
        };
        let mut scratch = vec![0u64; each / 8];
        let mut random = Random(load.seed | 1);
        let mut going = vec![
            Going {
                place: 0,
                reading: true
            };
            load.depth
        ];
        let mut idle: Vec<u32> = (0..load.depth as u32).rev().collect();
        let mut measured = Measured::default();
        let (mut begun, mut following) = (0, 0);
        let run = self.queue.lock().ledger.begin_run();
        let start = Instant::now();
        let end = start + load.time;
        let cpu = thread_time();
        let mut over = false;
        let mut unclocked = 0;
        let answered = Cell::new(0);
        let mut came: Vec<(u32, u8)> = Vec::with_capacity(load.depth);
        let mut turn = |engine: &mut Engine| {
            let own = engine.ledger.run(run);
            std::mem::swap(&mut own.done, &mut came);
            unclocked += came.len();
            // Not at each multiple of anything: how many come at once is the device's to choose.
            if came.is_empty() || unclocked >= CLOCK {
                unclocked = 0;
                over = over || Instant::now() >= end;
            }
            answered.set(answered.get() + came.len() as u64);
            for (index, status) in came.drain(..) {
                let Going { place, reading } = going[index as usize];
                measured.requests += 1;
                if status != 0 {
                    measured.failed += 1;
                }
                if verify {
                    let version = contents.versions[place as usize] & !BUSY;
                    contents.versions[place as usize] = version;
                    let right = !reading
                        || status != 0
                        || contents.holds(buffer(index), &mut scratch, place, version);
                    measured.mismatches += u64::from(!right);
                }
                idle.push(index);
            }
            let mut added = false;
            while begun < load.requests && !over {
                let Some(&index) = idle.last() else { break };
                let place = if load.sequential {
                    following = (following + 1) % places;
                    following
                } else {
                    random.below(places)
                };
                let mut reading = load.mix == Mix::Read;
                if verify {
                    let version = contents.versions[place as usize];
                    if version & BUSY != 0 {
                        continue;
                    }
                    reading = version != 0 && random.next() >> 63 == 0;
                    if !reading {
                        let version = (version + 1) & !BUSY;
                        contents.fill(buffer(index), &mut scratch, place, version);
                        contents.versions[place as usize] = version;
                    }
                }
                if !engine.room(3)? {
                    break;
                }
                let kind = if reading { Kind::IN } else { Kind::OUT };
                let data = (buffers + u64::from(index) * u64::from(load.each), load.each);
                let sector = place * u64::from(load.each / 512);
                let owner = Owner::Run { run, index };
                if self.add(engine, kind, sector, data, owner, None).is_none() {
                    break;
                }
                if verify {
                    contents.versions[place as usize] |= BUSY;
                }
                going[index as usize] = Going { place, reading };
                idle.pop();
                begun += 1;
                added = true;
            }
            if added {
                engine.publish();
            }
            let all = over || begun == load.requests;
            Ok((all && measured.requests == begun).then_some(()))
        };
        let mut before = 0;
        let outcome = loop {
            let limit = Limit {
                deadline: load
                    .timeout
                    .and_then(|timeout| Instant::now().checked_add(timeout)),
                give_up,
            };
            match self.queue.wait_until(limit, &mut turn) {
                Err(Error::TimedOut) if before != answered.get() => before = answered.get(),
                outcome => break outcome,
            }
        };
        measured.nanoseconds = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        measured.cpu_nanoseconds = thread_time().saturating_sub(cpu);
        self.queue.lock().ledger.end_run(run);
        outcome.map(|()| measured)
    }
}

/// Time of this thread on a processor, in nanoseconds.
fn thread_time() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: fills the structure given.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
