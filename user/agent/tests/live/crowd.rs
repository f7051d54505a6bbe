//! More connections than a process may have open: both ends are made by hand, of raw packets, and send again what is lost as
//! TCP does, so that they press as real ones would. Honest clients beside them are real.

use std::{
    io::{self, Read as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use seventh::lab::Lab;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    client::ask_while,
    overload::{GROWTH_MAX_KIB, resident_kib},
    stage::{MTU, PUBLIC, binary, lab_of, policy, status},
};

/// Connections of all; `SEVENTH_CROWD` says otherwise.
const CROWD: usize = 4000;
/// Endpoints that they belong to.
const CROWDS: [&str; 4] = ["crowd0", "crowd1", "crowd2", "crowd3"];
/// Where they go, on the same endpoint as honest requests.
const PORT: u16 = 8081;
/// First port of an endpoint's connections.
const FIRST: u16 = 2000;
/// Handshakes that are under way at once.
const WINDOW: usize = 128;
/// What Linux waits for first before it sends again (`TCP_RTO_MIN`); each time twice as long.
const RESEND: Duration = Duration::from_millis(200);
/// When a crowd gives up.
const DEADLINE: Duration = Duration::from_secs(180);

const SYN: u8 = 2;
const RST: u8 = 4;
const PUSH: u8 = 8;
const ACK: u8 = 16;
const REQUEST: &[u8] = b"GET /public HTTP/1.1\r\nHost: crowd.test\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// A segment of TCP over IPv4 without options.
struct Segment<'a> {
    from: SocketAddrV4,
    to: SocketAddrV4,
    sequence: u32,
    acknowledges: u32,
    flags: u8,
    payload: &'a [u8],
}

impl<'a> Segment<'a> {
    fn read(packet: &'a [u8]) -> Option<Self> {
        let header = usize::from(packet.first()? & 15) * 4;
        let (ip, tcp) = packet.split_at_checked(header)?;
        let length = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        let tcp = tcp.get(..length.checked_sub(header)?)?;
        let word = |at: usize| Some(u32::from_be_bytes(*tcp.get(at..)?.first_chunk()?));
        let port = |at: usize| Some(u16::from_be_bytes(*tcp.get(at..)?.first_chunk()?));
        let address = |at: usize| Ipv4Addr::from_octets(*ip[at..].first_chunk().unwrap());
        (ip[9] == 6).then_some(())?;
        Some(Self {
            from: SocketAddrV4::new(address(12), port(0)?),
            to: SocketAddrV4::new(address(16), port(2)?),
            sequence: word(4)?,
            acknowledges: word(8)?,
            flags: *tcp.get(13)?,
            payload: tcp.get(usize::from(tcp.get(12)? >> 4) * 4..)?,
        })
    }

    fn bytes(&self) -> Vec<u8> {
        let length = u16::try_from(40 + self.payload.len()).unwrap();
        let mut packet = vec![0x45, 0];
        packet.extend(length.to_be_bytes());
        packet.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        packet.extend([self.from.ip().octets(), self.to.ip().octets()].concat());
        packet.extend(self.from.port().to_be_bytes());
        packet.extend(self.to.port().to_be_bytes());
        packet.extend(self.sequence.to_be_bytes());
        packet.extend(self.acknowledges.to_be_bytes());
        packet.extend([0x50, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        packet.extend(self.payload);
        let checksum = checksum(&packet[12..], length - 20);
        packet[36..38].copy_from_slice(&checksum.to_be_bytes());
        packet
    }
}

/// Of addresses and segment (RFC 9293 section 3.1).
fn checksum(addresses_and_segment: &[u8], length: u16) -> u16 {
    let words = addresses_and_segment.chunks(2);
    let sum: u32 = words
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    let mut sum = sum + 6 + u32::from(length);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// What one end hears and says. The kernel of its namespace must keep quiet about these ports.
struct Wire {
    ears: Socket,
    mouth: Socket,
    buffer: Vec<u8>,
}

impl Wire {
    fn open() -> io::Result<Self> {
        const IPV4: u16 = 0x0800;
        let ears = Socket::new(
            Domain::PACKET,
            Type::DGRAM,
            Some(Protocol::from(i32::from(IPV4.to_be()))),
        )?;
        ears.set_recv_buffer_size(64 << 20)?;
        ears.set_read_timeout(Some(Duration::from_millis(5)))?;
        Ok(Self {
            ears,
            mouth: Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255)))?,
            buffer: vec![0; 2048],
        })
    }

    fn say(&self, segment: &Segment<'_>) {
        // What finds no room is lost, as on any wire.
        let _ = self.mouth.send_to(&segment.bytes(), &SocketAddr::V4(segment.to).into());
    }

    fn hear(&mut self) -> Option<Segment<'_>> {
        let length = self.ears.read(&mut self.buffer).ok()?;
        Segment::read(&self.buffer[..length])
    }
}

/// Lets nobody but raw sockets see this port.
fn hush(lab: &Lab, endpoint: &str, port: &str) {
    let rule = format!(
        "add table ip crowd; add chain ip crowd quiet {{ type filter hook input priority 0; }}; add rule ip crowd quiet tcp {port} {PORT} drop"
    );
    let done = lab
        .endpoint(endpoint)
        .unwrap()
        .command("nft")
        .arg(rule)
        .status()
        .unwrap();
    assert!(done.success(), "nft in {endpoint}");
}

/// First sequence numbers of both ends.
fn first_sequences(client: SocketAddrV4) -> [u32; 2] {
    let seed = client.ip().to_bits() ^ u32::from(client.port()) << 7;
    [1, 2].map(|end: u32| seed.wrapping_mul(0x9e37_79b1).wrapping_add(end << 30))
}

/// The other end: it remembers nothing.
fn serve(lab: &Lab, stop: &Arc<AtomicBool>) -> JoinHandle<nix::Result<()>> {
    let told = Arc::clone(stop);
    let serve = move || {
        let mut wire = Wire::open().unwrap();
        while !told.load(Ordering::Relaxed) {
            let Some(heard) = wire.hear() else { continue };
            if heard.to.port() != PORT || heard.flags & RST != 0 {
                continue;
            }
            let (from, to) = (heard.to, heard.from);
            let [_, own] = first_sequences(to);
            let (sequence, flags, payload): (_, _, &[u8]) = if heard.flags & SYN != 0 {
                (own, SYN | ACK, &[])
            } else if heard.payload.is_empty() {
                continue;
            } else {
                (own.wrapping_add(1), ACK | PUSH, ANSWER)
            };
            let length = u32::from(heard.flags & SYN != 0) + u32::try_from(heard.payload.len()).unwrap();
            let answer = Segment {
                from,
                to,
                sequence,
                acknowledges: heard.sequence.wrapping_add(length),
                flags,
                payload,
            };
            wire.say(&answer);
        }
    };
    lab.endpoint("server").unwrap().start(serve).unwrap()
}

/// What became of an endpoint's connections.
#[derive(Debug, Default)]
struct Outcome {
    answered: usize,
    reset: usize,
    /// When half of them, and when the last one was answered.
    half: Duration,
    last: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Open,
    Asked,
    Answered,
    Reset,
}

struct Crowd {
    wire: Wire,
    own: Ipv4Addr,
    server: SocketAddrV4,
    states: Vec<State>,
    /// When it is sent again, and how often it was.
    due: Vec<(Instant, u32)>,
}

impl Crowd {
    fn new(own: Ipv4Addr, server: Ipv4Addr, count: usize) -> Self {
        Self {
            wire: Wire::open().unwrap(),
            own,
            server: SocketAddrV4::new(server, PORT),
            states: vec![State::Waiting; count],
            due: vec![(Instant::now(), 0); count],
        }
    }

    fn count(&self, state: State) -> usize {
        self.states.iter().filter(|of| **of == state).count()
    }

    fn say(&self, index: usize, flags: u8, payload: &[u8]) {
        let from = SocketAddrV4::new(self.own, FIRST + u16::try_from(index).unwrap());
        let [own, other] = first_sequences(from);
        let begun = flags & SYN == 0;
        self.wire.say(&Segment {
            from,
            to: self.server,
            sequence: own.wrapping_add(begun.into()),
            acknowledges: if begun { other.wrapping_add(1) } else { 0 },
            flags,
            payload,
        });
    }

    /// Takes one segment, if one comes: which connection it is of and what it says.
    fn hear(&mut self) -> Option<(usize, u8, bool)> {
        let heard = self.wire.hear()?;
        let index = usize::from(heard.to.port().checked_sub(FIRST)?);
        let told = (index, heard.flags, !heard.payload.is_empty());
        (heard.from == self.server && index < self.states.len()).then_some(told)
    }

    /// Sends what is due, at most so many, of connections in this state.
    fn send_due(&mut self, state: State, flags: u8, payload: &[u8], most: usize) {
        let now = Instant::now();
        let due: Vec<usize> = (0..self.states.len())
            .filter(|index| self.states[*index] == state && self.due[*index].0 <= now)
            .take(most)
            .collect();
        for index in due {
            self.say(index, flags, payload);
            let times = self.due[index].1;
            self.due[index] = (now + RESEND * (1 << times.min(6)), times + 1);
        }
    }

    fn open_all(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        while self.count(State::Open) < self.states.len() && Instant::now() < deadline {
            self.send_due(State::Waiting, SYN, &[], WINDOW);
            while let Some((index, flags, _)) = self.hear() {
                if flags & (SYN | ACK) == SYN | ACK {
                    self.say(index, ACK, &[]);
                    self.states[index] = State::Open;
                }
            }
        }
        let now = Instant::now();
        for (state, due) in self.states.iter_mut().zip(&mut self.due) {
            assert!(*state == State::Open, "every connection is opened");
            (*state, *due) = (State::Asked, (now, 0));
        }
    }

    fn ask_all(mut self) -> Outcome {
        let (began, mut next_look) = (Instant::now(), Instant::now());
        let mut outcome = Outcome::default();
        let mut left = self.states.len();
        while left > 0 && began.elapsed() < DEADLINE {
            if Instant::now() >= next_look {
                next_look = Instant::now() + Duration::from_millis(20);
                self.send_due(State::Asked, ACK | PUSH, REQUEST, usize::MAX);
            }
            let Some((index, flags, answers)) = self.hear() else {
                continue;
            };
            if self.states[index] != State::Asked || !(answers || flags & RST != 0) {
                continue;
            }
            left -= 1;
            if flags & RST != 0 {
                self.states[index] = State::Reset;
                outcome.reset += 1;
                continue;
            }
            self.states[index] = State::Answered;
            outcome.answered += 1;
            outcome.last = began.elapsed();
            if outcome.answered == self.states.len() / 2 {
                outcome.half = outcome.last;
            }
        }
        outcome
    }
}

/// Honest requests, one after the other, until it is told to stop: when each was answered and how long it took.
fn honest(lab: &Lab, from: &str, stop: &Arc<AtomicBool>) -> JoinHandle<nix::Result<Vec<(Instant, Duration)>>> {
    let server = SocketAddr::from((lab.endpoint("server").unwrap().ipv4, 8080));
    let told = Arc::clone(stop);
    let ask = move || ask_while(server, |_| !told.load(Ordering::Relaxed));
    lab.endpoint(from).unwrap().start(ask).unwrap()
}

fn policies() -> String {
    let crowd = format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: crowd, namespace: default}}\nspec:\n  \
         endpointSelector: {{matchLabels: {{app: server}}}}\n  ingress:\n  - fromEndpoints: [{{matchLabels: {{app: crowd}}}}]\n    \
         toPorts: [{{ports: [{{port: \"{PORT}\", protocol: TCP}}], rules: {{http: [{PUBLIC}]}}}}]\n"
    );
    [policy(PUBLIC), crowd].join("---\n")
}

#[test]
fn a_crowd_whose_connections_all_ask_at_once_leaves_honest_clients_their_turns() {
    let crowds = CROWDS.map(|name| (name, "crowd"));
    let cast = [("client", "client"), ("friend", "friend"), ("server", "server")];
    let Some(mut lab) = lab_of(&[&cast[..], &crowds].concat(), MTU) else {
        return;
    };
    let size = std::env::var("SEVENTH_CROWD").map_or(CROWD, |size| size.parse().unwrap()) / CROWDS.len();
    lab.start_nginx("server", None).unwrap();
    let engine_judges = "inspection:\n  kernelJudges: false";
    let pid = lab.start_agent(binary(), &policies(), engine_judges).unwrap();
    hush(&lab, "server", "dport");
    CROWDS.iter().for_each(|crowd| hush(&lab, crowd, "sport"));
    let before_kib = resident_kib(pid);
    let [stop, stop_honest] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let server = serve(&lab, &stop);
    let (opened, go) = (
        Arc::new(Barrier::new(CROWDS.len() + 1)),
        Arc::new(Barrier::new(CROWDS.len() + 1)),
    );
    let crowds: Vec<_> = CROWDS
        .iter()
        .map(|name| {
            let (server, own) = (lab.endpoint("server").unwrap().ipv4, lab.endpoint(name).unwrap().ipv4);
            let (opened, go) = (Arc::clone(&opened), Arc::clone(&go));
            let run = move || {
                let mut crowd = Crowd::new(own, server, size);
                crowd.open_all();
                opened.wait();
                go.wait();
                crowd.ask_all()
            };
            lab.endpoint(name).unwrap().start(run).unwrap()
        })
        .collect();
    opened.wait();
    let clients = ["client", "friend"].map(|from| honest(&lab, from, &stop_honest));
    thread::sleep(Duration::from_millis(500));
    let began = Instant::now();
    go.wait();
    let outcomes: Vec<Outcome> = crowds.into_iter().map(|crowd| crowd.join().unwrap().unwrap()).collect();
    let ended = Instant::now();
    thread::sleep(Duration::from_millis(500));
    stop_honest.store(true, Ordering::Relaxed);
    let grown_kib = resident_kib(pid).saturating_sub(before_kib);
    for (client, what) in clients.into_iter().zip(["that are read", "at L4"]) {
        let answers = client.join().unwrap().unwrap();
        println!("{}", report(&answers, what, began, ended));
    }
    stop.store(true, Ordering::Relaxed);
    server.join().unwrap().unwrap();
    println!("the crowd: {outcomes:?}; memory: {before_kib} KiB before, {grown_kib} KiB more");
    println!("{}", status(&lab));
    assert!(outcomes.iter().all(|of| of.reset == 0), "{outcomes:?}");
    assert!(outcomes.iter().all(|of| of.answered == size), "{outcomes:?}");
    assert!(grown_kib < GROWTH_MAX_KIB, "{grown_kib} KiB");
}

/// What honest clients saw before, while and after the crowd asked.
fn report(answers: &[(Instant, Duration)], what: &str, began: Instant, ended: Instant) -> String {
    let between = |from: Instant, to: Instant| {
        let times = answers
            .iter()
            .filter(|(at, _)| (from..to).contains(at))
            .map(|(_, took)| *took);
        let times: Vec<Duration> = times.collect();
        (times.len(), times.into_iter().max().unwrap_or_default())
    };
    let half = Duration::from_millis(500);
    let [before, first, all, after] = [
        between(began - half, began),
        between(began, began + half),
        between(began, ended),
        between(ended, ended + half),
    ];
    let said = format!(
        "requests {what}, and the longest wait: {before:?} in half a second before, {first:?} in the first half second of the \
         crowd, {all:?} in its {:?}, {after:?} in half a second after it",
        ended - began
    );
    assert!(all.0 >= 5, "{what}: honest requests go on");
    assert!(all.1 < Duration::from_secs(1), "{what}: nobody waits long: {:?}", all.1);
    assert!(after.0 > 0, "{what}: it is as before");
    said
}
