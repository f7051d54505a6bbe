//! Live traffic without enforcement, enforced by Seventh, and enforced by others, side by side.
//!
//! Networks of namespaces are built, alike but for what is enforced on the node between client and server. Every load is
//! run in each of them in turn, round after round, so that a machine that gets slower or faster meanwhile does so for
//! all. Printed are medians over the rounds. Another way is another variant of [`way::Way`]; another load one of
//! [`load::Load`].
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

mod bulk;
mod chart;
mod cost;
mod dnsperf;
mod floors;
mod h2load;
mod load;
mod network;
mod page;
mod proxies;
mod report;
mod resolve;
mod rules;
mod runs;
mod way;
mod wrk;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{
    cost::Meter,
    load::{Load, Sample},
    network::{Network, Scale},
    proxies::Programs,
    report::Report,
    way::Way,
};

/// Files that this program and what it starts must each be allowed to open: ten thousand connections, on both sides of a proxy.
const FILES_MIN: u64 = 12_000;
/// How often a run is tried that gives nothing, and how long a stall is given to end.
const ATTEMPTS: u32 = 3;
const STALL: Duration = Duration::from_secs(1);

/// Compares live traffic without enforcement, under Seventh, and under proxies with the same rules.
#[derive(Debug, Parser)]
struct Options {
    /// Rounds; each runs every load through every way once
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of one run
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Megabytes of one bulk transfer
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    megabytes: u64,
    /// One short round with one load of each kind: shows that everything works, not how fast it is
    #[arg(long, conflicts_with_all = ["rounds", "seconds", "megabytes", "publish"])]
    quick: bool,
    /// Only loads whose name contains this, such as "keep-alive, 8"
    #[arg(long)]
    load: Option<String>,
    /// Only ways whose name contains this, and no enforcement
    #[arg(long)]
    way: Option<String>,
    /// Write docs/benchmarks.md and its plots
    #[arg(long)]
    publish: bool,
    /// The `seventh` binary; by default the one beside this program
    #[arg(long)]
    binary: Option<PathBuf>,
    /// The `envoy` binary; by default the one that ./seventh-dev setup has installed
    #[arg(long)]
    envoy: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failures) => {
            eprintln!("e2e: {failures} runs failed");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("e2e: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// The number of runs that failed.
fn run(options: &Options) -> Result<usize> {
    let programs = programs(options)?;
    let (rounds, scale) = if options.quick {
        let scale = Scale {
            seconds: 1,
            bulk_bytes: 64_000_000,
        };
        (1, scale)
    } else {
        let scale = Scale {
            seconds: options.seconds,
            bulk_bytes: options.megabytes * 1_000_000,
        };
        (options.rounds, scale)
    };
    let all_loads = if options.quick { Load::QUICK } else { Load::ALL };
    let loads: Vec<Load> = all_loads
        .iter()
        .copied()
        .filter(|load| options.load.as_ref().is_none_or(|part| load.name().contains(part)))
        .collect();
    allow_open_files()?;
    let meter = Meter::start()?;
    let networks = networks(options, &loads, &programs, scale)?;
    let mut report = Report::default();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        for &load in &loads {
            run_load(&networks, round, load, &meter, scale, &mut report);
        }
    }
    println!("{}{}", report.tables(), floors::table(&floors::floors(&report)));
    if options.publish {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("docs");
        page::write(&docs, &report, &programs, scale.seconds)?;
    }
    Ok(report.failures.len())
}

/// For this program and what it starts.
fn allow_open_files() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(
        most >= FILES_MIN,
        "at most {most} files may be open here, {FILES_MIN} are needed: ulimit -Hn {FILES_MIN}"
    );
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}

fn networks(options: &Options, loads: &[Load], programs: &Programs, scale: Scale) -> Result<Vec<Network>> {
    let wanted = |way: &&Way| {
        // What audit carries and tells, its own tests show; how fast it is, the quick form does not say of anything.
        let by_default = !(options.quick && **way == Way::SeventhAudit);
        let chosen = options
            .way
            .as_ref()
            .map_or(by_default, |part| way.name().contains(part));
        (**way == Way::None || chosen) && loads.iter().any(|load| way.handles(load.kind()))
    };
    let ways = Way::ALL.iter().filter(wanted);
    ways.map(|&way| {
        eprintln!("building: {}", way.name());
        Network::build(way, programs, scale).with_context(|| way.name())
    })
    .collect()
}

fn run_load(networks: &[Network], round: u32, load: Load, meter: &Meter, scale: Scale, report: &mut Report) {
    for network in networks.iter().filter(|network| network.way.handles(load.kind())) {
        match measure(network, load, meter, scale) {
            Ok(sample) => {
                report.add(round, load, network.way, sample);
            }
            Err(error) => {
                let failure = format!("{}, {}, round {round}: {error:#}", load.name(), network.way.name());
                eprintln!("FAILED: {failure}");
                report.failures.push(failure);
            }
        }
    }
}

/// A stall, which also traffic without enforcement has, is no measurement; what stalls again and again is broken.
fn measure(network: &Network, load: Load, meter: &Meter, scale: Scale) -> Result<Sample> {
    let mut sample = network.measure(load, meter, scale);
    for _ in 1..ATTEMPTS {
        if sample.is_ok() {
            break;
        }
        thread::sleep(STALL);
        sample = network.measure(load, meter, scale);
    }
    sample
}

fn programs(options: &Options) -> Result<Programs> {
    let seventh = match &options.binary {
        Some(binary) => binary.clone(),
        None => std::env::current_exe()?.with_file_name("seventh"),
    };
    let installed = "../.tools/envoy/envoy/_bin/envoy";
    let envoy = match &options.envoy {
        Some(envoy) => envoy.clone(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join(installed),
    };
    for (program, next) in [
        (&seventh, "`cargo build --release -p seventh` makes it"),
        (&envoy, "`./seventh-dev setup` installs it"),
    ] {
        ensure!(program.is_file(), "{} is not there; {next}", program.display());
    }
    Ok(Programs { seventh, envoy })
}
