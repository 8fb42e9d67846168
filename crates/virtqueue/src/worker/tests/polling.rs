//! The same device under each way of finding work.

use super::*;

fn exchange(bench: &mut Bench, count: usize, kicked: bool) {
    for _ in 0..count {
        bench.add();
        if bench.driver.publish() && kicked {
            bench.kick.signal();
        }
        until("used", || bench.driver.reap(1, |_| {}).unwrap() == 1);
    }
}

#[test]
fn each_mode_serves() {
    for features in [ALL, 0] {
        let mut bench = Bench::started(features, Echo);
        exchange(&mut bench, 20, true);
        // Busy: nobody has to kick. Changed while it runs, in both directions.
        bench.worker.set_polling(Polling::Busy);
        let polls = bench.worker.counters().polls.get();
        until("polling", || bench.worker.counters().polls.get() > polls);
        exchange(&mut bench, 20, false);
        for _ in 0..3 {
            let polls = bench.worker.counters().polls.get();
            until("never tired", || bench.worker.counters().polls.get() > polls);
        }
        bench
            .worker
            .set_polling(Polling::Adaptive(Duration::from_millis(1)));
        exchange(&mut bench, 20, true);
        bench.worker.set_polling(Polling::Off);
        exchange(&mut bench, 20, true);
        until("off is off", || {
            let polls = bench.worker.counters().polls.get();
            thread::sleep(Duration::from_millis(10));
            bench.worker.counters().polls.get() == polls
        });
        assert!(bench.worker.stop(LONG).unwrap().drained);
    }
}

#[test]
fn a_busy_queue_notices_what_changes() {
    let mut bench = Bench::started(ALL, Echo);
    bench.worker.set_polling(Polling::Busy);
    exchange(&mut bench, 5, false);
    // Unmapping waits for the worker to let go.
    bench
        .rig
        .memory
        .remove(GUEST, bench.rig.buffers + bench.rig.buffers_size - GUEST, LONG)
        .unwrap();
    assert!(bench.worker.stop(LONG).unwrap().drained);
}

/// VIRTIO_F_NOTIFICATION_DATA: kicks that say how much there is, true ones and others.
#[test]
fn kicks_with_data() {
    let mut bench = Bench::started(ALL, Echo);
    for round in 0..200u16 {
        bench.add();
        bench.driver.publish();
        let next = bench.driver.notification(0).next;
        // Old news and nonsense on the way; the truth comes last.
        bench.worker.notify_at(next.wrapping_sub(round % 3));
        bench.worker.notify_at(next.wrapping_add(1000));
        bench.worker.notify_at(next);
        until("used", || bench.driver.reap(1, |_| {}).unwrap() == 1);
    }
    assert!(bench.worker.running());
}
