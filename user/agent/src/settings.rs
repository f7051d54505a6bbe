//! Settings of a running agent: all can be looked at, some can be changed until it ends. What the file says holds again
//! with the next start.

use anyhow::{Context as _, Result, bail};
use seventh_policy::Enforcement;
use tracing::warn;

use crate::{
    agent::{Shared, reload},
    api::v1::Setting,
    config::enforcement_name,
};

/// What can be changed while the agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Live {
    Enforcement,
    Audit,
    AllowLocalhost,
    Log,
}

/// Their names as in the file, and further ones that people know from elsewhere.
const LIVE: &[(Live, &str, &[&str])] = &[
    (Live::Enforcement, "enforcement", &["PolicyEnforcement"]),
    (Live::Audit, "audit", &["PolicyAuditMode"]),
    (Live::AllowLocalhost, "allowLocalhost", &[]),
    (Live::Log, "log", &["logLevel"]),
];

impl Live {
    fn find(name: &str) -> Option<(Self, &'static str)> {
        let is = |known: &str| known.eq_ignore_ascii_case(name);
        let mut all = LIVE.iter();
        let found = all.find(|(_, known, others)| is(known) || others.iter().any(|other| is(other)))?;
        Some((found.0, found.1))
    }
}

/// All settings, those first that can be changed.
pub(crate) fn list(shared: &Shared) -> Vec<Setting> {
    let mut all: Vec<Setting> = LIVE.iter().map(|(live, name, _)| show(shared, *live, name)).collect();
    all.extend(shared.config.shown().into_iter().map(|(name, value)| Setting {
        name: name.to_owned(),
        configured: value.clone(),
        value,
        live: false,
    }));
    all
}

/// One of them by name, in whatever case.
pub(crate) fn find(shared: &Shared, name: &str) -> Option<Setting> {
    let known = Live::find(name).map_or(name, |(_, known)| known);
    let mut all = list(shared).into_iter();
    all.find(|setting| setting.name.eq_ignore_ascii_case(known))
}

fn show(shared: &Shared, live: Live, name: &str) -> Setting {
    let (value, configured) = match live {
        Live::Enforcement => {
            let value = shared.state().store.options().enforcement;
            let texts = [value, shared.config.enforcement].map(|mode| enforcement_name(mode).to_owned());
            texts.into()
        }
        Live::Audit => {
            let value = shared.state().store.audits_all();
            (value.to_string(), shared.config.audit.to_string())
        }
        Live::AllowLocalhost => {
            let value = shared.state().store.options().allow_localhost;
            (value.to_string(), shared.config.allow_localhost.to_string())
        }
        Live::Log => (shared.log.present(), shared.log.started_with().to_owned()),
    };
    Setting {
        name: name.to_owned(),
        value,
        configured,
        live: true,
    }
}

/// Changes a setting, or takes it back to what is configured. It is in force when this returns.
///
/// # Errors
/// The setting is not there, cannot be changed in a running agent, or not to this value; or the kernel refuses.
pub(crate) fn set(shared: &Shared, name: &str, value: Option<&str>) -> Result<Setting> {
    let Some((live, known)) = Live::find(name) else {
        match find(shared, name) {
            Some(setting) => bail!(
                "`{}` cannot be changed in a running agent: write it in {} and start the agent again",
                setting.name,
                shared.config.file.display()
            ),
            None => bail!(
                "there is no setting `{}`; see `seventh config view`",
                name.escape_debug()
            ),
        }
    };
    let before = show(shared, live, known);
    let value = value.unwrap_or(&before.configured);
    match live {
        Live::Enforcement => {
            let mode = read_enforcement(value)?;
            shared.state().store.options_mut().enforcement = mode;
        }
        Live::Audit => {
            let audit = read_switch(value)?;
            shared.state().store.set_audit_all(audit);
        }
        Live::AllowLocalhost => {
            let allow = value
                .parse()
                .with_context(|| format!("`{}` is neither true nor false", value.escape_debug()))?;
            shared.state().store.options_mut().allow_localhost = allow;
        }
        Live::Log => shared.log.set(value)?,
    }
    if live != Live::Log {
        reload(shared);
        if let Some(failure) = shared.state().failure.clone() {
            bail!("`{known}` is set, but not in force yet; it is tried again: {failure}");
        }
    }
    let now = show(shared, live, known);
    warn!(
        setting = known,
        before = before.value,
        now = now.value,
        configured = now.configured,
        "changed by command"
    );
    Ok(now)
}

/// As the file has it, and as Cilium's command does.
pub(crate) fn read_switch(text: &str) -> Result<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "enabled" | "on" | "1" => Ok(true),
        "false" | "disabled" | "off" | "0" => Ok(false),
        _ => bail!("`{}` is neither Enabled nor Disabled", text.escape_debug()),
    }
}

fn read_enforcement(text: &str) -> Result<Enforcement> {
    let mut all = [Enforcement::Default, Enforcement::Always, Enforcement::Never].into_iter();
    all.find(|mode| enforcement_name(*mode) == text)
        .with_context(|| format!("`{}` is none of default, always, never", text.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::{Live, read_enforcement, read_switch};

    #[test]
    fn a_setting_is_found_by_its_name_here_and_in_cilium() {
        for name in ["enforcement", "PolicyEnforcement", "policyenforcement"] {
            assert_eq!(Live::find(name), Some((Live::Enforcement, "enforcement")));
        }
        assert_eq!(Live::find("workers"), None);
    }

    #[test]
    fn a_switch_is_read_as_cilium_writes_it_and_as_the_file_does() {
        for (text, on) in [("Enabled", true), ("true", true), ("disabled", false), ("0", false)] {
            assert_eq!(read_switch(text).unwrap(), on, "{text}");
        }
        for wrong in ["", "yes", "Enabled "] {
            assert!(read_switch(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_mode_of_enforcement_is_written_as_in_the_file() {
        assert!(read_enforcement("always").is_ok());
        for wrong in ["Always", "", "on", "never "] {
            assert!(read_enforcement(wrong).is_err(), "{wrong}");
        }
    }
}
