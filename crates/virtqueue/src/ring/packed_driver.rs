//! The driver's end of a packed virtqueue (VIRTIO 1.4, 2.8.21 and 2.8.22).

use super::barriers::Barriers;
use super::driver::{Buffer, Used, checked, clear, room, write_table};
use super::packed_layout::{self as layout, Head, Parts, Position};
use super::split_layout::{DESCRIPTOR_SIZE, Descriptor, INDIRECT, NEXT, WRITE};
use super::wakeup::{self, PackedWords};
use super::{Config, ConfigError, Notification, PackedRing, feature};
use crate::fault::{Fault, Rule};
use crate::memory::Snapshot;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A buffer id and what belongs to it; private, for the device may overwrite the ring.
#[derive(Clone, Copy, Debug, Default)]
struct Out {
    /// Descriptors of the list; 0: the device does not have it.
    slots: u16,
    /// Bytes in the device-writable part.
    room: u32,
}

/// The driver's end of a packed virtqueue.
#[derive(Debug)]
pub struct PackedDriver {
    config: Config,
    /// Keeps the ring mapped.
    memory: Arc<Snapshot>,
    parts: Parts,
    size: u32,
    barriers: Barriers,
    event_idx: bool,
    indirect: bool,
    in_order: bool,
    /// The next descriptor to make available, and the next that the device will use.
    next: Position,
    seen: Position,
    /// Free descriptors.
    free: u32,
    /// Free buffer ids, as a stack; in order they come and go as a queue, and none is needed.
    ids: Vec<u16>,
    next_id: u16,
    oldest_id: u16,
    out: Box<[Out]>,
    outstanding: u32,
    /// The first descriptor that the device does not see yet; all behind it are written.
    withheld: Option<(u16, Head)>,
    /// Descriptors added since the last `publish`.
    moved: u32,
    quiet: bool,
    broken: Option<Fault>,
    /// Chains that came back at once last time: so many are expected to come with the next.
    burst: usize,
}

impl PackedDriver {
    /// Takes possession of the ring in `memory`, which should be zero.
    pub fn new(config: &Config, memory: Arc<Snapshot>) -> Result<Self, Fault> {
        let refuse = |error: ConfigError| Fault::new(Rule::PackedAlignment, error.to_string());
        // The same checks as at the other end.
        PackedRing::new(config).map_err(refuse)?;
        let size = config.size;
        let part = |address, length, write| memory.contiguous(config.space, address, length, write);
        let ring = part(config.descriptors, layout::ring_size(size), true)?;
        let driver = part(config.available, layout::EVENT_SIZE, true)?;
        let device = part(config.used, layout::EVENT_SIZE, false)?;
        for (host, align) in [(ring.host, 8), (driver.host, 2), (device.host, 2)] {
            if host as usize % align != 0 {
                return Err(Fault::new(
                    Rule::PackedAlignment,
                    "ring is misaligned in host memory",
                ));
            }
        }
        // SAFETY: resolved with these sizes, alignments and rights in `memory`, which is kept.
        let parts = unsafe { Parts::new(size, ring.host, driver.host, device.host) };
        let start = Position::new(0, true);
        Ok(Self {
            config: *config,
            memory,
            parts,
            size,
            barriers: Barriers::new(config.features),
            event_idx: config.features & feature::EVENT_IDX != 0,
            indirect: config.features & feature::INDIRECT_DESC != 0,
            in_order: config.features & feature::IN_ORDER != 0,
            next: start,
            seen: start,
            free: size,
            ids: (0..size as u16).rev().collect(),
            next_id: 0,
            oldest_id: 0,
            out: vec![Out::default(); size as usize].into_boxed_slice(),
            outstanding: 0,
            withheld: None,
            moved: 0,
            quiet: false,
            broken: None,
            burst: 0,
        })
    }

    /// Descriptors that are free.
    pub fn free(&self) -> u32 {
        self.free
    }

    /// The id that the next buffer will have, if there is room for it.
    pub fn next_head(&self) -> u16 {
        if self.in_order {
            return self.next_id;
        }
        self.ids.last().copied().unwrap_or_default()
    }

    /// Chains that the device has not returned.
    pub fn outstanding(&self) -> u32 {
        self.outstanding
    }

    /// Whether there may be tables, and the queue size, which none may exceed.
    pub(super) fn tables(&self) -> (bool, u32) {
        (self.indirect, self.size)
    }

    /// What a kick carries under VIRTIO_F_NOTIFICATION_DATA, for a queue that goes by `identifier`: the
    /// next descriptor not yet made available (2.8.16).
    pub fn notification(&self, identifier: u16) -> Notification {
        let next = match self.withheld {
            Some((offset, head)) => Position::new(offset, head.flags & layout::AVAIL != 0),
            None => self.next,
        };
        Notification {
            identifier,
            next: next.word(),
        }
    }

    /// After the device has reset the queue (2.6.1): everything is as at first. Hands back the ids of the
    /// buffers that were out, with those not published.
    pub fn reset(&mut self) -> Result<Vec<u16>, Fault> {
        let out = (0u16..).zip(&self.out).filter(|(_, out)| out.slots != 0);
        let out = out.map(|(id, _)| id).collect();
        let memory = self.memory.clone();
        let parts = [
            (self.config.descriptors, layout::ring_size(self.config.size)),
            (self.config.available, layout::EVENT_SIZE),
            (self.config.used, layout::EVENT_SIZE),
        ];
        clear(&memory, self.config.space, &parts)?;
        *self = Self::new(&self.config, memory)?;
        Ok(out)
    }

    /// Makes a list of descriptors out of device-readable and device-writable buffers. `None` when
    /// there is no buffer or not enough room. The device sees it after `publish`.
    #[inline]
    pub fn add(&mut self, readable: &[Buffer], writable: &[Buffer]) -> Option<u16> {
        let total = readable.len() + writable.len();
        if total == 0 || total > self.free as usize {
            return None;
        }
        let id = self.take_id(total as u16, room(writable))?;
        let mut left = total;
        for (buffer, flags) in readable
            .iter()
            .map(|b| (b, 0))
            .chain(writable.iter().map(|b| (b, WRITE)))
        {
            left -= 1;
            let flags = flags | if left > 0 { NEXT } else { 0 };
            self.expose(
                buffer.address,
                Head {
                    len: buffer.len,
                    id,
                    flags,
                },
            );
        }
        Some(id)
    }

    /// The same with all descriptors in a table at guest address `table`, which is the caller's until
    /// the chain is returned: one descriptor of the ring, 16 bytes of the table for each buffer.
    pub fn add_indirect(&mut self, table: u64, readable: &[Buffer], writable: &[Buffer]) -> Option<u16> {
        let total = readable.len() + writable.len();
        if !self.indirect || total == 0 || total > self.size as usize || self.free == 0 {
            return None;
        }
        let buffers = readable
            .iter()
            .map(|b| (b, 0))
            .chain(writable.iter().map(|b| (b, WRITE)));
        // As in the ring, flags are the last two bytes: what a split descriptor calls `next`.
        let entries = buffers.map(|(buffer, flags)| Descriptor {
            addr: buffer.address,
            len: buffer.len,
            flags: 0,
            next: flags,
        });
        write_table(&self.memory, table, total, entries)?;
        let id = self.take_id(1, room(writable))?;
        let len = total as u32 * DESCRIPTOR_SIZE;
        self.expose(
            table,
            Head {
                len,
                id,
                flags: INDIRECT,
            },
        );
        Some(id)
    }

    #[inline]
    fn take_id(&mut self, slots: u16, room: u32) -> Option<u16> {
        let id = if self.in_order {
            let id = self.next_id;
            self.next_id = if u32::from(id) + 1 == self.size { 0 } else { id + 1 };
            id
        } else {
            self.ids.pop()?
        };
        self.out[usize::from(id)] = Out { slots, room };
        self.outstanding += 1;
        self.free -= u32::from(slots);
        Some(id)
    }

    /// Writes the next descriptor; the device does not see it before those in front of it.
    #[inline]
    fn expose(&mut self, addr: u64, mut head: Head) {
        let at = self.next;
        head.flags |= at.available();
        self.parts.set_addr(at.offset, addr);
        if self.withheld.is_none() {
            self.withheld = Some((at.offset, head));
        } else {
            self.parts.set_head(at.offset, head, Ordering::Relaxed);
        }
        self.next = at.after(1, self.size);
        self.moved += 1;
        self.parts.claim_free(self.next, self.free);
    }

    /// Shows the device all lists added; true if it wants a kick.
    #[inline]
    pub fn publish(&mut self) -> bool {
        let Some(moved) = self.show() else {
            return false;
        };
        let moved = (self.next, moved);
        wakeup::head_wanted(&self.parts, &self.barriers, moved, self.size, self.event_idx)
    }

    /// The same for a device that only polls, so that there is no way to kick it: what it wants is
    /// not looked at, which saves a full barrier. Who goes over to `publish` kicks once first.
    #[inline]
    pub fn reveal(&mut self) {
        self.show();
    }

    /// Returns how many descriptors became visible, if any.
    #[inline]
    fn show(&mut self) -> Option<u32> {
        let (offset, head) = self.withheld.take()?;
        wakeup::show_head(&self.parts, &self.barriers, offset, head);
        Some(std::mem::take(&mut self.moved))
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
        let mut done = 0;
        while done < max && self.outstanding > 0 {
            let head = wakeup::look_at_head(&self.parts, &self.barriers, self.seen.offset);
            if !head.used_at(self.seen) {
                break;
            }
            // Not this line, but the one that the next chain goes to.
            self.parts.claim(self.next);
            if done + usize::from(layout::AHEAD) < self.burst {
                self.parts.claim_ahead(self.seen);
            }
            let written = if head.flags & WRITE != 0 { head.len } else { 0 };
            if self.in_order {
                done += self.take_back_until(head.id, written, &mut each)?;
            } else {
                let out = self.take_back(head.id)?;
                self.ids.push(head.id);
                each(Used {
                    head: head.id,
                    len: checked(Rule::PackedUsedLength, head.id, written, out.room)?,
                });
                done += 1;
            }
        }
        if done > 0 {
            self.burst = done;
        }
        Ok(done)
    }

    #[inline]
    fn take_back(&mut self, id: u16) -> Result<Out, Fault> {
        match self.out.get_mut(usize::from(id)) {
            Some(out) if out.slots != 0 => {
                let out = std::mem::take(out);
                self.outstanding -= 1;
                self.free += u32::from(out.slots);
                self.seen = self.seen.after(out.slots, self.size);
                Ok(out)
            }
            _ => Err(Fault::new(
                Rule::PackedUsedId,
                format!("used id {id} is not a buffer that is out"),
            )),
        }
    }

    /// In order: a used descriptor stands for all buffers up to the one that it names, those before
    /// it used completely (2.8.8).
    #[inline]
    fn take_back_until(
        &mut self,
        id: u16,
        written: u32,
        each: &mut impl FnMut(Used),
    ) -> Result<usize, Fault> {
        let ahead = if id >= self.oldest_id {
            u32::from(id - self.oldest_id)
        } else {
            u32::from(id) + self.size - u32::from(self.oldest_id)
        };
        if u32::from(id) >= self.size || ahead >= self.outstanding {
            let detail = format!(
                "used id {id} is not among the {} buffers that are out",
                self.outstanding
            );
            return Err(Fault::new(Rule::PackedUsedOrder, detail));
        }
        for step in 0..=ahead {
            let current = self.oldest_id;
            let out = self.take_back(current)?;
            self.oldest_id = if u32::from(current) + 1 == self.size {
                0
            } else {
                current + 1
            };
            let len = if step == ahead {
                checked(Rule::PackedUsedLength, id, written, out.room)?
            } else {
                out.room
            };
            each(Used { head: current, len });
        }
        Ok(ahead as usize + 1)
    }

    /// Asks for a notification when the next chain is used, then looks again: true if some have
    /// been used already.
    pub fn arm(&mut self) -> bool {
        let asked = !self.quiet;
        let head = wakeup::await_head(&self.parts, &self.barriers, self.seen, self.event_idx, asked);
        self.quiet = false;
        self.outstanding > 0 && head.used_at(self.seen)
    }

    /// Tells the device that notifications are not needed.
    pub fn disarm(&mut self) {
        if !self.quiet {
            wakeup::set_event(&self.parts, &self.barriers, layout::EVENT_DISABLE, self.seen);
            self.quiet = true;
        }
    }
}
