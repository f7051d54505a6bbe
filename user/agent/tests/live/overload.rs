//! More than the engine can take: who floods it takes its own turns, honest clients go on, memory stays bounded, and when the
//! flood ends everything is as before.

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::signal::Signal,
    unistd::Pid,
};
use seventh::lab::Lab;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    client::{PATIENCE, ask_while, get},
    stage::{CAST, MTU, PUBLIC, binary, drops, lab_of, policy, skip, status},
};

/// How long each flood is kept up; `SEVENTH_FLOOD_MS` says otherwise.
const FLOOD_MS: u64 = 1500;
/// Connections that send the beginning of a request and then nothing; `SEVENTH_SLOW_CONNECTIONS` says otherwise.
const SLOW_CONNECTIONS: u64 = 1500;
/// What a flood or a crowd may add to the agent's memory, in KiB: less than its limits allow it (`heldBytesMax`, 64 MiB).
pub(crate) const GROWTH_MAX_KIB: u64 = 96 << 10;

/// Of this one no rule speaks: what goes there ends in the kernel.
const UNKNOWN_PORT: u16 = 5353;
/// How long one measure takes of who has a processor of its own, and how often each is taken; `SEVENTH_ROUNDS` says otherwise.
const SLICE: Duration = Duration::from_millis(100);
const ROUNDS: u64 = 6;
/// What must be left of its rate, even while builds and other tests use the same processors.
const RATE_KEPT_MIN: f64 = 0.3;

/// Beside the usual policy of the server: the flooder may ask it for pages as the client may, and for few names.
pub(crate) fn policies() -> String {
    let flooder = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: flood, namespace: default}\nspec:\n  \
                   endpointSelector: {matchLabels: {app: flood}}\n  egress:\n  - toEndpoints: [{matchLabels: {app: server}}]\n    \
                   toPorts:\n    - {ports: [{port: \"53\", protocol: UDP}], rules: {dns: [{matchName: ok.test}]}}\n    \
                   - {ports: [{port: \"8080\", protocol: TCP}]}\n";
    let pages = policy(PUBLIC)
        .replace("name: server,", "name: flooded,")
        .replace("app: client", "app: flood");
    [policy(PUBLIC), pages, flooder.to_owned()].join("---\n")
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |value| value.parse().unwrap())
}

/// A question for a name that nobody has asked for before (RFC 1035 section 4.1).
fn question(number: u32) -> Vec<u8> {
    let mut query = number.to_be_bytes()[2..].to_vec();
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in [
        format!("x{:08x}", number.wrapping_mul(0x9e37_79b1)),
        "flood".to_owned(),
        "test".to_owned(),
    ] {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.into_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

/// A first segment of TCP without its checksum, which nobody but the gate will see: the port is the answer to it.
fn syn(from: Ipv4Addr, to: Ipv4Addr, port: u16, sequence: u32) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(port.to_be_bytes());
    packet.extend(8080_u16.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.extend([0, 0, 0, 0, 0x50, 2, 4, 0, 0, 0, 0, 0]);
    packet
}

/// Floods from the endpoint of this name until it is told to stop; says how much it sent.
struct Flood {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<nix::Result<u64>>>,
}

impl Flood {
    fn start<F>(lab: &Lab, threads: usize, send: impl Fn() -> F) -> Self
    where
        F: FnMut(u32) + Send + 'static,
    {
        let stop = Arc::new(AtomicBool::new(false));
        let flooder = lab.endpoint("flood").unwrap();
        let start = |_| {
            let (told, mut send) = (Arc::clone(&stop), send());
            let flood = move || {
                let mut sent = 0;
                while !told.load(Ordering::Relaxed) {
                    send(sent);
                    sent = sent.wrapping_add(1);
                }
                u64::from(sent)
            };
            flooder.start(flood).unwrap()
        };
        let threads = (0..threads).map(start).collect();
        Self { stop, threads }
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads
            .into_iter()
            .map(|thread| thread.join().unwrap().unwrap())
            .sum()
    }
}

/// A flood of questions for names at random.
fn ask_for_names(lab: &Lab, port: u16, threads: usize) -> Flood {
    let server = lab.endpoint("server").unwrap().ipv4;
    Flood::start(lab, threads, || {
        let connect = move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect((server, port)).unwrap();
            socket
        };
        let socket = lab.endpoint("flood").unwrap().run(connect).unwrap();
        move |number| {
            let _ = socket.send(&question(number));
        }
    })
}

/// Requests of an honest endpoint on one connection in this time: how many were answered, and the longest wait.
fn honest(lab: &Lab, from: &str, time: Duration) -> (u32, Duration) {
    let server = SocketAddr::from((lab.endpoint("server").unwrap().ipv4, 8080));
    let ask = move || {
        let began = Instant::now();
        // Once at least.
        ask_while(server, |answered| answered == 0 || began.elapsed() < time)
    };
    let answers = lab.endpoint(from).unwrap().run(ask).unwrap();
    let longest = answers.iter().map(|(_, took)| *took).max().unwrap();
    (u32::try_from(answers.len()).unwrap(), longest)
}

/// Resident memory of a process, in KiB.
pub(crate) fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What honest clients see beside a flood and after it, in words.
fn beside(lab: &Lab, name: &str, flood: Flood, time: Duration, out: &mut String) {
    thread::sleep(Duration::from_millis(100));
    let (inspected, longest) = honest(lab, "client", time);
    let (carried, _) = honest(lab, "friend", time);
    let sent = flood.end();
    let lost = status(lab)["workers"][0]["frames_lost"].as_u64().unwrap();
    let ended = Instant::now();
    let (_, first) = honest(lab, "client", Duration::from_millis(1));
    let recovered = ended.elapsed();
    let _ = writeln!(
        out,
        "{name}: {sent} sent, {lost} frames lost so far; answered beside it: {inspected} inspected (longest {longest:?}), \
         {carried} at L4; first answer after it {first:?}"
    );
    assert!(inspected >= 5, "{name}: honest requests go on: {inspected}");
    assert!(carried >= 5, "{name}: L4 goes on: {carried}");
    assert!(recovered < Duration::from_secs(1), "{name}: {recovered:?}");
}

#[test]
fn who_floods_the_engine_takes_its_own_turns_and_nobody_elses() {
    let Some(mut lab) = lab_of(&[CAST, &[("flood", "flood")]].concat(), MTU) else {
        return;
    };
    lab.start_nginx("server", None).unwrap();
    // What the kernel judges by itself does not meet the flood.
    let engine_judges = "inspection:\n  kernelJudges: false";
    let pid = lab.start_agent(binary(), &policies(), engine_judges).unwrap();
    let time = Duration::from_millis(number("SEVENTH_FLOOD_MS", FLOOD_MS));
    let (server, own) = (
        lab.endpoint("server").unwrap().ipv4,
        lab.endpoint("flood").unwrap().ipv4,
    );
    let before_kib = resident_kib(pid);
    let mut out = String::new();
    for (from, what) in [("client", "inspected"), ("friend", "at L4")] {
        let (answered, longest) = honest(&lab, from, time);
        let _ = writeln!(out, "alone: {answered} {what}, the longest took {longest:?}");
    }
    // The same flood on a port of which no rule speaks ends in the kernel: what it costs everybody is its sending.
    for (name, port) in [
        ("datagrams that the kernel drops", UNKNOWN_PORT),
        ("names at random", 53),
    ] {
        let flood = ask_for_names(&lab, port, 2);
        beside(&lab, name, flood, time, &mut out);
    }
    let flood = Flood::start(&lab, 1, || {
        let socket = lab
            .endpoint("flood")
            .unwrap()
            .run(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap())
            .unwrap();
        move |number| {
            let port = u16::try_from(number % 60_000).unwrap() + 1024;
            let to = SocketAddr::V4(SocketAddrV4::new(server, 8080)).into();
            let _ = socket.send_to(&syn(own, server, port, number), &to);
        }
    });
    beside(&lab, "SYNs to a port under HTTP rules", flood, time, &mut out);
    let slow = slow_heads(&lab, server);
    let (answered, longest) = honest(&lab, "client", time);
    let (fresh, _) = honest(&lab, "flood", Duration::from_millis(1));
    let _ = writeln!(
        out,
        "{} heads that never end: {answered} inspected beside them, the longest took {longest:?}",
        slow.len()
    );
    assert!(answered >= 5 && fresh >= 1);
    drop(slow);
    let grown_kib = resident_kib(pid).saturating_sub(before_kib);
    let _ = writeln!(out, "memory: {before_kib} KiB before, {grown_kib} KiB more at the end");
    println!("{out}");
    assert!(grown_kib < GROWTH_MAX_KIB, "{grown_kib} KiB");
}

/// Whose single question is lost gets no answer: nobody asks again.
#[test]
fn while_nobody_takes_frames_a_flood_leaves_room_for_who_comes_late() {
    let Some(mut lab) = lab_of(&[CAST, &[("flood", "flood"), ("asker", "flood")]].concat(), MTU) else {
        return;
    };
    lab.start_agent(binary(), &policies(), "").unwrap();
    let server = lab.endpoint("server").unwrap().ipv4;
    let ask = move |count: u32| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect((server, 53)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        for number in 0..count {
            socket.send(&question(number)).unwrap();
        }
        socket
    };
    // The ways to everybody are known.
    let refused = |socket: &UdpSocket| {
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer).unwrap();
        assert_eq!(answer[..length][3] & 15, 5, "REFUSED");
    };
    for endpoint in ["flood", "asker"] {
        refused(&lab.endpoint(endpoint).unwrap().run(move || ask(1)).unwrap());
    }
    lab.signal("agent", Signal::SIGSTOP).unwrap();
    // Three times what the ring holds.
    let _flood = lab.endpoint("flood").unwrap().run(move || ask(6144)).unwrap();
    let late = lab.endpoint("asker").unwrap().run(move || ask(1)).unwrap();
    lab.signal("agent", Signal::SIGCONT).unwrap();
    refused(&late);
    assert!(drops(&lab, "share_used_up") > 4000);
    // What the flood has taken is free again.
    refused(&lab.endpoint("flood").unwrap().run(move || ask(1)).unwrap());
}

/// Does it on one processor, with whatever it starts.
fn on_processor<T>(processor: usize, job: impl FnOnce() -> T) -> T {
    let this_thread = Pid::from_raw(0);
    let before = sched_getaffinity(this_thread).unwrap();
    let mut only = CpuSet::new();
    only.set(processor).unwrap();
    sched_setaffinity(this_thread, &only).unwrap();
    let done = job();
    sched_setaffinity(this_thread, &before).unwrap();
    done
}

/// Flooder and agent share one processor, an honest client and the server the other one: what the flood takes from them is
/// not time of the processor, and what the engine adds to that is told by a flood that does not reach it.
#[test]
fn who_has_a_processor_of_its_own_and_what_the_kernel_judges_keeps_its_rate_beside_a_flood_of_names() {
    let may_use = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let mut processors = (0..CpuSet::count()).filter(|processor| may_use.is_set(*processor).unwrap());
    let (Some(honest_one), Some(floods)) = (processors.next(), processors.next()) else {
        return skip("it takes two processors");
    };
    let Some(mut lab) = lab_of(&[CAST, &[("flood", "flood")]].concat(), MTU) else {
        return;
    };
    on_processor(honest_one, || lab.start_nginx("server", None)).unwrap();
    on_processor(floods, || lab.start_agent(binary(), &policies(), "")).unwrap();
    let kinds = [("friend", "at L4"), ("client", "that the kernel judges")];
    let mut answered = [[0; 3]; 2];
    for _ in 0..number("SEVENTH_ROUNDS", ROUNDS) {
        for (place, port) in [None, Some(UNKNOWN_PORT), Some(53)].into_iter().enumerate() {
            let flood = port.map(|port| on_processor(floods, || ask_for_names(&lab, port, 1)));
            thread::sleep(Duration::from_millis(20));
            for ((from, _), counts) in kinds.iter().zip(&mut answered) {
                counts[place] += on_processor(honest_one, || honest(&lab, from, SLICE)).0;
            }
            flood.map(Flood::end);
        }
    }
    for ((_, what), [alone, ends_in_kernel, reaches_engine]) in kinds.iter().zip(answered) {
        let kept = f64::from(reaches_engine) / f64::from(alone);
        println!(
            "requests {what}: {alone} alone, {ends_in_kernel} beside a flood that ends in the kernel, {reaches_engine} beside \
             one that reaches the engine: {kept:.2}"
        );
        assert!(kept > RATE_KEPT_MIN, "{what}: {kept}");
    }
    let lost = status(&lab)["workers"][0]["frames_lost"].as_u64().unwrap();
    println!("{lost} frames of the flood lost");
    assert!(lost > 0, "it was more than the engine takes");
}

/// Connections whose requests have begun and come to no end.
fn slow_heads(lab: &Lab, server: Ipv4Addr) -> Vec<TcpStream> {
    let count = number("SEVENTH_SLOW_CONNECTIONS", SLOW_CONNECTIONS);
    let begin = move || {
        let open = |_| {
            let mut stream = TcpStream::connect_timeout(&(server, 8080).into(), PATIENCE).unwrap();
            let head = get("/public");
            stream.write_all(&head.as_bytes()[..head.len() - 2]).unwrap();
            stream
        };
        (0..count).map(open).collect::<Vec<TcpStream>>()
    };
    let mut slow = lab.endpoint("flood").unwrap().run(begin).unwrap();
    // Nothing comes back, and nothing is cut.
    for stream in slow.iter_mut().step_by(100) {
        stream.set_nonblocking(true).unwrap();
        let nothing = stream.read(&mut [0; 1]).unwrap_err();
        assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
    }
    slow
}
