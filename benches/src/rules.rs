//! What every way enforces, as data: the same twenty HTTP rules, server names and DNS names for all of them.

/// A rule of HTTP: method and path, both patterns of the whole value.
pub(crate) struct HttpRule {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
}

const fn rule(method: &'static str, path: &'static str) -> HttpRule {
    HttpRule { method, path }
}

/// Twenty rules. The request of the loads is allowed by one in the middle, so who tries them in turn tries half.
pub(crate) const HTTP: &[HttpRule] = &[
    rule("GET|HEAD", "/static/.*"),
    rule("GET", "/health"),
    rule("GET", "/users/[a-z0-9-]+/orders(/.*)?"),
    rule("POST", "/users/[a-z0-9-]+/orders"),
    rule("GET|POST", "/carts/[0-9a-f]+"),
    rule("DELETE", "/carts/[0-9a-f]+/lines/[0-9]+"),
    rule("GET", "/catalogue/(books|films|music)(/[a-z-]+)*"),
    rule("GET", "/search/[a-z]+/page-[0-9]+"),
    rule("POST", "/sessions"),
    rule("GET", "/api/v[0-9]+/items(/[0-9]+)?"),
    rule("POST", "/api/v[0-9]+/items"),
    rule("PUT|PATCH", "/api/v[0-9]+/items/[0-9]+"),
    rule("GET", "/download/[a-z0-9.]+"),
    rule("PUT", "/upload/[a-z0-9.]+"),
    rule("GET", "/reports/20[0-9]{2}/(0[1-9]|1[0-2])"),
    rule("POST", "/webhooks/[A-Za-z0-9_-]+"),
    rule("GET", "/images/[0-9]+x[0-9]+/.*\\.(png|jpg|webp)"),
    rule("OPTIONS", "/.*"),
    rule("GET", "/feeds/(atom|rss)\\.xml"),
    rule("GET", "/v2/pkg\\.(Stock|Price)/[A-Z][A-Za-z]+"),
];

/// The path that the loads ask for; a rule in the middle allows it.
pub(crate) const ALLOWED_PATH: &str = "/api/v1/items/42";
/// No rule allows it.
pub(crate) const DENIED_PATH: &str = "/admin";
/// What is fetched and sent as bulk.
pub(crate) const DOWNLOAD_PATH: &str = "/download/zeros.bin";
pub(crate) const UPLOAD_PATH: &str = "/upload/zeros.bin";

/// Names that a ClientHello may ask for.
pub(crate) const SERVER_NAMES: &[&str] = &["shop.test", "www.shop.test", "api.shop.test", "pay.shop.test"];
pub(crate) const ALLOWED_SERVER: &str = "api.shop.test";
pub(crate) const DENIED_SERVER: &str = "denied.test";

/// Names below this one may be resolved, and connected to.
pub(crate) const DNS_SUFFIX: &str = "names.test";
/// So many names exist below it.
pub(crate) const DNS_NAMES: u16 = 1000;

/// Of a server: HTTP for the client, on both its ports.
pub(crate) fn http_policy(with_rules: bool) -> String {
    let mut text = format!(
        "{}  ingress:\n    - fromEndpoints: [{{matchLabels: {{app: client}}}}]\n      toPorts:\n        - ports: [{{port: \
         \"8080\", protocol: TCP}}, {{port: \"8081\", protocol: TCP}}]\n",
        head("server")
    );
    if with_rules {
        text.push_str("          rules:\n            http:\n");
        for HttpRule { method, path } in HTTP {
            text.push_str(&format!("              - {{method: '{method}', path: '{path}'}}\n"));
        }
    }
    text
}

/// Of a client: the server by these names.
pub(crate) fn tls_policy() -> String {
    format!(
        "{}  egress:\n    - toEndpoints: [{{matchLabels: {{app: server}}}}]\n      toPorts:\n        - ports: [{{port: \
         \"8443\", protocol: TCP}}]\n          serverNames: {SERVER_NAMES:?}\n",
        head("client")
    )
}

/// Of a client: names may be resolved, and what they resolve to may be connected to.
pub(crate) fn dns_policy() -> String {
    format!(
        "{}  egress:\n    - toEndpoints: [{{matchLabels: {{app: server}}}}]\n      toPorts:\n        - ports: [{{port: \
         \"53\", protocol: ANY}}]\n          rules: {{dns: [{{matchPattern: '*.{DNS_SUFFIX}'}}, {{matchName: \
         shop.test}}]}}\n    - toFQDNs: [{{matchPattern: '*.{DNS_SUFFIX}'}}]\n      toPorts: [{{ports: [{{port: \
         \"8080\", protocol: TCP}}]}}]\n",
        head("client")
    )
}

/// Of both: rules for every protocol that allow nothing of what the loads ask. What the client opens to the server's HTTP
/// ports no rule mentions.
pub(crate) fn audit_policy() -> String {
    format!(
        "{}  ingress:\n    - fromEndpoints: [{{matchLabels: {{app: client}}}}]\n      toPorts:\n        - ports: [{{port: \
         \"8080\", protocol: TCP}}, {{port: \"8081\", protocol: TCP}}]\n          rules: {{http: [{{path: /never}}]}}\n---\n{}  \
         egress:\n    - toEndpoints: [{{matchLabels: {{app: server}}}}]\n      toPorts:\n        - ports: [{{port: \"8443\", \
         protocol: TCP}}]\n          serverNames: [never.test]\n        - ports: [{{port: \"53\", protocol: ANY}}]\n          \
         rules: {{dns: [{{matchName: never.test}}]}}\n",
        head("server"),
        head("client")
    )
}

fn head(app: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: bench-{app}, namespace: default}}\nspec:\n  \
         endpointSelector: {{matchLabels: {{app: {app}}}}}\n"
    )
}

/// Addresses for [`DNS_NAMES`] names, as zone data.
pub(crate) fn zone() -> String {
    let record = |n: u16| {
        let [high, low] = n.to_be_bytes();
        format!("n{n}.{DNS_SUFFIX}. 300 IN A 198.18.{high}.{low}\n")
    };
    (0..DNS_NAMES).map(record).collect()
}

/// The same names as questions, as dnsperf reads them.
pub(crate) fn questions() -> String {
    (0..DNS_NAMES).map(|n| format!("n{n}.{DNS_SUFFIX} A\n")).collect()
}
