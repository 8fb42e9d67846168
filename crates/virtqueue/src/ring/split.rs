//! The device's end of a split virtqueue (VIRTIO 1.4, 2.7).

use super::areas::{self, Scattered};
use super::barriers::{Barriers, Fences};
use super::inflight::SplitTracking;
use super::order::{self, Order};
use super::split_layout::{self as layout, Parts};
use super::wakeup::{self, SplitWords};
use super::{Config, ConfigError, DeviceRing, MAX_SIZE, feature};
use crate::chain::{Batch, Token};
use crate::fault::{Fault, Rule};
use crate::memory::{Nearby, Snapshot};
use std::sync::atomic::Ordering;

/// Bit in `SplitRing::state`: the device has the chain.
pub(super) const HELD: u32 = 1 << 16;
/// A batch is full when it has so many segments, however few chains those are.
const BATCH_SEGMENTS: usize = 4096;
/// The device's end of a split virtqueue.
#[derive(Debug)]
pub struct SplitRing {
    pub(super) config: Config,
    mask: u16,
    barriers: Barriers,
    event_idx: bool,
    pub(super) indirect: bool,
    /// With VIRTIO_F_IN_ORDER: completions wait here until it is their turn.
    order: Option<Order>,
    /// Where the three parts lie, in the snapshot of generation `mapped`.
    parts: Option<Parts>,
    /// The three parts, where they lie scattered.
    joined: Scattered,
    mapped: u64,
    /// Whether the used ring has been read, once, for where to continue.
    started: bool,
    /// The next available entry to take, and what `avail.idx` was when last read.
    pub(super) next: u16,
    pub(super) available: u16,
    /// `available` comes from a notification and has not been used yet.
    pub(super) hinted: bool,
    /// The next used entry to write, and what `used.idx` says.
    used: u16,
    published: u16,
    /// `VIRTQ_USED_F_NO_NOTIFY` is set.
    quiet: bool,
    /// By head: the position at which it was taken, and whether it is held.
    pub(super) state: Box<[u32]>,
    nearby: Nearby,
    held: u32,
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
            started: false,
            next,
            available: next,
            hinted: false,
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

    #[cold]
    fn resolve(&mut self, memory: &Snapshot) -> Result<(), Fault> {
        self.parts = None;
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
        Ok(())
    }

    /// Takes the chain that the driver put at `self.next`.
    #[inline(always)]
    fn take_one(&mut self, memory: &Snapshot, parts: &Parts, batch: &mut Batch) -> Result<(), Fault> {
        let head = parts.available_entry(self.next & self.mask);
        let size = self.config.size;
        match self.state.get(usize::from(head)) {
            None => {
                return Err(Fault::with(Rule::DescriptorIndex, || {
                    format!("head {head}, queue size {size}")
                }));
            }
            Some(state) if state & HELD != 0 => {
                return Err(Fault::with(Rule::DescriptorIndex, || {
                    format!("head {head} is in use already")
                }));
            }
            Some(_) => {}
        }
        if self
            .order
            .as_ref()
            .is_some_and(|order| order.len() >= size as usize)
        {
            // Chains that are complete, but not told of yet for the sake of their order, are not the
            // driver's to offer again.
            return Err(Fault::with(Rule::AvailableIndex, || {
                format!("{size} chains are not used yet")
            }));
        }
        let room = self.walk_from(memory, parts, batch, head)?;
        self.book(head, room);
        Ok(())
    }

    /// Whether a batch has no room for more.
    pub(super) fn is_full(&self, batch: &Batch) -> bool {
        batch.segment_count() >= BATCH_SEGMENTS
    }

    /// Books a chain that was taken at `self.next`.
    #[inline(always)]
    pub(super) fn book(&mut self, head: u16, room: u64) {
        if let Some(order) = &mut self.order {
            order.taken(Token { id: head, slots: 1 }, room);
        }
        self.state[usize::from(head)] = HELD | u32::from(self.next);
        self.held += 1;
        self.next = self.next.wrapping_add(1);
    }

    /// Walks the chain at `head`, which is less than the size, into `batch`; returns what [`order::room`] says.
    #[inline(always)]
    pub(super) fn walk_from(
        &mut self,
        memory: &Snapshot,
        parts: &Parts,
        batch: &mut Batch,
        head: u16,
    ) -> Result<u64, Fault> {
        let descriptor = parts.descriptor(head);
        if descriptor.flags & (layout::INDIRECT | layout::NEXT) == 0 {
            // One buffer in one piece of memory, as most are: nothing to keep count of.
            let write = descriptor.flags & layout::WRITE != 0;
            let found = memory.segment_nearby(self.nearby, descriptor.addr, descriptor.len, write);
            if let Some(segment) = found {
                batch.push_single(Token { id: head, slots: 1 }, segment, write);
                let len = u64::from(descriptor.len);
                return Ok(if write { order::room(0, len) } else { 0 });
            }
        }
        let mut nearby = self.nearby;
        let room = if descriptor.flags & layout::INDIRECT != 0 {
            self.walk_only_table(memory, &mut nearby, batch, head, descriptor)?
        } else {
            self.walk(memory, &mut nearby, parts, batch, head)?
        };
        self.nearby = nearby;
        Ok(room)
    }

    pub(super) fn fault(&mut self, fault: Fault) -> Fault {
        self.broken = Some(fault.clone());
        fault
    }
}

impl DeviceRing for SplitRing {
    fn map(&mut self, memory: &Snapshot) -> Result<bool, Fault> {
        Ok(self.parts(memory)?.is_some())
    }

    fn take(&mut self, memory: &Snapshot, batch: &mut Batch, max: usize) -> Result<usize, Fault> {
        if let Some(fault) = &self.broken {
            return Err(fault.clone());
        }
        debug_assert!(batch.lies_in(memory));
        if self.tracking.is_some() {
            return self.take_tracked(memory, batch, max);
        }
        let Some(parts) = self.parts(memory)? else {
            return Ok(0);
        };
        // The driver's line is looked at only when what it said last is not enough.
        let mut ready = self.available.wrapping_sub(self.next);
        if usize::from(ready) < max && !std::mem::take(&mut self.hinted) {
            let index = wakeup::look_at_available(&parts, &self.barriers);
            ready = index.wrapping_sub(self.next);
            if u32::from(ready) > self.config.size {
                let detail = format!(
                    "idx {index}, device at {}, queue size {}",
                    self.next, self.config.size
                );
                return Err(self.fault(Fault::new(Rule::AvailableIndex, detail)));
            }
            self.available = index;
        }
        let wanted = usize::from(ready).min(max);
        for taken in 0..wanted {
            if batch.segment_count() >= BATCH_SEGMENTS {
                return Ok(taken);
            }
            if let Err(fault) = self.take_one(memory, &parts, batch) {
                batch.abandon_chain();
                if batch.waits_for_translations(&fault) {
                    return Ok(taken);
                }
                let fault = self.fault(fault);
                return if taken > 0 { Ok(taken) } else { Err(fault) };
            }
        }
        Ok(wanted)
    }

    fn complete(&mut self, memory: &Snapshot, token: Token, written: u32) -> Result<(), Fault> {
        self.complete_all(memory, &[(token, written)])
    }

    fn complete_all(&mut self, memory: &Snapshot, chains: &[(Token, u32)]) -> Result<(), Fault> {
        for (token, written) in chains {
            self.complete_one(memory, *token, *written)?;
        }
        if let Some(tracking) = &mut self.tracking {
            tracking.complete(chains);
        }
        Ok(())
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

    #[inline]
    fn complete_one(&mut self, memory: &Snapshot, token: Token, written: u32) -> Result<(), Fault> {
        let Some(parts) = self.parts(memory)? else {
            return Err(Fault::with(Rule::Address, || {
                "completion while the ring is not mapped".to_owned()
            }));
        };
        match self.state.get_mut(usize::from(token.id)) {
            Some(state) if *state & HELD != 0 => *state = 0,
            _ => {
                return Err(Fault::with(Rule::Device, || {
                    format!("chain {} completed twice", token.id)
                }));
            }
        }
        self.held -= 1;
        if memory.dirty_log().is_some() {
            self.log_buffers(memory, &parts, token.id, written);
        }
        match &mut self.order {
            Some(order) => {
                order.completed(token.id, written);
                while let Some(group) = self.order.as_mut().and_then(|order| order.next_group(false)) {
                    self.write_used(memory, &parts, group.id, group.chains, group.written);
                }
            }
            None => self.write_used(memory, &parts, token.id, 1, written),
        }
        Ok(())
    }

    /// Moves `used.idx` over all completions; returns what it was, if there are any.
    #[inline]
    fn show(&mut self, memory: &Snapshot) -> Result<Option<(Parts, u16)>, Fault> {
        let Some(parts) = self.parts(memory)? else {
            return Ok(None);
        };
        while let Some(group) = self.order.as_mut().and_then(|order| order.next_group(true)) {
            self.write_used(memory, &parts, group.id, group.chains, group.written);
        }
        let (old, new) = (self.published, self.used);
        if old == new {
            return Ok(None);
        }
        if let Some(tracking) = &mut self.tracking {
            tracking.publishing(new.wrapping_sub(old));
            #[cfg(test)]
            if !tracking.lives_on() {
                return Ok(None);
            }
        }
        wakeup::show_used(&parts, &self.barriers, new);
        if let Some(tracking) = &mut self.tracking {
            tracking.published(new);
        }
        if let Some(log) = memory.dirty_log() {
            log.mark(parts.used_idx_guest(), 2);
        }
        self.published = new;
        Ok(Some((parts, old)))
    }

    /// Writes a used entry that stands for `chains` chains.
    #[inline]
    fn write_used(&mut self, memory: &Snapshot, parts: &Parts, id: u16, chains: u16, written: u32) {
        let slot = self.used & self.mask;
        parts.set_used_entry(slot, u32::from(id), written);
        // After the store: whoever copies a page because of its mark has to find it there.
        if let Some(log) = memory.dirty_log() {
            log.mark(parts.used_entry_guest(slot), layout::USED_ENTRY_SIZE);
        }
        self.used = self.used.wrapping_add(chains);
    }

    fn set_quiet(&mut self, memory: &Snapshot, parts: &Parts, quiet: bool) {
        parts.set_used_flags(if quiet { layout::NO_NOTIFY } else { 0 });
        if let Some(log) = memory.dirty_log() {
            log.mark(parts.used_flags_guest(), 2);
        }
        self.quiet = quiet;
    }
}
