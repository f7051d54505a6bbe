//! `fqdn:` of the configuration.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::Deserialize;
use seventh_engine::{DnsRefusal, NameLimits};

use super::default_state_file;

/// As written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct RawFqdn {
    scope: RawScope,
    reject: RawReject,
    ttl_min_s: Option<u64>,
    grace_s: Option<u64>,
    names_max: Option<usize>,
    addresses_per_name_max: Option<usize>,
    state_file: Option<PathBuf>,
    pre_cache: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum RawScope {
    /// For the endpoint that has resolved it
    #[default]
    Endpoint,
    /// For all endpoints of the node
    Node,
}

/// As Cilium's `--tofqdns-dns-reject-response-code`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "camelCase")]
#[value(rename_all = "camelCase")]
enum RawReject {
    /// REFUSED
    #[default]
    Refused,
    /// NXDOMAIN
    NameError,
}

/// `fqdn:` from the command line and the environment.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct FqdnSettings {
    /// For whom a resolved name opens its addresses
    #[arg(long, env = "SEVENTH_FQDN_SCOPE", value_enum)]
    fqdn_scope: Option<RawScope>,
    /// What a denied DNS query is answered
    #[arg(long, env = "SEVENTH_FQDN_REJECT", value_enum)]
    fqdn_reject: Option<RawReject>,
    /// Least time for which a resolved address is open, in seconds
    #[arg(long, env = "SEVENTH_FQDN_TTL_MIN_S", value_name = "SECONDS")]
    fqdn_ttl_min_s: Option<u64>,
    /// For how long after its time an address stays open, in seconds
    #[arg(long, env = "SEVENTH_FQDN_GRACE_S", value_name = "SECONDS")]
    fqdn_grace_s: Option<u64>,
    /// Names that are remembered at most
    #[arg(long, env = "SEVENTH_FQDN_NAMES_MAX", value_name = "N")]
    fqdn_names_max: Option<usize>,
    /// Addresses of one name at most
    #[arg(long, env = "SEVENTH_FQDN_ADDRESSES_PER_NAME_MAX", value_name = "N")]
    fqdn_addresses_per_name_max: Option<usize>,
    /// Where names outlive the agent
    #[arg(long, env = "SEVENTH_FQDN_STATE_FILE", value_name = "FILE")]
    fqdn_state_file: Option<PathBuf>,
    /// Names that are known beforehand
    #[arg(long, env = "SEVENTH_FQDN_PRE_CACHE", value_name = "FILE")]
    fqdn_pre_cache: Option<PathBuf>,
}

impl FqdnSettings {
    pub(crate) fn take_precedence(self, raw: &mut RawFqdn) {
        raw.scope = self.fqdn_scope.unwrap_or(raw.scope);
        raw.reject = self.fqdn_reject.unwrap_or(raw.reject);
        raw.ttl_min_s = self.fqdn_ttl_min_s.or(raw.ttl_min_s);
        raw.grace_s = self.fqdn_grace_s.or(raw.grace_s);
        raw.names_max = self.fqdn_names_max.or(raw.names_max);
        raw.addresses_per_name_max = self.fqdn_addresses_per_name_max.or(raw.addresses_per_name_max);
        raw.state_file = self.fqdn_state_file.or(raw.state_file.take());
        raw.pre_cache = self.fqdn_pre_cache.or(raw.pre_cache.take());
    }
}

/// Checked, with every default filled in.
#[derive(Clone, Debug)]
pub struct FqdnConfig {
    /// What one endpoint resolves opens addresses for all of them.
    pub(crate) node_wide: bool,
    /// What a denied query is answered.
    pub(crate) refusal: DnsRefusal,
    /// Bounds and times.
    pub(crate) limits: NameLimits,
    /// Where names outlive the agent.
    pub(crate) state_file: PathBuf,
    /// Names that are known beforehand.
    pub(crate) pre_cache: Option<PathBuf>,
}

/// A day: longer than anybody should trust an address.
const SECONDS_MAX: u64 = 86_400;

impl RawFqdn {
    /// Fills in and checks; relative paths count from `base`, the default of the state file from `api`. The error is the
    /// field and what is wrong with it.
    pub(crate) fn check(self, base: &Path, api: &Path) -> Result<FqdnConfig, (String, String)> {
        let default = NameLimits::default();
        let within = |field: &str, value: u64, min: u64, max: u64| {
            if (min..=max).contains(&value) {
                Ok(value)
            } else {
                Err((format!("fqdn.{field}"), format!("{value}; must be {min} to {max}")))
            }
        };
        let nanoseconds = |field, value: Option<u64>, default_ns: u64| -> Result<u64, (String, String)> {
            let Some(seconds) = value else { return Ok(default_ns) };
            Ok(within(field, seconds, 0, SECONDS_MAX)? * 1_000_000_000)
        };
        let count = |field, value: Option<usize>, default: usize| {
            let value = u64::try_from(value.unwrap_or(default)).unwrap_or(u64::MAX);
            let max = u64::try_from(NameLimits::default().addresses_max).unwrap_or(u64::MAX);
            within(field, value, 1, max).map(|value| usize::try_from(value).unwrap_or(usize::MAX))
        };
        Ok(FqdnConfig {
            node_wide: self.scope == RawScope::Node,
            refusal: match self.reject {
                RawReject::Refused => DnsRefusal::Refused,
                RawReject::NameError => DnsRefusal::NoSuchName,
            },
            limits: NameLimits {
                names_max: count("namesMax", self.names_max, default.names_max)?,
                addresses_per_name_max: count(
                    "addressesPerNameMax",
                    self.addresses_per_name_max,
                    default.addresses_per_name_max,
                )?,
                ttl_min_ns: nanoseconds("ttlMinS", self.ttl_min_s, default.ttl_min_ns)?,
                grace_ns: nanoseconds("graceS", self.grace_s, default.grace_ns)?,
                ..default
            },
            state_file: self
                .state_file
                .map_or_else(|| default_state_file(api), |file| base.join(file)),
            pre_cache: self.pre_cache.map(|file| base.join(file)),
        })
    }
}
