//! Descriptor chains as the rest of the crate sees them: host memory, checked.

use crate::fault::{Fault, Rule};
use crate::memory::{Snapshot, Wanted};
use std::sync::Arc;
use vm_memory::VolatileSlice;

/// Names a chain to the ring that it came from, and to nobody else.
///
/// Split: the head's index. Packed: the buffer id and how many descriptors the
/// chain occupies in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// Head index (split) or buffer id (packed).
    pub id: u16,
    /// Ring slots to skip on completion (packed); 1 for split.
    pub slots: u16,
}

/// One contiguous piece of a buffer in host memory.
///
/// The memory is always being changed by someone else, so it is reached only
/// through volatile copies or handed to the kernel; never as a reference.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Host address. Valid while the batch's memory snapshot is held.
    pub host: *mut u8,
    /// Guest address of the same byte as the driver gave it, for the dirty log and for traces.
    pub guest: u64,
    /// Length in bytes, never 0.
    pub len: u32,
}

// SAFETY: a Segment is an address and a length; whoever dereferences it holds
// the mapping and uses volatile access or a system call.
unsafe impl Send for Segment {}

/// A chain within a [`Batch`]. Only a batch makes chains: their segments lie in the memory
/// that it holds.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Chain<'a> {
    /// Given back to the ring on completion.
    pub token: Token,
    /// The device-readable part, in order.
    pub readable: &'a [Segment],
    /// The device-writable part, in order.
    pub writable: &'a [Segment],
    /// Bytes in the device-readable part.
    pub readable_len: u64,
    /// Bytes in the device-writable part.
    pub writable_len: u64,
}

impl Chain<'_> {
    /// Copies from the device-readable part, from `offset` on; returns how much there was.
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> usize {
        let mut done = 0;
        each_piece(self.readable, offset, into.len(), |host, len| {
            // SAFETY: the batch that this chain borrows from holds the segment's memory.
            done += unsafe { VolatileSlice::new(host, len) }.copy_to(&mut into[done..done + len]);
        });
        done
    }

    /// Copies into the device-writable part, from `offset` on; returns how much fitted.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> usize {
        let mut done = 0;
        each_piece(self.writable, offset, data.len(), |host, len| {
            // SAFETY: the batch that this chain borrows from holds the segment's memory.
            unsafe { VolatileSlice::new(host, len) }.copy_from(&data[done..done + len]);
            done += len;
        });
        done
    }
}

/// Calls `piece` with the host memory of `size` bytes from `offset` on, as far as there are segments.
fn each_piece(segments: &[Segment], offset: u64, size: usize, mut piece: impl FnMut(*mut u8, usize)) {
    let (mut skip, mut left) = (offset, size);
    for segment in segments {
        if left == 0 {
            break;
        }
        let len = u64::from(segment.len);
        if skip >= len {
            skip -= len;
            continue;
        }
        let here = left.min((len - skip) as usize);
        piece(segment.host.wrapping_add(skip as usize), here);
        left -= here;
        skip = 0;
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    token: Token,
    first: u32,
    readable: u32,
    writable: u32,
    readable_len: u64,
    writable_len: u64,
}

/// Chains taken at once. Reused from batch to batch: nothing is allocated per
/// chain once it has grown to its working size.
#[derive(Debug, Default)]
pub struct Batch {
    entries: Vec<Entry>,
    segments: Vec<Segment>,
    open: usize,
    /// What the chain behind the last one lacks, if the front end is to be asked for it.
    missing: Vec<Wanted>,
    /// Keeps the segments' host addresses valid.
    memory: Option<Arc<Snapshot>>,
}

impl Clone for Batch {
    fn clone(&self) -> Self {
        let mut copy = Self::default();
        copy.clone_from(self);
        copy
    }

    /// Copies the finished chains and keeps the space: for handlers that hold chains longer than a call.
    fn clone_from(&mut self, other: &Self) {
        self.entries.clone_from(&other.entries);
        self.segments.clear();
        self.segments.extend_from_slice(&other.segments[..other.open]);
        self.open = other.open;
        self.memory.clone_from(&other.memory);
    }
}

impl Batch {
    /// Says which memory the next chains lie in; forgets those of before.
    pub fn attach(&mut self, memory: &Arc<Snapshot>) {
        self.clear();
        self.memory = Some(memory.clone());
    }

    /// Forgets all chains and lets go of the memory.
    pub(crate) fn detach(&mut self) {
        self.clear();
        self.memory = None;
    }

    /// The memory that the chains lie in.
    pub fn memory(&self) -> Option<&Arc<Snapshot>> {
        self.memory.as_ref()
    }

    /// Whether it is `memory` that the chains lie in.
    #[inline]
    pub(crate) fn lies_in(&self, memory: &Snapshot) -> bool {
        self.memory
            .as_deref()
            .is_some_and(|own| std::ptr::eq(own, memory))
    }

    /// Segments of all chains.
    #[inline]
    pub(crate) fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// Becomes a copy of some of another batch's chains.
    pub(crate) fn copy_range(&mut self, other: &Self, range: std::ops::Range<usize>) {
        self.clear();
        self.memory.clone_from(&other.memory);
        for entry in &other.entries[range] {
            let first = entry.first as usize;
            let count = (entry.readable + entry.writable) as usize;
            self.entries.push(Entry {
                first: self.segments.len() as u32,
                ..*entry
            });
            self.segments
                .extend_from_slice(&other.segments[first..first + count]);
        }
        self.open = self.segments.len();
    }

    /// Forgets all chains and keeps the space.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.segments.clear();
        self.open = 0;
        self.missing.clear();
    }

    /// Number of chains.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no chain.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The chain at `index`, in the order in which the driver made them available.
    pub fn get(&self, index: usize) -> Option<Chain<'_>> {
        let entry = self.entries.get(index)?;
        let first = entry.first as usize;
        let middle = first + entry.readable as usize;
        Some(Chain {
            token: entry.token,
            readable: &self.segments[first..middle],
            writable: &self.segments[middle..middle + entry.writable as usize],
            readable_len: entry.readable_len,
            writable_len: entry.writable_len,
        })
    }

    /// All chains in order.
    pub fn iter(&self) -> impl Iterator<Item = Chain<'_>> {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// A ring adds the segments of a chain in order, all device-readable ones first.
    #[inline]
    pub(crate) fn push_segment(&mut self, segment: Segment) {
        self.segments.push(segment);
    }

    /// Number of segments pushed since the last finished chain.
    #[inline]
    pub(crate) fn open_segments(&self) -> usize {
        self.segments.len() - self.open
    }

    /// Ends the chain whose segments were pushed; the first `readable` of them
    /// are device-readable.
    #[inline]
    pub(crate) fn finish_chain(&mut self, token: Token, readable: usize, lengths: (u64, u64)) {
        self.entries.push(Entry {
            token,
            first: self.open as u32,
            readable: readable as u32,
            writable: (self.segments.len() - self.open - readable) as u32,
            readable_len: lengths.0,
            writable_len: lengths.1,
        });
        self.open = self.segments.len();
    }

    /// A whole chain of one segment.
    #[inline(always)]
    pub(crate) fn push_single(&mut self, token: Token, segment: Segment, write: bool) {
        let len = u64::from(segment.len);
        self.entries.push(Entry {
            token,
            first: self.open as u32,
            readable: u32::from(!write),
            writable: u32::from(write),
            readable_len: if write { 0 } else { len },
            writable_len: if write { len } else { 0 },
        });
        self.segments.push(segment);
        self.open += 1;
    }

    /// The next chain needs a translation that is not known.
    #[cold]
    pub(crate) fn lack(&mut self, wanted: Wanted) {
        self.missing.push(wanted);
    }

    /// Translations that the next chain needs: it is not taken before they are known.
    #[inline]
    pub(crate) fn missing(&self) -> &[Wanted] {
        &self.missing
    }

    /// Whether a chain was not taken because of translations that are missing, and of nothing else.
    #[cold]
    pub(crate) fn waits_for_translations(&self, fault: &Fault) -> bool {
        !self.missing.is_empty() && fault.rule == Rule::Translation
    }

    /// Drops the segments of a chain that turned out to be malformed.
    pub(crate) fn abandon_chain(&mut self) {
        self.segments.truncate(self.open);
    }
}
