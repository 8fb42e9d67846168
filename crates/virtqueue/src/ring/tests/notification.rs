//! Notifications that carry data (VIRTIO 1.4, 2.9), and choosing tables.

use super::raw_packed::{PACKED, RawPacked};
use super::*;
use crate::ring::{Buffer, Driver, IndirectPolicy, Notification};

#[test]
fn what_goes_over_the_wire() {
    let notification = Notification {
        identifier: 0xabcd,
        next: 0x8005,
    };
    assert_eq!(notification.to_word(), 0x8005_abcd);
    assert_eq!(Notification::from_word(0x8005_abcd), notification);
}

/// 2.8.16: next_off and next_wrap are those of the next descriptor not yet made available.
#[test]
fn the_driver_says_what_it_has_published() {
    for layout in [0, feature::RING_PACKED] {
        let rig = Loopback::new(4, layout, 4096).unwrap();
        let memory = rig.memory.snapshot();
        let mut driver = Driver::new(&rig.config, memory.clone()).unwrap();
        let mut device = Ring::new(&rig.config).unwrap();
        let mut batch = Batch::default();
        let buffer = Buffer {
            address: rig.buffers,
            len: 8,
        };
        let expected: [u16; 6] = if layout == 0 {
            [0, 1, 2, 3, 4, 5]
        } else {
            [0x8000, 0x8001, 0x8002, 0x8003, 0, 1]
        };
        for pair in expected.windows(2) {
            assert_eq!(
                driver.notification(7),
                Notification {
                    identifier: 7,
                    next: pair[0]
                }
            );
            driver.add(&[buffer], &[]).unwrap();
            assert_eq!(driver.notification(7).next, pair[0], "not published yet");
            driver.publish();
            assert_eq!(driver.notification(7).next, pair[1]);
            assert_eq!(device.available_hint(pair[1]), 1);
            batch.attach(&memory);
            assert_eq!(device.take(&memory, &mut batch, 8).unwrap(), 1);
            for chain in batch.iter() {
                device.complete(&memory, chain.token, 0).unwrap();
            }
            device.publish(&memory).unwrap();
            driver.reap(8, |_| {}).unwrap();
        }
    }
}

/// A split device need not look at the index for what it was told of.
#[test]
fn a_hint_saves_the_index() {
    let mut raw = Raw::new(8, 0);
    let mut device = raw.device();
    for head in 0..3 {
        raw.descriptor(head.into(), raw.buffer(), 8, 0, 0);
        raw.entry(head, head);
    }
    // Not in memory yet, as on a bus where the notification overtakes nothing but is looked at first.
    assert_eq!(device.available_hint(3), 3);
    assert_eq!(raw.take(&mut device).unwrap().len(), 3);
    raw.idx(3);
    assert!(raw.take(&mut device).unwrap().is_empty());
    raw.available = 3;
    raw.descriptor(3, raw.buffer(), 8, 0, 0);
    raw.offer(3);
    assert_eq!(raw.take(&mut device).unwrap().len(), 1);
}

/// Every value of a hint, at each place of the ring: nothing is taken that is not well-formed, and a lie
/// is found out when the index is looked at.
#[test]
fn hints_at_every_value() {
    for hint in 0..=u16::MAX {
        let mut raw = Raw::new(4, 0);
        let mut device = raw.device();
        raw.descriptor(0, raw.buffer(), 8, 0, 0);
        raw.offer(0);
        let told = device.available_hint(hint);
        assert_eq!(told, if hint <= 4 { hint.into() } else { 0 });
        match (hint, raw.take(&mut device)) {
            // Entry 1 says head 0 again.
            (2..=4, Ok(seen)) => {
                assert_eq!(seen.len(), 1);
                assert_eq!(raw.take(&mut device).unwrap_err().rule, Rule::DescriptorIndex);
            }
            (_, seen) => assert_eq!(seen.unwrap().len(), 1),
        }
        if (0x100..0x7f00).contains(&(hint & 0x7fff)) {
            continue;
        }
        let mut raw = RawPacked::new(5, PACKED);
        let mut device = raw.device();
        raw.offer(raw.buffer(), 8, 0, 0);
        let told = device.available_hint(hint);
        assert!(told <= 5);
        assert_eq!(raw.take(&mut device).unwrap().len(), 1, "{hint:#x}");
        assert!(raw.take(&mut device).unwrap().is_empty());
    }
}

#[test]
fn tables_where_they_pay() {
    for layout in [0, feature::RING_PACKED] {
        let rig = Loopback::new(8, ALL | layout, 0x2000).unwrap();
        let mut driver = Driver::new(&rig.config, rig.memory.snapshot()).unwrap();
        let buffer = Buffer {
            address: rig.buffers + 0x1000,
            len: 8,
        };
        let add = |driver: &mut Driver, policy, count: usize| {
            let (free, table) = (driver.free(), rig.buffers + 0x80 * u64::from(driver.next_head()));
            driver.add_by(policy, table, &vec![buffer; count], &[]).unwrap();
            free - driver.free()
        };
        let policy = IndirectPolicy::From {
            descriptors: 3,
            spare: 2,
        };
        assert_eq!(add(&mut driver, policy, 2), 2);
        assert_eq!(add(&mut driver, policy, 3), 1, "a long one");
        assert_eq!(add(&mut driver, IndirectPolicy::Never, 3), 3);
        assert_eq!(add(&mut driver, policy, 2), 1, "few are free");
        assert_eq!(add(&mut driver, IndirectPolicy::Always, 1), 1);
        assert_eq!(
            driver.add_by(policy, rig.buffers, &[buffer; 2], &[]),
            None,
            "none is free"
        );
    }
    let rig = Loopback::new(8, 0, 4096).unwrap();
    let mut driver = Driver::new(&rig.config, rig.memory.snapshot()).unwrap();
    let buffer = Buffer {
        address: rig.buffers,
        len: 8,
    };
    driver
        .add_by(IndirectPolicy::Always, rig.buffers, &[buffer; 3], &[])
        .unwrap();
    assert_eq!(driver.free(), 5, "not negotiated");
}
