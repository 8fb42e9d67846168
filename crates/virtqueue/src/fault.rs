//! What the other end can do wrong, by the clause of the standard that it breaks.

use crate::memory::AccessError;
use std::fmt;

/// A rule of the standard that the other end broke.
///
/// The set is small and closed so that counters per rule need no map: the
/// discriminant is the index of the counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Rule {
    /// A descriptor index (head or `next`) outside the descriptor table, or a head that the
    /// device has already.
    DescriptorIndex,
    /// A chain that loops, or is longer than the queue size allows.
    ChainLength,
    /// An indirect descriptor inside an indirect table.
    NestedIndirect,
    /// An indirect descriptor that is said to continue.
    IndirectNext,
    /// An indirect table whose length is 0 or not a multiple of 16.
    IndirectLength,
    /// A buffer or ring address that is not guest memory, or wraps around.
    Address,
    /// A part of the ring that is not aligned as it must be.
    Alignment,
    /// A device-readable descriptor after a device-writable one.
    ReadableAfterWritable,
    /// `avail.idx` ahead of the device by more than the queue size.
    AvailableIndex,
    /// A feature used that was not negotiated.
    NotNegotiated,
    /// A request that this device type cannot parse (the handler says which).
    Request,
    /// Packed: a list longer than the queue.
    PackedLength,
    /// Packed: a list made available before all of it was.
    PackedPartial,
    /// Packed: an indirect descriptor within a list.
    PackedIndirectInList,
    /// Packed: an indirect table whose length is 0 or not a multiple of 16.
    PackedIndirectLength,
    /// Packed: a feature used that was not negotiated.
    PackedNotNegotiated,
    /// Packed: a buffer id that the device has already.
    BufferId,
    /// Packed: a part of the ring that is not aligned as it must be.
    PackedAlignment,
    /// Packed: descriptors made available that the device has not used yet.
    PackedDescriptorInUse,
    /// A used entry for a chain that the device does not have.
    UsedId,
    /// A used length larger than the chain's device-writable part.
    UsedLength,
    /// `used.idx` ahead of what the device has.
    UsedIndex,
    /// In order: a used entry for a chain that is not among the oldest.
    UsedOrder,
    /// Packed: a used descriptor for a buffer that the device does not have.
    PackedUsedId,
    /// Packed: a used length larger than the buffer's device-writable part.
    PackedUsedLength,
    /// Packed, in order: a used descriptor for a buffer that is not the next to be used.
    PackedUsedOrder,
    /// An I/O virtual address that the IOMMU does not translate, or not for such an access.
    Translation,
    /// Nobody's rule: the device itself has failed and needs a reset.
    Device,
}

impl Rule {
    /// All rules, in the order of their discriminants.
    pub const ALL: [Self; 28] = [
        Self::DescriptorIndex,
        Self::ChainLength,
        Self::NestedIndirect,
        Self::IndirectNext,
        Self::IndirectLength,
        Self::Address,
        Self::Alignment,
        Self::ReadableAfterWritable,
        Self::AvailableIndex,
        Self::NotNegotiated,
        Self::Request,
        Self::PackedLength,
        Self::PackedPartial,
        Self::PackedIndirectInList,
        Self::PackedIndirectLength,
        Self::PackedNotNegotiated,
        Self::BufferId,
        Self::PackedAlignment,
        Self::PackedDescriptorInUse,
        Self::UsedId,
        Self::UsedLength,
        Self::UsedIndex,
        Self::UsedOrder,
        Self::PackedUsedId,
        Self::PackedUsedLength,
        Self::PackedUsedOrder,
        Self::Translation,
        Self::Device,
    ];

    /// The clause of VIRTIO 1.4 that states the rule.
    pub const fn section(self) -> &'static str {
        match self {
            Self::DescriptorIndex => "2.7.5",
            Self::ChainLength | Self::NestedIndirect | Self::IndirectNext => "2.7.5.3.1",
            Self::IndirectLength => "2.7.5.3",
            Self::Address => "2.7.5",
            Self::Alignment => "2.7.1",
            Self::ReadableAfterWritable => "2.7.4.2",
            Self::AvailableIndex => "2.7.6.1",
            Self::NotNegotiated => "2.7.5.3.1",
            Self::Request => "5",
            Self::PackedLength | Self::PackedPartial => "2.8.17",
            Self::PackedIndirectInList | Self::PackedNotNegotiated => "2.8.19",
            Self::PackedIndirectLength => "2.8.7",
            Self::BufferId => "2.8.6",
            Self::PackedAlignment => "2.8.11",
            Self::PackedDescriptorInUse => "2.8.16",
            Self::UsedId | Self::UsedIndex => "2.7.8",
            Self::UsedLength => "2.7.8.2",
            Self::UsedOrder => "2.7.9",
            Self::PackedUsedId => "2.8.15",
            Self::PackedUsedLength => "2.8.4",
            Self::PackedUsedOrder => "2.8.8",
            Self::Translation => "6.1",
            Self::Device => "2.1.2",
        }
    }

    /// The rule in words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::DescriptorIndex => "descriptor index outside the table, or in use already",
            Self::ChainLength => "descriptor chain loops or is longer than the queue",
            Self::NestedIndirect => "indirect descriptor inside an indirect table",
            Self::IndirectNext => "indirect descriptor with the NEXT flag",
            Self::IndirectLength => "indirect table length is 0 or not a multiple of 16",
            Self::Address => "address is not guest memory that may be used so",
            Self::Alignment => "part of the virtqueue is misaligned",
            Self::ReadableAfterWritable => "device-readable descriptor after a device-writable one",
            Self::AvailableIndex => "available idx moved by more than the queue size",
            Self::NotNegotiated => "feature used that was not negotiated",
            Self::Request => "request that the device type does not define",
            Self::PackedLength => "descriptor list longer than the queue",
            Self::PackedPartial => "descriptor list available before all of it is",
            Self::PackedIndirectInList => "indirect descriptor within a list",
            Self::PackedIndirectLength => "indirect table length is 0 or not a multiple of 16",
            Self::PackedNotNegotiated => "feature used that was not negotiated",
            Self::BufferId => "buffer id in use already",
            Self::PackedAlignment => "part of the virtqueue is misaligned",
            Self::PackedDescriptorInUse => "descriptor made available that the device has not used",
            Self::UsedId | Self::PackedUsedId => "used id names nothing that the device has",
            Self::UsedLength | Self::PackedUsedLength => "used length larger than the buffer",
            Self::UsedIndex => "used idx ahead of what the device has",
            Self::UsedOrder | Self::PackedUsedOrder => "used out of the order that was promised",
            Self::Translation => "address that the device may not use so, or that is not translated",
            Self::Device => "the device failed",
        }
    }
}

/// A broken rule with what was seen. Makes the queue stop for good.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The rule that was broken.
    pub rule: Rule,
    /// What was seen, for the log: indices, addresses, lengths.
    pub detail: String,
}

impl Fault {
    /// A broken rule and what was seen.
    #[cold]
    pub fn new(rule: Rule, detail: impl Into<String>) -> Self {
        Self {
            rule,
            detail: detail.into(),
        }
    }
}

impl Fault {
    /// The same for hot paths: the words are made out of line, and only when they are needed.
    #[cold]
    #[inline(never)]
    pub(crate) fn with(rule: Rule, detail: impl FnOnce() -> String) -> Self {
        Self {
            rule,
            detail: detail(),
        }
    }
}

impl From<AccessError> for Fault {
    #[cold]
    fn from(error: AccessError) -> Self {
        Self::new(Rule::Address, error.to_string())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} (VIRTIO 1.4, {}): {}",
            self.rule.text(),
            self.rule.section(),
            self.detail
        )
    }
}

impl std::error::Error for Fault {}
