//! A driver that breaks the rules of the packed ring, against the device's end.

use super::raw_packed::{PACKED, RawPacked};
use super::*;
use crate::ring::packed_layout::Position;

type Break = fn(&mut RawPacked);

#[test]
fn malformed_lists() {
    let cases: &[(&str, &str, Rule, Break)] = &[
        ("an id that is in use", "2.8.6", Rule::BufferId, |r| {
            r.offer(r.buffer(), 8, 3, 0);
            r.offer(r.buffer(), 8, 3, 0);
        }),
        (
            "a list longer than the queue",
            "2.8.17",
            Rule::PackedLength,
            |r| {
                // The last descriptor continues, and the ring seems to go on in the next lap.
                (0..8).for_each(|_| r.offer(r.buffer(), 8, 0, NEXT));
            },
        ),
        (
            "an endless list of empty buffers",
            "2.8.17",
            Rule::PackedLength,
            |r| {
                (0..8).for_each(|_| r.offer(0, 0, 0, NEXT));
            },
        ),
        (
            "a list that is partly available",
            "2.8.17",
            Rule::PackedPartial,
            |r| {
                r.offer(r.buffer(), 8, 0, NEXT);
                r.descriptor(1, r.buffer(), 8, 0, 0);
            },
        ),
        (
            "a list that goes on into used descriptors",
            "2.8.17",
            Rule::PackedPartial,
            |r| {
                r.offer(r.buffer(), 8, 0, NEXT);
                r.descriptor(1, r.buffer(), 8, 0, r.next.used());
            },
        ),
        (
            "a table first in a list",
            "2.8.19",
            Rule::PackedIndirectInList,
            |r| {
                r.offer(r.buffer(), 16, 0, INDIRECT | NEXT);
                r.offer(r.buffer(), 8, 0, 0);
            },
        ),
        (
            "a table later in a list",
            "2.8.19",
            Rule::PackedIndirectInList,
            |r| {
                r.offer(r.buffer(), 8, 0, NEXT);
                r.offer(r.buffer(), 16, 0, INDIRECT);
            },
        ),
        ("an empty table", "2.8.7", Rule::PackedIndirectLength, |r| {
            r.offer(r.buffer(), 0, 0, INDIRECT)
        }),
        (
            "a table of no whole descriptor",
            "2.8.7",
            Rule::PackedIndirectLength,
            |r| r.offer(r.buffer(), 15, 0, INDIRECT),
        ),
        (
            "a table of one and a half",
            "2.8.7",
            Rule::PackedIndirectLength,
            |r| r.offer(r.buffer(), 24, 0, INDIRECT),
        ),
        (
            "a table of the greatest length",
            "2.8.7",
            Rule::PackedIndirectLength,
            |r| r.offer(r.buffer(), u32::MAX, 0, INDIRECT),
        ),
        (
            "a table longer than the queue",
            "2.7.5.3.1",
            Rule::ChainLength,
            |r| r.offer(r.buffer(), 9 * 16, 0, INDIRECT),
        ),
        ("a table without end", "2.7.5", Rule::Address, |r| {
            r.offer(r.buffer(), u32::MAX - 15, 0, INDIRECT)
        }),
        ("an unmapped table", "2.7.5", Rule::Address, |r| {
            r.offer(0x1000, 16, 0, INDIRECT)
        }),
        ("a table that wraps", "2.7.5", Rule::Address, |r| {
            r.offer(u64::MAX - 15, 32, 0, INDIRECT)
        }),
        ("an unmapped buffer", "2.7.5", Rule::Address, |r| {
            r.offer(0x1000, 8, 0, 0)
        }),
        ("a buffer that ends outside", "2.7.5", Rule::Address, |r| {
            r.offer(r.buffer() + r.rig.buffers_size - 4, 5, 0, WRITE)
        }),
        ("a buffer that wraps", "2.7.5", Rule::Address, |r| {
            r.offer(u64::MAX - 3, 8, 0, 0)
        }),
        ("a user address", "2.7.5", Rule::Address, |r| {
            r.offer(USER, 8, 0, 0)
        }),
        ("an unmapped buffer in a table", "2.7.5", Rule::Address, |r| {
            r.descriptor_at(r.buffer(), 0x1000, 8, 0, 0);
            r.offer(r.buffer(), 16, 0, INDIRECT);
        }),
        (
            "readable after writable",
            "2.7.4.2",
            Rule::ReadableAfterWritable,
            |r| {
                r.offer(r.buffer(), 8, 0, WRITE | NEXT);
                r.offer(r.buffer(), 8, 0, 0);
            },
        ),
        (
            "readable after writable in a table",
            "2.7.4.2",
            Rule::ReadableAfterWritable,
            |r| {
                r.descriptor_at(r.buffer(), r.buffer(), 8, 0, WRITE);
                r.descriptor_at(r.buffer() + 16, r.buffer(), 8, 0, 0);
                r.offer(r.buffer(), 32, 0, INDIRECT);
            },
        ),
    ];
    for (name, section, rule, break_it) in cases {
        let mut raw = RawPacked::new(8, PACKED);
        let mut device = raw.device();
        assert!(raw.take(&mut device).unwrap().is_empty(), "{name}");
        break_it(&mut raw);
        let mut result = raw.take(&mut device);
        if result.is_ok() {
            // A good one came first.
            result = raw.take(&mut device);
        }
        let fault = result.expect_err(name);
        assert_eq!(fault.rule, *rule, "{name}: {fault}");
        assert_eq!(rule.section(), *section, "{name}");
        assert_eq!(
            raw.take(&mut device).expect_err(name).rule,
            *rule,
            "{name}: for good"
        );
    }
}

#[test]
fn indirect_needs_to_be_negotiated() {
    let mut raw = RawPacked::new(8, feature::EVENT_IDX);
    raw.descriptor_at(raw.buffer(), raw.buffer(), 8, 0, 0);
    raw.offer(raw.buffer(), 16, 0, INDIRECT);
    let fault = raw.take(&mut raw.device()).unwrap_err();
    assert_eq!(
        (fault.rule, fault.rule.section()),
        (Rule::PackedNotNegotiated, "2.8.19")
    );
}

#[test]
fn oddities_that_are_allowed() {
    let mut raw = RawPacked::new(8, PACKED);
    let mut device = raw.device();
    // 2.8.7: in a table all flags but WRITE are ignored, as is the id; WRITE of the descriptor that
    // refers to it is, too. Ids may be any 16 bits; that of the last descriptor of a list counts (2.8.6).
    let junk = NEXT | INDIRECT | 1 << 7 | 1 << 15;
    raw.descriptor_at(raw.buffer(), raw.buffer(), 10, 7, junk);
    raw.descriptor_at(raw.buffer() + 16, raw.buffer(), 20, 9, junk | WRITE);
    raw.offer(raw.buffer(), 32, 0xffff, INDIRECT | WRITE);
    raw.offer(raw.buffer(), 1, 0xfff, NEXT);
    raw.offer(raw.buffer(), 2, 5, WRITE);
    // Buffers of no bytes, wherever they are.
    raw.offer(u64::MAX, 0, 6, 0);
    raw.offer(0, 0, 7, WRITE);
    let seen = raw.take(&mut device).unwrap();
    let token = |id, slots| Token::new(id, slots);
    assert_eq!(
        seen,
        [
            (token(0xffff, 1), 10, 20),
            (token(5, 2), 1, 2),
            (token(6, 1), 0, 0),
            (token(7, 1), 0, 0)
        ]
    );
    for (token, _, room) in seen {
        device.complete(&raw.memory, token, room as u32).unwrap();
    }
    device.publish(&raw.memory).unwrap();
    assert_eq!(device.base(), 0x8005_8005);
}

/// 2.8.1: AVAIL and USED in every combination, on both laps.
#[test]
fn only_a_descriptor_of_this_lap_is_available() {
    for lap in [0x8000_8000, 0] {
        for (available, used) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut raw = RawPacked::new(4, PACKED);
            raw.rig.config.base = lap;
            raw.next = Position::from_word(lap as u16);
            let mut device = raw.device();
            raw.offer(raw.buffer(), 8, 1, 0);
            raw.flip(0, available, used);
            let expected = usize::from(available == (lap != 0) && used != available);
            assert_eq!(device.arm(&raw.memory).unwrap(), expected == 1);
            assert_eq!(
                raw.take(&mut device).unwrap().len(),
                expected,
                "{lap:#x} {available} {used}"
            );
        }
    }
}

/// 2.8.16: a driver that flips flags back may offer the same descriptors again and again, on every
/// lap: never more than the ring has are out, and one pass of `take` ends.
#[test]
fn flags_flipped_back_after_taking() {
    for in_order in [0, feature::IN_ORDER] {
        let raw = RawPacked::new(4, PACKED | in_order);
        let mut device = raw.device();
        let mut out = Vec::new();
        for lap in 0..6 {
            for offset in 0..4 {
                raw.descriptor(offset, raw.buffer(), 8, 4 * lap + offset, WRITE);
                raw.flip(offset, lap % 2 == 0, lap % 2 != 0);
            }
            assert!(!device.arm(&raw.memory).unwrap() || out.is_empty());
            out.extend(raw.take(&mut device).unwrap());
            assert_eq!(out.len(), 4);
        }
        // The oldest last: in order, nothing may be told before it is complete, so the driver gets
        // no descriptor back and can offer none, whatever it writes.
        for (token, ..) in out.drain(..).rev() {
            device.complete(&raw.memory, token, 8).unwrap();
            if in_order != 0 && token.id() != 0 {
                device.publish(&raw.memory).unwrap();
                (0..4).for_each(|offset| raw.flip(offset, false, true));
                assert!(raw.take(&mut device).unwrap().is_empty());
            }
        }
        device.publish(&raw.memory).unwrap();
        assert_eq!((device.outstanding(), device.base()), (0, 0));
    }
}

/// In order, lists add up to one used entry: with flags flipped back, to one longer than the ring.
#[test]
fn lists_that_overlap_are_refused() {
    for in_order in [0, feature::IN_ORDER] {
        let mut raw = RawPacked::new(8, PACKED | in_order);
        let mut device = raw.device();
        (0..6).for_each(|i| raw.offer(raw.buffer(), 8, 1, if i < 5 { NEXT } else { 0 }));
        let first = raw.take(&mut device).unwrap();
        (0..6).for_each(|i| raw.offer(raw.buffer(), 8, 2, if i < 5 { NEXT } else { 0 }));
        let fault = raw.take(&mut device).unwrap_err();
        assert_eq!(fault.rule, Rule::PackedDescriptorInUse, "{fault}");
        device.complete(&raw.memory, first[0].0, 0).unwrap();
        device.publish(&raw.memory).unwrap();
        assert_eq!(device.position() >> 16, 0x8006);
    }
}

/// A chain that breaks a rule is not handed out together with those before it.
#[test]
fn lists_before_a_malformed_one_are_served() {
    let mut raw = RawPacked::new(8, PACKED);
    let mut device = raw.device();
    raw.offer(raw.buffer(), 8, 1, 0);
    raw.offer(raw.buffer(), 8, 2, WRITE);
    raw.offer(raw.buffer(), 8, 1, 0);
    let seen: Vec<_> = raw
        .take(&mut device)
        .unwrap()
        .iter()
        .map(|(t, ..)| t.id())
        .collect();
    assert_eq!(seen, [1, 2]);
    assert_eq!(raw.take(&mut device).unwrap_err().rule, Rule::BufferId);
}

/// 2.8.10 and 2.8.14: every value of the flags, with reserved bits; offsets in and far beyond the ring.
#[test]
fn event_suppression_at_every_value() {
    for event_idx in [0, feature::EVENT_IDX] {
        for flags in (0..8).chain([0x8000, 0x8001, 0x8002, 0xfffc, 0xffff]) {
            for desc in [0, 1, 2, 7, 8, 0x7fff, 0x8000, 0x8001, 0x8007, 0x8008, 0xffff] {
                let mut raw = RawPacked::new(8, feature::INDIRECT_DESC | event_idx);
                let mut device = raw.device();
                raw.put(raw.rig.config.available, &u16::to_le_bytes(desc));
                raw.put(raw.rig.config.available + 2, &u16::to_le_bytes(flags));
                raw.offer(raw.buffer(), 8, 0, 0);
                let taken = raw.take(&mut device).unwrap();
                device.complete(&raw.memory, taken[0].0, 0).unwrap();
                let called = device.publish(&raw.memory).unwrap();
                let expected = match flags & 3 {
                    0 | 3 => true,
                    1 => false,
                    _ if event_idx == 0 => true,
                    // Where there is no descriptor, nothing is promised.
                    _ if desc & 0x7fff >= 8 => called,
                    // Only descriptor 0 of the first lap was used.
                    _ => desc == 0x8000,
                };
                assert_eq!(called, expected, "flags {flags:#x}, descriptor {desc:#x}");
            }
        }
    }
}
