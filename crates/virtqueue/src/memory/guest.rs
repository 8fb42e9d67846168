//! The map of a guest's memory, and its changes.

use super::iotlb::Iotlb;
use super::misses::Board;
use super::quiesce::Slot;
use super::{DirtyLog, Error, Mapping, Region, Snapshot, Space};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// More regions than any VMM uses (QEMU's own limit is 512).
const MAX_REGIONS: usize = 512;

/// Numbers snapshots across all maps, so that a number alone names one.
static GENERATION: AtomicU64 = AtomicU64::new(1);

/// A region to be mapped. The descriptor is duplicated.
#[derive(Clone, Copy, Debug)]
pub struct RegionRequest<'fd> {
    /// First guest physical address.
    pub guest_address: u64,
    /// The same byte in the front end's address space.
    pub user_address: Option<u64>,
    /// Size in bytes.
    pub size: u64,
    /// What to map: a memfd or a file, also on hugetlbfs.
    pub fd: BorrowedFd<'fd>,
    /// Where in the file the region starts; need not be aligned.
    pub offset: u64,
    /// Whether the device may write to it.
    pub writable: bool,
}

/// The memory of one guest: a map of regions that changes while queues use it.
#[derive(Debug)]
pub struct GuestMemory {
    generation: AtomicU64,
    current: Mutex<Arc<Snapshot>>,
    /// Held by whoever changes the map, through the wait for the readers: changes are one by one.
    changing: Mutex<Changing>,
    pub(super) board: Mutex<Board>,
    readers: Mutex<Vec<Arc<Slot>>>,
    moved: Condvar,
}

/// What only those who change the map look at.
#[derive(Debug, Default)]
pub(super) struct Changing {
    /// What is known of I/O virtual addresses, if descriptors contain those.
    pub(super) iotlb: Option<Iotlb>,
}

/// How a new map differs from the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Difference {
    /// More memory: everybody wakes, as it may be what they wait for.
    Growth,
    /// More translations: nobody wakes but who has asked.
    Translations,
    /// Translations are gone: who may be using them wakes.
    Invalidation,
    /// Something is gone, or all is new: everybody wakes.
    Removal,
}

impl Default for GuestMemory {
    fn default() -> Self {
        Self::new()
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that can panic runs under these locks, and each change is one assignment.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl GuestMemory {
    /// A map without regions.
    pub fn new() -> Self {
        let generation = GENERATION.fetch_add(1, Ordering::Relaxed);
        Self {
            generation: AtomicU64::new(generation),
            current: Mutex::new(Arc::new(Snapshot::new(
                (generation, generation),
                Vec::new(),
                None,
                None,
            ))),
            changing: Mutex::default(),
            board: Mutex::default(),
            readers: Mutex::new(Vec::new()),
            moved: Condvar::new(),
        }
    }

    /// Number of the newest snapshot.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// The map as it is now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        lock(&self.current).clone()
    }

    /// Adds a region. Queues that wait for it start.
    pub fn add(&self, region: &RegionRequest<'_>) -> Result<(), Error> {
        let changing = lock(&self.changing);
        let mut regions = self.snapshot().regions().to_vec();
        regions.push(map(region)?);
        let dirty = self.snapshot().dirty();
        self.publish(&changing, checked(regions)?, dirty, Difference::Growth);
        Ok(())
    }

    /// Removes the regions that make up a range of guest addresses, exactly; waits until no
    /// queue uses them. [`Error::InUse`]: they are gone from the map nevertheless.
    pub fn remove(&self, address: u64, size: u64, timeout: Duration) -> Result<(), Error> {
        let mut changing = lock(&self.changing);
        let not_found = Error::NotFound { address, size };
        let Some(end) = address.checked_add(size) else {
            return Err(not_found);
        };
        let within = |region: &Arc<Region>| {
            region.guest_address >= address && region.guest_address + region.size <= end
        };
        let snapshot = self.snapshot();
        let (gone, stay): (Vec<_>, Vec<_>) = snapshot.regions().iter().cloned().partition(within);
        let touches = |r: &Arc<Region>| r.guest_address < end && address < r.guest_address + r.size;
        if gone.is_empty() || stay.iter().any(touches) {
            return Err(not_found);
        }
        changing.keep_only(&stay);
        let generation = self.publish(&changing, stay, snapshot.dirty(), Difference::Removal);
        drop((gone, snapshot));
        self.wait(generation, timeout)
    }

    /// Replaces the whole map, or leaves it as it is on an error other than [`Error::InUse`].
    pub fn replace(&self, regions: &[RegionRequest<'_>], timeout: Duration) -> Result<(), Error> {
        let mut changing = lock(&self.changing);
        if regions.len() > MAX_REGIONS {
            return Err(Error::TooMany(MAX_REGIONS));
        }
        let regions = checked(regions.iter().map(map).collect::<Result<_, _>>()?)?;
        changing.keep_only(&regions);
        let dirty = self.snapshot().dirty();
        let generation = self.publish(&changing, regions, dirty, Difference::Removal);
        self.wait(generation, timeout)
    }

    /// Removes all regions.
    pub fn clear(&self, timeout: Duration) -> Result<(), Error> {
        self.replace(&[], timeout)
    }

    /// Installs a dirty log, or removes it; waits until all queues report to it (or have stopped to).
    pub fn set_dirty_log(&self, log: Option<Arc<dyn DirtyLog>>, timeout: Duration) -> Result<(), Error> {
        let changing = lock(&self.changing);
        let regions = self.snapshot().regions().to_vec();
        let generation = self.publish(&changing, regions, log, Difference::Removal);
        self.wait(generation, timeout)
    }

    pub(super) fn change(&self) -> MutexGuard<'_, Changing> {
        lock(&self.changing)
    }

    pub(super) fn publish(
        &self,
        changing: &Changing,
        regions: Vec<Arc<Region>>,
        dirty: Option<Arc<dyn DirtyLog>>,
        difference: Difference,
    ) -> u64 {
        let generation = GENERATION.fetch_add(1, Ordering::Relaxed);
        let removal = match difference {
            Difference::Removal | Difference::Invalidation => generation,
            Difference::Growth | Difference::Translations => self.snapshot().removal(),
        };
        let snapshot = Snapshot::new((generation, removal), regions, dirty, changing.iotlb.as_ref());
        *lock(&self.current) = Arc::new(snapshot);
        self.generation.store(generation, Ordering::Relaxed);
        // Pairs with the fence of `Reader::unpark`.
        fence(Ordering::SeqCst);
        for reader in lock(&self.readers).iter() {
            match difference {
                Difference::Translations => break,
                Difference::Invalidation if reader.parked() => {}
                _ => reader.wake(),
            }
        }
        generation
    }

    pub(super) fn wait(&self, generation: u64, timeout: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + timeout;
        let mut readers = lock(&self.readers);
        loop {
            let users = readers.iter().filter(|reader| !reader.passed(generation)).count();
            if users == 0 {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::InUse { users });
            }
            // A reader that parks does not announce it, hence the bound.
            let nap = left.min(Duration::from_millis(1));
            readers = match self.moved.wait_timeout(readers, nap) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    pub(super) fn enlist(&self, slot: Arc<Slot>) {
        lock(&self.readers).push(slot);
    }

    pub(super) fn discharge(&self, slot: &Arc<Slot>) {
        lock(&self.readers).retain(|other| !Arc::ptr_eq(other, slot));
        lock(&self.board).forget(slot);
        self.moved.notify_all();
    }

    /// A reader has moved on.
    pub(super) fn announce(&self) {
        drop(lock(&self.readers));
        self.moved.notify_all();
    }
}

impl Changing {
    /// Forgets what leads to memory that is not in `regions`.
    fn keep_only(&mut self, regions: &[Arc<Region>]) {
        if let Some(iotlb) = &mut self.iotlb {
            iotlb.retain(|address, size| shared(regions, address, size).is_ok());
        }
    }
}

/// Checks that all of a range of user addresses is in `regions`.
pub(super) fn shared(regions: &[Arc<Region>], address: u64, size: u64) -> Result<(), Error> {
    let (mut at, mut left) = (address, size);
    while left > 0 {
        let not_shared = Error::NotShared { address, size };
        let here = regions.iter().find_map(|region| {
            let offset = at.checked_sub(region.user_address?)?;
            region.size.checked_sub(offset).filter(|here| *here > 0)
        });
        let here = here.ok_or(not_shared)?.min(left);
        at = at.wrapping_add(here);
        left -= here;
    }
    Ok(())
}

fn map(request: &RegionRequest<'_>) -> Result<Arc<Region>, Error> {
    let size = request.size;
    for address in [Some(request.guest_address), request.user_address]
        .into_iter()
        .flatten()
    {
        if address.checked_add(size).is_none() {
            return Err(Error::Wraps { address, size });
        }
    }
    Ok(Arc::new(Region {
        guest_address: request.guest_address,
        user_address: request.user_address,
        size,
        offset: request.offset,
        mapping: Arc::new(Mapping::new(request.fd, request.offset, size, request.writable)?),
    }))
}

/// Sorts by guest address and refuses regions that overlap.
fn checked(mut regions: Vec<Arc<Region>>) -> Result<Vec<Arc<Region>>, Error> {
    if regions.len() > MAX_REGIONS {
        return Err(Error::TooMany(MAX_REGIONS));
    }
    for space in [Space::User, Space::Guest] {
        regions.sort_by_key(|region| region.address(space));
        let listed = regions.iter().filter_map(|r| Some((r.address(space)?, r.size)));
        for ((address, size), (next, next_size)) in listed.clone().zip(listed.skip(1)) {
            if address + size > next {
                return Err(Error::Overlap {
                    space,
                    address: next,
                    size: next_size,
                });
            }
        }
    }
    Ok(regions)
}
