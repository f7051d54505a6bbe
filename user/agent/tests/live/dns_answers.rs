//! What comes back to a query, from a server that says what a test wants, and bounds on what is learned from it.

use std::{
    fmt::Write as _,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use seventh::lab::Lab;

use crate::{
    dns::{OUTSIDE, POLICY, ZONE, connects, dig, dns_stage, listing, query, start_agent_with},
    stage::{drops, lab, until},
};

/// A port for DNS that is not the usual one.
const OTHER_PORT: u16 = 5353;
/// Where nothing comes within this time, nothing comes.
const NOTHING: Duration = Duration::from_millis(300);

/// A server without a program: the test answers by itself.
fn bare_stage() -> Option<Lab> {
    let mut lab = lab()?;
    lab.start_nginx("server", None).unwrap();
    lab.play_outside("server", OUTSIDE).unwrap();
    let ports = format!("{{port: \"53\", protocol: ANY}}, {{port: \"{OTHER_PORT}\", protocol: UDP}}");
    let policy = POLICY.replace("{port: \"53\", protocol: ANY}", &ports);
    start_agent_with(&mut lab, &policy, "");
    Some(lab)
}

pub(crate) fn socket(lab: &Lab, endpoint: &str, address: impl Into<IpAddr>, port: u16) -> UdpSocket {
    let address = SocketAddr::new(address.into(), port);
    let socket = lab.endpoint(endpoint).unwrap().run(move || UdpSocket::bind(address));
    let socket = socket.unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

/// A client's socket and a server's, over the family of `server`.
fn pair(lab: &Lab, server: IpAddr, port: u16) -> (UdpSocket, UdpSocket) {
    let client = lab.endpoint("client").unwrap();
    let own: IpAddr = if server.is_ipv4() {
        client.ipv4.into()
    } else {
        client.ipv6.into()
    };
    let client = socket(lab, "client", own, 0);
    client.connect((server, port)).unwrap();
    (client, socket(lab, "server", server, port))
}

pub(crate) fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_535];
    let (len, from) = socket.recv_from(&mut buffer).unwrap();
    buffer.truncate(len);
    (buffer, from)
}

#[track_caller]
fn assert_nothing_comes(socket: &UdpSocket) {
    socket.set_read_timeout(Some(NOTHING)).unwrap();
    let kind = socket.recv(&mut [0; 16]).map_err(|e| e.kind());
    assert!(
        matches!(kind, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)),
        "{kind:?}"
    );
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
}

/// The answer to a query with these addresses.
fn answer(asked: &[u8], addresses: impl IntoIterator<Item = Ipv4Addr>) -> Vec<u8> {
    let mut bytes = asked.to_vec();
    bytes[2..4].copy_from_slice(&[0x81, 0x80]);
    let mut count: u16 = 0;
    for address in addresses {
        // The question's name, A, IN, 300 seconds.
        bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4]);
        bytes.extend(address.octets());
        count += 1;
    }
    bytes[6..8].copy_from_slice(&count.to_be_bytes());
    bytes
}

/// The answer to a query that leads to another name, with the address of that one.
pub(crate) fn answer_by_alias(asked: &[u8], target: &str, address: Ipv4Addr) -> Vec<u8> {
    let mut bytes = asked.to_vec();
    bytes[2..4].copy_from_slice(&[0x81, 0x80]);
    bytes[6..8].copy_from_slice(&[0, 2]);
    // Behind the header and before type and class.
    let query = query(0, target);
    let name = &query[12..query.len() - 4];
    // The question's name, CNAME, IN, 300 seconds.
    bytes.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 1, 44, 0]);
    bytes.push(u8::try_from(name.len()).unwrap());
    let place = 0xc000 | u16::try_from(bytes.len()).unwrap();
    bytes.extend(name);
    bytes.extend(place.to_be_bytes());
    // A, IN, 300 seconds.
    bytes.extend([0, 1, 0, 1, 0, 0, 1, 44, 0, 4]);
    bytes.extend(address.octets());
    bytes
}

fn changed(mut bytes: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    bytes[at] = byte;
    bytes
}

#[test]
fn only_the_answer_that_was_asked_for_comes_back_and_teaches() {
    let Some(lab) = bare_stage() else { return };
    let server = lab.endpoint("server").unwrap();
    let (v4, v6): (IpAddr, IpAddr) = (server.ipv4.into(), server.ipv6.into());
    assert_forged_answers_do_nothing(&lab, v4);
    assert_fragments_do_nothing(&lab, v4);
    for (server, port, name, last) in [(v6, 53, "www.shop.test", 1), (v4, OTHER_PORT, "x.shop.test", 2)] {
        let (client, server) = pair(&lab, server, port);
        client.send(&query(1, name)).unwrap();
        let (asked, from) = receive(&server);
        let sound = answer(&asked, [Ipv4Addr::new(198, 18, 1, last)]);
        server.send_to(&sound, from).unwrap();
        assert_eq!(receive(&client).0, sound);
        assert!(connects(&lab, &format!("198.18.1.{last}")), "{name}");
        client.send(&query(2, "denied.test")).unwrap();
        let (refusal, _) = receive(&client);
        assert_eq!((refusal[..2].to_vec(), refusal[3] & 0xf), (vec![0, 2], 5), "REFUSED");
        assert_nothing_comes(&server);
    }
}

/// Everything about an answer that can be wrong, each time with an address of its own, and then the sound one.
fn assert_forged_answers_do_nothing(lab: &Lab, server: IpAddr) {
    let (client, elsewhere) = (pair(lab, server, 53), socket(lab, "server", server, 5300));
    let (client, server) = client;
    client.send(&query(7, "allowed.test")).unwrap();
    let (asked, from) = receive(&server);
    let forged = |asked: &[u8], last| answer(asked, [Ipv4Addr::new(198, 18, 2, last)]);
    // The question ends with type and class.
    let (type_at, class_at) = (asked.len() - 3, asked.len() - 1);
    let all = [
        ("id", forged(&query(8, "allowed.test"), 1)),
        ("name", forged(&query(7, "www.shop.test"), 2)),
        ("type", forged(&changed(asked.clone(), type_at, 28), 3)),
        ("class", forged(&changed(asked.clone(), class_at, 3), 4)),
        ("a query", changed(forged(&asked, 5), 2, 1)),
    ];
    for (wrong, (what, bytes)) in (1..).zip(&all) {
        server.send_to(bytes, from).unwrap();
        until(what, || drops(lab, "dns_unsolicited_answer") == wrong);
    }
    elsewhere.send_to(&forged(&asked, 6), from).unwrap();
    assert_nothing_comes(&client);
    let sound = answer(&asked, [Ipv4Addr::new(198, 18, 1, 4)]);
    server.send_to(&sound, from).unwrap();
    assert_eq!(receive(&client).0, sound);
    server.send_to(&forged(&asked, 7), from).unwrap();
    until("a second answer", || drops(lab, "dns_unsolicited_answer") == 6);
    assert_nothing_comes(&client);
    assert_known(lab, &["198.18.1.4"]);
    assert!(connects(lab, "198.18.1.4") && !connects(lab, "198.18.2.2"));
}

/// An answer that is too large for the path comes in pieces, which nobody gets; the one that says that it was cut, does.
fn assert_fragments_do_nothing(lab: &Lab, server: IpAddr) {
    let (client, server) = pair(lab, server, 53);
    client.send(&query(9, "large.shop.test")).unwrap();
    let (asked, from) = receive(&server);
    let addresses = (0..200).map(|n| Ipv4Addr::new(198, 18, 3, n));
    server.send_to(&answer(&asked, addresses), from).unwrap();
    until("fragments are dropped", || drops(lab, "fragment_of_inspected_flow") > 0);
    assert_nothing_comes(&client);
    assert_known(lab, &["198.18.1.4"]);
    let cut = changed(answer(&asked, []), 2, 0x83);
    server.send_to(&cut, from).unwrap();
    assert_eq!(receive(&client).0, cut);
}

#[track_caller]
fn assert_known(lab: &Lab, expected: &[&str]) {
    for table in [["fqdn", "cache", "list"], ["bpf", "names", "list"]] {
        let rows = listing(lab, &table);
        let known: Vec<&str> = rows.iter().map(|row| row["ip"].as_str().unwrap()).collect();
        assert_eq!(known, expected, "{table:?}");
    }
}

#[test]
fn what_is_learned_has_its_bounds_its_grace_and_comes_over_tcp_if_it_is_long() {
    let mut zone = ZONE.replace("allowed.test. 300", "allowed.test. 1");
    for n in 0..100 {
        let _ = writeln!(zone, "long.shop.test. 300 IN A 198.18.3.{n}");
    }
    let settings = "fqdn: {namesMax: 3, addressesPerNameMax: 50, ttlMinS: 1, graceS: 3}";
    let Some(lab) = dns_stage(&zone, settings) else { return };
    let live = |name: &str| {
        let names = listing(&lab, &["fqdn", "cache", "list"]);
        let live = names.iter().filter(|n| n["lingers"] != true && n["name"] == name);
        live.map(|n| n["ip"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (status, text) = dig(&lab, &["+noedns", "long.shop.test", "A"]);
    assert!(
        status == "NOERROR" && text.contains("Truncated, retrying in TCP mode"),
        "{text}"
    );
    assert_eq!(text.matches("198.18.3.").count(), 100, "the answer is whole");
    let long = live("long.shop.test.");
    assert_eq!(long.len(), 50, "{long:?}");
    assert!(connects(&lab, &long[49]));
    let (_, text) = dig(&lab, &["+bufsize=1232", "www.shop.test", "A"]);
    assert!(text.contains("; EDNS: version: 0"), "{text}");
    let asked = Instant::now();
    dig(&lab, &["allowed.test", "A"]);
    assert_eq!(live("long.shop.test.").len(), 50);
    dig(&lab, &["pod.shop.test", "A"]);
    assert_eq!(live("long.shop.test.").len(), 0, "the oldest of four goes");
    assert!(!connects(&lab, &long[49]) && connects(&lab, "198.18.1.1"));
    thread::sleep((asked + Duration::from_millis(2500)).saturating_duration_since(Instant::now()));
    assert!(connects(&lab, "198.18.1.4"), "its time was a second");
    until("the grace is over", || live("allowed.test.").is_empty());
    assert!(asked.elapsed() > Duration::from_secs(4) && !connects(&lab, "198.18.1.4"));
}
