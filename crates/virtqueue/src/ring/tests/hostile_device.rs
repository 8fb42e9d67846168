//! A device that breaks the rules, against the driver's end of both layouts.

use super::raw_packed::RawPacked;
use super::*;
use crate::ring::packed_layout::{AVAIL, USED};
use crate::ring::{Buffer, Driver, Used};

/// The driver's end with three chains out: room for 0, 8 and 16 bytes. Ids in order of submission.
fn three_out(config: &Config, memory: &Arc<Snapshot>, buffer: u64) -> (Driver, [u16; 3]) {
    let mut driver = Driver::new(config, memory.clone()).unwrap();
    let data = Buffer {
        address: buffer,
        len: 4,
    };
    let into = Buffer {
        address: buffer,
        len: 8,
    };
    let ids = [
        driver.add(&[data], &[]).unwrap(),
        driver.add(&[data], &[into]).unwrap(),
        driver.add(&[], &[into, into]).unwrap(),
    ];
    driver.publish();
    (driver, ids)
}

fn reap(driver: &mut Driver) -> Result<Vec<(u16, u32)>, Fault> {
    let mut seen = Vec::new();
    driver.reap(100, |Used { head, len }| seen.push((head, len)))?;
    Ok(seen)
}

/// Used entries and the index that covers them; what comes of it.
struct Split {
    name: &'static str,
    in_order: bool,
    /// Which of the three chains (others are ids as such, from 100 on), and the length.
    entries: &'static [(u32, u32)],
    idx: u16,
    expected: Result<&'static [(usize, u32)], (Rule, &'static str)>,
}

#[test]
fn split_used_entries() {
    const fn case(
        name: &'static str,
        in_order: bool,
        entries: &'static [(u32, u32)],
        idx: u16,
        expected: Result<&'static [(usize, u32)], (Rule, &'static str)>,
    ) -> Split {
        Split {
            name,
            in_order,
            entries,
            idx,
            expected,
        }
    }
    let cases = [
        case(
            "all, the other way round",
            false,
            &[(2, 16), (1, 3), (0, 0)],
            3,
            Ok(&[(2, 16), (1, 3), (0, 0)]),
        ),
        case("never given", false, &[(107, 0)], 1, Err((Rule::UsedId, "2.7.8"))),
        case("not a head", false, &[(102, 0)], 1, Err((Rule::UsedId, "2.7.8"))),
        case(
            "given twice",
            false,
            &[(0, 0), (0, 0)],
            2,
            Err((Rule::UsedId, "2.7.8")),
        ),
        case(
            "out of range",
            false,
            &[(108, 0)],
            1,
            Err((Rule::UsedId, "2.7.8")),
        ),
        case(
            "far out of range",
            false,
            &[(u32::MAX, 0)],
            1,
            Err((Rule::UsedId, "2.7.8")),
        ),
        case(
            "right in its low half",
            false,
            &[(0x1_0064, 0)],
            1,
            Err((Rule::UsedId, "2.7.8")),
        ),
        case(
            "longer by one",
            false,
            &[(1, 9)],
            1,
            Err((Rule::UsedLength, "2.7.8.2")),
        ),
        case(
            "written without room",
            false,
            &[(0, 1)],
            1,
            Err((Rule::UsedLength, "2.7.8.2")),
        ),
        case(
            "longest",
            false,
            &[(2, u32::MAX)],
            1,
            Err((Rule::UsedLength, "2.7.8.2")),
        ),
        case(
            "more than are out",
            false,
            &[(0, 0)],
            4,
            Err((Rule::UsedIndex, "2.7.8")),
        ),
        case(
            "idx behind",
            false,
            &[(0, 0)],
            0xffff,
            Err((Rule::UsedIndex, "2.7.8")),
        ),
        case("one for all", true, &[(2, 16)], 3, Ok(&[(0, 0), (1, 8), (2, 16)])),
        case("one for two", true, &[(1, 5)], 2, Ok(&[(0, 0), (1, 5)])),
        case(
            "each by itself",
            true,
            &[(0, 0), (1, 0), (2, 0)],
            3,
            Ok(&[(0, 0), (1, 0), (2, 0)]),
        ),
        case(
            "youngest alone",
            true,
            &[(2, 16)],
            1,
            Err((Rule::UsedOrder, "2.7.9")),
        ),
        case(
            "wrong order",
            true,
            &[(1, 8), (0, 0)],
            1,
            Err((Rule::UsedOrder, "2.7.9")),
        ),
        case(
            "back again",
            true,
            &[(0, 0), (0, 0)],
            2,
            Err((Rule::UsedOrder, "2.7.9")),
        ),
        case(
            "never given, in order",
            true,
            &[(107, 0)],
            3,
            Err((Rule::UsedOrder, "2.7.9")),
        ),
        case(
            "out of range, in order",
            true,
            &[(u32::MAX, 0)],
            1,
            Err((Rule::UsedOrder, "2.7.9")),
        ),
        case(
            "longer, in order",
            true,
            &[(1, 9)],
            2,
            Err((Rule::UsedLength, "2.7.8.2")),
        ),
        case(
            "too many, in order",
            true,
            &[(2, 16)],
            4,
            Err((Rule::UsedIndex, "2.7.8")),
        ),
    ];
    for case in cases {
        let order = if case.in_order { feature::IN_ORDER } else { 0 };
        let raw = Raw::new(8, ALL | order);
        let (mut driver, ids) = three_out(&raw.rig.config, &raw.memory, raw.buffer());
        let id = |which: u32| {
            ids.get(which as usize)
                .map_or(which.wrapping_sub(100), |id| u32::from(*id))
        };
        let used = raw.rig.config.used;
        for (slot, (which, len)) in case.entries.iter().enumerate() {
            raw.put(used + 4 + 8 * slot as u64, &id(*which).to_le_bytes());
            raw.put(used + 8 + 8 * slot as u64, &len.to_le_bytes());
        }
        assert!(
            reap(&mut driver).unwrap().is_empty(),
            "{}: not shown yet",
            case.name
        );
        raw.put(used + 2, &case.idx.to_le_bytes());
        check(case.name, &mut driver, ids, case.expected);
    }
}

fn check(name: &str, driver: &mut Driver, ids: [u16; 3], expected: Result<&[(usize, u32)], (Rule, &str)>) {
    match (reap(driver), expected) {
        (Ok(seen), Ok(expected)) => {
            let expected: Vec<_> = expected.iter().map(|(which, len)| (ids[*which], *len)).collect();
            assert_eq!(seen, expected, "{name}");
            assert_eq!(driver.outstanding() as usize, 3 - seen.len(), "{name}");
        }
        (Err(fault), Err((rule, section))) => {
            assert_eq!((fault.rule, rule.section()), (rule, section), "{name}: {fault}");
            assert_eq!(reap(driver).unwrap_err().rule, rule, "{name}: for good");
        }
        (seen, _) => panic!("{name}: {seen:?}"),
    }
}

/// `used.idx` may go back and forth: what has been taken back stays taken back.
#[test]
fn split_index_that_goes_back() {
    let raw = Raw::new(8, ALL);
    let (mut driver, ids) = three_out(&raw.rig.config, &raw.memory, raw.buffer());
    let used = raw.rig.config.used;
    raw.put(used + 4, &u32::from(ids[0]).to_le_bytes());
    raw.put(used + 2, &1u16.to_le_bytes());
    assert_eq!(reap(&mut driver).unwrap(), [(ids[0], 0)]);
    raw.put(used + 2, &0u16.to_le_bytes());
    assert_eq!(reap(&mut driver).unwrap_err().rule, Rule::UsedIndex);
}

/// Used descriptors at their offsets.
struct Packed {
    name: &'static str,
    in_order: bool,
    /// Offset, chain (as above), length, flags.
    entries: &'static [(u16, u16, u32, u16)],
    expected: Result<&'static [(usize, u32)], (Rule, &'static str)>,
}

const DONE: u16 = AVAIL | USED;

#[test]
fn packed_used_descriptors() {
    const fn case(
        name: &'static str,
        in_order: bool,
        entries: &'static [(u16, u16, u32, u16)],
        expected: Result<&'static [(usize, u32)], (Rule, &'static str)>,
    ) -> Packed {
        Packed {
            name,
            in_order,
            entries,
            expected,
        }
    }
    const W: u16 = DONE | WRITE;
    // The chains take 1, 2 and 2 descriptors.
    let cases = [
        case(
            "all, the other way round",
            false,
            &[(0, 2, 16, W), (2, 1, 3, W), (4, 0, 0, DONE)],
            Ok(&[(2, 16), (1, 3), (0, 0)]),
        ),
        // 2.8.4: without WRITE the length is reserved; 2.8.6: so are NEXT and INDIRECT.
        case(
            "reserved length",
            false,
            &[(0, 0, u32::MAX, DONE | NEXT | INDIRECT)],
            Ok(&[(0, 0)]),
        ),
        case(
            "never given",
            false,
            &[(0, 107, 0, DONE)],
            Err((Rule::PackedUsedId, "2.8.15")),
        ),
        case(
            "given twice",
            false,
            &[(0, 0, 0, DONE), (1, 0, 0, DONE)],
            Err((Rule::PackedUsedId, "2.8.15")),
        ),
        case(
            "out of range",
            false,
            &[(0, 108, 0, DONE)],
            Err((Rule::PackedUsedId, "2.8.15")),
        ),
        case(
            "far out of range",
            false,
            &[(0, u16::MAX, 0, DONE)],
            Err((Rule::PackedUsedId, "2.8.15")),
        ),
        case(
            "longer by one",
            false,
            &[(0, 1, 9, W)],
            Err((Rule::PackedUsedLength, "2.8.4")),
        ),
        case(
            "written without room",
            false,
            &[(0, 0, 1, W)],
            Err((Rule::PackedUsedLength, "2.8.4")),
        ),
        case(
            "longest",
            false,
            &[(0, 2, u32::MAX, W)],
            Err((Rule::PackedUsedLength, "2.8.4")),
        ),
        case("not where it is looked for", false, &[(1, 0, 0, DONE)], Ok(&[])),
        case(
            "one for all",
            true,
            &[(0, 2, 16, W)],
            Ok(&[(0, 0), (1, 8), (2, 16)]),
        ),
        case("one for two", true, &[(0, 1, 5, W)], Ok(&[(0, 0), (1, 5)])),
        case(
            "each by itself",
            true,
            &[(0, 0, 0, DONE), (1, 1, 1, W), (3, 2, 2, W)],
            Ok(&[(0, 0), (1, 1), (2, 2)]),
        ),
        case(
            "back again",
            true,
            &[(0, 0, 0, DONE), (1, 0, 0, DONE)],
            Err((Rule::PackedUsedOrder, "2.8.8")),
        ),
        case(
            "backwards",
            true,
            &[(0, 1, 0, DONE), (3, 0, 0, DONE)],
            Err((Rule::PackedUsedOrder, "2.8.8")),
        ),
        case(
            "never given, in order",
            true,
            &[(0, 103, 0, DONE)],
            Err((Rule::PackedUsedOrder, "2.8.8")),
        ),
        case(
            "out of range, in order",
            true,
            &[(0, u16::MAX, 0, DONE)],
            Err((Rule::PackedUsedOrder, "2.8.8")),
        ),
        case(
            "longer, in order",
            true,
            &[(0, 1, 9, W)],
            Err((Rule::PackedUsedLength, "2.8.4")),
        ),
    ];
    for case in cases {
        let order = if case.in_order { feature::IN_ORDER } else { 0 };
        let raw = RawPacked::new(8, ALL | order);
        let (mut driver, ids) = three_out(&raw.rig.config, &raw.memory, raw.buffer());
        let id = |which: u16| {
            ids.get(usize::from(which))
                .copied()
                .unwrap_or(which.wrapping_sub(100))
        };
        assert!(
            reap(&mut driver).unwrap().is_empty(),
            "{}: nothing is used yet",
            case.name
        );
        for (offset, which, len, flags) in case.entries {
            raw.descriptor(*offset, 0, *len, id(*which), *flags);
        }
        check(case.name, &mut driver, ids, case.expected);
    }
}

/// AVAIL and USED in every combination: only both set is used, in the first lap.
#[test]
fn packed_flags_in_every_combination() {
    for (available, used) in [(false, false), (false, true), (true, false), (true, true)] {
        let raw = RawPacked::new(8, ALL);
        let (mut driver, _) = three_out(&raw.rig.config, &raw.memory, raw.buffer());
        raw.flip(0, available, used);
        assert_eq!(driver.arm(), available && used);
        assert_eq!(reap(&mut driver).unwrap().len(), usize::from(available && used));
    }
}

/// A device that keeps marking everything used cannot make the driver go round: it stops when nothing
/// is out, and flags flipped back do not undo anything.
#[test]
fn packed_everything_used_all_the_time() {
    for in_order in [0, feature::IN_ORDER] {
        let raw = RawPacked::new(8, ALL | in_order);
        let (mut driver, ids) = three_out(&raw.rig.config, &raw.memory, raw.buffer());
        for offset in 0..8 {
            // Used descriptors are looked for where the chains began: at 0, 1 and 3.
            let which = [0, 1, 1, 2, 2, 0, 1, 2][usize::from(offset)];
            raw.descriptor(offset, 0, 0, ids[which], DONE);
        }
        assert_eq!(reap(&mut driver).unwrap().len(), 3);
        assert!(reap(&mut driver).unwrap().is_empty());
        assert!(!driver.arm(), "nothing is out, so nothing can have been used");
        (0..8).for_each(|offset| raw.flip(offset, false, false));
        assert!(reap(&mut driver).unwrap().is_empty());
        assert_eq!((driver.outstanding(), driver.free()), (0, 8));
    }
}

/// What the device says of when it wants kicks: every value; a kick too many, never a wrong access.
#[test]
fn event_suppression_at_every_value() {
    for event_idx in [0, feature::EVENT_IDX] {
        for flags in 0..8u16 {
            for desc in [0, 1, 8, 0x7fff, 0x8000, 0x8001, 0x8008, 0xffff] {
                let raw = RawPacked::new(8, event_idx);
                let mut driver = Driver::new(&raw.rig.config, raw.memory.clone()).unwrap();
                raw.put(raw.rig.config.used, &u16::to_le_bytes(desc));
                raw.put(raw.rig.config.used + 2, &flags.to_le_bytes());
                driver
                    .add(
                        &[Buffer {
                            address: raw.buffer(),
                            len: 4,
                        }],
                        &[],
                    )
                    .unwrap();
                let kick = driver.publish();
                let expected = match flags & 3 {
                    0 | 3 => true,
                    1 => false,
                    _ if event_idx == 0 => true,
                    // Where there is no descriptor, nothing is promised.
                    _ if desc & 0x7fff >= 8 => kick,
                    _ => desc == 0x8000,
                };
                assert_eq!(kick, expected, "flags {flags:#x}, descriptor {desc:#x}");
            }
        }
        for (flags, event, expected) in [
            (0u16, 0u16, true),
            (1, 0, event_idx != 0),
            (1, 1, false),
            (0xfffe, 0xffff, event_idx == 0),
            (0xffff, 0x8000, false),
            (0, 9, event_idx == 0),
        ] {
            let raw = Raw::new(8, event_idx);
            let mut driver = Driver::new(&raw.rig.config, raw.memory.clone()).unwrap();
            raw.put(raw.rig.config.used, &flags.to_le_bytes());
            if event_idx != 0 {
                raw.put(raw.rig.config.used + 4 + 8 * 8, &event.to_le_bytes());
            }
            let data = Buffer {
                address: raw.buffer(),
                len: 4,
            };
            driver.add(&[data], &[]).unwrap();
            assert_eq!(driver.publish(), expected, "flags {flags:#x}, event {event:#x}");
        }
    }
}

/// 2.7.5: under VIRTIO_F_IN_ORDER the split driver uses descriptors in ring order, and the last one's
/// `next` is 0.
#[test]
fn split_descriptors_in_ring_order() {
    let raw = Raw::new(4, feature::IN_ORDER);
    let mut driver = Driver::new(&raw.rig.config, raw.memory.clone()).unwrap();
    let mut device = raw.device();
    let data = Buffer {
        address: raw.buffer(),
        len: 4,
    };
    let mut expected = 0;
    for round in 0..20 {
        let length = 1 + round % 3;
        let head = driver.add(&vec![data; length], &[]).unwrap();
        assert_eq!(usize::from(head), expected % 4);
        for step in 0..length - 1 {
            let at = (expected + step) % 4;
            let next = raw.get16(raw.rig.config.descriptors + 16 * at as u64 + 14);
            assert_eq!(usize::from(next), (at + 1) % 4);
        }
        expected += length;
        driver.publish();
        for (head, ..) in raw.take(&mut device).unwrap() {
            raw.complete(&mut device, head, 0);
        }
        assert_eq!(reap(&mut driver).unwrap().len(), 1);
    }
}
