//! Random sequences: two honest ends against a model, and one end against random memory.

use super::*;
use crate::ring::{Buffer, SplitDriver};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::VecDeque;

#[derive(Clone, Debug)]
enum Step {
    /// Lengths of the device-readable and the device-writable buffers; in a table?
    Add(Vec<u32>, Vec<u32>, bool),
    DriverPublishes,
    Reap(usize),
    DriverArms,
    DriverDisarms,
    Take(usize),
    /// Which of the chains taken, and how much was written.
    Complete(usize, u32),
    DevicePublishes,
    DeviceArms,
    DeviceDisarms,
    /// The device stops and a successor continues at its base.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let lengths = || vec(1u32..3000, 0..4);
    prop_oneof![
        8 => (lengths(), lengths(), any::<bool>()).prop_map(|(r, w, i)| Step::Add(r, w, i)),
        4 => Just(Step::DriverPublishes),
        3 => (1usize..10).prop_map(Step::Reap),
        1 => Just(Step::DriverArms),
        1 => Just(Step::DriverDisarms),
        4 => (1usize..10).prop_map(Step::Take),
        8 => (any::<usize>(), 0u32..10000).prop_map(|(i, n)| Step::Complete(i, n)),
        4 => Just(Step::DevicePublishes),
        1 => Just(Step::DeviceArms),
        1 => Just(Step::DeviceDisarms),
        1 => Just(Step::Restart),
    ]
}

/// Both ends, and what each should know.
struct Model {
    raw: Raw,
    driver: SplitDriver,
    device: Ring,
    /// Chains added and not taken: head and lengths; those from `visible` on are not published.
    available: VecDeque<(u16, u64, u64)>,
    visible: usize,
    taken: Vec<(u16, u64, u64)>,
    /// Chains completed and not reaped; those from `told` on are not published.
    used: VecDeque<(u16, u32)>,
    told: usize,
    /// The other end sleeps and has to be told of the next chain.
    device_sleeps: bool,
    driver_sleeps: bool,
}

impl Model {
    fn new(power: u32, features: u128) -> Self {
        let raw = Raw::new(1 << power, features);
        let driver = SplitDriver::new(&raw.rig.config, raw.memory.clone()).unwrap();
        let device = raw.device();
        Self {
            raw,
            driver,
            device,
            available: VecDeque::new(),
            visible: 0,
            taken: Vec::new(),
            used: VecDeque::new(),
            told: 0,
            device_sleeps: false,
            driver_sleeps: false,
        }
    }

    fn run(&mut self, step: Step) {
        let memory = self.raw.memory.clone();
        match step {
            Step::Add(readable, writable, indirect) => {
                let base = self.raw.buffer() + 0x8000;
                let buffer = |len: &u32| Buffer {
                    address: base + u64::from(*len),
                    len: *len,
                };
                let (r, w): (Vec<_>, Vec<_>) = (
                    readable.iter().map(buffer).collect(),
                    writable.iter().map(buffer).collect(),
                );
                let head = if indirect {
                    // A table for each head: it must stay as it is while the chain is out.
                    let table = self.raw.buffer() + 0x10000 + 0x100 * u64::from(self.driver.next_head());
                    self.driver.add_indirect(table, &r, &w)
                } else {
                    self.driver.add(&r, &w)
                };
                if let Some(head) = head {
                    let sum = |b: &[Buffer]| b.iter().map(|b| u64::from(b.len)).sum();
                    self.available.push_back((head, sum(&r), sum(&w)));
                }
            }
            Step::DriverPublishes => {
                let new = self.available.len() > self.visible;
                self.visible = self.available.len();
                let kick = self.driver.publish();
                assert!(
                    kick || !new || !self.device_sleeps,
                    "the device sleeps and is not kicked"
                );
                self.device_sleeps &= !kick;
            }
            Step::Take(max) => {
                let mut batch = self.raw.batch();
                let expected = self.visible.min(max);
                assert_eq!(self.device.take(&memory, &mut batch, max).unwrap(), expected);
                for chain in batch.iter() {
                    let seen = (chain.token.id, chain.readable_len, chain.writable_len);
                    assert_eq!(self.available.pop_front(), Some(seen));
                    self.visible -= 1;
                    self.taken.push(seen);
                }
            }
            Step::Complete(which, written) => {
                if !self.taken.is_empty() {
                    let (head, _, room) = self.taken.remove(which % self.taken.len());
                    let written = written.min(room as u32);
                    self.device
                        .complete(&memory, Token { id: head, slots: 1 }, written)
                        .unwrap();
                    self.used.push_back((head, written));
                }
            }
            Step::DevicePublishes => {
                let new = self.used.len() > self.told;
                self.told = self.used.len();
                let call = self.device.publish(&memory).unwrap();
                assert!(
                    call || !new || !self.driver_sleeps,
                    "the driver sleeps and is not notified"
                );
                self.driver_sleeps &= !call;
            }
            Step::Reap(max) => {
                let expected = self.told.min(max);
                let used = &mut self.used;
                let n = self
                    .driver
                    .reap(max, |u| assert_eq!(used.pop_front(), Some((u.head, u.len))));
                assert_eq!(n.unwrap(), expected);
                self.told -= expected;
            }
            Step::DeviceArms => {
                let more = self.device.arm(&memory).unwrap();
                assert_eq!(more, self.visible > 0);
                self.device_sleeps = !more;
            }
            Step::DeviceDisarms => {
                self.device.disarm(&memory).unwrap();
                self.device_sleeps = false;
            }
            Step::DriverArms => {
                let more = self.driver.arm();
                assert_eq!(more, self.told > 0);
                self.driver_sleeps = !more;
            }
            Step::DriverDisarms => {
                self.driver.disarm();
                self.driver_sleeps = false;
            }
            Step::Restart => {
                // With operations under way a stop is not clean; the worker waits for them.
                while !self.taken.is_empty() {
                    self.run(Step::Complete(0, 0));
                }
                self.run(Step::DevicePublishes);
                assert_eq!(self.device.outstanding(), 0);
                self.raw.rig.config.base = self.device.base();
                self.device = self.raw.device();
                assert!(self.device.map(&memory).unwrap());
                self.device_sleeps = false;
            }
        }
        assert_eq!(self.device.outstanding() as usize, self.taken.len());
    }

    /// Lets everything come to its end.
    fn finish(mut self, size: u16) {
        self.run(Step::DriverPublishes);
        while self.visible > 0 {
            self.run(Step::Take(100));
        }
        self.run(Step::Restart);
        while self.told > 0 {
            self.run(Step::Reap(100));
        }
        assert_eq!(self.driver.free(), size);
    }
}

proptest! {
    #[test]
    fn two_ends_agree(
        power in 0u32..6,
        event_idx: bool,
        steps in vec(step(), 1..200),
    ) {
        let event_idx = if event_idx { feature::EVENT_IDX } else { 0 };
        let mut model = Model::new(power, feature::INDIRECT_DESC | event_idx);
        steps.into_iter().for_each(|step| model.run(step));
        model.finish(1 << power);
    }

    #[test]
    fn random_memory_is_survived(
        power in 0u32..8,
        features in prop::sample::select(vec![0, feature::INDIRECT_DESC, feature::EVENT_IDX, ALL]),
        small: bool,
        image in vec(any::<u64>(), 64..1024),
        steps in vec((0u8..6, any::<u16>(), any::<u32>()), 1..60),
    ) {
        let raw = Raw::new(1 << power, features);
        // Entirely random descriptors rarely get past the first check: most are made plausible.
        for (i, word) in image.iter().enumerate() {
            let at = GUEST + 8 * i as u64;
            let value = if !small { *word }
            else if i % 2 == 0 { GUEST + *word % 0x8000 }
            else { *word & 0x003f_0007_0000_0fff };
            raw.put(at, &value.to_le_bytes());
        }
        let mut device = raw.device();
        let mut batch = raw.batch();
        let mut held: Vec<Token> = Vec::new();
        let mut broken = false;
        for (what, short, long) in steps {
            match what {
                0 | 1 => {
                    batch.clear();
                    match device.take(&raw.memory, &mut batch, usize::from(short % 300)) {
                        Ok(n) => {
                            prop_assert!(!broken);
                            prop_assert_eq!(n, batch.len());
                            for chain in batch.iter() {
                                let all = chain.readable.len() + chain.writable.len();
                                prop_assert!(all <= 1 << power, "one region: a segment each at most");
                                for s in chain.readable.iter().chain(chain.writable) {
                                    prop_assert!(s.len > 0);
                                    let found =
                                        raw.memory.contiguous(Space::Guest, s.guest, s.len.into(), true).unwrap();
                                    prop_assert_eq!(found.host, s.host);
                                }
                                held.push(chain.token);
                            }
                        }
                        Err(_) => broken = true,
                    }
                }
                2 => if let Some(token) = held.pop() {
                    device.complete(&raw.memory, token, long).unwrap();
                },
                3 => { device.publish(&raw.memory).unwrap(); }
                4 => { device.arm(&raw.memory).unwrap(); }
                // The driver goes on writing.
                _ => {
                    let span = raw.buffer() - GUEST - 4;
                    raw.put(GUEST + u64::from(long) % span, &short.to_le_bytes());
                    if short % 4 == 0 {
                        raw.idx(device.position() as u16 + short / 4 % 3);
                    }
                }
            }
            prop_assert_eq!(device.outstanding() as usize, held.len());
            device.base();
        }
    }
}
