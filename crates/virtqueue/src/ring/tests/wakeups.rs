//! The steps of `wakeup` under every interleaving, and with every value that the memory model lets a
//! load see (loom): no wake-up is lost, and what is announced is there.
//!
//! One end publishes twice. The other takes what it sees, asks to be woken, looks again, and sleeps if
//! there is nothing. If it sleeps before it has seen everything, it must have been woken. The same with
//! a fence or the second look left out must fail, else these tests would prove nothing.

use crate::ring::barriers::Fences;
use crate::ring::packed_layout::{EVENT_DISABLE, Head, Position};
use crate::ring::split_layout::{NO_INTERRUPT, NO_NOTIFY};
use crate::ring::wakeup::{self, PackedWords, SplitWords};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU16, AtomicU64, fence};
use loom::thread;
use std::sync::atomic::Ordering::{self, Relaxed, SeqCst};

/// What is left out.
#[derive(Clone, Copy, Debug, Default)]
struct Omit {
    /// The fence of the end that publishes.
    publisher: bool,
    /// The fence of the end that goes to sleep.
    sleeper: bool,
    /// The look after asking to be woken.
    look: bool,
}

struct Full(bool);

impl Fences for Full {
    // Acquire loads and release stores are all that these need between processors.
    fn read(&self) {}
    fn write(&self) {}
    fn full(&self) {
        if self.0 {
            fence(SeqCst);
        }
    }
}

/// Things published: the first is number 1, so that 0 is what must never be seen.
const COUNT: u16 = 2;
/// Where both ends are at the start.
const START: u16 = 1;

#[derive(Default)]
struct Split {
    available_idx: AtomicU16,
    used_idx: AtomicU16,
    available_flags: AtomicU16,
    used_flags: AtomicU16,
    avail_event: AtomicU16,
    used_event: AtomicU16,
    data: [AtomicU16; COUNT as usize],
}

impl SplitWords for Split {
    fn available_idx(&self, order: Ordering) -> u16 {
        self.available_idx.load(order)
    }
    fn set_available_idx(&self, index: u16, order: Ordering) {
        self.available_idx.store(index, order);
    }
    fn used_idx(&self, order: Ordering) -> u16 {
        self.used_idx.load(order)
    }
    fn set_used_idx(&self, index: u16, order: Ordering) {
        self.used_idx.store(index, order);
    }
    fn available_flags(&self) -> u16 {
        self.available_flags.load(Relaxed)
    }
    fn set_available_flags(&self, flags: u16) {
        self.available_flags.store(flags, Relaxed);
    }
    fn used_flags(&self) -> u16 {
        self.used_flags.load(Relaxed)
    }
    fn set_used_flags(&self, flags: u16) {
        self.used_flags.store(flags, Relaxed);
    }
    fn avail_event(&self) -> u16 {
        self.avail_event.load(Relaxed)
    }
    fn set_avail_event(&self, index: u16) {
        self.avail_event.store(index, Relaxed);
    }
    fn used_event(&self) -> u16 {
        self.used_event.load(Relaxed)
    }
    fn set_used_event(&self, index: u16) {
        self.used_event.store(index, Relaxed);
    }
}

/// Runs both ends: `publish` the `i`th thing, true if the other end is woken; `sleep` until woken,
/// true if something is there already; `seen` is how many of them there are to see.
fn both<S: Send + Sync + 'static>(
    shared: fn() -> S,
    publish: impl Fn(&S, u16) -> bool + Copy + Send + Sync + 'static,
    seen: impl Fn(&S, u16) -> u16 + Copy + Send + Sync + 'static,
    sleep: impl Fn(&S, u16) -> bool + Copy + Send + Sync + 'static,
    look: bool,
) {
    loom::model(move || {
        let shared = Arc::new(shared());
        let other = shared.clone();
        let publisher = thread::spawn(move || [0, 1].map(|i| publish(&other, i)));
        let mut next = 0;
        loop {
            next = seen(&shared, next);
            if !sleep(&shared, next) || !look {
                break;
            }
        }
        let woken = publisher.join().unwrap();
        let missed = usize::from(next);
        assert!(
            missed == woken.len() || woken[missed..].contains(&true),
            "a wake-up is lost"
        );
    });
}

fn split(to_device: bool, event_idx: bool, omit: Omit) {
    let shared = || {
        let split = Split::default();
        split.available_idx.store(START, Relaxed);
        split.used_idx.store(START, Relaxed);
        // Nobody wants to be woken: by the flags, and by events that were passed just now.
        split.available_flags.store(NO_INTERRUPT, Relaxed);
        split.used_flags.store(NO_NOTIFY, Relaxed);
        split
    };
    let publish = move |split: &Split, i: u16| {
        let moved = (START + i, START + i + 1);
        split.data[usize::from(i)].store(i + 1, Relaxed);
        let fences = Full(!omit.publisher);
        if to_device {
            wakeup::show_available(split, &fences, moved.1);
            wakeup::kick_wanted(split, &fences, moved, event_idx)
        } else {
            wakeup::show_used(split, &fences, moved.1);
            wakeup::call_wanted(split, &fences, moved, event_idx)
        }
    };
    let seen = move |split: &Split, next: u16| {
        let index = if to_device {
            wakeup::look_at_available(split, &Full(true))
        } else {
            wakeup::look_at_used(split, &Full(true))
        };
        for i in next..index - START {
            assert_eq!(
                split.data[usize::from(i)].load(Relaxed),
                i + 1,
                "announced, but not there"
            );
        }
        index - START
    };
    let sleep = move |split: &Split, next: u16| {
        let fences = Full(!omit.sleeper);
        if to_device {
            wakeup::await_available(split, &fences, START + next, event_idx, false)
        } else {
            wakeup::await_used(split, &fences, START + next, event_idx)
        }
    };
    both(shared, publish, seen, sleep, !omit.look);
}

const SIZE: u32 = 2;

struct Packed {
    heads: [AtomicU64; SIZE as usize],
    /// Descriptor and flags, of the end that sleeps and of the one that publishes.
    events: [[AtomicU16; 2]; 2],
    data: [AtomicU16; COUNT as usize],
}

/// The ring as one of the ends sees it: 0 sleeps, 1 publishes.
struct View<'a>(&'a Packed, usize);

impl PackedWords for View<'_> {
    fn head(&self, offset: u16, order: Ordering) -> Head {
        Head::from_word(self.0.heads[usize::from(offset)].load(order))
    }
    fn set_head(&self, offset: u16, head: Head, order: Ordering) {
        self.0.heads[usize::from(offset)].store(head.word(), order);
    }
    fn set_own_descriptor(&self, word: u16, order: Ordering) {
        self.0.events[self.1][0].store(word, order);
    }
    fn set_own_flags(&self, flags: u16, order: Ordering) {
        self.0.events[self.1][1].store(flags, order);
    }
    fn other_descriptor(&self, order: Ordering) -> u16 {
        self.0.events[1 - self.1][0].load(order)
    }
    fn other_flags(&self, order: Ordering) -> u16 {
        self.0.events[1 - self.1][1].load(order)
    }
}

/// The ends are at the second of two descriptors, so that the second thing lies in the next lap.
fn place(i: u16) -> Position {
    Position::from_word(0x8001).after(i, SIZE)
}

fn packed(to_device: bool, event_idx: bool, omit: Omit) {
    let shared = || Packed {
        heads: Default::default(),
        events: std::array::from_fn(|_| [AtomicU16::new(0x8000), AtomicU16::new(EVENT_DISABLE)]),
        data: Default::default(),
    };
    let publish = move |packed: &Packed, i: u16| {
        packed.data[usize::from(i)].store(i + 1, Relaxed);
        let at = place(i);
        let flags = if to_device { at.available() } else { at.used() };
        // In the second lap a used descriptor has neither flag, as one that was never used.
        let head = Head {
            len: 0,
            id: i + 1,
            flags,
        };
        let (view, fences) = (View(packed, 1), Full(!omit.publisher));
        wakeup::show_head(&view, &fences, at.offset, head);
        wakeup::head_wanted(&view, &fences, (place(i + 1), 1), SIZE, event_idx)
    };
    let is_there = move |head: Head, at: Position| {
        if to_device {
            head.available_at(at)
        } else {
            head.used_at(at) && head.id != 0
        }
    };
    let seen = move |packed: &Packed, next: u16| {
        let mut next = next;
        while next < COUNT {
            let at = place(next);
            let head = wakeup::look_at_head(&View(packed, 0), &Full(true), at.offset);
            if !is_there(head, at) {
                break;
            }
            assert_eq!(
                packed.data[usize::from(next)].load(Relaxed),
                next + 1,
                "announced, but not there"
            );
            next += 1;
        }
        next
    };
    let sleep = move |packed: &Packed, next: u16| {
        let fences = Full(!omit.sleeper);
        let at = place(next);
        is_there(
            wakeup::await_head(&View(packed, 0), &fences, at, event_idx, false),
            at,
        )
    };
    both(shared, publish, seen, sleep, !omit.look);
}

const LAYOUTS: [fn(bool, bool, Omit); 2] = [split, packed];

#[test]
fn no_wakeup_is_lost() {
    for layout in LAYOUTS {
        for to_device in [false, true] {
            for event_idx in [false, true] {
                layout(to_device, event_idx, Omit::default());
            }
        }
    }
}

#[test]
fn each_step_is_needed() {
    let omissions = [
        Omit {
            publisher: true,
            ..Omit::default()
        },
        Omit {
            sleeper: true,
            ..Omit::default()
        },
        Omit {
            look: true,
            ..Omit::default()
        },
    ];
    // What fails as it should is not worth its lines; other tests' failures are.
    let here = std::thread::current().id();
    let hook = std::sync::Arc::new(std::panic::take_hook());
    let others = hook.clone();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().id() != here {
            others(info);
        }
    }));
    let mut survived = Vec::new();
    for (layout, name) in LAYOUTS.iter().zip(["split", "packed"]) {
        for to_device in [false, true] {
            for event_idx in [false, true] {
                for omit in omissions {
                    let run = || layout(to_device, event_idx, omit);
                    if std::panic::catch_unwind(run).is_ok() {
                        survived.push((name, to_device, event_idx, omit));
                    }
                }
            }
        }
    }
    std::panic::set_hook(Box::new(move |info| hook(info)));
    assert!(survived.is_empty(), "without this nothing is lost: {survived:?}");
}
