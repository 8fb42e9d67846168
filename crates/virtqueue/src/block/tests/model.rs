//! Random requests against a disk in a vector.

use super::bed::*;
use crate::block::Target;
use crate::spec::block::*;
use proptest::prelude::*;
use std::sync::Arc;

const SECTORS: u64 = 64;

#[derive(Clone, Debug)]
enum Op {
    Read(u64, usize),
    Write(u64, usize, u8),
    Ranges(u32, Vec<(u64, u32, u32)>),
    Flush,
}

fn op() -> impl Strategy<Value = Op> {
    let sector = 0..SECTORS + 4;
    let range = (
        0..SECTORS + 2,
        0u32..20,
        prop_oneof![9 => Just(0u32), 6 => Just(1), 1 => Just(2)],
    );
    let kind = prop_oneof![
        Just(VIRTIO_BLK_T_DISCARD),
        Just(VIRTIO_BLK_T_WRITE_ZEROES),
        Just(VIRTIO_BLK_T_SECURE_ERASE)
    ];
    prop_oneof![
        4 => (sector.clone(), 0usize..12 * 512).prop_map(|(s, n)| Op::Read(s, if n % 7 == 0 { n } else { n / 512 * 512 })),
        4 => (sector, 0usize..12, any::<u8>()).prop_map(|(s, n, seed)| Op::Write(s, n * 512, seed)),
        3 => (kind, prop::collection::vec(range, 0..4)).prop_map(|(kind, ranges)| Op::Ranges(kind, ranges)),
        1 => Just(Op::Flush),
    ]
}

/// What the standard says of a request; changes the model as the device should.
fn expect(disk: &mut [u8], op: &Op) -> u8 {
    let inside = |sector: u64, len: u64| sector * 512 + len <= SECTORS * 512;
    match op {
        Op::Flush => 0,
        Op::Read(sector, len) => u8::from(len % 512 != 0 || !inside(*sector, *len as u64)),
        Op::Write(sector, len, seed) => {
            if !inside(*sector, *len as u64) {
                return 1;
            }
            disk[*sector as usize * 512..][..*len].copy_from_slice(&pattern(*len, *seed));
            0
        }
        Op::Ranges(kind, ranges) => {
            let allowed = u32::from(*kind == VIRTIO_BLK_T_WRITE_ZEROES);
            if ranges.iter().any(|(_, _, flags)| flags & !allowed != 0) {
                return 2;
            }
            if ranges.is_empty() || ranges.iter().any(|(s, n, _)| !inside(*s, u64::from(*n) * 512)) {
                return 1;
            }
            for (sector, sectors, _) in ranges {
                disk[*sector as usize * 512..][..*sectors as usize * 512].fill(0);
            }
            0
        }
    }
}

fn check(target: &Arc<Target>, ops: &[(Op, Vec<usize>)], features: u128) -> Result<(), TestCaseError> {
    let mut disk = vec![0; SECTORS as usize * 512];
    let mut driver = Driver::new(target, features);
    for (op, pieces) in ops {
        driver.clear();
        let before = disk.clone();
        let status = expect(&mut disk, op);
        let laid = match op {
            Op::Read(sector, len) => driver.request(VIRTIO_BLK_T_IN, *sector, &[], *len, pieces),
            Op::Write(sector, len, seed) => {
                driver.request(VIRTIO_BLK_T_OUT, *sector, &pattern(*len, *seed), 0, pieces)
            }
            Op::Ranges(kind, ranges) => {
                let bytes: Vec<u8> = ranges
                    .iter()
                    .flat_map(|(s, n, flags)| range(*s, *n, *flags))
                    .collect();
                driver.request(*kind, 0, &bytes, 0, pieces)
            }
            Op::Flush => driver.request(VIRTIO_BLK_T_FLUSH, 0, &[], 0, pieces),
        };
        driver.run();
        let answer = driver.answer(&laid);
        prop_assert_eq!(answer.status, status, "{:?}", op);
        match op {
            Op::Read(sector, len) if status == 0 => {
                prop_assert_eq!(answer.written as usize, len + 1);
                prop_assert!(answer.data == before[*sector as usize * 512..][..*len]);
            }
            Op::Read(_, len) => prop_assert_eq!(answer.written, u32::from(*len == 0)),
            _ => prop_assert_eq!(answer.written, 1),
        }
    }
    let mut all = vec![0; disk.len()];
    target
        .read_at(0, &mut all)
        .map_err(|error| TestCaseError::fail(error.to_string()))?;
    prop_assert!(all == disk);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_medium_is_a_disk(
        ops in prop::collection::vec((op(), prop::collection::vec(1usize..700, 0..4)), 1..40),
        way in 0..WAYS.len() * 2 + 1,
        writeback: bool,
    ) {
        let zeroes = [0; SECTORS as usize * 512];
        let target = match (WAYS.get(way), WAYS.get(way.wrapping_sub(WAYS.len()))) {
            (Some(way), _) => file_target(&image(&zeroes), *way),
            (None, Some(way)) => file_target(&image_in_memory(&zeroes), *way),
            (None, None) => Arc::new(Target::memory(SECTORS * 512).unwrap()),
        };
        target.set_writeback(writeback);
        check(&target, &ops, ALL)?;
    }
}
