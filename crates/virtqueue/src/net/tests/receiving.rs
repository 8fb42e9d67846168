//! Frames into receive buffers.

use super::bed::Driver;
use super::*;
use crate::fault::Rule;
use crate::net::port::{GUEST_OFFLOADS, Port};
use crate::net::receive::Receiver;
use crate::worker::Handler;
use std::sync::Arc;

const MERGE: u128 = VIRTIO_NET_F_MRG_RXBUF;

struct Bed {
    port: Arc<Port>,
    receiver: Receiver,
    driver: Driver,
}

impl Bed {
    fn new(features: u128, size: usize) -> Self {
        let port = Arc::new(Port::new(1).unwrap());
        port.update(|settings| {
            settings.link = true;
            settings.features = features;
            settings.offloads = features & GUEST_OFFLOADS;
            settings.filter.promiscuous = true;
        });
        Self {
            receiver: Receiver::new(port.clone(), 0, size),
            port,
            driver: Driver::new(),
        }
    }

    fn deliver(&mut self, frame: &[u8], offload: Offload) -> usize {
        let mut frames = Frames::default();
        frames.push(frame, offload);
        let taken = self.port.deliver(&mut frames);
        self.receiver.reap(&mut self.driver.done).unwrap();
        taken
    }

    fn drops(&self) -> (u64, u64) {
        let received = self.port.received(0).unwrap();
        (received.drops.get(), received.drop_overruns.get())
    }
}

fn header(buffers: u16) -> Vec<u8> {
    let mut header = vec![0; 10];
    header.extend(buffers.to_le_bytes());
    header
}

#[test]
fn a_frame_lies_behind_its_header_in_one_buffer() {
    let frame = Packet { payload: 100, ..UDP4 }.frame();
    for sizes in [&[2000][..], &[12, 2000], &[5, 7, 1, 2000], &[1; 300]] {
        let mut bed = Bed::new(0, 256);
        bed.driver.writable(sizes);
        bed.driver.give(&mut bed.receiver).unwrap();
        assert_eq!(bed.driver.used(), []);
        assert_eq!(bed.deliver(&frame, Offload::default()), 1);
        let expected = [header(1), frame.clone()].concat();
        assert_eq!(bed.driver.used(), [(0, expected)]);
    }
}

#[test]
fn a_long_frame_fills_buffers_to_their_end() {
    let frame = Packet {
        payload: 3000,
        ..UDP4
    }
    .frame();
    let expected = [header(3), frame.clone()].concat();
    let mut bed = Bed::new(MERGE, 256);
    for sizes in [&[1000][..], &[600, 601], &[4000], &[50]] {
        bed.driver.writable(sizes);
    }
    bed.driver.give(&mut bed.receiver).unwrap();
    bed.deliver(&frame, Offload::default());
    let used = bed.driver.used();
    let lengths: Vec<_> = used.iter().map(|(id, data)| (*id, data.len())).collect();
    assert_eq!(lengths, [(0, 1000), (1, 1201), (2, expected.len() - 2201)]);
    let all: Vec<u8> = used.into_iter().flat_map(|(_, data)| data).collect();
    assert_eq!(all, expected);
    // The last buffer is still there for the next frame.
    let short = &frame[..20];
    bed.deliver(short, Offload::default());
    assert_eq!(bed.driver.used(), [(3, [header(1), short.to_vec()].concat())]);
}

#[test]
fn a_frame_waits_for_buffers_and_others_behind_it() {
    let long = Packet {
        payload: 3000,
        ..UDP4
    }
    .frame();
    let mut bed = Bed::new(MERGE, 256);
    bed.driver.writable(&[2000]);
    bed.driver.give(&mut bed.receiver).unwrap();
    bed.deliver(&long, Offload::default());
    bed.deliver(&long[..60], Offload::default());
    assert_eq!(bed.driver.used(), []);
    bed.driver.writable(&[2000]);
    bed.driver.writable(&[2000]);
    bed.driver.give(&mut bed.receiver).unwrap();
    let used = bed.driver.used();
    assert_eq!(used.len(), 3);
    assert_eq!(used[0].1[10..12], [2, 0]);
    assert_eq!(used[2].1[12..], long[..60]);
    assert_eq!(bed.drops(), (0, 0));
}

#[test]
fn a_frame_that_never_fits_is_dropped_and_the_buffer_kept() {
    let long = Packet {
        payload: 3000,
        ..UDP4
    }
    .frame();
    let mut bed = Bed::new(0, 256);
    bed.driver.writable(&[1526]);
    bed.driver.give(&mut bed.receiver).unwrap();
    bed.deliver(&long, Offload::default());
    assert_eq!(bed.driver.used(), []);
    assert_eq!(bed.drops(), (1, 1));
    bed.deliver(&long[..60], Offload::default());
    assert_eq!(bed.driver.used()[0].1.len(), 72);

    // Merged: the queue holds as much as it can, and it is not enough.
    let mut bed = Bed::new(MERGE, 4);
    (0..4).for_each(|_| bed.driver.writable(&[100]));
    bed.driver.give(&mut bed.receiver).unwrap();
    bed.deliver(&long, Offload::default());
    assert_eq!(bed.drops(), (1, 1));
}

#[test]
fn a_buffer_without_room_for_the_header_breaks_the_queue() {
    let frame = Packet { payload: 60, ..UDP4 }.frame();
    for (features, sizes) in [
        (0, &[&[11][..]][..]),
        (MERGE, &[&[11]]),
        (MERGE, &[&[12], &[4]]),
        (VIRTIO_NET_F_HASH_REPORT, &[&[19]]),
        (VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO, &[&[23]]),
        (VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO | MERGE, &[&[23]]),
        (0, &[&[]]),
    ] {
        let mut bed = Bed::new(features, 256);
        sizes.iter().for_each(|sizes| bed.driver.writable(sizes));
        let mut frames = Frames::default();
        frames.push(&frame, Offload::default());
        bed.port.deliver(&mut frames);
        let fault = bed.driver.give(&mut bed.receiver).unwrap_err();
        assert_eq!(fault.rule, Rule::Request);
        assert!(fault.detail.contains("5.1.9.3.1"), "{}", fault.detail);
    }
}

#[test]
fn buffers_of_all_sizes_are_never_overrun() {
    // What a driver gets is what was sent, however its buffers are cut; `used` looks at what lies between them.
    let mut seed = 3u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize
    };
    for round in 0..400 {
        let tunnel = if round % 2 == 0 {
            VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO
        } else {
            0
        };
        let header = if tunnel == 0 { 12 } else { 24 };
        let mut bed = Bed::new(MERGE | tunnel, 256);
        for _ in 0..40 {
            // Each has room for the header, in pieces of which many have one byte.
            let mut sizes = vec![1; random() % 30];
            sizes.push(header + random() % 200);
            bed.driver.writable(&sizes);
        }
        bed.driver.give(&mut bed.receiver).unwrap();
        let frames: Vec<Vec<u8>> = (0..6).map(|number| vec![number; 14 + random() % 700]).collect();
        for frame in &frames {
            bed.deliver(frame, Offload::default());
        }
        let mut used = bed.driver.used().into_iter();
        for frame in &frames {
            let (_, mut data) = used.next().unwrap();
            let count = u16::from_le_bytes([data[10], data[11]]);
            (1..count).for_each(|_| data.extend(used.next().unwrap().1));
            assert_eq!(&data[header..], frame);
        }
        assert!(used.next().is_none());
        assert_eq!(bed.drops(), (0, 0));
    }
}

#[test]
fn each_driver_gets_what_it_negotiated() {
    let guest = |bits: u128| VIRTIO_NET_F_GUEST_CSUM | bits;
    let table = [
        (TCP4, VIRTIO_NET_F_GUEST_TSO4),
        (TCP6, VIRTIO_NET_F_GUEST_TSO6),
        (UDP4, VIRTIO_NET_F_GUEST_USO4 | VIRTIO_NET_F_GUEST_USO6),
        (UDP6, VIRTIO_NET_F_GUEST_USO4 | VIRTIO_NET_F_GUEST_USO6),
    ];
    // The header has no place for tunnels here.
    let plain =
        GUEST_OFFLOADS & !(VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO | VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO_CSUM);
    for (packet, large) in table {
        let offload = packet.request(kind(packet), 1000);
        for features in [0, guest(0), guest(large), plain & !large] {
            let mut bed = Bed::new(features | MERGE, 256);
            (0..20).for_each(|_| bed.driver.writable(&[8192]));
            bed.driver.give(&mut bed.receiver).unwrap();
            bed.deliver(&packet.frame(), offload);
            let used = bed.driver.used();
            if features == guest(large) {
                assert_eq!(used.len(), 1);
                assert_eq!(used[0].1[..10], offload.bytes());
                assert_eq!(used[0].1[12..], packet.frame());
                continue;
            }
            assert_eq!(used.len(), 5, "{features:#x}");
            for (_, data) in used {
                assert_eq!(data[..10], [0; 10]);
                packet.verify(&data[12..]);
            }
        }
    }
}

#[test]
fn checksums_are_left_partial_only_for_who_takes_them() {
    let packet = Packet { payload: 500, ..TCP6 };
    let offload = packet.request(0, 0);
    for (features, flags) in [(0, 0), (VIRTIO_NET_F_GUEST_CSUM, 1)] {
        let mut bed = Bed::new(features, 256);
        bed.driver.writable(&[2000]);
        bed.driver.give(&mut bed.receiver).unwrap();
        bed.deliver(&packet.frame(), offload);
        let used = bed.driver.used();
        assert_eq!(used[0].1[0], flags);
        if flags == 0 {
            packet.verify(&used[0].1[12..]);
        }
    }
}

#[test]
fn coalesced_segments_are_counted_for_rsc_ext() {
    let features = VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_RSC_EXT;
    let mut bed = Bed::new(features, 256);
    bed.driver.writable(&[8192]);
    bed.driver.give(&mut bed.receiver).unwrap();
    bed.deliver(&TCP4.frame(), TCP4.request(VIRTIO_NET_HDR_GSO_TCPV4, 1448));
    let used = bed.driver.used();
    let flags = VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_RSC_INFO;
    assert_eq!(used[0].1[..10], [flags, 1, 54, 0, 0xa8, 5, 4, 0, 0, 0]);
}

#[test]
fn offloads_are_switched_while_running() {
    let features = VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_GUEST_TSO4 | MERGE;
    let mut bed = Bed::new(features, 256);
    (0..20).for_each(|_| bed.driver.writable(&[8192]));
    bed.driver.give(&mut bed.receiver).unwrap();
    let mut count = |offloads| {
        bed.port.update(|settings| settings.offloads = offloads);
        bed.deliver(&TCP4.frame(), TCP4.request(VIRTIO_NET_HDR_GSO_TCPV4, 1000));
        bed.driver.used().len()
    };
    assert_eq!(count(features & GUEST_OFFLOADS), 1);
    assert_eq!(count(0), 5);
    assert_eq!(count(VIRTIO_NET_F_GUEST_CSUM), 5);
    assert_eq!(count(features & GUEST_OFFLOADS), 1);
}

#[test]
fn frames_longer_than_the_mtu_are_dropped() {
    let mut bed = Bed::new(VIRTIO_NET_F_MTU, 256);
    bed.port.update(|settings| settings.mtu = Some(1000));
    bed.driver.writable(&[2000]);
    bed.driver.writable(&[2000]);
    bed.driver.give(&mut bed.receiver).unwrap();
    let fits = Packet {
        payload: 1000 - 28,
        ..UDP4
    }
    .frame();
    assert_eq!(bed.deliver(&fits, Offload::default()), 1);
    let long = Packet {
        payload: 1001 - 28,
        ..UDP4
    }
    .frame();
    assert_eq!(bed.deliver(&long, Offload::default()), 0);
    assert_eq!(bed.drops(), (1, 0));
    let mut tagged = fits[..12].to_vec();
    tagged.extend([0x81, 0, 0, 1]);
    tagged.extend(&fits[12..]);
    assert_eq!(bed.deliver(&tagged, Offload::default()), 1);
}

#[test]
fn without_a_link_or_a_queue_nothing_passes() {
    let frame = Packet { payload: 60, ..UDP4 }.frame();
    let mut bed = Bed::new(0, 256);
    bed.port.update(|settings| settings.link = false);
    assert_eq!(bed.deliver(&frame, Offload::default()), 0);
    bed.port.update(|settings| settings.link = true);
    assert_eq!(bed.deliver(&frame, Offload::default()), 1);
    bed.receiver.release();
    assert_eq!(bed.deliver(&frame, Offload::default()), 0);
    assert_eq!(bed.drops(), (1, 0));
}

/// As when a driver resets its queue under traffic: only what lies in its buffers is lost.
#[test]
fn frames_that_wait_stay_while_a_queue_is_reset() {
    let frame = |payload| Packet { payload, ..UDP4 }.frame();
    let mut bed = Bed::new(MERGE, 4);
    bed.driver.writable(&[2000]);
    bed.driver.give(&mut bed.receiver).unwrap();
    // The first is delivered, the next waits for a buffer, the third comes later.
    let mut frames = Frames::default();
    (1..3).for_each(|number| frames.push(&frame(number), Offload::default()));
    bed.port.deliver(&mut frames);
    bed.receiver.reap(&mut bed.driver.done).unwrap();
    assert_eq!(bed.driver.used(), [(0, [header(1), frame(1)].concat())]);
    bed.deliver(&frame(3), Offload::default());
    bed.receiver.cancel();
    // What comes meanwhile is dropped (5.1.9.5.7.3).
    assert_eq!(bed.deliver(&frame(4), Offload::default()), 0);
    bed.receiver = Receiver::new(bed.port.clone(), 0, 8);
    (0..3).for_each(|_| bed.driver.writable(&[2000]));
    bed.driver.give(&mut bed.receiver).unwrap();
    bed.deliver(&frame(5), Offload::default());
    let used: Vec<_> = bed.driver.used().into_iter().map(|(_, data)| data).collect();
    let expected = [2, 3, 5].map(|number| [header(1), frame(number)].concat());
    assert_eq!(used, expected);
    assert_eq!(bed.drops(), (1, 0));
}

#[test]
fn segments_that_wait_stay_while_a_queue_is_reset() {
    let large = TCP4.frame();
    let mut bed = Bed::new(MERGE, 4);
    bed.driver.writable(&[2000]);
    bed.driver.give(&mut bed.receiver).unwrap();
    bed.deliver(&large, TCP4.request(VIRTIO_NET_HDR_GSO_TCPV4, 1000));
    let mut used = bed.driver.used();
    assert_eq!(used.len(), 1);
    bed.receiver.cancel();
    bed.receiver = Receiver::new(bed.port.clone(), 0, 8);
    (0..8).for_each(|_| bed.driver.writable(&[2000]));
    bed.driver.give(&mut bed.receiver).unwrap();
    used.extend(bed.driver.used());
    let headers = 12 + TCP4.headers();
    let payload: Vec<u8> = used
        .iter()
        .flat_map(|(_, data)| data[headers..].to_vec())
        .collect();
    assert_eq!(payload, large[TCP4.headers()..]);
    assert_eq!(used.len(), 5);
}

#[test]
fn what_waits_for_one_driver_is_not_for_the_next() {
    let frame = Packet { payload: 60, ..UDP4 }.frame();
    for late in [false, true] {
        let mut bed = Bed::new(MERGE, 4);
        bed.driver.writable(&[2000]);
        bed.driver.give(&mut bed.receiver).unwrap();
        let mut frames = Frames::default();
        (0..2).for_each(|_| frames.push(&frame, Offload::default()));
        bed.port.deliver(&mut frames);
        bed.receiver.reap(&mut bed.driver.done).unwrap();
        assert_eq!(bed.driver.used().len(), 1);
        if !late {
            bed.receiver.cancel();
        }
        bed.port.reset();
        bed.receiver.cancel();
        bed.receiver = Receiver::new(bed.port.clone(), 0, 4);
        bed.driver.writable(&[2000]);
        bed.driver.give(&mut bed.receiver).unwrap();
        assert_eq!(bed.driver.used(), []);
    }
}

#[test]
fn what_waits_for_a_queue_has_an_end() {
    let frame = Packet { payload: 60, ..UDP4 }.frame();
    let mut bed = Bed::new(MERGE, 4);
    for _ in 0..3 {
        bed.driver.writable(&[2000]);
        bed.driver.give(&mut bed.receiver).unwrap();
        let mut frames = Frames::default();
        (0..4096).for_each(|_| frames.push(&frame, Offload::default()));
        bed.port.deliver(&mut frames);
        bed.receiver.reap(&mut bed.driver.done).unwrap();
        bed.port.deliver(&mut frames);
        bed.receiver.cancel();
        assert_eq!(bed.driver.used().len(), 1);
        assert_eq!(bed.port.waiting(), 4096);
        bed.receiver = Receiver::new(bed.port.clone(), 0, 4);
    }
}

#[test]
fn an_inbox_has_an_end() {
    let frame = Packet { payload: 60, ..UDP4 }.frame();
    let bed = Bed::new(0, 256);
    let mut frames = Frames::default();
    (0..5000).for_each(|_| frames.push(&frame, Offload::default()));
    assert_eq!(bed.port.deliver(&mut frames), 4096);
    assert_eq!(bed.drops(), (904, 904));
}

#[test]
fn with_half_of_the_buffers_it_asks_for_no_more() {
    let frame = Packet {
        payload: 1000,
        ..UDP4
    }
    .frame();
    let mut bed = Bed::new(MERGE, 4);
    assert!(!bed.receiver.supplied());
    bed.driver.writable(&[600]);
    bed.driver.give(&mut bed.receiver).unwrap();
    assert!(!bed.receiver.supplied());
    bed.driver.writable(&[100]);
    bed.driver.give(&mut bed.receiver).unwrap();
    assert!(bed.receiver.supplied());
    // A frame that does not fit into them needs others.
    bed.deliver(&frame, Offload::default());
    assert_eq!(bed.driver.used(), []);
    assert!(!bed.receiver.supplied());
    bed.driver.writable(&[1000]);
    bed.driver.give(&mut bed.receiver).unwrap();
    assert_eq!(bed.driver.used().len(), 3);
}
