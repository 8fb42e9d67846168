//! Files of frames: pcap and pcapng, as tcpdump and Wireshark have them. Both are read, of either byte order.

use super::header::MAX_FRAME;
use std::io::{self, Read, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
const ETHERNET: u32 = 1;
/// Said to be the longest frame; a little more than there can be.
const SNAP: u32 = 1 << 18;

const SECTION: u32 = 0x0a0d_0d0a;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const INTERFACE: u32 = 1;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
/// The option of an interface that says in which unit its time is.
const RESOLUTION: u16 = 9;
/// Longer blocks than any that we look into are refused: nothing that a packet needs is so long.
const LONGEST_BLOCK: u32 = 1 << 24;

/// Which of the two formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The old one, which everybody reads.
    Pcap,
    /// The new one.
    Pcapng,
}

/// Writes frames.
#[derive(Debug)]
pub struct PcapWriter<W> {
    to: W,
    format: Format,
    /// What is not written yet: a batch goes out at once.
    pending: Vec<u8>,
}

/// The time since 1970.
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl<W: Write> PcapWriter<W> {
    /// Begins a file.
    pub fn new(to: W, format: Format) -> io::Result<Self> {
        let mut writer = Self {
            to,
            format,
            pending: Vec::new(),
        };
        match format {
            Format::Pcap => {
                writer.word(MICROSECONDS);
                writer.halves(2, 4);
                writer.words(&[0, 0, SNAP, ETHERNET]);
            }
            Format::Pcapng => {
                // Version 1.0, of unknown length.
                writer.words(&[SECTION, 28, BYTE_ORDER, 1, u32::MAX, u32::MAX, 28]);
                writer.words(&[INTERFACE, 32, ETHERNET, SNAP]);
                writer.halves(RESOLUTION, 1);
                // Nanoseconds; then the end of the options.
                writer.words(&[9, 0, 32]);
            }
        }
        writer.flush()?;
        Ok(writer)
    }

    fn word(&mut self, value: u32) {
        self.pending.extend(value.to_le_bytes());
    }

    fn words(&mut self, values: &[u32]) {
        values.iter().for_each(|value| self.word(*value));
    }

    fn halves(&mut self, first: u16, second: u16) {
        self.word(u32::from(second) << 16 | u32::from(first));
    }

    /// Adds a frame, which was seen so long after 1970. It is written by [`PcapWriter::flush`].
    pub fn add(&mut self, time: Duration, frame: &[u8]) {
        let size = frame.len() as u32;
        match self.format {
            Format::Pcap => {
                self.words(&[time.as_secs() as u32, time.subsec_micros(), size, size]);
                self.pending.extend(frame);
            }
            Format::Pcapng => {
                let total = 32 + size.next_multiple_of(4);
                let time = time.as_nanos() as u64;
                self.words(&[ENHANCED_PACKET, total, 0]);
                self.words(&[(time >> 32) as u32, time as u32, size, size]);
                self.pending.extend(frame);
                self.pending.resize(self.pending.len().next_multiple_of(4), 0);
                self.word(total);
            }
        }
    }

    /// Writes all that was added.
    pub fn flush(&mut self) -> io::Result<()> {
        let result = self.to.write_all(&self.pending);
        self.pending.clear();
        result.and_then(|()| self.to.flush())
    }
}

/// Why a file cannot be read on.
#[derive(Debug)]
pub enum PcapError {
    /// It is neither pcap nor pcapng.
    Foreign,
    /// There are frames of another kind of network in it.
    NotEthernet,
    /// It ends in the middle of a frame, or says what cannot be.
    Damaged,
    /// It cannot be read.
    Io(io::Error),
}

impl std::fmt::Display for PcapError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Foreign => f.write_str("this is neither a pcap nor a pcapng file"),
            Self::NotEthernet => f.write_str("these are no Ethernet frames"),
            Self::Damaged => f.write_str("the file of frames is cut short, or damaged"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for PcapError {}

impl From<io::Error> for PcapError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Damaged,
            _ => Self::Io(error),
        }
    }
}

/// The unit of an interface's time: so many per second.
#[derive(Clone, Copy, Debug)]
struct Interface {
    per_second: u64,
    snap: u32,
}

/// Reads frames. Those that the file has only the beginning of are left out, and so are those that are too long.
#[derive(Debug)]
pub struct PcapReader<R> {
    from: R,
    format: Format,
    big: bool,
    interfaces: Vec<Interface>,
    block: Vec<u8>,
}

impl<R: Read> PcapReader<R> {
    /// Looks at the beginning of a file.
    pub fn new(from: R) -> Result<Self, PcapError> {
        let mut reader = Self {
            from,
            format: Format::Pcap,
            big: false,
            interfaces: Vec::new(),
            block: Vec::new(),
        };
        let mut magic = [0; 4];
        if reader.fill(&mut magic)? < 4 {
            return Err(PcapError::Foreign);
        }
        let known = |magic: u32| match magic {
            MICROSECONDS => Some(1_000_000),
            NANOSECONDS => Some(1_000_000_000),
            _ => None,
        };
        let (little, big) = (u32::from_le_bytes(magic), u32::from_be_bytes(magic));
        if little == SECTION {
            reader.format = Format::Pcapng;
            reader.section()?;
            return Ok(reader);
        }
        reader.big = known(little).is_none();
        let per_second = known(little).or(known(big)).ok_or(PcapError::Foreign)?;
        let mut rest = [0; 20];
        if reader.fill(&mut rest)? < rest.len() {
            return Err(PcapError::Foreign);
        }
        // The upper bits may say how long the checksum at the end of each frame is.
        if reader.word(&rest, 16) & 0xffff != ETHERNET {
            return Err(PcapError::NotEthernet);
        }
        reader.interfaces.push(Interface { per_second, snap: 0 });
        Ok(reader)
    }

    /// Reads the next frame, and says how long after 1970 it was seen. `None` at the end.
    pub fn next(&mut self, frame: &mut Vec<u8>) -> Result<Option<Duration>, PcapError> {
        loop {
            let found = match self.format {
                Format::Pcap => self.record(frame)?,
                Format::Pcapng => self.packet(frame)?,
            };
            match found {
                Found::Frame(time) => return Ok(Some(time)),
                Found::Other => {}
                Found::End => return Ok(None),
            }
        }
    }

    /// Lets go of where it reads from.
    pub fn into_inner(self) -> R {
        self.from
    }

    fn word(&self, bytes: &[u8], at: usize) -> u32 {
        let found = bytes.get(at..at + 4).map(<[u8; 4]>::try_from);
        let four = found.and_then(Result::ok).unwrap_or_default();
        if self.big {
            u32::from_be_bytes(four)
        } else {
            u32::from_le_bytes(four)
        }
    }

    fn half(&self, bytes: &[u8], at: usize) -> u16 {
        let pair = [
            bytes.get(at).copied().unwrap_or(0),
            bytes.get(at + 1).copied().unwrap_or(0),
        ];
        if self.big {
            u16::from_be_bytes(pair)
        } else {
            u16::from_le_bytes(pair)
        }
    }

    /// Reads as much as there is.
    fn fill(&mut self, into: &mut [u8]) -> Result<usize, PcapError> {
        let mut filled = 0;
        while filled < into.len() {
            match self.from.read(&mut into[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(filled)
    }

    /// Reads a head of a record or block. False at the end of the file.
    fn head(&mut self, into: &mut [u8]) -> Result<bool, PcapError> {
        match self.fill(into)? {
            0 => Ok(false),
            n if n == into.len() => Ok(true),
            _ => Err(PcapError::Damaged),
        }
    }

    fn record(&mut self, frame: &mut Vec<u8>) -> Result<Found, PcapError> {
        let mut head = [0; 16];
        if !self.head(&mut head)? {
            return Ok(Found::End);
        }
        let (size, whole) = (self.word(&head, 8), self.word(&head, 12));
        if size > SNAP {
            return Err(PcapError::Damaged);
        }
        frame.resize(size as usize, 0);
        self.from.read_exact(frame)?;
        let per_second = self.interfaces.first().map_or(1_000_000, |only| only.per_second);
        let seconds = u64::from(self.word(&head, 0));
        let time = Duration::from_secs(seconds) + part(u64::from(self.word(&head, 4)), per_second);
        Ok(Found::frame(size == whole, frame, time))
    }

    /// The head of a section, behind its type: says the byte order.
    fn section(&mut self) -> Result<(), PcapError> {
        let mut head = [0; 8];
        if self.fill(&mut head)? < 8 {
            return Err(PcapError::Damaged);
        }
        self.big = head[4] == 0x1a;
        if self.word(&head, 4) != BYTE_ORDER {
            return Err(PcapError::Damaged);
        }
        let size = self.word(&head, 0);
        if !(28..=LONGEST_BLOCK).contains(&size) || size % 4 != 0 {
            return Err(PcapError::Damaged);
        }
        self.body(size - 12)?;
        if self.half(&self.block, 0) != 1 {
            return Err(PcapError::Foreign);
        }
        self.interfaces.clear();
        Ok(())
    }

    /// Reads so many bytes, the last four of which repeat the block's length.
    fn body(&mut self, size: u32) -> Result<(), PcapError> {
        let mut block = std::mem::take(&mut self.block);
        block.resize(size as usize, 0);
        let result = self.from.read_exact(&mut block);
        self.block = block;
        Ok(result?)
    }

    fn packet(&mut self, frame: &mut Vec<u8>) -> Result<Found, PcapError> {
        let mut kind = [0; 4];
        if !self.head(&mut kind)? {
            return Ok(Found::End);
        }
        if self.word(&kind, 0) == SECTION {
            self.section()?;
            return Ok(Found::Other);
        }
        let mut size = [0; 4];
        if !self.head(&mut size)? {
            return Err(PcapError::Damaged);
        }
        let total = self.word(&size, 0);
        if !(12..=LONGEST_BLOCK).contains(&total) || total % 4 != 0 {
            return Err(PcapError::Damaged);
        }
        self.body(total - 8)?;
        let block = &self.block[..self.block.len() - 4];
        match self.word(&kind, 0) {
            INTERFACE => {
                if block.len() < 8 {
                    return Err(PcapError::Damaged);
                }
                if u32::from(self.half(block, 0)) != ETHERNET {
                    return Err(PcapError::NotEthernet);
                }
                let interface = Interface {
                    per_second: self.unit(&block[8..])?,
                    snap: self.word(block, 4),
                };
                self.interfaces.push(interface);
                Ok(Found::Other)
            }
            ENHANCED_PACKET => {
                let interface = self.interfaces.get(self.word(block, 0) as usize);
                let interface = interface.ok_or(PcapError::Damaged)?;
                let ticks = u64::from(self.word(block, 4)) << 32 | u64::from(self.word(block, 8));
                let (size, whole) = (self.word(block, 12), self.word(block, 16));
                let bytes = block.get(20..).and_then(|rest| rest.get(..size as usize));
                let bytes = bytes.ok_or(PcapError::Damaged)?;
                let time = Duration::from_secs(ticks / interface.per_second)
                    + part(ticks % interface.per_second, interface.per_second);
                frame.clear();
                frame.extend(bytes);
                Ok(Found::frame(size == whole, frame, time))
            }
            SIMPLE_PACKET => {
                let snap = self.interfaces.first().ok_or(PcapError::Damaged)?.snap;
                let whole = self.word(block, 0);
                let size = if snap == 0 { whole } else { whole.min(snap) };
                let bytes = block.get(4..).and_then(|rest| rest.get(..size as usize));
                frame.clear();
                frame.extend(bytes.ok_or(PcapError::Damaged)?);
                Ok(Found::frame(size == whole, frame, Duration::ZERO))
            }
            _ => Ok(Found::Other),
        }
    }

    /// The unit of time in the options of an interface.
    fn unit(&self, mut options: &[u8]) -> Result<u64, PcapError> {
        while options.len() >= 4 {
            let (code, size) = (self.half(options, 0), usize::from(self.half(options, 2)));
            let value = options.get(4..4 + size).ok_or(PcapError::Damaged)?;
            if code == 0 {
                break;
            }
            if let (RESOLUTION, Some(unit)) = (code, value.first()) {
                let power = u32::from(unit & 0x7f);
                let base: u64 = if unit & 0x80 != 0 { 2 } else { 10 };
                return base.checked_pow(power).ok_or(PcapError::Damaged);
            }
            options = options.get(4 + size.next_multiple_of(4)..).unwrap_or(&[]);
        }
        Ok(1_000_000)
    }
}

enum Found {
    Frame(Duration),
    /// Something else, or a frame that is left out.
    Other,
    End,
}

impl Found {
    fn frame(whole: bool, frame: &[u8], time: Duration) -> Self {
        if whole && frame.len() <= MAX_FRAME {
            Self::Frame(time)
        } else {
            Self::Other
        }
    }
}

/// A part of a second. A part that is no part is cut, so that time never overflows.
fn part(ticks: u64, per_second: u64) -> Duration {
    let nanos = u128::from(ticks) * 1_000_000_000 / u128::from(per_second.max(1));
    Duration::from_nanos(nanos.min(999_999_999) as u64)
}
