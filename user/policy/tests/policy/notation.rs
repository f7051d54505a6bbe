//! Tables of Cilium's language that no file of its holds: names that stand for numbers, and notations with what they mean.

use seventh_abi::Direction::{Egress, Ingress};
use seventh_policy::identity::{
    CLUSTER_SCOPE_FIRST, CLUSTER_SCOPE_LAST, LOCAL_SCOPE_FIRST, NODE_SCOPE_FIRST, RESERVED,
};
use seventh_policy::name_pattern::{NamePattern, normal_name};
use seventh_policy::{L4Decision, load_text};

use crate::world::{TCP, UDP, World};

fn policy(direction: &str, item: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: x}}\nspec: {{endpointSelector: {{matchLabels: \
         {{app: a}}}}, {direction}: [{item}]}}\n"
    )
}

/// Names of ICMP types: family, name, number.
const ICMP_TYPES: &[(&str, &[(&str, u16)])] = &[
    (
        "IPv4",
        &[
            ("EchoReply", 0),
            ("DestinationUnreachable", 3),
            ("Redirect", 5),
            ("Echo", 8),
            ("EchoRequest", 8),
            ("RouterAdvertisement", 9),
            ("RouterSelection", 10),
            ("TimeExceeded", 11),
            ("ParameterProblem", 12),
            ("Timestamp", 13),
            ("TimestampReply", 14),
            ("Photuris", 40),
            ("ExtendedEchoRequest", 42),
            ("ExtendedEchoReply", 43),
        ],
    ),
    (
        "IPv6",
        &[
            ("DestinationUnreachable", 1),
            ("PacketTooBig", 2),
            ("TimeExceeded", 3),
            ("ParameterProblem", 4),
            ("EchoRequest", 128),
            ("EchoReply", 129),
            ("MulticastListenerQuery", 130),
            ("RouterAdvertisement", 134),
            ("NeighborSolicitation", 135),
            ("InverseNeighborDiscoveryAdvertisement", 142),
            ("HomeAgentAddressDiscoveryRequest", 144),
            ("MobilePrefixAdvertisement", 147),
            ("DuplicateAddressRequestCodeSuffix", 157),
            ("ExtendedEchoReply", 161),
        ],
    ),
];

#[test]
fn names_of_icmp_types_stand_for_their_numbers_and_for_no_other() {
    for (family, names) in ICMP_TYPES {
        let (own, other) = if *family == "IPv4" { (1, 58) } else { (58, 1) };
        for (name, number) in *names {
            let item = format!("{{icmps: [{{fields: [{{family: {family}, type: {name}}}]}}]}}");
            let mut world = World::new(&policy("ingress", &item));
            let mut verdict = |protocol, kind| world.l4(Ingress, "app=a", "app=b", protocol, kind);
            assert_eq!(verdict(own, *number), "allow", "{family} {name}");
            assert_eq!(verdict(own, number + 1), "deny", "{family} {name}");
            assert_eq!(verdict(other, *number), "deny", "{family} {name}");
        }
    }
}

#[test]
fn reserved_identities_and_scopes_have_the_numbers_that_everybody_knows() {
    let names = [
        "host",
        "world",
        "unmanaged",
        "health",
        "init",
        "remote-node",
        "kube-apiserver",
        "ingress",
        "world-ipv4",
        "world-ipv6",
    ];
    let numbered: Vec<(u32, &str)> = (1..).zip(names).collect();
    assert_eq!(RESERVED, numbered);
    assert_eq!((CLUSTER_SCOPE_FIRST, CLUSTER_SCOPE_LAST), (256, 65_535));
    assert_eq!((LOCAL_SCOPE_FIRST, NODE_SCOPE_FIRST), (16_777_216, 33_554_432));
}

/// How a port may be written, and the ports at both sides of its edges that it allows.
#[test]
fn notations_of_ports_mean_what_they_mean_in_cilium() {
    for (port, inside, outside) in [
        ("port: '80'", &[80][..], &[79, 81][..]),
        ("port: '010'", &[8], &[10]),
        ("port: '80', endPort: 90", &[80, 85, 90], &[79, 91]),
        ("port: '80', endPort: 80", &[80], &[79, 81]),
        ("port: '80', endPort: 70", &[80], &[70, 75, 79, 81]),
        ("port: '0'", &[1, 80, 65_535], &[]),
        ("port: '65535'", &[65_535], &[65_534]),
        ("port: '1', endPort: 65535", &[1, 65_535], &[0]),
    ] {
        let item = format!("{{toPorts: [{{ports: [{{{port}, protocol: TCP}}]}}]}}");
        let mut world = World::new(&policy("ingress", &item));
        for number in inside {
            assert_eq!(world.ingress("app=a", "app=b", *number), "allow", "{port} {number}");
        }
        for number in outside {
            assert_eq!(world.ingress("app=a", "app=b", *number), "deny", "{port} {number}");
        }
        assert_eq!(world.l4(Ingress, "app=a", "app=b", UDP, inside[0]), "deny", "{port}");
    }
}

#[test]
fn protocols_stand_for_their_numbers_and_any_for_those_with_ports() {
    for (protocol, numbers) in [
        ("protocol: TCP", &[6][..]),
        ("protocol: udp", &[17]),
        ("protocol: SCTP", &[132]),
        ("protocol: ANY", &[6, 17, 132]),
        ("protocol: ''", &[6, 17, 132]),
        ("", &[6, 17, 132]),
        ("protocol: VRRP", &[112]),
        ("protocol: IGMP", &[2]),
        ("protocol: GRE", &[47]),
        ("protocol: IPIP", &[4]),
        ("protocol: IPV6", &[41]),
        ("protocol: ESP", &[50]),
        ("protocol: AH", &[51]),
    ] {
        let has_ports = numbers.contains(&6) || numbers.contains(&17) || numbers.contains(&132);
        let port = if has_ports { "port: '80'" } else { "port: '0'" };
        let item = format!("{{toPorts: [{{ports: [{{{port}, {protocol}}}]}}]}}");
        let mut world = World::new(&policy("ingress", &item));
        for number in [1, 2, 4, 6, 17, 41, 47, 50, 51, 58, 112, 132] {
            let wanted = if numbers.contains(&number) { "allow" } else { "deny" };
            let port = if [6, 17, 132].contains(&number) { 80 } else { 0 };
            assert_eq!(
                world.l4(Ingress, "app=a", "app=b", number, port),
                wanted,
                "{protocol} {number}"
            );
        }
    }
}

#[test]
fn patterns_of_names_mean_what_they_mean_in_cilium() {
    for (pattern, matches, others) in [
        ("*", &["a", "a.b.c", "."][..], &[][..]),
        ("***.", &["a", "a.b.c", "."], &[]),
        (
            "*.cilium.io",
            &["www.cilium.io", ".cilium.io", "-_.cilium.io"],
            &["cilium.io", "a.b.cilium.io", "www.cilium.io.x"],
        ),
        ("*cilium.io", &["cilium.io", "subcilium.io"], &["sub.cilium.io"]),
        (
            "sub*.cilium.io",
            &["sub.cilium.io", "subdomain.cilium.io"],
            &["sub.x.cilium.io"],
        ),
        (
            "**.cilium.io",
            &["a.cilium.io", "a.b.cilium.io"],
            &["cilium.io", ".cilium.io", "a..cilium.io"],
        ),
        (
            "test.**.cilium.io",
            &["test.a.cilium.io", "test..cilium.io"],
            &["test.a.b.cilium.io", "test.cilium.io"],
        ),
        ("a*b.com", &["ab.com", "a-b.com"], &["a.b.com", "abb.org"]),
        (
            "WWW.Cilium.IO",
            &["www.cilium.io", "wWw.cilium.io."],
            &["wwwxcilium.io"],
        ),
    ] {
        let parsed = NamePattern::pattern(pattern).unwrap();
        for name in matches {
            assert!(parsed.matches(&normal_name(name)), "{pattern} on {name}");
        }
        for name in others {
            assert!(!parsed.matches(&normal_name(name)), "{pattern} on {name}");
        }
    }
}

/// What each form of `rules` does to the traffic on its port.
#[test]
fn forms_of_l7_rules_have_their_effects() {
    for (direction, rules, wanted) in [
        ("ingress", "rules: {}", "allow"),
        ("ingress", "rules: {http: []}", "allow"),
        ("egress", "rules: {dns: []}", "allow"),
        ("ingress", "rules: {http: [{}]}", "inspect"),
        ("egress", "rules: {dns: [{}]}", "inspect"),
        ("egress", "rules: {dns: [{matchPattern: '*'}]}", "inspect"),
        ("egress", "serverNames: ['*']", "inspect"),
    ] {
        let item = format!("{{toPorts: [{{ports: [{{port: '80', protocol: TCP}}], {rules}}}]}}");
        let mut world = World::new(&policy(direction, &item));
        let direction = if direction == "egress" { Egress } else { Ingress };
        assert_eq!(world.l4(direction, "app=a", "app=b", TCP, 80), wanted, "{rules}");
        // Nothing but the port is allowed in any case.
        assert_eq!(world.l4(direction, "app=a", "app=b", TCP, 81), "deny", "{rules}");
        let peer = world.identity("app=b");
        let policy = world.policy("app=a");
        let decision = policy.lookup(direction, peer, UDP, 80);
        assert!(matches!(decision, L4Decision::Deny(_)), "{rules}");
    }
    // Both kinds in one item are refused even if one of them is empty.
    let both = "{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [], dns: [{}]}}]}";
    assert!(load_text("x.yaml", &policy("egress", both)).has_errors());
}
