//! Hubble's metrics: plugins that count flow records, configured once or by a file that is reloaded live.

mod context;
mod plugins;
mod spec;

use std::sync::Arc;

use prometheus_client::registry::Registry;
use seventh_flows::pb::flow::Flow;

use super::series::{Maker, Overflow};
use plugins::Count;
pub(crate) use spec::{PluginSpec, filters};

/// A plugin that counts.
struct Running {
    spec: PluginSpec,
    registry: Arc<Registry>,
    count: Count,
}

/// All plugins that count.
pub(super) struct Plugins {
    running: Vec<Running>,
    series_max: usize,
    overflow: Overflow,
}

impl Plugins {
    pub(super) fn new(series_max: usize, overflow: Overflow) -> Self {
        Self {
            running: Vec::new(),
            series_max,
            overflow,
        }
    }

    /// None is in force.
    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// From now on these count. One that stays as it was goes on with its numbers. Returns what a scrape shows.
    pub(super) fn set(&mut self, specs: &[PluginSpec]) -> Vec<Arc<Registry>> {
        let mut before = std::mem::take(&mut self.running);
        self.running = specs
            .iter()
            .map(|spec| match before.iter().position(|running| running.spec == *spec) {
                Some(index) => before.swap_remove(index),
                None => self.start(spec),
            })
            .collect();
        self.running.iter().map(|plugin| Arc::clone(&plugin.registry)).collect()
    }

    fn start(&self, spec: &PluginSpec) -> Running {
        let mut registry = Registry::default();
        let mut maker = Maker {
            registry: &mut registry,
            max: self.series_max,
            overflow: &self.overflow,
        };
        let count = plugins::start(spec, &mut maker);
        Running {
            spec: spec.clone(),
            registry: Arc::new(registry),
            count,
        }
    }

    /// Counts one record.
    pub(super) fn count(&self, flow: &Flow) {
        for plugin in &self.running {
            if plugin.spec.filters.matches(flow) {
                (plugin.count)(flow, &plugin.spec.contexts);
            }
        }
    }
}

#[cfg(test)]
mod tests;
