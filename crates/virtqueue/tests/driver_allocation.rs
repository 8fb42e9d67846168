//! A driver's queue allocates nothing per request once it has warmed up. Alone in its process, because the
//! allocator is counted for all threads.

use std::alloc::{GlobalAlloc, Layout, System};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use virtqueue::block::{BlockHandler, Target};
use virtqueue::driver::{
    Area, BlockQueue, BlockSettings, Doorbell, Kind, Limit, Load, Mix, Place, Settings, Tables,
};
use virtqueue::loopback::Loopback;
use virtqueue::notify::{Call, CallFd, EventFd};
use virtqueue::ring::{IndirectPolicy, feature};
use virtqueue::worker::{Options, Worker};

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
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SIZE: u32 = 256;
const CHUNK: u32 = 4096;

#[test]
fn a_warm_driver_allocates_nothing() {
    for layout in [0, feature::RING_PACKED] {
        let features = layout | feature::EVENT_IDX | feature::INDIRECT_DESC;
        let (tables, area) = (Tables::bytes(SIZE, 16), Area::bytes(SIZE, CHUNK, 4));
        let rig = Loopback::new(SIZE, features, tables + area + (64 << 12)).unwrap();
        let (kick, call) = (EventFd::new().unwrap(), EventFd::new().unwrap());
        let block = BlockQueue::new(BlockSettings {
            queue: Settings {
                config: rig.config,
                memory: rig.memory.snapshot(),
                tables: Some(Tables {
                    address: rig.buffers,
                    entries: 16,
                    policy: IndirectPolicy::default(),
                }),
                identifier: 0,
                kick: Doorbell::Fd(CallFd::new(kick.as_fd()).unwrap()),
                call: Some(call.as_fd().try_clone_to_owned().unwrap()),
                polling: Duration::from_micros(20),
            },
            area: Area {
                address: rig.buffers + tables,
                chunk: CHUNK,
                chunks: 4,
            },
            segment: u32::MAX,
            segments: 1,
        })
        .unwrap();
        let worker = Worker::new(rig.memory.clone(), Options::default(), Box::new(|_| {})).unwrap();
        worker.set_kick(Some(kick.as_fd())).unwrap();
        worker
            .set_call(Call::Fd(CallFd::new(call.as_fd()).unwrap()))
            .unwrap();
        let target = Arc::new(Target::null(1 << 20, false).unwrap());
        let handler = BlockHandler::new(target, 0).unwrap();
        worker.start(&rig.config, Box::new(handler)).unwrap();

        let (buffers, snapshot) = (rig.buffers + tables + area, rig.memory.snapshot());
        let load = |requests| Load {
            mix: Mix::Read,
            sequential: false,
            each: 4096,
            sectors: 2048,
            depth: 64,
            requests,
            time: Duration::from_secs(60),
            timeout: Some(Duration::from_secs(60)),
            seed: 1,
        };
        let mut data = vec![0; 3 * CHUNK as usize];
        let mut one = || {
            let place = Place::Own(data.as_mut_ptr());
            let limit = Limit::within(Duration::from_secs(10));
            // SAFETY: `data` lives through the call.
            unsafe { block.transfer(Kind::IN, 0, place, data.len() as u64, limit) }.unwrap();
            let ticket = block.submit(Kind::IN, 0, (buffers, 512), false).unwrap();
            block.queue.wait(ticket, limit).unwrap();
        };
        let count = || ALLOCATIONS.load(Ordering::Relaxed);
        one();
        block.load(load(5000), &snapshot, buffers, None).unwrap();
        let before = count();
        (0..2000).for_each(|_| one());
        assert_eq!(count() - before, 0, "blocking calls and tokens, {features:#x}");
        // What a load allocates, it allocates at its beginning, however long it is.
        let before = count();
        block.load(load(100), &snapshot, buffers, None).unwrap();
        let short = count() - before;
        block.load(load(50_000), &snapshot, buffers, None).unwrap();
        assert_eq!(count() - before, 2 * short, "{features:#x}");
        worker.stop(Duration::from_secs(10));
    }
}
