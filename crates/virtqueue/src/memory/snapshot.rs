//! The regions as they were at one moment.

use super::{AccessError, DirtyLog, Mapping, sigbus};
use crate::chain::{Batch, Segment};
use std::fmt;
use std::sync::Arc;
use vm_memory::VolatileSlice;

/// An address space of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// Guest physical addresses: what descriptors contain.
    Guest,
    /// The front end's own virtual addresses: what vhost-user gives rings in.
    User,
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Guest => "guest",
            Self::User => "user",
        })
    }
}

/// A region of guest memory and where it is mapped.
#[derive(Debug)]
pub struct Region {
    /// Its first guest physical address.
    pub guest_address: u64,
    /// The same byte's address in the front end, if it has told.
    pub user_address: Option<u64>,
    /// Its size in bytes.
    pub size: u64,
    /// Where in the file it starts.
    pub offset: u64,
    /// The memory.
    pub mapping: Arc<Mapping>,
}

/// A region as one address space sees it; sorted by `start` for look-up.
#[derive(Clone, Copy, Debug)]
struct Extent {
    start: u64,
    size: u64,
    host: *mut u8,
    guest: u64,
    writable: bool,
    region: u32,
}

// SAFETY: a host address and numbers. The snapshot around it keeps the mapping, and
// only volatile or atomic accesses are made through it.
unsafe impl Send for Extent {}
// SAFETY: as above.
unsafe impl Sync for Extent {}

/// Where look-ups hit last: where the next one looks first. Any value will do with any snapshot.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Nearby(u32);

/// A range of guest memory in one piece of host memory.
#[derive(Clone, Copy, Debug)]
pub struct Contiguous {
    /// Host address of its first byte, valid while the snapshot is held.
    pub host: *mut u8,
    /// Guest physical address of the same byte.
    pub guest: u64,
}

/// The regions as they were at one moment; host addresses taken from it stay
/// valid while it is held.
#[derive(Debug)]
pub struct Snapshot {
    generation: u64,
    regions: Vec<Arc<Region>>,
    guest: Box<[Extent]>,
    user: Box<[Extent]>,
    dirty: Option<Arc<dyn DirtyLog>>,
}

impl Snapshot {
    /// `regions` do not overlap, in neither space: [`super::GuestMemory`] has checked.
    pub(super) fn new(generation: u64, regions: Vec<Arc<Region>>, dirty: Option<Arc<dyn DirtyLog>>) -> Self {
        let table = |space: Space| {
            let mut extents: Vec<Extent> = regions
                .iter()
                .enumerate()
                .filter_map(|(index, region)| {
                    Some(Extent {
                        start: region.address(space)?,
                        size: region.size,
                        host: region.mapping.as_ptr(),
                        guest: region.guest_address,
                        writable: region.mapping.writable(),
                        region: index as u32,
                    })
                })
                .collect();
            extents.sort_by_key(|extent| extent.start);
            extents.into_boxed_slice()
        };
        let (guest, user) = (table(Space::Guest), table(Space::User));
        Self {
            generation,
            regions,
            guest,
            user,
            dirty,
        }
    }

    /// A number that no other snapshot in this process has.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The regions, by guest address.
    pub fn regions(&self) -> &[Arc<Region>] {
        &self.regions
    }

    /// The dirty log, if one is wanted.
    #[inline]
    pub fn dirty_log(&self) -> Option<&dyn DirtyLog> {
        self.dirty.as_deref()
    }

    pub(super) fn dirty(&self) -> Option<Arc<dyn DirtyLog>> {
        self.dirty.clone()
    }

    /// The first region whose file was truncated under us, if there is one. Cheap to ask
    /// repeatedly: `seen` remembers how many truncations this process has survived.
    #[inline]
    pub fn truncated(&self, seen: &mut u64) -> Option<&Region> {
        let now = sigbus::tripped();
        if now == *seen {
            return None;
        }
        *seen = now;
        self.regions
            .iter()
            .map(Arc::as_ref)
            .find(|region| region.mapping.truncated())
    }

    #[inline]
    fn find(&self, space: Space, address: u64) -> Option<&Extent> {
        let table = match space {
            Space::Guest => &self.guest,
            Space::User => &self.user,
        };
        let extent = table.get(position(table, address)?)?;
        (address - extent.start < extent.size).then_some(extent)
    }

    /// Resolves a range that must be one piece of host memory.
    #[inline]
    pub fn contiguous(
        &self,
        space: Space,
        address: u64,
        size: u64,
        write: bool,
    ) -> Result<Contiguous, AccessError> {
        let unmapped = AccessError::Unmapped { address, size };
        let extent = self.find(space, address).ok_or(unmapped)?;
        let offset = address - extent.start;
        if extent.size - offset < size {
            return Err(if self.covers(space, address, size) {
                AccessError::Divided { address, size }
            } else {
                unmapped
            });
        }
        if write && !extent.writable {
            return Err(AccessError::ReadOnly { address, size });
        }
        Ok(Contiguous {
            host: extent.host.wrapping_add(offset as usize),
            guest: extent.guest + offset,
        })
    }

    /// Whether all of the range is mapped, in however many pieces.
    pub fn covers(&self, space: Space, address: u64, size: u64) -> bool {
        self.pieces(space, address, size, false, |_, _, _| {}).is_ok()
    }

    /// Resolves a range into its pieces, in order: host address, guest address, length.
    #[inline]
    fn pieces(
        &self,
        space: Space,
        address: u64,
        size: u64,
        write: bool,
        mut piece: impl FnMut(*mut u8, u64, u64),
    ) -> Result<(), AccessError> {
        let unmapped = AccessError::Unmapped { address, size };
        address.checked_add(size).ok_or(unmapped)?;
        let (mut at, mut left) = (address, size);
        while left > 0 {
            let extent = self.find(space, at).ok_or(unmapped)?;
            if write && !extent.writable {
                return Err(AccessError::ReadOnly { address, size });
            }
            let offset = at - extent.start;
            let here = left.min(extent.size - offset);
            piece(
                extent.host.wrapping_add(offset as usize),
                extent.guest + offset,
                here,
            );
            at += here;
            left -= here;
        }
        Ok(())
    }

    /// Resolves a buffer that lies in the region which was hit last.
    #[inline(always)]
    pub(crate) fn segment_nearby(
        &self,
        nearby: Nearby,
        address: u64,
        size: u32,
        write: bool,
    ) -> Option<Segment> {
        let extent = self.guest.get(nearby.0 as usize)?;
        let offset = address.wrapping_sub(extent.start);
        let fits = offset < extent.size && u64::from(size) <= extent.size - offset;
        (fits && size > 0 && (extent.writable || !write)).then(|| Segment {
            host: extent.host.wrapping_add(offset as usize),
            guest: address,
            len: size,
        })
    }

    /// Resolves a buffer of a descriptor: adds a segment for each piece of host memory to the
    /// open chain of `batch`.
    #[inline]
    pub(crate) fn segments(
        &self,
        nearby: &mut Nearby,
        address: u64,
        size: u32,
        write: bool,
        batch: &mut Batch,
    ) -> Result<(), AccessError> {
        if let Some(segment) = self.segment_nearby(*nearby, address, size, write) {
            batch.push_segment(segment);
            return Ok(());
        }
        self.segments_anywhere(nearby, address, size, write, batch)
    }

    #[inline(never)]
    fn segments_anywhere(
        &self,
        nearby: &mut Nearby,
        address: u64,
        size: u32,
        write: bool,
        batch: &mut Batch,
    ) -> Result<(), AccessError> {
        if let Some(index) = position(&self.guest, address) {
            *nearby = Nearby(index as u32);
        }
        self.pieces(
            Space::Guest,
            address,
            u64::from(size),
            write,
            |host, guest, len| {
                // A piece is no longer than the buffer, whose length is 32 bits.
                batch.push_segment(Segment {
                    host,
                    guest,
                    len: len as u32,
                });
            },
        )
    }

    /// Copies out of guest memory.
    pub fn read(&self, space: Space, address: u64, into: &mut [u8]) -> Result<(), AccessError> {
        let mut rest = into;
        self.pieces(space, address, rest.len() as u64, false, |_, _, _| {})?;
        self.pieces(space, address, rest.len() as u64, false, |host, _, len| {
            let (head, tail) = std::mem::take(&mut rest).split_at_mut(len as usize);
            // SAFETY: `pieces` gives ranges inside mappings that this snapshot keeps.
            unsafe { VolatileSlice::new(host, head.len()) }.copy_to(head);
            rest = tail;
        })
    }

    /// Copies into guest memory (and tells the dirty log). Writes all or nothing.
    pub fn write(&self, space: Space, address: u64, data: &[u8]) -> Result<(), AccessError> {
        self.pieces(space, address, data.len() as u64, true, |_, _, _| {})?;
        let mut rest = data;
        self.pieces(space, address, data.len() as u64, true, |host, guest, len| {
            let (head, tail) = rest.split_at(len as usize);
            // SAFETY: `pieces` gives ranges inside mappings that this snapshot keeps.
            unsafe { VolatileSlice::new(host, head.len()) }.copy_from(head);
            if let Some(log) = self.dirty_log() {
                log.mark(guest, len);
            }
            rest = tail;
        })
    }

    /// A view of a range within one region, which keeps that region's mapping alive.
    pub fn view(&self, space: Space, address: u64, size: u64) -> Result<View, AccessError> {
        let found = self.contiguous(space, address, size, false)?;
        let unmapped = AccessError::Unmapped { address, size };
        let extent = self.find(space, address).ok_or(unmapped)?;
        let region = self.regions.get(extent.region as usize).ok_or(unmapped)?;
        Ok(View {
            mapping: region.mapping.clone(),
            host: found.host,
            size: size as usize,
        })
    }
}

/// Index of the last extent that starts at `address` or before.
#[inline]
fn position(table: &[Extent], address: u64) -> Option<usize> {
    table
        .partition_point(|extent| extent.start <= address)
        .checked_sub(1)
}

impl Region {
    /// Where it starts in `space`.
    pub fn address(&self, space: Space) -> Option<u64> {
        match space {
            Space::Guest => Some(self.guest_address),
            Space::User => self.user_address,
        }
    }
}

/// Host memory of a range, with the mapping that it lies in. Not waited for when the
/// region is removed: the memory stays, though the guest may no longer look at it.
#[derive(Clone, Debug)]
pub struct View {
    mapping: Arc<Mapping>,
    host: *mut u8,
    size: usize,
}

// SAFETY: keeps its mapping; whoever dereferences the address uses volatile access.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    /// Host address of the first byte, valid while this view lives.
    pub fn as_ptr(&self) -> *mut u8 {
        self.host
    }

    /// Size in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether it may be written to.
    pub fn writable(&self) -> bool {
        self.mapping.writable()
    }
}
