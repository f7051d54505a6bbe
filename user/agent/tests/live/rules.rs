//! Every kind of L3 and L4 rule on real packets: deny and allow, prefixes with exceptions, ICMP types, port ranges,
//! entities. Each rule is seen to let through and to stop.

use std::net::IpAddr;

use seventh::lab::Lab;

use crate::{
    flows::observe,
    listings::text,
    probe::{ECHO, ECHO_V6, Knock, TIMESTAMP, answer, knock},
    stage::{binary, drops, lab_with_world, replace_policy},
};

const TCP_PORTS: &[u16] = &[7999, 8000, 8050, 8099, 8100, 8443, 9000];
const UDP_PORTS: &[u16] = &[9000, 9001];

/// Addresses that are nobody's endpoint; they lie in the world outside.
const OUTSIDE: &str = "192.0.2.7";
const EXCEPTED: &str = "192.0.2.200";
const BACK_IN: &str = "192.0.2.129";
const OUTSIDE_V6: &str = "2001:db8::7";
const EXCEPTED_V6: &str = "2001:db8:1::7";

const SERVER: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: server}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: client}}]
    toPorts:
    - ports:
      - {port: '8000', endPort: 8099, protocol: TCP}
      - {port: '9000', protocol: UDP}
  - fromEndpoints: [{}]
    icmps: [{fields: [{type: EchoRequest}, {family: IPv6, type: 128}]}]
  - fromCIDRSet:
    - {cidr: 192.0.2.0/24, except: [192.0.2.128/25]}
    - {cidr: 192.0.2.128/31}
    - {cidr: '2001:db8::/32', except: ['2001:db8:1::/48']}
    # Endpoints lie in this prefix, but prefixes mean what lies outside.
    - {cidr: 10.0.0.0/8}
    toPorts: [{ports: [{port: '8443', protocol: TCP}]}]
  ingressDeny:
  - fromEndpoints: [{matchLabels: {app: client}}]
    toPorts: [{ports: [{port: '8050', protocol: TCP}]}]
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: no-intruder}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingressDeny:
  - fromEndpoints: [{matchLabels: {app: intruder}}]
";

/// A lab whose server and node answer on all ports, with the world outside.
fn stage(policy: &str) -> Option<Lab> {
    let mut lab = lab_with_world()?;
    let listen = || answer(TCP_PORTS, UDP_PORTS);
    lab.endpoint("server").unwrap().run(listen).unwrap().unwrap();
    lab.run_on_node(listen).unwrap().unwrap();
    let world = lab.endpoint("world").unwrap();
    world.run(listen).unwrap().unwrap();
    for address in [OUTSIDE, EXCEPTED, BACK_IN] {
        world.ip(&format!("addr add {address}/32 dev lo")).unwrap();
    }
    for address in [OUTSIDE_V6, EXCEPTED_V6] {
        world.ip(&format!("addr add {address}/128 dev lo nodad")).unwrap();
    }
    let (v4, v6) = (world.ipv4, world.ipv6);
    lab.node_ip(&format!("route add 192.0.2.0/24 via {v4}")).unwrap();
    lab.node_ip(&format!("route add 2001:db8::/32 via {v6}")).unwrap();
    lab.start_agent(binary(), policy, "allowLocalhost: false").unwrap();
    Some(lab)
}

/// Whether what an endpoint sends to an address is answered.
fn passes(lab: &Lab, from: &str, source: Option<&str>, target: IpAddr, what: Knock) -> bool {
    let source = source.map(|text| text.parse().unwrap());
    let endpoint = lab.endpoint(from).unwrap();
    endpoint.run(move || knock(source, target, what)).unwrap().unwrap()
}

#[test]
fn deny_allow_prefixes_icmp_types_and_ranges_hold_on_real_packets() {
    let Some(lab) = stage(SERVER) else { return };
    let server = lab.endpoint("server").unwrap();
    let (v4, v6) = (IpAddr::V4(server.ipv4), IpAddr::V6(server.ipv6));
    let (tcp, udp) = (Knock::Tcp, Knock::Udp);
    // From whom (an endpoint, and which of its addresses), to the server's which address, what, and does it pass.
    let cases: &[(&str, Option<&str>, IpAddr, Knock, bool)] = &[
        // The range, its edges, the hole that the deny rule cuts into it.
        ("client", None, v4, tcp(7999), false),
        ("client", None, v4, tcp(8000), true),
        ("client", None, v6, tcp(8099), true),
        ("client", None, v4, tcp(8100), false),
        ("client", None, v4, tcp(8050), false),
        ("client", None, v6, tcp(8050), false),
        // Port and protocol belong together.
        ("client", None, v4, udp(9000), true),
        ("client", None, v6, udp(9000), true),
        ("client", None, v4, udp(9001), false),
        ("client", None, v4, tcp(9000), false),
        // Types of ICMP.
        ("client", None, v4, Knock::Icmp(ECHO), true),
        ("client", None, v6, Knock::Icmp(ECHO_V6), true),
        ("client", None, v4, Knock::Icmp(TIMESTAMP), false),
        // Another endpoint: only what everybody of the namespace may; its address in a prefix is no leave.
        ("friend", None, v4, Knock::Icmp(ECHO), true),
        ("friend", None, v4, tcp(8000), false),
        ("friend", None, v4, tcp(8443), false),
        // A denied endpoint: not even that.
        ("intruder", None, v4, Knock::Icmp(ECHO), false),
        ("intruder", None, v6, Knock::Icmp(ECHO_V6), false),
        ("intruder", None, v4, tcp(8000), false),
        // Prefixes, what is cut out of them, and what another rule puts back in.
        ("world", Some(OUTSIDE), v4, tcp(8443), true),
        ("world", Some(OUTSIDE), v4, tcp(8000), false),
        ("world", Some(OUTSIDE), v4, Knock::Icmp(ECHO), false),
        ("world", Some(EXCEPTED), v4, tcp(8443), false),
        ("world", Some(BACK_IN), v4, tcp(8443), true),
        ("world", Some(OUTSIDE_V6), v6, tcp(8443), true),
        ("world", Some(EXCEPTED_V6), v6, tcp(8443), false),
    ];
    for &(from, source, target, what, expected) in cases {
        let deny_rule = from == "intruder" || what == tcp(8050);
        let reason = if deny_rule { "policy_deny_rule" } else { "policy_denied" };
        let before = drops(&lab, reason);
        let context = format!("{from} {source:?} to {target} {what:?}");
        assert_eq!(passes(&lab, from, source, target, what), expected, "{context}");
        // What was stopped was stopped for this reason; what passed was not stopped at all.
        assert_eq!(
            drops(&lab, reason) > before,
            !expected,
            "{context}: {reason}; the last that were stopped: {:#?}",
            observe(&lab, &["--verdict", "DROPPED", "--last", "2"])
        );
    }
}

/// What the client may send to.
fn egress(rule: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: out}}\nspec:\n  endpointSelector: \
         {{matchLabels: {{app: client}}}}\n  {rule}\n"
    )
}

#[test]
fn entities_mean_the_node_the_cluster_and_the_world() {
    // To the node, to an endpoint, to an address outside.
    let cases = [
        ("egress: [{toEntities: [host]}]", [true, false, false]),
        ("egress: [{toEntities: [world]}]", [false, false, true]),
        ("egress: [{toEntities: [cluster]}]", [true, true, false]),
        ("egress: [{toEntities: [all]}]", [true, true, true]),
        ("egress: [{toEntities: [none]}]", [false, false, false]),
        ("egress: [{toEntities: [remote-node, health]}]", [false, false, false]),
        (
            "egress: [{toEntities: [all]}]\n  egressDeny: [{toEntities: [host]}]",
            [false, true, true],
        ),
        (
            "egress: [{toEntities: [all]}]\n  egressDeny: [{toEntities: [world]}]",
            [true, true, false],
        ),
        (
            "egress: [{toEntities: [all]}]\n  egressDeny: [{toCIDRSet: [{cidr: 0.0.0.0/0, except: [192.0.2.0/28]}]}]",
            [true, true, true],
        ),
        (
            "egress: [{toEntities: [all]}]\n  egressDeny: [{toCIDR: [192.0.2.0/28]}]",
            [true, true, false],
        ),
    ];
    let Some(lab) = stage(&egress("egress: [{}]")) else {
        return;
    };
    let server = IpAddr::V4(lab.endpoint("server").unwrap().ipv4);
    let targets = ["10.0.1.1".parse().unwrap(), server, OUTSIDE.parse().unwrap()];
    let seen = || targets.map(|target| passes(&lab, "client", None, target, Knock::Tcp(8000)));
    assert_eq!(seen(), [false; 3], "an empty rule allows nobody");
    for (rule, expected) in cases {
        replace_policy(&lab, &egress(rule));
        assert_eq!(seen(), expected, "{rule}");
    }
}

#[test]
fn the_node_and_the_world_are_told_apart_where_they_come_in() {
    let ingress = |entity: &str| {
        format!(
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: in}}\nspec:\n  endpointSelector: \
             {{matchLabels: {{app: server}}}}\n  ingress: [{{fromEntities: [{entity}]}}]\n"
        )
    };
    let Some(lab) = stage(&ingress("host")) else { return };
    let server = IpAddr::V4(lab.endpoint("server").unwrap().ipv4);
    let seen = || {
        let knock_here = move || knock(None, server, Knock::Tcp(8000));
        [
            lab.run_on_node(knock_here).unwrap().unwrap(),
            passes(&lab, "client", None, server, Knock::Tcp(8000)),
            passes(&lab, "world", Some(OUTSIDE), server, Knock::Tcp(8000)),
        ]
    };
    assert_eq!(seen(), [true, false, false]);
    replace_policy(&lab, &ingress("world"));
    assert_eq!(seen(), [false, false, true]);
    replace_policy(&lab, &ingress("cluster"));
    assert_eq!(seen(), [true, true, false]);
}

#[test]
fn enforcement_always_and_never_hold_whatever_the_policies_say() {
    let asked = [
        ("client", Knock::Tcp(8000)),
        ("client", Knock::Tcp(7999)),
        ("intruder", Knock::Icmp(ECHO)),
    ];
    let Some(lab) = stage(SERVER) else { return };
    let server = IpAddr::V4(lab.endpoint("server").unwrap().ipv4);
    for (mode, expected) in [
        ("default", [true, false, false]),
        // The server's rules allow the client in, but nothing allows the client to ask.
        ("always", [false, false, false]),
        ("never", [true, true, true]),
        ("default", [true, false, false]),
    ] {
        let (code, said) = text(&lab, &["config", "set", "enforcement", mode]);
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(
            asked.map(|(from, what)| passes(&lab, from, None, server, what)),
            expected,
            "{mode}"
        );
    }
}
