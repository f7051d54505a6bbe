//! From a record to a line.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use seventh_flows::{
    filter::FilterSet,
    json::to_json,
    mask::FieldMask,
    pb::{
        flow::Flow,
        observer::{GetFlowsResponse, get_flows_response::ResponseTypes},
    },
};
use tracing::error;

use super::{ExportStats, groups::Groups, spec::ExportSpec, target::Output};

/// Blocks: call it where nothing else waits.
pub(super) struct Sink {
    name: String,
    filters: Arc<FilterSet>,
    mask: FieldMask,
    groups: Option<Groups>,
    output: Output,
    stats: Arc<ExportStats>,
    /// The last line could not be written; it is told once.
    failing: bool,
}

impl Sink {
    pub(super) fn new(spec: &ExportSpec, stats: Arc<ExportStats>) -> Self {
        Self {
            name: spec.name.clone(),
            filters: Arc::clone(&spec.filters),
            mask: spec.mask.clone(),
            groups: spec.groups.as_ref().map(Groups::new),
            output: Output::new(&spec.target),
            stats,
            failing: false,
        }
    }

    /// Writes what is wanted of the records; told losses are always wanted.
    pub(super) fn write(&mut self, records: &[Arc<GetFlowsResponse>], now: Instant) {
        let mut lines = Vec::new();
        for record in records {
            match &record.response_types {
                Some(ResponseTypes::Flow(flow)) if self.filters.matches(flow) => {
                    self.take(record, flow, now, &mut lines);
                }
                Some(ResponseTypes::LostEvents(_)) => lines.push(to_json(&**record)),
                _ => {}
            }
        }
        if let Some(groups) = &mut self.groups {
            lines.extend(groups.take_due(now).iter().map(to_json));
        }
        self.put(&lines);
    }

    /// Nothing more will come.
    pub(super) fn finish(&mut self) {
        if let Some(groups) = &mut self.groups {
            let lines: Vec<String> = groups.take_all().iter().map(to_json).collect();
            self.put(&lines);
        }
    }

    fn take(&mut self, record: &GetFlowsResponse, flow: &Flow, now: Instant, lines: &mut Vec<String>) {
        let shown = self.mask.apply(flow);
        match &mut self.groups {
            Some(groups) => {
                groups.add(record, &shown, now);
                lines.extend(groups.take_due(now).iter().map(to_json));
            }
            None => lines.push(to_json(&GetFlowsResponse {
                node_name: record.node_name.clone(),
                time: record.time,
                response_types: Some(ResponseTypes::Flow(shown)),
            })),
        }
    }

    fn put(&mut self, lines: &[String]) {
        // Relaxed: plain counts.
        for line in lines {
            match self.output.write_line(line) {
                Ok(()) => {
                    self.stats.written.fetch_add(1, Ordering::Relaxed);
                    self.failing = false;
                }
                Err(e) => {
                    self.stats.errors.fetch_add(1, Ordering::Relaxed);
                    if !std::mem::replace(&mut self.failing, true) {
                        error!(exporter = self.name, error = %e, "a record cannot be written");
                    }
                }
            }
        }
    }
}
