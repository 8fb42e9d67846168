//! What a driver's notification carries (VIRTIO 1.4, 2.9).

/// The 32 bits of a notification under VIRTIO_F_NOTIFICATION_DATA.
///
/// The upper half is `next_off` and, in bit 15, `next_wrap`: for a split ring that is the available
/// index, for a packed one the place of the next descriptor with its wrap counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification {
    /// The virtqueue's index; with VIRTIO_F_NOTIF_CONFIG_DATA what the device has given for it.
    pub identifier: u16,
    /// Where the next descriptor or entry will be made available.
    pub next: u16,
}

impl Notification {
    /// As it goes over the wire.
    pub const fn to_word(self) -> u32 {
        self.identifier as u32 | (self.next as u32) << 16
    }

    /// As it came over the wire.
    pub const fn from_word(word: u32) -> Self {
        Self {
            identifier: word as u16,
            next: (word >> 16) as u16,
        }
    }
}
