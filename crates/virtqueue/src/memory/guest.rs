//! The map of a guest's memory, and its changes.

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
    changing: Mutex<()>,
    readers: Mutex<Vec<Arc<Slot>>>,
    moved: Condvar,
}

impl Default for GuestMemory {
    fn default() -> Self {
        Self::new()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that can panic runs under these locks, and each change is one assignment.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl GuestMemory {
    /// A map without regions.
    pub fn new() -> Self {
        let generation = GENERATION.fetch_add(1, Ordering::Relaxed);
        Self {
            generation: AtomicU64::new(generation),
            current: Mutex::new(Arc::new(Snapshot::new(generation, Vec::new(), None))),
            changing: Mutex::new(()),
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
        let _changing = lock(&self.changing);
        let mut regions = self.snapshot().regions().to_vec();
        regions.push(map(region)?);
        self.publish(checked(regions)?, self.snapshot().dirty());
        Ok(())
    }

    /// Removes the regions that make up a range of guest addresses, exactly; waits until no
    /// queue uses them. [`Error::InUse`]: they are gone from the map nevertheless.
    pub fn remove(&self, address: u64, size: u64, timeout: Duration) -> Result<(), Error> {
        let _changing = lock(&self.changing);
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
        let generation = self.publish(stay, snapshot.dirty());
        drop((gone, snapshot));
        self.wait(generation, timeout)
    }

    /// Replaces the whole map, or leaves it as it is on an error other than [`Error::InUse`].
    pub fn replace(&self, regions: &[RegionRequest<'_>], timeout: Duration) -> Result<(), Error> {
        let _changing = lock(&self.changing);
        if regions.len() > MAX_REGIONS {
            return Err(Error::TooMany(MAX_REGIONS));
        }
        let regions = checked(regions.iter().map(map).collect::<Result<_, _>>()?)?;
        let generation = self.publish(regions, self.snapshot().dirty());
        self.wait(generation, timeout)
    }

    /// Removes all regions.
    pub fn clear(&self, timeout: Duration) -> Result<(), Error> {
        self.replace(&[], timeout)
    }

    /// Installs a dirty log, or removes it; waits until all queues report to it (or have stopped to).
    pub fn set_dirty_log(&self, log: Option<Arc<dyn DirtyLog>>, timeout: Duration) -> Result<(), Error> {
        let _changing = lock(&self.changing);
        let generation = self.publish(self.snapshot().regions().to_vec(), log);
        self.wait(generation, timeout)
    }

    fn publish(&self, regions: Vec<Arc<Region>>, dirty: Option<Arc<dyn DirtyLog>>) -> u64 {
        let generation = GENERATION.fetch_add(1, Ordering::Relaxed);
        *lock(&self.current) = Arc::new(Snapshot::new(generation, regions, dirty));
        self.generation.store(generation, Ordering::Relaxed);
        // Pairs with the fence of `Reader::unpark`.
        fence(Ordering::SeqCst);
        for reader in lock(&self.readers).iter() {
            reader.wake();
        }
        generation
    }

    fn wait(&self, generation: u64, timeout: Duration) -> Result<(), Error> {
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
        self.moved.notify_all();
    }

    /// A reader has moved on.
    pub(super) fn announce(&self) {
        drop(lock(&self.readers));
        self.moved.notify_all();
    }
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
