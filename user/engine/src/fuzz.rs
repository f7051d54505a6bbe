//! Fuzz entry of the whole engine: one connection, driven by any bytes, and what must hold of whatever leaves the engine.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use seventh_abi::{Hook, InjectAction, InjectMeta, PuntMeta};
use seventh_parsers::http1::{BodyLength, Limits, parse_head};
use seventh_parsers::packet::{Frame, TcpFlags, Transport};
use seventh_policy::{
    CompileOptions, Compiler, EndpointFacts, Ipcache, Labels, NamedPorts, Surroundings, load_text, resolve,
};
use seventh_verdict_cache::KeyHasher;

use crate::punted::take_connection;
use crate::{EndpointView, Engine, EngineLimits, EngineShared, Fate, Outbox, PolicyView};

const POLICY: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: all}
spec:
  endpointSelector: {}
  ingress:
  - toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{method: GET, path: '/public.*'}]}}]
  - toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: ['*.example.com']}]
  - toPorts: [{ports: [{port: '81', protocol: TCP}]}]
  egress:
  - toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{method: GET, path: '/public.*'}]}}]
  - toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: ['*.example.com']}]
  - toPorts: [{ports: [{port: '53', protocol: ANY}], rules: {dns: [{matchPattern: '*.example.com'}]}}]
";

pub(crate) const IFINDEX: u32 = 7;
pub(crate) const SECOND: u64 = 1_000_000_000;
const TCP: u8 = 6;
const UDP: u8 = 17;
const HTTP: u16 = 80;
/// Allowed without looking inside.
const PLAIN: u16 = 81;
/// Opener's first sequence number, close to where they wrap.
const BASE: u32 = 0xffff_ff00;
/// Punt metadata without any flag, whatever flags there are.
const NO_FLAGS: [u8; 12] = [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// IPv4, and the number of the connection.
const NUMBERED_IPV4: [u8; 2] = [0, 7];
/// Steps of one run at most.
const STEPS_MAX: usize = 64;

/// Any bytes as a connection and what happens on it: the first byte chooses direction and port, then each step is a byte
/// and what it needs.
///
/// # Panics
/// If a frame that goes on was changed, a frame that the engine made cannot be read, two values went on at one sequence
/// number, or a refused HTTP request went on whole.
pub fn fuzz_engine(input: &[u8]) {
    if let Some(run) = Run::new(input) {
        run.finish();
    }
}

/// What has left the engine.
#[derive(Debug, Default)]
struct Seen {
    forwarded: usize,
    made: usize,
}

struct Run<'a> {
    rest: &'a [u8],
    engine: Engine,
    now_ns: u64,
    protocol: u8,
    port: u16,
    meta: PuntMeta,
    /// Where the opener's next byte goes, from [`BASE`].
    next: u32,
    /// One past the last of the opener's bytes that went on, from [`BASE`].
    sent: u32,
    ack: u32,
    /// What went on and is not acknowledged, by offset; `None` once the flow is not inspected any more.
    values: Option<BTreeMap<u32, u8>>,
    /// Ranges of offsets that were given free.
    free: Vec<Range<u32>>,
    /// The opener's bytes from the first on, as the other side reads them; `None` once that cannot be told.
    read: Option<BTreeMap<u32, u8>>,
    seen: Seen,
}

impl<'a> Run<'a> {
    fn new(input: &'a [u8]) -> Option<Self> {
        let (&first, rest) = input.split_first().unwrap_or((&0, &[]));
        let (protocol, port) = match first & 7 {
            0..=2 => (TCP, HTTP),
            3 => (TCP, 443),
            4 => (TCP, 53),
            5 => (TCP, PLAIN),
            6 => (UDP, 53),
            _ => (UDP, 443),
        };
        let hook = if first & 8 == 0 && port != 53 {
            Hook::ToEndpoint
        } else {
            Hook::FromEndpoint
        };
        Some(Self {
            rest,
            engine: Engine::new(shared(), EngineLimits::default()),
            now_ns: SECOND,
            protocol,
            port,
            meta: PuntMeta {
                hook,
                ifindex: IFINDEX,
                base_seq: Some(BASE),
                acked_seq: Some(BASE),
                reply_idle: first & 16 == 0,
                ..PuntMeta::decode(&NO_FLAGS)?
            },
            next: 0,
            sent: 0,
            ack: 5_000,
            values: (protocol == TCP && port != PLAIN).then(BTreeMap::new),
            free: Vec::new(),
            read: (protocol == TCP && port == HTTP).then(BTreeMap::new),
            seen: Seen::default(),
        })
    }

    fn finish(mut self) -> Seen {
        for _ in 0..STEPS_MAX {
            let Some(step) = self.byte() else { break };
            self.step(step);
        }
        self.seen
    }

    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(byte)
    }

    fn bytes(&mut self) -> &'a [u8] {
        let len = self.byte().unwrap_or(0);
        let (bytes, rest) = self.rest.split_at(usize::from(len).min(self.rest.len()));
        self.rest = rest;
        bytes
    }

    fn step(&mut self, step: u8) {
        match step & 7 {
            0..=2 => {
                let payload = self.bytes();
                self.data(self.next, TcpFlags::ACK, payload);
                self.next = self.next.wrapping_add(len(payload));
            }
            3 => {
                // Somewhere else: repeated, overlapping, beyond a gap; with any flags.
                let back = self.byte().unwrap_or(0);
                let flags = self.byte().unwrap_or(0);
                let payload = self.bytes();
                let at = self.next.wrapping_add(16).wrapping_sub(u32::from(back));
                self.data(at, flags, payload);
            }
            4 => {
                self.now_ns += u64::from(self.byte().unwrap_or(0)) * SECOND;
                let mut out = Outbox::new();
                self.engine.tick(self.now_ns, &mut out);
                self.check_made(&out);
                // What the engine has forgotten it cannot compare.
                self.values.iter_mut().for_each(BTreeMap::clear);
                self.read = None;
            }
            5 => {
                // Only what went on can be acknowledged.
                self.meta.acked_seq = Some(BASE.wrapping_add(self.sent));
                self.ack = self.ack.wrapping_add(u32::from(step >> 3));
                let sent = self.sent;
                self.values = self.values.take().map(|mut values| values.split_off(&sent));
            }
            6 => {
                let payload = self.bytes();
                let meta = PuntMeta {
                    reply: true,
                    ..self.meta
                };
                let frame = self.frame(&meta, self.ack, BASE.wrapping_add(self.next), TcpFlags::ACK, payload);
                self.decide(frame);
            }
            _ => {
                // A frame of any bytes, behind punt metadata.
                let mut frame = self.meta.encode().to_vec();
                frame.extend(self.bytes());
                self.decide(frame);
            }
        }
    }

    /// The opener sends.
    fn data(&mut self, offset: u32, flags: u8, payload: &[u8]) {
        let seq = BASE.wrapping_add(offset);
        self.meta.clean = self.meta.acked_seq == Some(BASE.wrapping_add(self.sent));
        let frame = self.frame(&self.meta, seq, self.ack, flags, payload);
        let (forwarded, copies) = self.decide(frame);
        let whole = forwarded.then(|| (seq, payload.to_vec()));
        for (seq, bytes) in whole.into_iter().chain(copies) {
            self.went_on(seq.wrapping_sub(BASE), &bytes);
        }
    }

    /// Bytes of the opener have left the engine for the other side.
    fn went_on(&mut self, offset: u32, bytes: &[u8]) {
        let end = offset.wrapping_add(len(bytes));
        if end < u32::MAX / 2 {
            self.sent = self.sent.max(end);
        }
        for (step, &byte) in (0..).zip(bytes) {
            let at = offset.wrapping_add(step);
            let acknowledged = self.meta.acked_seq.map_or(0, |seq| seq.wrapping_sub(BASE));
            // Before the first byte, and below what was acknowledged, nothing can be accepted any more.
            if at > u32::MAX / 2 || at < acknowledged || self.free.iter().any(|range| range.contains(&at)) {
                continue;
            }
            if let Some(values) = &mut self.values {
                let before = *values.entry(at).or_insert(byte);
                assert_eq!(before, byte, "two values at offset {at}");
            }
            if let Some(read) = &mut self.read {
                read.entry(at).or_insert(byte);
            }
        }
        self.check_requests();
    }

    /// Whole requests that the other side has by now are such as the policy allows.
    fn check_requests(&mut self) {
        let Some(read) = &self.read else { return };
        let stream: Vec<u8> = (0..).map_while(|at| read.get(&at).copied()).collect();
        let mut rest = stream.as_slice();
        while let Ok(head) = parse_head(rest, &Limits::default()) {
            let allowed = head.method == "GET" && head.path.starts_with("/public");
            assert!(allowed, "{} {} went on whole", head.method, head.path);
            if head.body != BodyLength::None || head.upgrade.is_some() {
                self.read = None;
                return;
            }
            rest = rest.get(head.head_len..).unwrap_or_default();
        }
    }

    /// Has a frame decided: whether it went on, and the copies that went on in its place.
    fn decide(&mut self, mut frame: Vec<u8>) -> (bool, Vec<(u32, Vec<u8>)>) {
        let mut before = frame.clone();
        let is_numbered = take_connection(&mut before).is_some();
        let mut out = Outbox::new();
        let fate = self.engine.decide(&mut frame, self.now_ns, &mut out);
        let copies = self.check_made(&out);
        if fate == Fate::Consumed {
            return (false, copies);
        }
        assert_eq!(
            before.get(12..),
            frame.get(12..),
            "a frame that goes on keeps its bytes"
        );
        assert!(is_numbered, "it went on without a number");
        self.note(inject_meta(&frame));
        self.seen.forwarded += 1;
        (true, copies)
    }

    /// Checks frames of the engine; sequence number and payload of those that go the opener's way.
    fn check_made(&mut self, out: &Outbox) -> Vec<(u32, Vec<u8>)> {
        let mut copies = Vec::new();
        for bytes in out.frames() {
            self.seen.made += 1;
            let meta = inject_meta(bytes);
            self.note(meta);
            let frame = Frame::parse(bytes);
            assert!(frame.is_ok(), "a frame of the engine cannot be read: {bytes:02x?}");
            let Ok(frame) = frame else { continue };
            assert_eq!(frame.verify_checksums(), Ok(()));
            if let Transport::Tcp(tcp) = frame.transport()
                && meta.is_some_and(|meta| !meta.reverse)
            {
                copies.push((tcp.seq, frame.payload().to_vec()));
            }
        }
        copies
    }

    /// What the kernel is told: bytes that it passes from now on are nobody's to compare.
    fn note(&mut self, meta: Option<InjectMeta>) {
        match meta.map(|meta| meta.action) {
            Some(InjectAction::Forward { .. } | InjectAction::ForwardQuic { .. }) => {
                (self.values, self.read) = (None, None);
            }
            Some(InjectAction::Bypass { start, end, .. }) => {
                self.free.push(start.wrapping_sub(BASE)..end.wrapping_sub(BASE));
            }
            _ => {}
        }
    }

    fn frame(&self, meta: &PuntMeta, seq: u32, ack: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let (mut source, mut destination) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let (mut from, mut to) = (40_000_u16, self.port);
        if meta.reply {
            std::mem::swap(&mut source, &mut destination);
            std::mem::swap(&mut from, &mut to);
        }
        let mut transport = [from.to_be_bytes(), to.to_be_bytes()].concat();
        let checksum_at = if self.protocol == TCP {
            transport.extend([seq.to_be_bytes(), ack.to_be_bytes()].concat());
            transport.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
            16
        } else {
            transport.extend(u16_of(8 + payload.len()));
            transport.extend([0, 0]);
            6
        };
        transport.extend(payload);
        let mut covered = [source, destination].concat();
        covered.extend([0, self.protocol]);
        covered.extend(u16_of(transport.len()));
        covered.extend(&transport);
        put(&mut transport, checksum_at, checksum(&covered));
        let mut header = vec![0x45, 0];
        header.extend(u16_of(20 + transport.len()));
        header.extend([0, 1, 0x40, 0, 64, self.protocol, 0, 0]);
        header.extend([source, destination].concat());
        let sum = checksum(&header);
        put(&mut header, 10, sum);
        [&meta.encode()[..], &NUMBERED_IPV4, &header, &transport].concat()
    }
}

/// What the kernel is told with a frame.
fn inject_meta(bytes: &[u8]) -> Option<InjectMeta> {
    let end = Frame::parse(bytes).ok().and_then(|frame| match frame.transport() {
        Transport::Tcp(tcp) => Some(tcp.seq.wrapping_add(len(frame.payload()))),
        Transport::Udp(_) => None,
    });
    let meta = bytes
        .first_chunk()
        .and_then(|meta| InjectMeta::decode(meta, end.unwrap_or(0)));
    assert!(meta.is_some(), "no metadata");
    meta
}

fn len(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

fn u16_of(value: usize) -> [u8; 2] {
    u16::try_from(value).unwrap_or(u16::MAX).to_be_bytes()
}

fn put(bytes: &mut [u8], at: usize, value: [u8; 2]) {
    if let Some(slot) = bytes.get_mut(at..at + 2) {
        slot.copy_from_slice(&value);
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let pairs = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(high) << 8 | u32::from(low),
        [high] => u32::from(high) << 8,
        _ => 0,
    });
    let sum = pairs.fold(0, |sum, pair| {
        let sum: u32 = sum + pair;
        (sum & 0xffff) + (sum >> 16)
    });
    u16::try_from(!sum & 0xffff).unwrap_or(0).to_be_bytes()
}

/// An engine's surroundings under [`POLICY`], compiled once.
pub(crate) fn shared() -> Arc<EngineShared> {
    static VIEW: LazyLock<Arc<PolicyView>> = LazyLock::new(|| {
        let loaded = load_text("fuzz.yaml", POLICY);
        assert!(!loaded.has_errors(), "{:?}", loaded.findings);
        let mut compiler = Compiler::new(CompileOptions::default());
        compiler.set_rules(resolve(&loaded.documents, &Surroundings::default()).rules);
        let facts = EndpointFacts {
            labels: Labels::parse(["app=web", "io.kubernetes.pod.namespace=default"]),
            named_ports: NamedPorts::default(),
        };
        let endpoints = compiler.compile(&facts).map(|policy| EndpointView {
            id: 1,
            name: "default/web".into(),
            epoch: 1,
            policy,
        });
        Arc::new(PolicyView {
            endpoints: endpoints.map(|view| (IFINDEX, view)).into_iter().collect(),
            ipcache: Arc::new(Ipcache::new()),
        })
    });
    let shared = EngineShared::new(KeyHasher::from_secret([3; 16]), 64, 8);
    shared.set_policy(Arc::clone(&VIEW));
    Arc::new(shared)
}

#[cfg(test)]
mod tests {
    use super::Run;

    /// A run on HTTP in which each text is the next segment.
    fn run(segments: &[&str]) -> super::Seen {
        let mut input = vec![0];
        for segment in segments {
            input.extend([0, u8::try_from(segment.len()).unwrap()]);
            input.extend(segment.bytes());
        }
        Run::new(&input).unwrap().finish()
    }

    #[test]
    fn a_run_reaches_the_rules() {
        let allowed = run(&["GET /public HTTP/1.1\r\nHo", "st: a\r\n\r\n"]);
        assert_eq!((allowed.forwarded, allowed.made), (2, 0));
        let refused = run(&["GET /private HTTP/1.1\r\nHo", "st: a\r\n\r\n"]);
        assert!(refused.forwarded == 1 && refused.made >= 2, "{refused:?}");
    }

    #[test]
    fn bytes_of_every_kind_and_none_are_a_run() {
        for seed in 0..=255_u8 {
            let input: Vec<u8> = (0..600_u32).map(|n| (n * 167 + u32::from(seed) * 59) as u8).collect();
            super::fuzz_engine(&input);
            super::fuzz_engine(&input[..usize::from(seed % 3)]);
        }
    }
}
