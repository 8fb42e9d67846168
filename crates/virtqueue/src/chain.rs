//! Descriptor chains as the rest of the crate sees them: host memory, checked.

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
    /// Guest address of the same byte, for the dirty log and for traces.
    pub guest: u64,
    /// Length in bytes, never 0.
    pub len: u32,
}

// SAFETY: a Segment is an address and a length; whoever dereferences it holds
// the mapping and uses volatile access or a system call.
unsafe impl Send for Segment {}

/// A chain within a [`Batch`].
#[derive(Clone, Copy, Debug)]
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
    /// Forgets all chains and keeps the space.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.segments.clear();
        self.open = 0;
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
    pub fn push_segment(&mut self, segment: Segment) {
        self.segments.push(segment);
    }

    /// Segments pushed since the last finished chain.
    pub fn open_segments(&self) -> &[Segment] {
        &self.segments[self.open..]
    }

    /// Ends the chain whose segments were pushed; the first `readable` of them
    /// are device-readable.
    pub fn finish_chain(&mut self, token: Token, readable: usize) {
        let (first, all) = (self.open, self.segments.len() - self.open);
        let sum = |s: &[Segment]| s.iter().map(|s| u64::from(s.len)).sum();
        let open = &self.segments[first..];
        self.entries.push(Entry {
            token,
            first: first as u32,
            readable: readable as u32,
            writable: (all - readable) as u32,
            readable_len: sum(&open[..readable]),
            writable_len: sum(&open[readable..]),
        });
        self.open = self.segments.len();
    }

    /// Drops the segments of a chain that turned out to be malformed.
    pub fn abandon_chain(&mut self) {
        self.segments.truncate(self.open);
    }
}
