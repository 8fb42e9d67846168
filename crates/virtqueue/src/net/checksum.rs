//! The internet checksum (RFC 1071).

use super::layers::Layers;

/// A sum that is not folded yet, of 16-bit words in network order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes. All but the last piece must be of even length.
    #[inline]
    pub fn add(mut self, data: &[u8]) -> Self {
        let mut pieces = data.chunks_exact(8);
        let mut total = 0u64;
        for piece in &mut pieces {
            // Native order: the sum is the same in either, but for its own bytes (RFC 1071, 2B).
            let low = u32::from_ne_bytes([piece[0], piece[1], piece[2], piece[3]]);
            let high = u32::from_ne_bytes([piece[4], piece[5], piece[6], piece[7]]);
            total += u64::from(low) + u64::from(high);
        }
        for pair in pieces.remainder().chunks(2) {
            let second = pair.get(1).copied().unwrap_or(0);
            total += u64::from(u16::from_ne_bytes([pair[0], second]));
        }
        // Folded once, so that no number of additions overflows.
        self.0 += (total & 0xffff_ffff) + (total >> 32);
        self
    }

    /// Adds a number of 16 bits.
    pub fn add_word(self, word: u16) -> Self {
        self.add(&word.to_be_bytes())
    }

    /// The sum, folded.
    #[inline]
    pub fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::from_be(sum as u16)
    }

    /// The checksum. Never 0, which in UDP means that there is none; 0xffff is the same number.
    #[inline]
    pub fn checksum(self) -> u16 {
        match !self.fold() {
            0 => 0xffff,
            checksum => checksum,
        }
    }
}

/// Puts a checksum over all from `start` on at `start + offset`, which holds the pseudo header's sum.
/// False, and nothing done, if that does not lie in the frame.
pub fn complete(frame: &mut [u8], start: usize, offset: usize) -> bool {
    let field = start + offset;
    if field + 2 > frame.len() {
        return false;
    }
    let checksum = Sum::default().add(&frame[start..]).checksum();
    frame[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    true
}

/// The sum of the pseudo header of a packet whose transport header and payload have `length` bytes.
pub fn pseudo_header(frame: &[u8], layers: &Layers, length: usize) -> Sum {
    let addresses = match layers.version {
        4 => layers.network + 12..layers.network + 20,
        _ => layers.network + 8..layers.network + 40,
    };
    Sum::default()
        .add(&frame[addresses])
        .add_word(u16::from(layers.protocol))
        .add_word((length >> 16) as u16)
        .add_word(length as u16)
}

/// Puts the checksum of an IPv4 header in place.
pub fn finish_ipv4(header: &mut [u8]) {
    header[10..12].fill(0);
    let checksum = !Sum::default().add(header).fold();
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}
