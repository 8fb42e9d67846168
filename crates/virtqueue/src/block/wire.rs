//! Numbers of the block device on the wire (VIRTIO 1.4, section 5.2).

/// Unit of `sector` and of all sector counts, whatever the block size.
pub const SECTOR: u64 = 512;
/// `type`, `reserved` and `sector` of `struct virtio_blk_req`.
pub const HEADER_LEN: usize = 16;
/// `struct virtio_blk_discard_write_zeroes`.
pub const RANGE_LEN: usize = 16;
/// Length of the device ID string.
pub const ID_LEN: usize = 20;
/// `struct virtio_blk_lifetime`.
pub const LIFETIME_LEN: usize = 6;

/// VIRTIO_BLK_T_IN
pub const T_IN: u32 = 0;
/// VIRTIO_BLK_T_OUT
pub const T_OUT: u32 = 1;
/// VIRTIO_BLK_T_FLUSH
pub const T_FLUSH: u32 = 4;
/// VIRTIO_BLK_T_GET_ID
pub const T_GET_ID: u32 = 8;
/// VIRTIO_BLK_T_GET_LIFETIME
pub const T_GET_LIFETIME: u32 = 10;
/// VIRTIO_BLK_T_DISCARD
pub const T_DISCARD: u32 = 11;
/// VIRTIO_BLK_T_WRITE_ZEROES
pub const T_WRITE_ZEROES: u32 = 13;
/// VIRTIO_BLK_T_SECURE_ERASE
pub const T_SECURE_ERASE: u32 = 14;

/// The only flag of a discard or write zeroes segment.
pub const FLAG_UNMAP: u32 = 1;

/// VIRTIO_BLK_F_SIZE_MAX, as a mask like all below.
pub const F_SIZE_MAX: u128 = 1 << 1;
/// VIRTIO_BLK_F_SEG_MAX
pub const F_SEG_MAX: u128 = 1 << 2;
/// VIRTIO_BLK_F_FLUSH
pub const F_FLUSH: u128 = 1 << 9;
/// VIRTIO_BLK_F_CONFIG_WCE
pub const F_CONFIG_WCE: u128 = 1 << 11;
/// VIRTIO_BLK_F_DISCARD
pub const F_DISCARD: u128 = 1 << 13;
/// VIRTIO_BLK_F_WRITE_ZEROES
pub const F_WRITE_ZEROES: u128 = 1 << 14;
/// VIRTIO_BLK_F_LIFETIME
pub const F_LIFETIME: u128 = 1 << 15;
/// VIRTIO_BLK_F_SECURE_ERASE
pub const F_SECURE_ERASE: u128 = 1 << 16;

/// The status byte of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// VIRTIO_BLK_S_OK
    Ok = 0,
    /// VIRTIO_BLK_S_IOERR: an error of the device or of the driver.
    IoError = 1,
    /// VIRTIO_BLK_S_UNSUPP
    Unsupported = 2,
}

/// Rounds a size in bytes up to whole sectors.
pub(super) fn whole_sectors(bytes: u64) -> u64 {
    bytes.saturating_add(SECTOR - 1) / SECTOR * SECTOR
}
