//! The device's end of a split virtqueue (VIRTIO 1.4, 2.7).

use super::areas::{self, Scattered};
use super::barriers::{Barriers, Fences};
use super::inflight::SplitTracking;
use super::order::Order;
use super::split_layout::{self as layout, Parts};
use super::wakeup::{self, SplitWords};
use super::{Config, ConfigError, DeviceRing, MAX_SIZE, feature};
use crate::chain::{Batch, Token};
use crate::fault::{Fault, Rule};
use crate::memory::{Nearby, Snapshot};
use std::sync::atomic::Ordering;

/// Bit in `SplitRing::state`: the device has the chain.
pub(super) const HELD: u32 = 1 << 16;
/// The device's end of a split virtqueue.
#[derive(Debug)]
pub struct SplitRing {
    pub(super) config: Config,
    pub(super) mask: u16,
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
    /// Whether the used ring has been read, once, for where to continue.
    started: bool,
    /// The next available entry to take, and what `avail.idx` was when last read.
    pub(super) next: u16,
    pub(super) available: u16,
    /// `available` comes from a notification and has not been used yet.
    pub(super) hinted: bool,
    /// Head of the youngest chain taken, and how far one that came alone lay behind the one before: the next may well lie there, too.
    last: u16,
    stride: u16,
    /// There was nothing to take the last time.
    waited: bool,
    /// The next used entry to write, and what `used.idx` says.
    pub(super) used: u16,
    pub(super) published: u16,
    /// `VIRTQ_USED_F_NO_NOTIFY` is set.
    quiet: bool,
    /// By head: the position at which it was taken, and whether it is held.
    pub(super) state: Box<[u32]>,
    pub(super) nearby: Nearby,
    pub(super) held: u32,
    /// With in-flight memory.
    pub(super) tracking: Option<Box<SplitTracking>>,
    broken: Option<Fault>,
}

impl SplitRing {
    /// A ring that continues at `config.base`. Guest memory is not looked at yet.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        let size = config.size;
        if !size.is_power_of_two() || size > MAX_SIZE {
            return Err(ConfigError::Size(size));
        }
        let next = u16::try_from(config.base).map_err(|_| ConfigError::Base(config.base))?;
        let event_idx = config.features & feature::EVENT_IDX != 0;
        areas::check(&layout::areas(config))?;
        Ok(Self {
            config: *config,
            mask: (size - 1) as u16,
            barriers: Barriers::new(config.features),
            event_idx,
            indirect: config.features & feature::INDIRECT_DESC != 0,
            order: (config.features & feature::IN_ORDER != 0).then(Order::default),
            parts: None,
            joined: Default::default(),
            mapped: 0,
            plain: 0,
            started: false,
            next,
            available: next,
            hinted: false,
            last: 0,
            stride: 1,
            waited: false,
            used: 0,
            published: 0,
            quiet: false,
            state: vec![0; size as usize].into_boxed_slice(),
            nearby: Nearby::default(),
            held: 0,
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
        let found = areas::resolve(&areas, &self.config, Rule::Alignment, memory, &mut self.joined)?;
        if let Some([descriptors, available, used]) = found {
            // SAFETY: all three were resolved in `memory`, with the sizes and alignments that the
            // layout has. They are used only with a snapshot of the same generation, which is
            // the same snapshot.
            let parts = unsafe { Parts::new(size, descriptors.host, available.host, used.host, used.guest) };
            if !self.started {
                self.used = parts.used_idx(Ordering::Relaxed);
                self.published = self.used;
                // A predecessor may have stopped while it wanted no kicks.
                self.quiet = parts.used_flags() & layout::NO_NOTIFY != 0;
                if let Some(tracking) = &mut self.tracking {
                    if tracking.begin(size, self.used)? {
                        (self.next, self.available) = (self.used, self.used);
                    }
                }
                self.started = true;
                if self.event_idx && self.quiet {
                    // 2.7.10.2: with event indices the flags are 0.
                    self.set_quiet(memory, &parts, false);
                }
            }
            self.parts = Some(parts);
        }
        self.mapped = memory.generation();
        let told = self.tracking.is_some() || memory.dirty_log().is_some() || self.broken.is_some();
        if self.parts.is_some() && !told {
            self.plain = self.mapped;
        }
        Ok(())
    }

    #[inline(always)]
    fn take_available(
        &mut self,
        parts: &Parts,
        memory: &Snapshot,
        batch: &mut Batch,
        max: usize,
    ) -> Result<usize, Fault> {
        // The driver's line is looked at only when what it said last is not enough.
        let mut ready = self.available.wrapping_sub(self.next);
        if usize::from(ready) < max && !std::mem::take(&mut self.hinted) {
            let index = wakeup::look_at_available(parts, &self.barriers);
            ready = index.wrapping_sub(self.next);
            if u32::from(ready) > self.config.size {
                return Err(self.too_far(index));
            }
            self.available = index;
        }
        let wanted = usize::from(ready).min(max);
        if wanted == 0 {
            self.waited = true;
            return Ok(0);
        }
        if std::mem::take(&mut self.waited) {
            // The driver waits for this. Lines that are needed one after the other are on their way together: that of
            // the first descriptor, if heads go on as they did, and that of the used entry.
            parts.expect(self.last.wrapping_add(self.stride) & self.mask);
            parts.claim_used(self.used.wrapping_add(self.held as u16));
        }
        let mut near = memory.near(self.nearby);
        let mut last = 0;
        for taken in 0..wanted {
            if batch.room() == 0 {
                return Ok(taken);
            }
            let head = parts.available_entry(self.next & self.mask);
            last = head;
            if !near.is_some_and(|near| self.take_usual(memory, near, parts, batch, head)) {
                if let Err(fault) = self.take_any(memory, parts, batch, head) {
                    return self.refuse(batch, fault, taken);
                }
                near = memory.near(self.nearby);
            }
        }
        if wanted == 1 {
            self.stride = last.wrapping_sub(self.last);
        }
        self.last = last;
        Ok(wanted)
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
            Some(parts) => self.take_available(&parts, memory, batch, max),
            None => Ok(0),
        }
    }

    #[cold]
    #[inline(never)]
    fn too_far(&mut self, index: u16) -> Fault {
        let detail = format!(
            "idx {index}, device at {}, queue size {}",
            self.next, self.config.size
        );
        self.fault(Fault::new(Rule::AvailableIndex, detail))
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

    /// Whether a batch has no room for more.
    pub(super) fn is_full(&self, batch: &Batch) -> bool {
        batch.room() == 0
    }

    /// Books a chain that was taken at `self.next`.
    #[inline(always)]
    pub(super) fn book(&mut self, head: u16, room: u64) {
        if let Some(order) = &mut self.order {
            order.taken(Token::new(head, 1), room);
        }
        self.state[usize::from(head)] = HELD | u32::from(self.next);
        self.held += 1;
        self.next = self.next.wrapping_add(1);
    }

    pub(super) fn fault(&mut self, fault: Fault) -> Fault {
        self.plain = 0;
        self.broken = Some(fault.clone());
        fault
    }
}

impl DeviceRing for SplitRing {
    fn map(&mut self, memory: &Snapshot) -> Result<bool, Fault> {
        Ok(self.parts(memory)?.is_some())
    }

    fn take(&mut self, memory: &Snapshot, batch: &mut Batch, max: usize) -> Result<usize, Fault> {
        debug_assert!(batch.lies_in(memory));
        match self.plainly(memory) {
            Some(parts) => self.take_available(&parts, memory, batch, max),
            None => self.take_otherwise(memory, batch, max),
        }
    }

    fn complete(&mut self, memory: &Snapshot, token: Token, written: u32) -> Result<(), Fault> {
        self.complete_all(memory, &[(token, written)])
    }

    fn complete_all(&mut self, memory: &Snapshot, chains: &[(Token, u32)]) -> Result<(), Fault> {
        match self.plainly(memory) {
            Some(parts) if self.order.is_none() => self.complete_plainly(&parts, chains),
            Some(parts) => self.complete_in_order(&parts, chains),
            None => self.complete_otherwise(memory, chains),
        }
    }

    fn complete_together(&mut self, memory: &Snapshot, chains: &[(Token, u32)]) -> Result<(), Fault> {
        if let Some(order) = &mut self.order {
            order.tie(chains);
        }
        // One `publish` shows all that was recorded before it at once.
        self.complete_all(memory, chains)
    }

    fn publish(&mut self, memory: &Snapshot) -> Result<bool, Fault> {
        let Some((parts, old)) = self.show(memory)? else {
            return Ok(false);
        };
        let moved = (old, self.published);
        Ok(wakeup::call_wanted(&parts, &self.barriers, moved, self.event_idx))
    }

    #[inline]
    fn reveal(&mut self, memory: &Snapshot) -> Result<(), Fault> {
        self.show(memory).map(|_| ())
    }

    fn arm(&mut self, memory: &Snapshot) -> Result<bool, Fault> {
        let Some(parts) = self.parts(memory)? else {
            return Ok(false);
        };
        let log = memory.dirty_log();
        // A queue that wakes only to find a fresh log makes nothing dirty there, or no log would ever stay clean.
        let asked = !self.quiet && (!self.event_idx || log.is_some() && parts.avail_event() == self.next);
        let event_idx = self.event_idx && !asked;
        let more = wakeup::await_available(&parts, &self.barriers, self.next, event_idx, asked);
        if let Some(log) = log {
            if event_idx {
                log.mark(parts.avail_event_guest(), 2);
            } else if !asked {
                log.mark(parts.used_flags_guest(), 2);
            }
        }
        self.quiet = false;
        Ok(more)
    }

    fn disarm(&mut self, memory: &Snapshot) -> Result<(), Fault> {
        // With event indices nothing is to be done: the driver passes `avail_event` once and
        // then not again for 65536 chains.
        if !self.event_idx && !self.quiet {
            if let Some(parts) = self.parts(memory)? {
                self.set_quiet(memory, &parts, true);
            }
        }
        Ok(())
    }

    fn available_hint(&mut self, next: u16) -> u32 {
        let ahead = next.wrapping_sub(self.next);
        if u32::from(ahead) > self.config.size {
            // Old, or a lie. A lie that is not found out here is when the index is looked at again.
            return 0;
        }
        if ahead > self.available.wrapping_sub(self.next) {
            // The driver has shown the index before it notified; what ordered the notification's
            // arrival before this call orders the entries, too.
            self.barriers.read();
            self.available = next;
            self.hinted = true;
        }
        u32::from(ahead)
    }

    fn areas(&self) -> [(u64, u64, bool); 3] {
        let (size, event_idx) = (self.config.size, self.event_idx);
        [
            (self.config.descriptors, layout::descriptors_size(size), false),
            (
                self.config.available,
                layout::available_size(size, event_idx),
                false,
            ),
            (self.config.used, layout::used_size(size, event_idx), true),
        ]
    }

    fn size(&self) -> u32 {
        self.config.size
    }

    fn outstanding(&self) -> u32 {
        self.held
    }

    fn base(&self) -> u32 {
        u32::from(self.next.wrapping_sub(self.again()))
    }

    fn lost(&self) -> u32 {
        if self.tracking.is_some() {
            return 0;
        }
        self.held.saturating_sub(u32::from(self.again()))
    }

    fn position(&self) -> u32 {
        u32::from(self.next)
    }
}

impl SplitRing {
    /// How many of the youngest chains a successor can take again: those held, as far as no
    /// younger one has been completed; in order, all that the driver has not been told of.
    fn again(&self) -> u16 {
        if let Some(order) = &self.order {
            return order.len() as u16;
        }
        let mut ages: Vec<u16> = self
            .state
            .iter()
            .filter(|state| *state & HELD != 0)
            .map(|state| self.next.wrapping_sub(*state as u16))
            .collect();
        ages.sort_unstable();
        // The youngest chain has age 1.
        (1..).zip(&ages).take_while(|(age, held)| age == *held).count() as u16
    }

    fn set_quiet(&mut self, memory: &Snapshot, parts: &Parts, quiet: bool) {
        parts.set_used_flags(if quiet { layout::NO_NOTIFY } else { 0 });
        if let Some(log) = memory.dirty_log() {
            log.mark(parts.used_flags_guest(), 2);
        }
        self.quiet = quiet;
    }
}
