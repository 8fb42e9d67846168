//! What can be wrong with a region or with an access.

use super::Space;
use std::{fmt, io};

/// Why regions could not be added, removed or replaced.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A region of no bytes.
    Empty,
    /// A region whose end is beyond the address space, or whose file offset overflows.
    Wraps {
        /// Where it starts.
        address: u64,
        /// How long it is.
        size: u64,
    },
    /// Two regions share addresses.
    Overlap {
        /// The address space in which they do.
        space: Space,
        /// Start of the second region, in that space.
        address: u64,
        /// Its size.
        size: u64,
    },
    /// More regions than a memory map may have.
    TooMany(usize),
    /// Neither a regular file nor a memfd: nothing that can be mapped and checked.
    WrongKind,
    /// The file is shorter than the region.
    BeyondFile {
        /// First byte that the file would need to have but has not.
        end: u64,
        /// The file's size.
        file: u64,
    },
    /// `mmap` or another system call failed.
    System(&'static str, io::Error),
    /// There is no such region, or only a part of one.
    NotFound {
        /// Start of the range given.
        address: u64,
        /// Its size.
        size: u64,
    },
    /// A translation, where none are wanted.
    NotTranslated,
    /// A translation to addresses that the front end has not shared.
    NotShared {
        /// The first user address.
        address: u64,
        /// Bytes from there.
        size: u64,
    },
    /// The regions are gone from the map, but a queue or a handler was still
    /// using them when the time was up. Their mappings live until it lets go.
    InUse {
        /// Users that have not moved on.
        users: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "memory region of size 0"),
            Self::Wraps { address, size } => {
                write!(f, "memory region at {address:#x} of {size:#x} bytes wraps around")
            }
            Self::Overlap { space, address, size } => {
                write!(
                    f,
                    "memory region at {space} address {address:#x} of {size:#x} bytes overlaps another"
                )
            }
            Self::TooMany(limit) => write!(f, "more than {limit} memory regions"),
            Self::WrongKind => write!(f, "memory region's descriptor is not a file that can be mapped"),
            Self::BeyondFile { end, file } => {
                write!(f, "memory region ends at {end:#x} of a file of {file:#x} bytes")
            }
            Self::System(what, error) => write!(f, "{what}: {error}"),
            Self::NotFound { address, size } => {
                write!(f, "no memory region at {address:#x} of {size:#x} bytes")
            }
            Self::NotTranslated => write!(f, "addresses are not translated (VIRTIO_F_ACCESS_PLATFORM)"),
            Self::NotShared { address, size } => {
                write!(
                    f,
                    "{size:#x} bytes at user address {address:#x} are not in shared memory"
                )
            }
            Self::InUse { users } => write!(f, "removed memory is still in use by {users} queue(s)"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::System(_, error) => Some(error),
            _ => None,
        }
    }
}

/// Why an address range could not be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccessError {
    /// Some of it is not mapped (now; it may be later), or it wraps around.
    Unmapped {
        /// Start of the range.
        address: u64,
        /// Its size.
        size: u64,
    },
    /// The device may not write there.
    ReadOnly {
        /// Start of the range.
        address: u64,
        /// Its size.
        size: u64,
    },
    /// There is no translation of its first byte that allows the access: the front end is to be asked.
    Untranslated {
        /// Start of what is missing.
        address: u64,
        /// Bytes from there to the end of the range.
        size: u64,
        /// Whether it is to be written to.
        write: bool,
    },
    /// All of it is mapped, but not in one piece of host memory.
    Divided {
        /// Start of the range.
        address: u64,
        /// Its size.
        size: u64,
    },
}

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, size, what) = match self {
            Self::Untranslated { address, size, .. } => (address, size, "not translated"),
            Self::Unmapped { address, size } => (address, size, "not in guest memory"),
            Self::ReadOnly { address, size } => (address, size, "in read-only memory"),
            Self::Divided { address, size } => (address, size, "across two mappings"),
        };
        write!(f, "{size:#x} bytes at {address:#x} are {what}")
    }
}

impl std::error::Error for AccessError {}
