//! Writes packed rings by hand, as either end.

use super::*;
use crate::ring::packed_layout::{AVAIL, Position, USED};

pub(super) const PACKED: u128 = feature::RING_PACKED | ALL;

pub(super) struct RawPacked {
    pub(super) rig: Loopback,
    pub(super) memory: Arc<Snapshot>,
    /// Where the next descriptor goes.
    pub(super) next: Position,
}

impl RawPacked {
    pub(super) fn new(size: u32, features: u128) -> Self {
        let rig = Loopback::new(size, features | feature::RING_PACKED, 1 << 20).unwrap();
        let memory = rig.memory.snapshot();
        let next = Position::from_word(0x8000);
        Self { rig, memory, next }
    }

    pub(super) fn buffer(&self) -> u64 {
        self.rig.buffers
    }

    pub(super) fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write(Space::Guest, address, bytes).unwrap();
    }

    /// A descriptor as it lies in memory, wherever that is.
    pub(super) fn descriptor_at(&self, address: u64, addr: u64, len: u32, id: u16, flags: u16) {
        self.put(address, &addr.to_le_bytes());
        self.put(address + 8, &len.to_le_bytes());
        self.put(address + 12, &id.to_le_bytes());
        self.put(address + 14, &flags.to_le_bytes());
    }

    pub(super) fn descriptor(&self, offset: u16, addr: u64, len: u32, id: u16, flags: u16) {
        let address = self.rig.config.descriptors + 16 * u64::from(offset);
        self.descriptor_at(address, addr, len, id, flags);
    }

    /// Makes the next descriptor available.
    pub(super) fn offer(&mut self, addr: u64, len: u32, id: u16, flags: u16) {
        let at = self.next;
        self.descriptor(at.offset, addr, len, id, flags | at.available());
        self.next = at.after(1, self.rig.config.size);
    }

    /// Sets the two flags of a descriptor and leaves all else.
    pub(super) fn flip(&self, offset: u16, available: bool, used: bool) {
        let address = self.rig.config.descriptors + 16 * u64::from(offset) + 14;
        let mut bytes = [0; 2];
        self.memory.read(Space::Guest, address, &mut bytes).unwrap();
        let mut flags = u16::from_le_bytes(bytes) & !(AVAIL | USED);
        flags |= if available { AVAIL } else { 0 } | if used { USED } else { 0 };
        self.put(address, &flags.to_le_bytes());
    }

    pub(super) fn device(&self) -> Ring {
        Ring::new(&self.rig.config).unwrap()
    }

    pub(super) fn batch(&self) -> Batch {
        let mut batch = Batch::default();
        batch.attach(&self.memory);
        batch
    }

    /// What the device takes: id, descriptors, lengths.
    pub(super) fn take(&self, device: &mut Ring) -> Result<Vec<(Token, u64, u64)>, Fault> {
        let mut batch = self.batch();
        let n = device.take(&self.memory, &mut batch, 256)?;
        assert_eq!(n, batch.len(), "as many as it says");
        Ok(batch
            .iter()
            .map(|c| (c.token, c.readable_len, c.writable_len))
            .collect())
    }
}
