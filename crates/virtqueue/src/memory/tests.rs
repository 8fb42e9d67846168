//! Memory maps: what is refused, what changes while in use, what survives a hostile owner.

use super::*;
use crate::chain::{Batch, Token};
use crate::loopback::memory_file;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PAGE: u64 = 4096;
const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(10);

fn region<'fd>(fd: &'fd OwnedFd, guest_address: u64, size: u64, offset: u64) -> RegionRequest<'fd> {
    let fd = fd.as_fd();
    RegionRequest {
        guest_address,
        user_address: None,
        size,
        fd,
        offset,
        writable: true,
    }
}

fn file(pages: u64) -> OwnedFd {
    memory_file(pages * PAGE).unwrap()
}

fn starts(memory: &GuestMemory) -> Vec<u64> {
    memory
        .snapshot()
        .regions()
        .iter()
        .map(|r| r.guest_address)
        .collect()
}

/// The segments of a buffer: guest address and length of each.
fn segments(
    snapshot: &Arc<Snapshot>,
    address: u64,
    size: u32,
    write: bool,
) -> Result<Vec<(u64, u32)>, AccessError> {
    let mut batch = Batch::default();
    batch.attach(snapshot);
    snapshot.segments(&mut Nearby::default(), address, size, write, &mut batch)?;
    batch.finish_chain(Token::new(0, 1), 0, (0, 0));
    Ok(batch
        .get(0)
        .unwrap()
        .writable
        .iter()
        .map(|s| (s.guest, s.len))
        .collect())
}

struct NoWake;
impl Wake for NoWake {
    fn wake(&self) {}
}

#[test]
fn refuses_what_cannot_be_a_region() {
    let (memory, fd) = (GuestMemory::new(), file(4));
    memory.add(&region(&fd, 0x10000, PAGE, 0)).unwrap();
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    type Check = fn(&Error) -> bool;
    let cases: [(&str, RegionRequest<'_>, Check); 9] = [
        ("no bytes", region(&fd, 0, 0, 0), |e| matches!(e, Error::Empty)),
        ("wraps", region(&fd, u64::MAX - 10, PAGE, 0), |e| {
            matches!(e, Error::Wraps { .. })
        }),
        ("offset wraps", region(&fd, 0, PAGE, u64::MAX - 5), |e| {
            matches!(e, Error::Wraps { .. })
        }),
        ("absurd size", region(&fd, 0, 1 << 62, 0), |e| {
            matches!(e, Error::BeyondFile { .. })
        }),
        ("beyond the file", region(&fd, 0, PAGE + 1, 3 * PAGE), |e| {
            matches!(e, Error::BeyondFile { .. })
        }),
        ("overlaps", region(&fd, 0x10fff, PAGE, 0), |e| {
            matches!(e, Error::Overlap { .. })
        }),
        ("is there already", region(&fd, 0x10000, PAGE, 0), |e| {
            matches!(e, Error::Overlap { .. })
        }),
        (
            "user address wraps",
            RegionRequest {
                user_address: Some(u64::MAX),
                ..region(&fd, 0, PAGE, 0)
            },
            |e| matches!(e, Error::Wraps { .. }),
        ),
        (
            "not a file",
            RegionRequest {
                fd: socket.as_fd(),
                ..region(&fd, 0, PAGE, 0)
            },
            |e| matches!(e, Error::WrongKind),
        ),
    ];
    for (name, request, expected) in cases {
        let before = memory.generation();
        let error = memory.add(&request).unwrap_err();
        assert!(expected(&error), "{name}: {error}");
        assert!(!error.to_string().is_empty());
        assert_eq!(
            (memory.generation(), starts(&memory)),
            (before, vec![0x10000]),
            "{name}"
        );
    }
}

#[test]
fn a_sparse_file_of_absurd_size_is_refused_by_mmap() {
    let fd = memory_file(1 << 60).unwrap();
    let error = GuestMemory::new().add(&region(&fd, 0, 1 << 60, 0)).unwrap_err();
    assert!(matches!(error, Error::System("mmap", _)), "{error}");
}

#[test]
fn user_addresses_must_not_overlap_either() {
    let (memory, fd) = (GuestMemory::new(), file(4));
    let user = |guest, user| RegionRequest {
        user_address: Some(user),
        ..region(&fd, guest, PAGE, 0)
    };
    memory.add(&user(0, 0x7000)).unwrap();
    let error = memory.add(&user(0x100000, 0x7800)).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Overlap {
                space: Space::User,
                ..
            }
        ),
        "{error}"
    );
    memory.add(&user(0x100000, 0x8000)).unwrap();
}

#[test]
fn replaces_all_or_nothing() {
    let (memory, fd) = (GuestMemory::new(), file(8));
    memory.add(&region(&fd, 0, PAGE, 0)).unwrap();
    let good = region(&fd, 0x10000, PAGE, 0);
    let bad = region(&fd, 0x20000, PAGE, 100 * PAGE);
    memory.replace(&[good, bad], LONG).unwrap_err();
    assert_eq!(starts(&memory), [0]);
    memory
        .replace(&[region(&fd, 0x30000, PAGE, 0), good], LONG)
        .unwrap();
    assert_eq!(starts(&memory), [0x10000, 0x30000], "sorted");
    memory.clear(LONG).unwrap();
    assert!(starts(&memory).is_empty());
    let many: Vec<_> = (0..513).map(|i| region(&fd, i * PAGE, PAGE, 0)).collect();
    assert!(matches!(memory.replace(&many, LONG), Err(Error::TooMany(_))));
    memory.replace(&many[..512], LONG).unwrap();
    assert!(matches!(memory.add(&many[512]), Err(Error::TooMany(_))));
}

#[test]
fn removes_whole_regions_only() {
    let (memory, fd) = (GuestMemory::new(), file(8));
    for i in 0..3 {
        memory
            .add(&region(&fd, i * 2 * PAGE, 2 * PAGE, 2 * i * PAGE))
            .unwrap();
    }
    for (address, size) in [
        (0, PAGE),
        (PAGE, 2 * PAGE),
        (0, 3 * PAGE),
        (0x100000, PAGE),
        (u64::MAX, PAGE),
    ] {
        let error = memory.remove(address, size, LONG).unwrap_err();
        assert!(
            matches!(error, Error::NotFound { .. }),
            "{address:#x} {size:#x}: {error}"
        );
    }
    memory.remove(0, 4 * PAGE, LONG).unwrap();
    assert_eq!(starts(&memory), [4 * PAGE]);
}

#[test]
fn offsets_need_not_be_aligned() {
    let (memory, fd) = (GuestMemory::new(), file(3));
    let raw = File::from(fd.try_clone().unwrap());
    raw.write_all_at(b"here", 5000).unwrap();
    memory.add(&region(&fd, 0x5000, PAGE, 5000)).unwrap();
    let snapshot = memory.snapshot();
    let mut bytes = [0; 4];
    snapshot.read(Space::Guest, 0x5000, &mut bytes).unwrap();
    assert_eq!(&bytes, b"here");
    snapshot.write(Space::Guest, 0x5000 + PAGE - 4, b"tail").unwrap();
    raw.read_exact_at(&mut bytes, 5000 + PAGE - 4).unwrap();
    assert_eq!(&bytes, b"tail");
    snapshot
        .write(Space::Guest, 0x5000 + PAGE - 3, b"tail")
        .unwrap_err();
}

#[test]
fn two_address_spaces_reach_the_same_bytes() {
    let (memory, fd) = (GuestMemory::new(), file(2));
    memory
        .add(&RegionRequest {
            user_address: Some(0x7000_0000),
            ..region(&fd, 0x1000, 2 * PAGE, 0)
        })
        .unwrap();
    let snapshot = memory.snapshot();
    snapshot.write(Space::User, 0x7000_0010, b"same").unwrap();
    let mut bytes = [0; 4];
    snapshot.read(Space::Guest, 0x1010, &mut bytes).unwrap();
    assert_eq!(&bytes, b"same");
    assert!(snapshot.read(Space::User, 0x1010, &mut bytes).is_err());
    assert_eq!(
        snapshot
            .contiguous(Space::User, 0x7000_0010, 4, true)
            .unwrap()
            .guest,
        0x1010
    );
}

#[test]
fn buffers_cross_adjacent_regions() {
    let (memory, fd) = (GuestMemory::new(), file(8));
    // Adjacent for the guest, but not in the file, and with a hole after the third.
    for (guest, offset) in [(0, 6), (1, 2), (2, 4), (4, 0)] {
        memory
            .add(&region(&fd, guest * PAGE, PAGE, offset * PAGE))
            .unwrap();
    }
    let snapshot = memory.snapshot();
    let found = segments(&snapshot, 100, 3 * PAGE as u32 - 200, true).unwrap();
    assert_eq!(found, [(100, 3996), (PAGE, 4096), (2 * PAGE, 3996)]);
    let data: Vec<u8> = (0..10000u32).map(|i| i as u8).collect();
    snapshot.write(Space::Guest, 1000, &data).unwrap();
    let mut back = vec![0; data.len()];
    snapshot.read(Space::Guest, 1000, &mut back).unwrap();
    assert_eq!(data, back);
    for (address, size) in [
        (2 * PAGE, 2 * PAGE as u32),
        (u64::MAX - 3, 8),
        (4 * PAGE, PAGE as u32 + 1),
    ] {
        let result = segments(&snapshot, address, size, false);
        assert!(
            matches!(result, Err(AccessError::Unmapped { .. })),
            "{address:#x}"
        );
    }
    let divided = snapshot.contiguous(Space::Guest, 100, PAGE, false);
    assert!(matches!(divided, Err(AccessError::Divided { .. })));
    // Nothing is written when not everything can be.
    assert!(snapshot.write(Space::Guest, 3 * PAGE - 4, &[0xaa; 8]).is_err());
    let mut tail = [0; 4];
    snapshot.read(Space::Guest, 3 * PAGE - 4, &mut tail).unwrap();
    assert_eq!(tail, [0; 4]);
}

#[test]
fn read_only_regions_are_not_written() {
    let (memory, fd) = (GuestMemory::new(), file(2));
    memory
        .add(&RegionRequest {
            writable: false,
            ..region(&fd, 0, PAGE, 0)
        })
        .unwrap();
    memory.add(&region(&fd, PAGE, PAGE, PAGE)).unwrap();
    let snapshot = memory.snapshot();
    let read_only = |r: Result<(), AccessError>| matches!(r, Err(AccessError::ReadOnly { .. }));
    assert!(read_only(snapshot.write(Space::Guest, 0, b"x")));
    assert!(read_only(snapshot.write(Space::Guest, PAGE - 1, b"xy")));
    assert!(read_only(segments(&snapshot, 0, 10, true).map(drop)));
    assert_eq!(segments(&snapshot, 0, 10, false).unwrap(), [(0, 10)]);
    assert!(!snapshot.view(Space::Guest, 0, 10).unwrap().writable());
}

#[test]
fn a_view_keeps_its_mapping() {
    let (memory, fd) = (GuestMemory::new(), file(1));
    memory.add(&region(&fd, 0, PAGE, 0)).unwrap();
    memory.snapshot().write(Space::Guest, 8, b"kept").unwrap();
    let view = memory.snapshot().view(Space::Guest, 8, 4).unwrap();
    memory.remove(0, PAGE, LONG).unwrap();
    assert!(memory.snapshot().view(Space::Guest, 8, 4).is_err());
    // SAFETY: the view keeps the memory; nobody else writes it.
    let bytes = unsafe { std::slice::from_raw_parts(view.as_ptr(), view.size()) };
    assert_eq!(bytes, b"kept");
}

#[test]
fn a_mapping_goes_with_its_last_user() {
    let (memory, fd) = (GuestMemory::new(), file(1));
    memory.add(&region(&fd, 0, PAGE, 0)).unwrap();
    let weak = Arc::downgrade(&memory.snapshot().regions()[0].mapping);
    let snapshot = memory.snapshot();
    memory.clear(LONG).unwrap();
    assert!(weak.upgrade().is_some());
    drop(snapshot);
    assert!(weak.upgrade().is_none());
}

#[test]
fn huge_pages_are_mapped_whole() {
    // Only where some are reserved.
    // SAFETY: the name is a string.
    let fd = unsafe { libc::memfd_create(c"huge".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_HUGETLB) };
    if fd < 0 {
        return;
    }
    // SAFETY: new and ours.
    let fd: OwnedFd = unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) };
    if File::from(fd.try_clone().unwrap()).set_len(4 << 20).is_err() {
        return;
    }
    let memory = GuestMemory::new();
    match memory.add(&region(&fd, 0, PAGE, (2 << 20) + PAGE)) {
        Ok(()) => memory.clear(LONG).unwrap(),
        Err(Error::System("mmap", _)) => {} // none are free
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn removal_waits_for_readers() {
    let (memory, fd) = (Arc::new(GuestMemory::new()), file(1));
    memory.add(&region(&fd, 0, PAGE, 0)).unwrap();
    let mut reader = Reader::new(memory.clone(), Arc::new(NoWake));
    assert!(!reader.stale());
    let error = memory.remove(0, PAGE, SHORT).unwrap_err();
    assert!(matches!(error, Error::InUse { users: 1 }), "{error}");
    assert!(reader.stale(), "gone from the map all the same");
    assert!(
        reader.snapshot().covers(Space::Guest, 0, PAGE),
        "but the reader still has it"
    );
    reader.refresh();
    assert!(!reader.snapshot().covers(Space::Guest, 0, PAGE));

    memory.add(&region(&fd, 0, PAGE, 0)).unwrap();
    reader.refresh();
    reader.park();
    memory
        .remove(0, PAGE, SHORT)
        .expect("a parked reader is not waited for");
    reader.unpark();
    assert!(reader.stale());

    memory.add(&region(&fd, 0, PAGE, 0)).unwrap();
    reader.refresh();
    reader.struck().strike();
    memory
        .remove(0, PAGE, SHORT)
        .expect("nor is one that was struck off");
}

#[test]
fn a_reader_that_moves_on_lets_the_removal_go_on() {
    let (memory, fd) = (Arc::new(GuestMemory::new()), file(1));
    memory.add(&region(&fd, 0, PAGE, 0)).unwrap();
    let mut reader = Reader::new(memory.clone(), Arc::new(NoWake));
    let moved = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            memory.remove(0, PAGE, LONG).unwrap();
            assert!(moved.load(Ordering::SeqCst));
        });
        while !reader.stale() {
            std::hint::spin_loop();
        }
        std::thread::sleep(SHORT);
        moved.store(true, Ordering::SeqCst);
        reader.refresh();
    });
}

/// After `remove` has returned, no reader may touch the memory: it is checked by readers that
/// write a stamp while the region exists, and by a remover that looks for late ones.
#[test]
fn unmapping_under_load() {
    let (memory, fd) = (Arc::new(GuestMemory::new()), file(1));
    let raw = File::from(fd.try_clone().unwrap());
    let (stop, writes) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for slot in 0..3u64 {
            let mut reader = Reader::new(memory.clone(), Arc::new(NoWake));
            let (stop, writes) = (&stop, &writes);
            scope.spawn(move || {
                let mut round = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    if reader.stale() {
                        reader.refresh();
                    }
                    if reader
                        .snapshot()
                        .write(Space::Guest, slot * 8, &[0xff; 8])
                        .is_ok()
                    {
                        writes.fetch_add(1, Ordering::Relaxed);
                    }
                    round += 1;
                    if round % 7 == 0 {
                        reader.park();
                        std::thread::yield_now();
                        reader.unpark();
                    }
                }
            });
        }
        let end = Instant::now() + Duration::from_millis(500);
        while Instant::now() < end {
            memory.add(&region(&fd, 0, PAGE, 0)).unwrap();
            std::thread::sleep(Duration::from_micros(50));
            memory.remove(0, PAGE, LONG).unwrap();
            raw.write_all_at(&[0; 24], 0).unwrap();
            std::thread::yield_now();
            let mut bytes = [0; 24];
            raw.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(bytes, [0; 24], "written after its removal");
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(writes.load(Ordering::Relaxed) > 0);
}

#[test]
fn a_truncated_file_costs_its_owner_only() {
    let (memory, fd, other) = (GuestMemory::new(), file(4), file(1));
    memory.add(&region(&fd, 0, 4 * PAGE, 0)).unwrap();
    memory.add(&region(&other, 0x100000, PAGE, 0)).unwrap();
    let snapshot = memory.snapshot();
    snapshot.write(Space::Guest, 0, b"before").unwrap();
    snapshot.write(Space::Guest, 0x100000, b"bystander").unwrap();
    let mut seen = 0;
    snapshot.truncated(&mut seen);
    File::from(fd).set_len(0).unwrap();
    // Would kill the process.
    snapshot.write(Space::Guest, 2 * PAGE, b"after").unwrap();
    let mut bytes = [0xaa; 6];
    snapshot.read(Space::Guest, 0, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 6]);
    assert_eq!(snapshot.truncated(&mut seen).map(|r| r.guest_address), Some(0));
    let mut bytes = [0; 9];
    snapshot.read(Space::Guest, 0x100000, &mut bytes).unwrap();
    assert_eq!(&bytes, b"bystander");
}

#[test]
fn a_shared_log_has_a_bit_for_each_page() {
    let fd = file(1);
    let log = SharedLog::new(fd.as_fd(), 8, 4, None).unwrap();
    let bits = || {
        let map = Mapping::new(fd.as_fd(), 0, 16, false).unwrap();
        // SAFETY: within the mapping, and nobody writes there meanwhile.
        unsafe { std::slice::from_raw_parts(map.as_ptr(), 16) }.to_vec()
    };
    log.mark(0, 0);
    assert_eq!(bits(), [0; 16]);
    log.mark(PAGE - 1, 2);
    assert_eq!(bits()[8..12], [0b11, 0, 0, 0]);
    log.mark(6 * PAGE, 11 * PAGE);
    assert_eq!(bits()[8..12], [0b1100_0011, 0xff, 1, 0]);
    // Beyond its end there is nothing to note, whatever the size.
    log.mark(31 * PAGE, u64::MAX);
    log.mark(u64::MAX, 1);
    assert_eq!(bits()[8..12], [0b1100_0011, 0xff, 1, 0x80]);
    assert_eq!((&bits()[..8], &bits()[12..]), (&[0; 8][..], &[0; 4][..]));
}

#[derive(Debug, Default)]
struct Log(Mutex<Vec<(u64, u64)>>);
impl DirtyLog for Log {
    fn mark(&self, address: u64, size: u64) {
        self.0.lock().unwrap().push((address, size));
    }
}

#[test]
fn writes_are_logged_by_guest_address() {
    let (memory, fd) = (GuestMemory::new(), file(2));
    memory
        .add(&RegionRequest {
            user_address: Some(0x7000),
            ..region(&fd, 0x1000, PAGE, 0)
        })
        .unwrap();
    memory.add(&region(&fd, 0x2000, PAGE, PAGE)).unwrap();
    let log = Arc::new(Log::default());
    memory.set_dirty_log(Some(log.clone()), LONG).unwrap();
    memory.snapshot().write(Space::User, 0x7010, &[1; 4]).unwrap();
    memory.snapshot().write(Space::Guest, 0x1ffe, &[1; 4]).unwrap();
    assert_eq!(*log.0.lock().unwrap(), [(0x1010, 4), (0x1ffe, 2), (0x2000, 2)]);
    memory.set_dirty_log(None, LONG).unwrap();
    memory.snapshot().write(Space::Guest, 0x1000, &[1; 4]).unwrap();
    assert_eq!(log.0.lock().unwrap().len(), 3);
}
