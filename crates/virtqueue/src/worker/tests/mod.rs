//! Workers: waking, polling, stopping, and what hostile or broken partners cost.

mod descriptors;
mod ending;
mod mapping;
mod polling;
mod pool;
mod reset;
mod translation;

use super::*;
use crate::chain::{Batch, Token};
use crate::fault::Rule;
use crate::loopback::{GUEST, Loopback, memory_file};
use crate::memory::{RegionRequest, Snapshot, Space};
use crate::ring::{Buffer, SplitDriver, feature};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{self, Receiver};

const LONG: Duration = Duration::from_secs(10);
const ALL: u128 = feature::INDIRECT_DESC | feature::EVENT_IDX;

/// Completes everything at once, with the length of its writable part.
struct Echo;
impl Handler for Echo {
    fn handle(&mut self, _: &Arc<Snapshot>, batch: &Batch, done: &mut Completions) -> Result<(), Fault> {
        for chain in batch.iter() {
            done.push(chain.token, chain.writable_len as u32);
        }
        Ok(())
    }
}

/// A handler made of a closure.
struct With<F>(F);
impl<F> Handler for With<F>
where
    F: FnMut(&Batch, &mut Completions) -> Result<(), Fault> + Send,
{
    fn handle(&mut self, _: &Arc<Snapshot>, batch: &Batch, done: &mut Completions) -> Result<(), Fault> {
        self.0(batch, done)
    }
}

/// Keeps chains until it is told how many to complete.
struct Hold {
    held: Vec<Token>,
    allowed: Arc<AtomicUsize>,
    event: Arc<EventFd>,
    /// Counted in `busy`, or forgotten on `release`.
    busy: bool,
}

impl Handler for Hold {
    fn handle(&mut self, _: &Arc<Snapshot>, batch: &Batch, _: &mut Completions) -> Result<(), Fault> {
        self.held.extend(batch.iter().map(|chain| chain.token));
        Ok(())
    }
    fn reap(&mut self, done: &mut Completions) -> Result<(), Fault> {
        self.event.clear();
        let n = self.allowed.swap(0, Ordering::SeqCst).min(self.held.len());
        self.held.drain(..n).for_each(|token| done.push(token, 1));
        Ok(())
    }
    fn completion_fd(&self) -> Option<RawFd> {
        Some(self.event.as_raw_fd())
    }
    fn busy(&self) -> usize {
        if self.busy { self.held.len() } else { 0 }
    }
    fn release(&mut self) {
        if !self.busy {
            self.held.clear();
        }
    }
}

struct Bench {
    rig: Loopback,
    worker: Worker,
    driver: SplitDriver,
    kick: EventFd,
    call: EventFd,
    faults: Receiver<Fault>,
}

impl Bench {
    fn new(features: u128) -> Self {
        let rig = Loopback::new(64, features, 1 << 16).unwrap();
        let (send, faults) = mpsc::channel();
        let on_fault = Box::new(move |fault: &Fault| send.send(fault.clone()).unwrap_or(()));
        let worker = Worker::new(rig.memory.clone(), Options::default(), on_fault).unwrap();
        let (kick, call) = (EventFd::new().unwrap(), EventFd::new().unwrap());
        worker.set_kick(Some(kick.as_fd())).unwrap();
        worker
            .set_call(Call::Fd(CallFd::new(call.as_fd()).unwrap()))
            .unwrap();
        let driver = SplitDriver::new(&rig.config, rig.memory.snapshot()).unwrap();
        Self {
            rig,
            worker,
            driver,
            kick,
            call,
            faults,
        }
    }

    fn started(features: u128, handler: impl Handler + 'static) -> Self {
        let bench = Self::new(features);
        bench.start(handler);
        bench
    }

    fn start(&self, handler: impl Handler + 'static) {
        self.worker.start(&self.rig.config, Box::new(handler)).unwrap();
    }

    fn add(&mut self) -> u16 {
        let buffer = Buffer {
            address: self.rig.buffers,
            len: 16,
        };
        self.driver.add(&[buffer], &[buffer]).unwrap()
    }

    fn send(&mut self) {
        self.add();
        if self.driver.publish() {
            self.kick.signal();
        }
    }

    /// Waits for so many used chains as a driver does: arm, look again, sleep on the call.
    fn receive(&mut self, wanted: usize) -> Vec<u32> {
        let mut lengths = Vec::new();
        let deadline = Instant::now() + LONG;
        while lengths.len() < wanted {
            assert!(
                Instant::now() < deadline,
                "got {} of {wanted}: a notification was lost",
                lengths.len()
            );
            if self.driver.reap(64, |used| lengths.push(used.len)).unwrap() == 0 && !self.driver.arm() {
                assert!(sleep_on(self.call.as_raw_fd(), LONG), "a notification was lost");
                self.call.clear();
            }
        }
        lengths
    }

    fn fault(&self) -> Fault {
        self.faults.recv_timeout(LONG).expect("a fault")
    }
}

fn sleep_on(fd: RawFd, timeout: Duration) -> bool {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one live entry.
    unsafe { libc::poll(&mut poll, 1, timeout.as_millis() as i32) > 0 }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_micros(200));
    }
}

fn held(busy: bool) -> (Hold, Arc<AtomicUsize>, Arc<EventFd>) {
    let (allowed, event) = (Arc::new(AtomicUsize::new(0)), Arc::new(EventFd::new().unwrap()));
    (
        Hold {
            held: Vec::new(),
            allowed: allowed.clone(),
            event: event.clone(),
            busy,
        },
        allowed,
        event,
    )
}

#[test]
fn serves_kicks_and_counts() {
    let mut bench = Bench::started(ALL, Echo);
    for _ in 0..100 {
        bench.send();
        assert_eq!(bench.receive(1), [16]);
    }
    let counters = bench.worker.counters().clone();
    assert_eq!(counters.chains.get(), 100);
    assert_eq!(
        (counters.bytes_read.get(), counters.bytes_written.get()),
        (1600, 1600)
    );
    assert!(bench.worker.running());
    until("a kick", || counters.kicks.get() > 0);
    let stopped = bench.worker.stop(LONG).unwrap();
    assert_eq!(
        stopped,
        Stopped {
            base: 100,
            lost: 0,
            drained: true
        }
    );
    assert!(counters.kicks.get() <= 100);
    assert!(counters.batches.get() > 0 && counters.interrupts.get() > 0);
    assert!(!bench.worker.running() && !bench.worker.broken());
    assert!(bench.worker.stop(LONG).is_none());
}

#[test]
fn one_notification_per_batch() {
    let mut bench = Bench::new(0);
    for _ in 0..16 {
        bench.add();
    }
    bench.driver.publish();
    bench.start(Echo);
    until("sixteen chains", || bench.worker.counters().chains.get() == 16);
    bench.receive(16);
    bench.worker.stop(LONG).unwrap();
    assert_eq!(bench.worker.counters().interrupts.get(), 1);
    assert_eq!(bench.worker.counters().batches.get(), 1);
}

#[test]
fn looks_at_the_ring_once_without_a_kick() {
    let mut bench = Bench::new(ALL);
    bench.add();
    bench.driver.publish();
    bench.start(Echo);
    bench.receive(1);
    // Nor is a kick needed after a restart.
    let stopped = bench.worker.stop(LONG).unwrap();
    bench.add();
    bench.driver.publish();
    bench.rig.config.base = stopped.base;
    bench.start(Echo);
    bench.receive(1);
}

#[test]
fn in_band_kicks_and_calls() {
    let mut bench = Bench::started(ALL, Echo);
    bench.worker.set_kick(None).unwrap();
    let (send, calls) = mpsc::channel();
    let function = Arc::new(move || send.send(()).unwrap_or(()));
    bench.worker.set_call(Call::Function(function)).unwrap();
    for _ in 0..10 {
        bench.add();
        if bench.driver.publish() {
            bench.worker.notify();
        }
        while bench.driver.reap(1, |_| {}).unwrap() == 0 {
            if !bench.driver.arm() {
                calls.recv_timeout(LONG).expect("a call");
            }
        }
    }
    until("a kick", || bench.worker.counters().kicks.get() > 0);
}

/// The classic: kicks and calls that get lost between one end's last look and its sleep.
#[test]
fn no_wakeup_is_lost() {
    for features in [ALL, 0] {
        for polling in [Duration::ZERO, Duration::from_micros(20)] {
            let mut bench = Bench::started(features, Echo);
            bench.worker.set_polling(Polling::Adaptive(polling));
            let mut out = 0;
            for round in 0..20_000usize {
                // Uneven bursts keep both ends falling asleep and waking.
                for _ in 0..=(round % 5) {
                    if bench.driver.free() >= 2 {
                        bench.send();
                        out += 1;
                    }
                }
                if round % 3 == 0 {
                    let half = out / 2 + 1;
                    out -= bench.receive(half.min(out)).len();
                }
            }
            bench.receive(out);
            assert!(bench.worker.stop(LONG).unwrap().drained);
        }
    }
}

#[test]
fn polling_ends() {
    let mut bench = Bench::started(ALL, Echo);
    bench
        .worker
        .set_polling(Polling::Adaptive(Duration::from_millis(20)));
    for _ in 0..200 {
        bench.send();
        while bench.driver.reap(1, |_| {}).unwrap() == 0 {
            std::hint::spin_loop();
        }
    }
    let counters = bench.worker.counters();
    assert!(counters.polls.get() > 0);
    until("it sleeps", || {
        let polls = counters.polls.get();
        thread::sleep(Duration::from_millis(50));
        counters.polls.get() == polls
    });
}

#[test]
fn a_thread_bears_its_name() {
    let rig = Loopback::new(8, ALL, 4096).unwrap();
    let options = Options {
        name: String::from("requestq named"),
        ..Options::default()
    };
    let worker = Worker::new(rig.memory.clone(), options, Box::new(|_| {})).unwrap();
    let (send, names) = mpsc::channel();
    let tell = With(move |_: &Batch, _: &mut Completions| {
        send.send(std::fs::read_to_string("/proc/thread-self/comm").unwrap())
            .unwrap_or(());
        Ok(())
    });
    let mut driver = SplitDriver::new(&rig.config, rig.memory.snapshot()).unwrap();
    driver
        .add(
            &[Buffer {
                address: rig.buffers,
                len: 1,
            }],
            &[],
        )
        .unwrap();
    driver.publish();
    worker.start(&rig.config, Box::new(tell)).unwrap();
    assert_eq!(names.recv_timeout(LONG).unwrap().trim(), "requestq named");
    assert!(matches!(
        worker.start(&rig.config, Box::new(Echo)),
        Err(StartError::Running)
    ));
}
