//! The network device's data path against buffers in memory, and against what packets have to be.

mod bed;
mod filtering;
mod headers;
mod offloads;
mod receiving;
mod recording;
mod sockets;
mod steering;
mod switching;
mod transmitting;
mod tunnels;

use super::frames::Frames;
use super::header::Offload;
use super::layers::dissect;
use crate::spec::net::*;

/// What a frame is made of.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub version: u8,
    pub protocol: u8,
    pub payload: usize,
    pub flags: u8,
}

pub const TCP4: Packet = Packet {
    version: 4,
    protocol: 6,
    payload: 5000,
    flags: 0x99,
};
pub const TCP6: Packet = Packet { version: 6, ..TCP4 };
pub const UDP4: Packet = Packet { protocol: 17, ..TCP4 };
pub const UDP6: Packet = Packet { protocol: 17, ..TCP6 };

impl Packet {
    pub fn network_size(self) -> usize {
        if self.version == 4 { 20 } else { 40 }
    }

    pub fn transport_size(self) -> usize {
        if self.protocol == 6 { 20 } else { 8 }
    }

    pub fn headers(self) -> usize {
        14 + self.network_size() + self.transport_size()
    }

    /// A frame whose transport checksum is the pseudo header's sum, as a driver leaves it.
    pub fn frame(self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        let after_network = self.transport_size() + self.payload;
        if self.version == 4 {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend(((20 + after_network) as u16).to_be_bytes());
            frame.extend([
                0x12,
                0x34,
                0x40,
                0,
                64,
                self.protocol,
                0,
                0,
                10,
                0,
                0,
                1,
                10,
                0,
                0,
                2,
            ]);
        } else {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((after_network as u16).to_be_bytes());
            frame.extend([self.protocol, 64]);
            frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        }
        frame.extend([0x0b, 0xb8, 0x0f, 0xa0]);
        if self.protocol == 6 {
            frame.extend([0, 0, 1, 0, 0, 0, 0, 1, 0x50, self.flags, 0x20, 0, 0, 0, 0, 0]);
        } else {
            frame.extend(((8 + self.payload) as u16).to_be_bytes());
            frame.extend([0, 0]);
        }
        frame.extend((0..self.payload).map(|at| (at * 7 + at / 251) as u8));
        if self.version == 4 {
            let sum = !folded(&frame[14..34], 0);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        let field = self.checksum_field();
        let partial = self.pseudo(&frame, after_network);
        frame[field..field + 2].copy_from_slice(&partial.to_be_bytes());
        frame
    }

    pub fn checksum_field(self) -> usize {
        14 + self.network_size() + if self.protocol == 6 { 16 } else { 6 }
    }

    fn pseudo(self, frame: &[u8], length: usize) -> u16 {
        let addresses = if self.version == 4 { 26..34 } else { 22..54 };
        folded(&frame[addresses], length as u32 + u32::from(self.protocol))
    }

    /// Whether all checksums and lengths of a frame are right.
    pub fn verify(self, frame: &[u8]) {
        let network = &frame[14..14 + self.network_size()];
        let length = frame.len() - 14 - self.network_size();
        if self.version == 4 {
            assert_eq!(folded(network, 0), 0xffff, "IPv4 header checksum");
            assert_eq!(u16::from_be_bytes([network[2], network[3]]) as usize, length + 20);
        } else {
            assert_eq!(u16::from_be_bytes([network[4], network[5]]) as usize, length);
        }
        let transport = &frame[14 + self.network_size()..];
        if self.protocol == 17 {
            assert_eq!(u16::from_be_bytes([transport[4], transport[5]]) as usize, length);
        }
        let pseudo = self.pseudo(frame, length);
        assert_eq!(folded(transport, pseudo.into()), 0xffff, "transport checksum");
    }

    /// The request that makes segments of `size` bytes of this.
    pub fn request(self, gso_type: u8, size: u16) -> Offload {
        Offload {
            flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
            gso_type,
            hdr_len: self.headers() as u16,
            gso_size: size,
            csum_start: (14 + self.network_size()) as u16,
            csum_offset: if self.protocol == 6 { 16 } else { 6 },
            ..Offload::default()
        }
    }
}

/// RFC 1071, word by word, as nobody would write it for speed.
pub fn folded(data: &[u8], start: u32) -> u16 {
    let mut sum = u64::from(start);
    for pair in data.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The kind of large packet that a packet can be.
pub fn kind(packet: Packet) -> u8 {
    match (packet.version, packet.protocol) {
        (4, 6) => VIRTIO_NET_HDR_GSO_TCPV4,
        (6, 6) => VIRTIO_NET_HDR_GSO_TCPV6,
        _ => VIRTIO_NET_HDR_GSO_UDP_L4,
    }
}

pub fn bytes(frames: &Frames) -> Vec<Vec<u8>> {
    frames
        .list()
        .iter()
        .map(|frame| frames.get(frame).to_vec())
        .collect()
}

#[test]
fn headers_are_found_where_they_are() {
    for packet in [TCP4, TCP6, UDP4, UDP6] {
        let frame = packet.frame();
        let layers = dissect(&frame).unwrap();
        assert_eq!(
            (layers.version, layers.protocol),
            (packet.version, packet.protocol)
        );
        assert_eq!(layers.payload, packet.headers());
        let mut tagged = frame[..12].to_vec();
        tagged.extend([0x81, 0, 0, 5, 0x81, 0, 0, 6]);
        tagged.extend(&frame[12..]);
        assert_eq!(dissect(&tagged).unwrap().payload, packet.headers() + 8);
        for cut in 0..packet.headers() {
            assert!(dissect(&frame[..cut]).is_none_or(|layers| layers.payload == 0));
        }
    }
}

#[test]
fn headers_stay_within_any_frame() {
    let mut seed = 1u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize
    };
    for _ in 0..20_000 {
        let mut frame = [TCP4, TCP6, UDP4, UDP6][random() % 4].frame();
        frame.truncate(14 + random() % 120);
        for _ in 0..random() % 6 {
            let at = 12 + random() % (frame.len() - 12);
            // Small numbers: extension headers, options, short lengths.
            frame[at] = [0, 43, 44, 51, 60, 2, 0xc9, random() as u8][random() % 8];
        }
        if let Some(layers) = dissect(&frame) {
            assert!(layers.transport <= frame.len() && layers.payload <= frame.len());
            assert!(layers.home == 0 || layers.home + 16 <= frame.len());
            assert!(layers.routed == 0 || layers.routed + 16 <= frame.len());
        }
    }
}
