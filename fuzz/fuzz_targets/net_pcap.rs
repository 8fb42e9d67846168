//! Files of frames, whatever is in them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use virtqueue::net::PcapReader;

fuzz_target!(|data: &[u8]| {
    let Ok(mut reader) = PcapReader::new(data) else { return };
    let mut frame = Vec::new();
    let mut left = data.len();
    while let Ok(Some(_)) = reader.next(&mut frame) {
        // No frame comes from nothing.
        assert!(frame.len() < left);
        left -= frame.len() + 12;
    }
});
