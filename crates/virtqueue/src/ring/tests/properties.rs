//! Random sequences: two honest ends against a model, and one end against random memory.

use super::*;
use crate::ring::{Buffer, Driver};
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

/// A chain, as both ends know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chain {
    token: Token,
    readable: u64,
    writable: u64,
    /// Once it is complete.
    written: Option<u32>,
}

/// Both ends, and what each should know.
struct Model {
    raw: Raw,
    driver: Driver,
    device: Ring,
    in_order: bool,
    /// Chains added and not taken; those from `visible` on are not published.
    available: VecDeque<Chain>,
    visible: usize,
    /// Taken and not ready to be told, oldest first; in order, those behind one that is not complete
    /// wait for it.
    taken: Vec<Chain>,
    /// Chains to tell the driver of; those from `told` on are not published.
    used: VecDeque<Chain>,
    told: usize,
    /// The other end sleeps and has to be told of the next chain.
    device_sleeps: bool,
    driver_sleeps: bool,
}

impl Model {
    fn new(size: u32, features: u128) -> Self {
        let raw = Raw::new(size, features);
        let driver = Driver::new(&raw.rig.config, raw.memory.clone()).unwrap();
        let device = raw.device();
        Self {
            raw,
            driver,
            device,
            in_order: features & feature::IN_ORDER != 0,
            available: VecDeque::new(),
            visible: 0,
            taken: Vec::new(),
            used: VecDeque::new(),
            told: 0,
            device_sleeps: false,
            driver_sleeps: false,
        }
    }

    fn held(&self) -> usize {
        self.taken.iter().filter(|chain| chain.written.is_none()).count()
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
                if let Some(id) = head {
                    let sum = |b: &[Buffer]| b.iter().map(|b| u64::from(b.len)).sum();
                    let packed = matches!(self.driver, Driver::Packed(_));
                    let slots = if packed && !indirect { r.len() + w.len() } else { 1 };
                    self.available.push_back(Chain {
                        token: Token::new(id, slots as u16),
                        readable: sum(&r),
                        writable: sum(&w),
                        written: None,
                    });
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
                    let seen = Chain {
                        token: chain.token,
                        readable: chain.readable_len,
                        writable: chain.writable_len,
                        written: None,
                    };
                    assert_eq!(self.available.pop_front(), Some(seen));
                    self.visible -= 1;
                    self.taken.push(seen);
                }
            }
            Step::Complete(which, written) => {
                if self.held() > 0 {
                    let held: Vec<usize> = (0..self.taken.len())
                        .filter(|i| self.taken[*i].written.is_none())
                        .collect();
                    let which = held[which % held.len()];
                    let chain = &mut self.taken[which];
                    // In order, whole lengths are what lets chains be told together.
                    let room = chain.writable as u32;
                    let written = if written % 3 == 0 { room } else { written.min(room) };
                    chain.written = Some(written);
                    self.device.complete(&memory, chain.token, written).unwrap();
                    if !self.in_order {
                        let chain = self.taken.remove(which);
                        self.used.push_back(chain);
                    }
                    while self.in_order && self.taken.first().is_some_and(|chain| chain.written.is_some()) {
                        let chain = self.taken.remove(0);
                        self.used.push_back(chain);
                    }
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
                let told = self.told;
                let used = &mut self.used;
                let n = self.driver.reap(max, |u| {
                    let chain = used.pop_front().unwrap();
                    assert_eq!((u.head, u.len), (chain.token.id(), chain.written.unwrap()));
                });
                let n = n.unwrap();
                self.told -= n;
                // In order, an entry that is begun is taken back whole.
                assert!(
                    n >= told.min(max) && (n <= max || self.in_order),
                    "{n} of {told}, at most {max}"
                );
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
                while self.held() > 0 {
                    self.run(Step::Complete(0, 1));
                }
                self.run(Step::DevicePublishes);
                assert_eq!(self.device.outstanding(), 0);
                self.raw.rig.config.base = self.device.base();
                self.device = self.raw.device();
                assert!(self.device.map(&memory).unwrap());
                self.device_sleeps = false;
            }
        }
        assert_eq!(self.device.outstanding() as usize, self.held());
    }

    /// Lets everything come to its end.
    fn finish(mut self, size: u32) {
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

/// Layouts and features that change how a ring works.
fn features() -> impl Strategy<Value = u128> {
    prop::array::uniform4(any::<bool>()).prop_map(|[event_idx, packed, in_order, platform]| {
        [
            (event_idx, feature::EVENT_IDX),
            (packed, feature::RING_PACKED),
            (in_order, feature::IN_ORDER),
            (platform, feature::ORDER_PLATFORM),
        ]
        .iter()
        .fold(
            feature::INDIRECT_DESC,
            |sum, (wanted, bit)| if *wanted { sum | bit } else { sum },
        )
    })
}

proptest! {
    #[test]
    fn two_ends_agree(
        features in features(),
        size in 1u32..40,
        steps in vec(step(), 1..200),
    ) {
        let packed = features & feature::RING_PACKED != 0;
        let size = if packed { size } else { size.next_power_of_two() };
        let mut model = Model::new(size, features);
        steps.into_iter().for_each(|step| model.run(step));
        model.finish(size);
    }

    #[test]
    fn random_memory_is_survived(
        power in 0u32..8,
        features in features(),
        small: bool,
        image in vec(any::<u64>(), 64..1024),
        steps in vec((0u8..6, any::<u16>(), any::<u32>()), 1..60),
    ) {
        let raw = Raw::new(1 << power, features);
        let packed = features & feature::RING_PACKED != 0;
        // Entirely random descriptors rarely get past the first check: most are made plausible.
        for (i, word) in image.iter().enumerate() {
            let at = GUEST + 8 * i as u64;
            let value = if !small { *word }
            else if i % 2 == 0 { GUEST + *word % 0x8000 }
            else if packed { *word & 0x8005_0007_0000_0fff | 0x0080 << 48 }
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
                    if packed {
                        // Available again, in the lap that the device is in.
                        let next = device.position() as u16;
                        let flags = if next >> 15 != 0 { 0x80 } else { 0x8000u16 } | short & 7;
                        raw.put(GUEST + 16 * u64::from(next & 0x7fff) + 14, &flags.to_le_bytes());
                    } else if short % 4 == 0 {
                        raw.idx(device.position() as u16 + short / 4 % 3);
                    }
                }
            }
            prop_assert_eq!(device.outstanding() as usize, held.len());
            device.base();
        }
    }
}
