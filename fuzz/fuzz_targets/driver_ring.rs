//! The driver's end of virtqueues against a device that writes whatever it likes.
//!
//! Input: a byte for the queue size, one for layout and features; then operations, 4 bytes each. Some are the driver's, some
//! those of a device that keeps to the rules (so that there is something to spoil), one writes anywhere.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use virtqueue::chain::{Batch, Token};
use virtqueue::fault::Fault;
use virtqueue::loopback::memory_file;
use virtqueue::memory::{GuestMemory, RegionRequest, Snapshot, Space};
use virtqueue::ring::{Buffer, Config, DeviceRing, Driver, Ring, Used, feature};

const SIZE: u64 = 5 * 4096;
/// Buffers begin here; so do indirect tables, one for each id.
const BUFFERS: u64 = 3 * 4096;

thread_local! {
    static MEMORY: RefCell<Option<Arc<Snapshot>>> = const { RefCell::new(None) };
}

fn memory() -> Arc<Snapshot> {
    let make = || {
        let memory = GuestMemory::new();
        let file = memory_file(SIZE).expect("a memory file");
        memory
            .add(&RegionRequest {
                guest_address: 0,
                user_address: None,
                size: SIZE,
                fd: file.as_fd(),
                offset: 0,
                writable: true,
            })
            .expect("a region");
        memory.snapshot()
    };
    MEMORY.with_borrow_mut(|slot| slot.get_or_insert_with(make).clone())
}

/// The driver, and what it has to keep to.
struct Checked {
    driver: Driver,
    in_order: bool,
    /// Heads and the room of the chains that are out, oldest first.
    out: VecDeque<(u16, u32)>,
    broken: Option<Fault>,
}

impl Checked {
    fn add(&mut self, readable: u8, writable: u8, len: u32, indirect: bool) {
        if self.broken.is_some() {
            // Nothing that is added now ever comes back.
            return;
        }
        let buffer = Buffer {
            address: BUFFERS,
            len,
        };
        let readable = vec![buffer; usize::from(readable % 4)];
        let writable = vec![buffer; usize::from(writable % 4)];
        let table = BUFFERS + 96 * u64::from(self.driver.next_head() % 32);
        let added = if indirect {
            self.driver.add_indirect(table, &readable, &writable)
        } else {
            self.driver.add(&readable, &writable)
        };
        if let Some(head) = added {
            assert!(self.out.iter().all(|(other, _)| *other != head), "{head} is out");
            self.out.push_back((head, len * writable.len() as u32));
        }
    }

    fn reap(&mut self, max: usize) {
        let mut all: Vec<Used> = Vec::new();
        let result = self.driver.reap(max, |used| all.push(used));
        if let Some(fault) = &self.broken {
            assert_eq!(result.as_ref().unwrap_err().rule, fault.rule, "broken for good");
            assert!(all.is_empty());
            return;
        }
        for used in &all {
            let at = self.out.iter().position(|(head, _)| *head == used.head);
            let at = at.expect("one that is out");
            assert!(!self.in_order || at == 0, "the oldest");
            let (_, room) = self.out.remove(at).expect("found");
            assert!(used.len <= room, "{used:?} of {room}");
        }
        match result {
            Ok(count) => assert_eq!(count, all.len()),
            Err(fault) => {
                assert!(!fault.detail.is_empty());
                self.broken = Some(fault);
            }
        }
        assert!(self.broken.is_some() || self.in_order || all.len() <= max);
    }
}

fuzz_target!(|input: &[u8]| {
    let Some(([power, bits], operations)) = input.split_first_chunk() else {
        return;
    };
    let memory = memory();
    let clear = || {
        memory
            .write(Space::Guest, 0, &[0; SIZE as usize])
            .expect("mapped")
    };
    clear();
    let mut features = 0;
    for (bit, feature) in [
        (1, feature::EVENT_IDX),
        (2, feature::INDIRECT_DESC),
        (4, feature::IN_ORDER),
        (8, feature::RING_PACKED),
    ] {
        if bits & bit != 0 {
            features |= feature;
        }
    }
    let packed = features & feature::RING_PACKED != 0;
    let size = if packed {
        u32::from(*power % 100) + 1
    } else {
        1 << (power % 7)
    };
    let available = 16 * u64::from(size);
    let used = (available + 6 + 2 * u64::from(size)).next_multiple_of(4);
    let config = Config {
        size,
        descriptors: 0,
        available,
        used,
        space: Space::Guest,
        base: if packed { 0x8000_8000 } else { 0 },
        features,
    };
    let end = used + 6 + 8 * u64::from(size);
    let make = || {
        (
            Driver::new(&config, memory.clone()).expect("mapped"),
            Ring::new(&config).expect("good"),
        )
    };
    let (driver, mut device) = make();
    let mut checked = Checked {
        driver,
        in_order: features & feature::IN_ORDER != 0,
        out: VecDeque::new(),
        broken: None,
    };
    let mut batch = Batch::default();
    batch.attach(&memory);
    let mut held: Vec<Token> = Vec::new();
    for operation in operations.chunks_exact(4) {
        let [what, first, second, third] = *operation else {
            return;
        };
        match what % 9 {
            0 => checked.add(first, second, u32::from(third) + 1, false),
            1 => checked.add(first, second, u32::from(third) + 1, true),
            2 => drop(checked.driver.publish()),
            3 => checked.reap(usize::from(first) + 1),
            4 => drop(checked.driver.arm()),
            5 => checked.driver.disarm(),
            // The device keeps to the rules, as far as it can read its ring.
            6 => {
                batch.clear();
                if device
                    .take(&memory, &mut batch, usize::from(first % 8) + 1)
                    .is_ok()
                {
                    held.extend(batch.iter().map(|chain| chain.token));
                }
                for _ in 0..second % 8 {
                    if !held.is_empty() {
                        let token = held.remove(usize::from(third) % held.len());
                        device.complete(&memory, token, u32::from(third)).expect("held");
                    }
                }
                device.publish(&memory).expect("mapped");
            }
            // It does not.
            7 => {
                let at = u64::from(u16::from_le_bytes([first, second])) % end;
                memory.write(Space::Guest, at, &[third]).expect("mapped");
            }
            _ => {
                if third % 8 == 0 {
                    let mut back = checked.driver.reset().expect("mapped");
                    if checked.broken.is_none() {
                        let mut out: Vec<u16> = checked.out.iter().map(|(head, _)| *head).collect();
                        out.sort_unstable();
                        back.sort_unstable();
                        assert_eq!(back, out);
                    }
                    device = Ring::new(&config).expect("good");
                    held.clear();
                    checked.out.clear();
                    checked.broken = None;
                }
            }
        }
        if checked.broken.is_none() {
            assert_eq!(checked.driver.outstanding() as usize, checked.out.len());
        }
        assert!(checked.driver.free() <= size);
        assert!(checked.out.len() <= size as usize);
    }
});
