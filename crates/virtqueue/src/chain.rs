//! Descriptor chains as the rest of the crate sees them: host memory, checked.

use crate::fault::{Fault, Rule};
use crate::memory::{Snapshot, Wanted};
use std::iter::Zip;
use std::slice::IterMut;
use std::sync::Arc;
use vm_memory::VolatileSlice;

/// Names a chain to the ring that it came from, and to nobody else.
///
/// Split: the head's index. Packed: the buffer id and how many descriptors the
/// chain occupies in the ring.
///
/// Both are kept in one word. What is written in one piece can be read back at once; of two halves written one by
/// one, a read of both has to wait until they have left the processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Token(u32);

impl Token {
    /// A head or id, and the number of slots.
    #[inline]
    pub const fn new(id: u16, slots: u16) -> Self {
        Self(id as u32 | (slots as u32) << 16)
    }

    /// Both: the id in the lower half.
    #[inline]
    pub(crate) const fn word(self) -> u32 {
        self.0
    }

    /// Head index (split) or buffer id (packed).
    #[inline]
    pub const fn id(self) -> u16 {
        self.0 as u16
    }

    /// Ring slots to skip on completion (packed); 1 for split.
    #[inline]
    pub const fn slots(self) -> u16 {
        (self.0 >> 16) as u16
    }
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

impl Default for Segment {
    /// No memory.
    fn default() -> Self {
        Self {
            host: std::ptr::null_mut(),
            guest: 0,
            len: 0,
        }
    }
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

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    token: Token,
    first: u32,
    readable: u32,
    writable: u32,
    readable_len: u64,
    writable_len: u64,
}

/// A batch is full when it has so many segments, however few chains those are.
const FULL: usize = 4096;

/// Chains, and segments, that there is space for from the start.
const ROOM: usize = 64;

/// Chains taken at once. Reused from batch to batch: nothing is allocated per
/// chain once it has grown to its working size.
#[derive(Debug, Default)]
pub struct Batch {
    /// Space for chains, of which the first `chains` count. So a ring can fill in one after another without asking each time
    /// whether there is room.
    entries: Vec<Entry>,
    chains: usize,
    /// The same for segments, of which `filled` count, `open` of them in finished chains.
    segments: Vec<Segment>,
    filled: usize,
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
        self.entries.clear();
        self.entries.extend_from_slice(&other.entries[..other.chains]);
        self.segments.clear();
        self.segments.extend_from_slice(&other.segments[..other.open]);
        (self.chains, self.filled, self.open) = (other.chains, other.open, other.open);
        self.memory.clone_from(&other.memory);
    }
}

impl Batch {
    /// Says which memory the next chains lie in; forgets those of before.
    pub fn attach(&mut self, memory: &Arc<Snapshot>) {
        self.clear();
        if self.entries.is_empty() {
            self.more_entries(ROOM);
            self.more_segments(ROOM);
        }
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
        self.filled
    }

    /// Segments that may be added before it is full.
    #[inline]
    pub(crate) fn room(&self) -> usize {
        FULL.saturating_sub(self.filled)
    }

    /// Becomes a copy of some of another batch's chains.
    pub(crate) fn copy_range(&mut self, other: &Self, range: std::ops::Range<usize>) {
        self.clear();
        self.memory.clone_from(&other.memory);
        for chain in range.filter_map(|index| other.get(index)) {
            let parts = chain.readable.iter().chain(chain.writable);
            parts.for_each(|segment| self.push_segment(*segment));
            let lengths = (chain.readable_len, chain.writable_len);
            self.finish_chain(chain.token, chain.readable.len(), lengths);
        }
    }

    /// Forgets all chains and keeps the space.
    pub fn clear(&mut self) {
        (self.chains, self.filled, self.open) = (0, 0, 0);
        self.missing.clear();
    }

    /// Number of chains.
    pub fn len(&self) -> usize {
        self.chains
    }

    /// Whether there is no chain.
    pub fn is_empty(&self) -> bool {
        self.chains == 0
    }

    /// The chain at `index`, in the order in which the driver made them available.
    pub fn get(&self, index: usize) -> Option<Chain<'_>> {
        self.entries[..self.chains]
            .get(index)
            .map(|entry| self.chain(entry))
    }

    #[inline]
    fn chain(&self, entry: &Entry) -> Chain<'_> {
        let first = entry.first as usize;
        let middle = first + entry.readable as usize;
        Chain {
            token: entry.token,
            readable: &self.segments[first..middle],
            writable: &self.segments[middle..middle + entry.writable as usize],
            readable_len: entry.readable_len,
            writable_len: entry.writable_len,
        }
    }

    /// All chains in order.
    pub fn iter(&self) -> impl Iterator<Item = Chain<'_>> {
        self.entries[..self.chains].iter().map(|entry| self.chain(entry))
    }

    /// A ring adds the segments of a chain in order, all device-readable ones first.
    #[inline]
    pub(crate) fn push_segment(&mut self, segment: Segment) {
        if self.filled == self.segments.len() {
            self.more_segments(1);
        }
        self.segments[self.filled] = segment;
        self.filled += 1;
    }

    /// Places for the segments of the next chain, as many as there are, at most `count`; none is open.
    #[inline(always)]
    pub(crate) fn places(&mut self, count: usize) -> IterMut<'_, Segment> {
        let places = self.segments.get_mut(self.filled..).unwrap_or_default();
        let count = places.len().min(count);
        places[..count].iter_mut()
    }

    /// Ends a chain of so many segments, of which `readable` are device-readable, that were put in `places`.
    #[inline(always)]
    pub(crate) fn finish_placed(&mut self, token: Token, count: usize, readable: usize, lengths: (u64, u64)) {
        self.filled += count;
        self.finish_chain(token, readable, lengths);
    }

    #[cold]
    #[inline(never)]
    fn more_segments(&mut self, count: usize) {
        let needed = (self.filled + count).max(2 * self.segments.len());
        self.segments.resize(needed.max(ROOM), Segment::default());
    }

    #[cold]
    #[inline(never)]
    fn more_entries(&mut self, count: usize) {
        let needed = (self.chains + count).max(2 * self.entries.len());
        self.entries.resize(needed.max(ROOM), Entry::default());
    }

    /// Number of segments pushed since the last finished chain.
    #[inline]
    pub(crate) fn open_segments(&self) -> usize {
        self.filled - self.open
    }

    /// Ends the chain whose segments were pushed; the first `readable` of them
    /// are device-readable.
    #[inline]
    pub(crate) fn finish_chain(&mut self, token: Token, readable: usize, lengths: (u64, u64)) {
        if self.chains == self.entries.len() {
            self.more_entries(1);
        }
        self.entries[self.chains] = Entry {
            token,
            first: self.open as u32,
            readable: readable as u32,
            writable: (self.filled - self.open - readable) as u32,
            readable_len: lengths.0,
            writable_len: lengths.1,
        };
        self.chains += 1;
        self.open = self.filled;
    }

    /// Where the next chains of one segment each go, as many as there is space for; none is open.
    #[inline(always)]
    pub(crate) fn singles(&mut self) -> Singles<'_> {
        let first = self.filled as u32;
        let entries = self.entries.get_mut(self.chains..).unwrap_or_default();
        let segments = self.segments.get_mut(self.filled..).unwrap_or_default();
        let places = entries.iter_mut().zip(segments);
        Singles { places, first }
    }

    /// So many were filled in.
    #[inline(always)]
    pub(crate) fn filled_singles(&mut self, count: usize) {
        self.chains += count;
        self.filled += count;
        self.open = self.filled;
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
        self.filled = self.open;
    }
}

/// Places for chains of one segment each, see [`Batch::singles`].
pub(crate) struct Singles<'a> {
    places: Zip<IterMut<'a, Entry>, IterMut<'a, Segment>>,
    /// Index of the next segment.
    first: u32,
}

impl<'a> Singles<'a> {
    /// The next place, if there is one.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Option<Single<'a>> {
        let (entry, segment) = self.places.next()?;
        let first = self.first;
        self.first += 1;
        Some(Single {
            entry,
            segment,
            first,
        })
    }
}

/// A place for a chain of one segment.
pub(crate) struct Single<'a> {
    entry: &'a mut Entry,
    segment: &'a mut Segment,
    first: u32,
}

impl Single<'_> {
    #[inline(always)]
    pub(crate) fn fill(self, token: Token, segment: Segment, write: bool) {
        let len = u64::from(segment.len);
        // All bits set, or none: no branch that depends on the driver's pattern.
        let writable_len = len & u64::from(write).wrapping_neg();
        *self.entry = Entry {
            token,
            first: self.first,
            readable: u32::from(!write),
            writable: u32::from(write),
            readable_len: len - writable_len,
            writable_len,
        };
        *self.segment = segment;
    }
}
