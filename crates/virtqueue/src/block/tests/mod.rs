//! Tests of the block data path.
