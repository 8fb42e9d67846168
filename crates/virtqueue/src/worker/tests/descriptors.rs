//! Kicks and calls: swapped, of the wrong kind, at their end.

use super::*;

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

/// Without a call nobody looks at what the driver asks for; a call that comes later makes up for that.
#[test]
fn a_call_that_comes_late_is_signalled_at_once() {
    let mut bench = Bench::new(ALL);
    bench.worker.set_call(Call::None).unwrap();
    bench.start(Echo);
    assert!(!bench.driver.arm(), "nothing is used, so it would sleep");
    bench.send();
    until("used", || bench.driver.reap(1, |_| {}).unwrap() == 1);
    let counters = bench.worker.counters().clone();
    assert_eq!(
        (counters.interrupts.get(), counters.interrupts_suppressed.get()),
        (0, 0)
    );
    assert_eq!(counters.interrupts_lost.get(), 0);
    let set = |bench: &Bench| {
        let call = CallFd::new(bench.call.as_fd()).unwrap();
        bench.worker.set_call(Call::Fd(call)).unwrap();
    };
    set(&bench);
    until("notified", || counters.interrupts.get() == 1);
    // From now on as ever.
    bench.driver.disarm();
    assert!(!bench.driver.arm());
    bench.send();
    assert_eq!(bench.receive(1), [16]);
    until("counted", || counters.interrupts.get() == 2);
    set(&bench);
    bench.worker.stop(LONG).unwrap();
    assert_eq!(
        counters.interrupts.get(),
        2,
        "nothing was missed, so nothing is made up for"
    );
}
