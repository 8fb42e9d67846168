//! 4 KiB requests per second of one handler, without a ring: what the data path itself costs.
//! BLOCK_RATE_DIR says where the image is made, if not in /var/tmp.

use crate::block::{BlockHandler, EngineChoice, FileOptions, Source, Target};
use crate::chain::{Batch, Segment, Token};
use crate::spec::block::{VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT};
use crate::worker::{Completions, Handler};
use std::error::Error;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

const IMAGE: u64 = 256 << 20;
const BLOCK: usize = 4096;
const TIME: Duration = Duration::from_millis(700);

struct Requests {
    memory: Vec<u8>,
    depth: usize,
    random: u64,
}

impl Requests {
    fn new(depth: usize) -> Self {
        Self {
            memory: vec![1; depth * 2 * BLOCK + BLOCK],
            depth,
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    fn fill(&mut self, kind: u32, batch: &mut Batch) {
        batch.clear();
        let skip = self.memory.as_ptr().align_offset(BLOCK);
        let start = self.memory[skip..].as_mut_ptr();
        for index in 0..self.depth {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let sector = self.random % (IMAGE / BLOCK as u64) * 8;
            // Data first, then header and status in a page of their own.
            let data = start.wrapping_add(index * 2 * BLOCK);
            let header = data.wrapping_add(BLOCK);
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&kind.to_le_bytes());
            bytes[8..].copy_from_slice(&sector.to_le_bytes());
            // SAFETY: within `memory`.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), header, 16) };
            let segment = |host: *mut u8, len: usize| Segment {
                host,
                guest: host as u64,
                len: len as u32,
            };
            let (header, status) = (segment(header, 16), segment(header.wrapping_add(16), 1));
            batch.push_segment(header);
            batch.push_segment(segment(data, BLOCK));
            batch.push_segment(status);
            let readable = if kind == VIRTIO_BLK_T_OUT { 2 } else { 1 };
            let data = BLOCK as u64;
            let lengths = if readable == 2 {
                (16 + data, 1)
            } else {
                (16, 1 + data)
            };
            let token = Token::new(index as u16, 1);
            batch.finish_chain(token, readable, lengths);
        }
    }
}

fn run(target: &Arc<Target>, kind: u32, depth: usize) -> Result<f64, Box<dyn Error>> {
    let mut handler = BlockHandler::new(Arc::clone(target), VIRTIO_BLK_F_FLUSH)?;
    let snapshot = super::bed::snapshot();
    let (mut batch, mut done) = (Batch::default(), Completions::default());
    let mut requests = Requests::new(depth);
    let (mut count, mut answered, start) = (0u64, 0usize, Instant::now());
    while start.elapsed() < TIME {
        requests.fill(kind, &mut batch);
        handler.handle(&snapshot, &batch, &mut done)?;
        while handler.busy() > 0 {
            let fd = handler.completion_fd().ok_or("no way to wait")?;
            let mut poll = libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one valid entry.
            unsafe { libc::poll(&mut poll, 1, 1000) };
            handler.reap(&mut done)?;
        }
        count += depth as u64;
        answered += done.as_slice().len();
        done.clear();
    }
    if answered as u64 != count {
        return Err("requests were lost".into());
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

#[test]
#[ignore = "a measurement: cargo test --release -p virtqueue block::tests::rate -- --ignored --nocapture"]
fn rate() -> Result<(), Box<dyn Error>> {
    let folder = std::env::var("BLOCK_RATE_DIR").unwrap_or("/var/tmp".into());
    let path = std::path::PathBuf::from(folder).join(format!("virtqueue-bench-{}", std::process::id()));
    let file = std::fs::File::create_new(&path)?;
    let block = vec![7; 1 << 20];
    for at in (0..IMAGE).step_by(1 << 20) {
        file.write_all_at(&block, at)?;
    }
    let open = |engine, inline, direct| {
        let options = FileOptions {
            engine,
            inline,
            direct,
            ..FileOptions::new(Source::Path(path.clone()))
        };
        Target::file(options).map(Arc::new)
    };
    use EngineChoice::{IoUring, Threads};
    let targets = [
        ("null", Arc::new(Target::null(IMAGE, false)?)),
        ("memory", Arc::new(Target::memory(IMAGE)?)),
        ("cached file, inline first", open(IoUring, true, false)?),
        ("cached file, io_uring only", open(IoUring, false, false)?),
        ("cached file, threads only", open(Threads, false, false)?),
        ("direct file, io_uring", open(IoUring, true, true)?),
    ];
    std::fs::remove_file(&path)?;
    println!(
        "{:<28}{:>12}{:>12}{:>12}   thousand requests of 4 KiB a second",
        "", "depth 1", "32", "128"
    );
    for (kind, what) in [(VIRTIO_BLK_T_IN, "read"), (VIRTIO_BLK_T_OUT, "write")] {
        for (name, target) in &targets {
            let mut line = format!("{what:<6}{name:<26}");
            for depth in [1, 32, 128] {
                line += &format!("{:>12.0}", run(target, kind, depth)? / 1000.0);
            }
            println!("{line}");
        }
    }
    Ok(())
}
