//! A back end that is files: what the driver sends is written to one, what it receives is read from another.

use super::descriptor::wait;
use super::frames::Frames;
use super::header::{ETHERNET, Offload};
use super::pcap::{Format, PcapError, PcapReader, PcapWriter, now};
use super::port::{Backend, Port, lock};
use crate::notify::EventFd;
use std::fs::File;
use std::io::{BufReader, Seek};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Frames delivered at once.
const BURST: usize = 64;
/// With so many waiting for a receive queue, no more are read.
const ENOUGH: usize = 256;
/// How long after a stop for lack of buffers the queues are looked at again, if nothing wakes us before.
const PAUSE: Duration = Duration::from_millis(20);

/// How a file is played.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Play {
    /// Frames come as far apart as the file says, and are dropped if there are no buffers; else as fast as the
    /// driver takes them.
    pub timed: bool,
    /// After the last comes the first.
    pub again: bool,
}

struct Player {
    port: Mutex<Weak<Port>>,
    play: Play,
    stop: EventFd,
    /// A receive queue has buffers and nothing to put there.
    asked: EventFd,
    /// The player waits to be asked.
    waiting: AtomicBool,
    done: AtomicBool,
}

/// Frames from a file, frames to a file.
pub struct Recording {
    to: Option<Mutex<PcapWriter<File>>>,
    player: Option<Arc<Player>>,
    thread: Option<JoinHandle<()>>,
    failed: Arc<Mutex<Option<String>>>,
}

impl Recording {
    /// `to`: what the driver sends is written there. `from`: what it receives is read from there, from the first
    /// time on that it has receive buffers.
    pub fn new(to: Option<(File, Format)>, from: Option<(File, Play)>) -> Result<Self, PcapError> {
        let to = to
            .map(|(file, format)| PcapWriter::new(file, format))
            .transpose()?;
        let failed = Arc::new(Mutex::new(None));
        let (mut player, mut thread) = (None, None);
        if let Some((file, play)) = from {
            let reader = PcapReader::new(BufReader::new(file))?;
            let own = Arc::new(Player {
                port: Mutex::default(),
                play,
                stop: EventFd::new()?,
                asked: EventFd::new()?,
                waiting: AtomicBool::new(true),
                done: AtomicBool::new(false),
            });
            let (plays, fails) = (own.clone(), failed.clone());
            thread = Some(thread::Builder::new().name("net player".into()).spawn(move || {
                if let Err(error) = plays.run(reader) {
                    *lock(&fails) = Some(error.to_string());
                }
                plays.done.store(true, Ordering::Release);
            })?);
            player = Some(own);
        }
        Ok(Self {
            to: to.map(Mutex::new),
            player,
            thread,
            failed,
        })
    }

    /// Whether all frames were played, or there are none to be played.
    pub fn done(&self) -> bool {
        self.player
            .as_ref()
            .is_none_or(|player| player.done.load(Ordering::Acquire))
    }

    /// Why a file is no longer read or written.
    pub fn failed(&self) -> Option<String> {
        lock(&self.failed).clone()
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if let Some(player) = &self.player {
            player.stop.signal();
        }
        if let Some(thread) = self.thread.take() {
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl Backend for Recording {
    fn accepts(&self) -> u128 {
        0
    }

    fn transmit(&self, _: usize, frames: &mut Frames) {
        let Some(to) = &self.to else { return };
        if lock(&self.failed).is_some() {
            return;
        }
        let time = now();
        let mut to = lock(to);
        frames
            .list()
            .iter()
            .for_each(|frame| to.add(time, frames.get(frame)));
        if let Err(error) = to.flush() {
            *lock(&self.failed) = Some(error.to_string());
        }
    }

    fn pull(&self, _: usize, _: usize, _: &mut Frames) {
        if let Some(player) = &self.player {
            if player.waiting.load(Ordering::Relaxed) && player.waiting.swap(false, Ordering::AcqRel) {
                player.asked.signal();
            }
        }
    }

    fn attach(&self, port: Weak<Port>) {
        if let Some(player) = &self.player {
            *lock(&player.port) = port;
        }
    }
}

impl Player {
    fn run(&self, mut reader: PcapReader<BufReader<File>>) -> Result<(), PcapError> {
        // Nothing is lost because there is no driver yet.
        if !self.pause(None) {
            return Ok(());
        }
        loop {
            let any = self.play(&mut reader)?;
            // A file without frames would be played for ever at once.
            if !(self.play.again && any) || self.stopped() {
                return Ok(());
            }
            let mut from = reader.into_inner();
            from.rewind()?;
            reader = PcapReader::new(from)?;
        }
    }

    /// Plays the file once; says whether there was a frame in it.
    fn play(&self, reader: &mut PcapReader<BufReader<File>>) -> Result<bool, PcapError> {
        let (mut frame, mut frames) = (Vec::new(), Frames::default());
        let begun = Instant::now();
        let mut first = None;
        while let Some(time) = reader.next(&mut frame)? {
            if frame.len() < ETHERNET {
                first.get_or_insert(time);
                continue;
            }
            if self.play.timed {
                let due = time.saturating_sub(*first.get_or_insert(time));
                if due > begun.elapsed() {
                    self.deliver(&mut frames);
                }
                if !self.sleep(begun, due) {
                    return Ok(true);
                }
            }
            first.get_or_insert(time);
            frames.push(&frame, Offload::default());
            if frames.len() >= BURST {
                self.deliver(&mut frames);
                while !self.play.timed && self.crowded() {
                    if !self.pause(Some(PAUSE)) {
                        return Ok(true);
                    }
                }
                if self.stopped() {
                    return Ok(true);
                }
            }
        }
        self.deliver(&mut frames);
        Ok(first.is_some())
    }

    fn deliver(&self, frames: &mut Frames) {
        let port = lock(&self.port).upgrade();
        if let (Some(port), false) = (port, frames.is_empty()) {
            port.deliver(frames);
        }
        frames.clear();
    }

    /// Whether there are enough frames before a queue.
    fn crowded(&self) -> bool {
        let port = lock(&self.port).upgrade();
        port.is_some_and(|port| port.waiting() >= ENOUGH)
    }

    /// Waits to be asked. False when it is to end.
    fn pause(&self, timeout: Option<Duration>) -> bool {
        self.waiting.store(true, Ordering::Release);
        if wait(
            self.asked.as_raw_fd(),
            libc::POLLIN,
            self.stop.as_raw_fd(),
            timeout,
        ) {
            self.asked.clear();
        }
        !self.stopped()
    }

    /// Waits for a moment. False when it is to end.
    fn sleep(&self, begun: Instant, due: Duration) -> bool {
        loop {
            let left = due.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return !self.stopped();
            }
            // Rounded up, so that the last part of a millisecond is not spent asking for the time.
            if comes(
                &self.stop,
                left.min(Duration::from_secs(3600)) + Duration::from_micros(999),
            ) {
                return false;
            }
        }
    }

    fn stopped(&self) -> bool {
        comes(&self.stop, Duration::ZERO)
    }
}

/// Whether an event comes within some time.
fn comes(event: &EventFd, timeout: Duration) -> bool {
    let mut entry = libc::pollfd {
        fd: event.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid entry.
    unsafe { libc::poll(&mut entry, 1, timeout.as_millis() as i32) > 0 }
}
