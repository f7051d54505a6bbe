//! Which flows somebody wants, with the fields and the meaning of Hubble's filters: a filter matches if all of its fields
//! do, a field if one of its values does, a list if one of its filters does; and what a deny filter matches is left out
//! whatever the others say.

mod checks;
mod http;
mod label;
mod pattern;

pub use checks::flags_of;
pub(crate) use checks::ports_of;
pub use label::{LabelSelector, SelectorError};
pub use pattern::{name_pattern, node_pattern};

use crate::pb::flow::{Flow, FlowFilter};
use pattern::Room;

/// Filters of one list at most.
pub const FILTERS_MAX: usize = 256;
/// Values in all filters of a set at most.
pub const VALUES_MAX: usize = 2048;
/// Regular expressions in all filters of a set at most.
pub const PATTERNS_MAX: usize = 256;
/// Requirements of all label selectors of a set at most, and values that they ask for.
pub const REQUIREMENTS_MAX: usize = 512;

/// A filter that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {field} filter: {reason}")]
pub struct FilterError {
    /// The field of `FlowFilter`.
    pub field: &'static str,
    /// What is wrong and what would be right.
    pub reason: String,
}

pub(crate) fn error(field: &'static str, reason: impl Into<String>) -> FilterError {
    FilterError {
        field,
        reason: reason.into(),
    }
}

/// One field's question.
type Check = Box<dyn Fn(&Flow) -> bool + Send + Sync>;

/// Wanted and unwanted flows.
#[derive(Default)]
pub struct FilterSet {
    allow: Vec<Filter>,
    deny: Vec<Filter>,
}

struct Filter(Vec<Check>);

impl FilterSet {
    /// Checks and compiles filters. No allow filter means that everything is wanted.
    ///
    /// # Errors
    /// A field has a value that cannot be, or there are too many of something.
    pub fn new(allow: &[FlowFilter], deny: &[FlowFilter]) -> Result<Self, FilterError> {
        bounded(allow.iter().chain(deny))?;
        let mut room = Room::default();
        let mut compiled = |filters: &[FlowFilter]| -> Result<Vec<Filter>, FilterError> {
            filters.iter().map(|filter| Filter::new(filter, &mut room)).collect()
        };
        Ok(Self {
            allow: compiled(allow)?,
            deny: compiled(deny)?,
        })
    }

    /// Whether the flow is wanted.
    #[must_use]
    pub fn matches(&self, flow: &Flow) -> bool {
        let wanted = self.allow.is_empty() || self.allow.iter().any(|filter| filter.matches(flow));
        wanted && !self.deny.iter().any(|filter| filter.matches(flow))
    }
}

impl std::fmt::Debug for FilterSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FilterSet({} allow, {} deny)", self.allow.len(), self.deny.len())
    }
}

impl Filter {
    fn new(filter: &FlowFilter, room: &mut Room) -> Result<Self, FilterError> {
        let mut checks = checks::of(filter, room)?;
        checks.extend(http::of(filter, room)?);
        if filter
            .experimental
            .as_ref()
            .is_some_and(|e| !e.cel_expression.is_empty())
        {
            let reason = "CEL expressions are not in this version; use the other fields";
            return Err(error("experimental.cel_expression", reason));
        }
        Ok(Self(checks))
    }

    fn matches(&self, flow: &Flow) -> bool {
        self.0.iter().all(|check| check(flow))
    }
}

fn bounded<'a>(filters: impl Iterator<Item = &'a FlowFilter>) -> Result<(), FilterError> {
    let (mut count, mut values, mut patterns, mut requirements) = (0, 0, 0, 0);
    for filter in filters {
        count += 1;
        for (field, selectors) in selectors_of(filter) {
            // What stands between commas is a requirement, or a value of one.
            requirements += selectors.iter().map(|text| text.split(',').count()).sum::<usize>();
            if requirements > REQUIREMENTS_MAX {
                let reason = format!("more than {REQUIREMENTS_MAX} requirements and values in all label selectors");
                return Err(error(field, reason));
            }
        }
        patterns += pattern_count(filter);
        // Every value takes at least a byte of what the filter takes.
        values += values_of(filter);
    }
    let within = |what: &str, number: usize, most: usize| {
        if number > most {
            Err(error("list", format!("{number} {what}; at most {most} are read")))
        } else {
            Ok(())
        }
    };
    within("filters", count, FILTERS_MAX)?;
    within("values", values, VALUES_MAX)?;
    within("patterns", patterns, PATTERNS_MAX)
}

fn selectors_of(f: &FlowFilter) -> [(&'static str, &[String]); 3] {
    [
        ("source_label", &f.source_label),
        ("destination_label", &f.destination_label),
        ("node_labels", &f.node_labels),
    ]
}

fn pattern_count(f: &FlowFilter) -> usize {
    f.dns_query.len() + f.http_path.len() + f.http_url.len()
}

fn values_of(f: &FlowFilter) -> usize {
    let texts = [
        &f.uuid,
        &f.source_ip,
        &f.source_ip_xlated,
        &f.source_pod,
        &f.source_fqdn,
        &f.source_label,
        &f.source_service,
        &f.source_cluster_name,
        &f.destination_ip,
        &f.destination_pod,
        &f.destination_fqdn,
        &f.destination_label,
        &f.destination_service,
        &f.destination_cluster_name,
        &f.http_status_code,
        &f.protocol,
        &f.source_port,
        &f.destination_port,
        &f.http_method,
        &f.node_name,
        &f.node_labels,
        &f.trace_id,
    ];
    let numbers = [&f.traffic_direction, &f.verdict, &f.drop_reason_desc, &f.ip_version];
    let identities = [&f.source_identity, &f.destination_identity];
    texts.iter().map(|list| list.len()).sum::<usize>()
        + numbers.iter().map(|list| list.len()).sum::<usize>()
        + identities.iter().map(|list| list.len()).sum::<usize>()
        + f.source_workload.len()
        + f.destination_workload.len()
        + f.interface.len()
        + f.event_type.len()
        + f.reply.len()
        + f.http_header.len()
        + f.tcp_flags.len()
        + f.ip_trace_id.len()
        + f.encrypted.len()
        + pattern_count(f)
}

#[cfg(test)]
mod tests {
    use super::FilterSet;
    use crate::json::{UnknownFields, from_json};
    use crate::pb::flow::{Flow, FlowFilter};
    use proptest::prelude::*;

    fn filter(text: &str) -> FlowFilter {
        from_json(text, UnknownFields::Refuse).unwrap()
    }

    #[test]
    fn what_is_denied_is_left_out_though_it_is_allowed() {
        let flow = Flow {
            uuid: "a".into(),
            ..Flow::default()
        };
        let (a, b) = (filter(r#"{"uuid":["a"]}"#), filter(r#"{"uuid":["b"]}"#));
        let matches = |allow: &[&FlowFilter], deny: &[&FlowFilter]| {
            let list = |filters: &[&FlowFilter]| filters.iter().map(|f| (*f).clone()).collect::<Vec<_>>();
            FilterSet::new(&list(allow), &list(deny)).unwrap().matches(&flow)
        };
        assert!(matches(&[], &[]) && matches(&[&a], &[]) && matches(&[&b, &a], &[&b]));
        assert!(!matches(&[&b], &[]) && !matches(&[], &[&a]) && !matches(&[&a], &[&b, &a]));
    }

    #[test]
    fn too_much_is_refused() {
        let uuid = FlowFilter {
            uuid: vec!["a".into(); 3000],
            ..FlowFilter::default()
        };
        assert!(
            FilterSet::new(&[uuid], &[])
                .unwrap_err()
                .to_string()
                .contains("3000 values")
        );
        assert!(FilterSet::new(&vec![FlowFilter::default(); 300], &[]).is_err());
        let path = FlowFilter {
            http_path: vec!["a".into(); 300],
            ..FlowFilter::default()
        };
        assert!(FilterSet::new(&[path], &[]).is_err());
        let long = FlowFilter {
            http_path: vec!["a".repeat(5000)],
            ..FlowFilter::default()
        };
        assert!(FilterSet::new(&[long], &[]).is_err());
        let large = FlowFilter {
            http_path: vec!["(a{1000}){1000}".into()],
            ..FlowFilter::default()
        };
        assert!(FilterSet::new(&[large], &[]).is_err());
    }

    #[test]
    fn requirements_and_the_values_they_ask_for_are_counted_over_all_selectors() {
        let refused = |allow: &[FlowFilter], deny: &[FlowFilter]| FilterSet::new(allow, deny).unwrap_err().to_string();
        let labels = |number: usize| vec![vec!["a=1"; number].join(",")];
        let source = FlowFilter {
            source_label: labels(200),
            ..FlowFilter::default()
        };
        let node = FlowFilter {
            node_labels: labels(200),
            ..FlowFilter::default()
        };
        let (two, three) = (vec![source.clone(); 2], vec![source; 3]);
        assert!(FilterSet::new(&two, &[]).is_ok());
        assert!(refused(&three, &[]).contains("invalid source_label filter: more than 512 requirements"));
        assert!(refused(&two, &[node]).contains("invalid node_labels filter"));
        let values = FlowFilter {
            destination_label: vec![format!("a in ({})", vec!["b"; 600].join(","))],
            ..FlowFilter::default()
        };
        assert!(refused(&[values], &[]).contains("invalid destination_label filter"));
    }

    #[test]
    fn patterns_that_are_small_each_may_be_too_large_together() {
        let path = |number: usize| FlowFilter {
            http_path: vec!["a{1000}".into(); number],
            ..FlowFilter::default()
        };
        assert!(FilterSet::new(&[path(1)], &[]).is_ok());
        let refused = FilterSet::new(&[path(250)], &[]).unwrap_err().to_string();
        assert!(refused.contains("invalid http_path filter: the patterns of all filters together"));
        let plain = FlowFilter {
            http_path: (0..250).map(|n| format!("/shop/{n}/.*")).collect(),
            ..FlowFilter::default()
        };
        assert!(FilterSet::new(&[plain], &[]).is_ok());
    }

    proptest! {
        /// Whatever a client sends is a filter or an error, and a filter answers for any record.
        #[test]
        fn no_filter_is_a_panic(text in ".{0,40}", number: u32, flow_text in ".{0,40}") {
            use crate::pb::flow::*;
            let list = vec![text.clone()];
            let filter = FlowFilter {
                source_ip: list.clone(), ..FlowFilter::default()
            };
            let others = [
                FlowFilter { source_pod: list.clone(), ..FlowFilter::default() },
                FlowFilter { source_fqdn: list.clone(), ..FlowFilter::default() },
                FlowFilter { source_label: list.clone(), ..FlowFilter::default() },
                FlowFilter { node_name: list.clone(), ..FlowFilter::default() },
                FlowFilter { http_path: list.clone(), ..FlowFilter::default() },
                FlowFilter { http_status_code: list.clone(), ..FlowFilter::default() },
                FlowFilter { protocol: list.clone(), ..FlowFilter::default() },
                FlowFilter { source_port: list, verdict: vec![number.cast_signed()], ..FlowFilter::default() },
            ];
            let end = Endpoint { labels: vec![flow_text.clone()], pod_name: flow_text.clone(), ..Endpoint::default() };
            let http = Http { url: flow_text.clone(), code: number, ..Http::default() };
            let flow = Flow {
                ip: Some(Ip { source: flow_text.clone(), ..Ip::default() }),
                source: Some(end),
                source_names: vec![flow_text.clone()],
                node_name: flow_text,
                l7: Some(Layer7 { record: Some(layer7::Record::Http(http)), ..Layer7::default() }),
                ..Flow::default()
            };
            for filter in std::iter::once(&filter).chain(&others) {
                if let Ok(set) = FilterSet::new(std::slice::from_ref(filter), &[]) {
                    let _ = set.matches(&flow);
                }
            }
        }
    }
}
