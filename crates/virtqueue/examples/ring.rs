//! Prints what the rings cost: `cargo run --release -p virtqueue --example ring`.

use virtqueue::bench::{Shape, both_ends, device_end};
use virtqueue::ring::feature;

fn main() {
    println!(
        "{:>6} {:>6} {:>9} {:>12} {:>12}",
        "batch", "desc", "indirect", "device ns", "both ns"
    );
    for (descriptors, indirect) in [(1, false), (2, false), (3, false), (3, true)] {
        for batch in [1, 16, 64] {
            let shape = Shape {
                chains: 100_000,
                batch,
                size: 256,
                descriptors,
                indirect,
                features: feature::INDIRECT_DESC | feature::EVENT_IDX,
            };
            // The best of several: everything else on the machine only adds.
            let best = |run: fn(Shape) -> Result<_, virtqueue::fault::Fault>| {
                (0..150)
                    .filter_map(|_| run(shape).ok())
                    .map(|(time, chains): (std::time::Duration, u64)| {
                        time.as_secs_f64() * 1e9 / chains as f64
                    })
                    .fold(f64::INFINITY, f64::min)
            };
            let (device, both) = (best(device_end), best(both_ends));
            println!("{batch:>6} {descriptors:>6} {indirect:>9} {device:>12.2} {both:>12.2}");
        }
    }
}
