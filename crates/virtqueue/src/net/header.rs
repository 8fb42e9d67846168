//! `struct virtio_net_hdr` (VIRTIO 1.4, 5.1.9): read, checked against what was negotiated, written.

use super::layers::{Layers, TCP, UDP, dissect, dissect_at};
use crate::spec::net::*;

/// The longest frame: Ethernet header with two VLAN tags, and 65535 bytes of IPv6 payload after its header.
pub const MAX_FRAME: usize = 14 + 8 + 40 + 65535;
/// An Ethernet header.
pub const ETHERNET: usize = 14;
/// Headers of a packet that is to be segmented may be this long: they are repeated in each segment.
const MAX_HEADERS: usize = 512;

/// Where the second of the words of [`Offload::words`] lies.
pub(super) const WORD: usize = 8;

/// What is left to be done to a frame: the fields of the header that travel with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// `VIRTIO_NET_HDR_F_…`
    pub flags: u8,
    /// `VIRTIO_NET_HDR_GSO_…`
    pub gso_type: u8,
    /// Bytes of headers that each segment repeats.
    pub hdr_len: u16,
    /// Most bytes of payload of a segment.
    pub gso_size: u16,
    /// Where the checksum begins.
    pub csum_start: u16,
    /// Where it is put, from `csum_start`.
    pub csum_offset: u16,
    /// In a tunnel: where the outer UDP header is.
    pub outer_th_offset: u16,
    /// In a tunnel: where the inner IP header is.
    pub inner_nh_offset: u16,
}

/// The packet is in a UDP tunnel; at most one of them.
const TUNNEL: u8 = VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV4 | VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV6;

impl Offload {
    /// The fields, as they lie in the first ten bytes of a header.
    #[inline]
    pub fn parse(header: &[u8; 10]) -> Self {
        let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        Self {
            flags: header[HDR_FLAGS],
            gso_type: header[HDR_GSO_TYPE],
            hdr_len: word(HDR_HDR_LEN),
            gso_size: word(HDR_GSO_SIZE),
            csum_start: word(HDR_CSUM_START),
            csum_offset: word(HDR_CSUM_OFFSET),
            ..Self::default()
        }
    }

    /// The fields about a tunnel, from a header that is long enough for them.
    pub fn parse_tunnel(&mut self, header: &[u8]) {
        let word = |at: usize| {
            let found = header.get(at..at + 2).map(<[u8; 2]>::try_from);
            found.and_then(Result::ok).map_or(0, u16::from_le_bytes)
        };
        self.outer_th_offset = word(TUNNEL_HDR_OUTER_TH_OFFSET);
        self.inner_nh_offset = word(TUNNEL_HDR_INNER_NH_OFFSET);
    }

    /// The fields about a tunnel, as they lie in a header.
    pub fn tunnel_bytes(&self) -> [u8; 4] {
        let [a, b] = self.outer_th_offset.to_le_bytes();
        let [c, d] = self.inner_nh_offset.to_le_bytes();
        [a, b, c, d]
    }

    /// The same for a frame with `by` bytes more, or fewer, in front of all that is referred to.
    pub fn moved(mut self, by: i16) -> Self {
        if self.needs_csum() {
            self.csum_start = self.csum_start.saturating_add_signed(by);
            self.hdr_len = self.hdr_len.saturating_add_signed(by);
        }
        if self.in_tunnel() {
            self.outer_th_offset = self.outer_th_offset.saturating_add_signed(by);
            self.inner_nh_offset = self.inner_nh_offset.saturating_add_signed(by);
        }
        self
    }

    /// A header's first ten bytes, and the number of buffers, as the 8 and 4 bytes that it begins with. Nobody has to put them
    /// together in memory, where a copy of all would wait for each.
    #[inline]
    pub fn words(&self, buffers: u16) -> (u64, u32) {
        let first = u64::from(self.flags) << (8 * HDR_FLAGS)
            | u64::from(self.gso_type) << (8 * HDR_GSO_TYPE)
            | u64::from(self.hdr_len) << (8 * HDR_HDR_LEN)
            | u64::from(self.gso_size) << (8 * HDR_GSO_SIZE)
            | u64::from(self.csum_start) << (8 * HDR_CSUM_START);
        let second = u32::from(self.csum_offset) << (8 * (HDR_CSUM_OFFSET - WORD))
            | u32::from(buffers) << (8 * (HDR_NUM_BUFFERS - WORD));
        (first.to_le(), second.to_le())
    }

    /// The first ten bytes of a header.
    pub fn bytes(&self) -> [u8; 10] {
        let (first, second) = self.words(0);
        let mut header = [0; 10];
        header[..WORD].copy_from_slice(&first.to_ne_bytes());
        header[WORD..].copy_from_slice(&second.to_ne_bytes()[..2]);
        header
    }

    /// Whether the checksum is partial.
    #[inline]
    pub fn needs_csum(&self) -> bool {
        self.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0
    }

    /// Whether the frame is to be cut into segments.
    #[inline]
    pub fn is_large(&self) -> bool {
        self.gso_type != VIRTIO_NET_HDR_GSO_NONE
    }

    /// Whether it is in a UDP tunnel.
    #[inline]
    pub fn in_tunnel(&self) -> bool {
        self.gso_type & TUNNEL != 0
    }

    /// Whether the outer checksum of a tunnel is partial.
    pub fn needs_outer_csum(&self) -> bool {
        self.flags & VIRTIO_NET_HDR_F_UDP_TUNNEL_CSUM != 0
    }

    /// The kind of large packet, without the flags for ECN and tunnels.
    #[inline]
    pub fn kind(&self) -> u8 {
        self.gso_type & !(VIRTIO_NET_HDR_GSO_ECN | TUNNEL)
    }

    /// Whether whoever negotiated `features` (those of a transmitting driver, `HOST_…`) may hand this on as it is.
    pub fn within(&self, features: u128) -> bool {
        if !self.is_large() {
            return !self.needs_csum() || features & VIRTIO_NET_F_CSUM != 0;
        }
        let ecn = self.gso_type & VIRTIO_NET_HDR_GSO_ECN != 0;
        host_feature(self.kind()).is_some_and(|needed| features & needed != 0)
            && (!ecn || features & VIRTIO_NET_F_HOST_ECN != 0)
            && (!self.in_tunnel() || features & VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO != 0)
            && (!self.needs_outer_csum() || features & VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO_CSUM != 0)
    }
}

/// The feature that lets a driver send large packets of a kind.
fn host_feature(kind: u8) -> Option<u128> {
    Some(match kind {
        VIRTIO_NET_HDR_GSO_TCPV4 => VIRTIO_NET_F_HOST_TSO4,
        VIRTIO_NET_HDR_GSO_TCPV6 => VIRTIO_NET_F_HOST_TSO6,
        VIRTIO_NET_HDR_GSO_UDP => VIRTIO_NET_F_HOST_UFO,
        VIRTIO_NET_HDR_GSO_UDP_L4 => VIRTIO_NET_F_HOST_USO,
        _ => return None,
    })
}

/// Why a frame or its header cannot be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// No room for the header, or for an Ethernet header after it.
    Short,
    /// Longer than any packet.
    Long,
    /// A kind of large packet that does not exist or was not negotiated.
    GsoType,
    /// Large, but with a complete checksum.
    GsoWithoutChecksum,
    /// Segments without payload.
    GsoSize,
    /// Headers that are not what `gso_type` says, or no headers at all.
    GsoHeaders,
    /// A checksum beyond the end of the packet.
    Checksum,
    /// No UDP tunnel, or another one than the header says.
    Tunnel,
}

/// Checks the header of a frame that a driver with these features sends (5.1.9.2.1, 5.1.9.2.2). What is returned
/// holds for the frame: offsets lie within it, and headers of a large packet are what they are said to be.
#[inline]
pub fn check(offload: Offload, frame: &[u8], features: u128) -> Result<Offload, Malformed> {
    check_size(frame)?;
    if !asks(offload.flags, offload.gso_type) {
        return Ok(Offload::default());
    }
    check_request(offload, frame, features)
}

/// Checks the size of a frame that a driver sends.
#[inline]
pub fn check_size(frame: &[u8]) -> Result<(), Malformed> {
    if frame.len() < ETHERNET {
        return Err(Malformed::Short);
    }
    if frame.len() > MAX_FRAME {
        return Err(Malformed::Long);
    }
    Ok(())
}

/// Whether a driver asks for something. If not, all other fields mean nothing, and so do flags of later versions.
#[inline]
pub const fn asks(flags: u8, gso_type: u8) -> bool {
    const ASKS: u8 = VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_UDP_TUNNEL_CSUM;
    flags & ASKS != 0 || gso_type != VIRTIO_NET_HDR_GSO_NONE
}

fn check_request(offload: Offload, frame: &[u8], features: u128) -> Result<Offload, Malformed> {
    let mut request = Offload {
        flags: offload.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM,
        ..offload
    };
    if features & VIRTIO_NET_F_CSUM == 0 {
        // The driver had to leave it clear; the packet is complete then.
        request.flags = 0;
    }
    if features & VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO != 0 && offload.needs_outer_csum() {
        if !offload.in_tunnel() {
            return Err(Malformed::Tunnel);
        }
        request.flags |= VIRTIO_NET_HDR_F_UDP_TUNNEL_CSUM;
    }
    if !offload.in_tunnel() {
        (request.outer_th_offset, request.inner_nh_offset) = (0, 0);
    }
    if !offload.is_large() {
        if request.flags == 0 {
            return Ok(Offload::default());
        }
        check_checksum(&request, frame)?;
        return Ok(Offload {
            hdr_len: 0,
            gso_size: 0,
            ..request
        });
    }
    if !request.within(features) {
        return Err(Malformed::GsoType);
    }
    if !request.needs_csum() {
        return Err(Malformed::GsoWithoutChecksum);
    }
    if request.gso_size == 0 {
        return Err(Malformed::GsoSize);
    }
    if request.in_tunnel() && offload.flags & VIRTIO_NET_HDR_F_DATA_VALID != 0 {
        return Err(Malformed::Tunnel);
    }
    check_checksum(&request, frame)?;
    let large = Large::of(&request, frame)?;
    // hdr_len is a hint at best (5.1.9.2.2): what counts is what the headers say.
    request.hdr_len = large.inner.payload as u16;
    Ok(request)
}

fn check_checksum(request: &Offload, frame: &[u8]) -> Result<(), Malformed> {
    let field = usize::from(request.csum_start) + usize::from(request.csum_offset);
    if field + 2 > frame.len() {
        return Err(Malformed::Checksum);
    }
    Ok(())
}

/// Where the headers of a large packet are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Large {
    /// Those of what is to be cut.
    pub inner: Layers,
    /// Those of the UDP tunnel that it is in.
    pub outer: Option<Layers>,
}

impl Large {
    /// Finds the headers, if they are what the request says.
    pub fn of(request: &Offload, frame: &[u8]) -> Result<Self, Malformed> {
        let first = dissect(frame).ok_or(Malformed::GsoHeaders)?;
        if !request.in_tunnel() {
            check_large(request, &first)?;
            return Ok(Self {
                inner: first,
                outer: None,
            });
        }
        let (outer, at) = (first, usize::from(request.inner_nh_offset));
        let udp = outer.protocol == UDP && outer.has_ports();
        if !udp || outer.transport != usize::from(request.outer_th_offset) || at < outer.payload {
            return Err(Malformed::Tunnel);
        }
        let inner = dissect_at(frame, at).ok_or(Malformed::Tunnel)?;
        // The text of the standard has the flag tell the version of the inner header, its name and Linux that of the
        // outer one. Nothing here depends on it.
        let said = match request.gso_type & TUNNEL {
            VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV4 => 4,
            VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV6 => 6,
            _ => return Err(Malformed::Tunnel),
        };
        if said != inner.version && said != outer.version {
            return Err(Malformed::Tunnel);
        }
        if request.kind() == VIRTIO_NET_HDR_GSO_UDP {
            return Err(Malformed::GsoType);
        }
        check_large(request, &inner)?;
        Ok(Self {
            inner,
            outer: Some(outer),
        })
    }
}

/// Whether the headers are what the kind of large packet says.
fn check_large(request: &Offload, layers: &Layers) -> Result<(), Malformed> {
    let (versions, protocol, field): (&[u8], u8, u16) = match request.kind() {
        VIRTIO_NET_HDR_GSO_TCPV4 => (&[4], TCP, 16),
        VIRTIO_NET_HDR_GSO_TCPV6 => (&[6], TCP, 16),
        VIRTIO_NET_HDR_GSO_UDP | VIRTIO_NET_HDR_GSO_UDP_L4 => (&[4, 6], UDP, 6),
        _ => return Err(Malformed::GsoType),
    };
    let same = versions.contains(&layers.version) && layers.protocol == protocol && !layers.fragment;
    let whole = layers.payload > 0 && layers.payload <= MAX_HEADERS;
    let checksum = usize::from(request.csum_start) == layers.transport && request.csum_offset == field;
    if same && whole && checksum {
        Ok(())
    } else {
        Err(Malformed::GsoHeaders)
    }
}

/// Bytes of the header (5.1.9.3.1).
pub fn size(features: u128) -> usize {
    if features & (VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO | VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO) != 0 {
        TUNNEL_HDR_SIZE
    } else if features & VIRTIO_NET_F_HASH_REPORT != 0 {
        HASH_HDR_SIZE
    } else {
        HDR_SIZE
    }
}
