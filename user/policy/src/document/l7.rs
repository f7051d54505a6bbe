//! L7 rules as written: `rules` and `serverNames`.

use super::Place;
use super::cilium::{Position, transpose};
use super::http::{self, HttpRuleText};
use super::peers::name_of;
use crate::fields::{Field, Object};
use crate::name_pattern::{NamePattern, ServerNamePattern};

/// L7 rules of one protocol; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum L7Text {
    /// `rules.http`.
    Http(Vec<HttpRuleText>),
    /// `rules.dns`.
    Dns(Vec<DnsRuleText>),
    /// `serverNames`.
    Tls(Vec<ServerNameText>),
}

/// One item of `rules.dns`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsRuleText {
    /// Where it stands.
    pub place: Place,
    /// `matchName` and `matchPattern`: either may match.
    pub patterns: Vec<NamePattern>,
}

/// One item of `serverNames`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerNameText {
    /// Where it stands.
    pub place: Place,
    /// The pattern.
    pub pattern: ServerNamePattern,
}

/// Reads what an item of `toPorts` says of L7. The outer `None` = unreadable.
pub(super) fn read(object: &mut Object<'_>, position: Position) -> Option<Option<L7Text>> {
    let rules = transpose(object.optional("rules").map(|f| rules(&f, position)));
    let names = object.optional("serverNames").map(|f| {
        let names = f.list_of(server_name)?;
        if names.is_empty() {
            f.fail("must name at least one server; leave it out to allow every name");
            return None;
        }
        Some(names)
    });
    let names = transpose(names);
    match (rules?.flatten(), names?) {
        (Some(_), Some(_)) => {
            object
                .field()
                .fail("serverNames cannot stand beside L7 rules: what TLS carries is not read");
            None
        }
        (Some(rules), None) => Some(Some(rules)),
        (None, Some(names)) => Some(Some(L7Text::Tls(names))),
        (None, None) => Some(None),
    }
}

fn rules(field: &Field<'_>, position: Position) -> Option<Option<L7Text>> {
    let mut object = field.object()?;
    let http = object.optional("http");
    let dns = object.optional("dns");
    let mut refused = false;
    for name in ["kafka", "l7proto", "l7"] {
        if let Some(field) = object.optional(name) {
            field.fail("was removed from the policy language; http, dns and serverNames can be used");
            refused = true;
        }
    }
    object.finish();
    if refused {
        return None;
    }
    match (http, dns) {
        (Some(_), Some(dns)) => {
            dns.fail("http and dns cannot stand in one rule; write a second item of toPorts");
            None
        }
        (Some(field), None) => {
            let rules = field.list_of(http::rule)?;
            warn_if_empty(&field, rules.is_empty());
            Some((!rules.is_empty()).then_some(L7Text::Http(rules)))
        }
        (None, Some(field)) => {
            if !position.egress {
                field.fail("DNS rules are not allowed on ingress");
                return None;
            }
            let rules = field.list_of(dns_rule)?;
            warn_if_empty(&field, rules.is_empty());
            Some((!rules.is_empty()).then_some(L7Text::Dns(rules)))
        }
        (None, None) => Some(None),
    }
}

fn warn_if_empty(field: &Field<'_>, empty: bool) {
    if empty {
        field.warn("an empty list of L7 rules is no rule at all: the ports are allowed without inspection");
    }
}

fn dns_rule(field: &Field<'_>) -> Option<DnsRuleText> {
    let mut object = field.object()?;
    let name = object.optional("matchName").filter(|f| !f.is_empty_string());
    let pattern = object.optional("matchPattern").filter(|f| !f.is_empty_string());
    object.finish();
    let name = transpose(name.map(|f| name_of(&f, NamePattern::name)));
    let pattern = transpose(pattern.map(|f| name_of(&f, NamePattern::pattern)));
    let patterns: Vec<_> = name?.into_iter().chain(pattern?).collect();
    if patterns.is_empty() {
        field.warn("matches no query: every query is refused; `matchPattern: \"*\"` allows all");
    }
    Some(DnsRuleText {
        place: Place::of(field),
        patterns,
    })
}

fn server_name(field: &Field<'_>) -> Option<ServerNameText> {
    match ServerNamePattern::new(field.string()?) {
        Ok(pattern) => Some(ServerNameText {
            place: Place::of(field),
            pattern,
        }),
        Err(reason) => {
            field.fail(reason);
            None
        }
    }
}
