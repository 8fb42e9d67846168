//! Tests of the block data path: chains in anonymous memory, real files.

mod bed;
mod external;
mod files;
mod flush;
mod malformed;
mod model;
mod rate;
mod requests;
