//! Back ends behind a file descriptor: Unix sockets, TAP devices, packet sockets.

use super::frames::Frames;
use super::header::{ETHERNET, MAX_FRAME, Offload, check};
use super::port::{Backend, Port, lock};
use super::simple::{HOST_OFFLOADS, HOST_TUNNELS};
use crate::notify::EventFd;
use crate::spec::net::*;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How frames stand on the descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// In a stream, each behind its length in four bytes, most significant first (QEMU, passt).
    Stream,
    /// One for each message.
    Messages,
    /// One for each message, behind a header of so many bytes (TAP with `IFF_VNET_HDR`).
    Headers(usize),
}

/// What a header of a descriptor can say: it has no place for tunnels.
const PLAIN: u128 = HOST_OFFLOADS & !HOST_TUNNELS;
/// Frames delivered at once.
const BURST: usize = 64;
/// How long a partner that takes nothing is waited for before a frame is dropped.
const PATIENCE: Duration = Duration::from_millis(200);
const READ: usize = 1 << 18;

struct Inner {
    fd: OwnedFd,
    framing: Framing,
    accepts: u128,
    port: Mutex<Weak<Port>>,
    stop: EventFd,
    /// The stream is out of step, or the other end has gone.
    closed: AtomicBool,
    writing: Mutex<()>,
}

/// Frames to and from a descriptor, which a thread reads from.
pub struct Descriptor {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

impl Descriptor {
    /// Takes a descriptor, which becomes non-blocking. `accepts`: offloads that the other side can do, with headers.
    pub fn new(fd: OwnedFd, framing: Framing, accepts: u128) -> io::Result<Self> {
        // SAFETY: plain system calls on a descriptor that is ours.
        unsafe {
            let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
            if flags < 0 || libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        let inner = Arc::new(Inner {
            fd,
            framing,
            accepts: if let Framing::Headers(_) = framing {
                accepts & PLAIN
            } else {
                0
            },
            port: Mutex::default(),
            stop: EventFd::new()?,
            closed: AtomicBool::new(false),
            writing: Mutex::new(()),
        });
        let own = inner.clone();
        let thread = thread::Builder::new()
            .name("net frames".into())
            .spawn(move || own.read_all())?;
        Ok(Self {
            inner,
            thread: Some(thread),
        })
    }

    /// Whether the other end has gone, or has said nonsense.
    pub fn closed(&self) -> bool {
        self.inner.closed.load(Ordering::Relaxed)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        self.inner.stop.signal();
        if let Some(thread) = self.thread.take() {
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl Backend for Descriptor {
    fn accepts(&self) -> u128 {
        self.inner.accepts
    }

    fn transmit(&self, _: usize, frames: &mut Frames) {
        if self.inner.closed.load(Ordering::Relaxed) {
            return;
        }
        let _writing = lock(&self.inner.writing);
        for frame in frames.list() {
            let bytes = frames.get(frame);
            let written = match self.inner.framing {
                Framing::Stream => {
                    let length = (bytes.len() as u32).to_be_bytes();
                    self.inner.write_all(&length, bytes)
                }
                Framing::Messages => self.inner.write(&[], bytes).map(drop),
                Framing::Headers(size) => {
                    let mut header = [0; HASH_HDR_SIZE];
                    header[..10].copy_from_slice(&frame.offload.bytes());
                    self.inner.write(&header[..size], bytes).map(drop)
                }
            };
            match written {
                Ok(()) => {}
                // Dropped, as a full network does.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    if self.inner.framing == Framing::Stream || error.raw_os_error() == Some(libc::EPIPE) {
                        self.inner.closed.store(true, Ordering::Relaxed);
                        return;
                    }
                }
            }
        }
    }

    fn attach(&self, port: Weak<Port>) {
        *lock(&self.inner.port) = port;
    }
}

/// Waits for a descriptor; false if it is not ready in time, or `stop` is readable.
pub(super) fn wait(fd: RawFd, events: i16, stop: RawFd, timeout: Option<Duration>) -> bool {
    let entry = |fd, events| libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    let mut list = [entry(fd, events), entry(stop, libc::POLLIN)];
    let timeout = timeout.map_or(-1, |timeout| timeout.as_millis() as i32);
    // SAFETY: two valid entries.
    let n = unsafe { libc::poll(list.as_mut_ptr(), 2, timeout) };
    n > 0 && list[0].revents != 0 && list[1].revents == 0
}

impl Inner {
    /// Writes two pieces as one message; waits a little for a partner that is busy.
    fn write(&self, first: &[u8], second: &[u8]) -> io::Result<usize> {
        let end = Instant::now() + PATIENCE;
        loop {
            let pieces = [IoSlice::new(first), IoSlice::new(second)];
            let pieces = if first.is_empty() {
                &pieces[1..]
            } else {
                &pieces[..]
            };
            // SAFETY: IoSlice has the layout of iovec, and the pieces live. SIGPIPE is ignored by Python.
            let n = unsafe {
                libc::writev(
                    self.fd.as_raw_fd(),
                    pieces.as_ptr().cast(),
                    pieces.len() as libc::c_int,
                )
            };
            if n >= 0 {
                return Ok(n as usize);
            }
            let error = io::Error::last_os_error();
            let busy =
                error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS);
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            let left = end.saturating_duration_since(Instant::now());
            let ready = busy
                && wait(
                    self.fd.as_raw_fd(),
                    libc::POLLOUT,
                    self.stop.as_raw_fd(),
                    Some(left),
                );
            if !ready {
                return Err(error);
            }
        }
    }

    /// Writes two pieces into a stream. All or nothing, unless the stream is over.
    fn write_all(&self, first: &[u8], second: &[u8]) -> io::Result<()> {
        let total = first.len() + second.len();
        let mut done = self.write(first, second)?;
        while done < total {
            let head = &first[done.min(first.len())..];
            let tail = &second[done.saturating_sub(first.len())..];
            match self.write(head, tail) {
                Ok(n) => done += n,
                // Half a frame cannot be taken back.
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(())
    }

    fn read_all(&self) {
        let mut buffer = vec![0u8; READ];
        let (mut filled, mut frames) = (0, Frames::default());
        loop {
            if !wait(self.fd.as_raw_fd(), libc::POLLIN, self.stop.as_raw_fd(), None) {
                return;
            }
            let open = if self.framing == Framing::Stream {
                self.read_stream(&mut buffer, &mut filled, &mut frames)
            } else {
                self.read_messages(&mut buffer, &mut frames)
            };
            let port = lock(&self.port).upgrade();
            if let (Some(port), false) = (port, frames.is_empty()) {
                port.deliver(&mut frames);
            }
            frames.clear();
            if !open {
                self.closed.store(true, Ordering::Relaxed);
                return;
            }
        }
    }

    /// Reads once. `None`: there is nothing; 0: there will be nothing any more.
    fn read(&self, into: &mut [u8]) -> Option<usize> {
        // SAFETY: the buffer is as long as said.
        let n = unsafe { libc::read(self.fd.as_raw_fd(), into.as_mut_ptr().cast(), into.len()) };
        if n >= 0 {
            return Some(n as usize);
        }
        match io::Error::last_os_error() {
            error
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                None
            }
            // A TAP device that is down, or a datagram's refusal by a partner that is gone: it may come back.
            error
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EIO | libc::ENETDOWN | libc::ECONNREFUSED)
                ) =>
            {
                thread::sleep(Duration::from_millis(10));
                None
            }
            _ => Some(0),
        }
    }

    fn read_stream(&self, buffer: &mut [u8], filled: &mut usize, frames: &mut Frames) -> bool {
        match self.read(&mut buffer[*filled..]) {
            None => return true,
            Some(0) => return false,
            Some(n) => *filled += n,
        }
        let mut at = 0;
        while let Some(Ok(length)) = buffer[at..*filled].get(..4).map(<[u8; 4]>::try_from) {
            let length = u32::from_be_bytes(length) as usize;
            if length > MAX_FRAME {
                return false;
            }
            let Some(frame) = buffer[at..*filled].get(4..4 + length) else {
                break;
            };
            if length >= ETHERNET {
                frames.push(frame, Offload::default());
            }
            at += 4 + length;
        }
        buffer.copy_within(at..*filled, 0);
        *filled -= at;
        true
    }

    fn read_messages(&self, buffer: &mut [u8], frames: &mut Frames) -> bool {
        let header = if let Framing::Headers(size) = self.framing {
            size
        } else {
            0
        };
        for _ in 0..BURST {
            let message = match self.read(buffer) {
                None => return true,
                // An empty datagram is one; the end of a connection of messages looks the same.
                Some(0) => return false,
                Some(n) => &buffer[..n],
            };
            let Some((head, frame)) = message.split_at_checked(header) else {
                continue;
            };
            let asked = head.get(..10).map(<&[u8; 10]>::try_from);
            let asked = asked
                .and_then(Result::ok)
                .map_or(Offload::default(), Offload::parse);
            if let Ok(mut offload) = check(asked, frame, PLAIN) {
                offload.flags |= asked.flags & VIRTIO_NET_HDR_F_DATA_VALID;
                frames.push(frame, offload);
            }
        }
        true
    }
}
