//! Requests to a block device, answered by our own.

use super::*;
use crate::block::{BlockHandler, Target};
use crate::memory::{GuestMemory, Space};
use crate::ring::Config;
use crate::spec::block::*;
use crate::worker::{Options, Worker};

const CHUNK: u32 = 8192;
const CHUNKS: u32 = 4;
pub(super) const DISK: u64 = 4 << 20;
const BUFFERS: u64 = 1 << 20;

pub(super) struct Bed {
    pub(super) block: BlockQueue,
    /// What serves the queue, if anything does.
    worker: Option<Worker>,
    pub(super) memory: Arc<GuestMemory>,
    ring: Config,
    pub(super) buffers: u64,
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Some(worker) = &self.worker {
            worker.stop(LONG);
        }
    }
}

/// A queue, and the device for the test to play.
pub(super) fn alone(features: u128, size: u32, segment: u32, segments: u32) -> (Bed, Device, EventFd) {
    let area = Area::bytes(size, CHUNK, CHUNKS);
    let tables = Tables::bytes(size, 16).next_multiple_of(4096);
    let rig = Loopback::new(size, features, tables + area + BUFFERS).unwrap();
    let (settings, device, kick) = ends(
        &rig,
        Some(Tables {
            address: rig.buffers,
            entries: 16,
            policy: IndirectPolicy::default(),
        }),
    );
    let block = BlockQueue::new(BlockSettings {
        queue: settings,
        area: Area {
            address: rig.buffers + tables,
            chunk: CHUNK,
            chunks: CHUNKS,
        },
        segment,
        segments,
    })
    .unwrap();
    let bed = Bed {
        block,
        worker: None,
        memory: rig.memory.clone(),
        ring: rig.config,
        buffers: rig.buffers + tables + area,
    };
    (bed, device, kick)
}

/// A queue served by our device with a disk in memory.
pub(super) fn served(features: u128, size: u32, segment: u32, segments: u32) -> Bed {
    let (mut bed, device, kick) = alone(features, size, segment, segments);
    let target = Arc::new(Target::memory(DISK).unwrap());
    let worker = Worker::new(bed.memory.clone(), Options::default(), Box::new(|_| {})).unwrap();
    worker.set_kick(Some(kick.as_fd())).unwrap();
    worker
        .set_call(Call::Fd(CallFd::new(device.call.as_fd()).unwrap()))
        .unwrap();
    let handler = BlockHandler::new(target, VIRTIO_BLK_F_FLUSH).unwrap();
    worker.start(&bed.ring, Box::new(handler)).unwrap();
    bed.worker = Some(worker);
    bed
}

impl Bed {
    fn transfer(&self, kind: Kind, sector: u64, data: &mut [u8]) -> Result<(Done, u64), Error> {
        let place = Place::Own(data.as_mut_ptr());
        let limit = Limit::within(LONG);
        // SAFETY: `data` lives through the call.
        unsafe { self.block.transfer(kind, sector, place, data.len() as u64, limit) }
    }

    fn put(&self, offset: u64, data: &[u8]) -> u64 {
        let address = self.buffers + offset;
        self.memory.snapshot().write(Space::Guest, address, data).unwrap();
        address
    }

    fn get(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        let snapshot = self.memory.snapshot();
        snapshot
            .read(Space::Guest, self.buffers + offset, &mut data)
            .unwrap();
        data
    }
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 512 * 7 + i + seed) as u8).collect()
}

pub(super) const EVERY: [u128; 4] = [
    feature::EVENT_IDX,
    feature::EVENT_IDX | feature::INDIRECT_DESC,
    feature::EVENT_IDX | feature::INDIRECT_DESC | feature::RING_PACKED,
    feature::EVENT_IDX | feature::INDIRECT_DESC | feature::RING_PACKED | feature::IN_ORDER,
];

#[test]
fn transfers_of_any_length_go_through_the_bounce_buffer() {
    for features in EVERY {
        for (segment, segments) in [(u32::MAX, 1), (1024, 4)] {
            let bed = served(features, 16, segment, segments);
            for len in [512, 4096, 8192, 8704, 300 * 512] {
                let mut data = pattern(len, len);
                let (done, bytes) = bed.transfer(Kind::OUT, 3, &mut data).unwrap();
                assert_eq!((done.status, bytes), (0, len as u64), "{features:#x}");
                let mut back = vec![0; len];
                assert_eq!(bed.transfer(Kind::IN, 3, &mut back).unwrap().0.status, 0);
                assert!(data == back, "{features:#x}, {len} bytes");
            }
        }
    }
}

#[test]
fn shared_memory_is_used_where_it_is() {
    for features in EVERY {
        let bed = served(features, 16, u32::MAX, 1);
        let data = pattern(64 << 10, 1);
        let address = bed.put(0, &data);
        let limit = Limit::within(LONG);
        let (len, place) = (data.len() as u64, Place::Shared(address));
        // SAFETY: shared memory.
        unsafe { bed.block.transfer(Kind::OUT, 0, place, len, limit) }.unwrap();
        let ticket = bed
            .block
            .submit(Kind::IN, 2, (bed.buffers + (128 << 10), 1024), false)
            .unwrap();
        assert_eq!(bed.block.queue.wait(ticket, limit).unwrap().status, 0);
        assert_eq!(bed.get(128 << 10, 1024), data[1024..2048]);
    }
}

#[test]
fn a_run_counts_its_requests_and_keeps_their_statuses() {
    for features in EVERY {
        let bed = served(features, 16, u32::MAX, 1);
        let data = pattern(200 * 512, 5);
        let address = bed.put(0, &data);
        let mut statuses = vec![9; 200];
        let limit = Limit::within(LONG);
        // Backwards, and three of them past the end of the disk.
        let sectors = (0..200).map(|n| if n < 3 { DISK / 512 + n } else { 400 - n });
        let list: Vec<u64> = sectors.collect();
        let run = |kind, address, statuses: &mut [u8], depth| {
            let each = (address, 512);
            bed.block
                .run(kind, list.iter().copied(), each, statuses, depth, limit)
        };
        run(Kind::OUT, address, &mut statuses, usize::MAX).unwrap();
        assert_eq!(statuses.iter().filter(|s| **s == 0).count(), 197, "{features:#x}");
        assert_eq!(statuses[..3], [VIRTIO_BLK_S_IOERR; 3]);
        let back = bed.buffers + (512 << 10);
        run(Kind::IN, back, &mut statuses, 2).unwrap();
        assert_eq!(bed.get(512 << 10, 200 * 512)[1536..], data[1536..]);
    }
}

#[test]
fn the_status_ends_a_transfer_and_says_where() {
    let bed = served(feature::EVENT_IDX, 16, u32::MAX, 1);
    let mut data = pattern(4 * CHUNK as usize, 0);
    let sector = DISK / 512 - 2 * u64::from(CHUNK) / 512;
    let (done, before) = bed.transfer(Kind::IN, sector, &mut data).unwrap();
    assert_eq!(done.status, VIRTIO_BLK_S_IOERR);
    assert_eq!(before, 2 * u64::from(CHUNK));
    let (done, _) = bed.transfer(Kind(99), 0, &mut data[..512]).unwrap();
    assert_eq!(done.status, VIRTIO_BLK_S_UNSUPP);
    let (done, _) = bed.transfer(Kind(VIRTIO_BLK_T_FLUSH), 0, &mut []).unwrap();
    assert_eq!(done.status, 0);
}

#[test]
fn a_device_that_writes_no_status_is_not_believed() {
    let (bed, mut device, _kick) = alone(feature::EVENT_IDX, 16, u32::MAX, 1);
    for _ in 0..2 {
        let ticket = bed.block.submit(Kind::IN, 0, (bed.buffers, 512), false).unwrap();
        let held = device.take();
        assert_eq!(held[0].readable.len(), 1);
        device.complete(&held[0], 513);
        assert_eq!(
            bed.block.queue.wait(ticket, Limit::within(LONG)).unwrap().status,
            0xff
        );
    }
}

#[test]
fn a_transfer_that_timed_out_keeps_its_chunk_until_the_answer() {
    let (bed, mut device, _kick) = alone(feature::EVENT_IDX, 16, u32::MAX, 1);
    let mut data = vec![0; 512];
    let soon = Limit::within(Duration::from_millis(2));
    for _ in 0..CHUNKS {
        let place = Place::Own(data.as_mut_ptr());
        // SAFETY: `data` lives through the call; afterwards it is not used.
        let outcome = unsafe { bed.block.transfer(Kind::IN, 0, place, 512, soon) };
        assert!(matches!(outcome, Err(Error::TimedOut)));
    }
    let held = device.take();
    assert_eq!(held.len(), CHUNKS as usize);
    // No chunk is free: nothing more goes out.
    let place = Place::Own(data.as_mut_ptr());
    // SAFETY: as above.
    let outcome = unsafe { bed.block.transfer(Kind::IN, 0, place, 512, soon) };
    assert!(matches!(outcome, Err(Error::TimedOut)));
    assert!(device.take().is_empty());
    device.complete(&held[0], 513);
    assert_eq!(bed.block.queue.returned(|_| {}), CHUNKS - 1);
    let place = Place::Own(data.as_mut_ptr());
    // SAFETY: as above.
    let outcome = unsafe { bed.block.transfer(Kind::IN, 0, place, 512, soon) };
    assert!(matches!(outcome, Err(Error::TimedOut)));
    assert_eq!(device.take().len(), 1, "the chunk that came back went out again");
}

#[test]
fn a_full_queue_leaves_the_requests_in_it_alone() {
    for features in EVERY {
        let (bed, mut device, _kick) = alone(features, 16, u32::MAX, 1);
        let mut sectors = 0;
        loop {
            match bed.block.submit(Kind::OUT, sectors, (bed.buffers, 512), false) {
                Ok(_) => sectors += 1,
                Err(Error::Full) => break,
                Err(other) => panic!("{other}"),
            }
        }
        assert!(matches!(
            bed.block.submit(Kind::IN, 999, (bed.buffers, 512), false),
            Err(Error::Full)
        ));
        let mut found: Vec<u64> = Vec::new();
        for held in device.take() {
            let mut header = [0; 16];
            let at = held.readable[0].0;
            device.memory.read(Space::Guest, at, &mut header).unwrap();
            assert_eq!(header[0], 1);
            found.push(u64::from_le_bytes(header[8..].try_into().unwrap()));
        }
        assert_eq!(found, (0..sectors).collect::<Vec<u64>>(), "{features:#x}");
    }
}
