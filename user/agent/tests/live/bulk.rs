//! Large bodies through an L7 rule arrive whole, and do not pass through user space.

use std::{
    io::{self, Read as _},
    net::SocketAddr,
};

use seventh::lab::Lab;

use crate::{
    client::{Connection, PATIENCE},
    requests::in_client,
    server::{Pattern, checksum},
    stage::{MTU, PUBLIC, binary, lab_with_mtu, policy, status},
};

pub(crate) const SIZE: u64 = 100 << 20;
/// Frames of ordinary size that so many bytes fill.
const FRAMES: u64 = SIZE / 1448;

pub(crate) fn expected() -> u64 {
    checksum(&mut Pattern::default().take(SIZE)).unwrap()
}

/// Sends so much; returns the connection, and what the server counted.
pub(crate) fn send(address: SocketAddr) -> (Connection, u64) {
    let mut connection = Connection::open(address, PATIENCE).unwrap();
    let head = format!("PUT /bytes HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n");
    connection.send(head.as_bytes()).unwrap();
    io::copy(&mut Pattern::default().take(SIZE), &mut connection.stream).unwrap();
    let answer = connection.answer().unwrap();
    let counted = String::from_utf8(answer.body).unwrap().parse().unwrap();
    (connection, counted)
}

fn upload(address: SocketAddr) -> u64 {
    let (mut connection, counted) = send(address);
    // The connection goes on as before.
    assert_eq!(connection.get("/public").unwrap().status, 200);
    assert_eq!(connection.get("/denied").unwrap().status, 403);
    counted
}

/// Asks for so much; returns the connection, and what came.
pub(crate) fn receive(address: SocketAddr) -> (Connection, u64) {
    let mut connection = Connection::open(address, PATIENCE).unwrap();
    let head = format!("GET /bytes/{SIZE} HTTP/1.1\r\nHost: a\r\n\r\n");
    connection.send(head.as_bytes()).unwrap();
    let answer = connection.answer().unwrap();
    let sum = checksum(&mut answer.body.as_slice()).unwrap();
    (connection, sum)
}

fn download(address: SocketAddr) -> u64 {
    let (mut connection, sum) = receive(address);
    assert_eq!(connection.get("/denied").unwrap().status, 403);
    sum
}

fn both_ways(mtu: u32) -> Option<(Lab, u64)> {
    let mut lab = lab_with_mtu(mtu)?;
    let tally = crate::server::start(lab.endpoint("server").unwrap()).unwrap();
    lab.start_agent(binary(), &policy(PUBLIC), "").unwrap();
    let expected = expected();
    assert_eq!(in_client(&lab, upload), expected, "upload");
    assert_eq!(in_client(&lab, download), expected, "download");
    let seen = tally.lock().unwrap().clone();
    assert!(
        seen.len() == 3 && seen.iter().all(|line| !line.contains("denied")),
        "{seen:?}"
    );
    let received = status(&lab)["workers"][0]["frames_received"].as_u64().unwrap();
    Some((lab, received))
}

#[test]
fn a_hundred_megabytes_arrive_whole_both_ways_and_stay_in_the_kernel() {
    let Some((_lab, received)) = both_ways(MTU) else { return };
    assert!(
        received < FRAMES / 100,
        "{received} of {FRAMES} frames went through user space"
    );
}

#[test]
fn a_hundred_megabytes_arrive_whole_through_jumbo_frames() {
    both_ways(9000);
}
