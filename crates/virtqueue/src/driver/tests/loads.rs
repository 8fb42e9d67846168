//! Loads: what is verified, and when they end.

use super::blocks::{Bed, DISK, EVERY, alone, served};
use super::*;
use crate::memory::Space;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn a_load_verifies_what_it_wrote() {
    for features in EVERY {
        let bed = served(features, 64, u32::MAX, 1);
        let load = Load {
            mix: Mix::Verify,
            sequential: false,
            each: 4096,
            sectors: DISK / 512,
            depth: 16,
            requests: 5000,
            time: LONG,
            timeout: Some(LONG),
            seed: 7,
        };
        let memory = bed.memory.snapshot();
        let measured = bed.block.load(load, &memory, bed.buffers, None).unwrap();
        assert_eq!(
            (measured.requests, measured.failed, measured.mismatches),
            (5000, 0, 0)
        );
        // A device that loses writes is found out: other contents under the same places.
        let other = Load { seed: 8, ..load };
        bed.block.load(other, &memory, bed.buffers, None).unwrap();
    }
}

#[test]
fn a_load_notices_wrong_contents() {
    let (bed, mut device, _kick) = alone(feature::EVENT_IDX, 16, u32::MAX, 1);
    let load = Load {
        mix: Mix::Verify,
        sequential: false,
        each: 512,
        sectors: 3,
        depth: 1,
        requests: 200,
        time: LONG,
        timeout: Some(LONG),
        seed: 3,
    };
    let memory = bed.memory.snapshot();
    let over = AtomicBool::new(false);
    let measured = std::thread::scope(|scope| {
        let over = &over;
        scope.spawn(move || {
            // It answers everything and keeps nothing.
            while !over.load(Ordering::Relaxed) {
                for held in device.take() {
                    let status = held.writable.last().unwrap().0;
                    let memory = device.memory.clone();
                    memory.write(Space::Guest, status, &[0]).unwrap();
                    if held.writable.len() > 1 {
                        memory.write(Space::Guest, held.writable[0].0, &[1; 512]).unwrap();
                    }
                    device.complete(&held, 1);
                }
                std::thread::yield_now();
            }
        });
        let measured = bed.block.load(load, &memory, bed.buffers, None);
        over.store(true, Ordering::Relaxed);
        measured.unwrap()
    });
    assert!(measured.mismatches > 20, "{measured:?}");
}

/// A load of reads from a device that the test plays, `depth` at once.
fn reads(depth: usize) -> Load {
    Load {
        mix: Mix::Read,
        sequential: false,
        each: 512,
        sectors: 1 << 20,
        depth,
        requests: u64::MAX,
        time: LONG,
        timeout: None,
        seed: 1,
    }
}

impl Device {
    /// Answers requests together: the driver finds all of them at one look.
    fn answer(&mut self, all: &[Held]) {
        for held in all {
            let (status, _) = *held.writable.last().unwrap();
            self.memory.write(Space::Guest, status, &[0]).unwrap();
            self.ring.complete(&self.memory, held.token, 513).unwrap();
        }
        if self.ring.publish(&self.memory).unwrap() {
            self.call.signal();
        }
    }

    /// One request first, and then always all `depth`, until `done`, or for so long that the load must be
    /// taken for one that never ends. What never becomes so many is answered all the same, later.
    fn answer_by_the_full(&mut self, depth: usize, done: &AtomicBool) {
        let (start, mut last) = (Instant::now(), Instant::now());
        let mut held = Vec::new();
        let mut count = 1;
        while !done.load(Ordering::Relaxed) && start.elapsed() < 3 * LONG {
            held.extend(self.take());
            if held.len() == depth || last.elapsed() > Duration::from_millis(500) {
                self.answer(&held.split_off(held.len().saturating_sub(count)));
                (count, last) = (depth, Instant::now());
            }
            std::thread::yield_now();
        }
    }
}

fn load_from(
    (bed, mut device): (&Bed, Device),
    load: Load,
    give_up: Option<&dyn Fn() -> bool>,
) -> Result<Measured, Error> {
    let done = AtomicBool::new(false);
    let memory = bed.memory.snapshot();
    std::thread::scope(|scope| {
        let flag = &done;
        scope.spawn(move || device.answer_by_the_full(load.depth, flag));
        let outcome = bed.block.load(load, &memory, bed.buffers, give_up);
        done.store(true, Ordering::Relaxed);
        outcome
    })
}

#[test]
fn a_load_ends_in_time_however_many_answers_come_at_once() {
    let (bed, device, _kick) = alone(feature::EVENT_IDX, 256, u32::MAX, 1);
    let load = Load {
        time: Duration::from_millis(20),
        timeout: Some(Duration::from_secs(2)),
        ..reads(64)
    };
    // The number of answers is always one more than a multiple of 64.
    let measured = load_from((&bed, device), load, None).unwrap();
    assert!(measured.requests > 0);
}

#[test]
fn a_load_that_is_never_idle_can_be_given_up() {
    let (bed, device, _kick) = alone(feature::EVENT_IDX, 256, u32::MAX, 1);
    bed.block.queue.set_polling(LONG);
    let give_up = || true;
    let outcome = load_from((&bed, device), reads(64), Some(&give_up));
    assert!(matches!(outcome, Err(Error::Interrupted)), "{outcome:?}");
}

#[test]
fn a_load_ends_when_the_device_stops_answering() {
    for layout in EVERY {
        for polling in [0, 50] {
            let (bed, mut device, _kick) = alone(layout, 64, u32::MAX, 1);
            bed.block.queue.set_polling(Duration::from_micros(polling));
            let memory = bed.memory.snapshot();
            let load = Load {
                timeout: Some(Duration::from_millis(5)),
                ..reads(8)
            };
            let outcome = bed.block.load(load, &memory, bed.buffers, None);
            assert!(matches!(outcome, Err(Error::TimedOut)), "{outcome:?}");
            let held = device.take();
            assert_eq!(held.len(), 8);
            assert_eq!(
                bed.block.queue.returned(|_| {}),
                8,
                "the device has the buffers still"
            );
            // It comes back, and the queue is of use again.
            device.answer(&held);
            assert_eq!(bed.block.queue.returned(|_| {}), 0);
            let ticket = bed.block.submit(Kind::IN, 0, (bed.buffers, 512), false).unwrap();
            let held = device.take();
            device.answer(&held);
            let done = bed.block.queue.wait(ticket, Limit::within(LONG)).unwrap();
            assert_eq!(done.status, 0);
        }
    }
}
