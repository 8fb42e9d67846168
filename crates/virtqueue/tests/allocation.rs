//! Nothing is allocated per request once a queue has warmed up. Alone in its process, because the
//! allocator is counted for all threads.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use virtqueue::chain::Batch;
use virtqueue::fault::Fault;
use virtqueue::loopback::Loopback;
use virtqueue::memory::Snapshot;
use virtqueue::ring::{Buffer, SplitDriver, feature};
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

#[test]
fn a_warm_queue_allocates_nothing() {
    let rig = Loopback::new(256, feature::EVENT_IDX | feature::INDIRECT_DESC, 1 << 16).unwrap();
    let worker = Worker::new(rig.memory.clone(), Options::default(), Box::new(|_| {})).unwrap();
    let mut driver = SplitDriver::new(&rig.config, rig.memory.snapshot()).unwrap();
    let buffers = [Buffer {
        address: rig.buffers + 0x8000,
        len: 64,
    }; 3];
    worker.start(&rig.config, Box::new(Echo)).unwrap();
    let mut round = |count: u16| {
        for i in 0..count {
            if i % 2 == 0 {
                driver.add(&buffers[..1], &buffers[1..]).unwrap();
            } else {
                driver
                    .add_indirect(rig.buffers + 64 * u64::from(i), &buffers[..1], &buffers[1..])
                    .unwrap();
            }
        }
        if driver.publish() {
            worker.notify();
        }
        let (mut left, start) = (usize::from(count), Instant::now());
        while left > 0 {
            left -= driver.reap(left, |_| {}).unwrap();
            assert!(start.elapsed() < Duration::from_secs(10));
        }
    };
    // Batches of all sizes, then the largest again and again.
    (1..=64).for_each(&mut round);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    (0..2000).for_each(|i| round(1 + i % 64));
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0);
}
