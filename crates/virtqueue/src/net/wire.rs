//! A wire that does to frames what bad networks do.

use super::frames::Frames;
use super::header::Offload;
use super::port::lock;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Bytes under way on a wire; more are lost.
const MOST_BYTES: usize = 64 << 20;

/// What happens to frames. Probabilities are from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WireOptions {
    /// That a frame gets lost.
    pub loss: f64,
    /// That it arrives twice.
    pub duplication: f64,
    /// That it is overtaken by those of the next millisecond.
    pub reordering: f64,
    /// How long each takes.
    pub delay: Duration,
    /// At most so much longer.
    pub jitter: Duration,
    /// Bits per second; 0: no limit.
    pub rate: u64,
    /// Where chance begins.
    pub seed: u64,
}

const OVERTAKEN: Duration = Duration::from_millis(1);

/// A frame under way: when it arrives, its number, and what it is.
type Moving = Reverse<(Instant, u64, Vec<u8>, [u8; 10])>;

struct State {
    moving: BinaryHeap<Moving>,
    bytes: usize,
    number: u64,
    free: Instant,
    random: u64,
    ended: bool,
}

struct Shared {
    options: WireOptions,
    state: Mutex<State>,
    changed: Condvar,
}

/// One direction of a wire.
pub struct Wire {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// A wire whose frames arrive at `arrive`, on a thread of its own.
    pub fn new(
        options: WireOptions,
        mut arrive: impl FnMut(&mut Frames) + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        let shared = Arc::new(Shared {
            options,
            state: Mutex::new(State {
                moving: BinaryHeap::new(),
                bytes: 0,
                number: 0,
                free: Instant::now(),
                random: options.seed ^ 0x9e37_79b9_7f4a_7c15,
                ended: false,
            }),
            changed: Condvar::new(),
        });
        let own = shared.clone();
        let thread = thread::Builder::new().name("wire".into()).spawn(move || {
            let mut frames = Frames::default();
            while own.next(&mut frames) {
                arrive(&mut frames);
                frames.clear();
            }
        })?;
        Ok(Arc::new(Self {
            shared,
            thread: Some(thread),
        }))
    }

    /// Sends frames on their way.
    pub fn carry(&self, frames: &Frames) {
        let options = &self.shared.options;
        let mut state = lock(&self.shared.state);
        let now = Instant::now();
        for frame in frames.list() {
            let bytes = frames.get(frame);
            if state.chance(options.loss) || state.bytes + bytes.len() > MOST_BYTES {
                continue;
            }
            let copies = 1 + usize::from(state.chance(options.duplication));
            for _ in 0..copies {
                let due = state.due(options, now, bytes.len());
                state.number += 1;
                state.bytes += bytes.len();
                let entry = (due, state.number, bytes.to_vec(), frame.offload.bytes());
                state.moving.push(Reverse(entry));
            }
        }
        drop(state);
        self.shared.changed.notify_one();
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        lock(&self.shared.state).ended = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // The last to let go may be the thread itself.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl State {
    /// A number by lot (xorshift64*).
    fn random(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && ((self.random() >> 11) as f64) < probability * (1u64 << 53) as f64
    }

    fn due(&mut self, options: &WireOptions, now: Instant, size: usize) -> Instant {
        let mut due = now;
        let bits = size as u64 * 8;
        if let Some(time) = bits.saturating_mul(1_000_000_000).checked_div(options.rate) {
            self.free = self.free.max(now) + Duration::from_nanos(time);
            due = self.free;
        }
        due += options.delay;
        let jitter = options.jitter.as_nanos() as u64;
        if jitter > 0 {
            due += Duration::from_nanos(self.random() % jitter);
        }
        if self.chance(options.reordering) {
            due += OVERTAKEN;
        }
        due
    }
}

impl Shared {
    /// Waits for the next frames to arrive. False: the wire is gone.
    fn next(&self, frames: &mut Frames) -> bool {
        let mut state = lock(&self.state);
        loop {
            if state.ended {
                return false;
            }
            let now = Instant::now();
            while let Some(Reverse((due, _, _, _))) = state.moving.peek() {
                if *due > now || frames.bytes() > 1 << 20 {
                    break;
                }
                if let Some(Reverse((_, _, bytes, offload))) = state.moving.pop() {
                    state.bytes -= bytes.len();
                    frames.push(&bytes, Offload::parse(&offload));
                }
            }
            if !frames.is_empty() {
                return true;
            }
            let next = state.moving.peek().map(|Reverse((due, _, _, _))| *due);
            state = match next {
                Some(due) => {
                    let wait = self
                        .changed
                        .wait_timeout(state, due.saturating_duration_since(now));
                    wait.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}
