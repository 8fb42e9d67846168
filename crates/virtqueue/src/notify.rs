//! Notifications: kicks from the driver, calls to it.

use crate::memory::Wake;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

/// An eventfd of our own, non-blocking.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A new one, counter 0.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and ours.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Adds 1: whoever waits for it wakes.
    pub fn signal(&self) {
        // Fails only when the counter is full: then it is readable already.
        let _ = write_count(self.0.as_raw_fd());
    }

    /// Takes the counter.
    pub fn clear(&self) -> u64 {
        match read_count(self.0.as_raw_fd()) {
            Read::Count(count) => count,
            Read::Nothing | Read::Closed => 0,
        }
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Wake for EventFd {
    fn wake(&self) {
        self.signal();
    }
}

/// What came out of a kick descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// So many kicks.
    Count(u64),
    /// Nothing yet.
    Nothing,
    /// There will never be one again.
    Closed,
}

/// Reads a kick: 8 bytes from an eventfd, whatever there is from a pipe or socket.
pub(crate) fn read_count(fd: RawFd) -> Read {
    let mut buffer = [0u8; 8];
    // SAFETY: the buffer is as long as said.
    let n = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
    match n {
        8 => Read::Count(u64::from_ne_bytes(buffer)),
        1.. => Read::Count(1),
        0 => Read::Closed,
        _ => match io::Error::last_os_error().kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Read::Nothing,
            _ => Read::Closed,
        },
    }
}

fn write_count(fd: RawFd) -> io::Result<()> {
    let one = 1u64.to_ne_bytes();
    // SAFETY: the buffer is as long as said.
    match unsafe { libc::write(fd, one.as_ptr().cast(), one.len()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// What a descriptor for notifications may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Event,
    Socket,
    Pipe,
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The driver has been notified.
    Yes,
    /// No call is set: the driver polls.
    Nowhere,
    /// The other end has gone.
    Lost,
}

/// Tells what a descriptor is; refuses all that cannot carry a notification.
fn kind(fd: BorrowedFd<'_>) -> io::Result<Kind> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: fstat fills the structure given or fails.
    let mode = unsafe {
        if libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        stat.assume_init().st_mode & libc::S_IFMT
    };
    match mode {
        libc::S_IFSOCK => return Ok(Kind::Socket),
        libc::S_IFIFO => return Ok(Kind::Pipe),
        // Anonymous inodes have no type; without /proc an eventfd cannot be told from, say, an epoll.
        0 => match std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())) {
            Ok(name) if name.as_os_str() != "anon_inode:[eventfd]" => {}
            _ => return Ok(Kind::Event),
        },
        _ => {}
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        "a notification needs an eventfd (or a socket or pipe), not this kind of descriptor",
    ))
}

/// Our own duplicate, non-blocking: a peer that fills its counter must not stop a worker.
/// (The flag belongs to what both ends share. Eventfds of VMMs have it anyway.)
fn adopt(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let own = fd.try_clone_to_owned()?;
    // SAFETY: plain system calls on a descriptor that is ours.
    unsafe {
        let flags = libc::fcntl(own.as_raw_fd(), libc::F_GETFL);
        if flags < 0 || libc::fcntl(own.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(own)
}

/// Where kicks come from.
#[derive(Clone, Debug)]
pub struct Kick(Arc<OwnedFd>);

impl Kick {
    /// Duplicates an eventfd (or a pipe's or socket's reading end).
    pub fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        kind(fd)?;
        Ok(Self(Arc::new(adopt(fd)?)))
    }
}

impl AsRawFd for Kick {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// How the driver is notified.
#[derive(Clone, Default)]
pub enum Call {
    /// Not at all: it polls.
    #[default]
    None,
    /// By an eventfd or a stream socket (8 bytes each time; User Mode Linux).
    Fd(CallFd),
    /// By a function: transports that send calls in-band. Runs on the queue's worker.
    Function(Arc<dyn Fn() + Send + Sync>),
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Fd(fd) => write!(f, "{fd:?}"),
            Self::Function(_) => f.write_str("Function"),
        }
    }
}

/// A descriptor that takes calls.
#[derive(Clone, Debug)]
pub struct CallFd {
    fd: Arc<OwnedFd>,
    kind: Kind,
}

impl CallFd {
    /// Duplicates an eventfd or a stream socket. No pipe: writing to one that its reader has
    /// closed would raise SIGPIPE.
    pub fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let kind = kind(fd)?;
        if kind == Kind::Pipe {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a call needs an eventfd or a socket",
            ));
        }
        // Sockets have MSG_DONTWAIT, and their other user may want to block.
        let fd = if kind == Kind::Socket {
            fd.try_clone_to_owned()?
        } else {
            adopt(fd)?
        };
        Ok(Self {
            fd: Arc::new(fd),
            kind,
        })
    }

    /// Sends one notification.
    pub fn signal(&self) -> Sent {
        let fd = self.fd.as_raw_fd();
        let sent = if self.kind == Kind::Socket {
            let one = 1u64.to_ne_bytes();
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: the buffer is as long as said.
            match unsafe { libc::send(fd, one.as_ptr().cast(), one.len(), flags) } {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(()),
            }
        } else {
            write_count(fd)
        };
        match sent {
            // Full: earlier notifications have not been looked at, so the driver still will.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Sent::Lost,
            _ => Sent::Yes,
        }
    }
}

/// The call of a queue, changed by one thread while another uses it.
///
/// The lock is held across the write: once [`CallSlot::set`] has returned, nothing
/// goes to the old descriptor any more. A VMM that masks an interrupt relies on that.
#[derive(Debug, Default)]
pub struct CallSlot {
    call: Mutex<Call>,
    /// Whether `call` is one.
    somewhere: AtomicBool,
}

impl CallSlot {
    /// Changes where calls go. Fails if the worker is stuck in a write to the old one
    /// (its owner has made it blocking and full).
    pub fn set(&self, call: Call) -> io::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(1);
        let somewhere = !matches!(call, Call::None);
        let put = |mut slot: MutexGuard<'_, Call>| {
            *slot = call;
            self.somewhere.store(somewhere, Ordering::Release);
            Ok(())
        };
        loop {
            match self.call.try_lock() {
                Ok(slot) => return put(slot),
                Err(TryLockError::Poisoned(poisoned)) => return put(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_micros(50));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "the call descriptor blocks",
                    ));
                }
            }
        }
    }

    /// Whether there is a way to notify the driver at the moment.
    #[inline]
    pub fn leads_somewhere(&self) -> bool {
        self.somewhere.load(Ordering::Acquire)
    }

    /// Notifies the driver.
    pub fn signal(&self) -> Sent {
        let slot: MutexGuard<'_, Call> = self.call.lock().unwrap_or_else(|e| e.into_inner());
        match &*slot {
            Call::None => Sent::Nowhere,
            Call::Fd(fd) => fd.signal(),
            Call::Function(function) => {
                let function = function.clone();
                // Not under the lock: the function may wait for who changes the call.
                drop(slot);
                function();
                Sent::Yes
            }
        }
    }
}
