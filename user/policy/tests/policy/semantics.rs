//! One test for each rule of precedence and each empty form, named after what it pins.

use seventh_abi::Direction::{Egress, Ingress};
use seventh_abi::DropReason;
use seventh_policy::identity::{all_of, outside_labels, prefix_labels};
use seventh_policy::name_pattern::NamePattern;
use seventh_policy::{CompileOptions, Enforcement, L4Decision, Labels, NamedPorts, Surroundings, load_text, resolve};

use crate::world::{TCP, UDP, World, request};

/// A policy for `app=a` in the namespace default; `body` is what stands under `spec`.
fn cnp(name: &str, body: &str) -> String {
    format!(
        "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}}}\nspec:\n  \
         endpointSelector: {{matchLabels: {{app: a}}}}\n{body}\n"
    )
}

/// A cluster-wide policy for every endpoint.
fn ccnp(body: &str) -> String {
    format!(
        "---\napiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {{name: c}}\nspec:\n  \
         endpointSelector: {{}}\n{body}\n"
    )
}

fn tiered(name: &str, tier: &str, priority: u32, rules: &str) -> String {
    format!(
        "---\napiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: {name}}}\n\
         spec: {{tier: {tier}, priority: {priority}, subject: {{namespaces: {{}}}}, ingress: [{rules}]}}\n"
    )
}

const HTTP_GET: &str = "[{ports: [{port: '80', protocol: TCP}], rules: {http: [{method: GET}]}}]";
const PORT_80: &str = "[{ports: [{port: '80', protocol: TCP}]}]";

#[test]
fn without_a_policy_everything_passes() {
    let mut world = World::new(&cnp("x", "  ingress: [{}]"));
    assert_eq!(world.ingress("app=other", "app=b", 80), "allow");
    assert_eq!(world.egress("app=a", "app=b", 80), "allow");
}

#[test]
fn an_empty_rule_denies_everything() {
    let mut world = World::new(&cnp("x", "  ingress: [{}]"));
    assert_eq!(world.ingress("app=a", "app=b", 80), "deny");
    assert_eq!(world.l4(Ingress, "app=a", "app=b", 1, 8), "deny");
}

#[test]
fn an_empty_list_of_peers_selects_nobody_but_an_absent_one_everybody() {
    let empty = World::new(&cnp(
        "x",
        &format!("  ingress: [{{fromEndpoints: [], toPorts: {PORT_80}}}]"),
    ))
    .ingress("app=a", "app=b", 80);
    let absent = World::new(&cnp("x", &format!("  ingress: [{{toPorts: {PORT_80}}}]"))).ingress("app=a", "app=b", 80);
    let null = World::new(&cnp(
        "x",
        &format!("  ingress: [{{fromEndpoints: null, toPorts: {PORT_80}}}]"),
    ))
    .ingress("app=a", "app=b", 80);
    assert_eq!((empty, absent, null), ("deny", "allow", "allow"));
    // CVE-2025-64715 was this difference getting lost.
    for list in ["toCIDR", "toCIDRSet", "toEntities", "toFQDNs", "toServices", "toNodes"] {
        let body = format!("  egress: [{{{list}: [], toPorts: {PORT_80}}}]");
        assert_eq!(
            World::new(&cnp("x", &body)).egress("app=a", "app=b", 80),
            "deny",
            "{list}"
        );
    }
}

#[test]
fn an_empty_list_of_icmp_types_is_its_absence_and_an_item_without_types_is_none_at_all() {
    let icmp = |item: &str| {
        let mut world = World::new(&cnp("x", &format!("  ingress: [{{fromEndpoints: [{{}}], {item}}}]")));
        (
            world.l4(Ingress, "app=a", "app=b", 1, 8),
            world.ingress("app=a", "app=b", 80),
        )
    };
    // The length is what is tested: nothing listed is a rule about every protocol and port.
    for absent in ["icmps: []", "icmps: null", "icmps: [], toPorts: []"] {
        assert_eq!(icmp(absent), ("allow", "allow"), "{absent}");
    }
    for nothing in ["icmps: [{}]", "icmps: [{fields: []}]", "icmps: [{fields: []}, {}]"] {
        assert_eq!(icmp(nothing), ("deny", "deny"), "{nothing}");
    }
    assert_eq!(icmp("icmps: [{}, {fields: [{type: 8}]}]"), ("allow", "deny"));
    assert_eq!(icmp(&format!("icmps: [], toPorts: {PORT_80}")), ("deny", "allow"));
    // Without peers, too, nothing is left to say who is meant.
    let mut alone = World::new(&cnp("x", "  ingress: [{icmps: []}]"));
    assert_eq!(alone.l4(Ingress, "app=a", "app=b", 1, 8), "deny");
}

#[test]
fn an_empty_list_of_specs_is_a_policy_that_says_nothing() {
    let yaml = cnp("x", "  ingress: [{}]");
    let (head, _) = yaml.split_once("spec:").unwrap();
    let loaded = load_text("x.yaml", &format!("{head}specs: []\n"));
    assert_eq!((loaded.documents.len(), loaded.has_errors()), (1, false));
    assert!(
        loaded
            .findings
            .iter()
            .any(|f| f.field == "specs" && f.reason.contains("holds no rule")),
        "{:?}",
        loaded.findings
    );
    assert!(resolve(&loaded.documents, &Surroundings::default()).rules.is_empty());
    // Beside a spec it changes nothing.
    let mut both = World::new(&format!("{yaml}specs: []\n"));
    assert_eq!(both.ingress("app=a", "app=b", 80), "deny");
}

#[test]
fn an_empty_list_of_peers_takes_other_lists_along() {
    let body = "  ingress: [{fromEndpoints: [], fromEntities: [all]}]";
    assert_eq!(World::new(&cnp("x", body)).ingress("app=a", "app=b", 80), "deny");
}

#[test]
fn an_empty_selector_means_the_own_namespace_and_cluster_wide_every_namespace() {
    let shop = "app=b,io.kubernetes.pod.namespace=shop";
    let mut own = World::new(&cnp("x", "  ingress: [{fromEndpoints: [{}]}]"));
    assert_eq!(own.ingress("app=a", "app=b", 80), "allow");
    assert_eq!(own.ingress("app=a", shop, 80), "deny");
    let mut all = World::new(&ccnp("  ingress: [{fromEndpoints: [{}]}]"));
    assert_eq!(all.ingress("app=a", shop, 80), "allow");
    assert_eq!(all.ingress("app=a", "reserved:world", 80), "deny");
    assert_eq!(all.ingress("app=a", "reserved:host", 80), "deny");
    // The same for a selector that says something else than the namespace, but not for policies about endpoints whose
    // labels are not known yet.
    let negative = "  ingress: [{fromEndpoints: [{matchExpressions: [{key: env, operator: NotIn, values: [dev]}]}]}]";
    assert_eq!(
        World::new(&ccnp(negative)).ingress("app=a", "reserved:world", 80),
        "deny"
    );
    let init = ccnp("  ingress: [{fromEndpoints: [{}]}]").replace(
        "endpointSelector: {}",
        "endpointSelector: {matchLabels: {'reserved:init': ''}}",
    );
    assert_eq!(
        World::new(&init).ingress("reserved:init", "reserved:world", 80),
        "allow"
    );
}

#[test]
fn rules_without_ports_cover_icmp_and_rules_with_ports_do_not() {
    let mut world = World::new(&cnp("x", "  ingress: [{fromEndpoints: [{}]}]"));
    assert_eq!(world.l4(Ingress, "app=a", "app=b", 1, 8), "allow");
    let mut world = World::new(&cnp(
        "x",
        "  ingress: [{fromEndpoints: [{}], toPorts: [{ports: [{port: '0'}]}]}]",
    ));
    assert_eq!(world.l4(Ingress, "app=a", "app=b", 1, 8), "deny");
    assert_eq!(world.l4(Ingress, "app=a", "app=b", UDP, 7), "allow");
    let mut world = World::new(&cnp(
        "x",
        "  ingress: [{icmps: [{fields: [{type: EchoRequest}, {family: IPv6, type: 128}]}]}]",
    ));
    assert_eq!(world.l4(Ingress, "app=a", "app=b", 1, 8), "allow");
    assert_eq!(world.l4(Ingress, "app=a", "app=b", 58, 128), "allow");
    assert_eq!(world.l4(Ingress, "app=a", "app=b", 1, 0), "deny");
    assert_eq!(world.ingress("app=a", "app=b", 8), "deny");
}

#[test]
fn empty_port_lists_cover_every_port() {
    for ports in ["[]", "[{}]", "[{ports: []}]"] {
        let body = format!("  ingress: [{{fromEndpoints: [{{}}], toPorts: {ports}}}]");
        assert_eq!(
            World::new(&cnp("x", &body)).ingress("app=a", "app=b", 9999),
            "allow",
            "{ports}"
        );
    }
}

#[test]
fn empty_lists_of_l7_rules_are_no_l7_rules() {
    for rules in ["{}", "{http: []}", "{http: null}"] {
        let body = format!("  ingress: [{{toPorts: [{{ports: [{{port: '80', protocol: TCP}}], rules: {rules}}}]}}]");
        assert_eq!(
            World::new(&cnp("x", &body)).ingress("app=a", "app=b", 80),
            "allow",
            "{rules}"
        );
    }
}

#[test]
fn an_empty_http_rule_inspects_and_allows_everything() {
    let body = "  ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{}]}}]}]";
    let mut world = World::new(&cnp("x", body));
    assert_eq!(world.http(Ingress, "app=a", "app=b", 80, &request("DELETE", "/x")), 200);
}

fn dns(world: &mut World, name: &str) -> bool {
    let peer = world.identity("app=dns");
    let policy = world.policy("app=a");
    let L4Decision::Inspect(rules) = policy.lookup(Egress, peer, UDP, 53) else {
        panic!("not inspected")
    };
    rules.dns().expect("DNS rules").judge(name).is_some()
}

#[test]
fn an_empty_dns_rule_refuses_every_query_and_a_star_allows_all() {
    let dns_rule = |rule: &str| {
        cnp(
            "x",
            &format!("  egress: [{{toPorts: [{{ports: [{{port: '53', protocol: ANY}}], rules: {{dns: [{rule}]}}}}]}}]"),
        )
    };
    let mut empty = World::new(&dns_rule("{}"));
    assert!(!dns(&mut empty, "example.com.") && !dns(&mut empty, "."));
    let mut star = World::new(&dns_rule("{matchPattern: '*'}"));
    assert!(dns(&mut star, "example.com.") && dns(&mut star, "."));
    let mut both = World::new(&dns_rule("{matchName: Example.com, matchPattern: '*.org'}"));
    assert!(dns(&mut both, "example.com.") && dns(&mut both, "a.org.") && !dns(&mut both, "a.com."));
    // Over SCTP there is no DNS to inspect: never silently allowed.
    assert_eq!(star.l4(Egress, "app=a", "app=dns", 132, 53), "deny");
    assert_eq!(star.l4(Egress, "app=a", "app=dns", TCP, 53), "inspect");
}

#[test]
fn server_names_are_inspected_and_a_client_without_one_is_refused() {
    let body = "  egress: [{toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: ['*.example.com']}]}]";
    let mut world = World::new(&cnp("x", body));
    let peer = world.identity("reserved:world");
    let policy = world.policy("app=a");
    let L4Decision::Inspect(rules) = policy.lookup(Egress, peer, TCP, 443) else {
        panic!("not inspected")
    };
    let tls = rules.tls().expect("TLS rules");
    assert_eq!(tls.judge(Some("www.example.com")), Some(0));
    assert_eq!(tls.judge(Some("example.com")), None);
    assert_eq!(tls.judge(None), None);
    assert!(tls.origin(0).unwrap().path.ends_with("serverNames[0]"));
}

#[test]
fn deny_beats_allow_whatever_is_more_specific() {
    let deny_all = "  ingress: [{fromEndpoints: [{matchLabels: {app: b}}], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]\n  \
                    ingressDeny: [{fromEndpoints: [{}]}]";
    assert_eq!(World::new(&cnp("x", deny_all)).ingress("app=a", "app=b", 80), "deny");
    let deny_port = "  ingress: [{fromEndpoints: [{}]}]\n  ingressDeny: [{toPorts: [{ports: [{port: '80'}]}]}]";
    let mut world = World::new(&cnp("x", deny_port));
    assert_eq!(
        (world.ingress("app=a", "app=b", 80), world.ingress("app=a", "app=b", 81)),
        ("deny", "allow")
    );
    let deny_l7 = format!("  ingress: [{{toPorts: {HTTP_GET}}}]\n  ingressDeny: [{{fromEndpoints: [{{}}]}}]");
    assert_eq!(World::new(&cnp("x", &deny_l7)).ingress("app=a", "app=b", 80), "deny");
}

#[test]
fn a_denial_says_whether_a_rule_or_the_default_denied() {
    let body = "  ingress: [{fromEndpoints: [{}]}]\n  ingressDeny: [{toPorts: [{ports: [{port: '80'}]}]}]";
    let mut world = World::new(&cnp("x", body));
    let (own, other) = (world.identity("app=b"), world.identity("reserved:world"));
    let policy = world.policy("app=a");
    assert!(matches!(
        policy.lookup(Ingress, own, TCP, 80),
        L4Decision::Deny(DropReason::PolicyDenyRule)
    ));
    assert!(matches!(
        policy.lookup(Ingress, other, TCP, 81),
        L4Decision::Deny(DropReason::PolicyDenied)
    ));
}

#[test]
fn policies_add_up() {
    let mut world = World::new(
        &(cnp(
            "x",
            &format!("  ingress: [{{fromEndpoints: [{{matchLabels: {{app: b}}}}], toPorts: {HTTP_GET}}}]"),
        ) + &cnp(
            "y",
            "  ingress: [{fromEndpoints: [{matchLabels: {app: b}}], toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{path: /open}]}}]}]",
        )),
    );
    assert_eq!(world.http(Ingress, "app=a", "app=b", 80, &request("GET", "/x")), 200);
    assert_eq!(
        world.http(Ingress, "app=a", "app=b", 80, &request("POST", "/open")),
        200
    );
    assert_eq!(world.http(Ingress, "app=a", "app=b", 80, &request("POST", "/x")), 403);
}

#[test]
fn a_rule_without_l7_voids_the_l7_rules_of_the_same_traffic_and_of_no_other() {
    let rules = format!(
        "  ingress: [{{fromEndpoints: [{{}}], toPorts: {HTTP_GET}}}, {{fromEndpoints: [{{matchLabels: {{app: b}}}}], toPorts: {PORT_80}}}]"
    );
    let mut world = World::new(&cnp("x", &rules));
    assert_eq!(world.http(Ingress, "app=a", "app=b", 80, &request("POST", "/")), 200);
    assert_eq!(world.http(Ingress, "app=a", "app=c", 80, &request("POST", "/")), 403);
    // All ports of a peer beside L7 rules on one of them.
    let rules = format!("  ingress: [{{fromEndpoints: [{{}}]}}, {{fromEndpoints: [{{}}], toPorts: {HTTP_GET}}}]");
    let mut world = World::new(&cnp("x", &rules));
    assert_eq!(world.http(Ingress, "app=a", "app=b", 80, &request("POST", "/")), 200);
    assert_eq!(world.ingress("app=a", "app=b", 81), "allow");
}

#[test]
fn rules_for_everybody_hold_for_peers_with_rules_of_their_own() {
    let rules = format!(
        "  ingress: [{{toPorts: {HTTP_GET}}}, {{fromEndpoints: [{{}}], toPorts: [{{ports: [{{port: '81'}}]}}]}}]"
    );
    let mut world = World::new(&cnp("x", &rules));
    for peer in ["app=b", "reserved:world", "reserved:unmanaged"] {
        assert_eq!(
            world.http(Ingress, "app=a", peer, 80, &request("GET", "/")),
            200,
            "{peer}"
        );
    }
    assert_eq!(
        (
            world.ingress("app=a", "app=b", 81),
            world.ingress("app=a", "reserved:world", 81)
        ),
        ("allow", "deny")
    );
}

#[test]
fn l7_rules_of_different_protocols_on_the_same_traffic_deny_it_and_nothing_else() {
    let rules = format!(
        "  egress: [{{toPorts: {HTTP_GET}}}, {{toEndpoints: [{{}}], toPorts: [{{ports: [{{port: '80', protocol: TCP}}], serverNames: [a.b]}}]}}, {{toPorts: [{{ports: [{{port: '81'}}]}}]}}]"
    );
    let mut world = World::new(&cnp("x", &rules));
    let peer = world.identity("app=b");
    let policy = world.policy("app=a");
    assert!(matches!(
        policy.lookup(Egress, peer, TCP, 80),
        L4Decision::Deny(DropReason::PolicyConflict)
    ));
    assert_eq!(policy.conflicts().len(), 1);
    assert_eq!(policy.conflicts()[0].rules.len(), 2);
    assert_eq!(world.egress("app=a", "app=b", 81), "allow");
    assert_eq!(world.egress("app=a", "reserved:world", 80), "inspect");
}

#[test]
fn required_authentication_is_denied_with_its_own_reason() {
    let rules = "  ingress: [{fromEndpoints: [{}], authentication: {mode: required}}, {fromEntities: [world], authentication: {mode: disabled}}]";
    let mut world = World::new(&cnp("x", rules));
    let peer = world.identity("app=b");
    let policy = world.policy("app=a");
    assert!(matches!(
        policy.lookup(Ingress, peer, TCP, 80),
        L4Decision::Deny(DropReason::AuthRequired)
    ));
    assert_eq!(world.ingress("app=a", "reserved:world", 80), "allow");
}

#[test]
fn default_deny_can_be_switched_off_and_one_policy_that_wants_it_wins() {
    let off = cnp(
        "x",
        &format!(
            "  enableDefaultDeny: {{ingress: false}}\n  ingress: [{{toPorts: {HTTP_GET}}}]\n  ingressDeny: [{{fromEntities: [world]}}]"
        ),
    );
    let mut world = World::new(&off);
    assert_eq!(world.ingress("app=a", "app=b", 9999), "allow");
    assert_eq!(world.ingress("app=a", "reserved:world", 9999), "deny");
    // L7 rules of such a policy only make visible.
    assert_eq!(world.http(Ingress, "app=a", "app=b", 80, &request("POST", "/")), 200);
    let mut world = World::new(&(off + &cnp("y", "  ingress: [{}]")));
    assert_eq!(world.ingress("app=a", "app=b", 9999), "deny");
    assert_eq!(world.http(Ingress, "app=a", "app=b", 80, &request("POST", "/")), 403);
}

#[test]
fn modes_of_enforcement() {
    let with = |enforcement| CompileOptions {
        enforcement,
        allow_localhost: false,
    };
    let policy = cnp("x", &format!("  ingress: [{{toPorts: {HTTP_GET}}}]"));
    let mut always = World::with(&policy, with(Enforcement::Always));
    assert_eq!(always.ingress("app=other", "app=b", 80), "deny");
    assert_eq!(always.egress("app=a", "app=b", 80), "deny");
    assert_eq!(always.ingress("app=a", "app=b", 80), "inspect");
    let mut never = World::with(&policy, with(Enforcement::Never));
    assert_eq!(never.ingress("app=a", "app=b", 81), "allow");
    assert!(!never.policy("app=a").enforced(Ingress));
    let mut default = World::with(&policy, with(Enforcement::Default));
    assert_eq!(default.ingress("reserved:init", "app=b", 80), "deny");
    assert_eq!(default.egress("reserved:init", "app=b", 80), "deny");
}

#[test]
fn the_node_reaches_its_endpoints_past_l7_rules_but_not_past_deny_rules() {
    let options = CompileOptions {
        enforcement: Enforcement::Default,
        allow_localhost: true,
    };
    let policy = cnp(
        "x",
        &format!("  ingress: [{{toPorts: {HTTP_GET}}}]\n  ingressDeny: [{{toPorts: [{{ports: [{{port: '81'}}]}}]}}]"),
    );
    let mut world = World::with(&policy, options);
    assert_eq!(world.ingress("app=a", "reserved:host", 80), "allow");
    assert_eq!(world.ingress("app=a", "reserved:host", 9999), "allow");
    assert_eq!(world.ingress("app=a", "reserved:host", 81), "deny");
    assert_eq!(world.ingress("app=a", "reserved:remote-node", 9999), "deny");
    assert_eq!(World::new(&policy).ingress("app=a", "reserved:host", 9999), "deny");
}

#[test]
fn cidr_rules_mean_what_lies_outside_and_exceptions_are_cut_out() {
    let body = "  egress: [{toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]}, {toCIDR: ['10.1.2.0/24']}]";
    let mut world = World::new(&cnp("x", body));
    let mut at = |net: &str| {
        let labels = prefix_labels(net.parse().unwrap());
        let (id, _) = world.compiler.add_identity(&labels).unwrap();
        matches!(world.policy("app=a").lookup(Egress, id, TCP, 80), L4Decision::Allow)
    };
    assert!(at("10.0.0.0/8") && !at("10.1.0.0/16") && at("10.1.2.0/24") && !at("0.0.0.0/0") && !at("::/0"));
    assert_eq!(world.egress("app=a", "app=b", 80), "deny");
    let mut all = World::new(&cnp("x", "  egress: [{toCIDR: ['0.0.0.0/0']}]"));
    assert_eq!(all.egress("app=a", "reserved:world", 80), "allow");
    let v6 = all.compiler.add_identity(&prefix_labels(all_of(true))).unwrap().0;
    assert!(matches!(
        all.policy("app=a").lookup(Egress, v6, TCP, 80),
        L4Decision::Deny(_)
    ));
    assert_eq!(all.egress("app=a", "app=b", 80), "deny");
}

#[test]
fn names_mean_addresses_that_were_learned_under_them() {
    let mut world = World::new(&cnp("x", "  egress: [{toFQDNs: [{matchPattern: '*.example.com'}]}]"));
    let pattern = NamePattern::pattern("*.example.com").unwrap();
    let learned = world
        .compiler
        .add_identity(&outside_labels(all_of(false), [&pattern]))
        .unwrap()
        .0;
    let other = world.compiler.add_identity(&prefix_labels(all_of(false))).unwrap().0;
    let policy = world.policy("app=a");
    assert!(matches!(policy.lookup(Egress, learned, TCP, 443), L4Decision::Allow));
    assert!(matches!(policy.lookup(Egress, other, TCP, 443), L4Decision::Deny(_)));
}

#[test]
fn entities_mean_their_identities() {
    let cases = [
        ("world", "reserved:world", "allow"),
        ("world", "app=b", "deny"),
        ("cluster", "app=b", "allow"),
        ("cluster", "reserved:host", "allow"),
        ("cluster", "reserved:remote-node", "allow"),
        ("cluster", "reserved:kube-apiserver", "allow"),
        ("cluster", "reserved:world", "deny"),
        ("host", "reserved:host", "allow"),
        ("host", "reserved:remote-node", "deny"),
        ("remote-node", "reserved:remote-node", "allow"),
        ("health", "reserved:health", "allow"),
        ("init", "reserved:init", "allow"),
        ("ingress", "reserved:ingress", "allow"),
        ("unmanaged", "reserved:unmanaged", "allow"),
        ("kube-apiserver", "reserved:kube-apiserver", "allow"),
        ("all", "reserved:world", "allow"),
        ("none", "app=b", "deny"),
    ];
    for (entity, peer, wanted) in cases {
        let mut world = World::new(&cnp("x", &format!("  ingress: [{{fromEntities: [{entity}]}}]")));
        assert_eq!(world.ingress("app=a", peer, 80), wanted, "{entity} and {peer}");
    }
}

#[test]
fn port_names_are_those_of_the_endpoint_for_ingress_and_of_the_peer_for_egress() {
    let ports = |port| NamedPorts::new([("http".to_owned(), port, Some(TCP))]);
    let rules = "  ingress: [{toPorts: [{ports: [{port: HTTP, protocol: TCP}]}]}]\n  egress: [{toEndpoints: [{}], toPorts: [{ports: [{port: http}]}]}]";
    let mut world = World::new(&cnp("x", rules));
    let peer = world.identity("app=b");
    world.compiler.set_named_ports(peer, ports(9090));
    let policy = world.policy_with_ports("app=a", ports(8080));
    let allowed = |direction, port| matches!(policy.lookup(direction, peer, TCP, port), L4Decision::Allow);
    assert!(allowed(Ingress, 8080) && !allowed(Ingress, 9090));
    assert!(allowed(Egress, 9090) && !allowed(Egress, 8080));
    assert!(!matches!(
        world.policy("app=a").lookup(Ingress, peer, TCP, 8080),
        L4Decision::Allow
    ));
}

#[test]
fn ranges_hold_at_their_edges() {
    let mut world = World::new(&cnp(
        "x",
        "  ingress: [{toPorts: [{ports: [{port: '1023', endPort: 4097, protocol: TCP}]}]}]",
    ));
    for (port, wanted) in [
        (1022, "deny"),
        (1023, "allow"),
        (1024, "allow"),
        (4096, "allow"),
        (4097, "allow"),
        (4098, "deny"),
    ] {
        assert_eq!(world.ingress("app=a", "app=b", port), wanted, "{port}");
    }
    let mut world = World::new(&cnp(
        "x",
        "  ingress: [{toPorts: [{ports: [{port: '1', endPort: 65535, protocol: TCP}]}]}]",
    ));
    assert_eq!(
        (
            world.ingress("app=a", "app=b", 0),
            world.ingress("app=a", "app=b", 65535)
        ),
        ("deny", "allow")
    );
    assert!(world.policy("app=a").kernel_entries().count() <= 16);
}

#[test]
fn host_policies_govern_the_node_alone() {
    let policy = ccnp("  ingress: [{}]").replace("endpointSelector: {}", "nodeSelector: {matchLabels: {role: db}}");
    let mut world = World::new(&policy);
    assert_eq!(world.ingress("reserved:host,role=db", "app=b", 80), "deny");
    assert_eq!(world.ingress("reserved:host,role=web", "app=b", 80), "allow");
    assert_eq!(world.ingress("app=a,role=db", "app=b", 80), "allow");
    let mut world = World::new(&ccnp("  ingress: [{}]"));
    assert_eq!(world.ingress("reserved:host", "app=b", 80), "allow");
}

#[test]
fn a_policy_governs_its_own_namespace_whatever_its_selector_says() {
    let policy = cnp("x", "  ingress: [{}]").replace("app: a", "'k8s:io.kubernetes.pod.namespace': shop");
    let mut world = World::new(&policy);
    assert_eq!(world.ingress("app=a", "app=b", 80), "deny");
    assert_eq!(
        world.ingress("app=a,io.kubernetes.pod.namespace=shop", "app=b", 80),
        "allow"
    );
}

#[test]
fn tiers_are_asked_in_their_order() {
    let accept = "{action: Accept, from: [{namespaces: {}}]}";
    let deny = "{action: Deny, from: [{namespaces: {}}]}";
    let pass = "{action: Pass, from: [{namespaces: {}}]}";
    let allow_b = cnp("x", "  ingress: [{fromEndpoints: [{matchLabels: {app: b}}]}]");
    let deny_b = cnp("x", "  ingressDeny: [{fromEndpoints: [{}]}]");
    let verdict = |documents: String| World::new(&documents).ingress("app=a", "app=b", 80);
    // Admin before Normal.
    assert_eq!(verdict(tiered("t", "Admin", 1, accept) + &deny_b), "allow");
    assert_eq!(verdict(tiered("t", "Admin", 1, deny) + &allow_b), "deny");
    // Pass leaves it to the next tier.
    assert_eq!(
        verdict(tiered("t", "Admin", 1, &format!("{pass}, {deny}")) + &allow_b),
        "allow"
    );
    assert_eq!(
        verdict(tiered("t", "Admin", 1, &format!("{pass}, {accept}")) + &deny_b),
        "deny"
    );
    // Inside a tier: priority, then the order of the rules.
    assert_eq!(
        verdict(tiered("t", "Admin", 2, accept) + &tiered("u", "Admin", 1, deny)),
        "deny"
    );
    assert_eq!(verdict(tiered("t", "Admin", 1, &format!("{accept}, {deny}"))), "allow");
    // Policies of one priority meet rule by rule, and deny wins.
    assert_eq!(
        verdict(tiered("b", "Admin", 1, deny) + &tiered("a", "Admin", 1, accept)),
        "deny"
    );
    assert_eq!(
        verdict(tiered("b", "Admin", 1, &format!("{pass}, {deny}")) + &tiered("a", "Admin", 1, accept)),
        "allow"
    );
    // Baseline is asked where no policy of the Normal tier has the last word.
    assert_eq!(verdict(tiered("t", "Baseline", 1, deny)), "deny");
    assert_eq!(verdict(tiered("t", "Baseline", 1, deny) + &allow_b), "allow");
    assert_eq!(
        verdict(tiered("t", "Baseline", 1, accept) + &cnp("x", "  ingress: [{}]")),
        "deny"
    );
    // Without a word from anybody it passes.
    assert_eq!(verdict(tiered("t", "Baseline", 1, pass)), "allow");
}

#[test]
fn network_policies_of_kubernetes() {
    let policy = |spec: &str| {
        format!("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: n}}\nspec: {spec}\n")
    };
    let shop = "app=b,io.kubernetes.pod.namespace=shop,io.cilium.k8s.namespace.labels.team=red";
    let mut deny = World::new(&policy("{podSelector: {}}"));
    assert_eq!(
        (deny.ingress("app=a", "app=b", 80), deny.egress("app=a", "app=b", 80)),
        ("deny", "allow")
    );
    let mut all = World::new(&policy("{podSelector: {}, ingress: [{}]}"));
    assert_eq!(
        (
            all.ingress("app=a", "reserved:world", 80),
            all.ingress("app=a", shop, 80)
        ),
        ("allow", "allow")
    );
    let mut own = World::new(&policy("{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}"));
    assert_eq!(
        (own.ingress("app=a", "app=b", 80), own.ingress("app=a", shop, 80)),
        ("allow", "deny")
    );
    let mut team = World::new(&policy(
        "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: red}}, podSelector: {matchLabels: {app: b}}}], ports: [{port: 80, endPort: 90}]}]}",
    ));
    assert_eq!(
        (team.ingress("app=a", shop, 85), team.ingress("app=a", shop, 91)),
        ("allow", "deny")
    );
    assert_eq!(team.ingress("app=a", "app=b", 85), "deny");
    let mut egress = World::new(&policy("{podSelector: {}, policyTypes: [Egress]}"));
    assert_eq!(
        (
            egress.ingress("app=a", "app=b", 80),
            egress.egress("app=a", "app=b", 80)
        ),
        ("allow", "deny")
    );
}

#[test]
fn labels_decide_whatever_else_an_identity_has() {
    let mut world = World::new(&cnp(
        "x",
        "  ingress: [{fromEndpoints: [{matchExpressions: [{key: env, operator: NotIn, values: [dev]}]}]}]",
    ));
    assert_eq!(world.ingress("app=a", "app=b", 80), "allow");
    assert_eq!(world.ingress("app=a", "app=b,env=dev", 80), "deny");
    assert_eq!(world.ingress("app=a", "app=b,container:env=dev", 80), "deny");
    let labels = Labels::parse(["b=2", "a=1", "b=2"]);
    assert_eq!(labels.to_string(), "k8s:a=1,k8s:b=2");
}
