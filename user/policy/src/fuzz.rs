//! Fuzz entry of policy documents: any bytes as a file, and what was accepted against the model.

use std::net::IpAddr;

use ipnet::IpNet;
use seventh_abi::{Direction, DropReason};

use crate::compile::{CompileOptions, Compiler, EndpointFacts};
use crate::compiled::{CompiledPolicy, L4Decision};
use crate::http::{HttpRequest, HttpVerdict};
use crate::identity::{IdentityId, NamedPorts, all_of, outside_labels};
use crate::label::Labels;
use crate::load::{Loaded, load_text};
use crate::model::{Answer, Model, Peer, Question};
use crate::resolve::{Surroundings, name_selectors_of, prefixes_of, resolve};
use crate::rule_set::RuleSet;

/// `key: value` pairs of the text that become labels of endpoints, so that selectors select somebody.
const LABELS_MAX: usize = 6;
/// Protocol and port of the questions: HTTP, HTTPS, a high port, DNS, echo of both families, ESP.
const PORTS: &[(u8, u16)] = &[(6, 80), (6, 443), (6, 8080), (17, 53), (1, 8), (58, 128), (50, 0)];
const ADDRESSES: &[&str] = &["10.1.2.3", "192.0.2.1", "fd00::1"];
const NAMES: &[&str] = &["www.example.com.", "example.com."];

/// Any bytes as a file of policies.
///
/// # Panics
/// If a finding points outside the text, or the compiled tables disagree with the model.
pub fn fuzz_document(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let loaded = load_text("fuzz.yaml", text);
    // A carriage return ends a line as well.
    let lines = text.split(['\n', '\r']).count();
    for finding in &loaded.findings {
        assert!(!finding.reason.is_empty());
        assert!(
            usize::try_from(finding.line).is_ok_and(|line| line <= lines),
            "{finding}"
        );
    }
    let rejected = loaded.documents.is_empty() && loaded.others == 0;
    assert!(
        !rejected || loaded.has_errors() || no_content(text),
        "silently ignored:\n{text}"
    );
    compare(&loaded, &labels_in(text));
}

/// Nothing but comments, separators and empty documents.
fn no_content(text: &str) -> bool {
    crate::yaml::split_documents(text).is_empty() || text.contains("List")
}

/// Labels that the text may speak of.
fn labels_in(text: &str) -> Vec<String> {
    let pairs = text
        .lines()
        .flat_map(|line| line.split([',', '{', '}']))
        .filter_map(|part| {
            let (key, value) = part.trim().split_once(": ")?;
            let clean = |text: &str| text.trim_matches(['"', '\'', ' ']).to_owned();
            (!value.is_empty()).then(|| format!("{}={}", clean(key), clean(value)))
        });
    pairs.filter(|pair| pair.is_ascii()).take(LABELS_MAX).collect()
}

fn compare(loaded: &Loaded, labels: &[String]) {
    let surroundings = Surroundings::default();
    let options = CompileOptions::default();
    let resolved = resolve(&loaded.documents, &surroundings);
    let mut compiler = Compiler::new(options.clone());
    let peers = peers(&mut compiler, &prefixes_of(&resolved.rules), &resolved.rules, labels);
    compiler.set_rules(resolved.rules);
    let model = Model {
        documents: &loaded.documents,
        surroundings: &surroundings,
        options: &options,
    };
    for endpoint in endpoints(labels) {
        let Ok(policy) = compiler.compile(&endpoint) else {
            return;
        };
        // The rows exist and can be written, however many ports the rules name.
        assert!(policy.kernel_entries().count() < 4_000_000);
        for (peer, identity) in &peers {
            for direction in [Direction::Ingress, Direction::Egress] {
                for &(protocol, port) in PORTS {
                    let question = Question {
                        direction,
                        endpoint: &endpoint,
                        peer,
                        protocol,
                        port,
                    };
                    ask(&model, &question, &policy, *identity);
                }
            }
        }
    }
}

fn endpoints(labels: &[String]) -> Vec<EndpointFacts> {
    let of_default = labels
        .iter()
        .map(String::as_str)
        .chain(["io.kubernetes.pod.namespace=default"]);
    [Labels::parse(of_default), Labels::parse(["reserved:host"])]
        .map(|labels| EndpointFacts {
            labels,
            named_ports: NamedPorts::new([("http".to_owned(), 8080, None)]),
        })
        .into()
}

fn peers(
    compiler: &mut Compiler,
    prefixes: &[IpNet],
    rules: &[std::sync::Arc<crate::rule::PolicyRule>],
    labels: &[String],
) -> Vec<(Peer, IdentityId)> {
    let mut peers = Vec::new();
    for facts in endpoints(labels) {
        let EndpointFacts { labels, named_ports } = facts;
        if let Ok((id, _)) = compiler.add_identity(&labels) {
            compiler.set_named_ports(id, named_ports.clone());
            peers.push((Peer::Labelled { labels, named_ports }, id));
        }
    }
    let selectors = name_selectors_of(rules);
    for address in ADDRESSES.iter().filter_map(|text| text.parse::<IpAddr>().ok()) {
        let holding = prefixes.iter().filter(|net| net.contains(&address));
        let prefix = holding.max_by_key(|net| net.prefix_len()).copied();
        for names in [&NAMES[..0], NAMES] {
            let learned = selectors
                .iter()
                .filter(|selector| names.iter().any(|name| selector.matches(name)));
            let labels = outside_labels(prefix.unwrap_or(all_of(address.is_ipv6())), learned);
            if let Ok((id, _)) = compiler.add_identity(&labels) {
                let names = names.iter().map(|name| (*name).to_owned()).collect();
                peers.push((Peer::Outside { address, names }, id));
            }
        }
    }
    peers
}

fn ask(model: &Model<'_>, question: &Question<'_>, policy: &CompiledPolicy, identity: IdentityId) {
    let found = policy.lookup(question.direction, identity, question.protocol, question.port);
    match (model.answer(question), &found) {
        (Answer::Allow, L4Decision::Allow) | (Answer::Deny, L4Decision::Deny(_)) => {}
        (Answer::Inspect(inside), L4Decision::Inspect(rules)) => {
            for (method, path, host) in [("GET", "/", "example.com"), ("POST", "/public/1?x=1", "")] {
                let request = HttpRequest {
                    method,
                    path,
                    host,
                    headers: &[("X-Token", "1")],
                };
                let allowed = rules.http().map(|http| http.judge(&request) != HttpVerdict::Deny);
                assert_eq!(allowed, inside.http(&request));
            }
            for name in NAMES {
                assert_eq!(rules.dns().map(|dns| dns.judge(name).is_some()), inside.dns(name));
                let server_name = name.trim_end_matches('.');
                assert_eq!(
                    rules.tls().map(|tls| tls.judge(Some(server_name)).is_some()),
                    inside.tls(Some(server_name))
                );
            }
        }
        // Patterns that are too large together: the model has no such limit.
        (Answer::Inspect(_), L4Decision::Deny(DropReason::PolicyConflict)) if !policy.conflicts().is_empty() => {}
        (expected, _) => panic!("{question:?}\nmodel: {expected:?}\ntables: {}", show(&found)),
    }
}

fn show(found: &L4Decision<'_>) -> String {
    match found {
        L4Decision::Allow => "allow".to_owned(),
        L4Decision::Deny(reason) => format!("deny ({})", reason.name()),
        L4Decision::Inspect(rules) => format!("inspect ({})", RuleSet::id(rules)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Inputs that broke something once (`tests/data/fuzz`), and every example.
    #[test]
    fn what_broke_once_and_every_example_is_read_as_the_model_reads_it() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        let mut count = 0;
        for folder in ["fuzz", "cilium/examples"] {
            count += read_all(&data.join(folder));
        }
        assert!(count > 80, "{count}");
    }

    fn read_all(folder: &Path) -> usize {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries
            .map(|path| {
                if path.is_dir() {
                    return read_all(&path);
                }
                super::fuzz_document(&std::fs::read(&path).unwrap());
                1
            })
            .sum()
    }
}
