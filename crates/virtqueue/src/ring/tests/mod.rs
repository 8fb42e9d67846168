//! The split ring against rings written by hand.

mod crashes;
mod hostile_device;
mod malformed;
mod malformed_packed;
mod notification;
mod packed;
mod properties;
mod published;
mod raw_packed;
mod reveal;
mod together;
mod wakeups;

use super::*;
use crate::chain::Batch;
use crate::fault::Rule;
use crate::loopback::{GUEST, Loopback, USER};
use crate::memory::RegionRequest;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const ALL: u128 = feature::INDIRECT_DESC | feature::EVENT_IDX;

/// Writes a ring by hand.
struct Raw {
    rig: Loopback,
    memory: Arc<Snapshot>,
    available: u16,
}

impl Raw {
    fn new(size: u32, features: u128) -> Self {
        let rig = Loopback::new(size, features, 1 << 20).unwrap();
        let memory = rig.memory.snapshot();
        Self {
            rig,
            memory,
            available: 0,
        }
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write(Space::Guest, address, bytes).unwrap();
    }

    fn get16(&self, address: u64) -> u16 {
        let mut bytes = [0; 2];
        self.memory.read(Space::Guest, address, &mut bytes).unwrap();
        u16::from_le_bytes(bytes)
    }

    fn descriptor_at(&self, address: u64, addr: u64, len: u32, flags: u16, next: u16) {
        self.put(address, &addr.to_le_bytes());
        self.put(address + 8, &len.to_le_bytes());
        self.put(address + 12, &flags.to_le_bytes());
        self.put(address + 14, &next.to_le_bytes());
    }

    fn descriptor(&self, index: u64, addr: u64, len: u32, flags: u16, next: u16) {
        self.descriptor_at(self.rig.config.descriptors + 16 * index, addr, len, flags, next);
    }

    fn entry(&self, position: u16, head: u16) {
        let slot = u64::from(position) % u64::from(self.rig.config.size);
        self.put(self.rig.config.available + 4 + 2 * slot, &head.to_le_bytes());
    }

    fn idx(&self, index: u16) {
        self.put(self.rig.config.available + 2, &index.to_le_bytes());
    }

    fn offer(&mut self, head: u16) {
        self.entry(self.available, head);
        self.available = self.available.wrapping_add(1);
        self.idx(self.available);
    }

    fn set_used_event(&self, value: u16) {
        self.put(
            self.rig.config.available + 4 + 2 * u64::from(self.rig.config.size),
            &value.to_le_bytes(),
        );
    }

    fn avail_event(&self) -> u16 {
        self.get16(self.rig.config.used + 4 + 8 * u64::from(self.rig.config.size))
    }

    fn buffer(&self) -> u64 {
        self.rig.buffers
    }

    fn device(&self) -> Ring {
        Ring::new(&self.rig.config).unwrap()
    }

    fn batch(&self) -> Batch {
        let mut batch = Batch::default();
        batch.attach(&self.memory);
        batch
    }

    fn take(&self, device: &mut Ring) -> Result<Vec<(u16, u64, u64)>, Fault> {
        let mut batch = self.batch();
        let n = device.take(&self.memory, &mut batch, 256)?;
        assert_eq!(n, batch.len());
        Ok(batch
            .iter()
            .map(|c| (c.token.id(), c.readable_len, c.writable_len))
            .collect())
    }

    fn complete(&self, device: &mut Ring, head: u16, written: u32) -> bool {
        device
            .complete(&self.memory, Token::new(head, 1), written)
            .unwrap();
        device.publish(&self.memory).unwrap()
    }
}

/// Sets both ends of a ring to `start`, as after so many chains.
fn at(start: u16, features: u128) -> (Raw, Ring) {
    let mut raw = Raw::new(4, features);
    raw.rig.config.base = start.into();
    raw.put(raw.rig.config.used + 2, &start.to_le_bytes());
    raw.idx(start);
    raw.available = start;
    for i in 0..4 {
        raw.descriptor(i, raw.buffer(), 8, WRITE, 0);
    }
    let mut device = raw.device();
    assert!(device.map(&raw.memory).unwrap());
    (raw, device)
}

#[test]
fn chains_before_a_malformed_one_are_served() {
    let mut raw = Raw::new(8, ALL);
    let mut device = raw.device();
    raw.descriptor(0, raw.buffer(), 8, 0, 0);
    raw.descriptor(1, raw.buffer(), 8, WRITE, 0);
    raw.offer(0);
    raw.offer(1);
    raw.offer(99);
    raw.offer(2);
    assert_eq!(raw.take(&mut device).unwrap(), [(0, 8, 0), (1, 0, 8)]);
    assert_eq!(raw.take(&mut device).unwrap_err().rule, Rule::DescriptorIndex);
    raw.complete(&mut device, 1, 8);
    assert_eq!(device.base(), 2);
}

#[test]
fn indirect_needs_to_be_negotiated() {
    let mut raw = Raw::new(8, 0);
    raw.descriptor_at(raw.buffer(), raw.buffer(), 8, 0, 0);
    raw.descriptor(0, raw.buffer(), 16, INDIRECT, 0);
    raw.offer(0);
    assert_eq!(raw.take(&mut raw.device()).unwrap_err().rule, Rule::NotNegotiated);
}

#[test]
fn well_formed_oddities_are_served() {
    let mut raw = Raw::new(8, ALL);
    let mut device = raw.device();
    // Direct descriptors that end in a table (2.7.5.3.2), which starts at an odd address, whose
    // descriptor says WRITE (to be ignored), whose entries are out of order, and which
    // is longer than the queue though its chain is not.
    let table = raw.buffer() + 1;
    raw.descriptor_at(table, raw.buffer(), 10, NEXT, 11);
    raw.descriptor_at(table + 11 * 16, raw.buffer(), 20, WRITE | NEXT, 3);
    raw.descriptor_at(table + 3 * 16, raw.buffer(), 30, WRITE, 0);
    raw.descriptor(5, raw.buffer(), 1, NEXT, 2);
    raw.descriptor(2, table, 12 * 16, INDIRECT | WRITE, 0);
    raw.offer(5);
    // Buffers of no bytes: their addresses do not matter, their direction does not divide.
    raw.descriptor(0, u64::MAX, 0, NEXT, 1);
    raw.descriptor(1, raw.buffer(), 4, NEXT, 3);
    raw.descriptor(3, 0, 0, WRITE | NEXT, 4);
    raw.descriptor(4, raw.buffer(), 6, WRITE, 0);
    raw.offer(0);
    // Nothing but an empty buffer.
    raw.descriptor(6, 0, 0, 0, 0);
    raw.offer(6);
    assert_eq!(
        raw.take(&mut device).unwrap(),
        [(5, 11, 50), (0, 4, 6), (6, 0, 0)]
    );
}

#[test]
fn a_chain_as_long_as_the_queue() {
    let mut raw = Raw::new(8, ALL);
    let mut device = raw.device();
    for i in 0..8 {
        raw.descriptor(i, raw.buffer(), 8, if i < 7 { NEXT } else { 0 }, i as u16 + 1);
    }
    raw.offer(0);
    assert_eq!(raw.take(&mut device).unwrap(), [(0, 64, 0)]);
}

#[test]
fn a_table_across_two_regions() {
    let mut raw = Raw::new(8, ALL);
    let end = raw.buffer() + raw.rig.buffers_size;
    let more = crate::loopback::memory_file(4096).unwrap();
    let add = |guest_address| {
        let fd = more.as_fd();
        raw.rig
            .memory
            .add(&RegionRequest {
                guest_address,
                user_address: None,
                size: 4096,
                fd,
                offset: 0,
                writable: true,
            })
            .unwrap();
    };
    add(end);
    raw.memory = raw.rig.memory.snapshot();
    let mut device = raw.device();
    let table = end - 24;
    raw.descriptor_at(table, raw.buffer(), 5, NEXT, 1);
    raw.descriptor_at(table + 16, end - 2, 6, WRITE, 0);
    raw.descriptor(0, table, 32, INDIRECT, 0);
    raw.offer(0);
    assert_eq!(raw.take(&mut device).unwrap(), [(0, 5, 6)]);
}

#[test]
fn read_only_memory() {
    let raw = Raw::new(8, ALL);
    let size = raw.buffer() + raw.rig.buffers_size - GUEST;
    let fd = raw.rig.file.as_fd();
    let whole = RegionRequest {
        guest_address: GUEST,
        user_address: None,
        size,
        fd,
        offset: 0,
        writable: false,
    };
    // All of it: the used ring cannot be written.
    raw.rig.memory.replace(&[whole], Duration::from_secs(1)).unwrap();
    let mut device = raw.device();
    let fault = device.map(&raw.rig.memory.snapshot()).unwrap_err();
    assert_eq!(fault.rule, Rule::Address);
    assert!(fault.detail.contains("used ring"), "{fault}");
    // Only the buffers: readable ones are fine.
    let ring = raw.buffer() - GUEST;
    let parts = [
        RegionRequest {
            size: ring,
            writable: true,
            ..whole
        },
        RegionRequest {
            guest_address: raw.buffer(),
            size: size - ring,
            offset: ring,
            ..whole
        },
    ];
    raw.rig.memory.replace(&parts, Duration::from_secs(1)).unwrap();
    let mut raw = Raw {
        memory: raw.rig.memory.snapshot(),
        ..raw
    };
    let mut device = raw.device();
    raw.descriptor(0, raw.buffer(), 8, 0, 0);
    raw.descriptor(1, raw.buffer(), 8, WRITE, 0);
    raw.offer(0);
    raw.offer(1);
    assert_eq!(raw.take(&mut device).unwrap().len(), 1);
    assert_eq!(raw.take(&mut device).unwrap_err().rule, Rule::Address);
}

#[test]
fn a_ring_that_is_not_mapped_is_empty() {
    let mut raw = Raw::new(8, ALL);
    raw.descriptor(0, raw.buffer(), 8, WRITE, 0);
    raw.offer(0);
    let mut device = raw.device();
    let nothing = crate::memory::GuestMemory::new().snapshot();
    assert!(!device.map(&nothing).unwrap());
    let mut batch = Batch::default();
    batch.attach(&nothing);
    assert_eq!(device.take(&nothing, &mut batch, 8).unwrap(), 0);
    assert!(!device.arm(&nothing).unwrap());
    device.disarm(&nothing).unwrap();
    assert!(!device.publish(&nothing).unwrap());
    // Mapped, unmapped again with a chain taken, mapped again.
    assert_eq!(raw.take(&mut device).unwrap().len(), 1);
    assert!(!device.map(&nothing).unwrap());
    assert!(device.complete(&nothing, Token::new(0, 1), 1).is_err());
    raw.complete(&mut device, 0, 8);
    assert_eq!(raw.get16(raw.rig.config.used + 2), 1);
}

#[test]
fn configurations_that_cannot_be() {
    let good = Raw::new(8, ALL).rig.config;
    let refused = |change: fn(&mut Config)| {
        let mut config = good;
        change(&mut config);
        Ring::new(&config).unwrap_err()
    };
    for size in [0, 3, 65536, u32::MAX] {
        assert_eq!(
            Ring::new(&Config { size, ..good }).unwrap_err(),
            ConfigError::Size(size)
        );
    }
    assert!(matches!(
        refused(|c| c.descriptors += 8),
        ConfigError::Alignment(..)
    ));
    assert!(matches!(
        refused(|c| c.available += 1),
        ConfigError::Alignment(..)
    ));
    assert!(matches!(refused(|c| c.used += 2), ConfigError::Alignment(..)));
    assert!(matches!(
        refused(|c| c.used = u64::MAX - 3),
        ConfigError::Wraps(..)
    ));
    assert!(matches!(
        refused(|c| c.descriptors = u64::MAX - 15),
        ConfigError::Wraps(..)
    ));
    assert!(matches!(refused(|c| c.base = 0x10000), ConfigError::Base(..)));
    for size in (0..16).map(|power| 1 << power) {
        Ring::new(&Config { size, ..good }).unwrap();
    }
}

#[test]
fn misaligned_in_host_memory() {
    for (layout, offset, rule) in [
        (0, 1, Rule::Alignment),
        (0, 4, Rule::Alignment),
        (feature::RING_PACKED, 1, Rule::PackedAlignment),
        (feature::RING_PACKED, 4, Rule::PackedAlignment),
    ] {
        // The addresses are fine, but the front end has mapped the region at an odd offset.
        let rig = Loopback::new(8, ALL | layout, 1 << 20).unwrap();
        let odd = RegionRequest {
            guest_address: GUEST,
            user_address: None,
            size: 0x10000,
            fd: rig.file.as_fd(),
            offset,
            writable: true,
        };
        rig.memory.replace(&[odd], Duration::from_secs(1)).unwrap();
        let memory = rig.memory.snapshot();
        let fault = Ring::new(&rig.config).unwrap().map(&memory).unwrap_err();
        assert_eq!(fault.rule, rule, "device, offset {offset}");
        let fault = Driver::new(&rig.config, memory).unwrap_err();
        assert_eq!(fault.rule, rule, "driver, offset {offset}");
    }
}

#[test]
fn features_above_64_are_no_features_of_a_ring() {
    // Each of the bits that rings look at, 64 further up: cut to 64 bits or shifted by mistake, one
    // of them would change the layout or the rules.
    for size in [3, 8] {
        for bit in [
            feature::RING_PACKED,
            feature::IN_ORDER,
            feature::EVENT_IDX,
            feature::INDIRECT_DESC,
        ] {
            let raw = Raw::new(8, 0);
            let high = Config {
                size,
                features: bit << 64,
                ..raw.rig.config
            };
            assert_eq!(Ring::new(&high).is_ok(), size == 8, "a split ring of {size}");
            let both = Config {
                features: 1 << 127 | bit,
                base: 0x8000_8000,
                size: 3,
                ..raw.rig.config
            };
            assert_eq!(Ring::new(&both).is_ok(), bit == feature::RING_PACKED, "{bit:#x}");
        }
    }
    let mut raw = Raw::new(8, feature::INDIRECT_DESC << 64);
    raw.descriptor_at(raw.buffer(), raw.buffer(), 8, 0, 0);
    raw.descriptor(0, raw.buffer(), 16, INDIRECT, 0);
    raw.offer(0);
    assert_eq!(raw.take(&mut raw.device()).unwrap_err().rule, Rule::NotNegotiated);
}
