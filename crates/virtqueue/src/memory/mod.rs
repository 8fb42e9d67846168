//! Guest memory.

/// The regions as they were at one moment; host addresses taken from it stay
/// valid while it is held.
#[derive(Debug, Default)]
pub struct Snapshot {}
