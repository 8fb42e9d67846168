//! A switch with three devices, and what bad wires do.

use super::*;
use crate::net::port::{Backend, Port};
use crate::net::receive::Receiver;
use crate::net::switch::{Switch, SwitchPort};
use crate::net::wire::WireOptions;
use std::sync::Arc;
use std::time::{Duration, Instant};

struct Station {
    plug: Arc<SwitchPort>,
    port: Arc<Port>,
    _receiver: Receiver,
}

impl Station {
    fn new(switch: &Arc<Switch>, vlan: Option<u16>) -> Self {
        let port = Arc::new(Port::new(1).unwrap());
        port.update(|settings| {
            settings.link = true;
            settings.filter.promiscuous = true;
        });
        let plug = switch.port(vlan);
        port.set_backend(Some(plug.clone()));
        let _receiver = Receiver::new(port.clone(), 0, 256);
        Self {
            plug,
            port,
            _receiver,
        }
    }

    fn send(&self, sent: &[Vec<u8>]) {
        let mut frames = Frames::default();
        sent.iter()
            .for_each(|frame| frames.push(frame, Offload::default()));
        self.plug.transmit(0, &mut frames);
    }

    fn got(&self) -> Vec<Vec<u8>> {
        let mut frames = Frames::default();
        self.port.pairs[0].inbox.take(&mut frames);
        bytes(&frames)
    }

    fn wait(&self, count: usize) -> Vec<Vec<u8>> {
        let (mut all, end) = (Vec::new(), Instant::now() + Duration::from_secs(10));
        while all.len() < count && Instant::now() < end {
            all.extend(self.got());
            std::thread::sleep(Duration::from_millis(1));
        }
        all
    }
}

const EVERYBODY: u8 = 0xff;

fn frame(to: u8, from: u8, vlan: Option<u8>) -> Vec<u8> {
    let address = |number: u8| {
        if number == EVERYBODY {
            [0xff; 6]
        } else {
            [2, 0, 0, 0, 0, number]
        }
    };
    let tag: Vec<u8> = vlan.map_or(vec![], |vlan| vec![0x81, 0, 0, vlan]);
    [&address(to)[..], &address(from), &tag, &[0x88, 0xb5], &[from; 46]].concat()
}

#[test]
fn frames_go_where_their_addresses_are() {
    let switch = Arc::new(Switch::default());
    let [a, b, c] = [(); 3].map(|()| Station::new(&switch, None));
    a.send(&[frame(2, 1, None)]);
    assert_eq!(
        (a.got().len(), b.got().len(), c.got().len()),
        (0, 1, 1),
        "not known yet"
    );
    b.send(&[frame(1, 2, None)]);
    assert_eq!(
        (a.got(), b.got().len(), c.got().len()),
        (vec![frame(1, 2, None)], 0, 0)
    );
    c.send(&[
        frame(1, 3, None),
        frame(2, 3, None),
        frame(EVERYBODY, 3, None),
        frame(3, 3, None),
    ]);
    assert_eq!(a.got(), [frame(1, 3, None), frame(EVERYBODY, 3, None)]);
    assert_eq!(b.got(), [frame(2, 3, None), frame(EVERYBODY, 3, None)]);
    a.send(&[frame(2, 1, None), frame(2, 1, None)]);
    assert_eq!((b.got().len(), c.got().len()), (2, 0));
    assert_eq!(switch.learnt().len(), 3);
    // A station moves.
    c.send(&[frame(2, 1, None)]);
    b.send(&[frame(1, 2, None)]);
    assert_eq!((a.got().len(), c.got().len()), (0, 1));
    drop(b);
    c.send(&[frame(2, 3, None)]);
    assert_eq!(a.got().len(), 0);
}

#[test]
fn vlans_are_kept_apart_and_trunks_carry_tags() {
    let switch = Arc::new(Switch::default());
    let [five, other_five, six, trunk] =
        [Some(5), Some(5), Some(6), None].map(|vlan| Station::new(&switch, vlan));
    five.send(&[frame(EVERYBODY, 1, None)]);
    assert_eq!(other_five.got(), [frame(EVERYBODY, 1, None)]);
    assert_eq!(six.got().len(), 0);
    assert_eq!(trunk.got(), [frame(EVERYBODY, 1, Some(5))]);
    trunk.send(&[
        frame(1, 4, Some(5)),
        frame(EVERYBODY, 4, Some(6)),
        frame(EVERYBODY, 4, None),
    ]);
    assert_eq!(five.got(), [frame(1, 4, None)]);
    assert_eq!(six.got(), [frame(EVERYBODY, 4, None)]);
    assert_eq!(other_five.got().len(), 0);
    // No tags come in by an access port.
    six.send(&[frame(EVERYBODY, 3, Some(5))]);
    assert_eq!((five.got().len(), trunk.got().len()), (0, 0));
}

#[test]
fn offsets_follow_when_tags_come_and_go() {
    let switch = Arc::new(Switch::default());
    let (access, trunk) = (Station::new(&switch, Some(7)), Station::new(&switch, None));
    let offload = TCP4.request(VIRTIO_NET_HDR_GSO_TCPV4, 1000);
    let mut frames = Frames::default();
    frames.push(&TCP4.frame(), offload);
    access.plug.transmit(0, &mut frames);
    let mut got = Frames::default();
    assert!(trunk.port.pairs[0].inbox.take(&mut got));
    let tagged = got.list()[0];
    assert_eq!((tagged.offload.csum_start, tagged.offload.hdr_len), (38, 58));
    let (copy, offload_again) = (got.get(&tagged).to_vec(), tagged.offload);
    let mut back = Frames::default();
    back.push(&copy, offload_again);
    trunk.plug.transmit(0, &mut back);
    assert!(access.port.pairs[0].inbox.take(&mut got));
    assert_eq!(
        (got.list()[0].offload, got.get(&got.list()[0])),
        (offload, &TCP4.frame()[..])
    );
}

fn numbered(count: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|number| [frame(EVERYBODY, 1, None), (number as u32).to_be_bytes().to_vec()].concat())
        .collect()
}

fn over(options: WireOptions, sent: &[Vec<u8>], least: usize) -> (Vec<Vec<u8>>, Duration) {
    let switch = Arc::new(Switch::default());
    let (a, b) = (Station::new(&switch, None), Station::new(&switch, None));
    a.plug.set_wire(Some(options)).unwrap();
    let start = Instant::now();
    a.send(sent);
    let got = b.wait(least);
    let took = start.elapsed();
    a.plug.set_wire(None).unwrap();
    (got, took)
}

#[test]
fn wires_lose_and_duplicate_by_lot() {
    let sent = numbered(2000);
    let plain = WireOptions {
        seed: 3,
        ..WireOptions::default()
    };
    assert_eq!(over(plain, &sent, 2000).0, sent);
    let (got, _) = over(WireOptions { loss: 0.05, ..plain }, &sent, 1850);
    assert!((1850..1950).contains(&got.len()), "{}", got.len());
    assert!(
        got.windows(2).all(|pair| pair[0] < pair[1]),
        "what is left is in order"
    );
    let (got, _) = over(
        WireOptions {
            duplication: 0.1,
            ..plain
        },
        &sent,
        2140,
    );
    assert!((2140..2270).contains(&got.len()), "{}", got.len());
}

#[test]
fn wires_reorder_delay_and_slow_down() {
    let sent = numbered(500);
    let plain = WireOptions {
        seed: 3,
        ..WireOptions::default()
    };
    let (mut got, _) = over(
        WireOptions {
            reordering: 0.1,
            ..plain
        },
        &sent,
        500,
    );
    assert_ne!(got, sent);
    got.sort();
    assert_eq!(got, sent);
    let delay = Duration::from_millis(50);
    let (got, took) = over(WireOptions { delay, ..plain }, &sent, 500);
    assert_eq!(got, sent);
    assert!(took >= delay);
    // 500 frames of 64 bytes are 256 kbit.
    let (got, took) = over(
        WireOptions {
            rate: 2_560_000,
            ..plain
        },
        &sent,
        500,
    );
    assert_eq!(got, sent);
    assert!(took >= Duration::from_millis(99));
}
