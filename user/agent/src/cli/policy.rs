//! `seventh policy ...`: questions about documents; all but `get` and `generate` need no agent.

use std::path::PathBuf;

use anstream::{eprintln, println};
use anyhow::{Result, ensure};
use clap::Subcommand;
use seventh_policy::{Severity, Surroundings, validate::validate};

use super::{Answer, Ask, Form, generate, listings, runtime, trace};

/// Commands about policy documents.
#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// The documents that a running agent enforces
    Get {
        /// Show the document of this `namespace/name` (or the name of a cluster-wide one) as it was written
        name: Option<String>,
        #[command(flatten)]
        ask: Ask,
    },
    /// Make policies that allow what flow records show, and nothing else
    Generate(Box<generate::Generate>),
    /// Whether some traffic passes, and the rule that says so; exit status 1 if it is denied
    Trace(Box<trace::Question>),
    /// Check documents: every error names file, document, field and reason
    Validate {
        /// Files and directories
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// Form of the output
        #[arg(short, long, value_enum, default_value_t)]
        output: Form,
    },
}

/// Runs one; 1 = invalid.
pub(super) fn run(command: PolicyCommand) -> Result<Answer> {
    match command {
        PolicyCommand::Get { name, ask } => runtime()?.block_on(listings::policy(&ask, name.as_deref())),
        PolicyCommand::Generate(command) => runtime()?.block_on(generate::run(*command)),
        PolicyCommand::Trace(question) => trace::run(*question),
        PolicyCommand::Validate { paths, output } => {
            check_paths(&paths)?;
            check(&paths, output)
        }
    }
}

/// A path that is not there is a mistake of the command line, not of a document.
pub(super) fn check_paths(paths: &[PathBuf]) -> Result<()> {
    for path in paths {
        ensure!(path.exists(), "{}: no such file or directory", path.display());
    }
    Ok(())
}

fn check(paths: &[PathBuf], output: Form) -> Result<Answer> {
    let validation = validate(paths, &Surroundings::default());
    match output {
        Form::Json => println!("{}", serde_json::to_string(&validation)?),
        Form::Text => {
            for finding in &validation.findings {
                println!("{finding}");
                if let Some(quotation) = validation.sources.quote(finding) {
                    println!("{quotation}");
                }
            }
            let count = |severity| validation.findings.iter().filter(|f| f.severity == severity).count();
            println!(
                "{} documents valid, {} errors, {} warnings, {} other objects passed over",
                validation.valid,
                count(Severity::Error),
                count(Severity::Warning),
                validation.others
            );
        }
    }
    if validation.valid == 0 && validation.is_valid() {
        eprintln!("seventh: there is no policy document in what was named");
    }
    Ok(if validation.is_valid() { Answer::Yes } else { Answer::No })
}
