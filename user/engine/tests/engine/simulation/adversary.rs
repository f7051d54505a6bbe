//! An opener that does what it likes.

use super::kernel::{Kernel, Way};
use super::receiver::{Acted, Keeps, Receiver, is_allowed, serve, serve_http2};
use super::{seeds, traffic};
use crate::http2;
use crate::wire::{ACK, FIN, PSH, RST, SYN, Sent, URG};
use crate::world::{Connection, World};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use seventh_abi::InjectAction;

const REPLY_BASE: u32 = 0xffff_ff00;
const STEPS: usize = 120;

struct Attack {
    rng: StdRng,
    world: World,
    connection: Connection,
    kernel: Kernel,
    receiver: Receiver,
    /// Streams that agree about nothing but where requests begin, and offsets worth cutting at.
    streams: Vec<Vec<u8>>,
    edges: Vec<usize>,
    /// The value that each offset was delivered with.
    values: Vec<Option<u8>>,
    is_http2: bool,
    /// Ranges given free, as offsets.
    free: Vec<(i64, i64)>,
    replied: u32,
    trace: Vec<String>,
}

impl Attack {
    fn new(seed: u64, is_http2: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let base = if rng.random() {
            rng.random()
        } else {
            u32::MAX - rng.random_range(0..20_000)
        };
        let (streams, edges) = if is_http2 {
            Self::http2_streams(&mut rng)
        } else {
            Self::http1_streams(&mut rng)
        };
        let connection = Connection::at(base);
        let receiver = match [Some(Keeps::Nothing), Some(Keeps::First), Some(Keeps::Last), None].choose(&mut rng) {
            Some(Some(keeps)) => Receiver::new(*keeps),
            _ => Receiver::smoltcp(&connection),
        };
        Self {
            world: World::simulated(),
            connection,
            kernel: Kernel::new(base, REPLY_BASE),
            receiver,
            streams,
            edges,
            is_http2,
            values: Vec::new(),
            free: Vec::new(),
            replied: 0,
            trace: Vec::new(),
            rng,
        }
    }

    fn http1_streams(rng: &mut StdRng) -> (Vec<Vec<u8>>, Vec<usize>) {
        let mut streams = vec![Vec::new(), Vec::new()];
        let mut edges = vec![0];
        for _ in 0..rng.random_range(2..6) {
            let good = traffic::allowed(rng);
            let mut bad = if rng.random() {
                traffic::denied(rng)
            } else {
                traffic::malformed(rng)
            };
            // The evil twin has the length of the good request wherever that can be, so that both fit one place.
            if bad.len() < good.len() && rng.random_bool(0.7) {
                let filler = good.len() - bad.len();
                if let Some(at) = bad.windows(4).position(|w| w == b"Host").filter(|_| filler > 5) {
                    let header = format!("F: {}\r\n", "f".repeat(filler - 5));
                    bad.splice(at..at, header.into_bytes());
                }
            }
            let (first, second) = if rng.random_bool(0.8) {
                (&good, &bad)
            } else {
                (&bad, &good)
            };
            streams[0].extend(first);
            streams[1].extend(second);
            edges.extend(streams.iter().map(Vec::len));
        }
        (streams, edges)
    }

    fn http2_streams(rng: &mut StdRng) -> (Vec<Vec<u8>>, Vec<usize>) {
        let mut streams = vec![http2::begin(), http2::begin()];
        let mut edges = vec![0, streams[0].len()];
        for number in 0..rng.random_range(2..6) {
            let stream = 1 + 2 * number;
            let mut good = traffic::http2(rng, stream, true);
            let mut bad = traffic::http2(rng, stream, false);
            // Both fit one place: what is missing is a frame that nobody reads.
            let (short, long) = if good.len() < bad.len() {
                (&mut good, bad.len())
            } else {
                (&mut bad, good.len())
            };
            if long - short.len() >= 9 {
                short.extend(http2::frame(0xfa, 0, 0, &vec![b'f'; long - short.len() - 9]));
            }
            let (first, second) = if rng.random_bool(0.8) {
                (&good, &bad)
            } else {
                (&bad, &good)
            };
            streams[0].extend(first);
            streams[1].extend(second);
            edges.extend(streams.iter().map(Vec::len));
        }
        (streams, edges)
    }

    fn served(&self) -> Vec<Acted> {
        if self.is_http2 {
            serve_http2(&self.receiver.accepted)
        } else {
            serve(&self.receiver.accepted)
        }
    }

    fn run(mut self) -> Self {
        for _ in 0..STEPS {
            if self.rng.random_bool(0.2) {
                self.other_side_speaks();
            } else {
                self.opener_speaks();
            }
        }
        self
    }

    /// A position near one of the edges, near what the receiver expects, or anywhere.
    fn position(&mut self, len: usize) -> usize {
        let near = match self.rng.random_range(0..10) {
            0..6 => self.receiver.accepted.len() + self.rng.random_range(0..4),
            6 => self
                .receiver
                .accepted
                .len()
                .saturating_sub(self.rng.random_range(0..300)),
            7 | 8 => *self.edges.choose(&mut self.rng).unwrap(),
            _ => self.rng.random_range(0..=len),
        };
        let jitter = if self.rng.random_bool(0.7) {
            2
        } else {
            self.rng.random_range(0..8)
        };
        (near + jitter).saturating_sub(2).min(len)
    }

    fn opener_speaks(&mut self) {
        let stream = usize::from(self.rng.random_bool(0.25));
        let len = self.streams[stream].len();
        let start = self.position(len);
        let end = match self.rng.random_range(0..4) {
            0 => start + self.rng.random_range(0..6),
            1 => self
                .edges
                .iter()
                .copied()
                .filter(|edge| *edge > start)
                .min()
                .unwrap_or(len),
            _ => start + self.rng.random_range(1..1460),
        }
        .clamp(start, (start + 4000).min(len));
        let mut payload = self.streams[stream][start..end].to_vec();
        if self.rng.random_bool(0.05) && !payload.is_empty() {
            let at = self.rng.random_range(0..payload.len());
            payload[at] = *b"\r\n\0 G".choose(&mut self.rng).unwrap();
        }
        let flags = match self.rng.random_range(0..40) {
            0 => ACK | FIN,
            1 => ACK | URG,
            2 => SYN | ACK,
            3 => RST | ACK,
            4 => PSH,
            _ => ACK | PSH,
        };
        let ack = match self.rng.random_range(0..10) {
            0 => self.rng.random(),
            1 => REPLY_BASE.wrapping_add(self.rng.random_range(0..=self.replied)),
            _ => REPLY_BASE.wrapping_add(self.replied),
        };
        // Once in a while something a stack would take for old or for far ahead.
        let seq = match self.rng.random_range(0..60) {
            0 => self.connection.seq(start).wrapping_add(1 << 31),
            1 => self.connection.seq(start).wrapping_sub(1 << 16),
            _ => self.connection.seq(start),
        };
        let corrupt = self.rng.random_bool(0.03);
        self.trace.push(format!(
            "opener {stream} {start}..{end} flags {flags:#x} corrupt {corrupt}"
        ));
        self.send(seq, ack, flags, &payload, corrupt);
    }

    fn send(&mut self, seq: u32, ack: u32, flags: u8, payload: &[u8], corrupt: bool) {
        let (fin, urgent) = (flags & FIN != 0, flags & URG != 0);
        if flags & SYN != 0 && !payload.is_empty() {
            return; // The kernel drops it.
        }
        let way = self
            .kernel
            .packet_of_opener(&self.connection, seq, ack, payload.len(), fin, urgent);
        match way {
            Way::Drop => {}
            // A receiver drops what has a wrong checksum or no ACK.
            Way::Pass if corrupt || flags & ACK == 0 || flags & RST != 0 => {}
            Way::Pass => self.deliver(seq, payload),
            Way::Punt(meta) => {
                let mut frame = self.connection.shape.frame(&meta, seq, ack, flags, payload);
                if corrupt {
                    let at = self.rng.random_range(26..frame.len());
                    frame[at] ^= 1 << self.rng.random_range(0..8);
                }
                let outcome = self.world.decide(frame);
                for sent in outcome.forwarded.iter().chain(&outcome.made) {
                    self.engine_sends(sent);
                }
            }
        }
    }

    fn engine_sends(&mut self, sent: &Sent) {
        if let InjectAction::Bypass { start, end, .. } = sent.meta.action {
            self.free.push((self.offset(start), self.offset(end)));
        }
        self.kernel.inject(sent);
        if sent.meta.reverse {
            return;
        }
        if sent.flags() & RST != 0 {
            let offset = self.offset(sent.tcp.seq);
            self.receiver.reset(offset);
        } else if self.rng.random_bool(0.85) {
            self.deliver(sent.tcp.seq, &sent.payload);
        } else {
            // Lost, or dropped by the receiver for a reason of its own (PAWS, window, memory): but it might not have
            // been, so its bytes have their values now.
            self.claim(sent.tcp.seq, &sent.payload);
        }
    }

    fn deliver(&mut self, seq: u32, payload: &[u8]) {
        self.claim(seq, payload);
        let offset = self.offset(seq);
        self.receiver.data(offset, payload);
    }

    /// One sequence number, one value.
    fn claim(&mut self, seq: u32, payload: &[u8]) {
        let start = self.offset(seq);
        let acknowledged = self.offset(self.kernel.acked);
        for (offset, &byte) in (start..).zip(payload) {
            let free = self.free.iter().any(|(from, to)| (*from..*to).contains(&offset));
            if offset < acknowledged || free {
                continue;
            }
            let at = usize::try_from(offset).expect("not before the first byte");
            if self.values.len() <= at {
                self.values.resize(at + 1, None);
            }
            let value = *self.values[at].get_or_insert(byte);
            assert_eq!(
                value, byte,
                "offset {at} was let through with two values; {:#?}",
                self.trace
            );
        }
    }

    fn other_side_speaks(&mut self) {
        let accepted = self.receiver.accepted.len();
        let answer = if self.rng.random() {
            self.rng.random_range(0..300)
        } else {
            0
        };
        let ack = self.connection.seq(accepted);
        let end = REPLY_BASE.wrapping_add(self.replied + answer);
        if self.kernel.packet_of_other(ack, end) {
            self.replied += answer;
        }
    }

    fn offset(&self, seq: u32) -> i64 {
        i64::from(seq.wrapping_sub(self.connection.base) as i32)
    }
}

/// Asserts what the simulation's head says, for every seed.
fn attack(is_http2: bool) {
    let (mut refusals, mut requests) = (0, 0);
    for seed in seeds() {
        let caught = std::panic::catch_unwind(|| Attack::new(seed, is_http2).run());
        let Ok(attack) = caught else { panic!("seed {seed}") };
        let served = attack.served();
        for acted in &served {
            assert!(
                is_allowed(&acted.line),
                "seed {seed}: {:?} of {served:#?}; {:#?}",
                acted.line,
                attack.trace
            );
        }
        requests += served.len();
        refusals += usize::from(attack.kernel.closed);
    }
    // The attack must not be so wild that nothing gets anywhere.
    let runs = seeds().count();
    assert!(
        requests > runs / 2 && refusals > runs / 4,
        "{requests} requests, {refusals} refusals"
    );
}

#[test]
fn no_denied_request_is_ever_complete_at_the_other_side() {
    attack(false);
}

#[test]
fn no_denied_request_over_http_2_is_ever_complete_at_the_other_side() {
    attack(true);
}
