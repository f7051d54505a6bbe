//! Addresses of services: what goes for everybody behind them goes for them.

use seventh_abi::Direction::{Egress, Ingress};
use seventh_abi::DropReason;
use seventh_policy::{CompiledPolicy, IdentityId, L4Decision, Label, Labels, NamedPorts, ServicePort, ServicePorts};

use crate::world::{TCP, UDP, World, labels};

const POLICY: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: out}\nspec:\n  endpointSelector: \
                      {matchLabels: {app: client}}\n  egress:\n";

fn world(egress: &str) -> World {
    World::new(&format!("{POLICY}{egress}"))
}

fn port(protocol: u8, port: u16, backends: &[(IdentityId, u16)]) -> ServicePort {
    ServicePort {
        protocol,
        port,
        backends: backends.to_vec(),
    }
}

/// The service's identity, and what became of the policies in force.
fn service(world: &mut World, ports: Vec<ServicePort>) -> IdentityId {
    let labels = Labels::new([Label::new("service", "default/web", "")]);
    world.compiler.set_service(&labels, ServicePorts::new(ports)).unwrap().0
}

fn decision(policy: &CompiledPolicy, peer: IdentityId, protocol: u8, port: u16) -> String {
    match policy.lookup(Egress, peer, protocol, port) {
        L4Decision::Allow => "allow".into(),
        L4Decision::Deny(reason) => reason.name().into(),
        L4Decision::Inspect(rules) => format!("inspect {}", rules.id()),
    }
}

#[test]
fn a_port_of_a_service_is_decided_as_the_ports_behind_it_are() {
    let mut world = world(
        "  - toEndpoints: [{matchLabels: {app: web}}]\n    toPorts: [{ports: [{port: '8080', protocol: TCP}]}]\n",
    );
    let web = world.identity("app=web");
    let id = service(
        &mut world,
        vec![port(TCP, 80, &[(web, 8080)]), port(TCP, 81, &[(web, 9090)])],
    );
    let policy = world.policy("app=client");
    assert_eq!(decision(&policy, id, TCP, 80), "allow");
    assert_eq!(decision(&policy, id, TCP, 81), "policy_denied");
    // The port behind is none of the service's.
    assert_eq!(decision(&policy, id, TCP, 8080), "policy_denied");
    assert_eq!(decision(&policy, id, UDP, 80), "policy_denied");
    assert_eq!(policy.deciders(Egress, id, TCP, 80)[0].policy(), "default/out");
    assert!(policy.deciders(Egress, id, TCP, 81).is_empty());
}

#[test]
fn all_who_answer_must_be_allowed() {
    let mut world = world("  - toEndpoints: [{matchLabels: {app: web}}]\n");
    let (web, other) = (world.identity("app=web"), world.identity("app=other"));
    let id = service(&mut world, vec![port(TCP, 80, &[(web, 80), (other, 80)])]);
    let policy = world.policy("app=client");
    assert_eq!(decision(&policy, id, TCP, 80), "policy_denied");
    service(&mut world, vec![port(TCP, 80, &[(web, 80)])]);
    assert_eq!(decision(&world.policy("app=client"), id, TCP, 80), "allow");
}

#[test]
fn policies_in_force_follow_who_answers() {
    let mut world = world("  - toEndpoints: [{matchLabels: {app: web}}]\n");
    let (web, other) = (world.identity("app=web"), world.identity("app=other"));
    let before = world.policy("app=client");
    let labels = Labels::new([Label::new("service", "default/web", "")]);
    let mut set = |backends: &[(IdentityId, u16)]| {
        let ports = ServicePorts::new([port(TCP, 80, backends)]);
        world.compiler.set_service(&labels, ports).unwrap()
    };
    let (id, patches) = set(&[(web, 80)]);
    let [patch] = patches.as_slice() else {
        panic!("{patches:?}")
    };
    assert!(patch.changes_rows() && patch.policy.policy_id() == before.policy_id());
    assert_eq!(decision(&patch.policy, id, TCP, 80), "allow");
    assert!(set(&[(web, 80)]).1.is_empty(), "nothing changed");
    let (_, patches) = set(&[(web, 80), (other, 80)]);
    assert_eq!(decision(&patches[0].policy, id, TCP, 80), "policy_denied");
    assert_eq!(patches[0].removed.len(), 1, "what everybody gets takes no row");
    assert_eq!(set(&[(web, 80)]).1[0].added.len(), 1);
    let patches = world.compiler.remove_identity(id);
    assert_eq!(patches[0].removed.len(), 1);
}

#[test]
fn without_anybody_behind_it_nobody_knows_what_to_allow() {
    let mut world = world("  - toEndpoints: [{}]\n");
    let id = service(&mut world, vec![port(TCP, 80, &[])]);
    assert_eq!(
        decision(&world.policy("app=client"), id, TCP, 80),
        DropReason::ServiceWithoutBackends.name()
    );
    // Where nothing is enforced nothing is asked.
    assert_eq!(decision(&world.policy("app=free"), id, TCP, 80), "allow");
}

#[test]
fn rules_inside_the_traffic_apply_to_the_ports_behind() {
    let http = |app: &str, path: &str| {
        format!(
            "  - toEndpoints: [{{matchLabels: {{app: {app}}}}}]\n    toPorts: [{{ports: [{{port: '8080', protocol: TCP}}], \
             rules: {{http: [{{path: {path}}}]}}}}]\n"
        )
    };
    let mut world = world(&(http("a", "/a") + &http("b", "/b")));
    let (a, b) = (world.identity("app=a"), world.identity("app=b"));
    let id = service(
        &mut world,
        vec![port(TCP, 80, &[(a, 8080)]), port(TCP, 81, &[(a, 8080), (b, 8080)])],
    );
    let policy = world.policy("app=client");
    assert_eq!(decision(&policy, id, TCP, 80), decision(&policy, a, TCP, 8080));
    assert!(decision(&policy, id, TCP, 80).starts_with("inspect"));
    // Which of the two will answer is not known, and they may answer different things.
    assert_eq!(decision(&policy, id, TCP, 81), DropReason::ServiceBackendsDiffer.name());
    assert!(
        policy
            .conflicts()
            .iter()
            .any(|conflict| conflict.reason.contains("port 81"))
    );
}

#[test]
fn one_who_may_everything_beside_one_whose_traffic_is_read_is_read() {
    let mut world = world(
        "  - toEndpoints: [{matchLabels: {app: a}}]\n  - toEndpoints: [{matchLabels: {app: b}}]\n    toPorts: [{ports: [{port: \
         '80', protocol: TCP}], rules: {http: [{path: /b}]}}]\n",
    );
    let (a, b) = (world.identity("app=a"), world.identity("app=b"));
    let id = service(&mut world, vec![port(TCP, 80, &[(a, 80), (b, 80)])]);
    let policy = world.policy("app=client");
    assert_eq!(decision(&policy, id, TCP, 80), decision(&policy, b, TCP, 80));
}

#[test]
fn no_selector_means_a_service() {
    let mut world = World::new(
        "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: x}\nspec:\n  endpointSelector: \
         {matchLabels: {app: client}}\n  egress:\n  - toEntities: [cluster]\n  - toEndpoints: [{matchExpressions: [{key: \
         io.kubernetes.pod.namespace, operator: DoesNotExist}]}]\n  - toCIDR: [0.0.0.0/0]\n",
    );
    let outside = world.compiler.identities().find(&labels("reserved:world")).unwrap();
    let id = service(&mut world, vec![port(TCP, 80, &[])]);
    let policy = world.policy("app=client");
    assert_eq!(
        decision(&policy, id, TCP, 80),
        DropReason::ServiceWithoutBackends.name()
    );
    assert_eq!(decision(&policy, id, TCP, 443), "policy_denied");
    assert_eq!(decision(&policy, outside, TCP, 443), "allow");
}

#[test]
fn names_of_ports_are_those_of_who_answers() {
    let mut world =
        world("  - toEndpoints: [{matchLabels: {app: web}}]\n    toPorts: [{ports: [{port: http, protocol: TCP}]}]\n");
    let ports = NamedPorts::new([("http".to_owned(), 8080, Some(TCP))]);
    let web = world
        .compiler
        .add_identity_with_ports(&labels("app=web"), &ports)
        .unwrap()
        .0;
    let id = service(
        &mut world,
        vec![port(TCP, 80, &[(web, 8080)]), port(TCP, 81, &[(web, 8081)])],
    );
    let policy = world.policy("app=client");
    assert_eq!(decision(&policy, id, TCP, 80), "allow");
    assert_eq!(decision(&policy, id, TCP, 81), "policy_denied");
}

#[test]
fn policies_tell_apart_only_peers_that_they_treat_differently() {
    let mut world = world("  - toEndpoints: [{matchLabels: {app: web}}]\n");
    let (web, one, two) = (
        world.identity("app=web"),
        world.identity("app=one"),
        world.identity("app=two"),
    );
    let policy = world.policy("app=client");
    assert!(policy.tells_apart(web, one) && !policy.tells_apart(one, two) && !policy.tells_apart(web, web));
    assert!(matches!(policy.lookup(Ingress, one, TCP, 80), L4Decision::Allow));
}

/// Rows of the peer's own.
fn rows(policy: &CompiledPolicy, peer: IdentityId) -> usize {
    let own = |(_, key, _): &seventh_policy::KernelEntry| u32::from_be_bytes(key.identity) == peer;
    policy.kernel_entries().filter(own).count()
}

#[test]
fn many_services_of_which_no_rule_speaks_take_no_room() {
    let mut world = world(
        "  - toEndpoints: [{matchLabels: {app: web}}]\n  - toPorts: [{ports: [{port: '443', protocol: TCP}]}]\n  - toEndpoints: \
         [{matchLabels: {app: mail}}]\n    toPorts: [{ports: [{port: '443', protocol: TCP}]}]\n",
    );
    let (web, other) = (world.identity("app=web"), world.identity("app=other"));
    let mail = world.identity("app=mail");
    let serve = |world: &mut World, n: usize, backend| {
        let labels = Labels::new([Label::new("service", format!("default/s{n}"), "")]);
        let ports = ServicePorts::new([port(TCP, 80, &[(backend, 8080)]), port(TCP, 443, &[(backend, 443)])]);
        world.compiler.set_service(&labels, ports).unwrap()
    };
    let ids: Vec<IdentityId> = (0..500).map(|n| serve(&mut world, n, other).0).collect();
    let policy = world.policy("app=client");
    assert!(
        policy.kernel_entries().count() < 10,
        "{}",
        policy.kernel_entries().count()
    );
    // Whom everybody's rules cover as well as his own.
    assert_eq!(rows(&policy, mail), 0);
    for id in [ids[0], ids[499], mail] {
        assert_eq!(decision(&policy, id, TCP, 80), "policy_denied");
        assert_eq!(decision(&policy, id, TCP, 443), "allow");
    }
    // What differs is written, then and later.
    let (id, patches) = serve(&mut world, 0, web);
    assert_eq!((patches.len(), patches[0].added.len()), (1, 1));
    let policy = world.policy("app=client");
    assert_eq!((rows(&policy, id), decision(&policy, id, TCP, 80)), (1, "allow".into()));
    let (_, patches) = serve(&mut world, 0, other);
    assert_eq!((patches[0].added.len(), patches[0].removed.len()), (0, 1));
    assert_eq!(rows(&world.policy("app=client"), id), 0);
}

/// An address outside the cluster behind which these answer.
fn external(world: &mut World, ports: Vec<ServicePort>) -> IdentityId {
    let prefix = seventh_policy::identity::prefix_labels("203.0.113.0/24".parse().unwrap());
    let name = Label::new("service", "default/web", "");
    let labels = Labels::new(prefix.as_slice().iter().cloned().chain([name]));
    let ports = ServicePorts::new(ports).beside_own();
    world.compiler.set_service(&labels, ports).unwrap().0
}

#[test]
fn at_an_address_that_is_also_something_else_both_must_be_allowed() {
    const OUTSIDE: &str =
        "  - toCIDR: [203.0.113.0/24]\n    toPorts: [{ports: [{port: '80', endPort: 90, protocol: TCP}]}]\n";
    const BEHIND: &str = "  - toEndpoints: [{matchLabels: {app: web}}]\n";
    for (rules, at_port, beside) in [
        ("  - toEntities: [cluster]\n", "policy_denied", "policy_denied"),
        (OUTSIDE, "policy_denied", "allow"),
        (BEHIND, "policy_denied", "policy_denied"),
        (&format!("{OUTSIDE}{BEHIND}"), "allow", "allow"),
    ] {
        let mut world = world(rules);
        let web = world.identity("app=web");
        let id = external(&mut world, vec![port(TCP, 85, &[(web, 8080)])]);
        let policy = world.policy("app=client");
        assert_eq!(decision(&policy, id, TCP, 85), at_port, "{rules}");
        for port in [80, 84, 86, 90] {
            assert_eq!(decision(&policy, id, TCP, port), beside, "{rules} {port}");
        }
        for (protocol, port) in [(TCP, 79), (TCP, 91), (UDP, 85)] {
            assert_eq!(decision(&policy, id, protocol, port), "policy_denied", "{rules} {port}");
        }
    }
}

#[test]
fn ports_of_a_node_lead_to_those_who_answer_behind_them() {
    let mut world = world("  - toEntities: [remote-node]\n");
    let (web, node) = (world.identity("app=web"), world.identity("reserved:remote-node"));
    let behind = |ports| Some(ServicePorts::new(ports).beside_own());
    let policy = world.policy("app=client");
    assert_eq!(decision(&policy, node, TCP, 30_080), "allow");
    let patches = world
        .compiler
        .set_ports_behind(node, behind(vec![port(TCP, 30_080, &[(web, 80)])]));
    assert_eq!(patches.len(), 1);
    let policy = world.policy("app=client");
    assert_eq!(decision(&policy, node, TCP, 30_080), "policy_denied");
    assert_eq!(decision(&policy, node, TCP, 10_250), "allow");
    // Rules go on meaning the node where it is the one that speaks.
    let mut ingress = World::new(
        &POLICY
            .replace("egress", "ingress")
            .replace("  ingress:\n", "  ingress:\n  - fromEntities: [remote-node]\n"),
    );
    let (web, node) = (ingress.identity("app=web"), ingress.identity("reserved:remote-node"));
    ingress
        .compiler
        .set_ports_behind(node, behind(vec![port(TCP, 80, &[(web, 80)])]));
    let policy = ingress.policy("app=client");
    assert!(matches!(policy.lookup(Ingress, node, TCP, 80), L4Decision::Allow));
    assert!(matches!(policy.lookup(Ingress, web, TCP, 80), L4Decision::Deny(_)));
    // And it is a node like any other when nothing is behind it any more.
    assert_eq!(world.compiler.set_ports_behind(node, None).len(), 1);
    assert_eq!(decision(&world.policy("app=client"), node, TCP, 30_080), "allow");
}
