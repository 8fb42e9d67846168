//! The ring and the requests in it, under one lock.

use super::Error;
use super::ledger::{Ledger, Owner, Ticket};
use crate::fault::Fault;
use crate::memory::Snapshot;
use crate::ring::{Buffer, Config, Driver, IndirectPolicy, feature};
use crate::worker::Window;
use std::sync::Arc;

/// Memory for tables of indirect descriptors: one for each head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tables {
    /// Guest address of the first.
    pub address: u64,
    /// Descriptors in each.
    pub entries: u32,
    /// When to use one.
    pub policy: IndirectPolicy,
}

impl Tables {
    /// Bytes for a queue of `size` entries.
    pub fn bytes(size: u32, entries: u32) -> u64 {
        u64::from(size) * u64::from(entries) * 16
    }

    fn of(&self, head: u16) -> u64 {
        self.address + u64::from(head) * u64::from(self.entries) * 16
    }
}

/// What a driver's end of a queue has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests made available.
    pub requests: u64,
    /// Requests that came back.
    pub completions: u64,
    /// Requests whose descriptors were in a table.
    pub indirect: u64,
    /// Bytes in device-readable buffers.
    pub bytes_readable: u64,
    /// Bytes that the device says it has written.
    pub bytes_written: u64,
    /// Times that requests were made visible.
    pub batches: u64,
    /// Of these, how often the device was notified.
    pub kicks: u64,
    /// … and how often it did not want to be.
    pub kicks_suppressed: u64,
    /// Notifications received.
    pub interrupts: u64,
    /// Looks at the ring while polling.
    pub polls: u64,
    /// Times that a thread slept until it was notified.
    pub sleeps: u64,
}

#[derive(Debug)]
pub(super) struct Engine {
    driver: Driver,
    pub(super) ledger: Ledger,
    tables: Option<Tables>,
    size: u32,
    pub(super) counters: Counters,
    pub(super) failed: Option<Error>,
    /// The device wants a notification that has not been sent.
    pub(super) kick_due: bool,
    /// Threads that are notifying the device at this moment.
    pub(super) kicking: u32,
    /// Nothing is to be made available, nor the device to be notified.
    pub(super) held: bool,
    /// Something was to be made available meanwhile.
    pub(super) unpublished: bool,
    /// Completions that those who wait have not been woken for.
    pub(super) news: bool,
    /// A thread looks at the ring for all.
    pub(super) led: bool,
    /// … and sleeps until the device notifies.
    pub(super) asleep: bool,
    /// Threads that wait for the one that looks.
    pub(super) followers: u32,
    armed: bool,
    pub(super) window: Window,
}

impl Engine {
    pub(super) fn new(
        config: &Config,
        memory: Arc<Snapshot>,
        tables: Option<Tables>,
        chunks: u32,
    ) -> Result<Self, Fault> {
        Ok(Self {
            driver: Driver::new(config, memory)?,
            ledger: Ledger::new(config.size, chunks),
            tables: tables.filter(|_| config.features & feature::INDIRECT_DESC != 0),
            size: config.size,
            counters: Counters::default(),
            failed: None,
            kick_due: false,
            kicking: 0,
            held: false,
            unpublished: false,
            news: false,
            led: false,
            asleep: false,
            followers: 0,
            // A ring of zeros asks for notifications.
            armed: true,
            window: Window::default(),
        })
    }

    /// Requests that the device has.
    pub(super) fn outstanding(&self) -> u32 {
        self.driver.outstanding()
    }

    /// What a kick carries, for a queue that goes by `identifier`.
    pub(super) fn notification(&self, identifier: u16) -> u32 {
        self.driver.notification(identifier).to_word()
    }

    /// Whether there is no descriptor left.
    #[inline]
    pub(super) fn full(&self) -> bool {
        self.driver.free() == 0
    }

    /// The head that the next request will have, unless the ring is full.
    #[inline]
    pub(super) fn next_head(&self) -> u16 {
        self.driver.next_head()
    }

    /// Whether a request of so many descriptors fits now. An error if it never does.
    #[inline]
    pub(super) fn room(&self, descriptors: usize) -> Result<bool, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let free = self.driver.free() as usize;
        if descriptors <= free && !self.in_table(descriptors) {
            return Ok(true);
        }
        if self.fits_table(descriptors) {
            return Ok(free > 0);
        }
        if descriptors > self.size as usize {
            return Err(Error::TooLarge);
        }
        Ok(descriptors <= free)
    }

    #[inline]
    fn in_table(&self, descriptors: usize) -> bool {
        let pays = |tables: &Tables| {
            tables
                .policy
                .pays(descriptors as u32, self.driver.free(), self.size)
        };
        self.fits_table(descriptors) && self.tables.as_ref().is_some_and(pays)
    }

    #[inline]
    fn fits_table(&self, descriptors: usize) -> bool {
        // A table, too, holds no more descriptors than the queue (2.7.5.3.1).
        self.tables
            .as_ref()
            .is_some_and(|tables| descriptors <= tables.entries.min(self.size) as usize)
    }

    /// Puts a request into the ring, if there is room; the device sees it after `publish`.
    #[inline]
    pub(super) fn add(
        &mut self,
        readable: &[Buffer],
        writable: &[Buffer],
        owner: Owner,
        chunk: Option<u32>,
    ) -> Option<Ticket> {
        let total = readable.len() + writable.len();
        let head = match self.tables {
            Some(tables) if self.in_table(total) => {
                let table = tables.of(self.driver.next_head());
                let head = self.driver.add_indirect(table, readable, writable)?;
                self.counters.indirect += 1;
                head
            }
            _ => self.driver.add(readable, writable)?,
        };
        self.counters.requests += 1;
        self.counters.bytes_readable += readable.iter().map(|buffer| u64::from(buffer.len)).sum::<u64>();
        Some(self.ledger.open(head, owner, chunk))
    }

    /// Shows the device what was added.
    #[inline]
    pub(super) fn publish(&mut self) {
        if self.held {
            self.unpublished = true;
            return;
        }
        self.counters.batches += 1;
        if self.driver.publish() {
            self.counters.kicks += 1;
            self.kick_due = true;
        } else {
            self.counters.kicks_suppressed += 1;
        }
    }

    /// Takes what has come back; returns how much that was.
    #[inline]
    pub(super) fn turn(&mut self) -> Result<usize, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let (ledger, counters) = (&mut self.ledger, &mut self.counters);
        let mut written = 0;
        let reaped = self.driver.reap(self.size as usize, |used| {
            written += u64::from(used.len);
            ledger.finish(used);
        });
        counters.bytes_written += written;
        match reaped {
            Ok(count) => {
                counters.completions += count as u64;
                self.news |= count > 0;
                Ok(count)
            }
            Err(fault) => {
                self.failed = Some(Error::Fault(fault.clone()));
                self.news = true;
                Err(Error::Fault(fault))
            }
        }
    }

    /// Asks for a notification at the next completion; true if there are completions already.
    pub(super) fn arm(&mut self) -> bool {
        self.armed = true;
        self.driver.arm()
    }

    /// No notifications are needed while someone polls, unless an event loop relies on them.
    pub(super) fn disarm(&mut self) {
        if self.armed && self.ledger.watched == 0 {
            self.driver.disarm();
            self.armed = false;
        }
    }
}
