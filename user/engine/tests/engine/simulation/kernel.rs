//! The kernel's part for one connection, as `kern/prog` does it.

use crate::wire::Sent;
use crate::world::Connection;
use seventh_abi::{InjectAction, PuntMeta, Replies};

fn after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

/// What the flow entry holds.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) base: u32,
    pub(crate) acked: u32,
    sent_next: u32,
    pub(crate) reply_next: u32,
    pub(crate) bypass: Option<(u32, u32)>,
    pub(crate) closed: bool,
    /// Everything of the opener passes.
    pub(crate) passes: bool,
    /// Data of the other side goes to the engine.
    pub(crate) punts_replies: bool,
}

/// What becomes of a packet of the opener.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Pass,
    Punt(PuntMeta),
    Drop,
}

impl Kernel {
    pub(crate) fn new(base: u32, reply_base: u32) -> Self {
        Self {
            base,
            acked: base,
            sent_next: base,
            reply_next: reply_base,
            bypass: None,
            closed: false,
            passes: false,
            punts_replies: false,
        }
    }

    pub(crate) fn packet_of_opener(
        &mut self,
        connection: &Connection,
        seq: u32,
        ack: u32,
        len: usize,
        fin: bool,
        urgent: bool,
    ) -> Way {
        let meta = self.meta(connection, ack);
        if self.closed {
            return if len > 0 || fin { Way::Punt(meta) } else { Way::Drop };
        }
        if urgent && !self.passes {
            return Way::Drop;
        }
        let end = seq.wrapping_add(len as u32);
        // A range that was given free.
        let free = self
            .bypass
            .is_some_and(|(start, stop)| !after(start, seq) && !after(end, stop));
        if len == 0 || self.passes {
            Way::Pass
        } else if free {
            self.note_sent(end);
            Way::Pass
        } else {
            Way::Punt(meta)
        }
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

    fn note_sent(&mut self, end: u32) {
        if after(end, self.sent_next) {
            self.sent_next = end;
        }
    }

    /// A frame that the engine gave back.
    pub(crate) fn inject(&mut self, sent: &Sent) {
        if !sent.meta.reverse && !sent.payload.is_empty() {
            self.note_sent(sent.tcp.seq.wrapping_add(sent.payload.len() as u32));
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
    }
}
