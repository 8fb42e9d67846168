//! Flow filters: the rules that incoming packets match, and what becomes of them (VIRTIO 1.4, 5.1.9.6).
//!
//! The headers of a packet are laid out once, in a row of fixed places, and so is what a rule compares: a rule then is a
//! handful of words with their masks, and a set of headers that must be there.

use super::layers::{Layers, TCP, UDP, dissect};
use crate::spec::net::*;

/// Ethernet, IP and transport header, each from a word on.
const WORDS: usize = 10;
const NETWORK: usize = 16;
const TRANSPORT: usize = 56;
/// Where a packet's type is said: in the Ethernet header, in an IPv6 header.
const ETHERTYPE: usize = 12;
const NEXT_HEADER: usize = 6;

const ETHERNET_SIZE: usize = 14;
const V4_SIZE: usize = 20;
const V6_SIZE: usize = 40;
const TCP_SIZE: usize = 20;
const UDP_SIZE: usize = 8;

/// Headers that a packet has, or a rule needs.
mod has {
    pub const V4: u8 = 1;
    pub const V6: u8 = 1 << 1;
    pub const TCP: u8 = 1 << 2;
    pub const UDP: u8 = 1 << 3;
    /// It is known what follows the IPv6 header and its extensions.
    pub const NEXT: u8 = 1 << 4;
}

type Words = [u64; WORDS];

fn put(row: &mut [u8; 8 * WORDS], at: usize, bytes: &[u8]) {
    row[at..at + bytes.len()].copy_from_slice(bytes);
}

fn words(row: &[u8; 8 * WORDS]) -> Words {
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(row.chunks_exact(8)) {
        *word = bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    }
    words
}

/// What rules look at of a packet.
struct Headers {
    has: u8,
    words: Words,
}

impl Headers {
    /// Of a frame of at least 14 bytes. `deep`: some rule looks beyond the Ethernet header.
    fn of(frame: &[u8], deep: bool) -> Self {
        let mut row = [0; 8 * WORDS];
        put(&mut row, 0, &frame[..ETHERNET_SIZE]);
        let mut has = 0;
        if deep {
            match [frame[ETHERTYPE], frame[ETHERTYPE + 1]] {
                [0x08, 0x00] => has = Self::version_4(frame, &mut row),
                [0x86, 0xdd] => has = Self::version_6(frame, &mut row),
                _ => {}
            }
        }
        Self {
            has,
            words: words(&row),
        }
    }

    fn version_4(frame: &[u8], row: &mut [u8; 8 * WORDS]) -> u8 {
        let Some(layers) = dissect(frame) else { return 0 };
        put(row, NETWORK, &frame[ETHERNET_SIZE..ETHERNET_SIZE + V4_SIZE]);
        has::V4 | Self::transport(frame, &layers, row)
    }

    fn version_6(frame: &[u8], row: &mut [u8; 8 * WORDS]) -> u8 {
        let Some(header) = frame.get(ETHERNET_SIZE..ETHERNET_SIZE + V6_SIZE) else {
            return 0;
        };
        if header[0] >> 4 != 6 {
            return 0;
        }
        put(row, NETWORK, header);
        // Extensions that end early hide what comes after them, not the header before.
        let Some(layers) = dissect(frame) else {
            return has::V6;
        };
        row[NETWORK + NEXT_HEADER] = layers.protocol;
        has::V6 | has::NEXT | Self::transport(frame, &layers, row)
    }

    fn transport(frame: &[u8], layers: &Layers, row: &mut [u8; 8 * WORDS]) -> u8 {
        let (kind, size) = match layers.protocol {
            TCP => (has::TCP, TCP_SIZE),
            UDP => (has::UDP, UDP_SIZE),
            _ => return 0,
        };
        match frame.get(layers.transport..layers.transport + size) {
            Some(header) if !layers.later => put(row, TRANSPORT, header),
            _ => return 0,
        }
        kind
    }
}

/// What becomes of a packet that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody gets it.
    Drop,
    /// This receive queue gets it, counted from 0.
    Queue(u16),
}

/// A key, the mask of what counts of it, and what becomes of packets that match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    needs: u8,
    mask: Words,
    key: Words,
    verdict: Verdict,
}

impl Rule {
    /// From `VIRTIO_NET_FF_MASK_TYPE_…`, and the masks and keys of all these headers one after the other. `None`: there
    /// is no such type here, or the lengths are not those of the headers.
    pub fn new(types: &[u8], masks: &[u8], keys: &[u8], verdict: Verdict) -> Option<Self> {
        let (mut mask, mut key) = ([0; 8 * WORDS], [0; 8 * WORDS]);
        let (mut needs, mut at) = (0, 0);
        for kind in types {
            let (place, size, header) = match *kind {
                VIRTIO_NET_FF_MASK_TYPE_ETH => (0, ETHERNET_SIZE, 0),
                VIRTIO_NET_FF_MASK_TYPE_IPV4 => (NETWORK, V4_SIZE, has::V4),
                VIRTIO_NET_FF_MASK_TYPE_IPV6 => (NETWORK, V6_SIZE, has::V6),
                VIRTIO_NET_FF_MASK_TYPE_TCP => (TRANSPORT, TCP_SIZE, has::TCP),
                VIRTIO_NET_FF_MASK_TYPE_UDP => (TRANSPORT, UDP_SIZE, has::UDP),
                _ => return None,
            };
            let own = masks.get(at..at + size)?;
            put(&mut mask, place, own);
            put(&mut key, place, keys.get(at..at + size)?);
            needs |= header;
            if header == has::V6 && own[NEXT_HEADER] != 0 {
                needs |= has::NEXT;
            }
            at += size;
        }
        if at != masks.len() || at != keys.len() {
            return None;
        }
        let (mask, mut key) = (words(&mask), words(&key));
        key.iter_mut().zip(&mask).for_each(|(key, mask)| *key &= mask);
        Some(Self {
            needs,
            mask,
            key,
            verdict,
        })
    }

    #[inline]
    fn matches(&self, headers: &Headers) -> bool {
        let compared = self.mask.iter().zip(&self.key).zip(&headers.words);
        headers.has & self.needs == self.needs && compared.into_iter().all(|((m, k), word)| word & m == *k)
    }
}

/// Rules, from the first to be applied to the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    list: Box<[Rule]>,
    deep: bool,
}

impl Rules {
    /// In this order.
    pub fn new(list: impl Into<Box<[Rule]>>) -> Self {
        let list = list.into();
        let deep = list.iter().any(|rule| rule.needs != 0);
        Self { list, deep }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// What the first rule says that a frame matches.
    pub fn find(&self, frame: &[u8]) -> Option<Verdict> {
        if frame.len() < ETHERNET_SIZE {
            return None;
        }
        let headers = Headers::of(frame, self.deep);
        let rule = self.list.iter().find(|rule| rule.matches(&headers))?;
        Some(rule.verdict)
    }
}
