//! A receive queue: frames into the driver's buffers (VIRTIO 1.4, 5.1.9.3 and 5.1.9.4).

use super::frames::{Frame, Frames};
use super::header::{self, Offload, WORD};
use super::port::{Backend, Port, Settings};
use super::segment;
use super::tally::Burst;
use crate::chain::Batch;
use crate::fault::{Fault, Rule};
use crate::memory::Snapshot;
use crate::prefetch::{self, LINE};
use crate::spec::net::*;
use crate::worker::{Completions, Handler};
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Frames asked of a back end that makes them up, at once.
const PULL: usize = 64;

/// Buffers that wait for frames.
#[derive(Debug, Default)]
struct Held {
    batch: Batch,
    next: usize,
}

/// What became of a frame.
enum Fate {
    /// It is in the driver's buffers.
    Delivered,
    /// There are not enough buffers now.
    Waits,
    /// It can never be delivered.
    Dropped,
}

/// What is written in front of a frame: words, and behind them what few drivers want.
struct Header {
    words: (u64, u32),
    rest: [u8; TUNNEL_HDR_SIZE - HDR_SIZE],
}

impl Header {
    #[inline]
    fn new(offload: &Offload, buffers: u16, frame: &Frame) -> Self {
        let mut rest = [0; TUNNEL_HDR_SIZE - HDR_SIZE];
        let mut put = |at: usize, field: &[u8]| {
            rest[at - HDR_SIZE..at - HDR_SIZE + field.len()].copy_from_slice(field);
        };
        put(HASH_HDR_HASH_VALUE, &frame.hash.to_le_bytes());
        put(HASH_HDR_HASH_REPORT, &frame.hash_report.to_le_bytes());
        put(TUNNEL_HDR_OUTER_TH_OFFSET, &offload.tunnel_bytes());
        Self {
            words: offload.words(buffers),
            rest,
        }
    }

    /// All of it.
    fn bytes(&self) -> [u8; TUNNEL_HDR_SIZE] {
        let mut all = [0; TUNNEL_HDR_SIZE];
        all[..WORD].copy_from_slice(&self.words.0.to_ne_bytes());
        all[WORD..HDR_SIZE].copy_from_slice(&self.words.1.to_ne_bytes());
        all[HDR_SIZE..].copy_from_slice(&self.rest);
        all
    }

    /// Writes the first `size` bytes, at least those of the words.
    ///
    /// # Safety
    ///
    /// There is memory for them.
    #[inline]
    unsafe fn write(&self, to: *mut u8, size: usize) {
        // SAFETY: the caller's.
        unsafe {
            to.cast::<u64>().write_unaligned(self.words.0);
            to.add(WORD).cast::<u32>().write_unaligned(self.words.1);
            if size > HDR_SIZE {
                std::ptr::copy_nonoverlapping(self.rest.as_ptr(), to.add(HDR_SIZE), size - HDR_SIZE);
            }
        }
    }
}

/// Puts frames into the buffers of one receive queue.
pub struct Receiver {
    port: Arc<Port>,
    queue: usize,
    /// Buffers that the queue can hold at most.
    size: usize,
    /// Counted in the pair's `open`.
    open: bool,
    /// Whom frames are for.
    driver: u64,
    generation: u64,
    settings: Arc<Settings>,
    backend: Option<Arc<dyn Backend>>,
    receivable: u128,
    header: usize,
    mergeable: bool,
    held: VecDeque<Held>,
    spare: Vec<Held>,
    buffers: usize,
    segments: usize,
    /// Frames being delivered, and how far that is.
    frames: Frames,
    next: usize,
    /// What became of a large frame that the driver does not take as it is.
    pieces: Frames,
    piece: usize,
    burst: Burst,
}

impl Receiver {
    /// A handler for receive queue `queue` (from 0), which has `size` entries.
    pub fn new(port: Arc<Port>, queue: usize, size: usize) -> Self {
        if let Some(pair) = port.pairs.get(queue) {
            pair.open.fetch_add(1, Ordering::Relaxed);
        }
        Self {
            settings: port.settings(),
            open: port.pairs.len() > queue,
            driver: port.driver(),
            port,
            queue,
            size,
            generation: 0,
            backend: None,
            receivable: 0,
            header: HDR_SIZE,
            mergeable: false,
            held: VecDeque::new(),
            spare: Vec::new(),
            buffers: 0,
            segments: 0,
            frames: Frames::default(),
            next: 0,
            pieces: Frames::default(),
            piece: 0,
            burst: Burst::default(),
        }
    }

    fn refresh(&mut self) {
        self.generation = self.port.generation();
        self.settings = self.port.settings();
        self.backend = self.port.backend();
        self.receivable = self.settings.receivable();
        self.header = header::size(self.settings.features);
        self.mergeable = self.settings.features & VIRTIO_NET_F_MRG_RXBUF != 0;
    }

    /// Delivers frames for as long as there are both frames and buffers.
    fn pump(&mut self, done: &mut Completions) -> Result<(), Fault> {
        if self.port.generation() != self.generation {
            self.refresh();
        }
        let result = self.deliver_all(done);
        if let Some(pair) = self.port.pairs.get(self.queue) {
            self.burst.received(&pair.received);
        }
        result
    }

    fn deliver_all(&mut self, done: &mut Completions) -> Result<(), Fault> {
        loop {
            while self.piece < self.pieces.len() {
                if let Fate::Waits = self.deliver(true, done)? {
                    return Ok(());
                }
                self.piece += 1;
            }
            while self.next < self.frames.len() {
                if self.frames.list()[self.next].offload.within(self.receivable) {
                    if let Fate::Waits = self.deliver(false, done)? {
                        return Ok(());
                    }
                    self.next += 1;
                    continue;
                }
                let frame = self.frames.list()[self.next];
                self.next += 1;
                self.split(&frame);
                break;
            }
            if self.piece < self.pieces.len() || self.next < self.frames.len() {
                continue;
            }
            self.frames.clear();
            self.next = 0;
            if self.buffers == 0 {
                return Ok(());
            }
            let inbox = self.port.pairs.get(self.queue).map(|pair| &pair.inbox);
            if inbox.is_some_and(|inbox| inbox.take(&mut self.frames)) {
                continue;
            }
            if let (Some(backend), true) = (&self.backend, self.settings.link) {
                backend.pull(self.queue, self.buffers.min(PULL), &mut self.frames);
            }
            if self.frames.is_empty() {
                return Ok(());
            }
        }
    }

    /// Completes a checksum, or cuts a large frame, for a driver that cannot.
    #[cold]
    fn split(&mut self, frame: &Frame) {
        self.pieces.clear();
        self.piece = 0;
        if !segment::finish(self.frames.get(frame), frame.offload, &mut self.pieces) {
            self.drop_one(false);
            return;
        }
        for piece in self.pieces.list_mut() {
            (piece.hash, piece.hash_report) = (frame.hash, frame.hash_report);
        }
    }

    fn drop_one(&self, overrun: bool) {
        if let Some(pair) = self.port.pairs.get(self.queue) {
            pair.received.drops.add(1);
            pair.received.drop_overruns.add(u64::from(overrun));
        }
    }

    /// Delivers the next frame, or the next piece of one.
    #[inline]
    fn deliver(&mut self, piece: bool, done: &mut Completions) -> Result<Fate, Fault> {
        let Some(first) = self.held.front() else {
            return Ok(Fate::Waits);
        };
        let Some(chain) = first.batch.get(first.next) else {
            return Ok(Fate::Waits);
        };
        let (frames, index) = if piece {
            (&self.pieces, self.piece)
        } else {
            (&self.frames, self.next)
        };
        let frame = &frames.list()[index];
        let size = frame.size();
        let total = self.header + size;
        if chain.writable_len < self.header as u64 {
            return Err(too_small(chain.writable_len, self.header));
        }
        let mut buffers = 1;
        if chain.writable_len < total as u64 {
            match self.count(total)? {
                Some(count) => buffers = count,
                None => return Ok(self.shortage()),
            }
        }
        let header = Header::new(&self.offload(frame), buffers as u16, frame);
        let bytes = frames.get(frame);
        self.burst.count(frame, size);
        if buffers == 1 && chain.writable.len() == 1 {
            let segment = chain.writable[0];
            // SAFETY: the batch holds the segment's memory, which has at least `total` bytes; that it is guest memory
            // is why this is no reference.
            unsafe {
                header.write(segment.host, self.header);
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), segment.host.add(self.header), size);
            }
            done.push(chain.token, total as u32);
            self.consume(1, 1);
        } else {
            let (all, used) = (header.bytes(), self.header);
            spread(
                &mut self.held,
                &all[..used],
                bytes,
                buffers,
                done,
                |held, segments| {
                    self.buffers -= 1;
                    self.segments -= segments;
                    if self.spare.len() < 4 {
                        self.spare.extend(held);
                    }
                },
            );
        }
        Ok(Fate::Delivered)
    }

    /// How many of the buffers a frame needs that does not fit into the first.
    fn count(&self, total: usize) -> Result<Option<usize>, Fault> {
        if !self.mergeable {
            return Ok(None);
        }
        let (mut room, mut count) = (0, 0);
        for held in &self.held {
            for index in held.next..held.batch.len() {
                let Some(chain) = held.batch.get(index) else {
                    continue;
                };
                if chain.writable_len < self.header as u64 {
                    return Err(too_small(chain.writable_len, self.header));
                }
                room += chain.writable_len;
                count += 1;
                if room >= total as u64 {
                    return Ok(Some(count));
                }
            }
        }
        Ok(None)
    }

    /// A frame does not fit into all buffers there are: it waits, unless there cannot be more.
    fn shortage(&self) -> Fate {
        if self.mergeable && self.buffers.max(self.segments) < self.size {
            return Fate::Waits;
        }
        self.drop_one(true);
        Fate::Dropped
    }

    /// The fields of the header, as this driver has negotiated them.
    #[inline]
    fn offload(&self, frame: &Frame) -> Offload {
        let mut offload = frame.offload;
        if offload == Offload::default() {
            return offload;
        }
        let known = if offload.in_tunnel() {
            VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_UDP_TUNNEL_CSUM
        } else {
            VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID
        };
        offload.flags &= if self.receivable == 0 { 0 } else { known };
        if offload.is_large() && self.settings.features & VIRTIO_NET_F_RSC_EXT != 0 {
            let payload = frame.size().saturating_sub(offload.hdr_len.into());
            offload.flags |= VIRTIO_NET_HDR_F_RSC_INFO;
            offload.csum_start = payload.div_ceil(usize::from(offload.gso_size).max(1)) as u16;
            // None of what comes here was coalesced from duplicated acknowledgements.
            offload.csum_offset = 0;
        }
        offload
    }

    #[inline]
    fn consume(&mut self, buffers: usize, segments: usize) {
        self.buffers -= buffers;
        self.segments -= segments;
        if let Some(first) = self.held.front_mut() {
            first.next += buffers;
            if first.next >= first.batch.len() {
                if let (Some(empty), true) = (self.held.pop_front(), self.spare.len() < 4) {
                    self.spare.push(empty);
                }
            }
        }
    }

    fn forget(&mut self) {
        self.held.clear();
        (self.buffers, self.segments) = (0, 0);
        if let (true, Some(pair)) = (std::mem::take(&mut self.open), self.port.pairs.get(self.queue)) {
            pair.open.fetch_sub(1, Ordering::Relaxed);
            self.put_back();
        }
    }

    /// What was taken and not delivered waits for the queue to be enabled again: a driver that gives it another size
    /// would lose all that is on its way, and TCP sends that again only when its time is up.
    fn put_back(&mut self) {
        let mut frames = std::mem::take(&mut self.pieces);
        let mut left = Frames::default();
        for piece in &frames.list()[self.piece..] {
            left.push_frame(&frames, piece);
        }
        frames = std::mem::take(&mut self.frames);
        for frame in &frames.list()[self.next..] {
            left.push_frame(&frames, frame);
        }
        (self.piece, self.next) = (0, 0);
        if !left.is_empty() {
            self.port.put_back(self.queue, self.driver, left);
        }
    }
}

/// Writes a frame into `buffers` buffers, all but the last to their end (5.1.9.4.1).
fn spread(
    held: &mut VecDeque<Held>,
    header: &[u8],
    bytes: &[u8],
    buffers: usize,
    done: &mut Completions,
    mut used: impl FnMut(Option<Held>, usize),
) {
    let total = header.len() + bytes.len();
    let mut at = 0;
    for _ in 0..buffers {
        let Some(first) = held.front_mut() else { return };
        let Some(chain) = first.batch.get(first.next) else {
            return;
        };
        let room = (total - at).min(usize::try_from(chain.writable_len).unwrap_or(usize::MAX));
        let mut written = 0;
        if at == 0 {
            written = chain.write_at(0, header);
        }
        let from = at + written - header.len();
        chain.write_at(written as u64, &bytes[from..from + room - written]);
        done.push(chain.token, room as u32);
        at += room;
        let segments = chain.writable.len();
        first.next += 1;
        let empty = if first.next >= first.batch.len() {
            held.pop_front()
        } else {
            None
        };
        used(empty, segments);
    }
}

#[cold]
fn too_small(room: u64, header: usize) -> Fault {
    Fault::new(
        Rule::Request,
        format!("5.1.9.3.1: a receive buffer of {room} bytes has no room for a header of {header}"),
    )
}

impl Handler for Receiver {
    fn handle(&mut self, _: &Arc<Snapshot>, batch: &Batch, done: &mut Completions) -> Result<(), Fault> {
        for chain in batch.iter() {
            if let Some(segment) = chain.writable.first() {
                // The driver's cache has the lines: claiming one after the other, as frames are written to
                // them, would take longer than all the rest.
                prefetch::for_writing(segment.host);
                prefetch::for_writing(segment.host.wrapping_add(LINE));
            }
        }
        let mut held = self.spare.pop().unwrap_or_default();
        held.batch.clone_from(batch);
        held.next = 0;
        self.buffers += batch.len();
        self.segments += batch.segment_count();
        self.held.push_back(held);
        self.pump(done)
    }

    fn reap(&mut self, done: &mut Completions) -> Result<(), Fault> {
        if self.buffers == 0 {
            return Ok(());
        }
        self.pump(done)
    }

    fn completion_fd(&self) -> Option<RawFd> {
        // Without buffers nothing can be done about a frame: the next buffer wakes the worker by itself.
        if self.buffers == 0 {
            return None;
        }
        Some(self.port.pairs.get(self.queue)?.inbox.event.as_raw_fd())
    }

    fn supplied(&self) -> bool {
        let waiting = self.next < self.frames.len() || self.piece < self.pieces.len();
        !waiting && self.buffers.max(self.segments) >= self.size.div_ceil(2)
    }

    fn release(&mut self) {
        self.forget();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.forget();
    }
}
