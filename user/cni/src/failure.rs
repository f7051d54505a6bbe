//! Errors as runtimes read them.

use serde_json::{Value, json};

use crate::config::{Config, NEWEST};

/// Why the plugin did not do what it was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    version: String,
    code: u32,
    message: &'static str,
    details: String,
}

impl Failure {
    fn new(code: u32, message: &'static str, details: impl Into<String>) -> Self {
        Self {
            version: NEWEST.to_owned(),
            code,
            message,
            details: details.into(),
        }
    }

    /// The configuration is of a version that is not known here.
    pub(crate) fn incompatible(details: impl Into<String>) -> Self {
        Self::new(1, "incompatible CNI version", details)
    }

    /// A variable that must be there is not, or says nothing that can be.
    pub(crate) fn environment(details: impl Into<String>) -> Self {
        Self::new(4, "invalid necessary environment variables", details)
    }

    /// Standard input cannot be read.
    pub(crate) fn input(details: impl Into<String>) -> Self {
        Self::new(5, "I/O failure", details)
    }

    /// Standard input is no JSON.
    pub(crate) fn decoding(details: impl Into<String>) -> Self {
        Self::new(6, "failed to decode content", details)
    }

    /// The configuration says what cannot be.
    pub(crate) fn config(details: impl Into<String>) -> Self {
        Self::new(7, "invalid network config", details)
    }

    /// Policies are not in force (yet).
    pub(crate) fn try_again(error: &anyhow::Error) -> Self {
        Self::new(11, "policies are not in force on this pod", format!("{error:#}"))
    }

    /// No pod could be served now.
    pub(crate) fn not_available(error: &anyhow::Error) -> Self {
        Self::new(50, "the agent is not available", format!("{error:#}"))
    }

    /// In the version of this configuration.
    pub(crate) fn of(mut self, config: &Config) -> Self {
        config.version.clone_into(&mut self.version);
        self
    }

    /// As the specification's error type.
    pub(crate) fn told(&self) -> Value {
        json!({ "cniVersion": self.version, "code": self.code, "msg": self.message, "details": self.details })
    }
}
