//! Where the headers of a frame are. Looks at nothing that is not there.

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOST_EXTENSIONS: usize = 8;
const HOME_ADDRESS: u8 = 0xc9;

/// Offsets of the headers of an IP packet in its frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    /// Of the IP header.
    pub network: usize,
    /// 4 or 6.
    pub version: u8,
    /// Of what follows the IP header and its extensions.
    pub transport: usize,
    /// What that is.
    pub protocol: u8,
    /// Of what follows the TCP or UDP header; 0 if there is no such header, or not all of it.
    pub payload: usize,
    /// The packet is a fragment of a datagram.
    pub fragment: bool,
    /// It is one other than the first: there is no transport header.
    pub later: bool,
    /// There are IPv6 extension headers.
    pub extended: bool,
    /// Of the address in an IPv6 home address option; 0: none.
    pub home: usize,
    /// Of the address in a type 2 routing header; 0: none.
    pub routed: usize,
    /// Of the byte that says what the transport header is.
    pub next: usize,
}

impl Layers {
    /// Whether there are ports: a whole TCP or UDP header, in a packet that is no fragment.
    pub fn has_ports(&self) -> bool {
        self.payload > 0 && !self.fragment
    }
}

fn word(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]))
}

/// The VLAN that a frame is tagged with (802.1Q; the outer one).
#[inline]
pub fn vlan(frame: &[u8]) -> Option<u16> {
    match word(frame, 12)? {
        0x8100 | 0x88a8 => Some(word(frame, 14)? & 0xfff),
        _ => None,
    }
}

/// Finds the headers of an IPv4 or IPv6 packet, behind up to two VLAN tags.
pub fn dissect(frame: &[u8]) -> Option<Layers> {
    dissect_from(frame, 0)
}

/// The same for an Ethernet frame that begins at `start`, in a tunnel.
pub fn dissect_from(frame: &[u8], start: usize) -> Option<Layers> {
    let mut at = start + 12;
    let mut kind = word(frame, at)?;
    for _ in 0..2 {
        if matches!(kind, 0x8100 | 0x88a8) {
            at += 4;
            kind = word(frame, at)?;
        }
    }
    let layers = match kind {
        0x0800 => version_4(frame, at + 2)?,
        0x86dd => version_6(frame, at + 2)?,
        _ => return None,
    };
    Some(with_payload(frame, layers))
}

/// Finds the headers of the IP packet that begins at `network`, in a tunnel.
pub fn dissect_at(frame: &[u8], network: usize) -> Option<Layers> {
    let layers = match frame.get(network)? >> 4 {
        4 => version_4(frame, network)?,
        6 => version_6(frame, network)?,
        _ => return None,
    };
    Some(with_payload(frame, layers))
}

fn with_payload(frame: &[u8], mut layers: Layers) -> Layers {
    let header = match layers.protocol {
        TCP => usize::from(frame.get(layers.transport + 12).copied().unwrap_or(0) >> 4) * 4,
        UDP => 8,
        _ => 0,
    };
    let least = if layers.protocol == TCP { 20 } else { 8 };
    if header >= least && layers.transport + header <= frame.len() {
        layers.payload = layers.transport + header;
    }
    layers
}

fn version_4(frame: &[u8], network: usize) -> Option<Layers> {
    let first = *frame.get(network)?;
    let header = usize::from(first & 15) * 4;
    if first >> 4 != 4 || header < 20 || network + header > frame.len() {
        return None;
    }
    Some(Layers {
        network,
        version: 4,
        transport: network + header,
        protocol: frame[network + 9],
        // More fragments, or not the first.
        fragment: word(frame, network + 6)? & 0x3fff != 0,
        later: word(frame, network + 6)? & 0x1fff != 0,
        next: network + 9,
        ..Layers::default()
    })
}

fn version_6(frame: &[u8], network: usize) -> Option<Layers> {
    if frame.get(network)? >> 4 != 6 || network + 40 > frame.len() {
        return None;
    }
    let mut layers = Layers {
        network,
        version: 6,
        transport: network + 40,
        protocol: frame[network + 6],
        next: network + 6,
        ..Layers::default()
    };
    for _ in 0..MOST_EXTENSIONS {
        let at = layers.transport;
        let extension = matches!(
            layers.protocol,
            HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION
        );
        if !extension {
            return Some(layers);
        }
        layers.extended = true;
        let (next, size) = (*frame.get(at)?, usize::from(*frame.get(at + 1)?));
        let length = match layers.protocol {
            FRAGMENT => 8,
            AUTHENTICATION => (size + 2) * 4,
            _ => (size + 1) * 8,
        };
        if at + length > frame.len() {
            return None;
        }
        match layers.protocol {
            // An offset, or more to come.
            FRAGMENT => {
                let place = word(frame, at + 2)?;
                layers.fragment |= place & 0xfff9 != 0;
                layers.later |= place & 0xfff8 != 0;
            }
            ROUTING if frame[at + 2] == 2 && length >= 24 => layers.routed = at + 8,
            DESTINATION => layers.home = home_address(frame, at + 2, at + length).unwrap_or(layers.home),
            _ => {}
        }
        (layers.protocol, layers.next, layers.transport) = (next, at, at + length);
    }
    None
}

/// Finds the home address among destination options.
fn home_address(frame: &[u8], mut at: usize, end: usize) -> Option<usize> {
    while at < end {
        let kind = frame[at];
        if kind == 0 {
            at += 1;
            continue;
        }
        let size = usize::from(*frame.get(at + 1)?);
        if kind == HOME_ADDRESS && size == 16 && at + 18 <= end {
            return Some(at + 2);
        }
        at += 2 + size;
    }
    None
}
