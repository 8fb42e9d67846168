//! Toeplitz hashes of packets (VIRTIO 1.4, 5.1.9.4.3).

use super::layers::{Layers, TCP, UDP};
use super::tunnel::{Inner, inner};
use crate::spec::net::*;

/// Two IPv6 addresses and two ports.
const MAX_INPUT: usize = 36;
/// The longest key that makes a difference.
pub const MAX_KEY: usize = MAX_INPUT + 4;

/// All hash types that can be computed.
pub const ALL_TYPES: u32 = VIRTIO_NET_HASH_TYPE_IPv4
    | VIRTIO_NET_HASH_TYPE_TCPv4
    | VIRTIO_NET_HASH_TYPE_UDPv4
    | VIRTIO_NET_HASH_TYPE_IPv6
    | VIRTIO_NET_HASH_TYPE_TCPv6
    | VIRTIO_NET_HASH_TYPE_UDPv6
    | VIRTIO_NET_HASH_TYPE_IP_EX
    | VIRTIO_NET_HASH_TYPE_TCP_EX
    | VIRTIO_NET_HASH_TYPE_UDP_EX;

/// A key and the hash types that are enabled.
#[derive(Clone)]
pub struct Hasher {
    types: u32,
    /// Encapsulations whose inner headers are hashed instead of the outer ones.
    tunnels: u32,
    /// What each value of each byte of the input contributes.
    table: Box<[[u32; 256]; MAX_INPUT]>,
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hasher")
            .field("types", &self.types)
            .finish_non_exhaustive()
    }
}

impl Hasher {
    /// A key shorter than 40 bytes is filled up with zeros.
    pub fn new(types: u32, key: &[u8]) -> Self {
        let mut padded = [0u8; MAX_KEY];
        let size = key.len().min(MAX_KEY);
        padded[..size].copy_from_slice(&key[..size]);
        let mut table = Box::new([[0u32; 256]; MAX_INPUT]);
        for (at, row) in table.iter_mut().enumerate() {
            let window = padded[at..at + 5]
                .iter()
                .fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
            for (value, entry) in row.iter_mut().enumerate() {
                for bit in 0..8 {
                    if value & (0x80 >> bit) != 0 {
                        *entry ^= (window >> (8 - bit)) as u32;
                    }
                }
            }
        }
        Self {
            types,
            tunnels: 0,
            table,
        }
    }

    /// The same, which hashes the inner headers of packets in these tunnels (5.1.9.4.4).
    pub fn into_tunnels(mut self, tunnels: u32) -> Self {
        self.tunnels = tunnels;
        self
    }

    /// The hash of up to 36 bytes.
    #[inline]
    pub fn toeplitz(&self, input: &[u8]) -> u32 {
        input
            .iter()
            .zip(self.table.iter())
            .fold(0, |hash, (byte, row)| hash ^ row[usize::from(*byte)])
    }

    /// The hash of a packet and the report type that says how it was computed; `None` if its kind is not enabled.
    pub fn hash(&self, frame: &[u8], layers: &Layers) -> Option<(u32, u16)> {
        if self.tunnels == 0 {
            return self.hash_at(frame, layers);
        }
        match inner(frame, layers, self.tunnels) {
            Inner::None => self.hash_at(frame, layers),
            Inner::Packet(layers) => self.hash_at(frame, &layers),
            Inner::Other => None,
        }
    }

    fn hash_at(&self, frame: &[u8], layers: &Layers) -> Option<(u32, u16)> {
        let bits = if layers.version == 4 {
            [
                VIRTIO_NET_HASH_TYPE_TCPv4,
                VIRTIO_NET_HASH_TYPE_UDPv4,
                VIRTIO_NET_HASH_TYPE_IPv4,
            ]
        } else {
            [
                VIRTIO_NET_HASH_TYPE_TCPv6,
                VIRTIO_NET_HASH_TYPE_UDPv6,
                VIRTIO_NET_HASH_TYPE_IPv6,
            ]
        };
        const EXTENDED: [u32; 3] = [
            VIRTIO_NET_HASH_TYPE_TCP_EX,
            VIRTIO_NET_HASH_TYPE_UDP_EX,
            VIRTIO_NET_HASH_TYPE_IP_EX,
        ];
        let found = layers
            .extended
            .then(|| self.choose(EXTENDED, layers))
            .flatten()
            .map(|kind| (kind, true))
            .or_else(|| Some((self.choose(bits, layers)?, false)));
        let (kind, extended) = found?;
        const ADDRESSES: u32 =
            VIRTIO_NET_HASH_TYPE_IPv4 | VIRTIO_NET_HASH_TYPE_IPv6 | VIRTIO_NET_HASH_TYPE_IP_EX;
        let ports = kind & ADDRESSES == 0;
        let hash = self.over(frame, layers, extended, ports);
        // VIRTIO_NET_HASH_TYPE_XXX = 1 << (VIRTIO_NET_HASH_REPORT_XXX - 1)
        Some((hash, kind.trailing_zeros() as u16 + 1))
    }

    /// The first of the types for TCP, UDP and all of IP that is enabled and fits the packet.
    fn choose(&self, [tcp, udp, ip]: [u32; 3], layers: &Layers) -> Option<u32> {
        let ports = layers.has_ports();
        if ports && layers.protocol == TCP && self.types & tcp != 0 {
            Some(tcp)
        } else if ports && layers.protocol == UDP && self.types & udp != 0 {
            Some(udp)
        } else {
            (self.types & ip != 0).then_some(ip)
        }
    }

    fn over(&self, frame: &[u8], layers: &Layers, extended: bool, ports: bool) -> u32 {
        let mut input = [0; MAX_INPUT];
        let (size, source, destination) = if layers.version == 4 {
            (4, layers.network + 12, layers.network + 16)
        } else {
            (16, layers.network + 8, layers.network + 24)
        };
        let or = |special: usize, plain: usize| if extended && special > 0 { special } else { plain };
        let (source, destination) = (or(layers.home, source), or(layers.routed, destination));
        input[..size].copy_from_slice(&frame[source..source + size]);
        input[size..2 * size].copy_from_slice(&frame[destination..destination + size]);
        let mut used = 2 * size;
        if ports {
            input[used..used + 4].copy_from_slice(&frame[layers.transport..layers.transport + 4]);
            used += 4;
        }
        self.toeplitz(&input[..used])
    }
}
