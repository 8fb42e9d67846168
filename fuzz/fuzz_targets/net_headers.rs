//! Headers of the network device, and what is done to frames because of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use virtqueue::net::{
    ALL_TUNNELS, ALL_TYPES, Frames, HOST_OFFLOADS, Hasher, Offload, Rule, Rules, Verdict, check, dissect,
    finish,
};
use virtqueue::spec::net::*;

thread_local! {
    static HASHER: Hasher = Hasher::new(ALL_TYPES, &[0x5a; 40]).into_tunnels(ALL_TUNNELS);
    /// For each set of headers, a rule that matches whatever has them.
    static RULES: [Rules; 4] = [
        rule(&[VIRTIO_NET_FF_MASK_TYPE_ETH, VIRTIO_NET_FF_MASK_TYPE_IPV4, VIRTIO_NET_FF_MASK_TYPE_TCP], 54),
        rule(&[VIRTIO_NET_FF_MASK_TYPE_ETH, VIRTIO_NET_FF_MASK_TYPE_IPV4, VIRTIO_NET_FF_MASK_TYPE_UDP], 42),
        rule(&[VIRTIO_NET_FF_MASK_TYPE_ETH, VIRTIO_NET_FF_MASK_TYPE_IPV6, VIRTIO_NET_FF_MASK_TYPE_TCP], 74),
        rule(&[VIRTIO_NET_FF_MASK_TYPE_ETH, VIRTIO_NET_FF_MASK_TYPE_IPV6, VIRTIO_NET_FF_MASK_TYPE_UDP], 62),
    ];
}

fn rule(types: &[u8], size: usize) -> Rules {
    let all = vec![0; size];
    Rules::new(
        Rule::new(types, &all, &all, Verdict::Drop)
            .into_iter()
            .collect::<Vec<_>>(),
    )
}

fuzz_target!(|data: &[u8]| {
    let Some((head, frame)) = data.split_at_checked(24) else {
        return;
    };
    let Ok(fields) = <&[u8; 10]>::try_from(&head[..10]) else {
        return;
    };
    if let Some(layers) = dissect(frame) {
        assert!(layers.transport <= frame.len() && layers.payload <= frame.len());
        HASHER.with(|hasher| hasher.hash(frame, &layers));
    }
    RULES.with(|rules| {
        let found = rules.iter().filter(|rules| rules.find(frame).is_some()).count();
        let ports = dissect(frame).is_some_and(|layers| layers.network == 14 && layers.has_ports());
        assert!(found <= 1 && (found == 1 || !ports));
    });
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
