//! The flow table: what the kernel remembers of a connection at one endpoint.

use crate::{Addr, Hook};

/// Who opened the flow, seen from the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// The peer opened it; the endpoint's ingress policy decides.
    Ingress = 1,
    /// The endpoint opened it; its egress policy decides.
    Egress = 2,
}

/// Key of the flow table. "Local" is the endpoint, "peer" the other side, whoever opened the flow; both hooks of an
/// endpoint therefore find the same entry. ICMP echo flows carry the identifier as `local_port` and 0 as `peer_port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// The endpoint's address.
    pub local_addr: Addr,
    /// The other side's address.
    pub peer_addr: Addr,
    /// Host-side interface of the endpoint; keeps one endpoint from touching another's flows with a forged address.
    pub ifindex: u32,
    /// Host byte order.
    pub local_port: u16,
    /// Host byte order.
    pub peer_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// A [`Direction`].
    pub direction: u8,
    /// Zero.
    pub pad: [u8; 2],
}

impl FlowKey {
    /// Of the flow whose opener sends a packet from `source` to `destination`, address and port each, at this hook of the
    /// device `ifindex`.
    #[inline(always)]
    #[must_use]
    pub const fn of_opener(
        hook: Hook,
        ifindex: u32,
        source: (Addr, u16),
        destination: (Addr, u16),
        protocol: u8,
    ) -> Self {
        let (local, peer) = hook.local_and_peer(source, destination);
        Self {
            local_addr: local.0,
            peer_addr: peer.0,
            ifindex,
            local_port: local.1,
            peer_port: peer.1,
            protocol,
            direction: hook.opener_direction() as u8,
            pad: [0; 2],
        }
    }
}

/// What the policy said of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Verdict {
    /// Every packet passes.
    Forward = 1,
    /// Packets with bytes that were not inspected yet go to the engine.
    Inspect = 2,
    /// The engine closed the connection; what still comes is answered by the engine or dropped.
    Closed = 3,
}

/// Bits of [`FlowState::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowFlags;

impl FlowFlags {
    /// The opener's SYN was seen and acknowledged: `base_seq` is valid.
    pub const BASE_VALID: u16 = 1;
    /// The other side has answered.
    pub const REPLIED: u16 = 2;
    /// A RST was seen and nothing after it, or a FIN from both sides.
    pub const CLOSING: u16 = 4;
    /// `bypass` is valid.
    pub const BYPASS_VALID: u16 = 8;
    /// `acked_seq` and `reply_next_seq` are valid.
    pub const REPLY_VALID: u16 = 16;
    /// Data of the side that was opened to goes to the engine, too.
    pub const PUNT_REPLIES: u16 = 32;
    /// A request begins where `request` says.
    pub const BOUNDARY_VALID: u16 = 64;
    /// A request has gone on since `request_ns`; the beginning of its answer is to be copied.
    pub const EXPECT_ANSWER: u16 = 128;
    /// The opener has sent a FIN.
    pub const OPENER_FIN: u16 = 256;
    /// The side that was opened to has sent a FIN.
    pub const OTHER_FIN: u16 = 512;
    /// The flow passes, but the opener's datagrams that begin with a long header of QUIC go to the engine.
    pub const READ_LONG_HEADERS: u16 = 1024;
    /// Bytes of the connection went on unread: it has no known beginning until a SYN with another number begins the next.
    pub const PASSED_UNREAD: u16 = 2048;
    /// The opener's bytes are copied to whoever judges beside the traffic, except what [`CopySkip`] names.
    pub const COPY: u16 = 4096;
    /// Those of the other side, too.
    pub const COPY_REPLIES: u16 = 8192;
    /// The policy in audit would have the flow read.
    pub const AUDIT_INSPECT: u16 = 16_384;
    /// Nothing more of this connection need be copied.
    pub const COPIED: u16 = 32_768;
    /// The bits that a decision sets for copying; replaced when a flow is decided again.
    pub const COPYING: u16 = Self::COPY | Self::COPY_REPLIES | Self::AUDIT_INSPECT;
}

/// Value of the flow table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FlowState {
    /// `bpf_ktime_get_ns` of the last packet in either direction.
    pub last_seen_ns: u64,
    /// [`crate::Endpoint::epoch`] under which the verdict was given.
    pub epoch: u32,
    /// Identity of the peer when the verdict was given.
    pub peer_identity: u32,
    /// Rule set of an inspected flow, 0 otherwise.
    pub rule_set: u32,
    /// Sequence number of the first data byte of the opener (ISN + 1), once the other side has acknowledged its SYN.
    pub base_seq: u32,
    /// Opener's sequence numbers that need no inspection, see [`FlowState::pack_bypass`]. One word, so that a reader on
    /// another CPU never sees the start of one range with the end of another.
    pub bypass: u64,
    /// Highest acknowledgement by the side that was opened to, of bytes that were let through: what it has received for
    /// good.
    pub acked_seq: u32,
    /// One past the highest sequence number that side has sent.
    pub reply_next_seq: u32,
    /// Destination MAC of the opener's frames at the endpoint's device.
    pub mac_destination: [u8; 6],
    /// Source MAC of the opener's frames at the endpoint's device.
    pub mac_source: [u8; 6],
    /// A [`Verdict`].
    pub verdict: u8,
    /// 1 once the flow was decided by a name under which the endpoint knew the peer, else 0. Only such a flow may go on
    /// by names whose time is over.
    pub by_name: u8,
    /// [`FlowFlags`].
    pub flags: u16,
    /// ISN + 1 of the opener's last SYN; becomes `base_seq` when the other side acknowledges exactly this, so that a
    /// SYN thrown into a live connection moves nothing.
    pub pending_base_seq: u32,
    /// One past the highest sequence number of the opener that was let through. What lies beyond cannot have been
    /// received, whatever the other side acknowledges.
    pub sent_next_seq: u32,
    /// `bpf_ktime_get_ns` when the last request went on.
    pub request_ns: u64,
    /// Where the frame of HTTP/2 ends in which the bytes of the side that was opened to stand, and its next one begins;
    /// a sequence number. Valid unless `frames` is [`Frames::None`].
    pub frame_end: u32,
    /// A [`Frames`].
    pub frames: u8,
    /// Bytes of the next frame's header that came so far, and are kept in `walk`: 0 to 8.
    pub header_held: u8,
    /// Pieces of answers' header blocks that were copied or lost so far.
    pub pieces: u16,
    /// The first bytes of a frame's header of which the others are still to come; while a frame is copied
    /// ([`Frames::Copied`]), in the first four, the sequence number of its next byte.
    pub walk: [u8; 8],
    /// Where a request of the opener begins, and how far its bytes went to the engine, see [`FlowState::pack_request`]. One
    /// word, so that of several CPUs that look at once only one lets the same bytes pass, or none does while the engine has
    /// them.
    pub request: u64,
    /// Where a request begins that the engine said last.
    pub told_seq: u32,
    /// First byte of the last request that the kernel let pass by itself.
    pub kept_seq: u32,
    /// Bytes of that request, [`crate::REQUEST_LEN_MAX`] at most; 0 if there is none.
    pub kept_len: u16,
    /// Which of the connections that had this key one after the other it is, see [`crate::ConnectionNumber`].
    pub connection: u16,
    /// What the opener had acknowledged with it.
    pub kept_ack: u32,
    /// Hash of its bytes: what comes again in their place must be equal.
    pub kept_hash: u64,
}

impl FlowState {
    /// A request begins at `boundary`, and the opener's bytes before `punted_next` went to the engine, those that needed it.
    /// The boundary is the lower half, which the engine's word changes alone.
    #[inline(always)]
    #[must_use]
    pub const fn pack_request(punted_next: u32, boundary: u32) -> u64 {
        (punted_next as u64) << 32 | boundary as u64
    }

    /// `(punted_next, boundary)` of [`FlowState::request`].
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the word")]
    pub const fn unpack_request(request: u64) -> (u32, u32) {
        ((request >> 32) as u32, request as u32)
    }

    /// A request begins at this sequence number, the first of a connection.
    #[inline(always)]
    pub const fn begin_requests(&mut self, seq: u32) {
        self.request = Self::pack_request(seq, seq);
        self.told_seq = seq;
        self.kept_len = 0;
    }

    /// Sequence numbers `start..end` as the one word of [`FlowState::bypass`].
    #[inline(always)]
    #[must_use]
    pub const fn pack_bypass(start: u32, end: u32) -> u64 {
        (start as u64) << 32 | end as u64
    }

    /// `(start, end)` of [`FlowState::bypass`].
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the word")]
    pub const fn unpack_bypass(bypass: u64) -> (u32, u32) {
        ((bypass >> 32) as u32, bypass as u32)
    }

    /// Sets bits of `flags`. They are written only if one of them is new: several CPUs read the word and write it back, and
    /// who writes nothing undoes nothing of what another writes.
    #[inline(always)]
    pub const fn raise(&mut self, bits: u16) {
        if self.flags & bits != bits {
            self.flags |= bits;
        }
    }

    /// Number of the opener's first byte, if it is known.
    #[inline(always)]
    #[must_use]
    pub const fn known_base_seq(&self) -> Option<u32> {
        if self.flags & FlowFlags::BASE_VALID != 0 {
            Some(self.base_seq)
        } else {
            None
        }
    }

    /// The highest acknowledgement of the other side, if it is known.
    #[inline(always)]
    #[must_use]
    pub const fn known_acked_seq(&self) -> Option<u32> {
        if self.flags & FlowFlags::REPLY_VALID != 0 {
            Some(self.acked_seq)
        } else {
            None
        }
    }

    /// Sequence number up to which frames were walked over, or need not be. Valid unless `frames` is [`Frames::None`].
    #[inline(always)]
    #[must_use]
    pub const fn walked_to(&self) -> u32 {
        if self.frames == Frames::Copied as u8 {
            let [a, b, c, d, ..] = self.walk;
            u32::from_ne_bytes([a, b, c, d])
        } else {
            self.frame_end.wrapping_add(self.header_held as u32)
        }
    }

    /// The flow passes, and what its opener asks is judged beside the traffic.
    #[inline(always)]
    #[must_use]
    pub const fn is_judged_beside(&self) -> bool {
        self.verdict == Verdict::Forward as u8 && self.flags & (FlowFlags::COPY | FlowFlags::COPIED) == FlowFlags::COPY
    }

    /// The frame's bytes from this sequence number on are still to be copied.
    #[inline(always)]
    pub const fn copy_from(&mut self, next: u32) {
        let [a, b, c, d] = next.to_ne_bytes();
        self.walk = [a, b, c, d, 0, 0, 0, 0];
    }
}

/// Bytes of an answer that are copied: `HTTP/1.1 200 OK\r`. No answer of HTTP/1 is shorter.
pub const ANSWER_HEAD_LEN: usize = 16;

/// The beginning of the first answer to a request that went on: a record of the answers' ring buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Answer {
    /// `bpf_ktime_get_ns`.
    pub time_ns: u64,
    /// From the request's last byte leaving the engine to the answer's first.
    pub latency_ns: u64,
    /// Whose.
    pub key: FlowKey,
    /// 1 if the request passed, and is judged beside the traffic; 0 if the engine let it pass.
    pub beside: u8,
    /// Zero.
    pub pad: [u8; 3],
    /// Its first bytes.
    pub head: [u8; ANSWER_HEAD_LEN],
}

/// What is known of the frames of HTTP/2 that the side sends that was opened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Frames {
    /// There are none, or it is not known where they begin.
    None = 0,
    /// It has sent nothing yet. If it speaks HTTP/2, SETTINGS come first (RFC 9113 section 3.4).
    First = 1,
    /// The present frame is not copied.
    Skipped = 2,
    /// The rest of the present frame, of which there is one, is copied.
    Copied = 3,
}

/// Bytes of a frame that one record holds at most.
pub const PIECE_LEN_MAX: usize = 1024;

/// A part of a header block of HTTP/2 that the side sends that was opened to: a record of the ring buffer of pieces,
/// followed by `len` bytes. Frame headers are not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct AnswerPiece {
    /// `bpf_ktime_get_ns`.
    pub time_ns: u64,
    /// Whose.
    pub key: FlowKey,
    /// Stream of a frame that begins here.
    pub stream: u32,
    /// Bytes of that frame's payload in all.
    pub frame_len: u32,
    /// [`FlowState::base_seq`]: tells the connections apart that have the same key.
    pub base_seq: u32,
    /// Counts the pieces of a connection from 0 on, and wraps: a number that is missing was lost.
    pub number: u16,
    /// Bytes in this record.
    pub len: u16,
    /// Type of the frame that begins here (RFC 9113 section 6), 0 if it goes on from the piece before.
    pub kind: u8,
    /// Flags of that frame.
    pub frame_flags: u8,
    /// As [`Answer::beside`].
    pub beside: u8,
    /// Zero.
    pub pad: u8,
}

/// Bytes of a frame that a record of the ring of copies has room for: the smallest that does is taken. Of a frame that is
/// longer than the last only the beginning is copied; no super-packet of TCP is, unless somebody allows larger ones.
pub const COPY_ROOMS: [usize; 4] = [440, 1976, 16_312, 65_592];

/// Head of a record of the ring of copies; the frame follows, with [`crate::PuntMeta`] in the place of its MAC addresses.
/// Its checksums may be incomplete, and its IP length may be more than what was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CopyHeader {
    /// `bpf_ktime_get_ns`.
    pub time_ns: u64,
    /// Flow of the frame.
    pub key: FlowKey,
    /// [`FlowState::epoch`].
    pub epoch: u32,
    /// [`FlowState::base_seq`], valid or not: tells a connection from an older one under the same key.
    pub base_seq: u32,
    /// Length of the whole frame.
    pub length: u32,
    /// TCP sequence number of its first byte of payload, else 0.
    pub sequence: u32,
    /// Bytes of the frame that are there. What the record has behind them means nothing.
    pub captured: u32,
}

/// Value of the table of what need not be copied, by [`FlowKey`]. Written by user space; it counts for the connection and
/// the epoch that it names only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CopySkip {
    /// [`FlowState::epoch`].
    pub epoch: u32,
    /// [`FlowState::base_seq`].
    pub base_seq: u32,
    /// Opener's sequence numbers from here on,
    pub start: u32,
    /// to before this one, need no copy.
    pub end: u32,
    /// [`CopySkip::ALL`] or 0.
    pub flags: u32,
}

impl CopySkip {
    /// Nothing of the flow is needed any more.
    pub const ALL: u32 = 1;
}

/// Key of the table of fragmented datagrams whose first fragment was allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FragmentKey {
    /// IP source.
    pub source: Addr,
    /// IP destination.
    pub destination: Addr,
    /// Host-side interface of the endpoint.
    pub ifindex: u32,
    /// IPv4 or IPv6 fragment identification.
    pub id: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// A [`crate::Hook`].
    pub hook: u8,
    /// Zero.
    pub pad: [u8; 2],
}

const _: () = assert!(size_of::<FlowKey>() == 44);
const _: () = assert!(size_of::<FlowState>() == 120);
const _: () = assert!(size_of::<FragmentKey>() == 44);
const _: () = assert!(size_of::<AnswerPiece>() == 72);
const _: () = assert!(size_of::<CopyHeader>() == 72);
const _: () = assert!(size_of::<CopySkip>() == 20);
const _: () = assert!(size_of::<Answer>() == 64 + ANSWER_HEAD_LEN);

#[cfg(test)]
mod tests {
    use super::{Direction, FlowKey};
    use crate::{Hook, PROTOCOL_TCP, mapped_v4};

    #[test]
    fn a_flow_is_seen_from_its_endpoint_whoever_opened_it() {
        let (own, other) = ((mapped_v4([10, 0, 0, 1]), 40_000), (mapped_v4([10, 0, 0, 2]), 80));
        let opened = FlowKey {
            local_addr: own.0,
            peer_addr: other.0,
            ifindex: 7,
            local_port: own.1,
            peer_port: other.1,
            protocol: PROTOCOL_TCP,
            direction: Direction::Egress as u8,
            pad: [0; 2],
        };
        assert_eq!(
            FlowKey::of_opener(Hook::FromEndpoint, 7, own, other, PROTOCOL_TCP),
            opened
        );
        let accepted = FlowKey {
            direction: Direction::Ingress as u8,
            ..opened
        };
        assert_eq!(
            FlowKey::of_opener(Hook::ToEndpoint, 7, other, own, PROTOCOL_TCP),
            accepted
        );
    }
}
