//! Many requests, many connections, changing policies: each verdict right.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::{
    client::{Connection, PATIENCE, get},
    requests::{assert_refused, in_client},
    stage::{PUBLIC, policy, replace_policy, served, stage, status},
};

const REQUESTS: u32 = 10_000;
const CONNECTIONS: usize = 1000;

#[test]
fn ten_thousand_requests_in_random_order_get_each_its_own_verdict() {
    let Some(lab) = stage(PUBLIC, "") else { return };
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let allowed = in_client(&lab, move |address| mixed_requests(address, seed));
    // Each allowed one exactly once and in order, and nothing else.
    let seen: Vec<u32> = served(&lab)
        .iter()
        .filter_map(|line| line.split("/public/").nth(1)?.split(' ').next()?.parse().ok())
        .collect();
    assert_eq!(seen, allowed);
    assert_eq!(served(&lab).len(), allowed.len());
}

/// The numbers of the requests that were allowed. A refusal ends the connection; the next request opens another.
fn mixed_requests(address: SocketAddr, seed: u64) -> Vec<u32> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut connection = Connection::open(address, PATIENCE).unwrap();
    let mut allowed = Vec::new();
    for number in 0..REQUESTS {
        let deny = random.random_bool(0.1);
        let (method, path) = match (deny, random.random_bool(0.5)) {
            (false, _) => ("GET", format!("/public/{number}")),
            (true, false) => ("GET", format!("/denied/{number}")),
            (true, true) => ("DELETE", format!("/public/denied/{number}")),
        };
        let padding = "p".repeat(random.random_range(0..2000));
        let request = format!("{method} {path} HTTP/1.1\r\nHost: a\r\nX-Padding: {padding}\r\n\r\n");
        if random.random_bool(0.2) {
            let (first, second) = request.as_bytes().split_at(random.random_range(1..request.len()));
            connection.send(first).unwrap();
            connection.send(second).unwrap();
        } else {
            connection.send(request.as_bytes()).unwrap();
        }
        let answer = connection
            .answer()
            .unwrap_or_else(|e| panic!("request {number}, {method} {path}: {e}"));
        if deny {
            assert_refused(&answer);
            assert!(connection.rest().unwrap().is_empty());
            connection = Connection::open(address, PATIENCE).unwrap();
        } else {
            assert_eq!(answer.status, 200, "request {number}, {method} {path}");
            allowed.push(number);
        }
    }
    allowed
}

#[test]
fn a_thousand_connections_at_once_get_each_its_own_verdict() {
    let Some(lab) = stage(PUBLIC, "workers: 2\ninspection:\n  kernelJudges: false") else {
        return;
    };
    in_client(&lab, |address| {
        let mut connections: Vec<Connection> = (0..CONNECTIONS)
            .map(|_| Connection::open(address, PATIENCE).unwrap())
            .collect();
        for round in 0..3 {
            for connection in &mut connections {
                connection.send(get(&format!("/public/{round}")).as_bytes()).unwrap();
            }
            for connection in &mut connections {
                assert_eq!(connection.answer().unwrap().status, 200);
            }
        }
        for (number, connection) in connections.iter_mut().enumerate() {
            let path = if number % 2 == 0 { "/public/last" } else { "/denied" };
            connection.send(get(path).as_bytes()).unwrap();
        }
        for (number, connection) in connections.iter_mut().enumerate() {
            let answer = connection.answer().unwrap();
            if number % 2 == 0 {
                assert_eq!(answer.status, 200);
            } else {
                assert_refused(&answer);
            }
        }
    });
    assert!(!lab.nginx_log("server").contains("denied"));
    assert_eq!(served(&lab).len(), 3 * CONNECTIONS + CONNECTIONS / 2);
    // Workers tell how many frames they have seen a few times a second.
    let shares = || -> Vec<u64> {
        let status = status(&lab);
        let share = |i: usize| status["workers"][i]["frames_received"].as_u64().unwrap();
        (0..2).map(share).collect()
    };
    let deadline = Instant::now() + PATIENCE;
    while !shares().iter().all(|&share| share > 500) {
        assert!(Instant::now() < deadline, "both workers took part: {:?}", shares());
        thread::sleep(Duration::from_millis(50));
    }
    let status = status(&lab);
    assert_eq!(status["problems"].as_array().unwrap().len(), 0, "{status}");
}

/// Which of the two policies is in force: even = number of the only one that can be, odd = it is being replaced.
type Phase = Arc<AtomicU32>;

const FLIPS: u32 = 12;

#[test]
fn a_policy_replaced_under_load_gives_no_wrong_verdict() {
    let rules = |path: &str| format!("{{path: \"{path}\"}}, {{path: \"/always\"}}");
    let policies = [policy(&rules("/a")), policy(&rules("/b"))];
    let Some(lab) = stage(&rules("/a"), "") else { return };
    let (phase, done, judged) = (
        Phase::default(),
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let address = SocketAddr::from((lab.endpoint("server").unwrap().ipv4, 8080));
    thread::scope(|scope| {
        for first in 0..PATHS.len() {
            let client = lab.endpoint("client").unwrap();
            let (phase, done, judged) = (Arc::clone(&phase), Arc::clone(&done), Arc::clone(&judged));
            scope.spawn(move || {
                client
                    .run(move || ask_until_done(address, first, &phase, &done, &judged))
                    .unwrap();
            });
        }
        for flip in 1..=FLIPS {
            thread::sleep(Duration::from_millis(150));
            phase.fetch_add(1, Ordering::SeqCst);
            replace_policy(&lab, &policies[flip as usize % 2]);
            phase.fetch_add(1, Ordering::SeqCst);
        }
        thread::sleep(Duration::from_millis(150));
        done.store(true, Ordering::SeqCst);
    });
    let judged = judged.load(Ordering::SeqCst);
    println!("{judged} requests judged between {FLIPS} changes");
    assert!(judged > 500, "only {judged} requests between changes");
}

/// One that the first policy allows, one that the second allows, one that both allow, one that neither allows.
const PATHS: [&str; 4] = ["/a", "/b", "/always", "/never"];

/// Asks for all paths in turn, over connections that live as long as they may, and checks each answer that was asked for
/// and given under one and the same policy, or that is the same under both.
fn ask_until_done(address: SocketAddr, first: usize, phase: &AtomicU32, done: &AtomicBool, judged: &AtomicU64) {
    let mut connection = Connection::open(address, PATIENCE).unwrap();
    for path in PATHS.iter().cycle().skip(first) {
        if done.load(Ordering::SeqCst) {
            return;
        }
        let before = phase.load(Ordering::SeqCst);
        let answer = connection.get(path);
        let after = phase.load(Ordering::SeqCst);
        let stable = before == after && before.is_multiple_of(2);
        let status = match answer {
            Ok(answer) => answer.status,
            Err(e) => panic!("{path} in phase {before}..{after}: {e}"),
        };
        let allowed = match *path {
            "/always" => true,
            "/never" => false,
            path if stable => path == PATHS[before as usize / 2 % 2],
            // Between two policies either may have judged.
            _ => status == 200,
        };
        assert_eq!(
            status,
            if allowed { 200 } else { 403 },
            "{path} in phase {before}..{after}"
        );
        judged.fetch_add(u64::from(stable), Ordering::SeqCst);
        if status == 403 {
            connection = Connection::open(address, PATIENCE).unwrap();
        }
    }
}
