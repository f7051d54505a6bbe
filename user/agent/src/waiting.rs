//! What an agent answers while it waits for its cluster: that it does, and for what.

use std::{sync::Arc, time::Instant};

use anyhow::{Result, bail};
use seventh_datapath::PolicyRow;
use seventh_kube::Connection;
use seventh_policy::Identity;
use tokio::sync::watch;

use crate::{
    api::{Answers, Flow, NameRow, Prefix, v1},
    kubernetes,
};

/// An agent that does not know its cluster yet.
pub(crate) struct Waiting {
    node: String,
    started: Instant,
    connection: watch::Receiver<Connection>,
}

impl Waiting {
    /// From now on.
    pub(crate) fn new(node: &str, connection: watch::Receiver<Connection>) -> Self {
        Self {
            node: node.to_owned(),
            started: Instant::now(),
            connection,
        }
    }

    /// How it stands with the API server.
    pub(crate) fn connection(&self) -> Connection {
        self.connection.borrow().clone()
    }

    /// What it waits for.
    pub(crate) fn obstacles(&self) -> Vec<String> {
        let connection = self.connection();
        let awaited: Vec<&str> = connection.awaited.iter().map(|kind| kind.plural()).collect();
        let waits = format!(
            "the agent waits for the API server ({}); what an earlier agent enforced stays in force meanwhile, and nothing \
             new is enforced",
            awaited.join(", ")
        );
        [waits].into_iter().chain(kubernetes::problems(&connection)).collect()
    }

    fn not_yet<T>(&self) -> Result<T> {
        bail!("{}", self.obstacles().join("; "))
    }
}

impl Answers for Waiting {
    fn status(&self) -> v1::StatusResponse {
        v1::StatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.node.clone(),
            uptime_s: self.started.elapsed().as_secs(),
            attach: "none".to_owned(),
            policy: Some(v1::PolicyStatus::default()),
            audit: Some(v1::AuditStatus::default()),
            problems: self.obstacles(),
            ..v1::StatusResponse::default()
        }
    }

    fn endpoints(&self) -> Vec<v1::Endpoint> {
        Vec::new()
    }

    fn in_force(&self, _: &v1::AwaitEndpointRequest) -> Result<v1::Endpoint> {
        self.not_yet()
    }

    fn set_audit(&self, _: &str, _: bool) -> Result<()> {
        self.not_yet()
    }

    fn policy(&self, _: &str) -> Vec<v1::PolicyDocument> {
        Vec::new()
    }

    fn identities(&self) -> Vec<Arc<Identity>> {
        Vec::new()
    }

    fn describe_identities(&self, _: &[Arc<Identity>]) -> Vec<v1::Identity> {
        Vec::new()
    }

    fn policy_rows(&self) -> Result<Vec<PolicyRow>> {
        self.not_yet()
    }

    fn describe_policy_rows(&self, _: &[PolicyRow]) -> Vec<v1::PolicyRow> {
        Vec::new()
    }

    fn ipcache(&self) -> Result<Vec<Prefix>> {
        self.not_yet()
    }

    fn describe_ipcache(&self, _: &[Prefix]) -> Vec<v1::IpcacheEntry> {
        Vec::new()
    }

    fn names(&self) -> Vec<v1::LearnedName> {
        Vec::new()
    }

    fn describe_name_rows(&self, _: &[NameRow]) -> Vec<v1::NameRow> {
        Vec::new()
    }

    fn name_rows(&self) -> Vec<NameRow> {
        Vec::new()
    }

    fn clean_names(&self, _: &str) -> Result<usize> {
        self.not_yet()
    }

    fn flows(&self, _: usize) -> Result<Vec<Flow>> {
        self.not_yet()
    }

    fn describe_flows(&self, _: &[Flow]) -> Vec<v1::FlowEntry> {
        Vec::new()
    }

    fn settings(&self, _: &str) -> Vec<v1::Setting> {
        Vec::new()
    }

    fn set(&self, _: &str, _: Option<&str>) -> Result<v1::Setting> {
        self.not_yet()
    }
}
