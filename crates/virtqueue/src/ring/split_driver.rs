//! The driver's end of a split virtqueue (VIRTIO 1.4, 2.7.13 and 2.7.14).

use super::barriers::Barriers;
use super::driver::{Buffer, Used, checked, clear, room, write_table};
use super::split_layout::{self as layout, Descriptor, Parts};
use super::wakeup::{self, SplitWords};
use super::{Config, ConfigError, Notification, SplitRing, feature};
use crate::fault::{Fault, Rule};
use crate::memory::Snapshot;
use std::collections::VecDeque;
use std::sync::Arc;

/// The driver's end of a split virtqueue.
///
/// It trusts the device no more than the device trusts it: which descriptors are free, and how
/// chains hang together, it keeps to itself.
#[derive(Debug)]
pub struct SplitDriver {
    config: Config,
    /// Keeps the ring mapped.
    memory: Arc<Snapshot>,
    parts: Parts,
    size: u16,
    mask: u16,
    barriers: Barriers,
    event_idx: bool,
    indirect: bool,
    /// For each free descriptor the next free one, for each in a chain the next in that.
    link: Box<[u16]>,
    /// For each head the number of its chain's descriptors; 0 where no chain is out.
    count: Box<[u16]>,
    /// For each head the bytes in its device-writable part.
    room: Box<[u32]>,
    /// With VIRTIO_F_IN_ORDER: the heads that are out, oldest first.
    order: Option<VecDeque<u16>>,
    free: u16,
    free_head: u16,
    next: u16,
    published: u16,
    /// The next used entry to look at, and what `used.idx` was when last read.
    seen: u16,
    used: u16,
    /// Head of the youngest chain.
    last: u16,
    /// There was nothing to take back the last time.
    waited: bool,
    broken: Option<Fault>,
}

impl SplitDriver {
    /// Takes possession of the ring in `memory`, which should be zero: both ends start at 0.
    pub fn new(config: &Config, memory: Arc<Snapshot>) -> Result<Self, Fault> {
        let refuse = |error: ConfigError| Fault::new(Rule::Alignment, error.to_string());
        // The same checks as at the other end.
        SplitRing::new(config).map_err(refuse)?;
        let event_idx = config.features & feature::EVENT_IDX != 0;
        let size = config.size;
        let part = |address, length, write| memory.contiguous(config.space, address, length, write);
        let descriptors = part(config.descriptors, layout::descriptors_size(size), true)?;
        let available = part(config.available, layout::available_size(size, event_idx), true)?;
        let used = part(config.used, layout::used_size(size, event_idx), false)?;
        for (host, align) in [(descriptors.host, 8), (available.host, 2), (used.host, 4)] {
            if host as usize % align != 0 {
                return Err(Fault::new(Rule::Alignment, "ring is misaligned in host memory"));
            }
        }
        // SAFETY: resolved with these sizes and alignments in `memory`, which is kept.
        let parts = unsafe { Parts::new(size, descriptors.host, available.host, used.host, used.guest) };
        Ok(Self {
            config: *config,
            memory,
            parts,
            size: size as u16,
            mask: (size - 1) as u16,
            barriers: Barriers::new(config.features),
            event_idx,
            indirect: config.features & feature::INDIRECT_DESC != 0,
            // The last one's is 0: in order it is a ring that is used again and again (2.7.5).
            link: (1..=size)
                .map(|next| if next == size { 0 } else { next as u16 })
                .collect(),
            count: vec![0; size as usize].into_boxed_slice(),
            room: vec![0; size as usize].into_boxed_slice(),
            order: (config.features & feature::IN_ORDER != 0).then(|| VecDeque::with_capacity(size as usize)),
            free: size as u16,
            free_head: 0,
            next: 0,
            published: 0,
            seen: 0,
            used: 0,
            last: 0,
            waited: false,
            broken: None,
        })
    }

    /// Descriptors that are free.
    pub fn free(&self) -> u16 {
        self.free
    }

    /// The head that the next chain will have, if there is room for it: for callers that keep
    /// something, such as a table, for each head.
    pub fn next_head(&self) -> u16 {
        self.free_head
    }

    /// Chains that the device has not returned.
    pub fn outstanding(&self) -> u16 {
        // Each chain made available is returned once, in either order.
        self.next.wrapping_sub(self.seen)
    }

    /// Whether there may be tables, and the queue size, which none may exceed.
    pub(super) fn tables(&self) -> (bool, u32) {
        (self.indirect, u32::from(self.size))
    }

    /// What a kick carries under VIRTIO_F_NOTIFICATION_DATA, for a queue that goes by `identifier`.
    pub fn notification(&self, identifier: u16) -> Notification {
        let next = self.published;
        Notification { identifier, next }
    }

    /// After the device has reset the queue (2.6.1): everything is as at first. Hands back the heads of the
    /// chains that were out, with those not published.
    pub fn reset(&mut self) -> Result<Vec<u16>, Fault> {
        let out = (0..self.size)
            .filter(|head| self.count[usize::from(*head)] != 0)
            .collect();
        let memory = self.memory.clone();
        let event_idx = self.event_idx;
        let size = self.config.size;
        let parts = [
            (self.config.descriptors, layout::descriptors_size(size)),
            (self.config.available, layout::available_size(size, event_idx)),
            (self.config.used, layout::used_size(size, event_idx)),
        ];
        clear(&memory, self.config.space, &parts)?;
        *self = Self::new(&self.config, memory)?;
        Ok(out)
    }

    /// Makes a chain of descriptors out of device-readable and device-writable buffers. `None` when
    /// there is no buffer or not enough room. The device sees it after `publish`.
    #[inline]
    pub fn add(&mut self, readable: &[Buffer], writable: &[Buffer]) -> Option<u16> {
        let total = readable.len() + writable.len();
        if total == 0 || total > usize::from(self.free) {
            return None;
        }
        let head = self.free_head;
        let mut index = head;
        let buffers = readable
            .iter()
            .map(|b| (b, 0))
            .chain(writable.iter().map(|b| (b, layout::WRITE)));
        for (position, (buffer, flags)) in buffers.enumerate() {
            let next = self.link[usize::from(index)];
            let more = if position + 1 < total { layout::NEXT } else { 0 };
            let descriptor = Descriptor {
                addr: buffer.address,
                len: buffer.len,
                flags: flags | more,
                next,
            };
            self.parts.set_descriptor(index, &descriptor);
            index = next;
        }
        self.offer(head, index, total as u16, room(writable));
        Some(head)
    }

    /// The same with all descriptors in a table at guest address `table`, which is the caller's until
    /// the chain is returned: one descriptor of the ring, 16 bytes of the table for each buffer.
    pub fn add_indirect(&mut self, table: u64, readable: &[Buffer], writable: &[Buffer]) -> Option<u16> {
        let total = readable.len() + writable.len();
        if !self.indirect || total == 0 || total > usize::from(self.size) || self.free == 0 {
            return None;
        }
        let buffers = readable
            .iter()
            .map(|b| (b, 0))
            .chain(writable.iter().map(|b| (b, layout::WRITE)));
        let entries = buffers.enumerate().map(|(position, (buffer, flags))| {
            let more = position + 1 < total;
            Descriptor {
                addr: buffer.address,
                len: buffer.len,
                flags: flags | if more { layout::NEXT } else { 0 },
                next: if more { position as u16 + 1 } else { 0 },
            }
        });
        write_table(&self.memory, table, total, entries)?;
        let head = self.free_head;
        let next = self.link[usize::from(head)];
        let len = total as u32 * layout::DESCRIPTOR_SIZE;
        let descriptor = Descriptor {
            addr: table,
            len,
            flags: layout::INDIRECT,
            next: 0,
        };
        self.parts.set_descriptor(head, &descriptor);
        self.offer(head, next, 1, room(writable));
        Some(head)
    }

    /// Puts a chain into the available ring and takes its descriptors off the free list.
    #[inline]
    fn offer(&mut self, head: u16, free_head: u16, count: u16, room: u32) {
        self.count[usize::from(head)] = count;
        self.room[usize::from(head)] = room;
        if let Some(order) = &mut self.order {
            order.push_back(head);
        }
        self.free -= count;
        self.free_head = free_head;
        self.last = head;
        self.parts.set_available_entry(self.next & self.mask, head);
        self.next = self.next.wrapping_add(1);
    }

    /// Shows the device all chains added; true if it wants a kick.
    #[inline]
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.next);
        if old == new {
            return false;
        }
        self.reveal();
        wakeup::kick_wanted(&self.parts, &self.barriers, (old, new), self.event_idx)
    }

    /// The same for a device that only polls, so that there is no way to kick it: what it wants is
    /// not looked at, which saves a full barrier. Who goes over to `publish` kicks once first.
    #[inline]
    pub fn reveal(&mut self) {
        if self.published != self.next {
            wakeup::show_available(&self.parts, &self.barriers, self.next);
            self.published = self.next;
        }
    }

    /// Takes back up to `max` chains that the device has used; `each` gets them in that order.
    #[inline]
    pub fn reap(&mut self, max: usize, each: impl FnMut(Used)) -> Result<usize, Fault> {
        if let Some(fault) = &self.broken {
            return Err(fault.clone());
        }
        let result = self.reap_checked(max, each);
        if let Err(fault) = &result {
            // What a device says that has broken a rule is worth nothing any more.
            self.broken = Some(fault.clone());
        }
        result
    }

    #[inline]
    fn reap_checked(&mut self, max: usize, mut each: impl FnMut(Used)) -> Result<usize, Fault> {
        // The device's line is looked at only when what it said last is not enough.
        let mut ready = self.used.wrapping_sub(self.seen);
        if usize::from(ready) < max {
            let index = wakeup::look_at_used(&self.parts, &self.barriers);
            ready = index.wrapping_sub(self.seen);
            if ready > self.outstanding() {
                let detail = format!(
                    "used idx is ahead by {ready}, {} chains are out",
                    self.outstanding()
                );
                return Err(Fault::new(Rule::UsedIndex, detail));
            }
            self.used = index;
        }
        let wanted = usize::from(ready).min(max);
        if wanted == 0 {
            self.waited = true;
            return Ok(0);
        }
        if std::mem::take(&mut self.waited) {
            // The next chain goes there, most likely; claimed while the used entry is on its way.
            self.parts.claim_available(self.next & self.mask);
            let head = if self.order.is_some() {
                self.free_head
            } else {
                self.last
            };
            self.parts.claim_descriptor(head);
        }
        let mut done = 0;
        while done < wanted {
            let (id, len) = self.parts.used_entry(self.seen & self.mask);
            let chains = if self.order.is_some() {
                self.take_back_until(id, len, ready - done as u16, &mut each)?
            } else {
                let head = self.take_back(id)?;
                each(Used {
                    head,
                    len: checked(Rule::UsedLength, head, len, self.room[usize::from(head)])?,
                });
                1
            };
            self.seen = self.seen.wrapping_add(chains);
            done += usize::from(chains);
        }
        Ok(done)
    }

    /// In order: a used entry stands for all chains up to the one that it names, those before it
    /// used completely (VIRTIO 1.4, 2.7.9).
    fn take_back_until(
        &mut self,
        id: u32,
        len: u32,
        ready: u16,
        each: &mut impl FnMut(Used),
    ) -> Result<u16, Fault> {
        let mut chains = 0;
        // No more than `used.idx` says are used.
        while chains < ready {
            let Some(head) = self.order.as_mut().and_then(VecDeque::pop_front) else {
                break;
            };
            self.take_back(u32::from(head))?;
            chains += 1;
            let room = self.room[usize::from(head)];
            if u32::from(head) == id {
                each(Used {
                    head,
                    len: checked(Rule::UsedLength, head, len, room)?,
                });
                return Ok(chains);
            }
            each(Used { head, len: room });
        }
        let detail = format!("used id {id} is not among the {ready} oldest chains that are out");
        Err(Fault::new(Rule::UsedOrder, detail))
    }

    /// Frees the descriptors of a chain that was out.
    #[inline]
    fn take_back(&mut self, id: u32) -> Result<u16, Fault> {
        let count = self.count.get(id as usize).copied().unwrap_or(0);
        if count == 0 {
            return Err(Fault::new(
                Rule::UsedId,
                format!("used id {id} is not a chain that is out"),
            ));
        }
        let head = id as u16;
        self.count[usize::from(head)] = 0;
        self.free += count;
        if self.order.is_some() {
            // Free descriptors come in ring order (2.7.5): these follow the last free one.
            return Ok(head);
        }
        let mut last = head;
        for _ in 1..count {
            last = self.link[usize::from(last)];
        }
        self.link[usize::from(last)] = self.free_head;
        self.free_head = head;
        Ok(head)
    }

    /// Asks for a notification when the next chain is used, then looks again: true if
    /// some have been used already.
    pub fn arm(&mut self) -> bool {
        wakeup::await_used(&self.parts, &self.barriers, self.seen, self.event_idx)
    }

    /// Tells the device that notifications are not needed.
    pub fn disarm(&mut self) {
        if self.event_idx {
            // An index that was just passed: it comes again after 65536 chains.
            self.parts.set_used_event(self.seen.wrapping_sub(1));
        } else {
            self.parts.set_available_flags(layout::NO_INTERRUPT);
        }
    }
}
