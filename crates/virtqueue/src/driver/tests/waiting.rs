//! Requests and their answers.

use super::*;

#[test]
fn answers_find_their_requests_in_any_order() {
    for features in LAYOUTS {
        let (queue, mut device, kick, at) = pair(features);
        let tickets: Vec<Ticket> = (0..4)
            .map(|n| queue.submit(&[], &[buffer(at + n * 64, 64)], false).unwrap())
            .collect();
        assert_eq!(queue.outstanding(), 4);
        assert!(kick.clear() > 0, "the device waits to be notified");
        let mut held = device.take();
        assert_eq!(held.len(), 4);
        if features & feature::IN_ORDER == 0 {
            held.reverse();
        }
        assert_eq!(queue.try_take(tickets[0]).unwrap(), None);
        for chain in &held {
            let number = (chain.writable[0].0 - at) / 64;
            device.complete(chain, 10 + number as u32);
        }
        for (number, ticket) in tickets.iter().enumerate() {
            let done = queue.wait(*ticket, Limit::within(LONG)).unwrap();
            assert_eq!(done.len, 10 + number as u32, "{features:#x}");
            assert!(
                matches!(queue.try_take(*ticket), Err(Error::NoSuchRequest)),
                "once"
            );
        }
        assert_eq!(queue.outstanding(), 0);
        let counters = queue.counters();
        assert_eq!((counters.requests, counters.completions), (4, 4));
    }
}

#[test]
fn a_full_queue_says_so_and_makes_room() {
    for features in LAYOUTS {
        let (queue, mut device, _kick, at) = pair(features);
        let one = [buffer(at, 64)];
        for _ in 0..SIZE {
            queue.submit(&one, &[], true).unwrap();
        }
        assert!(matches!(queue.submit(&one, &[], true), Err(Error::Full)));
        let long = Limit::within(Duration::from_millis(1));
        assert!(matches!(queue.wait_for_room(1, long), Err(Error::TimedOut)));
        assert!(matches!(
            queue.wait_for_room(SIZE as usize + 1, long),
            Err(Error::TooLarge)
        ));
        let held = device.take();
        device.complete(&held[0], 0);
        queue.wait_for_room(1, Limit::within(LONG)).unwrap();
        queue.submit(&one, &[], true).unwrap();
    }
}

#[test]
fn what_timed_out_stays_out_until_it_is_answered() {
    for features in LAYOUTS {
        let (queue, mut device, _kick, at) = pair(features);
        let ticket = queue.submit(&[], &[buffer(at, 64)], false).unwrap();
        let soon = || Limit::within(Duration::from_millis(2));
        assert!(matches!(queue.wait(ticket, soon()), Err(Error::TimedOut)));
        assert!(
            matches!(queue.wait(ticket, soon()), Err(Error::TimedOut)),
            "again"
        );
        assert!(!queue.abandon(ticket).unwrap(), "the device has its buffer");
        assert!(matches!(queue.wait(ticket, soon()), Err(Error::NoSuchRequest)));
        let mut returned = Vec::new();
        assert_eq!(queue.returned(|ticket| returned.push(ticket)), 1);
        // The queue goes on, and no new request is taken for the old one.
        let other = queue.submit(&[], &[buffer(at + 64, 64)], false).unwrap();
        for held in device.take() {
            device.complete(&held, 1);
        }
        assert_eq!(queue.wait(other, Limit::within(LONG)).unwrap().len, 1);
        assert_eq!(queue.returned(|ticket| returned.push(ticket)), 0);
        assert_eq!(returned, [ticket]);
        assert!(matches!(queue.abandon(ticket), Err(Error::NoSuchRequest)));
    }
}

#[test]
fn watched_requests_are_collected_and_announced() {
    for features in LAYOUTS {
        let (queue, mut device, _kick, at) = pair(features);
        let watched = queue.submit(&[], &[buffer(at, 64)], true).unwrap();
        let waited = queue.submit(&[], &[buffer(at + 64, 64)], false).unwrap();
        let held = device.take();
        device.call.clear();
        device.complete(&held[0], 1);
        assert_eq!(device.call.clear(), 1, "a loop sleeps on the call: {features:#x}");
        device.complete(&held[1], 2);
        // A thread finds both; the loop hears of its own.
        assert_eq!(queue.wait(waited, Limit::within(LONG)).unwrap().len, 2);
        let (_, watch) = queue.descriptors();
        assert!(readable(watch), "{features:#x}");
        let mut found = Vec::new();
        queue
            .collect(|ticket, done| found.push((ticket, done.len)))
            .unwrap();
        assert_eq!(found, [(watched, 1)]);
        assert!(!readable(watch));
    }
}

fn readable(fd: std::os::fd::RawFd) -> bool {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one structure, as said.
    unsafe { libc::poll(&mut poll, 1, 0) == 1 }
}

#[test]
fn an_answer_that_breaks_a_rule_ends_the_queue() {
    for features in LAYOUTS {
        let (queue, mut device, _kick, at) = pair(features);
        let ticket = queue.submit(&[], &[buffer(at, 64)], false).unwrap();
        let held = device.take();
        device.complete(&held[0], 65);
        let Err(Error::Fault(fault)) = queue.wait(ticket, Limit::within(LONG)) else {
            panic!("more than there was room for: {features:#x}");
        };
        let rule = if features & feature::RING_PACKED != 0 {
            Rule::PackedUsedLength
        } else {
            Rule::UsedLength
        };
        assert_eq!(fault.rule, rule);
        assert!(matches!(
            queue.submit(&[], &[buffer(at, 64)], false),
            Err(Error::Fault(_))
        ));
    }
}

#[test]
fn whoever_waits_hears_of_the_end() {
    for polling in [0, 1000] {
        let (queue, _device, _kick, at) = pair(feature::EVENT_IDX);
        queue.set_polling(Duration::from_micros(polling));
        let tickets: Vec<Ticket> = (0..3)
            .map(|_| queue.submit(&[], &[buffer(at, 64)], false).unwrap())
            .collect();
        std::thread::scope(|scope| {
            let threads: Vec<_> = tickets
                .iter()
                .map(|ticket| scope.spawn(|| queue.wait(*ticket, Limit::within(LONG))))
                .collect();
            std::thread::sleep(Duration::from_millis(20));
            queue.fail(Error::Gone(String::from("unplugged")));
            for thread in threads {
                assert!(matches!(thread.join().unwrap(), Err(Error::Gone(text)) if text == "unplugged"));
            }
        });
    }
}

#[test]
fn a_thread_gives_up_when_its_caller_says_so() {
    let (queue, _device, _kick, at) = pair(feature::EVENT_IDX);
    let ticket = queue.submit(&[], &[buffer(at, 64)], false).unwrap();
    let start = Instant::now();
    let limit = Limit {
        deadline: None,
        give_up: Some(&|| true),
    };
    assert!(matches!(queue.wait(ticket, limit), Err(Error::Interrupted)));
    assert!(start.elapsed() < LONG);
}

#[test]
fn many_threads_share_a_queue() {
    const EACH: u64 = 300;
    for features in LAYOUTS {
        for polling in [0, 20] {
            let (queue, mut device, kick, at) = pair(features);
            queue.set_polling(Duration::from_micros(polling));
            let stop = std::sync::atomic::AtomicBool::new(false);
            std::thread::scope(|scope| {
                let (stop, kick) = (&stop, &kick);
                scope.spawn(move || {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        kick.clear();
                        // The driver is asked for kicks, but not relied upon.
                        for held in device.take() {
                            let number = (held.writable[0].0 - at) as u32;
                            device.complete(&held, number);
                        }
                        std::thread::yield_now();
                    }
                });
                let threads: Vec<_> = (0..4)
                    .map(|thread| {
                        let queue = &queue;
                        scope.spawn(move || {
                            for round in 0..EACH {
                                let number = (thread * EACH + round) % 1000;
                                let ticket = loop {
                                    match queue.submit(&[], &[buffer(at + number, 2000)], false) {
                                        Err(Error::Full) => {
                                            queue.wait_for_room(1, Limit::within(LONG)).unwrap();
                                        }
                                        ticket => break ticket.unwrap(),
                                    }
                                };
                                let done = queue.wait(ticket, Limit::within(LONG)).unwrap();
                                assert_eq!(u64::from(done.len), number);
                            }
                        })
                    })
                    .collect();
                let failed = threads
                    .into_iter()
                    .filter_map(|thread| thread.join().err())
                    .count();
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
                assert_eq!(failed, 0);
            });
            assert_eq!(queue.counters().completions, 4 * EACH);
        }
    }
}

/// While it is held, a queue shows the device nothing and does not notify it.
#[test]
fn a_queue_that_is_held_makes_nothing_available() {
    for features in LAYOUTS {
        let (queue, mut device, kick, at) = pair(features);
        let early = queue.submit(&[], &[buffer(at, 64)], false).unwrap();
        assert!(kick.clear() > 0);
        let held = device.take();
        queue.hold(true);
        device.complete(&held[0], 1);
        assert_eq!(queue.wait(early, Limit::within(LONG)).unwrap().len, 1);
        let late = queue.submit(&[], &[buffer(at, 64)], false).unwrap();
        assert_eq!(kick.clear(), 0);
        assert!(device.take().is_empty());
        queue.hold(false);
        if features & feature::EVENT_IDX == 0 {
            assert!(kick.clear() > 0);
        }
        let held = device.take();
        device.complete(&held[0], 7);
        assert_eq!(queue.wait(late, Limit::within(LONG)).unwrap().len, 7);
    }
}

/// A kick by a function carries where the next buffer will be.
#[test]
fn a_kick_by_a_function_says_how_much_there_is() {
    for (features, next) in [(0, 1), (feature::RING_PACKED, 1 | 1 << 15)] {
        let rig = Loopback::new(SIZE, features, 1 << 16).unwrap();
        let (mut settings, _device, _kick) = ends(&rig, None);
        let words = Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen = words.clone();
        settings.identifier = 5;
        settings.kick = Doorbell::Function(Arc::new(move |word| seen.lock().unwrap().push(word)));
        let queue = Queue::new(settings).unwrap();
        queue.submit(&[], &[buffer(rig.buffers, 64)], false).unwrap();
        assert_eq!(*words.lock().unwrap(), [5 | next << 16]);
    }
}
