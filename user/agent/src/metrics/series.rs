//! Families with a bound on how many series a stranger can make of them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use prometheus_client::{
    encoding::EncodeMetric,
    metrics::{TypedMetric, counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};
use seventh_metrics::Metric;

/// Names and values.
pub(super) type Labels = Vec<(&'static str, String)>;

/// Bytes of a label's value at most; what is longer is cut.
const VALUE_BYTES_MAX: usize = 256;
/// Upper bounds in seconds, from a request that is answered from memory to one that is waited for.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Samples that were not counted, by metric.
pub(super) type Overflow = Family<Labels, Counter>;

/// A family that refuses new series when it has so many.
pub(super) struct Bounded<M> {
    family: Family<Labels, M, fn() -> M>,
    /// Relaxed throughout: one task makes series.
    series: Arc<AtomicUsize>,
    max: usize,
    name: &'static str,
    overflow: Overflow,
}

impl<M: Clone> Bounded<M> {
    /// Does it to the series of these labels, if it is there or there is room for it.
    pub(super) fn with(&self, mut labels: Labels, act: impl FnOnce(&M)) {
        for (_, value) in &mut labels {
            if value.len() > VALUE_BYTES_MAX {
                value.truncate(value.floor_char_boundary(VALUE_BYTES_MAX));
            }
        }
        if let Some(known) = self.family.get(&labels) {
            return act(&known);
        }
        if self.series.load(Ordering::Relaxed) >= self.max {
            self.overflow
                .get_or_create(&vec![("metric", self.name.to_owned())])
                .inc();
            return;
        }
        self.series.fetch_add(1, Ordering::Relaxed);
        act(&self.family.get_or_create(&labels));
    }
}

/// Makes families by the table of metrics.
pub(super) struct Maker<'a> {
    pub(super) registry: &'a mut Registry,
    pub(super) max: usize,
    pub(super) overflow: &'a Overflow,
}

impl Maker<'_> {
    pub(super) fn counter(&mut self, metric: &'static Metric) -> Bounded<Counter> {
        self.family(metric, Counter::default)
    }

    pub(super) fn seconds(&mut self, metric: &'static Metric) -> Bounded<Histogram> {
        self.family(metric, || Histogram::new(SECONDS))
    }

    fn family<M>(&mut self, metric: &'static Metric, new: fn() -> M) -> Bounded<M>
    where
        M: std::fmt::Debug + EncodeMetric + TypedMetric + Send + Sync + 'static,
    {
        let family = Family::new_with_constructor(new);
        self.registry.register(metric.family(), metric.help, family.clone());
        Bounded {
            family,
            series: Arc::default(),
            max: self.max,
            name: metric.name,
            overflow: self.overflow.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Maker, Overflow};
    use prometheus_client::{encoding::text::encode, registry::Registry};
    use seventh_metrics::DROP;

    #[test]
    fn a_family_takes_so_many_series_and_counts_what_finds_no_room() {
        let (mut registry, overflow) = (Registry::default(), Overflow::default());
        let mut maker = Maker {
            registry: &mut registry,
            max: 2,
            overflow: &overflow,
        };
        let family = maker.counter(&DROP);
        for value in ["a", "b", "c", "a", "d"] {
            let labels = vec![("reason", value.to_owned()), ("protocol", "x".repeat(1000))];
            family.with(labels, |counter| {
                counter.inc();
            });
        }
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert!(text.contains("hubble_drop_total{reason=\"a\""), "{text}");
        assert!(
            text.contains(" 2\n") && !text.contains("\"c\"") && text.len() < 1200,
            "{text}"
        );
        let lost = overflow.get_or_create(&vec![("metric", "hubble_drop_total".to_owned())]);
        assert_eq!(lost.get(), 2);
    }
}
