//! A line that loses packets: streams with holes, repeated and reordered segments, and still one verdict per request.

use std::{
    io::{self, Read as _},
    net::SocketAddr,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use seventh::lab::Lab;

use crate::{
    client::{Connection, PATIENCE},
    requests::{assert_refused, in_client},
    server::{Pattern, checksum},
    stage::{PUBLIC, binary, lab, policy},
};

const UPLOAD: u64 = 8 << 20;
const REQUESTS: u32 = 150;

/// The client's line gets a queue so short that it drops what TCP sends at once.
fn stage_with_lossy_line() -> Option<(Lab, crate::server::Tally)> {
    let mut lab = lab()?;
    let tally = crate::server::start(lab.endpoint("server").unwrap()).unwrap();
    lab.start_agent(binary(), &policy(PUBLIC), "").unwrap();
    let qdisc = "qdisc add dev eth0 root tbf rate 80mbit burst 3000 limit 12000";
    let client = lab.endpoint("client").unwrap();
    // Whole packets, not super-packets, meet the queue.
    for segmentation in ["gso_max_segs 1", "gso_max_size 1500"] {
        client.ip(&format!("link set eth0 {segmentation}")).unwrap();
    }
    let done = client.command("tc").args(qdisc.split(' ')).status().unwrap();
    assert!(done.success());
    Some((lab, tally))
}

/// Packets that the client's queue has dropped.
fn dropped(lab: &Lab) -> u64 {
    let output = lab
        .endpoint("client")
        .unwrap()
        .command("tc")
        .args(["-s", "qdisc", "show", "dev", "eth0"])
        .output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let count = text
        .split("dropped ")
        .nth(1)
        .and_then(|rest| rest.split(',').next())
        .unwrap();
    count.parse().unwrap()
}

#[test]
fn an_upload_over_a_lossy_line_arrives_whole() {
    let Some((lab, _)) = stage_with_lossy_line() else {
        return;
    };
    let sum = in_client(&lab, |address| {
        let mut connection = Connection::open(address, PATIENCE).unwrap();
        let head = format!("PUT /bytes HTTP/1.1\r\nHost: a\r\nContent-Length: {UPLOAD}\r\n\r\n");
        connection.send(head.as_bytes()).unwrap();
        io::copy(&mut Pattern::default().take(UPLOAD), &mut connection.stream).unwrap();
        String::from_utf8(connection.answer().unwrap().body).unwrap()
    });
    assert_eq!(sum, checksum(&mut Pattern::default().take(UPLOAD)).unwrap().to_string());
    assert!(dropped(&lab) > 20, "{} packets lost", dropped(&lab));
}

#[test]
fn heads_in_many_segments_over_a_lossy_line_get_each_its_own_verdict() {
    let Some((lab, tally)) = stage_with_lossy_line() else {
        return;
    };
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let allowed = in_client(&lab, move |address| long_requests(address, seed));
    assert_eq!(*tally.lock().unwrap(), allowed);
    assert!(dropped(&lab) > 20, "{} packets lost", dropped(&lab));
}

/// Request lines of those that were allowed.
fn long_requests(address: SocketAddr, seed: u64) -> Vec<String> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut connection = Connection::open(address, PATIENCE).unwrap();
    let mut allowed = Vec::new();
    for number in 0..REQUESTS {
        let deny = random.random_bool(0.2);
        let line = format!("GET /{}/{number} HTTP/1.1", if deny { "denied" } else { "public" });
        let padding = "p".repeat(random.random_range(10_000..60_000));
        connection
            .send(format!("{line}\r\nHost: a\r\nX-Padding: {padding}\r\n\r\n").as_bytes())
            .unwrap();
        let answer = connection
            .answer()
            .unwrap_or_else(|e| panic!("request {number}, {line}: {e}"));
        if deny {
            assert_refused(&answer);
            connection = Connection::open(address, PATIENCE).unwrap();
        } else {
            assert_eq!(answer.status, 200, "request {number}, {line}");
            allowed.push(line);
        }
    }
    allowed
}
