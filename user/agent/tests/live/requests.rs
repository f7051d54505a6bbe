//! Every case of the demo, seen from both ends, and refusals of what is not HTTP.

use std::{
    io,
    net::{Shutdown, SocketAddr},
    time::Duration,
};

use seventh::lab::Lab;

use crate::client::{Answer, Connection, IMPATIENCE, PATIENCE, fetch, get, is_silence};
use crate::stage::{PUBLIC, drops, policy, served, stage, status};

fn server(lab: &Lab) -> SocketAddr {
    (lab.endpoint("server").unwrap().ipv4, 8080).into()
}

/// Runs `job` in the client with the server's address.
pub(crate) fn in_client<T: Send + 'static>(lab: &Lab, job: impl FnOnce(SocketAddr) -> T + Send + 'static) -> T {
    let address = server(lab);
    lab.endpoint("client").unwrap().run(move || job(address)).unwrap()
}

/// How it goes for one who asks the server from this endpoint.
pub(crate) fn ask(lab: &Lab, from: &str, path: &'static str, patience: Duration) -> Result<u16, io::ErrorKind> {
    let server = server(lab).ip();
    lab.endpoint(from)
        .unwrap()
        .run(move || fetch(server, path, patience))
        .unwrap()
}

/// The refusal that everybody gets.
pub(crate) fn assert_refused(answer: &Answer) {
    assert_eq!(
        (answer.status, answer.body.as_slice(), answer.closes),
        (403, b"Access denied\r\n".as_slice(), true)
    );
}

#[test]
fn method_and_path_decide_and_the_server_sees_only_what_is_allowed() {
    let Some(lab) = stage(PUBLIC, "") else { return };
    let ask = |request: &'static str| {
        in_client(&lab, move |address| {
            let mut connection = Connection::open(address, PATIENCE).unwrap();
            connection.send(request.as_bytes()).unwrap();
            connection.answer().unwrap()
        })
    };
    assert_eq!(ask("GET /public HTTP/1.1\r\nHost: a\r\n\r\n").status, 200);
    assert_eq!(
        ask("PUT /public/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").status,
        200
    );
    for denied in [
        "GET /denied HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /public/../denied HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /public/%2e%2e/denied HTTP/1.1\r\nHost: a\r\n\r\n",
        "DELETE /public?denied HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /public/denied HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    ] {
        assert_refused(&ask(denied));
    }
    let served = served(&lab);
    assert!(
        served.len() == 2 && !lab.nginx_log("server").contains("denied"),
        "{served:?}"
    );
    assert_eq!(
        (drops(&lab, "http_policy_denied"), drops(&lab, "http_ambiguous_path")),
        (4, 1)
    );
}

#[test]
fn a_client_without_a_rule_gets_no_connection_and_one_with_an_l4_rule_may_ask_anything() {
    let Some(lab) = stage(PUBLIC, "") else { return };
    let (v4, v6) = (
        lab.endpoint("server").unwrap().ipv4,
        lab.endpoint("server").unwrap().ipv6,
    );
    let intruder = lab.endpoint("intruder").unwrap();
    assert!(is_silence(
        &intruder.run(move || fetch(v4, "/public", IMPATIENCE)).unwrap()
    ));
    assert!(is_silence(
        &intruder.run(move || fetch(v6, "/public", IMPATIENCE)).unwrap()
    ));
    let friend = lab.endpoint("friend").unwrap();
    assert_eq!(friend.run(move || fetch(v4, "/denied", PATIENCE)).unwrap(), Ok(200));
    assert_eq!(friend.run(move || fetch(v6, "/denied", PATIENCE)).unwrap(), Ok(200));
    assert!(drops(&lab, "policy_denied") >= 2);
}

#[test]
fn ipv6_is_enforced_like_ipv4() {
    let Some(lab) = stage(PUBLIC, "") else { return };
    let v6 = lab.endpoint("server").unwrap().ipv6;
    let client = lab.endpoint("client").unwrap();
    assert_eq!(client.run(move || fetch(v6, "/public", PATIENCE)).unwrap(), Ok(200));
    assert_eq!(client.run(move || fetch(v6, "/denied", PATIENCE)).unwrap(), Ok(403));
    assert_eq!(served(&lab).len(), 1);
}

#[test]
fn an_address_that_is_not_the_endpoints_own_is_not_believed() {
    // Egress is enforced, too: that is where a source address is checked.
    let rules = policy(PUBLIC)
        + "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: out}\nspec:\n  \
           endpointSelector: {matchLabels: {app: intruder}}\n  egress:\n  - toEndpoints: [{matchLabels: {app: \
           server}}]\n";
    let Some(mut lab) = crate::stage::lab() else { return };
    lab.start_nginx("server", None).unwrap();
    lab.start_agent(crate::stage::binary(), &rules, "").unwrap();
    let stolen = lab.endpoint("client").unwrap().ipv4;
    let intruder = lab.endpoint("intruder").unwrap();
    intruder.ip(&format!("addr add {stolen}/32 dev lo")).unwrap();
    let address = server(&lab);
    intruder
        .ip(&format!("route add {}/32 via 10.0.3.1 src {stolen}", address.ip()))
        .unwrap();
    let seen = intruder
        .run(move || fetch(address.ip(), "/public", IMPATIENCE))
        .unwrap();
    assert!(is_silence(&seen), "{seen:?}");
    assert!(drops(&lab, "invalid_source_ip") > 0);
}

#[test]
fn pipelined_requests_are_answered_in_order_up_to_the_first_refusal() {
    let Some(lab) = stage(PUBLIC, "") else { return };
    let answers = in_client(&lab, |address| {
        let mut connection = Connection::open(address, PATIENCE).unwrap();
        let requests = get("/public/1") + &get("/public/2") + &get("/denied") + &get("/public/3");
        connection.send(requests.as_bytes()).unwrap();
        let answers = [(); 3].map(|()| connection.answer().unwrap());
        (answers, connection.rest().unwrap())
    });
    let ([first, second, third], rest) = answers;
    assert_eq!((first.status, second.status), (200, 200));
    assert_refused(&third);
    assert!(rest.is_empty());
    assert_eq!(served(&lab).len(), 2);
}

#[test]
fn a_request_in_single_bytes_is_one_request() {
    let Some(lab) = stage(PUBLIC, "") else { return };
    let ask = |path: &'static str| {
        in_client(&lab, move |address| {
            let mut connection = Connection::open(address, PATIENCE).unwrap();
            for byte in get(path).bytes() {
                connection.send(&[byte]).unwrap();
            }
            connection.answer().unwrap()
        })
    };
    assert_eq!(ask("/public/bytewise").status, 200);
    assert_refused(&ask("/denied/bytewise"));
    assert_eq!(served(&lab).len(), 1);
}

#[test]
fn a_client_that_has_finished_sending_still_gets_its_answer() {
    let Some(lab) = stage(PUBLIC, "") else { return };
    let ask = |path: &'static str| {
        in_client(&lab, move |address| {
            let mut connection = Connection::open(address, PATIENCE).unwrap();
            connection.send(get(path).as_bytes()).unwrap();
            connection.stream.shutdown(Shutdown::Write).unwrap();
            connection.answer().unwrap()
        })
    };
    assert_eq!(ask("/public").status, 200);
    assert_refused(&ask("/denied"));
}

/// What is not a sound request, and the reason that is counted for it.
fn malformed() -> Vec<(Vec<u8>, &'static str)> {
    let text = |text: &str| text.as_bytes().to_vec();
    let mut many = String::from("GET /public HTTP/1.1\r\nHost: a\r\n");
    (0..1000).for_each(|i| many.push_str(&format!("x-{i}: y\r\n")));
    vec![
        (text("G\u{1}T /public HTTP/1.1\r\nHost: a\r\n\r\n"), "http_control_byte"),
        (text("GET /pub\0lic HTTP/1.1\r\nHost: a\r\n\r\n"), "http_control_byte"),
        (text("GET /public\r\nHost: a\r\n\r\n"), "http_old_protocol"),
        (text("GET\r\nHost: a\r\n\r\n"), "http_bad_request_line"),
        (
            text("GET  /public HTTP/1.1\r\nHost: a\r\n\r\n"),
            "http_bad_request_line",
        ),
        (text("GET /public HTTP/3.0\r\nHost: a\r\n\r\n"), "http_bad_version"),
        (
            text("GET /public HTTP/1.1\r\nHost: a\r\nx: a\0b\r\n\r\n"),
            "http_control_byte",
        ),
        (
            text("GET /public HTTP/1.1\r\nHost: a\r\nx : y\r\n\r\n"),
            "http_space_before_colon",
        ),
        (text("GET /public HTTP/1.1\r\n\r\n"), "http_missing_host"),
        (
            text("GET /public HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
            "http_repeated_host",
        ),
        (
            text("PUT /public HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc"),
            "http_ambiguous_length",
        ),
        (
            text("GET /public HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n"),
            "http_upgrade_unsupported",
        ),
        (
            text("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"),
            "http_policy_denied",
        ),
        (
            text("GET /public/%00 HTTP/1.1\r\nHost: a\r\n\r\n"),
            "http_ambiguous_path",
        ),
        (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
            "http_tls_on_http_rule",
        ),
        (many.into_bytes(), "http_too_many_headers"),
        (
            text(&format!("GET /public/{} HTTP/1.1\r\n", "x".repeat(70 << 10))),
            "http_head_too_large",
        ),
    ]
}

#[test]
fn what_is_not_sound_http_is_refused_for_its_own_reason_and_never_reaches_the_server() {
    let Some(lab) = stage(PUBLIC, "") else { return };
    let mut wrong = Vec::new();
    for (bytes, reason) in malformed() {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        let before = drops(&lab, reason);
        let end = in_client(&lab, move |address| {
            let mut connection = Connection::open(address, PATIENCE).unwrap();
            // The connection may be over before all is sent.
            let _ = connection.send(&bytes);
            connection.rest()
        });
        let refused = end
            .as_ref()
            .is_ok_and(|rest| rest.is_empty() || rest.starts_with(b"HTTP/1.1 403"));
        if !refused || drops(&lab, reason) == before {
            wrong.push(format!("{shown:?}: {reason} not counted, or not refused: {end:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), status(&lab));
    assert!(served(&lab).is_empty());
}

#[test]
fn a_broken_chunk_ends_a_request_that_was_allowed() {
    let Some(lab) = stage(PUBLIC, "") else { return };
    let rest = in_client(&lab, |address| {
        let mut connection = Connection::open(address, PATIENCE).unwrap();
        connection
            .send(b"PUT /public HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            .unwrap();
        // nginx does not wait for the body of what it answers by `return`.
        assert_eq!(connection.answer().unwrap().status, 200);
        connection.send(b"zz\r\nabc\r\n0\r\n\r\n").unwrap();
        connection.rest().unwrap()
    });
    assert!(
        rest.is_empty() || rest.starts_with(b"HTTP/1.1 403"),
        "{}",
        String::from_utf8_lossy(&rest)
    );
    assert_eq!(drops(&lab, "http_bad_chunk"), 1);
}
