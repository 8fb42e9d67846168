//! Well-formed requests of every type, whatever way they are cut.

use super::bed::*;
use crate::block::{Lifetime, Target};
use crate::memory::{DirtyLog, GuestMemory};
use crate::spec::block::*;
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn memory(sectors: u64) -> Arc<Target> {
    Arc::new(Target::memory(sectors * 512).unwrap())
}

#[test]
fn data_comes_back_as_it_was_written() {
    let target = memory(64);
    let mut driver = Driver::new(&target, ALL);
    let data = pattern(8 * 512, 1);
    let answer = driver.ask(VIRTIO_BLK_T_OUT, 3, &data, 0);
    assert_eq!((answer.status, answer.written), (0, 1));
    assert_eq!(driver.read(3, 8 * 512), data);
    assert_eq!(driver.read(2, 512), [0; 512]);
    assert_eq!(driver.read(11, 512), [0; 512]);
    assert_eq!(driver.write(63, &data[..512]), 0);
    assert_eq!(driver.read(63, 512), data[..512]);
}

#[test]
fn requests_may_be_cut_anywhere() {
    let target = memory(8);
    let mut driver = Driver::new(&target, ALL);
    for size in (1..=40).chain([511, 512, 513, 528, 529]) {
        for first in [1, 7, 15, 16, 17] {
            driver.clear();
            let data = pattern(1024, size as u8);
            let out = driver.request(VIRTIO_BLK_T_OUT, 2, &data, 0, &[first, size]);
            driver.run();
            assert_eq!(driver.answer(&out).status, 0);
            driver.clear();
            let back = driver.request(VIRTIO_BLK_T_IN, 2, &[], 1024, &[first, size]);
            driver.run();
            let answer = driver.answer(&back);
            assert_eq!((answer.status, answer.written), (0, 1025));
            assert!(answer.data == data, "pieces of {first}, {size}");
        }
    }
}

#[test]
fn a_batch_of_many() {
    let target = memory(256);
    let mut driver = Driver::new(&target, ALL);
    let laid: Vec<_> = (0..200)
        .map(|i| driver.request(VIRTIO_BLK_T_OUT, i, &pattern(512, i as u8), 0, &[]))
        .collect();
    driver.run();
    assert!(laid.iter().all(|laid| driver.answer(laid).status == 0));
    assert_eq!(driver.done.as_slice().len(), 200);
    assert_eq!(driver.read(77, 512), pattern(512, 77));
}

#[test]
fn the_serial_is_padded() {
    let target = memory(8);
    let mut driver = Driver::new(&target, 0);
    for serial in ["", "disk", "12345678901234567890"] {
        target.set_serial(serial.as_bytes()).unwrap();
        for pieces in [vec![], vec![1], vec![3, 5], vec![20, 1]] {
            driver.clear();
            let laid = driver.request(VIRTIO_BLK_T_GET_ID, 0, &[], 20, &pieces);
            driver.run();
            let answer = driver.answer(&laid);
            assert_eq!((answer.status, answer.written), (0, 21));
            let mut padded = serial.as_bytes().to_vec();
            padded.resize(20, 0);
            assert_eq!(answer.data, padded);
        }
    }
    assert!(target.set_serial(&[b'x'; 21]).is_err());
}

#[test]
fn lifetime() {
    let target = memory(8);
    let mut driver = Driver::new(&target, ALL);
    let answer = driver.ask(VIRTIO_BLK_T_GET_LIFETIME, 0, &[], 6);
    assert_eq!((answer.status, answer.written), (2, 0), "not known");
    target.set_lifetime(Some(Lifetime {
        pre_eol_info: 1,
        device_lifetime_est_typ_a: 2,
        device_lifetime_est_typ_b: 0x0b,
    }));
    let answer = driver.ask(VIRTIO_BLK_T_GET_LIFETIME, 0, &[], 6);
    assert_eq!((answer.status, answer.written), (0, 7));
    assert_eq!(answer.data, [1, 0, 2, 0, 0x0b, 0]);
    // Only what was written counts if the buffer is larger.
    assert_eq!(driver.ask(VIRTIO_BLK_T_GET_LIFETIME, 0, &[], 8).written, 6);
    assert_eq!(
        Driver::new(&target, 0)
            .ask(VIRTIO_BLK_T_GET_LIFETIME, 0, &[], 6)
            .status,
        2
    );
}

#[test]
fn several_ranges_in_one_request() {
    let target = memory(64);
    let mut driver = Driver::new(&target, ALL);
    let data = pattern(64 * 512, 9);
    for (kind, flags) in [
        (VIRTIO_BLK_T_WRITE_ZEROES, 0),
        (VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP),
        (VIRTIO_BLK_T_SECURE_ERASE, 0),
        (VIRTIO_BLK_T_DISCARD, 0),
    ] {
        assert_eq!(driver.write(0, &data), 0);
        let ranges = [
            range(1, 2, flags),
            range(10, 0, flags),
            range(62, 2, flags),
            range(20, 1, flags),
        ]
        .concat();
        for pieces in [vec![], vec![1], vec![16], vec![5]] {
            driver.clear();
            let laid = driver.request(kind, 0, &ranges, 0, &pieces);
            driver.run();
            let answer = driver.answer(&laid);
            assert_eq!((answer.status, answer.written), (0, 1));
        }
        let mut expected = data.clone();
        for gone in [512..3 * 512, 62 * 512..64 * 512, 20 * 512..21 * 512] {
            expected[gone].fill(0);
        }
        assert!(driver.read(0, 64 * 512) == expected, "type {kind}");
    }
}

#[test]
fn capacity_changes_while_running() {
    let target = memory(8);
    let mut driver = Driver::new(&target, ALL);
    assert_eq!(driver.write(8, &[1; 512]), 1);
    target.set_capacity(16 * 512).unwrap();
    assert_eq!(driver.write(8, &[1; 512]), 0);
    assert_eq!(driver.read(8, 512), [1; 512]);
    target.set_capacity(4 * 512).unwrap();
    assert_eq!(driver.write(4, &[1; 512]), 1);
    assert!(target.set_capacity(100).is_err());
}

#[test]
fn the_null_medium_answers() {
    let target = Arc::new(Target::null(1 << 40, true).unwrap());
    let mut driver = Driver::new(&target, ALL);
    assert_eq!(driver.write(1 << 30, &[1; 512]), 0);
    assert_eq!(driver.read(1 << 30, 512), [0; 512]);
    assert_eq!(driver.flush(), 0);
}

#[test]
fn direct_access_to_the_medium() {
    let target = memory(8);
    target.write_at(700, b"hello").unwrap();
    let mut back = [0; 7];
    target.read_at(699, &mut back).unwrap();
    assert_eq!(&back, b"\0hello\0");
    target.write_zeroes(701, 3, true).unwrap();
    target.read_at(699, &mut back).unwrap();
    assert_eq!(&back, b"\0h\0\0\0o\0");
    target.flush().unwrap();
    assert!(target.read_at(4095, &mut back).is_err());
    assert!(target.write_at(u64::MAX, &[1, 2]).is_err());
}

#[derive(Debug, Default)]
struct Log(Mutex<Vec<(u64, u64)>>);

impl DirtyLog for Log {
    fn mark(&self, address: u64, size: u64) {
        self.0.lock().unwrap().push((address, size));
    }
}

#[test]
fn a_status_beyond_the_used_length_is_logged_as_written() {
    let (guest, log) = (GuestMemory::new(), Arc::new(Log::default()));
    guest
        .set_dirty_log(Some(Arc::clone(&log) as _), Duration::from_secs(1))
        .unwrap();
    let mut driver = Driver::new(&memory(8), ALL);
    driver.snapshot = guest.snapshot();
    let header = driver.place(&[0, 0, 0, 0, 0, 0, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0], 1, 0);
    let (data, status) = (driver.place(&[0; 512], 1, 0), driver.place(&[0xee; 3], 1, 0));
    driver.chain(&[header], &[data, status]);
    driver.run();
    assert_eq!(driver.peek(status), [0xee, 0xee, 1]);
    assert_eq!(driver.done.as_slice()[0].1, 0);
    assert_eq!(*log.0.lock().unwrap(), [(status.guest + 2, 1)]);
    // What the used length covers, the ring reports.
    driver.read(0, 512);
    assert_eq!(log.0.lock().unwrap().len(), 1);
}
