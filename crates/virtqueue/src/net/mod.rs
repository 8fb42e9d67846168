//! The network device's data path (VIRTIO 1.4, section 5.1).
//!
//! A [`Port`] is what the queues of a device share: settings, counters, and the [`Backend`] that frames go to and
//! come from. A [`Transmitter`] copies frames out of guest memory, checks their headers, does in software what the back
//! end cannot, and hands batches on. Whoever has frames for the driver calls [`Port::deliver`], which filters and
//! steers; a [`Receiver`] puts them into buffers, and does in software what the driver cannot.

mod checksum;
mod descriptor;
mod filter;
mod flow;
mod frames;
mod header;
mod layers;
mod pcap;
mod port;
mod receive;
mod recording;
mod segment;
mod simple;
mod steering;
mod switch;
mod tally;
mod toeplitz;
mod transmit;
mod tunnel;
mod wire;

#[cfg(test)]
mod tests;

pub use descriptor::{Descriptor, Framing};
pub use filter::{Filter, Mac, Vlans};
pub use flow::{Rule, Rules, Verdict};
pub use frames::{Frame, Frames};
pub use header::{MAX_FRAME, Malformed, Offload, check};
pub use layers::{Layers, dissect};
pub use pcap::{Format, PcapError, PcapReader, PcapWriter, now};
pub use port::{Backend, GUEST_OFFLOADS, Port, Settings};
pub use receive::Receiver;
pub use recording::{Play, Recording};
pub use segment::finish;
pub use simple::{HOST_OFFLOADS, HOST_TUNNELS, Loop, Sink, Source};
pub use steering::Steering;
pub use switch::{Switch, SwitchPort};
pub use tally::{Count, Received, Transmitted};
pub use toeplitz::{ALL_TYPES, Hasher};
pub use transmit::Transmitter;
pub use tunnel::ALL_TUNNELS;
pub use wire::{Wire, WireOptions};
