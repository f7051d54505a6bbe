//! The network configuration that a runtime hands in: ours strictly, what the specification puts there besides as it is.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::failure::Failure;

/// Versions of the specification that are spoken: those that know chained plugins.
pub(crate) const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The one of what is said before a configuration was read.
pub(crate) const NEWEST: &str = "1.1.0";
/// Where an agent answers unless somebody says otherwise.
pub(crate) const SOCKET: &str = "/run/seventh/seventh.sock";
/// Seconds that a pod waits unless somebody says otherwise, and the most that can be said: runtimes give up, too.
pub(crate) const TIMEOUT_S: u64 = 10;
pub(crate) const TIMEOUT_S_MAX: u64 = 120;

/// What may stand beside our own settings: the specification's keys, and those that runtimes and lists add.
const OF_OTHERS: &[&str] = &[
    "args",
    "capabilities",
    "cniVersion",
    "dns",
    "ipMasq",
    "ipam",
    "runtimeConfig",
    "disableCheck",
];

/// What becomes of a pod whose policies are not in force in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OnTimeout {
    /// It does not start; the runtime tries again
    #[default]
    Fail,
    /// It starts, and is enforced a moment later
    Open,
}

impl OnTimeout {
    /// As it is written.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Open => "open",
        }
    }
}

/// As written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    name: String,
    #[serde(rename = "type")]
    plugin: String,
    #[serde(default)]
    prev_result: Value,
    socket: Option<PathBuf>,
    timeout_seconds: Option<u64>,
    #[serde(default)]
    on_timeout: OnTimeout,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// A configuration that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// Of the specification.
    pub(crate) version: String,
    /// Where the agent answers.
    pub(crate) socket: PathBuf,
    /// How long a pod waits.
    pub(crate) timeout: Duration,
    pub(crate) on_timeout: OnTimeout,
    /// What the plugins before have made; null if none has.
    pub(crate) previous: Value,
}

impl Config {
    /// # Errors
    /// [`Failure`]: no JSON, another version, a key that nobody knows, a value that cannot be.
    pub(crate) fn read(text: &[u8]) -> Result<Self, Failure> {
        let value: Value = serde_json::from_slice(text).map_err(|e| Failure::decoding(e.to_string()))?;
        let version = version_of(&value)?;
        let raw: Raw = serde_json::from_value(value).map_err(|e| Failure::config(e.to_string()))?;
        let known = |key: &str| OF_OTHERS.contains(&key) || key.starts_with("cni.dev/");
        if let Some(key) = raw.others.keys().find(|key| !known(key)) {
            return Err(Failure::config(format!(
                "`{key}` is not known; seventh-cni has `socket`, `timeoutSeconds` and `onTimeout`"
            )));
        }
        if raw.name.is_empty() || raw.plugin.is_empty() {
            return Err(Failure::config("`name` or `type` is empty"));
        }
        let socket = raw.socket.unwrap_or_else(|| SOCKET.into());
        if !socket.is_absolute() {
            return Err(Failure::config(format!(
                "socket: `{}` must begin with a slash",
                socket.display()
            )));
        }
        let timeout = raw.timeout_seconds.unwrap_or(TIMEOUT_S);
        if !(1..=TIMEOUT_S_MAX).contains(&timeout) {
            return Err(Failure::config(format!(
                "timeoutSeconds: {timeout}; must be 1 to {TIMEOUT_S_MAX}"
            )));
        }
        Ok(Self {
            version,
            socket,
            timeout: Duration::from_secs(timeout),
            on_timeout: raw.on_timeout,
            previous: raw.prev_result,
        })
    }
}

/// The version of a configuration, if it is spoken here.
///
/// # Errors
/// It has none, or another.
pub(crate) fn version_of(config: &Value) -> Result<String, Failure> {
    let Some(version) = config.get("cniVersion").and_then(Value::as_str) else {
        return Err(Failure::config("`cniVersion` is missing"));
    };
    if !VERSIONS.contains(&version) {
        return Err(Failure::incompatible(format!(
            "`{version}`; spoken are {}",
            VERSIONS.join(", ")
        )));
    }
    Ok(version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(more: &str) -> Result<Config, Value> {
        let text = format!(r#"{{"cniVersion": "1.0.0", "name": "pods", "type": "seventh-cni"{more}}}"#);
        Config::read(text.as_bytes()).map_err(|failure| failure.told())
    }

    #[test]
    fn a_configuration_has_defaults_that_fail_closed() {
        let config = read("").unwrap();
        assert_eq!(
            (config.socket.to_str(), config.timeout, config.on_timeout),
            (Some(SOCKET), Duration::from_secs(10), OnTimeout::Fail)
        );
        let config = read(r#", "socket": "/s", "timeoutSeconds": 3, "onTimeout": "open""#).unwrap();
        assert_eq!((config.timeout.as_secs(), config.on_timeout), (3, OnTimeout::Open));
    }

    #[test]
    fn what_the_specification_puts_there_is_no_mistake_and_what_nobody_knows_is() {
        let more = r#", "runtimeConfig": {"portMappings": []}, "args": {}, "dns": {}, "cni.dev/valid-attachments": []"#;
        assert!(read(more).is_ok());
        for more in [
            r#", "ontimeout": "open""#,
            r#", "onTimeout": "opn""#,
            r#", "timeoutSeconds": 0"#,
            r#", "timeoutSeconds": 121"#,
            r#", "timeoutSeconds": "3""#,
            r#", "socket": "run/s""#,
        ] {
            assert_eq!(read(more).unwrap_err()["code"], 7, "{more}");
        }
    }

    #[test]
    fn versions_without_chains_are_refused_with_the_code_for_it() {
        let told = |text: &str| Config::read(text.as_bytes()).unwrap_err().told();
        assert_eq!(told(r#"{"cniVersion": "0.2.0", "name": "a", "type": "b"}"#)["code"], 1);
        assert_eq!(told(r#"{"cniVersion": "2.0.0", "name": "a", "type": "b"}"#)["code"], 1);
        assert_eq!(told(r#"{"name": "a", "type": "b"}"#)["code"], 7);
        assert_eq!(told("nothing")["code"], 6);
    }
}
