//! Flows that are equal in some fields, told once with their number.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use seventh_flows::{
    json::to_json,
    mask::FieldMask,
    pb::{
        flow::{Aggregate, Flow, TrafficDirection},
        observer::{GetFlowsResponse, get_flows_response::ResponseTypes},
    },
};

use super::spec::Grouping;

/// Groups at a time; when there are so many, they are told before their interval is over.
const GROUPS_MAX: usize = 4096;

/// The groups of the present interval.
#[derive(Debug)]
pub(super) struct Groups {
    fields: FieldMask,
    interval: Duration,
    began: Option<Instant>,
    groups: HashMap<String, GetFlowsResponse>,
}

impl Groups {
    pub(super) fn new(grouping: &Grouping) -> Self {
        Self {
            fields: grouping.fields.clone(),
            interval: grouping.interval,
            began: None,
            groups: HashMap::new(),
        }
    }

    /// Adds a flow, `shown` of which is told; its group has the time of the last one.
    pub(super) fn add(&mut self, record: &GetFlowsResponse, shown: &Flow, now: Instant) {
        self.began.get_or_insert(now);
        let key_fields = self.fields.apply(shown);
        let key = to_json(&key_fields);
        let direction = match &record.response_types {
            Some(ResponseTypes::Flow(flow)) => flow.traffic_direction(),
            _ => TrafficDirection::Unknown,
        };
        let group = self.groups.entry(key).or_insert_with(|| GetFlowsResponse {
            node_name: record.node_name.clone(),
            time: None,
            response_types: Some(ResponseTypes::Flow(key_fields)),
        });
        group.time = record.time;
        if let Some(ResponseTypes::Flow(flow)) = &mut group.response_types {
            let aggregate = flow.aggregate.get_or_insert_with(Aggregate::default);
            let count = match direction {
                TrafficDirection::Ingress => &mut aggregate.ingress_flow_count,
                TrafficDirection::Egress => &mut aggregate.egress_flow_count,
                TrafficDirection::Unknown => &mut aggregate.unknown_direction_flow_count,
            };
            *count = count.saturating_add(1);
        }
    }

    /// The groups, if their interval is over or there are too many of them.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<GetFlowsResponse> {
        let over = self
            .began
            .is_some_and(|began| now.saturating_duration_since(began) >= self.interval);
        if over || self.groups.len() >= GROUPS_MAX {
            self.take_all()
        } else {
            Vec::new()
        }
    }

    /// The groups, in the order of their times.
    pub(super) fn take_all(&mut self) -> Vec<GetFlowsResponse> {
        self.began = None;
        let mut groups: Vec<GetFlowsResponse> = self.groups.drain().map(|(_, group)| group).collect();
        groups.sort_by_key(|group| group.time.map(|time| (time.seconds, time.nanos)));
        groups
    }
}
