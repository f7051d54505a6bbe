//! Fuzz entry of the automata that the kernel walks through: whatever they allow, the engine allows for the same rule.
#![expect(clippy::expect_used, clippy::panic, reason = "a finding is a panic")]

use std::sync::{Arc, LazyLock};

use seventh_abi::Direction;
use seventh_parsers::http1::{BodyLength, Limits, parse_head};
use seventh_policy::{
    CompileOptions, Compiler, EndpointFacts, HttpRequest, HttpVerdict, L4Decision, Labels, NamedPorts, RequestLimits,
    RequestTable, RequestWalker, RuleSet, Surroundings, identity, load_text, resolve,
};

use crate::upgrade::Protocol;

/// One rule set a line.
const RULE_SETS: [&str; 9] = [
    "[{method: GET, path: '/public.*'}]",
    "[{}]",
    "[{method: 'GET|HEAD', path: '/a/[0-9]+'}, {method: POST, path: '/a'}, {path: '/a.*', host: 'shop[.]example(:80)?'}]",
    "[{method: '(?i)get', path: '^/x$'}, {host: '[a-z]+'}]",
    "[{path: '/(a|ab|abc)(/[^/?]*)?([?].*)?', host: '.*[.]example'}]",
    "[{path: '.*\\bsecret\\b.*', method: DELETE}, {path: '/..'}]",
    "[{host: 'a'}, {host: 'a[.]'}, {host: '10[.]0[.]0[.]1:[0-9]*'}, {method: 'P.*'}]",
    "[{path: '/%61'}, {path: '/[[:alpha:]]{2,5}[?]q=%.*'}]",
    "[{method: OPTIONS, path: '[*]'}, {method: '', path: '/'}]",
];
const LIMITS: Limits = Limits {
    head_len_max: 700,
    headers_max: 8,
};

/// Any bytes as a request under each of the rule sets; how many of them allow it in the kernel.
///
/// # Panics
/// If the kernel would allow what the engine refuses, or by another rule.
pub fn fuzz_passed_request(bytes: &[u8]) -> usize {
    static TABLES: LazyLock<Vec<(Arc<RuleSet>, RequestWalker)>> = LazyLock::new(tables);
    let allows = |(rules, table): &&(Arc<RuleSet>, RequestWalker)| {
        let Some(rule) = table.judge(bytes) else { return false };
        let head = parse_head(bytes, &LIMITS).expect("the kernel allows no request that is unsound");
        assert_eq!((head.head_len, head.body), (bytes.len(), BodyLength::None));
        assert_eq!(
            Protocol::asked_for(&head),
            Ok(None),
            "nor one after which something else is spoken"
        );
        let request = HttpRequest {
            method: head.method,
            path: &head.path,
            host: head.host.expect("it has a Host"),
            headers: &[],
        };
        let verdict = rules.http().map(|http| http.judge(&request));
        assert_eq!(verdict, Some(HttpVerdict::Allow { rule }), "of {head:?}");
        true
    };
    TABLES.iter().filter(allows).count()
}

fn tables() -> Vec<(Arc<RuleSet>, RequestWalker)> {
    let ports = (1..).zip(RULE_SETS).map(|(port, rules)| {
        format!("  - toPorts: [{{ports: [{{port: '{port}', protocol: TCP}}], rules: {{http: {rules}}}}}]\n")
    });
    let head = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: all}\nspec:\n  endpointSelector: {}\n  ingress:\n";
    let text = format!("{head}{}", ports.collect::<String>());
    let loaded = load_text("passed.yaml", &text);
    assert!(!loaded.has_errors(), "{:?}", loaded.findings);
    let mut compiler = Compiler::new(CompileOptions::default());
    compiler.set_rules(resolve(&loaded.documents, &Surroundings::default()).rules);
    let facts = EndpointFacts {
        labels: Labels::parse(["io.kubernetes.pod.namespace=default"]),
        named_ports: NamedPorts::default(),
    };
    let policy = compiler.compile(&facts).expect("policy numbers are left");
    let limits = RequestLimits {
        len_max: LIMITS.head_len_max,
        lines_max: LIMITS.headers_max,
    };
    let table = |port| {
        let L4Decision::Inspect(rules) = policy.lookup(Direction::Ingress, identity::WORLD_IPV4, 6, port) else {
            panic!("port {port} has rules");
        };
        let table = rules.http().and_then(|http| RequestTable::new(http, limits)?.walker());
        (Arc::clone(rules), table.expect("these rules have automata"))
    };
    (1..).take(RULE_SETS.len()).map(table).collect()
}

#[cfg(test)]
mod tests {
    use super::fuzz_passed_request;
    use proptest::prelude::*;

    fn request(method: &str, target: &str, headers: &[&str]) -> String {
        format!(
            "{method} {target} HTTP/1.1\r\n{}\r\n",
            headers.iter().map(|line| format!("{line}\r\n")).collect::<String>()
        )
    }

    #[test]
    fn what_clients_send_is_judged_in_the_kernel() {
        let curl = ["Host: shop.example:80", "User-Agent: curl/8.5.0", "Accept: */*"];
        for (method, target, sets) in [
            ("GET", "/public/1?x=%2f..//", 2),
            ("GET", "/a/17", 2),
            ("HEAD", "/a/b", 2),
            ("DELETE", "/top/secret/x", 2),
            ("PUT", "/x?q=%20", 2),
            ("GET", "/ab?q=%61", 3),
        ] {
            assert_eq!(
                fuzz_passed_request(request(method, target, &curl).as_bytes()),
                sets,
                "{method} {target}"
            );
        }
        assert!(fuzz_passed_request(b"GET /a HTTP/1.1\r\nCookie: a=b\r\nhOST:10.0.0.1:8080\r\n\r\n") > 1);
    }

    #[test]
    fn what_has_two_readings_or_says_more_is_left_to_the_engine() {
        let host = "Host: a";
        let headers = [
            &[][..],
            &[host, host],
            &[host, "host: a"],
            &[host, "Content-Length: 0"],
            &[host, "cOnTeNt-LeNgTh: 5"],
            &[host, "Transfer-Encoding: chunked"],
            &[host, "Upgrade: websocket"],
            &[host, "Expect: 100-continue"],
            &[host, "Content_Length: 5"],
            &[host, "X-A : b"],
            &[host, " folded"],
            &[host, "X: \u{e9}"],
            &[host, "X: \u{1}"],
            &[host, "X: a\nY: b"],
            &[host, "X: a\rY: b"],
            &[host, ": b"],
            &[host, "X"],
            &["Host: a b"],
            &["Host: a "],
            &["Host:"],
            &["Host: a:0"],
            &["Host: a:65536"],
            &["Host: a:070"],
            &["Host: .a"],
            &["Host: a..b"],
            &["Host: [::1]"],
            &["Host: u@a"],
            &[host, "A: 1", "B: 2", "C: 3", "D: 4", "E: 5", "F: 6", "G: 7", "H: 8"],
        ];
        for headers in headers {
            assert_eq!(
                fuzz_passed_request(request("GET", "/", headers).as_bytes()),
                0,
                "{headers:?}"
            );
        }
    }

    #[test]
    fn request_lines_that_are_not_plain_are_left_to_the_engine() {
        let host = "Host: a";
        for target in [
            "//",
            "/.",
            "/./x",
            "/../x",
            "/a/../x",
            "/%61",
            "/a%2fb",
            "/a\\b",
            "/a#b",
            "/?#",
            "*",
            "http://a/",
            "a",
            "",
        ] {
            assert_eq!(
                fuzz_passed_request(request("GET", target, &[host]).as_bytes()),
                0,
                "{target}"
            );
        }
        for method in ["get", "CONNECT", "GETS", "GE", "", " GET"] {
            assert_eq!(
                fuzz_passed_request(request(method, "/", &[host]).as_bytes()),
                0,
                "{method}"
            );
        }
    }

    #[test]
    fn what_is_not_exactly_one_head_is_left_to_the_engine() {
        let host = "Host: a";
        let good = request("GET", "/", &[host]);
        assert!(fuzz_passed_request(good.as_bytes()) > 0);
        for cut in 0..good.len() {
            assert_eq!(fuzz_passed_request(&good.as_bytes()[..cut]), 0);
        }
        for more in [&good, "x", "\r\n", "\n"] {
            assert_eq!(fuzz_passed_request(format!("{good}{more}").as_bytes()), 0, "{more:?}");
        }
        for other in ["HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1"] {
            assert_eq!(
                fuzz_passed_request(good.replace("HTTP/1.1", other).as_bytes()),
                0,
                "{other}"
            );
        }
        assert_eq!(fuzz_passed_request(good.replace("\r\n", "\n").as_bytes()), 0);
        let long = format!("X: {}", "x".repeat(700));
        assert_eq!(
            fuzz_passed_request(request("GET", "/", &[host, &long]).as_bytes()),
            0,
            "longer than heads may be"
        );
        let long = format!("Host: {}", "x".repeat(261));
        assert_eq!(fuzz_passed_request(request("GET", "/", &[&long]).as_bytes()), 0);
    }

    fn part(of: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
        prop::sample::select(of)
    }

    fn any_request() -> impl Strategy<Value = Vec<u8>> {
        let target = prop::collection::vec(
            part(&[
                "/", "a", "ab", "1", "?", "q=", "%61", "%2f", ".", "..", "secret", "public", ";", "#", "\\", "&", "xyz",
            ]),
            0..8,
        );
        let name = part(&[
            "Host",
            "host",
            "HOSt",
            "Content-Length",
            "Transfer-Encoding",
            "Upgrade",
            "Expect",
            "Hos",
            "Hostt",
            "X-A",
            "Content_Length",
            "Cookie",
            "Connection",
            "TE",
            "Con tent",
            "",
        ]);
        let colon = part(&[": ", ":", " :", ":  ", ":\t"]);
        let value = part(&[
            "a",
            "shop.example",
            "x.example:80",
            "10.0.0.1:8080",
            "0",
            "5",
            "chunked",
            "h2c",
            "",
            "a:99999",
            "\u{e9}",
            "a b",
        ]);
        let end = part(&["\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", ""]);
        let headers = prop::collection::vec((name, colon, value, end), 0..5);
        let method = part(&[
            "GET", "GET", "POST", "HEAD", "DELETE", "CONNECT", "get", "GE", "OPTIONS",
        ]);
        let version = part(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2"]);
        let last = part(&["\r\n", "\r\n", "\r\n", "\n", "", "\r\n\r\n"]);
        let change = prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()));
        (method, target, version, headers, last, change).prop_map(|(method, target, version, headers, last, change)| {
            let lines = headers
                .iter()
                .map(|(name, colon, value, end)| format!("{name}{colon}{value}{end}"));
            let mut bytes = format!(
                "{method} /{} {version}\r\n{}{last}",
                target.concat(),
                lines.collect::<String>()
            )
            .into_bytes();
            if let Some((at, byte)) = change {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn the_kernel_allows_nothing_that_the_engine_does_not(bytes in any_request()) {
            fuzz_passed_request(&bytes);
        }
    }
}
