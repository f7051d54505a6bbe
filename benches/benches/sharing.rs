//! What threads pay for sharing: the verdict cache beside a sharded map and a map behind a mutex, and the flow ring.

use std::{
    collections::HashMap,
    hint::black_box,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use dashmap::DashMap;
use seventh_flows::{Read, Ring, RingCapacity};
use seventh_verdict_cache::{Key, VerdictCache};

const KEYS: u64 = 4096;
const EPOCH: u32 = 1;
/// One write among so many reads.
const READS_PER_WRITE: u64 = 64;

fn key_bits(n: u64) -> (u64, u64) {
    let n = n % KEYS;
    (n, n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
}

/// Time that `threads` take for `rounds` turns each, all at once.
fn all_at_once(threads: u64, rounds: u64, turn: &(impl Fn(u64) + Sync)) -> Duration {
    let begin = Instant::now();
    thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for round in 0..rounds {
                    turn(thread.wrapping_mul(977).wrapping_add(round));
                }
            });
        }
    });
    begin.elapsed()
}

fn contention(c: &mut Criterion) {
    let cache = VerdictCache::new(64 * 1024);
    let sharded: DashMap<(u64, u64), (u32, u32)> = DashMap::new();
    let locked: Mutex<HashMap<(u64, u64), (u32, u32)>> = Mutex::default();
    for n in 0..KEYS {
        let (high, low) = key_bits(n);
        cache.insert(&Key::from_bits(high, low), EPOCH, 7);
        sharded.insert((high, low), (EPOCH, 7));
        locked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert((high, low), (EPOCH, 7));
    }
    let ours = |n: u64| {
        let (high, low) = key_bits(n);
        let key = Key::from_bits(high, low);
        if n.is_multiple_of(READS_PER_WRITE) {
            cache.insert(&key, EPOCH, 7);
        } else {
            black_box(cache.lookup(&key, EPOCH));
        }
    };
    let dash = |n: u64| {
        if n.is_multiple_of(READS_PER_WRITE) {
            sharded.insert(key_bits(n), (EPOCH, 7));
        } else {
            black_box(sharded.get(&key_bits(n)).map(|entry| *entry));
        }
    };
    let mutex = |n: u64| {
        let mut map = locked.lock().unwrap_or_else(PoisonError::into_inner);
        if n.is_multiple_of(READS_PER_WRITE) {
            map.insert(key_bits(n), (EPOCH, 7));
        } else {
            black_box(map.get(&key_bits(n)).copied());
        }
    };
    let mut group = c.benchmark_group("contention");
    for threads in [1, 2, 4, 8, 16] {
        group.bench_function(format!("{threads} threads/verdict cache"), |b| {
            b.iter_custom(|rounds| all_at_once(threads, rounds, &ours));
        });
        group.bench_function(format!("{threads} threads/dashmap"), |b| {
            b.iter_custom(|rounds| all_at_once(threads, rounds, &dash));
        });
        group.bench_function(format!("{threads} threads/mutex"), |b| {
            b.iter_custom(|rounds| all_at_once(threads, rounds, &mutex));
        });
    }
    group.finish();
}

fn ring(c: &mut Criterion) {
    let mut group = c.benchmark_group("flow ring");
    let (mut writer, ring) = Ring::create(RingCapacity::default());
    group.bench_function("push", |b| b.iter(|| writer.push(black_box(42_u64))));
    let mut cursor = ring.newest();
    group.bench_function("push and read", |b| {
        b.iter(|| {
            writer.push(black_box(42_u64));
            matches!(ring.read(&mut cursor), Read::Record(_))
        });
    });
    let readers: Vec<Arc<Ring<u64>>> = (0..8).map(|_| Arc::clone(&ring)).collect();
    let mut cursors: Vec<_> = readers.iter().map(|ring| ring.newest()).collect();
    group.bench_function("push, read by eight", |b| {
        b.iter(|| {
            writer.push(black_box(42_u64));
            let reads = readers.iter().zip(&mut cursors).map(|(ring, cursor)| ring.read(cursor));
            reads.filter(|read| matches!(read, Read::Record(_))).count()
        });
    });
    group.finish();
}

criterion_group!(benches, contention, ring);
criterion_main!(benches);
