//! Back ends that need nobody: for measuring, and for tests.

use super::frames::Frames;
use super::port::{Backend, Port, lock};
use super::tally::Count;
use crate::spec::net::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Weak};

/// All that a driver can leave to the device.
pub const HOST_OFFLOADS: u128 = VIRTIO_NET_F_CSUM
    | VIRTIO_NET_F_HOST_TSO4
    | VIRTIO_NET_F_HOST_TSO6
    | VIRTIO_NET_F_HOST_ECN
    | VIRTIO_NET_F_HOST_UFO
    | VIRTIO_NET_F_HOST_USO
    | HOST_TUNNELS;

/// Large packets in UDP tunnels.
pub const HOST_TUNNELS: u128 = VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO | VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO_CSUM;

/// Takes frames in and forgets them.
#[derive(Debug, Default)]
pub struct Sink {
    /// Frames taken.
    pub packets: Count,
}

impl Backend for Sink {
    fn accepts(&self) -> u128 {
        HOST_OFFLOADS
    }

    fn transmit(&self, _: usize, frames: &mut Frames) {
        self.packets.add(frames.len() as u64);
    }
}

/// Gives the driver a frame for each of its buffers, always the same; takes frames in and forgets them.
#[derive(Debug)]
pub struct Source {
    frame: Box<[u8]>,
    running: AtomicBool,
    /// Frames that the driver has sent.
    pub packets: Count,
}

impl Source {
    /// One that gives copies of `frame`, once it is started.
    pub fn new(frame: &[u8]) -> Self {
        Self {
            frame: frame.into(),
            running: AtomicBool::new(false),
            packets: Count::default(),
        }
    }

    /// Starts or stops it. The receive queue sees it when it next looks.
    pub fn run(&self, run: bool) {
        self.running.store(run, Ordering::Relaxed);
    }
}

impl Backend for Source {
    fn accepts(&self) -> u128 {
        HOST_OFFLOADS
    }

    fn transmit(&self, _: usize, frames: &mut Frames) {
        self.packets.add(frames.len() as u64);
    }

    fn pull(&self, _: usize, room: usize, frames: &mut Frames) {
        if self.running.load(Ordering::Relaxed) {
            frames.push_copies(&self.frame, room);
        }
    }
}

/// Gives the driver back what it sends.
#[derive(Debug, Default)]
pub struct Loop {
    port: Mutex<Weak<Port>>,
}

impl Backend for Loop {
    fn accepts(&self) -> u128 {
        HOST_OFFLOADS
    }

    fn transmit(&self, _: usize, frames: &mut Frames) {
        let port = lock(&self.port).upgrade();
        if let Some(port) = port {
            port.deliver(frames);
        }
    }

    fn attach(&self, port: Weak<Port>) {
        *lock(&self.port) = port;
    }
}
