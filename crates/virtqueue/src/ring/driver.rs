//! The driver's end of a virtqueue, whatever its layout.

use super::packed_driver::PackedDriver;
use super::split_driver::SplitDriver;
use super::split_layout::{DESCRIPTOR_SIZE, Descriptor};
use super::{Config, IndirectPolicy, Notification, feature};
use crate::fault::{Fault, Rule};
use crate::memory::{Snapshot, Space};
use std::sync::Arc;

/// A buffer in guest memory that is offered to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Guest physical address.
    pub address: u64,
    /// Length in bytes.
    pub len: u32,
}

/// A chain that the device has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// The head (split) or buffer id (packed), as `add` returned it.
    pub head: u16,
    /// Bytes that the device says it has written.
    pub len: u32,
}

/// The driver's end of one of the layouts.
#[derive(Debug)]
pub enum Driver {
    /// VIRTIO 1.4, 2.7.
    Split(SplitDriver),
    /// VIRTIO 1.4, 2.8.
    Packed(PackedDriver),
}

macro_rules! each_layout {
    ($self:ident, $driver:ident => $call:expr) => {
        match $self {
            Driver::Split($driver) => $call,
            Driver::Packed($driver) => $call,
        }
    };
}

impl Driver {
    /// Takes possession of the ring in `memory`, which should be zero.
    pub fn new(config: &Config, memory: Arc<Snapshot>) -> Result<Self, Fault> {
        Ok(if config.features & feature::RING_PACKED != 0 {
            Self::Packed(PackedDriver::new(config, memory)?)
        } else {
            Self::Split(SplitDriver::new(config, memory)?)
        })
    }

    /// Makes a chain out of device-readable and device-writable buffers. `None` when there is no
    /// buffer or not enough room. The device sees it after `publish`.
    #[inline]
    pub fn add(&mut self, readable: &[Buffer], writable: &[Buffer]) -> Option<u16> {
        each_layout!(self, driver => driver.add(readable, writable))
    }

    /// The same with all descriptors in a table at guest address `table`, which is the caller's until
    /// the chain is returned: one descriptor of the ring, 16 bytes of the table for each buffer.
    pub fn add_indirect(&mut self, table: u64, readable: &[Buffer], writable: &[Buffer]) -> Option<u16> {
        each_layout!(self, driver => driver.add_indirect(table, readable, writable))
    }

    /// The head or id that the next chain will have, if there is room for it: for callers that keep
    /// something, such as a table, for each.
    pub fn next_head(&self) -> u16 {
        each_layout!(self, driver => driver.next_head())
    }

    /// Adds a chain in the way that `policy` chooses; `table` is room for 16 bytes for each buffer, should
    /// it choose a table, and the caller's until the chain is returned.
    #[inline]
    pub fn add_by(
        &mut self,
        policy: IndirectPolicy,
        table: u64,
        readable: &[Buffer],
        writable: &[Buffer],
    ) -> Option<u16> {
        let descriptors = (readable.len() + writable.len()).min(u32::MAX as usize) as u32;
        let (indirect, size) = match self {
            Self::Split(driver) => driver.tables(),
            Self::Packed(driver) => driver.tables(),
        };
        if indirect && policy.pays(descriptors, self.free(), size) {
            self.add_indirect(table, readable, writable)
        } else {
            self.add(readable, writable)
        }
    }

    /// What a kick carries under VIRTIO_F_NOTIFICATION_DATA, for a queue that goes by `identifier` (its
    /// index, or what the device has given under VIRTIO_F_NOTIF_CONFIG_DATA).
    pub fn notification(&self, identifier: u16) -> Notification {
        each_layout!(self, driver => driver.notification(identifier))
    }

    /// After the device has reset the queue (VIRTIO 1.4, 2.6.1): everything is as at first. Hands back all
    /// chains that were out. Another size needs a new driver's end.
    pub fn reset(&mut self) -> Result<Vec<u16>, Fault> {
        each_layout!(self, driver => driver.reset())
    }

    /// Shows the device all chains added; true if it wants a kick.
    #[inline]
    pub fn publish(&mut self) -> bool {
        each_layout!(self, driver => driver.publish())
    }

    /// The same for a device that only polls, so that there is no way to kick it: what it wants is
    /// not looked at, which saves a full barrier. Who goes over to `publish` kicks once first.
    #[inline]
    pub fn reveal(&mut self) {
        each_layout!(self, driver => driver.reveal());
    }

    /// Takes back up to `max` chains that the device has used; `each` gets them in that order. Under
    /// VIRTIO_F_IN_ORDER a few more: one used entry may stand for several.
    #[inline]
    pub fn reap(&mut self, max: usize, each: impl FnMut(Used)) -> Result<usize, Fault> {
        each_layout!(self, driver => driver.reap(max, each))
    }

    /// Asks for a notification when the next chain is used, then looks again: true if some have been
    /// used already.
    pub fn arm(&mut self) -> bool {
        each_layout!(self, driver => driver.arm())
    }

    /// Tells the device that notifications are not needed.
    pub fn disarm(&mut self) {
        each_layout!(self, driver => driver.disarm());
    }

    /// Descriptors that are free.
    pub fn free(&self) -> u32 {
        match self {
            Self::Split(driver) => driver.free().into(),
            Self::Packed(driver) => driver.free(),
        }
    }

    /// Chains that the device has not returned.
    pub fn outstanding(&self) -> u32 {
        match self {
            Self::Split(driver) => driver.outstanding().into(),
            Self::Packed(driver) => driver.outstanding(),
        }
    }
}

/// Fills parts of a ring with zeros.
pub(super) fn clear(memory: &Snapshot, space: Space, parts: &[(u64, u64)]) -> Result<(), Fault> {
    for (address, length) in parts {
        memory.write(space, *address, &vec![0; *length as usize])?;
    }
    Ok(())
}

/// Writes an indirect table of `count` entries at guest address `table`; `None` if there is no such memory.
pub(super) fn write_table(
    memory: &Snapshot,
    table: u64,
    count: usize,
    entries: impl Iterator<Item = Descriptor>,
) -> Option<()> {
    let size = count as u64 * u64::from(DESCRIPTOR_SIZE);
    let place = memory.contiguous(Space::Guest, table, size, true).ok();
    let place = place.filter(|place| place.host as usize % 8 == 0 && memory.dirty_log().is_none());
    for (position, entry) in entries.take(count).enumerate() {
        let offset = position as u64 * u64::from(DESCRIPTOR_SIZE);
        match place {
            // SAFETY: within what was resolved in `memory`, which is held, for writing; aligned to 8.
            Some(place) => unsafe { entry.write(place.host.add(offset as usize)) },
            // In two regions, or on an odd address.
            None => memory
                .write(Space::Guest, table.checked_add(offset)?, &entry.to_bytes())
                .ok()?,
        }
    }
    Some(())
}

/// Bytes of all buffers.
pub(super) fn room(writable: &[Buffer]) -> u32 {
    writable
        .iter()
        .fold(0, |sum: u32, buffer| sum.saturating_add(buffer.len))
}

/// The length that the device says it has written, if there is room for it; else it broke `rule`.
#[inline]
pub(super) fn checked(rule: Rule, id: u16, written: u32, room: u32) -> Result<u32, Fault> {
    if written > room {
        let detail = format!("{written} bytes written into buffer {id} of {room}");
        return Err(Fault::new(rule, detail));
    }
    Ok(written)
}
