//! Completions that come late, stops, faults.

use super::*;

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
    assert!(start.elapsed() < LONG);
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
