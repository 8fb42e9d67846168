//! Queues behind an IOMMU: addresses that are not known yet, that come and go, and that are not allowed.

use super::*;
use crate::loopback::USER;
use crate::memory::{Access, GuestMemory, Miss, Translation};
use std::collections::HashSet;

const PAGE: u64 = 4096;
const BOTH: Access = Access::READ_WRITE;

/// A page where it is, as this access allows.
fn page(iova: u64, access: Access) -> Translation {
    let iova = iova & !(PAGE - 1);
    Translation {
        iova,
        size: PAGE,
        user_address: iova - GUEST + USER,
        access,
    }
}

/// A queue, the ring of which nobody has translated yet.
fn translated(features: u128) -> (Bench, Receiver<Miss>) {
    let bench = Bench::new(features);
    bench.rig.memory.translate(true, LONG).unwrap();
    let misses = listen(&bench.rig.memory);
    (bench, misses)
}

fn listen(memory: &Arc<GuestMemory>) -> Receiver<Miss> {
    let (send, misses) = mpsc::channel();
    let weak = Arc::downgrade(memory);
    memory.on_miss(Some(Arc::new(move || {
        let list = weak
            .upgrade()
            .map_or_else(Vec::new, |memory| memory.take_misses());
        list.into_iter().for_each(|miss| send.send(miss).unwrap_or(()));
    })));
    misses
}

/// Answers each question at once, until the memory is gone.
fn answer(memory: &Arc<GuestMemory>, translate: impl Fn(u64) -> Translation + Send + 'static) {
    let misses = listen(memory);
    let memory = Arc::downgrade(memory);
    // Not on the queue's thread: who takes a translation away may be waiting for that.
    thread::spawn(move || {
        while let (Ok(miss), Some(memory)) = (misses.recv(), memory.upgrade()) {
            memory.update(&translate(miss.iova), LONG).unwrap();
        }
    });
}

/// Translates the three pages of the ring.
fn translate_ring(bench: &Bench) {
    for address in [
        bench.rig.config.descriptors,
        bench.rig.config.available,
        bench.rig.config.used,
    ] {
        bench.rig.memory.update(&page(address, BOTH), LONG).unwrap();
    }
}

#[test]
fn asks_once_for_the_ring_and_then_for_the_buffers() {
    let (mut bench, misses) = translated(ALL);
    let memory = bench.rig.memory.clone();
    bench.send();
    bench.start(Echo);
    let asked: HashSet<(u64, u8)> = (0..3)
        .map(|_| misses.recv_timeout(LONG).unwrap())
        .map(|miss| (miss.iova, miss.access.bits()))
        .collect();
    let config = bench.rig.config;
    let ring = [(config.descriptors, 1), (config.available, 1), (config.used, 2)];
    assert_eq!(asked, HashSet::from(ring));
    // Kicks do not make it ask again.
    for _ in 0..20 {
        bench.kick.signal();
        thread::sleep(Duration::from_millis(1));
    }
    assert!(misses.try_recv().is_err());
    translate_ring(&bench);
    let miss = misses.recv_timeout(LONG).unwrap();
    // Read as well as written: one question.
    assert_eq!(
        (miss.iova, miss.access, miss.failed),
        (bench.rig.buffers, BOTH, false)
    );
    assert_eq!(bench.worker.counters().chains.get(), 0);
    memory.update(&page(bench.rig.buffers, BOTH), LONG).unwrap();
    assert_eq!(bench.receive(1), [16]);
    bench.send();
    assert_eq!(bench.receive(1), [16]);
    assert!(misses.try_recv().is_err());
    assert!(bench.worker.stop(LONG).unwrap().drained);
}

#[test]
fn a_question_without_an_answer_holds_up_nobody_else() {
    let (mut bench, misses) = translated(ALL);
    translate_ring(&bench);
    // Another queue of the same device, all of whose memory is known.
    let mut other = Bench::new(ALL);
    bench.start(Echo);
    bench.send();
    misses.recv_timeout(LONG).unwrap();
    let memory = bench.rig.memory.clone();
    let second = Worker::new(memory.clone(), Options::default(), Box::new(|_| {})).unwrap();
    // Its ring is the same memory again, used by nobody else: the same addresses, translated elsewhere.
    let shift = 1 << 32;
    let size = other.rig.buffers + other.rig.buffers_size - GUEST;
    memory
        .add(&RegionRequest {
            guest_address: GUEST + shift,
            user_address: Some(USER + shift),
            size,
            fd: other.rig.file.as_fd(),
            offset: 0,
            writable: true,
        })
        .unwrap();
    memory
        .update(
            &Translation {
                iova: GUEST + shift,
                size,
                user_address: USER + shift,
                access: BOTH,
            },
            LONG,
        )
        .unwrap();
    let mut config = other.rig.config;
    config.descriptors += shift;
    config.available += shift;
    config.used += shift;
    second.set_kick(Some(other.kick.as_fd())).unwrap();
    second
        .set_call(Call::Fd(CallFd::new(other.call.as_fd()).unwrap()))
        .unwrap();
    second.start(&config, Box::new(Echo)).unwrap();
    let buffer = Buffer {
        address: other.rig.buffers + shift,
        len: 16,
    };
    for _ in 0..100 {
        other.driver.add(&[buffer], &[buffer]).unwrap();
        if other.driver.publish() {
            other.kick.signal();
        }
        other.receive(1);
    }
    assert_eq!(bench.worker.counters().chains.get(), 0);
    let start = Instant::now();
    assert!(second.stop(LONG).unwrap().drained);
    let stopped = bench.worker.stop(LONG).unwrap();
    assert!(stopped.drained && stopped.base == 0);
    assert!(start.elapsed() < LONG / 2, "the missing answer was waited for");
}

#[test]
fn an_answer_that_does_not_allow_the_access_breaks_the_queue() {
    let (mut bench, misses) = translated(ALL);
    translate_ring(&bench);
    bench.start(Echo);
    bench.send();
    let miss = misses.recv_timeout(LONG).unwrap();
    bench
        .rig
        .memory
        .update(&page(miss.iova, Access::READ), LONG)
        .unwrap();
    let fault = bench.fault();
    assert_eq!(fault.rule, Rule::Translation);
    assert!(fault.to_string().contains("written to"), "{fault}");
    let failed = misses.recv_timeout(LONG).unwrap();
    assert_eq!(
        (failed.iova, failed.access, failed.failed),
        (bench.rig.buffers, Access::WRITE, true)
    );
    assert_eq!(bench.worker.counters().errors(Rule::Translation).get(), 1);
}

#[test]
fn a_question_that_is_refused_breaks_the_queue_and_one_for_the_ring_does_not() {
    let (mut bench, misses) = translated(ALL);
    let memory = bench.rig.memory.clone();
    bench.start(Echo);
    let asked: Vec<Miss> = (0..3).map(|_| misses.recv_timeout(LONG).unwrap()).collect();
    for miss in &asked {
        memory.refuse(miss.iova, miss.access);
    }
    let failed = misses.recv_timeout(LONG).unwrap();
    assert!(failed.failed);
    bench.send();
    bench.kick.signal();
    for _ in 0..3 {
        assert!(asked.contains(&misses.recv_timeout(LONG).unwrap()));
    }
    translate_ring(&bench);
    let miss = misses.recv_timeout(LONG).unwrap();
    // A refusal of less than was asked for means another question.
    memory.refuse(miss.iova, Access::READ);
    memory.refuse(miss.iova + PAGE, miss.access);
    thread::sleep(Duration::from_millis(20));
    assert!(!bench.worker.broken());
    memory.refuse(miss.iova, miss.access);
    assert_eq!(bench.fault().rule, Rule::Translation);
}

#[test]
fn an_invalidation_waits_for_who_uses_the_range() {
    let (hold, allowed, event) = held(true);
    let (mut bench, _misses) = translated(ALL);
    let memory = bench.rig.memory.clone();
    answer(&memory, |iova| page(iova, BOTH));
    bench.start(hold);
    bench.send();
    until("a chain", || bench.worker.counters().chains.get() == 1);
    let buffers = bench.rig.buffers;
    let error = memory
        .invalidate(buffers, PAGE, Duration::from_millis(50))
        .unwrap_err();
    assert!(
        matches!(error, crate::memory::Error::InUse { users: 1 }),
        "{error}"
    );
    // Once more: that it is not known any more does not mean that it is not used any more.
    let error = memory
        .invalidate(buffers, PAGE, Duration::from_millis(50))
        .unwrap_err();
    assert!(
        matches!(error, crate::memory::Error::InUse { users: 1 }),
        "{error}"
    );
    allowed.store(1, Ordering::SeqCst);
    event.signal();
    memory.invalidate(buffers, PAGE, LONG).unwrap();
    assert_eq!(bench.receive(1), [1]);
    assert!(!memory.snapshot().covers(Space::Guest, buffers, 1));
}

#[test]
fn more_translations_come_while_requests_are_under_way() {
    let (hold, allowed, event) = held(true);
    let (mut bench, _misses) = translated(ALL);
    let memory = bench.rig.memory.clone();
    answer(&memory, |iova| page(iova, BOTH));
    bench.start(hold);
    for index in 0..4 {
        let buffer = Buffer {
            address: bench.rig.buffers + index * PAGE,
            len: 16,
        };
        bench.driver.add(&[buffer], &[buffer]).unwrap();
        if bench.driver.publish() {
            bench.kick.signal();
        }
        until("a chain", || bench.worker.counters().chains.get() == index + 1);
    }
    allowed.store(4, Ordering::SeqCst);
    event.signal();
    assert_eq!(bench.receive(4), [1; 4]);
}

/// Ends the other thread also when this one fails.
struct Stop<'a>(&'a AtomicBool);
impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn translations_come_and_go_under_load() {
    for polling in [
        Polling::Off,
        Polling::Adaptive(Duration::from_micros(50)),
        Polling::Busy,
    ] {
        let (mut bench, _misses) = translated(ALL);
        let memory = bench.rig.memory.clone();
        answer(&memory, |iova| page(iova, BOTH));
        bench.worker.set_polling(polling);
        bench.start(Echo);
        let (ring, buffers) = (bench.rig.config.used, bench.rig.buffers);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for address in [buffers, ring, buffers + 8 * PAGE] {
                        memory.invalidate(address, PAGE, LONG).unwrap();
                        // Time for a few requests: who takes everything away all the time gets nothing done.
                        thread::sleep(Duration::from_micros(200));
                    }
                    memory.invalidate(0, 0, LONG).unwrap();
                    thread::sleep(Duration::from_micros(200));
                }
            });
            let _stop = Stop(&stop);
            for _ in 0..300 {
                bench.send();
                bench.receive(1);
            }
        });
        assert!(bench.faults.try_recv().is_err());
    }
}

#[test]
fn a_ring_may_lie_scattered() {
    let size = 1024;
    let rig = Loopback::new(size, ALL, PAGE).unwrap();
    let end = rig.buffers + PAGE - GUEST;
    let memory = Arc::new(GuestMemory::new());
    memory.translate(true, LONG).unwrap();
    // Every page is a region of its own, and none is next to its neighbour.
    for page in 0..end / PAGE {
        let region = RegionRequest {
            guest_address: page * 2 * PAGE,
            user_address: Some(USER + page * 2 * PAGE),
            size: PAGE,
            fd: rig.file.as_fd(),
            offset: page * PAGE,
            writable: true,
        };
        memory.add(&region).unwrap();
    }
    answer(&memory, |iova| Translation {
        user_address: USER + ((iova & !(PAGE - 1)) - GUEST) * 2,
        ..page(iova, BOTH)
    });
    let worker = Worker::new(
        memory.clone(),
        Options::default(),
        Box::new(|fault| panic!("{fault}")),
    )
    .unwrap();
    worker.start(&rig.config, Box::new(Echo)).unwrap();
    let mut driver = SplitDriver::new(&rig.config, rig.memory.snapshot()).unwrap();
    let buffer = Buffer {
        address: rig.buffers,
        len: 16,
    };
    for round in 0..4 {
        for _ in 0..size / 2 {
            driver.add(&[buffer], &[buffer]).unwrap();
        }
        driver.publish();
        worker.notify();
        let mut left = size / 2;
        until("all chains", || {
            left -= driver.reap(64, |used| assert_eq!(used.len, 16)).unwrap() as u32;
            left == 0
        });
        // Found anew, and the same.
        memory.invalidate(rig.config.used, PAGE, LONG).unwrap();
        assert!(!worker.broken(), "round {round}");
    }
}
