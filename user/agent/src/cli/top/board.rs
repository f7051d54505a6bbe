//! What has been seen: counts of the present span of time, and what is told of the last one.

use std::time::Duration;

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use prost_types::Timestamp;
use seventh_flows::{
    event_type,
    pb::{
        flow::{Flow, L7FlowType, Layer7, Policy, TrafficDirection, Verdict, layer7::Record},
        observer::{GetFlowsResponse, get_flows_response::ResponseTypes},
    },
    print::end_names,
    safe_text::printable,
};

use super::tally::Tally;
use crate::api::v1::LatencyBucket;

/// Pairs of endpoints that are told apart in one span of time.
const TALKERS_MAX: usize = 2048;
/// Pairs of policy and reason that are told apart.
const DENIALS_MAX: usize = 512;
/// Letters of a name that are kept.
const NAME_LEN_MAX: usize = 120;
/// Times between these are told apart, in nanoseconds; shorter and longer ones count as these.
const LATENCY_MIN_NS: u64 = 1_000;
const LATENCY_MAX_NS: u64 = 600_000_000_000;

/// All that was seen.
#[derive(Debug)]
pub(super) struct Board {
    now: Counts,
    talkers: Tally<(String, String), Talk>,
    http: Histogram<u64>,
    dns: Histogram<u64>,
    /// Since the beginning.
    denials: Tally<(String, String), Denied>,
    lost: u64,
    /// What the agent last said of its verdicts.
    verdicts: Vec<LatencyBucket>,
    /// The same at the beginning of the span.
    verdicts_before: Vec<LatencyBucket>,
    /// Times of the first and the last record.
    times: Option<(Timestamp, Timestamp)>,
}

/// Counts of one span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) flows: u64,
    pub(super) http: u64,
    pub(super) dns: u64,
    pub(super) tls: u64,
    pub(super) denied: u64,
    pub(super) audited: u64,
    pub(super) lost: u64,
}

/// Counts of two endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Talk {
    pub(super) flows: u64,
    pub(super) requests: u64,
    pub(super) denied: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Denied {
    now: u64,
    total: u64,
}

/// One span of time, to be shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Picture {
    pub(super) span: Duration,
    pub(super) counts: Counts,
    pub(super) talkers: Vec<Talker>,
    /// Records of pairs that found no room.
    pub(super) other_talkers: u64,
    pub(super) latencies: Vec<Latency>,
    pub(super) denials: Vec<Denial>,
    /// Denials for which there was no room, since the beginning.
    pub(super) other_denials: u64,
    /// Events lost since the beginning.
    pub(super) lost: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Talker {
    pub(super) source: String,
    pub(super) destination: String,
    pub(super) talk: Talk,
}

/// How long something took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Latency {
    pub(super) what: &'static str,
    pub(super) count: u64,
    /// In nanoseconds; `None`: longer than anything that is told apart.
    pub(super) p50: Option<u64>,
    pub(super) p99: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Denial {
    pub(super) policy: String,
    pub(super) reason: String,
    pub(super) now: u64,
    pub(super) total: u64,
}

impl Board {
    /// # Errors
    /// Bounds of our own do not make a histogram.
    pub(super) fn new() -> Result<Self> {
        let histogram = || Histogram::new_with_bounds(LATENCY_MIN_NS, LATENCY_MAX_NS, 2).context("histogram");
        Ok(Self {
            now: Counts::default(),
            talkers: Tally::new(TALKERS_MAX),
            http: histogram()?,
            dns: histogram()?,
            denials: Tally::new(DENIALS_MAX),
            lost: 0,
            verdicts: Vec::new(),
            verdicts_before: Vec::new(),
            times: None,
        })
    }

    /// Takes a record.
    pub(super) fn take(&mut self, record: &GetFlowsResponse) {
        match &record.response_types {
            Some(ResponseTypes::Flow(flow)) => self.take_flow(flow),
            Some(ResponseTypes::LostEvents(lost)) => {
                self.now.lost = self.now.lost.saturating_add(lost.num_events_lost);
                self.lost = self.lost.saturating_add(lost.num_events_lost);
            }
            Some(ResponseTypes::NodeStatus(_)) | None => {}
        }
        if let Some(time) = record.time {
            let (first, _) = *self.times.get_or_insert((time, time));
            self.times = Some((first, time));
        }
    }

    /// From the first record to the last, at least a second.
    pub(super) fn span_of_records(&self) -> Duration {
        let nanoseconds = |time: &Timestamp| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
        let span = self
            .times
            .map_or(0, |(first, last)| nanoseconds(&last) - nanoseconds(&first));
        Duration::from_nanos(u64::try_from(span).unwrap_or(0)).max(Duration::from_secs(1))
    }

    /// What the agent says of all its verdicts so far.
    pub(super) fn take_verdicts(&mut self, buckets: Vec<LatencyBucket>) {
        if self.verdicts_before.is_empty() {
            self.verdicts_before.clone_from(&buckets);
        }
        self.verdicts = buckets;
    }

    /// The span of time is over: what was in it. Another one begins.
    pub(super) fn turn(&mut self, span: Duration) -> Picture {
        let latencies = [
            quantiles("http answers", &self.http),
            quantiles("dns answers", &self.dns),
            between("verdicts", &self.verdicts_before, &self.verdicts),
        ];
        let talkers = self.talkers.iter().map(|((source, destination), talk)| Talker {
            source: source.clone(),
            destination: destination.clone(),
            talk: *talk,
        });
        let denials = self.denials.iter().map(|((policy, reason), denied)| Denial {
            policy: policy.clone(),
            reason: reason.clone(),
            now: denied.now,
            total: denied.total,
        });
        let picture = Picture {
            span,
            counts: self.now,
            talkers: talkers.collect(),
            other_talkers: self.talkers.others(),
            latencies: latencies.into_iter().flatten().collect(),
            denials: denials.collect(),
            other_denials: self.denials.others(),
            lost: self.lost,
        };
        self.now = Counts::default();
        self.talkers.clear();
        self.http.reset();
        self.dns.reset();
        self.denials.values_mut().for_each(|denied| denied.now = 0);
        self.verdicts_before.clone_from(&self.verdicts);
        picture
    }

    fn take_flow(&mut self, flow: &Flow) {
        self.now.flows += 1;
        let is_request = flow.l7.as_ref().is_some_and(|l7| self.take_l7(l7));
        let is_denied = self.take_denial(flow);
        let (source, destination) = end_names(flow);
        let pair = (cut(source), cut(destination));
        // By who opened the conversation.
        let pair = if flow.is_reply == Some(true) {
            (pair.1, pair.0)
        } else {
            pair
        };
        self.talkers.count(pair, |talk| {
            talk.flows += 1;
            talk.requests += u64::from(is_request);
            talk.denied += u64::from(is_denied);
        });
    }

    /// Whether it is a request.
    fn take_l7(&mut self, l7: &Layer7) -> bool {
        let (count, histogram) = match &l7.record {
            Some(Record::Http(_)) => (&mut self.now.http, Some(&mut self.http)),
            Some(Record::Dns(_)) => (&mut self.now.dns, Some(&mut self.dns)),
            Some(Record::Tls(_)) => (&mut self.now.tls, None),
            Some(Record::Kafka(_)) | None => return false,
        };
        if l7.r#type() == L7FlowType::Request {
            *count += 1;
            return true;
        }
        if let Some(histogram) = histogram.filter(|_| l7.latency_ns > 0) {
            histogram.saturating_record(l7.latency_ns);
        }
        false
    }

    /// Whether it was refused. What a policy drops is told twice, as verdict and as drop, and counts once.
    fn take_denial(&mut self, flow: &Flow) -> bool {
        let event = flow.event_type.map_or(0, |event| event.r#type);
        match flow.verdict() {
            Verdict::Dropped if event != event_type::POLICY_VERDICT => self.now.denied += 1,
            Verdict::Audit => self.now.audited += 1,
            _ => return false,
        }
        self.denials.count((policies(flow), reason(flow)), |denied| {
            denied.now += 1;
            denied.total += 1;
        });
        true
    }
}

/// At most so many letters, none of which a terminal takes for a command.
fn cut(name: String) -> String {
    let name = match printable(&name) {
        std::borrow::Cow::Owned(safe) => safe,
        std::borrow::Cow::Borrowed(_) => name,
    };
    match name.char_indices().nth(NAME_LEN_MAX) {
        Some((end, _)) => format!("{}…", name.get(..end).unwrap_or_default()),
        None => name,
    }
}

/// The policies that refused it, or `-` where nothing allows it.
fn policies(flow: &Flow) -> String {
    let policies = match flow.traffic_direction() {
        TrafficDirection::Egress => &flow.egress_denied_by,
        TrafficDirection::Ingress | TrafficDirection::Unknown => &flow.ingress_denied_by,
    };
    let name = |policy: &Policy| match policy.namespace.as_str() {
        "" => policy.name.clone(),
        namespace => format!("{namespace}/{}", policy.name),
    };
    if policies.is_empty() {
        return "-".to_owned();
    }
    cut(policies.iter().map(name).collect::<Vec<_>>().join(","))
}

/// Our reason, or Hubble's.
fn reason(flow: &Flow) -> String {
    match &flow.decision {
        Some(decision) if !decision.reason.is_empty() => cut(decision.reason.clone()),
        _ => flow.drop_reason_desc().as_str_name().to_lowercase(),
    }
}

fn quantiles(what: &'static str, histogram: &Histogram<u64>) -> Option<Latency> {
    (!histogram.is_empty()).then(|| Latency {
        what,
        count: histogram.len(),
        p50: Some(histogram.value_at_quantile(0.5)),
        p99: Some(histogram.value_at_quantile(0.99)),
    })
}

/// The verdicts of one span of time; times are the upper bounds of their buckets. Counts that have become smaller are those of
/// another agent.
fn between(what: &'static str, before: &[LatencyBucket], now: &[LatencyBucket]) -> Option<Latency> {
    let counts: Vec<(u64, u64)> = now
        .iter()
        .enumerate()
        .map(|(i, bucket)| {
            let earlier = before.get(i).map_or(0, |bucket| bucket.count);
            (
                bucket.up_to_ns,
                bucket.count.checked_sub(earlier).unwrap_or(bucket.count),
            )
        })
        .collect();
    let count: u64 = counts.iter().map(|(_, count)| count).sum();
    let quantile = |percent: u64| {
        let mut seen = 0;
        let reached = counts.iter().find(|(_, in_bucket)| {
            seen += in_bucket;
            seen.saturating_mul(100) >= count.saturating_mul(percent)
        });
        reached.map(|(bound, _)| *bound).filter(|bound| *bound > 0)
    };
    (count > 0).then(|| Latency {
        what,
        count,
        p50: quantile(50),
        p99: quantile(99),
    })
}
