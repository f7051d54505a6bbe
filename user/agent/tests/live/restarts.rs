//! An agent that is killed and started again, and one that is replaced by another ABI's, under load and while its policy
//! changes: what is allowed goes on, and what is not does not get through in between.

use std::{
    fmt::Write as _,
    fs,
    io::Read as _,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use seventh::lab::{Lab, slower};
use seventh_abi::ABI_VERSION;

use crate::{
    client::{Connection, get, put},
    lifecycle::Prowler,
    requests::ask,
    server::{self, Pattern, Tally},
    stage::{CAST, MTU, binary, lab_of, policy, until, write_policy},
};

/// Restarts in the ordinary run; `SEVENTH_RESTARTS` says otherwise.
const RESTARTS: u32 = 4;
/// What the kernel carries alone must not notice an agent's end. A lost segment is sent again after 200 ms.
pub(crate) const STALL_MAX: Duration = Duration::from_millis(1000);
/// How a path is asked for.
type Ask = fn(&str) -> String;
/// What connections of one client ask for in turns: what the kernel judges by itself, what the engine judges, and both.
const INSPECTED: [&[Ask]; 3] = [&[get], &[put], &[get, put]];
/// Who judges the only request of a new connection, and how it asks.
const NEWCOMERS: [(&str, Ask); 2] = [("kernel", get), ("engine", put)];
/// What a new connection waits for an answer; then it is another one's turn.
const NEWCOMER_PATIENCE: Duration = Duration::from_millis(50);
/// A segment that nobody let through is sent again when it has waited once more for as long as it has so far.
const PATIENCE: Duration = Duration::from_secs(60);

/// Both allow `/public` and `/bytes`; one of them `/even`, the other `/odd`.
fn policies() -> [String; 2] {
    ["even", "odd"].map(|path| policy(&format!("{{path: \"/(public|bytes|{path})(/.*)?\"}}")))
}

/// Traffic that goes on until it is told to stop; each part fails if it is cut or refused.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    /// How many requests each inspected connection has had answered.
    answered: Arc<[AtomicU32; INSPECTED.len()]>,
    /// Requests, and the longest time that one took.
    inspected: Vec<JoinHandle<nix::Result<(u32, Duration)>>>,
    friend: JoinHandle<nix::Result<(u32, Duration)>>,
    /// Bytes, and the longest time without one.
    download: JoinHandle<nix::Result<(u64, Duration)>>,
    /// When new connections got an answer, as [`NEWCOMERS`].
    newcomers: [JoinHandle<nix::Result<Vec<Instant>>>; NEWCOMERS.len()],
    prowlers: Vec<Prowler>,
}

impl Load {
    pub(crate) fn start(lab: &Lab) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let server = SocketAddr::from((lab.endpoint("server").unwrap().ipv4, 8080));
        let go = || {
            let told = Arc::clone(&stop);
            move || !told.load(Ordering::SeqCst)
        };
        let answered = Arc::<[AtomicU32; INSPECTED.len()]>::default();
        let client = lab.endpoint("client").unwrap();
        let inspected = |number: usize| {
            let (goes_on, answered) = (go(), Arc::clone(&answered));
            let note = move |requests| answered[number].store(requests, Ordering::SeqCst);
            client
                .start(move || ask_on_one_connection(server, "/public/steady", INSPECTED[number], &goes_on, &note))
                .unwrap()
        };
        let newcomer = |(_, ask): (&str, Ask)| {
            let goes_on = go();
            client
                .start(move || arrive_again_and_again(server, ask, &goes_on))
                .unwrap()
        };
        let friend = lab.endpoint("friend").unwrap();
        let friends = go();
        let goes_on = go();
        Self {
            inspected: (0..INSPECTED.len()).map(inspected).collect(),
            friend: friend
                .start(move || ask_on_one_connection(server, "/friend", &[get], &friends, &|_| ()))
                .unwrap(),
            download: client.start(move || read_on_one_connection(server, &goes_on)).unwrap(),
            newcomers: NEWCOMERS.map(newcomer),
            prowlers: [("intruder", "/public/prowler"), ("client", "/denied")]
                .map(|(from, path)| Prowler::set_out(lab, from, path))
                .into(),
            answered,
            stop,
        }
    }

    /// Waits until each inspected connection has had answers to two more requests: one of them was asked now.
    pub(crate) fn goes_on(&self) {
        let count = || self.answered.each_ref().map(|count| count.load(Ordering::SeqCst));
        let before = count();
        until("inspected connections go on", || {
            before.iter().zip(count()).all(|(before, now)| now >= before + 2)
        });
    }

    /// Ends it and looks at what it saw, where nothing that the kernel carries waited for as long as `stall_max`. Returns when new connections were answered, as [`NEWCOMERS`], and what was seen in
    /// words.
    pub(crate) fn end(self, tally: &Tally, stall_max: Duration) -> ([Vec<Instant>; NEWCOMERS.len()], String) {
        let mut seen = String::new();
        self.stop.store(true, Ordering::SeqCst);
        for inspected in self.inspected {
            let (requests, longest) = inspected.join().expect("no inspected connection was cut").unwrap();
            let _ = writeln!(
                seen,
                "inspected connection: {requests} requests, the longest took {longest:?}"
            );
            assert!(requests >= 2);
        }
        let (requests, longest) = self.friend.join().expect("no L4 connection was cut").unwrap();
        let _ = writeln!(seen, "L4 connection: {requests} requests, the longest took {longest:?}");
        assert!(longest < stall_max, "{seen}");
        let (bytes, longest) = self.download.join().expect("no download was cut").unwrap();
        let _ = writeln!(seen, "download: {bytes} bytes, the longest pause was {longest:?}");
        assert!(longest < stall_max, "{seen}");
        let mut refused = 0;
        for prowler in self.prowlers {
            let answers = prowler.come_back();
            assert!(answers.len() > 5 && !answers.contains(&Ok(200)), "{answers:?}");
            refused += answers.len();
        }
        let arrived = tally.lock().unwrap();
        let wrong: Vec<&String> = arrived
            .iter()
            .filter(|line| line.contains("denied") || line.contains("prowler"))
            .collect();
        let _ = writeln!(
            seen,
            "{refused} denied attempts, {} of which reached the server",
            wrong.len()
        );
        assert!(wrong.is_empty(), "{wrong:?}");
        (self.newcomers.map(|newcomer| newcomer.join().unwrap().unwrap()), seen)
    }
}

fn ask_on_one_connection(
    server: SocketAddr,
    path: &str,
    turns: &[Ask],
    goes_on: &dyn Fn() -> bool,
    note: &dyn Fn(u32),
) -> (u32, Duration) {
    let mut connection = Connection::open(server, PATIENCE * slower().unwrap()).unwrap();
    let (mut requests, mut longest) = (0, Duration::ZERO);
    for ask in turns.iter().cycle() {
        if !goes_on() {
            break;
        }
        let asked = Instant::now();
        let answer = connection
            .send(ask(path).as_bytes())
            .and_then(|()| connection.answer())
            .unwrap_or_else(|e| panic!("{path}, request {requests}: {e}"));
        assert_eq!(answer.status, 200, "{path}, request {requests}");
        longest = longest.max(asked.elapsed());
        requests += 1;
        note(requests);
        thread::sleep(Duration::from_millis(5));
    }
    (requests, longest)
}

/// One connection after the other, each with one request: when they were answered.
fn arrive_again_and_again(server: SocketAddr, ask: Ask, goes_on: &dyn Fn() -> bool) -> Vec<Instant> {
    let mut answered = Vec::new();
    while goes_on() {
        let answer = Connection::open(server, NEWCOMER_PATIENCE * slower().unwrap()).and_then(|mut connection| {
            connection.send(ask("/public/new").as_bytes())?;
            connection.answer()
        });
        if answer.is_ok_and(|answer| answer.status == 200) {
            answered.push(Instant::now());
        }
        thread::sleep(Duration::from_millis(5));
    }
    answered
}

/// The longest time without an answer during each outage, in milliseconds.
fn gaps_ms(answered: &[Instant], outages: &[(Instant, Instant)]) -> Vec<u128> {
    let gap = |(killed, ready): &(Instant, Instant)| {
        let pairs = answered.windows(2).filter(|pair| pair[1] > *killed && pair[0] < *ready);
        let gaps = pairs.map(|pair| (pair[1] - pair[0]).as_millis());
        gaps.max().expect("new connections are answered again")
    };
    outages.iter().map(gap).collect()
}

/// A download without an end, at the pace of a slow line; each byte is compared.
fn read_on_one_connection(server: SocketAddr, goes_on: &dyn Fn() -> bool) -> (u64, Duration) {
    let mut connection = Connection::open(server, PATIENCE * slower().unwrap()).unwrap();
    connection
        .send(format!("GET /bytes/{} HTTP/1.1\r\nHost: server\r\n\r\n", u64::MAX / 2).as_bytes())
        .unwrap();
    let mut head = [0; 1];
    let mut end = Vec::new();
    while !end.ends_with(b"\r\n\r\n") {
        connection.stream.read_exact(&mut head).unwrap();
        end.extend(head);
    }
    // The server writes its pattern in pieces of this size.
    let (mut got, mut wanted) = (vec![0; 8 << 10], vec![0; 8 << 10]);
    let (mut pattern, mut bytes, mut longest) = (Pattern::default(), 0, Duration::ZERO);
    while goes_on() {
        let waiting = Instant::now();
        connection
            .stream
            .read_exact(&mut got)
            .unwrap_or_else(|e| panic!("byte {bytes}: {e}"));
        longest = longest.max(waiting.elapsed());
        pattern.read_exact(&mut wanted).unwrap();
        assert!(got == wanted, "other bytes after {bytes}");
        bytes += 8 << 10;
        thread::sleep(Duration::from_millis(1));
    }
    (bytes, longest)
}

/// What an agent of another ABI leaves is what this one leaves, under another number.
fn pretend_another_abi(lab: &Lab) {
    let pins = |version| lab.pin_dir().join(format!("maps-v{version}"));
    fs::rename(pins(ABI_VERSION), pins(ABI_VERSION + 1000)).unwrap();
}

fn restarts_under_load(more_config: &str, restarts: u32) -> String {
    let Some(mut lab) = lab_of(CAST, MTU) else {
        return String::new();
    };
    let tally = server::start(lab.endpoint("server").unwrap()).unwrap();
    let policies = policies();
    lab.start_agent(binary(), &policies[0], more_config).unwrap();
    let load = Load::start(&lab);
    load.goes_on();
    let mut outages = Vec::new();
    for restart in 1..=restarts {
        lab.end("agent", Signal::SIGKILL).unwrap();
        let killed = Instant::now();
        let policy = restart as usize % 2;
        write_policy(&lab, &policies[policy]);
        if restart == restarts {
            pretend_another_abi(&lab);
        }
        lab.launch_agent(binary()).unwrap();
        outages.push((killed, Instant::now()));
        let expected = if policy == 0 { [200, 403] } else { [403, 200] };
        let seen = ["/even", "/odd"].map(|path| ask(&lab, "client", path, PATIENCE));
        assert_eq!(seen, expected.map(Ok), "the policy that was written while no agent ran");
        load.goes_on();
    }
    let (answered, mut summary) = load.end(&tally, STALL_MAX * slower().unwrap());
    let _ = writeln!(
        summary,
        "{restarts} restarts; ms without an answer on new connections around each:"
    );
    for ((judge, _), answered) in NEWCOMERS.iter().zip(&answered) {
        let _ = writeln!(summary, "judged by the {judge}: {:?}", gaps_ms(answered, &outages));
    }
    let log = lab.agent_log();
    let carried = log.lines().filter(|line| line.contains("flows taken over")).count();
    assert!(carried > 0, "flows were taken over from another ABI");
    assert!(!lab.pin_dir().join(format!("maps-v{}", ABI_VERSION + 1000)).exists());
    lab.end("agent", Signal::SIGTERM).unwrap();
    assert!(!lab.pin_dir().exists());
    summary
}

#[test]
fn restarts_and_an_upgrade_under_load_cut_nothing_and_let_nothing_through() {
    let restarts = std::env::var("SEVENTH_RESTARTS").map_or(RESTARTS, |count| count.parse().unwrap());
    println!("{}", restarts_under_load("", restarts));
}

#[test]
fn an_upgrade_under_load_cuts_nothing_and_lets_nothing_through_under_clsact() {
    println!("{}", restarts_under_load("attach: clsact", 1));
}
