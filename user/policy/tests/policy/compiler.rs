//! What the compiler shares, keeps and patches; identities and addresses.

use std::net::IpAddr;
use std::sync::Arc;

use seventh_abi::Direction::{Egress, Ingress};
use seventh_policy::identity::{
    AllocateError, CLUSTER_SCOPE_FIRST, CLUSTER_SCOPE_LAST, LOCAL_SCOPE_FIRST, NODE_SCOPE_FIRST, WORLD_IPV4,
    WORLD_IPV6, all_of, prefix_labels,
};
use seventh_policy::{
    CompileOptions, Compiler, Identities, Ipcache, L4Decision, LabelFilter, Labels, NamedPorts, Owner, RowWidth,
    Surroundings, load_text, resolve,
};

use crate::world::{TCP, World};

fn policies(count: usize) -> String {
    let policy = |n: usize| {
        format!(
            "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p{n}}}\nspec:\n  \
             endpointSelector: {{matchLabels: {{app: s{n}}}}}\n  ingress:\n  - fromEndpoints: [{{matchLabels: {{role: r{n}}}}}]\n    \
             toPorts: [{{ports: [{{port: '80', protocol: TCP}}], rules: {{http: [{{path: /p{n}}}]}}}}]\n"
        )
    };
    (0..count).map(policy).collect()
}

fn set(compiler: &mut Compiler, yaml: &str) {
    let loaded = load_text("test.yaml", yaml);
    assert!(!loaded.has_errors(), "{:?}", loaded.findings);
    compiler.set_rules(resolve(&loaded.documents, &Surroundings::default()).rules);
}

#[test]
fn endpoints_that_the_same_rules_govern_share_a_policy() {
    let mut world = World::new(&policies(2));
    let one = world.policy("app=s0,pod=1");
    assert!(Arc::ptr_eq(&one, &world.policy("app=s0,pod=2")));
    assert_ne!(one.policy_id(), world.policy("app=s1").policy_id());
    let free = world.policy("app=free");
    assert!(Arc::ptr_eq(&free, &world.policy("app=free-too")));
    assert_eq!(free.kernel_entries().count(), 0);
    assert!(!free.enforced(Ingress) && !free.enforced(Egress) && free.policy_id() > 0);
}

#[test]
fn a_rule_is_found_by_whatever_its_subject_demands() {
    let governed = |selector: &str, endpoint: &str| {
        let yaml = format!(
            "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {{name: x}}\nspec: \
             {{endpointSelector: {selector}, ingress: [{{}}]}}\n"
        );
        World::new(&yaml).policy(endpoint).enforced(Ingress)
    };
    for (selector, endpoint, expected) in [
        ("{}", "app=a", true),
        ("{matchLabels: {app: a}}", "app=a", true),
        ("{matchLabels: {app: a}}", "app=b", false),
        ("{matchLabels: {app: a}}", "container:app=a", true),
        ("{matchLabels: {'k8s:app': a}}", "container:app=a", false),
        ("{matchLabels: {'io.kubernetes.pod.namespace': default}}", "app=a", true),
        (
            "{matchLabels: {'io.kubernetes.pod.namespace': default, app: b}}",
            "app=a",
            false,
        ),
        (
            "{matchExpressions: [{key: app, operator: In, values: [b, a]}]}",
            "app=a",
            true,
        ),
        (
            "{matchExpressions: [{key: app, operator: NotIn, values: [b]}]}",
            "app=a",
            true,
        ),
        (
            "{matchExpressions: [{key: app, operator: NotIn, values: [a]}, {key: x, operator: In, values: [y]}]}",
            "x=y",
            true,
        ),
        ("{matchExpressions: [{key: x, operator: Exists}]}", "x=y", true),
        ("{matchExpressions: [{key: x, operator: DoesNotExist}]}", "x=y", false),
        ("{matchLabels: {app: ''}}", "app", true),
    ] {
        assert_eq!(governed(selector, endpoint), expected, "{selector} {endpoint}");
    }
}

#[test]
fn a_changed_policy_leaves_the_others_as_they_were() {
    let mut world = World::new(&policies(3));
    let before: Vec<_> = (0..3).map(|n| world.policy(&format!("app=s{n}"))).collect();
    set(&mut world.compiler, &policies(3).replace("/p1", "/changed"));
    let after: Vec<_> = (0..3).map(|n| world.policy(&format!("app=s{n}"))).collect();
    assert!(Arc::ptr_eq(&before[0], &after[0]) && Arc::ptr_eq(&before[2], &after[2]));
    assert_ne!(before[1].policy_id(), after[1].policy_id());
}

#[test]
fn equal_rules_are_equal_rule_sets() {
    let mut world = World::new(&policies(1));
    world.identity("role=r0");
    let ids = |world: &mut World| -> Vec<u32> { world.policy("app=s0").rule_sets().map(|s| s.id()).collect() };
    let before = ids(&mut world);
    assert_eq!(before.len(), 1);
    assert!(before[0] > 0);
    let held = world.policy("app=s0");
    // Another policy governs the endpoint too; the HTTP rules stay what they were.
    let more = policies(1)
        + "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: q}\nspec: {endpointSelector: {}, egress: [{}]}\n";
    set(&mut world.compiler, &more);
    assert_ne!(world.policy("app=s0").policy_id(), held.policy_id());
    assert_eq!(ids(&mut world), before);
    assert!(held.rule_set(before[0]).is_some() && held.rule_set(0).is_none());
}

#[test]
fn a_new_identity_patches_only_the_policies_that_mean_it() {
    let mut world = World::new(&policies(3));
    let held: Vec<_> = (0..3).map(|n| world.policy(&format!("app=s{n}"))).collect();
    let (id, patches) = world.compiler.add_identity(&crate::world::labels("role=r1")).unwrap();
    let [patch] = patches.as_slice() else {
        panic!("{patches:?}")
    };
    assert_eq!(patch.policy.policy_id(), held[1].policy_id());
    assert_eq!((patch.added.len(), patch.removed.len()), (1, 0));
    assert!(matches!(
        patch.policy.lookup(Ingress, id, TCP, 80),
        L4Decision::Inspect(_)
    ));
    assert!(Arc::ptr_eq(&world.policy("app=s1"), &patch.policy));
    // Known labels change nothing.
    assert_eq!(
        world
            .compiler
            .add_identity(&crate::world::labels("role=r1"))
            .unwrap()
            .1
            .len(),
        0
    );
    let patches = world.compiler.remove_identity(id);
    assert_eq!((patches.len(), patches[0].removed.len()), (1, 1));
    assert!(matches!(
        patches[0].policy.lookup(Ingress, id, TCP, 80),
        L4Decision::Deny(_)
    ));
}

#[test]
fn an_identity_that_is_treated_like_everybody_has_no_entries() {
    let yaml = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: x}\nspec:\n  endpointSelector: {}\n  \
                ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}]}]}, {fromEndpoints: [{}], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]\n";
    let mut world = World::new(yaml);
    world.identity("app=b");
    assert_eq!(world.policy("app=a").kernel_entries().count(), 1);
}

#[test]
fn numbers_follow_the_scope_of_the_labels() {
    let mut identities = Identities::new();
    let pod = identities.allocate(&Labels::parse(["app=a"])).unwrap();
    assert_eq!(pod, CLUSTER_SCOPE_FIRST);
    assert_eq!(identities.allocate(&Labels::parse(["app=a"])), Ok(pod));
    let outside = identities
        .allocate(&prefix_labels("10.0.0.0/8".parse().unwrap()))
        .unwrap();
    assert_eq!(outside, LOCAL_SCOPE_FIRST);
    let node = identities
        .allocate(&Labels::parse(["reserved:remote-node", "role=db"]))
        .unwrap();
    assert_eq!(node, NODE_SCOPE_FIRST);
    assert_eq!(identities.allocate(&prefix_labels(all_of(false))), Ok(WORLD_IPV4));
    assert_eq!(identities.allocate(&prefix_labels(all_of(true))), Ok(WORLD_IPV6));
    assert_eq!(identities.allocate(&Labels::parse(["reserved:host"])), Ok(1));
    assert!(!identities.remove(1) && identities.get(1).is_some());
}

#[test]
fn a_released_number_rests_until_the_others_were_used() {
    let mut identities = Identities::new();
    let labels = |n: u32| Labels::parse([format!("n={n}").as_str()]);
    let first = identities.allocate(&labels(0)).unwrap();
    assert!(identities.remove(first));
    assert_eq!(identities.allocate(&labels(1)), Ok(first + 1));
    for n in 2..=(CLUSTER_SCOPE_LAST - CLUSTER_SCOPE_FIRST) {
        identities.allocate(&labels(n)).unwrap();
    }
    assert_eq!(identities.allocate(&labels(99_998)), Ok(first));
    assert_eq!(
        identities.allocate(&labels(99_999)),
        Err(AllocateError::ClusterScopeFull)
    );
}

#[test]
fn the_longest_prefix_owns_an_address() {
    let mut cache = Ipcache::new();
    let at = |cache: &Ipcache, address: &str| cache.lookup(address.parse::<IpAddr>().unwrap()).identity;
    let own = |identity| Owner { identity, ifindex: 0 };
    assert_eq!(
        (at(&cache, "192.0.2.1"), at(&cache, "2001:db8::1")),
        (WORLD_IPV4, WORLD_IPV6)
    );
    cache.insert("10.0.0.0/8".parse().unwrap(), own(300));
    cache.insert("10.1.0.0/16".parse().unwrap(), own(301));
    cache.insert(
        "10.1.2.3/32".parse().unwrap(),
        Owner {
            identity: 302,
            ifindex: 7,
        },
    );
    cache.insert("fd00::/8".parse().unwrap(), own(303));
    assert_eq!(at(&cache, "10.200.0.1"), 300);
    assert_eq!(at(&cache, "10.1.9.9"), 301);
    assert_eq!(at(&cache, "10.1.2.3"), 302);
    assert_eq!(at(&cache, "::ffff:10.1.2.3"), 302);
    assert_eq!(at(&cache, "fd00::1"), 303);
    assert_eq!(cache.remove("10.1.0.0/16".parse().unwrap()), Some(own(301)));
    assert_eq!(at(&cache, "10.1.9.9"), 300);
    assert_eq!(cache.remove("10.1.0.0/16".parse().unwrap()), None);
    cache.insert("0.0.0.0/0".parse().unwrap(), own(304));
    assert_eq!(at(&cache, "192.0.2.1"), 304);
    cache.remove("0.0.0.0/0".parse().unwrap());
    assert_eq!(at(&cache, "192.0.2.1"), WORLD_IPV4);
    let entries: Vec<(u32, u32)> = cache
        .kernel_entries()
        .map(|(bits, _, entry)| (bits, entry.identity))
        .collect();
    assert_eq!(
        entries,
        [(0, WORLD_IPV6), (8, 303), (96, WORLD_IPV4), (104, 300), (128, 302)]
    );
}

#[test]
fn labels_that_only_tell_instances_apart_make_no_identity() {
    let labels = Labels::parse([
        "app=a",
        "io.kubernetes.pod.namespace=default",
        "pod-template-hash=123",
        "app.kubernetes.io/name=web",
        "kubernetes.io/hostname=n1",
        "reserved:host",
    ]);
    let filtered = LabelFilter::new([]).unwrap().apply(&labels);
    let wanted = Labels::parse([
        "app=a",
        "io.kubernetes.pod.namespace=default",
        "app.kubernetes.io/name=web",
        "reserved:host",
    ]);
    assert_eq!(filtered, wanted);
    // An own inclusion makes the list exclusive; what the defaults include stays.
    let filtered = LabelFilter::new(["k8s:role"]).unwrap().apply(&labels);
    assert_eq!(
        filtered,
        Labels::parse([
            "io.kubernetes.pod.namespace=default",
            "app.kubernetes.io/name=web",
            "reserved:host"
        ])
    );
    assert!(LabelFilter::new(["("]).is_err());
}

#[test]
fn named_ports_know_several_numbers_and_protocols() {
    let ports = NamedPorts::new([
        ("HTTP".into(), 80, Some(6)),
        ("http".into(), 8080, None),
        ("dns".into(), 53, Some(17)),
    ]);
    let mut found: Vec<u16> = ports.resolve("http", 6).collect();
    found.sort_unstable();
    assert_eq!(found, [80, 8080]);
    assert_eq!(ports.resolve("http", 17).collect::<Vec<_>>(), [8080]);
    assert_eq!(ports.resolve("dns", 6).count(), 0);
}

#[test]
fn compiling_is_repeatable() {
    let build = || {
        let mut compiler = Compiler::new(CompileOptions::default());
        set(&mut compiler, &policies(4));
        compiler.add_identity(&crate::world::labels("role=r2")).unwrap();
        let facts = seventh_policy::EndpointFacts {
            labels: crate::world::labels("app=s2"),
            named_ports: NamedPorts::default(),
        };
        let mut entries: Vec<_> = compiler
            .compile(&facts)
            .unwrap()
            .kernel_entries()
            .map(|e| format!("{e:?}"))
            .collect();
        entries.sort();
        entries
    };
    assert_eq!(build(), build());
}

/// Names of the policies that decide, with what they want to be logged.
fn deciders(policy: &seventh_policy::CompiledPolicy, peer: u32, port: u16) -> Vec<(String, Option<String>)> {
    let rules = policy.deciders(Ingress, peer, TCP, port);
    let mut named: Vec<_> = rules
        .iter()
        .map(|rule| (rule.policy(), rule.log.as_deref().map(str::to_owned)))
        .collect();
    named.sort();
    named
}

#[test]
fn a_flow_is_decided_by_every_rule_that_allows_it_or_by_the_one_that_denies_it() {
    let policy = |name: &str, log: &str, rules: &str| {
        format!(
            "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}}}\nspec:\n  \
             endpointSelector: {{matchLabels: {{app: web}}}}\n  {log}\n  {rules}\n"
        )
    };
    let yaml = [
        policy("for-all", "", "ingress: [{fromEntities: [all], toPorts: [{ports: [{port: '80'}]}]}]"),
        policy(
            "for-some",
            "log: {value: some}",
            "ingress: [{fromEndpoints: [{matchLabels: {role: friend}}], toPorts: [{ports: [{port: '80', endPort: 90}]}]}]",
        ),
        policy(
            "no-foe",
            "log: {value: foe}",
            "ingressDeny: [{fromEndpoints: [{matchLabels: {role: foe}}], toPorts: [{ports: [{port: '80'}]}]}]",
        ),
    ]
    .concat();
    let mut world = World::with(
        &yaml,
        CompileOptions {
            allow_localhost: true,
            ..CompileOptions::default()
        },
    );
    let friend = world.identity("role=friend");
    let policy = world.policy("app=web");
    let name = |name: &str| (format!("default/{name}"), None);
    let logged = |name: &str, log: &str| (format!("default/{name}"), Some(log.to_owned()));
    // The friend's row in the kernel is the same as everybody's; that both policies allow it is known all the same.
    assert_eq!(
        deciders(&policy, friend, 80),
        [name("for-all"), logged("for-some", "some")]
    );
    assert_eq!(
        deciders(&policy, friend, 80),
        [name("for-all"), logged("for-some", "some")],
        "from memory"
    );
    assert_eq!(deciders(&policy, friend, 85), [logged("for-some", "some")]);
    assert_eq!(deciders(&policy, friend, 99), [], "default deny");
    assert_eq!(deciders(&policy, WORLD_IPV4, 80), [name("for-all")]);
    assert_eq!(
        deciders(&policy, seventh_policy::identity::HOST, 99),
        [],
        "no document holds this rule"
    );
    // Who comes later is known, too.
    let foe = world.identity("role=foe");
    assert_eq!(deciders(&world.policy("app=web"), foe, 80), [logged("no-foe", "foe")]);
    let late = world.identity("role=friend,later=yes");
    assert_eq!(
        deciders(&world.policy("app=web"), late, 85),
        [logged("for-some", "some")]
    );
    world.compiler.remove_identity(late);
    assert_eq!(deciders(&world.policy("app=web"), late, 85), []);
}

#[test]
fn what_a_flow_is_decided_by_is_told_by_the_row() {
    let policy = |name: &str, rules: &str| {
        format!(
            "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}}}\nspec:\n  \
             endpointSelector: {{matchLabels: {{app: web}}}}\n  ingress: [{rules}]\n"
        )
    };
    let yaml = [
        policy("port-for-all", "{toPorts: [{ports: [{port: '80', protocol: TCP}]}]}"),
        policy("friend", "{fromEndpoints: [{matchLabels: {role: friend}}]}"),
        policy(
            "some",
            "{fromEndpoints: [{matchLabels: {role: some}}], toPorts: [{ports: [{port: '90', protocol: TCP}, {port: '0', protocol: UDP}]}]}",
        ),
        policy("proto-for-all", "{toPorts: [{ports: [{port: '0', protocol: SCTP}]}]}"),
    ]
    .concat();
    let mut world = World::new(&yaml);
    let (friend, some) = (world.identity("role=friend"), world.identity("role=some"));
    let policy = world.policy("app=web");
    let matched = |peer, protocol, port| {
        policy
            .matched(Ingress, peer, protocol, port)
            .map(|matched| (matched.peer, matched.width))
    };
    assert_eq!(
        matched(some, TCP, 80),
        Some((false, RowWidth::Port)),
        "as for everybody"
    );
    assert_eq!(matched(some, TCP, 90), Some((true, RowWidth::Port)));
    assert_eq!(matched(some, 17, 53), Some((true, RowWidth::Protocol)));
    assert_eq!(matched(some, 132, 7), Some((false, RowWidth::Protocol)));
    assert_eq!(matched(friend, TCP, 99), Some((true, RowWidth::All)));
    assert_eq!(matched(some, TCP, 99), None, "default deny");
    let unenforced = policy.matched(Egress, some, TCP, 99);
    assert_eq!(unenforced.map(|m| (m.peer, m.width)), Some((false, RowWidth::All)));
}
