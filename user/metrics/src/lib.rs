//! Every metric of the agent, once: name, kind, labels and what it says. The agent registers by this table, `docs/metrics.md`
//! is made from it, and a test scrapes a running agent and compares.
#![no_std]
#![forbid(unsafe_code)]

mod hubble;
mod seventh;

/// A metric as everybody sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// The name in full, with the suffix `_total` if it is a counter.
    pub name: &'static str,
    /// What it does with time.
    pub kind: Kind,
    /// Names of its own labels; `hubble_*` metrics of a plugin have those of the configured contexts besides.
    pub labels: &'static [&'static str],
    /// One sentence without a full stop, which the text form adds.
    pub help: &'static str,
    /// The plugin that must be configured for it; empty: it is always there.
    pub plugin: &'static str,
}

/// What a metric does with time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

impl Kind {
    /// In the words of Prometheus.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

impl Metric {
    /// The name under which encoders want it: they add `_total` themselves.
    #[must_use]
    pub fn family(&self) -> &'static str {
        match self.kind {
            Kind::Counter => self.name.strip_suffix("_total").unwrap_or(self.name),
            Kind::Gauge | Kind::Histogram => self.name,
        }
    }
}

macro_rules! metrics {
    ($($id:ident: $kind:ident $name:literal [$($label:literal),*] $plugin:literal $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $id: crate::Metric = crate::Metric {
                name: $name,
                kind: crate::Kind::$kind,
                labels: &[$($label),*],
                help: $help,
                plugin: $plugin,
            };
        )*
        /// All of this list.
        pub(crate) const LIST: &[crate::Metric] = &[$($id),*];
    };
}
pub(crate) use metrics;

use hubble::LIST as OF_HUBBLE;
pub use hubble::*;
use seventh::LIST as OURS;
pub use seventh::*;

/// Every metric: ours, then those of Hubble's names.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    OURS.iter().chain(OF_HUBBLE)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::{Kind, all};
    use std::collections::HashSet;

    #[test]
    fn names_are_good_and_only_those_of_two_plugins_come_twice() {
        let mut seen = HashSet::new();
        for metric in all() {
            let letters = metric
                .name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            assert!(letters, "{}", metric.name);
            assert!(
                metric.name.starts_with("seventh_") || metric.name.starts_with("hubble_"),
                "{}",
                metric.name
            );
            // Hubble's name for what goes up and down.
            if metric.name != "hubble_dynamic_exporter_exporters_total" {
                let total = metric.name.ends_with("_total");
                assert_eq!(metric.kind == Kind::Counter, total, "{}", metric.name);
            }
            let new = seen.insert((metric.name, metric.plugin));
            assert!(new, "{} stands there twice", metric.name);
            assert!(!metric.help.ends_with('.') && metric.help.len() > 10, "{}", metric.name);
        }
    }
}
