//! Files: every engine, direct access, holes, odd sizes.

use super::bed::*;
use crate::block::{EngineChoice, FileOptions, Source, Target};
use crate::spec::block::*;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

#[test]
fn data_reaches_the_file_whatever_the_way() {
    for way in WAYS {
        let file = image(&pattern(1 << 20, 5));
        let target = file_target(&file, way);
        let mut driver = Driver::new(&target, ALL);
        assert!(
            driver.read(16, 65536) == pattern(1 << 20, 5)[16 * 512..][..65536],
            "{way:?}"
        );
        let data = pattern(3 * 4096, 77);
        assert_eq!(driver.write(8, &data), 0);
        // Not a multiple of a page.
        assert_eq!(driver.write(101, &data[..1536]), 0);
        assert!(driver.read(8, data.len()) == data, "{way:?}");
        assert!(driver.read(101, 1536) == data[..1536], "{way:?}");
        assert_eq!(driver.flush(), 0);
        let mut back = vec![0; data.len()];
        file.read_exact_at(&mut back, 8 * 512).unwrap();
        assert!(back == data, "{way:?}");
    }
}

#[test]
fn many_at_once() {
    for way in WAYS {
        let file = image(&[]);
        file.set_len(4 << 20).unwrap();
        let target = file_target(&file, way);
        let mut driver = Driver::new(&target, ALL);
        for round in 0..3u8 {
            driver.clear();
            let laid: Vec<_> = (0..300u64)
                .map(|i| driver.request(VIRTIO_BLK_T_OUT, i * 9, &pattern(4096, i as u8 ^ round), 0, &[]))
                .collect();
            driver.run();
            assert!(laid.iter().all(|laid| driver.answer(laid).status == 0), "{way:?}");
            driver.clear();
            let laid: Vec<_> = (0..300u64)
                .map(|i| driver.request(VIRTIO_BLK_T_IN, i * 9, &[], 4096, &[1000, 24]))
                .collect();
            driver.run();
            for (i, laid) in laid.iter().enumerate() {
                assert!(
                    driver.answer(laid).data == pattern(4096, i as u8 ^ round),
                    "{way:?}, {i}"
                );
            }
        }
    }
}

#[test]
fn more_than_a_ring_holds() {
    for way in [WAYS[1], WAYS[3]] {
        let contents = pattern(512 * 2000, 1);
        let file = image(&contents);
        let target = file_target(&file, way);
        let mut driver = Driver::new(&target, ALL);
        let laid: Vec<_> = (0..2000u64)
            .map(|i| driver.request(VIRTIO_BLK_T_IN, i, &[], 512, &[]))
            .collect();
        driver.run();
        for (i, laid) in laid.iter().enumerate() {
            assert!(driver.answer(laid).data == contents[i * 512..][..512]);
        }
    }
}

#[test]
fn more_pieces_than_the_kernel_takes_at_once() {
    for way in WAYS {
        let file = image(&pattern(1 << 16, 2));
        let target = file_target(&file, way);
        let mut driver = Driver::new(&target, ALL);
        let laid = driver.request(VIRTIO_BLK_T_IN, 8, &[], 8192, &[1, 2]);
        driver.run();
        assert!(
            driver.answer(&laid).data == pattern(1 << 16, 2)[4096..][..8192],
            "{way:?}"
        );
        driver.clear();
        let laid = driver.request(VIRTIO_BLK_T_OUT, 8, &pattern(8192, 99), 0, &[1]);
        driver.run();
        assert_eq!(driver.answer(&laid).status, 0);
        assert!(driver.read(8, 8192) == pattern(8192, 99), "{way:?}");
    }
}

#[test]
fn direct_access_takes_any_alignment() {
    for engine in [EngineChoice::IoUring, EngineChoice::Threads] {
        let file = image(&pattern(1 << 20, 4));
        let target = file_target(&file, (engine, true, true));
        let mut driver = Driver::new(&target, ALL);
        for (align, skew, pieces) in [
            (4096, 0, vec![]),
            (4096, 1, vec![]),
            (4096, 512, vec![4096]),
            (16, 3, vec![512]),
            (2, 1, vec![999, 25]),
        ] {
            for (sector, len) in [(8, 65536), (3, 512), (1, 4096 * 3), (8, 600 * 512)] {
                driver.clear();
                let data = pattern(len, skew as u8 ^ sector as u8);
                let laid = driver.request_at(VIRTIO_BLK_T_OUT, sector, &data, 0, &pieces, align, skew);
                driver.run();
                assert_eq!(driver.answer(&laid).status, 0);
                driver.clear();
                let laid = driver.request_at(VIRTIO_BLK_T_IN, sector, &[], len, &pieces, align, skew);
                driver.run();
                assert!(
                    driver.answer(&laid).data == data,
                    "{engine:?} {align} {skew} {pieces:?} {sector} {len}"
                );
            }
        }
        let (mut buffer, all) = (vec![0; 777], pattern(777, 6));
        target.write_at(999, &all).unwrap();
        target.read_at(999, &mut buffer).unwrap();
        assert!(buffer == all);
    }
}

fn blocks(file: &std::fs::File) -> u64 {
    file.sync_all().unwrap();
    file.metadata().unwrap().blocks()
}

#[test]
fn holes_are_punched() {
    for way in WAYS {
        let file = image(&[]);
        let target = file_target(&file, way);
        target.set_capacity(1 << 20).unwrap();
        assert!(target.can_discard());
        for (kind, flags, frees) in [
            (VIRTIO_BLK_T_DISCARD, 0, true),
            (VIRTIO_BLK_T_WRITE_ZEROES, 1, true),
            (VIRTIO_BLK_T_WRITE_ZEROES, 0, false),
            (VIRTIO_BLK_T_SECURE_ERASE, 0, true),
        ] {
            let mut driver = Driver::new(&target, ALL);
            assert_eq!(driver.write(0, &pattern(1 << 20, 8)), 0);
            let full = blocks(&file);
            assert!(full >= 2048);
            assert_eq!(driver.ask(kind, 0, &range(256, 1024, flags), 0).status, 0);
            let now = blocks(&file);
            assert_eq!(
                now + 1024 <= full,
                frees,
                "type {kind}, flags {flags}: {full} to {now} blocks"
            );
            let mut expected = pattern(1 << 20, 8);
            expected[256 * 512..1280 * 512].fill(0);
            assert!(driver.read(0, 1 << 20) == expected, "{way:?} type {kind}");
            assert_eq!(file.metadata().unwrap().len(), 1 << 20);
        }
    }
}

#[test]
fn zeroes_are_written_where_the_file_system_cannot_make_them() {
    for way in WAYS {
        let file = image_in_memory(&pattern(1 << 20, 3));
        let target = file_target(&file, way);
        let mut driver = Driver::new(&target, ALL);
        assert_eq!(
            driver
                .ask(VIRTIO_BLK_T_WRITE_ZEROES, 0, &range(3, 1500, 0), 0)
                .status,
            0
        );
        let mut expected = pattern(1 << 20, 3);
        expected[3 * 512..1503 * 512].fill(0);
        assert!(driver.read(0, 1 << 20) == expected, "{way:?}");
        assert_eq!(
            file.metadata().unwrap().blocks(),
            2048,
            "without unmap all stays allocated"
        );
    }
}

#[test]
fn an_image_that_is_no_multiple_of_512() {
    for way in WAYS {
        let file = image(&pattern(1000, 8));
        let target = file_target(&file, way);
        assert_eq!(target.capacity(), 1024);
        let mut driver = Driver::new(&target, ALL);
        let mut expected = pattern(1000, 8);
        expected.resize(1024, 0);
        assert!(driver.read(0, 1024) == expected, "{way:?}");
        assert!(driver.read(1, 512) == expected[512..], "{way:?}");
        let mut tail = [7; 30];
        target.read_at(990, &mut tail).unwrap();
        assert_eq!(tail[..], expected[990..1020]);
        assert_eq!(driver.write(1, &[5; 512]), 0);
        assert_eq!(file.metadata().unwrap().len(), 1024);
        assert!(driver.read(1, 512) == [5; 512]);
    }
}

#[test]
fn an_image_cut_behind_our_back_fails_instead_of_reading_zeroes() {
    for way in WAYS {
        let file = image(&pattern(8192, 8));
        let target = file_target(&file, way);
        let mut driver = Driver::new(&target, ALL);
        file.set_len(4096).unwrap();
        assert_eq!(driver.ask(VIRTIO_BLK_T_IN, 8, &[], 512).status, 1, "{way:?}");
        assert_eq!(driver.ask(VIRTIO_BLK_T_IN, 7, &[], 1024).status, 1, "{way:?}");
        assert!(target.read_at(4096, &mut [0; 10]).is_err());
        assert!(driver.read(0, 4096) == pattern(4096, 8));
        target.refresh_capacity().unwrap();
        assert_eq!(target.capacity(), 4096);
    }
}

#[test]
fn a_file_grows_with_the_capacity() {
    let file = image(&pattern(4096, 1));
    let target = file_target(&file, WAYS[0]);
    target.set_capacity(1 << 16).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1 << 16);
    let mut driver = Driver::new(&target, ALL);
    assert!(driver.read(8, 4096) == [0; 4096]);
    assert_eq!(driver.write(127, &[3; 512]), 0);
    target.set_capacity(4096).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1 << 16, "nothing is cut");
}

#[test]
fn queues_share_the_medium() {
    for way in WAYS {
        let file = image(&[]);
        file.set_len(4 << 20).unwrap();
        let target = file_target(&file, way);
        std::thread::scope(|scope| {
            for queue in 0..4u64 {
                let target = &target;
                scope.spawn(move || {
                    let mut driver = Driver::new(target, ALL);
                    for i in 0..50 {
                        let (sector, data) = (queue * 2048 + i * 16, pattern(8192, (queue * 50 + i) as u8));
                        assert_eq!(driver.write(sector, &data), 0);
                        if i % 10 == 0 {
                            assert_eq!(driver.flush(), 0);
                        }
                        assert!(driver.read(sector, 8192) == data);
                    }
                });
            }
        });
    }
}

#[test]
fn a_handler_may_go_away_with_requests_under_way() {
    for way in WAYS {
        let file = image(&pattern(1 << 20, 1));
        let target = file_target(&file, way);
        let mut driver = Driver::new(&target, ALL);
        for i in 0..100u64 {
            driver.request(VIRTIO_BLK_T_OUT, i, &pattern(512, 1), 0, &[]);
            driver.request(VIRTIO_BLK_T_FLUSH, 0, &[], 0, &[]);
        }
        driver.start().unwrap();
    }
}

#[test]
fn what_cannot_be_served_is_refused() {
    let open = |source, direct| {
        let mut options = FileOptions::new(source);
        options.direct = direct;
        Target::file(options)
    };
    assert!(open(Source::Path("/nonexistent".into()), false).is_err());
    assert!(open(Source::Path("/dev/null".into()), false).is_err());
    assert!(open(Source::Path("/var/tmp".into()), false).is_err());
    let read_only = std::fs::File::open("/proc/self/exe").unwrap();
    assert!(open(Source::Fd(read_only.into()), false).is_err());
    let (reader, _writer) = std::io::pipe().unwrap();
    assert!(open(Source::Fd(reader.into()), false).is_err());
}

#[test]
fn a_descriptor_in_append_mode_writes_where_it_should() {
    let file = image(&pattern(4096, 1));
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let append = std::fs::OpenOptions::new()
        .read(true)
        .append(true)
        .open(path)
        .unwrap();
    let target = Arc::new(Target::file(FileOptions::new(Source::Fd(append.into()))).unwrap());
    assert_eq!(Driver::new(&target, ALL).write(1, &[9; 512]), 0);
    assert_eq!(file.metadata().unwrap().len(), 4096);
}

#[test]
fn an_image_in_memory_is_read_where_it_lies() {
    let contents = pattern(1 << 20, 9);
    let file = image_in_memory(&contents);
    let target = file_target(&file, WAYS[0]);
    let mut driver = Driver::new(&target, ALL);
    assert!(driver.read(8, 65536) == contents[4096..][..65536]);
    // What is written, by us or others, is seen.
    assert_eq!(driver.write(8, &pattern(512, 1)), 0);
    file.write_all_at(&pattern(512, 2), 9 * 512).unwrap();
    assert!(driver.read(8, 512) == pattern(512, 1));
    driver.clear();
    assert!(driver.read(9, 512) == pattern(512, 2));
    // A hole stays one, however often it is read.
    driver.clear();
    target.discard(512 << 10, 256 << 10).unwrap();
    let blocks = file.metadata().unwrap().blocks();
    assert!(driver.read(1024, 65536) == vec![0; 65536]);
    assert_eq!(file.metadata().unwrap().blocks(), blocks);
}

#[test]
fn an_image_in_memory_that_is_cut_off_fails_like_any_other() {
    let file = image_in_memory(&pattern(1 << 20, 9));
    let target = file_target(&file, WAYS[0]);
    let mut driver = Driver::new(&target, ALL);
    file.set_len(4096).unwrap();
    driver.clear();
    let laid = driver.request(VIRTIO_BLK_T_IN, 100, &[], 4096, &[]);
    driver.run();
    assert_eq!(driver.answer(&laid).status, VIRTIO_BLK_S_IOERR);
    driver.clear();
    assert!(driver.read(0, 4096) == pattern(1 << 20, 9)[..4096]);
}
