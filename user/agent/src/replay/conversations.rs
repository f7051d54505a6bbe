//! Who opened which connection: what the kernel's flow table is for live traffic.

use std::collections::hash_map::Entry;

use ahash::AHashMap as HashMap;
use seventh_parsers::packet::{Frame, Tcp, TcpFlags, Transport};

/// Conversations that all shards know at most; those not met for longest give way.
const CONVERSATIONS_MAX: usize = 1 << 18;
const DNS_PORT: u16 = 53;
/// Ports below it are servers', mostly.
const SERVER_PORTS: u16 = 1024;

/// Two ends and what they speak, the lower end first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    low: ([u8; 16], u16),
    high: ([u8; 16], u16),
    protocol: u8,
}

/// What is known of a conversation.
#[derive(Clone, Debug)]
pub(crate) struct Conversation {
    opener_is_low: bool,
    /// The opener is not certain: no SYN and no payload so far.
    guessed: bool,
    /// Number of the opener's first byte.
    pub(crate) base_seq: Option<u32>,
    /// The highest acknowledgement of the other side.
    pub(crate) acked_seq: Option<u32>,
    /// At which endpoint's hooks it is looked at: what it opens, what is opened to it.
    pub(crate) at: [Place; 2],
    /// Nothing was looked up yet.
    pub(crate) is_new: bool,
}

/// What becomes of a conversation at one hook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Place {
    /// There is no endpoint.
    #[default]
    None,
    /// The engine reads it, at this interface.
    Engine(u32),
    /// Nothing more is to be said.
    Done,
}

/// The side that sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    Opener,
    Other,
}

/// Bounded table of conversations, in two generations: when the younger is full, the older is forgotten.
#[derive(Debug)]
pub(crate) struct Conversations {
    young: HashMap<Key, Conversation>,
    old: HashMap<Key, Conversation>,
    /// Of one generation at most.
    generation_max: usize,
    /// Ever begun.
    pub(crate) count: u64,
}

impl Conversations {
    /// The empty table of one of so many shards.
    pub(crate) fn one_of(shards: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            generation_max: CONVERSATIONS_MAX / 2 / shards,
            count: 0,
        }
    }

    /// The conversation that a packet belongs to, and who of it sent the packet.
    pub(crate) fn meet(&mut self, frame: &Frame<'_>) -> (&mut Conversation, Sender) {
        let transport = frame.transport();
        let (source_port, destination_port) = transport.ports();
        let (source, destination) = ((frame.source(), source_port), (frame.destination(), destination_port));
        let from_low = source <= destination;
        let key = Key {
            low: if from_low { source } else { destination },
            high: if from_low { destination } else { source },
            protocol: transport.protocol(),
        };
        if self.young.len() >= self.generation_max && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        let count = &mut self.count;
        let conversation = match self.young.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(self.old.remove(&key).unwrap_or_else(|| {
                *count += 1;
                Conversation::new(frame, from_low)
            })),
        };
        if conversation.note(frame, from_low) {
            *count += 1;
        }
        let sender = if conversation.opener_is_low == from_low {
            Sender::Opener
        } else {
            Sender::Other
        };
        if let (Sender::Other, Transport::Tcp(tcp)) = (sender, transport) {
            conversation.acknowledge(tcp);
        }
        (conversation, sender)
    }
}

impl Conversation {
    fn new(frame: &Frame<'_>, from_low: bool) -> Self {
        Self {
            opener_is_low: from_low == sender_opens(frame),
            guessed: true,
            base_seq: None,
            acked_seq: None,
            at: [Place::None; 2],
            is_new: true,
        }
    }

    /// True if a new conversation begins under the same addresses and ports.
    fn note(&mut self, frame: &Frame<'_>, from_low: bool) -> bool {
        let Transport::Tcp(tcp) = frame.transport() else {
            self.guessed = false;
            return false;
        };
        if tcp.flags.any(TcpFlags::SYN) {
            let is_answer = tcp.flags.any(TcpFlags::ACK);
            let base = if is_answer { tcp.ack } else { tcp.seq.wrapping_add(1) };
            let is_other = self.base_seq.is_some_and(|known| known != base) && !is_answer;
            if self.base_seq.is_none() || is_other {
                let was_new = self.is_new;
                *self = Self {
                    opener_is_low: from_low != is_answer,
                    guessed: false,
                    base_seq: Some(base),
                    acked_seq: None,
                    at: [Place::None; 2],
                    is_new: true,
                };
                return !was_new;
            }
        } else if self.guessed && !frame.payload().is_empty() {
            self.opener_is_low = from_low == sender_opens(frame);
            self.guessed = false;
            self.is_new = true;
        }
        false
    }

    fn acknowledge(&mut self, tcp: &Tcp) {
        let is_later = |known: u32| tcp.ack.wrapping_sub(known) < 1 << 31;
        if tcp.flags.any(TcpFlags::ACK) && self.acked_seq.is_none_or(is_later) {
            self.acked_seq = Some(tcp.ack);
        }
    }
}

/// Whether the sender of this packet, the first that was captured, has opened the conversation: by what it says, else by
/// the ports.
fn sender_opens(frame: &Frame<'_>) -> bool {
    let (source, destination) = frame.transport().ports();
    let payload = frame.payload();
    if payload.starts_with(b"HTTP/1.") || matches!(payload, [22, 3, _, _, _, 2, ..]) {
        return false;
    }
    if matches!(payload, [22, 3, _, _, _, 1, ..]) || is_request(payload) {
        return true;
    }
    match (source == DNS_PORT, destination == DNS_PORT) {
        (true, false) => false,
        (false, true) => true,
        _ => source >= SERVER_PORTS || destination < SERVER_PORTS || source >= destination,
    }
}

fn is_request(payload: &[u8]) -> bool {
    let line = payload.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    line.first().is_some_and(u8::is_ascii_uppercase)
        && (line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0") || line == b"PRI * HTTP/2.0")
}

#[cfg(test)]
mod tests {
    use super::{CONVERSATIONS_MAX, Conversations, Sender};
    use seventh_parsers::packet::Frame;

    fn tcp(from: (u8, u16), to: (u8, u16), seq: u32, ack: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((40 + payload.len() as u16).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, from.0, 10, 0, 0, to.0]);
        frame.extend([from.1.to_be_bytes(), to.1.to_be_bytes()].concat());
        frame.extend([seq.to_be_bytes(), ack.to_be_bytes()].concat());
        frame.extend([0x50, flags, 1, 1, 0, 0, 0, 0]);
        frame.extend(payload);
        frame
    }

    fn sender(conversations: &mut Conversations, frame: &[u8]) -> (Sender, Option<u32>, Option<u32>) {
        let frame = Frame::parse_cut(frame).unwrap();
        let (conversation, sender) = conversations.meet(&frame);
        conversation.is_new = false;
        (sender, conversation.base_seq, conversation.acked_seq)
    }

    #[test]
    fn syn_tells_who_opens_and_where_it_begins() {
        let mut conversations = Conversations::one_of(1);
        let (a, b) = ((1, 80), (2, 9000));
        let mut meet = |frame: Vec<u8>| sender(&mut conversations, &frame);
        assert_eq!(meet(tcp(a, b, 99, 0, 2, b"")), (Sender::Opener, Some(100), None));
        assert_eq!(
            meet(tcp(b, a, 500, 100, 0x12, b"")),
            (Sender::Other, Some(100), Some(100))
        );
        assert_eq!(
            meet(tcp(a, b, 100, 501, 0x10, b"hi")),
            (Sender::Opener, Some(100), Some(100))
        );
        assert_eq!(
            meet(tcp(b, a, 501, 102, 0x10, b"")),
            (Sender::Other, Some(100), Some(102))
        );
        assert_eq!(
            meet(tcp(b, a, 501, 101, 0x10, b"")),
            (Sender::Other, Some(100), Some(102))
        );
        assert_eq!(meet(tcp(b, a, 7, 0, 2, b"")), (Sender::Opener, Some(8), None), "anew");
        assert_eq!(conversations.count, 2);
    }

    #[test]
    fn without_syn_what_is_said_tells_who_opened() {
        for (payload, from, opens) in [
            (&b"HTTP/1.1 200 OK\r\n"[..], (1, 9000), Sender::Other),
            (b"GET / HTTP/1.1\r\n", (1, 80), Sender::Opener),
            (&[22, 3, 1, 0, 9, 1, 0], (1, 443), Sender::Opener),
            (&[22, 3, 1, 0, 9, 2, 0], (1, 9000), Sender::Other),
            (b"anything", (1, 22), Sender::Other),
            (b"anything", (1, 50_000), Sender::Opener),
        ] {
            let mut conversations = Conversations::one_of(1);
            let to = (2, 8000);
            let bare = tcp(to, from, 1, 1, 0x10, b"");
            sender(&mut conversations, &bare);
            let told = sender(&mut conversations, &tcp(from, to, 1, 1, 0x18, payload));
            assert_eq!(told.0, opens, "{payload:?}");
        }
    }

    #[test]
    fn the_table_is_bounded() {
        let mut conversations = Conversations::one_of(1);
        for n in 0..CONVERSATIONS_MAX as u32 * 2 {
            let from = ((n >> 16) as u8, n as u16);
            sender(&mut conversations, &tcp(from, (99, 1), 1, 0, 2, b""));
        }
        assert!(conversations.young.len() + conversations.old.len() <= CONVERSATIONS_MAX);
    }
}
