//! Connections of one engine.

use crate::ahead::Ahead;
use crate::inspector::Inspector;
use crate::punted::{FlowId, LinkType, Punted};
use crate::seq::before;
use crate::stream::Stream;
use ahash::AHashMap as HashMap;
use seventh_abi::PuntMeta;
use seventh_policy::RuleSet;
use std::borrow::Cow;
use std::sync::Arc;

/// Places that one eviction looks at before it takes what it finds.
const EVICTION_LOOKS_MAX: usize = 64;

/// What the policy said of a connection.
#[derive(Clone, Debug)]
pub(crate) struct FlowPolicy {
    /// Under which it was asked.
    pub(crate) epoch: u32,
    pub(crate) endpoint_id: u32,
    pub(crate) peer_identity: u32,
    /// The rules that judge its requests.
    pub(crate) rules: Arc<RuleSet>,
}

/// How a connection was closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// `answer` was sent to the opener; its first byte has this number.
    Refused {
        response_seq: u32,
        answer: Cow<'static, [u8]>,
    },
    /// Both sides were reset.
    Reset,
}

/// A range of the opener's sequence numbers that is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) start: u32,
    pub(crate) end: u32,
    /// A request begins at the end.
    pub(crate) boundary: bool,
}

/// A connection under inspection.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) id: FlowId,
    /// See [`seventh_abi::PuntedType::connection`].
    pub(crate) connection: u16,
    pub(crate) link: LinkType,
    pub(crate) policy: FlowPolicy,
    /// Number of the opener's first byte.
    pub(crate) base: u32,
    pub(crate) stream: Stream,
    pub(crate) inspector: Inspector,
    /// Number after the last byte that was read of a connection of which nothing more needs to be.
    pub(crate) settled_at: Option<u32>,
    /// See [`Flow::may_pass`]; once so, always so.
    pub(crate) passes: bool,
    /// Next byte of the other side that is to be read, while its bytes are.
    pub(crate) reply_next: Option<u32>,
    /// First frame of HTTP/2 that the other side sent after an upgrade.
    pub(crate) frames_from: Option<u32>,
    /// Acknowledgement that the segment carried which completed the last allowed request: while the opener still
    /// sends this one, it has got nothing of the answer.
    pub(crate) request_ack: Option<u32>,
    /// Acknowledgement of the last segment.
    pub(crate) last_ack: u32,
    /// The range that the kernel was last told to let pass.
    pub(crate) grant: Option<Grant>,
    pub(crate) closed: Option<Closed>,
    /// The opener's FIN came with data: nothing new will follow.
    pub(crate) finished: bool,
    pub(crate) last_seen_ns: u64,
    /// When the head that is not complete began.
    pub(crate) head_since_ns: Option<u64>,
    /// Beside the traffic: what else is known of it.
    pub(crate) beside: BesideState,
}

/// What is known of a connection that is only looked at.
#[derive(Debug, Default)]
pub(crate) struct BesideState {
    /// Of the opener, before which something is missing, or that waits for an answer.
    pub(crate) ahead: Ahead,
    /// Of the other side, before which something is missing.
    pub(crate) replies_ahead: Ahead,
    /// What is read next of the opener depends on an answer.
    pub(crate) waits: bool,
    /// The highest acknowledgement of the other side.
    pub(crate) acked: Option<u32>,
    /// How often in a row nothing was found where something was looked for.
    pub(crate) misses: u16,
}

impl BesideState {
    /// Something was shown behind what was not.
    pub(crate) fn is_waiting(&self) -> bool {
        self.ahead.first().or(self.replies_ahead.first()).is_some()
    }
}

impl Flow {
    /// Whether a frame with its addresses and ports is of this connection. One whose first byte the kernel does not know may
    /// be: its flow entry was lost then and has another number, which is the connection's from now on.
    pub(crate) fn is_met_by(&self, punted: &Punted<'_>) -> bool {
        let base = punted.meta.base_seq;
        base.is_none_or(|base| base == self.base && punted.connection == self.connection)
    }

    /// Whether the kernel may carry the connection alone: nothing more needs to be read, and what was read has been
    /// received. Before, a byte that was read and then lost on its way could come again as another. Once it may, nothing is
    /// held any more to compare with.
    pub(crate) fn may_pass(&mut self, meta: &PuntMeta) -> bool {
        if !self.passes && self.inspector.is_settled() {
            let end = *self.settled_at.get_or_insert(self.stream.next());
            self.passes = meta.acked_seq.is_some_and(|acked| !before(acked, end));
            if self.passes {
                self.stream = Stream::new(self.stream.next());
            }
        }
        self.passes
    }

    /// Memory held beside the entry itself, in bytes.
    pub(crate) fn held(&self) -> usize {
        let answer = match &self.closed {
            Some(Closed::Refused {
                answer: Cow::Owned(answer),
                ..
            }) => answer.capacity(),
            Some(_) | None => 0,
        };
        let waiting = self.beside.ahead.held() + self.beside.replies_ahead.held();
        self.stream.held() + self.inspector.held() + waiting + answer
    }
}

/// Bounded table of connections. When it is full, an old one that was not used since the hand last passed gives way.
#[derive(Debug)]
pub(crate) struct FlowTable {
    index: HashMap<FlowId, usize>,
    slots: Vec<Slot>,
    free: Vec<usize>,
    flows_max: usize,
    /// Next place that an eviction looks at.
    hand: usize,
    /// Next place that a sweep looks at.
    broom: usize,
    /// Memory held for all connections as far as it was weighed: the sum of [`Slot::held`].
    held: usize,
    /// The place that was lent last; its connection may hold more or less since.
    lent: Option<usize>,
}

#[derive(Debug, Default)]
struct Slot {
    flow: Option<Box<Flow>>,
    used: bool,
    /// [`Flow::held`] when it was last weighed.
    held: usize,
}

impl FlowTable {
    pub(crate) fn new(flows_max: usize) -> Self {
        Self {
            index: HashMap::default(),
            slots: Vec::new(),
            free: Vec::new(),
            flows_max: flows_max.max(1),
            hand: 0,
            broom: 0,
            held: 0,
            lent: None,
        }
    }

    /// Memory held for all connections, in bytes ([`Flow::held`]). Who changes a connection needs not account for it: the
    /// one that [`FlowTable::at`] lent last is weighed again before the next one is lent, and before this is answered.
    pub(crate) fn held(&mut self) -> usize {
        self.weigh_lent();
        self.held
    }

    /// The same, each connection weighed anew: what builds with debug assertions compare it with.
    pub(crate) fn held_by_each(&self) -> usize {
        let flows = self.slots.iter().filter_map(|slot| slot.flow.as_ref());
        flows.map(|flow| flow.held()).sum()
    }

    fn weigh_lent(&mut self) {
        let Some(slot) = self.lent.take().and_then(|place| self.slots.get_mut(place)) else {
            return;
        };
        let held = slot.flow.as_ref().map_or(0, |flow| flow.held());
        self.held = self.held - slot.held + held;
        slot.held = held;
    }

    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// The connection.
    pub(crate) fn get(&mut self, id: &FlowId) -> Option<&mut Flow> {
        self.at(*self.index.get(id)?)
    }

    /// Its place, marked as used. A connection that never gets a second frame is never marked, so that a crowd of those
    /// does not push out the ones in use.
    pub(crate) fn touch(&mut self, id: &FlowId) -> Option<usize> {
        let place = *self.index.get(id)?;
        self.slots.get_mut(place)?.used = true;
        Some(place)
    }

    /// The connection at a place that was found for the frame being decided.
    pub(crate) fn at(&mut self, place: usize) -> Option<&mut Flow> {
        if self.lent != Some(place) {
            self.weigh_lent();
            self.lent = Some(place);
        }
        self.slots.get_mut(place)?.flow.as_deref_mut()
    }

    /// Adds a connection that is not there yet: its place, and the one that had to go for it.
    pub(crate) fn insert(&mut self, flow: Flow) -> (usize, Option<Box<Flow>>) {
        let evicted = if self.len() >= self.flows_max {
            self.evict()
        } else {
            None
        };
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        self.index.insert(flow.id, place);
        if let Some(slot) = self.slots.get_mut(place) {
            slot.held = flow.held();
            self.held += slot.held;
            slot.flow = Some(Box::new(flow));
            slot.used = false;
        }
        (place, evicted)
    }

    pub(crate) fn remove(&mut self, id: &FlowId) -> Option<Box<Flow>> {
        let place = self.index.remove(id)?;
        self.free.push(place);
        let slot = self.slots.get_mut(place)?;
        self.held -= std::mem::take(&mut slot.held);
        slot.flow.take()
    }

    /// Takes out a connection that was not used lately.
    pub(crate) fn evict(&mut self) -> Option<Box<Flow>> {
        let mut candidate = None;
        // Twice round at most: the first time takes the marks away.
        for _ in 0..(2 * self.slots.len()).min(EVICTION_LOOKS_MAX) {
            self.hand = (self.hand + 1) % self.slots.len();
            let Some(slot) = self.slots.get_mut(self.hand) else {
                break;
            };
            let Some(flow) = &slot.flow else { continue };
            candidate = Some(flow.id);
            if !std::mem::take(&mut slot.used) {
                break;
            }
        }
        self.remove(&candidate.or_else(|| self.index.keys().next().copied())?)
    }

    /// Those of the connections at the next `looks` places that are `due`, for a sweep that takes a while to come round.
    pub(crate) fn sweep(&mut self, looks: usize, due: impl Fn(&Flow) -> bool) -> Vec<FlowId> {
        let mut ids = Vec::new();
        for _ in 0..looks.min(self.slots.len()) {
            self.broom = (self.broom + 1) % self.slots.len();
            let flow = self.slots.get(self.broom).and_then(|slot| slot.flow.as_deref());
            ids.extend(flow.filter(|flow| due(flow)).map(|flow| flow.id));
        }
        ids
    }
}
