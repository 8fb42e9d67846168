//! What a driver can get wrong, and what it gets for it.

use super::bed::*;
use crate::block::{Limits, Refusal, Target};
use crate::fault::Rule;
use crate::spec::block::*;
use std::sync::Arc;

const IOERR: u8 = VIRTIO_BLK_S_IOERR;
const UNSUPP: u8 = VIRTIO_BLK_S_UNSUPP;

#[test]
fn chains_without_room_break_the_queue() {
    let target = Arc::new(Target::memory(4096).unwrap());
    let header = [0; 16];
    for readable in 0..16 {
        let mut driver = Driver::new(&target, ALL);
        let mut part = Vec::new();
        if readable > 0 {
            part.push(driver.place(&header[..readable], 1, 0));
        }
        let status = driver.place(&[0xee], 1, 0);
        driver.chain(&part, &[status]);
        let fault = driver.start().unwrap_err();
        assert_eq!(fault.rule, Rule::Request);
        assert!(fault.detail.contains("5.2.6"), "{}", fault.detail);
        assert_eq!(driver.peek(status), [0xee]);
    }
    let mut driver = Driver::new(&target, ALL);
    let header = driver.place(&header, 1, 0);
    driver.chain(&[header], &[]);
    assert_eq!(driver.start().unwrap_err().rule, Rule::Request);
}

#[test]
fn requests_before_a_broken_one_are_answered() {
    let target = Arc::new(Target::memory(4096).unwrap());
    let mut driver = Driver::new(&target, ALL);
    let good = driver.request(VIRTIO_BLK_T_IN, 0, &[], 512, &[]);
    let status = driver.place(&[0xee], 1, 0);
    driver.chain(&[], &[status]);
    assert!(driver.start().is_err());
    assert_eq!(driver.answer(&good).status, 0);
}

/// Features, type, sector, readable data, length of writable data; status, used length, reason.
type Case<'a> = (&'a str, u128, u32, u64, &'a [u8], usize, u8, u32, Refusal);

#[test]
fn requests_that_get_a_status() {
    let target = Arc::new(Target::memory(8 * 512).unwrap());
    target.set_limits(Limits {
        size_max: 1024,
        seg_max: 2,
        max_discard_sectors: 4,
        max_discard_seg: 2,
        max_write_zeroes_sectors: 4,
        max_write_zeroes_seg: 2,
        max_secure_erase_sectors: 4,
        max_secure_erase_seg: 2,
    });
    let (one, too_long) = (range(0, 1, 0), range(0, 5, 0));
    let three = [range(0, 1, 0), range(1, 1, 0), range(2, 1, 0)].concat();
    let (unmap, unknown) = (range(0, 1, 1), range(0, 1, 2));
    let late_flag = [range(100, 1, 0), range(0, 1, 0x8000_0000)].concat();
    let (past, wraps) = (range(7, 2, 0), range(u64::MAX, 1, 0));
    let overflows = range(u64::MAX / 512 + 1, 1, 0);
    let (discard, zeroes, erase) = (
        VIRTIO_BLK_T_DISCARD,
        VIRTIO_BLK_T_WRITE_ZEROES,
        VIRTIO_BLK_T_SECURE_ERASE,
    );
    let (read, write) = (VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT);
    let seg_max = VIRTIO_BLK_F_SEG_MAX | VIRTIO_BLK_F_SIZE_MAX;
    use Refusal::*;
    let cases: &[Case<'_>] = &[
        ("read past the end", ALL, read, 8, &[], 512, IOERR, 0, Range),
        ("read across the end", ALL, read, 7, &[], 1024, IOERR, 0, Range),
        (
            "read whose offset overflows",
            ALL,
            read,
            u64::MAX,
            &[],
            512,
            IOERR,
            0,
            Range,
        ),
        (
            "read whose end overflows",
            ALL,
            read,
            u64::MAX / 512,
            &[],
            512,
            IOERR,
            0,
            Range,
        ),
        ("write past the end", ALL, write, 8, &[0; 512], 0, IOERR, 1, Range),
        (
            "write across the end",
            ALL,
            write,
            7,
            &[0; 1024],
            0,
            IOERR,
            1,
            Range,
        ),
        ("nothing, beyond the end", ALL, read, 9, &[], 0, IOERR, 1, Range),
        (
            "read of part of a sector",
            ALL,
            read,
            0,
            &[],
            511,
            IOERR,
            0,
            Length,
        ),
        (
            "write of part of a sector",
            ALL,
            write,
            0,
            &[0; 513],
            0,
            IOERR,
            1,
            Length,
        ),
        (
            "segment over size_max",
            seg_max,
            read,
            0,
            &[],
            1536,
            IOERR,
            0,
            SegmentSize,
        ),
        ("unknown type", ALL, 99, 0, &[], 0, UNSUPP, 1, Type),
        (
            "legacy SCSI command",
            ALL,
            VIRTIO_BLK_T_SCSI_CMD,
            0,
            &[],
            0,
            UNSUPP,
            1,
            Type,
        ),
        (
            "legacy barrier",
            ALL,
            VIRTIO_BLK_T_BARRIER,
            0,
            &[],
            512,
            UNSUPP,
            0,
            Type,
        ),
        (
            "zone report",
            ALL,
            VIRTIO_BLK_T_ZONE_REPORT,
            0,
            &[],
            512,
            UNSUPP,
            0,
            Type,
        ),
        (
            "flush not negotiated",
            0,
            VIRTIO_BLK_T_FLUSH,
            0,
            &[],
            0,
            UNSUPP,
            1,
            Type,
        ),
        ("discard not negotiated", 0, discard, 0, &one, 0, UNSUPP, 1, Type),
        (
            "write zeroes not negotiated",
            0,
            zeroes,
            0,
            &one,
            0,
            UNSUPP,
            1,
            Type,
        ),
        (
            "secure erase not negotiated",
            0,
            erase,
            0,
            &one,
            0,
            UNSUPP,
            1,
            Type,
        ),
        (
            "lifetime not negotiated",
            0,
            VIRTIO_BLK_T_GET_LIFETIME,
            0,
            &[],
            6,
            UNSUPP,
            0,
            Type,
        ),
        (
            "ID of 19 bytes",
            ALL,
            VIRTIO_BLK_T_GET_ID,
            0,
            &[],
            19,
            IOERR,
            0,
            Length,
        ),
        (
            "ID of 21 bytes",
            ALL,
            VIRTIO_BLK_T_GET_ID,
            0,
            &[],
            21,
            IOERR,
            0,
            Length,
        ),
        (
            "lifetime of 5 bytes",
            ALL,
            VIRTIO_BLK_T_GET_LIFETIME,
            0,
            &[],
            5,
            IOERR,
            0,
            Length,
        ),
        ("no range", ALL, discard, 0, &[], 0, IOERR, 1, Length),
        ("part of a range", ALL, zeroes, 0, &one[..15], 0, IOERR, 1, Length),
        ("three ranges of two", ALL, discard, 0, &three, 0, IOERR, 1, Limit),
        ("three ranges of two", ALL, zeroes, 0, &three, 0, IOERR, 1, Limit),
        ("three ranges of two", ALL, erase, 0, &three, 0, IOERR, 1, Limit),
        ("range too long", ALL, discard, 0, &too_long, 0, IOERR, 1, Limit),
        ("range too long", ALL, zeroes, 0, &too_long, 0, IOERR, 1, Limit),
        ("range too long", ALL, erase, 0, &too_long, 0, IOERR, 1, Limit),
        ("discard with unmap", ALL, discard, 0, &unmap, 0, UNSUPP, 1, Flags),
        (
            "secure erase with unmap",
            ALL,
            erase,
            0,
            &unmap,
            0,
            UNSUPP,
            1,
            Flags,
        ),
        ("unknown flag", ALL, discard, 0, &unknown, 0, UNSUPP, 1, Flags),
        ("unknown flag", ALL, zeroes, 0, &unknown, 0, UNSUPP, 1, Flags),
        (
            "unknown flag after a bad range",
            ALL,
            zeroes,
            0,
            &late_flag,
            0,
            UNSUPP,
            1,
            Flags,
        ),
        ("range across the end", ALL, discard, 0, &past, 0, IOERR, 1, Range),
        ("range that wraps", ALL, zeroes, 0, &wraps, 0, IOERR, 1, Range),
        (
            "range that overflows",
            ALL,
            erase,
            0,
            &overflows,
            0,
            IOERR,
            1,
            Range,
        ),
    ];
    for (name, features, kind, sector, out, data_in, status, written, refusal) in cases {
        for pieces in [vec![], vec![1], vec![3]] {
            if *refusal == SegmentSize && !pieces.is_empty() {
                continue;
            }
            let mut driver = Driver::new(&target, *features);
            let before = target.tally().get(*refusal);
            let laid = driver.request(*kind, *sector, out, *data_in, &pieces);
            driver.run();
            let answer = driver.answer(&laid);
            assert_eq!((answer.status, answer.written), (*status, *written), "{name}");
            assert_eq!(target.tally().get(*refusal), before + 1, "{name}");
        }
    }
    let mut whole = vec![0xff; 4096];
    target.read_at(0, &mut whole).unwrap();
    assert!(whole == [0; 4096], "a refused request changed the medium");
}

#[test]
fn segments_are_counted_as_the_driver_made_them() {
    let target = Arc::new(Target::memory(8 * 512).unwrap());
    target.set_limits(Limits {
        seg_max: 2,
        ..Limits::default()
    });
    let mut driver = Driver::new(&target, VIRTIO_BLK_F_SEG_MAX);
    for (pieces, status) in [(vec![512, 512, 1], 0), (vec![512, 256, 256, 1], IOERR)] {
        driver.clear();
        let header = driver.place(&[0; 16], 1, 0);
        let writable: Vec<_> = pieces
            .iter()
            .map(|len| driver.place(&vec![0; *len], 1, 0))
            .collect();
        driver.chain(&[header], &writable);
        driver.run();
        assert_eq!(driver.peek(*writable.last().unwrap()), [status]);
    }
    // One descriptor that crosses two regions of guest memory is one segment still.
    driver.clear();
    let header = driver.place(&[0; 16], 1, 0);
    let mut writable: Vec<_> = [512, 256, 256, 1]
        .map(|len| driver.place(&vec![0; len], 1, 0))
        .into();
    writable[2].guest = writable[1].guest + 256;
    driver.chain(&[header], &writable);
    driver.run();
    assert_eq!(driver.peek(writable[3]), [0]);
}

#[test]
fn a_read_only_device_changes_nothing() {
    let file = image(&pattern(4096, 3));
    let source = crate::block::Source::Fd(file.try_clone().unwrap().into());
    let mut options = crate::block::FileOptions::new(source);
    options.read_only = true;
    let target = Arc::new(Target::file(options).unwrap());
    let mut driver = Driver::new(&target, ALL);
    assert_eq!(driver.write(0, &[9; 512]), IOERR);
    assert_eq!(
        driver.ask(VIRTIO_BLK_T_DISCARD, 0, &range(0, 1, 0), 0).status,
        IOERR
    );
    assert_eq!(
        driver
            .ask(VIRTIO_BLK_T_WRITE_ZEROES, 0, &range(0, 1, 1), 0)
            .status,
        IOERR
    );
    assert_eq!(
        driver
            .ask(VIRTIO_BLK_T_SECURE_ERASE, 0, &range(0, 1, 0), 0)
            .status,
        IOERR
    );
    assert!(driver.read(0, 4096) == pattern(4096, 3));
    assert_eq!(target.tally().get(Refusal::ReadOnly), 4);
    assert!(target.write_at(0, &[1]).is_err());
}
