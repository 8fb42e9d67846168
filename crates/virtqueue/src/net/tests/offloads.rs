//! Checksums and segments in software, looked at word by word.

use super::*;
use crate::net::finish;

fn made(packet: Packet, offload: Offload) -> Vec<Vec<u8>> {
    let mut out = Frames::default();
    assert!(finish(&packet.frame(), offload, &mut out));
    bytes(&out)
}

#[test]
fn partial_checksums_are_completed() {
    for packet in [TCP4, TCP6, UDP4, UDP6] {
        for payload in [0, 1, 2, 3, 7, 8, 9, 1460, 1461] {
            let packet = Packet { payload, ..packet };
            let offload = packet.request(0, 0);
            let [frame] = &made(packet, offload)[..] else {
                panic!("one frame becomes one")
            };
            packet.verify(frame);
            assert_eq!(frame.len(), packet.headers() + payload);
        }
    }
}

#[test]
fn a_checksum_of_zero_is_sent_as_its_other_form() {
    let mut packet = Packet { payload: 2, ..UDP4 };
    let mut frame = packet.frame();
    let end = frame.len() - 2;
    frame[end..].fill(0);
    let start = 14 + packet.network_size();
    let rest = !folded(&frame[start..], 0);
    frame[end..].copy_from_slice(&rest.to_be_bytes());
    packet.payload = 2;
    let mut out = Frames::default();
    assert!(finish(&frame, packet.request(0, 0), &mut out));
    let field = packet.checksum_field();
    assert_eq!(bytes(&out)[0][field..field + 2], [0xff, 0xff]);
}

#[test]
fn segments_are_what_a_sender_would_have_sent() {
    for packet in [TCP4, TCP6, UDP4, UDP6] {
        for size in [1u16, 7, 536, 1448, 4999, 5000, 5001, u16::MAX] {
            let frame = packet.frame();
            let segments = made(packet, packet.request(kind(packet), size));
            assert_eq!(segments.len(), 5000usize.div_ceil(size.into()));
            let headers = packet.headers();
            let mut payload: Vec<u8> = Vec::new();
            for (number, segment) in segments.iter().enumerate() {
                packet.verify(segment);
                if packet.version == 4 {
                    let id = u16::from_be_bytes([segment[18], segment[19]]);
                    assert_eq!(id, 0x1234 + number as u16);
                }
                if packet.protocol == 6 {
                    let tcp = &segment[14 + packet.network_size()..];
                    let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
                    assert_eq!(sequence, 256 + (number * usize::from(size)) as u32);
                    let (first, last) = (number == 0, number + 1 == segments.len());
                    // 0x99: CWR, ACK, PSH, FIN.
                    let flags = 0x10 | if first { 0x80 } else { 0 } | if last { 0x09 } else { 0 };
                    assert_eq!(tcp[13], flags);
                }
                assert!(segment.len() - headers <= usize::from(size));
                payload.extend(&segment[headers..]);
            }
            assert_eq!(payload, frame[headers..]);
        }
    }
}

#[test]
fn fragments_make_up_the_datagram_again() {
    for packet in [UDP4, UDP6] {
        for size in [8u16, 100, 1480, 5008, u16::MAX] {
            let fragments = made(packet, packet.request(VIRTIO_NET_HDR_GSO_UDP, size));
            let extra = if packet.version == 6 { 8 } else { 0 };
            let start = 14 + packet.network_size() + extra;
            let mut datagram = Vec::new();
            for (number, fragment) in fragments.iter().enumerate() {
                let more = number + 1 < fragments.len();
                let (offset, flag) = if packet.version == 4 {
                    assert_eq!(folded(&fragment[14..34], 0), 0xffff);
                    let place = u16::from_be_bytes([fragment[20], fragment[21]]);
                    (usize::from(place & 0x1fff) * 8, place & 0x2000 != 0)
                } else {
                    assert_eq!((fragment[20], fragment[54]), (44, 17));
                    let place = u16::from_be_bytes([fragment[56], fragment[57]]);
                    assert_eq!(fragment[58..62], fragments[0][58..62]);
                    (usize::from(place & !7), place & 1 != 0)
                };
                assert_eq!((offset, flag), (datagram.len(), more));
                assert!(!more || (fragment.len() - start) % 8 == 0);
                assert!(fragment.len() - start <= usize::from(size));
                datagram.extend(&fragment[start..]);
            }
            let mut whole = packet.frame()[..14 + packet.network_size()].to_vec();
            whole.extend(&datagram);
            packet.verify(&whole);
        }
    }
}

#[test]
fn extension_headers_are_repeated_and_fragments_come_behind_them() {
    let plain = UDP6.frame();
    let mut frame = plain[..54].to_vec();
    frame.extend([17, 0, 1, 4, 0, 0, 0, 0]);
    frame.extend(&plain[54..]);
    frame[20] = 60;
    let length = u16::from_be_bytes([frame[18], frame[19]]) + 8;
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    let offload = Offload {
        csum_start: 62,
        ..UDP6.request(VIRTIO_NET_HDR_GSO_UDP, 1000)
    };
    let mut out = Frames::default();
    assert!(finish(&frame, offload, &mut out));
    for fragment in bytes(&out) {
        assert_eq!((fragment[20], fragment[54], fragment[62]), (60, 44, 17));
    }
    let offload = Offload {
        gso_type: VIRTIO_NET_HDR_GSO_UDP_L4,
        ..offload
    };
    out.clear();
    assert!(finish(&frame, offload, &mut out));
    assert_eq!(out.len(), 5);
    for segment in bytes(&out) {
        let mut without = segment[..54].to_vec();
        without.extend(&segment[62..]);
        let length = (without.len() - 54) as u16;
        without[18..20].copy_from_slice(&length.to_be_bytes());
        without[20] = 17;
        UDP6.verify(&without);
    }
}
