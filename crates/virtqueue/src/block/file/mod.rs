//! A medium in a file or block device of the host.

mod disk;
mod engine;
mod mapped;
mod open;
mod pool;
mod ring;

use super::engine::{Backend, Engine, Operation};
use disk::Disk;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

/// What to open.
#[derive(Debug)]
pub enum Source {
    /// A path.
    Path(PathBuf),
    /// A descriptor that someone else opened.
    Fd(OwnedFd),
}

/// What performs operations that would block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// io_uring where the kernel has it, else threads.
    #[default]
    Auto,
    /// io_uring or nothing.
    IoUring,
    /// A few threads.
    Threads,
}

/// How to use a file or block device.
#[derive(Debug)]
pub struct FileOptions {
    /// What to open.
    pub source: Source,
    /// Refuse all changes.
    pub read_only: bool,
    /// Bypass the host's page cache (O_DIRECT).
    pub direct: bool,
    /// Whether flushes and stable writes reach the medium. Off means that a crash of the host loses data.
    pub sync: bool,
    /// Answer at once, on the queue's thread, what the page cache can answer.
    pub inline: bool,
    /// What performs the rest.
    pub engine: EngineChoice,
}

impl FileOptions {
    /// Writable, through the page cache, with flushes.
    pub fn new(source: Source) -> Self {
        Self {
            source,
            read_only: false,
            direct: false,
            sync: true,
            inline: true,
            engine: EngineChoice::Auto,
        }
    }
}

/// A file or block device, and the threads that work on it.
pub(super) struct FileBackend {
    disk: Arc<Disk>,
    pool: pool::Pool,
    choice: EngineChoice,
    /// The kernel has io_uring, and it may be used.
    rings: bool,
    inline: bool,
}

impl FileBackend {
    pub(super) fn open(options: FileOptions) -> io::Result<Self> {
        let (choice, inline) = (options.engine, options.inline);
        let rings = match choice {
            EngineChoice::Threads => false,
            EngineChoice::IoUring => ring::Ring::probe().map(|()| true)?,
            // Old kernels and many containers have no io_uring.
            EngineChoice::Auto => ring::Ring::probe().is_ok(),
        };
        let disk = Arc::new(open::open(options)?);
        Ok(Self {
            pool: pool::Pool::new(Arc::clone(&disk)),
            disk,
            choice,
            rings,
            inline,
        })
    }
}

impl Backend for FileBackend {
    fn engine(self: Arc<Self>) -> io::Result<Box<dyn Engine>> {
        Ok(Box::new(engine::FileEngine::new(self)?))
    }

    unsafe fn perform(&self, operation: &Operation<'_>) -> io::Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.disk.perform_all(operation) }
    }

    fn grow(&self, size: u64) -> io::Result<()> {
        self.disk.grow(size)
    }

    fn size(&self) -> io::Result<u64> {
        self.disk.size()
    }

    fn name(&self) -> &'static str {
        if self.rings { "io_uring" } else { "threads" }
    }

    fn can_discard(&self) -> bool {
        self.disk.can_discard()
    }

    fn block_size(&self) -> u32 {
        self.disk.block_size
    }
}
