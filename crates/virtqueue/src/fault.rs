//! What a driver can do wrong, by the clause of the standard that it breaks.

use std::fmt;

/// A rule of the standard that the other end broke.
///
/// The set is small and closed so that counters per rule need no map: the
/// discriminant is the index of the counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Rule {
    /// A descriptor index (head or `next`) outside the descriptor table.
    DescriptorIndex,
    /// A chain that loops, or is longer than the queue size allows.
    ChainLength,
    /// An indirect descriptor inside an indirect table.
    NestedIndirect,
    /// An indirect table whose length is 0 or not a multiple of 16.
    IndirectLength,
    /// A buffer or ring address that is not guest memory, or wraps around.
    Address,
    /// A device-readable descriptor after a device-writable one.
    ReadableAfterWritable,
    /// `avail.idx` ahead of the device by more than the queue size.
    AvailableIndex,
    /// A feature used that was not negotiated.
    NotNegotiated,
    /// A request that this device type cannot parse (the handler says which).
    Request,
}

/// A broken rule with what was seen. Makes the queue stop for good.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The rule that was broken.
    pub rule: Rule,
    /// What was seen, for the log: indices, addresses, lengths.
    pub detail: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.detail)
    }
}

impl std::error::Error for Fault {}
