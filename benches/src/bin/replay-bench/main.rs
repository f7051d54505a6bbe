//! A capture through `seventh replay` and through what people read captures with today, side by side.
//!
//! The capture is made of the ones in `pcap-fixtures/`, or of one that is named, until it is long enough. All programs read
//! the same file in turn, round after round; printed are medians. Those that use one core are held on one.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

mod merged;
mod policy;
mod programs;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;

use crate::{
    merged::Merged,
    programs::{Program, Run},
};

/// Compares `seventh replay` with ndpiReader, tshark, and tcpdump, which only copies.
#[derive(Debug, Parser)]
struct Options {
    /// Rounds; each runs every program once
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Packets that the capture has at least
    #[arg(long, default_value_t = 400_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    packets: u64,
    /// A capture (pcap or pcapng, Ethernet) to repeat in the place of the project's own
    #[arg(long, value_name = "FILE")]
    capture: Option<PathBuf>,
    /// The `seventh` binary; by default the one beside this program
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Write docs/benchmarks-replay.md
    #[arg(long)]
    publish: bool,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("replay bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let seventh = match &options.binary {
        Some(binary) => binary.clone(),
        None => std::env::current_exe()?.with_file_name("seventh"),
    };
    ensure!(
        seventh.is_file(),
        "{} is not there; `cargo build --release -p seventh` makes it",
        seventh.display()
    );
    let dir = Scratch::make()?;
    let capture = dir.0.join("merged.pcap");
    let seeds = match &options.capture {
        Some(file) => vec![file.clone()],
        None => merged::fixtures()?,
    };
    let merged = Merged::write(&seeds, options.packets, &capture)?;
    let files = policy::write(&dir.0, &merged.clients)?;
    println!("{merged}");
    let programs = Program::all(&seventh, &capture, &files);
    let mut runs: Vec<Vec<Run>> = programs.iter().map(|_| Vec::new()).collect();
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        for (program, runs) in programs.iter().zip(&mut runs) {
            runs.push(program.run().with_context(|| program.name.to_owned())?);
        }
    }
    let table = programs::table(&programs, &mut runs, &merged);
    println!("{table}");
    if options.publish {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("docs/benchmarks-replay.md");
        fs::write(&page, programs::page(&table, &merged, options.rounds))
            .with_context(|| page.display().to_string())?;
    }
    Ok(())
}

/// A folder that goes when this program ends.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("seventh-replay-bench-{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
