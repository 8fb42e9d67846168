//! Which incoming frames the driver wants (VIRTIO 1.4, 5.1.9.5.1 to 5.1.9.5.3).

use super::layers::vlan;
use std::collections::HashSet;

/// A MAC address.
pub type Mac = [u8; 6];
const BROADCAST: Mac = [0xff; 6];

/// A set of VLANs.
pub type Vlans = [u64; 64];

/// Receive modes, addresses and VLANs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Everything is wanted.
    pub promiscuous: bool,
    /// All multicast is wanted.
    pub all_multicast: bool,
    /// All unicast is wanted.
    pub all_unicast: bool,
    /// No multicast is wanted.
    pub no_multicast: bool,
    /// No unicast is wanted.
    pub no_unicast: bool,
    /// No broadcast is wanted.
    pub no_broadcast: bool,
    /// The device's address.
    pub mac: Mac,
    /// Other addresses that are wanted.
    pub macs: HashSet<Mac>,
    /// VLANs whose tagged frames are wanted; `None`: all.
    pub vlans: Option<Box<Vlans>>,
}

impl Filter {
    /// Whether the driver wants a frame (of at least 14 bytes).
    #[inline]
    pub fn accepts(&self, frame: &[u8]) -> bool {
        if let Some(vlans) = &self.vlans {
            let wanted = |id: u16| vlans[usize::from(id >> 6)] & 1 << (id & 63) != 0;
            if vlan(frame).is_some_and(|id| !wanted(id)) {
                return false;
            }
        }
        self.promiscuous || self.accepts_address(frame)
    }

    fn accepts_address(&self, frame: &[u8]) -> bool {
        let Some(Ok(address)) = frame.get(..6).map(Mac::try_from) else {
            return false;
        };
        if address == BROADCAST {
            !self.no_broadcast
        } else if address[0] & 1 != 0 {
            !self.no_multicast && (self.all_multicast || self.macs.contains(&address))
        } else {
            !self.no_unicast && (self.all_unicast || address == self.mac || self.macs.contains(&address))
        }
    }
}
