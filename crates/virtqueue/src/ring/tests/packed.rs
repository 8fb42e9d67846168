//! The packed ring: two honest ends, with both orders of completion.

use super::*;
use crate::ring::{Buffer, PackedDriver};
use std::collections::VecDeque;

const BOTH: u128 = feature::RING_PACKED | feature::INDIRECT_DESC;

/// Sends `count` chains through a ring, `burst` at a time; the device completes every third one late.
fn exchange(size: u32, features: u128, burst: usize, count: usize) {
    let rig = Loopback::new(size, features, 1 << 20).unwrap();
    let memory = rig.memory.snapshot();
    let mut driver = PackedDriver::new(&rig.config, memory.clone()).unwrap();
    let mut device = Ring::new(&rig.config).unwrap();
    let mut batch = Batch::default();
    batch.attach(&memory);
    let in_order = features & feature::IN_ORDER != 0;
    let (mut sent, mut done) = (0, 0);
    let mut expected: VecDeque<(u16, u32)> = VecDeque::new();
    let mut late: Vec<(Token, u32)> = Vec::new();
    for round in 0..count {
        for _ in 0..burst {
            let room = if size == 1 { 0 } else { (sent % 7) as u32 };
            let table = rig.buffers + 64 * (sent % 1024) as u64;
            let data = Buffer {
                address: rig.buffers + 0x20000,
                len: 16,
            };
            let into = Buffer {
                address: rig.buffers + 0x30000,
                len: room,
            };
            let writable = if room == 0 {
                &[][..]
            } else {
                std::slice::from_ref(&into)
            };
            let added = if size >= 3 && sent % 2 == 0 {
                driver.add_indirect(table, &[data, data], writable)
            } else {
                driver.add(&[data], writable)
            };
            sent += usize::from(added.is_some());
        }
        driver.publish();
        batch.clear();
        device.take(&memory, &mut batch, burst).unwrap();
        for (index, chain) in batch.iter().enumerate() {
            let written = if index % 2 == 0 {
                chain.writable_len as u32
            } else {
                0
            };
            if index % 3 == 1 {
                late.push((chain.token, written));
            } else {
                device.complete(&memory, chain.token, written).unwrap();
                expected.push_back((chain.token.id(), written));
            }
        }
        if round % 3 == 0 {
            for (token, written) in late.drain(..) {
                device.complete(&memory, token, written).unwrap();
                expected.push_back((token.id(), written));
            }
        }
        device.publish(&memory).unwrap();
        driver
            .reap(burst, |used| {
                let at = if in_order {
                    expected.iter().position(|(id, _)| *id == used.head).unwrap()
                } else {
                    0
                };
                assert_eq!(expected.remove(at), Some((used.head, used.len)));
                done += 1;
            })
            .unwrap();
    }
    assert!(done > count / 2, "{done} of {sent} chains came back");
    assert_eq!(driver.outstanding() as usize, sent - done);
}

#[test]
fn both_ends_agree_at_any_size() {
    for size in [1, 2, 3, 5, 8, 64, 255, 32768] {
        for features in [BOTH, BOTH | feature::EVENT_IDX, BOTH | feature::IN_ORDER] {
            for burst in [1, 4, 32] {
                exchange(size, features, burst, 600);
            }
        }
    }
}

#[test]
fn split_in_order_tells_a_batch_by_one_entry() {
    let rig = Loopback::new(8, feature::IN_ORDER, 4096).unwrap();
    let memory = rig.memory.snapshot();
    let mut driver = crate::ring::SplitDriver::new(&rig.config, memory.clone()).unwrap();
    let mut device = Ring::new(&rig.config).unwrap();
    let mut batch = Batch::default();
    batch.attach(&memory);
    let [from, into] = [0, 8].map(|offset| Buffer {
        address: rig.buffers + offset,
        len: 8,
    });
    let heads: Vec<u16> = (0..4).map(|_| driver.add(&[from], &[into]).unwrap()).collect();
    driver.publish();
    device.take(&memory, &mut batch, 4).unwrap();
    // The youngest first: nothing may be told before the oldest is complete.
    for chain in batch.iter().collect::<Vec<_>>().into_iter().rev() {
        assert_eq!(driver.reap(4, |_| {}).unwrap(), 0);
        device.complete(&memory, chain.token, 8).unwrap();
        device.publish(&memory).unwrap();
    }
    let mut entry = [0; 8];
    memory
        .read(Space::Guest, rig.config.used + 4, &mut entry)
        .unwrap();
    assert_eq!(
        entry,
        [heads[3] as u8, 0, 0, 0, 8, 0, 0, 0],
        "one entry, for the last of them"
    );
    let mut seen = Vec::new();
    driver.reap(4, |used| seen.push((used.head, used.len))).unwrap();
    assert_eq!(seen, heads.iter().map(|head| (*head, 8)).collect::<Vec<_>>());
}

/// DPDK's network driver looks for the length of each packet received in an entry for that packet.
#[test]
fn in_order_tells_of_each_chain_that_was_only_room() {
    for layout in [0, feature::RING_PACKED] {
        let rig = Loopback::new(8, feature::IN_ORDER | layout, 4096).unwrap();
        let memory = rig.memory.snapshot();
        let mut driver = Driver::new(&rig.config, memory.clone()).unwrap();
        let mut device = Ring::new(&rig.config).unwrap();
        let mut batch = Batch::default();
        batch.attach(&memory);
        let into = Buffer {
            address: rig.buffers,
            len: 8,
        };
        let heads: Vec<u16> = (0..4).map(|_| driver.add(&[], &[into]).unwrap()).collect();
        driver.publish();
        device.take(&memory, &mut batch, 4).unwrap();
        for chain in batch.iter() {
            device.complete(&memory, chain.token, 8).unwrap();
        }
        device.publish(&memory).unwrap();
        // Where id and length are in an entry of the layout.
        let (entries, size, id) = match layout {
            0 => (rig.config.used + 4, 8, 0),
            _ => (rig.config.descriptors, 16, 12),
        };
        for (index, head) in heads.iter().enumerate() {
            let mut entry = [0; 16];
            memory
                .read(
                    Space::Guest,
                    entries + size * index as u64,
                    &mut entry[..size as usize],
                )
                .unwrap();
            let length = if layout == 0 { 4 } else { 8 };
            assert_eq!((entry[id], entry[length]), (*head as u8, 8), "entry {index}");
        }
    }
}
