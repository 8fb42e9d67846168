//! Frames in batches, each with what is left to be done to it.

use super::header::Offload;
use std::ops::Range;

/// One frame of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    start: u32,
    len: u32,
    /// What is left to be done.
    pub offload: Offload,
    /// How its hash was computed (`VIRTIO_NET_HASH_REPORT_…`).
    pub hash_report: u16,
    /// Its hash.
    pub hash: u32,
}

impl Frame {
    /// Where its bytes lie in [`Frames::data`].
    #[inline]
    pub fn range(&self) -> Range<usize> {
        self.start as usize..self.start as usize + self.len as usize
    }

    /// Its length.
    #[inline]
    pub fn size(&self) -> usize {
        self.len as usize
    }
}

/// Frames, one after the other in one piece of memory; reused, so that nothing is allocated per frame.
#[derive(Debug, Default)]
pub struct Frames {
    /// Longer than what is used: it is filled with zeros only once.
    data: Vec<u8>,
    used: usize,
    list: Vec<Frame>,
}

/// Memory that a batch of ordinary frames needs; more is given back when the batch is cleared.
const KEPT: usize = 8 << 20;

impl Frames {
    /// Frames.
    #[inline]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Bytes of all frames.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.used
    }

    /// All frames in order.
    #[inline]
    pub fn list(&self) -> &[Frame] {
        &self.list
    }

    /// The same, to set what is left to be done.
    pub fn list_mut(&mut self) -> &mut [Frame] {
        &mut self.list
    }

    /// The bytes of all frames.
    pub fn data(&self) -> &[u8] {
        &self.data[..self.used]
    }

    /// The same, to be changed.
    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.data[..self.used]
    }

    /// The bytes of a frame.
    #[inline]
    pub fn get(&self, frame: &Frame) -> &[u8] {
        &self.data[frame.range()]
    }

    /// The same, to be changed.
    #[inline]
    pub fn get_mut(&mut self, frame: &Frame) -> &mut [u8] {
        &mut self.data[frame.range()]
    }

    /// Adds a copy of a frame.
    pub fn push(&mut self, bytes: &[u8], offload: Offload) {
        self.reserve(bytes.len()).copy_from_slice(bytes);
        self.commit(0, bytes.len(), offload);
    }

    /// Adds so many copies of a frame.
    pub fn push_copies(&mut self, bytes: &[u8], count: usize) {
        let (size, first) = (bytes.len(), self.used);
        let all = self.reserve(size * count);
        let mut done = all.len().min(size);
        all[..done].copy_from_slice(&bytes[..done]);
        // Twice as much each time.
        while done < all.len() {
            let more = done.min(all.len() - done);
            all.copy_within(..more, done);
            done += more;
        }
        self.used += size * count;
        self.list.extend((0..count).map(|index| Frame {
            start: (first + index * size) as u32,
            len: size as u32,
            ..Frame::default()
        }));
    }

    /// Adds a copy of another batch's frame, with its hash.
    pub fn push_frame(&mut self, other: &Self, frame: &Frame) {
        self.push(other.get(frame), frame.offload);
        if let Some(copy) = self.list.last_mut() {
            (copy.hash, copy.hash_report) = (frame.hash, frame.hash_report);
        }
    }

    /// Adds copies of all frames of another batch.
    pub fn extend(&mut self, other: &Self) {
        let base = self.used as u32;
        self.reserve(other.used).copy_from_slice(other.data());
        self.used += other.used;
        self.list.extend(other.list.iter().map(|frame| Frame {
            start: frame.start + base,
            ..*frame
        }));
    }

    /// Room for `size` bytes, to be filled and then committed.
    #[inline]
    pub fn reserve(&mut self, size: usize) -> &mut [u8] {
        let end = self.used + size;
        if end > self.data.len() {
            self.data.resize(end.next_power_of_two().max(4096), 0);
        }
        &mut self.data[self.used..end]
    }

    /// Makes the last `size` bytes of what was reserved a frame, all but the first `skip`.
    #[inline]
    pub fn commit(&mut self, skip: usize, size: usize, offload: Offload) {
        self.list.push(Frame {
            start: (self.used + skip) as u32,
            len: (size - skip) as u32,
            offload,
            hash_report: 0,
            hash: 0,
        });
        self.used += size;
    }

    /// Forgets all frames and keeps the space.
    #[inline]
    pub fn clear(&mut self) {
        self.used = 0;
        self.list.clear();
        if self.data.len() > KEPT {
            self.data.truncate(KEPT);
            self.data.shrink_to(KEPT);
        }
    }
}
