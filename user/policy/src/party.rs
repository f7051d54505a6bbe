//! The two ends of a traced connection, and how a person writes them.

use std::fmt;
use std::net::IpAddr;

use crate::compile::EndpointFacts;
use crate::identity::{NamedPorts, RESERVED};
use crate::label::{KEY_NAMESPACE, Label, Labels, SOURCE_ANY, SOURCE_CIDR, SOURCE_FQDN, SOURCE_K8S, SOURCE_RESERVED};
use crate::name_pattern::NamePattern;
use crate::rule::is_host;
use crate::{Identities, identity};

/// Namespace of labels that name none, as for documents.
const DEFAULT_NAMESPACE: &str = "default";
/// Reserved identities that no policy of this node governs.
const ELSEWHERE: &[&str] = &[
    "world",
    "world-ipv4",
    "world-ipv6",
    "unmanaged",
    "remote-node",
    "kube-apiserver",
];

/// One end of the traffic in question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Party {
    /// An endpoint, a node, a reserved identity: whatever has labels.
    Labelled(EndpointFacts),
    /// An address; if no endpoint has it, it lies outside the cluster.
    Address(IpAddr),
    /// A name outside the cluster.
    Name(String),
}

impl Party {
    /// Reads one end as the command line takes it:
    /// - an IPv4 or IPv6 address stands for itself;
    /// - a name with a dot and without any of `=:,/` is a name outside the cluster (a final dot makes one of every name);
    /// - everything else is a list of labels `[source:]key[=value]`, source k8s implied. Labels without a namespace and
    ///   without a reserved label are those of an endpoint in namespace `default`, as documents without one are.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        if is_name(text) {
            return match NamePattern::name(text) {
                Ok(name) => Ok(Self::Name(name.as_str().trim_end_matches('.').to_owned())),
                Err(reason) => Err(format!("`{text}` {reason}")),
            };
        }
        let labels = read_labels(text)?;
        Ok(Self::Labelled(EndpointFacts {
            labels,
            named_ports: NamedPorts::default(),
        }))
    }

    /// The endpoint, if policies of this node govern it: not what lies outside or on another node.
    pub(crate) fn governed(&self) -> Option<&EndpointFacts> {
        let Self::Labelled(facts) = self else { return None };
        let elsewhere = ELSEWHERE.iter().any(|name| facts.labels.has(SOURCE_RESERVED, name));
        (is_host(&facts.labels) || !elsewhere).then_some(facts)
    }

    /// Whether policies can apply to it at all.
    #[must_use]
    pub fn is_governed(&self) -> bool {
        self.governed().is_some()
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Labelled(facts) => write!(f, "{}", facts.labels),
            Self::Address(address) => write!(f, "{address}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

fn is_name(text: &str) -> bool {
    let reserved = text.strip_prefix("reserved.").is_some_and(is_reserved);
    text.contains('.') && !text.contains(['=', ':', ',', '/', '$']) && !reserved
}

fn is_reserved(name: &str) -> bool {
    RESERVED.iter().any(|(_, known)| *known == name)
}

fn read_labels(text: &str) -> Result<Labels, String> {
    let mut labels = text
        .split(',')
        .map(|item| read_label(item.trim()))
        .collect::<Result<Vec<Label>, String>>()?;
    if let [only] = labels.as_slice()
        && only.source == SOURCE_RESERVED
        && let Some(known) = reserved_labels(&only.key)
    {
        return Ok(known);
    }
    let reserved = labels.iter().any(|label| label.source == SOURCE_RESERVED);
    if !reserved && !labels.iter().any(|label| label.key == KEY_NAMESPACE) {
        labels.push(Label::new(SOURCE_K8S, KEY_NAMESPACE, DEFAULT_NAMESPACE));
    }
    labels.sort();
    let twice = labels
        .array_windows()
        .find(|[a, b]| (&a.source, &a.key) == (&b.source, &b.key) && a.value != b.value);
    match twice {
        Some([label, _]) => Err(format!(
            "`{}:{}` is there twice, with different values",
            label.source, label.key
        )),
        None => Ok(Labels::new(labels)),
    }
}

fn read_label(text: &str) -> Result<Label, String> {
    if text.is_empty() {
        return Err("a label is empty; labels are written `[source:]key[=value],…`".to_owned());
    }
    if let Some(c) = text.chars().find(|c| c.is_whitespace() || c.is_control()) {
        return Err(format!("label `{text}` holds {c:?}, which no label has"));
    }
    let label = Label::parse(text, SOURCE_K8S);
    if label.key.is_empty() {
        return Err(format!(
            "label `{text}` has no key; labels are written `[source:]key[=value]`"
        ));
    }
    match label.source.as_str() {
        SOURCE_RESERVED if !is_reserved(&label.key) => {
            let known: Vec<&str> = RESERVED.iter().map(|(_, name)| *name).collect();
            Err(format!(
                "there is no `reserved:{}`; known are {}",
                label.key,
                known.join(", ")
            ))
        }
        SOURCE_CIDR | SOURCE_FQDN => Err(format!("label `{text}`: write the address or the name itself")),
        SOURCE_ANY => Err(format!(
            "label `{text}`: `any:` is for selectors; an endpoint's label has one source"
        )),
        _ => Ok(label),
    }
}

/// All labels of the identity of this reserved name: the two families of the world have more than their own.
fn reserved_labels(name: &str) -> Option<Labels> {
    let (id, _) = RESERVED.iter().find(|(_, known)| *known == name)?;
    let identities = Identities::new();
    // Nothing is known of an address in "world" but that; its family is decided by what it talks to.
    let id = if *id == identity::WORLD {
        identity::WORLD_IPV4
    } else {
        *id
    };
    identities.get(id).map(|identity| identity.labels.clone())
}

#[cfg(test)]
mod tests {
    use super::Party;
    use crate::{Label, Labels};

    fn labels(text: &str) -> Labels {
        match Party::read(text).unwrap() {
            Party::Labelled(facts) => facts.labels,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn addresses_names_and_labels_are_told_apart() {
        assert_eq!(Party::read("10.0.0.1").unwrap(), Party::Address([10, 0, 0, 1].into()));
        assert_eq!(
            Party::read("::ffff:10.0.0.1").unwrap(),
            Party::Address([10, 0, 0, 1].into())
        );
        assert!(matches!(Party::read("fd00::1"), Ok(Party::Address(_))));
        for name in ["api.Example.com", "api.example.com.", "reserved.example"] {
            assert!(matches!(Party::read(name), Ok(Party::Name(_))), "{name}");
        }
        assert_eq!(Party::read("intranet.").unwrap(), Party::Name("intranet".to_owned()));
        assert_eq!(labels("app.kubernetes.io/name=web").iter().count(), 2);
    }

    #[test]
    fn labels_without_a_namespace_are_in_the_default_one() {
        let of_default = Labels::parse(["app=web", "io.kubernetes.pod.namespace=default"]);
        assert_eq!(labels("app=web"), of_default);
        assert_eq!(labels(" k8s:app=web , io.kubernetes.pod.namespace=default"), of_default);
        let of_shop = labels("app=web,io.kubernetes.pod.namespace=shop");
        assert!(of_shop.iter().all(|label| label.value != "default"));
        assert_eq!(labels("reserved:host"), Labels::new([Label::reserved("host")]));
        assert_eq!(labels("reserved.host"), labels("reserved:host"));
    }

    #[test]
    fn the_world_has_all_labels_of_the_world() {
        assert_eq!(labels("reserved:world-ipv6").iter().count(), 3);
        assert!(labels("reserved:world").has("reserved", "world"));
        for elsewhere in ["reserved:world", "reserved:remote-node", "10.0.0.1", "a.b"] {
            assert!(!Party::read(elsewhere).unwrap().is_governed(), "{elsewhere}");
        }
        for here in [
            "reserved:host",
            "reserved:host,reserved:kube-apiserver",
            "reserved:init",
            "app=web",
        ] {
            assert!(Party::read(here).unwrap().is_governed(), "{here}");
        }
    }

    #[test]
    fn what_is_no_party_is_refused_with_the_reason() {
        for (text, wanted) in [
            ("", "a label is empty"),
            ("app=web,", "a label is empty"),
            ("app=a b", "which no label has"),
            ("=web", "has no key"),
            ("k8s:", "has no key"),
            ("reserved:wrold", "there is no `reserved:wrold`"),
            ("app=a,app=b", "twice"),
            ("cidr:10.0.0.0/8", "write the address"),
            ("any:app=web", "for selectors"),
            ("exa mple.com", "holds ' '"),
            ("*.example.com", "`*`"),
        ] {
            let reason = Party::read(text).unwrap_err();
            assert!(reason.contains(wanted), "{text:?}: wanted {wanted:?}, got {reason:?}");
        }
    }
}
