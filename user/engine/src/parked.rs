//! Frames that wait: an answer whose addresses have no identity yet, a frame that came while policy was being switched.
//!
//! Such a frame is no longer the channel's; it lies here and is decided again when there is a reason to hope
//! ([`Engine::retry`]), as if it had come late. Nothing else waits for it.

use crate::decide::{Engine, Fate};
use crate::outbox::{OUTBOX_FRAMES_MAX, Outbox};
use crate::punted::{FlowId, Punted};
use seventh_abi::DropReason;
use seventh_parsers::packet::Transport;
use std::collections::{HashMap, VecDeque};

/// Frames that wait in one engine at most. Half of it is for who comes first; of the other half each endpoint has its
/// part, whatever the others do.
const PARKED_MAX: usize = 1024;
/// How long a frame waits at most. Whoever waits for it asks again later.
const PARKED_NS: u64 = 2_000_000_000;
/// How often frames are decided again though nothing seems to have changed.
const RETRY_NS: u64 = 10_000_000;
/// Frames that are decided again in one go.
const RETRIES_MAX: usize = 64;

/// Whose frame has to wait, and for what it is dropped if that does not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parking {
    ifindex: u32,
    connection: u16,
    /// Of a TCP connection.
    tcp: Option<FlowId>,
    reason: DropReason,
}

impl Parking {
    pub(crate) fn of(punted: &Punted<'_>, reason: DropReason) -> Self {
        let is_tcp = matches!(punted.frame.transport(), Transport::Tcp(_));
        Self {
            ifindex: punted.id.ifindex,
            connection: punted.connection,
            tcp: is_tcp.then_some(punted.id),
            reason,
        }
    }
}

#[derive(Debug)]
struct Waiting {
    frame: Box<[u8]>,
    parking: Parking,
    since_ns: u64,
}

/// Frames that wait, the one that came first in front.
#[derive(Debug, Default)]
pub(crate) struct Parked {
    frames: VecDeque<Waiting>,
    /// How many of them each endpoint (host-side interface) has.
    shares: HashMap<u32, usize>,
    /// [`crate::Names::turn`] when they were decided last, and the time.
    turn: u64,
    tried_ns: u64,
    /// Frames at the front that were not decided again under this turn yet.
    untried: usize,
}

impl Parked {
    fn has_room(&self, ifindex: u32, endpoints: usize) -> bool {
        let own = self.shares.get(&ifindex).copied().unwrap_or(0);
        self.frames.len() < PARKED_MAX / 2
            || (self.frames.len() < PARKED_MAX && own < (PARKED_MAX / 2 / endpoints.max(1)).max(1))
    }

    fn push(&mut self, waiting: Waiting) {
        *self.shares.entry(waiting.parking.ifindex).or_default() += 1;
        self.frames.push_back(waiting);
    }

    fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.frames.pop_front()?;
        if let Some(own) = self.shares.get_mut(&waiting.parking.ifindex) {
            *own -= 1;
            if *own == 0 {
                self.shares.remove(&waiting.parking.ifindex);
            }
        }
        Some(waiting)
    }
}

impl Engine {
    /// Frames that wait here. While there are any, call [`Engine::retry`] about once a millisecond.
    #[must_use]
    pub fn parked(&self) -> usize {
        self.parked.frames.len()
    }

    pub(crate) fn park(&mut self, frame: &[u8], parking: Parking, now_ns: u64) {
        let endpoints = self.desk.shared.load_policy().endpoints.len();
        if !self.parked.has_room(parking.ifindex, endpoints) {
            self.desk.counters.count_reason(parking.reason);
            return;
        }
        self.parked.push(Waiting {
            frame: frame.into(),
            parking,
            since_ns: now_ns,
        });
    }

    /// Decides frames that wait again, if it may have become possible. What goes on is in `out`, which should be empty.
    pub fn retry(&mut self, now_ns: u64, out: &mut Outbox) {
        let turn = self.desk.shared.names.turn();
        let parked = &mut self.parked;
        if turn != parked.turn || now_ns.saturating_sub(parked.tried_ns) >= RETRY_NS {
            parked.turn = turn;
            parked.tried_ns = now_ns;
            parked.untried = parked.frames.len();
        }
        for _ in 0..RETRIES_MAX.min(self.parked.untried) {
            // One decision makes four frames at most.
            if out.frames().count() + 4 > OUTBOX_FRAMES_MAX {
                return;
            }
            self.parked.untried -= 1;
            let Some(waiting) = self.parked.pop() else { return };
            self.retry_one(waiting, now_ns, out);
        }
    }

    /// Another connection has begun on the frame's addresses and ports while it waited. It must not be taken for the next one.
    fn is_over(&mut self, parking: &Parking) -> bool {
        let known = parking.tcp.and_then(|id| self.flows.get(&id));
        known.is_some_and(|flow| flow.connection != parking.connection)
    }

    fn retry_one(&mut self, mut waiting: Waiting, now_ns: u64, out: &mut Outbox) {
        if self.is_over(&waiting.parking) {
            self.desk.counters.count_reason(DropReason::EngineOtherConnection);
            return;
        }
        match self.try_decide(&mut waiting.frame, waiting.parking.connection, now_ns, out) {
            Ok(Fate::Forward) => {
                if let Some(frame) = out.next() {
                    frame.extend_from_slice(&waiting.frame);
                }
            }
            Ok(Fate::Consumed) => {}
            Err(parking) if now_ns.saturating_sub(waiting.since_ns) >= PARKED_NS => {
                self.desk.counters.count_reason(parking.reason);
            }
            Err(parking) => self.parked.push(Waiting { parking, ..waiting }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PARKED_MAX, Parked, Parking, Waiting};
    use seventh_abi::DropReason;

    /// Parks frames of an endpoint until there is no room.
    fn fill(parked: &mut Parked, ifindex: u32, endpoints: usize) -> usize {
        let before = parked.frames.len();
        while parked.has_room(ifindex, endpoints) {
            parked.push(Waiting {
                frame: Box::default(),
                parking: Parking {
                    ifindex,
                    connection: 0,
                    tcp: None,
                    reason: DropReason::DnsNotLearned,
                },
                since_ns: 0,
            });
            assert!(parked.frames.len() <= PARKED_MAX);
        }
        parked.frames.len() - before
    }

    #[test]
    fn one_endpoint_leaves_the_others_their_share() {
        let mut parked = Parked::default();
        assert_eq!(fill(&mut parked, 1, 4), PARKED_MAX / 2);
        for ifindex in 2..=4 {
            assert_eq!(fill(&mut parked, ifindex, 4), PARKED_MAX / 8);
        }
        while parked.pop().is_some() {}
        assert!(parked.shares.is_empty());
    }
}
