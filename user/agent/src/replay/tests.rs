//! Captures of `pcap-fixtures` through the engine: what independent witnesses agree is in them is told, and nothing else.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use clap::ValueEnum as _;
use seventh_fixtures::{Fixture, manifest};
use seventh_flows::pb::flow::{Flow, L7FlowType, Verdict, layer7};

use super::{Replay, SHARDS, Tally, Tunnel, World};

/// What is told, and how often.
type Events = BTreeMap<String, usize>;

fn replay(path: &Path, world: World, tunnels: &[Tunnel], threads: usize) -> (Vec<Flow>, Tally) {
    let mut flows = Vec::new();
    let mut replay = Replay::new(world, false, tunnels.to_vec(), threads);
    let file = File::open(path).unwrap();
    // Some captures end in the middle of a packet.
    let _ = replay.read(file, &mut |flow| flows.push(flow));
    let (tally, _) = replay.finish(&mut |flow| flows.push(flow));
    (flows, tally)
}

/// `tunnel gre,vxlan` in a fixture's line: what has to be looked into.
fn tunnels(fixture: &Fixture) -> Vec<Tunnel> {
    let kinds = fixture.expected.split_once("tunnel ").map_or("", |(_, kinds)| kinds);
    let kinds = kinds.split(',').filter(|kind| !kind.is_empty());
    kinds.map(|kind| Tunnel::from_str(kind, false).unwrap()).collect()
}

/// Host and path of a URL, as all witnesses can tell them: no scheme, no user, no usual port, the host in lower case.
fn place(method: &str, url: &str) -> String {
    if method == "CONNECT" {
        return url.to_ascii_lowercase();
    }
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let host = host.rsplit('@').next().unwrap_or_default().to_ascii_lowercase();
    let host = host.strip_suffix(":80").unwrap_or(&host);
    let host = host.strip_suffix(":443").unwrap_or(host);
    format!("{host}{path}")
}

/// `http GET host/path`, `dns answer name` and so on; `None` for what witnesses do not tell.
fn event(flow: &Flow) -> Option<String> {
    let l7 = flow.l7.as_ref()?;
    let is_request = l7.r#type() == L7FlowType::Request;
    match l7.record.as_ref()? {
        layer7::Record::Http(http) if is_request => {
            let kind = if http.protocol.contains("HTTP/2") {
                "http2"
            } else {
                "http"
            };
            Some(format!("{kind} {} {}", http.method, place(&http.method, &http.url)))
        }
        layer7::Record::Dns(dns) => {
            let kind = if l7.r#type() == L7FlowType::Response {
                "answer"
            } else {
                "query"
            };
            let name = dns.query.to_ascii_lowercase();
            // The root's name is the dot alone.
            let name = name.strip_suffix('.').filter(|rest| !rest.is_empty()).unwrap_or(&name);
            let name = unescaped(name);
            Some(format!("dns {kind} {name}"))
        }
        layer7::Record::Tls(tls) if !tls.sni.is_empty() => {
            let kind = if tls.quic { "quic" } else { "tls" };
            Some(format!("{kind} {}", tls.sni.to_ascii_lowercase()))
        }
        _ => None,
    }
}

/// Without the escapes of RFC 1035 §5.1, which witnesses leave out.
fn unescaped(name: &str) -> String {
    let mut plain = String::new();
    let mut rest = name;
    while let Some((before, escaped)) = rest.split_once('\\') {
        plain.push_str(before);
        let number = escaped.get(..3).and_then(|digits| digits.parse::<u8>().ok());
        let (char, len) = match number {
            Some(number) => (char::from(number), 3),
            None => (escaped.chars().next().unwrap(), 1),
        };
        plain.push(char);
        rest = &escaped[len..];
    }
    plain + rest
}

/// Of the kinds that the witnesses agree on. A name in several attempts of QUIC is told once.
fn events(flows: &[Flow], kinds: &[&str]) -> Events {
    let mut events = Events::new();
    for event in flows.iter().filter_map(event) {
        let kind = event.split(' ').next().unwrap_or_default();
        if kinds.contains(&kind) {
            let count = events.entry(event.clone()).or_default();
            *count = if kind == "quic" { 1 } else { *count + 1 };
        }
    }
    events
}

/// `kinds http dns`, then lines `2 http GET host/path`.
fn truth(path: &Path) -> (String, Events) {
    let text = fs::read_to_string(path.with_extension("truth")).unwrap();
    let (kinds, events) = text.split_once('\n').unwrap();
    let counted = |line: &str| {
        let (count, event) = line.split_once(' ').unwrap();
        (event.to_owned(), count.parse().unwrap())
    };
    (kinds.to_owned(), events.lines().map(counted).collect())
}

#[test]
fn what_witnesses_agree_on_is_told_and_nothing_else() {
    let fixtures = manifest("replay/").unwrap();
    let mut by_kind: BTreeMap<String, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for fixture in &fixtures {
        let (kinds, expected) = truth(&fixture.path);
        let kinds: Vec<&str> = kinds.split(' ').skip(1).collect();
        let (flows, _) = replay(&fixture.path, World::visibility(), &tunnels(fixture), 1);
        let told = events(&flows, &kinds);
        if told != expected {
            wrong.push(format!(
                "{} ({}): told {told:#?} instead of {expected:#?}",
                fixture.path.display(),
                fixture.shows
            ));
        }
        for kind in kinds {
            *by_kind.entry(kind.to_owned()).or_default() += usize::from(!expected.is_empty());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for kind in ["http", "http2", "dns", "tls", "quic"] {
        assert!(by_kind.get(kind).is_some_and(|count| *count >= 8), "{by_kind:?}");
    }
    assert!(fixtures.len() >= 100);
}

#[test]
fn what_is_told_does_not_depend_on_the_number_of_threads() {
    for fixture in manifest("replay/").unwrap() {
        let looked_into = tunnels(&fixture);
        let (flows, tally) = replay(&fixture.path, World::visibility(), &looked_into, 1);
        for threads in [2, 3, SHARDS, 64] {
            let again = replay(&fixture.path, World::visibility(), &looked_into, threads);
            assert!(
                flows == again.0 && tally.json(&[]) == again.1.json(&[]),
                "{} with {threads} threads",
                fixture.path.display()
            );
        }
    }
}

#[test]
fn counts_are_the_same_whether_flows_are_wanted_or_not() {
    let mut cases: Vec<_> = manifest("replay/").unwrap().into_iter().map(|f| (f, false)).collect();
    cases.extend(manifest("verdicts/").unwrap().into_iter().map(|f| (f, true)));
    for (fixture, governed) in cases {
        let folder = fixture.path.parent().unwrap();
        let world = || {
            if governed {
                World::under_policies(&[folder.join("policy.yaml")], &folder.join("endpoints.yaml")).unwrap()
            } else {
                World::visibility()
            }
        };
        let (_, told) = replay(&fixture.path, world(), &tunnels(&fixture), 1);
        let mut counting = Replay::new(world(), false, tunnels(&fixture), 1);
        counting.only_count();
        let _ = counting.read(File::open(&fixture.path).unwrap(), &mut |_| {
            panic!("nobody wants flows")
        });
        let (counted, _) = counting.finish(&mut |_| panic!("nobody wants flows"));
        let name = fixture.path.display();
        assert_eq!(told.json(&[]), counted.json(&[]), "{name}");
        assert_eq!(told.pairs(), counted.pairs(), "{name}");
    }
}

/// `DROPPED http GET host/path (http_policy_denied)`; of what needed no look inside the port.
fn verdict(flow: &Flow) -> Option<String> {
    let what = match (&flow.l7, flow.verdict()) {
        (None, Verdict::Dropped) => format!("port {}", super::tally::port(flow)),
        _ => event(flow)?,
    };
    let decision = flow.decision.as_ref().map_or("", |decision| &decision.reason);
    Some(format!("{} {what} ({decision})", flow.verdict().as_str_name()))
}

#[test]
fn captures_under_policies_get_the_verdicts_that_their_authors_meant() {
    let fixtures = manifest("verdicts/").unwrap();
    assert!(!fixtures.is_empty());
    for fixture in fixtures {
        let folder = fixture.path.parent().unwrap();
        let world = World::under_policies(&[folder.join("policy.yaml")], &folder.join("endpoints.yaml")).unwrap();
        let rules = world.rules.clone();
        let (flows, tally) = replay(&fixture.path, world, &[], 2);
        let mut verdicts: Vec<String> = flows.iter().filter_map(verdict).collect();
        verdicts.sort();
        let expected = fs::read_to_string(fixture.path.with_extension("truth")).unwrap();
        assert_eq!(verdicts.join("\n") + "\n", expected, "{}", fixture.path.display());
        let mut never = tally.hits(&rules);
        never.retain(|(_, hits)| *hits == 0);
        assert_eq!(never.len(), 1, "one rule is there to be never needed: {never:?}");
    }
}
