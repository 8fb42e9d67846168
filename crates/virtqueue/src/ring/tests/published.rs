//! What the driver gets to see: used entries, events, the dirty log, the base.

use super::*;
use crate::memory::DirtyLog;
use std::sync::Mutex;

#[test]
fn event_index_at_every_boundary() {
    // Against the standard's words: a notification is due when the entry whose index is
    // `used_event` has been written.
    for start in [
        0u16, 1, 3, 4, 0x7ffe, 0x7fff, 0x8000, 0xfffa, 0xfffd, 0xfffe, 0xffff,
    ] {
        for count in 1..=4u16 {
            for event in -3i32..=6 {
                let (mut raw, mut device) = at(start, ALL);
                let event = start.wrapping_add(event as u16);
                raw.set_used_event(event);
                (0..count).for_each(|head| raw.offer(head));
                assert_eq!(raw.take(&mut device).unwrap().len(), usize::from(count));
                for head in 0..count {
                    device.complete(&raw.memory, Token::new(head, 1), 0).unwrap();
                }
                let due = (0..count).any(|i| start.wrapping_add(i) == event);
                let told = device.publish(&raw.memory).unwrap();
                assert_eq!(told, due, "start {start:#x} count {count} event {event:#x}");
                assert_eq!(raw.get16(raw.rig.config.used + 2), start.wrapping_add(count));
                assert!(!device.publish(&raw.memory).unwrap(), "nothing new");
            }
        }
    }
}

#[test]
fn arming_asks_for_the_next_chain_and_looks_again() {
    for start in [0u16, 0xfffe, 0xffff] {
        let (mut raw, mut device) = at(start, ALL);
        assert!(!device.arm(&raw.memory).unwrap());
        assert_eq!(raw.avail_event(), start);
        raw.offer(0);
        assert!(device.arm(&raw.memory).unwrap(), "it came in between");
        raw.take(&mut device).unwrap();
        assert!(!device.arm(&raw.memory).unwrap());
        assert_eq!(raw.avail_event(), start.wrapping_add(1));
        assert_eq!(raw.get16(raw.rig.config.used), 0, "2.7.10.2: flags stay 0");
        device.disarm(&raw.memory).unwrap();
        assert_eq!(raw.get16(raw.rig.config.used), 0);
    }
}

#[test]
fn without_event_index_flags_say_it() {
    let (mut raw, mut device) = at(0, 0);
    device.disarm(&raw.memory).unwrap();
    assert_eq!(raw.get16(raw.rig.config.used), 1);
    raw.offer(0);
    raw.offer(1);
    assert!(device.arm(&raw.memory).unwrap());
    assert_eq!(raw.get16(raw.rig.config.used), 0);
    raw.take(&mut device).unwrap();
    assert!(raw.complete(&mut device, 0, 0), "flags are 0");
    raw.put(raw.rig.config.available, &1u16.to_le_bytes());
    assert!(!raw.complete(&mut device, 1, 0), "flags are 1");
}

#[test]
fn a_successor_takes_back_that_no_kicks_are_wanted() {
    for features in [0, ALL] {
        let (raw, _) = at(0, features);
        raw.put(raw.rig.config.used, &1u16.to_le_bytes());
        raw.device().arm(&raw.memory).unwrap();
        assert_eq!(raw.get16(raw.rig.config.used), 0);
    }
}

#[test]
fn used_entries_hold_heads_and_lengths_and_wrap() {
    let (mut raw, mut device) = at(0xfffe, ALL);
    for round in 0..10u32 {
        raw.offer(3);
        raw.offer(1);
        assert_eq!(raw.take(&mut device).unwrap(), [(3, 0, 8), (1, 0, 8)]);
        assert_eq!(device.outstanding(), 2);
        // Out of order.
        device.complete(&raw.memory, Token::new(1, 1), round).unwrap();
        raw.complete(&mut device, 3, 8);
        let slot = u64::from((0xfffeu16).wrapping_add(2 * round as u16) % 4);
        let mut bytes = [0; 16];
        raw.memory
            .read(Space::Guest, raw.rig.config.used + 4 + 8 * slot, &mut bytes)
            .unwrap();
        let words: Vec<u32> = bytes
            .chunks(4)
            .map(|w| u32::from_le_bytes(w.try_into().unwrap()))
            .collect();
        assert_eq!(words, [1, round, 3, 8]);
    }
    assert_eq!(device.base(), u32::from(0xfffeu16.wrapping_add(20)));
}

#[test]
fn completions_that_are_none_are_refused() {
    let (mut raw, mut device) = at(0, ALL);
    let complete = |device: &mut Ring, id| device.complete(&raw.memory, Token::new(id, 1), 0);
    assert!(complete(&mut device, 0).is_err(), "never taken");
    assert!(complete(&mut device, 400).is_err(), "cannot be");
    raw.offer(0);
    raw.take(&mut device).unwrap();
    raw.complete(&mut device, 0, 0);
    assert!(
        device.complete(&raw.memory, Token::new(0, 1), 0).is_err(),
        "twice"
    );
}

#[test]
fn held_chains_are_offered_again() {
    // Which of four chains are completed, and where the base then is.
    for (completed, base, outstanding) in [
        (&[0u16, 1, 2, 3][..], 2u16, 0),
        (&[], 0xfffe, 4),
        (&[0], 0xffff, 3),
        (&[0, 1], 0, 2),
        (&[1, 0, 2], 1, 1),
        (&[3], 2, 3),    // the youngest is done: nothing can be offered again
        (&[0, 2], 1, 2), // only the last
    ] {
        let (mut raw, mut device) = at(0xfffe, ALL);
        (0..4).for_each(|head| raw.offer(head));
        assert_eq!(raw.take(&mut device).unwrap().len(), 4);
        completed.iter().for_each(|head| {
            raw.complete(&mut device, *head, 0);
        });
        assert_eq!(
            (device.base(), device.outstanding()),
            (u32::from(base), outstanding),
            "{completed:?}"
        );
        assert_eq!(device.position(), 2);
        // A successor goes on there.
        raw.rig.config.base = device.base();
        let again: Vec<u16> = raw.take(&mut raw.device()).unwrap().iter().map(|c| c.0).collect();
        assert_eq!(
            again,
            (0..4)
                .filter(|h| base != 2 && *h >= base.wrapping_sub(0xfffe))
                .collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_batch_is_bounded() {
    let mut raw = Raw::new(256, ALL);
    let mut device = raw.device();
    for i in 0..256 {
        raw.descriptor(i, raw.buffer(), 8, 0, 0);
        raw.offer(i as u16);
    }
    let mut batch = raw.batch();
    for expected in [100, 100, 56, 0] {
        batch.clear();
        assert_eq!(device.take(&raw.memory, &mut batch, 100).unwrap(), expected);
    }
}

#[derive(Debug, Default)]
struct Log(Mutex<Vec<(u64, u64)>>);
impl DirtyLog for Log {
    fn mark(&self, address: u64, size: u64) {
        self.0.lock().unwrap().push((address, size));
    }
}

#[test]
fn everything_written_is_logged() {
    let (mut raw, _) = at(0, ALL);
    raw.descriptor(0, raw.buffer(), 8, NEXT, 1);
    raw.descriptor(1, raw.buffer() + 100, 20, WRITE | NEXT, 2);
    raw.descriptor(2, raw.buffer() + 200, 20, WRITE, 0);
    raw.offer(0);
    // The ring is given in user addresses, as a front end does; the log wants guest addresses.
    let config = raw.rig.config;
    raw.rig.config.space = Space::User;
    for address in [
        &mut raw.rig.config.descriptors,
        &mut raw.rig.config.available,
        &mut raw.rig.config.used,
    ] {
        *address = *address - GUEST + USER;
    }
    let mut device = raw.device();
    assert_eq!(raw.take(&mut device).unwrap(), [(0, 8, 40)]);
    // Switched on while the chain is out.
    let log = Arc::new(Log::default());
    raw.rig
        .memory
        .set_dirty_log(Some(log.clone()), Duration::from_secs(1))
        .unwrap();
    raw.memory = raw.rig.memory.snapshot();
    raw.complete(&mut device, 0, 25);
    device.arm(&raw.memory).unwrap();
    // What was said already is not said again, or a queue that wakes to find a new log would dirty it.
    device.arm(&raw.memory).unwrap();
    let buffer = raw.buffer();
    let used = config.used;
    assert_eq!(
        *log.0.lock().unwrap(),
        [
            (buffer + 100, 20),
            (buffer + 200, 5),
            (used + 4, 8),
            (used + 2, 2),
            (used + 4 + 8 * 4, 2)
        ]
    );
}
