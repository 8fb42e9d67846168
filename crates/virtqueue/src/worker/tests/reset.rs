//! Reset of a single queue (VIRTIO 1.4, 2.6.1).

use super::*;
use crate::ring::{Config, Driver};

/// 2.6.1.1.1: after a reset no completion is written and no notification sent, whatever the handler
/// still has, and the rest of the device runs on.
#[test]
fn nothing_reaches_the_ring_after_a_reset() {
    for features in [0, feature::RING_PACKED, feature::IN_ORDER] {
        let rig = Loopback::new(64, features, 1 << 16).unwrap();
        let worker = Worker::new(rig.memory.clone(), Options::default(), Box::new(|_| {})).unwrap();
        let call = EventFd::new().unwrap();
        worker
            .set_call(Call::Fd(CallFd::new(call.as_fd()).unwrap()))
            .unwrap();
        let mut driver = Driver::new(&rig.config, rig.memory.snapshot()).unwrap();
        let (handler, allowed, event) = held(false);
        worker.start(&rig.config, Box::new(handler)).unwrap();
        let mut other = Bench::started(ALL, Echo);
        let buffer = Buffer {
            address: rig.buffers,
            len: 16,
        };
        let mut heads: Vec<u16> = (0..5)
            .map(|_| driver.add(&[buffer], &[buffer]).unwrap())
            .collect();
        driver.publish();
        worker.notify();
        until("taken", || worker.counters().chains.get() == 5);
        assert_eq!(worker.reset(LONG), 5);
        assert!(!worker.running() && !worker.broken());
        // The handler's completions come too late.
        allowed.store(5, Ordering::SeqCst);
        event.signal();
        thread::sleep(Duration::from_millis(20));
        assert_eq!(driver.reap(64, |_| {}).unwrap(), 0);
        assert_eq!(call.clear(), 0, "no notification");
        // The driver has all its buffers back at once, also one that it had not shown.
        heads.push(driver.add(&[buffer], &[]).unwrap());
        let mut back = driver.reset().unwrap();
        back.sort_unstable();
        heads.sort_unstable();
        assert_eq!((back, driver.outstanding(), driver.free()), (heads, 0, 64));
        other.send();
        assert_eq!(other.receive(1), [16]);
    }
}

/// Operations on the driver's memory are waited for: it may reuse that memory once the queue is reset.
#[test]
fn a_reset_waits_for_what_is_under_way() {
    let (handler, allowed, event) = held(true);
    let mut bench = Bench::started(ALL, handler);
    bench.send();
    until("taken", || bench.worker.counters().chains.get() == 1);
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(50));
            allowed.store(1, Ordering::SeqCst);
            event.signal();
        });
        bench.worker.reset(LONG);
    });
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert_eq!(
        bench.driver.reap(1, |_| {}).unwrap(),
        0,
        "and yet it is not completed"
    );
    assert_eq!(bench.worker.counters().bytes_written.get(), 0);
}

/// 2.6.1.2: enabled again with another size, and again, in either layout.
#[test]
fn enabled_again_with_another_size() {
    for layout in [0, feature::RING_PACKED] {
        let rig = Loopback::new(256, ALL | layout, 1 << 16).unwrap();
        let worker = Worker::new(rig.memory.clone(), Options::default(), Box::new(|_| {})).unwrap();
        let buffer = Buffer {
            address: rig.buffers,
            len: 16,
        };
        for size in [256, 4, 64, 1, 128] {
            let config = Config { size, ..rig.config };
            let mut driver = Driver::new(&config, rig.memory.snapshot()).unwrap();
            worker.start(&config, Box::new(Echo)).unwrap();
            for round in 0..3 * size {
                driver.add(&[], &[buffer]).unwrap();
                driver.publish();
                worker.notify();
                until("used", || {
                    driver.reap(1, |used| assert_eq!(used.len, 16)).unwrap() == 1
                });
                assert!(round > size || worker.running());
            }
            worker.reset(LONG);
            driver.reset().unwrap();
        }
    }
}

#[test]
fn a_broken_queue_can_be_reset() {
    let mut bench = Bench::started(ALL, Echo);
    let idx = bench.rig.config.available + 2;
    bench
        .rig
        .memory
        .snapshot()
        .write(Space::Guest, idx, &1000u16.to_le_bytes())
        .unwrap();
    bench.kick.signal();
    assert_eq!(bench.fault().rule, Rule::AvailableIndex);
    bench.worker.reset(LONG);
    assert!(!bench.worker.broken());
    bench.driver.reset().unwrap();
    bench.start(Echo);
    bench.send();
    assert_eq!(bench.receive(1), [16]);
}
