//! `seventh config`: the settings of a running agent.

use anstream::{eprintln, println};
use anyhow::{Context as _, Result};
use clap::Subcommand;
use serde_json::json;
use tonic::transport::Channel;

use super::{Answer, Ask, Form, listings::Table, said};
use crate::api::{
    self,
    v1::{ListSettingsRequest, SetSettingRequest, Setting, agent_client::AgentClient},
};

/// Settings of a running agent.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// All settings and their values
    View(Ask),
    /// The value of one
    Get {
        /// As in the configuration file, such as `enforcement` or `fqdn.scope`
        name: String,
        #[command(flatten)]
        ask: Ask,
    },
    /// Change one until the agent ends: `enforcement`, `allowLocalhost` or `log`
    Set {
        /// The setting
        name: String,
        /// Its new value
        value: String,
        #[command(flatten)]
        ask: Ask,
    },
    /// Take back what was changed: one setting, or all
    Reset {
        /// The setting
        name: Option<String>,
        #[command(flatten)]
        ask: Ask,
    },
}

pub(super) async fn run(command: ConfigCommand) -> Result<Answer> {
    match command {
        ConfigCommand::View(ask) => view(&ask).await,
        ConfigCommand::Get { name, ask } => get(&ask, &name).await,
        ConfigCommand::Set { name, value, ask } => {
            let mut client = api::connect(&ask.server).await?;
            change(&ask, &mut client, name, Some(value)).await
        }
        ConfigCommand::Reset { name, ask } => reset(&ask, name).await,
    }
}

async fn list(client: &mut AgentClient<Channel>, name: &str) -> Result<Vec<Setting>> {
    let request = ListSettingsRequest { name: name.to_owned() };
    let answer = client.list_settings(request).await.map_err(said).context("config")?;
    Ok(answer.into_inner().settings)
}

async fn view(ask: &Ask) -> Result<Answer> {
    let settings = list(&mut api::connect(&ask.server).await?, "").await?;
    match ask.output {
        Form::Json => settings.iter().for_each(|setting| println!("{}", as_json(setting))),
        Form::Text => {
            let mut table = Table::new(&["SETTING", "VALUE", "CHANGED BY"]);
            for setting in settings {
                let changed_by = match (setting.live, setting.value == setting.configured) {
                    (false, _) => "file and restart".to_owned(),
                    (true, true) => "config set".to_owned(),
                    (true, false) => format!("config set (configured: {})", setting.configured),
                };
                let value = if setting.value.is_empty() {
                    "-".to_owned()
                } else {
                    setting.value
                };
                table.row([setting.name, value, changed_by]);
            }
            table.print();
        }
    }
    Ok(Answer::Yes)
}

async fn get(ask: &Ask, name: &str) -> Result<Answer> {
    let settings = list(&mut api::connect(&ask.server).await?, name).await?;
    let Some(setting) = settings.first().filter(|_| !name.is_empty()) else {
        eprintln!("seventh: there is no setting `{name}`; see `seventh config view`");
        return Ok(Answer::No);
    };
    match ask.output {
        Form::Json => println!("{}", as_json(setting)),
        Form::Text => println!("{}", setting.value),
    }
    Ok(Answer::Yes)
}

async fn reset(ask: &Ask, name: Option<String>) -> Result<Answer> {
    let mut client = api::connect(&ask.server).await?;
    if let Some(name) = name {
        return change(ask, &mut client, name, None).await;
    }
    let settings = list(&mut client, "").await?;
    for setting in settings.into_iter().filter(|s| s.value != s.configured) {
        change(ask, &mut client, setting.name, None).await?;
    }
    Ok(Answer::Yes)
}

async fn change(ask: &Ask, client: &mut AgentClient<Channel>, name: String, value: Option<String>) -> Result<Answer> {
    let request = SetSettingRequest { name, value };
    let answer = client.set_setting(request).await.map_err(said)?;
    let setting = answer.into_inner();
    match ask.output {
        Form::Json => println!("{}", as_json(&setting)),
        Form::Text => println!("{} = {}", setting.name, setting.value),
    }
    Ok(Answer::Yes)
}

/// As all commands show it.
pub(super) fn as_json(setting: &Setting) -> serde_json::Value {
    json!({
        "name": setting.name, "value": setting.value, "configured": setting.configured, "live": setting.live,
    })
}
