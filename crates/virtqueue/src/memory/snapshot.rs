//! The regions as they were at one moment.

use super::iotlb::{Access, Iotlb};
use super::{AccessError, DirtyLog, Mapping, Wanted, sigbus};
use crate::chain::{Batch, Segment};
use std::fmt;
use std::sync::Arc;
use vm_memory::VolatileSlice;

/// An address space of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// What descriptors contain: guest physical addresses, or with VIRTIO_F_ACCESS_PLATFORM I/O virtual ones.
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
    /// Guest physical address.
    guest: u64,
    access: Access,
    region: u32,
}

impl Extent {
    fn of(space: Space, index: usize, region: &Region) -> Option<Self> {
        Some(Self {
            start: region.address(space)?,
            size: region.size,
            host: region.mapping.as_ptr(),
            guest: region.guest_address,
            access: if region.mapping.writable() {
                Access::READ_WRITE
            } else {
                Access::READ
            },
            region: index as u32,
        })
    }

    /// The part of it from `from` on, at most `size` bytes, at another address.
    fn part(&self, from: u64, size: u64, start: u64, access: Access) -> Self {
        let offset = from - self.start;
        Self {
            start,
            size: size.min(self.size - offset),
            host: self.host.wrapping_add(offset as usize),
            guest: self.guest + offset,
            access: self.access.and(access),
            region: self.region,
        }
    }
}

// SAFETY: a host address and numbers. The snapshot around it keeps the mapping, and
// only volatile or atomic accesses are made through it.
unsafe impl Send for Extent {}
// SAFETY: as above.
unsafe impl Sync for Extent {}

/// Where look-ups hit last: where the next one looks first. Any value will do with any snapshot.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Nearby(u32);

/// A region as guest addresses see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Near<'a>(&'a Extent);

impl Near<'_> {
    /// The host address of a range that lies in it and may be accessed so, and is not empty.
    #[inline(always)]
    pub(crate) fn host(self, address: u64, size: u32, write: bool) -> Option<*mut u8> {
        let Self(extent) = self;
        let offset = address.wrapping_sub(extent.start);
        // A size of 0 wraps around, and so fits nowhere.
        let fits = offset < extent.size && u64::from(size).wrapping_sub(1) < extent.size - offset;
        (fits && extent.access.allows_one(write)).then(|| extent.host.wrapping_add(offset as usize))
    }

    /// The same as a segment.
    #[inline(always)]
    pub(crate) fn segment(self, address: u64, size: u32, write: bool) -> Option<Segment> {
        self.host(address, size, write).map(|host| Segment {
            host,
            guest: address,
            len: size,
        })
    }
}

/// A range of guest memory in one piece of host memory.
#[derive(Clone, Copy, Debug)]
pub struct Contiguous {
    /// Host address of its first byte, valid while the snapshot is held.
    pub host: *mut u8,
    /// The same byte's address for the dirty log, see [`crate::chain::Segment::guest`].
    pub guest: u64,
}

/// The regions as they were at one moment; host addresses taken from it stay
/// valid while it is held.
#[derive(Debug)]
pub struct Snapshot {
    generation: u64,
    /// The newest generation in which something of an older one was missing.
    removal: u64,
    regions: Vec<Arc<Region>>,
    /// By guest address; with an IOTLB, what that knows, by I/O virtual address.
    guest: Arc<[Extent]>,
    user: Arc<[Extent]>,
    translated: bool,
    dirty: Option<Arc<dyn DirtyLog>>,
    /// The same log, with I/O virtual addresses.
    marks: Option<Arc<dyn DirtyLog>>,
}

/// A dirty log that is told I/O virtual addresses.
#[derive(Debug)]
struct TranslatedLog {
    extents: Arc<[Extent]>,
    regions: Vec<Arc<Region>>,
    log: Arc<dyn DirtyLog>,
}

impl DirtyLog for TranslatedLog {
    fn mark(&self, address: u64, size: u64) {
        let (mut at, mut left) = (address, size);
        while left > 0 {
            let found = position(&self.extents, at).map(|index| &self.extents[index]);
            let Some(extent) = found.filter(|extent| at - extent.start < extent.size) else {
                // The translation went before the chain was told to be complete: it may have been anywhere.
                self.regions
                    .iter()
                    .for_each(|region| self.log.mark(region.guest_address, region.size));
                return;
            };
            let offset = at - extent.start;
            let here = left.min(extent.size - offset);
            self.log.mark(extent.guest + offset, here);
            at = at.wrapping_add(here);
            left -= here;
        }
    }
}

impl Snapshot {
    /// `regions` do not overlap, in neither space, and have all that `iotlb` says: [`super::GuestMemory`]
    /// has checked. With an IOTLB, guest addresses are I/O virtual ones.
    pub(super) fn new(
        (generation, removal): (u64, u64),
        regions: Vec<Arc<Region>>,
        dirty: Option<Arc<dyn DirtyLog>>,
        iotlb: Option<&Iotlb>,
    ) -> Self {
        let table = |space: Space| -> Arc<[Extent]> {
            let mut extents: Vec<Extent> = regions
                .iter()
                .enumerate()
                .filter_map(|(index, region)| Extent::of(space, index, region))
                .collect();
            extents.sort_by_key(|extent| extent.start);
            extents.into()
        };
        let user = table(Space::User);
        let guest = match iotlb {
            Some(iotlb) => translated(iotlb, &user),
            None => table(Space::Guest),
        };
        let marks = match (&dirty, iotlb) {
            (Some(log), Some(_)) => Some(Arc::new(TranslatedLog {
                extents: guest.clone(),
                regions: regions.clone(),
                log: log.clone(),
            }) as Arc<dyn DirtyLog>),
            (log, _) => log.clone(),
        };
        Self {
            generation,
            removal,
            regions,
            guest,
            user,
            translated: iotlb.is_some(),
            dirty,
            marks,
        }
    }

    /// Whether all that was in the snapshot of `generation` is in this one, too.
    pub(super) fn grew_from(&self, generation: u64) -> bool {
        self.removal <= generation
    }

    pub(super) fn removal(&self) -> u64 {
        self.removal
    }

    /// Whether guest addresses are I/O virtual ones.
    #[inline]
    pub fn translated(&self) -> bool {
        self.translated
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

    /// The dirty log, if one is wanted; what it is told are addresses like those in descriptors.
    #[inline]
    pub fn dirty_log(&self) -> Option<&dyn DirtyLog> {
        self.marks.as_deref()
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
        let whole = self.find(space, address).filter(|extent| {
            extent.size - (address - extent.start) >= size && extent.access.allows(Access::to(write))
        });
        let Some(extent) = whole else {
            self.pieces(space, address, size, write, |_, _, _| {})?;
            return Err(AccessError::Divided { address, size });
        };
        let offset = address - extent.start;
        Ok(Contiguous {
            host: extent.host.wrapping_add(offset as usize),
            guest: self.mark_address(space, address, extent.guest + offset),
        })
    }

    /// What to tell the dirty log: `address` as it was looked up, or where that is in guest memory.
    #[inline]
    fn mark_address(&self, space: Space, address: u64, guest: u64) -> u64 {
        if space == Space::Guest { address } else { guest }
    }

    /// Why a range is not to be had, of which `left` bytes were not seen yet.
    #[cold]
    fn refusal(&self, (space, address, size): (Space, u64, u64), left: u64, write: bool) -> AccessError {
        let at = address + (size - left);
        if self.translated && space == Space::Guest {
            // A translation that does not allow it may have been replaced by one that does.
            return AccessError::Untranslated {
                address: at,
                size: left,
                write,
            };
        }
        match self.find(space, at) {
            Some(_) => AccessError::ReadOnly { address, size },
            None => AccessError::Unmapped { address, size },
        }
    }

    /// What the parts of a ring lack, of which each is an address, a size, and whether it is written to.
    pub(crate) fn missing(&self, areas: [(u64, u64, bool); 3]) -> impl Iterator<Item = Wanted> {
        areas.into_iter().filter_map(|(address, size, write)| {
            match self.pieces(Space::Guest, address, size, write, |_, _, _| {}) {
                Err(AccessError::Untranslated { address, size, write }) => {
                    Some(Wanted { address, size, write })
                }
                _ => None,
            }
        })
    }

    /// Whether one byte may be accessed so.
    pub(super) fn allows(&self, address: u64, access: Access) -> bool {
        self.find(Space::Guest, address)
            .is_some_and(|extent| extent.access.allows(access))
    }

    /// Whether all of the range is mapped, in however many pieces.
    pub fn covers(&self, space: Space, address: u64, size: u64) -> bool {
        self.pieces(space, address, size, false, |_, _, _| {}).is_ok()
    }

    /// Resolves a range into its pieces, in order: host address, guest address, length.
    #[inline]
    pub(super) fn pieces(
        &self,
        space: Space,
        address: u64,
        size: u64,
        write: bool,
        mut piece: impl FnMut(*mut u8, u64, u64),
    ) -> Result<(), AccessError> {
        if address.checked_add(size).is_none() {
            return Err(AccessError::Unmapped { address, size });
        }
        let (mut at, mut left) = (address, size);
        while left > 0 {
            let found = self.find(space, at);
            let Some(extent) = found.filter(|extent| extent.access.allows(Access::to(write))) else {
                return Err(self.refusal((space, address, size), left, write));
            };
            let offset = at - extent.start;
            let here = left.min(extent.size - offset);
            piece(
                extent.host.wrapping_add(offset as usize),
                self.mark_address(space, at, extent.guest + offset),
                here,
            );
            at += here;
            left -= here;
        }
        Ok(())
    }

    /// Where the next look-up looks first, if there is anything.
    #[inline(always)]
    pub(crate) fn near(&self, nearby: Nearby) -> Option<Near<'_>> {
        self.guest.get(nearby.0 as usize).map(Near)
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
        let found = self.near(*nearby);
        if let Some(segment) = found.and_then(|near| near.segment(address, size, write)) {
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
        let log = match space {
            Space::Guest => self.dirty_log(),
            Space::User => self.dirty.as_deref(),
        };
        self.pieces(space, address, data.len() as u64, true, |host, guest, len| {
            let (head, tail) = rest.split_at(len as usize);
            // SAFETY: `pieces` gives ranges inside mappings that this snapshot keeps.
            unsafe { VolatileSlice::new(host, head.len()) }.copy_from(head);
            if let Some(log) = log {
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

/// What an IOTLB says, with user addresses resolved.
fn translated(iotlb: &Iotlb, user: &[Extent]) -> Arc<[Extent]> {
    let mut extents = Vec::new();
    for entry in iotlb.translations() {
        let mut done = 0;
        while done < entry.size {
            let from = entry.user_address + done;
            let found = position(user, from).map(|index| &user[index]);
            let Some(extent) = found.filter(|extent| from - extent.start < extent.size) else {
                break;
            };
            let part = extent.part(from, entry.size - done, entry.iova + done, entry.access);
            done += part.size;
            extents.push(part);
        }
    }
    extents.into()
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
