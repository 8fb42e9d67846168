//! Back ends behind descriptors.

use super::*;
use crate::net::descriptor::{Descriptor, Framing};
use crate::net::port::{Backend, Port};
use crate::net::receive::Receiver;
use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn port_on(descriptor: Descriptor) -> (Arc<Port>, Arc<Descriptor>, Receiver) {
    let port = Arc::new(Port::new(1).unwrap());
    port.update(|settings| {
        settings.link = true;
        settings.filter.promiscuous = true;
    });
    let descriptor = Arc::new(descriptor);
    port.set_backend(Some(descriptor.clone()));
    let receiver = Receiver::new(port.clone(), 0, 256);
    (port, descriptor, receiver)
}

fn arrived(port: &Port, count: usize) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let end = Instant::now() + Duration::from_secs(10);
    while found.len() < count && Instant::now() < end {
        let mut frames = Frames::default();
        if port.pairs[0].inbox.take(&mut frames) {
            found.extend(bytes(&frames));
        } else {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    found
}

fn eventually(condition: impl Fn() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    condition()
}

#[test]
fn a_stream_carries_frames_behind_their_lengths() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let (port, descriptor, _receiver) = port_on(Descriptor::new(ours.into(), Framing::Stream, 0).unwrap());
    let sent: Vec<Vec<u8>> = (0..100)
        .map(|number| vec![number as u8; 14 + number * 15])
        .collect();
    let mut frames = Frames::default();
    sent.iter()
        .for_each(|frame| frames.push(frame, Offload::default()));
    descriptor.transmit(0, &mut frames);
    for frame in &sent {
        let mut length = [0; 4];
        theirs.read_exact(&mut length).unwrap();
        let mut data = vec![0; u32::from_be_bytes(length) as usize];
        theirs.read_exact(&mut data).unwrap();
        assert_eq!(&data, frame);
    }
    // Back, cut anywhere.
    let stream: Vec<u8> = sent
        .iter()
        .flat_map(|frame| [&(frame.len() as u32).to_be_bytes()[..], frame].concat())
        .collect();
    stream
        .chunks(777)
        .for_each(|piece| theirs.write_all(piece).unwrap());
    assert_eq!(arrived(&port, 100), sent);
    drop(theirs);
    assert!(eventually(|| descriptor.closed()));
}

#[test]
fn nonsense_in_a_stream_ends_it() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let (port, descriptor, _receiver) = port_on(Descriptor::new(ours.into(), Framing::Stream, 0).unwrap());
    // Too short to be a frame: skipped. Too long: out of step.
    theirs.write_all(&[0, 0, 0, 2, 1, 2, 0, 0, 0, 14]).unwrap();
    theirs.write_all(&[7; 14]).unwrap();
    theirs.write_all(&[0xff; 4]).unwrap();
    assert!(eventually(|| descriptor.closed()));
    assert_eq!(arrived(&port, 1), [vec![7; 14]]);
}

#[test]
fn messages_carry_a_frame_each() {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let (port, descriptor, _receiver) = port_on(Descriptor::new(ours.into(), Framing::Messages, 0).unwrap());
    let mut buffer = [0; 2000];
    for size in [14, 60, 1514] {
        let mut frames = Frames::default();
        frames.push(&vec![size as u8; size], Offload::default());
        descriptor.transmit(0, &mut frames);
        assert_eq!(theirs.recv(&mut buffer).unwrap(), size);
        theirs.send(&buffer[..size]).unwrap();
        assert_eq!(arrived(&port, 1), [vec![size as u8; size]]);
    }
}

#[test]
fn headers_are_handed_through_and_checked() {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let accepts = VIRTIO_NET_F_CSUM | VIRTIO_NET_F_HOST_TSO4;
    let descriptor = Descriptor::new(ours.into(), Framing::Headers(10), accepts).unwrap();
    assert_eq!(descriptor.accepts(), accepts);
    let (port, descriptor, _receiver) = port_on(descriptor);
    let (frame, offload) = (TCP4.frame(), TCP4.request(VIRTIO_NET_HDR_GSO_TCPV4, 1000));
    let mut frames = Frames::default();
    frames.push(&frame, offload);
    descriptor.transmit(0, &mut frames);
    let mut buffer = vec![0; 10_000];
    let size = theirs.recv(&mut buffer).unwrap();
    assert_eq!(buffer[..size], [&offload.bytes()[..], &frame].concat());
    let wrong = Offload {
        csum_start: 60_000,
        ..offload
    };
    theirs.send(&[&wrong.bytes()[..], &frame].concat()).unwrap();
    theirs.send(&buffer[..size]).unwrap();
    assert_eq!(arrived(&port, 1), [frame]);
}
