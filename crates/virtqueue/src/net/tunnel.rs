//! Encapsulated packets, for hashes of inner headers (VIRTIO 1.4, 5.1.9.4.4). Looks at nothing that is not there.

use super::layers::{Layers, UDP, dissect_at, dissect_from};
use crate::spec::net::*;

/// All encapsulations that are recognized.
pub const ALL_TUNNELS: u32 = VIRTIO_NET_HASH_TUNNEL_TYPE_GRE_2784
    | VIRTIO_NET_HASH_TUNNEL_TYPE_GRE_2890
    | VIRTIO_NET_HASH_TUNNEL_TYPE_GRE_7676
    | VIRTIO_NET_HASH_TUNNEL_TYPE_GRE_UDP
    | VIRTIO_NET_HASH_TUNNEL_TYPE_VXLAN
    | VIRTIO_NET_HASH_TUNNEL_TYPE_VXLAN_GPE
    | VIRTIO_NET_HASH_TUNNEL_TYPE_GENEVE
    | VIRTIO_NET_HASH_TUNNEL_TYPE_IPIP
    | VIRTIO_NET_HASH_TUNNEL_TYPE_NVGRE;

const IPIP: u8 = 4;
const GRE: u8 = 47;
const GRE_UDP_PORT: u16 = 4754;
const VXLAN_PORT: u16 = 4789;
const VXLAN_GPE_PORT: u16 = 4790;
const GENEVE_PORT: u16 = 6081;

const ETHERNET: u16 = 0x6558;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// What is in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    /// It is in none of the tunnels that are asked for.
    None,
    /// An IP packet.
    Packet(Layers),
    /// Something else.
    Other,
}

/// What begins behind the header of a tunnel.
struct Content {
    /// The encapsulations that this is (there may be several names for one), as a mask.
    kinds: u32,
    /// EtherType.
    protocol: u16,
    at: usize,
}

/// Looks into a packet, one level deep, if it is in one of the tunnels in the mask.
pub fn inner(frame: &[u8], outer: &Layers, enabled: u32) -> Inner {
    let Some(content) = content(frame, outer) else {
        return Inner::None;
    };
    if content.kinds & enabled == 0 {
        return Inner::None;
    }
    let found = match content.protocol {
        ETHERNET => dissect_from(frame, content.at),
        IPV4 => dissect_at(frame, content.at).filter(|layers| layers.version == 4),
        IPV6 => dissect_at(frame, content.at).filter(|layers| layers.version == 6),
        _ => None,
    };
    found.map_or(Inner::Other, Inner::Packet)
}

fn word(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]))
}

fn content(frame: &[u8], outer: &Layers) -> Option<Content> {
    if outer.fragment {
        return None;
    }
    match outer.protocol {
        IPIP if outer.version == 4 => Some(Content {
            kinds: VIRTIO_NET_HASH_TUNNEL_TYPE_IPIP,
            protocol: IPV4,
            at: outer.transport,
        }),
        GRE => generic(frame, outer.transport, outer.version == 6),
        UDP if outer.has_ports() => {
            let at = outer.payload;
            match word(frame, outer.transport + 2)? {
                GRE_UDP_PORT => generic(frame, at, false).map(|content| Content {
                    kinds: VIRTIO_NET_HASH_TUNNEL_TYPE_GRE_UDP,
                    ..content
                }),
                VXLAN_PORT => vxlan(frame, at),
                VXLAN_GPE_PORT => vxlan_gpe(frame, at),
                GENEVE_PORT => geneve(frame, at),
                _ => None,
            }
        }
        _ => None,
    }
}

/// GRE: RFC 2784, with keys and sequence numbers by RFC 2890, about IPv6 by RFC 7676; NVGRE (RFC 7637) is a form of it.
fn generic(frame: &[u8], at: usize, over_ipv6: bool) -> Option<Content> {
    const CHECKSUM: u16 = 0x8000;
    const KEY: u16 = 0x2000;
    const SEQUENCE: u16 = 0x1000;
    let (flags, protocol) = (word(frame, at)?, word(frame, at + 2)?);
    // All else is reserved, source routes of RFC 1701, or another version.
    if flags & !(CHECKSUM | KEY | SEQUENCE) != 0 {
        return None;
    }
    let fields = (flags & (CHECKSUM | KEY | SEQUENCE)).count_ones() as usize;
    let mut kinds = if flags & (KEY | SEQUENCE) != 0 {
        VIRTIO_NET_HASH_TUNNEL_TYPE_GRE_2890
    } else {
        VIRTIO_NET_HASH_TUNNEL_TYPE_GRE_2784
    };
    if over_ipv6 || protocol == IPV6 {
        kinds |= VIRTIO_NET_HASH_TUNNEL_TYPE_GRE_7676;
    }
    if flags == KEY && protocol == ETHERNET {
        kinds |= VIRTIO_NET_HASH_TUNNEL_TYPE_NVGRE;
    }
    let at = at + 4 + 4 * fields;
    (at <= frame.len()).then_some(Content { kinds, protocol, at })
}

/// RFC 7348.
fn vxlan(frame: &[u8], at: usize) -> Option<Content> {
    let header = frame.get(at..at + 8)?;
    (header[0] == 0x08).then_some(Content {
        kinds: VIRTIO_NET_HASH_TUNNEL_TYPE_VXLAN,
        protocol: ETHERNET,
        at: at + 8,
    })
}

/// The generic protocol extension for VXLAN.
fn vxlan_gpe(frame: &[u8], at: usize) -> Option<Content> {
    const VERSION: u8 = 0x30;
    const INSTANCE: u8 = 0x08;
    const NEXT_PROTOCOL: u8 = 0x04;
    const MAINTENANCE: u8 = 0x01;
    let header = frame.get(at..at + 8)?;
    if header[0] & (VERSION | INSTANCE | MAINTENANCE) != INSTANCE {
        return None;
    }
    let protocol = match (header[0] & NEXT_PROTOCOL != 0, header[3]) {
        (false, _) | (true, 3) => ETHERNET,
        (true, 1) => IPV4,
        (true, 2) => IPV6,
        _ => 0,
    };
    Some(Content {
        kinds: VIRTIO_NET_HASH_TUNNEL_TYPE_VXLAN_GPE,
        protocol,
        at: at + 8,
    })
}

/// RFC 8926.
fn geneve(frame: &[u8], at: usize) -> Option<Content> {
    const CONTROL: u8 = 0x80;
    let header = frame.get(at..at + 8)?;
    let options = usize::from(header[0] & 0x3f) * 4;
    if header[0] >> 6 != 0 || header[1] & CONTROL != 0 || at + 8 + options > frame.len() {
        return None;
    }
    Some(Content {
        kinds: VIRTIO_NET_HASH_TUNNEL_TYPE_GENEVE,
        protocol: word(header, 2)?,
        at: at + 8 + options,
    })
}
