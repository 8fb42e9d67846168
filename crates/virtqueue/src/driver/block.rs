//! Requests to a block device (VIRTIO 1.4, 5.2.6).

use super::Error;
use super::bounce::Bounce;
use super::engine::Engine;
use super::ledger::{Done, Owner, Statuses, Ticket};
use super::queue::{Limit, Queue, Settings};
use crate::memory::{Snapshot, Space};
use crate::ring::Buffer;
use crate::spec::block as spec;
use std::sync::Arc;

const HEADER: u32 = 16;
/// Pieces of one blocking transfer that are under way at once.
const PIPELINE: usize = 16;
const PAGE: u64 = 4096;
/// Bytes of one request, at most: longer transfers are several, of which some are under way at once.
const LONGEST: u64 = 4 << 20;

/// The type of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(pub u32);

impl Kind {
    /// Read.
    pub const IN: Self = Self(spec::VIRTIO_BLK_T_IN);
    /// Write.
    pub const OUT: Self = Self(spec::VIRTIO_BLK_T_OUT);

    /// Whether the device writes the data.
    #[inline]
    fn writable(self) -> bool {
        matches!(
            self.0,
            spec::VIRTIO_BLK_T_IN
                | spec::VIRTIO_BLK_T_GET_ID
                | spec::VIRTIO_BLK_T_GET_LIFETIME
                | spec::VIRTIO_BLK_T_ZONE_REPORT
        )
    }
}

/// Where a request's data is.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// In memory that the device shares: a guest address.
    Shared(u64),
    /// In memory of this process only: it is copied.
    Own(*mut u8),
}

impl Place {
    fn at(self, offset: u64) -> Self {
        match self {
            Self::Shared(address) => Self::Shared(address + offset),
            Self::Own(host) => Self::Own(host.wrapping_add(offset as usize)),
        }
    }
}

/// Shared memory that a block queue needs beside its ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// Guest address, a multiple of 4096.
    pub address: u64,
    /// Bytes of each piece of the bounce buffer.
    pub chunk: u32,
    /// Number of pieces.
    pub chunks: u32,
}

impl Area {
    fn statuses(size: u32) -> u64 {
        u64::from(size) * u64::from(HEADER)
    }

    fn bounce(size: u32) -> u64 {
        (Self::statuses(size) + u64::from(size)).next_multiple_of(PAGE)
    }

    /// Bytes for a queue of `size` entries.
    pub fn bytes(size: u32, chunk: u32, chunks: u32) -> u64 {
        Self::bounce(size) + u64::from(chunk) * u64::from(chunks)
    }
}

/// What a block queue is made with.
pub struct BlockSettings {
    /// The queue.
    pub queue: Settings,
    /// Its memory.
    pub area: Area,
    /// Longest segment in bytes (`size_max` of the device).
    pub segment: u32,
    /// Most segments of a request (`seg_max`).
    pub segments: u32,
}

/// A request queue of a block device.
pub struct BlockQueue {
    /// The queue itself.
    pub queue: Queue,
    headers: Headers,
    statuses: u64,
    bounce: Bounce,
    segment: u32,
    /// Longest transfer of one request, a multiple of the sector size.
    pub longest: u32,
}

/// A header for each head.
struct Headers {
    guest: u64,
    host: *mut u8,
    _memory: Arc<Snapshot>,
}

// SAFETY: an address in memory that is kept; written to under the queue's lock, by volatile stores.
unsafe impl Send for Headers {}
// SAFETY: as above.
unsafe impl Sync for Headers {}

impl Headers {
    /// Writes the header of the request that will have this head; returns its guest address.
    #[inline]
    fn set(&self, head: u16, kind: Kind, sector: u64) -> u64 {
        let offset = u64::from(head) * u64::from(HEADER);
        let words = [u64::from(kind.0).to_le(), sector.to_le()];
        // SAFETY: `BlockQueue::new` has resolved a header for each head, aligned to a page.
        unsafe {
            let at = self.host.add(offset as usize).cast::<u64>();
            at.write_volatile(words[0]);
            at.add(1).write_volatile(words[1]);
        }
        self.guest + offset
    }
}

impl BlockQueue {
    /// A queue whose ring and area are zero.
    pub fn new(settings: BlockSettings) -> Result<Self, Error> {
        let BlockSettings {
            queue,
            area,
            segment,
            segments,
        } = settings;
        let size = queue.config.size;
        let memory = queue.memory.clone();
        let bytes = Area::bytes(size, area.chunk, area.chunks);
        if area.address % PAGE != 0 {
            return Err(Error::System(String::from(
                "the area of a block queue starts with a page",
            )));
        }
        let found = memory
            .contiguous(Space::Guest, area.address, bytes, true)
            .map_err(|error| Error::Fault(error.into()))?;
        let entries = queue
            .tables
            .map_or(0, |tables| tables.entries)
            .max(size.min(1024));
        let segments = segments.min(entries.saturating_sub(2)).max(1);
        let longest = u64::from(segments) * u64::from(segment);
        let longest = (longest.min(LONGEST) as u32) / 512 * 512;
        if longest == 0 {
            return Err(Error::System(String::from("segments of less than a sector")));
        }
        let chunks = area.chunks;
        let queue = Queue::with_chunks(queue, chunks)?;
        let offset = Area::statuses(size);
        // SAFETY: all of the area was resolved for writing in `memory`.
        let (statuses, bounce) = unsafe {
            let at = found.host.add(Area::bounce(size) as usize);
            (
                Statuses::new(found.host.add(offset as usize), size, memory.clone()),
                Bounce::new(area.address + Area::bounce(size), at, area.chunk, memory.clone()),
            )
        };
        queue.lock().ledger.statuses = Some(statuses);
        Ok(Self {
            queue,
            headers: Headers {
                guest: area.address,
                host: found.host,
                _memory: memory,
            },
            statuses: area.address + offset,
            bounce,
            segment,
            longest,
        })
    }

    /// Bytes of a piece of the bounce buffer.
    pub fn chunk(&self) -> u32 {
        self.bounce.size.min(self.longest) / 512 * 512
    }

    /// Descriptors of a request with so many bytes of data.
    fn descriptors(&self, len: u32) -> usize {
        2 + len.div_ceil(self.segment) as usize
    }

    /// Puts a request into the ring, if there is room.
    #[inline]
    pub(super) fn add(
        &self,
        engine: &mut Engine,
        kind: Kind,
        sector: u64,
        data: (u64, u32),
        owner: Owner,
        chunk: Option<u32>,
    ) -> Option<Ticket> {
        let (address, len) = data;
        if engine.full() {
            // The header would be another request's.
            return None;
        }
        let head = engine.next_head();
        let header = Buffer {
            address: self.headers.set(head, kind, sector),
            len: HEADER,
        };
        let status = Buffer {
            address: self.statuses + u64::from(head),
            len: 1,
        };
        if len > self.segment {
            return self.add_pieces(engine, kind.writable(), (header, status), data, owner, chunk);
        }
        let data = Buffer { address, len };
        if len == 0 {
            engine.add(&[header], &[status], owner, chunk)
        } else if kind.writable() {
            engine.add(&[header], &[data, status], owner, chunk)
        } else {
            engine.add(&[header, data], &[status], owner, chunk)
        }
    }

    /// For devices that limit the length of a segment.
    #[cold]
    fn add_pieces(
        &self,
        engine: &mut Engine,
        writable: bool,
        (header, status): (Buffer, Buffer),
        (address, len): (u64, u32),
        owner: Owner,
        chunk: Option<u32>,
    ) -> Option<Ticket> {
        let pieces = (0..len).step_by(self.segment as usize).map(|offset| Buffer {
            address: address + u64::from(offset),
            len: self.segment.min(len - offset),
        });
        if writable {
            let list: Vec<Buffer> = pieces.chain([status]).collect();
            engine.add(&[header], &list, owner, chunk)
        } else {
            let list: Vec<Buffer> = [header].into_iter().chain(pieces).collect();
            engine.add(&list, &[status], owner, chunk)
        }
    }

    /// Makes one request available; its data lies in shared memory. [`Error::Full`] if there is no
    /// room now.
    pub fn submit(&self, kind: Kind, sector: u64, data: (u64, u32), watched: bool) -> Result<Ticket, Error> {
        if data.1 > self.longest {
            return Err(Error::TooLarge);
        }
        let owner = if watched { Owner::Watcher } else { Owner::Waiter };
        self.queue.with(|engine| {
            if !engine.room(self.descriptors(data.1))? {
                engine.turn()?;
            }
            let ticket = self
                .add(engine, kind, sector, data, owner, None)
                .ok_or(Error::Full)?;
            engine.publish();
            Ok(ticket)
        })
    }

    /// Waits until a request with so many bytes of data fits.
    pub fn wait_for_room(&self, len: u32, limit: Limit<'_>) -> Result<(), Error> {
        self.queue.wait_for_room(self.descriptors(len), limit)
    }

    /// Does one request after another, several at once, until all `len` bytes are transferred.
    /// Returns the status that is not 0 and how many bytes came before the request that has it.
    /// After [`Error::TimedOut`], what the device still has of shared memory is its own until it
    /// answers; memory of this process is free at once.
    ///
    /// # Safety
    ///
    /// `place` must hold `len` bytes for as long as the call takes; if the device writes them, for
    /// writing.
    pub unsafe fn transfer(
        &self,
        kind: Kind,
        sector: u64,
        place: Place,
        len: u64,
        limit: Limit<'_>,
    ) -> Result<(Done, u64), Error> {
        let each = match place {
            Place::Shared(_) => self.longest,
            Place::Own(_) => self.chunk(),
        };
        let mut out = Pipeline::default();
        // A request without data is made, too.
        let mut begun = 0;
        let mut first = len == 0;
        let mut failed: Option<(Done, u64)> = None;
        let mut last = Done { len: 0, status: 0 };
        let outcome = self.queue.wait_until(limit, |engine| {
            while let Some(piece) = out.oldest() {
                let done = match engine.ledger.answer(piece.ticket) {
                    Some(Some(done)) => done,
                    _ => match &engine.failed {
                        Some(error) => return Err(error.clone()),
                        None => break,
                    },
                };
                if let (Place::Own(host), Some(chunk), true) = (place, piece.chunk, kind.writable()) {
                    if done.status == 0 {
                        let into = host.wrapping_add(piece.offset as usize);
                        // SAFETY: within `place`, as the caller promises.
                        unsafe { self.bounce.empty(chunk, into, piece.len as usize) };
                    }
                }
                if done.status != 0 && failed.is_none() {
                    failed = Some((done, piece.offset));
                }
                last = done;
                engine.ledger.collect(piece.ticket);
                out.pop();
            }
            let mut added = false;
            while (begun < len || first) && failed.is_none() && !out.full() {
                let piece = u64::from(each).min(len - begun) as u32;
                if !engine.room(self.descriptors(piece))? {
                    break;
                }
                let (address, chunk) = match place.at(begun) {
                    Place::Shared(address) => (address, None),
                    Place::Own(_) if piece == 0 => (0, None),
                    Place::Own(host) => {
                        let Some(chunk) = engine.ledger.chunks.pop() else {
                            break;
                        };
                        if !kind.writable() {
                            // SAFETY: within `place`, as the caller promises.
                            unsafe { self.bounce.fill(chunk, host, piece as usize) };
                        }
                        (self.bounce.address(chunk), Some(chunk))
                    }
                };
                let at = sector + begun / 512;
                let ticket = self.add(engine, kind, at, (address, piece), Owner::Waiter, chunk);
                let Some(ticket) = ticket else {
                    engine.ledger.chunks.extend(chunk);
                    break;
                };
                out.push(Piece {
                    ticket,
                    offset: begun,
                    len: piece,
                    chunk,
                });
                begun += u64::from(piece);
                first = false;
                added = true;
            }
            if added {
                engine.publish();
            }
            Ok((out.oldest().is_none() && !first && (begun == len || failed.is_some())).then_some(()))
        });
        if let Err(error) = outcome {
            let mut engine = self.queue.lock();
            while let Some(piece) = out.oldest() {
                engine.ledger.abandon(piece.ticket);
                out.pop();
            }
            return Err(error);
        }
        Ok(failed.unwrap_or((last, len)))
    }

    /// Many requests of `each` bytes, one for each of `sectors`, in and out of consecutive shared
    /// memory from `address` on. The status of each goes to `statuses`. As many are out at once as
    /// fit, at most `depth`. After an error other than a status, what the device still has of the
    /// memory is its own until it answers.
    pub fn run(
        &self,
        kind: Kind,
        sectors: impl ExactSizeIterator<Item = u64>,
        (address, each): (u64, u32),
        statuses: &mut [u8],
        depth: usize,
        limit: Limit<'_>,
    ) -> Result<(), Error> {
        if each > self.longest {
            return Err(Error::TooLarge);
        }
        let count = sectors.len().min(statuses.len());
        let mut sectors = sectors.take(count).enumerate().peekable();
        let run = self.queue.lock().ledger.begin_run();
        let mut done = 0;
        let descriptors = self.descriptors(each);
        let outcome = self.queue.wait_until(limit, |engine| {
            let own = engine.ledger.run(run);
            for (index, status) in own.done.drain(..) {
                if let Some(place) = statuses.get_mut(index as usize) {
                    *place = status;
                }
                done += 1;
            }
            let mut space = depth.saturating_sub(own.out);
            let mut added = false;
            while space > 0 && sectors.peek().is_some() && engine.room(descriptors)? {
                let Some((index, sector)) = sectors.next() else {
                    break;
                };
                let data = (address + index as u64 * u64::from(each), each);
                let index = index as u32;
                if self
                    .add(engine, kind, sector, data, Owner::Run { run, index }, None)
                    .is_none()
                {
                    return Err(Error::Full);
                }
                space -= 1;
                added = true;
            }
            if added {
                engine.publish();
            }
            Ok((done == count).then_some(()))
        });
        self.queue.lock().ledger.end_run(run);
        outcome
    }
}

#[derive(Clone, Copy)]
struct Piece {
    ticket: Ticket,
    offset: u64,
    len: u32,
    chunk: Option<u32>,
}

/// The pieces of a transfer that are under way, oldest first; no memory of its own.
#[derive(Default)]
struct Pipeline {
    pieces: [Option<Piece>; PIPELINE],
    first: usize,
    count: usize,
}

impl Pipeline {
    fn full(&self) -> bool {
        self.count == PIPELINE
    }

    fn oldest(&self) -> Option<Piece> {
        (self.count > 0).then(|| self.pieces[self.first]).flatten()
    }

    fn pop(&mut self) {
        self.first = (self.first + 1) % PIPELINE;
        self.count -= 1;
    }

    fn push(&mut self, piece: Piece) {
        self.pieces[(self.first + self.count) % PIPELINE] = Some(piece);
        self.count += 1;
    }
}
