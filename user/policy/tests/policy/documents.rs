//! Files as people have them, and files as nobody should have them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rand::prelude::*;
use serde_json::json;
use seventh_policy::load::{DOCUMENTS_MAX, FILE_BYTES_MAX};
use seventh_policy::{
    CompileOptions, Compiler, EndpointFacts, Finding, Labels, Loaded, Loader, NamedPorts, Severity, Surroundings,
    load_paths, load_text, resolve,
};

use crate::tables::data;

/// Examples that are refused on purpose, and the field that is named.
const REFUSED: &[(&str, &str)] = &[
    ("kubernetes-kafka/kafka-sw-security-policy.yaml", "kafka"),
    ("policies/getting-started/kafka.yaml", "kafka"),
    ("policies/l7/kafka/kafka.yaml", "kafka"),
    ("policies/l7/kafka/kafka-role.yaml", "kafka"),
    ("policies/l3/requires/requires.yaml", "fromRequires"),
    // Deviation: TLS is not terminated, and a rule that needs it must not be taken for one that does not.
    ("kubernetes-tls-inspection/l7-visibility-tls.yaml", "terminatingTLS"),
    // Deviation: the schema drops this unknown field, and with it the demand for authentication.
    ("policies/auth/auth.yaml", "auth"),
];

#[test]
fn every_example_is_accepted_or_refused_for_a_named_field() {
    let mut files = Vec::new();
    collect(&data("examples"), &mut files);
    assert_eq!(files.len(), 84);
    let (mut policies, mut refused) = (0, 0);
    for file in files {
        let loaded = load_paths([&file]);
        let errors: Vec<&Finding> = loaded
            .findings
            .iter()
            .filter(|f| f.severity == Severity::Error)
            .collect();
        let expected = REFUSED.iter().find(|(name, _)| file.ends_with(name));
        match expected {
            None => assert!(errors.is_empty(), "{errors:#?}"),
            Some((_, field)) => {
                refused += 1;
                assert!(
                    errors.iter().any(|e| e.field.ends_with(field) && e.line > 1),
                    "{file}: {errors:#?}"
                );
                assert!(loaded.documents.is_empty());
            }
        }
        policies += loaded.documents.len();
    }
    assert_eq!((policies, refused), (63, REFUSED.len()));
}

pub(crate) fn collect(directory: &Path, files: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "json") {
            files.push(path.to_str().unwrap().to_owned());
        }
    }
}

fn policy(spec: &str) -> String {
    format!("apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata:\n  name: x\nspec:\n{spec}")
}

/// The only error of a text.
fn only_error(text: &str) -> Finding {
    let loaded = load_text("bad.yaml", text);
    assert!(loaded.documents.is_empty(), "{:#?}", loaded.documents);
    let errors: Vec<&Finding> = loaded
        .findings
        .iter()
        .filter(|f| f.severity == Severity::Error)
        .collect();
    let [error] = errors.as_slice() else {
        panic!("{errors:#?}")
    };
    (*error).clone()
}

#[test]
fn an_error_names_file_line_document_object_field_and_reason() {
    let text = format!(
        "# comment\n---\n{}",
        policy("  endpointSelector: {}\n  ingress:\n  - fromEndpoint: [{}]\n")
    );
    let error = only_error(&text);
    assert_eq!((error.line, error.column, error.document), (10, 5, 1));
    assert_eq!(error.object, "CiliumNetworkPolicy default/x");
    assert_eq!(error.field, "spec.ingress[0].fromEndpoint");
    assert_eq!(error.reason, "unknown field; did you mean `fromEndpoints`?");
    assert_eq!(
        error.to_string(),
        "bad.yaml:10:5: error: document 1 (CiliumNetworkPolicy default/x): spec.ingress[0].fromEndpoint: unknown \
         field; did you mean `fromEndpoints`?"
    );
}

#[test]
fn what_is_no_yaml_is_said_in_the_words_of_its_author() {
    let refused = |text: &str| only_error(text).to_string();
    let sound = policy("  endpointSelector: {}\n  ingress: [{}]\n");
    let twice = refused(&format!("{sound}  ingress: []\n"));
    assert_eq!(
        twice,
        "bad.yaml:8:3: error: document 1: the field `ingress` is there twice"
    );
    let deep = refused(&"a: {".repeat(100));
    assert!(deep.ends_with("nested deeper than 32 levels"), "{deep}");
    let two = refused(&format!("{sound}...\n{sound}"));
    assert!(two.contains("a further document begins here"), "{two}");
    assert!(!refused("a: [").contains("at line"));
}

#[test]
fn neither_a_document_nor_its_name_can_write_to_the_terminal() {
    let text = policy("  endpointSelector: {}\n  ingress: [{}]\n  \"\\e[2Jx\\n\": 1\n");
    let loaded = load_text("bad\u{1b}[2J.yaml", &text);
    let said = loaded.findings[0].to_string();
    assert!(
        said.starts_with("bad\\u{1b}[2J.yaml:") && said.contains("unknown field"),
        "{said}"
    );
    assert!(!said.contains(char::is_control), "{said:?}");
    // Nor can it turn its line around (Trojan Source).
    let text = policy("  endpointSelector: {}\n  ingress: [{}]\n  \"a\u{202e}b\u{2066}\": 1\n");
    let loaded = load_text("bad.yaml", &text);
    let finding = &loaded.findings[0];
    assert!(finding.to_string().contains("a\\u{202e}b\\u{2066}"), "{finding}");
    let quoted = loaded.sources.quote(finding).unwrap();
    assert!(quoted.contains("\"a\u{fffd}b\u{fffd}\": 1"), "{quoted}");
}

#[test]
fn very_many_findings_are_quoted_in_a_moment() {
    let bad = policy("  endpointSelector: {}\n  ingress: [{}]\n  x: 1\n");
    let loaded = load_text("many.yaml", &vec![bad; DOCUMENTS_MAX].join("---\n"));
    assert_eq!(loaded.findings.len(), DOCUMENTS_MAX);
    let start = std::time::Instant::now();
    let quoted = loaded.findings.iter().map(|f| loaded.sources.quote(f).unwrap());
    assert!(quoted.into_iter().all(|text| text.contains("x: 1")));
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

#[test]
fn links_that_lead_round_in_circles_come_to_an_end() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c", "d"] {
        std::os::unix::fs::symlink(directory.path(), directory.path().join(name)).unwrap();
    }
    let start = std::time::Instant::now();
    let loaded = load_paths([directory.path()]);
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
    let too_many = loaded
        .findings
        .iter()
        .filter(|f| f.reason.starts_with("too many"))
        .count();
    assert!(too_many == 1 && loaded.has_errors(), "{:?}", loaded.findings);
}

#[test]
fn a_pipe_in_a_directory_does_not_stop_the_reader() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe.yaml");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    fs::write(
        directory.path().join("good.yaml"),
        policy("  endpointSelector: {}\n  ingress: [{}]\n"),
    )
    .unwrap();
    let loaded = load_paths([directory.path()]);
    assert_eq!(loaded.documents.len(), 1);
    assert_eq!(loaded.findings[0].reason, "is neither a file nor a directory");
}

#[test]
fn one_look_shows_every_mistake_of_a_document() {
    let text = policy(
        "  endpointSelector: {matchLabel: {}}\n  ingress:\n  - toPorts:\n    - ports: [{port: 80}]\n  egres: []\n",
    );
    let loaded = load_text("bad.yaml", &text);
    let fields: Vec<&str> = loaded.findings.iter().map(|f| f.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "spec.endpointSelector.matchLabel",
            "spec.ingress[0].toPorts[0].ports[0].port",
            "spec.egres"
        ]
    );
}

#[test]
fn a_bad_document_does_not_block_its_neighbours() {
    let good = policy("  endpointSelector: {}\n  ingress: [{}]\n");
    let unreadable = "a: [unclosed\nb: }\n";
    let text = format!(
        "{unreadable}---\n{good}---\nkind: [\n---\n{}",
        good.replace("name: x", "name: y")
    );
    let loaded = load_text("mixed.yaml", &text);
    let names: Vec<&str> = loaded.documents.iter().map(|d| &*d.origin.name).collect();
    assert_eq!(names, ["x", "y"], "{:?}", loaded.findings);
    let errors: Vec<u32> = loaded.findings.iter().map(|f| f.document).collect();
    assert_eq!(errors, [1, 3]);
    assert_eq!(loaded.documents[1].origin.line, 14);
}

fn ingress(item: &str) -> String {
    policy(&format!("  endpointSelector: {{}}\n  ingress:\n  - {item}\n"))
}

fn egress(item: &str) -> String {
    policy(&format!("  endpointSelector: {{}}\n  egress:\n  - {item}\n"))
}

/// Each text must be refused with a reason that says what is wanted.
fn refuse(cases: &[(String, &str)]) {
    for (text, wanted) in cases {
        let loaded = load_text("bad.yaml", text);
        assert!(loaded.documents.is_empty() && loaded.has_errors(), "accepted: {text}");
        let found = loaded.findings.iter().any(|f| f.reason.contains(wanted) && f.line > 0);
        assert!(found, "wanted {wanted:?} for\n{text}\n{:#?}", loaded.findings);
    }
}

#[test]
fn bad_objects_are_refused() {
    refuse(&[
        (policy("  endpointSelector: {}\n"), "one of ingress, ingressDeny"),
        (
            policy("  endpointSelector: {}\n  ingress: []\n"),
            "`ingress: [{}]` denies all",
        ),
        (policy("  ingress: [{}]\n"), "must have an endpointSelector"),
        (policy("  nodeSelector: {}\n  ingress: [{}]\n"), "may select nodes"),
        (policy("  endpointSelector: {}\n  ingress: {}\n"), "must be a list"),
        (policy("  endpointSelector: []\n  ingress: [{}]\n"), "must be an object"),
        (
            policy("  endpointSelector: {matchLabels: {a: 1}}\n  ingress: [{}]\n"),
            "write it in quotes",
        ),
        (
            policy("  endpointSelector: {matchLabels: {a: true}}\n  ingress: [{}]\n"),
            "write it in quotes",
        ),
        (
            policy("  endpointSelector: {matchLabels: {a: 'x y'}}\n  ingress: [{}]\n"),
            "not a label value",
        ),
        (
            policy("  endpointSelector: {matchLabels: {'a b': x}}\n  ingress: [{}]\n"),
            "not a label key",
        ),
        (
            policy("  endpointSelector: {}\n  enableDefaultDeny: {ingress: 'no'}\n  ingress: [{}]\n"),
            "true or false",
        ),
        (
            policy("  endpointSelector: {}\n  log: {value: \"a\\tb\"}\n  ingress: [{}]\n"),
            "printable",
        ),
        (
            "apiVersion: cilium.io/v1\nkind: CiliumNetworkPolicy\n".into(),
            "use cilium.io/v2",
        ),
        (
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolcy\n".into(),
            "did you mean CiliumNetworkPolicy?",
        ),
        (
            "apiVersion: extensions/v1beta1\nkind: NetworkPolicy\n".into(),
            "use networking.k8s.io/v1",
        ),
        (
            "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\n".into(),
            "is not supported",
        ),
        (
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n".into(),
            "`metadata` is missing",
        ),
        ("just text\n".into(), "must be an object"),
        ("kind: X\nkind: Y\n".into(), "is there twice"),
        ("kind: !evil X\n".into(), "tag"),
    ]);
}

#[test]
fn bad_peers_are_refused() {
    refuse(&[
        (ingress("fromEntities: [moon]"), "unknown entity \"moon\""),
        (
            ingress("{fromCIDR: [10.0.0.0/8], fromEntities: [world]}"),
            "cannot be combined with fromCIDR",
        ),
        (ingress("fromCIDR: [10.0.0.1]"), "10.0.0.1/32"),
        (ingress("fromCIDR: [10.0.0.0/33]"), "not a prefix"),
        (
            ingress("fromCIDRSet: [{cidr: 10.0.0.0/8, except: [11.0.0.0/8]}]"),
            "does not lie inside",
        ),
        (
            ingress("fromCIDRSet: [{}]"),
            "one of cidr, cidrGroupRef and cidrGroupSelector",
        ),
        (ingress("fromGroups: [{}]"), "cannot be resolved"),
        (ingress("fromRequires: [{}]"), "was removed"),
        (ingress("toFQDNs: [{matchName: a.b}]"), "unknown field"),
        (egress("toFQDNs: [{matchName: 'a*.b'}]"), "use matchPattern"),
        (egress("toFQDNs: [{matchName: 'bücher.de'}]"), "xn--"),
        (egress("toServices: [{}]"), "exactly one of k8sService"),
        (
            egress("toPorts: [{ports: [{port: '53'}], rules: {dns: [{}], http: [{}]}}]"),
            "cannot stand in one rule",
        ),
        (
            egress("toPorts: [{ports: [{port: '443'}], terminatingTLS: {secret: {name: s}}}]"),
            "TLS is not terminated",
        ),
        (
            egress("toPorts: [{ports: [{port: '443'}], originatingTLS: {secret: {name: s}}}]"),
            "TLS is not originated",
        ),
        (
            egress("toPorts: [{ports: [{port: '80'}], listener: {name: l}}]"),
            "there is no Envoy",
        ),
        (
            egress("toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: []}]"),
            "at least one server",
        ),
        (
            egress("toPorts: [{ports: [{port: '443', protocol: SCTP}], serverNames: [a.b]}]"),
            "need protocol TCP, UDP or ANY",
        ),
        (ingress("authentication: {mode: maybe}"), "unknown mode"),
        (ingress("icmps: [{fields: [{type: 256}]}]"), "must be an ICMP type"),
        (
            ingress("icmps: [{fields: [{type: NeighborSolicitation}]}]"),
            "must be an ICMP type",
        ),
    ]);
}

#[test]
fn bad_ports_are_refused() {
    let port = |port: &str| ingress(&format!("toPorts: [{{ports: [{port}]}}]"));
    refuse(&[
        (port("{port: 80}"), "write it in quotes"),
        (port("{port: '65536'}"), "not a port number"),
        (port("{port: '09'}"), "not a port number"),
        (port("{port: 'a--b'}"), "port name"),
        (port("{port: '80xyz!'}"), "port name"),
        (port("{protocol: TCP}"), "`port` must be given"),
        (port("{port: '80', protocol: QUIC}"), "unknown protocol"),
        (port("{port: '80', protocol: GRE}"), "has no ports"),
        (port("{port: '80', endPort: 70000}"), "between 0 and 65535"),
    ]);
}

#[test]
fn bad_l7_rules_are_refused() {
    let http = |rule: &str| {
        ingress(&format!(
            "toPorts: [{{ports: [{{port: '80', protocol: TCP}}], rules: {{http: [{rule}]}}}}]"
        ))
    };
    let huge_regex = format!("{{path: '{}'}}", "(a{1000}){1000}".repeat(10));
    let long_regex = format!("{{path: '/{}'}}", "a".repeat(20_000));
    refuse(&[
        (
            ingress("{}").replace("ingress:", "ingressDeny:").replace(
                "- {}",
                "- toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{}]}}]",
            ),
            "a deny rule looks at peers and ports only",
        ),
        (http("{path: '*'}"), "not a regular expression"),
        (http("{method: '('}"), "not a regular expression"),
        (http("{host: '['}"), "not a regular expression"),
        (http(&huge_regex), "needs an automaton of more than"),
        (http(&long_regex), "at most 16384 are taken"),
        (http("{path: '[a&&b]'}"), "RE2 reads differently"),
        (http("{headers: ['Name:value']}"), "a value stands behind"),
        (http("{headers: ['']}"), "name is missing"),
        (
            http("{headerMatches: [{name: X, mismatch: ADD, value: v}]}"),
            "would rewrite requests",
        ),
        (http("{headerMatches: [{name: X, mismatch: SHOUT}]}"), "unknown action"),
        (
            http("{headerMatches: [{name: X, secret: {name: s}}]}"),
            "secrets cannot be read",
        ),
        (http("{pathh: /}"), "did you mean `path`"),
    ]);
}

#[test]
fn bombs_are_defused() {
    let mut laughs = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..12 {
        let inner = format!("*a{}", level - 1);
        laughs.push_str(&format!("a{level}: &a{level} [{}]\n", [inner.as_str(); 10].join(",")));
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_block = (0..1_000).map(|n| format!("{}a:\n", " ".repeat(n))).collect::<String>();
    let wide = format!("[{}]", "1,".repeat(300_000));
    let cycle = "a: &a [*a]\n".to_owned();
    let large = format!("a: '{}'\n", "x".repeat(10 << 20));
    for (name, text) in [
        ("laughs", laughs),
        ("deep", deep),
        ("deep block", deep_block),
        ("wide", wide),
        ("cycle", cycle),
        ("large", large),
    ] {
        let start = std::time::Instant::now();
        let loaded = load_text("bomb.yaml", &text);
        assert!(loaded.has_errors(), "{name}");
        assert!(start.elapsed().as_secs() < 20, "{name} took {:?}", start.elapsed());
    }
}

#[test]
fn a_document_full_of_costly_patterns_does_not_stop_the_loader() {
    let rules = |pattern: &str, count: usize| {
        let rules: Vec<String> = (0..count).map(|n| format!("{{path: '/{n}{pattern}'}}")).collect();
        ingress(&format!(
            "toPorts: [{{ports: [{{port: '80', protocol: TCP}}], rules: {{http: [{}]}}}}]",
            rules.join(",")
        ))
    };
    for text in [rules(".*a.{500}c", 1_000), rules(".*a.{9}c", 5_000)] {
        let start = std::time::Instant::now();
        assert!(only_error(&text).reason.contains("regular expression"));
        assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
    }
}

#[test]
fn files_are_bounded_and_unreadable_ones_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(
        at("large.yaml"),
        vec![b'#'; usize::try_from(FILE_BYTES_MAX).unwrap() + 1],
    )
    .unwrap();
    fs::write(at("binary.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    fs::write(at("many.yaml"), "---\na: 1\n".repeat(DOCUMENTS_MAX + 1)).unwrap();
    fs::write(at("good.yaml"), policy("  endpointSelector: {}\n  ingress: [{}]\n")).unwrap();
    fs::write(at("notes.txt"), "not for us").unwrap();
    fs::write(at(".hidden.yaml"), "not: ours").unwrap();
    let loaded = load_paths([directory.path(), &at("missing.yaml")]);
    assert_eq!(loaded.documents.len(), 1);
    let mut found: Vec<(String, &str)> = loaded
        .findings
        .iter()
        .map(|f| {
            (
                f.file.rsplit('/').next().unwrap().to_owned(),
                f.reason.split(' ').next().unwrap(),
            )
        })
        .collect();
    found.sort();
    let wanted = [
        ("binary.yaml", "cannot"),
        ("large.yaml", "has"),
        ("many.yaml", "holds"),
        ("missing.yaml", "cannot"),
    ];
    assert_eq!(found, wanted.map(|(f, r)| (f.to_owned(), r)));
}

#[test]
fn of_two_documents_with_one_name_the_first_is_used() {
    let text = policy("  endpointSelector: {}\n  ingress: [{}]\n");
    let loaded = load_text("twice.yaml", &format!("{text}---\n{text}"));
    assert_eq!(loaded.documents.len(), 1);
    assert_eq!(loaded.documents[0].origin.document, 1);
    assert!(
        loaded.findings[0].reason.contains("already used at twice.yaml:1"),
        "{:?}",
        loaded.findings
    );
    // The same name in another namespace or of another kind is another object.
    let other = text.replace("name: x", "name: x\n  namespace: shop");
    assert!(!load_text("two.yaml", &format!("{text}---\n{other}")).has_errors());
}

#[test]
fn a_loader_reads_only_what_changed_and_sees_every_change() {
    let directory = tempfile::tempdir().unwrap();
    let text =
        |name: &str| policy("  endpointSelector: {}\n  ingress: [{}]\n").replace("name: x", &format!("name: {name}"));
    fs::write(directory.path().join("a.yaml"), text("a1")).unwrap();
    fs::write(directory.path().join("b.yaml"), text("b1")).unwrap();
    let mut loader = Loader::default();
    let first = loader.load([directory.path()]);
    fs::write(directory.path().join("b.yaml"), text("b2")).unwrap();
    let second = loader.load([directory.path()]);
    assert!(Arc::ptr_eq(&first.documents[0], &second.documents[0]));
    let names =
        |loaded: &Loaded| -> Vec<String> { loaded.documents.iter().map(|d| d.origin.name.to_string()).collect() };
    assert_eq!(
        (names(&first), names(&second)),
        (vec!["a1".into(), "b1".into()], vec!["a1".into(), "b2".into()])
    );
    fs::remove_file(directory.path().join("a.yaml")).unwrap();
    assert_eq!(names(&loader.load([directory.path()])), ["b2"]);
    // The same file twice holds the same names twice.
    let file = directory.path().join("b.yaml");
    let twice = loader.load([&file, &file]);
    assert_eq!((twice.documents.len(), twice.has_errors()), (1, true));
}

/// Documents that somebody broke: any byte may be anything. Nothing panics, and what is accepted compiles.
#[test]
fn broken_documents_never_panic() {
    let mut files = Vec::new();
    collect(&data("examples/policies"), &mut files);
    let texts: Vec<String> = files.iter().map(|f| fs::read_to_string(f).unwrap()).collect();
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let tokens = [
        "{}", "[]", "null", "- ", ": ", "&a ", "*a", "\"", "'", "0", "-1", "~", "!!str ", "<<: ", "---\n", "\t",
    ];
    let mut accepted = 0;
    for _ in 0..3_000 {
        let mut text = texts.choose(&mut rng).unwrap().clone().into_bytes();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..=text.len());
            let until = rng.random_range(at..=text.len().min(at + 20));
            match rng.random_range(0..4) {
                0 => drop(text.drain(at..until)),
                1 => text.insert(at, rng.random()),
                2 => drop(text.splice(at..at, tokens.choose(&mut rng).unwrap().bytes())),
                _ => {
                    let piece = text[at..until].to_vec();
                    drop(text.splice(at..at, piece));
                }
            }
        }
        let loaded = load_text("broken.yaml", &String::from_utf8_lossy(&text));
        accepted += loaded.documents.len();
        let mut compiler = Compiler::new(CompileOptions::default());
        compiler.set_rules(resolve(&loaded.documents, &Surroundings::default()).rules);
        let facts = EndpointFacts {
            labels: Labels::parse(["id=app1"]),
            named_ports: NamedPorts::default(),
        };
        assert!(compiler.compile(&facts).unwrap().kernel_entries().count() < 10_000);
    }
    assert!(
        accepted > 100,
        "mutations must leave some documents readable, {accepted} were"
    );
}

#[test]
fn a_list_holds_documents() {
    let item = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "x"},
        "spec": {"endpointSelector": {}, "ingress": [{}]}});
    let mut bad = item.clone();
    bad["metadata"]["name"] = "y".into();
    bad["spec"]["ingress"] = json!([{"fromEntities": ["moon"]}]);
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [item, bad, {"apiVersion": "v1", "kind": "Pod"}]});
    let loaded = load_text("list.json", &list.to_string());
    assert_eq!(
        (loaded.documents.len(), loaded.others, loaded.findings.len()),
        (1, 1, 1)
    );
    assert_eq!(loaded.findings[0].field, "items[1].spec.ingress[0].fromEntities[0]");
}

#[test]
fn json_with_tabs_is_read() {
    let text = "{\n\t\"apiVersion\": \"cilium.io/v2\",\n\t\"kind\": \"CiliumNetworkPolicy\",\n\t\"metadata\": {\"name\": \"x\"},\n\
                \t\"spec\": {\"endpointSelector\": {}, \"ingress\": [{}]}\n}\n";
    let loaded = load_text("tabs.json", text);
    assert!(!loaded.has_errors(), "{:?}", loaded.findings);
    assert_eq!(loaded.documents.len(), 1);
}

#[test]
fn traps_are_warned_of() {
    let http = |rule: &str| {
        egress(&format!(
            "toPorts: [{{ports: [{{port: '80', protocol: TCP}}], rules: {{http: [{rule}]}}}}]"
        ))
    };
    let cases = [
        (
            egress("toPorts: [{ports: [{port: '53'}], rules: {dns: [{}]}}]"),
            "every query is refused",
        ),
        (
            egress("toPorts: [{ports: [{port: '53'}], rules: {dns: []}}]"),
            "no rule at all",
        ),
        (
            egress("toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: []}}]"),
            "no rule at all",
        ),
        (egress("toFQDNs: [{}]"), "only the root name"),
        (egress("toEndpoints: []"), "selects nobody"),
        (egress("toEndpoints: null"), "everybody is meant"),
        (egress("toPorts: ~"), "the same as leaving it out"),
        (egress("toPorts: [{ports: [{port: '010'}]}]"), "this is port 8"),
        (egress("toPorts: [{ports: [{port: '80', endPort: 70}]}]"), "is ignored"),
        (egress("toCIDR: [10.1.2.3/8]"), "this is 10.0.0.0/8"),
        (egress("authentication: {mode: required}"), "no authenticator"),
        (http("{host: api.example.com}"), "matches any character"),
        (http("{method: get}"), "in capitals"),
        (http("{method: 'get|post'}"), "in capitals"),
        (http("{path: 'public/.*'}"), "begins with `/`"),
        (http("{path: 'https?://a/.*'}"), "begins with `/`"),
        (http("{path: '/a b'}"), "no space"),
        (http("{host: 'https://a'}"), "without scheme"),
    ];
    for fine in [
        "{method: '(?i)get'}",
        "{method: 'GET|post'}",
        "{path: '.*'}",
        "{path: '[*]'}",
        "{path: '/a?'}",
        "{host: '\\[::1\\]:80'}",
    ] {
        let loaded = load_text("fine.yaml", &http(fine));
        assert!(loaded.findings.is_empty(), "{fine}: {:?}", loaded.findings);
    }
    for (text, wanted) in cases {
        let loaded = load_text("trap.yaml", &text);
        assert_eq!(loaded.documents.len(), 1, "{text}\n{:?}", loaded.findings);
        let warned = |f: &Finding| f.severity == Severity::Warning && f.reason.contains(wanted) && f.line == 8;
        assert!(
            loaded.findings.iter().any(warned),
            "wanted {wanted:?} for\n{text}\n{:#?}",
            loaded.findings
        );
    }
}
