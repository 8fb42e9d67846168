//! Chains that the driver has to find used at once, or not at all.

use super::*;

const LAYOUTS: [u128; 4] = [
    0,
    feature::RING_PACKED,
    feature::IN_ORDER,
    feature::IN_ORDER | feature::RING_PACKED,
];

/// Both ends, with chains of room for 8 bytes taken by the device.
struct Both {
    memory: Arc<Snapshot>,
    driver: Driver,
    device: Ring,
    tokens: Vec<Token>,
    _rig: Loopback,
}

impl Both {
    fn new(features: u128, count: usize) -> Self {
        let rig = Loopback::new(8, features, 4096).unwrap();
        let memory = rig.memory.snapshot();
        let mut driver = Driver::new(&rig.config, memory.clone()).unwrap();
        let mut device = Ring::new(&rig.config).unwrap();
        let into = Buffer {
            address: rig.buffers,
            len: 8,
        };
        (0..count).for_each(|_| {
            driver.add(&[], &[into]).unwrap();
        });
        driver.publish();
        let mut batch = Batch::default();
        batch.attach(&memory);
        assert_eq!(device.take(&memory, &mut batch, 8).unwrap(), count);
        let tokens = batch.iter().map(|chain| chain.token).collect();
        Self {
            memory,
            driver,
            device,
            tokens,
            _rig: rig,
        }
    }

    fn complete(&mut self, index: usize, written: u32) {
        self.device
            .complete(&self.memory, self.tokens[index], written)
            .unwrap();
    }

    fn complete_together(&mut self, chains: &[(usize, u32)]) {
        let chains: Vec<_> = chains
            .iter()
            .map(|(index, written)| (self.tokens[*index], *written))
            .collect();
        self.device.complete_together(&self.memory, &chains).unwrap();
    }

    /// Publishes; which chains the driver finds used by that, and with how much in each.
    fn found(&mut self) -> Vec<(usize, u32)> {
        self.device.publish(&self.memory).unwrap();
        let mut found = Vec::new();
        self.driver
            .reap(8, |used| found.push((used.head, used.len)))
            .unwrap();
        let place = |id| self.tokens.iter().position(|token| token.id() == id).unwrap();
        found.into_iter().map(|(id, len)| (place(id), len)).collect()
    }
}

#[test]
fn nothing_of_them_is_seen_before_the_next_publish() {
    for features in LAYOUTS {
        let mut both = Both::new(features, 4);
        both.complete_together(&[(0, 8), (1, 8), (2, 3)]);
        let mut early = 0;
        both.driver.reap(8, |_| early += 1).unwrap();
        assert_eq!(early, 0, "{features:#x}");
        assert_eq!(both.found(), [(0, 8), (1, 8), (2, 3)], "{features:#x}");
    }
}

#[test]
fn in_order_they_wait_for_the_older_ones_of_each() {
    for layout in [0, feature::RING_PACKED] {
        let mut both = Both::new(feature::IN_ORDER | layout, 5);
        // 0 could be told by itself, but 2 has to wait for 1.
        both.complete_together(&[(2, 8), (0, 8)]);
        assert_eq!(both.found(), []);
        assert_eq!(both.device.outstanding(), 3, "they are complete for the device");
        both.complete(1, 4);
        assert_eq!(both.found(), [(0, 8), (1, 4), (2, 8)]);
        // The rest is as ever.
        both.complete(4, 1);
        assert_eq!(both.found(), []);
        both.complete(3, 2);
        assert_eq!(both.found(), [(3, 2), (4, 1)]);
    }
}

#[test]
fn out_of_order_they_wait_for_nobody() {
    for layout in [0, feature::RING_PACKED] {
        let mut both = Both::new(layout, 4);
        both.complete_together(&[(3, 8), (1, 8)]);
        assert_eq!(both.found(), [(3, 8), (1, 8)]);
    }
}

#[test]
fn two_that_overlap_are_told_at_once() {
    for layout in [0, feature::RING_PACKED] {
        let mut both = Both::new(feature::IN_ORDER | layout, 6);
        both.complete_together(&[(0, 8), (2, 8)]);
        both.complete_together(&[(1, 8), (4, 8)]);
        both.complete(5, 8);
        assert_eq!(both.found(), []);
        both.complete(3, 8);
        let all: Vec<_> = (0..6).map(|index| (index, 8)).collect();
        assert_eq!(both.found(), all);
    }
}

#[test]
fn a_successor_is_offered_all_that_were_not_told() {
    let mut both = Both::new(feature::IN_ORDER, 4);
    both.complete_together(&[(0, 8), (2, 8)]);
    assert_eq!(both.found(), []);
    assert_eq!((both.device.base(), both.device.lost()), (0, 0));
}

#[test]
fn one_that_was_complete_already_is_a_fault() {
    for features in LAYOUTS {
        let mut both = Both::new(features, 2);
        both.complete(0, 8);
        let chains = [(both.tokens[1], 8), (both.tokens[0], 8)];
        let fault = both.device.complete_together(&both.memory, &chains).unwrap_err();
        assert_eq!(fault.rule, Rule::Device);
    }
}

#[test]
fn a_list_of_completions_keeps_what_belongs_together() {
    use crate::worker::Completions;
    let mut both = Both::new(feature::IN_ORDER, 6);
    let tokens = both.tokens.clone();
    let (mut one, mut all) = (Completions::default(), Completions::default());
    one.push_together(&[(tokens[1], 8), (tokens[3], 8)]);
    all.push(tokens[0], 8);
    all.append(&one);
    all.push(tokens[4], 8);
    all.push_together(&[(tokens[5], 8)]);
    all.record(&mut both.device, &both.memory).unwrap();
    assert_eq!(both.found(), [(0, 8)], "1 waits with 3 for 2");
    all.clear();
    all.push(tokens[2], 8);
    all.record(&mut both.device, &both.memory).unwrap();
    let rest: Vec<_> = (1..6).map(|index| (index, 8)).collect();
    assert_eq!(both.found(), rest);
}
