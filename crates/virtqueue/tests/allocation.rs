//! Nothing is allocated per request once a queue has warmed up. Alone in its process, because the
//! allocator is counted for all threads.

use std::alloc::{GlobalAlloc, Layout, System};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use virtqueue::chain::Batch;
use virtqueue::fault::Fault;
use virtqueue::loopback::{Loopback, memory_file};
use virtqueue::memory::Snapshot;
use virtqueue::ring::inflight::Area;
use virtqueue::ring::{Buffer, Driver, feature};
use virtqueue::worker::{Completions, Handler, Options, Worker};

struct Counting;
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: all is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Echo;
impl Handler for Echo {
    fn handle(&mut self, _: &Arc<Snapshot>, batch: &Batch, done: &mut Completions) -> Result<(), Fault> {
        batch
            .iter()
            .for_each(|chain| done.push(chain.token, chain.writable_len as u32));
        Ok(())
    }
}

/// One test, not one for each layout: they would count each other's allocations.
#[test]
fn warm_queues_allocate_nothing() {
    for layout in [0, feature::RING_PACKED] {
        for order in [0, feature::IN_ORDER] {
            for events in [0, feature::EVENT_IDX] {
                for tracked in [false, true] {
                    run(layout | order | events | feature::INDIRECT_DESC, tracked);
                }
            }
        }
    }
}

fn run(features: u128, tracked: bool) {
    let rig = Loopback::new(256, features, 1 << 16).unwrap();
    let worker = Worker::new(rig.memory.clone(), Options::default(), Box::new(|_| {})).unwrap();
    let mut driver = Driver::new(&rig.config, rig.memory.snapshot()).unwrap();
    let buffers = [Buffer {
        address: rig.buffers + 0x8000,
        len: 64,
    }; 3];
    if tracked {
        let file = memory_file(1 << 16).unwrap();
        worker.set_inflight(Some(Area::new(file.as_fd(), 0, 1 << 16, 256).unwrap()));
    }
    worker.start(&rig.config, Box::new(Echo)).unwrap();
    let mut round = |count: u16| {
        for i in 0..count {
            // Lists, tables, single buffers either way.
            let added = match i % 4 {
                0 => driver.add(&buffers[..1], &buffers[1..]),
                1 => driver.add_indirect(rig.buffers + 64 * u64::from(i), &buffers[..1], &buffers[1..]),
                2 => driver.add(&buffers[..1], &[]),
                _ => driver.add(&[], &buffers[..1]),
            };
            added.unwrap();
        }
        if driver.publish() {
            worker.notify();
        }
        let (mut left, start) = (usize::from(count), Instant::now());
        while left > 0 {
            // In order, a used entry may stand for more chains than were asked for.
            left = left.saturating_sub(driver.reap(left, |_| {}).unwrap());
            assert!(start.elapsed() < Duration::from_secs(10));
        }
    };
    // Batches of all sizes, then the largest again and again.
    (1..=64).for_each(&mut round);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    (0..1000).for_each(|i| round(1 + i % 64));
    let allocated = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert_eq!(allocated, 0, "with features {features:#x}, tracked: {tracked}");
}
