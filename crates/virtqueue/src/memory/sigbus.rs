//! Survives a peer that truncates a file which is mapped here.
//!
//! Touching a page beyond the end of a file raises SIGBUS. The handler looks
//! the address up in a table of our mappings; a hit replaces that whole mapping by
//! anonymous zeros, marks it, and lets the access be repeated. Everything else
//! goes to whoever handled SIGBUS before.
//!
//! System calls on such pages fail with `EFAULT` instead, without a signal.

use super::Error;
use std::io;
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};

const SLOTS: usize = 4096;

/// A mapping, for the handler. `sequence` is odd while the other two change, so
/// that the handler never sees the start of one mapping and the end of another.
/// The slot of the mapping that faults is stable: its user holds it.
struct Slot {
    sequence: AtomicUsize,
    start: AtomicUsize,
    size: AtomicUsize,
    tripped: AtomicBool,
}

static TABLE: [Slot; SLOTS] = [const {
    Slot {
        sequence: AtomicUsize::new(0),
        start: AtomicUsize::new(0),
        size: AtomicUsize::new(0),
        tripped: AtomicBool::new(false),
    }
}; SLOTS];
/// Slots from here on have never been used.
static HIGH: AtomicUsize = AtomicUsize::new(0);
/// Slots that are free again. Only ever locked outside of the handler.
static FREE: Mutex<Vec<usize>> = Mutex::new(Vec::new());
/// Mappings that were replaced since the process started.
static TRIPPED: AtomicU64 = AtomicU64::new(0);
/// The action before ours, leaked when it changes: the handler may be reading it.
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(null_mut());
/// Set while a signal is passed on, so that two handlers which call each other end.
static PASSING: AtomicBool = AtomicBool::new(false);

/// Guards a mapping from `new` to drop.
#[derive(Debug)]
pub(super) struct Guard(usize);

impl Guard {
    /// Registers the mapping, and the handler when it is not in place.
    pub(super) fn new(start: usize, size: usize) -> Result<Self, Error> {
        let mut free = FREE.lock().unwrap_or_else(|e| e.into_inner());
        install()?;
        let index = match free.pop() {
            Some(index) => index,
            None => {
                let next = HIGH.load(Ordering::Relaxed);
                if next == SLOTS {
                    return Err(Error::TooMany(SLOTS));
                }
                next
            }
        };
        fill(&TABLE[index], start, size);
        HIGH.fetch_max(index + 1, Ordering::Release);
        Ok(Self(index))
    }

    pub(super) fn tripped(&self) -> bool {
        TABLE[self.0].tripped.load(Ordering::Relaxed)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut free = FREE.lock().unwrap_or_else(|e| e.into_inner());
        fill(&TABLE[self.0], 0, 0);
        free.push(self.0);
    }
}

/// Mappings replaced so far; a change tells a worker to look at its own.
pub(super) fn tripped() -> u64 {
    TRIPPED.load(Ordering::Relaxed)
}

fn fill(slot: &Slot, start: usize, size: usize) {
    // A sequence lock's writer; the free list's mutex keeps it the only one.
    slot.sequence.fetch_add(1, Ordering::Relaxed);
    fence(Ordering::Release);
    slot.start.store(start, Ordering::Relaxed);
    slot.size.store(size, Ordering::Relaxed);
    slot.tripped.store(false, Ordering::Relaxed);
    slot.sequence.fetch_add(1, Ordering::Release);
}

/// Finds the mapping that holds `address`. Called in the signal handler.
fn find(address: usize) -> Option<(&'static Slot, usize, usize)> {
    let high = HIGH.load(Ordering::Acquire);
    TABLE.iter().take(high).find_map(|slot| {
        let before = slot.sequence.load(Ordering::Acquire);
        let start = slot.start.load(Ordering::Relaxed);
        let size = slot.size.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let same = slot.sequence.load(Ordering::Relaxed) == before && before % 2 == 0;
        (same && address.wrapping_sub(start) < size).then_some((slot, start, size))
    })
}

/// Puts the handler in place, also when someone (Python's faulthandler, say) has
/// set another since; that one is then called for what is not ours.
fn install() -> Result<(), Error> {
    let failed = || Error::System("sigaction", io::Error::last_os_error());
    let mut current = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: only asks for the current action.
    if unsafe { libc::sigaction(libc::SIGBUS, null_mut(), current.as_mut_ptr()) } != 0 {
        return Err(failed());
    }
    // SAFETY: filled by the call above.
    let current = unsafe { current.assume_init() };
    let ours = on_sigbus as extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) as usize;
    if current.sa_sigaction == ours {
        return Ok(());
    }
    PREVIOUS.store(Box::into_raw(Box::new(current)), Ordering::Release);
    // SAFETY: zero is a valid sigaction; the fields that matter are set below.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = ours;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler only makes async-signal-safe calls.
    if unsafe { libc::sigaction(libc::SIGBUS, &action, null_mut()) } != 0 {
        return Err(failed());
    }
    Ok(())
}

extern "C" fn on_sigbus(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: errno is the thread's own; the interrupted code must not see it change.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: the kernel passes a valid siginfo; a positive code says that it holds an address.
    let address = unsafe { ((*info).si_code > 0).then(|| (*info).si_addr() as usize) };
    if address.is_some_and(replace) {
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = errno };
        return;
    }
    pass_on(signal, info, context);
}

/// Puts zeros in the place of the mapping around `address`, if it is one of ours.
fn replace(address: usize) -> bool {
    let Some((slot, start, size)) = find(address) else {
        return false;
    };
    // SAFETY: the range is a mapping that the faulting thread's snapshot holds, so
    // nothing else can have come to lie there; the new one is private and zero.
    let map = unsafe {
        libc::mmap(
            start as *mut libc::c_void,
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_FIXED | libc::MAP_ANONYMOUS | libc::MAP_PRIVATE | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if map == libc::MAP_FAILED {
        return false;
    }
    slot.tripped.store(true, Ordering::Relaxed);
    TRIPPED.fetch_add(1, Ordering::Relaxed);
    true
}

fn pass_on(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = PREVIOUS.load(Ordering::Acquire);
    // SAFETY: once set it points to an action that is never freed.
    let previous = unsafe { previous.as_ref() };
    let handler = previous.map_or(libc::SIG_DFL, |p| p.sa_sigaction);
    let first = !PASSING.swap(true, Ordering::Relaxed);
    match previous {
        Some(previous) if first && handler != libc::SIG_DFL && handler != libc::SIG_IGN => {
            // SAFETY: the address was registered as a handler of the form that its flags tell.
            unsafe {
                if previous.sa_flags & libc::SA_SIGINFO != 0 {
                    let f: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
                        std::mem::transmute(handler);
                    f(signal, info, context);
                } else {
                    let f: extern "C" fn(i32) = std::mem::transmute(handler);
                    f(signal);
                }
            }
        }
        _ => {
            // The default action, on return, when the access is repeated (or now, if it was sent).
            // SAFETY: plain system calls.
            unsafe {
                libc::signal(signal, libc::SIG_DFL);
                if (*info).si_code <= 0 {
                    libc::raise(signal);
                }
            }
        }
    }
    PASSING.store(false, Ordering::Relaxed);
}
