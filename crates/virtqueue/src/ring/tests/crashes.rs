//! A device that dies between any two stores to its in-flight memory, and its successor: every chain is
//! told to the driver once, whatever happened.

use super::*;
use crate::ring::inflight::{InflightError, PackedInflight, SplitInflight, inflight_size};
use crate::ring::packed_layout::Position;
use crate::ring::{Buffer, Driver, PackedRing, SplitRing};
use std::collections::HashSet;

const SIZE: u16 = 8;

/// A device with its tracker, of either layout.
enum Device {
    Split(SplitRing, SplitInflight),
    /// With the entry of each id.
    Packed(PackedRing, PackedInflight, [u16; SIZE as usize]),
}

struct Crashes {
    raw: Raw,
    inflight: Arc<Snapshot>,
    _file: std::os::fd::OwnedFd,
    packed: bool,
}

impl Crashes {
    fn new(packed: bool) -> Self {
        let raw = Raw::new(SIZE.into(), if packed { feature::RING_PACKED } else { 0 });
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
            inflight: memory.snapshot(),
            _file: file,
            packed,
        }
    }

    fn flags(&self, offset: u16) -> u16 {
        self.raw
            .get16(self.raw.rig.config.descriptors + 16 * u64::from(offset) + 14)
    }

    /// A successor, or the first; with the chains that it has taken again.
    fn device(&self) -> (Device, Batch) {
        let mut batch = self.raw.batch();
        let memory = &self.raw.memory;
        let config = self.raw.rig.config;
        if self.packed {
            let made = PackedInflight::new(self.inflight.clone(), 0, SIZE, 0x8000, |at| self.flags(at));
            let (tracker, used, lists) = made.unwrap();
            let base = u32::from(used) | u32::from(used) << 16;
            let mut ring = PackedRing::new(&Config { base, ..config }).unwrap();
            ring.resume(memory, &lists, &mut batch).unwrap();
            let mut entries = [0; SIZE as usize];
            for (chain, list) in batch.iter().zip(&lists) {
                entries[usize::from(chain.token.id)] = list.entry;
            }
            (Device::Packed(ring, tracker, entries), batch)
        } else {
            let used = self.raw.get16(config.used + 2);
            let (tracker, heads) = SplitInflight::new(self.inflight.clone(), 0, SIZE, used).unwrap();
            let mut ring = SplitRing::new(&Config {
                base: used.into(),
                ..config
            })
            .unwrap();
            assert!(ring.map(memory).unwrap());
            ring.resume(memory, &heads, &mut batch).unwrap();
            (Device::Split(ring, tracker), batch)
        }
    }
}

impl Device {
    fn dies_after(&self, stores: u32) {
        match self {
            Self::Split(_, tracker) => tracker.dies_after(stores),
            Self::Packed(_, tracker, _) => tracker.dies_after(stores),
        }
    }

    fn dead(&self) -> bool {
        match self {
            Self::Split(_, tracker) => tracker.dead(),
            Self::Packed(_, tracker, _) => tracker.dead(),
        }
    }

    /// Takes what there is, one after the other; `None` if it died.
    fn take(&mut self, crashes: &Crashes) -> Option<Vec<Token>> {
        let memory = &crashes.raw.memory;
        let mut tokens = Vec::new();
        loop {
            let mut batch = crashes.raw.batch();
            match self {
                Self::Split(ring, tracker) => {
                    if ring.take(memory, &mut batch, 1).unwrap() == 0 {
                        return Some(tokens);
                    }
                    tracker.taken(batch.get(0).unwrap().token.id);
                }
                Self::Packed(ring, tracker, entries) => {
                    let at = ring.position() as u16;
                    if ring.take(memory, &mut batch, 1).unwrap() == 0 {
                        return Some(tokens);
                    }
                    let token = batch.get(0).unwrap().token;
                    let config = &crashes.raw.rig.config;
                    entries[usize::from(token.id)] = tracker.taken(memory, config, at, token.slots).unwrap();
                }
            }
            if self.dead() {
                return None;
            }
            tokens.push(batch.get(0).unwrap().token);
        }
    }

    /// Completes a batch; false if it died.
    fn complete(&mut self, crashes: &Crashes, tokens: &[Token]) -> bool {
        let memory = &crashes.raw.memory;
        for token in tokens {
            match self {
                Self::Split(ring, tracker) => {
                    ring.complete(memory, *token, 1).unwrap();
                    tracker.completed(token.id);
                }
                Self::Packed(ring, tracker, entries) => {
                    ring.complete(memory, *token, 1).unwrap();
                    tracker.completed(entries[usize::from(token.id)]);
                }
            }
            if self.dead() {
                return false;
            }
        }
        match self {
            Self::Split(ring, tracker) => {
                ring.publish(memory).unwrap();
                tracker.published(crashes.raw.get16(crashes.raw.rig.config.used + 2));
            }
            Self::Packed(ring, tracker, _) => {
                let used = (ring.position() >> 16) as u16;
                tracker.publishing(used);
                if tracker.dead() {
                    return false;
                }
                ring.publish(memory).unwrap();
                tracker.published(used);
            }
        }
        !self.dead()
    }
}

/// The driver keeps the ring full with lists of one to three descriptors; each device takes all, and
/// completes some, the youngest first. It dies after so many stores; the next one lives longer.
fn crash(packed: bool, first: u32, then: u32) {
    let crashes = Crashes::new(packed);
    let mut driver = Driver::new(&crashes.raw.rig.config, crashes.raw.memory.clone()).unwrap();
    let buffer = Buffer {
        address: crashes.raw.buffer(),
        len: 8,
    };
    let mut out: HashSet<u16> = HashSet::new();
    let mut told = 0;
    let mut lives = [first, then].into_iter();
    let (mut device, mut again) = crashes.device();
    device.dies_after(lives.next().unwrap());
    let mut held: Vec<Token> = Vec::new();
    for round in 0..30 {
        while let Some(id) = driver.add(&[], &vec![buffer; 1 + (round + out.len()) % 3]) {
            assert!(out.insert(id));
        }
        driver.publish();
        held.extend(again.iter().map(|chain| chain.token));
        again.clear();
        let alive = device.take(&crashes).is_some_and(|tokens| {
            held.extend(tokens);
            let done: Vec<Token> = held.iter().rev().step_by(2).copied().collect();
            held.retain(|token| !done.contains(token));
            device.complete(&crashes, &done)
        });
        driver
            .reap(64, |used| {
                assert!(out.remove(&used.head), "{} was told twice", used.head);
                told += 1;
            })
            .unwrap();
        if !alive || device.dead() {
            held.clear();
            (device, again) = crashes.device();
            let tokens: HashSet<u16> = again.iter().map(|chain| chain.token.id).collect();
            assert_eq!(tokens.len(), again.len());
            assert!(tokens.is_subset(&out), "only what is out is taken again");
            if let Some(life) = lives.next() {
                device.dies_after(life);
            }
        }
    }
    assert!(told > 50, "{told}");
    // The last one lives: nothing is lost.
    held.extend(again.iter().map(|chain| chain.token));
    held.extend(device.take(&crashes).unwrap());
    let ids: HashSet<u16> = held.iter().map(|token| token.id).collect();
    assert_eq!(ids, out);
}

#[test]
fn nothing_is_lost_or_told_twice() {
    for packed in [false, true] {
        for first in 1..250 {
            crash(packed, first, 10_000);
        }
        for first in [3, 40, 77] {
            for then in 1..120 {
                crash(packed, first, then);
            }
        }
    }
}

/// Contents that no device has left there: refused, or survived.
#[test]
fn hostile_contents() {
    let put =
        |crashes: &Crashes, at: u64, bytes: &[u8]| crashes.inflight.write(Space::Guest, at, bytes).unwrap();
    let split =
        |crashes: &Crashes, used| SplitInflight::new(crashes.inflight.clone(), 0, SIZE, used).map(|_| ());
    let packed =
        |crashes: &Crashes| PackedInflight::new(crashes.inflight.clone(), 0, SIZE, 0x8000, |_| 0).map(|_| ());
    let header = |crashes: &Crashes| put(crashes, 8, &[1, 0, SIZE as u8, 0]);

    let crashes = Crashes::new(false);
    put(&crashes, 8, &[2, 0]);
    assert_eq!(split(&crashes, 0), Err(InflightError::Version(2)));
    put(&crashes, 8, &[1, 0, 9, 0]);
    assert_eq!(split(&crashes, 0), Err(InflightError::Size(9)));
    header(&crashes);
    assert!(
        matches!(split(&crashes, 9), Err(InflightError::Contents(_))),
        "a batch of 9"
    );
    put(&crashes, 12, &[8, 0]);
    assert!(
        matches!(split(&crashes, 1), Err(InflightError::Contents(_))),
        "a head of 8"
    );
    put(&crashes, 12, &[0, 0]);
    // A list that runs in circles is followed as far as the batch goes.
    assert_eq!(split(&crashes, 8), Ok(()));
    let small = SplitInflight::new(crashes.inflight.clone(), 4096 - 16, SIZE, 0);
    assert!(matches!(small, Err(InflightError::Memory(_))));

    // Packed: every byte of the header and of two entries, at values that lead somewhere else.
    for at in 12..96 {
        for value in [0, 1, 7, 8, 0x7f, 0x80, 0xff] {
            let crashes = Crashes::new(true);
            let (mut device, _) = crashes.device();
            let mut driver = Driver::new(&crashes.raw.rig.config, crashes.raw.memory.clone()).unwrap();
            let buffer = Buffer {
                address: crashes.raw.buffer(),
                len: 8,
            };
            driver.add(&[], &[buffer; 3]).unwrap();
            driver.add(&[], &[buffer; 2]).unwrap();
            driver.publish();
            device.take(&crashes).unwrap();
            put(&crashes, at, &[value]);
            if packed(&crashes).is_ok() {
                let made = PackedInflight::new(crashes.inflight.clone(), 0, SIZE, 0x8000, |_| 0);
                let (_, used, lists) = made.unwrap();
                assert!(Position::from_word(used).offset < SIZE);
                let base = u32::from(used) | u32::from(used) << 16;
                let mut ring = PackedRing::new(&Config {
                    base,
                    ..crashes.raw.rig.config
                })
                .unwrap();
                let mut batch = crashes.raw.batch();
                // What a list says is checked like what the ring says.
                let _ = ring.resume(&crashes.raw.memory, &lists, &mut batch);
                assert!(ring.outstanding() <= 2 && batch.len() as u32 == ring.outstanding());
            }
        }
    }
}

#[test]
fn sizes() {
    assert_eq!(inflight_size(false, 256), 16 + 256 * 16);
    assert_eq!(inflight_size(true, 256), 32 + 256 * 32);
}
