//! Several threads on one queue.

use super::*;
use crate::ring::Driver;
use std::sync::Barrier;

/// Takes its time, then completes.
struct Slow(Duration);
impl Handler for Slow {
    fn handle(&mut self, _: &Arc<Snapshot>, batch: &Batch, done: &mut Completions) -> Result<(), Fault> {
        for chain in batch.iter() {
            thread::sleep(self.0);
            let mut number = [0; 4];
            chain.read_at(0, &mut number);
            chain.write_at(0, &number);
            done.push(chain.token, 4);
        }
        Ok(())
    }
}

fn pool(count: usize, make: impl Fn() -> Box<dyn Handler>) -> Pool {
    Pool::new("pool", (0..count).map(|_| make()).collect()).unwrap()
}

/// `count` chains, 32 at a time; each is answered once, with its own number.
fn run(workers: usize, features: u128, count: usize, work: Duration) {
    let rig = Loopback::new(64, features, 1 << 16).unwrap();
    let worker = Worker::new(rig.memory.clone(), Options::default(), Box::new(|_| {})).unwrap();
    let memory = rig.memory.snapshot();
    let mut driver = Driver::new(&rig.config, memory.clone()).unwrap();
    worker
        .start(&rig.config, Box::new(pool(workers, || Box::new(Slow(work)))))
        .unwrap();
    let place = |id: u16| rig.buffers + 16 * u64::from(id);
    let start = Instant::now();
    let (mut sent, mut done) = (0u32, 0);
    while done < count {
        while driver.outstanding() < 32 && (sent as usize) < count {
            let at = place(driver.next_head());
            memory.write(Space::Guest, at, &sent.to_le_bytes()).unwrap();
            memory.write(Space::Guest, at + 4, &[0; 4]).unwrap();
            let (from, into) = (
                Buffer { address: at, len: 4 },
                Buffer {
                    address: at + 4,
                    len: 4,
                },
            );
            driver.add(&[from], &[into]).unwrap();
            sent += 1;
        }
        driver.publish();
        worker.notify();
        let mut heads = Vec::new();
        driver.reap(64, |used| heads.push((used.head, used.len))).unwrap();
        for (head, len) in heads {
            let mut both = [0; 8];
            memory.read(Space::Guest, place(head), &mut both).unwrap();
            assert_eq!((len, &both[..4]), (4, &both[4..]));
            done += 1;
        }
        thread::sleep(Duration::from_micros(50));
        assert!(start.elapsed() < LONG);
    }
    assert!(worker.stop(LONG).unwrap().drained);
}

#[test]
fn each_chain_is_answered_once() {
    for layout in [0, feature::RING_PACKED] {
        for order in [0, feature::IN_ORDER] {
            for workers in [1, 2, 4] {
                run(workers, ALL | layout | order, 200, Duration::from_micros(20));
            }
        }
    }
}

/// Each waits for the others, so that chains come back only if all four are at work at the same time.
#[test]
fn workers_work_at_the_same_time() {
    let barrier = Arc::new(Barrier::new(4));
    let mut bench = Bench::new(ALL);
    bench.start(pool(4, || {
        let barrier = Arc::clone(&barrier);
        Box::new(With(move |batch: &Batch, done: &mut Completions| {
            for chain in batch.iter() {
                barrier.wait();
                done.push(chain.token, 0);
            }
            Ok(())
        }))
    }));
    for _ in 0..24 {
        (0..4).for_each(|_| bench.send());
        assert_eq!(bench.receive(4).len(), 4);
    }
    assert!(bench.worker.stop(LONG).unwrap().drained);
}

#[test]
fn a_pool_stops_waits_and_breaks_like_one() {
    // Held chains come back when the queue is stopped.
    let mut bench = Bench::new(ALL);
    let handlers = (0..2)
        .map(|_| Box::new(held(false).0) as Box<dyn Handler>)
        .collect();
    bench.start(Pool::new("pool", handlers).unwrap());
    (0..4).for_each(|_| bench.send());
    until("taken", || bench.worker.counters().chains.get() == 4);
    let stopped = bench.worker.stop(LONG).unwrap();
    assert_eq!((stopped.base, stopped.lost, stopped.drained), (0, 0, true));
    // Operations under way are waited for.
    bench.start(pool(2, || Box::new(Slow(Duration::from_millis(10)))));
    until("taken", || bench.worker.counters().chains.get() == 8);
    assert!(bench.worker.stop(LONG).unwrap().drained);
    assert_eq!(bench.driver.reap(64, |_| {}).unwrap(), 4);
    // A fault or a panic in one breaks the queue.
    bench.rig.config.base = 4;
    bench.start(pool(2, || {
        Box::new(With(|_: &Batch, _: &mut Completions| {
            Err(Fault::new(Rule::Request, "no"))
        }))
    }));
    bench.send();
    assert_eq!(bench.fault().rule, Rule::Request);
}

#[test]
fn a_pool_gives_up_at_a_reset() {
    struct Endless(usize);
    impl Handler for Endless {
        fn handle(&mut self, _: &Arc<Snapshot>, batch: &Batch, _: &mut Completions) -> Result<(), Fault> {
            self.0 += batch.len();
            Ok(())
        }
        fn busy(&self) -> usize {
            self.0
        }
        fn cancel(&mut self) {
            self.0 = 0;
        }
    }
    let mut bench = Bench::new(ALL);
    bench.start(pool(3, || Box::new(Endless(0))));
    (0..8).for_each(|_| bench.send());
    until("taken", || bench.worker.counters().chains.get() == 8);
    let start = Instant::now();
    assert_eq!(bench.worker.reset(LONG), 8);
    assert!(start.elapsed() < LONG, "it does not wait for what never ends");
    assert_eq!(bench.driver.reset().unwrap().len(), 8);
}
