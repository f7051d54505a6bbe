//! Reads copies and has them judged, on a thread that gives way to everybody.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};
use seventh_abi::{CopyHeader, CopySkip};
use seventh_datapath::CopyReader;
use seventh_engine::{Beside, Denials, EngineLimits, EngineShared, Seen};
use tracing::{debug, error};

use crate::{
    background::{Background, Stop},
    worker::nanoseconds,
};

/// How long the reader sleeps while copies come, and when none have come for [`QUIET`]. The kernel calls it earlier if
/// the ring begins to fill.
const BUSY_WAIT: Duration = Duration::from_millis(2);
const IDLE_WAIT: Duration = Duration::from_millis(20);
const QUIET: Duration = Duration::from_millis(500);
/// The same while no endpoint is looked at.
const UNUSED_WAIT: Duration = Duration::from_millis(200);
/// How often time-outs are looked after.
const TICK: Duration = Duration::from_secs(1);
/// Of the thread. Less is `SCHED_IDLE`, under which a busy node would judge nothing at all.
const NICENESS: i32 = 19;
/// Copies between two looks at the clock.
const BATCH: usize = 256;

/// What the reader tells of itself.
#[derive(Debug, Default)]
pub(crate) struct CopyCounts {
    judged: AtomicU64,
    dead: AtomicBool,
}

impl CopyCounts {
    /// Copies that were judged.
    pub(crate) fn judged(&self) -> u64 {
        // Relaxed: a plain count.
        self.judged.load(Ordering::Relaxed)
    }

    /// Nobody reads copies any more.
    pub(crate) fn is_dead(&self) -> bool {
        // Relaxed: for people to look at.
        self.dead.load(Ordering::Relaxed)
    }
}

/// Starts the thread that reads copies.
///
/// # Errors
/// The system gives no thread.
pub(crate) fn look_on(
    copies: Option<CopyReader>,
    shared: &Arc<EngineShared>,
    limits: EngineLimits,
    started: Instant,
    counts: &Arc<CopyCounts>,
) -> Result<Background> {
    let job = Job {
        copies: copies.context("the ring of copies has a reader already")?,
        beside: Beside::new(Arc::clone(shared), limits, Denials::Audited),
        shared: Arc::clone(shared),
        clock_base_ns: clock_base_ns(started),
        started,
        counts: Arc::clone(counts),
    };
    Background::start("beside", NICENESS, move |stop| job.run(&stop))
}

/// What the kernel's clock showed when the engine's began.
fn clock_base_ns(started: Instant) -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    let now_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    now_ns.saturating_sub(nanoseconds(started))
}

struct Job {
    copies: CopyReader,
    beside: Beside,
    shared: Arc<EngineShared>,
    clock_base_ns: u64,
    started: Instant,
    counts: Arc<CopyCounts>,
}

impl Job {
    fn run(mut self, stop: &Stop) {
        let _dead = Dead(Arc::clone(&self.counts));
        let (mut last_copy, mut next_tick) = (Instant::now(), Instant::now());
        while !stop.is_told() {
            let read = self.turn();
            let now = Instant::now();
            if now >= next_tick {
                next_tick = now + TICK;
                self.beside.tick(nanoseconds(self.started));
            }
            if read > 0 {
                last_copy = now;
            }
            if read < BATCH {
                let quiet = now.saturating_duration_since(last_copy);
                if let Err(e) = self.copies.wait(self.pause(quiet)) {
                    return error!(error = %e, "copies are no longer read: nothing is audited or observed");
                }
            }
        }
    }

    fn pause(&self, quiet: Duration) -> Duration {
        if quiet < QUIET {
            BUSY_WAIT
        } else if self.shared.policy().endpoints.is_empty() {
            UNUSED_WAIT
        } else {
            IDLE_WAIT
        }
    }

    fn turn(&mut self) -> usize {
        for read in 0..BATCH {
            let (beside, clock_base_ns) = (&mut self.beside, self.clock_base_ns);
            let judged = self.copies.next_copy(|header, frame| {
                let now_ns = header.time_ns.saturating_sub(clock_base_ns);
                (*header, beside.observe(frame, now_ns))
            });
            let Some((header, seen)) = judged else {
                self.count(read);
                return read;
            };
            self.tell_kernel(&header, seen);
        }
        self.count(BATCH);
        BATCH
    }

    fn count(&self, read: usize) {
        // Relaxed: a plain count.
        self.counts.judged.fetch_add(read as u64, Ordering::Relaxed);
    }

    /// What the engine needs no copy of.
    fn tell_kernel(&mut self, header: &CopyHeader, seen: Seen) {
        let mut skip = CopySkip {
            epoch: header.epoch,
            base_seq: header.base_seq,
            ..CopySkip::default()
        };
        match seen {
            Seen::More | Seen::Unreadable => return,
            Seen::Skip { until } => (skip.start, skip.end) = (header.sequence, until),
            Seen::Done => skip.flags = CopySkip::ALL,
        }
        if let Err(e) = self.copies.skip(&header.key, skip) {
            debug!(error = %e, "more is copied than is needed");
        }
    }
}

/// Says that the thread has ended, however it did.
struct Dead(Arc<CopyCounts>);

impl Drop for Dead {
    fn drop(&mut self) {
        // Relaxed: see `CopyCounts::is_dead`.
        self.0.dead.store(true, Ordering::Relaxed);
    }
}
