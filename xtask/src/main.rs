//! `cargo xtask tidy` checks the rules of this repository that no compiler checks; `cargo xtask docs` writes the pages
//! that are made from the code.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

mod docs;
mod repository;
mod rooms;
mod rules;

use std::process::ExitCode;

use repository::Repository;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["tidy"] => tidy(),
        ["docs"] => docs::write(),
        _ => {
            eprintln!("usage: cargo xtask tidy | docs");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(clean) => ExitCode::from(u8::from(!clean)),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Prints what breaks a rule; true if nothing does.
fn tidy() -> anyhow::Result<bool> {
    let repository = Repository::read()?;
    let mut findings = rules::check(&repository);
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => println!("tidy: {} files, nothing to say", repository.files.len()),
        count => eprintln!("tidy: {count} findings"),
    }
    Ok(findings.is_empty())
}
