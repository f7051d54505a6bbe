//! HTTP rules on requests, and the dialect of their regular expressions.

use seventh_abi::Direction::Ingress;
use seventh_policy::http::HeaderRule;
use seventh_policy::pattern::check;
use seventh_policy::{HttpRequest, HttpVerdict, L4Decision};

use crate::world::{TCP, World, request};

fn world(rule: &str) -> World {
    World::new(&format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: x}}\nspec:\n  endpointSelector: {{}}\n  \
         ingress: [{{toPorts: [{{ports: [{{port: '80', protocol: TCP}}], rules: {{http: [{rule}]}}}}]}}]\n"
    ))
}

fn verdict(rule: &str, request: &HttpRequest<'_>) -> u16 {
    world(rule).http(Ingress, "app=a", "app=b", 80, request)
}

#[test]
fn paths_match_in_full_with_their_query() {
    for (path, wanted) in [
        ("/public", 200),
        ("/public/", 403),
        ("/public?x=1", 403),
        ("/x/public", 403),
        ("/PUBLIC", 403),
    ] {
        assert_eq!(verdict("{path: /public}", &request("GET", path)), wanted, "{path}");
    }
    assert_eq!(verdict("{path: '^/public$'}", &request("GET", "/public")), 200);
    assert_eq!(verdict("{path: '/a|/b'}", &request("GET", "/b")), 200);
    assert_eq!(verdict("{path: '/a|/b'}", &request("GET", "/a/b")), 403);
    assert_eq!(verdict("{path: '/.*'}", &request("GET", "/a\nb")), 403);
}

#[test]
fn a_request_without_a_path_matches_no_rule_with_one() {
    for pattern in [".*", "(/.*)?", "()", "/.*"] {
        let rule = format!("{{path: '{pattern}'}}");
        assert_eq!(verdict(&rule, &request("CONNECT", "")), 403, "{pattern}");
    }
    assert_eq!(verdict("{path: '.*'}", &request("CONNECT", "/ws")), 200);
    assert_eq!(verdict("{method: CONNECT}", &request("CONNECT", "")), 200);
}

#[test]
fn every_part_of_a_rule_must_match_and_any_rule_is_enough() {
    let rules = "{method: GET, path: /a, host: 'example[.]com'}, {method: POST}";
    assert_eq!(verdict(rules, &request("GET", "/a")), 200);
    assert_eq!(verdict(rules, &request("GET", "/b")), 403);
    assert_eq!(verdict(rules, &request("POST", "/b")), 200);
    assert_eq!(
        verdict(
            rules,
            &HttpRequest {
                host: "example.com:80",
                ..request("GET", "/a")
            }
        ),
        403
    );
    assert_eq!(
        verdict(
            rules,
            &HttpRequest {
                host: "Example.com",
                ..request("GET", "/a")
            }
        ),
        403
    );
}

#[test]
fn headers_are_compared_by_name_without_case_and_by_value_exactly() {
    let with = |headers| HttpRequest {
        headers,
        ..request("GET", "/")
    };
    for rule in [
        "{headers: ['X-Token: 1']}",
        "{headers: ['x-token 1']}",
        "{headerMatches: [{name: X-Token, value: '1'}]}",
    ] {
        assert_eq!(verdict(rule, &with(&[("x-TOKEN", "1")])), 200, "{rule}");
        assert_eq!(verdict(rule, &with(&[("x-token", "1 ")])), 403, "{rule}");
        assert_eq!(
            verdict(rule, &with(&[("x-token", "1"), ("x-token", "2")])),
            403,
            "{rule}"
        );
        assert_eq!(verdict(rule, &with(&[])), 403, "{rule}");
    }
    assert_eq!(
        verdict(
            "{headers: ['X-Token 1,2']}",
            &with(&[("x-token", "1"), ("X-Token", "2")])
        ),
        200
    );
    assert_eq!(verdict("{headers: [X-Token]}", &with(&[("x-token", "anything")])), 200);
    assert_eq!(verdict("{headers: [X-Token]}", &with(&[("x-tokens", "1")])), 403);
}

#[test]
fn a_mismatch_that_is_only_logged_does_not_refuse() {
    let mut world = world("{headerMatches: [{name: X-Seen, value: 'yes', mismatch: LOG}]}");
    let peer = world.identity("app=b");
    let policy = world.policy("app=a");
    let L4Decision::Inspect(rules) = policy.lookup(Ingress, peer, TCP, 80) else {
        panic!("not inspected")
    };
    let http = rules.http().unwrap();
    assert_eq!(http.headers_read(), ["x-seen"]);
    let unseen = request("GET", "/");
    assert_eq!(http.judge(&unseen), HttpVerdict::Allow { rule: 0 });
    let logged: Vec<&HeaderRule> = http.logged_mismatches(0, &unseen).collect();
    assert_eq!(logged.len(), 1);
    let seen = HttpRequest {
        headers: &[("x-seen", "yes")],
        ..unseen
    };
    assert_eq!(http.logged_mismatches(0, &seen).count(), 0);
}

#[test]
fn the_verdict_names_the_rule_that_allows() {
    let mut world = world("{path: /a}, {path: /b}");
    let peer = world.identity("app=b");
    let policy = world.policy("app=a");
    let L4Decision::Inspect(rules) = policy.lookup(Ingress, peer, TCP, 80) else {
        panic!("not inspected")
    };
    let http = rules.http().unwrap();
    let HttpVerdict::Allow { rule } = http.judge(&request("GET", "/b")) else {
        panic!("denied")
    };
    let origin = http.origin(rule).unwrap();
    assert_eq!(origin.path, "spec.ingress[0].toPorts[0].rules.http[1]");
    assert_eq!((&*origin.file, origin.document, origin.line), ("test.yaml", 1, 6));
    assert_eq!(origin.policy(), "default/x");
    assert!(http.origin(2).is_none());
    assert!(http.headers_read().is_empty());
}

#[test]
fn text_beyond_ascii_matches_nothing() {
    for rule in ["{path: '/.*'}", "{path: '/[^a]+'}", "{path: '/ü'}", "{path: '/\\pL+'}"] {
        assert_eq!(verdict(rule, &request("GET", "/ü")), 403, "{rule}");
    }
    assert_eq!(verdict("{path: '/\\pL+'}", &request("GET", "/abc")), 200);
}

/// Classes mean ASCII in RE2 and Unicode in Rust's engine. The first difference of the two dialects that matters.
#[test]
fn classes_mean_ascii() {
    assert_eq!(verdict("{path: '/\\d+'}", &request("GET", "/42")), 200);
    assert_eq!(verdict("{path: '/\\w\\b.*'}", &request("GET", "/a-b")), 200);
    assert_eq!(verdict("{path: '(?i)/K'}", &request("GET", "/k")), 200);
}

/// Syntax that the two engines read differently. The second difference: refused, so that nothing is read two ways.
#[test]
fn syntax_that_the_two_engines_read_differently_is_refused() {
    for pattern in [
        "[a&&b]",
        "[a--b]",
        "[a~~b]",
        "[[a]b]",
        "(?x) a b",
        "(?R)a",
        "(?u)a",
        "\\<a",
        "a\\>",
        "\\b{start}a",
        "a**",
        "a+*",
        "\\u0041",
        "\\U00000041",
        "a{,3}",
        "a{1001}",
        "\\Qa.b\\E",
        "\\C",
        "\\1",
        "\\012",
        "a{",
        "{id}",
        "(?=a)",
        "(?<!a)b",
        "\\Z",
    ] {
        assert!(check(pattern).is_err(), "{pattern} must be refused");
    }
    for pattern in [
        "",
        ".*",
        "a{2,3}",
        "a{1000}",
        "[[:alpha:]_]+",
        "(?i)get",
        "(?s).",
        "(?U)a+",
        "(?P<n>a)",
        "(?<n>a)",
        "\\x41",
        "\\x{41}",
        "\\pL",
        "\\p{Greek}",
        "a|",
        "[]a]",
        "[^]a]",
        "\\Aa\\z",
        "a\\b",
        "\\.",
        "[a-z&]",
        "a??",
        "(a*)*",
        "^$",
    ] {
        assert!(
            check(pattern).is_ok(),
            "{pattern} must be accepted: {:?}",
            check(pattern)
        );
    }
}

#[test]
fn matching_takes_linear_time() {
    let path = format!("/{}", "a".repeat(60_000));
    let start = std::time::Instant::now();
    assert_eq!(verdict("{path: '/(a*)*b'}", &request("GET", &path)), 403);
    assert_eq!(
        verdict("{path: '/(a|aa)+c'}, {path: '/(.*)(.*)(.*)d'}", &request("GET", &path)),
        403
    );
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}

/// Patterns whose automaton would grow with every byte of a chosen text are refused; nothing is built while matching.
#[test]
fn patterns_that_need_huge_automata_are_refused() {
    for pattern in ["/.*a.{500}c", "(a{1000}){1000}", "/.*a.{13}c"] {
        assert!(
            check(pattern).is_err_and(|reason| reason.contains("automaton")),
            "{pattern}"
        );
    }
    // Each fits, all together would not: they keep an automaton each and match all the same.
    let rules: Vec<String> = (0..60).map(|n| format!("{{path: '/.*x{n}.*y{n}'}}")).collect();
    let mut world = world(&rules.join(", "));
    assert_eq!(
        world.http(Ingress, "app=a", "app=b", 80, &request("GET", "/ax17by17")),
        200
    );
    assert_eq!(
        world.http(Ingress, "app=a", "app=b", 80, &request("GET", "/ax18by")),
        403
    );
    let start = std::time::Instant::now();
    let path = format!("/{}", "x1y2".repeat(15_000));
    assert_eq!(world.http(Ingress, "app=a", "app=b", 80, &request("GET", &path)), 403);
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}

/// Too many for a table of 1 MiB: the verdicts are the same, and a request costs one pass through it and not ten thousand.
#[test]
fn ten_thousand_rules_are_matched_in_one_pass() {
    let rules: Vec<String> = (0..10_000)
        .map(|n| format!("{{method: GET, path: '/s-{n}/(items|orders)'}}"))
        .collect();
    let mut world = world(&rules.join(", "));
    let start = std::time::Instant::now();
    for n in 0..1000 {
        for (path, status) in [
            (format!("/s-{}/orders", n * 10), 200),
            (format!("/s-{n}/others"), 403),
            (format!("/s-1{n:04}/items"), 403),
        ] {
            assert_eq!(
                world.http(Ingress, "app=a", "app=b", 80, &request("GET", &path)),
                status,
                "{path}"
            );
        }
    }
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}

/// Each is small, all together would be huge: nobody waits for that, when a policy is read or when a request comes.
#[test]
fn patterns_that_explode_together_cost_little_time() {
    let letters: Vec<char> = ('a'..='z').chain('A'..='Z').collect();
    let rules: Vec<String> = (0..150)
        .map(|n| format!("{{path: '/[^/]*{}{}[^/]{{5}}'}}", letters[n % 52], letters[n / 52]))
        .collect();
    let start = std::time::Instant::now();
    let mut world = world(&rules.join(", "));
    for (path, status) in [
        ("/11aa11111", 200),
        ("/11aa1111", 403),
        ("/11Xb11111", 200),
        ("/11Xc11111", 403),
    ] {
        assert_eq!(
            world.http(Ingress, "app=a", "app=b", 80, &request("GET", path)),
            status,
            "{path}"
        );
    }
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

/// All patterns match the path, and what else each rule wants is not there.
#[test]
fn a_path_that_thousands_of_rules_match_costs_each_of_them_once() {
    let rules: Vec<String> = (0..5000)
        .map(|n| format!("{{path: '/x|/s-{n}', host: 'h{n}[.]test'}}"))
        .collect();
    let mut world = world(&rules.join(", "));
    let start = std::time::Instant::now();
    for _ in 0..20 {
        assert_eq!(world.http(Ingress, "app=a", "app=b", 80, &request("GET", "/x")), 403);
    }
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

#[test]
fn many_rules_are_matched_together() {
    let rules: Vec<String> = (0..500)
        .map(|n| format!("{{method: GET, path: '/api/v1/item-{n}/[a-z]+'}}"))
        .collect();
    let mut world = world(&rules.join(", "));
    assert_eq!(
        world.http(Ingress, "app=a", "app=b", 80, &request("GET", "/api/v1/item-499/x")),
        200
    );
    assert_eq!(
        world.http(Ingress, "app=a", "app=b", 80, &request("GET", "/api/v1/item-500/x")),
        403
    );
}
