//! A capture of live traffic, replayed under the policies that were enforced on it: the verdicts are the same.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::channel,
    },
    thread::JoinHandle,
    time::SystemTime,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket},
};
use serde_json::Value;
use seventh::lab::Lab;

use crate::client::{Connection, IMPATIENCE, PATIENCE};
use crate::stage::{binary, lab_with_world, until};

/// Of the world, which no endpoint is.
const OUTSIDE: &str = "198.18.0.0/16";
const OPENED: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 1);
const SHUT: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 5);

const ZONE: &str = "
    www.shop.test. 300 IN A 198.18.1.1
    alias.shop.test. 300 IN CNAME www.shop.test.
    denied.test. 300 IN A 198.18.1.5
";

/// The last HTTP rule is never needed. Two selectors meet at [`OPENED`].
const POLICY: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: client, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress:
  - toEndpoints: [{matchLabels: {app: server}}]
    toPorts:
    - ports: [{port: \"53\", protocol: ANY}]
      rules: {dns: [{matchPattern: \"*.shop.test\"}]}
    - ports: [{port: \"8080\", protocol: TCP}]
      rules: {http: [{method: GET, path: /public/.*}, {method: DELETE, path: /never}]}
    - ports: [{port: \"443\", protocol: TCP}]
      serverNames: [allowed.test]
  - toFQDNs: [{matchPattern: \"*.shop.test\"}]
    toPorts: [{ports: [{port: \"8080\", protocol: TCP}]}]
  - toFQDNs: [{matchName: www.shop.test}]
    toPorts: [{ports: [{port: \"9090\", protocol: TCP}]}]
";

/// When, and what.
type Packets = Vec<(SystemTime, Vec<u8>)>;

/// Sees what passes a network namespace's devices until it is told to end.
struct Sniffer {
    end: Arc<AtomicBool>,
    thread: JoinHandle<nix::Result<Packets>>,
}

impl Sniffer {
    fn start(lab: &Lab, endpoint: &str) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let (tell, ready) = channel();
        let thread = lab.endpoint(endpoint).unwrap().start(move || {
            let all = SockProtocol::EthAll;
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, all).unwrap();
            tell.send(()).unwrap();
            let mut packets = Vec::new();
            let mut packet = vec![0; 1 << 17];
            loop {
                let mut waits = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
                if poll(&mut waits, PollTimeout::from(50_u8)).unwrap() > 0 {
                    let len = recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()).unwrap();
                    packets.push((SystemTime::now(), packet[..len].to_vec()));
                } else if ended.load(Ordering::Relaxed) {
                    return packets;
                }
            }
        });
        ready.recv().unwrap();
        Self {
            end,
            thread: thread.unwrap(),
        }
    }

    /// Writes the capture (pcap, microseconds, Ethernet).
    fn finish(self, path: &Path) {
        self.end.store(true, Ordering::Relaxed);
        let packets = self.thread.join().unwrap().unwrap();
        let mut bytes = Vec::new();
        for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 1 << 18, 1] {
            bytes.extend(word.to_le_bytes());
        }
        for (time, packet) in packets {
            let time = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
            let len = u32::try_from(packet.len()).unwrap();
            let seconds = u32::try_from(time.as_secs()).unwrap();
            for word in [seconds, time.subsec_micros(), len, len] {
                bytes.extend(word.to_le_bytes());
            }
            bytes.extend(packet);
        }
        fs::write(path, bytes).unwrap();
    }
}

fn dig(lab: &Lab, args: &[&str], status: &str) {
    let server = format!("@{}", lab.endpoint("server").unwrap().ipv4);
    let mut command = lab.endpoint("client").unwrap().command("dig");
    let output = command
        .args(["+tries=1", "+time=5", &server])
        .args(args)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(&format!("status: {status}")), "{args:?}: {text}");
}

/// Whether the handshake for this name succeeds.
fn shakes_hands(lab: &Lab, name: &str) -> bool {
    let server = format!("{}:443", lab.endpoint("server").unwrap().ipv4);
    let mut command = lab.endpoint("client").unwrap().command("openssl");
    command.args(["s_client", "-connect", &server, "-servername", name]);
    command.output().unwrap().status.success()
}

/// Names, requests and handshakes, allowed and denied.
fn traffic(lab: &Lab) {
    for args in [&["www.shop.test", "A"][..], &["+tcp", "alias.shop.test", "A"]] {
        dig(lab, args, "NOERROR");
    }
    dig(lab, &["denied.test", "A"], "REFUSED");
    let server: SocketAddr = (lab.endpoint("server").unwrap().ipv4, 8080).into();
    let client = lab.endpoint("client").unwrap();
    let statuses = client.run(move || {
        let mut connection = Connection::open(server, PATIENCE).unwrap();
        let asked = ["/public/1", "/public/2", "/denied"].map(|path| connection.get(path).unwrap().status);
        let by_name = |address: Ipv4Addr| TcpStream::connect_timeout(&(address, 8080).into(), IMPATIENCE).is_ok();
        assert!(by_name(OPENED) && !by_name(SHUT));
        asked
    });
    assert_eq!(statuses.unwrap(), [200, 200, 403]);
    assert!(shakes_hands(lab, "allowed.test") && !shakes_hands(lab, "denied.test"));
}

/// Records in JSON, one a line, that have a flow.
fn flows(text: &[u8]) -> Vec<Value> {
    let lines = std::str::from_utf8(text).unwrap().lines();
    let records = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    records
        .filter_map(|mut record| record.get_mut("flow").map(Value::take))
        .collect()
}

/// What is the same for whoever tells it: what was asked, of whom, what became of it and why. Refusals that the gate itself
/// wrote are answers to those who only see packets.
fn requests(flows: &[Value]) -> Vec<String> {
    let mut told: Vec<String> = flows
        .iter()
        .filter(|flow| !flow["l7"].is_null() && flow["l7"]["dns"]["rcode"].as_u64().unwrap_or(0) == 0)
        .filter(|flow| flow["l7"]["type"] == "REQUEST" || !flow["l7"]["dns"].is_null())
        .map(|flow| {
            let mut l7 = flow["l7"].clone();
            // Measured, not decided.
            l7.as_object_mut().unwrap().remove("latency_ns");
            let by = |direction: &str| &flow[direction][0]["name"];
            format!(
                "{} {} {l7} {} {} {} {} {}",
                flow["verdict"],
                flow["decision"],
                flow["source"]["pod_name"],
                flow["destination"]["pod_name"],
                flow["traffic_direction"],
                by("egress_allowed_by"),
                by("egress_denied_by"),
            )
        })
        .collect();
    told.sort();
    told
}

/// To which address and port policy let nothing through, without looking inside. What the gate drops of a connection that
/// it has refused never passed anybody who captures.
fn shut(flows: &[Value]) -> BTreeSet<String> {
    flows
        .iter()
        .filter(|flow| flow["drop_reason_desc"] == "POLICY_DENIED" && flow["l7"].is_null())
        .map(|flow| {
            format!(
                "{} {} {} {}",
                flow["verdict"],
                flow["IP"]["destination"],
                flow["l4"]["TCP"]["destination_port"],
                flow["source"]["pod_name"]
            )
        })
        .collect()
}

#[test]
fn a_capture_of_what_was_enforced_gets_the_same_verdicts() {
    let Some(mut lab) = lab_with_world() else { return };
    lab.start_tls("server", &["allowed.test", "denied.test"], "").unwrap();
    lab.start_unbound("server", ZONE).unwrap();
    lab.start_nginx("world", None).unwrap();
    lab.play_outside("world", OUTSIDE).unwrap();
    lab.start_agent(binary(), POLICY, "").unwrap();
    let sniffer = Sniffer::start(&lab, "client");
    traffic(&lab);
    let capture = lab.dir().join("capture.pcap");
    sniffer.finish(&capture);

    let mut live = Vec::new();
    until("every verdict is told", || {
        let output = lab.ask_agent(binary(), &["observe", "--all", "-o", "json"]).unwrap();
        live = flows(&output.stdout);
        requests(&live).len() >= 10
    });
    let replayed = replay(&lab, &capture, &[]);
    assert_eq!(requests(&replayed), requests(&live));
    assert_eq!(shut(&replayed), shut(&live));
    assert_eq!(shut(&live).len(), 1, "{:?}", shut(&live));
    assert_page_tells_it(&lab, &capture);
}

fn replay(lab: &Lab, capture: &Path, args: &[&str]) -> Vec<Value> {
    let mut command = Command::new(binary());
    command
        .args(["replay", "-o", "json", "--policy"])
        .arg(lab.dir().join("policies"));
    command.arg("--endpoints").arg(lab.dir().join("config.yaml"));
    let output = command.args(args).arg(capture).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "something was denied: {said}");
    flows(&output.stdout)
}

fn assert_page_tells_it(lab: &Lab, capture: &Path) {
    let page = lab.dir().join("page.html");
    replay(lab, capture, &["--html", page.to_str().unwrap(), "--threads", "2"]);
    let page = fs::read_to_string(page).unwrap();
    for told in [
        "http_policy_denied",
        "/denied",
        "denied.test",
        "default/client",
        "never",
    ] {
        assert!(page.contains(told), "{told}");
    }
}
