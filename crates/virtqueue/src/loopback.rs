//! A guest memory and a ring in it of our own making: both ends in one process, for
//! benches, tests and fuzzers.

use crate::memory::{Error, GuestMemory, RegionRequest, Space};
use crate::ring::{Config, feature};
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::Arc;

/// Guest address of the memory.
pub const GUEST: u64 = 0x1_0000_0000;
/// User address of the memory.
pub const USER: u64 = 0x7f00_0000_0000;

/// Guest memory with room for one ring and buffers.
#[derive(Debug)]
pub struct Loopback {
    /// The memory: one region from [`GUEST`].
    pub memory: Arc<GuestMemory>,
    /// The ring in it.
    pub config: Config,
    /// Guest address of what follows the ring.
    pub buffers: u64,
    /// Bytes there.
    pub buffers_size: u64,
    /// The memory file.
    pub file: OwnedFd,
}

/// A memory file.
pub fn memory_file(size: u64) -> io::Result<OwnedFd> {
    // SAFETY: the name is a string; the descriptor is new and ours.
    let fd = unsafe {
        let fd = libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let file = std::fs::File::from(fd);
    file.set_len(size)?;
    Ok(file.into())
}

impl Loopback {
    /// A ring of `size` entries, in the layout that `features` say, and `buffers` bytes behind it.
    pub fn new(size: u32, features: u128, buffers: u64) -> Result<Self, Error> {
        let page = |bytes: u64| bytes.next_multiple_of(4096);
        let available = page(16 * u64::from(size));
        let used = available + page(6 + 2 * u64::from(size));
        let end = used + page(6 + 8 * u64::from(size));
        let total = end + page(buffers);
        let file = memory_file(total).map_err(|e| Error::System("memfd_create", e))?;
        let memory = Arc::new(GuestMemory::new());
        memory.add(&RegionRequest {
            guest_address: GUEST,
            user_address: Some(USER),
            size: total,
            fd: file.as_fd(),
            offset: 0,
            writable: true,
        })?;
        let config = Config {
            size,
            descriptors: GUEST,
            available: GUEST + available,
            used: GUEST + used,
            space: Space::Guest,
            base: if features & feature::RING_PACKED != 0 {
                0x8000_8000
            } else {
                0
            },
            features,
        };
        Ok(Self {
            memory,
            config,
            buffers: GUEST + end,
            buffers_size: total - end,
            file,
        })
    }
}
