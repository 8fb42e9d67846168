//! What the queues of a network device have done (VIRTIO 1.4, 5.1.9.5.11).

use super::frames::Frame;
use super::header::Malformed;
use crate::spec::net::*;
use std::sync::atomic::{AtomicU64, Ordering};

/// A counter with several writers.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `n`, from any thread.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The count; it wraps around.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Of a receive queue.
#[derive(Debug, Default)]
#[repr(align(128))]
#[allow(missing_docs, reason = "the names of the standard")]
pub struct Received {
    pub packets: Count,
    pub bytes: Count,
    pub drops: Count,
    pub drop_overruns: Count,
    pub csum_valid: Count,
    pub needs_csum: Count,
    pub csum_none: Count,
    pub csum_bad: Count,
    pub gso_packets: Count,
    pub gso_bytes: Count,
}

/// Of a transmit queue.
#[derive(Debug, Default)]
#[repr(align(128))]
#[allow(missing_docs, reason = "the names of the standard")]
pub struct Transmitted {
    pub packets: Count,
    pub bytes: Count,
    pub drops: Count,
    pub drop_malformed: Count,
    pub csum_none: Count,
    pub needs_csum: Count,
    pub gso_packets: Count,
    pub gso_bytes: Count,
    pub gso_segments: Count,
    pub gso_segments_bytes: Count,
    pub gso_packets_noseg: Count,
    pub gso_bytes_noseg: Count,
}

impl Transmitted {
    /// A frame that cannot be sent.
    #[cold]
    pub fn refuse(&self, _why: Malformed) {
        self.drops.add(1);
        self.drop_malformed.add(1);
    }
}

/// Counts of one burst, added to the shared ones at its end: a locked addition costs more than a packet.
#[derive(Debug, Default)]
pub struct Burst {
    packets: u64,
    bytes: u64,
    valid: u64,
    needs: u64,
    large: u64,
    large_bytes: u64,
}

impl Burst {
    /// A frame of `size` bytes passed.
    #[inline]
    pub fn count(&mut self, frame: &Frame, size: usize) {
        self.packets += 1;
        self.bytes += size as u64;
        if frame.offload.flags != 0 {
            self.needs += u64::from(frame.offload.needs_csum());
            self.valid += u64::from(frame.offload.flags & VIRTIO_NET_HDR_F_DATA_VALID != 0);
            if frame.offload.is_large() {
                self.large += 1;
                self.large_bytes += size as u64;
            }
        }
    }

    /// Adds to a receive queue's, and starts anew.
    pub fn received(&mut self, into: &Received) {
        let burst = std::mem::take(self);
        if burst.packets == 0 {
            return;
        }
        into.packets.add(burst.packets);
        into.bytes.add(burst.bytes);
        into.csum_valid.add(burst.valid);
        into.needs_csum.add(burst.needs);
        into.csum_none.add(burst.packets - burst.valid - burst.needs);
        into.gso_packets.add(burst.large);
        into.gso_bytes.add(burst.large_bytes);
    }

    /// Adds what the driver asked for to a transmit queue's, and starts anew.
    pub fn asked(&mut self, into: &Transmitted) {
        let burst = std::mem::take(self);
        if burst.packets == 0 {
            return;
        }
        into.needs_csum.add(burst.needs);
        into.csum_none.add(burst.packets - burst.needs);
        into.gso_packets.add(burst.large);
        into.gso_bytes.add(burst.large_bytes);
    }
}
