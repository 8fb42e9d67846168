//! Workers: waking, polling, stopping, and what hostile or broken partners cost.

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
                sleep_on(self.call.as_raw_fd(), Duration::from_secs(2));
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
    let stopped = bench.worker.stop(LONG).unwrap();
    assert_eq!(
        stopped,
        Stopped {
            base: 100,
            lost: 0,
            drained: true
        }
    );
    assert!(counters.kicks.get() > 0 && counters.kicks.get() <= 100);
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
            bench.worker.set_polling(polling);
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
fn polling_needs_no_kicks_and_ends() {
    let mut bench = Bench::started(ALL, Echo);
    bench.worker.set_polling(Duration::from_millis(20));
    for _ in 0..200 {
        bench.send();
        while bench.driver.reap(1, |_| {}).unwrap() == 0 {
            std::hint::spin_loop();
        }
    }
    let counters = bench.worker.counters();
    assert!(counters.polls.get() > 0);
    assert!(counters.kicks.get() < 200, "{} kicks", counters.kicks.get());
    // And then it sleeps.
    thread::sleep(Duration::from_millis(100));
    let polls = counters.polls.get();
    thread::sleep(Duration::from_millis(50));
    assert_eq!(counters.polls.get(), polls);
}

#[test]
fn kick_and_call_are_swapped_while_running() {
    let mut bench = Bench::started(ALL, Echo);
    for _ in 0..50 {
        bench.kick = EventFd::new().unwrap();
        bench.call = EventFd::new().unwrap();
        bench.worker.set_kick(Some(bench.kick.as_fd())).unwrap();
        bench
            .worker
            .set_call(Call::Fd(CallFd::new(bench.call.as_fd()).unwrap()))
            .unwrap();
        bench.send();
        bench.receive(1);
    }
}

#[test]
fn a_call_may_be_a_stream_socket() {
    let mut bench = Bench::started(ALL, Echo);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    bench
        .worker
        .set_call(Call::Fd(CallFd::new(theirs.as_fd()).unwrap()))
        .unwrap();
    drop(theirs);
    bench.driver.arm();
    bench.send();
    let mut bytes = [0; 16];
    assert_eq!(ours.read(&mut bytes).unwrap(), 8, "exactly 8 bytes");
    bench.driver.reap(1, |_| {}).unwrap();
    // The guest goes away: neither a signal nor an error.
    drop(ours);
    bench.driver.arm();
    bench.send();
    until("a lost call", || {
        bench.worker.counters().interrupts_lost.get() == 1
    });
    assert!(bench.worker.running());
}

#[test]
fn a_socket_that_is_never_read_stops_nobody() {
    let mut bench = Bench::started(0, Echo);
    let (ours, theirs) = UnixStream::pair().unwrap();
    bench
        .worker
        .set_call(Call::Fd(CallFd::new(theirs.as_fd()).unwrap()))
        .unwrap();
    for _ in 0..50_000 {
        bench.send();
        while bench.driver.reap(1, |_| {}).unwrap() == 0 {
            thread::yield_now();
        }
    }
    drop(ours);
    assert!(bench.worker.stop(LONG).unwrap().drained);
}

#[test]
fn descriptors_of_the_wrong_kind_are_refused() {
    let bench = Bench::new(ALL);
    let file = memory_file(4096).unwrap();
    let directory = std::fs::File::open("/").unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    // SAFETY: new and ours.
    let epoll: OwnedFd = unsafe { std::os::fd::FromRawFd::from_raw_fd(libc::epoll_create1(0)) };
    for fd in [file.as_fd(), directory.as_fd(), null.as_fd(), epoll.as_fd()] {
        let refused = |r: io::Result<()>| r.unwrap_err().kind() == io::ErrorKind::InvalidInput;
        assert!(refused(bench.worker.set_kick(Some(fd))));
        assert!(refused(bench.worker.set_error(Some(fd))));
        assert!(refused(CallFd::new(fd).map(|_| ())));
    }
    assert!(CallFd::new(writer.as_fd()).is_err(), "would raise SIGPIPE");
    bench.worker.set_kick(Some(reader.as_fd())).unwrap();
}

#[test]
fn a_kick_that_ends_does_not_spin() {
    let mut bench = Bench::started(ALL, Echo);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    bench.worker.set_kick(Some(theirs.as_fd())).unwrap();
    bench.add();
    bench.driver.publish();
    ours.write_all(&[0; 8]).unwrap();
    bench.receive(1);
    drop((ours, theirs));
    thread::sleep(Duration::from_millis(50));
    let used = cpu_time();
    thread::sleep(Duration::from_millis(300));
    // Other tests run at the same time; a worker that spins would alone take 300 ms.
    let spent = thread_times(&bench.worker.name);
    assert!(
        spent < Duration::from_millis(150),
        "{spent:?}, process {:?}",
        cpu_time() - used
    );
    // In-band kicks still work.
    bench.add();
    bench.driver.publish();
    bench.worker.notify();
    bench.receive(1);
}

fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: fills the structure.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The least processor time, over 300 ms, of the threads called `name`.
fn thread_times(name: &str) -> Duration {
    let sample = || -> Vec<(std::ffi::OsString, u64)> {
        let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        threads
            .filter(|t| std::fs::read_to_string(t.path().join("comm")).is_ok_and(|c| c.trim() == name))
            .filter_map(|t| {
                let stat = std::fs::read_to_string(t.path().join("schedstat")).ok()?;
                Some((t.file_name(), stat.split(' ').next()?.parse().ok()?))
            })
            .collect()
    };
    let before = sample();
    thread::sleep(Duration::from_millis(300));
    let after = sample();
    let spent = after.iter().filter_map(|(id, t)| {
        before
            .iter()
            .find(|(other, _)| other == id)
            .map(|(_, was)| Duration::from_nanos(t - was))
    });
    spent.min().unwrap_or_default()
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
fn chains_may_be_completed_later() {
    let (hold, allowed, event) = held(true);
    let mut bench = Bench::started(ALL, hold);
    (0..5).for_each(|_| bench.send());
    until("five chains", || bench.worker.counters().chains.get() == 5);
    allowed.store(3, Ordering::SeqCst);
    event.signal();
    assert_eq!(bench.receive(3), [1, 1, 1]);
    // Stopping waits for the other two.
    let release = (allowed.clone(), event.clone());
    let later = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        release.0.store(2, Ordering::SeqCst);
        release.1.signal();
    });
    assert_eq!(
        bench.worker.stop(LONG).unwrap(),
        Stopped {
            base: 5,
            lost: 0,
            drained: true
        }
    );
    later.join().unwrap();
    assert_eq!(bench.receive(2), [1, 1]);
}

#[test]
fn chains_that_wait_are_offered_again() {
    let (hold, _, _) = held(false);
    let mut bench = Bench::started(ALL, hold);
    (0..3).for_each(|_| bench.send());
    until("three chains", || bench.worker.counters().chains.get() == 3);
    let stopped = bench.worker.stop(LONG).unwrap();
    assert_eq!(
        stopped,
        Stopped {
            base: 0,
            lost: 0,
            drained: true
        }
    );
    bench.rig.config.base = stopped.base;
    bench.start(Echo);
    assert_eq!(bench.receive(3).len(), 3);
}

#[test]
fn stopping_ends_in_time_when_operations_do_not() {
    let (hold, _, _) = held(true);
    let mut bench = Bench::started(ALL, hold);
    bench.send();
    until("a chain", || bench.worker.counters().chains.get() == 1);
    let start = Instant::now();
    let stopped = bench.worker.stop(Duration::from_millis(100)).unwrap();
    assert!(start.elapsed() < Duration::from_secs(2));
    assert!(!stopped.drained);
}

#[test]
fn stopping_ends_in_time_when_the_handler_is_stuck() {
    let (release, gate) = mpsc::channel::<()>();
    let mut bench = Bench::started(
        ALL,
        With(move |batch: &Batch, done: &mut Completions| {
            gate.recv().unwrap_or(());
            batch.iter().for_each(|chain| done.push(chain.token, 0));
            Ok(())
        }),
    );
    bench.send();
    until("a chain", || bench.worker.counters().chains.get() == 1);
    let stopped = bench.worker.stop(Duration::from_millis(50)).unwrap();
    assert_eq!((stopped.base, stopped.lost, stopped.drained), (1, 1, false));
    // Nobody waits for it, and what it does later is not seen.
    bench.rig.memory.clear(LONG).unwrap();
    release.send(()).unwrap();
    thread::sleep(Duration::from_millis(50));
    assert_eq!(bench.driver.reap(1, |_| {}).unwrap(), 0);
    assert!(bench.faults.try_recv().is_err());
}

#[test]
fn a_broken_rule_breaks_the_queue_and_nothing_else() {
    let mut bench = Bench::started(ALL, Echo);
    let error = EventFd::new().unwrap();
    bench.worker.set_error(Some(error.as_fd())).unwrap();
    bench
        .driver
        .add(
            &[Buffer {
                address: 0x10,
                len: 4,
            }],
            &[],
        )
        .unwrap();
    bench.driver.publish();
    bench.kick.signal();
    assert_eq!(bench.fault().rule, Rule::Address);
    assert!(bench.worker.broken() && !bench.worker.running());
    assert_eq!(bench.worker.counters().errors(Rule::Address).get(), 1);
    assert!(sleep_on(error.as_raw_fd(), LONG));
    bench.worker.stop(LONG).unwrap();
    assert!(bench.worker.broken(), "until it is started again");
    // The driver resets: a new ring in the same place.
    let total = bench.rig.buffers - GUEST;
    bench
        .rig
        .memory
        .snapshot()
        .write(Space::Guest, GUEST, &vec![0; total as usize])
        .unwrap();
    bench.driver = SplitDriver::new(&bench.rig.config, bench.rig.memory.snapshot()).unwrap();
    bench.start(Echo);
    assert!(!bench.worker.broken());
    bench.send();
    bench.receive(1);
}

#[test]
fn a_handler_that_panics_or_fails_breaks_its_queue() {
    let fails = With(|_: &Batch, _: &mut Completions| Err(Fault::new(Rule::Request, "no header")));
    let mut bench = Bench::started(ALL, fails);
    bench.send();
    assert_eq!(bench.fault().rule, Rule::Request);

    let panics = With(|_: &Batch, _: &mut Completions| panic!("as {}", "expected"));
    let mut bench = Bench::started(ALL, panics);
    bench.send();
    let fault = bench.fault();
    assert_eq!(fault.rule, Rule::Device);
    assert!(fault.detail.contains("as expected"), "{fault}");

    let twice = With(|batch: &Batch, done: &mut Completions| {
        batch
            .iter()
            .for_each(|chain| (0..2).for_each(|_| done.push(chain.token, 0)));
        Ok(())
    });
    let mut bench = Bench::started(ALL, twice);
    bench.send();
    assert_eq!(bench.fault().rule, Rule::Device);
}

#[test]
fn on_fault_may_stop_the_queue() {
    let rig = Loopback::new(8, ALL, 4096).unwrap();
    let slot: Arc<Mutex<Option<Arc<Worker>>>> = Arc::default();
    let (send, stops) = mpsc::channel();
    let own = slot.clone();
    let on_fault = Box::new(move |_: &Fault| {
        let worker = lock(&own).clone().unwrap();
        send.send(worker.stop(LONG)).unwrap_or(());
    });
    let worker = Arc::new(Worker::new(rig.memory.clone(), Options::default(), on_fault).unwrap());
    *lock(&slot) = Some(worker.clone());
    let mut driver = SplitDriver::new(&rig.config, rig.memory.snapshot()).unwrap();
    driver.add(&[Buffer { address: 0, len: 1 }], &[]).unwrap();
    driver.publish();
    worker.start(&rig.config, Box::new(Echo)).unwrap();
    assert!(stops.recv_timeout(LONG).unwrap().is_some());
    *lock(&slot) = None;
}

#[test]
fn a_ring_that_is_not_mapped_waits_for_its_memory() {
    let mut bench = Bench::new(ALL);
    let size = bench.rig.buffers + bench.rig.buffers_size - GUEST;
    bench.rig.memory.clear(LONG).unwrap();
    bench.start(Echo);
    bench.send();
    thread::sleep(Duration::from_millis(30));
    assert_eq!(bench.worker.counters().chains.get(), 0);
    let file = bench.rig.file.try_clone().unwrap();
    let region = RegionRequest {
        guest_address: GUEST,
        user_address: None,
        size,
        fd: file.as_fd(),
        offset: 0,
        writable: true,
    };
    bench.rig.memory.add(&region).unwrap();
    bench.receive(1);
    // And so while it runs.
    bench.rig.memory.remove(GUEST, size, LONG).unwrap();
    bench.send();
    thread::sleep(Duration::from_millis(30));
    assert_eq!(bench.worker.counters().chains.get(), 1);
    bench.rig.memory.add(&region).unwrap();
    bench.receive(1);
    assert!(bench.worker.stop(LONG).unwrap().drained);
}

#[test]
fn unmapping_waits_for_operations_and_takes_no_new_ones() {
    let (hold, allowed, event) = held(true);
    let mut bench = Bench::started(ALL, hold);
    bench.send();
    until("a chain", || bench.worker.counters().chains.get() == 1);
    let memory = bench.rig.memory.clone();
    let error = memory.clear(Duration::from_millis(50)).unwrap_err();
    assert!(
        matches!(error, crate::memory::Error::InUse { users: 1 }),
        "{error}"
    );
    bench.send();
    thread::sleep(Duration::from_millis(30));
    assert_eq!(bench.worker.counters().chains.get(), 1, "nothing new meanwhile");
    allowed.store(1, Ordering::SeqCst);
    event.signal();
    memory.clear(LONG).unwrap();
    // It was published while the old memory was still there.
    assert_eq!(bench.receive(1), [1]);
}

#[test]
fn unmapping_under_load() {
    let mut bench = Bench::started(ALL, Echo);
    let size = bench.rig.buffers + bench.rig.buffers_size - GUEST;
    let memory = bench.rig.memory.clone();
    let file = bench.rig.file.try_clone().unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let fd = file.as_fd();
            let region = RegionRequest {
                guest_address: GUEST,
                user_address: None,
                size,
                fd,
                offset: 0,
                writable: true,
            };
            while !stop.load(Ordering::Relaxed) {
                memory.remove(GUEST, size, LONG).unwrap();
                memory.add(&region).unwrap();
                memory.replace(&[region], LONG).unwrap();
            }
        });
        for _ in 0..3000 {
            bench.send();
            bench.receive(1);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(bench.faults.try_recv().is_err());
}

#[test]
fn truncated_memory_breaks_the_queue() {
    let mut bench = Bench::started(ALL, Echo);
    bench.send();
    bench.receive(1);
    std::fs::File::from(bench.rig.file.try_clone().unwrap())
        .set_len(0)
        .unwrap();
    bench.kick.signal();
    let fault = bench.fault();
    assert_eq!(fault.rule, Rule::Address);
    assert!(fault.detail.contains("truncated"), "{fault}");
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
