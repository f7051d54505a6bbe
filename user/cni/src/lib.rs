//! `seventh-cni`: a chained plugin of the Container Network Interface, after the one that made the pod's network.
//!
//! It makes nothing itself. On `ADD` it tells the agent of this node which pod has got which addresses and devices, waits until
//! the agent says that the pod's policies are in force, and hands on the result that it was given; so no process of the
//! pod runs before. Run with `install` or `remove` it writes itself into, or takes itself out of, a node's configuration;
//! `check` says whether it is there.
//!
//! Source of the protocol: the CNI specification 1.1.0, <https://www.cni.dev/docs/spec/>.
#![forbid(unsafe_code)]

mod agent;
mod call;
mod config;
mod failure;
mod install;
mod result;

use std::{env, io, process::ExitCode};

use clap::Parser;
use serde_json::{Value, json};

use call::{Call, Command};
use config::{OnTimeout, VERSIONS};
use failure::Failure;

/// Messages and stubs of the agent's API.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::doc_markdown,
    clippy::too_many_lines,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated; the .proto file has the words"
)]
pub mod v1 {
    tonic::include_proto!("seventh.v1");
}

/// A chained CNI plugin: a pod starts when its policies are enforced.
///
/// Container runtimes run it without arguments, as the CNI specification says.
#[derive(Debug, Parser)]
#[command(name = "seventh-cni", version)]
enum Task {
    /// Put the plugin into this node's CNI configuration
    Install(install::Install),
    /// Whether it is there: 0 = runtimes start it, else what is missing
    Check(install::Check),
    /// Take it out again; the program stays, since pods that are there may still be ended with it
    Remove(install::Remove),
}

/// What this process was started for.
#[must_use]
pub fn run() -> ExitCode {
    // Runtimes give no arguments, people do.
    if env::args_os().len() > 1 {
        return match perform(Task::parse()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprint(&format!("{e:#}"));
                ExitCode::FAILURE
            }
        };
    }
    match Call::read(|name| env::var(name).ok(), io::stdin().lock()).and_then(|call| answer(&call)) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(value)) => print(&value),
        Err(failure) => {
            print(&failure.told());
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Install(install) => install.run(),
        Task::Check(check) => check.run(),
        Task::Remove(remove) => remove.run(),
    }
}

/// What goes to standard output.
fn answer(call: &Call) -> Result<Option<Value>, Failure> {
    match &call.command {
        Command::Version { asked } => Ok(Some(json!({ "cniVersion": asked, "supportedVersions": VERSIONS }))),
        // There is nothing to take down: the agent sees that the device is gone.
        Command::Del | Command::Gc => Ok(None),
        Command::Status(config) => match (agent::status(config), config.on_timeout) {
            (Err(e), OnTimeout::Fail) => Err(Failure::not_available(&e).of(config)),
            _ => Ok(None),
        },
        Command::Check(config, attachment) => {
            agent::look(config, attachment).map_err(|e| Failure::try_again(&e).of(config))?;
            Ok(None)
        }
        Command::Add(config, attachment) => {
            if let Err(e) = agent::wait(config, attachment) {
                match config.on_timeout {
                    OnTimeout::Fail => return Err(Failure::try_again(&e).of(config)),
                    OnTimeout::Open => eprint(&format!(
                        "{} starts before its policies are in force (onTimeout: open): {e:#}",
                        attachment.endpoint
                    )),
                }
            }
            Ok(Some(config.previous.clone()))
        }
    }
}

#[expect(clippy::print_stdout, reason = "this is how a plugin answers")]
fn print(value: &Value) -> ExitCode {
    println!("{value}");
    ExitCode::SUCCESS
}

#[expect(clippy::print_stderr, reason = "runtimes log what plugins write there")]
fn eprint(text: &str) {
    eprintln!("seventh-cni: {text}");
}
