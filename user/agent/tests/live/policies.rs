//! Policies of other shapes than the usual one: egress, both ends, prefixes, the node itself, no rule at all; and what
//! becomes of connections when one takes the place of another.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use seventh::lab::Lab;

use crate::{
    client::{Connection, IMPATIENCE, PATIENCE, fetch, is_silence},
    listings::text,
    requests::{ask, assert_refused, in_client},
    stage::{PUBLIC, binary, drops, lab, lab_with_world, policy, replace_policy, served, stage, status, until},
};

/// What the client itself may ask of the server: `rules` is the inside of `http:`.
fn egress(rules: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: out}}\nspec:\n  endpointSelector: \
         {{matchLabels: {{app: client}}}}\n  egress:\n  - toEndpoints: [{{matchLabels: {{app: server}}}}]\n    toPorts: \
         [{{ports: [{{port: \"8080\", protocol: TCP}}], rules: {{http: [{rules}]}}}}]\n"
    )
}

fn with_policy(text: &str, more_config: &str) -> Option<Lab> {
    let mut lab = lab()?;
    lab.start_nginx("server", None).unwrap();
    lab.start_agent(binary(), text, more_config).unwrap();
    Some(lab)
}

fn ask_from_node(lab: &Lab, path: &str) -> Vec<u8> {
    let url = format!("http://{}:8080{path}", lab.endpoint("server").unwrap().ipv4);
    let mut curl = lab.node_command("curl");
    curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "0.7", &url]);
    curl.output().unwrap().stdout
}

/// The port on which a mesh of Istio's ambient mode carries everything between its pods, encrypted (HBONE).
const HBONE: u16 = 15008;

/// How much comes back through a tunnel to the server, which says what it hears.
fn through_tunnel(lab: &Lab, patience: Duration) -> io::Result<usize> {
    // A record of TLS, and in it what would be refused if it were read.
    const SAID: &[u8] = b"\x17\x03\x03\x00\x18GET /denied HTTP/1.1\r\n\r\n";
    in_client(lab, move |server| {
        let mut stream = TcpStream::connect_timeout(&(server.ip(), HBONE).into(), patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(SAID)?;
        let mut back = vec![0; SAID.len()];
        stream.read_exact(&mut back)?;
        assert_eq!(back, SAID);
        Ok(back.len())
    })
}

#[test]
fn what_a_mesh_carries_in_its_tunnel_is_judged_by_the_tunnels_port_alone() {
    let Some(lab) = stage(PUBLIC, "") else { return };
    let echo = || {
        let (mut stream, _) = TcpListener::bind(("0.0.0.0", HBONE)).unwrap().accept().unwrap();
        io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap()
    };
    let tunnel = lab.endpoint("server").unwrap().start(echo).unwrap();
    let shut = through_tunnel(&lab, IMPATIENCE).unwrap_err();
    assert_eq!(shut.kind(), io::ErrorKind::TimedOut, "no rule allows the port");
    let mesh = policy(PUBLIC).replace(
        "{port: \"8080\", protocol: TCP}]}]\n",
        "{port: \"15008\", protocol: TCP}]}]\n",
    );
    let mesh = mesh
        .replace("name: server,", "name: mesh,")
        .replace("app: friend", "app: client");
    replace_policy(&lab, &[policy(PUBLIC), mesh].join("---\n"));
    assert!(through_tunnel(&lab, PATIENCE).unwrap() > 0);
    tunnel.join().unwrap().unwrap();
    // What goes beside the tunnel is read as ever.
    assert_eq!(ask(&lab, "client", "/denied", PATIENCE), Ok(403));
    let mut told = String::new();
    until("the request is told", || {
        let all = lab
            .ask_agent(binary(), &["observe", "--last", "100", "--type", "l7"])
            .unwrap();
        told = String::from_utf8_lossy(&all.stdout).into_owned();
        told.contains("/denied")
    });
    assert!(!told.contains("15008"), "{told}");
}

#[test]
fn what_an_endpoint_may_ask_is_enforced_where_it_asks() {
    for attach in ["attach: auto", "attach: clsact"] {
        let Some(lab) = with_policy(&egress(PUBLIC), attach) else {
            return;
        };
        assert_eq!(ask(&lab, "client", "/public", PATIENCE), Ok(200), "{attach}");
        assert_eq!(ask(&lab, "client", "/denied", PATIENCE), Ok(403), "{attach}");
        let v6 = lab.endpoint("server").unwrap().ipv6;
        assert_eq!(
            in_client(&lab, move |_| fetch(v6, "/denied", PATIENCE)),
            Ok(403),
            "{attach}"
        );
        // Nobody has said anything of the others.
        assert_eq!(ask(&lab, "intruder", "/denied", PATIENCE), Ok(200), "{attach}");
        let friend = lab.endpoint("friend").unwrap().ipv4;
        let elsewhere = in_client(&lab, move |_| fetch(friend, "/public", IMPATIENCE));
        assert!(is_silence(&elsewhere), "{attach}: {elsewhere:?}");
        assert_eq!(served(&lab).len(), 2, "{attach}");
    }
}

#[test]
fn a_request_must_pass_at_both_ends() {
    let both = |out: &str, into: &str| format!("{}---\n{}", egress(out), policy(into));
    let out = "{path: \"/public|/only-out\"}";
    let into = "{path: \"/public|/only-in\"}";
    let Some(lab) = with_policy(&both(out, into), "workers: 2") else {
        return;
    };
    let codes = in_client(&lab, |address| {
        ["/public", "/only-out", "/only-in", "/neither"].map(|path| fetch(address.ip(), path, PATIENCE).unwrap())
    });
    assert_eq!(codes, [200, 403, 403, 403]);
    // Many requests on one connection, inspected twice each.
    in_client(&lab, |address| {
        let mut connection = Connection::open(address, PATIENCE).unwrap();
        for _ in 0..300 {
            assert_eq!(connection.get("/public").unwrap().status, 200);
        }
        assert_refused(&connection.get("/only-out").unwrap());
    });
    assert_eq!(served(&lab).len(), 301);
    // Each end has counted those that it refused.
    assert_eq!(drops(&lab, "http_policy_denied"), 4);
}

#[test]
fn the_node_reaches_its_endpoints_unless_told_otherwise() {
    let Some(lab) = stage(PUBLIC, "") else { return };
    assert_eq!(ask_from_node(&lab, "/denied"), b"200");
    let (code, said) = text(&lab, &["config", "set", "allowLocalhost", "false"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(ask_from_node(&lab, "/denied"), b"000");
}

#[test]
fn enforcement_always_denies_what_no_policy_allows_and_never_denies_nothing() {
    let Some(lab) = with_policy("", "enforcement: always") else {
        return;
    };
    assert!(is_silence(&ask(&lab, "friend", "/", IMPATIENCE)));
    let Some(lab) = with_policy(&policy(PUBLIC), "enforcement: never") else {
        return;
    };
    assert_eq!(ask(&lab, "intruder", "/denied", PATIENCE), Ok(200));
}

#[test]
fn prefixes_are_told_apart_when_a_new_policy_names_them() {
    let Some(mut lab) = lab_with_world() else { return };
    lab.start_nginx("server", None).unwrap();
    lab.start_agent(binary(), &policy(PUBLIC), "").unwrap();
    let world = lab.endpoint("world").unwrap();
    world.ip("addr add 192.0.2.7/32 dev lo").unwrap();
    lab.node_ip(&format!("route add 192.0.2.7/32 via {}", world.ipv4))
        .unwrap();
    let server = lab.endpoint("server").unwrap().ipv4;
    world
        .ip(&format!("route add {server}/32 via 10.0.5.1 src 192.0.2.7"))
        .unwrap();
    assert!(is_silence(&ask(&lab, "world", "/denied", IMPATIENCE)));
    let with_prefix = |prefix: &str| {
        policy(PUBLIC)
            + &format!(
                "  - fromCIDRSet: [{{cidr: {prefix}}}]\n    toPorts: [{{ports: [{{port: \"8080\", protocol: TCP}}], rules: \
                 {{http: [{{path: /from-outside}}]}}}}]\n"
            )
    };
    replace_policy(&lab, &with_prefix("192.0.2.0/24"));
    assert_eq!(ask(&lab, "world", "/from-outside", PATIENCE), Ok(200));
    assert_eq!(ask(&lab, "world", "/denied", PATIENCE), Ok(403));
    replace_policy(&lab, &with_prefix("192.0.2.8/32"));
    assert!(is_silence(&ask(&lab, "world", "/from-outside", IMPATIENCE)));
}

#[test]
fn a_connection_in_use_is_judged_by_every_policy_that_comes() {
    let Some(lab) = stage(PUBLIC, "") else { return };
    let address = SocketAddr::from((lab.endpoint("server").unwrap().ipv4, 8080));
    let open = move || Connection::open(address, IMPATIENCE).unwrap();
    let mut friend = lab.endpoint("friend").unwrap().run(open).unwrap();
    let mut client = in_client(&lab, |address| Connection::open(address, PATIENCE).unwrap());
    assert_eq!(friend.get("/anything").unwrap().status, 200);
    assert_eq!(client.get("/public").unwrap().status, 200);
    // HTTP rules for the client are replaced by others, the friend is no longer one.
    replace_policy(
        &lab,
        &policy("{path: \"/other\"}").replace("app: friend", "app: nobody"),
    );
    assert_eq!(client.get("/other").unwrap().status, 200);
    assert!(friend.get("/anything").is_err());
    assert_refused(&client.get("/public").unwrap());
}

#[test]
fn a_connection_that_was_not_read_for_a_while_is_not_trusted_when_it_is_read_again() {
    let Some(lab) = stage(PUBLIC, "") else { return };
    let without_http = policy(PUBLIC).replace(&format!(", rules: {{http: [{PUBLIC}]}}"), "");
    assert!(!without_http.contains("http:"));
    let mut client = in_client(&lab, |address| Connection::open(address, PATIENCE).unwrap());
    assert_eq!(client.get("/public/1").unwrap().status, 200);
    replace_policy(&lab, &without_http);
    assert_eq!(client.get("/denied/by-nobody").unwrap().status, 200);
    replace_policy(&lab, &policy(PUBLIC));
    // Where its next request begins is not known: it ends, without a further request reaching the server.
    assert!(client.get("/public/2").is_err());
    assert_eq!(drops(&lab, "mid_stream"), 1, "{}", status(&lab));
    assert_eq!(served(&lab).len(), 2);
    assert_eq!(ask(&lab, "client", "/denied", PATIENCE), Ok(403));
}

/// So many rows that a table of 1024 has no room for them: forty ranges, each in many prefixes.
pub(crate) fn large(app: &str) -> String {
    let ranges = (0..40).map(|n| {
        format!(
            "{{port: '{}', endPort: {}, protocol: TCP}}",
            n * 1600 + 1,
            n * 1600 + 1598
        )
    });
    let ranges: Vec<String> = ranges.collect();
    let rule = |from: &str| format!("  - {from}\n    toPorts: [{{ports: [{}]}}]\n", ranges.join(", "));
    let peers: String = ["client", "friend"]
        .map(|app| rule(&format!("fromEndpoints: [{{matchLabels: {{app: {app}}}}}]")))
        .concat();
    format!(
        "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: large-{app}}}\nspec:\n  endpointSelector: \
         {{matchLabels: {{app: {app}}}}}\n  ingress:\n{peers}"
    )
}

#[test]
fn an_endpoint_whose_policy_does_not_fit_is_shut_and_no_other_suffers() {
    let Some(lab) = with_policy(&policy(PUBLIC), "policyRowsMax: 1024") else {
        return;
    };
    let mut connection = in_client(&lab, |address| Connection::open(address, IMPATIENCE).unwrap());
    let problems = || status(&lab)["problems"].to_string();
    assert_eq!(ask(&lab, "client", "/public", PATIENCE), Ok(200));
    assert_eq!(connection.get("/public").unwrap().status, 200);

    // The server's policy grows beyond the room; the client gets one, too, that fits.
    replace_policy(
        &lab,
        &format!("{}{}---\n{}", policy(PUBLIC), large("server"), egress(PUBLIC)),
    );
    assert!(problems().contains("policyRowsMax"), "{}", problems());
    let state = |name: &str| {
        crate::listings::endpoint(&lab, name)["state"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(
        (state("default/server"), state("default/client")),
        ("shut".into(), "ready".into())
    );
    let asked = ask(&lab, "client", "/public", IMPATIENCE);
    assert!(is_silence(&asked), "{asked:?}");
    assert!(connection.get("/public").is_err(), "a connection that was there before");
    assert!(drops(&lab, "policy_incomplete") > 0);
    let friend = lab.endpoint("friend").unwrap().ipv4;
    assert!(
        is_silence(&in_client(&lab, move |_| fetch(friend, "/public", IMPATIENCE))),
        "the new policy is in force"
    );

    // When it fits again, all is as before.
    replace_policy(&lab, &policy(PUBLIC));
    assert_eq!(state("default/server"), "ready");
    assert_eq!(ask(&lab, "client", "/public", PATIENCE), Ok(200));
    assert_eq!(ask(&lab, "client", "/denied", PATIENCE), Ok(403));
    assert!(!problems().contains("policyRowsMax"));
}
