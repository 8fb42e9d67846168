//! Headers of the network device, and what is done to frames because of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use virtqueue::net::{ALL_TYPES, Frames, HOST_OFFLOADS, Hasher, Offload, check, dissect, finish};

fuzz_target!(|data: &[u8]| {
    let Some((head, frame)) = data.split_at_checked(10) else { return };
    let Ok(head) = <&[u8; 10]>::try_from(head) else { return };
    if let Some(layers) = dissect(frame) {
        assert!(layers.transport <= frame.len() && layers.payload <= frame.len());
        let _ = Hasher::new(ALL_TYPES, &[0x5a; 40]).hash(frame, &layers);
    }
    if let Ok(offload) = check(Offload::parse(head), frame, HOST_OFFLOADS) {
        let mut out = Frames::default();
        if finish(frame, offload, &mut out) {
            assert!(!out.is_empty());
            assert!(out.list().iter().all(|frame| frame.offload == Offload::default()));
        }
    }
});
