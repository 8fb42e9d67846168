//! When completed writes are stable, and what becomes of those that are lost.

use super::bed::*;
use crate::block::Target;
use crate::block::engine::{Backend, Completed, Engine, Kind, Operation, Submitted};
use crate::memory::Snapshot;
use crate::spec::block::*;
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Notes what reaches the medium, and fails flushes on demand.
#[derive(Default)]
struct Recorder {
    log: Mutex<Vec<(Kind, bool)>>,
    fail_flush: AtomicBool,
    heeds_stable: bool,
    pending: bool,
}

struct RecordingEngine(Arc<Recorder>, VecDeque<Completed>);

impl Backend for Recorder {
    fn engine(self: Arc<Self>) -> io::Result<Box<dyn Engine>> {
        Ok(Box::new(RecordingEngine(self, VecDeque::new())))
    }
    unsafe fn perform(&self, _: &Operation<'_>) -> io::Result<()> {
        Ok(())
    }
    fn grow(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn size(&self) -> io::Result<u64> {
        Ok(1 << 20)
    }
    fn name(&self) -> &'static str {
        "recorder"
    }
}

impl Engine for RecordingEngine {
    unsafe fn submit(&mut self, operation: &Operation<'_>, _: &Arc<Snapshot>, tag: u32) -> Submitted {
        self.0
            .log
            .lock()
            .unwrap()
            .push((operation.kind, operation.stable));
        let outcome = match operation.kind {
            Kind::Flush if self.0.fail_flush.load(Ordering::Relaxed) => -i64::from(libc::EIO),
            _ => operation.list.iter().map(|entry| entry.iov_len as i64).sum(),
        };
        if self.0.pending {
            self.1.push_back(Completed { tag, outcome });
            return Submitted::Pending;
        }
        Submitted::Done(outcome)
    }
    fn reap(&mut self, out: &mut Vec<Completed>) {
        out.extend(self.1.pop_front());
    }
    fn writes_stably(&self) -> bool {
        self.0.heeds_stable
    }
}

fn recorder(heeds_stable: bool, pending: bool) -> (Arc<Recorder>, Arc<Target>) {
    let recorder = Arc::new(Recorder {
        heeds_stable,
        pending,
        ..Recorder::default()
    });
    let target = Arc::new(Target::new(Arc::clone(&recorder) as Arc<dyn Backend>, false).unwrap());
    (recorder, target)
}

#[test]
fn write_through_flushes_before_the_status() {
    use Kind::{Flush, Read, Write, WriteZeroes};
    for pending in [false, true] {
        // Features, writeback, whether writes are stable (5.2.6.2).
        for (features, writeback, stable) in [
            (0, true, true),
            (VIRTIO_BLK_F_FLUSH, true, false),
            (VIRTIO_BLK_F_FLUSH, false, true),
            (VIRTIO_BLK_F_CONFIG_WCE, true, false),
            (VIRTIO_BLK_F_CONFIG_WCE | VIRTIO_BLK_F_FLUSH, false, true),
            (VIRTIO_BLK_F_CONFIG_WCE | VIRTIO_BLK_F_FLUSH, true, false),
        ] {
            for heeds in [false, true] {
                let (recorder, target) = recorder(heeds, pending);
                target.set_writeback(writeback);
                let mut driver = Driver::new(&target, features | VIRTIO_BLK_F_WRITE_ZEROES);
                assert_eq!(driver.write(0, &[1; 512]), 0);
                driver.ask(VIRTIO_BLK_T_IN, 0, &[], 512);
                assert_eq!(
                    driver
                        .ask(VIRTIO_BLK_T_WRITE_ZEROES, 0, &range(0, 1, 0), 0)
                        .status,
                    0
                );
                let expected = match (stable, heeds) {
                    (false, _) => vec![(Write, false), (Read, false), (WriteZeroes, false)],
                    (true, true) => vec![(Write, true), (Read, false), (WriteZeroes, true), (Flush, false)],
                    (true, false) => {
                        vec![
                            (Write, true),
                            (Flush, false),
                            (Read, false),
                            (WriteZeroes, true),
                            (Flush, false),
                        ]
                    }
                };
                assert_eq!(
                    *recorder.log.lock().unwrap(),
                    expected,
                    "{features:#x} {writeback} {heeds}"
                );
            }
        }
    }
}

#[test]
fn a_failed_flush_is_reported() {
    for pending in [false, true] {
        let (recorder, target) = recorder(false, pending);
        let mut driver = Driver::new(&target, ALL);
        assert_eq!(driver.flush(), 0);
        recorder.fail_flush.store(true, Ordering::Relaxed);
        assert_eq!(driver.flush(), VIRTIO_BLK_S_IOERR);
        assert_eq!(driver.write(0, &[1; 512]), 0, "write-back: volatile");
        target.set_writeback(false);
        assert_eq!(
            driver.write(0, &[1; 512]),
            VIRTIO_BLK_S_IOERR,
            "write-through: not stable"
        );
        assert_eq!(target.tally().get(crate::block::Refusal::Backend), 2);
    }
}

#[test]
fn switching_the_cache_mode_takes_effect_at_once() {
    let (recorder, target) = recorder(true, false);
    let mut driver = Driver::new(&target, ALL);
    for writeback in [true, false, true] {
        target.set_writeback(writeback);
        driver.write(0, &[1; 512]);
        assert_eq!(
            recorder.log.lock().unwrap().pop(),
            Some((Kind::Write, !writeback))
        );
    }
}

#[test]
fn stable_writes_work_on_files() {
    for way in WAYS {
        let file = image(&[]);
        file.set_len(1 << 20).unwrap();
        let target = file_target(&file, way);
        target.set_writeback(false);
        let mut driver = Driver::new(&target, ALL);
        assert_eq!(driver.write(5, &pattern(8192, 1)), 0);
        assert_eq!(
            driver
                .ask(VIRTIO_BLK_T_WRITE_ZEROES, 0, &range(5, 2, 0), 0)
                .status,
            0
        );
        assert!(driver.read(7, 7168) == pattern(8192, 1)[1024..]);
    }
}
