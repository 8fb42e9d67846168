//! The block device's data path (VIRTIO 1.4, section 5.2; no zones).
//!
//! A [`Target`] is the medium and what its queues share; a [`BlockHandler`] answers the requests of
//! one queue. Requests are parsed (`request`), become operations (`handler`) and go to an engine
//! (`engine`), one per queue: file or block device, memory, nothing, or an [`External`] back end.

mod buffer;
mod engine;
mod external;
mod file;
mod handler;
mod mailbox;
mod memory;
mod null;
mod request;
mod segments;
mod tally;
mod target;
mod work;

#[cfg(test)]
mod tests;

pub use engine::Kind;
pub use external::{External, ExternalData, ExternalRequest, Failure};
pub use file::{EngineChoice, FileOptions, Source};
pub use handler::BlockHandler;
pub use tally::{Refusal, Tally};
pub use target::{Lifetime, Limits, Target};
