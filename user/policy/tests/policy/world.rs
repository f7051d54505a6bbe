//! A small cluster for tests: policies in YAML, endpoints by labels, questions in one line.

use seventh_abi::Direction;
use seventh_policy::{
    CompileOptions, CompiledPolicy, Compiler, EndpointFacts, HttpRequest, HttpVerdict, IdentityId, L4Decision, Labels,
    NamedPorts, Surroundings, load_text, resolve,
};
use std::sync::Arc;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

pub(crate) struct World {
    pub(crate) compiler: Compiler,
}

/// `app=a` as seen from the namespace `default`; a text with a namespace or a reserved label is taken as it is.
pub(crate) fn labels(text: &str) -> Labels {
    let mut parts: Vec<&str> = text.split(',').collect();
    if !text.contains("io.kubernetes.pod.namespace") && !text.contains("reserved:") {
        parts.push("io.kubernetes.pod.namespace=default");
    }
    Labels::parse(parts)
}

impl World {
    /// Policies that must all be valid, without any finding.
    pub(crate) fn new(yaml: &str) -> Self {
        Self::with(yaml, CompileOptions::default())
    }

    pub(crate) fn with(yaml: &str, options: CompileOptions) -> Self {
        let loaded = load_text("test.yaml", yaml);
        assert!(!loaded.has_errors(), "{:#?}", loaded.findings);
        let resolved = resolve(&loaded.documents, &Surroundings::default());
        let mut compiler = Compiler::new(options);
        for prefix in seventh_policy::prefixes_of(&resolved.rules) {
            compiler
                .add_identity(&seventh_policy::identity::prefix_labels(prefix))
                .unwrap();
        }
        compiler.set_rules(resolved.rules);
        Self { compiler }
    }

    pub(crate) fn identity(&mut self, text: &str) -> IdentityId {
        self.compiler.add_identity(&labels(text)).unwrap().0
    }

    pub(crate) fn policy(&mut self, endpoint: &str) -> Arc<CompiledPolicy> {
        self.policy_with_ports(endpoint, NamedPorts::default())
    }

    pub(crate) fn policy_with_ports(&mut self, endpoint: &str, named_ports: NamedPorts) -> Arc<CompiledPolicy> {
        let facts = EndpointFacts {
            labels: labels(endpoint),
            named_ports,
        };
        self.compiler.compile(&facts).unwrap()
    }

    /// `allow`, `deny` or `inspect`.
    pub(crate) fn l4(
        &mut self,
        direction: Direction,
        endpoint: &str,
        peer: &str,
        protocol: u8,
        port: u16,
    ) -> &'static str {
        let peer = self.identity(peer);
        match self.policy(endpoint).lookup(direction, peer, protocol, port) {
            L4Decision::Allow => "allow",
            L4Decision::Deny(_) => "deny",
            L4Decision::Inspect(_) => "inspect",
        }
    }

    pub(crate) fn ingress(&mut self, endpoint: &str, peer: &str, port: u16) -> &'static str {
        self.l4(Direction::Ingress, endpoint, peer, TCP, port)
    }

    pub(crate) fn egress(&mut self, endpoint: &str, peer: &str, port: u16) -> &'static str {
        self.l4(Direction::Egress, endpoint, peer, TCP, port)
    }

    /// `200` or `403`; panics if the flow is not inspected as HTTP.
    pub(crate) fn http(
        &mut self,
        direction: Direction,
        endpoint: &str,
        peer: &str,
        port: u16,
        request: &HttpRequest<'_>,
    ) -> u16 {
        let peer = self.identity(peer);
        let policy = self.policy(endpoint);
        let L4Decision::Inspect(rules) = policy.lookup(direction, peer, TCP, port) else {
            panic!("not inspected")
        };
        match rules.http().expect("HTTP rules").judge(request) {
            HttpVerdict::Allow { .. } => 200,
            HttpVerdict::Deny => 403,
        }
    }
}

pub(crate) fn request<'a>(method: &'a str, path: &'a str) -> HttpRequest<'a> {
    HttpRequest {
        method,
        path,
        host: "example.com",
        headers: &[],
    }
}
