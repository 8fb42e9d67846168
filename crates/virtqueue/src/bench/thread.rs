//! Threads that stay where they are put.

use super::failed;
use crate::fault::Fault;
use std::io;

/// Keeps this thread on one processor.
fn pin(processor: usize) -> io::Result<()> {
    // SAFETY: the set is plain data, and as large as said; 0 is this thread.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if processor >= 8 * size_of::<libc::cpu_set_t>() {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        libc::CPU_SET(processor, &mut set);
        match libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Lets nothing else of the usual kind run on this thread's processor while it is busy. For short
/// measurements on machines that have other work; needs the right to.
fn take_precedence() -> io::Result<()> {
    let param = libc::sched_param { sched_priority: 50 };
    // SAFETY: the parameter is as the call wants it; 0 is this thread.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &param) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Puts this thread where it is to measure.
pub fn settle(processor: usize, precedence: bool) -> Result<(), Fault> {
    pin(processor).map_err(failed)?;
    if precedence {
        take_precedence().map_err(failed)?;
    }
    Ok(())
}
