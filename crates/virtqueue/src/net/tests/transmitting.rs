//! Frames out of transmit buffers.

use super::bed::Driver;
use super::*;
use crate::net::header::MAX_FRAME;
use crate::net::port::{Backend, Port, lock};
use crate::net::simple::{HOST_OFFLOADS, HOST_TUNNELS};
use crate::net::transmit::Transmitter;
use std::sync::{Arc, Mutex};

/// What a driver negotiates whose header has no place for tunnels.
const PLAIN: u128 = HOST_OFFLOADS & !HOST_TUNNELS;

/// Keeps frames.
struct Keep {
    accepts: u128,
    frames: Mutex<Frames>,
}

impl Backend for Keep {
    fn accepts(&self) -> u128 {
        self.accepts
    }
    fn transmit(&self, _: usize, frames: &mut Frames) {
        lock(&self.frames).extend(frames);
    }
}

fn bed(features: u128, accepts: u128) -> (Arc<Port>, Arc<Keep>, Transmitter, Driver) {
    let port = Arc::new(Port::new(1).unwrap());
    port.update(|settings| {
        settings.link = true;
        settings.features = features;
    });
    let keep = Arc::new(Keep {
        accepts,
        frames: Mutex::default(),
    });
    port.set_backend(Some(keep.clone()));
    let transmitter = Transmitter::new(port.clone(), 0);
    (port, keep, transmitter, Driver::new())
}

fn message(offload: Offload, frame: &[u8]) -> Vec<u8> {
    [&offload.bytes()[..], &[0, 0], frame].concat()
}

#[test]
fn frames_come_out_however_they_are_cut() {
    let frame = Packet { payload: 100, ..UDP4 }.frame();
    let data = message(Offload::default(), &frame);
    let (port, keep, mut transmitter, mut driver) = bed(0, 0);
    for sizes in [&[][..], &[12], &[1; 200], &[11, 2], &[12, 14, 20]] {
        driver.readable(&data, sizes);
    }
    driver.give(&mut transmitter).unwrap();
    assert_eq!(bytes(&lock(&keep.frames)), vec![frame.clone(); 5]);
    let used: Vec<_> = driver
        .used()
        .into_iter()
        .map(|(id, data)| (id, data.len()))
        .collect();
    assert_eq!(used, [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)]);
    let sent = port.transmitted(0).unwrap();
    assert_eq!(
        (sent.packets.get(), sent.bytes.get()),
        (5, 5 * frame.len() as u64)
    );
    assert_eq!((sent.csum_none.get(), sent.drops.get()), (5, 0));
}

#[test]
fn malformed_frames_are_dropped_and_their_buffers_used() {
    let frame = TCP4.frame();
    let large = TCP4.request(VIRTIO_NET_HDR_GSO_TCPV4, 0);
    let (port, keep, mut transmitter, mut driver) = bed(PLAIN, HOST_OFFLOADS);
    let table: &[&[u8]] = &[
        b"",
        &[0; 11],
        &[0; 12],
        &[0; 25],
        &message(large, &frame),
        &message(Offload::default(), &vec![0; MAX_FRAME + 1]),
    ];
    table.iter().for_each(|data| driver.readable(data, &[]));
    driver.writable(&[100]);
    driver.give(&mut transmitter).unwrap();
    assert!(lock(&keep.frames).is_empty());
    assert_eq!(driver.used().len(), 7);
    let sent = port.transmitted(0).unwrap();
    assert_eq!((sent.drops.get(), sent.drop_malformed.get()), (7, 7));
}

#[test]
fn what_a_back_end_cannot_do_is_done_before() {
    for packet in [TCP4, TCP6, UDP4, UDP6] {
        let offload = packet.request(kind(packet), 1000);
        let data = message(offload, &packet.frame());
        for accepts in [0, VIRTIO_NET_F_CSUM, HOST_OFFLOADS] {
            let (port, keep, mut transmitter, mut driver) = bed(PLAIN, accepts);
            driver.readable(&data, &[12]);
            driver.give(&mut transmitter).unwrap();
            let sent = port.transmitted(0).unwrap();
            assert_eq!((sent.gso_packets.get(), sent.needs_csum.get()), (1, 1));
            let frames = lock(&keep.frames);
            if accepts == HOST_OFFLOADS {
                assert_eq!(frames.list()[0].offload, offload);
                assert_eq!(sent.gso_packets_noseg.get(), 1);
                continue;
            }
            assert_eq!((frames.len(), sent.gso_segments.get()), (5, 5));
            assert_eq!(sent.packets.get(), 5);
            assert_eq!(sent.gso_segments_bytes.get(), sent.bytes.get());
            bytes(&frames).iter().for_each(|frame| packet.verify(frame));
        }
    }
}

#[test]
fn nothing_is_sent_without_a_link() {
    let (port, keep, mut transmitter, mut driver) = bed(0, 0);
    port.update(|settings| settings.link = false);
    driver.readable(&message(Offload::default(), &[0; 60]), &[]);
    driver.give(&mut transmitter).unwrap();
    assert!(lock(&keep.frames).is_empty());
    assert_eq!(port.transmitted(0).unwrap().drops.get(), 1);
    assert_eq!(driver.used().len(), 1);
}

#[test]
fn the_header_grows_with_hash_report() {
    let (_port, keep, mut transmitter, mut driver) = bed(VIRTIO_NET_F_HASH_REPORT, 0);
    driver.readable(&[vec![0; 20], vec![7; 60]].concat(), &[]);
    driver.give(&mut transmitter).unwrap();
    assert_eq!(bytes(&lock(&keep.frames)), [vec![7; 60]]);
}
