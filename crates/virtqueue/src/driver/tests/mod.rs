//! Both ends in one process: a driver's queue, and a device that the test plays.

mod blocks;
mod loads;
mod waiting;

use super::*;
use crate::chain::{Batch, Token};
use crate::fault::Rule;
use crate::loopback::Loopback;
use crate::memory::Snapshot;
use crate::notify::{Call, CallFd, EventFd};
use crate::ring::{Buffer, DeviceRing, IndirectPolicy, Ring, feature};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SIZE: u32 = 16;
const LAYOUTS: [u128; 6] = [
    0,
    feature::EVENT_IDX,
    feature::EVENT_IDX | feature::IN_ORDER,
    feature::RING_PACKED,
    feature::RING_PACKED | feature::EVENT_IDX,
    feature::RING_PACKED | feature::EVENT_IDX | feature::IN_ORDER,
];
const LONG: Duration = Duration::from_secs(10);

/// The device's end, in the hands of the test.
struct Device {
    ring: Ring,
    memory: Arc<Snapshot>,
    batch: Batch,
    call: EventFd,
}

/// A chain that the device has: its token, and its buffers as address and length.
struct Held {
    token: Token,
    readable: Vec<(u64, u32)>,
    writable: Vec<(u64, u32)>,
}

impl Device {
    fn take(&mut self) -> Vec<Held> {
        assert!(self.ring.map(&self.memory).unwrap());
        self.batch.attach(&self.memory);
        self.ring.take(&self.memory, &mut self.batch, 64).unwrap();
        let list = |segments: &[crate::chain::Segment]| segments.iter().map(|s| (s.guest, s.len)).collect();
        self.batch
            .iter()
            .map(|chain| Held {
                token: chain.token,
                readable: list(chain.readable),
                writable: list(chain.writable),
            })
            .collect()
    }

    fn complete(&mut self, held: &Held, written: u32) {
        self.ring.complete(&self.memory, held.token, written).unwrap();
        if self.ring.publish(&self.memory).unwrap() {
            self.call.signal();
        }
    }
}

/// Settings of a queue on `rig`, with a kick and a call; the device that goes with it.
fn ends(rig: &Loopback, tables: Option<Tables>) -> (Settings, Device, EventFd) {
    let (kick, call) = (EventFd::new().unwrap(), EventFd::new().unwrap());
    let settings = Settings {
        config: rig.config,
        memory: rig.memory.snapshot(),
        tables,
        identifier: 0,
        kick: Doorbell::Fd(CallFd::new(kick.as_fd()).unwrap()),
        call: Some(call.as_fd().try_clone_to_owned().unwrap()),
        polling: Duration::from_micros(20),
    };
    let device = Device {
        ring: Ring::new(&rig.config).unwrap(),
        memory: rig.memory.snapshot(),
        batch: Batch::default(),
        call,
    };
    (settings, device, kick)
}

fn pair(features: u128) -> (Queue, Device, EventFd, u64) {
    let rig = Loopback::new(SIZE, features, 1 << 16).unwrap();
    let (settings, device, kick) = ends(&rig, None);
    (Queue::new(settings).unwrap(), device, kick, rig.buffers)
}

fn buffer(address: u64, len: u32) -> Buffer {
    Buffer { address, len }
}
