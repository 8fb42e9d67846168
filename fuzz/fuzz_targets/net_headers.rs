//! Headers of the network device, and what is done to frames because of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use virtqueue::net::{ALL_TUNNELS, ALL_TYPES, Frames, HOST_OFFLOADS, Hasher, Offload, check, dissect, finish};

thread_local! {
    static HASHER: Hasher = Hasher::new(ALL_TYPES, &[0x5a; 40]).into_tunnels(ALL_TUNNELS);
}

fuzz_target!(|data: &[u8]| {
    let Some((head, frame)) = data.split_at_checked(24) else { return };
    let Ok(fields) = <&[u8; 10]>::try_from(&head[..10]) else { return };
    if let Some(layers) = dissect(frame) {
        assert!(layers.transport <= frame.len() && layers.payload <= frame.len());
        HASHER.with(|hasher| hasher.hash(frame, &layers));
    }
    let mut offload = Offload::parse(fields);
    offload.parse_tunnel(head);
    if let Ok(offload) = check(offload, frame, HOST_OFFLOADS) {
        let mut out = Frames::default();
        // Fragments are whole units of 8 bytes.
        let small = offload.kind() == 3 && offload.gso_size < 8;
        assert!(finish(frame, offload, &mut out) || small);
        assert!(out.list().iter().all(|frame| frame.offload == Offload::default()));
    }
});
