//! The command line. Exit status 0 = fine, 1 = the answer is no, 2 = usage or cannot run.

mod config;
mod fqdn;
mod generate;
mod listings;
mod observe;
mod policy;
mod records;
mod replay;
mod show;
mod sysdump;
mod top;
mod trace;

use std::{env::VarError, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, anyhow};
use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::{
    agent,
    api::FLOWS_LISTED_MAX,
    config::{API_SOCKET, Config, Settings},
    demo,
    log_filter::LogFilter,
};

/// Layer-7 network policy without a proxy.
#[derive(Debug, Parser)]
#[command(name = "seventh", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Enforce policies on this node's endpoints
    Agent {
        /// Configuration file; with --kubernetes there need not be one
        #[arg(long, env = "SEVENTH_CONFIG", required_unless_present = "kubernetes")]
        config: Option<PathBuf>,
        #[command(flatten)]
        settings: Box<Settings>,
        /// Leave what is enforced in force when the agent ends
        #[arg(long, env = "SEVENTH_KEEP_ENFORCING")]
        keep_enforcing: bool,
    },
    /// Enforce a policy on live traffic in namespaces of its own and show every verdict
    Demo,
    /// How the agent is
    Status(Ask),
    /// Endpoints that the agent manages
    Endpoint {
        #[command(subcommand)]
        command: EndpointCommand,
    },
    /// Flow records: what happened, with Hubble's filters and forms
    Observe(Box<observe::Observe>),
    /// Who talks, what is asked and what is denied, as it happens
    Top(Box<top::Top>),
    /// Captures: what is in them, or what policies would have done to it
    Replay(Box<replay::Replay>),
    /// Policy documents
    Policy {
        #[command(subcommand)]
        command: policy::PolicyCommand,
    },
    /// Identities that policies tell apart
    Identity {
        #[command(subcommand)]
        command: IdentityCommand,
    },
    /// Names that were resolved
    Fqdn {
        #[command(subcommand)]
        command: fqdn::FqdnCommand,
    },
    /// What the kernel's tables hold
    Bpf {
        #[command(subcommand)]
        command: BpfCommand,
    },
    /// Settings of a running agent
    Config {
        #[command(subcommand)]
        command: config::ConfigCommand,
    },
    /// What a report of a bug needs, in one file: settings, tables, records, how the system is; without secrets
    Sysdump(sysdump::Sysdump),
    /// Completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Version of this program
    Version {
        /// Form of the output
        #[arg(short, long, value_enum, default_value_t)]
        output: Form,
    },
}

#[derive(Debug, Subcommand)]
enum EndpointCommand {
    /// All of them
    List(Ask),
    /// One of them
    Get {
        /// Its number or `namespace/name`
        endpoint: String,
        #[command(flatten)]
        ask: Ask,
    },
    /// Show or change how one of them is treated, at once and until somebody changes it again
    Config {
        /// Its number or `namespace/name`
        endpoint: String,
        /// `PolicyAuditMode=Enabled` enforces nothing and tells what would be denied, `Disabled` enforces
        setting: Option<show::EndpointSetting>,
        #[command(flatten)]
        ask: Ask,
    },
}

#[derive(Debug, Subcommand)]
enum IdentityCommand {
    /// All of them
    List(Ask),
    /// One of them
    Get {
        /// Its number
        id: u32,
        #[command(flatten)]
        ask: Ask,
    },
}

#[derive(Debug, Subcommand)]
enum BpfCommand {
    /// The policy table
    Policy {
        #[command(subcommand)]
        command: BpfPolicyCommand,
    },
    /// Prefixes and their identities
    Ipcache {
        #[command(subcommand)]
        command: BpfListCommand,
    },
    /// Addresses that are known by a name
    Names {
        #[command(subcommand)]
        command: BpfListCommand,
    },
    /// The flow table
    Flows {
        #[command(subcommand)]
        command: BpfFlowsCommand,
    },
}

#[derive(Debug, Subcommand)]
enum BpfPolicyCommand {
    /// Its rows
    List {
        /// Only those of this endpoint (`namespace/name`)
        endpoint: Option<String>,
        #[command(flatten)]
        ask: Ask,
    },
}

#[derive(Debug, Subcommand)]
enum BpfListCommand {
    /// All of them
    List(Ask),
}

#[derive(Debug, Subcommand)]
enum BpfFlowsCommand {
    /// Its entries
    List {
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = FLOWS_LISTED_MAX, value_parser = flows_listed)]
        max: usize,
        #[command(flatten)]
        ask: Ask,
    },
}

fn flows_listed(text: &str) -> Result<usize, String> {
    let max = text.parse().ok().filter(|max| (1..=FLOWS_LISTED_MAX).contains(max));
    max.ok_or_else(|| format!("a number from 1 to {FLOWS_LISTED_MAX} is needed"))
}

/// Flags of commands that ask a running agent.
#[derive(Debug, clap::Args)]
struct Ask {
    /// The agent: `unix://PATH` or `host:port`
    #[arg(long, env = "SEVENTH_SERVER", default_value_t = format!("unix://{API_SOCKET}"))]
    server: String,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
}

/// Forms of output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people
    #[default]
    Text,
    /// One JSON object, or one per line
    Json,
}

/// Whether the answer is yes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Yes,
    No,
}

/// The command line, for who checks what is written to it elsewhere.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command of this process.
#[must_use]
pub fn run() -> ExitCode {
    // clap ends with 2 on a wrong command line, 0 on --help.
    let cli = Cli::parse();
    match dispatch(cli.command) {
        Ok(Answer::Yes) => ExitCode::SUCCESS,
        Ok(Answer::No) => ExitCode::from(1),
        Err(e) => {
            anstream::eprintln!("seventh: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn dispatch(command: Command) -> Result<Answer> {
    match command {
        Command::Agent {
            config,
            settings,
            keep_enforcing,
        } => {
            let log = start_log()?;
            let config = match config {
                Some(file) => Config::load(&file, *settings)?,
                None => Config::without_file(*settings)?,
            };
            runtime()?.block_on(agent::run(config, keep_enforcing, log))?;
            Ok(Answer::Yes)
        }
        Command::Demo => {
            let as_expected = runtime()?.block_on(demo::run())?;
            Ok(if as_expected { Answer::Yes } else { Answer::No })
        }
        Command::Status(ask) => runtime()?.block_on(show::status(&ask)),
        Command::Endpoint {
            command: EndpointCommand::List(ask),
        } => runtime()?.block_on(show::endpoints(&ask, None)),
        Command::Endpoint {
            command: EndpointCommand::Get { endpoint, ask },
        } => runtime()?.block_on(show::endpoints(&ask, Some(&endpoint))),
        Command::Endpoint {
            command: EndpointCommand::Config { endpoint, setting, ask },
        } => runtime()?.block_on(show::configure(&ask, &endpoint, setting)),
        Command::Observe(command) => runtime()?.block_on(observe::run(*command)),
        Command::Top(command) => runtime()?.block_on(top::run(*command)),
        Command::Replay(command) => replay::run(&command),
        Command::Policy { command } => policy::run(command),
        Command::Identity { command } => runtime()?.block_on(async {
            match command {
                IdentityCommand::List(ask) => listings::identities(&ask, None).await,
                IdentityCommand::Get { id, ask } => listings::identities(&ask, Some(id)).await,
            }
        }),
        Command::Fqdn { command } => runtime()?.block_on(fqdn::run(command)),
        Command::Bpf { command } => runtime()?.block_on(bpf(command)),
        Command::Config { command } => runtime()?.block_on(config::run(command)),
        Command::Sysdump(command) => sysdump::run(&command),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "seventh", &mut std::io::stdout());
            Ok(Answer::Yes)
        }
        Command::Version { output } => {
            show::version(output);
            Ok(Answer::Yes)
        }
    }
}

async fn bpf(command: BpfCommand) -> Result<Answer> {
    match command {
        BpfCommand::Policy {
            command: BpfPolicyCommand::List { endpoint, ask },
        } => listings::policy_rows(&ask, endpoint.as_deref()).await,
        BpfCommand::Ipcache {
            command: BpfListCommand::List(ask),
        } => listings::ipcache(&ask).await,
        BpfCommand::Names {
            command: BpfListCommand::List(ask),
        } => listings::name_rows(&ask).await,
        BpfCommand::Flows {
            command: BpfFlowsCommand::List { max, ask },
        } => listings::flows(&ask, max).await,
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    // Control plane only: inspection has threads of its own.
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// What the agent says of a request that it refuses, without the words around it.
fn said(status: tonic::Status) -> anyhow::Error {
    match status.code() {
        tonic::Code::InvalidArgument => anyhow!("{}", status.message()),
        _ => status.into(),
    }
}

/// `SEVENTH_LOG` holds levels such as `debug` or `info,seventh::agent=debug`.
fn start_log() -> Result<LogFilter> {
    match std::env::var("SEVENTH_LOG") {
        Ok(text) => LogFilter::start(Some(&text)).context("SEVENTH_LOG"),
        Err(VarError::NotPresent) => LogFilter::start(None),
        Err(e) => Err(e).context("SEVENTH_LOG"),
    }
}
