//! The three areas of a ring (VIRTIO 1.4, 2.7 and 2.8): what their addresses must be like, and where they lie.

use super::{Config, ConfigError};
use crate::fault::{Fault, Rule};
use crate::memory::{Contiguous, Joined, Snapshot};
use std::sync::Arc;

/// An area, as the device uses it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Area {
    pub(super) name: &'static str,
    pub(super) address: u64,
    pub(super) length: u64,
    /// What the standard asks of its address.
    pub(super) align: u64,
    /// What atomic accesses ask of it in host memory.
    pub(super) host_align: usize,
    pub(super) writable: bool,
}

/// Areas that lie scattered, put together; kept from one snapshot to the next.
pub(super) type Scattered = [Option<Arc<Joined>>; 3];

/// Whether a ring can be there.
pub(super) fn check(areas: &[Area; 3]) -> Result<(), ConfigError> {
    for area in areas {
        if area.address % area.align != 0 {
            return Err(ConfigError::Alignment(area.name, area.address));
        }
        if area.address.checked_add(area.length).is_none() {
            return Err(ConfigError::Wraps(area.name, area.address));
        }
    }
    Ok(())
}

/// Where they lie in `memory`, with the lengths, host alignments and rights that they have; `None` while one of them is
/// not mapped. A front end that maps one so that it is misaligned breaks `rule`.
#[cold]
pub(super) fn resolve(
    areas: &[Area; 3],
    config: &Config,
    rule: Rule,
    memory: &Snapshot,
    scattered: &mut Scattered,
) -> Result<Option<[Contiguous; 3]>, Fault> {
    let mut found = [None; 3];
    for ((area, scattered), found) in areas.iter().zip(scattered).zip(&mut found) {
        let (name, address) = (area.name, area.address);
        *found = memory
            .ring_part(config.space, address, area.length, area.writable, scattered)
            .map_err(|error| Fault::new(Rule::Address, format!("{name}: {error}")))?;
        // What the front end's offsets are is its own choice, atomics need this.
        if found.is_some_and(|place| place.host as usize % area.host_align != 0) {
            let detail = format!("{name} at {address:#x} is misaligned in host memory");
            return Err(Fault::new(rule, detail));
        }
    }
    Ok(match found {
        [Some(first), Some(second), Some(third)] => Some([first, second, third]),
        _ => None,
    })
}
