//! What the engine itself costs, in time per chain.

pub mod pair;
pub mod probe;
pub mod thread;

use crate::chain::Batch;
use crate::fault::{Fault, Rule};
use crate::loopback::Loopback;
use crate::memory::Space;
use crate::ring::{Buffer, DeviceRing, PackedDriver, Ring, SplitDriver, feature};
use crate::worker::Completions;
use std::time::{Duration, Instant};

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Chains in all (rounded up to whole batches).
    pub chains: u64,
    /// Chains made available, taken and completed at once.
    pub batch: usize,
    /// Queue size; at least the batch times the descriptors.
    pub size: u32,
    /// Descriptors in each chain, half of them (rounded down) device-writable.
    pub descriptors: usize,
    /// Put them in an indirect table.
    pub indirect: bool,
    /// Negotiated features.
    pub features: u128,
}

/// Length of each buffer.
const LENGTH: u32 = 512;

fn failed(error: impl std::fmt::Display) -> Fault {
    Fault::new(Rule::Device, error.to_string())
}

struct Bench {
    shape: Shape,
    rig: Loopback,
    driver: SplitDriver,
    readable: Vec<Buffer>,
    writable: Vec<Buffer>,
}

/// Memory with a ring, and the buffers of a chain.
fn prepare(shape: Shape) -> Result<(Loopback, Vec<Buffer>, Vec<Buffer>), Fault> {
    let slots = if shape.indirect { 1 } else { shape.descriptors };
    if shape.batch == 0 || shape.descriptors == 0 || shape.batch * slots > shape.size as usize {
        return Err(failed("the ring has no room for such a batch"));
    }
    let tables = u64::from(shape.size) * 16 * shape.descriptors as u64;
    let buffers = u64::from(LENGTH) * shape.descriptors as u64;
    let rig = Loopback::new(shape.size, shape.features, tables + buffers).map_err(failed)?;
    let mut readable: Vec<Buffer> = (0..shape.descriptors as u64)
        .map(|i| Buffer {
            address: rig.buffers + tables + i * u64::from(LENGTH),
            len: LENGTH,
        })
        .collect();
    let writable = readable.split_off(shape.descriptors - shape.descriptors / 2);
    Ok((rig, readable, writable))
}

impl Bench {
    fn new(shape: Shape) -> Result<Self, Fault> {
        let (rig, readable, writable) = prepare(shape)?;
        let driver = SplitDriver::new(&rig.config, rig.memory.snapshot())?;
        Ok(Self {
            shape,
            rig,
            driver,
            readable,
            writable,
        })
    }

    fn add(&mut self, index: usize) -> Result<(), Fault> {
        let added = if self.shape.indirect {
            let table = self.rig.buffers + (index * 16 * self.shape.descriptors) as u64;
            self.driver.add_indirect(table, &self.readable, &self.writable)
        } else {
            self.driver.add(&self.readable, &self.writable)
        };
        added.map(|_| ()).ok_or_else(|| failed("the ring is full"))
    }
}

/// Both ends on this thread: add, publish, take, walk, complete, publish, reap. Returns the
/// time for all and the number of chains.
pub fn both_ends(shape: Shape) -> Result<(Duration, u64), Fault> {
    let mut bench = Bench::new(shape)?;
    let memory = bench.rig.memory.snapshot();
    let mut device = Ring::new(&bench.rig.config).map_err(failed)?;
    let mut batch = Batch::default();
    batch.attach(&memory);
    let mut done = Completions::default();
    let mut chains = 0;
    let start = Instant::now();
    while chains < shape.chains {
        for index in 0..shape.batch {
            bench.add(index)?;
        }
        bench.driver.publish();
        chains += serve(&mut device, &memory, &mut batch, &mut done, shape.batch)?;
        bench.driver.reap(shape.batch, |_| {})?;
    }
    Ok((start.elapsed(), chains))
}

/// The device's end alone: take, walk, complete, show. Whether the driver wants a notification is not
/// looked at.
pub fn device_end(shape: Shape) -> Result<(Duration, u64), Fault> {
    if shape.features & feature::RING_PACKED != 0 {
        packed_device_end(shape)
    } else {
        split_device_end(shape)
    }
}

/// The descriptors stay as they are, and the driver only moves `avail.idx`.
fn split_device_end(shape: Shape) -> Result<(Duration, u64), Fault> {
    let mut bench = Bench::new(shape)?;
    let memory = bench.rig.memory.snapshot();
    let mut device = Ring::new(&bench.rig.config).map_err(failed)?;
    let mut batch = Batch::default();
    batch.attach(&memory);
    let mut done = Completions::default();
    // Chains everywhere in the ring, once; then the same ones over and over.
    let slots = if shape.indirect { 1 } else { shape.descriptors };
    let room = shape.size as usize / slots;
    for index in 0..room {
        bench.add(index)?;
    }
    let mut entry = [0; 2];
    for index in 0..u64::from(shape.size) {
        // Where fewer chains fit than there are entries, they are repeated.
        let from = bench.rig.config.available + 4 + 2 * (index % room as u64);
        memory.read(Space::Guest, from, &mut entry)?;
        memory.write(Space::Guest, bench.rig.config.available + 4 + 2 * index, &entry)?;
    }
    let index = memory.contiguous(Space::Guest, bench.rig.config.available + 2, 2, true)?;
    // SAFETY: in the available ring, which `memory` keeps; aligned to 2.
    let index = unsafe { std::sync::atomic::AtomicU16::from_ptr(index.host.cast()) };
    let (mut chains, mut available) = (0, 0u16);
    let start = Instant::now();
    while chains < shape.chains {
        available = available.wrapping_add(shape.batch as u16);
        index.store(available.to_le(), std::sync::atomic::Ordering::Release);
        chains += serve(&mut device, &memory, &mut batch, &mut done, shape.batch)?;
    }
    Ok((start.elapsed(), chains))
}

/// A packed ring is used up with each lap: the driver fills it outside the time that is measured.
fn packed_device_end(shape: Shape) -> Result<(Duration, u64), Fault> {
    let slots = if shape.indirect { 1 } else { shape.descriptors };
    let (rig, readable, writable) = prepare(shape)?;
    let memory = rig.memory.snapshot();
    let mut driver = PackedDriver::new(&rig.config, memory.clone())?;
    let mut device = Ring::new(&rig.config).map_err(failed)?;
    let mut batch = Batch::default();
    batch.attach(&memory);
    let mut done = Completions::default();
    let room = shape.size as usize / slots;
    let (mut chains, mut time) = (0, Duration::ZERO);
    while chains < shape.chains {
        for index in 0..room {
            let table = rig.buffers + (index * 16 * shape.descriptors) as u64;
            let added = if shape.indirect {
                driver.add_indirect(table, &readable, &writable)
            } else {
                driver.add(&readable, &writable)
            };
            added.ok_or_else(|| failed("the ring is full"))?;
        }
        driver.reveal();
        let start = Instant::now();
        let mut lap = 0;
        while lap < room as u64 {
            lap += serve(&mut device, &memory, &mut batch, &mut done, shape.batch)?;
        }
        time += start.elapsed();
        chains += lap;
        driver.reap(room, |_| {})?;
    }
    Ok((time, chains))
}

fn serve(
    device: &mut Ring,
    memory: &crate::memory::Snapshot,
    batch: &mut Batch,
    done: &mut Completions,
    max: usize,
) -> Result<u64, Fault> {
    batch.clear();
    let taken = device.take(memory, batch, max)?;
    done.clear();
    for chain in batch.iter() {
        done.push(chain.token, chain.writable_len as u32);
    }
    device.complete_all(memory, done.as_slice())?;
    device.reveal(memory)?;
    Ok(taken as u64)
}
