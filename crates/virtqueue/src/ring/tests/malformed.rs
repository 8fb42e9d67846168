//! Every rule of the ring, broken once.

use super::*;

/// The driver's rules that a chain or the available ring can break: 2.7.4.2 (readable before writable), 2.7.5.2 (no loops,
/// at most 2^32 bytes), 2.7.5 (indices and addresses), 2.7.5.3.1 (tables), 2.7.6.1 and 2.7.13.3 (`idx` never goes back, and at most the
/// queue size ahead).
#[test]
fn malformed_chains() {
    type Break = fn(&mut Raw);
    let cases: &[(&str, Rule, Break)] = &[
        ("head outside the table", Rule::DescriptorIndex, |r| r.offer(8)),
        ("head far outside", Rule::DescriptorIndex, |r| r.offer(0xffff)),
        ("next outside the table", Rule::DescriptorIndex, |r| {
            r.descriptor(0, r.buffer(), 8, NEXT, 8);
            r.offer(0);
        }),
        ("a loop of one", Rule::ChainLength, |r| {
            r.descriptor(0, r.buffer(), 8, NEXT, 0);
            r.offer(0);
        }),
        ("a loop of two", Rule::ChainLength, |r| {
            r.descriptor(0, r.buffer(), 8, NEXT, 1);
            r.descriptor(1, r.buffer(), 8, NEXT, 0);
            r.offer(0);
        }),
        ("a loop of empty buffers", Rule::ChainLength, |r| {
            r.descriptor(0, 0, 0, NEXT, 0);
            r.offer(0);
        }),
        ("a loop in a table", Rule::ChainLength, |r| {
            r.descriptor_at(r.buffer(), r.buffer(), 8, NEXT, 1);
            r.descriptor_at(r.buffer() + 16, r.buffer(), 8, NEXT, 0);
            r.descriptor(0, r.buffer(), 32, INDIRECT, 0);
            r.offer(0);
        }),
        ("a table longer than the queue", Rule::ChainLength, |r| {
            for i in 0..9 {
                r.descriptor_at(
                    r.buffer() + 16 * i,
                    r.buffer(),
                    8,
                    if i < 8 { NEXT } else { 0 },
                    i as u16 + 1,
                );
            }
            r.descriptor(0, r.buffer(), 9 * 16, INDIRECT, 0);
            r.offer(0);
        }),
        (
            "direct and indirect together longer than the queue",
            Rule::ChainLength,
            |r| {
                for i in 0..8 {
                    r.descriptor_at(
                        r.buffer() + 16 * i,
                        r.buffer(),
                        8,
                        if i < 7 { NEXT } else { 0 },
                        i as u16 + 1,
                    );
                }
                r.descriptor(0, r.buffer(), 8, NEXT, 1);
                r.descriptor(1, r.buffer(), 8 * 16, INDIRECT, 0);
                r.offer(0);
            },
        ),
        ("a table in a table", Rule::NestedIndirect, |r| {
            r.descriptor_at(r.buffer(), r.buffer() + 64, 16, INDIRECT, 0);
            r.descriptor(0, r.buffer(), 16, INDIRECT, 0);
            r.offer(0);
        }),
        ("a table that continues", Rule::IndirectNext, |r| {
            r.descriptor(0, r.buffer(), 16, INDIRECT | NEXT, 1);
            r.descriptor(1, r.buffer(), 16, 0, 0);
            r.offer(0);
        }),
        ("an empty table", Rule::IndirectLength, |r| {
            r.descriptor(0, r.buffer(), 0, INDIRECT, 0);
            r.offer(0);
        }),
        ("a table of a descriptor and a half", Rule::IndirectLength, |r| {
            r.descriptor(0, r.buffer(), 24, INDIRECT, 0);
            r.offer(0);
        }),
        ("a table of no whole descriptor", Rule::IndirectLength, |r| {
            r.descriptor(0, r.buffer(), 15, INDIRECT, 0);
            r.offer(0);
        }),
        ("next outside of a table", Rule::DescriptorIndex, |r| {
            r.descriptor_at(r.buffer(), r.buffer(), 8, NEXT, 2);
            r.descriptor(0, r.buffer(), 32, INDIRECT, 0);
            r.offer(0);
        }),
        ("an unmapped table", Rule::Address, |r| {
            r.descriptor(0, 0x1000, 16, INDIRECT, 0);
            r.offer(0);
        }),
        ("a table that wraps", Rule::Address, |r| {
            r.descriptor(0, u64::MAX - 15, 32, INDIRECT, 0);
            r.offer(0);
        }),
        ("an unmapped buffer", Rule::Address, |r| {
            r.descriptor(0, 0x1000, 8, 0, 0);
            r.offer(0);
        }),
        ("a buffer that ends outside", Rule::Address, |r| {
            r.descriptor(0, r.buffer() + r.rig.buffers_size - 4, 5, WRITE, 0);
            r.offer(0);
        }),
        ("a buffer that wraps", Rule::Address, |r| {
            r.descriptor(0, u64::MAX - 3, 8, 0, 0);
            r.offer(0);
        }),
        ("a user address in a descriptor", Rule::Address, |r| {
            r.descriptor(0, USER, 8, 0, 0);
            r.offer(0);
        }),
        ("readable after writable", Rule::ReadableAfterWritable, |r| {
            r.descriptor(0, r.buffer(), 8, WRITE | NEXT, 1);
            r.descriptor(1, r.buffer(), 8, 0, 0);
            r.offer(0);
        }),
        (
            "readable after writable in a table",
            Rule::ReadableAfterWritable,
            |r| {
                r.descriptor_at(r.buffer(), r.buffer(), 8, WRITE | NEXT, 1);
                r.descriptor_at(r.buffer() + 16, r.buffer(), 8, 0, 0);
                r.descriptor(0, r.buffer(), 32, INDIRECT, 0);
                r.offer(0);
            },
        ),
        (
            "readable in a table after writable before it",
            Rule::ReadableAfterWritable,
            |r| {
                r.descriptor_at(r.buffer(), r.buffer(), 8, 0, 0);
                r.descriptor(0, r.buffer(), 8, WRITE | NEXT, 1);
                r.descriptor(1, r.buffer(), 16, INDIRECT, 0);
                r.offer(0);
            },
        ),
        ("idx ahead by more than the size", Rule::AvailableIndex, |r| {
            r.idx(9)
        }),
        ("idx behind", Rule::AvailableIndex, |r| r.idx(0xffff)),
        ("one head twice", Rule::DescriptorIndex, |r| {
            r.descriptor(0, r.buffer(), 8, 0, 0);
            r.offer(0);
            r.offer(0);
        }),
        ("more than 2^32 bytes", Rule::ChainLength, |r| {
            r.descriptor(0, GUEST, u32::MAX, NEXT, 1);
            r.descriptor(1, GUEST, 2, 0, 0);
            r.offer(0);
        }),
    ];
    for (name, rule, break_it) in cases {
        let mut raw = Raw::new(8, ALL);
        let big;
        if *rule == Rule::ChainLength && name.contains("2^32") {
            // Needs that much memory; it is sparse.
            big = crate::loopback::memory_file(1 << 32).unwrap();
            let whole = RegionRequest {
                guest_address: GUEST,
                user_address: None,
                size: 1 << 32,
                fd: big.as_fd(),
                offset: 0,
                writable: true,
            };
            raw.rig.memory.replace(&[whole], Duration::from_secs(1)).unwrap();
            raw.memory = raw.rig.memory.snapshot();
        }
        let mut device = raw.device();
        assert!(raw.take(&mut device).unwrap().is_empty(), "{name}");
        break_it(&mut raw);
        let mut result = raw.take(&mut device);
        if result.is_ok() {
            // A good chain came first.
            result = raw.take(&mut device);
        }
        let fault = result.expect_err(name);
        assert_eq!(fault.rule, *rule, "{name}: {fault}");
        assert!(fault.to_string().contains(rule.section()));
        assert_eq!(
            raw.take(&mut device).expect_err(name).rule,
            *rule,
            "{name}: for good"
        );
    }
}
