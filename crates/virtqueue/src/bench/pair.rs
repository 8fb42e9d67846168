//! Both ends of a ring on two threads, as two processors share it.
//!
//! The work is that of the kernel's `tools/virtio/ringtest`: the driver makes single buffers available
//! while fewer than the limit are out, and takes back what has been used; the device uses each
//! without looking at its contents. The buffers are device-readable, as of packets that are sent. Requests
//! of several buffers, in the ring or in tables, show when tables pay.

use super::probe::Probe;
use super::{failed, thread};
use crate::chain::Batch;
use crate::fault::Fault;
use crate::loopback::Loopback;
use crate::memory::Snapshot;
use crate::notify::EventFd;
use crate::relax::Relax;
use crate::ring::{Buffer, DeviceRing, PackedDriver, PackedRing, SplitDriver, SplitRing, Used, feature};
use crate::worker::Completions;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// Requests in all.
    pub requests: u64,
    /// Requests made available, and taken, at most at once.
    pub batch: usize,
    /// Requests that are out at most.
    pub outstanding: usize,
    /// Queue size.
    pub size: u32,
    /// Buffers of a request.
    pub descriptors: usize,
    /// They are in a table.
    pub indirect: bool,
    /// Negotiated features: they say the layout.
    pub features: u128,
    /// How either end waits for the other.
    pub wait: Wait,
    /// Processors of the driver and of the device.
    pub processors: (usize, usize),
    /// Keep other threads away from them.
    pub precedence: bool,
}

/// How either end waits for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Looks again and again. Neither has a way to notify the other.
    Poll,
    /// The same, but looks after each batch whether the other wants to be notified (it does not).
    PollChecked,
    /// Sleeps until it is notified.
    Notify,
}

/// What came out.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Nanoseconds for all.
    pub nanoseconds: f64,
    /// Requests in all.
    pub requests: u64,
    /// A cache line there and back, in nanoseconds: before and after.
    pub probes: (f64, f64),
    /// Kicks and calls that were sent.
    pub notifications: (u64, u64),
}

/// The driver's end, whatever its layout.
trait Driver: Send {
    fn add(&mut self, buffers: &[Buffer]) -> bool;
    /// The same in a table, at `tables` the one of each head.
    fn add_table(&mut self, tables: u64, buffers: &[Buffer]) -> bool;
    fn publish(&mut self, check: bool) -> bool;
    fn reap(&mut self, max: usize, each: impl FnMut(Used)) -> Result<usize, Fault>;
    fn arm(&mut self) -> bool;
    fn disarm(&mut self);
}

macro_rules! driver {
    ($layout:ty) => {
        impl Driver for $layout {
            #[inline]
            fn add(&mut self, buffers: &[Buffer]) -> bool {
                <$layout>::add(self, buffers, &[]).is_some()
            }
            #[inline]
            fn add_table(&mut self, tables: u64, buffers: &[Buffer]) -> bool {
                let table = tables + u64::from(self.next_head()) * 16 * buffers.len() as u64;
                <$layout>::add_indirect(self, table, buffers, &[]).is_some()
            }
            #[inline]
            fn publish(&mut self, check: bool) -> bool {
                if check {
                    return <$layout>::publish(self);
                }
                self.reveal();
                false
            }
            #[inline]
            fn reap(&mut self, max: usize, each: impl FnMut(Used)) -> Result<usize, Fault> {
                <$layout>::reap(self, max, each)
            }
            fn arm(&mut self) -> bool {
                <$layout>::arm(self)
            }
            fn disarm(&mut self) {
                <$layout>::disarm(self);
            }
        }
    };
}
driver!(SplitDriver);
driver!(PackedDriver);

/// What the driver asks for, each time.
struct Request {
    buffers: Vec<Buffer>,
    /// Room for a table for each head.
    tables: u64,
}

/// What the two threads share beside the ring.
struct Shared {
    probe: Probe,
    kick: EventFd,
    call: EventFd,
    /// One end has failed, and the other must not wait for it.
    stop: AtomicBool,
}

impl Shared {
    fn check(&self) -> Result<(), Fault> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(failed("the other end has failed"));
        }
        Ok(())
    }
}

/// Runs both ends.
pub fn pair(shape: Pair) -> Result<Timing, Fault> {
    if shape.batch == 0 || shape.outstanding == 0 || shape.outstanding > shape.size as usize {
        return Err(failed("a batch and a limit of 1 to the queue size are needed"));
    }
    if shape.descriptors == 0 {
        return Err(failed("a request has a buffer at least"));
    }
    let tables = 16 * shape.descriptors as u64 * u64::from(shape.size);
    let rig = Loopback::new(shape.size, shape.features, tables + 4096).map_err(failed)?;
    let memory = rig.memory.snapshot();
    let request = Request {
        buffers: vec![
            Buffer {
                address: rig.buffers + tables,
                len: 64,
            };
            shape.descriptors
        ],
        tables: rig.buffers,
    };
    if shape.features & feature::RING_PACKED != 0 {
        let driver = PackedDriver::new(&rig.config, memory.clone())?;
        run(
            shape,
            &memory,
            driver,
            PackedRing::new(&rig.config).map_err(failed)?,
            request,
        )
    } else {
        let driver = SplitDriver::new(&rig.config, memory.clone())?;
        run(
            shape,
            &memory,
            driver,
            SplitRing::new(&rig.config).map_err(failed)?,
            request,
        )
    }
}

fn run(
    shape: Pair,
    memory: &Arc<Snapshot>,
    mut driver: impl Driver,
    mut device: impl DeviceRing,
    request: Request,
) -> Result<Timing, Fault> {
    let shared = Shared {
        probe: Probe::default(),
        kick: EventFd::new().map_err(failed)?,
        call: EventFd::new().map_err(failed)?,
        stop: AtomicBool::new(false),
    };
    let shared = &shared;
    std::thread::scope(|scope| {
        let other = scope.spawn(move || {
            thread::settle(shape.processors.1, shape.precedence)?;
            shared.probe.echo(0);
            let calls = serve(shape, shared, memory, &mut device).inspect_err(|_| stop(shared))?;
            shared.probe.echo(1);
            Ok::<_, Fault>(calls)
        });
        let own = scope.spawn(move || {
            thread::settle(shape.processors.0, shape.precedence)?;
            let before = shared.probe.throw(0);
            let start = Instant::now();
            let kicks = drive(shape, shared, &mut driver, &request).inspect_err(|_| stop(shared))?;
            let nanoseconds = start.elapsed().as_nanos() as f64;
            let after = shared.probe.throw(1);
            Ok::<_, Fault>((nanoseconds, (before, after), kicks))
        });
        let calls = other
            .join()
            .map_err(|_| failed("the device's thread has died"))??;
        let (nanoseconds, probes, kicks) =
            own.join().map_err(|_| failed("the driver's thread has died"))??;
        Ok(Timing {
            nanoseconds,
            requests: shape.requests,
            probes,
            notifications: (kicks, calls),
        })
    })
}

fn stop(shared: &Shared) {
    shared.stop.store(true, Ordering::Relaxed);
    shared.kick.signal();
    shared.call.signal();
}

/// Waits until the event is signalled.
fn sleep(event: &EventFd) {
    let mut poll = libc::pollfd {
        fd: event.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one structure, as said. Whatever it returns, the caller looks again.
    unsafe { libc::poll(&mut poll, 1, -1) };
    event.clear();
}

/// The driver's thread; returns the kicks that it sent.
fn drive(shape: Pair, shared: &Shared, driver: &mut impl Driver, request: &Request) -> Result<u64, Fault> {
    let check = shape.wait != Wait::Poll;
    let (mut started, mut done, mut kicks, mut idle) = (0, 0, 0, 0u32);
    let relax = Relax::new();
    driver.disarm();
    while done < shape.requests {
        let room = shape.outstanding - (started - done) as usize;
        let now = (shape.requests - started).min(room.min(shape.batch) as u64);
        for _ in 0..now {
            let added = match request.buffers.as_slice() {
                buffers if shape.indirect => driver.add_table(request.tables, buffers),
                // Its length is known here: a request of one costs no loop.
                [buffer] => driver.add(&[*buffer]),
                buffers => driver.add(buffers),
            };
            if !added {
                return Err(failed("the ring is full"));
            }
        }
        started += now;
        if now > 0 && driver.publish(check) && shape.wait == Wait::Notify {
            shared.kick.signal();
            kicks += 1;
        }
        let used = driver.reap(shape.batch, |_| {})?;
        done += used as u64;
        if used > 0 || (now > 0 && started - done < shape.outstanding as u64) {
            continue;
        }
        idle += 1;
        if idle % 1024 == 0 {
            shared.check()?;
        }
        if shape.wait == Wait::Notify {
            if !driver.arm() {
                sleep(&shared.call);
            }
            driver.disarm();
        } else {
            relax.wait();
        }
    }
    Ok(kicks)
}

/// The device's thread; returns the calls that it sent.
fn serve(
    shape: Pair,
    shared: &Shared,
    memory: &Arc<Snapshot>,
    device: &mut impl DeviceRing,
) -> Result<u64, Fault> {
    let mut batch = Batch::default();
    batch.attach(memory);
    let mut completions = Completions::default();
    let (mut done, mut calls, mut idle) = (0, 0, 0u32);
    let relax = Relax::new();
    device.map(memory)?;
    device.disarm(memory)?;
    while done < shape.requests {
        batch.clear();
        let taken = device.take(memory, &mut batch, shape.batch)?;
        if taken == 0 {
            idle += 1;
            if idle % 1024 == 0 {
                shared.check()?;
            }
            if shape.wait == Wait::Notify {
                if !device.arm(memory)? {
                    sleep(&shared.kick);
                }
                device.disarm(memory)?;
            } else {
                relax.wait();
            }
            continue;
        }
        completions.clear();
        for chain in batch.iter() {
            completions.push(chain.token, chain.writable_len as u32);
        }
        device.complete_all(memory, completions.as_slice())?;
        if shape.wait == Wait::Poll {
            device.reveal(memory)?;
        } else if device.publish(memory)? && shape.wait == Wait::Notify {
            shared.call.signal();
            calls += 1;
        }
        done += taken as u64;
    }
    Ok(calls)
}
