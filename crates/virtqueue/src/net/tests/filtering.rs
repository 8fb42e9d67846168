//! Flow filters: which packets a rule matches, and what comes of it.

use super::*;
use crate::net::flow::{Rule, Rules, Verdict};
use crate::net::port::Port;
use crate::net::receive::Receiver;
use crate::net::steering::Steering;
use std::sync::Arc;

const ETH: u8 = VIRTIO_NET_FF_MASK_TYPE_ETH;
const V4: u8 = VIRTIO_NET_FF_MASK_TYPE_IPV4;
const V6: u8 = VIRTIO_NET_FF_MASK_TYPE_IPV6;
const T: u8 = VIRTIO_NET_FF_MASK_TYPE_TCP;
const U: u8 = VIRTIO_NET_FF_MASK_TYPE_UDP;

const SMALL: usize = 26;

fn packet(kind: Packet) -> Vec<u8> {
    Packet {
        payload: SMALL,
        ..kind
    }
    .frame()
}

/// A rule about these headers that compares the bytes at these places with those of a frame.
fn rule(types: &[u8], like: &[u8], places: &[usize], verdict: Verdict) -> Rule {
    let sizes: Vec<usize> = types
        .iter()
        .map(|kind| [0, 14, 20, 40, 20, 8][usize::from(*kind)])
        .collect();
    let total = sizes.iter().sum();
    let mut masks = vec![0; total];
    places.iter().for_each(|at| masks[*at] = 0xff);
    let mut keys = like.to_vec();
    keys.resize(total, 0);
    Rule::new(types, &masks, &keys, verdict).unwrap()
}

fn matches(rule: &Rule, frame: &[u8]) -> bool {
    Rules::new([rule.clone()]).find(frame).is_some()
}

const PORTS_4: [usize; 6] = [12, 13, 23, 34, 36, 37];
const PORTS_6: [usize; 6] = [12, 13, 20, 54, 56, 57];

#[test]
fn rules_match_what_they_are_about() {
    let frames = [TCP4, UDP4, TCP6, UDP6].map(packet);
    let rules = [
        rule(&[ETH, V4, T], &frames[0], &PORTS_4, Verdict::Drop),
        rule(&[ETH, V4, U], &frames[1], &PORTS_4, Verdict::Drop),
        rule(&[ETH, V6, T], &frames[2], &PORTS_6, Verdict::Drop),
        rule(&[ETH, V6, U], &frames[3], &PORTS_6, Verdict::Drop),
    ];
    for (number, rule) in rules.iter().enumerate() {
        for (other, frame) in frames.iter().enumerate() {
            assert_eq!(matches(rule, frame), number == other, "{number} {other}");
        }
    }
    // Each byte that counts, and none that does not.
    for ((rule, frame), places) in rules
        .iter()
        .zip(&frames)
        .zip([PORTS_4, PORTS_4, PORTS_6, PORTS_6])
    {
        for at in 0..frame.len() {
            let mut changed = frame.clone();
            changed[at] ^= 0xff;
            // These tell where the next header is, and whether there is one.
            let structure = at == 14 || (frame[12] == 8 && (20..22).contains(&at));
            if !structure {
                assert_eq!(matches(rule, &changed), !places.contains(&at), "byte {at}");
            }
        }
    }
}

#[test]
fn single_bits_are_compared() {
    let frame = packet(TCP4);
    let mut masks = [0; 14];
    masks[0] = 1;
    let rule = Rule::new(&[ETH], &masks, &[1; 14], Verdict::Drop).unwrap();
    assert!(!matches(&rule, &frame));
    let multicast = [&[0x33][..], &frame[1..]].concat();
    assert!(matches(&rule, &multicast));
    // A key's bits outside of the mask mean nothing.
    let all = Rule::new(&[ETH], &[0; 14], &[0xa5; 14], Verdict::Drop).unwrap();
    assert!(matches(&all, &frame) && matches(&all, &[0; 14]));
}

#[test]
fn packets_that_are_cut_do_no_harm() {
    for (kind, types, places) in [
        (TCP4, [ETH, V4, T], PORTS_4),
        (UDP4, [ETH, V4, U], PORTS_4),
        (TCP6, [ETH, V6, T], PORTS_6),
        (UDP6, [ETH, V6, U], PORTS_6),
    ] {
        let frame = packet(kind);
        let ethernet = rule(&[ETH], &frame, &[12, 13], Verdict::Drop);
        let network = rule(&types[..2], &frame, &places[..2], Verdict::Drop);
        let transport = rule(&types, &frame, &places, Verdict::Drop);
        for size in 0..=frame.len() {
            let cut = &frame[..size];
            assert_eq!(matches(&ethernet, cut), size >= 14, "{size}");
            assert_eq!(matches(&network, cut), size >= 14 + kind.network_size(), "{size}");
            assert_eq!(matches(&transport, cut), size >= kind.headers(), "{size}");
        }
    }
}

#[test]
fn headers_that_are_not_what_they_say_do_not_match() {
    let frame = packet(TCP4);
    let network = rule(&[ETH, V4], &frame, &[12, 13], Verdict::Drop);
    let transport = rule(&[ETH, V4, T], &frame, &PORTS_4, Verdict::Drop);
    for first in [0x65, 0x44, 0x40, 0x00] {
        let mut wrong = frame.clone();
        wrong[14] = first;
        assert!(!matches(&network, &wrong), "{first:#x}");
    }
    // Options: the transport header comes after them.
    let mut options = frame.clone();
    options[14] = 0x46;
    assert!(matches(&network, &options) && !matches(&transport, &options));
    options.splice(34..34, [1; 4]);
    assert!(matches(&transport, &options));
    // A VLAN tag is an EtherType of its own.
    let tagged = [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat();
    assert!(!matches(&network, &tagged));
    assert!(matches(&rule(&[ETH], &tagged, &[12, 13], Verdict::Drop), &tagged));
    // The first fragment has ports, others have not.
    for (field, whole) in [([0x20, 0], true), ([0, 1], false), ([0x20, 1], false)] {
        let mut fragment = frame.clone();
        fragment[20..22].copy_from_slice(&field);
        assert!(matches(&network, &fragment));
        assert_eq!(matches(&transport, &fragment), whole, "{field:?}");
    }
    let six = packet(TCP6);
    let mut wrong = six.clone();
    wrong[14] = 0x45;
    assert!(!matches(
        &rule(&[ETH, V6], &six, &[12, 13], Verdict::Drop),
        &wrong
    ));
}

#[test]
fn what_follows_ipv6_extensions_is_the_next_header() {
    let plain = packet(TCP6);
    let transport = rule(&[ETH, V6, T], &plain, &PORTS_6, Verdict::Drop);
    let network = rule(&[ETH, V6], &plain, &[12, 13], Verdict::Drop);
    let next = rule(&[ETH, V6], &plain, &[12, 13, 20], Verdict::Drop);
    let mut extended = plain.clone();
    extended[20] = 0;
    let extensions = [
        &[60, 0, 0, 0, 0, 0, 0, 0][..],
        &[44, 0, 0, 0, 0, 0, 0, 0],
        &[6, 0, 0, 1, 0, 0, 0, 9],
    ]
    .concat();
    extended.splice(54..54, extensions);
    assert!(matches(&transport, &extended) && matches(&next, &extended));
    // Not the first fragment.
    let mut later = extended.clone();
    later[54 + 16 + 3] = 8;
    assert!(matches(&next, &later) && !matches(&transport, &later));
    // Cut within the extensions: nobody knows what comes next, but the header is there.
    for size in 54..78 {
        assert!(matches(&network, &extended[..size]), "{size}");
        assert!(!matches(&next, &extended[..size]), "{size}");
    }
}

#[test]
fn rules_that_are_none_are_refused() {
    let make = |types: &[u8], masks: usize, keys: usize| {
        Rule::new(types, &vec![0; masks], &vec![0; keys], Verdict::Drop).is_some()
    };
    assert!(make(&[ETH], 14, 14) && make(&[ETH, V6, U], 62, 62));
    assert!(!make(&[0], 0, 0) && !make(&[VIRTIO_NET_FF_MASK_TYPE_ESP], 8, 8) && !make(&[255], 255, 255));
    for size in [0, 13, 15, 255] {
        assert!(!make(&[ETH], size, 14) && !make(&[ETH], 14, size), "{size}");
    }
}

/// Frames that came to each queue, and how many were taken.
fn delivered(port: &Port, frames: &[Vec<u8>]) -> (Vec<usize>, usize) {
    let mut batch = Frames::default();
    frames
        .iter()
        .for_each(|frame| batch.push(frame, Offload::default()));
    let taken = port.deliver(&mut batch);
    let found = port.pairs.iter().map(|pair| {
        let mut frames = Frames::default();
        pair.inbox.take(&mut frames);
        frames.len()
    });
    (found.collect(), taken)
}

#[test]
fn rules_come_after_filters_and_before_steering() {
    let port = Arc::new(Port::new(4).unwrap());
    let mut receivers: Vec<_> = (0..4)
        .map(|queue| Receiver::new(port.clone(), queue, 256))
        .collect();
    let frames = [TCP4, UDP4, TCP6, UDP6].map(packet);
    port.update(|settings| {
        settings.link = true;
        settings.filter.mac = [2, 0, 0, 0, 0, 1];
        settings.steering = Steering::Table {
            table: [3].into(),
            unclassified: 3,
        };
        settings.rules = Some(Arc::new(Rules::new([
            rule(&[ETH, V4, T], &frames[0], &PORTS_4, Verdict::Queue(2)),
            // Never reached by what matches the first.
            rule(&[ETH, V4], &frames[0], &[12, 13, 23], Verdict::Drop),
            rule(&[ETH, V4], &frames[0], &[12, 13], Verdict::Queue(1)),
            rule(&[ETH, V6, U], &frames[3], &PORTS_6, Verdict::Drop),
        ])));
    });
    assert_eq!(delivered(&port, &frames), (vec![0, 1, 1, 1], 3));
    // An address that is not wanted.
    let others = frames
        .clone()
        .map(|frame| [&[2, 0, 0, 0, 0, 9][..], &frame[6..]].concat());
    assert_eq!(delivered(&port, &others), (vec![0; 4], 0));
    // One queue alone has rules, too.
    port.update(|settings| settings.steering = Steering::Automatic(1));
    assert_eq!(delivered(&port, &frames), (vec![1, 1, 1, 0], 3));
    // A queue that is being reset: what goes there is dropped (5.1.9.6.4), also with automatic steering.
    drop(receivers.remove(2));
    assert_eq!(delivered(&port, &frames), (vec![1, 1, 0, 0], 2));
    assert_eq!(port.received(2).unwrap().drops.get(), 1);
    port.reset();
    assert!(port.settings().rules.is_none());
}
