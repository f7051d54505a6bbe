//! What an engine counts.

use seventh_abi::DropReason;
use std::sync::atomic::{AtomicU64, Ordering};

/// Paths and sizes that are counted beside the drop reasons. Every decided frame ends in exactly one of `Forwarded`,
/// `ForwardedPart`, `AnsweredClosed`, `DenialDeferred`, `DatagramHeld` or a drop reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum EngineCounter {
    /// The whole frame went on.
    Forwarded,
    /// A copy went on, cut before a request that is not allowed (yet), or without bytes that cannot be compared.
    ForwardedPart,
    /// Nothing went on: a request is not allowed, but answers to earlier ones are still under way, so the refusal
    /// waits for the retransmission.
    DenialDeferred,
    /// A frame of a connection that the engine has closed was answered.
    AnsweredClosed,
    /// A datagram was held back until the hello that it begins is whole.
    DatagramHeld,
    /// Requests that were allowed.
    RequestAllowed,
    /// Requests that were refused.
    RequestDenied,
    /// Verdicts taken from the cache.
    CacheHit,
    /// Verdicts asked of the rules.
    CacheMiss,
    /// Ranges of a body that were given free.
    BypassGranted,
    /// Connections that were taken up.
    FlowCreated,
    /// Connections forgotten to make room for others: their next frame is [`DropReason::MidStream`].
    FlowEvicted,
    /// Connections forgotten because nothing happened any more.
    FlowExpired,
    /// Frames of our own that found the outbox full.
    OutboxFull,
    /// Beside the traffic: bytes were never shown, or could not be read, and requests were looked for behind them.
    LostTrack,
    /// Beside the traffic: a connection was given up.
    GivenUp,
    /// Connections at present.
    Flows,
    /// Bytes held for heads and for comparing retransmissions at present.
    HeldBytes,
}

impl EngineCounter {
    /// Every counter with its stable name.
    pub const ALL: &[(EngineCounter, &'static str)] = &[
        (EngineCounter::Forwarded, "forwarded"),
        (EngineCounter::ForwardedPart, "forwarded_part"),
        (EngineCounter::DenialDeferred, "denial_deferred"),
        (EngineCounter::AnsweredClosed, "answered_closed"),
        (EngineCounter::DatagramHeld, "datagram_held"),
        (EngineCounter::RequestAllowed, "request_allowed"),
        (EngineCounter::RequestDenied, "request_denied"),
        (EngineCounter::CacheHit, "cache_hit"),
        (EngineCounter::CacheMiss, "cache_miss"),
        (EngineCounter::BypassGranted, "bypass_granted"),
        (EngineCounter::FlowCreated, "flow_created"),
        (EngineCounter::FlowEvicted, "flow_evicted"),
        (EngineCounter::FlowExpired, "flow_expired"),
        (EngineCounter::OutboxFull, "outbox_full"),
        (EngineCounter::LostTrack, "lost_track"),
        (EngineCounter::GivenUp, "given_up"),
        (EngineCounter::Flows, "flows"),
        (EngineCounter::HeldBytes, "held_bytes"),
    ];
}

const PATHS: usize = EngineCounter::ALL.len();
const REASONS: usize = 256;

/// Counters of one engine, or the sum over engines. One engine writes, anybody reads.
#[derive(Debug)]
pub struct EngineCounters {
    paths: [AtomicU64; PATHS],
    reasons: Box<[AtomicU64; REASONS]>,
}

impl Default for EngineCounters {
    fn default() -> Self {
        Self {
            paths: std::array::from_fn(|_| AtomicU64::new(0)),
            reasons: Box::new(std::array::from_fn(|_| AtomicU64::new(0))),
        }
    }
}

// Relaxed throughout: each counter stands for itself and nothing is read through it.
impl EngineCounters {
    /// Value of a path's counter.
    #[must_use]
    pub fn path(&self, counter: EngineCounter) -> u64 {
        self.paths
            .get(counter as usize)
            .map_or(0, |cell| cell.load(Ordering::Relaxed))
    }

    /// Frames dropped and requests refused for this reason.
    #[must_use]
    pub fn reason(&self, reason: DropReason) -> u64 {
        self.reasons
            .get(reason as usize)
            .map_or(0, |cell| cell.load(Ordering::Relaxed))
    }

    pub(crate) fn count(&self, counter: EngineCounter) {
        self.add(counter, 1);
    }

    pub(crate) fn count_reason(&self, reason: DropReason) {
        if let Some(cell) = self.reasons.get(reason as usize) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn set(&self, counter: EngineCounter, value: usize) {
        if let Some(cell) = self.paths.get(counter as usize) {
            cell.store(value as u64, Ordering::Relaxed);
        }
    }

    fn add(&self, counter: EngineCounter, value: u64) {
        if let Some(cell) = self.paths.get(counter as usize) {
            cell.fetch_add(value, Ordering::Relaxed);
        }
    }

    /// Adds all values of `other`.
    pub(crate) fn merge(&self, other: &Self) {
        for &(counter, _) in EngineCounter::ALL {
            self.add(counter, other.path(counter));
        }
        for &reason in DropReason::ALL {
            if let Some(cell) = self.reasons.get(reason as usize) {
                cell.fetch_add(other.reason(reason), Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{EngineCounter, EngineCounters};
    use seventh_abi::DropReason;

    #[test]
    fn counters_are_listed_in_their_order_under_names_of_their_own() {
        for (index, (counter, name)) in EngineCounter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, index);
            assert!(EngineCounter::ALL[index + 1..].iter().all(|(_, other)| other != name));
        }
    }

    #[test]
    fn merging_sums_every_counter() {
        let (one, sum) = (EngineCounters::default(), EngineCounters::default());
        one.count(EngineCounter::HeldBytes);
        one.count_reason(DropReason::InspectorMissing);
        sum.merge(&one);
        sum.merge(&one);
        assert_eq!(sum.path(EngineCounter::HeldBytes), 2);
        assert_eq!(sum.reason(DropReason::InspectorMissing), 2);
        assert_eq!(sum.path(EngineCounter::Forwarded), 0);
    }
}
