//! Kernel and engine count nanoseconds from some beginning; records have the time of day.

use std::time::{Duration, Instant, SystemTime};

use nix::time::{ClockId, clock_gettime};

/// How far apart two clocks may be read, and how often that is tried.
const APART_MAX_NS: u64 = 2000;
const READS_MAX: usize = 4;

/// What all clocks show at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    wall: SystemTime,
    /// `bpf_ktime_get_ns` is this clock.
    monotonic_ns: u64,
    /// Since the workers began.
    engine_ns: u64,
}

impl Moment {
    /// Now.
    pub(super) fn now(workers_began: Instant) -> Self {
        let engine = || nanoseconds(workers_began.elapsed());
        let read = || {
            let before = engine();
            let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
            (before, nanoseconds(monotonic), engine())
        };
        // Somebody else may get the CPU in between, and times of both clocks are compared.
        let mut reads = std::iter::repeat_with(read).take(READS_MAX);
        let is_close = |(before, _, after): &(u64, u64, u64)| after.saturating_sub(*before) <= APART_MAX_NS;
        let (before, monotonic_ns, after) = reads.find(is_close).unwrap_or_else(read);
        Self {
            wall: SystemTime::now(),
            monotonic_ns,
            engine_ns: before.midpoint(after),
        }
    }

    /// For stamps that are nanoseconds since 1970.
    pub(crate) fn of_captures() -> Self {
        // Beyond every stamp that a capture can have and a record can tell.
        const END_NS: u64 = 1 << 63;
        Self {
            wall: SystemTime::UNIX_EPOCH + Duration::from_nanos(END_NS),
            monotonic_ns: END_NS,
            engine_ns: END_NS,
        }
    }

    /// On the kernel's clock.
    pub(super) fn monotonic_ns(&self) -> u64 {
        self.monotonic_ns
    }

    /// The time of day of a kernel's stamp.
    pub(crate) fn wall(&self, monotonic_ns: u64) -> prost_types::Timestamp {
        let ago = Duration::from_nanos(self.monotonic_ns.saturating_sub(monotonic_ns));
        self.wall.checked_sub(ago).unwrap_or(self.wall).into()
    }

    /// Now, on the engine's clock.
    pub(crate) fn engine_ns(&self) -> u64 {
        self.engine_ns
    }

    /// The kernel's stamp on the engine's clock.
    pub(super) fn engine(&self, monotonic_ns: u64) -> u64 {
        self.engine_ns
            .saturating_sub(self.monotonic_ns.saturating_sub(monotonic_ns))
    }

    /// The engine's stamp on the kernel's clock.
    pub(crate) fn monotonic(&self, engine_ns: u64) -> u64 {
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
        assert_eq!(moment.engine(47_000_000_000), 4_000_000_000);
        assert_eq!(moment.wall(47_000_000_000).seconds, 997);
        // A stamp from the future is now.
        assert_eq!(moment.wall(60_000_000_000).seconds, 1000);
    }

    #[test]
    fn a_jump_of_the_time_of_day_moves_records_and_not_their_distances() {
        let at = |wall_s, monotonic_ns| Moment {
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(wall_s),
            monotonic_ns,
            engine_ns: monotonic_ns,
        };
        let stamps = [40_000_000_000, 43_000_000_000];
        // A second later it is an hour earlier, or a year later.
        for moment in [
            at(90_000, 50_000_000_000),
            at(86_401, 51_000_000_000),
            at(31_626_001, 51_000_000_000),
        ] {
            let [first, second] = stamps.map(|stamp| moment.wall(stamp).seconds);
            assert_eq!(second - first, 3);
            assert_eq!(
                moment.monotonic(stamps[0]),
                stamps[0],
                "what is compared with the kernel's clock stays"
            );
        }
        // As early as there is.
        assert_eq!(at(1, 50_000_000_000).wall(49_500_000_000).seconds, 0);
    }
}
