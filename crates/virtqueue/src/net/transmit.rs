//! A transmit queue: frames out of the driver's buffers (VIRTIO 1.4, 5.1.9.2).

use super::frames::Frames;
use super::header::{self, MAX_FRAME, Malformed, Offload, asks, check, check_size};
use super::port::{Backend, Port, Settings};
use super::segment;
use super::simple::HOST_OFFLOADS;
use super::steering::Steering;
use super::tally::Burst;
use crate::chain::{Batch, Chain};
use crate::fault::Fault;
use crate::memory::Snapshot;
use crate::prefetch::{self, LINE};
use crate::spec::net::*;
use crate::worker::{Completions, Handler};
use std::sync::Arc;

/// Frames are handed on at the latest when there are so many bytes of them.
const BURST_BYTES: usize = 256 << 10;

/// Takes frames out of one transmit queue.
pub struct Transmitter {
    port: Arc<Port>,
    queue: usize,
    generation: u64,
    settings: Arc<Settings>,
    backend: Option<Arc<dyn Backend>>,
    accepts: u128,
    header: usize,
    /// Whether this driver may ask for something in a header. If not, the header's line stays in the driver's cache.
    heeded: bool,
    frames: Frames,
    finished: Frames,
    burst: Burst,
}

impl Transmitter {
    /// A handler for transmit queue `queue` (from 0).
    pub fn new(port: Arc<Port>, queue: usize) -> Self {
        Self {
            settings: port.settings(),
            port,
            queue,
            generation: 0,
            backend: None,
            accepts: 0,
            header: HDR_SIZE,
            heeded: true,
            frames: Frames::default(),
            finished: Frames::default(),
            burst: Burst::default(),
        }
    }

    fn refresh(&mut self) {
        self.generation = self.port.generation();
        self.settings = self.port.settings();
        self.backend = self.port.backend();
        self.accepts = self.backend.as_ref().map_or(0, |backend| backend.accepts());
        self.header = header::size(self.settings.features);
        self.heeded = self.settings.features & HOST_OFFLOADS != 0;
    }

    /// Copies a frame out of guest memory, then looks at the copy.
    #[inline]
    fn take(&mut self, chain: &Chain<'_>) -> Result<(), Malformed> {
        let total = chain.readable_len;
        if total < self.header as u64 {
            return Err(Malformed::Short);
        }
        if total > (self.header + MAX_FRAME) as u64 {
            return Err(Malformed::Long);
        }
        let skip = if self.heeded { 0 } else { self.header };
        let total = total as usize - skip;
        let copy = self.frames.reserve(total);
        if let [segment] = chain.readable {
            // SAFETY: the batch holds the segment's memory; as it is guest memory there is no reference to it.
            unsafe { std::ptr::copy_nonoverlapping(segment.host.add(skip), copy.as_mut_ptr(), total) };
        } else {
            chain.read_at(skip as u64, copy);
        }
        if skip > 0 {
            check_size(copy)?;
            self.frames.commit(0, total, Offload::default());
            return Ok(());
        }
        let (head, frame) = copy.split_at(self.header);
        let Some(Ok(fields)) = head.get(..10).map(<&[u8; 10]>::try_from) else {
            return Err(Malformed::Short);
        };
        if !asks(fields[HDR_FLAGS], fields[HDR_GSO_TYPE]) {
            // As it mostly is; by itself, as the compiler would have the fields come to and fro in pieces.
            check_size(frame)?;
            self.frames.commit(self.header, total, Offload::default());
            return Ok(());
        }
        let mut offload = Offload::parse(fields);
        if self.header >= TUNNEL_HDR_SIZE {
            offload.parse_tunnel(head);
        }
        let offload = check(offload, frame, self.settings.features)?;
        self.frames.commit(self.header, total, offload);
        Ok(())
    }

    /// Hands the frames on.
    fn flush(&mut self) {
        if self.frames.is_empty() {
            return;
        }
        if self.account() {
            self.finish();
        }
        let Some(pair) = self.port.pairs.get(self.queue) else {
            return;
        };
        let packets = self.frames.len() as u64;
        match &self.backend {
            Some(backend) if self.settings.link => {
                let bytes = self.frames.list().iter().map(|frame| frame.size() as u64);
                pair.transmitted.packets.add(packets);
                pair.transmitted.bytes.add(bytes.sum());
                backend.transmit(self.queue, &mut self.frames);
            }
            _ => pair.transmitted.drops.add(packets),
        }
        self.frames.clear();
    }

    /// Counts what the driver asks for, and learns its flows. Whether something must be done in software.
    fn account(&mut self) -> bool {
        let Some(pair) = self.port.pairs.get(self.queue) else {
            return false;
        };
        let tally = &pair.transmitted;
        let (mut needs_work, mut whole, mut whole_bytes) = (false, 0, 0);
        for frame in self.frames.list() {
            self.burst.count(frame, frame.size());
            if !frame.offload.within(self.accepts) {
                needs_work = true;
            } else if frame.offload.is_large() {
                whole += 1;
                whole_bytes += frame.size() as u64;
            }
        }
        self.burst.asked(tally);
        if whole > 0 {
            tally.gso_packets_noseg.add(whole);
            tally.gso_bytes_noseg.add(whole_bytes);
        }
        if let Steering::Automatic(2..) = self.settings.steering {
            for frame in self.frames.list() {
                self.port.flows.learn(self.frames.get(frame), self.queue as u16);
            }
        }
        needs_work
    }

    /// Does in software what the back end cannot.
    #[cold]
    fn finish(&mut self) {
        let Some(pair) = self.port.pairs.get(self.queue) else {
            return;
        };
        let tally = &pair.transmitted;
        self.finished.clear();
        for frame in self.frames.list() {
            if frame.offload.within(self.accepts) {
                self.finished.push_frame(&self.frames, frame);
                continue;
            }
            let (count, bytes) = (self.finished.len(), self.finished.bytes());
            if !segment::finish(self.frames.get(frame), frame.offload, &mut self.finished) {
                tally.refuse(Malformed::GsoHeaders);
            } else if frame.offload.is_large() {
                tally.gso_segments.add((self.finished.len() - count) as u64);
                tally
                    .gso_segments_bytes
                    .add((self.finished.bytes() - bytes) as u64);
            }
        }
        std::mem::swap(&mut self.frames, &mut self.finished);
    }
}

impl Handler for Transmitter {
    fn handle(&mut self, _: &Arc<Snapshot>, batch: &Batch, done: &mut Completions) -> Result<(), Fault> {
        if self.port.generation() != self.generation {
            self.refresh();
        }
        for chain in batch.iter() {
            if let Some(segment) = chain.readable.first() {
                // The start of a frame, with its header if that counts: all of them are on their way while the first
                // is copied.
                let skip = if self.heeded { 0 } else { self.header };
                let more = LINE.min((segment.len as usize).saturating_sub(skip + 1));
                prefetch::for_reading(segment.host.wrapping_add(skip));
                prefetch::for_reading(segment.host.wrapping_add(skip + more));
            }
        }
        for chain in batch.iter() {
            if let Err(why) = self.take(&chain) {
                if let Some(pair) = self.port.pairs.get(self.queue) {
                    pair.transmitted.refuse(why);
                }
            }
            done.push(chain.token, 0);
            if self.frames.bytes() >= BURST_BYTES {
                self.flush();
            }
        }
        self.flush();
        Ok(())
    }

    fn unhurried(&self) -> bool {
        true
    }
}
