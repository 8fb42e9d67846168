//! `reveal`: for the other end the same as `publish`, without a look at what it wants.

use super::*;
use crate::ring::Used;

const FEATURES: [u128; 4] = [
    0,
    feature::EVENT_IDX,
    feature::IN_ORDER,
    feature::IN_ORDER | feature::EVENT_IDX,
];

fn image(memory: &Snapshot) -> Vec<u8> {
    let mut bytes = vec![0; memory.regions()[0].size as usize];
    memory.read(Space::Guest, GUEST, &mut bytes).unwrap();
    bytes
}

/// Runs chains through both ends, three at a time, over several laps; the memory after each step.
fn run(features: u128, reveal: bool) -> (Vec<Vec<u8>>, Vec<Used>) {
    let rig = Loopback::new(8, features, 4096).unwrap();
    let memory = rig.memory.snapshot();
    let mut driver = Driver::new(&rig.config, memory.clone()).unwrap();
    let mut device = Ring::new(&rig.config).unwrap();
    let mut batch = Batch::default();
    let into = Buffer {
        address: rig.buffers,
        len: 8,
    };
    let (mut images, mut used) = (Vec::new(), Vec::new());
    for step in 0..12 {
        (0..3).for_each(|_| {
            driver.add(&[into], &[into]).unwrap();
        });
        if reveal {
            driver.reveal();
        } else {
            driver.publish();
        }
        images.push(image(&memory));
        batch.attach(&memory);
        assert_eq!(device.take(&memory, &mut batch, 8).unwrap(), 3);
        for chain in batch.iter() {
            device.complete(&memory, chain.token, step % 9).unwrap();
        }
        if reveal {
            device.reveal(&memory).unwrap();
        } else {
            device.publish(&memory).unwrap();
        }
        images.push(image(&memory));
        assert_eq!(driver.reap(8, |chain| used.push(chain)).unwrap(), 3);
    }
    (images, used)
}

#[test]
fn leaves_the_same_memory_as_publish() {
    for layout in [0, feature::RING_PACKED] {
        for features in FEATURES {
            let (published, revealed) = (run(features | layout, false), run(features | layout, true));
            assert!(published == revealed, "{:#x}", features | layout);
        }
    }
}

/// What was revealed is not asked about later: who goes over to `publish` has to notify once by himself.
#[test]
fn what_was_revealed_is_behind_the_next_publish() {
    for layout in [0, feature::RING_PACKED] {
        let rig = Loopback::new(8, feature::EVENT_IDX | layout, 4096).unwrap();
        let memory = rig.memory.snapshot();
        let mut driver = Driver::new(&rig.config, memory.clone()).unwrap();
        let mut device = Ring::new(&rig.config).unwrap();
        let mut batch = Batch::default();
        batch.attach(&memory);
        let into = Buffer {
            address: rig.buffers,
            len: 8,
        };
        assert!(!device.arm(&memory).unwrap());
        driver.add(&[], &[into]).unwrap();
        driver.reveal();
        driver.add(&[], &[into]).unwrap();
        assert!(
            !driver.publish(),
            "the first one, which the device waits for, was revealed"
        );
        assert_eq!(device.take(&memory, &mut batch, 8).unwrap(), 2);
        let tokens: Vec<_> = batch.iter().map(|chain| chain.token).collect();
        assert!(!driver.arm());
        device.complete(&memory, tokens[0], 0).unwrap();
        device.reveal(&memory).unwrap();
        device.complete(&memory, tokens[1], 0).unwrap();
        assert!(!device.publish(&memory).unwrap());
        assert_eq!(driver.reap(8, |_| {}).unwrap(), 2);
    }
}
