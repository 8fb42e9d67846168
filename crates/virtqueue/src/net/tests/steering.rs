//! Hashes against published vectors, queues by hash and by flow, and filters.

use super::*;
use crate::net::filter::Filter;
use crate::net::port::Port;
use crate::net::receive::Receiver;
use crate::net::steering::Steering;
use crate::net::toeplitz::{ALL_TYPES, Hasher};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// The key and the values that Microsoft publishes to verify RSS with.
const KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
    0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
    0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];
type End = (&'static str, u16);
/// Destination, source, hash of the addresses, hash with the ports.
type Vector = (End, End, u32, u32);

const VECTORS_4: [Vector; 5] = [
    (
        ("161.142.100.80", 1766),
        ("66.9.149.187", 2794),
        0x323e_8fc2,
        0x51cc_c178,
    ),
    (
        ("65.69.140.83", 4739),
        ("199.92.111.2", 14230),
        0xd718_262a,
        0xc626_b0ea,
    ),
    (
        ("12.22.207.184", 38024),
        ("24.19.198.95", 12898),
        0xd2d0_a5de,
        0x5c2b_394a,
    ),
    (
        ("209.142.163.6", 2217),
        ("38.27.205.30", 48228),
        0x8298_9176,
        0xafc7_327f,
    ),
    (
        ("202.188.127.2", 1303),
        ("153.39.163.191", 44251),
        0x5d18_09c5,
        0x10e8_28a2,
    ),
];
const VECTORS_6: [Vector; 3] = [
    (
        ("3ffe:2501:200:3::1", 1766),
        ("3ffe:2501:200:1fff::7", 2794),
        0x2cc1_8cd5,
        0x4020_7d3d,
    ),
    (
        ("ff02::1", 4739),
        ("3ffe:501:8::260:97ff:fe40:efab", 14230),
        0x0f0c_461c,
        0xdde5_1bbf,
    ),
    (
        ("fe80::200:f8ff:fe21:67cf", 38024),
        ("3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251),
        0x4b61_e985,
        0x02d1_feef,
    ),
];

fn flow(protocol: u8, source: (&str, u16), destination: (&str, u16)) -> Vec<u8> {
    let version = if source.0.contains(':') { 6 } else { 4 };
    let packet = Packet {
        version,
        protocol,
        payload: 0,
        flags: 0,
    };
    let mut frame = packet.frame();
    if version == 4 {
        frame[26..30].copy_from_slice(&source.0.parse::<Ipv4Addr>().unwrap().octets());
        frame[30..34].copy_from_slice(&destination.0.parse::<Ipv4Addr>().unwrap().octets());
    } else {
        frame[22..38].copy_from_slice(&source.0.parse::<Ipv6Addr>().unwrap().octets());
        frame[38..54].copy_from_slice(&destination.0.parse::<Ipv6Addr>().unwrap().octets());
    }
    let ports = 14 + packet.network_size();
    frame[ports..ports + 2].copy_from_slice(&source.1.to_be_bytes());
    frame[ports + 2..ports + 4].copy_from_slice(&destination.1.to_be_bytes());
    frame
}

fn hash(types: u32, frame: &[u8]) -> Option<(u32, u16)> {
    Hasher::new(types, &KEY).hash(frame, &dissect(frame).unwrap())
}

#[test]
fn hashes_are_those_that_were_published() {
    for (destination, source, addresses, ports) in VECTORS_4.iter().chain(&VECTORS_6).copied() {
        let six = source.0.contains(':');
        let base = if six {
            VIRTIO_NET_HASH_REPORT_IPv6
        } else {
            VIRTIO_NET_HASH_REPORT_IPv4
        };
        for (protocol, report) in [(6, base + 1), (17, base + 2)] {
            let frame = flow(protocol, source, destination);
            assert_eq!(hash(ALL_TYPES, &frame), Some((ports, report)));
            let only = VIRTIO_NET_HASH_TYPE_IPv4 | VIRTIO_NET_HASH_TYPE_IPv6;
            assert_eq!(hash(only, &frame), Some((addresses, base)));
        }
        // No ports: another protocol, or a fragment.
        let mut other = flow(6, source, destination);
        let field = if six { 20 } else { 23 };
        other[field] = 1;
        assert_eq!(hash(ALL_TYPES, &other), Some((addresses, base)));
        if !six {
            let mut fragment = flow(6, source, destination);
            fragment[20] = 0x20;
            assert_eq!(hash(ALL_TYPES, &fragment), Some((addresses, base)));
        }
    }
    let frame = flow(6, VECTORS_4[0].1, VECTORS_4[0].0);
    assert_eq!(
        hash(VIRTIO_NET_HASH_TYPE_UDPv4 | VIRTIO_NET_HASH_TYPE_TCPv6, &frame),
        None
    );
}

#[test]
fn addresses_of_extension_headers_count_where_that_is_enabled() {
    let (destination, source, addresses, ports) = VECTORS_6[0];
    // The addresses of the vector stand in a home address option and a routing header; others in the IPv6 header.
    let plain = flow(6, source, destination);
    let mut frame = plain[..54].to_vec();
    frame[22..54].fill(0xaa);
    frame[20] = 43;
    frame.extend([60, 2, 2, 1, 0, 0, 0, 0]);
    frame.extend(&plain[38..54]);
    frame.extend([6, 2, 1, 2, 0, 0, 0xc9, 16]);
    frame.extend(&plain[22..38]);
    frame.extend(&plain[54..]);
    assert_eq!(
        hash(ALL_TYPES, &frame),
        Some((ports, VIRTIO_NET_HASH_REPORT_TCPv6_EX))
    );
    let only = VIRTIO_NET_HASH_TYPE_IP_EX;
    assert_eq!(
        hash(only, &frame),
        Some((addresses, VIRTIO_NET_HASH_REPORT_IPv6_EX))
    );
    // Else extension headers are skipped (5.1.9.4.3.4).
    let (value, report) = hash(VIRTIO_NET_HASH_TYPE_TCPv6, &frame).unwrap();
    assert_eq!(report, VIRTIO_NET_HASH_REPORT_TCPv6);
    assert_ne!(value, ports);
}

#[test]
fn a_thousand_flows_go_where_their_hashes_say() {
    let port = Arc::new(Port::new(4).unwrap());
    let _receivers: Vec<_> = (0..4)
        .map(|queue| Receiver::new(port.clone(), queue, 256))
        .collect();
    let table: Box<[u16]> = (0..128).map(|entry| entry % 4).collect();
    port.update(|settings| {
        settings.link = true;
        settings.filter.promiscuous = true;
        settings.hasher = Some(Arc::new(Hasher::new(ALL_TYPES, &KEY)));
        settings.steering = Steering::Table {
            table: table.clone(),
            unclassified: 3,
        };
    });
    let mut expected = [0; 4];
    for number in 0..1000u16 {
        let source = format!("10.1.{}.{}", number / 200, number % 200 + 1);
        let frame = flow(6, (&source, 1024 + number), ("10.2.0.1", 80));
        let (value, _) = hash(ALL_TYPES, &frame).unwrap();
        expected[usize::from(table[value as usize & 127])] += 1;
        let mut frames = Frames::default();
        frames.push(&frame, Offload::default());
        assert_eq!(port.deliver(&mut frames), 1);
    }
    let mut arp = Frames::default();
    arp.push(&[0xff; 60], Offload::default());
    port.deliver(&mut arp);
    expected[3] += 1;
    let found = port.pairs.iter().map(|pair| {
        let mut frames = Frames::default();
        pair.inbox.take(&mut frames);
        frames.len()
    });
    assert_eq!(found.collect::<Vec<_>>(), expected);
    assert!(expected.iter().all(|count| *count > 200));
}

#[test]
fn flows_come_back_to_where_they_are_sent_from() {
    let port = Arc::new(Port::new(4).unwrap());
    let mut receivers: Vec<_> = (0..4)
        .map(|queue| Receiver::new(port.clone(), queue, 256))
        .collect();
    port.update(|settings| {
        settings.link = true;
        settings.filter.promiscuous = true;
        settings.steering = Steering::Automatic(4);
    });
    let arrived = |frame: &[u8]| {
        let mut frames = Frames::default();
        frames.push(frame, Offload::default());
        port.deliver(&mut frames);
        let queue = port
            .pairs
            .iter()
            .position(|pair| pair.inbox.take(&mut Frames::default()));
        queue.map(|queue| queue as u16)
    };
    for number in 0..100u16 {
        let own = ("10.0.0.1", 2000 + number);
        port.flows.learn(&flow(6, own, ("10.0.0.2", 80)), number % 4);
        assert_eq!(arrived(&flow(6, ("10.0.0.2", 80), own)), Some(number % 4));
    }
    // A queue that is being reset: another one is chosen. With fewer queues, only those are used.
    port.flows.learn(&flow(6, ("10.0.0.1", 1), ("10.0.0.2", 2)), 3);
    drop(receivers.pop());
    assert_eq!(arrived(&flow(6, ("10.0.0.2", 2), ("10.0.0.1", 1))), Some(0));
    port.update(|settings| settings.steering = Steering::Automatic(2));
    for number in 0..100 {
        let queue = arrived(&flow(6, ("10.0.0.2", number), ("10.0.0.1", 9)));
        assert!(queue.is_some_and(|queue| queue < 2));
    }
}

#[test]
fn filters_let_pass_what_is_wanted() {
    const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 9];
    const GROUP: [u8; 6] = [1, 0, 0x5e, 0, 0, 1];
    const ALL: [u8; 6] = [0xff; 6];
    let base = Filter {
        mac: OWN,
        ..Filter::default()
    };
    let with = |change: fn(&mut Filter)| {
        let mut filter = base.clone();
        change(&mut filter);
        [OWN, OTHER, GROUP, ALL].map(|address| {
            let frame = [&address[..], &[2, 0, 0, 0, 0, 7, 8, 0], &[0; 46]].concat();
            filter.accepts(&frame)
        })
    };
    assert_eq!(with(|_| ()), [true, false, false, true]);
    assert_eq!(with(|f| f.promiscuous = true), [true; 4]);
    assert_eq!(with(|f| f.all_multicast = true), [true, false, true, true]);
    assert_eq!(with(|f| f.all_unicast = true), [true, true, false, true]);
    assert_eq!(with(|f| f.macs = [OTHER, GROUP].into()), [true; 4]);
    assert_eq!(
        with(|f| (f.all_multicast, f.no_multicast) = (true, true)),
        [true, false, false, true]
    );
    assert_eq!(
        with(|f| (f.all_unicast, f.no_unicast) = (true, true)),
        [false, false, false, true]
    );
    assert_eq!(
        with(|f| (f.all_multicast, f.no_broadcast) = (true, true)),
        [true, false, true, false]
    );
    assert_eq!(
        with(|f| (f.promiscuous, f.no_unicast, f.no_multicast, f.no_broadcast) = (true, true, true, true)),
        [true; 4]
    );
    let mut filter = Filter {
        promiscuous: true,
        ..base
    };
    let tagged = |id: u8| [&OWN[..], &OTHER, &[0x81, 0, 0, id], &[0; 46]].concat();
    assert!(filter.accepts(&tagged(5)));
    let mut vlans = Box::new([0u64; 64]);
    vlans[0] = 1 << 5;
    filter.vlans = Some(vlans);
    assert!(filter.accepts(&tagged(5)) && !filter.accepts(&tagged(6)));
    assert!(filter.accepts(&[&OWN[..], &OTHER, &[8, 0], &[0; 46]].concat()));
}
