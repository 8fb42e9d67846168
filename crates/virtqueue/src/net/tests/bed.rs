//! A driver in miniature: buffers in memory, handed to a handler.

use crate::chain::{Batch, Segment, Token};
use crate::fault::Fault;
use crate::memory::{GuestMemory, Snapshot};
use crate::worker::{Completions, Handler};
use std::sync::Arc;

pub struct Driver {
    memory: Vec<u8>,
    next: usize,
    tokens: u16,
    places: Vec<Vec<(usize, usize)>>,
    batch: Batch,
    snapshot: Arc<Snapshot>,
    pub done: Completions,
}

impl Driver {
    pub fn new() -> Self {
        let snapshot = GuestMemory::new().snapshot();
        let mut batch = Batch::default();
        batch.attach(&snapshot);
        Self {
            memory: vec![0xee; 4 << 20],
            next: 0,
            tokens: 0,
            places: Vec::new(),
            batch,
            snapshot,
            done: Completions::default(),
        }
    }

    fn segment(&mut self, size: usize) -> Segment {
        // Something between two pieces, so that an overrun shows.
        let at = self.next;
        self.next += size + 16;
        Segment {
            host: self.memory[at..at + size].as_mut_ptr(),
            guest: at as u64,
            len: size as u32,
        }
    }

    fn token(&mut self) -> Token {
        self.tokens += 1;
        Token::new(self.tokens - 1, 1)
    }

    /// A buffer to be read, in pieces of these sizes; the last takes what is left.
    pub fn readable(&mut self, data: &[u8], sizes: &[usize]) {
        let (mut left, mut count) = (data, 0);
        let mut sizes = sizes.iter().copied();
        while !left.is_empty() {
            let size = sizes.next().unwrap_or(left.len()).min(left.len());
            let segment = self.segment(size);
            let at = segment.guest as usize;
            self.memory[at..at + size].copy_from_slice(&left[..size]);
            self.batch.push_segment(segment);
            left = &left[size..];
            count += 1;
        }
        self.places.push(Vec::new());
        let token = self.token();
        self.batch.finish_chain(token, count, (data.len() as u64, 0));
    }

    /// A buffer to be written, in pieces of these sizes.
    pub fn writable(&mut self, sizes: &[usize]) {
        let mut places = Vec::new();
        for size in sizes {
            let segment = self.segment(*size);
            places.push((segment.guest as usize, *size));
            self.batch.push_segment(segment);
        }
        self.places.push(places);
        let token = self.token();
        let total = sizes.iter().sum::<usize>() as u64;
        self.batch.finish_chain(token, 0, (0, total));
    }

    /// Hands all buffers over that were made since.
    pub fn give(&mut self, handler: &mut dyn Handler) -> Result<(), Fault> {
        let result = handler.handle(&self.snapshot, &self.batch, &mut self.done);
        self.batch.attach(&self.snapshot);
        result
    }

    /// What has been used: each buffer's number, and what was written to it. Nothing else may have been.
    pub fn used(&mut self) -> Vec<(u16, Vec<u8>)> {
        let mut found = Vec::new();
        for (token, written) in self.done.as_slice() {
            let places = &self.places[usize::from(token.id())];
            let all: Vec<u8> = places
                .iter()
                .flat_map(|(at, size)| self.memory[*at..at + size].iter().copied())
                .collect();
            let (data, rest) = all.split_at(*written as usize);
            assert!(
                rest.iter().all(|byte| *byte == 0xee),
                "written beyond the used length"
            );
            for (at, size) in places {
                assert!(
                    self.memory[at + size..at + size + 16]
                        .iter()
                        .all(|byte| *byte == 0xee)
                );
            }
            found.push((token.id(), data.to_vec()));
        }
        self.done.clear();
        found
    }
}
