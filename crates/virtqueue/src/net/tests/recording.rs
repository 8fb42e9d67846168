//! Files of frames, read, written and played.

use super::*;
use crate::net::pcap::{Format, PcapError, PcapReader, PcapWriter};
use crate::net::port::{Backend, Port};
use crate::net::receive::Receiver;
use crate::net::recording::{Play, Recording};
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::FromRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Seen = Vec<(Duration, Vec<u8>)>;

fn read(data: &[u8]) -> Result<Seen, PcapError> {
    let mut reader = PcapReader::new(data)?;
    let (mut found, mut frame) = (Vec::new(), Vec::new());
    while let Some(time) = reader.next(&mut frame)? {
        found.push((time, frame.clone()));
    }
    Ok(found)
}

fn some(count: usize) -> Seen {
    let time = |number| Duration::new(1_700_000_000, 0) + Duration::from_micros(number * 1_000_001);
    (0..count)
        .map(|number| (time(number as u64), vec![number as u8; 14 + number]))
        .collect()
}

fn written(format: Format, frames: &Seen) -> Vec<u8> {
    let mut data = Vec::new();
    let mut writer = PcapWriter::new(&mut data, format).unwrap();
    frames.iter().for_each(|(time, frame)| writer.add(*time, frame));
    writer.flush().unwrap();
    data
}

/// The other byte order: all words swapped but the bytes of frames, which are words of four equal bytes.
fn swapped(data: &[u8], halves: &[usize]) -> Vec<u8> {
    let mut data = data.to_vec();
    data.chunks_exact_mut(4).for_each(<[u8]>::reverse);
    for at in halves {
        data[*at..*at + 4].rotate_left(2);
    }
    data
}

#[test]
fn what_is_written_is_read() {
    for format in [Format::Pcap, Format::Pcapng] {
        let frames = some(20);
        assert_eq!(read(&written(format, &frames)).unwrap(), frames);
    }
    let exact = vec![(Duration::new(1_700_000_000, 123_456_789), vec![7; 60])];
    assert_eq!(read(&written(Format::Pcapng, &exact)).unwrap(), exact);
}

#[test]
fn both_byte_orders_are_read() {
    let frames = vec![(Duration::new(5, 250_000_000), vec![7; 60])];
    let old = swapped(&written(Format::Pcap, &frames), &[4]);
    assert_eq!(old[..4], [0xa1, 0xb2, 0xc3, 0xd4]);
    assert_eq!(read(&old).unwrap(), frames);
    let mut nanoseconds = written(Format::Pcap, &frames);
    nanoseconds[0] = 0x4d;
    nanoseconds[1] = 0x3c;
    assert_eq!(read(&nanoseconds).unwrap()[0].0, Duration::new(5, 250_000));
    // The version, the kind of network, and the option's code and length are halves; its value is a byte.
    let mut new = swapped(&written(Format::Pcapng, &frames), &[12, 36, 44]);
    new[48..52].reverse();
    assert_eq!(new[8..12], [0x1a, 0x2b, 0x3c, 0x4d]);
    assert_eq!(read(&new).unwrap(), frames);
}

#[test]
fn frames_that_are_not_whole_are_left_out() {
    let mut data = written(Format::Pcap, &some(3));
    data[24 + 12] += 1;
    assert_eq!(read(&data).unwrap(), some(3)[1..]);
    let mut data = written(Format::Pcapng, &some(3));
    data[60 + 24] += 1;
    assert_eq!(read(&data).unwrap(), some(3)[1..]);
}

#[test]
fn blocks_of_other_kinds_are_skipped_and_simple_packets_read() {
    let words = |words: &[u32]| {
        words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let mut data = written(Format::Pcapng, &some(1));
    data.extend(words(&[0x0000_0bad, 16, 1, 16]));
    data.extend(words(&[
        3,
        32,
        16,
        0x0707_0707,
        0x0707_0707,
        0x0707_0707,
        0x0707_0707,
        32,
    ]));
    data.extend(written(Format::Pcapng, &some(2)));
    let found = read(&data).unwrap();
    assert_eq!(found.len(), 4);
    assert_eq!(found[1], (Duration::ZERO, vec![7; 16]));
    assert_eq!(found[2..], some(2));
}

#[test]
fn damaged_files_are_refused() {
    for format in [Format::Pcap, Format::Pcapng] {
        let good = written(format, &some(4));
        for size in 0..good.len() {
            match read(&good[..size]) {
                Ok(found) => assert!(found.len() < 4),
                Err(PcapError::Damaged | PcapError::Foreign) => {}
                Err(other) => panic!("{size}: {other}"),
            }
        }
    }
    let old = written(Format::Pcap, &some(1));
    let new = written(Format::Pcapng, &some(1));
    let with = |data: &[u8], at: usize, word: u32| {
        let mut data = data.to_vec();
        data[at..at + 4].copy_from_slice(&word.to_le_bytes());
        read(&data)
    };
    assert!(matches!(with(&old, 20, 105), Err(PcapError::NotEthernet)));
    assert!(matches!(with(&old, 32, u32::MAX), Err(PcapError::Damaged)));
    assert!(matches!(with(&new, 36, 105), Err(PcapError::NotEthernet)));
    assert!(matches!(with(&new, 8, 0), Err(PcapError::Damaged)));
    assert!(matches!(with(&new, 12, 2), Err(PcapError::Foreign)));
    for size in [0, 8, 11, 13, u32::MAX] {
        assert!(matches!(with(&new, 4, size), Err(PcapError::Damaged)), "{size}");
        assert!(matches!(with(&new, 64, size), Err(PcapError::Damaged)), "{size}");
    }
    // An interface that there is not, and a frame beyond its block.
    assert!(matches!(with(&new, 68, 1), Err(PcapError::Damaged)));
    assert!(matches!(with(&new, 80, 1000), Err(PcapError::Damaged)));
    // Units of time that no clock counts.
    for unit in [20, 0x7f, 0xc0, 0xff] {
        assert!(matches!(with(&new, 48, unit), Err(PcapError::Damaged)));
    }
    assert!(matches!(
        read(b"hello, world, hello, world"),
        Err(PcapError::Foreign)
    ));
}

fn memory(data: &[u8]) -> File {
    // SAFETY: a new descriptor with a static name.
    let mut file = unsafe { File::from_raw_fd(libc::memfd_create(c"frames".as_ptr(), libc::MFD_CLOEXEC)) };
    file.write_all(data).unwrap();
    file.rewind().unwrap();
    file
}

fn contents(mut file: &File) -> Vec<u8> {
    let mut data = Vec::new();
    file.rewind().unwrap();
    std::io::Read::read_to_end(&mut file, &mut data).unwrap();
    data
}

fn port_on(recording: Recording) -> (Arc<Port>, Arc<Recording>, Receiver) {
    let port = Arc::new(Port::new(1).unwrap());
    port.update(|settings| {
        settings.link = true;
        settings.filter.promiscuous = true;
    });
    let recording = Arc::new(recording);
    port.set_backend(Some(recording.clone()));
    let receiver = Receiver::new(port.clone(), 0, 256);
    (port, recording, receiver)
}

/// Takes frames as a receive queue with buffers does.
fn take(port: &Port, recording: &Recording, count: usize) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let end = Instant::now() + Duration::from_secs(10);
    while found.len() < count && Instant::now() < end {
        let mut frames = Frames::default();
        if port.pairs[0].inbox.take(&mut frames) {
            found.extend(bytes(&frames));
        } else {
            recording.pull(0, 1, &mut frames);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    found
}

#[test]
fn what_is_sent_is_written_with_the_time() {
    for format in [Format::Pcap, Format::Pcapng] {
        let file = memory(b"");
        let (_port, recording, _receiver) =
            port_on(Recording::new(Some((file.try_clone().unwrap(), format)), None).unwrap());
        let before = crate::net::now() - Duration::from_micros(1);
        let mut frames = Frames::default();
        some(3)
            .iter()
            .for_each(|(_, frame)| frames.push(frame, Offload::default()));
        recording.transmit(0, &mut frames);
        recording.transmit(0, &mut frames);
        let found = read(&contents(&file)).unwrap();
        assert_eq!(found.len(), 6);
        for ((time, frame), (_, sent)) in found.iter().zip(some(3).iter().cycle()) {
            assert_eq!(frame, sent);
            assert!(*time >= before && *time <= crate::net::now());
        }
        assert!(recording.done() && recording.failed().is_none());
    }
}

#[test]
fn a_full_disk_is_told_of() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    assert!(matches!(
        Recording::new(Some((full, Format::Pcap)), None),
        Err(PcapError::Io(_))
    ));
}

#[test]
fn a_file_is_played_as_fast_as_it_is_taken() {
    let frames = some(250);
    let many: Seen = (0..20).flat_map(|_| frames.clone()).collect();
    let file = memory(&written(Format::Pcap, &many));
    let (port, recording, _receiver) = port_on(Recording::new(None, Some((file, Play::default()))).unwrap());
    // Not before the driver has buffers, and no more than may wait.
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(port.waiting(), 0);
    recording.pull(0, 1, &mut Frames::default());
    std::thread::sleep(Duration::from_millis(60));
    assert!(port.waiting() < 1000);
    let expected: Vec<Vec<u8>> = many.into_iter().map(|(_, frame)| frame).collect();
    assert_eq!(take(&port, &recording, expected.len()), expected);
    assert_eq!(port.received(0).unwrap().drops.get(), 0);
}

#[test]
fn a_file_is_played_again_until_its_end_is_wanted() {
    let file = memory(&written(Format::Pcapng, &some(3)));
    let play = Play {
        again: true,
        ..Play::default()
    };
    let (port, recording, _receiver) = port_on(Recording::new(None, Some((file, play))).unwrap());
    let found = take(&port, &recording, 1000);
    for (frame, (_, expected)) in found.iter().zip(some(3).iter().cycle()) {
        assert_eq!(frame, expected);
    }
    assert!(!recording.done());
    drop(port);
    drop(recording);
    // Without a frame there is nothing to play again.
    let file = memory(&written(Format::Pcapng, &some(0)));
    let (port, recording, _receiver) = port_on(Recording::new(None, Some((file, play))).unwrap());
    recording.pull(0, 1, &mut Frames::default());
    let end = Instant::now() + Duration::from_secs(10);
    while !recording.done() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(recording.done());
    assert_eq!(port.waiting(), 0);
}

#[test]
fn a_file_is_played_at_its_own_pace() {
    let at = |milliseconds: u64| (Duration::from_millis(1_000_000 + milliseconds), vec![1; 60]);
    // The last would come in an hour: it is not waited for at the end.
    let file = memory(&written(
        Format::Pcap,
        &vec![at(0), at(30), at(20), at(3_600_000)],
    ));
    let play = Play {
        timed: true,
        ..Play::default()
    };
    let (port, recording, _receiver) = port_on(Recording::new(None, Some((file, play))).unwrap());
    let begun = Instant::now();
    assert_eq!(take(&port, &recording, 3).len(), 3);
    assert!(begun.elapsed() >= Duration::from_millis(30));
    assert!(!recording.done());
}

#[test]
fn damage_ends_the_play_and_is_told_of() {
    let mut data = written(Format::Pcap, &some(3));
    data.truncate(data.len() - 1);
    let (port, recording, _receiver) =
        port_on(Recording::new(None, Some((memory(&data), Play::default()))).unwrap());
    recording.pull(0, 1, &mut Frames::default());
    let end = Instant::now() + Duration::from_secs(10);
    while !recording.done() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(recording.failed().unwrap().contains("damaged"));
    drop(port);
}
