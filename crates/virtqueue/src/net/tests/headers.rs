//! Headers with every combination that cannot be.

use super::*;
use crate::net::header::{Malformed, check};
use crate::net::simple::{HOST_OFFLOADS, HOST_TUNNELS};

const NEEDS: u8 = VIRTIO_NET_HDR_F_NEEDS_CSUM;

#[test]
fn a_header_is_what_it_was_made_of() {
    let offload = TCP4.request(VIRTIO_NET_HDR_GSO_TCPV4, 1448);
    assert_eq!(Offload::parse(&offload.bytes()), offload);
    assert_eq!(offload.bytes(), [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0]);
}

#[test]
fn impossible_headers_are_refused() {
    let frame = TCP4.frame();
    let good = TCP4.request(VIRTIO_NET_HDR_GSO_TCPV4, 1448);
    assert_eq!(check(good, &frame, HOST_OFFLOADS), Ok(good));
    let end = frame.len() as u16;
    let with = |change: &dyn Fn(&mut Offload)| {
        let mut offload = good;
        change(&mut offload);
        offload
    };
    let table: &[(Offload, Malformed)] = &[
        (with(&|o| o.gso_type = 2), Malformed::GsoType),
        (with(&|o| o.gso_type = 0x7f), Malformed::GsoType),
        (with(&|o| o.gso_type = 0x21), Malformed::Tunnel),
        (with(&|o| o.gso_type = 0x61), Malformed::Tunnel),
        (with(&|o| o.gso_type = 0x80), Malformed::GsoType),
        (with(&|o| o.flags = 0), Malformed::GsoWithoutChecksum),
        (with(&|o| o.flags = 2), Malformed::GsoWithoutChecksum),
        (with(&|o| o.gso_size = 0), Malformed::GsoSize),
        (with(&|o| o.gso_type = 4), Malformed::GsoHeaders),
        (with(&|o| o.gso_type = 5), Malformed::GsoHeaders),
        (with(&|o| o.gso_type = 3), Malformed::GsoHeaders),
        (with(&|o| o.csum_start = 33), Malformed::GsoHeaders),
        (with(&|o| o.csum_offset = 6), Malformed::GsoHeaders),
        (with(&|o| o.csum_start = end), Malformed::Checksum),
        (with(&|o| o.csum_start = end - 17), Malformed::Checksum),
        (with(&|o| o.csum_offset = u16::MAX), Malformed::Checksum),
        (
            with(&|o| (o.csum_start, o.csum_offset) = (u16::MAX, u16::MAX)),
            Malformed::Checksum,
        ),
        (
            with(&|o| (o.gso_type, o.csum_start) = (0, end)),
            Malformed::Checksum,
        ),
    ];
    for (offload, why) in table {
        assert_eq!(check(*offload, &frame, HOST_OFFLOADS), Err(*why), "{offload:?}");
    }
    assert_eq!(check(good, &frame[..13], HOST_OFFLOADS), Err(Malformed::Short));
    assert_eq!(check(good, &[0; 65612], HOST_OFFLOADS), Err(Malformed::Long));
    assert_eq!(
        check(good, &frame[..53], HOST_OFFLOADS),
        Err(Malformed::GsoHeaders)
    );
}

#[test]
fn what_was_not_negotiated_is_refused_or_means_nothing() {
    let frame = TCP4.frame();
    let large = TCP4.request(VIRTIO_NET_HDR_GSO_TCPV4, 1448);
    for missing in [VIRTIO_NET_F_HOST_TSO4, HOST_OFFLOADS] {
        let features = HOST_OFFLOADS & !missing;
        assert_eq!(check(large, &frame, features), Err(Malformed::GsoType));
    }
    let ecn = Offload {
        gso_type: VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN,
        ..large
    };
    assert!(check(ecn, &frame, HOST_OFFLOADS).is_ok());
    assert!(check(ecn, &frame, HOST_OFFLOADS & !VIRTIO_NET_F_HOST_ECN).is_err());
    let partial = Offload { gso_type: 0, ..large };
    // Flags must be ignored that mean nothing (5.1.9.2.2), and offsets without the flag.
    assert_eq!(check(partial, &frame, 0), Ok(Offload::default()));
    let unused = Offload {
        flags: !NEEDS,
        csum_start: u16::MAX,
        ..partial
    };
    let plain = HOST_OFFLOADS & !HOST_TUNNELS;
    assert_eq!(check(unused, &frame, plain), Ok(Offload::default()));
}

#[test]
fn the_length_of_headers_is_never_believed() {
    let frame = TCP4.frame();
    for claimed in [0, 1, 13, 54, 60, u16::MAX] {
        let offload = Offload {
            hdr_len: claimed,
            ..TCP4.request(VIRTIO_NET_HDR_GSO_TCPV4, 1448)
        };
        let features = HOST_OFFLOADS | VIRTIO_NET_F_GUEST_HDRLEN;
        assert_eq!(check(offload, &frame, features).unwrap().hdr_len, 54);
    }
}

#[test]
fn whatever_passes_can_be_carried_out() {
    let mut seed = 7u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize
    };
    let mut out = Frames::default();
    let mut passed = 0;
    for _ in 0..10_000 {
        let packet = Packet {
            payload: random() % 300,
            ..[TCP4, TCP6, UDP4, UDP6][random() % 4]
        };
        let mut frame = packet.frame();
        let mut offload = packet.request([1, 3, 4, 5, kind(packet)][random() % 5], (random() % 200) as u16);
        for _ in 0..random() % 3 {
            match random() % 7 {
                0 => offload.flags = random() as u8,
                1 => offload.gso_type = random() as u8,
                2 => offload.gso_size = random() as u16,
                3 => offload.csum_start = (random() % 400) as u16,
                4 => offload.csum_offset = (random() % 400) as u16,
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
            let done = crate::net::finish(&frame, offload, &mut out);
            let small = offload.kind() == VIRTIO_NET_HDR_GSO_UDP && offload.gso_size < 8;
            assert!(done || small, "{offload:?}");
            assert!(out.list().iter().all(|frame| frame.offload == Offload::default()));
            passed += 1;
        }
    }
    assert!(passed > 1_000);
}
