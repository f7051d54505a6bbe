//! The twelve bytes that ride in place of the MAC addresses between the kernel and the engine. On the way to the engine
//! [`crate::PuntedType`] follows.
//!
//! Both ways: byte 0 is a locally administered unicast address byte (bit 1 set, bit 0 clear) whose other six bits are
//! flags, bytes 1–3 are the interface index of the endpoint (and two more flags), the last eight depend on the way.

use crate::{ConnectionNumber, Direction};

/// At which hook of an endpoint's device the frame was taken or is put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Hook {
    /// TC ingress of the host-side device: the endpoint sent it.
    FromEndpoint = 0,
    /// TC egress of the host-side device: it goes to the endpoint.
    ToEndpoint = 1,
}

impl Hook {
    /// The other one of the same device, where what answers passes.
    #[inline(always)]
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::FromEndpoint => Self::ToEndpoint,
            Self::ToEndpoint => Self::FromEndpoint,
        }
    }

    /// Direction of the flows that the sender of a packet at this hook opens.
    #[inline(always)]
    #[must_use]
    pub const fn opener_direction(self) -> Direction {
        match self {
            Self::FromEndpoint => Direction::Egress,
            Self::ToEndpoint => Direction::Ingress,
        }
    }

    /// What is said of a packet's source and of its destination at this hook, as what is said of the endpoint and of its peer.
    #[inline(always)]
    #[must_use]
    pub const fn local_and_peer<T: Copy>(self, source: T, destination: T) -> (T, T) {
        match self {
            Self::FromEndpoint => (source, destination),
            Self::ToEndpoint => (destination, source),
        }
    }
}

const MAGIC: u8 = 0b10;
const MAGIC_MASK: u8 = 0b11;
/// Highest index of an interface of which frames can go to the engine: four million devices made since the node started.
pub const PUNT_IFINDEX_MAX: u32 = 0x003f_ffff;
/// Highest bit of the three bytes of the interface index, and the next one.
const CLEAN: u32 = 0x0080_0000;
const COMPARED: u32 = 0x0040_0000;

/// Kernel → engine: what the engine cannot see in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PuntMeta {
    /// Where the frame was taken.
    pub hook: Hook,
    /// Host-side interface of the endpoint, at most [`PUNT_IFINDEX_MAX`].
    pub ifindex: u32,
    /// First data sequence number of the opener, if its SYN was seen.
    pub base_seq: Option<u32>,
    /// Highest acknowledgement of the side that was opened to, if any was seen.
    pub acked_seq: Option<u32>,
    /// The frame acknowledges everything that side has sent: no reply byte is under way.
    pub reply_idle: bool,
    /// The flow is already [`crate::Verdict::Closed`].
    pub closed: bool,
    /// The frame is of the side that was opened to; it goes on with [`InjectMeta::reverse`] at the opener's hook.
    pub reply: bool,
    /// Where a request begins of which nothing was let through yet. Then `acked_seq` is known only if it is this.
    pub frontier: Option<Frontier>,
    /// The frame's bytes before this one are those of the request that the kernel let through last. Beside a frontier, it is
    /// that; alone, `base_seq` is known, and `acked_seq` is not told.
    pub compared_to: Option<u32>,
    /// Whatever was let through of the opener's bytes has been acknowledged.
    pub clean: bool,
}

/// A place in the opener's stream at which an engine may begin that knows nothing of what came before: it was all let through,
/// by another engine or by the kernel itself, and nothing from there on was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontier {
    /// Sequence number of the request's first byte.
    pub seq: u32,
    /// The request before it has been answered, as far as the frame's acknowledgement tells.
    pub answered: bool,
}

impl PuntMeta {
    const HOOK: u8 = 1 << 2;
    const BASE: u8 = 1 << 3;
    const ACKED: u8 = 1 << 4;
    const IDLE: u8 = 1 << 5;
    const CLOSED: u8 = 1 << 6;
    const REPLY: u8 = 1 << 7;

    /// The twelve bytes.
    #[inline(always)]
    #[must_use]
    pub const fn encode(&self) -> [u8; 12] {
        let mut first = MAGIC;
        if matches!(self.hook, Hook::ToEndpoint) {
            first |= Self::HOOK;
        }
        let mut base = 0;
        if let Some(seq) = self.base_seq {
            first |= Self::BASE;
            base = seq;
        }
        let mut acked = 0;
        if let Some(seq) = self.acked_seq {
            first |= Self::ACKED;
            acked = seq;
        }
        if self.reply_idle {
            first |= Self::IDLE;
        }
        if self.closed {
            first |= Self::CLOSED;
        }
        if self.reply {
            first |= Self::REPLY;
        }
        // Answers of closed connections are never punted, so the two bits together are free; and the first byte of the
        // connection is always known then, so that the two bits that say so are.
        if let Some(frontier) = self.frontier {
            first = first & !(Self::BASE | Self::ACKED) | Self::CLOSED | Self::REPLY;
            if let Some(compared_to) = self.compared_to
                && compared_to == frontier.seq
            {
                first |= Self::BASE;
            }
            if frontier.answered {
                first |= Self::ACKED;
            }
            acked = frontier.seq;
        }
        let mut flags = if self.clean { CLEAN } else { 0 };
        if let (Some(compared_to), Some(_), None) = (self.compared_to, self.base_seq, self.frontier) {
            first = first & !(Self::BASE | Self::ACKED) | Self::CLOSED | Self::REPLY;
            flags |= COMPARED;
            acked = compared_to;
        }
        pack(first, self.ifindex & PUNT_IFINDEX_MAX | flags, base, acked)
    }

    /// Reads the twelve bytes; `None` if they are not a punt header.
    #[inline(always)]
    #[must_use]
    pub const fn decode(bytes: &[u8; 12]) -> Option<Self> {
        let Some((first, ifindex, base, acked)) = unpack(bytes) else {
            return None;
        };
        let clean = ifindex & CLEAN != 0;
        // In place of what is acknowledged, the second word is another place.
        let is_other = first & (Self::CLOSED | Self::REPLY) == Self::CLOSED | Self::REPLY;
        let has_frontier = is_other && ifindex & COMPARED == 0;
        let frontier = if has_frontier {
            Some(Frontier {
                seq: acked,
                answered: first & Self::ACKED != 0,
            })
        } else {
            None
        };
        let is_compared = is_other && (!has_frontier || first & Self::BASE != 0);
        Some(Self {
            hook: if first & Self::HOOK != 0 {
                Hook::ToEndpoint
            } else {
                Hook::FromEndpoint
            },
            ifindex: ifindex & PUNT_IFINDEX_MAX,
            base_seq: if is_other || first & Self::BASE != 0 {
                Some(base)
            } else {
                None
            },
            acked_seq: if has_frontier && clean || !is_other && first & Self::ACKED != 0 {
                Some(acked)
            } else {
                None
            },
            reply_idle: first & Self::IDLE != 0,
            closed: first & Self::CLOSED != 0 && !is_other,
            reply: first & Self::REPLY != 0 && !is_other,
            frontier,
            compared_to: if is_compared { Some(acked) } else { None },
            clean,
        })
    }
}

/// What the kernel changes in the flow entry when it puts a frame back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InjectAction {
    /// Nothing.
    Keep,
    /// Bytes in `start..end` (sequence numbers of the opener, less than 2^31 of them) need no inspection.
    Bypass {
        /// First sequence number.
        start: u32,
        /// One past the last.
        end: u32,
        /// A request begins at `end`.
        boundary: bool,
    },
    /// Every further packet passes in the kernel while the endpoint's epoch is `epoch`.
    Forward {
        /// [`crate::Endpoint::epoch`] under which the engine decided.
        epoch: u32,
    },
    /// As [`InjectAction::Forward`], but the opener's datagrams that begin with a long header of QUIC (RFC 9000 §17.2)
    /// still come to the engine: another connection may begin with one.
    ForwardQuic {
        /// [`crate::Endpoint::epoch`] under which the engine decided.
        epoch: u32,
    },
    /// The connection is denied: replies are dropped, the opener's data and FIN come to the engine.
    Close,
    /// The frame is of the side that was opened to, and goes on: what that side sends are frames of HTTP/2 from `start`
    /// on, which the kernel follows. Its data goes to the engine until all of it that went there has come back: what
    /// passes in the kernel must not overtake it.
    FollowFrames {
        /// Sequence number of the first frame.
        start: u32,
    },
}

/// What becomes of the data that the side sends that was opened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Replies {
    /// As before.
    Keep = 0,
    /// It goes to the engine from now on.
    Punt = 1,
    /// It passes in the kernel from now on.
    Pass = 2,
    /// The beginning of the next is copied; none is held. Otherwise as before.
    Copy = 3,
    /// It goes to the engine from now on, and the beginning of the next is copied, too.
    PuntAndCopy = 4,
}

/// Engine → kernel: where a frame goes and what to remember.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InjectMeta {
    /// Hook at which the flow is inspected; the frame continues from there.
    pub hook: Hook,
    /// Host-side interface of the endpoint, at most [`PUNT_IFINDEX_MAX`].
    pub ifindex: u32,
    /// The frame goes back to the opener instead of on to the other side.
    pub reverse: bool,
    /// The connection that this is about: [`crate::PuntedType::connection`] of the frame that was decided. The frame is dropped
    /// if the flow is another's by now.
    pub connection: u16,
    /// Change of the flow entry.
    pub action: InjectAction,
    /// Another change of the flow entry.
    pub replies: Replies,
}

impl InjectMeta {
    const HOOK: u8 = 1 << 2;
    const REVERSE: u8 = 1 << 3;
    const ACTION_SHIFT: u32 = 4;
    const REPLIES_SHIFT: u32 = 6;
    const REPLIES_MASK: u8 = 0b11;
    /// Highest bit of the three bytes of the interface index: the third bit of `replies`.
    const REPLIES_HIGH: u32 = 0x0080_0000;
    const BOUNDARY: u32 = 1 << 31;
    const NUMBER_BITS: u32 = ConnectionNumber::BITS;
    /// Of the connection's number in a word.
    const NUMBER: u32 = (1 << Self::NUMBER_BITS) - 1;
    /// Beside that number: the second of two actions that share their bits.
    const SECOND: u32 = 1 << Self::NUMBER_BITS;
    /// How far before the end of the frame's payload a range that is told begins at most; longer ones begin later than they
    /// could. No frame is so long.
    pub const BYPASS_BEFORE_MAX: u32 = (1 << (u32::BITS - Self::NUMBER_BITS)) - 1;

    /// The twelve bytes of a frame whose payload ends before `payload_end`, a sequence number; 0 if it has none. Ranges are
    /// told by their distance from there. One that does not begin there or before cannot be told: none is, and no boundary.
    #[inline(always)]
    #[must_use]
    pub const fn encode(&self, payload_end: u32) -> [u8; 12] {
        let number = self.connection as u32 & Self::NUMBER;
        let (action, first_word, second_word) = match self.action {
            InjectAction::Keep => (0, 0, number),
            InjectAction::FollowFrames { start } => (0, start, number | Self::SECOND),
            InjectAction::Bypass { start, end, boundary } => match Self::relative(start, end, payload_end) {
                Some((before, len)) => {
                    let boundary = if boundary { Self::BOUNDARY } else { 0 };
                    (1, before << Self::NUMBER_BITS | number, len | boundary)
                }
                None => (1, number, 0),
            },
            InjectAction::Forward { epoch } => (2, epoch, number),
            InjectAction::ForwardQuic { epoch } => (2, epoch, number | Self::SECOND),
            InjectAction::Close => (3, 0, number),
        };
        let replies = self.replies as u8;
        let mut first = MAGIC | action << Self::ACTION_SHIFT | (replies & Self::REPLIES_MASK) << Self::REPLIES_SHIFT;
        if matches!(self.hook, Hook::ToEndpoint) {
            first |= Self::HOOK;
        }
        if self.reverse {
            first |= Self::REVERSE;
        }
        let high = if replies > Self::REPLIES_MASK {
            Self::REPLIES_HIGH
        } else {
            0
        };
        pack(first, self.ifindex & PUNT_IFINDEX_MAX | high, first_word, second_word)
    }

    /// How far before the payload's end a range begins, and its length, of as much of it as can be told.
    const fn relative(start: u32, end: u32, payload_end: u32) -> Option<(u32, u32)> {
        let (before, len) = (payload_end.wrapping_sub(start), end.wrapping_sub(start));
        if len >= Self::BOUNDARY || before >= Self::BOUNDARY {
            return None;
        }
        let too_far = before.saturating_sub(Self::BYPASS_BEFORE_MAX);
        if too_far > len {
            return None;
        }
        Some((before - too_far, len - too_far))
    }

    /// Reads the twelve bytes; `None` if they are not a punt header. `payload_end` as in [`InjectMeta::encode`].
    #[inline(always)]
    #[must_use]
    pub const fn decode(bytes: &[u8; 12], payload_end: u32) -> Option<Self> {
        let Some((first, ifindex, first_word, second_word)) = unpack(bytes) else {
            return None;
        };
        let is_second = second_word & Self::SECOND != 0;
        let mut number = second_word;
        let action = match first >> Self::ACTION_SHIFT & 0b11 {
            0 if is_second => InjectAction::FollowFrames { start: first_word },
            0 => InjectAction::Keep,
            1 => {
                number = first_word;
                let start = payload_end.wrapping_sub(first_word >> Self::NUMBER_BITS);
                InjectAction::Bypass {
                    start,
                    end: start.wrapping_add(second_word & !Self::BOUNDARY),
                    boundary: second_word & Self::BOUNDARY != 0,
                }
            }
            2 if is_second => InjectAction::ForwardQuic { epoch: first_word },
            2 => InjectAction::Forward { epoch: first_word },
            _ => InjectAction::Close,
        };
        let replies = match (ifindex & Self::REPLIES_HIGH, first >> Self::REPLIES_SHIFT) {
            (0, 0) => Replies::Keep,
            (0, 1) => Replies::Punt,
            (0, 2) => Replies::Pass,
            (0, _) => Replies::Copy,
            _ => Replies::PuntAndCopy,
        };
        Some(Self {
            hook: if first & Self::HOOK != 0 {
                Hook::ToEndpoint
            } else {
                Hook::FromEndpoint
            },
            ifindex: ifindex & PUNT_IFINDEX_MAX,
            reverse: first & Self::REVERSE != 0,
            connection: (number & Self::NUMBER) as u16,
            action,
            replies,
        })
    }
}

#[inline(always)]
const fn pack(first: u8, ifindex: u32, a: u32, b: u32) -> [u8; 12] {
    let i = ifindex.to_be_bytes();
    let a = a.to_be_bytes();
    let b = b.to_be_bytes();
    [first, i[1], i[2], i[3], a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]]
}

#[inline(always)]
const fn unpack(m: &[u8; 12]) -> Option<(u8, u32, u32, u32)> {
    if m[0] & MAGIC_MASK != MAGIC {
        return None;
    }
    Some((
        m[0],
        u32::from_be_bytes([0, m[1], m[2], m[3]]),
        u32::from_be_bytes([m[4], m[5], m[6], m[7]]),
        u32::from_be_bytes([m[8], m[9], m[10], m[11]]),
    ))
}

#[cfg(test)]
mod tests {
    use super::{Frontier, Hook, InjectAction, InjectMeta, PUNT_IFINDEX_MAX, PuntMeta, Replies};

    #[test]
    fn punt_meta_survives_the_wire() {
        for hook in [Hook::FromEndpoint, Hook::ToEndpoint] {
            for base_seq in [None, Some(0), Some(u32::MAX)] {
                for acked_seq in [None, Some(7)] {
                    for (reply_idle, closed, reply) in
                        [(false, false, true), (true, false, false), (false, true, false)]
                    {
                        let meta = PuntMeta {
                            hook,
                            ifindex: 0x002b_cdef,
                            base_seq,
                            acked_seq,
                            reply_idle,
                            closed,
                            reply,
                            frontier: None,
                            compared_to: None,
                            clean: closed,
                        };
                        assert_eq!(PuntMeta::decode(&meta.encode()), Some(meta));
                    }
                }
            }
        }
    }

    #[test]
    fn a_frontier_survives_the_wire() {
        for seq in [0, 77, u32::MAX] {
            for bits in 0..16 {
                let bit = |n: u32| bits >> n & 1 == 1;
                let meta = PuntMeta {
                    hook: Hook::ToEndpoint,
                    ifindex: 3,
                    base_seq: Some(seq / 2),
                    acked_seq: bit(0).then_some(seq),
                    reply_idle: bit(1),
                    closed: false,
                    reply: false,
                    frontier: Some(Frontier { seq, answered: bit(3) }),
                    compared_to: bit(2).then_some(seq),
                    clean: bit(0),
                };
                assert_eq!(PuntMeta::decode(&meta.encode()), Some(meta));
            }
        }
    }

    #[test]
    fn where_the_kernel_has_compared_to_survives_the_wire_without_a_frontier() {
        for (compared_to, reply_idle, clean) in [(0, true, false), (77, false, true), (u32::MAX, true, true)] {
            let meta = PuntMeta {
                hook: Hook::FromEndpoint,
                ifindex: PUNT_IFINDEX_MAX,
                base_seq: Some(5),
                acked_seq: None,
                reply_idle,
                closed: false,
                reply: false,
                frontier: None,
                compared_to: Some(compared_to),
                clean,
            };
            assert_eq!(PuntMeta::decode(&meta.encode()), Some(meta));
            let acknowledged = PuntMeta {
                acked_seq: Some(3),
                ..meta
            };
            assert_eq!(PuntMeta::decode(&acknowledged.encode()), Some(meta), "one of the two");
            let unknown = PuntMeta { base_seq: None, ..meta };
            let without = PuntMeta {
                compared_to: None,
                ..unknown
            };
            assert_eq!(PuntMeta::decode(&unknown.encode()), Some(without));
        }
    }

    /// End of the payload of the frames below.
    const END: u32 = 1000;

    fn inject(action: InjectAction) -> InjectMeta {
        InjectMeta {
            hook: Hook::ToEndpoint,
            ifindex: PUNT_IFINDEX_MAX,
            reverse: false,
            connection: 0x1fff,
            action,
            replies: Replies::Keep,
        }
    }

    #[test]
    fn inject_meta_survives_the_wire() {
        let bypass = |start: u32, len: u32, boundary| InjectAction::Bypass {
            start,
            end: start.wrapping_add(len),
            boundary,
        };
        let actions = [
            InjectAction::Keep,
            bypass(END, (1 << 31) - 1, true),
            bypass(END, 0, false),
            bypass(END - 1000, 3, true),
            bypass(END.wrapping_sub(InjectMeta::BYPASS_BEFORE_MAX), 1 << 30, false),
            InjectAction::Forward { epoch: 9 },
            InjectAction::ForwardQuic { epoch: u32::MAX },
            InjectAction::Close,
            InjectAction::FollowFrames { start: 0 },
            InjectAction::FollowFrames { start: u32::MAX },
        ];
        let replies = [
            Replies::Keep,
            Replies::Punt,
            Replies::Pass,
            Replies::Copy,
            Replies::PuntAndCopy,
        ];
        for (number, action) in (0..).zip(actions) {
            for replies in replies {
                for reverse in [false, true] {
                    for (hook, connection) in [(Hook::FromEndpoint, 0x1fff), (Hook::ToEndpoint, number)] {
                        let meta = InjectMeta {
                            hook,
                            reverse,
                            connection,
                            replies,
                            ..inject(action)
                        };
                        assert_eq!(InjectMeta::decode(&meta.encode(END), END), Some(meta));
                    }
                }
            }
        }
    }

    #[test]
    fn of_a_free_range_that_cannot_be_told_nothing_is_told_that_does_not_lie_in_it() {
        let told = |start: u32, len: u32| {
            let end = start.wrapping_add(len);
            let meta = inject(InjectAction::Bypass {
                start,
                end,
                boundary: true,
            });
            let Some(InjectMeta {
                action: InjectAction::Bypass { start, end, boundary },
                connection: 0x1fff,
                ..
            }) = InjectMeta::decode(&meta.encode(END), END)
            else {
                panic!("{meta:?}")
            };
            (start, end.wrapping_sub(start), boundary)
        };
        let before = InjectMeta::BYPASS_BEFORE_MAX;
        let far = END.wrapping_sub(before + 5);
        assert_eq!(told(far, before + 100), (far + 5, before + 95, true), "its end stays");
        assert_eq!(told(far, 5), (far + 5, 0, true));
        let nothing = (END, 0, false);
        assert_eq!(told(far, 4), nothing, "it ends long before the frame");
        assert_eq!(told(END + 1, 100), nothing, "it begins behind the frame");
        assert_eq!(told(END, 1 << 31), nothing, "nobody can say where it ends");
    }

    #[test]
    fn a_frame_with_ordinary_mac_addresses_is_refused() {
        assert_eq!(PuntMeta::decode(&[0xff; 12]), None);
        assert_eq!(InjectMeta::decode(&[0x00; 12], 0), None);
    }
}
