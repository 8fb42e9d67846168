//! Which receive queue a frame goes to (VIRTIO 1.4, 5.1.9.5.6 and 5.1.9.5.7).

use super::frames::Frame;
use super::layers::{Layers, dissect};
use super::toeplitz::Hasher;
use std::sync::atomic::{AtomicU16, Ordering};

const FLOWS: usize = 4096;
const UNKNOWN: u16 = u16::MAX;

/// How frames are spread over the receive queues.
#[derive(Clone, Debug)]
pub enum Steering {
    /// Where the flow's own packets were sent from, among the first so many pairs.
    Automatic(u16),
    /// By hash, through a table whose length is a power of two.
    Table {
        /// Receive queues, numbered from 0.
        table: Box<[u16]>,
        /// The queue for packets without a hash.
        unclassified: u16,
    },
}

impl Default for Steering {
    fn default() -> Self {
        Self::Automatic(1)
    }
}

/// Which queue each flow was last seen to be sent on.
#[derive(Debug)]
pub struct Flows(Box<[AtomicU16]>);

impl Default for Flows {
    fn default() -> Self {
        Self((0..FLOWS).map(|_| AtomicU16::new(UNKNOWN)).collect())
    }
}

/// A number that both directions of a flow have in common.
fn flow(frame: &[u8], layers: &Layers) -> usize {
    let end = |address: usize, port: usize| {
        let size = if layers.version == 4 { 4 } else { 16 };
        let mut hash = 0u64;
        for byte in &frame[address..address + size] {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
        if layers.has_ports() {
            for byte in &frame[port..port + 2] {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
            }
        }
        hash
    };
    let (source, destination) = if layers.version == 4 { (12, 16) } else { (8, 24) };
    let sum = end(layers.network + source, layers.transport)
        .wrapping_add(end(layers.network + destination, layers.transport + 2));
    (sum ^ sum >> 29) as usize % FLOWS
}

impl Flows {
    /// A frame was sent on this queue.
    pub fn learn(&self, frame: &[u8], queue: u16) {
        if let Some(layers) = dissect(frame) {
            self.0[flow(frame, &layers)].store(queue, Ordering::Relaxed);
        }
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.0
            .iter()
            .for_each(|entry| entry.store(UNKNOWN, Ordering::Relaxed));
    }

    fn find(&self, frame: &[u8], pairs: u16) -> u16 {
        let Some(layers) = dissect(frame) else { return 0 };
        let number = flow(frame, &layers);
        match self.0[number].load(Ordering::Relaxed) {
            known if known < pairs => known,
            _ => (number % usize::from(pairs)) as u16,
        }
    }
}

/// Hashes a frame if that is wanted, notes it, and says which queue the frame goes to.
#[inline]
pub fn steer(
    steering: &Steering,
    hasher: Option<&Hasher>,
    flows: &Flows,
    bytes: &[u8],
    frame: &mut Frame,
) -> u16 {
    let hash = hasher.and_then(|hasher| hasher.hash(bytes, &dissect(bytes)?));
    if let Some((value, report)) = hash {
        (frame.hash, frame.hash_report) = (value, report);
    } else {
        (frame.hash, frame.hash_report) = (0, 0);
    }
    match steering {
        Steering::Automatic(0 | 1) => 0,
        Steering::Automatic(pairs) => flows.find(bytes, *pairs),
        Steering::Table { table, unclassified } => match hash {
            Some((value, _)) => table[value as usize & (table.len() - 1)],
            None => *unclassified,
        },
    }
}
