//! A learning switch in this process, with VLANs, and wires that lose, delay and reorder.

use super::filter::Mac;
use super::frames::{Frame, Frames};
use super::header::ETHERNET;
use super::layers::vlan;
use super::port::{Backend, Port, lock};
use super::simple::HOST_OFFLOADS;
use super::wire::{Wire, WireOptions};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

/// How long an address is remembered that nothing is heard of.
const AGE: Duration = Duration::from_secs(300);
/// Addresses remembered; with more, frames to the others go everywhere.
const MOST_ADDRESSES: usize = 16384;
const TAG: usize = 4;

#[derive(Debug, Clone, Copy)]
struct Place {
    port: usize,
    seen: Instant,
}

#[derive(Default)]
struct State {
    ports: Vec<Weak<SwitchPort>>,
    places: HashMap<(u16, Mac), Place>,
}

/// Joins network devices.
#[derive(Default)]
pub struct Switch {
    state: Mutex<State>,
}

/// A place to plug a device in.
pub struct SwitchPort {
    switch: Arc<Switch>,
    index: usize,
    /// The VLAN of an access port; `None`: a trunk, whose frames are tagged as they belong.
    vlan: Option<u16>,
    port: Mutex<Weak<Port>>,
    wire: Mutex<Option<Arc<Wire>>>,
    /// Frames sorted by where they go.
    sorted: Mutex<Vec<Frames>>,
}

impl Switch {
    /// Adds a port: a trunk, or an access port of one VLAN.
    pub fn port(self: &Arc<Self>, vlan: Option<u16>) -> Arc<SwitchPort> {
        let mut state = lock(&self.state);
        let free = state.ports.iter().position(|port| port.strong_count() == 0);
        let index = free.unwrap_or(state.ports.len());
        let port = Arc::new(SwitchPort {
            switch: self.clone(),
            index,
            vlan,
            port: Mutex::default(),
            wire: Mutex::new(None),
            sorted: Mutex::default(),
        });
        state.places.retain(|_, place| place.port != index);
        match state.ports.get_mut(index) {
            Some(slot) => *slot = Arc::downgrade(&port),
            None => state.ports.push(Arc::downgrade(&port)),
        }
        port
    }

    /// Addresses that it has learnt: VLAN, address, number of the port.
    pub fn learnt(&self) -> Vec<(u16, Mac, usize)> {
        let state = lock(&self.state);
        let list = state.places.iter();
        list.map(|((vlan, mac), place)| (*vlan, *mac, place.port))
            .collect()
    }
}

impl State {
    fn learn(&mut self, vlan: u16, source: Mac, port: usize, now: Instant) {
        if source[0] & 1 != 0 {
            return;
        }
        if self.places.len() >= MOST_ADDRESSES && !self.places.contains_key(&(vlan, source)) {
            self.places
                .retain(|_, place| now.duration_since(place.seen) < AGE);
            if self.places.len() >= MOST_ADDRESSES {
                return;
            }
        }
        self.places.insert((vlan, source), Place { port, seen: now });
    }

    /// The port that an address is known to be behind.
    fn find(&self, vlan: u16, destination: Mac, now: Instant) -> Option<usize> {
        let place = self.places.get(&(vlan, destination))?;
        (now.duration_since(place.seen) < AGE).then_some(place.port)
    }
}

fn addresses(frame: &[u8]) -> Option<(Mac, Mac)> {
    Some((
        frame.get(..6)?.try_into().ok()?,
        frame.get(6..12)?.try_into().ok()?,
    ))
}

impl SwitchPort {
    /// Its number.
    pub fn index(&self) -> usize {
        self.index
    }

    /// What happens to frames from the device on their way into the switch; `None`: nothing.
    pub fn set_wire(self: &Arc<Self>, options: Option<WireOptions>) -> std::io::Result<()> {
        let target = Arc::downgrade(self);
        let wire = options.map(|options| {
            Wire::new(options, move |frames| {
                if let Some(port) = target.upgrade() {
                    port.forward(frames);
                }
            })
        });
        let before = std::mem::replace(&mut *lock(&self.wire), wire.transpose()?);
        drop(before);
        Ok(())
    }

    /// The VLAN that a frame from here belongs to; `None`: it may not come in here.
    fn vlan_of(&self, frame: &[u8]) -> Option<u16> {
        match (self.vlan, vlan(frame)) {
            (None, tag) => Some(tag.unwrap_or(0)),
            (Some(own), None) => Some(own),
            (Some(_), Some(_)) => None,
        }
    }

    /// Sends frames on to where their addresses are.
    fn forward(&self, frames: &mut Frames) {
        let mut sorted = lock(&self.sorted);
        let now = Instant::now();
        let (ports, single) = self.sort(frames, &mut sorted, now);
        if let Some(only) = single {
            // The usual case: all go to one port, as they are, without another copy.
            if let Some(port) = ports.get(only).and_then(Weak::upgrade) {
                port.send(frames);
            }
            return;
        }
        for (index, batch) in sorted.iter_mut().enumerate() {
            if batch.is_empty() {
                continue;
            }
            if let Some(port) = ports.get(index).and_then(Weak::upgrade) {
                port.send(batch);
            }
            batch.clear();
        }
    }

    fn send(&self, frames: &mut Frames) {
        let port = lock(&self.port).upgrade();
        if let Some(port) = port {
            port.deliver(frames);
        }
    }

    /// Learns where frames come from, and copies each to where it goes, unless all go to one place unchanged.
    fn sort(
        &self,
        frames: &Frames,
        sorted: &mut Vec<Frames>,
        now: Instant,
    ) -> (Vec<Weak<SwitchPort>>, Option<usize>) {
        let mut state = lock(&self.switch.state);
        let ports = state.ports.clone();
        sorted.resize_with(ports.len(), Frames::default);
        let targets: Vec<Option<Arc<SwitchPort>>> = ports.iter().map(Weak::upgrade).collect();
        let mut last: Option<(u16, Mac)> = None;
        let mut single: Option<Option<usize>> = None;
        for (number, frame) in frames.list().iter().enumerate() {
            let bytes = frames.get(frame);
            let (Some((destination, source)), Some(vlan)) = (addresses(bytes), self.vlan_of(bytes)) else {
                flush_single(frames, number, &mut single, sorted);
                continue;
            };
            if last != Some((vlan, source)) {
                state.learn(vlan, source, self.index, now);
                last = Some((vlan, source));
            }
            let known = if destination[0] & 1 != 0 {
                None
            } else {
                state.find(vlan, destination, now)
            };
            match known {
                Some(to) if to == self.index => flush_single(frames, number, &mut single, sorted),
                Some(to) => {
                    let target = targets.get(to).and_then(Option::as_ref);
                    let same = target.is_some_and(|target| target.passes(vlan, bytes) == Pass::AsItIs);
                    match single {
                        None if number == 0 && same => single = Some(Some(to)),
                        Some(Some(only)) if only == to && same => {}
                        _ => {
                            flush_single(frames, number, &mut single, sorted);
                            copy_to(target, to, vlan, frames, frame, sorted);
                        }
                    }
                }
                None => {
                    flush_single(frames, number, &mut single, sorted);
                    for (to, target) in targets.iter().enumerate() {
                        if to != self.index {
                            copy_to(target.as_ref(), to, vlan, frames, frame, sorted);
                        }
                    }
                }
            }
        }
        (ports, single.flatten())
    }

    fn passes(&self, vlan: u16, frame: &[u8]) -> Pass {
        let tagged = super::layers::vlan(frame).is_some();
        match self.vlan {
            Some(own) if own != vlan => Pass::No,
            Some(_) if tagged => Pass::Untagged,
            None if !tagged && vlan != 0 => Pass::Tagged,
            _ => Pass::AsItIs,
        }
    }
}

/// What becomes of a frame that leaves by a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    No,
    AsItIs,
    Tagged,
    Untagged,
}

/// Not all frames go to one place after all: copies those that were to.
fn flush_single(frames: &Frames, number: usize, single: &mut Option<Option<usize>>, sorted: &mut [Frames]) {
    if let Some(Some(only)) = *single {
        if let Some(batch) = sorted.get_mut(only) {
            let before = &frames.list()[..number];
            before.iter().for_each(|frame| batch.push_frame(frames, frame));
        }
    }
    *single = Some(None);
}

fn copy_to(
    target: Option<&Arc<SwitchPort>>,
    to: usize,
    vlan: u16,
    frames: &Frames,
    frame: &Frame,
    sorted: &mut [Frames],
) {
    let (Some(target), Some(batch)) = (target, sorted.get_mut(to)) else {
        return;
    };
    let bytes = frames.get(frame);
    let offload = frame.offload;
    match target.passes(vlan, bytes) {
        Pass::No => {}
        Pass::AsItIs => batch.push_frame(frames, frame),
        Pass::Tagged => {
            let room = batch.reserve(bytes.len() + TAG);
            room[..12].copy_from_slice(&bytes[..12]);
            room[12..14].copy_from_slice(&0x8100u16.to_be_bytes());
            room[14..16].copy_from_slice(&vlan.to_be_bytes());
            room[16..].copy_from_slice(&bytes[12..]);
            batch.commit(0, bytes.len() + TAG, offload.moved(TAG as i16));
        }
        Pass::Untagged if bytes.len() >= ETHERNET + TAG => {
            let room = batch.reserve(bytes.len() - TAG);
            room[..12].copy_from_slice(&bytes[..12]);
            room[12..].copy_from_slice(&bytes[12 + TAG..]);
            batch.commit(0, bytes.len() - TAG, offload.moved(-(TAG as i16)));
        }
        Pass::Untagged => {}
    }
}

impl Backend for SwitchPort {
    fn accepts(&self) -> u128 {
        HOST_OFFLOADS
    }

    fn transmit(&self, _: usize, frames: &mut Frames) {
        let wire = lock(&self.wire).clone();
        match wire {
            Some(wire) => wire.carry(frames),
            None => self.forward(frames),
        }
    }

    fn attach(&self, port: Weak<Port>) {
        *lock(&self.port) = port;
    }
}
