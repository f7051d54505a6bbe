//! What would be denied, as the kernel told it: judged once more before it is reported.
//!
//! The kernel does not know the names that are learned beside the traffic, and the answer that taught one may be judged a
//! little later than the connection that follows it. So its word waits a moment.

use std::collections::VecDeque;

use seventh_abi::{Direction, DropReason, Event, FlowKey};
use seventh_engine::EngineShared;

use super::record::{asked, is_reply};

/// How long it waits, in nanoseconds: many times what the reader of copies needs to come round.
const WAIT_NS: u64 = 300_000_000;
/// Events that wait at most; the oldest gives way, and is counted as lost.
const WAITING_MAX: usize = 16_384;

/// Events that wait.
#[derive(Debug, Default)]
pub(super) struct Pending {
    waiting: VecDeque<Event>,
    lost: u64,
}

impl Pending {
    pub(super) fn hold(&mut self, event: Event) {
        if self.waiting.len() == WAITING_MAX {
            self.waiting.pop_front();
            self.lost += 1;
        }
        self.waiting.push_back(event);
    }

    /// The next one that has waited long enough.
    pub(super) fn due(&mut self, now_ns: u64) -> Option<Event> {
        let oldest = self.waiting.front()?;
        if now_ns.saturating_sub(oldest.time_ns) < WAIT_NS {
            return None;
        }
        self.waiting.pop_front()
    }

    /// Events that found no room to wait.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether what is known now denies it, too.
    pub(super) fn is_denied(event: &Event, beside: &EngineShared) -> bool {
        let by_policy = [
            DropReason::PolicyDenied,
            DropReason::PolicyDenyRule,
            DropReason::AuthRequired,
            DropReason::PolicyConflict,
        ];
        let reason = DropReason::from_code(event.reason);
        let (direction, port) = asked(event);
        if direction == Direction::Ingress || !reason.is_some_and(|reason| by_policy.contains(&reason)) {
            return true;
        }
        // Egress: who opened the flow is the endpoint.
        let ends = [
            (event.source, event.source_port),
            (event.destination, event.destination_port),
        ];
        let [local, peer] = if is_reply(event) { [ends[1], ends[0]] } else { ends };
        let flow = FlowKey {
            local_addr: local.0,
            peer_addr: peer.0,
            ifindex: event.ifindex,
            local_port: local.1,
            peer_port: peer.1,
            protocol: event.protocol,
            direction: direction as u8,
            pad: [0; 2],
        };
        beside.denies(&flow, port)
    }
}

#[cfg(test)]
mod tests {
    use super::{Pending, WAIT_NS, WAITING_MAX};
    use seventh_abi::{Event, EventKind};

    fn event(time_ns: u64) -> Event {
        Event {
            time_ns,
            source: [0; 16],
            destination: [1; 16],
            ifindex: 1,
            peer_identity: 0,
            length: 60,
            source_port: 1,
            destination_port: 2,
            protocol: 6,
            tcp_flags: 2,
            kind: EventKind::Audited as u8,
            reason: 0,
            verdict: 0,
            hook: 0,
            ip_version: 4,
            direction: 2,
            mac_destination: [0; 6],
            mac_source: [0; 6],
            pad: [0; 4],
        }
    }

    #[test]
    fn events_wait_their_time_and_not_without_bound() {
        let mut pending = Pending::default();
        for time in 0..=WAITING_MAX as u64 {
            pending.hold(event(time));
        }
        assert_eq!(pending.lost(), 1);
        assert!(pending.due(WAIT_NS).is_none());
        assert_eq!(pending.due(WAIT_NS + 1).unwrap().time_ns, 1);
        assert!(pending.due(WAIT_NS + 1).is_none());
    }
}
