//! The table.

use crate::Key;

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

/// Places in which a key may stand.
pub const WAYS: usize = 4;

/// A bounded table from [`Key`] to 32 bits. Memory is 24 bytes per place, taken once.
#[derive(Debug)]
pub struct VerdictCache {
    sets: Box<[Set]>,
    /// Number of sets less one; the number is a power of two.
    mask: u64,
}

#[derive(Debug)]
struct Set {
    places: [Place; WAYS],
}

/// Three words written and read without order. `high` and `low` hold the key mixed with the value, so that words of two
/// writers that meet in one place do not pass for an entry: see [`Place::read`].
#[derive(Debug)]
struct Place {
    high: AtomicU64,
    low: AtomicU64,
    /// Value in the upper half, epoch in the lower.
    data: AtomicU64,
}

impl VerdictCache {
    /// A table of at least `capacity` places, rounded up to a power of two and at least [`WAYS`].
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let sets = capacity.div_ceil(WAYS).next_power_of_two();
        Self {
            sets: (0..sets).map(|_| Set::new()).collect(),
            mask: sets as u64 - 1,
        }
    }

    /// Number of places.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.sets.len() * WAYS
    }

    /// What was inserted under this key and epoch, if it is still there.
    #[must_use]
    pub fn lookup(&self, key: &Key, epoch: u32) -> Option<u32> {
        let data = self.set(key)?.places.iter().find_map(|place| place.read(key))?;
        (epoch_of(data) == epoch).then_some(value_of(data))
    }

    /// Remembers `value`. Takes, in this order: the place that this key has, an empty place or one of another epoch, a
    /// place chosen by the key's bits.
    pub fn insert(&self, key: &Key, epoch: u32, value: u32) {
        let Some(set) = self.set(key) else { return };
        let data = u64::from(value) << 32 | u64::from(epoch);
        let own = set.places.iter().find(|place| place.read(key).is_some());
        let place = own.or_else(|| set.places.iter().find(|place| place.is_free(epoch)));
        // The set was chosen by the lower bits of `low`; these are independent of them.
        let chosen = usize::try_from(key.high % WAYS as u64).unwrap_or(0);
        if let Some(place) = place.or_else(|| set.places.get(chosen)) {
            place.write(key, data);
        }
    }

    fn set(&self, key: &Key) -> Option<&Set> {
        self.sets.get(usize::try_from(key.low & self.mask).ok()?)
    }
}

impl Set {
    fn new() -> Self {
        Self {
            places: std::array::from_fn(|_| Place {
                high: AtomicU64::new(0),
                low: AtomicU64::new(0),
                data: AtomicU64::new(0),
            }),
        }
    }
}

impl Place {
    /// The data word, if all three words belong to `key`. Words of two entries (k, d) and (k', d') can pass for one of
    /// them only if d = d', and then the answer is right anyway; to pass for a third entry two 64-bit halves of secret
    /// hashes would have to fit by chance.
    fn read(&self, key: &Key) -> Option<u64> {
        // Relaxed, all three: the words prove by themselves that they belong together, and a verdict carries its whole
        // meaning in the word, so nothing that another thread did before needs to become visible with it. Partners
        // are the stores in `write`.
        let data = self.data.load(Ordering::Relaxed);
        let high = self.high.load(Ordering::Relaxed);
        let low = self.low.load(Ordering::Relaxed);
        (high ^ data == key.high && low ^ spread(data) == key.low).then_some(data)
    }

    fn write(&self, key: &Key, data: u64) {
        // Relaxed, all three: a reader that meets some new and some old words sees a miss, see `read`.
        self.high.store(key.high ^ data, Ordering::Relaxed);
        self.low.store(key.low ^ spread(data), Ordering::Relaxed);
        self.data.store(data, Ordering::Relaxed);
    }

    /// Whether overwriting this place loses nothing that `epoch` could use.
    fn is_free(&self, epoch: u32) -> bool {
        // Relaxed: a wrong guess only costs another entry its place.
        let data = self.data.load(Ordering::Relaxed);
        let low = self.low.load(Ordering::Relaxed);
        epoch_of(data) != epoch || low == 0
    }
}

/// Another mixture of the data for the second key word, so that one difference of data shows differently in both.
const fn spread(data: u64) -> u64 {
    data.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

const fn value_of(data: u64) -> u32 {
    (data >> 32) as u32
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is the epoch")]
const fn epoch_of(data: u64) -> u32 {
    data as u32
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{VerdictCache, WAYS};
    use crate::Key;
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};
    use std::collections::HashMap;

    #[test]
    fn an_entry_lives_for_its_epoch_only() {
        let cache = VerdictCache::new(16);
        let key = Key::from_bits(1, 2);
        assert_eq!(cache.lookup(&key, 0), None);
        cache.insert(&key, 3, 7);
        assert_eq!((cache.lookup(&key, 3), cache.lookup(&key, 4)), (Some(7), None));
        cache.insert(&key, 4, 8);
        assert_eq!((cache.lookup(&key, 3), cache.lookup(&key, 4)), (None, Some(8)));
    }

    #[test]
    fn zero_values_and_epochs_are_kept_like_others() {
        let cache = VerdictCache::new(4);
        for key in [Key::from_bits(0, 0), Key::from_bits(0, 4), Key::from_bits(4, 0)] {
            assert_eq!(cache.lookup(&key, 0), None, "empty places answer nothing");
            cache.insert(&key, 0, 0);
            assert_eq!(cache.lookup(&key, 0), Some(0));
        }
    }

    #[test]
    fn entries_of_a_past_epoch_give_way_first() {
        let cache = VerdictCache::new(WAYS);
        let key = |n: u64| Key::from_bits(n, 99);
        cache.insert(&key(0), 1, 10);
        for n in 1..WAYS as u64 {
            cache.insert(&key(n), 2, 20);
        }
        cache.insert(&key(100), 2, 30);
        assert_eq!(cache.lookup(&key(0), 1), None);
        assert!((1..WAYS as u64).all(|n| cache.lookup(&key(n), 2) == Some(20)));
        assert_eq!(cache.lookup(&key(100), 2), Some(30));
    }

    #[test]
    fn capacity_is_rounded_up_and_never_exceeded() {
        assert_eq!(
            [0, 1, 5, 64, 65].map(|n| VerdictCache::new(n).capacity()),
            [4, 4, 8, 64, 128]
        );
        let cache = VerdictCache::new(64);
        let mut rng = StdRng::seed_from_u64(3);
        let keys: Vec<_> = (0..1000).map(|_| Key::from_bits(rng.random(), rng.random())).collect();
        for key in &keys {
            cache.insert(key, 0, 1);
        }
        let held = keys.iter().filter(|key| cache.lookup(key, 0).is_some()).count();
        assert!((32..=64).contains(&held), "{held} held");
    }

    #[test]
    fn threads_that_fight_for_few_places_never_read_a_foreign_value() {
        // Miri takes as long for each of few as others do for all of them.
        const STEPS: u32 = if cfg!(miri) { 500 } else { 100_000 };
        let cache = VerdictCache::new(8);
        let keys: Vec<_> = (0..64u64)
            .map(|n| Key::from_bits(n.wrapping_mul(0x9e37), n << 7 | n))
            .collect();
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let (cache, keys) = (&cache, &keys);
                scope.spawn(move || {
                    let mut rng = StdRng::seed_from_u64(seed);
                    for _ in 0..STEPS {
                        let n = rng.random_range(0..64u32);
                        let (key, epoch) = (&keys[n as usize], rng.random_range(0..3));
                        if rng.random() {
                            cache.insert(key, epoch, n * 10 + epoch);
                        } else if let Some(value) = cache.lookup(key, epoch) {
                            assert_eq!(value, n * 10 + epoch);
                        }
                    }
                });
            }
        });
    }

    proptest! {
        /// Beside a plain map: an answer is the last one that was inserted under this key and epoch.
        #[test]
        fn answers_are_those_of_a_plain_map(steps in prop::collection::vec((any::<bool>(), 0..24u64, 0..3u32, any::<u32>()), 1..400)) {
            let cache = VerdictCache::new(8);
            let mut model = HashMap::new();
            for (insert, n, epoch, value) in steps {
                let key = Key::from_bits(n, n.wrapping_mul(3));
                if insert {
                    cache.insert(&key, epoch, value);
                    model.insert(key, (epoch, value));
                    prop_assert_eq!(cache.lookup(&key, epoch), Some(value));
                } else if let Some(found) = cache.lookup(&key, epoch) {
                    prop_assert_eq!(model.get(&key), Some(&(epoch, found)));
                }
            }
        }
    }
}
