//! A driver in miniature: lays requests out in memory, hands them to a handler, looks at the answers.

use crate::block::buffer::AlignedBuffer;
use crate::block::{BlockHandler, EngineChoice, FileOptions, Source, Target};
use crate::chain::{Batch, Segment, Token};
use crate::fault::Fault;
use crate::memory::{GuestMemory, Snapshot};
use crate::spec::block::*;
use crate::worker::{Completions, Handler};
use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const ALL: u128 = VIRTIO_BLK_F_FLUSH
    | VIRTIO_BLK_F_CONFIG_WCE
    | VIRTIO_BLK_F_DISCARD
    | VIRTIO_BLK_F_WRITE_ZEROES
    | VIRTIO_BLK_F_LIFETIME
    | VIRTIO_BLK_F_SECURE_ERASE;

/// What status bytes hold before the device writes them.
const UNTOUCHED: u8 = 0xee;

pub fn snapshot() -> Arc<Snapshot> {
    GuestMemory::new().snapshot()
}

/// A request and where its parts were put.
#[derive(Clone)]
pub struct Laid {
    pub token: Token,
    data: Vec<(usize, usize)>,
    status: usize,
    data_in: usize,
}

/// The answer to a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u8,
    pub written: u32,
    pub data: Vec<u8>,
}

pub struct Driver {
    /// First, since it waits for what is under way in the memory below.
    pub handler: BlockHandler,
    memory: AlignedBuffer,
    next: usize,
    tokens: u16,
    pub batch: Batch,
    pub done: Completions,
    pub snapshot: Arc<Snapshot>,
}

impl Driver {
    pub fn new(target: &Arc<Target>, features: u128) -> Self {
        Self {
            memory: AlignedBuffer::new(16 << 20).unwrap(),
            next: 0,
            tokens: 0,
            batch: Batch::default(),
            done: Completions::default(),
            handler: BlockHandler::new(Arc::clone(target), features).unwrap(),
            snapshot: snapshot(),
        }
    }

    /// Forgets all that was laid out.
    pub fn clear(&mut self) {
        (self.next, self.tokens) = (0, 0);
        self.batch.attach(&self.snapshot);
        self.done.clear();
    }

    /// Puts bytes somewhere; pieces are never adjacent.
    pub fn place(&mut self, bytes: &[u8], align: usize, skew: usize) -> Segment {
        let at = self.next.next_multiple_of(align) + skew;
        self.next = at + bytes.len() + 1;
        assert!(self.next <= self.memory.len(), "the test needs more memory");
        let host = self.memory.as_ptr().wrapping_add(at);
        // SAFETY: within the buffer.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), host, bytes.len()) };
        Segment {
            host,
            guest: at as u64,
            len: bytes.len() as u32,
        }
    }

    pub fn peek(&self, segment: Segment) -> Vec<u8> {
        // SAFETY: made by `place`.
        unsafe { std::slice::from_raw_parts(segment.host, segment.len as usize) }.to_vec()
    }

    /// Adds a chain of these segments as it is.
    pub fn chain(&mut self, readable: &[Segment], writable: &[Segment]) -> Token {
        for segment in readable.iter().chain(writable) {
            self.batch.push_segment(*segment);
        }
        let token = Token::new(self.tokens, 1);
        self.tokens += 1;
        let bytes = |part: &[Segment]| part.iter().map(|segment| u64::from(segment.len)).sum();
        self.batch
            .finish_chain(token, readable.len(), (bytes(readable), bytes(writable)));
        token
    }

    fn cut(&mut self, bytes: &[u8], pieces: &[usize], align: usize, skew: usize) -> Vec<Segment> {
        let (mut segments, mut rest) = (Vec::new(), bytes);
        let mut sizes = pieces.iter().copied().cycle();
        while !rest.is_empty() {
            let size = sizes.next().unwrap_or(rest.len()).clamp(1, rest.len());
            let (piece, tail) = rest.split_at(size);
            segments.push(self.place(piece, align, skew));
            rest = tail;
        }
        segments
    }

    /// Lays out a request: readable bytes after the header, then writable bytes before the status.
    /// Both parts, header and status included, are cut into pieces of the given sizes, again and again.
    pub fn request(&mut self, kind: u32, sector: u64, out: &[u8], data_in: usize, pieces: &[usize]) -> Laid {
        self.request_at(kind, sector, out, data_in, pieces, 1, 0)
    }

    #[allow(clippy::too_many_arguments, reason = "all of a request")]
    pub fn request_at(
        &mut self,
        kind: u32,
        sector: u64,
        out: &[u8],
        data_in: usize,
        pieces: &[usize],
        align: usize,
        skew: usize,
    ) -> Laid {
        let mut readable = kind.to_le_bytes().to_vec();
        readable.extend([0; 4]);
        readable.extend(sector.to_le_bytes());
        let (readable, writable) = if align > 1 {
            // Header and status on their own, so that the data can be aligned.
            let mut segments = vec![self.place(&readable, 16, 0)];
            segments.extend(self.cut(out, pieces, align, skew));
            let mut writable = self.cut(&vec![0xdd; data_in], pieces, align, skew);
            writable.push(self.place(&[UNTOUCHED], 1, 0));
            (segments, writable)
        } else {
            readable.extend(out);
            let mut writable = vec![0xdd; data_in];
            writable.push(UNTOUCHED);
            (
                self.cut(&readable, pieces, 1, 0),
                self.cut(&writable, pieces, 1, 0),
            )
        };
        let token = self.chain(&readable, &writable);
        let mut data: Vec<_> = writable
            .iter()
            .map(|s| (s.host as usize, s.len as usize))
            .collect();
        let (host, len) = data.pop().unwrap();
        if len > 1 {
            data.push((host, len - 1));
        }
        Laid {
            token,
            data,
            status: host + len - 1,
            data_in,
        }
    }

    pub fn start(&mut self) -> Result<(), Fault> {
        let batch = std::mem::take(&mut self.batch);
        let result = self.handler.handle(&self.snapshot, &batch, &mut self.done);
        self.batch = batch;
        self.batch.clear();
        result
    }

    /// Waits as a worker does, until nothing is under way.
    pub fn finish(&mut self) {
        let end = Instant::now() + Duration::from_secs(20);
        while self.handler.busy() > 0 {
            assert!(Instant::now() < end, "requests hang");
            let fd = self.handler.completion_fd().unwrap();
            let mut poll = libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one valid entry.
            let ready = unsafe { libc::poll(&mut poll, 1, 5000) };
            assert!(
                ready == 1,
                "{} requests under way and no wake-up",
                self.handler.busy()
            );
            self.handler.reap(&mut self.done).unwrap();
        }
    }

    /// Whether an idle handler leaves its worker asleep.
    pub fn assert_quiet(&mut self) {
        let Some(fd) = self.handler.completion_fd() else {
            return;
        };
        let mut poll = libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        for _ in 0..100 {
            // SAFETY: one valid entry.
            if unsafe { libc::poll(&mut poll, 1, 0) } == 0 {
                return;
            }
            self.handler.reap(&mut self.done).unwrap();
        }
        panic!("an idle handler keeps its worker awake");
    }

    pub fn run(&mut self) {
        self.start().unwrap();
        self.finish();
        self.assert_quiet();
    }

    pub fn answer(&self, laid: &Laid) -> Answer {
        let mut found = self
            .done
            .as_slice()
            .iter()
            .filter(|(token, _)| *token == laid.token);
        let (_, written) = found.next().expect("not completed");
        assert!(found.next().is_none(), "completed twice");
        let mut data = Vec::new();
        for (host, len) in &laid.data {
            // SAFETY: laid out by `request`.
            data.extend(unsafe { std::slice::from_raw_parts(*host as *const u8, *len) });
        }
        assert_eq!(data.len(), laid.data_in);
        // SAFETY: likewise.
        let status = unsafe { *(laid.status as *const u8) };
        assert_ne!(status, UNTOUCHED, "completed without a status");
        Answer {
            status,
            written: *written,
            data,
        }
    }

    /// One request from beginning to end.
    pub fn ask(&mut self, kind: u32, sector: u64, out: &[u8], data_in: usize) -> Answer {
        self.clear();
        let laid = self.request(kind, sector, out, data_in, &[]);
        self.run();
        self.answer(&laid)
    }

    pub fn write(&mut self, sector: u64, data: &[u8]) -> u8 {
        self.ask(VIRTIO_BLK_T_OUT, sector, data, 0).status
    }

    pub fn read(&mut self, sector: u64, len: usize) -> Vec<u8> {
        let answer = self.ask(VIRTIO_BLK_T_IN, sector, &[], len);
        assert_eq!((answer.status, answer.written as usize), (0, len + 1));
        answer.data
    }

    pub fn flush(&mut self) -> u8 {
        self.ask(VIRTIO_BLK_T_FLUSH, 0, &[], 0).status
    }
}

/// One discard or write zeroes segment.
pub fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes
}

/// Bytes that differ from sector to sector and within.
pub fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|i| (i as u8).wrapping_mul(31) ^ (i / 512) as u8 ^ seed)
        .collect()
}

/// A file without a name on a real file system.
pub fn image(contents: &[u8]) -> File {
    // SAFETY: a literal path; the descriptor is new.
    let file = unsafe {
        let fd = libc::open(
            c"/var/tmp".as_ptr(),
            libc::O_TMPFILE | libc::O_RDWR | libc::O_CLOEXEC,
            0o600,
        );
        assert!(fd >= 0, "/var/tmp: {}", std::io::Error::last_os_error());
        File::from(OwnedFd::from_raw_fd(fd))
    };
    std::os::unix::fs::FileExt::write_all_at(&file, contents, 0).unwrap();
    file
}

/// A file in memory: no RWF_NOWAIT there, and no way to zero a range but to write.
pub fn image_in_memory(contents: &[u8]) -> File {
    // SAFETY: a literal name; the descriptor is new.
    let file = unsafe {
        let fd = libc::memfd_create(c"image".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0, "memfd: {}", std::io::Error::last_os_error());
        File::from(OwnedFd::from_raw_fd(fd))
    };
    std::os::unix::fs::FileExt::write_all_at(&file, contents, 0).unwrap();
    file
}

/// All ways to get at a file.
pub const WAYS: [(EngineChoice, bool, bool); 6] = [
    (EngineChoice::IoUring, true, false),
    (EngineChoice::IoUring, false, false),
    (EngineChoice::Threads, true, false),
    (EngineChoice::Threads, false, false),
    (EngineChoice::IoUring, false, true),
    (EngineChoice::Threads, false, true),
];

pub fn file_target(file: &File, (engine, inline, direct): (EngineChoice, bool, bool)) -> Arc<Target> {
    let source = Source::Fd(file.try_clone().unwrap().into());
    Arc::new(
        Target::file(FileOptions {
            engine,
            inline,
            direct,
            ..FileOptions::new(source)
        })
        .unwrap(),
    )
}
