//! How long decisions take: a histogram that a worker fills without a lock and without asking the clock for every frame.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Upper bounds in nanoseconds; longer ones fall behind the last.
const BOUNDS_NS: [u64; 12] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    1_000_000,
    5_000_000,
    25_000_000,
    100_000_000,
];
/// Of a worker's turn the first frame is timed, and every so many after it: two looks at the clock are a twentieth of what
/// a cached verdict takes.
const EVERY: u32 = 16;

/// What one worker measured. It writes, anybody reads.
#[derive(Debug, Default)]
pub(crate) struct Latency {
    counts: [AtomicU64; BOUNDS_NS.len() + 1],
    sum_ns: AtomicU64,
}

/// The sum over workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LatencySum {
    counts: [u64; BOUNDS_NS.len() + 1],
    sum_ns: u64,
}

/// Chooses the frames of one turn that are timed.
#[derive(Debug, Default)]
pub(crate) struct Sampling {
    frame: u32,
}

impl Sampling {
    /// Does it, and times it if it is this frame's turn.
    pub(crate) fn time<T>(&mut self, latency: &Latency, decide: impl FnOnce() -> T) -> T {
        let begun = self.frame.is_multiple_of(EVERY).then(Instant::now);
        self.frame = self.frame.wrapping_add(1);
        let decided = decide();
        if let Some(begun) = begun {
            latency.record(begun.elapsed());
        }
        decided
    }
}

// Relaxed throughout: each number stands for itself.
impl Latency {
    fn record(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let index = BOUNDS_NS.partition_point(|bound| *bound < ns);
        if let Some(count) = self.counts.get(index) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// Adds it to a sum.
    pub(crate) fn add_to(&self, sum: &mut LatencySum) {
        for (total, count) in sum.counts.iter_mut().zip(&self.counts) {
            *total += count.load(Ordering::Relaxed);
        }
        sum.sum_ns = sum.sum_ns.saturating_add(self.sum_ns.load(Ordering::Relaxed));
    }
}

impl LatencySum {
    /// How many decisions were timed.
    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How long they took together, in seconds.
    pub(crate) fn seconds(&self) -> f64 {
        Duration::from_nanos(self.sum_ns).as_secs_f64()
    }

    /// Upper bounds in nanoseconds, `None` for the last, each with the decisions between it and the bound before.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        let bounds = BOUNDS_NS.into_iter().map(Some).chain([None]);
        bounds.zip(self.counts)
    }

    /// Upper bounds in seconds, each with the decisions between it and the bound before.
    pub(crate) fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = BOUNDS_NS.iter().map(|ns| Duration::from_nanos(*ns).as_secs_f64());
        bounds.chain([f64::MAX]).zip(self.counts).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{EVERY, Latency, LatencySum, Sampling};
    use std::time::Duration;

    fn sum(latency: &Latency) -> LatencySum {
        let mut sum = LatencySum::default();
        latency.add_to(&mut sum);
        sum
    }

    #[test]
    fn the_first_frame_of_a_turn_is_timed_and_then_every_so_many() {
        let latency = Latency::default();
        let mut sampling = Sampling::default();
        let decided: Vec<u32> = (0..=EVERY).map(|i| sampling.time(&latency, || i)).collect();
        assert_eq!((decided.len(), sum(&latency).count()), (17, 2));
        Sampling::default().time(&latency, || ());
        assert_eq!(sum(&latency).count(), 3);
    }

    #[test]
    fn each_time_falls_into_the_bucket_that_ends_at_or_behind_it() {
        let latency = Latency::default();
        for ns in [1, 1000, 1001, 99_000_000, 100_000_001] {
            latency.record(Duration::from_nanos(ns));
        }
        let buckets = sum(&latency).buckets();
        let counts: Vec<u64> = buckets.iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert!((sum(&latency).seconds() - 0.199_002_003).abs() < 1e-9);
    }
}
