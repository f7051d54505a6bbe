//! The datapath with real packets and without an engine: a node with two endpoints in network namespaces of their own,
//! and a stand-in for the engine that gives every frame back.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod answers;
mod copies;
mod faults;
mod frames;
mod headers;
mod inspected;
mod link;
mod offloads;
mod requests;
mod reused;
mod rewritten;
mod stand_in;
mod upgrades;
mod verifier;
mod workers;

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{FromRawFd as _, OwnedFd},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::gettid,
};
use seventh_abi::{
    Counter, Direction, DropReason, Endpoint, EndpointFlags, IDENTITY_ANY, IpcacheEntry, POLICY_PREFIX_ANY_PROTO,
    POLICY_PREFIX_FULL, PolicyEntry, PolicyKey, PolicyVerdict, PuntMeta, Verdict, mapped,
};
use seventh_datapath::{AttachMode, Datapath, IpcachePrefix, Settings, TakeOver};
use stand_in::{REFUSE, SETTLE, give_back};

const CLIENT: u32 = 1000;
const SERVER: u32 = 2000;
const TCP: u8 = 6;

type Job = Box<dyn FnOnce() + Send>;

/// A thread that lives in a network namespace of its own.
struct Namespace {
    tid: i32,
    jobs: mpsc::Sender<Job>,
}

impl Namespace {
    fn new() -> Self {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root is needed for live tests");
            tell.send(gettid().as_raw()).unwrap();
            while let Ok(job) = inbox.recv() {
                job();
            }
        });
        Self {
            tid: told.recv().unwrap(),
            jobs,
        }
    }

    /// Runs there and waits for the result.
    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        self.jobs.send(Box::new(move || tell.send(job()).unwrap())).unwrap();
        told.recv().unwrap()
    }

    /// Runs there on a thread of its own, which inherits the namespace.
    fn spawn<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
        self.run(move || thread::spawn(job))
    }
}

fn ip(command: &str) {
    let output = Command::new("ip").args(command.split_whitespace()).output().unwrap();
    assert!(
        output.status.success(),
        "ip {command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Joins `namespace` to the caller's with a veth; the endpoint gets `.2` and `::2` of network `n`, the node `.1`, `::1`.
fn join(namespace: &Namespace, host: &str, n: u8, mtu: u32) {
    ip(&format!(
        "link add {host} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}",
        namespace.tid
    ));
    ip(&format!("addr add 10.77.{n}.1/24 dev {host}"));
    ip(&format!("addr add fd77:{n}::1/64 dev {host} nodad"));
    ip(&format!("link set {host} up"));
    namespace.run(move || {
        ip("link set lo up");
        ip(&format!("addr add 10.77.{n}.2/24 dev eth0"));
        ip(&format!("addr add fd77:{n}::2/64 dev eth0 nodad"));
        ip("link set eth0 up");
        ip(&format!("route add default via 10.77.{n}.1"));
        ip(&format!("route add default via fd77:{n}::1"));
    });
}

/// What outlives an agent: the endpoints, who runs what waits, and the file system of pins.
type Ground = (Namespace, Namespace, tokio::runtime::Runtime, tempfile::TempDir);

struct Lab {
    client: Namespace,
    server: Namespace,
    datapath: Datapath,
    runtime: tokio::runtime::Runtime,
    stop: Arc<AtomicBool>,
    worker: Option<thread::JoinHandle<()>>,
    punted: Arc<AtomicU64>,
    last_frame: Arc<Mutex<Vec<u8>>>,
    /// The engine's stand-in says that behind each segment of TCP a request begins.
    tells_boundaries: Arc<AtomicBool>,
    /// It leaves its frames where they are.
    holds: Arc<AtomicBool>,
    indices: [u32; 2],
    _dir: tempfile::TempDir,
}

impl Lab {
    /// Must run on a thread of its own: it moves into new namespaces. `rows` is the policy of both endpoints.
    fn new(attach: AttachMode, mtu: u32, rows: &[(u32, PolicyKey, PolicyEntry)]) -> Self {
        let settings = Settings {
            attach,
            ..Settings::default()
        };
        Self::with(settings, mtu, rows)
    }

    /// The same with other settings.
    fn with(settings: Settings, mtu: u32, rows: &[(u32, PolicyKey, PolicyEntry)]) -> Self {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("root is needed for live tests");
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )
        .unwrap();
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>).unwrap();
        let dir = tempfile::tempdir().unwrap();
        mount(Some("bpf"), dir.path(), Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        let (client, server) = (Namespace::new(), Namespace::new());
        join(&client, "cl0", 1, mtu);
        join(&server, "sv0", 2, mtu);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        Self::begin((client, server, runtime, dir), settings, rows, |_| ())
    }

    /// An agent begins, where there may have been another one. `watch` is told of the moments of a take-over at `cl0`.
    fn begin(
        (client, server, runtime, dir): Ground,
        settings: Settings,
        rows: &[(u32, PolicyKey, PolicyEntry)],
        mut watch: impl FnMut(TakeOver),
    ) -> Self {
        let settings = Settings {
            bpffs: dir.path().join("seventh"),
            ..settings
        };
        let (mut datapath, channels) = runtime.block_on(Datapath::start(settings)).unwrap();
        let [stop, tells_boundaries, holds] = [(); 3].map(|()| Arc::new(AtomicBool::new(false)));
        let (punted, last_frame) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
        let worker = channels.into_iter().next().map(|channel| {
            let (stop, punted, seen) = (Arc::clone(&stop), Arc::clone(&punted), Arc::clone(&last_frame));
            let (tells_boundaries, holds) = (Arc::clone(&tells_boundaries), Arc::clone(&holds));
            thread::spawn(move || give_back(channel, &stop, &punted, &seen, &tells_boundaries, &holds))
        });
        datapath.write_policy(rows.iter().copied()).unwrap();
        let indices = ["cl0", "sv0"].map(|device| nix::net::if_::if_nametoindex(device).unwrap());
        datapath.sync_ipcache(&ipcache(indices)).unwrap();
        for (index, identity) in indices.into_iter().zip([CLIENT, SERVER]) {
            let flags = EndpointFlags::ENFORCE_INGRESS | EndpointFlags::ENFORCE_EGRESS;
            datapath
                .set_endpoint(
                    index,
                    Endpoint {
                        id: index,
                        identity,
                        policy_id: 1,
                        epoch: 1,
                        flags,
                        name_scope: 0,
                        audit_policy_id: 0,
                    },
                )
                .unwrap();
        }
        assert_eq!(datapath.attach_endpoint_watched("cl0", &mut watch).unwrap(), indices[0]);
        assert_eq!(datapath.attach_endpoint("sv0").unwrap(), indices[1]);
        datapath.forget_stale().unwrap();
        Self {
            client,
            server,
            datapath,
            runtime,
            stop,
            worker,
            punted,
            last_frame,
            tells_boundaries,
            holds,
            indices,
            _dir: dir,
        }
    }

    fn counter(&self, counter: Counter) -> u64 {
        self.datapath.counters().unwrap()[counter as usize]
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.datapath.counters().unwrap()[reason as usize]
    }

    fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.worker.take().unwrap().join().unwrap();
        self.runtime.block_on(self.datapath.stop(false)).unwrap();
        for device in ["seventh0", "seventh0x"] {
            assert!(
                nix::net::if_::if_nametoindex(device).is_err(),
                "{device} is still there"
            );
        }
    }
}

fn ipcache([client, server]: [u32; 2]) -> HashMap<IpcachePrefix, IpcacheEntry> {
    [
        ("10.77.1.2", CLIENT, client),
        ("fd77:1::2", CLIENT, client),
        ("10.77.2.2", SERVER, server),
        ("fd77:2::2", SERVER, server),
    ]
    .into_iter()
    .map(|(ip, identity, ifindex)| {
        let prefix = IpcachePrefix {
            addr: mapped(ip.parse().unwrap()),
            prefix_len: 128,
        };
        (prefix, IpcacheEntry { identity, ifindex })
    })
    .collect()
}

/// The server takes everything, then answers with it.
fn echo_once(lab: &Lab, address: SocketAddr, bytes: usize) -> usize {
    let (tell, told) = mpsc::channel();
    let server = lab.server.spawn(move || {
        let listener = TcpListener::bind(address).unwrap();
        tell.send(()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut data = vec![0; bytes];
        stream.read_exact(&mut data).unwrap();
        stream.write_all(&data).unwrap();
    });
    told.recv().unwrap();
    let client = lab.client.spawn(move || {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10)).unwrap();
        let data: Vec<u8> = (0..bytes).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let mut back = vec![0; bytes];
        let mut writer = stream.try_clone().unwrap();
        let sent = data.clone();
        let write = thread::spawn(move || writer.write_all(&sent).unwrap());
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.read_exact(&mut back).unwrap();
        write.join().unwrap();
        assert!(back == data, "bytes arrived changed");
        back.len()
    });
    let got = client.join().unwrap();
    server.join().unwrap();
    got
}

fn row(direction: Direction, identity: u32, port: u16, verdict: PolicyVerdict) -> (u32, PolicyKey, PolicyEntry) {
    let key = PolicyKey::new(1, identity, direction, TCP, port);
    (POLICY_PREFIX_FULL, key, entry(verdict, 7))
}

const fn entry(verdict: PolicyVerdict, rule_set: u32) -> PolicyEntry {
    PolicyEntry {
        verdict: verdict as u8,
        reason: 0,
        flags: 0,
        pad: 0,
        rule_set,
    }
}

fn any(direction: Direction, verdict: PolicyVerdict) -> (u32, PolicyKey, PolicyEntry) {
    let key = PolicyKey::new(1, IDENTITY_ANY, direction, 0, 0);
    (POLICY_PREFIX_ANY_PROTO, key, entry(verdict, 0))
}

/// Runs a test on a thread that may change its namespaces.
fn isolated(test: impl FnOnce() + Send + 'static) {
    if let Err(panic) = thread::spawn(test).join() {
        std::panic::resume_unwind(panic);
    }
}

fn inspected_traffic_arrives_unchanged(attach: AttachMode, mtu: u32) {
    let lab = Lab::new(
        attach,
        mtu,
        &[
            any(Direction::Egress, PolicyVerdict::Allow),
            row(Direction::Ingress, CLIENT, 8080, PolicyVerdict::Inspect),
        ],
    );
    for address in ["10.77.2.2:8080", "[fd77:2::2]:8080"] {
        let address: SocketAddr = address.parse().unwrap();
        assert_eq!(echo_once(&lab, address, 300_000), 300_000);
    }
    assert!(lab.punted.load(Ordering::Relaxed) > 10, "nothing was punted");
    // Super-packets are cut on the way, so more frames come out of the punt pair than went in.
    assert!(lab.counter(Counter::Punted) <= lab.counter(Counter::ToWorker));
    assert_eq!(lab.counter(Counter::Reinjected), lab.punted.load(Ordering::Relaxed));
    lab.end();
}

#[test]
fn inspected_traffic_passes_the_worker_and_arrives_unchanged() {
    isolated(|| inspected_traffic_arrives_unchanged(AttachMode::Auto, 1500));
}

#[test]
fn inspected_traffic_passes_with_clsact_instead_of_tcx() {
    isolated(|| inspected_traffic_arrives_unchanged(AttachMode::Clsact, 1500));
}

#[test]
fn inspected_traffic_passes_with_jumbo_frames() {
    isolated(|| inspected_traffic_arrives_unchanged(AttachMode::Auto, 9000));
}

/// An Ethernet frame with these tags around an IPv4 UDP datagram from the client to the server.
fn tagged_frame(tags: &[(u16, u16)]) -> Vec<u8> {
    let mut frame = vec![0x02, 0xaa, 0, 0, 0, 1, 0x02, 0xbb, 0, 0, 0, 2];
    for (protocol, id) in tags {
        frame.extend(protocol.to_be_bytes());
        frame.extend(id.to_be_bytes());
    }
    frame.extend([
        0x08, 0x00, 0x45, 0, 0, 32, 0, 1, 0, 0, 64, 17, 0, 0, 10, 77, 1, 2, 10, 77, 2, 2,
    ]);
    frame.extend([0x10, 0x00, 0x1f, 0x90, 0, 12, 0, 0]);
    frame.extend(*b"ping");
    frame
}

/// Sends one raw frame out of the device.
fn send_frame(device: &str, frame: &[u8]) {
    send_through(&device_socket(device), frame);
}

/// A socket that sends raw frames out of the device, whoever uses it.
fn device_socket(device: &str) -> OwnedFd {
    // SAFETY: no preconditions; the result is checked.
    let raw = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) };
    assert!(raw >= 0, "packet socket");
    // SAFETY: made above and owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: all-zero bytes are a valid address.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
    address.sll_ifindex = i32::try_from(nix::net::if_::if_nametoindex(device).unwrap()).unwrap();
    let length = u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap();
    // SAFETY: passes a live address and its size.
    let bound = unsafe { libc::bind(raw, (&raw const address).cast(), length) };
    assert_eq!(bound, 0, "bind");
    socket
}

fn send_through(socket: &OwnedFd, frame: &[u8]) {
    match nix::unistd::write(socket, frame) {
        Ok(sent) => assert_eq!(sent, frame.len()),
        // The gate at this device's way out has dropped it; the counters say why.
        Err(nix::errno::Errno::ENOBUFS) => {}
        Err(e) => panic!("{e}"),
    }
}

fn tagged_frames_come_back_whole(tags: &'static [(u16, u16)]) {
    let key = PolicyKey::new(1, SERVER, Direction::Egress, 17, 8080);
    let row = (POLICY_PREFIX_FULL, key, entry(PolicyVerdict::Inspect, 7));
    let lab = Lab::new(AttachMode::Auto, 1500, &[row]);
    let sent = tagged_frame(tags);
    let frame = sent.clone();
    lab.client.run(move || send_frame("eth0", &frame));
    let deadline = Instant::now() + Duration::from_secs(5);
    while lab.counter(Counter::Reinjected) == 0 {
        assert!(Instant::now() < deadline, "it came back");
        thread::sleep(Duration::from_millis(10));
    }
    let seen = lab.last_frame.lock().unwrap().clone();
    assert_eq!(seen[12..], sent[12..], "the worker saw another frame");
    assert_eq!(lab.counter(Counter::Reinjected), 1);
    lab.end();
}

#[test]
fn a_frame_with_one_vlan_tag_reaches_the_worker_and_comes_back_whole() {
    isolated(|| tagged_frames_come_back_whole(&[(0x8100, 100)]));
}

#[test]
fn a_frame_with_two_vlan_tags_reaches_the_worker_and_comes_back_whole() {
    isolated(|| tagged_frames_come_back_whole(&[(0x88a8, 100), (0x8100, 200)]));
}

type Socket = ([u8; 4], u16);

/// The endpoint `cl0`, as client and as server, and somebody outside who is not there.
const OWN_CLIENT: Socket = ([10, 77, 1, 2], 40_000);
const OWN_SERVER: Socket = ([10, 77, 1, 2], 8080);
const OTHER_SERVER: Socket = ([10, 77, 2, 9], 8080);
const OTHER_CLIENT: Socket = ([10, 77, 2, 9], 40_000);

const FIN: u8 = 1;
const SYN: u8 = 2;
const ACK: u8 = 16;

fn segment(from: Socket, to: Socket, seq: u32, ack: u32, flags: u8, payload: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    let length = 40 + u16::try_from(payload).unwrap();
    frame.extend([0x45, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, TCP, 0, 0]);
    frame.extend([from.0, to.0].concat());
    frame.extend([from.1.to_be_bytes(), to.1.to_be_bytes()].concat());
    frame.extend([seq.to_be_bytes(), ack.to_be_bytes()].concat());
    frame.extend([0x50, flags, 4, 0, 0, 0, 0, 0]);
    frame.resize(frame.len() + payload, b'x');
    frame
}

/// Sends from the endpoint, and waits until it has been decided.
fn from_endpoint(lab: &Lab, frame: Vec<u8>) {
    lab.client.run(move || send_frame("eth0", &frame));
    thread::sleep(Duration::from_millis(60));
}

/// Sends to the endpoint, as somebody outside.
fn to_endpoint(frame: &[u8]) {
    send_frame("cl0", frame);
}

fn inspected_row() -> (u32, PolicyKey, PolicyEntry) {
    row(Direction::Egress, IDENTITY_ANY, 8080, PolicyVerdict::Inspect)
}

/// An inspected connection from the endpoint, opened with the number 1000.
fn open_inspected() -> Lab {
    open_inspected_with(Settings::default())
}

fn open_inspected_with(settings: Settings) -> Lab {
    let lab = Lab::with(settings, 1500, &[inspected_row()]);
    from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, 1000, 0, SYN, 0));
    to_endpoint(&segment(OTHER_SERVER, OWN_CLIENT, 5000, 1001, SYN | ACK, 0));
    lab
}

#[test]
fn an_acknowledgement_opens_nothing_and_counts_only_for_what_was_let_through() {
    isolated(|| {
        let lab = open_inspected();
        let acknowledge = |ack: u32| to_endpoint(&segment(OTHER_SERVER, OWN_CLIENT, 5001, ack, ACK, 0));
        let check = |label: &str, seq: u32, acked: u32| {
            let before = lab.counter(Counter::Punted);
            from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, seq, 5001, ACK, 100));
            assert_eq!(lab.counter(Counter::Punted) - before, 1, "{label}");
            let meta = PuntMeta::decode(lab.last_frame.lock().unwrap().first_chunk().unwrap()).unwrap();
            assert_eq!((meta.acked_seq, meta.clean), (Some(acked), true), "{label}");
        };
        acknowledge(1001 + 50_000);
        check("acknowledged and never sent", 1001, 1001);
        acknowledge(1101);
        check("sent and acknowledged", 1001, 1101);
        for step in 0..100 {
            from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, 1101 + step, 5001, ACK | FIN, 0));
            acknowledge(1102 + step);
        }
        check("behind a row of bare FINs", 1101, 1101);
        lab.end();
    });
}

#[test]
fn a_connection_does_not_begin_again_with_the_numbers_of_the_one_before() {
    isolated(|| {
        let lab = open_inspected();
        let syn = segment(OWN_CLIENT, OTHER_SERVER, 1000, 0, SYN, 0);
        from_endpoint(&lab, syn.clone());
        assert_eq!(lab.drops(DropReason::SequenceReused), 0, "a SYN sent again");
        from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, 1001, 5001, ACK, 100));
        from_endpoint(&lab, syn);
        assert_eq!(lab.drops(DropReason::SequenceReused), 1);
        from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, 2000, 0, SYN, 0));
        assert_eq!(
            lab.drops(DropReason::SequenceReused),
            1,
            "other numbers are another connection"
        );
        lab.end();
    });
}

#[test]
fn an_answer_without_its_connection_does_not_open_the_way_for_questions() {
    isolated(|| {
        let rows = [
            any(Direction::Egress, PolicyVerdict::Allow),
            row(Direction::Ingress, IDENTITY_ANY, 8080, PolicyVerdict::Inspect),
        ];
        let lab = Lab::new(AttachMode::Auto, 1500, &rows);
        from_endpoint(&lab, segment(OWN_SERVER, OTHER_CLIENT, 9000, 1, ACK, 50));
        assert_eq!(lab.drops(DropReason::UnknownConnection), 1);
        to_endpoint(&segment(OTHER_CLIENT, OWN_SERVER, 1, 9050, ACK, 50));
        thread::sleep(Duration::from_millis(60));
        assert_eq!(lab.counter(Counter::Punted), 1, "what may be a question is read");
        // Its own connections, older than the table, go on: their other side may not open any.
        from_endpoint(&lab, segment(OWN_CLIENT, ([10, 77, 2, 9], 443), 9000, 1, ACK, 50));
        assert_eq!(lab.drops(DropReason::UnknownConnection), 1);
        from_endpoint(&lab, segment(([10, 77, 1, 2], 443), OTHER_CLIENT, 9000, 1, ACK, 50));
        assert_eq!(
            lab.drops(DropReason::UnknownConnection),
            2,
            "nobody may ask at this port"
        );
        lab.end();
    });
}

#[test]
fn fragments_pass_only_behind_an_allowed_first_fragment() {
    isolated(|| {
        let udp = |port, verdict: PolicyVerdict| {
            let key = PolicyKey::new(1, CLIENT, Direction::Ingress, 17, port);
            let entry = PolicyEntry {
                reason: 1,
                ..entry(verdict, 0)
            };
            (POLICY_PREFIX_FULL, key, entry)
        };
        let lab = Lab::new(
            AttachMode::Auto,
            1500,
            &[
                any(Direction::Egress, PolicyVerdict::Allow),
                udp(7000, PolicyVerdict::Allow),
                udp(7001, PolicyVerdict::Deny),
            ],
        );
        let receive = |port: u16| {
            lab.server.run(move || {
                let socket = UdpSocket::bind(("10.77.2.2", port)).unwrap();
                socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
                socket
            })
        };
        let (allowed, denied) = (receive(7000), receive(7001));
        lab.client.run(|| {
            let socket = UdpSocket::bind("10.77.1.2:0").unwrap();
            for port in [7000_u16, 7001] {
                socket.send_to(&[7; 6000], ("10.77.2.2", port)).unwrap();
            }
        });
        let mut buffer = vec![0; 8000];
        assert_eq!(allowed.recv(&mut buffer).unwrap(), 6000);
        assert!(denied.recv(&mut buffer).is_err());
        assert!(
            lab.drops(DropReason::FragmentNotFound) >= 3,
            "the rest of the denied datagram"
        );
        lab.end();
    });
}

#[test]
fn what_no_rule_allows_is_dropped_and_counted_with_its_reason() {
    isolated(|| {
        let lab = Lab::new(
            AttachMode::Auto,
            1500,
            &[
                any(Direction::Egress, PolicyVerdict::Allow),
                row(Direction::Ingress, CLIENT, 8080, PolicyVerdict::Allow),
            ],
        );
        assert_eq!(echo_once(&lab, "10.77.2.2:8080".parse().unwrap(), 1000), 1000);
        let refused: SocketAddr = "10.77.2.2:8081".parse().unwrap();
        let result = lab
            .client
            .run(move || TcpStream::connect_timeout(&refused, Duration::from_millis(300)));
        assert!(result.is_err());
        assert!(lab.drops(DropReason::PolicyDenied) >= 1);
        assert_eq!(lab.counter(Counter::Punted), 0);
        lab.end();
    });
}

#[test]
fn an_endpoint_cannot_send_from_an_address_that_is_not_its_own() {
    isolated(|| {
        let mut lab = Lab::new(AttachMode::Auto, 1500, &[any(Direction::Egress, PolicyVerdict::Allow)]);
        lab.client.run(|| {
            ip("addr add 10.99.9.9/32 dev lo");
            let socket = UdpSocket::bind("10.99.9.9:0").unwrap();
            socket.send_to(b"spoofed", "10.77.2.2:9").unwrap();
        });
        thread::sleep(Duration::from_millis(50));
        assert_eq!(lab.drops(DropReason::InvalidSourceIp), 1);
        // Nor one that no policy speaks of.
        let unmanaged = Endpoint {
            id: 1,
            identity: CLIENT,
            policy_id: 1,
            epoch: 2,
            flags: 0,
            name_scope: 0,
            audit_policy_id: 0,
        };
        lab.datapath.set_endpoint(lab.indices[0], unmanaged).unwrap();
        let before = lab.counter(Counter::Unmanaged);
        lab.client.run(|| {
            for (own, text) in [("10.99.9.9:0", "spoofed"), ("10.77.1.2:0", "own")] {
                let socket = UdpSocket::bind(own).unwrap();
                socket.send_to(text.as_bytes(), "10.77.2.2:9").unwrap();
            }
        });
        thread::sleep(Duration::from_millis(50));
        assert_eq!(lab.drops(DropReason::InvalidSourceIp), 2);
        assert!(lab.counter(Counter::Unmanaged) > before);
        lab.end();
    });
}

#[test]
fn a_changed_epoch_decides_live_flows_again() {
    isolated(|| {
        let mut lab = Lab::new(
            AttachMode::Auto,
            1500,
            &[
                any(Direction::Egress, PolicyVerdict::Allow),
                row(Direction::Ingress, CLIENT, 8080, PolicyVerdict::Allow),
            ],
        );
        let address: SocketAddr = "10.77.2.2:8080".parse().unwrap();
        let (tell, told) = mpsc::channel();
        let server = lab.server.spawn(move || {
            let listener = TcpListener::bind(address).unwrap();
            tell.send(()).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
            let mut data = Vec::new();
            let _ = stream.read_to_end(&mut data);
            data
        });
        told.recv().unwrap();
        let mut stream = lab.client.run(move || TcpStream::connect(address)).unwrap();
        stream.write_all(b"before").unwrap();
        thread::sleep(Duration::from_millis(50));
        // An empty policy under another number: what was allowed is denied now.
        let endpoint = Endpoint {
            id: 1,
            identity: SERVER,
            policy_id: 2,
            epoch: 2,
            flags: EndpointFlags::ENFORCE_INGRESS | EndpointFlags::ENFORCE_EGRESS,
            name_scope: 0,
            audit_policy_id: 0,
        };
        lab.datapath.set_endpoint(lab.indices[1], endpoint).unwrap();
        stream.write_all(b"after").unwrap();
        assert_eq!(server.join().unwrap(), b"before");
        assert!(lab.drops(DropReason::PolicyDenied) >= 1);
        lab.end();
    });
}

#[test]
fn replies_and_icmp_pass_only_with_their_flow() {
    isolated(|| {
        let echo_request = |direction| {
            let key = PolicyKey::new(1, IDENTITY_ANY, direction, 1, 8);
            (POLICY_PREFIX_FULL, key, entry(PolicyVerdict::Allow, 0))
        };
        let lab = Lab::new(
            AttachMode::Auto,
            1500,
            &[
                echo_request(Direction::Egress),
                echo_request(Direction::Ingress),
                any(Direction::Egress, PolicyVerdict::Allow),
            ],
        );
        let ping = |target: &'static str| {
            move || {
                Command::new("ping")
                    .args(["-c", "1", "-W", "1", target])
                    .output()
                    .expect("ping is needed (apt-get install iputils-ping)")
                    .status
                    .success()
            }
        };
        assert!(lab.client.run(ping("10.77.2.2")), "echo and its reply are allowed");
        assert!(
            !lab.client.run(ping("fd77:2::2")),
            "no rule speaks of ICMPv6 on ingress"
        );
        // A closed port answers with an ICMP error, which belongs to the flow that caused it.
        let refused = lab.client.run(|| {
            let socket = UdpSocket::bind("10.77.1.2:0").unwrap();
            socket.connect("10.77.1.1:9").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            socket.send(b"anybody?").unwrap();
            socket.recv(&mut [0; 16]).unwrap_err().kind()
        });
        assert_eq!(refused, std::io::ErrorKind::ConnectionRefused);
        assert!(lab.counter(Counter::ForwardedReply) >= 2);
        lab.end();
    });
}
