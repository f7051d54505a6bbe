//! The ring of flow records: one writer that never waits, any number of readers that never hold it up.
//!
//! Record number `n` lies in slot `n % capacity`. The writer first puts the record there and then moves the head on; a
//! reader that finds another number in the slot than it wanted was overtaken, and learns exactly how many records it
//! lost. What a slow reader still holds is one record at a time, so memory is bounded by the capacity.

use std::ops::Deref;
use std::sync::Arc;

#[cfg(loom)]
use loom::{
    hint::spin_loop,
    sync::atomic::{AtomicU64, Ordering},
};
#[cfg(not(loom))]
use std::{
    hint::spin_loop,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::slot::Slot;

/// Records of a ring that nobody has configured.
pub const CAPACITY_DEFAULT: usize = 4095;
/// Records of a ring at most.
pub const CAPACITY_MAX: usize = 65_535;

/// A number of records that a ring may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingCapacity(usize);

/// A number of records that a ring may not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; must be one less than a power of two, from 1 to {CAPACITY_MAX} (such as {CAPACITY_DEFAULT})")]
pub struct RingError(pub usize);

impl RingCapacity {
    /// # Errors
    /// Not 2ⁿ - 1, or more than [`CAPACITY_MAX`].
    pub fn new(records: usize) -> Result<Self, RingError> {
        let fits = (1..=CAPACITY_MAX).contains(&records) && (records + 1).is_power_of_two();
        if fits {
            Ok(Self(records))
        } else {
            Err(RingError(records))
        }
    }

    /// The number.
    #[must_use]
    pub fn records(self) -> usize {
        self.0
    }
}

impl Default for RingCapacity {
    fn default() -> Self {
        Self(CAPACITY_DEFAULT)
    }
}

/// A record and its number.
#[derive(Debug)]
struct Numbered<T> {
    number: u64,
    record: T,
}

/// A record that a reader has. It stays as it is when the ring overwrites it.
#[derive(Debug)]
pub struct Held<T>(Arc<Numbered<T>>);

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.record
    }
}

/// What readers see.
#[derive(Debug)]
pub struct Ring<T> {
    slots: Box<[Slot<Numbered<T>>]>,
    /// Number of the next record: how many were ever written.
    head: AtomicU64,
}

/// The only one who writes into a ring.
#[derive(Debug)]
pub struct RingWriter<T> {
    ring: Arc<Ring<T>>,
}

/// Where a reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    next: u64,
}

/// What a reader finds.
#[derive(Debug)]
pub enum Read<T> {
    /// The next record.
    Record(Held<T>),
    /// So many records were overwritten before this reader came to them.
    Lost(u64),
    /// Nothing new.
    Nothing,
}

impl<T> Ring<T> {
    /// An empty ring; all of its slots are allocated now.
    #[must_use]
    pub fn create(capacity: RingCapacity) -> (RingWriter<T>, Arc<Self>) {
        let ring = Arc::new(Self {
            slots: (0..capacity.records()).map(|_| Slot::empty()).collect(),
            head: AtomicU64::new(0),
        });
        (
            RingWriter {
                ring: Arc::clone(&ring),
            },
            ring,
        )
    }

    /// How many records it holds at most.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.slots.len() as u64
    }

    /// How many records were ever written.
    #[must_use]
    pub fn written(&self) -> u64 {
        // Acquire: the records before it are in their slots; partner is `RingWriter::push`.
        self.head.load(Ordering::Acquire)
    }

    /// How many records it holds.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.written().min(self.capacity())
    }

    /// Before the oldest record.
    #[must_use]
    pub fn oldest(&self) -> Cursor {
        Cursor {
            next: self.first_held(self.written()),
        }
    }

    /// Behind the newest record.
    #[must_use]
    pub fn newest(&self) -> Cursor {
        Cursor { next: self.written() }
    }

    /// The next record of this reader. Never waits.
    pub fn read(&self, cursor: &mut Cursor) -> Read<T> {
        loop {
            let head = self.written();
            if cursor.next >= head {
                return Read::Nothing;
            }
            let first = self.first_held(head);
            if cursor.next < first {
                let lost = first - cursor.next;
                cursor.next = first;
                return Read::Lost(lost);
            }
            let slot = self.slot(cursor.next).and_then(Slot::load);
            match slot {
                Some(found) if found.number == cursor.next => {
                    cursor.next += 1;
                    return Read::Record(Held(found));
                }
                // Overtaken between the two looks: the head has moved on, or is about to.
                _ => spin_loop(),
            }
        }
    }

    /// Reads backwards: the record before the cursor, if the ring still holds it.
    pub fn read_back(&self, cursor: &mut Cursor) -> Option<Held<T>> {
        let number = cursor.next.checked_sub(1)?;
        let found = self.slot(number)?.load()?;
        (found.number == number).then(|| {
            cursor.next = number;
            Held(found)
        })
    }

    fn first_held(&self, head: u64) -> u64 {
        head.saturating_sub(self.capacity())
    }

    fn slot(&self, number: u64) -> Option<&Slot<Numbered<T>>> {
        let index = usize::try_from(number % self.capacity()).ok()?;
        self.slots.get(index)
    }
}

impl<T> RingWriter<T> {
    /// Puts the record in the place of the oldest, and gives that one back if there is one and no reader holds it. Never
    /// waits for a reader.
    pub fn push(&mut self, record: T) -> Option<T> {
        // Relaxed: nobody else changes it.
        let number = self.ring.head.load(Ordering::Relaxed);
        let slot = self.ring.slot(number);
        let oldest = slot.and_then(|slot| slot.swap(Arc::new(Numbered { number, record })));
        // Release: whoever sees the new head finds the record; partner is `Ring::written`.
        self.ring.head.store(number + 1, Ordering::Release);
        Some(Arc::into_inner(oldest?)?.record)
    }

    /// For readers.
    #[must_use]
    pub fn ring(&self) -> &Arc<Ring<T>> {
        &self.ring
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{CAPACITY_DEFAULT, Read, Ring, RingCapacity, RingError};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn capacity(records: usize) -> RingCapacity {
        RingCapacity::new(records).unwrap()
    }

    #[test]
    fn only_powers_of_two_less_one_are_capacities() {
        for good in [1, 3, 4095, 65_535] {
            assert_eq!(capacity(good).records(), good);
        }
        for bad in [0, 2, 4096, 131_071, usize::MAX] {
            assert_eq!(RingCapacity::new(bad), Err(RingError(bad)));
        }
    }

    #[test]
    fn a_reader_gets_everything_once_and_in_order() {
        let (mut writer, ring) = Ring::create(capacity(7));
        let mut cursor = ring.oldest();
        for i in 0..100_u32 {
            writer.push(i);
            assert!(matches!(ring.read(&mut cursor), Read::Record(record) if *record == i));
            assert!(matches!(ring.read(&mut cursor), Read::Nothing));
        }
        assert_eq!((ring.held(), ring.written()), (7, 100));
    }

    #[test]
    fn one_who_was_overtaken_learns_exactly_how_much_is_lost() {
        let (mut writer, ring) = Ring::create(capacity(7));
        let mut cursor = ring.oldest();
        for i in 0..20_u32 {
            writer.push(i);
        }
        assert!(matches!(ring.read(&mut cursor), Read::Lost(13)));
        for i in 13..20 {
            assert!(matches!(ring.read(&mut cursor), Read::Record(record) if *record == i));
        }
        assert!(matches!(ring.read(&mut cursor), Read::Nothing));
    }

    #[test]
    fn what_is_overwritten_comes_back_unless_a_reader_holds_it() {
        let (mut writer, ring) = Ring::create(capacity(1));
        assert_eq!(writer.push(1), None);
        assert_eq!(writer.push(2), Some(1));
        let held = ring.read_back(&mut ring.newest()).unwrap();
        assert_eq!(writer.push(3), None);
        assert_eq!(*held, 2);
    }

    #[test]
    fn backwards_it_ends_where_the_ring_does() {
        let (mut writer, ring) = Ring::create(capacity(3));
        let mut empty = ring.newest();
        assert!(ring.read_back(&mut empty).is_none());
        for i in 0..5_u32 {
            writer.push(i);
        }
        let mut cursor = ring.newest();
        let back: Vec<u32> = std::iter::from_fn(|| ring.read_back(&mut cursor)).map(|r| *r).collect();
        assert_eq!(back, [4, 3, 2]);
    }

    /// Counts how many of it there are.
    struct Counted(Arc<AtomicUsize>);

    impl Counted {
        fn new(alive: &Arc<AtomicUsize>) -> Self {
            alive.fetch_add(1, Ordering::Relaxed);
            Self(Arc::clone(alive))
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// 100 000 records in a second against readers who cannot keep up: the writer is not slowed, memory is bounded, and
    /// what each reader got and lost is together what was written.
    #[test]
    fn slow_readers_cost_neither_time_nor_memory_and_know_their_loss() {
        // Miri is a thousand times slower.
        const RECORDS: u64 = if cfg!(miri) { 200 } else { 100_000 };
        const CAPACITY: usize = if cfg!(miri) { 15 } else { CAPACITY_DEFAULT };
        const READERS: usize = 3;
        let alive = Arc::new(AtomicUsize::new(0));
        let (mut writer, ring) = Ring::create(capacity(CAPACITY));
        let readers: Vec<_> = (0..READERS)
            .map(|_| {
                let ring = Arc::clone(&ring);
                let mut cursor = ring.oldest();
                std::thread::spawn(move || {
                    let (mut got, mut lost) = (0, 0);
                    while got + lost < RECORDS {
                        match ring.read(&mut cursor) {
                            Read::Record(record) => {
                                got += 1;
                                std::thread::sleep(Duration::from_micros(20));
                                drop(record);
                            }
                            Read::Lost(n) => lost += n,
                            Read::Nothing => std::thread::yield_now(),
                        }
                    }
                    (got, lost)
                })
            })
            .collect();
        let mut most = 0;
        for _ in 0..RECORDS {
            writer.push(Counted::new(&alive));
            most = most.max(alive.load(Ordering::Relaxed));
        }
        for reader in readers {
            let (got, lost) = reader.join().unwrap();
            assert_eq!(got + lost, RECORDS);
            assert!(
                lost > 0 || cfg!(miri),
                "a reader that sleeps longer than the writer writes cannot have kept up"
            );
        }
        let bound = ring.slots.len() + 1 + READERS;
        assert!(most <= bound, "{most} records at once, at most {bound} are allowed");
    }
}
