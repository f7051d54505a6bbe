//! An opener whose TCP keeps the rules, over a network that loses, repeats and reorders.

use super::kernel::{Kernel, Packet, Way};
use super::receiver::{Keeps, Receiver, serve};
use super::traffic;
use super::{HONEST_SEEDS, seeds};
use crate::wire::{ACK, FIN, PSH, RST, Sent};
use crate::world::{Connection, World};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use std::collections::VecDeque;

const REPLY_BASE: u32 = 0xffff_fff0;
const STEPS_MAX: usize = 20_000;
const WINDOW: usize = 16_000;

/// A segment of the opener on its way, by offset.
#[derive(Clone, Debug)]
struct Flying {
    offset: usize,
    ack: u32,
    len: usize,
    fin: bool,
}

/// A segment to the opener on its way.
#[derive(Clone, Debug)]
enum Back {
    /// Acknowledges up to an offset, after so many answer bytes in all.
    Answer { acked: usize, answered: u32 },
    /// Made by the engine.
    Refusal(Box<Sent>),
}

struct Talk {
    rng: StdRng,
    world: World,
    connection: Connection,
    kernel: Kernel,
    receiver: Receiver,
    stream: Vec<u8>,
    /// End of the last request before the first denied one.
    allowed_end: usize,
    /// Ends of requests, if segments end there, but for those that take up what comes after.
    edges: Option<Vec<usize>>,
    has_denied: bool,
    forth: VecDeque<Flying>,
    back: VecDeque<Back>,
    /// The opener's side: acknowledged, sent, answer bytes received.
    una: usize,
    next: usize,
    received: u32,
    /// The server's side: answer bytes sent for so many requests.
    answered: u32,
    requests_answered: usize,
    /// Bytes that the server has read.
    read: usize,
    refused: bool,
}

impl Talk {
    fn new(seed: u64, denied: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let base = if rng.random() {
            rng.random()
        } else {
            u32::MAX - rng.random_range(0..20_000)
        };
        let count = rng.random_range(1..8);
        let (mut stream, mut edges) = (Vec::new(), Vec::new());
        for _ in 0..count {
            stream.extend(traffic::allowed(&mut rng));
            edges.push(stream.len());
        }
        let allowed_end = stream.len();
        let edges = rng.random_bool(0.6).then_some(edges);
        if denied {
            stream.extend(traffic::denied(&mut rng));
            stream.extend(traffic::allowed(&mut rng));
        }
        let connection = Connection::at(base);
        let table = rng.random_bool(0.6).then(World::simulated_table);
        let receiver = match [Some(Keeps::Nothing), Some(Keeps::First), Some(Keeps::Last), None].choose(&mut rng) {
            Some(Some(keeps)) => Receiver::new(*keeps),
            _ => Receiver::smoltcp(&connection),
        };
        Self {
            world: World::simulated(),
            connection,
            kernel: Kernel::new(base, REPLY_BASE, table),
            receiver,
            stream,
            allowed_end,
            edges,
            has_denied: denied,
            forth: VecDeque::new(),
            back: VecDeque::new(),
            una: 0,
            next: 0,
            received: 0,
            answered: 0,
            requests_answered: 0,
            read: 0,
            refused: false,
            rng,
        }
    }

    /// Steps until the opener has all it can expect.
    fn run(mut self) -> Self {
        for _ in 0..STEPS_MAX {
            match self.rng.random_range(0..10) {
                0..2 => self.opener_sends(),
                2..5 => self.network_carries_forth(),
                _ => self.network_carries_back(),
            }
            self.world.weigh();
            let all = self.una == self.stream.len() && self.received == self.answered && self.back.is_empty();
            if self.refused || (!self.has_denied && all) {
                return self;
            }
        }
        panic!(
            "stuck: acknowledged {} of {}, {} accepted, answers {} of {}",
            self.una,
            self.stream.len(),
            self.receiver.accepted.len(),
            self.received,
            self.answered
        );
    }

    fn opener_sends(&mut self) {
        if self.forth.len() >= 20 {
            return;
        }
        let window_end = self.stream.len().min(self.una + WINDOW);
        let offset = if self.next >= window_end || self.rng.random_bool(0.15) {
            self.una
        } else {
            self.next
        };
        if offset == self.stream.len() {
            return;
        }
        let len = self.segment_len(offset).min(window_end.max(self.next) - offset);
        self.next = self.next.max(offset + len);
        let ack = REPLY_BASE.wrapping_add(self.received);
        let fin = offset + len == self.stream.len() && self.rng.random_bool(0.2);
        self.forth.push_back(Flying { offset, ack, len, fin });
    }

    /// Most of those who ask send each request by itself; what is sent again may take up what comes after it.
    fn segment_len(&mut self, offset: usize) -> usize {
        let any = self.rng.random_range(1..=1460);
        let takes_up = self.rng.random_bool(0.2);
        let edges = self.edges.iter().flatten().map(|edge| edge.saturating_sub(offset));
        let mut ends = edges.filter(|len| (1..=1460).contains(len));
        let (first, second) = (ends.next(), ends.next());
        if takes_up { second.or(first) } else { first }.unwrap_or(any)
    }

    fn network_carries_forth(&mut self) {
        let at = if self.rng.random_bool(0.1) {
            self.rng.random_range(0..=self.forth.len() / 2)
        } else {
            0
        };
        if at >= self.forth.len() || self.rng.random_bool(0.05) {
            self.forth.pop_front(); // lost
            return;
        }
        let segment = if self.rng.random_bool(0.05) {
            self.forth.get(at).cloned()
        } else {
            self.forth.remove(at)
        };
        let Some(segment) = segment else { return };
        let Flying { offset, ack, len, fin } = segment;
        let payload = &self.stream[offset..offset + len];
        let seq = self.connection.seq(offset);
        let flags = ACK | PSH | if fin { FIN } else { 0 };
        let packet = Packet {
            seq,
            ack,
            flags,
            payload,
        };
        match self.kernel.packet_of_opener(&self.connection, &packet) {
            Way::Drop => {}
            Way::Pass | Way::Unread => {
                self.receiver.data(offset as i64, payload);
                self.server_answers();
            }
            Way::Punt(meta) => {
                let frame = self.connection.shape.frame(&meta, seq, ack, flags, payload);
                let outcome = self.world.decide(frame);
                for sent in outcome.forwarded.iter().chain(&outcome.made) {
                    self.engine_sends(sent);
                }
            }
        }
    }

    fn engine_sends(&mut self, sent: &Sent) {
        assert!(self.kernel.inject(sent), "of its connection");
        let offset = i64::from(sent.tcp.seq.wrapping_sub(self.connection.base) as i32);
        if sent.meta.reverse {
            self.back.push_back(Back::Refusal(Box::new(sent.clone())));
        } else if sent.flags() & RST != 0 {
            self.receiver.reset(offset);
        } else {
            self.receiver.data(offset, &sent.payload);
            self.server_answers();
        }
    }

    /// The server acknowledges and answers each request it has in full; some answers take a while.
    fn server_answers(&mut self) {
        if self.receiver.reset {
            return;
        }
        if self.rng.random_bool(0.7) && self.read != self.receiver.accepted.len() {
            self.read = self.receiver.accepted.len();
            let served = serve(&self.receiver.accepted);
            let complete = served.iter().filter(|acted| acted.body_complete).count();
            while self.requests_answered < complete {
                self.requests_answered += 1;
                self.answered += self.rng.random_range(50..400);
            }
        }
        let acked = self.receiver.accepted.len();
        let end = REPLY_BASE.wrapping_add(self.answered);
        if self.kernel.packet_of_other(self.connection.seq(acked), end) {
            let answered = self.answered;
            self.back.push_back(Back::Answer { acked, answered });
        }
    }

    fn network_carries_back(&mut self) {
        match self.back.pop_front() {
            Some(Back::Answer { acked, answered }) => {
                self.una = self.una.max(acked);
                self.received = self.received.max(answered);
            }
            Some(Back::Refusal(sent)) => self.opener_is_refused(&sent),
            None => self.server_answers(),
        }
    }

    fn opener_is_refused(&mut self, sent: &Sent) {
        assert_eq!(
            sent.tcp.seq,
            REPLY_BASE.wrapping_add(self.received),
            "a 403 must stand where TCP expects it"
        );
        assert!(sent.payload.starts_with(b"HTTP/1.1 403 ") && sent.flags() & FIN != 0);
        let acked = sent.tcp.ack.wrapping_sub(self.connection.base) as usize;
        assert!(
            acked <= self.next + 1 && acked >= self.una,
            "it acknowledges what was sent"
        );
        assert_eq!(self.received, self.answered, "earlier answers come first");
        self.refused = true;
    }
}

#[test]
fn what_is_allowed_arrives_completely() {
    let mut judged = 0;
    for seed in seeds(HONEST_SEEDS) {
        let Ok(talk) = std::panic::catch_unwind(|| Talk::new(seed, false).run()) else {
            panic!("seed {seed}")
        };
        judged += talk.kernel.judged;
        assert!(talk.receiver.accepted == talk.stream, "seed {seed}");
        assert!(!talk.kernel.closed, "seed {seed}");
    }
    assert!(judged > 100, "{judged} requests judged in the kernel");
}

#[test]
fn the_first_denied_request_is_refused_after_all_earlier_answers() {
    for seed in seeds(HONEST_SEEDS) {
        let Ok(talk) = std::panic::catch_unwind(|| Talk::new(seed, true).run()) else {
            panic!("seed {seed}")
        };
        let accepted = &talk.receiver.accepted;
        assert!(talk.stream.starts_with(accepted), "seed {seed}");
        assert!(
            accepted.len() >= talk.allowed_end,
            "seed {seed}: every allowed request arrived"
        );
        let served = serve(accepted)
            .iter()
            .filter(|acted| acted.end <= talk.allowed_end)
            .count();
        assert_eq!(served, serve(accepted).len(), "seed {seed}: nothing denied did");
        assert!(talk.receiver.reset, "seed {seed}: the server was told");
    }
}
