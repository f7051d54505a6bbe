//! `seventh observe`: flow records from a server or a file, as text.

mod filters;
#[cfg(test)]
mod help;
#[cfg(test)]
mod hostile;
mod input;
mod server;

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::ValueEnum;
use prost_types::FieldMask;
use seventh_flows::{
    filter::FilterSet,
    json::{UnknownFields, from_json, to_json},
    mask,
    pb::{
        flow::FlowFilter,
        observer::{GetAgentEventsRequest, GetDebugEventsRequest, GetFlowsRequest},
    },
    print::{Options, Output, Printer},
    timestamp::{self, TimeFormat},
};
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tonic::Streaming;

use super::Answer;
use crate::hubble_api::observer::observer_client::ObserverClient;
use filters::Filters;
pub(super) use server::{ServerFlags, duration};

/// Rows that are held back for the widths of columns are shown when nothing has come for this long.
const IDLE: Duration = Duration::from_millis(300);
/// Records that are shown if nobody says how many.
const LAST_DEFAULT: u64 = 20;

/// Flags of `seventh observe`, with Hubble's names.
#[derive(Debug, clap::Args)]
pub(super) struct Observe {
    /// What to observe
    #[arg(value_enum, default_value_t)]
    what: What,
    #[command(flatten)]
    selector: Selector,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    raw: RawFilters,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    server: ServerFlags,
    /// Read records from this file in the place of a server; `-` is the standard input
    #[arg(long, value_name = "FILE")]
    input_file: Option<PathBuf>,
    /// Fields of flows that are wanted, by commas
    #[arg(long, value_name = "PATHS", value_delimiter = ',')]
    field_mask: Vec<String>,
    /// Print the filters and do nothing else
    #[arg(long)]
    print_raw_filters: bool,
    /// Say nothing of errors and losses
    #[arg(short, long)]
    silent_errors: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum What {
    /// Flows
    #[default]
    Flows,
    /// What agents tell of themselves
    AgentEvents,
    /// What Hubble's debugging programs tell
    DebugEvents,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Selectors")]
struct Selector {
    /// All records that there are
    #[arg(long, conflicts_with_all = ["first", "last"])]
    all: bool,
    /// The first N records
    #[arg(long, value_name = "N", conflicts_with = "last")]
    first: Option<u64>,
    /// The last N records (20 if nothing else is said)
    #[arg(long, value_name = "N")]
    last: Option<u64>,
    /// Go on with new records
    #[arg(short, long, conflicts_with = "first")]
    follow: bool,
    /// Records since then: so long ago (3s, 4m, 1h43m), or a date (2006-01-02T15:04:05Z and the other time formats)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Records until then
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Raw filters")]
struct RawFilters {
    /// Filters as JSON of `FlowFilter`; one of them must match
    #[arg(long, value_name = "JSON")]
    allowlist: Vec<String>,
    /// Filters as JSON of `FlowFilter`; none of them may match
    #[arg(long, value_name = "JSON")]
    denylist: Vec<String>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Formatting")]
struct Format {
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
    /// With the node's name
    #[arg(long)]
    print_node_name: bool,
    /// With the names of the policies that decided
    #[arg(long)]
    print_policy_names: bool,
    /// Form of times: `StampMilli`, `YearMonthDay`, `YearMonthDayHour`, `YearMonthDayHourMinute`, `RFC3339`,
    /// `RFC3339Milli`, `RFC3339Micro`, `RFC3339Nano`, `RFC1123Z`
    #[arg(long, value_name = "FORMAT", default_value = "StampMilli", value_parser = time_format)]
    time_format: TimeFormat,
    /// Colours
    #[arg(long, value_enum, default_value_t)]
    color: Color,
    /// Names in the place of addresses
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = clap::ArgAction::Set)]
    ip_translation: bool,
    /// Numbers in the place of all names
    #[arg(long)]
    numeric: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A line each
    #[default]
    Compact,
    /// `KEY: value` lines
    Dict,
    /// A JSON object each
    #[value(alias = "jsonpb")]
    Json,
    /// Columns
    #[value(name = "tab", alias = "table")]
    Tab,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Color {
    /// On a terminal
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

fn time_format(text: &str) -> Result<TimeFormat, String> {
    TimeFormat::by_name(text).ok_or_else(|| {
        let names: Vec<&str> = TimeFormat::ALL.iter().map(|(name, _)| *name).collect();
        format!("time formats are {}", names.join(", "))
    })
}

/// Runs the command. Status 1: some of what was read could not be understood.
pub(super) async fn run(command: Observe) -> Result<Answer> {
    let request = command.request()?;
    if command.print_raw_filters {
        print_filters("allowlist", &request.whitelist);
        print_filters("denylist", &request.blacklist);
        return Ok(Answer::Yes);
    }
    // Checked here, too: the error comes at once, and in our words.
    FilterSet::new(&request.whitelist, &request.blacklist)?;
    mask::FieldMask::new(&command.field_mask).context("--field-mask")?;
    let mut out = Out::new(&command);
    match (&command.input_file, command.what) {
        (Some(file), What::Flows) => input::read(file, &request, &mut out),
        (Some(_), _) => bail!("--input-file holds flows; leave `agent-events` or `debug-events` out"),
        (None, what) => from_server(&command.server, what, request, &mut out).await,
    }
}

async fn from_server(server: &ServerFlags, what: What, request: GetFlowsRequest, out: &mut Out) -> Result<Answer> {
    let mut client = ObserverClient::new(server.connect().await?);
    match what {
        What::Flows => {
            let records = server.answer(client.get_flows(request)).await?;
            let records = records.map_err(refused)?.into_inner();
            show(records, out, Printer::record).await?;
        }
        What::AgentEvents => {
            let request = GetAgentEventsRequest {
                number: request.number,
                first: request.first,
                follow: request.follow,
                since: request.since,
                until: request.until,
            };
            let events = server.answer(client.get_agent_events(request)).await?;
            let events = events.map_err(refused)?.into_inner();
            show(events, out, Printer::agent_event).await?;
        }
        What::DebugEvents => {
            let request = GetDebugEventsRequest {
                number: request.number,
                first: request.first,
                follow: request.follow,
                since: request.since,
                until: request.until,
            };
            let events = server.answer(client.get_debug_events(request)).await?;
            let events = events.map_err(refused)?.into_inner();
            show(events, out, Printer::debug_event).await?;
        }
    }
    Ok(Answer::Yes)
}

/// Writes records as they come, until there are no more or nobody reads.
async fn show<T>(mut records: Streaming<T>, out: &mut Out, text: fn(&mut Printer, &T) -> String) -> Result<()> {
    loop {
        let text = match timeout(IDLE, records.next()).await {
            Ok(Some(record)) => text(&mut out.printer, &record.map_err(refused)?),
            Ok(None) => break,
            Err(_) => out.printer.finish(),
        };
        if out.write(&text)? == Reader::Gone {
            return Ok(());
        }
    }
    out.finish().map(|_| ())
}

#[expect(clippy::needless_pass_by_value, reason = "the form that map_err wants")]
pub(super) fn refused(status: tonic::Status) -> anyhow::Error {
    anyhow!(
        "the server says: {} ({:?})",
        seventh_flows::safe_text::printable(status.message()),
        status.code()
    )
}

impl Observe {
    fn request(&self) -> Result<GetFlowsRequest> {
        let now = SystemTime::now().into();
        let time = |flag: &str, text: &Option<String>| {
            let parsed = text.as_ref().map(|text| timestamp::parse(text, now));
            parsed.transpose().with_context(|| flag.to_owned())
        };
        let (since, until) = (
            time("--since", &self.selector.since)?,
            time("--until", &self.selector.until)?,
        );
        let spans = since.is_some() || until.is_some() || self.selector.follow || self.input_file.is_some();
        let number = match (self.selector.first, self.selector.last) {
            (Some(number), _) | (_, Some(number)) => number,
            _ if self.selector.all || spans => 0,
            _ => LAST_DEFAULT,
        };
        let mut whitelist = self.filters.allow.clone();
        let mut blacklist = self.filters.deny.clone();
        for text in &self.raw.allowlist {
            whitelist.extend(raw_filters("--allowlist", text)?);
        }
        for text in &self.raw.denylist {
            blacklist.extend(raw_filters("--denylist", text)?);
        }
        let field_mask = (!self.field_mask.is_empty()).then(|| FieldMask {
            paths: self.field_mask.clone(),
        });
        Ok(GetFlowsRequest {
            number,
            first: self.selector.first.is_some(),
            follow: self.selector.follow,
            since,
            until,
            whitelist,
            blacklist,
            field_mask,
            ..GetFlowsRequest::default()
        })
    }
}

/// One or more JSON objects after each other.
fn raw_filters(flag: &str, text: &str) -> Result<Vec<FlowFilter>> {
    let objects = serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>();
    objects
        .map(|object| {
            let object = object.with_context(|| format!("{flag}: `{text}` is not JSON"))?;
            from_json(&object.to_string(), UnknownFields::Refuse).with_context(|| flag.to_owned())
        })
        .collect()
}

fn print_filters(name: &str, filters: &[FlowFilter]) {
    if !filters.is_empty() {
        anstream::println!("{name}:");
        filters
            .iter()
            .for_each(|filter| anstream::println!("- '{}'", to_json(filter)));
    }
}

/// Whether anybody still reads what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    There,
    Gone,
}

/// Where text goes.
struct Out {
    printer: Printer,
    silent: bool,
}

impl Out {
    fn new(command: &Observe) -> Self {
        let format = &command.format;
        let color = match format.color {
            Color::Auto => io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            Color::Always => true,
            Color::Never => false,
        };
        let output = match format.output {
            Form::Compact => Output::Compact,
            Form::Dict => Output::Dict,
            Form::Json => Output::Json,
            Form::Tab => Output::Tab,
        };
        Self {
            printer: Printer::new(Options {
                output,
                color,
                node_name: format.print_node_name,
                policy_names: format.print_policy_names,
                ip_translation: format.ip_translation,
                numeric: format.numeric,
                time_format: format.time_format,
            }),
            silent: command.silent_errors,
        }
    }

    /// Who reads only the beginning (`| head`) has what they wanted.
    fn write(&self, text: &str) -> Result<Reader> {
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => Ok(Reader::There),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
            Err(e) => Err(e).context("standard output"),
        }
    }

    fn finish(&mut self) -> Result<Reader> {
        let rest = self.printer.finish();
        self.write(&rest)
    }

    fn complain(&self, message: &str) {
        if !self.silent {
            anstream::eprintln!("seventh: {message}");
        }
    }
}
