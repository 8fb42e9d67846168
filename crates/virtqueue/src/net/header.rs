//! `struct virtio_net_hdr` (VIRTIO 1.4, 5.1.9): read, checked against what was negotiated, written.

use super::layers::{Layers, TCP, UDP, dissect};
use crate::spec::net::*;

/// The longest frame: Ethernet header with two VLAN tags, and 65535 bytes of IPv6 payload after its header.
pub const MAX_FRAME: usize = 14 + 8 + 40 + 65535;
/// An Ethernet header.
pub const ETHERNET: usize = 14;
/// Headers of a packet that is to be segmented may be this long: they are repeated in each segment.
const MAX_HEADERS: usize = 512;

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
}

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
        }
    }

    /// The first ten bytes of a header.
    #[inline]
    pub fn bytes(&self) -> [u8; 10] {
        let mut header = [0; 10];
        header[HDR_FLAGS] = self.flags;
        header[HDR_GSO_TYPE] = self.gso_type;
        for (at, value) in [
            (HDR_HDR_LEN, self.hdr_len),
            (HDR_GSO_SIZE, self.gso_size),
            (HDR_CSUM_START, self.csum_start),
            (HDR_CSUM_OFFSET, self.csum_offset),
        ] {
            header[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
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

    /// The kind of large packet, without the flag for ECN.
    #[inline]
    pub fn kind(&self) -> u8 {
        self.gso_type & !VIRTIO_NET_HDR_GSO_ECN
    }

    /// Whether whoever negotiated `features` (those of a transmitting driver, `HOST_…`) may hand this on as it is.
    pub fn within(&self, features: u128) -> bool {
        if !self.is_large() {
            return !self.needs_csum() || features & VIRTIO_NET_F_CSUM != 0;
        }
        let ecn = self.gso_type & VIRTIO_NET_HDR_GSO_ECN != 0;
        host_feature(self.kind()).is_some_and(|needed| features & needed != 0)
            && (!ecn || features & VIRTIO_NET_F_HOST_ECN != 0)
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
}

/// Checks the header of a frame that a driver with these features sends (5.1.9.2.1, 5.1.9.2.2). What is returned
/// holds for the frame: offsets lie within it, and headers of a large packet are what they are said to be.
#[inline]
pub fn check(offload: Offload, frame: &[u8], features: u128) -> Result<Offload, Malformed> {
    if frame.len() < ETHERNET {
        return Err(Malformed::Short);
    }
    if frame.len() > MAX_FRAME {
        return Err(Malformed::Long);
    }
    if offload.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM == 0 && offload.gso_type == 0 {
        // All other fields, and flags of later versions, mean nothing now.
        return Ok(Offload::default());
    }
    check_request(offload, frame, features)
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
    if request.flags == 0 {
        return Err(Malformed::GsoWithoutChecksum);
    }
    if request.gso_size == 0 {
        return Err(Malformed::GsoSize);
    }
    check_checksum(&request, frame)?;
    let layers = dissect(frame).ok_or(Malformed::GsoHeaders)?;
    check_large(&request, &layers)?;
    // hdr_len is a hint at best (5.1.9.2.2): what counts is what the headers say.
    request.hdr_len = layers.payload as u16;
    Ok(request)
}

fn check_checksum(request: &Offload, frame: &[u8]) -> Result<(), Malformed> {
    let field = usize::from(request.csum_start) + usize::from(request.csum_offset);
    if field + 2 > frame.len() {
        return Err(Malformed::Checksum);
    }
    Ok(())
}

/// Whether the headers are what the kind of large packet says.
pub(super) fn check_large(request: &Offload, layers: &Layers) -> Result<(), Malformed> {
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
    if features & VIRTIO_NET_F_HASH_REPORT != 0 {
        HASH_HDR_SIZE
    } else {
        HDR_SIZE
    }
}
