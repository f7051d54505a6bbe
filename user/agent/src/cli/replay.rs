//! `seventh replay`: captures through the engine.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write as _};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use std::time::Instant;

use anstream::eprintln;
use anyhow::{Context as _, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use seventh_flows::{
    pb::{
        flow::Flow,
        observer::{GetFlowsResponse, get_flows_response::ResponseTypes},
    },
    print::{Options, Output, Printer},
};

use super::{Answer, Form};
use crate::replay::{Replay as Replaying, SHARDS, Tunnel, World, page};

/// What to replay, and under what.
#[derive(Debug, clap::Args)]
pub(super) struct Replay {
    /// Captures: pcap or pcapng, also packed with gzip; `-` is standard input
    #[arg(required = true, value_name = "CAPTURE")]
    captures: Vec<PathBuf>,
    /// Files and directories of policies that judge; without them everything is shown and nothing judged
    #[arg(long, num_args = 1.., value_name = "PATH", requires = "endpoints")]
    policy: Vec<PathBuf>,
    /// Configuration file whose `endpoints` the policies govern
    #[arg(long, value_name = "FILE", requires = "policy")]
    endpoints: Option<PathBuf>,
    /// Tell of denials as an agent in audit mode does, and take them for fine
    #[arg(long)]
    audit: bool,
    /// Tunnels to look into; may be given several times
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KIND")]
    tunnel: Vec<Tunnel>,
    /// Only the summary
    #[arg(long)]
    summary: bool,
    /// Threads that read conversations; what is told does not depend on it [default: as many as there are processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Write a page for a browser, too: denials, requests by endpoint, a timeline
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
}

/// Replays. Status 1: something was denied, or a capture is damaged.
pub(super) fn run(command: &Replay) -> Result<Answer> {
    let world = match &command.endpoints {
        Some(endpoints) => World::under_policies(&command.policy, endpoints)?,
        None => World::visibility(),
    };
    let began = Instant::now();
    let mut replaying = Replaying::new(world, command.audit, command.tunnel.clone(), command.threads());
    if command.summary {
        replaying.only_count();
    }
    let mut out = Out::new(command);
    let mut is_sound = true;
    for path in &command.captures {
        let file = Reading::open(path).with_context(|| path.display().to_string())?;
        let read = replaying.read(file, &mut |flow| out.flow(flow));
        if let Err(e) = read {
            is_sound = false;
            eprintln!("seventh: {}: {e}", path.display());
        }
        if let Some(e) = out.failure.take() {
            return gone(e);
        }
    }
    let (tally, world) = replaying.finish(&mut |flow| out.flow(flow));
    match command.output {
        Form::Json => out.text(&format!("{}\n", tally.json(&world.rules))),
        Form::Text => out.text(&tally.report(&world.rules, began.elapsed())),
    }
    if let Some(file) = &command.html {
        let names: Vec<String> = command.captures.iter().map(|path| path.display().to_string()).collect();
        std::fs::write(file, page(&tally, &world.rules, &names)).with_context(|| file.display().to_string())?;
    }
    if let Some(e) = out.failure.take() {
        return gone(e);
    }
    if let Err(e) = out.writer.flush() {
        return gone(e);
    }
    let is_fine = is_sound && (command.audit || !tally.denied());
    Ok(if is_fine { Answer::Yes } else { Answer::No })
}

impl Replay {
    fn threads(&self) -> usize {
        let processors = || available_parallelism().map_or(1, NonZero::get);
        self.threads.map_or_else(processors, usize::from).min(SHARDS)
    }
}

/// Who reads only the beginning (`| head`) has what they wanted.
fn gone(error: io::Error) -> Result<Answer> {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Ok(Answer::Yes);
    }
    Err(error).context("standard output")
}

/// A file that is being read, and how far.
struct Reading {
    inner: Box<dyn Read>,
    bar: ProgressBar,
}

impl Reading {
    fn open(path: &Path) -> Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self {
                inner: Box::new(io::stdin().lock()),
                bar: ProgressBar::hidden(),
            });
        }
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        ensure!(!metadata.is_dir(), "is a directory");
        // Draws on standard error, and only if that is a terminal.
        let bar = ProgressBar::new(metadata.len());
        let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        Ok(Self {
            inner: Box::new(file),
            bar,
        })
    }
}

impl Read for Reading {
    fn read(&mut self, place: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(place)?;
        self.bar.inc(len as u64);
        Ok(len)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Where text goes.
struct Out {
    printer: Printer,
    writer: BufWriter<io::StdoutLock<'static>>,
    failure: Option<io::Error>,
}

impl Out {
    fn new(command: &Replay) -> Self {
        let output = match command.output {
            Form::Text => Output::Compact,
            Form::Json => Output::Json,
        };
        Self {
            printer: Printer::new(Options {
                output,
                ..Options::default()
            }),
            writer: BufWriter::with_capacity(1 << 16, io::stdout().lock()),
            failure: None,
        }
    }

    fn flow(&mut self, flow: Flow) {
        let response = GetFlowsResponse {
            node_name: flow.node_name.clone(),
            time: flow.time,
            response_types: Some(ResponseTypes::Flow(flow)),
        };
        let text = self.printer.record(&response);
        self.text(&text);
    }

    fn text(&mut self, text: &str) {
        if self.failure.is_none()
            && let Err(e) = self.writer.write_all(text.as_bytes())
        {
            self.failure = Some(e);
        }
    }
}
