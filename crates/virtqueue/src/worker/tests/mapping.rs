//! Memory that comes and goes under a running queue.

use super::*;
use crate::loopback::memory_file;
use crate::ring::inflight::Area;

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
fn truncated_in_flight_memory_breaks_the_queue() {
    let mut bench = Bench::new(ALL);
    let file = memory_file(1 << 14).unwrap();
    let entries = bench.rig.config.size as u16;
    let area = Area::new(file.as_fd(), 0, 1 << 14, entries).unwrap();
    bench.worker.set_inflight(Some(area));
    bench.start(Echo);
    bench.send();
    bench.receive(1);
    std::fs::File::from(file).set_len(0).unwrap();
    bench.send();
    let fault = bench.fault();
    assert_eq!(fault.rule, Rule::Address);
    assert!(fault.detail.contains("in-flight"), "{fault}");
}
