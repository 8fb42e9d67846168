//! Large packets in UDP tunnels: headers that are believed, and segments looked at from outside in.

use super::bed::Driver;
use super::*;
use crate::net::finish;
use crate::net::header::{MAX_FRAME, Malformed, check};
use crate::net::port::Port;
use crate::net::receive::Receiver;
use crate::net::simple::{HOST_OFFLOADS, HOST_TUNNELS, Loop};
use crate::net::transmit::Transmitter;
use std::sync::Arc;

const OUTER4: Packet = UDP4;
const OUTER6: Packet = UDP6;
/// A Geneve header without options.
const GENEVE: [u8; 8] = [0, 0, 0x65, 0x58, 0, 0, 5, 0];
const PARTIAL: u8 = VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_UDP_TUNNEL_CSUM;

/// Where the inner frame begins.
fn inner_at(outer: Packet) -> usize {
    outer.headers() + GENEVE.len()
}

/// A frame in a tunnel. The outer checksum is the pseudo header's sum, or there is none.
fn tunnelled(outer: Packet, inner: Packet, partial: bool) -> Vec<u8> {
    let inner = inner.frame();
    let outer = Packet {
        payload: GENEVE.len() + inner.len(),
        ..outer
    };
    let mut frame = outer.frame();
    frame.truncate(outer.headers());
    frame.extend(GENEVE);
    frame.extend(inner);
    if !partial {
        let field = outer.checksum_field();
        frame[field..field + 2].fill(0);
    }
    frame
}

fn request(outer: Packet, inner: Packet, size: u16, partial: bool) -> Offload {
    let at = inner_at(outer) as u16;
    let plain = inner.request(kind(inner), size);
    let flag = if inner.version == 4 {
        VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV4
    } else {
        VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV6
    };
    Offload {
        flags: if partial { PARTIAL } else { plain.flags },
        gso_type: plain.gso_type | flag,
        hdr_len: plain.hdr_len + at,
        csum_start: plain.csum_start + at,
        outer_th_offset: (14 + outer.network_size()) as u16,
        inner_nh_offset: at + 14,
        ..plain
    }
}

fn all() -> impl Iterator<Item = (Packet, Packet, bool)> {
    let outers = [OUTER4, OUTER6];
    let inners = [TCP4, TCP6, UDP4, UDP6];
    outers.into_iter().flat_map(move |outer| {
        inners
            .into_iter()
            .flat_map(move |inner| [false, true].map(|partial| (outer, inner, partial)))
    })
}

/// Whether a segment is right, from the outer IP header to the inner payload.
fn verify(outer: Packet, inner: Packet, segment: &[u8], checksum: bool) {
    let field = outer.checksum_field();
    if checksum {
        outer.verify(segment);
        assert_ne!(segment[field..field + 2], [0, 0]);
    } else {
        assert_eq!(segment[field..field + 2], [0, 0]);
        // All but the checksum is verified of a copy that has one.
        let mut copy = segment.to_vec();
        let length = segment.len() - 14 - outer.network_size();
        let udp = folded(&copy[14 + outer.network_size()..], 0);
        let addresses = if outer.version == 4 { 26..34 } else { 22..54 };
        let sum = !folded(&copy[addresses], length as u32 + 17 + u32::from(udp));
        copy[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        outer.verify(&copy);
    }
    assert_eq!(segment[outer.headers()..inner_at(outer)], GENEVE);
    inner.verify(&segment[inner_at(outer)..]);
}

#[test]
fn the_fields_lie_where_the_standard_has_them() {
    // The example of 5.1.9.2: TCP over IPv4 in Geneve over IPv4.
    let offload = request(OUTER4, TCP4, 1000, false);
    assert_eq!(
        (offload.csum_start, offload.csum_offset, offload.gso_type),
        (84, 16, 0x21)
    );
    assert_eq!(offload.inner_nh_offset, 64);
    assert_eq!(offload.outer_th_offset, 34);
    let mut header = [0u8; TUNNEL_HDR_SIZE];
    header[20..].copy_from_slice(&offload.tunnel_bytes());
    assert_eq!(header[20..], [34, 0, 64, 0]);
    let mut parsed = Offload::default();
    parsed.parse_tunnel(&header);
    assert_eq!((parsed.outer_th_offset, parsed.inner_nh_offset), (34, 64));
}

#[test]
fn segments_of_a_tunnel_are_right_outside_and_inside() {
    for (outer, inner, partial) in all() {
        for size in [100u16, 1400, 5000, u16::MAX] {
            let frame = tunnelled(outer, inner, partial);
            let offload = request(outer, inner, size, partial);
            assert_eq!(check(offload, &frame, HOST_OFFLOADS), Ok(offload));
            let mut out = Frames::default();
            assert!(finish(&frame, offload, &mut out));
            let segments = bytes(&out);
            assert_eq!(segments.len(), 5000usize.div_ceil(size.into()));
            let headers = inner_at(outer) + inner.headers();
            let mut payload: Vec<u8> = Vec::new();
            for (number, segment) in segments.iter().enumerate() {
                verify(outer, inner, segment, partial);
                if outer.version == 4 {
                    assert_eq!(segment[18..20], (0x1234 + number as u16).to_be_bytes());
                }
                payload.extend(&segment[headers..]);
            }
            assert_eq!(payload, frame[headers..]);
        }
    }
}

#[test]
fn a_complete_outer_checksum_is_that_of_each_segment() {
    // 5.1.9.2.1: without the feature for it, the checksum is 0 or that of the segments, which are all of one size.
    let inner = Packet {
        payload: 4000,
        ..TCP4
    };
    let mut frame = tunnelled(OUTER4, inner, false);
    let field = OUTER4.checksum_field();
    frame[field..field + 2].copy_from_slice(&[0x12, 0x34]);
    let mut out = Frames::default();
    assert!(finish(&frame, request(OUTER4, inner, 1000, false), &mut out));
    assert_eq!(out.len(), 4);
    bytes(&out)
        .iter()
        .for_each(|segment| verify(OUTER4, inner, segment, true));
}

#[test]
fn impossible_tunnels_are_refused() {
    use Malformed::{Checksum, GsoHeaders, GsoSize, GsoType, GsoWithoutChecksum, Tunnel};
    let frame = tunnelled(OUTER4, TCP6, true);
    let good = request(OUTER4, TCP6, 1000, true);
    let with = |change: &dyn Fn(&mut Offload)| {
        let mut offload = good;
        change(&mut offload);
        offload
    };
    let table: &[(Offload, Malformed)] = &[
        // 5.1.9.2.2, in its order.
        (with(&|o| o.gso_type |= 0x60), Tunnel),
        (with(&|o| o.flags &= !1), GsoWithoutChecksum),
        (with(&|o| o.flags |= 2), Tunnel),
        (with(&|o| o.gso_type = 0x40), GsoType),
        (with(&|o| o.gso_type = 0xc0), GsoType),
        (with(&|o| o.gso_type = 4), Tunnel),
        (with(&|o| (o.gso_type, o.flags) = (0, 8)), Tunnel),
        (with(&|o| (o.gso_type, o.flags) = (0, 9)), Tunnel),
        // What the driver must not do, and what the headers contradict.
        (with(&|o| o.gso_type = 0x43), GsoType),
        (with(&|o| o.gso_type = 0x41), GsoHeaders),
        (with(&|o| o.gso_type = 0x45), GsoHeaders),
        (with(&|o| o.gso_type = 0x4f), GsoType),
        (with(&|o| o.gso_size = 0), GsoSize),
        (with(&|o| o.outer_th_offset = 0), Tunnel),
        (with(&|o| o.outer_th_offset = 33), Tunnel),
        (with(&|o| o.outer_th_offset = u16::MAX), Tunnel),
        (with(&|o| o.inner_nh_offset = 0), Tunnel),
        (with(&|o| o.inner_nh_offset = 14), Tunnel),
        (with(&|o| o.inner_nh_offset = 41), Tunnel),
        (with(&|o| o.inner_nh_offset = 63), Tunnel),
        (with(&|o| o.inner_nh_offset = u16::MAX), Tunnel),
        (with(&|o| o.csum_start = 34), GsoHeaders),
        (with(&|o| o.csum_start += 1), GsoHeaders),
        (with(&|o| o.csum_offset = 6), GsoHeaders),
        (with(&|o| o.csum_start = u16::MAX), Checksum),
    ];
    assert_eq!(check(good, &frame, HOST_OFFLOADS), Ok(good));
    for (offload, why) in table {
        assert_eq!(check(*offload, &frame, HOST_OFFLOADS), Err(*why), "{offload:?}");
    }
    // Either version's flag is taken; the other where neither header has it is not.
    assert!(check(with(&|o| o.gso_type = 0x24), &frame, HOST_OFFLOADS).is_ok());
    let (four, asked) = (tunnelled(OUTER4, TCP4, false), request(OUTER4, TCP4, 1000, false));
    let six = Offload {
        gso_type: 0x41,
        ..asked
    };
    assert_eq!(check(six, &four, HOST_OFFLOADS), Err(Tunnel));
    // No UDP outside, or none at all.
    for (at, value) in [(23, 6), (23, 47), (20, 0x20), (12, 0x88)] {
        let mut other = frame.clone();
        other[at] = value;
        assert!(check(good, &other, HOST_OFFLOADS).is_err(), "{at}");
    }
    for size in 14..good.hdr_len.into() {
        assert!(check(good, &frame[..size], HOST_OFFLOADS).is_err(), "{size}");
    }
}

#[test]
fn tunnels_that_were_not_negotiated_are_refused() {
    let frame = tunnelled(OUTER4, TCP4, true);
    let asked = request(OUTER4, TCP4, 1000, true);
    for missing in [
        HOST_TUNNELS,
        VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO_CSUM,
        VIRTIO_NET_F_HOST_TSO4,
    ] {
        assert_eq!(
            check(asked, &frame, HOST_OFFLOADS & !missing),
            Err(Malformed::GsoType)
        );
    }
    // A flag of a feature that was not negotiated means nothing, and neither do the offsets.
    let plain = Offload {
        flags: VIRTIO_NET_HDR_F_UDP_TUNNEL_CSUM,
        gso_type: 0,
        outer_th_offset: u16::MAX,
        ..asked
    };
    let result = check(plain, &frame, HOST_OFFLOADS & !HOST_TUNNELS);
    assert_eq!(result, Ok(Offload::default()));
}

#[test]
fn whatever_passes_can_be_carried_out() {
    let mut seed = 11u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize
    };
    let cases: Vec<_> = all().collect();
    let (mut out, mut passed) = (Frames::default(), 0);
    for _ in 0..10_000 {
        let (outer, inner, partial) = cases[random() % cases.len()];
        let inner = Packet {
            payload: random() % 300,
            ..inner
        };
        let mut frame = tunnelled(outer, inner, partial);
        let mut offload = request(outer, inner, (random() % 200) as u16, partial);
        for _ in 0..random() % 3 {
            match random() % 8 {
                0 => offload.flags = random() as u8,
                1 => offload.gso_type = random() as u8,
                2 => offload.outer_th_offset = (random() % 200) as u16,
                3 => offload.inner_nh_offset = (random() % 200) as u16,
                4 => offload.csum_start = (random() % 300) as u16,
                5 => frame.truncate(random() % (frame.len() + 1)),
                _ => {
                    let at = random() % frame.len().max(1);
                    if let Some(byte) = frame.get_mut(at) {
                        *byte = random() as u8;
                    }
                }
            }
        }
        if let Ok(offload) = check(offload, &frame, HOST_OFFLOADS) {
            out.clear();
            assert!(finish(&frame, offload, &mut out), "{offload:?}");
            passed += 1;
        }
    }
    assert!(passed > 1_000);
}

#[test]
fn a_vlan_tag_moves_all_that_is_referred_to() {
    for (outer, inner, partial) in all() {
        let (frame, offload) = (
            tunnelled(outer, inner, partial),
            request(outer, inner, 1000, partial),
        );
        let tagged = [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat();
        assert_eq!(check(offload, &tagged, HOST_OFFLOADS), Err(Malformed::Tunnel));
        let moved = offload.moved(4);
        assert_eq!(check(moved, &tagged, HOST_OFFLOADS), Ok(moved));
        assert_eq!(moved.moved(-4), offload);
        let mut out = Frames::default();
        assert!(finish(&tagged, moved, &mut out));
        for segment in bytes(&out) {
            let plain = [&segment[..12], &segment[16..]].concat();
            verify(outer, inner, &plain, partial);
        }
    }
}

/// A driver that sends to itself, with these features.
fn looped(features: u128) -> (Arc<Port>, Transmitter, Driver, Receiver, Driver) {
    let port = Arc::new(Port::new(1).unwrap());
    port.update(|settings| {
        settings.link = true;
        settings.filter.promiscuous = true;
        settings.features = features;
        settings.offloads = features & crate::net::GUEST_OFFLOADS;
    });
    port.set_backend(Some(Arc::new(Loop::default())));
    let transmitter = Transmitter::new(port.clone(), 0);
    let receiver = Receiver::new(port.clone(), 0, 256);
    (port, transmitter, Driver::new(), receiver, Driver::new())
}

#[test]
fn a_tunnel_goes_through_whole_or_in_pieces() {
    let guest = VIRTIO_NET_F_GUEST_CSUM
        | VIRTIO_NET_F_GUEST_TSO4
        | VIRTIO_NET_F_GUEST_TSO6
        | VIRTIO_NET_F_GUEST_USO4
        | VIRTIO_NET_F_GUEST_USO6;
    let (tunnel, outer_csum) = (
        VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO,
        VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO_CSUM,
    );
    for (outer, inner, partial) in all() {
        for takes in [0, guest, guest | tunnel, guest | tunnel | outer_csum] {
            let (_port, mut transmitter, mut out, mut receiver, mut inward) = looped(HOST_OFFLOADS | takes);
            let (frame, offload) = (
                tunnelled(outer, inner, partial),
                request(outer, inner, 1000, partial),
            );
            (0..8).for_each(|_| inward.writable(&[MAX_FRAME + TUNNEL_HDR_SIZE]));
            let mut message = vec![0; TUNNEL_HDR_SIZE];
            message[..10].copy_from_slice(&offload.bytes());
            message[20..].copy_from_slice(&offload.tunnel_bytes());
            message.extend(&frame);
            out.readable(&message, &[TUNNEL_HDR_SIZE]);
            out.give(&mut transmitter).unwrap();
            inward.give(&mut receiver).unwrap();
            let got = inward.used();
            let whole = takes & tunnel != 0 && (!partial || takes & outer_csum != 0);
            assert_eq!(got.len(), if whole { 1 } else { 5 });
            for (_, data) in &got {
                let (header, frame_got) = data.split_at(TUNNEL_HDR_SIZE);
                if whole {
                    assert_eq!(data[..10], offload.bytes());
                    assert_eq!(header[20..], offload.tunnel_bytes());
                    assert_eq!(frame_got, frame);
                } else {
                    assert_eq!(header[..10], [0; 10]);
                    assert_eq!(header[20..], [0; 4]);
                    verify(outer, inner, frame_got, partial);
                }
            }
        }
    }
}
