//! `seventh fqdn cache`: names and the addresses that were learned under them.

use anstream::println;
use anyhow::{Context as _, Result};
use clap::Subcommand;
use serde_json::json;

use super::{
    Answer, Ask, Form,
    listings::{Table, collect},
    said,
};
use crate::api::{
    self,
    v1::{CleanNamesRequest, LearnedName, ListNamesRequest},
};

#[derive(Debug, Subcommand)]
pub(super) enum FqdnCommand {
    /// Names and the addresses that were learned under them
    Cache {
        #[command(subcommand)]
        command: CacheCommand,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum CacheCommand {
    /// All of them
    List {
        /// Only those of this endpoint (`namespace/name`)
        #[arg(long, value_name = "NAME")]
        endpoint: Option<String>,
        #[command(flatten)]
        ask: Ask,
    },
    /// Forget them: their addresses are shut for new connections until they are resolved again
    Clean {
        /// Only names that match, as in toFQDNs `matchPattern`
        #[arg(long, value_name = "PATTERN", default_value = "")]
        pattern: String,
        #[command(flatten)]
        ask: Ask,
    },
}

pub(super) async fn run(command: FqdnCommand) -> Result<Answer> {
    let FqdnCommand::Cache { command } = command;
    match command {
        CacheCommand::List { endpoint, ask } => list(&ask, endpoint.as_deref()).await,
        CacheCommand::Clean { pattern, ask } => clean(&ask, pattern).await,
    }
}

async fn list(ask: &Ask, endpoint: Option<&str>) -> Result<Answer> {
    let mut client = api::connect(&ask.server).await?;
    let pieces = client
        .list_names(ListNamesRequest {})
        .await
        .context("fqdn cache list")?;
    let mut names = collect(pieces.into_inner(), |piece| piece.items).await?;
    names.retain(|name| endpoint.is_none_or(|wanted| name.endpoint == wanted));
    match ask.output {
        Form::Json => names.iter().for_each(|name| println!("{}", name_json(name))),
        Form::Text => {
            let mut table = Table::new(&["ENDPOINT", "NAME", "IP", "TTL", "IDENTITY"]);
            for name in names {
                let endpoint = if name.endpoint.is_empty() {
                    "(all)".to_owned()
                } else {
                    name.endpoint
                };
                let ttl = if name.lingers {
                    "over".to_owned()
                } else {
                    format!("{} s", name.ttl_s)
                };
                let identity = if name.identity == 0 {
                    "-".to_owned()
                } else {
                    name.identity.to_string()
                };
                table.row([endpoint, name.name, name.ip, ttl, identity]);
            }
            table.print();
        }
    }
    Ok(Answer::Yes)
}

fn name_json(name: &LearnedName) -> serde_json::Value {
    json!({
        "endpoint": name.endpoint, "name": name.name, "ip": name.ip, "ttl_s": name.ttl_s, "lingers": name.lingers,
        "identity": name.identity,
    })
}

async fn clean(ask: &Ask, pattern: String) -> Result<Answer> {
    let mut client = api::connect(&ask.server).await?;
    let cleaned = client
        .clean_names(CleanNamesRequest { pattern })
        .await
        .map_err(said)
        .context("fqdn cache clean")?;
    let names = cleaned.into_inner().names;
    match ask.output {
        Form::Json => println!("{}", json!({ "names": names })),
        Form::Text => println!("{names} names forgotten"),
    }
    Ok(Answer::Yes)
}
