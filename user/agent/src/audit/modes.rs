//! Which endpoints are in audit, and what was said of it while an agent ran: that is kept from one agent to the next.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{
    config::{Config, EndpointConfig},
    private_file::{self, Outlives},
};

/// Its name, beside the agent's socket.
const FILE: &str = "audit.json";
/// Bytes of the file at most.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Raised when the form changes; a file of another one is not read.
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    /// Whether it is in audit, by `namespace/name`.
    endpoints: BTreeMap<String, bool>,
}

/// What the configuration and, before it, commands say.
#[derive(Debug)]
pub(crate) struct AuditModes {
    file: PathBuf,
    all: bool,
    told: BTreeMap<String, bool>,
}

impl AuditModes {
    /// As the configuration says and no command has said otherwise; nothing is read.
    pub(crate) fn configured(config: &Config) -> Self {
        Self {
            file: config.api.with_file_name(FILE),
            all: config.audit,
            told: BTreeMap::new(),
        }
    }

    /// Takes up what earlier agents were told. What was said of endpoints that are no longer in the file is forgotten; a
    /// cluster's pods come and go.
    ///
    /// # Errors
    /// The file is there and cannot be used: nobody should enforce, or not enforce, by a guess.
    pub(crate) fn kept(config: &Config) -> Result<Self> {
        let mut modes = Self::configured(config);
        let hint = || {
            format!(
                "{}: remove it, and endpoints are in audit as the configuration says",
                modes.file.display()
            )
        };
        let mut told = load(&modes.file).with_context(hint)?;
        told.retain(|name, _| {
            config.kubernetes.is_some() || config.endpoints.iter().any(|endpoint| endpoint.name == *name)
        });
        modes.told = told;
        Ok(modes)
    }

    /// Whether the endpoint as a whole is in audit.
    pub(crate) fn of(&self, endpoint: &EndpointConfig) -> bool {
        let told = self.told.get(&endpoint.name).copied();
        told.unwrap_or(self.all || endpoint.audit)
    }

    /// Whether every endpoint is in audit of which nothing else was said.
    pub(crate) fn all(&self) -> bool {
        self.all
    }

    /// Changes that until the agent ends.
    pub(crate) fn set_all(&mut self, audit: bool) {
        self.all = audit;
    }

    /// Remembers what a command said, first of all on disk.
    ///
    /// # Errors
    /// It cannot be written down; nothing has changed then.
    pub(crate) fn tell(&mut self, endpoint: &str, audit: bool) -> Result<()> {
        let mut told = self.told.clone();
        told.insert(endpoint.to_owned(), audit);
        save(&self.file, &told)?;
        self.told = told;
        Ok(())
    }
}

fn save(path: &Path, told: &BTreeMap<String, bool>) -> Result<()> {
    let text = serde_json::to_vec(&File {
        version: VERSION,
        endpoints: told.clone(),
    })?;
    // What an operator has switched to enforcing must not be in audit again after a power cut.
    private_file::replace(path, &text, Outlives::PowerCut)
}

/// Nothing if there is no such file.
fn load(path: &Path) -> Result<BTreeMap<String, bool>> {
    let length = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(e) => return Err(e.into()),
    };
    ensure!(
        length <= FILE_BYTES_MAX,
        "{length} bytes; at most {FILE_BYTES_MAX} are read"
    );
    let file: File = serde_json::from_slice(&fs::read(path)?)?;
    ensure!(file.version == VERSION, "form {} is not {VERSION}", file.version);
    Ok(file.endpoints)
}

#[cfg(test)]
mod tests {
    use super::AuditModes;
    use crate::config::Config;
    use std::{fs, path::Path};

    fn config(dir: &Path, more: &str) -> Config {
        let text = format!(
            "api: {}/seventh.sock\n{more}\nendpoints: [{{name: a/b, interface: v0, ips: [10.0.0.1]}}, \
             {{name: a/c, interface: v1, ips: [10.0.0.2], audit: true}}]",
            dir.display()
        );
        Config::parse(&dir.join("config.yaml"), &text).unwrap()
    }

    fn modes(config: &Config) -> [bool; 2] {
        let modes = AuditModes::kept(config).unwrap();
        [modes.of(&config.endpoints[0]), modes.of(&config.endpoints[1])]
    }

    #[test]
    fn a_command_comes_before_the_configuration_and_outlives_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let own = config(dir.path(), "");
        assert_eq!(modes(&own), [false, true]);
        let mut told = AuditModes::kept(&own).unwrap();
        told.tell("a/b", true).unwrap();
        told.tell("a/c", false).unwrap();
        assert_eq!(modes(&own), [true, false]);
        assert_eq!(modes(&config(dir.path(), "audit: true")), [true, false]);
        fs::remove_file(dir.path().join("audit.json")).unwrap();
        assert_eq!(modes(&config(dir.path(), "audit: true")), [true, true]);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_no_reason_to_guess() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), "");
        for broken in [
            "",
            "{}",
            r#"{"version": 2, "endpoints": {}}"#,
            r#"{"version": 1, "endpoints": {"a/b": 1}}"#,
        ] {
            fs::write(dir.path().join("audit.json"), broken).unwrap();
            let reason = format!("{:#}", AuditModes::kept(&config).unwrap_err());
            assert!(reason.contains("audit.json"), "{reason}");
        }
    }
}
