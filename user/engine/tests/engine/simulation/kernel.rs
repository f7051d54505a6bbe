//! The kernel's part for one connection, as `kern/prog` does it.

use crate::wire::{ACK, FIN, PSH, Sent, URG};
use crate::world::{Connection, NUMBER};
use seventh_abi::{Frontier, InjectAction, PuntMeta, Replies};
use seventh_policy::RequestWalker;

fn after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

/// What the flow entry holds.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) base: u32,
    /// Which of the connections that followed one another it is.
    pub(crate) connection: u16,
    /// Where the connection of the opener's last SYN begins.
    pending_base: u32,
    pub(crate) acked: u32,
    sent_next: u32,
    pub(crate) reply_next: u32,
    pub(crate) bypass: Option<(u32, u32)>,
    pub(crate) closed: bool,
    /// Everything of the opener passes.
    pub(crate) passes: bool,
    /// Data of the other side goes to the engine.
    pub(crate) punts_replies: bool,
    /// By what it judges requests itself, if it does.
    table: Option<RequestWalker>,
    /// A request begins at `boundary`.
    boundary_valid: bool,
    boundary: u32,
    told: u32,
    punted_next: u32,
    /// The last request that it let pass: where it began, its bytes, what was acknowledged with it.
    kept: Option<(u32, Vec<u8>, u32)>,
    /// Requests that it let pass.
    pub(crate) judged: u64,
}

/// A packet of the opener.
pub(crate) struct Packet<'a> {
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) payload: &'a [u8],
}

impl Packet<'_> {
    fn end(&self) -> u32 {
        self.seq.wrapping_add(self.payload.len() as u32)
    }
}

/// How far a CPU has come with a packet of the opener.
#[derive(Debug)]
pub(crate) enum Step {
    Decided(Way),
    /// Others may handle packets of the same connection before it goes on.
    Reads(Reading),
}

/// What a CPU that reads a packet has done, and what it goes on with: it asks the entry for nothing of this again.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reading {
    /// Where what it begins with, and was compared, ends; of a request that is allowed, the word that stood in the entry before.
    Compared(Option<u32>, Option<(u32, u32)>),
    /// It has moved the boundary, and the request will pass.
    Moved,
    /// It has noted that the engine gets the bytes; the first of them were compared.
    Noted(Option<u32>),
}

/// What becomes of a packet of the opener.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Pass,
    /// It passes, and nobody reads it.
    Unread,
    Punt(PuntMeta),
    Drop,
}

impl Kernel {
    pub(crate) fn new(base: u32, reply_base: u32, table: Option<RequestWalker>) -> Self {
        Self {
            base,
            connection: NUMBER,
            pending_base: base,
            acked: base,
            sent_next: base,
            reply_next: reply_base,
            bypass: None,
            closed: false,
            passes: false,
            punts_replies: false,
            table,
            boundary_valid: true,
            boundary: base,
            told: base,
            punted_next: base,
            kept: None,
            judged: 0,
        }
    }

    /// The opener's SYN, behind which its first byte has this number.
    pub(crate) fn syn(&mut self, base: u32) {
        self.pending_base = base;
    }

    /// The other side accepts a SYN; false if its acceptance is dropped.
    pub(crate) fn accept(&mut self, base: u32, reply_base: u32) -> bool {
        if base != self.pending_base {
            return base == self.base;
        }
        if base != self.base {
            *self = Self {
                connection: self.connection + 1,
                // What the policy says of the flow is still known.
                punts_replies: self.punts_replies,
                judged: self.judged,
                ..Self::new(base, reply_base, self.table.take())
            };
        }
        true
    }

    /// The whole way of a packet that no other CPU comes between.
    pub(crate) fn packet_of_opener(&mut self, connection: &Connection, packet: &Packet<'_>) -> Way {
        let mut step = self.take(connection, packet);
        loop {
            match step {
                Step::Decided(way) => return way,
                Step::Reads(reading) => step = self.go_on(connection, packet, reading),
            }
        }
    }

    /// The first step with a packet.
    pub(crate) fn take(&mut self, connection: &Connection, packet: &Packet<'_>) -> Step {
        let len = packet.payload.len();
        if self.closed {
            let wants = len > 0 || packet.flags & FIN != 0;
            return Step::Decided(if wants {
                Way::Punt(self.meta(connection, packet.ack))
            } else {
                Way::Drop
            });
        }
        if packet.flags & URG != 0 && !self.passes {
            return Step::Decided(Way::Drop);
        }
        let end = packet.end();
        // A range that was given free.
        let free = self
            .bypass
            .is_some_and(|(start, stop)| !after(start, packet.seq) && !after(end, stop));
        if len == 0 {
            return Step::Decided(Way::Pass);
        }
        if self.passes {
            return Step::Decided(Way::Unread);
        }
        if free {
            self.note_sent(end);
            return Step::Decided(Way::Unread);
        }
        self.compare(packet)
    }

    /// As `requests.rs` begins.
    fn compare(&self, packet: &Packet<'_>) -> Step {
        let kept = self.kept.as_ref();
        let repeated = kept.filter(|(seq, bytes, _)| *seq == packet.seq && packet.payload.starts_with(bytes));
        let compared_to = repeated.map(|(seq, bytes, _)| seq.wrapping_add(bytes.len() as u32));
        if compared_to == Some(packet.end()) {
            return Step::Decided(Way::Pass);
        }
        let is_allowed = self.boundary_valid && self.stands_alone(packet) && self.allows(packet.payload);
        let word = is_allowed.then_some((self.punted_next, self.boundary));
        Step::Reads(Reading::Compared(compared_to, word))
    }

    /// The next step with a packet that is read.
    pub(crate) fn go_on(&mut self, connection: &Connection, packet: &Packet<'_>, reading: Reading) -> Step {
        let end = packet.end();
        match reading {
            Reading::Compared(_, Some(word)) if word == (self.punted_next, self.boundary) => {
                (self.punted_next, self.boundary) = (packet.seq, end);
                self.judged += 1;
                Step::Reads(Reading::Moved)
            }
            Reading::Compared(compared_to, _) => {
                self.note_punted(end);
                Step::Reads(Reading::Noted(compared_to))
            }
            Reading::Moved => {
                self.kept = Some((packet.seq, packet.payload.to_vec(), packet.ack));
                self.bypass = self.bypass.map(|_| (packet.seq, packet.seq));
                self.note_sent(end);
                Step::Decided(Way::Pass)
            }
            Reading::Noted(compared_to) => {
                let mut meta = self.meta(connection, packet.ack);
                meta.frontier = self.frontier(packet);
                meta.compared_to = compared_to;
                if let Some(frontier) = meta.frontier {
                    meta.clean = frontier.seq == self.acked;
                }
                // What does not fit beside what is told is left out.
                Step::Decided(Way::Punt(PuntMeta::decode(&meta.encode()).expect("it was encoded")))
            }
        }
    }

    /// Where the request that was let through last begins, and how long it is.
    pub(crate) fn kept(&self) -> Option<(u32, usize)> {
        self.kept.as_ref().map(|(seq, bytes, _)| (*seq, bytes.len()))
    }

    fn stands_alone(&self, packet: &Packet<'_>) -> bool {
        packet.flags & !PSH == ACK
            && packet.seq == self.boundary
            && self.boundary.wrapping_sub(self.told) < 1 << 30
            && self.acked == self.boundary
            && self.sent_next == self.boundary
            && !after(self.punted_next, self.boundary)
            && !self.punts_replies
    }

    fn allows(&self, payload: &[u8]) -> bool {
        self.table.as_ref().is_some_and(|table| table.judge(payload).is_some())
    }

    fn frontier(&self, packet: &Packet<'_>) -> Option<Frontier> {
        let is_own = self.boundary != self.told;
        let knows = self.boundary_valid && !after(self.sent_next, self.boundary);
        (knows && (is_own || self.boundary == self.acked)).then(|| Frontier {
            seq: self.boundary,
            answered: !is_own || self.kept.as_ref().is_none_or(|(_, _, ack)| *ack != packet.ack),
        })
    }

    /// What goes with a frame that acknowledges `ack`.
    pub(crate) fn meta(&self, connection: &Connection, ack: u32) -> PuntMeta {
        PuntMeta {
            base_seq: Some(self.base),
            acked_seq: Some(self.acked),
            reply_idle: self.reply_next == ack,
            closed: self.closed,
            clean: self.sent_next == self.acked,
            ..connection.meta
        }
    }

    /// A packet of the other side; false if it is dropped.
    pub(crate) fn packet_of_other(&mut self, ack: u32, seq_end: u32) -> bool {
        if self.closed {
            return false;
        }
        if self.passes {
            self.note_sent(ack);
        }
        let ack = if after(ack, self.sent_next) {
            self.sent_next
        } else {
            ack
        };
        if after(ack, self.acked) {
            self.acked = ack;
        }
        if after(seq_end, self.reply_next) {
            self.reply_next = seq_end;
        }
        true
    }

    fn note_punted(&mut self, end: u32) {
        let [noted, new] = [self.punted_next, end].map(|seq| seq.wrapping_sub(self.sent_next) as i32);
        if new > 0 && new > noted {
            self.punted_next = end;
        }
    }

    fn note_sent(&mut self, end: u32) {
        if after(end, self.sent_next) {
            self.sent_next = end;
        }
    }

    fn tell_boundary(&mut self, seq: u32, is_valid: bool) {
        if self.boundary_valid && !after(seq, self.boundary) {
            return;
        }
        if is_valid {
            (self.boundary, self.told) = (seq, seq);
        }
        self.boundary_valid = is_valid;
    }

    /// A frame that the engine gave back; false if it is dropped.
    pub(crate) fn inject(&mut self, sent: &Sent) -> bool {
        if sent.meta.connection != self.connection {
            return false;
        }
        let end = sent.tcp.seq.wrapping_add(sent.payload.len() as u32);
        let goes_on = !sent.meta.reverse && !sent.payload.is_empty();
        if let InjectAction::Bypass { end, boundary, .. } = sent.meta.action {
            self.tell_boundary(end, boundary);
        }
        if goes_on {
            self.note_sent(end);
            self.boundary_valid &= sent.meta.action != InjectAction::Keep || !after(end, self.boundary);
        }
        match sent.meta.replies {
            Replies::Punt | Replies::PuntAndCopy => self.punts_replies = true,
            Replies::Pass => self.punts_replies = false,
            Replies::Keep | Replies::Copy => {}
        }
        match sent.meta.action {
            InjectAction::Keep => {}
            InjectAction::FollowFrames { .. } => {
                let end = sent.tcp.seq.wrapping_add(sent.payload.len() as u32);
                self.punts_replies &= end != self.reply_next;
            }
            InjectAction::Bypass { start, end, .. } => self.bypass = Some((start, end)),
            InjectAction::Forward { .. } => self.passes = true,
            InjectAction::ForwardQuic { .. } => panic!("there is no QUIC in these runs"),
            InjectAction::Close => self.closed = true,
        }
        true
    }
}
