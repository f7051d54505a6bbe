//! Kernel and engine count nanoseconds from some beginning; records have the time of day.

use std::time::{Duration, Instant, SystemTime};

use nix::time::{ClockId, clock_gettime};

/// What all clocks show at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    wall: SystemTime,
    /// `bpf_ktime_get_ns` is this clock.
    monotonic_ns: u64,
    /// Since the workers began.
    engine_ns: u64,
}

impl Moment {
    /// Now.
    pub(super) fn now(workers_began: Instant) -> Self {
        let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        Self {
            wall: SystemTime::now(),
            monotonic_ns: nanoseconds(monotonic),
            engine_ns: nanoseconds(workers_began.elapsed()),
        }
    }

    /// The time of day of a kernel's stamp.
    pub(super) fn wall(&self, monotonic_ns: u64) -> prost_types::Timestamp {
        let ago = Duration::from_nanos(self.monotonic_ns.saturating_sub(monotonic_ns));
        self.wall.checked_sub(ago).unwrap_or(self.wall).into()
    }

    /// Now, on the engine's clock.
    pub(super) fn engine_ns(&self) -> u64 {
        self.engine_ns
    }

    /// The engine's stamp on the kernel's clock.
    pub(super) fn monotonic(&self, engine_ns: u64) -> u64 {
        self.monotonic_ns
            .saturating_sub(self.engine_ns.saturating_sub(engine_ns))
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::Moment;
    use std::time::{Duration, SystemTime};

    #[test]
    fn stamps_of_both_clocks_become_the_same_time_of_day() {
        let moment = Moment {
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1000),
            monotonic_ns: 50_000_000_000,
            engine_ns: 7_000_000_000,
        };
        // Both three seconds ago.
        assert_eq!(moment.monotonic(4_000_000_000), 47_000_000_000);
        assert_eq!(moment.wall(47_000_000_000).seconds, 997);
        // A stamp from the future is now.
        assert_eq!(moment.wall(60_000_000_000).seconds, 1000);
    }
}
