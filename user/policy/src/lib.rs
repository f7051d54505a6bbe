//! Policy documents to checked rules to compiled tables.
//!
//! ```text
//! files ──load──► documents ──► PolicyRule (checked, plain) ──Compiler──► CompiledPolicy ──► kernel entries
//!                   │ errors, warnings                          ▲              └──────────► RuleSet::judge
//!                   └──► Finding (file, line, field, reason)    └ identities, named ports
//! ```
//!
//! This room reads files and nothing else: no clock, no sockets, no threads.
//!
//! ```
//! use seventh_abi::Direction;
//! use seventh_policy::*;
//!
//! let loaded = load_text("web.yaml", "
//! apiVersion: cilium.io/v2
//! kind: CiliumNetworkPolicy
//! metadata: {name: web}
//! spec:
//!   endpointSelector: {matchLabels: {app: web}}
//!   ingress:
//!   - toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{method: GET}]}}]
//! ");
//! assert!(!loaded.has_errors());
//! let mut compiler = Compiler::new(CompileOptions::default());
//! compiler.set_rules(resolve(&loaded.documents, &Surroundings::default()).rules);
//! let labels = Labels::parse(["app=web", "io.kubernetes.pod.namespace=default"]);
//! let policy = compiler.compile(&EndpointFacts { labels, named_ports: NamedPorts::default() })?;
//! let L4Decision::Inspect(rules) = policy.lookup(Direction::Ingress, identity::WORLD_IPV4, 6, 80) else { panic!() };
//! let request = HttpRequest { method: "PUT", path: "/", host: "web", headers: &[] };
//! assert_eq!(rules.http().map(|http| http.judge(&request)), Some(HttpVerdict::Deny));
//! # Ok::<(), PolicyIdsUsedUp>(())
//! ```
#![forbid(unsafe_code)]

mod automaton;
mod compile;
mod compiled;
mod coverage;
pub mod document;
mod fields;
mod finding;
#[cfg(any(test, fuzzing))]
mod fuzz;
pub mod generate;
pub mod http;
pub mod identity;
mod ipcache;
pub mod label;
mod label_filter;
pub mod load;
mod misses;
pub mod model;
pub mod name_pattern;
mod party;
pub mod pattern;
mod request_table;
pub mod resolve;
pub mod rule;
mod rule_set;
pub mod selector;
mod service;
mod subject_index;
mod table;
mod trace;
pub mod validate;
mod yaml;

pub use compile::{
    CompileOptions, Compiler, Documents, EndpointFacts, Enforcement, PolicyIdsUsedUp, PolicyPatch, governs,
};
pub use compiled::{CompiledPolicy, KernelEntry, L4Decision, Matched};
pub use coverage::Deciders;
pub use finding::{Finding, RuleOrigin, Severity, is_plain};
#[cfg(any(test, fuzzing))]
pub use fuzz::fuzz_document;
pub use http::{HttpRequest, HttpRuleSet, HttpVerdict};
pub use identity::{Identities, Identity, IdentityId, NamedPorts, ServicePort, ServicePorts};
pub use ipcache::{Ipcache, Owner};
pub use label::{Label, Labels};
pub use label_filter::LabelFilter;
pub use load::{Loaded, Loader, Sources, load_paths, load_text};
pub use misses::{Miss, MissedField};
pub use party::Party;
pub use request_table::{RequestLimits, RequestTable, RequestWalker, request_grammar};
pub use resolve::{Resolved, Service, Services, Surroundings, name_selectors_of, prefixes_of, resolve};
pub use rule_set::{DnsRuleSet, RuleSet, RuleSetKind, TlsRuleSet};
pub use table::{Conflict, RowWidth};
pub use trace::{Content, Leg, NearMiss, Outcome, Trace, TraceError, Tracer, Traffic, nearest_rule};
pub use validate::{Validation, validate};
