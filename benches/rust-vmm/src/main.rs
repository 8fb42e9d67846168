//! The device's end alone: take, walk and complete chains, by rust-vmm's virtio-queue and by ours.
//!
//! One hot core, the same ring in the same run, in turns. The descriptors never change; what a driver
//! would do is one store to `avail.idx` for a batch. Both resolve every descriptor's buffer to host
//! memory. virtio-queue publishes each completion, as it can do no other; ours the batch.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;
use virtio_queue::{Queue, QueueT};
use virtqueue::bench::{Shape, device_end, thread};
use virtqueue::ring::feature;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

const SIZE: u16 = 256;
const LENGTH: u32 = 512;
const TABLE: u64 = 0;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const TABLES: u64 = 0x10000;
const BUFFERS: u64 = 0x40000;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

#[derive(Clone, Copy)]
struct Work {
    name: &'static str,
    descriptors: u16,
    indirect: bool,
}

const WORKS: [Work; 3] = [
    Work {
        name: "1 descriptor",
        descriptors: 1,
        indirect: false,
    },
    Work {
        name: "3 descriptors",
        descriptors: 3,
        indirect: false,
    },
    Work {
        name: "3, indirect",
        descriptors: 3,
        indirect: true,
    },
];

type Failure = Box<dyn std::error::Error>;

/// Writes `count` descriptors of a chain from index `first` of the table at `table`.
fn chain(memory: &GuestMemoryMmap, table: u64, first: u16, count: u16) -> Result<(), Failure> {
    for position in 0..count {
        let at = GuestAddress(table + 16 * u64::from(first + position));
        let writable = position >= count - count / 2;
        let more = position + 1 < count;
        let flags = if writable { WRITE } else { 0 } | if more { NEXT } else { 0 };
        memory.write_obj(BUFFERS + u64::from(position) * u64::from(LENGTH), at)?;
        memory.write_obj(LENGTH, at.unchecked_add(8))?;
        memory.write_obj(flags, at.unchecked_add(12))?;
        memory.write_obj(first + position + 1, at.unchecked_add(14))?;
    }
    Ok(())
}

/// Nanoseconds per chain of virtio-queue.
fn theirs(work: Work, batch: u16, chains: u64) -> Result<f64, Failure> {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 20)])?;
    let slots = if work.indirect { 1 } else { work.descriptors };
    let room = SIZE / slots;
    for number in 0..room {
        let head = number * slots;
        if work.indirect {
            let table = TABLES + u64::from(number) * 16 * u64::from(work.descriptors);
            chain(&memory, table, 0, work.descriptors)?;
            let at = GuestAddress(TABLE + 16 * u64::from(head));
            memory.write_obj(table, at)?;
            memory.write_obj(16 * u32::from(work.descriptors), at.unchecked_add(8))?;
            memory.write_obj(INDIRECT, at.unchecked_add(12))?;
        } else {
            chain(&memory, TABLE, head, work.descriptors)?;
        }
    }
    for entry in 0..SIZE {
        let head = (entry % room) * slots;
        memory.write_obj(head, GuestAddress(AVAILABLE + 4 + 2 * u64::from(entry)))?;
    }
    let mut queue = Queue::new(SIZE)?;
    queue.set_size(SIZE);
    queue.try_set_desc_table_address(GuestAddress(TABLE))?;
    queue.try_set_avail_ring_address(GuestAddress(AVAILABLE))?;
    queue.try_set_used_ring_address(GuestAddress(USED))?;
    queue.set_ready(true);
    let index = memory.get_host_address(GuestAddress(AVAILABLE + 2))?;
    // SAFETY: in the memory above, aligned to 2.
    let index = unsafe { AtomicU16::from_ptr(index.cast()) };
    let (mut done, mut available, mut bytes) = (0, 0u16, 0);
    let start = Instant::now();
    while done < chains {
        available = available.wrapping_add(batch);
        index.store(available, Ordering::Release);
        while let Some(mut chain) = queue.pop_descriptor_chain(&memory) {
            let head = chain.head_index();
            let mut written = 0;
            for descriptor in chain.by_ref() {
                let size = descriptor.len();
                let slice = memory.get_slice(descriptor.addr(), size as usize)?;
                if descriptor.is_write_only() {
                    written += size;
                }
                bytes += slice.len() as u64;
            }
            queue.add_used(&memory, head, written)?;
            done += 1;
        }
    }
    let time = start.elapsed().as_nanos() as f64 / done as f64;
    assert_eq!(bytes, done * u64::from(work.descriptors) * u64::from(LENGTH));
    Ok(time)
}

/// Nanoseconds per chain of ours.
fn ours(work: Work, batch: u16, chains: u64, features: u128) -> Result<f64, Failure> {
    let (time, done) = device_end(Shape {
        chains,
        batch: usize::from(batch),
        size: u32::from(SIZE),
        descriptors: usize::from(work.descriptors),
        indirect: work.indirect,
        features: features | feature::INDIRECT_DESC,
    })?;
    Ok(time.as_nanos() as f64 / done as f64)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

const COLUMNS: [(&str, u128); 4] = [
    ("split", 0),
    ("split in-order", feature::IN_ORDER),
    ("packed", feature::RING_PACKED),
    ("packed in-order", feature::RING_PACKED | feature::IN_ORDER),
];

fn run(runs: usize, precedence: bool) -> Result<(), Failure> {
    thread::settle(0, precedence)?;
    print!("{:<14} {:>5} {:>12}", "chain", "batch", "virtio-queue");
    COLUMNS.iter().for_each(|(name, _)| print!("  {name:>17}"));
    println!();
    for work in WORKS {
        for batch in [1, 16, 64] {
            let mut figures = vec![Vec::new(); 1 + COLUMNS.len()];
            // Short, and in turn: a change of the machine's mood meets all.
            for _ in 0..runs {
                figures[0].push(theirs(work, batch, 20_000)?);
                for (column, (_, features)) in COLUMNS.iter().enumerate() {
                    figures[column + 1].push(ours(work, batch, 20_000, *features)?);
                }
            }
            let medians: Vec<f64> = figures.into_iter().map(median).collect();
            print!("{:<14} {batch:>5} {:>12.1}", work.name, medians[0]);
            for ns in &medians[1..] {
                print!("  {:>10.1} ({:.2})", ns, ns / medians[0]);
            }
            println!();
        }
    }
    println!("ns per chain, medians of {runs} runs; in brackets: part of virtio-queue's");
    Ok(())
}

fn main() -> ExitCode {
    let mut runs = 31;
    let mut precedence = false;
    for argument in std::env::args().skip(1) {
        match (argument.as_str(), argument.parse()) {
            ("--precedence", _) => precedence = true,
            (_, Ok(count)) if count > 0 => runs = count,
            _ => {
                eprintln!("usage: bench-rust-vmm [--precedence] [RUNS]");
                return ExitCode::from(2);
            }
        }
    }
    match run(runs, precedence) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
