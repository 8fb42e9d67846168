//! The device's end of a packed virtqueue (VIRTIO 1.4, 2.8).

use super::areas::{self, Scattered};
use super::barriers::Barriers;
use super::inflight::{self, PackedTracking};
use super::order::Order;
use super::packed_layout::{self as layout, Parts, Position};
use super::packed_log::Log;
use super::wakeup::{self, PackedWords};
use super::{Config, ConfigError, DeviceRing, MAX_SIZE, feature};
use crate::chain::{Batch, Token};
use crate::fault::{Fault, Rule};
use crate::memory::{Nearby, Snapshot};
use std::sync::atomic::Ordering;

/// What is known of a buffer id.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    /// When it was taken, as a count of chains.
    pub(super) turn: u32,
    /// Descriptors that it occupies; 0: the device does not have it.
    pub(super) slots: u16,
    /// Whether `Log::buffers` knows what it may write to.
    pub(super) logged: bool,
}

/// The device's end of a packed virtqueue.
#[derive(Debug)]
pub struct PackedRing {
    pub(super) config: Config,
    pub(super) barriers: Barriers,
    event_idx: bool,
    pub(super) indirect: bool,
    /// With VIRTIO_F_IN_ORDER: completions wait here until it is their turn.
    pub(super) order: Option<Order>,
    /// Where the three parts lie, in the snapshot of generation `mapped`.
    parts: Option<Parts>,
    /// The three parts, where they lie scattered.
    joined: Scattered,
    mapped: u64,
    /// The same where chains may be taken and completed plainly (`plainly`), else 0.
    plain: u64,
    /// Whether the device's event suppression has been read, once.
    started: bool,
    pub(super) ring_guest: u64,
    event_guest: u64,
    /// The next descriptor to take, and the next to use.
    pub(super) next: Position,
    pub(super) used: Position,
    /// The first used descriptor that the driver does not see yet, as a word; all behind it are written.
    pub(super) withheld: Option<(u16, u64)>,
    /// Descriptors that `used` has moved by since the last `publish`.
    pub(super) moved: u32,
    quiet: bool,
    /// By buffer id; grows to the greatest id that the driver uses, which mostly is less than the size.
    pub(super) ids: Vec<Held>,
    pub(super) nearby: Nearby,
    pub(super) turn: u32,
    /// Chains completed, as a count that goes with `turn`.
    pub(super) completed: u32,
    /// Descriptors taken for which no used descriptor has been written.
    pub(super) busy: u32,
    /// The last chain was one buffer: so will the next one be.
    pub(super) singly: bool,
    /// Chains that came at once last time.
    pub(super) burst: usize,
    pub(super) log: Log,
    /// With in-flight memory.
    pub(super) tracking: Option<Box<PackedTracking>>,
    broken: Option<Fault>,
}

impl PackedRing {
    /// A ring that continues at `config.base`: the available position in the low half, the used one
    /// in the high half, each with its wrap counter in bit 15. Guest memory is not looked at yet.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        let size = config.size;
        if size == 0 || size > MAX_SIZE {
            return Err(ConfigError::Size(size));
        }
        areas::check(&layout::areas(config))?;
        let next = Position::from_word(config.base as u16);
        let used = Position::from_word((config.base >> 16) as u16);
        if u32::from(next.offset) >= size || u32::from(used.offset) >= size {
            return Err(ConfigError::Base(config.base));
        }
        Ok(Self {
            config: *config,
            barriers: Barriers::new(config.features),
            event_idx: config.features & feature::EVENT_IDX != 0,
            indirect: config.features & feature::INDIRECT_DESC != 0,
            order: (config.features & feature::IN_ORDER != 0).then(Order::default),
            parts: None,
            joined: Default::default(),
            mapped: 0,
            plain: 0,
            started: false,
            ring_guest: 0,
            event_guest: 0,
            next,
            used,
            withheld: None,
            moved: 0,
            quiet: false,
            ids: vec![Held::default(); size.clamp(64, 256) as usize],
            nearby: Nearby::default(),
            turn: 0,
            completed: 0,
            busy: 0,
            singly: true,
            // More than one, until it turns out otherwise.
            burst: 2,
            log: Log::default(),
            tracking: None,
            broken: None,
        })
    }

    /// The parts in `memory`, if they are mapped.
    #[inline]
    pub(super) fn parts(&mut self, memory: &Snapshot) -> Result<Option<Parts>, Fault> {
        if memory.generation() != self.mapped {
            self.resolve(memory)?;
        }
        Ok(self.parts)
    }

    /// The parts, if they are mapped in `memory` and nobody is to be told beside the driver: there is neither
    /// in-flight memory nor a dirty log, and no fault. One comparison says all of that.
    #[inline(always)]
    pub(super) fn plainly(&self, memory: &Snapshot) -> Option<Parts> {
        if memory.generation() == self.plain {
            self.parts
        } else {
            None
        }
    }

    #[cold]
    #[inline(never)]
    fn resolve(&mut self, memory: &Snapshot) -> Result<(), Fault> {
        self.parts = None;
        self.plain = 0;
        self.nearby = Nearby::default();
        let size = self.config.size;
        let areas = layout::areas(&self.config);
        let found = areas::resolve(
            &areas,
            &self.config,
            Rule::PackedAlignment,
            memory,
            &mut self.joined,
        )?;
        if let Some([ring, driver, device]) = found {
            // SAFETY: all three were resolved in `memory`, with the sizes, alignments and rights that
            // the layout needs. They are used only with a snapshot of the same generation, which
            // is the same snapshot.
            let parts = unsafe { Parts::new(size, ring.host, device.host, driver.host) };
            if !self.started {
                // A predecessor may have stopped while it wanted no kicks.
                self.quiet = parts.own_flags() == layout::EVENT_DISABLE;
                if let Some(tracking) = &mut self.tracking {
                    let flags = |offset| parts.head(offset, Ordering::Acquire).flags;
                    if let Some((used, slots)) = tracking.begin(size, self.used, flags)? {
                        (self.next, self.used) = (used, used);
                        inflight::hide(&parts, memory.dirty_log(), ring.guest, size, used, slots);
                    }
                }
                self.started = true;
            }
            self.parts = Some(parts);
            (self.ring_guest, self.event_guest) = (ring.guest, device.guest);
        }
        self.mapped = memory.generation();
        let told = self.tracking.is_some() || memory.dirty_log().is_some() || self.broken.is_some();
        if self.parts.is_some() && !told {
            self.plain = self.mapped;
        }
        Ok(())
    }

    /// Whether a batch has no room for more.
    pub(super) fn is_full(&self, batch: &Batch) -> bool {
        batch.room() == 0
    }

    pub(super) fn fault(&mut self, fault: Fault) -> Fault {
        self.plain = 0;
        self.broken = Some(fault.clone());
        fault
    }

    fn log_event(&self, memory: &Snapshot) {
        if let Some(log) = memory.dirty_log() {
            log.mark(self.event_guest, layout::EVENT_SIZE);
        }
    }
}

impl PackedRing {
    /// Takes chains as they mostly are in loops that look at nothing else, and others one by one.
    #[inline(always)]
    fn take_plainly(
        &mut self,
        parts: &Parts,
        memory: &Snapshot,
        batch: &mut Batch,
        max: usize,
    ) -> Result<usize, Fault> {
        let (first, busy) = (self.next, self.busy);
        let mut taken = 0;
        while taken < max {
            let Some(near) = memory.near(self.nearby) else {
                return self.take_each(parts, memory, batch, max);
            };
            if self.singly && self.burst > 1 {
                taken += self.take_singles(near, parts, batch, max - taken);
                if taken == max {
                    break;
                }
            }
            let (count, head) = self.take_usual(memory, near, parts, batch, max - taken);
            taken += count;
            let Some(head) = head else {
                break;
            };
            if let Err(fault) = self.take_any(memory, parts, batch, head) {
                return self.refuse(batch, fault, taken);
            }
            taken += 1;
        }
        if taken > 0 {
            self.burst = taken;
        }
        // Used descriptors will be written there. Not before: the driver may still have been at work on the lines.
        // In order one stands for many, unless their lengths are what the driver waits for.
        let last = batch.len().checked_sub(1).and_then(|last| batch.get(last));
        let alone = self.order.is_none() || last.is_some_and(|chain| chain.readable.is_empty());
        parts.claim_all(first, (self.busy - busy).min(if alone { u32::MAX } else { 1 }));
        Ok(taken)
    }

    /// The same where something is to be told of it.
    fn take_each(
        &mut self,
        parts: &Parts,
        memory: &Snapshot,
        batch: &mut Batch,
        max: usize,
    ) -> Result<usize, Fault> {
        let mut taken = 0;
        // A ring has no room for more, whatever its flags say: they may be flipped at any time.
        while taken < max && self.busy < self.config.size && !self.is_full(batch) {
            let head = wakeup::look_at_head(parts, &self.barriers, self.next.offset);
            if !head.available_at(self.next) {
                break;
            }
            if let Err(fault) = self.take_any(memory, parts, batch, head) {
                return self.refuse(batch, fault, taken);
            }
            taken += 1;
        }
        Ok(taken)
    }

    /// The same where something is to be told of it, or nothing can be taken.
    #[inline(never)]
    fn take_otherwise(&mut self, memory: &Snapshot, batch: &mut Batch, max: usize) -> Result<usize, Fault> {
        if let Some(fault) = &self.broken {
            return Err(fault.clone());
        }
        if self.tracking.is_some() {
            return self.take_tracked(memory, batch, max);
        }
        match self.parts(memory)? {
            Some(parts) => self.take_each(&parts, memory, batch, max),
            None => Ok(0),
        }
    }

    /// The chain behind `taken` others cannot be taken.
    #[cold]
    #[inline(never)]
    fn refuse(&mut self, batch: &mut Batch, fault: Fault, taken: usize) -> Result<usize, Fault> {
        batch.abandon_chain();
        if batch.waits_for_translations(&fault) {
            return Ok(taken);
        }
        let fault = self.fault(fault);
        if taken > 0 { Ok(taken) } else { Err(fault) }
    }
}

impl DeviceRing for PackedRing {
    fn map(&mut self, memory: &Snapshot) -> Result<bool, Fault> {
        Ok(self.parts(memory)?.is_some())
    }

    fn take(&mut self, memory: &Snapshot, batch: &mut Batch, max: usize) -> Result<usize, Fault> {
        debug_assert!(batch.lies_in(memory));
        match self.plainly(memory) {
            Some(parts) => self.take_plainly(&parts, memory, batch, max),
            None => self.take_otherwise(memory, batch, max),
        }
    }

    fn complete_all(&mut self, memory: &Snapshot, chains: &[(Token, u32)]) -> Result<(), Fault> {
        match self.plainly(memory) {
            Some(parts) if self.order.is_none() => self.complete_plainly(&parts, chains),
            Some(parts) => self.complete_in_order(&parts, chains),
            None => self.complete_otherwise(memory, chains),
        }
    }

    #[inline]
    fn complete(&mut self, memory: &Snapshot, token: Token, written: u32) -> Result<(), Fault> {
        self.complete_all(memory, &[(token, written)])
    }

    fn complete_together(&mut self, memory: &Snapshot, chains: &[(Token, u32)]) -> Result<(), Fault> {
        if let Some(order) = &mut self.order {
            order.tie(chains);
        }
        // One `publish` shows all that was recorded before it at once.
        self.complete_all(memory, chains)
    }

    fn publish(&mut self, memory: &Snapshot) -> Result<bool, Fault> {
        let Some((parts, moved)) = self.show(memory)? else {
            return Ok(false);
        };
        let moved = (self.used, moved);
        Ok(wakeup::head_wanted(
            &parts,
            &self.barriers,
            moved,
            self.config.size,
            self.event_idx,
        ))
    }

    #[inline]
    fn reveal(&mut self, memory: &Snapshot) -> Result<(), Fault> {
        self.show(memory).map(|_| ())
    }

    fn arm(&mut self, memory: &Snapshot) -> Result<bool, Fault> {
        let Some(parts) = self.parts(memory)? else {
            return Ok(false);
        };
        // A queue that wakes only to find a fresh log makes nothing dirty there, or no log would ever stay clean.
        let told = || memory.dirty_log().is_some() && parts.own_event_is(self.next);
        let asked = !self.quiet && (!self.event_idx || told());
        let event_idx = self.event_idx && !asked;
        let head = wakeup::await_head(&parts, &self.barriers, self.next, event_idx, asked);
        if !asked {
            self.log_event(memory);
        }
        self.quiet = false;
        Ok(head.available_at(self.next) && self.busy < self.config.size)
    }

    fn disarm(&mut self, memory: &Snapshot) -> Result<(), Fault> {
        // With event indices nothing is to be done: the driver passes the descriptor once and then
        // not again for two laps.
        if !self.event_idx && !self.quiet {
            if let Some(parts) = self.parts(memory)? {
                wakeup::set_event(&parts, &self.barriers, layout::EVENT_DISABLE, self.next);
                self.log_event(memory);
                self.quiet = true;
            }
        }
        Ok(())
    }

    fn available_hint(&mut self, next: u16) -> u32 {
        let next = Position::from_word(next);
        let size = self.config.size;
        if u32::from(next.offset) >= size {
            return 0;
        }
        // The descriptors say themselves whether they are available; this only counts them.
        let lap = if next.wrap() == self.next.wrap() { 0 } else { size };
        let ahead = (u32::from(next.offset) + lap).wrapping_sub(u32::from(self.next.offset));
        if ahead > size { 0 } else { ahead }
    }

    fn areas(&self) -> [(u64, u64, bool); 3] {
        [
            (self.config.descriptors, layout::ring_size(self.config.size), true),
            (self.config.available, layout::EVENT_SIZE, false),
            (self.config.used, layout::EVENT_SIZE, true),
        ]
    }

    fn size(&self) -> u32 {
        self.config.size
    }

    fn outstanding(&self) -> u32 {
        self.turn.wrapping_sub(self.completed)
    }

    fn base(&self) -> u32 {
        let next = if self.again() { self.used } else { self.next };
        u32::from(next.word()) | u32::from(self.used.word()) << 16
    }

    fn lost(&self) -> u32 {
        if self.again() || self.tracking.is_some() {
            0
        } else {
            self.outstanding()
        }
    }

    fn position(&self) -> u32 {
        u32::from(self.next.word()) | u32::from(self.used.word()) << 16
    }
}

impl PackedRing {
    /// Whether a successor can take all chains again that are held. If they are the youngest ones, used
    /// descriptors have been written for all before them and over none of theirs.
    fn again(&self) -> bool {
        let youngest = self.ids.iter().filter(|held| held.slots != 0).all(|held| {
            let age = self.turn.wrapping_sub(held.turn);
            age <= self.outstanding()
        });
        // In order, the driver has not heard of any behind the last used descriptor.
        youngest || self.order.is_some()
    }
}
