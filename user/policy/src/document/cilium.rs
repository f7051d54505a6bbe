//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy: `spec` and `specs`.

use super::icmp::{self, IcmpMatch};
use super::peers::PeerLists;
use super::ports::PortRule;
use super::selector::LabelSelector;
use super::{Body, Place, Reader};
use crate::fields::{Field, Object};
use crate::finding::is_plain;
use crate::label::{Label, SOURCE_RESERVED, SOURCE_UNSPEC};

/// One `spec` or one of `specs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CiliumRule {
    /// Where it stands.
    pub place: Place,
    /// What it governs.
    pub subject: RuleSubject,
    /// `ingress`; absent and empty are the same here.
    pub ingress: Vec<RuleDirection>,
    /// `ingressDeny`.
    pub ingress_deny: Vec<RuleDirection>,
    /// `egress`.
    pub egress: Vec<RuleDirection>,
    /// `egressDeny`.
    pub egress_deny: Vec<RuleDirection>,
    /// `enableDefaultDeny.ingress`.
    pub default_deny_ingress: Option<bool>,
    /// `enableDefaultDeny.egress`.
    pub default_deny_egress: Option<bool>,
    /// `labels`.
    pub labels: Vec<Label>,
    /// `log.value`.
    pub log: Option<String>,
}

/// `endpointSelector` or `nodeSelector`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleSubject {
    /// `endpointSelector`.
    Endpoints(LabelSelector),
    /// `nodeSelector`.
    Nodes(LabelSelector),
}

impl RuleSubject {
    /// Whether it selects endpoints by whether their labels are known.
    #[must_use]
    pub fn names_init(&self) -> bool {
        let RuleSubject::Endpoints(selector) = self else {
            return false;
        };
        let keys = selector
            .labels
            .iter()
            .map(|(key, _)| key)
            .chain(selector.expressions.iter().map(|r| &r.key));
        keys.into_iter()
            .any(|key| key.source == SOURCE_RESERVED && key.key == "init")
    }
}

/// One item of `ingress`, `ingressDeny`, `egress` or `egressDeny`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleDirection {
    /// Where it stands.
    pub place: Place,
    /// Who the other side is.
    pub peers: PeerLists,
    /// `toPorts`.
    pub ports: Option<Vec<PortRule>>,
    /// The fields of all `icmps` together; absent and `[]` are the same here.
    pub icmps: Option<Vec<IcmpMatch>>,
    /// `authentication.mode`.
    pub authentication: Option<Authentication>,
}

/// `authentication.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Authentication {
    /// `disabled`.
    Disabled,
    /// `required`.
    Required,
    /// `test-always-fail`.
    TestAlwaysFail,
}

/// Which of the four lists an item stands in, and of what kind of policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) egress: bool,
    pub(super) deny: bool,
    pub(super) host: bool,
}

pub(super) fn read(object: &mut Object<'_>, reader: &Reader) -> Option<Body> {
    let spec = object.optional("spec");
    let specs = object.optional("specs");
    if spec.is_none() && specs.is_none() {
        object.field().fail("`spec` or `specs` must be given");
        return None;
    }
    let one = spec.map(|field| rule(&field, reader));
    if let Some(specs) = specs.as_ref().filter(|specs| specs.is_empty_list()) {
        specs.warn("an empty list holds no rule");
    }
    let many = specs.map(|field| field.list_of(|item| rule(item, reader)));
    let mut rules = Vec::new();
    if let Some(one) = one {
        rules.push(one?);
    }
    if let Some(many) = many {
        rules.extend(many?);
    }
    Some(Body::Cilium(rules))
}

fn rule(field: &Field<'_>, reader: &Reader) -> Option<CiliumRule> {
    let mut object = field.object()?;
    let subject = subject(&mut object, reader);
    let host = matches!(subject, Some(RuleSubject::Nodes(_)));
    let mut list = |name, egress, deny| {
        let position = Position { egress, deny, host };
        object
            .optional(name)
            .map_or(Some(Vec::new()), |f| f.list_of(|item| direction(item, position)))
    };
    let ingress = list("ingress", false, false);
    let ingress_deny = list("ingressDeny", false, true);
    let egress = list("egress", true, false);
    let egress_deny = list("egressDeny", true, true);
    let default_deny = object
        .optional("enableDefaultDeny")
        .map_or(Some((None, None)), |f| default_deny(&f));
    let labels = object
        .optional("labels")
        .map_or(Some(Vec::new()), |f| f.list_of(rule_label));
    let log = object.optional("log").map_or(Some(None), |f| log_value(&f));
    if let Some(description) = object.optional("description") {
        description.string();
    }
    object.finish();
    let (ingress, ingress_deny, egress, egress_deny) = (ingress?, ingress_deny?, egress?, egress_deny?);
    if [&ingress, &ingress_deny, &egress, &egress_deny]
        .iter()
        .all(|l| l.is_empty())
    {
        field.fail(
            "one of ingress, ingressDeny, egress and egressDeny must have an item; `ingress: [{}]` denies all ingress",
        );
        return None;
    }
    let (default_deny_ingress, default_deny_egress) = default_deny?;
    Some(CiliumRule {
        place: Place::of(field),
        subject: subject?,
        ingress,
        ingress_deny,
        egress,
        egress_deny,
        default_deny_ingress,
        default_deny_egress,
        labels: labels?,
        log: log?,
    })
}

fn subject(object: &mut Object<'_>, reader: &Reader) -> Option<RuleSubject> {
    let endpoints = object.optional("endpointSelector");
    let nodes = object.optional("nodeSelector");
    match (endpoints, nodes) {
        (Some(field), None) => LabelSelector::read(&field).map(RuleSubject::Endpoints),
        (None, Some(field)) if !reader.namespaced => LabelSelector::read(&field).map(RuleSubject::Nodes),
        (None, Some(field)) => {
            field.fail("only a CiliumClusterwideNetworkPolicy may select nodes");
            None
        }
        (Some(_), Some(_)) => {
            object
                .field()
                .fail("a rule cannot have both endpointSelector and nodeSelector");
            None
        }
        (None, None) => {
            object
                .field()
                .fail("a rule must have an endpointSelector (`{}` selects all) or a nodeSelector");
            None
        }
    }
}

fn default_deny(field: &Field<'_>) -> Option<(Option<bool>, Option<bool>)> {
    let mut object = field.object()?;
    let ingress = object.optional("ingress").map(|f| f.boolean());
    let egress = object.optional("egress").map(|f| f.boolean());
    object.finish();
    let read = |value: Option<Option<bool>>| match value {
        None => Some(None),
        Some(read) => read.map(Some),
    };
    Some((read(ingress)?, read(egress)?))
}

fn rule_label(field: &Field<'_>) -> Option<Label> {
    let mut object = field.object()?;
    let key = object.required("key").and_then(|f| f.string());
    let value = object.optional("value").map_or(Some(""), |f| f.string());
    let source = object.optional("source").map_or(Some(SOURCE_UNSPEC), |f| f.string());
    object.finish();
    let source = source?;
    Some(Label::new(
        if source.is_empty() { SOURCE_UNSPEC } else { source },
        key?,
        value?,
    ))
}

fn log_value(field: &Field<'_>) -> Option<Option<String>> {
    let mut object = field.object()?;
    let value = object.optional("value");
    object.finish();
    let Some(value) = value else { return Some(None) };
    let text = value.string()?;
    if text.chars().count() > 32 || !text.chars().all(is_plain) {
        value.fail("must have at most 32 characters, all of them printable");
        return None;
    }
    Some(Some(text.to_owned()))
}

fn direction(field: &Field<'_>, position: Position) -> Option<RuleDirection> {
    let mut object = field.object()?;
    let peers = PeerLists::read(&mut object, position);
    let ports = object
        .optional("toPorts")
        .map(|f| f.list_of(|item| PortRule::read(item, position)));
    let icmps = object.optional("icmps").map_or(Some(None), |f| icmp::read(&f));
    if let Some(old) = object.optional("auth") {
        old.fail("is called `authentication` now, with `mode: disabled`, `required` or `test-always-fail`");
    }
    let authentication = if position.deny {
        None
    } else {
        object.optional("authentication")
    };
    let authentication = authentication.map(|f| authentication_mode(&f));
    let has_ports = matches!(&ports, Some(Some(ports)) if !ports.is_empty());
    if has_ports && matches!(icmps, Some(Some(_))) {
        object
            .field()
            .fail("icmps cannot stand beside toPorts; write a second rule for one of them");
        return None;
    }
    object.finish();
    Some(RuleDirection {
        place: Place::of(field),
        peers: peers?,
        ports: transpose(ports)?,
        icmps: icmps?,
        authentication: transpose(authentication)?,
    })
}

/// `Some(None)` (there, but unreadable) becomes `None`.
pub(super) fn transpose<T>(read: Option<Option<T>>) -> Option<Option<T>> {
    match read {
        None => Some(None),
        Some(value) => value.map(Some),
    }
}

fn authentication_mode(field: &Field<'_>) -> Option<Authentication> {
    let mut object = field.object()?;
    let mode = object.required("mode");
    object.finish();
    let mode = mode?;
    match mode.string()? {
        "disabled" => Some(Authentication::Disabled),
        "required" => {
            mode.warn("there is no authenticator yet: traffic that this rule covers is denied (auth_required)");
            Some(Authentication::Required)
        }
        "test-always-fail" => Some(Authentication::TestAlwaysFail),
        other => {
            mode.fail(format!(
                "unknown mode {other:?}; known are disabled, required, test-always-fail"
            ));
            None
        }
    }
}
