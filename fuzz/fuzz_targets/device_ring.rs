//! The device's end of virtqueues on hostile memory.
//!
//! Input: a byte for the queue size, one for layout and features, one for the number of operations; the
//! operations, 4 bytes each; the rest is the memory, from the descriptor table on, with the available
//! ring and a few buffers close behind so that short inputs reach everything.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;
use std::os::fd::AsFd;
use std::sync::Arc;
use virtqueue::chain::{Batch, Token};
use virtqueue::loopback::memory_file;
use virtqueue::memory::{GuestMemory, RegionRequest, Snapshot, Space};
use virtqueue::ring::{Config, DeviceRing, Ring, feature};

const PAGE: u64 = 4096;
/// Two regions that are adjacent for the guest, one read-only behind a hole.
const REGIONS: [(u64, u64, bool); 3] = [
    (0, 4 * PAGE, true),
    (4 * PAGE, PAGE, true),
    (8 * PAGE, PAGE, false),
];
/// What the input may fill.
const FILLED: u64 = 5 * PAGE;

thread_local! {
    static MEMORY: RefCell<Option<Arc<Snapshot>>> = const { RefCell::new(None) };
}

fn memory() -> Arc<Snapshot> {
    let make = || {
        let memory = GuestMemory::new();
        for (guest_address, size, writable) in REGIONS {
            let file = memory_file(size).expect("a memory file");
            let fd = file.as_fd();
            memory
                .add(&RegionRequest {
                    guest_address,
                    user_address: None,
                    size,
                    fd,
                    offset: 0,
                    writable,
                })
                .expect("a region");
        }
        memory.snapshot()
    };
    MEMORY.with_borrow_mut(|slot| slot.get_or_insert_with(make).clone())
}

fuzz_target!(|input: &[u8]| {
    let Some(([power, bits, count], rest)) = input.split_first_chunk() else {
        return;
    };
    let count = usize::from(*count).min(rest.len() / 4);
    let (operations, image) = rest.split_at(4 * count);
    let memory = memory();
    let image = &image[..image.len().min(FILLED as usize)];
    let zeros = [0; FILLED as usize];
    memory.write(Space::Guest, 0, &zeros).expect("mapped");
    memory.write(Space::Guest, 0, image).expect("mapped");

    let size = 1u32 << (power % 8);
    let mut features = 0;
    if bits & 1 != 0 {
        features |= feature::EVENT_IDX;
    }
    if bits & 2 != 0 {
        features |= feature::INDIRECT_DESC;
    }
    if bits & 8 != 0 {
        features |= feature::IN_ORDER;
    }
    let packed = bits & 16 != 0;
    let size = if packed {
        features |= feature::RING_PACKED;
        u32::from(*power % 160) + 1
    } else {
        size
    };
    let available = 16 * u64::from(size);
    let config = Config {
        size,
        descriptors: 0,
        available,
        used: (available + 6 + 2 * u64::from(size)).next_multiple_of(4),
        space: Space::Guest,
        base: match (packed, bits & 4 != 0) {
            (false, false) => 0,
            (false, true) => 0xfffe,
            (true, false) => 0x8000_8000,
            (true, true) => (size - 1) << 16 | (size - 1),
        },
        features,
    };
    let mut ring = Ring::new(&config).expect("a good configuration");
    let mut batch = Batch::default();
    batch.attach(&memory);
    let mut held: Vec<Token> = Vec::new();
    let mut broken = false;
    for operation in operations.chunks_exact(4) {
        let (what, argument) = (operation[0], u16::from_le_bytes([operation[1], operation[2]]));
        match what % 7 {
            0 | 1 => {
                batch.clear();
                let max = usize::from(operation[3]) + 1;
                match ring.take(&memory, &mut batch, max) {
                    Ok(taken) => {
                        assert!(!broken && taken == batch.len() && taken <= max);
                        check(&memory, &batch, size, &mut held);
                    }
                    Err(fault) => {
                        assert!(!fault.detail.is_empty());
                        broken = true;
                    }
                }
            }
            2 => {
                if !held.is_empty() {
                    let token = held.remove(usize::from(argument) % held.len());
                    ring.complete(&memory, token, u32::from(argument))
                        .expect("it was held");
                }
            }
            3 => drop(ring.publish(&memory).expect("mapped")),
            4 => drop(ring.arm(&memory).expect("mapped")),
            5 => ring.disarm(&memory).expect("mapped"),
            // The driver writes on.
            _ => {
                let at = u64::from(argument) % (FILLED - 1);
                memory.write(Space::Guest, at, &[operation[3]]).expect("mapped");
            }
        }
        assert_eq!(ring.outstanding() as usize, held.len());
        assert!(ring.outstanding() <= size);
    }
    ring.base();
});

/// Every segment lies in guest memory, writable ones in writable memory, and is read and written.
fn check(memory: &Snapshot, batch: &Batch, size: u32, held: &mut Vec<Token>) {
    for chain in batch.iter() {
        assert!(!held.contains(&chain.token));
        held.push(chain.token);
        let parts = [
            (chain.readable, chain.readable_len, false),
            (chain.writable, chain.writable_len, true),
        ];
        for (segments, length, write) in parts {
            let mut sum = 0;
            for segment in segments {
                assert!(segment.len > 0);
                let found = memory
                    .contiguous(Space::Guest, segment.guest, segment.len.into(), write)
                    .expect("in memory");
                assert_eq!(found.host, segment.host);
                sum += u64::from(segment.len);
            }
            assert_eq!(sum, length);
            assert!(segments.len() <= 2 * size as usize);
        }
        let mut bytes = [0; 64];
        let n = chain.read_at(0, &mut bytes);
        assert_eq!(n as u64, chain.readable_len.min(64));
        assert_eq!(
            chain.write_at(chain.writable_len / 2, &bytes[..1]) as u64,
            chain.writable_len.min(1)
        );
    }
}
