//! Changes of what is known of I/O virtual addresses (VIRTIO_F_ACCESS_PLATFORM).

use super::guest::{Difference, lock, shared};
use super::iotlb::{Access, Change, Iotlb, Translation};
use super::{Error, GuestMemory};
use std::time::Duration;

impl GuestMemory {
    /// From now on guest addresses are I/O virtual ones, of which nothing is known yet; or they are not any
    /// more. Waits for who uses the old ones.
    pub fn translate(&self, on: bool, timeout: Duration) -> Result<(), Error> {
        let mut changing = self.change();
        if changing.iotlb.is_none() && !on {
            return Ok(());
        }
        changing.iotlb = on.then(Iotlb::default);
        let (regions, dirty) = (self.snapshot().regions().to_vec(), self.snapshot().dirty());
        let generation = self.publish(&changing, regions, dirty, Difference::Removal);
        lock(&self.board).start_over();
        self.wait(generation, timeout)
    }

    /// Whether guest addresses are I/O virtual ones.
    pub fn translated(&self) -> bool {
        self.snapshot().translated()
    }

    /// All that is known, in order.
    pub fn translations(&self) -> Vec<Translation> {
        let changing = self.change();
        changing.iotlb.iter().flat_map(Iotlb::translations).collect()
    }

    /// Takes a translation. If it takes something away, waits for who uses that.
    pub fn update(&self, new: &Translation, timeout: Duration) -> Result<(), Error> {
        let mut changing = self.change();
        let snapshot = self.snapshot();
        let iotlb = changing.iotlb.as_mut().ok_or(Error::NotTranslated)?;
        let change = if new.access == Access::NONE {
            match iotlb.invalidate(new.iova, new.size)? {
                true => Change::Removal,
                false => Change::None,
            }
        } else {
            shared(snapshot.regions(), new.user_address, new.size)?;
            iotlb.update(new)?
        };
        let (regions, dirty) = (snapshot.regions().to_vec(), snapshot.dirty());
        let removed = match change {
            Change::None => None,
            Change::Growth => {
                self.publish(&changing, regions, dirty, Difference::Translations);
                None
            }
            Change::Removal => Some(self.publish(&changing, regions, dirty, Difference::Invalidation)),
        };
        lock(&self.board).answered(&self.snapshot(), new.iova, new.size);
        removed.map_or(Ok(()), |generation| self.wait(generation, timeout))
    }

    /// Forgets a range, and waits until nobody uses it: afterwards nothing is read or written there.
    /// A size of 0 at address 0 is everything.
    pub fn invalidate(&self, iova: u64, size: u64, timeout: Duration) -> Result<(), Error> {
        let mut changing = self.change();
        let iotlb = changing.iotlb.as_mut().ok_or(Error::NotTranslated)?;
        let generation = if iotlb.invalidate(iova, size)? {
            let (regions, dirty) = (self.snapshot().regions().to_vec(), self.snapshot().dirty());
            self.publish(&changing, regions, dirty, Difference::Invalidation)
        } else {
            // It may have been forgotten for want of room, and still be in use.
            self.snapshot().removal()
        };
        self.wait(generation, timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AccessError, DirtyLog, RegionRequest, Space};
    use super::*;
    use crate::loopback::memory_file;
    use std::os::fd::{AsFd, OwnedFd};
    use std::sync::{Arc, Mutex};

    const PAGE: u64 = 4096;
    const LONG: Duration = Duration::from_secs(10);
    const USER: u64 = 0x7000_0000;
    const IOVA: u64 = 0xf_0000_0000;

    /// Two regions that are neighbours in the front end, and nowhere else.
    fn two_regions() -> (GuestMemory, OwnedFd) {
        let (memory, fd) = (GuestMemory::new(), memory_file(4 * PAGE).unwrap());
        for index in 0..2 {
            memory
                .add(&RegionRequest {
                    guest_address: index * 0x10_0000,
                    user_address: Some(USER + index * 2 * PAGE),
                    size: 2 * PAGE,
                    fd: fd.as_fd(),
                    offset: index * 2 * PAGE,
                    writable: true,
                })
                .unwrap();
        }
        memory.translate(true, LONG).unwrap();
        (memory, fd)
    }

    fn all(access: Access) -> Translation {
        Translation {
            iova: IOVA,
            size: 4 * PAGE,
            user_address: USER,
            access,
        }
    }

    #[test]
    fn guest_addresses_are_translated_and_user_addresses_are_not() {
        let (memory, _fd) = two_regions();
        memory.update(&all(Access::READ_WRITE), LONG).unwrap();
        let snapshot = memory.snapshot();
        snapshot
            .write(Space::Guest, IOVA + 2 * PAGE - 2, b"abcd")
            .unwrap();
        let mut found = [0; 4];
        snapshot
            .read(Space::User, USER + 2 * PAGE - 2, &mut found)
            .unwrap();
        assert_eq!(&found, b"abcd");
        // What was a guest address before is none now.
        assert_eq!(
            snapshot.read(Space::Guest, 0, &mut found),
            Err(AccessError::Untranslated {
                address: 0,
                size: 4,
                write: false
            })
        );
        memory.translate(false, LONG).unwrap();
        memory
            .snapshot()
            .read(Space::Guest, 0x10_0000, &mut found[..2])
            .unwrap();
        assert_eq!(&found[..2], b"cd");
        assert!(matches!(
            memory.update(&all(Access::READ), LONG),
            Err(Error::NotTranslated)
        ));
        assert!(matches!(memory.invalidate(0, 1, LONG), Err(Error::NotTranslated)));
    }

    #[test]
    fn permissions_hold_and_the_first_missing_byte_is_named() {
        let (memory, _fd) = two_regions();
        memory.update(&all(Access::READ), LONG).unwrap();
        memory
            .update(
                &Translation {
                    size: PAGE,
                    ..all(Access::WRITE)
                },
                LONG,
            )
            .unwrap();
        let snapshot = memory.snapshot();
        let mut byte = [0];
        let missing = |address, size, write| AccessError::Untranslated { address, size, write };
        assert_eq!(
            snapshot.read(Space::Guest, IOVA, &mut byte),
            Err(missing(IOVA, 1, false))
        );
        snapshot.write(Space::Guest, IOVA, &[1]).unwrap();
        assert_eq!(
            snapshot.write(Space::Guest, IOVA, &[1; 8192]),
            Err(missing(IOVA + PAGE, PAGE, true))
        );
        assert_eq!(
            snapshot.read(Space::Guest, IOVA + 4 * PAGE - 1, &mut [0; 2]),
            Err(missing(IOVA + 4 * PAGE, 1, false))
        );
        // No access at all is what an invalidation leaves.
        memory.update(&all(Access::NONE), LONG).unwrap();
        assert!(memory.translations().is_empty());
    }

    #[test]
    fn hostile_updates_change_nothing() {
        let (memory, _fd) = two_regions();
        memory.update(&all(Access::READ), LONG).unwrap();
        let before = memory.generation();
        let cases = [
            (IOVA, 0, USER),
            (u64::MAX, 2, USER),
            (IOVA, 4 * PAGE + 1, USER),
            (IOVA, u64::MAX, USER),
            (IOVA, PAGE, USER - 1),
            (IOVA, 1, USER + 4 * PAGE),
            (IOVA, PAGE, u64::MAX),
        ];
        for (iova, size, user_address) in cases {
            let update = Translation {
                iova,
                size,
                user_address,
                access: Access::READ_WRITE,
            };
            memory.update(&update, LONG).unwrap_err();
        }
        memory.invalidate(IOVA, 0, LONG).unwrap_err();
        memory.invalidate(2, u64::MAX, LONG).unwrap_err();
        assert_eq!(memory.generation(), before);
        assert_eq!(memory.translations(), [all(Access::READ)]);
    }

    #[test]
    fn translations_go_with_the_memory_that_they_lead_to() {
        let (memory, _fd) = two_regions();
        for page in 0..4 {
            let update = Translation {
                // Apart, so that they stay apart.
                iova: IOVA + 2 * page * PAGE,
                size: PAGE,
                user_address: USER + page * PAGE,
                access: Access::READ,
            };
            memory.update(&update, LONG).unwrap();
        }
        memory.remove(0x10_0000, 2 * PAGE, LONG).unwrap();
        let left: Vec<u64> = memory.translations().iter().map(|t| t.user_address).collect();
        assert_eq!(left, [USER, USER + PAGE]);
    }

    #[derive(Debug, Default)]
    struct Log(Mutex<Vec<(u64, u64)>>);
    impl DirtyLog for Log {
        fn mark(&self, address: u64, size: u64) {
            self.0.lock().unwrap().push((address, size));
        }
    }

    #[test]
    fn writes_are_logged_by_guest_physical_address() {
        let (memory, _fd) = two_regions();
        let log = Arc::new(Log::default());
        memory.set_dirty_log(Some(log.clone()), LONG).unwrap();
        memory.update(&all(Access::READ_WRITE), LONG).unwrap();
        let snapshot = memory.snapshot();
        snapshot
            .write(Space::Guest, IOVA + 2 * PAGE - 2, &[1; 4])
            .unwrap();
        snapshot.write(Space::User, USER + 2 * PAGE, &[1; 4]).unwrap();
        let marks = || std::mem::take(&mut *log.0.lock().unwrap());
        assert_eq!(marks(), [(2 * PAGE - 2, 2), (0x10_0000, 2), (0x10_0000, 4)]);
        // A mark that comes after the translation has gone may be for any page.
        memory.invalidate(IOVA, 4 * PAGE, LONG).unwrap();
        memory.snapshot().dirty_log().unwrap().mark(IOVA, 1);
        assert_eq!(marks(), [(0, 2 * PAGE), (0x10_0000, 2 * PAGE)]);
    }
}
