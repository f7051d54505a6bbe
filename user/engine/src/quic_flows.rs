//! Datagrams of flows that serverNames rules cover: QUIC connections, from the first datagram to their end.
//!
//! When the server has accepted a connection the kernel carries its addresses and ports alone, but for datagrams of the
//! opener that begin with a long header: with one of those another connection may begin there, and its name is judged
//! as the first one's was. The server's answers to it are not read any more, so every ClientHello that it sends must
//! carry the same name, whoever asked for it.

use crate::answer;
use crate::counters::EngineCounter;
use crate::decide::{Decision, Engine};
use crate::dns;
use crate::flow::FlowPolicy;
use crate::generations::Generations;
use crate::inspector::{Change, Judge};
use crate::judge::About;
use crate::outbox::Outbox;
use crate::punted::{FlowId, Punted};
use crate::quic::{Attempt, HELD_DATAGRAMS_MAX, Opening, Versions, is_of};
use crate::shared::EngineLimits;
use crate::tls::{HelloJudge, SeenHello};
use seventh_abi::{DropReason, InjectAction, Replies};
use seventh_parsers::quic::{ConnectionId, Packet, split_packet_or_draft};
use std::borrow::Cow;

/// Connections that are not settled, at most; the oldest give way.
const OPEN_MAX: usize = 4096;
/// Part of [`EngineLimits::held_bytes_max`] that connections which are not settled may hold together, and the same for
/// settled ones; the oldest give way.
const HELD_PART: usize = 4;
/// Different names of connections under the same addresses and ports. All must be allowed still when the policy has
/// changed, because which datagram belongs to which connection is not known.
const NAMES_MAX: usize = 8;

const DNS_PORT: u16 = 53;
/// Names of `NetBIOS`, mDNS, LLMNR: the form of DNS, and nobody's resolver.
const OTHER_NAMES_PORTS: [u16; 3] = [137, 5353, 5355];

/// QUIC connections of one engine.
#[derive(Debug)]
pub(crate) struct QuicFlows {
    open: Generations<Open>,
    /// Of `open`, in bytes.
    open_bytes: usize,
    settled: Generations<Going>,
    /// Of `settled`, in bytes.
    settled_bytes: usize,
    /// Each of both at most.
    bytes_max: usize,
}

/// A connection that is not settled.
#[derive(Debug)]
enum Open {
    Trying {
        /// Under which its hello was judged.
        epoch: u32,
        attempt: Box<Attempt>,
    },
    /// It was recorded, and what follows is dropped in silence, until another connection begins.
    Denied {
        reason: DropReason,
        attempt: Option<Box<Attempt>>,
    },
}

/// What settled connections under the same addresses and ports go on under.
#[derive(Clone, Debug, Default)]
struct Going {
    epoch: u32,
    /// Of the connection that was followed until the server had accepted it: what its keys are made of.
    original: Option<ConnectionId>,
    /// Names that were allowed; none if nothing was read, because whatever is sent was.
    seen: Vec<SeenHello>,
}

impl Going {
    /// Memory held, in bytes.
    fn held_bytes(&self) -> usize {
        self.seen.capacity() * size_of::<SeenHello>() + self.seen.iter().map(SeenHello::held).sum::<usize>()
    }

    /// False if there are too many.
    fn remember(&mut self, hello: &SeenHello) -> bool {
        let is_known = self.seen.contains(hello);
        if !is_known && self.seen.len() < NAMES_MAX {
            self.seen.push(hello.clone());
            return true;
        }
        is_known
    }
}

impl QuicFlows {
    pub(crate) fn new(limits: &EngineLimits) -> Self {
        Self {
            open: Generations::new(OPEN_MAX, limits.head_timeout_ns),
            open_bytes: 0,
            settled: Generations::new(limits.quic_flows_max, limits.idle_timeout_ns),
            settled_bytes: 0,
            bytes_max: limits.held_bytes_max / HELD_PART,
        }
    }

    /// Forgets connections that did not settle in time and settled ones that were not met for long.
    pub(crate) fn expire(&mut self, now_ns: u64) {
        if self.open.expire(now_ns) {
            self.open_bytes = self.open.values().map(Open::held_bytes).sum();
        }
        if self.settled.expire(now_ns) {
            self.settled_bytes = self.settled.values().map(Going::held_bytes).sum();
        }
    }

    /// Memory held, in bytes.
    pub(crate) const fn held_bytes(&self) -> usize {
        self.open_bytes + self.settled_bytes
    }

    /// Connections known.
    pub(crate) fn len(&self) -> usize {
        self.open.len() + self.settled.len()
    }

    /// Whether a connection is known under these addresses and ports.
    fn knows(&mut self, id: &FlowId) -> bool {
        self.open.meet(id).is_some() || self.settled.meet(id).is_some()
    }

    fn take_open(&mut self, id: &FlowId) -> Option<Open> {
        let open = self.open.remove(id)?;
        self.open_bytes = self.open_bytes.saturating_sub(open.held_bytes());
        Some(open)
    }

    fn put_open(&mut self, id: FlowId, open: Open) {
        self.open_bytes += open.held_bytes();
        self.open.insert(id, open);
        // Twice at most: then nothing is left.
        for _ in 0..2 {
            if self.open_bytes > self.bytes_max {
                self.open.turn();
                self.open_bytes = self.open.values().map(Open::held_bytes).sum();
            }
        }
    }

    fn take_settled(&mut self, id: &FlowId) -> Option<Going> {
        let going = self.settled.remove(id)?;
        self.settled_bytes = self.settled_bytes.saturating_sub(going.held_bytes());
        Some(going)
    }

    fn put_settled(&mut self, id: FlowId, going: Going) {
        self.take_settled(&id);
        self.settled_bytes += going.held_bytes();
        self.settled.insert(id, going);
        // Twice at most: then nothing is left.
        for _ in 0..2 {
            if self.settled_bytes > self.bytes_max {
                self.settled.turn();
                self.settled_bytes = self.settled.values().map(Going::held_bytes).sum();
            }
        }
    }

    /// Whatever is sent passes.
    fn settle_unread(&mut self, id: FlowId, epoch: u32) -> Decision {
        let going = Going {
            epoch,
            ..Going::default()
        };
        self.put_settled(id, going);
        Decision::Forward(Change {
            action: InjectAction::Forward { epoch },
            replies: Replies::Pass,
        })
    }

    /// The server has accepted the connection.
    fn settle(&mut self, id: FlowId, epoch: u32, attempt: &mut Attempt) -> Decision {
        let going = Going {
            epoch,
            original: Some(attempt.original),
            seen: attempt.seen.take().into_iter().collect(),
        };
        self.put_settled(id, going);
        pass_from_now_on(epoch)
    }
}

impl Open {
    fn held_bytes(&self) -> usize {
        let attempt = match self {
            Self::Trying { attempt, .. } => Some(attempt),
            Self::Denied { attempt, .. } => attempt.as_ref(),
        };
        attempt.map_or(0, |attempt| attempt.held_bytes())
    }
}

impl Engine {
    /// A datagram that is only shown: DNS by its port, else a QUIC connection if it is one that is known or begins one,
    /// else DNS if it reads as such.
    pub(crate) fn observe_datagram(
        &mut self,
        punted: &Punted<'_>,
        policy: &FlowPolicy,
        out: &mut Outbox,
    ) -> Result<Decision, Decision> {
        let (source, destination) = punted.frame.transport().ports();
        let payload = punted.frame.payload();
        let by_port = [source, destination].contains(&DNS_PORT);
        if !by_port && (self.quic.knows(&punted.id) || begins_quic(payload)) {
            return self.decide_quic(punted, policy, out);
        }
        let others = [source, destination]
            .iter()
            .any(|port| OTHER_NAMES_PORTS.contains(port));
        if !by_port && (others || !dns::reads_as_dns(payload)) {
            return Ok(Decision::Forward(Change::default()));
        }
        let about = About::of(punted, Some(policy));
        let mut judge = Judge {
            desk: &mut self.desk,
            policy,
            about: &about,
        };
        Ok(dns::datagram(&mut judge, payload, punted.meta.reply, &self.limits))
    }

    /// Decides a datagram of either side. `Err` is a decision too: the one of an early tier.
    pub(crate) fn decide_quic(
        &mut self,
        punted: &Punted<'_>,
        policy: &FlowPolicy,
        out: &mut Outbox,
    ) -> Result<Decision, Decision> {
        let about = About::of(punted, Some(policy));
        let Self { desk, quic, limits, .. } = self;
        let mut visit = Visit {
            judge: Judge {
                desk,
                policy,
                about: &about,
            },
            quic,
            limits,
            punted,
        };
        visit.settled()?;
        if punted.meta.reply {
            visit.reply()
        } else {
            visit.opener(out)
        }
    }
}

/// One datagram and whom to ask about it.
struct Visit<'a> {
    judge: Judge<'a>,
    quic: &'a mut QuicFlows,
    limits: &'a EngineLimits,
    punted: &'a Punted<'a>,
}

impl Visit<'_> {
    /// Rules never let a draft pass: only where there are none it is read.
    fn versions(&self) -> Versions {
        if self.judge.policy.rules.observes() {
            Versions::AndDrafts
        } else {
            Versions::Published
        }
    }

    /// Of connections that nothing more is read of; under another policy they are judged again by what was read. `Ok` if
    /// the datagram is of none of them.
    fn settled(&mut self) -> Result<(), Decision> {
        let (id, epoch) = (&self.punted.id, self.judge.policy.epoch);
        let Some(going) = self.quic.settled.meet(id) else {
            return Ok(());
        };
        let allows_all = self.judge.allows_all();
        if going.epoch != epoch {
            let verdict = match &going.seen[..] {
                [] if allows_all || self.limits.pass_unknown_quic => Ok(()),
                [] => Err(DropReason::TlsNotTls),
                names => names.iter().try_for_each(|seen| self.judge.again(seen)),
            };
            if let Err(reason) = verdict {
                self.quic.take_settled(id);
                return Err(self.deny(reason, None));
            }
            going.epoch = epoch;
        }
        if allows_all {
            return Err(self.quic.settle_unread(*id, epoch));
        }
        if self.punted.meta.reply {
            return Err(pass_from_now_on(epoch));
        }
        match is_of(self.punted.frame.payload(), going.original.as_ref()) {
            Ok(true) => Err(pass_from_now_on(epoch)),
            Ok(false) => Ok(()),
            Err(DropReason::QuicUnknownVersion) if self.limits.pass_unknown_quic => Err(pass_from_now_on(epoch)),
            Err(reason) => Err(Decision::Drop(reason)),
        }
    }

    /// A datagram of the other side.
    fn reply(&mut self) -> Result<Decision, Decision> {
        let (id, epoch) = (self.punted.id, self.judge.policy.epoch);
        let Some(Open::Trying { attempt, .. }) = self.trying()? else {
            if self.judge.allows_all() {
                return Ok(self.quic.settle_unread(id, epoch));
            }
            return Err(self.deny(DropReason::QuicNotInitial, None));
        };
        let mut attempt = attempt;
        if attempt.read_reply(self.punted.frame.payload()) {
            return Ok(self.quic.settle(id, epoch, &mut attempt));
        }
        self.quic.put_open(id, Open::Trying { epoch, attempt });
        Ok(Decision::Forward(Change::default()))
    }

    /// A datagram of the opener.
    fn opener(&mut self, out: &mut Outbox) -> Result<Decision, Decision> {
        let (id, epoch) = (self.punted.id, self.judge.policy.epoch);
        let known = match self.trying()? {
            Some(Open::Trying { attempt, .. }) => Some(attempt),
            Some(Open::Denied { .. }) | None => None,
        };
        let (mut attempt, opening) = match self.read(known) {
            Ok(read) => read,
            Err((reason, known)) => return self.unreadable(reason, known),
        };
        if opening == Opening::None && attempt.seen.is_some() {
            self.quic.put_open(id, Open::Trying { epoch, attempt });
            return Ok(Decision::Forward(Change::default()));
        }
        let verdict = attempt.judge(&self.limits.tls, &mut self.judge);
        match verdict {
            Ok(true) => Ok(self.release(attempt, out)),
            Ok(false) if self.judge.allows_all() => {
                self.quic.put_open(id, Open::Trying { epoch, attempt });
                Ok(Decision::Forward(Change::default()))
            }
            Ok(false) => Err(self.hold(attempt)),
            Err(_) if self.judge.allows_all() => Ok(self.quic.settle_unread(id, epoch)),
            Err(reason) => Err(self.deny(reason, Some(attempt))),
        }
    }

    /// Takes out the connection's entry, judged under the present policy. What was denied stays so until another
    /// connection begins.
    fn trying(&mut self) -> Result<Option<Open>, Decision> {
        let (id, epoch) = (self.punted.id, self.judge.policy.epoch);
        match self.quic.take_open(&id) {
            Some(Open::Denied { reason, attempt }) => {
                let begins = !self.punted.meta.reply
                    && Attempt::read(None, self.punted.frame.payload(), self.versions())
                        .is_ok_and(|(opening, _)| opening != Opening::None)
                    && !attempt
                        .as_ref()
                        .is_some_and(|denied| denied.is_repeated_by(self.punted.frame.payload()));
                if begins || self.judge.allows_all() {
                    return Ok(None);
                }
                self.judge.desk.counters.count_reason(reason);
                self.quic.put_open(id, Open::Denied { reason, attempt });
                Err(Decision::Defer)
            }
            Some(Open::Trying { epoch: judged, attempt }) => {
                if judged != epoch
                    && let Some(seen) = &attempt.seen
                    && let Err(reason) = self.judge.again(seen)
                {
                    return Err(self.deny(reason, Some(attempt)));
                }
                Ok(Some(Open::Trying { epoch, attempt }))
            }
            None => Ok(None),
        }
    }

    /// Reads the datagram into the known connection or a new one. The known one comes back if it cannot be read.
    #[expect(clippy::type_complexity, reason = "used once, right above")]
    fn read(
        &self,
        mut known: Option<Box<Attempt>>,
    ) -> Result<(Box<Attempt>, Opening), (DropReason, Option<Box<Attempt>>)> {
        match Attempt::read(known.as_deref_mut(), self.punted.frame.payload(), self.versions()) {
            Ok((opening, Some(fresh))) => Ok((Box::new(fresh), opening)),
            Ok((opening, None)) => match known {
                Some(known) => Ok((known, opening)),
                None => Err((DropReason::QuicNotInitial, None)),
            },
            Err(reason) => Err((reason, known)),
        }
    }

    /// A datagram that is dropped by itself: what is known of the connection stays. One of an unknown version passes if
    /// the configuration says so, and with it what later carries its connection, which has no version: short headers.
    /// Initial packets that can be read are judged all the same.
    fn unreadable(&mut self, reason: DropReason, known: Option<Box<Attempt>>) -> Result<Decision, Decision> {
        let (id, epoch) = (self.punted.id, self.judge.policy.epoch);
        if self.judge.allows_all() {
            return Ok(self.quic.settle_unread(id, epoch));
        }
        if reason == DropReason::QuicUnknownVersion && self.limits.pass_unknown_quic {
            let Some(attempt) = known else {
                self.quic.settle_unread(id, epoch);
                return Ok(pass_from_now_on(epoch));
            };
            self.quic.put_open(id, Open::Trying { epoch, attempt });
            return Ok(Decision::Forward(Change::default()));
        }
        match known {
            Some(attempt) => {
                self.quic.put_open(id, Open::Trying { epoch, attempt });
                Err(Decision::Drop(reason))
            }
            None => Err(self.deny(reason, None)),
        }
    }

    /// The hello is not whole: the frame waits.
    fn hold(&mut self, mut attempt: Box<Attempt>) -> Decision {
        let (id, epoch) = (self.punted.id, self.judge.policy.epoch);
        let decision = if self.judge.desk.beside.is_some() {
            // It has passed.
            Decision::Defer
        } else if attempt.held.len() < HELD_DATAGRAMS_MAX {
            let frame = &self.punted.frame;
            attempt.held.push([frame.headers(), frame.payload()].concat());
            self.judge.desk.counters.count(EngineCounter::DatagramHeld);
            Decision::Defer
        } else {
            Decision::Drop(DropReason::QuicHelloTooLong)
        };
        self.quic.put_open(id, Open::Trying { epoch, attempt });
        decision
    }

    /// Every hello so far is allowed: what waited goes on, after this frame.
    fn release(&mut self, mut attempt: Box<Attempt>, out: &mut Outbox) -> Decision {
        let (id, epoch) = (self.punted.id, self.judge.policy.epoch);
        let beside = self.quic.take_settled(&id);
        let is_beside = beside.is_some();
        if let Some(mut going) = beside {
            let fits = attempt.seen.as_ref().is_none_or(|seen| going.remember(seen));
            self.quic.put_settled(id, going);
            if !fits {
                return self.deny(DropReason::QuicTooManyNames, Some(attempt));
            }
        }
        for held in std::mem::take(&mut attempt.held) {
            let Some(frame) = out.next() else {
                self.judge.desk.counters.count(EngineCounter::OutboxFull);
                continue;
            };
            frame.extend_from_slice(&answer::onward(self.punted, Change::default()));
            frame.extend_from_slice(held.get(frame.len()..).unwrap_or_default());
        }
        if self.judge.allows_all() {
            return self.quic.settle_unread(id, epoch);
        }
        if attempt.is_settled() && !is_beside {
            return self.quic.settle(id, epoch, &mut attempt);
        }
        self.quic.put_open(id, Open::Trying { epoch, attempt });
        Decision::Forward(Change {
            replies: if is_beside { Replies::Keep } else { Replies::Punt },
            ..Change::default()
        })
    }

    /// The connection must not be. The client is told, if it is so early that it can be.
    fn deny(&mut self, reason: DropReason, mut attempt: Option<Box<Attempt>>) -> Decision {
        let judge = &mut self.judge;
        if judge.desk.refuse(judge.about, reason).is_ok() {
            let (id, epoch) = (self.punted.id, judge.policy.epoch);
            return match attempt {
                Some(mut attempt) => self.quic.settle(id, epoch, &mut attempt),
                None => self.quic.settle_unread(id, epoch),
            };
        }
        let answer = attempt
            .as_ref()
            .filter(|_| !self.punted.meta.reply)
            .and_then(|attempt| attempt.close());
        if let Some(attempt) = &mut attempt {
            attempt.held = Vec::new();
        }
        self.quic.put_open(self.punted.id, Open::Denied { reason, attempt });
        match answer {
            Some(answer) => Decision::Refuse {
                reason,
                repeated: 0,
                answer: Cow::Owned(answer),
            },
            None => Decision::Drop(reason),
        }
    }
}

/// A long header of a version that can be read, with a first packet in it (RFC 8999 §5.1).
fn begins_quic(payload: &[u8]) -> bool {
    matches!(split_packet_or_draft(payload), Ok((Packet::Initial(_), _)))
}

/// All but what another connection may begin with.
const fn pass_from_now_on(epoch: u32) -> Decision {
    Decision::Forward(Change {
        action: InjectAction::ForwardQuic { epoch },
        replies: Replies::Pass,
    })
}
