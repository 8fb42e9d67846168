//! From a descriptor chain to a checked request (sections 5.2.6 and 5.2.6.2).
//!
//! The header, the data and the status byte lie in the chain one after the other and may be cut
//! into segments anywhere (section 2.6.4). Everything is read once and copied before it is checked.

use super::engine::Kind;
use super::segments;
use super::tally::Refusal;
use super::target::{Limits, Target};
use crate::chain::{Chain, Segment};
use crate::fault::{Fault, Rule};
use crate::spec::block::*;
use libc::iovec;

/// What requests of one queue are held to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub features: u128,
    pub limits: Limits,
    pub read_only: bool,
}

/// One `struct virtio_blk_discard_write_zeroes`, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub offset: u64,
    pub len: u64,
    pub unmap: bool,
}

/// What a request asks for. Data and ranges go to the lists given to `parse`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Refuse(Refusal),
    /// `Kind::Read` or `Kind::Write`.
    Transfer {
        kind: Kind,
        offset: u64,
        len: u64,
    },
    Flush,
    Identify,
    Lifetime,
    /// `Kind::Discard`, `Kind::WriteZeroes` or `Kind::SecureErase`.
    Ranges(Kind),
}

/// A chain that has a header and a status byte.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub status: *mut u8,
    /// Its guest address.
    pub status_guest: u64,
    /// Device-writable bytes before the status byte.
    pub data_in: u64,
    pub action: Action,
}

/// Lists that `parse` fills; they keep their space from request to request.
#[derive(Debug, Default)]
pub(super) struct Lists {
    pub data: Vec<iovec>,
    pub ranges: Vec<Range>,
}

fn fault(detail: String) -> Fault {
    Fault {
        rule: Rule::Request,
        detail,
    }
}

fn word(bytes: &[u8; 16], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn double_word(bytes: &[u8; 16], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}

impl Rules {
    pub(super) fn new(target: &Target, mut features: u128) -> Self {
        let limits = target.limits();
        // 0 in these fields says nothing, whatever the feature bits say.
        if limits.size_max == 0 {
            features &= !VIRTIO_BLK_F_SIZE_MAX;
        }
        if limits.seg_max == 0 {
            features &= !VIRTIO_BLK_F_SEG_MAX;
        }
        Self {
            features,
            limits,
            read_only: target.read_only(),
        }
    }

    fn negotiated(&self, feature: u128) -> bool {
        self.features & feature != 0
    }

    /// Whether a write must be stable when it is completed: where neither FLUSH nor CONFIG_WCE was
    /// negotiated the driver takes the cache to be write-through, else `writeback` decides.
    pub(super) fn write_through(&self, target: &Target) -> bool {
        !self.negotiated(VIRTIO_BLK_F_FLUSH | VIRTIO_BLK_F_CONFIG_WCE) || !target.writeback()
    }

    /// Parses a chain. `lists` are empty.
    pub(super) fn parse(
        &self,
        chain: &Chain<'_>,
        capacity: u64,
        lists: &mut Lists,
    ) -> Result<Request, Fault> {
        let mut header = [0; HEADER_SIZE];
        if chain.read_at(0, &mut header) < HEADER_SIZE {
            let bytes = chain.readable_len;
            return Err(fault(format!(
                "5.2.6: no room for a request header in {bytes} device-readable bytes"
            )));
        }
        let Some((status, status_guest)) = segments::last_byte(chain.writable) else {
            return Err(fault("5.2.6: no device-writable byte for the status".into()));
        };
        let data_in = chain.writable_len - 1;
        let action = self.action(&header, chain, data_in, capacity, lists);
        Ok(Request {
            status,
            status_guest,
            data_in,
            action: action.unwrap_or_else(Action::Refuse),
        })
    }

    fn action(
        &self,
        header: &[u8; HEADER_SIZE],
        chain: &Chain<'_>,
        data_in: u64,
        capacity: u64,
        lists: &mut Lists,
    ) -> Result<Action, Refusal> {
        let (kind, sector) = (word(header, HEADER_TYPE), double_word(header, HEADER_SECTOR));
        match kind {
            VIRTIO_BLK_T_IN => {
                let action = transfer(Kind::Read, sector, data_in, capacity)?;
                self.check_segments(chain.writable, 0, data_in)?;
                segments::scatter(chain.writable, 0, data_in, &mut lists.data);
                Ok(action)
            }
            VIRTIO_BLK_T_OUT if self.read_only => Err(Refusal::ReadOnly),
            VIRTIO_BLK_T_OUT => {
                let (skip, data_out) = (HEADER_SIZE as u64, chain.readable_len - HEADER_SIZE as u64);
                let action = transfer(Kind::Write, sector, data_out, capacity)?;
                self.check_segments(chain.readable, skip, data_out)?;
                segments::scatter(chain.readable, skip, data_out, &mut lists.data);
                Ok(action)
            }
            VIRTIO_BLK_T_FLUSH if self.negotiated(VIRTIO_BLK_F_FLUSH) => Ok(Action::Flush),
            VIRTIO_BLK_T_GET_ID if data_in != ID_LENGTH as u64 => Err(Refusal::Length),
            VIRTIO_BLK_T_GET_ID => Ok(Action::Identify),
            VIRTIO_BLK_T_GET_LIFETIME if !self.negotiated(VIRTIO_BLK_F_LIFETIME) => Err(Refusal::Type),
            VIRTIO_BLK_T_GET_LIFETIME if data_in < LIFETIME_SIZE as u64 => Err(Refusal::Length),
            VIRTIO_BLK_T_GET_LIFETIME => Ok(Action::Lifetime),
            VIRTIO_BLK_T_DISCARD if self.negotiated(VIRTIO_BLK_F_DISCARD) => {
                self.ranges(Kind::Discard, chain, capacity, &mut lists.ranges)
            }
            VIRTIO_BLK_T_WRITE_ZEROES if self.negotiated(VIRTIO_BLK_F_WRITE_ZEROES) => {
                self.ranges(Kind::WriteZeroes, chain, capacity, &mut lists.ranges)
            }
            VIRTIO_BLK_T_SECURE_ERASE if self.negotiated(VIRTIO_BLK_F_SECURE_ERASE) => {
                self.ranges(Kind::SecureErase, chain, capacity, &mut lists.ranges)
            }
            _ => Err(Refusal::Type),
        }
    }

    /// Holds the data to `size_max` and `seg_max`, where these were negotiated.
    fn check_segments(&self, part: &[Segment], skip: u64, len: u64) -> Result<(), Refusal> {
        if !self.negotiated(VIRTIO_BLK_F_SIZE_MAX | VIRTIO_BLK_F_SEG_MAX) {
            return Ok(());
        }
        let (mut at, end) = (0, skip + len);
        let (mut count, mut follows) = (0u32, None);
        for segment in part {
            let (first, last) = (at.max(skip), (at + u64::from(segment.len)).min(end));
            at += u64::from(segment.len);
            if first >= last {
                continue;
            }
            if self.negotiated(VIRTIO_BLK_F_SIZE_MAX) && last - first > u64::from(self.limits.size_max) {
                return Err(Refusal::SegmentSize);
            }
            // A descriptor that crosses two regions of guest memory comes as two segments: not the
            // driver's doing, so what continues at the next guest address is not counted again.
            if follows != Some(segment.guest) {
                count += 1;
            }
            follows = segment.guest.checked_add(u64::from(segment.len));
        }
        if self.negotiated(VIRTIO_BLK_F_SEG_MAX) && count > self.limits.seg_max {
            return Err(Refusal::Segments);
        }
        Ok(())
    }

    /// Reads and checks all ranges before any of them is acted upon.
    fn ranges(
        &self,
        kind: Kind,
        chain: &Chain<'_>,
        capacity: u64,
        list: &mut Vec<Range>,
    ) -> Result<Action, Refusal> {
        let limits = &self.limits;
        let (max_sectors, max_ranges) = match kind {
            Kind::Discard => (limits.max_discard_sectors, limits.max_discard_seg),
            Kind::WriteZeroes => (limits.max_write_zeroes_sectors, limits.max_write_zeroes_seg),
            _ => (limits.max_secure_erase_sectors, limits.max_secure_erase_seg),
        };
        let len = chain.readable_len - HEADER_SIZE as u64;
        if len == 0 || len % SEGMENT_SIZE as u64 != 0 {
            return Err(Refusal::Length);
        }
        if len / SEGMENT_SIZE as u64 > u64::from(max_ranges) {
            return Err(Refusal::Limit);
        }
        let mut error = None;
        for skip in (HEADER_SIZE as u64..chain.readable_len).step_by(SEGMENT_SIZE) {
            let mut range = [0; SEGMENT_SIZE];
            chain.read_at(skip, &mut range);
            let (sector, sectors) = (
                double_word(&range, SEGMENT_SECTOR),
                word(&range, SEGMENT_NUM_SECTORS),
            );
            let flags = word(&range, SEGMENT_FLAGS);
            let unmap = flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0;
            let known = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
            if flags & !known != 0 || (unmap && kind != Kind::WriteZeroes) {
                // A flag decides the status whatever else is wrong (5.2.6.2).
                return Err(Refusal::Flags);
            }
            if sectors > max_sectors {
                error = error.or(Some(Refusal::Limit));
            }
            let len = u64::from(sectors) * SECTOR_SIZE;
            match within(sector, len, capacity) {
                Ok(offset) if len > 0 => list.push(Range { offset, len, unmap }),
                Ok(_) => {}
                Err(refusal) => error = error.or(Some(refusal)),
            }
        }
        match error {
            Some(refusal) => Err(refusal),
            None if self.read_only => Err(Refusal::ReadOnly),
            None => Ok(Action::Ranges(kind)),
        }
    }
}

fn transfer(kind: Kind, sector: u64, len: u64, capacity: u64) -> Result<Action, Refusal> {
    if len % SECTOR_SIZE != 0 {
        return Err(Refusal::Length);
    }
    let offset = within(sector, len, capacity)?;
    Ok(Action::Transfer { kind, offset, len })
}

/// First byte of a range that lies within the capacity.
fn within(sector: u64, len: u64, capacity: u64) -> Result<u64, Refusal> {
    let offset = sector.checked_mul(SECTOR_SIZE).ok_or(Refusal::Range)?;
    match offset.checked_add(len) {
        Some(end) if end <= capacity => Ok(offset),
        _ => Err(Refusal::Range),
    }
}
