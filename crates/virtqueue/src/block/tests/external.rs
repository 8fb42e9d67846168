//! Back ends outside the crate.

use super::bed::*;
use crate::block::{External, ExternalRequest, Failure, Kind, Target};
use crate::spec::block::*;
use crate::worker::Handler;
use std::sync::{Arc, Mutex};

/// A disk in a vector, that answers at once, later from another thread, or not at all.
struct Store {
    bytes: Arc<Mutex<Vec<u8>>>,
    log: Mutex<Vec<(Kind, u64, u64)>>,
    batches: Mutex<Vec<usize>>,
    later: bool,
}

fn serve(bytes: &Mutex<Vec<u8>>, request: ExternalRequest) {
    let (at, size) = (request.offset as usize, request.size as usize);
    let mut bytes = bytes.lock().unwrap();
    let result = match request.kind {
        Kind::Read if at == 2048 * 512 => Err(Failure::Io),
        Kind::Read => {
            assert_eq!(request.data().copy_from(0, &bytes[at..at + size]), size);
            Ok(())
        }
        Kind::Write => {
            assert_eq!(request.data().copy_to(0, &mut bytes[at..at + size]), size);
            Ok(())
        }
        Kind::Flush => Ok(()),
        Kind::WriteZeroes => {
            bytes[at..at + size].fill(0);
            Ok(())
        }
        _ => Err(Failure::Unsupported),
    };
    drop(bytes);
    request.complete(result);
}

impl External for Store {
    fn submit(&self, requests: &mut Vec<ExternalRequest>) {
        self.batches.lock().unwrap().push(requests.len());
        let mut log = self.log.lock().unwrap();
        log.extend(
            requests
                .iter()
                .map(|request| (request.kind, request.offset, request.size)),
        );
        drop(log);
        for request in requests.drain(..) {
            if self.later {
                let bytes = Arc::clone(&self.bytes);
                std::thread::spawn(move || {
                    std::thread::sleep(std::time::Duration::from_millis(2));
                    serve(&bytes, request);
                });
            } else {
                serve(&self.bytes, request);
            }
        }
    }
}

fn store(later: bool) -> (Arc<Store>, Arc<Target>) {
    let store = Arc::new(Store {
        bytes: Arc::new(Mutex::new(vec![0; 4 << 20])),
        log: Mutex::default(),
        batches: Mutex::default(),
        later,
    });
    let target = Target::external(Arc::clone(&store) as Arc<dyn External>, 4 << 20, false).unwrap();
    (store, Arc::new(target))
}

#[test]
fn requests_are_answered_at_once_or_later() {
    for later in [false, true] {
        let (store, target) = store(later);
        let mut driver = Driver::new(&target, ALL);
        for pieces in [vec![], vec![512], vec![100, 33]] {
            driver.clear();
            let data = pattern(8192, pieces.len() as u8);
            let out = driver.request(VIRTIO_BLK_T_OUT, 4, &data, 0, &pieces);
            driver.run();
            assert_eq!(driver.answer(&out).status, 0);
            assert!(store.bytes.lock().unwrap()[2048..2048 + 8192] == data);
            driver.clear();
            let back = driver.request(VIRTIO_BLK_T_IN, 4, &[], 8192, &pieces);
            driver.run();
            let answer = driver.answer(&back);
            assert_eq!((answer.status, answer.written), (0, 8193));
            assert!(answer.data == data, "{pieces:?}");
        }
        assert_eq!(driver.flush(), 0);
        assert_eq!(
            driver
                .ask(VIRTIO_BLK_T_WRITE_ZEROES, 0, &range(4, 1, 0), 0)
                .status,
            0
        );
        assert_eq!(driver.ask(VIRTIO_BLK_T_DISCARD, 0, &range(4, 1, 0), 0).status, 2);
        assert_eq!(driver.read(4, 512), [0; 512]);
    }
}

#[test]
fn one_sector_may_fail() {
    let (_, target) = store(false);
    let mut driver = Driver::new(&target, ALL);
    assert_eq!(driver.ask(VIRTIO_BLK_T_IN, 2048, &[], 512).status, 1);
    assert_eq!(driver.read(2047, 512), [0; 512]);
    assert_eq!(driver.read(2049, 512), [0; 512]);
}

#[test]
fn a_batch_arrives_as_one() {
    let (store, target) = store(false);
    let mut driver = Driver::new(&target, ALL);
    for i in 0..64 {
        driver.request(VIRTIO_BLK_T_IN, i, &[], 512, &[]);
    }
    driver.run();
    assert_eq!(*store.batches.lock().unwrap(), [64]);
    assert_eq!(driver.done.as_slice().len(), 64);
}

#[test]
fn scattered_data_beyond_a_mebibyte_is_split() {
    let (store, target) = store(true);
    let mut driver = Driver::new(&target, ALL);
    let data = pattern(3 << 20, 1);
    let laid = driver.request(VIRTIO_BLK_T_OUT, 0, &data, 0, &[4096]);
    driver.run();
    assert_eq!(driver.answer(&laid).status, 0);
    assert!(store.bytes.lock().unwrap()[..3 << 20] == data);
    assert!(
        store
            .log
            .lock()
            .unwrap()
            .iter()
            .all(|(_, _, size)| *size <= 1 << 20)
    );
}

#[test]
fn write_through_flushes_after_each_write() {
    let (store, target) = store(true);
    let mut driver = Driver::new(&target, 0);
    assert_eq!(driver.write(0, &[1; 512]), 0);
    assert_eq!(
        *store.log.lock().unwrap(),
        [(Kind::Write, 0, 512), (Kind::Flush, 0, 0)]
    );
}

/// Keeps requests, and answers none.
struct Hoarder(Mutex<Vec<ExternalRequest>>);

impl External for Hoarder {
    fn submit(&self, requests: &mut Vec<ExternalRequest>) {
        self.0.lock().unwrap().append(requests);
    }
}

#[test]
fn a_dropped_request_has_failed() {
    let hoarder = Arc::new(Hoarder(Mutex::default()));
    let target = Arc::new(Target::external(Arc::clone(&hoarder) as _, 1 << 20, false).unwrap());
    let mut driver = Driver::new(&target, ALL);
    let laid = driver.request(VIRTIO_BLK_T_IN, 0, &[], 1024, &[512]);
    driver.start().unwrap();
    assert_eq!(driver.handler.busy(), 1);
    hoarder.0.lock().unwrap().clear();
    driver.finish();
    assert_eq!(driver.answer(&laid).status, 1);
}

#[test]
fn scattered_data_waits_for_the_budget() {
    let hoarder = Arc::new(Hoarder(Mutex::default()));
    let target = Arc::new(Target::external(Arc::clone(&hoarder) as _, 1 << 20, false).unwrap());
    let mut driver = Driver::new(&target, ALL);
    // The same memory again and again: 256 requests of 1 MiB, of which 32 fit the budget.
    let header = driver.place(&[0; 16], 1, 0);
    let data = driver.place(&vec![0; (1 << 20) - 8], 1, 0);
    let (rest, status) = (driver.place(&[0; 8], 1, 0), driver.place(&[0xee], 1, 0));
    for _ in 0..256 {
        driver.chain(&[header], &[data, rest, status]);
    }
    driver.start().unwrap();
    assert_eq!(driver.handler.busy(), 256);
    let mut served = 0;
    while driver.handler.busy() > 0 {
        let held = std::mem::take(&mut *hoarder.0.lock().unwrap());
        assert!(!held.is_empty() && held.len() <= 32, "{} at once", held.len());
        served += held.len();
        held.into_iter().for_each(|request| request.complete(Ok(())));
        driver.handler.reap(&mut driver.done).unwrap();
    }
    assert_eq!((served, driver.done.as_slice().len()), (256, 256));
}

#[test]
fn a_late_answer_finds_nobody_and_harms_nobody() {
    let hoarder = Arc::new(Hoarder(Mutex::default()));
    let target = Arc::new(Target::external(Arc::clone(&hoarder) as _, 1 << 20, false).unwrap());
    let mut driver = Driver::new(&target, ALL);
    driver.request(VIRTIO_BLK_T_IN, 0, &[], 1024, &[512]);
    driver.start().unwrap();
    let started = std::time::Instant::now();
    drop(driver);
    assert!(
        started.elapsed().as_secs() < 1,
        "its memory is kept alive by the request"
    );
    for request in hoarder.0.lock().unwrap().drain(..) {
        request.data().copy_from(0, &[1; 512]);
        request.complete(Ok(()));
    }
}
