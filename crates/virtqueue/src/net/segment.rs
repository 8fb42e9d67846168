//! Segmentation and fragmentation in software, for whoever cannot take large packets.

use super::checksum::{Sum, complete, finish_ipv4, pseudo_header};
use super::frames::Frames;
use super::header::{Large, Offload};
use super::layers::{Layers, TCP};
use crate::spec::net::*;

const FIN_PSH: u8 = 0x09;
const CWR: u8 = 0x80;
const FRAGMENT: u8 = 44;
const FRAGMENT_HEADER: usize = 8;

/// Does what `offload` asks for and adds what comes out to `out`: complete frames that need nothing more.
/// False, and nothing added, if the frame is not what it is said to be.
pub fn finish(frame: &[u8], offload: Offload, out: &mut Frames) -> bool {
    if !offload.is_large() {
        let start = usize::from(offload.csum_start);
        let copy = out.reserve(frame.len());
        copy.copy_from_slice(frame);
        if offload.needs_csum() && !complete(copy, start, offload.csum_offset.into()) {
            return false;
        }
        out.commit(0, frame.len(), Offload::default());
        return true;
    }
    let Ok(large) = Large::of(&offload, frame) else {
        return false;
    };
    if offload.gso_size == 0 {
        return false;
    }
    if offload.kind() == VIRTIO_NET_HDR_GSO_UDP {
        return fragment(frame, &large.inner, usize::from(offload.gso_size), out);
    }
    segments(frame, &large, offload, out);
    true
}

/// Segments of a TCP or UDP packet: each with all headers, lengths and checksums set right.
fn segments(frame: &[u8], large: &Large, offload: Offload, out: &mut Frames) {
    let (layers, size) = (&large.inner, usize::from(offload.gso_size));
    let (headers, payload) = frame.split_at(layers.payload);
    let count = payload.len().div_ceil(size).max(1);
    for number in 0..count {
        let piece = &payload[number * size..payload.len().min((number + 1) * size)];
        let total = headers.len() + piece.len();
        let segment = out.reserve(total);
        segment[..headers.len()].copy_from_slice(headers);
        segment[headers.len()..].copy_from_slice(piece);
        set_network(segment, layers, number as u16);
        if layers.protocol == TCP {
            set_tcp(segment, layers, number * size, number == 0, number + 1 == count);
        } else {
            let length = (total - layers.transport) as u16;
            segment[layers.transport + 4..layers.transport + 6].copy_from_slice(&length.to_be_bytes());
        }
        set_checksum(segment, layers);
        if let Some(outer) = &large.outer {
            set_network(segment, outer, number as u16);
            set_tunnel(segment, outer, offload.needs_outer_csum());
        }
        out.commit(0, total, Offload::default());
    }
}

/// Length and checksum of the UDP header of a tunnel. A checksum that is there but not partial is that of segments,
/// if these are all of one size (5.1.9.2.1); it is computed again. Without one there is to be none.
fn set_tunnel(segment: &mut [u8], outer: &Layers, partial: bool) {
    let length = (segment.len() - outer.transport) as u16;
    let header = &mut segment[outer.transport..outer.payload];
    header[4..6].copy_from_slice(&length.to_be_bytes());
    if partial || header[6..8] != [0, 0] {
        set_checksum(segment, outer);
    }
}

/// The length in the IP header, for IPv4 also identification and checksum.
fn set_network(packet: &mut [u8], layers: &Layers, number: u16) {
    let total = packet.len() - layers.network;
    let header = &mut packet[layers.network..layers.transport];
    if layers.version == 6 {
        header[4..6].copy_from_slice(&((total - 40) as u16).to_be_bytes());
        return;
    }
    header[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    let id = u16::from_be_bytes([header[4], header[5]]).wrapping_add(number);
    header[4..6].copy_from_slice(&id.to_be_bytes());
    finish_ipv4(header);
}

fn set_tcp(segment: &mut [u8], layers: &Layers, offset: usize, first: bool, last: bool) {
    let tcp = &mut segment[layers.transport..layers.payload];
    let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]).wrapping_add(offset as u32);
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    if !first {
        // The sender has reduced its window once (RFC 3168, 6.1.2).
        tcp[13] &= !CWR;
    }
    if !last {
        tcp[13] &= !FIN_PSH;
    }
}

fn set_checksum(segment: &mut [u8], layers: &Layers) {
    let field = layers.transport + if layers.protocol == TCP { 16 } else { 6 };
    let length = segment.len() - layers.transport;
    let sum = pseudo_header(segment, layers, length).fold();
    segment[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    complete(segment, layers.transport, field - layers.transport);
}

/// IP fragments of a UDP datagram, whose checksum is completed first.
fn fragment(frame: &[u8], layers: &Layers, size: usize, out: &mut Frames) -> bool {
    // Offsets count in units of 8 bytes, and all fragments but the last are whole units.
    let size = size & !7;
    if size == 0 {
        return false;
    }
    let (headers, datagram) = frame.split_at(layers.transport);
    let length = datagram.len();
    let checksum = Sum::default()
        .add(&pseudo_header(frame, layers, length).fold().to_be_bytes())
        .add(&datagram[..6])
        .add(&datagram[8..])
        .checksum();
    let extra = if layers.version == 6 { FRAGMENT_HEADER } else { 0 };
    // Fragments of one datagram have the same number, other datagrams of these ends mostly another.
    let identification = u32::from(checksum) << 16 | length as u32 & 0xffff;
    let mut offset = 0;
    while offset < length {
        let piece = &datagram[offset..length.min(offset + size)];
        let more = offset + piece.len() < length;
        let start = headers.len() + extra;
        let packet = out.reserve(start + piece.len());
        packet[..headers.len()].copy_from_slice(headers);
        packet[start..].copy_from_slice(piece);
        if offset == 0 {
            packet[start + 6..start + 8].copy_from_slice(&checksum.to_be_bytes());
        }
        if layers.version == 6 {
            let place = offset as u16 | u16::from(more);
            let header = &mut packet[headers.len()..start];
            header[..2].copy_from_slice(&[layers.protocol, 0]);
            header[2..4].copy_from_slice(&place.to_be_bytes());
            header[4..8].copy_from_slice(&identification.to_be_bytes());
            packet[layers.next] = FRAGMENT;
        } else {
            let place = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
            packet[layers.network + 6..layers.network + 8].copy_from_slice(&place.to_be_bytes());
        }
        let total = packet.len();
        set_network(packet, layers, 0);
        out.commit(0, total, Offload::default());
        offset += piece.len();
    }
    true
}
