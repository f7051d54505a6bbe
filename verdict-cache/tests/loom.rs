//! Every interleaving of a few operations on a table of one set, with every value that the memory model lets a relaxed
//! load return. Keys are chosen so that they differ in one bit: what the entries' mixing must keep apart.
//!
//! Run: `RUSTFLAGS="--cfg loom" cargo test -p seventh-verdict-cache --release --test loom`
#![cfg(loom)]

use loom::sync::Arc;
use loom::thread;
use seventh_verdict_cache::{Key, VerdictCache, WAYS};

/// Keys that compete for the same place of the only set.
fn rivals() -> [Key; 2] {
    [Key::from_bits(WAYS as u64, 1), Key::from_bits(2 * WAYS as u64, 1)]
}

/// All places taken, so that inserts of `rivals` meet in the one their bits choose.
fn full() -> Arc<VerdictCache> {
    let cache = VerdictCache::new(WAYS);
    for n in 0..WAYS as u64 {
        cache.insert(&Key::from_bits(n + 100, 77), 1, 9);
    }
    Arc::new(cache)
}

#[test]
fn a_reader_never_sees_a_foreign_value() {
    loom::model(|| {
        let cache = full();
        let [a, b] = rivals();
        let writers = [(a, 1), (b, 2)].map(|(key, value)| {
            let cache = cache.clone();
            thread::spawn(move || cache.insert(&key, 1, value))
        });
        assert!(matches!(cache.lookup(&a, 1), None | Some(1)));
        for writer in writers {
            writer.join().unwrap();
        }
        assert!(matches!(cache.lookup(&a, 1), None | Some(1)));
        assert!(matches!(cache.lookup(&b, 1), None | Some(2)));
    });
}

#[test]
fn two_values_of_one_key_never_mix() {
    loom::model(|| {
        let cache = full();
        let [key, _] = rivals();
        let writers = [(1, 10), (2, 20)].map(|(epoch, value)| {
            let cache = cache.clone();
            thread::spawn(move || cache.insert(&key, epoch, value))
        });
        let seen = [cache.lookup(&key, 1), cache.lookup(&key, 2)];
        assert!(matches!(seen, [None | Some(10), None | Some(20)]), "{seen:?}");
        for writer in writers {
            writer.join().unwrap();
        }
    });
}

#[test]
fn after_an_epoch_bump_no_old_verdict_is_given() {
    loom::model(|| {
        let cache = full();
        let [key, _] = rivals();
        cache.insert(&key, 1, 10);
        let writer = {
            let cache = cache.clone();
            thread::spawn(move || {
                cache.insert(&key, 2, 20);
                assert!(matches!(cache.lookup(&key, 2), Some(20)));
            })
        };
        assert!(matches!(cache.lookup(&key, 2), None | Some(20)));
        writer.join().unwrap();
        assert_eq!(cache.lookup(&key, 2), Some(20));
    });
}

#[test]
fn an_insert_beside_another_thread_loses_at_most_the_place_they_share() {
    loom::model(|| {
        let cache = full();
        let [a, b] = rivals();
        let writer = {
            let cache = cache.clone();
            thread::spawn(move || cache.insert(&a, 1, 1))
        };
        cache.insert(&b, 1, 2);
        writer.join().unwrap();
        let others = (1..WAYS as u64)
            .filter(|n| cache.lookup(&Key::from_bits(n + 100, 77), 1) == Some(9))
            .count();
        assert_eq!(others, WAYS - 1);
    });
}
