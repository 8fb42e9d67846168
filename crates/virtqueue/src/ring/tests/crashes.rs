//! A device that dies between any two stores to its in-flight memory, and its successor: every chain is
//! told to the driver once, whatever happened.

use super::*;
use crate::ring::inflight::{Area, inflight_size};
use crate::ring::{Buffer, Driver, Ring};
use std::collections::HashSet;

const SIZE: u16 = 8;

struct Crashes {
    raw: Raw,
    file: std::os::fd::OwnedFd,
    /// For a look at the in-flight memory.
    memory: Arc<Snapshot>,
}

impl Crashes {
    fn new(features: u128) -> Self {
        let raw = Raw::new(SIZE.into(), features);
        let file = crate::loopback::memory_file(4096).unwrap();
        let memory = crate::memory::GuestMemory::new();
        let region = RegionRequest {
            guest_address: 0,
            user_address: None,
            size: 4096,
            fd: file.as_fd(),
            offset: 0,
            writable: true,
        };
        memory.add(&region).unwrap();
        Self {
            raw,
            file,
            memory: memory.snapshot(),
        }
    }

    fn area(&self) -> Area {
        Area::new(self.file.as_fd(), 0, 4096, SIZE).unwrap()
    }

    /// A successor, or the first. What the front end says about where it goes on does not count.
    fn device(&self) -> Ring {
        let config = self.raw.rig.config;
        let mut ring = Ring::new(&config).unwrap();
        ring.track(self.area());
        assert!(ring.map(&self.raw.memory).unwrap());
        ring
    }

    /// Has the device take what there is; the tokens in order.
    fn take(&self, device: &mut Ring, max: usize) -> Result<Vec<Token>, Fault> {
        let mut tokens = Vec::new();
        loop {
            let mut batch = self.raw.batch();
            if device.take(&self.raw.memory, &mut batch, max)? == 0 {
                return Ok(tokens);
            }
            tokens.extend(batch.iter().map(|chain| chain.token));
        }
    }
}

fn dies_after(device: &Ring, stores: u32) {
    match device {
        Ring::Split(ring) => ring.tracking.as_ref().unwrap().dies_after(stores),
        Ring::Packed(ring) => ring.tracking.as_ref().unwrap().dies_after(stores),
    }
}

fn dead(device: &Ring) -> bool {
    match device {
        Ring::Split(ring) => ring.tracking.as_ref().unwrap().dead(),
        Ring::Packed(ring) => ring.tracking.as_ref().unwrap().dead(),
    }
}

/// The driver keeps the ring full with lists of one to three descriptors; each device takes all, and
/// completes some, the youngest first. It dies after so many stores; the next one lives longer.
fn crash(features: u128, first: u32, then: u32) {
    let crashes = Crashes::new(features);
    let memory = &crashes.raw.memory;
    let mut driver = Driver::new(&crashes.raw.rig.config, crashes.raw.memory.clone()).unwrap();
    let buffer = Buffer {
        address: crashes.raw.buffer(),
        len: 8,
    };
    // Those that are out, oldest first, by what names them to the device.
    let mut out: Vec<u16> = Vec::new();
    let mut told = 0;
    let mut lives = [first, then].into_iter();
    let mut device = crashes.device();
    dies_after(&device, lives.next().unwrap());
    let mut held: Vec<Token> = Vec::new();
    for round in 0..30 {
        while let Some(id) = driver.add(&vec![buffer; (round + out.len()) % 3], &[buffer]) {
            assert!(!out.contains(&id));
            out.push(id);
        }
        driver.publish();
        held.extend(crashes.take(&mut device, 1 + round % 4).unwrap());
        if !dead(&device) {
            // From the youngest or from the oldest on; full ones that come in order are told of together.
            let done: Vec<Token> = if round % 2 == 0 {
                held.iter().rev().step_by(2).copied().collect()
            } else {
                held.iter().step_by(2).copied().collect()
            };
            held.retain(|token| !done.contains(token));
            let pairs: Vec<(Token, u32)> = done.iter().map(|token| (*token, 8)).collect();
            device.complete_all(memory, &pairs).unwrap();
            if !dead(&device) {
                device.publish(memory).unwrap();
            }
        }
        driver
            .reap(64, |used| {
                let at = out.iter().position(|id| *id == used.head);
                out.remove(at.unwrap_or_else(|| panic!("{} was told twice", used.head)));
                told += 1;
            })
            .unwrap();
        if dead(&device) {
            device = crashes.device();
            // Oldest first, and nothing else than what is out.
            let mut batch = crashes.raw.batch();
            device.take(memory, &mut batch, 2).unwrap();
            let tokens: Vec<Token> = batch.iter().map(|chain| chain.token).collect();
            let places: Vec<_> = tokens
                .iter()
                .map(|token| out.iter().position(|id| *id == token.id()))
                .collect();
            assert!(
                places.iter().all(Option::is_some),
                "only what is out is taken again"
            );
            assert!(places.is_sorted(), "in the order in which it was taken");
            held = tokens;
            if let Some(life) = lives.next() {
                dies_after(&device, life);
            }
        }
    }
    assert!(told > 30, "{told} of {features:#x} {first} {then}");
    // The last one lives: nothing is lost. In order, what is complete waits for older ones.
    held.extend(crashes.take(&mut device, 64).unwrap());
    let pairs: Vec<(Token, u32)> = held.iter().map(|token| (*token, 8)).collect();
    device.complete_all(memory, &pairs).unwrap();
    device.publish(memory).unwrap();
    let mut last = HashSet::new();
    driver.reap(64, |used| assert!(last.insert(used.head))).unwrap();
    assert_eq!(last, out.iter().copied().collect());
    // And a successor finds nothing to do.
    assert_eq!(crashes.take(&mut crashes.device(), 64).unwrap(), []);
}

#[test]
fn nothing_is_lost_or_told_twice() {
    for layout in [0, feature::RING_PACKED] {
        for features in [layout, layout | feature::IN_ORDER] {
            for first in 1..250 {
                crash(features, first, 10_000);
            }
            for first in [3, 40, 77] {
                for then in 1..120 {
                    crash(features, first, then);
                }
            }
        }
    }
}

/// Used descriptors behind the first of a batch are written before the batch is shown. A successor that
/// completes something else first must not show those, too.
#[test]
fn what_was_never_shown_is_not_shown_by_a_successor() {
    for features in [0, feature::RING_PACKED] {
        let crashes = Crashes::new(features);
        let memory = &crashes.raw.memory;
        let mut driver = Driver::new(&crashes.raw.rig.config, memory.clone()).unwrap();
        let buffer = Buffer {
            address: crashes.raw.buffer(),
            len: 8,
        };
        let heads: Vec<u16> = (0..3).map(|_| driver.add(&[buffer], &[]).unwrap()).collect();
        driver.publish();
        let mut device = crashes.device();
        let tokens = crashes.take(&mut device, 64).unwrap();
        device
            .complete_all(memory, &[(tokens[0], 0), (tokens[1], 0)])
            .unwrap();
        drop(device);
        let mut device = crashes.device();
        assert_eq!(crashes.take(&mut device, 64).unwrap(), tokens);
        device.complete_all(memory, &[(tokens[2], 0)]).unwrap();
        device.publish(memory).unwrap();
        let mut told = Vec::new();
        driver.reap(64, |used| told.push(used.head)).unwrap();
        assert_eq!(told, [heads[2]]);
    }
}

/// Memory for more entries than the ring has, as a front end makes it for the largest queue.
#[test]
fn more_entries_than_the_ring() {
    for features in [0, feature::RING_PACKED] {
        let crashes = Crashes::new(features);
        let mut driver = Driver::new(&crashes.raw.rig.config, crashes.raw.memory.clone()).unwrap();
        let buffer = Buffer {
            address: crashes.raw.buffer(),
            len: 8,
        };
        let mut expected = Vec::new();
        for _ in 0..5 {
            let mut device = Ring::new(&crashes.raw.rig.config).unwrap();
            device.track(Area::new(crashes.file.as_fd(), 0, 4096, 64).unwrap());
            for _ in 0..2 {
                expected.extend(driver.add(&[buffer], &[]));
            }
            driver.publish();
            let taken = crashes.take(&mut device, 64).unwrap();
            assert_eq!(taken.iter().map(|token| token.id()).collect::<Vec<_>>(), expected);
            // The youngest first, so that the oldest stay.
            let youngest = taken[taken.len() - 1];
            device
                .complete_all(&crashes.raw.memory, &[(youngest, 0)])
                .unwrap();
            device.publish(&crashes.raw.memory).unwrap();
            driver
                .reap(64, |used| assert_eq!(expected.pop(), Some(used.head)))
                .unwrap();
        }
        let mut device = Ring::new(&crashes.raw.rig.config).unwrap();
        device.track(Area::new(crashes.file.as_fd(), 0, 4096, SIZE - 1).unwrap());
        let fault = device.map(&crashes.raw.memory).unwrap_err();
        assert!(fault.detail.contains("a queue of 7"), "{fault:?}");
    }
}

/// Contents that no device has left there: refused, or survived.
#[test]
fn hostile_contents() {
    let put =
        |crashes: &Crashes, at: u64, bytes: &[u8]| crashes.memory.write(Space::Guest, at, bytes).unwrap();
    let begin = |crashes: &Crashes| {
        let mut ring = Ring::new(&crashes.raw.rig.config).unwrap();
        ring.track(crashes.area());
        let first = ring.map(&crashes.raw.memory).map(|_| ());
        // A ring that does not know where it is does not begin the next time either.
        assert_eq!(ring.map(&crashes.raw.memory).is_ok(), first.is_ok());
        first.map_err(|fault| fault.detail.to_string())
    };
    let refused = |crashes: &Crashes, what: &str| {
        let found = begin(crashes).unwrap_err();
        assert!(found.contains(what), "{found} instead of {what}");
    };

    let crashes = Crashes::new(0);
    put(&crashes, 8, &[2, 0]);
    refused(&crashes, "version 2");
    put(&crashes, 8, &[1, 0, 9, 0]);
    refused(&crashes, "a queue of 9");
    put(&crashes, 8, &[1, 0, SIZE as u8, 0]);
    put(&crashes, 14, &(-9i16).to_le_bytes());
    refused(&crashes, "a batch larger than the queue");
    put(&crashes, 12, &[8, 0]);
    put(&crashes, 14, &(-1i16).to_le_bytes());
    refused(&crashes, "a head beyond the queue");
    put(&crashes, 12, &[0, 0]);
    put(&crashes, 14, &(-8i16).to_le_bytes());
    // A list that runs in circles is followed as far as the batch goes.
    assert_eq!(begin(&crashes), Ok(()));
    let small = Area::new(crashes.file.as_fd(), 4096 - 16, 16, SIZE).unwrap();
    let mut ring = Ring::new(&crashes.raw.rig.config).unwrap();
    ring.track(small);
    assert!(ring.map(&crashes.raw.memory).is_err());
    assert!(Area::new(crashes.file.as_fd(), 4096 - 16, 32, SIZE).is_err());

    // Every byte of the header and of two entries, at values that lead somewhere else.
    for at in 10..96 {
        for value in [0, 1, 7, 8, 0x7f, 0x80, 0xff] {
            for layout in [0, feature::RING_PACKED] {
                let crashes = Crashes::new(layout | feature::IN_ORDER);
                let mut device = crashes.device();
                let mut driver = Driver::new(&crashes.raw.rig.config, crashes.raw.memory.clone()).unwrap();
                let buffer = Buffer {
                    address: crashes.raw.buffer(),
                    len: 8,
                };
                driver.add(&[], &[buffer; 3]).unwrap();
                driver.add(&[], &[buffer; 2]).unwrap();
                driver.publish();
                crashes.take(&mut device, 1).unwrap();
                put(&crashes, at, &[value]);
                if begin(&crashes).is_ok() {
                    // What it says is checked like what the ring says: any chain, or a fault.
                    let mut ring = crashes.device();
                    let taken = crashes.take(&mut ring, 2);
                    assert!(ring.outstanding() <= u32::from(SIZE));
                    for token in taken.unwrap_or_default() {
                        ring.complete(&crashes.raw.memory, token, 0).unwrap();
                    }
                    ring.publish(&crashes.raw.memory).unwrap();
                }
            }
        }
    }
}

#[test]
fn sizes() {
    assert_eq!(inflight_size(false, 256), 16 + 256 * 16);
    assert_eq!(inflight_size(true, 256), 32 + 256 * 32);
}
