//! Records as text: the forms of `hubble observe`.

mod agent_event;
mod debug_event;
mod status;
mod table;
mod words;

use std::fmt::Write as _;

use crate::json::to_json;
use crate::pb::flow::LostEvent;
use crate::pb::observer::{
    GetAgentEventsResponse, GetDebugEventsResponse, GetFlowsResponse, ServerStatusResponse,
    get_flows_response::ResponseTypes,
};
use crate::pb::relay::{NodeState, NodeStatusEvent};
use crate::safe_text::printable;
use crate::timestamp::{self, TimeFormat};

pub use agent_event::details as agent_event_details;
pub use words::{end_names, flow_type, policy_names};

use table::Table;
use words::Words;

/// Between two records of [`Output::Dict`].
const SEPARATOR: &str = "------------";

/// The forms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// A line each.
    #[default]
    Compact,
    /// `KEY: value` lines each.
    Dict,
    /// Columns.
    Tab,
    /// A JSON object each.
    Json,
}

/// How to print.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The form.
    pub output: Output,
    /// With colours; never in columns and JSON.
    pub color: bool,
    /// With the node's name.
    pub node_name: bool,
    /// With the policies that decided.
    pub policy_names: bool,
    /// Pods, services and DNS names in the place of addresses.
    pub ip_translation: bool,
    /// Numbers in the place of the names of identities.
    pub numeric: bool,
    /// The form of times; JSON has its own.
    pub time_format: TimeFormat,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            output: Output::default(),
            color: false,
            node_name: false,
            policy_names: false,
            ip_translation: true,
            numeric: false,
            time_format: TimeFormat::default(),
        }
    }
}

/// Makes text of records, one after the other. Whatever stands in a record, the text holds no control character but line
/// ends and the printer's own colours.
#[derive(Debug)]
pub struct Printer {
    options: Options,
    records: u64,
    table: Table,
}

impl Printer {
    /// A printer that has printed nothing.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let color = options.color && matches!(options.output, Output::Compact | Output::Dict);
        Self {
            options: Options { color, ..options },
            records: 0,
            table: Table::default(),
        }
    }

    /// The text of one record; columns may come later.
    pub fn record(&mut self, response: &GetFlowsResponse) -> String {
        if self.options.output == Output::Json {
            return line(to_json(response));
        }
        match &response.response_types {
            Some(ResponseTypes::Flow(_)) => self.flow(response),
            Some(ResponseTypes::LostEvents(lost)) => self.lost(response, lost),
            Some(ResponseTypes::NodeStatus(status)) => self.node_status(response, status),
            None => String::new(),
        }
    }

    /// What the agent tells of itself.
    pub fn agent_event(&mut self, response: &GetAgentEventsResponse) -> String {
        if self.options.output == Output::Json {
            return line(to_json(response));
        }
        let time = self.time(response.time.as_ref());
        let event = response.agent_event.clone().unwrap_or_default();
        let kind = event.r#type().as_str_name().to_owned();
        let details = printable(&agent_event_details(&event, self.options.time_format)).into_owned();
        let node = printable(&response.node_name).into_owned();
        match self.options.output {
            Output::Compact => {
                let node = self.in_line(&node);
                line(format!("{time}{node}: {kind} ({details})"))
            }
            _ => self.keyed(vec![
                ("TIMESTAMP", time),
                ("NODE", node),
                ("TYPE", kind),
                ("DETAILS", details),
            ]),
        }
    }

    /// The node as a line names it, if it is to.
    fn in_line(&self, node: &str) -> String {
        if self.options.node_name {
            format!(" [{node}]")
        } else {
            String::new()
        }
    }

    /// What Hubble's debugging programs tell.
    pub fn debug_event(&mut self, response: &GetDebugEventsResponse) -> String {
        if self.options.output == Output::Json {
            return line(to_json(response));
        }
        let time = self.time(response.time.as_ref());
        let event = response.debug_event.clone().unwrap_or_default();
        let text = debug_event::Text::of(&event);
        let node = printable(&response.node_name).into_owned();
        match self.options.output {
            Output::Compact => {
                let node = self.in_line(&node);
                line(format!(
                    "{time}{node}: {} {} MARK: {} CPU: {} ({})",
                    text.from, text.kind, text.mark, text.cpu, text.message
                ))
            }
            Output::Dict => self.keyed(vec![
                ("TIMESTAMP", time),
                ("NODE", node),
                ("TYPE", text.kind),
                ("FROM", text.from),
                ("MARK", text.mark),
                ("CPU", text.cpu),
                ("MESSAGE", text.message),
            ]),
            _ => self.keyed(vec![
                ("TIMESTAMP", time),
                ("NODE", node),
                ("FROM", text.from),
                // Hubble's table has an empty column here.
                ("", String::new()),
                ("TYPE", text.kind),
                ("CPU/MARK", format!("{} {}", text.cpu, text.mark)),
                ("MESSAGE", text.message),
            ]),
        }
    }

    /// How the server is.
    #[must_use]
    pub fn server_status(&self, status: &ServerStatusResponse) -> String {
        status::text(status, self.options.output)
    }

    /// What is still held back for columns.
    pub fn finish(&mut self) -> String {
        self.table.take()
    }

    fn flow(&mut self, response: &GetFlowsResponse) -> String {
        let Some(ResponseTypes::Flow(flow)) = &response.response_types else {
            return String::new();
        };
        let words = Words {
            options: &self.options,
            flow,
        };
        let time = self.time(flow.time.as_ref());
        let node = printable(&flow.node_name);
        let ((source, destination), (source_is, destination_is)) = (words.hosts(), words.identities());
        let (kind, verdict, summary) = (
            printable(&flow_type(flow)).into_owned(),
            words.verdict(),
            words.summary(),
        );
        if self.options.output == Output::Compact {
            self.records += 1;
            let node = self.in_line(&node);
            let (left, right) = (
                format!("{source} {source_is}"),
                format!("{destination} {destination_is}"),
            );
            let (left, arrow, right) = match flow.is_reply {
                None => (left, "<>", right),
                Some(false) => (left, "->", right),
                Some(true) => (right, "<-", left),
            };
            return line(format!(
                "{time}{node}: {left} {arrow} {right} {kind} {verdict} ({summary})"
            ));
        }
        let node = node.into_owned();
        self.keyed(vec![
            ("TIMESTAMP", time),
            ("NODE", node),
            ("SOURCE", source),
            ("DESTINATION", destination),
            ("TYPE", kind),
            ("VERDICT", verdict),
            ("SUMMARY", summary),
        ])
    }

    fn lost(&mut self, response: &GetFlowsResponse, lost: &LostEvent) -> String {
        let time = self.time(response.time.as_ref());
        let (source, cpu, number) = (lost.source().as_str_name(), lost.cpu.unwrap_or(0), lost.num_events_lost);
        let mut span = String::new();
        if let (Some(first), Some(last)) = (&lost.first, &lost.last) {
            // Writing to a string does not fail.
            let _ = write!(
                span,
                " (first: {}, last: {})",
                self.time(Some(first)),
                self.time(Some(last))
            );
        }
        if self.options.output == Output::Compact {
            return line(format!("{time} EVENTS LOST: {source} CPU({cpu}) {number}{span}"));
        }
        let mut fields = vec![
            ("TIMESTAMP", time),
            ("NODE", printable(&response.node_name).into_owned()),
            ("SOURCE", source.to_owned()),
        ];
        if self.options.output == Output::Tab {
            fields.push(("DESTINATION", "-".to_owned()));
        }
        fields.extend([
            ("TYPE", "EVENTS LOST".to_owned()),
            ("VERDICT", "-".to_owned()),
            ("SUMMARY", format!("CPU({cpu}) - {number}{span}")),
        ]);
        self.keyed(fields)
    }

    /// Only what is wrong with nodes is worth a line.
    fn node_status(&mut self, response: &GetFlowsResponse, status: &NodeStatusEvent) -> String {
        let names = printable(&status.node_names.join(", ")).into_owned();
        let head = format!(
            "{} [{}]",
            self.time(response.time.as_ref()),
            printable(&response.node_name)
        );
        let count = status.node_names.len();
        match status.state_change() {
            NodeState::NodeUnavailable => line(format!("{head}: {count} nodes are unavailable: {names}")),
            NodeState::NodeError => line(format!(
                "{head}: Error \"{}\" on {count} nodes: {names}",
                printable(&status.message)
            )),
            NodeState::UnknownNodeState | NodeState::NodeConnected | NodeState::NodeGone => String::new(),
        }
    }

    /// A record of [`Output::Dict`] or [`Output::Tab`].
    fn keyed(&mut self, mut fields: Vec<(&'static str, String)>) -> String {
        if !self.options.node_name {
            fields.retain(|(key, _)| *key != "NODE");
        }
        self.records += 1;
        if self.options.output == Output::Tab {
            let header = self.records == 1;
            return self.table.row(header, fields);
        }
        let mut out = String::new();
        if self.records > 1 {
            out.push_str(SEPARATOR);
            out.push('\n');
        }
        for (key, value) in fields {
            // Writing to a string does not fail.
            let _ = writeln!(out, "{key:>11}: {value}");
        }
        out
    }

    fn time(&self, time: Option<&prost_types::Timestamp>) -> String {
        timestamp::format(time, self.options.time_format)
    }
}

fn line(mut text: String) -> String {
    text.push('\n');
    text
}
