//! An opener that does what it likes.

use super::kernel::{Kernel, Packet, Reading, Step, Way};
use super::linux::{Host, Linux};
use super::receiver::{Acted, Keeps, Receiver, is_allowed, serve, serve_http2, serve_tls};
use super::traffic::{self, Ask, Speech};
use super::{HTTP1_SEEDS, HTTP2_SEEDS, LINUX_SEEDS, SHORT_SEEDS, TLS_SEEDS, seeds};
use crate::tls::hello::server_hello;
use crate::wire::{ACK, FIN, PSH, RST, SYN, Sent, Shape, URG};
use crate::world::{Connection, World};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use seventh_abi::{Hook, InjectAction, InjectMeta, Replies};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

const REPLY_BASE: u32 = 0xffff_ff00;
const STEPS: usize = 120;
const CLOCK_BASE: u32 = 1 << 30;

/// Who receives, if not one of several models.
type OnLinux = Option<Rc<RefCell<Host>>>;

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
    speech: Speech,
    /// What the first request asks for.
    ask: Option<Ask>,
    /// Ranges given free, as offsets.
    free: Vec<(i64, i64)>,
    /// Where everything passes from.
    passed_at: Option<i64>,
    /// Of the opener's timestamps.
    clock: u32,
    reply_base: u32,
    /// What the server says, how much of it has reached the opener, and how many requests or hellos it has answered.
    reply: Vec<u8>,
    replied: usize,
    answered: usize,
    /// The server has agreed that from here on its opener speaks something else.
    switched_at: Option<usize>,
    /// Second hellos that the server has asked for.
    retries: usize,
    trace: Vec<String>,
    /// Punted frames that the engine has not come to, and their numbers.
    waiting: VecDeque<(u16, Vec<u8>)>,
    /// Packets that CPUs have begun with, before others came between.
    between: Vec<(Handled, Reading)>,
    /// The engine leaves frames waiting while the kernel goes on.
    lags: bool,
    /// Its opener begins again and again on the same ports.
    reuses_ports: bool,
    /// What earlier connections on these ports came to.
    before: Came,
}

/// A packet of the opener, and how it was sent.
struct Handled {
    seq: u32,
    ack: u32,
    flags: u8,
    payload: Vec<u8>,
    corrupt: bool,
    shape: Shape,
}

impl Handled {
    fn as_sent(&self) -> Packet<'_> {
        Packet {
            seq: self.seq,
            ack: self.ack,
            flags: self.flags,
            payload: &self.payload,
        }
    }
}

/// What connections came to.
#[derive(Clone, Copy, Debug, Default)]
struct Came {
    requests: u64,
    refusals: u64,
    switched: u64,
    begun_again: u64,
    /// Frames of the engine that came too late for their connection.
    too_late: u64,
}

impl Attack {
    fn new(seed: u64, speech: Speech, host: OnLinux) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let base = if rng.random() {
            rng.random()
        } else {
            u32::MAX - rng.random_range(0..20_000)
        };
        let reuses_ports = host.is_none() && rng.random_bool(0.3);
        let (ask, streams, edges) = traffic::speeches(&mut rng, speech);
        let mut connection = Connection::at(base);
        connection.shape = Shape::new(1, 2, if speech == Speech::Tls { 443 } else { 80 });
        if rng.random_bool(0.4) {
            connection.shape.timestamps = Some((CLOCK_BASE, 0));
        }
        let mut reply_base = REPLY_BASE;
        let receiver = if let Some(host) = host {
            connection.shape.source_port = 1024 + u16::try_from(seed % 60_000).unwrap();
            let linux = Linux::new(host, &connection.shape, base);
            reply_base = linux.own_base;
            Receiver::linux(linux)
        } else {
            Self::model(&mut rng, &connection)
        };
        let judges = speech == Speech::ShortRequests || speech == Speech::Http1 && rng.random_bool(0.6);
        let mut kernel = Kernel::new(base, reply_base, judges.then(World::simulated_table));
        kernel.punts_replies = speech == Speech::Tls;
        Self {
            world: World::simulated(),
            connection,
            kernel,
            receiver,
            streams,
            edges,
            speech,
            ask,
            values: Vec::new(),
            free: Vec::new(),
            passed_at: None,
            clock: CLOCK_BASE,
            reply_base,
            reply: Vec::new(),
            replied: 0,
            answered: 0,
            switched_at: None,
            retries: 0,
            trace: Vec::new(),
            waiting: VecDeque::new(),
            between: Vec::new(),
            lags: reuses_ports || rng.random_bool(0.5),
            reuses_ports,
            before: Came::default(),
            rng,
        }
    }

    fn model(rng: &mut StdRng, connection: &Connection) -> Receiver {
        match [Some(Keeps::Nothing), Some(Keeps::First), Some(Keeps::Last), None].choose(rng) {
            Some(Some(keeps)) => Receiver::new(*keeps),
            _ => Receiver::smoltcp(connection),
        }
    }

    /// What the server would act on, of what it has been told so far.
    fn served(&self) -> Vec<Acted> {
        let accepted = &self.receiver.accepted;
        match self.speech {
            Speech::Http1 | Speech::ShortRequests => {
                let (first, then) = accepted.split_at(self.switched_at.unwrap_or(accepted.len()));
                let mut served = serve(first);
                if matches!(self.ask, Some(Ask::Http2(_))) {
                    served.extend(serve_http2(then));
                }
                served
            }
            Speech::Http2 => serve_http2(accepted),
            // A server takes no hello that it has not asked for.
            Speech::Tls => serve_tls(accepted).into_iter().take(1 + self.retries).collect(),
        }
    }

    fn allows(&self, line: &str) -> bool {
        match self.speech {
            Speech::Http1 | Speech::ShortRequests | Speech::Http2 => is_allowed(line),
            Speech::Tls => line == "a.example",
        }
    }

    fn run(mut self) -> Self {
        for _ in 0..STEPS {
            if !self.between.is_empty() && self.rng.random_bool(0.1) {
                self.goes_on();
            }
            if self.speech == Speech::ShortRequests && self.rng.random_bool(0.8) {
                self.asks_in_turn();
            } else if self.reuses_ports && self.rng.random_bool(0.05) {
                self.begins_again();
            } else if self.rng.random_bool(0.2) {
                self.other_side_speaks();
            } else {
                self.opener_speaks();
            }
            self.world.weigh();
        }
        self
    }

    /// As an honest opener does: after the answer to its last request comes the next one.
    fn asks_in_turn(&mut self) {
        self.other_side_speaks();
        let rest = self.streams[0].get(self.receiver.accepted.len()..).unwrap_or_default();
        let len = rest
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .map_or(0, |at| at + 4);
        let payload = rest[..len].to_vec();
        let start = self.receiver.accepted.len();
        let (seq, ack) = (self.connection.seq(start), self.reply_seq(self.replied));
        let ttl = if self.rng.random_bool(0.3) { 1 } else { 61 };
        self.connection.shape.ttl = ttl;
        self.trace
            .push(format!("opener in turn {start}..{} ttl {ttl}", start + len));
        self.send(seq, ack, ACK | PSH, &payload, false);
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

    fn edge_after(&self, start: usize) -> Option<usize> {
        self.edges.iter().copied().filter(|edge| *edge > start).min()
    }

    fn opener_speaks(&mut self) {
        let (stream, start, end) = self.piece();
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
            1 => self
                .reply_base
                .wrapping_add(self.rng.random_range(0..=self.replied as u32)),
            2 => self.reply_seq(self.replied).wrapping_add(self.rng.random_range(0..90)),
            _ => self.reply_seq(self.replied),
        };
        // Once in a while something a stack would take for old or for far ahead.
        let far = match self.rng.random_range(0..40) {
            0 => 1 << 31,
            1 => 0_u32.wrapping_sub(1 << 16),
            2 => 0_u32.wrapping_sub(1 << 30),
            3 => 0_u32.wrapping_sub((1 << 30) + 2000),
            4 => 1 << 30,
            _ => 0,
        };
        let seq = self.connection.seq(start).wrapping_add(far);
        let corrupt = self.rng.random_bool(0.03);
        let shape = &mut self.connection.shape;
        shape.ttl = if self.rng.random_bool(0.08) { 1 } else { 61 };
        shape.window = *[0xffff, 0xffff, 1000, 0].choose(&mut self.rng).unwrap();
        if let Some((value, _)) = &mut shape.timestamps {
            self.clock += self.rng.random_range(0..3);
            // Now and then one that is older than others, by little or by half of the circle.
            *value = match self.rng.random_range(0..12) {
                0 => self.clock - self.rng.random_range(1..1000),
                1 => self.clock.wrapping_add(1 << 31),
                _ => self.clock,
            };
        }
        self.trace.push(format!(
            "opener {stream} {start}..{end} flags {flags:#x} corrupt {corrupt} ttl {} ack {}",
            self.connection.shape.ttl,
            ack.wrapping_sub(self.reply_base)
        ));
        self.send(seq, ack, flags, &payload, corrupt);
    }

    /// Which bytes to send: of which stream, from where to where.
    fn piece(&mut self) -> (usize, usize, usize) {
        let stream = usize::from(self.rng.random_bool(0.25));
        let len = self.streams[stream].len();
        let (start, end) = match self.rng.random_range(0..10) {
            // Often what an honest opener would send: all of what comes next up to an edge.
            0 | 1 => self.next_request(len),
            number @ 2..7 if self.kernel.kept().is_some() && (number == 2 || self.speech == Speech::ShortRequests) => {
                self.last_judged_and_more()
            }
            _ => {
                let start = self.position(len);
                let end = match self.rng.random_range(0..4) {
                    0 => start + self.rng.random_range(0..6),
                    1 => self.edge_after(start).unwrap_or(len),
                    _ => start + self.rng.random_range(1..1460),
                };
                (start, end)
            }
        };
        (
            stream,
            start.min(len),
            end.clamp(start.min(len), (start + 4000).min(len)),
        )
    }

    fn next_request(&self, len: usize) -> (usize, usize) {
        let start = self.receiver.accepted.len().min(len);
        (start, self.edge_after(start).unwrap_or(len).min(len))
    }

    /// What the kernel let through last, and perhaps bytes behind it.
    fn last_judged_and_more(&mut self) -> (usize, usize) {
        let (seq, len) = self.kernel.kept().expect("it was looked at");
        let start = usize::try_from(self.offset(seq)).expect("not before the first byte");
        (start, start + len + self.rng.random_range(0..300))
    }

    fn send(&mut self, seq: u32, ack: u32, flags: u8, payload: &[u8], corrupt: bool) {
        if flags & SYN != 0 && !payload.is_empty() {
            return; // The kernel drops it.
        }
        let packet = Handled {
            seq,
            ack,
            flags,
            payload: payload.to_vec(),
            corrupt,
            shape: self.connection.shape.clone(),
        };
        let step = self.kernel.take(&self.connection, &packet.as_sent());
        self.handle(packet, step);
    }

    /// A CPU goes on with a packet, until others come between or it is decided.
    fn handle(&mut self, packet: Handled, mut step: Step) {
        loop {
            match step {
                Step::Decided(way) => return self.decided(&packet, &way),
                Step::Reads(reading) if self.others_come_before(reading) => {
                    self.trace.push(format!("a CPU has come to {reading:?}"));
                    return self.between.push((packet, reading));
                }
                Step::Reads(reading) => step = self.kernel.go_on(&self.connection, &packet.as_sent(), reading),
            }
        }
    }

    fn others_come_before(&mut self, reading: Reading) -> bool {
        // What was compared is what others may change.
        let compared = matches!(reading, Reading::Compared(Some(_), _) | Reading::Noted(Some(_)));
        self.rng.random_bool(if compared { 0.5 } else { 0.1 })
    }

    /// One of the CPUs that others came between goes on.
    fn goes_on(&mut self) {
        let at = self.rng.random_range(0..self.between.len());
        let (packet, reading) = self.between.swap_remove(at);
        self.trace.push(format!("a CPU goes on from {reading:?}"));
        let step = self.kernel.go_on(&self.connection, &packet.as_sent(), reading);
        self.handle(packet, step);
    }

    fn all_go_on(&mut self) {
        while !self.between.is_empty() {
            self.goes_on();
        }
    }

    fn decided(&mut self, packet: &Handled, way: &Way) {
        let Handled {
            seq,
            ack,
            flags,
            payload,
            corrupt,
            shape,
        } = packet;
        match way {
            Way::Drop => {}
            // A receiver drops what has a wrong checksum or no ACK.
            Way::Pass | Way::Unread if *corrupt || flags & ACK == 0 || flags & RST != 0 => {}
            Way::Pass | Way::Unread => {
                if *way == Way::Unread {
                    self.check_unread(*seq, payload);
                }
                let meta = InjectMeta {
                    hook: Hook::ToEndpoint,
                    ifindex: 1,
                    reverse: false,
                    connection: 0,
                    action: InjectAction::Keep,
                    replies: Replies::Keep,
                };
                let mut frame = shape.frame(&self.connection.meta, *seq, *ack, *flags, payload);
                frame[..12].copy_from_slice(&meta.encode(0));
                self.deliver(&Sent::read(&frame));
            }
            Way::Punt(meta) => {
                let mut frame = shape.frame(meta, *seq, *ack, *flags, payload);
                if *corrupt {
                    let at = self.rng.random_range(26..frame.len());
                    frame[at] ^= 1 << self.rng.random_range(0..8);
                }
                self.waiting.push_back((self.kernel.connection, frame));
                if !self.lags || self.rng.random_bool(0.6) {
                    self.engine_works();
                }
            }
        }
    }

    /// The engine comes to the frames that wait.
    fn engine_works(&mut self) {
        while let Some((connection, frame)) = self.waiting.pop_front() {
            self.world.connection = connection;
            let outcome = self.world.decide(frame);
            for sent in outcome.forwarded.iter().chain(&outcome.made) {
                self.engine_sends(connection, sent);
            }
        }
    }

    fn engine_sends(&mut self, connection: u16, sent: &Sent) {
        assert_eq!(sent.meta.connection, connection, "of the frame that was decided");
        if !self.kernel.inject(sent) {
            self.before.too_late += 1;
            return;
        }
        if let InjectAction::Bypass { start, end, .. } = sent.meta.action
            && connection == self.kernel.connection
        {
            self.free.push((self.offset(start), self.offset(end)));
        }
        if self.kernel.passes && self.passed_at.is_none() {
            let is_opaque = matches!(self.ask, Some(Ask::Websocket | Ask::Connect));
            let is_meant = self.speech == Speech::Tls || (is_opaque && self.switched_at.is_some());
            assert!(is_meant, "nothing else passes unread; {:#?}", self.trace);
            self.passed_at = Some(self.offset(self.kernel.acked));
        }
        if sent.meta.reverse {
            return;
        }
        if sent.flags() & RST != 0 {
            let offset = self.offset(sent.tcp.seq);
            self.receiver.packet(sent, offset);
        } else if self.rng.random_bool(0.85) {
            self.deliver(sent);
        } else {
            // Lost: but it might not have been, so its bytes have their values now.
            self.claim(sent.tcp.seq, &sent.payload);
        }
    }

    /// Sends what the receiver may drop for a reason of its own (TTL, PAWS, window, memory).
    fn deliver(&mut self, sent: &Sent) {
        self.claim(sent.tcp.seq, &sent.payload);
        let offset = self.offset(sent.tcp.seq);
        self.receiver.packet(sent, offset);
    }

    /// One sequence number, one value.
    fn claim(&mut self, seq: u32, payload: &[u8]) {
        let start = self.offset(seq);
        let acknowledged = self.offset(self.kernel.acked);
        for (offset, &byte) in (start..).zip(payload) {
            if offset < acknowledged || self.is_free(offset) {
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

    /// Whether nobody has looked at the byte there.
    fn is_free(&self, offset: i64) -> bool {
        let given = self.free.iter().any(|(from, to)| (*from..*to).contains(&offset));
        given || self.passed_at.is_some_and(|from| offset >= from)
    }

    /// The server acknowledges, answers what is complete, and sends its bytes, some of them again.
    fn other_side_speaks(&mut self) {
        if self.receiver.reset {
            return;
        }
        self.other_side_answers();
        let accepted = self.receiver.accepted.len();
        let ack = self.connection.seq(accepted);
        let start = self.replied.saturating_sub(self.rng.random_range(0..40));
        let end = (start + self.rng.random_range(0..300)).min(self.reply.len());
        let start = start.min(end);
        if !self.kernel.packet_of_other(ack, self.reply_seq(end)) {
            return;
        }
        if start == end {
            return;
        }
        if self.kernel.punts_replies && !self.kernel.passes {
            self.engine_works();
            let connection = &self.connection;
            let mut meta = self.kernel.meta(connection, ack);
            meta.hook = Hook::FromEndpoint;
            meta.reply = true;
            let mut shape = Shape::new(2, 1, connection.shape.source_port);
            shape.source_port = connection.shape.destination_port;
            let frame = shape.frame(&meta, self.reply_seq(start), ack, ACK | PSH, &self.reply[start..end]);
            let number = self.kernel.connection;
            self.world.connection = number;
            let outcome = self.world.decide(frame);
            self.trace.push(format!("other {start}..{end}"));
            for sent in outcome.forwarded.iter().chain(&outcome.made) {
                self.engine_sends(number, sent);
            }
            if outcome.forwarded.is_none() {
                return;
            }
        }
        self.replied = self.replied.max(end);
    }

    fn other_side_answers(&mut self) {
        if !self.rng.random_bool(0.6) || self.switched_at.is_some() {
            return;
        }
        let served = self.served();
        let Some(acted) = served.get(self.answered).filter(|acted| acted.body_complete) else {
            return;
        };
        self.answered += 1;
        let answer = match self.speech {
            Speech::Http1 | Speech::ShortRequests => {
                let is_first = self.answered == 1;
                let asks = self
                    .ask
                    .filter(|ask| is_first && ask.request().starts_with(&acted.line));
                let agrees = asks.is_some() && self.rng.random();
                self.switched_at = agrees.then_some(acted.end);
                asks.unwrap_or(Ask::Websocket).answer(&mut self.rng, agrees)
            }
            Speech::Http2 => vec![0; 100],
            Speech::Tls => {
                let retry = self.answered == 1 && acted.may_retry && self.rng.random_bool(0.4);
                self.retries += usize::from(retry);
                server_hello(retry)
            }
        };
        self.receiver.says(&answer);
        self.reply.extend(answer);
    }

    fn reply_seq(&self, offset: usize) -> u32 {
        self.reply_base.wrapping_add(offset as u32)
    }

    /// The opener ends its connection and begins another one on the same ports, with numbers of its choice, perhaps behind a
    /// SYN that nobody gets but the kernel. What waits for the engine is of the one before.
    fn begins_again(&mut self) {
        self.all_go_on();
        self.check_received();
        self.came();
        self.before.begun_again += 1;
        let near = self.rng.random_range(0..6000);
        let base = if self.rng.random_bool(0.8) {
            self.connection.seq(near)
        } else {
            self.rng.random()
        };
        if base == self.connection.base {
            return;
        }
        self.trace.push(format!("begins again at {}", self.offset(base)));
        let reply_base = self.rng.random();
        self.kernel.syn(base);
        if self.rng.random_bool(0.3) {
            self.kernel.syn(self.rng.random());
            // Whoever never hears that it was accepted asks again.
            if !self.kernel.accept(base, reply_base) {
                self.kernel.syn(base);
            }
        }
        self.kernel.accept(base, reply_base);
        self.connection.base = base;
        self.reply_base = reply_base;
        self.receiver = Self::model(&mut self.rng, &self.connection);
        (self.ask, self.streams, self.edges) = traffic::speeches(&mut self.rng, self.speech);
        (self.values, self.free, self.passed_at) = (Vec::new(), Vec::new(), None);
        (self.reply, self.replied, self.answered) = (Vec::new(), 0, 0);
        (self.switched_at, self.retries) = (None, 0);
    }

    /// Adds up what the connection came to, of which nothing must be denied.
    fn came(&mut self) {
        let served = self.served();
        for acted in &served {
            assert!(
                self.allows(&acted.line),
                "{:?} of {served:#?}; {:#?}",
                acted.line,
                self.trace
            );
        }
        self.before.requests += served.len() as u64;
        self.before.refusals += u64::from(self.kernel.closed);
        self.before.switched += u64::from(self.switched_at.is_some());
    }

    /// What passes unread was given free, for this connection.
    fn check_unread(&self, seq: u32, payload: &[u8]) {
        let start = self.offset(seq);
        let acknowledged = self.offset(self.kernel.acked);
        for (offset, _) in (start..).zip(payload) {
            assert!(
                offset < acknowledged || self.is_free(offset),
                "offset {offset} passed unread; {:#?}",
                self.trace
            );
        }
    }

    /// What the application has got is what was inspected.
    fn check_received(&self) {
        for (at, byte) in self.receiver.accepted.iter().enumerate() {
            let inspected = self.values.get(at).copied().flatten();
            assert!(
                inspected == Some(*byte) || self.is_free(at as i64),
                "offset {at} was received as {byte:#x} and inspected as {inspected:?}; {:#?}",
                self.trace
            );
        }
    }

    fn offset(&self, seq: u32) -> i64 {
        i64::from(seq.wrapping_sub(self.connection.base) as i32)
    }
}

/// Asserts what the simulation's head says, for every seed.
#[expect(clippy::print_stdout, reason = "says how much was tried")]
fn attack(speech: Speech, seeds: std::ops::Range<u64>, host: &OnLinux) {
    let (mut came, mut judged) = (Came::default(), 0);
    let runs = seeds.end - seeds.start;
    for seed in seeds {
        let host = host.clone();
        let run = || {
            let mut attack = Attack::new(seed, speech, host).run();
            attack.all_go_on();
            attack.engine_works();
            attack.check_received();
            attack.came();
            attack
        };
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        let Ok(attack) = caught else { panic!("seed {seed}") };
        let Came {
            requests,
            refusals,
            switched,
            begun_again,
            too_late,
        } = attack.before;
        came.requests += requests;
        came.refusals += refusals;
        came.switched += switched;
        came.begun_again += begun_again;
        came.too_late += too_late;
        judged += attack.kernel.judged;
    }
    println!("{speech:?}: {runs} seeds, {came:?}, {judged} requests judged in the kernel");
    // The attack must not be so wild that nothing gets anywhere. Linux takes less of it than models do.
    let is_linux = host.is_some();
    let refusals_min = if is_linux { runs / 50 } else { runs / 10 };
    assert!(
        came.requests > runs / 3
            && came.refusals > refusals_min
            && (is_linux || came.too_late > runs / 10)
            && (speech != Speech::Http1 || (came.switched > runs / 50 && judged > runs / 100))
            && (speech != Speech::ShortRequests || judged > runs),
        "{came:?}, {judged} judged in the kernel of {runs}"
    );
}

#[test]
fn no_denied_request_is_ever_complete_at_the_other_side() {
    attack(Speech::Http1, seeds(HTTP1_SEEDS), &None);
}

#[test]
fn beside_what_the_kernel_judges_no_denied_request_is_ever_complete() {
    attack(Speech::ShortRequests, seeds(SHORT_SEEDS), &None);
}

#[test]
fn no_denied_request_over_http_2_is_ever_complete_at_the_other_side() {
    attack(Speech::Http2, seeds(HTTP2_SEEDS), &None);
}

#[test]
fn no_denied_name_ever_reaches_the_other_side() {
    attack(Speech::Tls, seeds(TLS_SEEDS), &None);
}

#[test]
fn what_an_application_on_linux_reads_is_what_was_inspected() {
    // On a thread of its own, which moves into another network namespace.
    let job = || {
        let host = Some(Host::new());
        attack(Speech::Http1, 0..LINUX_SEEDS, &host);
        attack(Speech::Http2, LINUX_SEEDS..2 * LINUX_SEEDS, &host);
        attack(Speech::Tls, 2 * LINUX_SEEDS..3 * LINUX_SEEDS, &host);
    };
    if let Err(panic) = std::thread::spawn(job).join() {
        std::panic::resume_unwind(panic);
    }
}
