//! Live traffic with and without enforcement, side by side.
//!
//! Three networks of namespaces are built, alike but for what is enforced at the server's endpoint: nothing, a rule for
//! the port (L4), HTTP rules (L7). wrk then asks nginx in each of them in turn, round after round, so that a machine
//! that gets slower or faster meanwhile does so for all three. Printed are medians over the rounds.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

mod report;
mod setup;
mod wrk;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;

use crate::{
    report::Report,
    setup::{Enforcement, Setup},
    wrk::Load,
};

/// Compares live HTTP traffic without enforcement, under an L4 rule and under HTTP rules.
#[derive(Debug, Parser)]
struct Options {
    /// Rounds; each runs every load in every setup once
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of one run
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// The `seventh` binary; by default the one beside this program
    #[arg(long)]
    binary: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("e2e: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let binary = binary(options)?;
    let setups: Vec<Setup> = Enforcement::ALL
        .iter()
        .map(|&enforcement| Setup::build(enforcement, &binary).with_context(|| enforcement.name()))
        .collect::<Result<_>>()?;
    let mut report = Report::default();
    let duration = Duration::from_secs(options.seconds);
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        for load in Load::ALL {
            for setup in &setups {
                report.add(*load, setup.enforcement, setup.measure(*load, duration)?);
            }
        }
    }
    println!("{report}");
    Ok(())
}

fn binary(options: &Options) -> Result<PathBuf> {
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => std::env::current_exe()?.with_file_name("seventh"),
    };
    ensure!(
        binary.is_file(),
        "{} is not there; `cargo build --release -p seventh` makes it",
        binary.display()
    );
    Ok(binary)
}
