//! The configuration file of a standalone agent.
//!
//! Two types: [`RawConfig`] is the file, word for word; [`Config`] is checked, with every default filled in. A setting is
//! taken from the flag, else from `SEVENTH_*`, else from the file, else its default.

mod endpoints;
mod hubble;
mod inspection;
mod kubernetes;
mod metrics;
mod shown;

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use serde::Deserialize;
use seventh_abi::WORKERS_MAX;
use seventh_datapath::AttachMode;
use seventh_engine::EngineLimits;
use seventh_policy::{Enforcement, LabelFilter};

use crate::fqdn::{FqdnConfig, FqdnSettings, RawFqdn};
pub use endpoints::EndpointConfig;
use endpoints::{RawEndpoint, check_endpoints};
pub use hubble::{HubbleConfig, HubbleListen, HubbleTls};
use hubble::{HubbleSettings, RawHubble};
use inspection::RawInspection;
pub use kubernetes::KubernetesConfig;
use kubernetes::{KubernetesSettings, RawKubernetes};
pub use metrics::MetricsConfig;
use metrics::RawMetrics;

/// Why a configuration cannot be used: file, field and reason.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not what a configuration looks like.
    #[error("{path}: {reason}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        reason: String,
    },
    /// A field has a value that cannot be.
    #[error("{path}: {field}: {reason}")]
    Field {
        /// The file.
        path: PathBuf,
        /// Path of the field.
        field: String,
        /// What is wrong and what would be right.
        reason: String,
    },
}

/// Bytes of a configuration file at most.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// The file as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawConfig {
    node: Option<String>,
    #[serde(default)]
    policy_dirs: Vec<PathBuf>,
    #[serde(default)]
    endpoints: Vec<RawEndpoint>,
    #[serde(default)]
    audit: bool,
    #[serde(default)]
    enforcement: RawEnforcement,
    #[serde(default)]
    on_agent_down: OnAgentDown,
    api: Option<PathBuf>,
    #[serde(default)]
    hubble: RawHubble,
    metrics: Option<RawMetrics>,
    bpffs: Option<PathBuf>,
    workers: Option<usize>,
    mark: Option<u32>,
    #[serde(default)]
    attach: RawAttach,
    flows_max: Option<u32>,
    policy_rows_max: Option<u32>,
    ipcache_max: Option<u32>,
    allow_localhost: Option<bool>,
    #[serde(default)]
    identity_labels: Vec<String>,
    #[serde(default)]
    fqdn: RawFqdn,
    #[serde(default)]
    tls: TlsConfig,
    #[serde(default)]
    inspection: RawInspection,
    kubernetes: Option<RawKubernetes>,
}

/// What becomes of first flights that server names say nothing of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct TlsConfig {
    /// A ClientHello with ECH is refused, whatever its outer name.
    pub deny_ech: bool,
    /// QUIC of versions that cannot be read passes.
    pub pass_unknown_quic: bool,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RawEnforcement {
    /// Per direction, once a policy selects the endpoint
    #[default]
    Default,
    /// From the start
    Always,
    /// Not at all
    Never,
}

impl From<RawEnforcement> for Enforcement {
    fn from(raw: RawEnforcement) -> Self {
        match raw {
            RawEnforcement::Default => Self::Default,
            RawEnforcement::Always => Self::Always,
            RawEnforcement::Never => Self::Never,
        }
    }
}

/// A mode of enforcement as it is written.
pub(crate) fn enforcement_name(mode: Enforcement) -> &'static str {
    match mode {
        Enforcement::Default => "default",
        Enforcement::Always => "always",
        Enforcement::Never => "never",
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum OnAgentDown {
    /// They are dropped
    #[default]
    Closed,
    /// They pass unread
    Open,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum RawAttach {
    /// By tcx where the kernel has it (6.6), else by clsact
    #[default]
    Auto,
    /// By tcx links
    Tcx,
    /// By the clsact queueing discipline
    Clsact,
}

/// A configuration that can be used.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file, for messages.
    pub file: PathBuf,
    /// Name of the node.
    pub node: String,
    /// Directories (or files) of policy documents.
    pub policy_dirs: Vec<PathBuf>,
    /// What to manage.
    pub endpoints: Vec<EndpointConfig>,
    /// Which labels make an identity: patterns of [`LabelFilter::new`].
    pub identity_labels: Vec<String>,
    /// Every endpoint is in audit.
    pub audit: bool,
    /// When endpoints are in default deny.
    pub enforcement: Enforcement,
    /// Whether the node itself may always reach its endpoints.
    pub allow_localhost: bool,
    /// Whether flows that need a new L7 verdict pass while no agent runs.
    pub open_without_agent: bool,
    /// Socket of the API.
    pub api: PathBuf,
    /// Where maps and links are pinned.
    pub bpffs: PathBuf,
    /// Threads that inspect.
    pub workers: usize,
    /// Bits of the packet mark.
    pub mark: u32,
    /// How programs are attached.
    pub attach: AttachMode,
    /// Entries of the kernel's flow table.
    pub flows_max: u32,
    /// Rows of the kernel's policy table.
    pub policy_rows_max: u32,
    /// Prefixes of which the kernel knows whose they are.
    pub ipcache_max: u32,
    /// DNS rules and names.
    pub fqdn: FqdnConfig,
    /// serverNames rules.
    pub tls: TlsConfig,
    /// Bounds and waiting times of each engine.
    pub inspection: EngineLimits,
    /// Flow records and who may read them.
    pub hubble: HubbleConfig,
    /// Metrics and health, if they are served.
    pub metrics: Option<MetricsConfig>,
    /// The cluster whose pods and policies it serves, if it does.
    pub kubernetes: Option<KubernetesConfig>,
}

/// Settings from the command line and the environment; what is there comes before the file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Settings {
    /// Directory (or file) of policy documents; in place of the file's `policyDirs`
    #[arg(long, env = "SEVENTH_POLICY_DIR", value_delimiter = ':', value_name = "DIR")]
    pub policy_dir: Vec<PathBuf>,
    /// Name of this node
    #[arg(long, env = "SEVENTH_NODE")]
    pub node: Option<String>,
    /// Unix socket on which the agent answers
    #[arg(long, env = "SEVENTH_API", value_name = "PATH")]
    pub api: Option<PathBuf>,
    /// Directory on a bpf file system where programs and maps are pinned
    #[arg(long, env = "SEVENTH_BPFFS", value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
    /// Threads that inspect
    #[arg(long, env = "SEVENTH_WORKERS", value_name = "N")]
    pub workers: Option<usize>,
    /// Bits of the packet mark that nothing else on this node uses
    #[arg(long, env = "SEVENTH_MARK", value_name = "BITS", value_parser = parse_mark)]
    pub mark: Option<u32>,
    /// How programs are attached
    #[arg(long, env = "SEVENTH_ATTACH", value_enum)]
    attach: Option<RawAttach>,
    /// Enforce nothing, and tell what would be denied
    #[arg(long, env = "SEVENTH_AUDIT")]
    pub audit: bool,
    /// When endpoints are in default deny
    #[arg(long, env = "SEVENTH_ENFORCEMENT", value_enum)]
    enforcement: Option<RawEnforcement>,
    /// Which labels make an identity: `[!][source:]regex`, `!` ignores; several are separated by spaces
    #[arg(
        long,
        env = "SEVENTH_IDENTITY_LABELS",
        value_name = "PATTERNS",
        value_delimiter = ' '
    )]
    identity_labels: Vec<String>,
    /// Whether the node itself may always reach its endpoints
    #[arg(long, env = "SEVENTH_ALLOW_LOCALHOST", value_name = "BOOL")]
    allow_localhost: Option<bool>,
    /// What becomes of flows that need a new L7 verdict while no agent runs
    #[arg(long, env = "SEVENTH_ON_AGENT_DOWN", value_enum)]
    on_agent_down: Option<OnAgentDown>,
    /// Entries of the kernel's flow table
    #[arg(long, env = "SEVENTH_FLOWS_MAX", value_name = "N")]
    flows_max: Option<u32>,
    /// Rows of the kernel's policy table
    #[arg(long, env = "SEVENTH_POLICY_ROWS_MAX", value_name = "N")]
    policy_rows_max: Option<u32>,
    /// Addresses and prefixes of which the kernel knows whose they are
    #[arg(long, env = "SEVENTH_IPCACHE_MAX", value_name = "N")]
    ipcache_max: Option<u32>,
    /// Refuse a ClientHello with ECH, whatever its outer name
    #[arg(long, env = "SEVENTH_TLS_DENY_ECH", value_name = "BOOL")]
    tls_deny_ech: Option<bool>,
    /// Let QUIC of versions that cannot be read pass
    #[arg(long, env = "SEVENTH_TLS_PASS_UNKNOWN_QUIC", value_name = "BOOL")]
    tls_pass_unknown_quic: Option<bool>,
    #[command(flatten)]
    hubble: HubbleSettings,
    #[command(flatten)]
    fqdn: FqdnSettings,
    #[command(flatten)]
    kubernetes: KubernetesSettings,
}

impl Settings {
    fn take_precedence(self, raw: &mut RawConfig) {
        fn over<T>(raw: &mut Option<T>, setting: Option<T>) {
            if setting.is_some() {
                *raw = setting;
            }
        }
        if !self.policy_dir.is_empty() {
            raw.policy_dirs = self.policy_dir;
        }
        over(&mut raw.node, self.node);
        over(&mut raw.api, self.api);
        over(&mut raw.bpffs, self.bpffs);
        over(&mut raw.workers, self.workers);
        over(&mut raw.mark, self.mark);
        raw.audit |= self.audit;
        raw.attach = self.attach.unwrap_or(raw.attach);
        raw.enforcement = self.enforcement.unwrap_or(raw.enforcement);
        if !self.identity_labels.is_empty() {
            raw.identity_labels = self.identity_labels;
        }
        over(&mut raw.allow_localhost, self.allow_localhost);
        raw.on_agent_down = self.on_agent_down.unwrap_or(raw.on_agent_down);
        over(&mut raw.flows_max, self.flows_max);
        over(&mut raw.policy_rows_max, self.policy_rows_max);
        over(&mut raw.ipcache_max, self.ipcache_max);
        raw.tls.deny_ech = self.tls_deny_ech.unwrap_or(raw.tls.deny_ech);
        raw.tls.pass_unknown_quic = self.tls_pass_unknown_quic.unwrap_or(raw.tls.pass_unknown_quic);
        self.hubble.take_precedence(&mut raw.hubble);
        self.fqdn.take_precedence(&mut raw.fqdn);
        self.kubernetes.take_precedence(&mut raw.kubernetes);
    }
}

/// Room of a table of the kernel.
fn entries(field: &'static str, wanted: Option<u32>, default: u32) -> Result<u32, Wrong> {
    let max = wanted.unwrap_or(default);
    if (1024..=16_777_216).contains(&max) {
        return Ok(max);
    }
    Err(wrong(field, format!("{max}; must be 1024 to 16777216")))
}

/// Decimal, or hexadecimal after `0x`.
fn parse_mark(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|e| format!("{e}; a number such as 0x400 is needed"))
}

/// Default of `api`.
pub const API_SOCKET: &str = "/run/seventh/seventh.sock";
/// Default of `bpffs`.
pub const BPFFS: &str = "/sys/fs/bpf/seventh";

impl Config {
    /// Reads and checks a file; `settings` come before it. Policy directories that it names are relative to it.
    ///
    /// # Errors
    /// [`ConfigError`], naming file and field.
    pub fn load(path: &Path, settings: Settings) -> Result<Self, ConfigError> {
        Self::parse_with(path, &read(path)?, settings)
    }

    /// What the settings say, and defaults.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn without_file(settings: Settings) -> Result<Self, ConfigError> {
        Self::parse_with(Path::new("(no file)"), "{}", settings)
    }

    /// Reads the endpoints of a file for others than an agent; they need no device.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub(crate) fn load_endpoints(path: &Path) -> Result<Self, ConfigError> {
        Self::parse_raw(path, &read(path)?, |raw| {
            for (number, endpoint) in (1..).zip(&mut raw.endpoints) {
                if endpoint.interface.is_empty() {
                    endpoint.interface = format!("none{number}");
                }
            }
        })
    }

    /// Checks the text of a file.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        Self::parse_with(path, text, Settings::default())
    }

    fn parse_with(path: &Path, text: &str, settings: Settings) -> Result<Self, ConfigError> {
        Self::parse_raw(path, text, |raw| settings.take_precedence(raw))
    }

    fn parse_raw(path: &Path, text: &str, change: impl FnOnce(&mut RawConfig)) -> Result<Self, ConfigError> {
        let mut raw: RawConfig = serde_saphyr::from_str(text).map_err(|e| ConfigError::Syntax {
            path: path.to_path_buf(),
            reason: e.to_string(),
        })?;
        let base = path.parent().unwrap_or(Path::new("."));
        for dir in &mut raw.policy_dirs {
            *dir = base.join(&*dir);
        }
        change(&mut raw);
        raw.check(path).map_err(|Wrong { field, reason }| ConfigError::Field {
            path: path.to_path_buf(),
            field,
            reason,
        })
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let read_error = |source| ConfigError::Read {
        path: path.to_path_buf(),
        source,
    };
    let length = fs::metadata(path).map_err(read_error)?.len();
    if length > FILE_BYTES_MAX {
        return Err(ConfigError::Syntax {
            path: path.to_path_buf(),
            reason: format!("{length} bytes; at most {FILE_BYTES_MAX} are read"),
        });
    }
    fs::read_to_string(path).map_err(read_error)
}

/// A field and what is wrong with it.
struct Wrong {
    field: String,
    reason: String,
}

fn wrong(field: impl Into<String>, reason: impl Into<String>) -> Wrong {
    Wrong {
        field: field.into(),
        reason: reason.into(),
    }
}

impl RawConfig {
    fn check(self, file: &Path) -> Result<Config, Wrong> {
        let workers = self.workers.unwrap_or(1);
        if !(1..=WORKERS_MAX).contains(&workers) {
            return Err(wrong("workers", format!("{workers}; must be 1 to {WORKERS_MAX}")));
        }
        let mark = self.mark.unwrap_or(0x400);
        if mark == 0 {
            return Err(wrong(
                "mark",
                "0; must have at least one bit that nothing else on this node uses",
            ));
        }
        let flows_max = entries("flowsMax", self.flows_max, 1 << 18)?;
        let policy_rows_max = entries("policyRowsMax", self.policy_rows_max, 1 << 20)?;
        let ipcache_max = entries("ipcacheMax", self.ipcache_max, 1 << 20)?;
        let filter = LabelFilter::new(self.identity_labels.iter().map(String::as_str))
            .map_err(|reason| wrong("identityLabels", reason))?;
        let api = absolute("api", self.api, API_SOCKET)?;
        let base = file.parent().unwrap_or(Path::new("."));
        let fqdn = self
            .fqdn
            .check(base, &api)
            .map_err(|(field, reason)| wrong(field, reason))?;
        let kubernetes = self.kubernetes.map(|raw| raw.check(base)).transpose()?;
        if kubernetes.is_some() {
            beside_a_cluster(&self.endpoints, &fqdn)?;
        }
        Ok(Config {
            file: file.to_path_buf(),
            node: match self.node {
                Some(node) if node.is_empty() => return Err(wrong("node", "is empty; leave it out for the host name")),
                Some(node) => node,
                None => nix::unistd::gethostname().map_or_else(|_| "node".into(), |n| n.to_string_lossy().into_owned()),
            },
            policy_dirs: self.policy_dirs,
            endpoints: check_endpoints(self.endpoints, &filter)?,
            identity_labels: self.identity_labels,
            kubernetes,
            audit: self.audit,
            enforcement: self.enforcement.into(),
            allow_localhost: self.allow_localhost.unwrap_or(true),
            open_without_agent: self.on_agent_down == OnAgentDown::Open,
            api,
            bpffs: absolute("bpffs", self.bpffs, BPFFS)?,
            workers,
            mark,
            attach: match self.attach {
                RawAttach::Auto => AttachMode::Auto,
                RawAttach::Tcx => AttachMode::Tcx,
                RawAttach::Clsact => AttachMode::Clsact,
            },
            flows_max,
            policy_rows_max,
            ipcache_max,
            fqdn,
            tls: self.tls,
            inspection: self
                .inspection
                .check()
                .map_err(|(field, reason)| wrong(field, reason))?,
            hubble: self.hubble.check(base)?,
            metrics: self.metrics.map(|metrics| metrics.check(base)).transpose()?,
        })
    }
}

/// What cannot be said of endpoints that come and go.
fn beside_a_cluster(endpoints: &[RawEndpoint], fqdn: &FqdnConfig) -> Result<(), Wrong> {
    if !endpoints.is_empty() {
        let reason = "cannot be named where a cluster is served: its pods are the endpoints";
        return Err(wrong("endpoints", reason));
    }
    if fqdn.pre_cache.is_some() && !fqdn.node_wide {
        let reason = "cannot be given for pods that nobody knows yet; with `fqdn.scope: node` it is for all of them";
        return Err(wrong("fqdn.preCache", reason));
    }
    Ok(())
}

fn absolute(field: &str, path: Option<PathBuf>, default: &str) -> Result<PathBuf, Wrong> {
    match path {
        None => Ok(default.into()),
        Some(path) if path.is_absolute() => Ok(path),
        Some(path) => Err(wrong(field, format!("`{}` must begin with a slash", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::{AttachMode, Config, ConfigError, Settings, TlsConfig, parse_mark};
    use seventh_policy::Labels;
    use std::path::Path;

    fn field(text: &str) -> String {
        match Config::parse(Path::new("/etc/seventh/config.yaml"), text) {
            Err(ConfigError::Field { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    }

    const ENDPOINT: &str = "endpoints: [{name: a/b, interface: v0, ips: [10.0.0.1]";

    #[test]
    fn the_documented_example_is_read_with_its_defaults() {
        let text = "node: node-a\npolicyDirs: [policies/]\nendpoints:\n  - name: default/frontend\n    labels: {app: frontend}\n    interface: veth-fe\n    ips: [10.0.1.2, \"fd00:1::2\"]\n    namedPorts: {http: 8080}\naudit: false\nenforcement: default\nonAgentDown: closed\napi: /run/seventh/seventh.sock\n";
        let config = Config::parse(Path::new("/etc/seventh/config.yaml"), text).unwrap();
        assert_eq!(config.policy_dirs, [Path::new("/etc/seventh/policies/")]);
        assert_eq!(config.endpoints[0].ips.len(), 2);
        assert!(config.endpoints[0].labels.has("k8s", "io.kubernetes.pod.namespace"));
        assert_eq!((config.workers, config.mark), (1, 0x400));
    }

    #[test]
    fn first_flights_are_strict_unless_told_otherwise() {
        let tls = |text: &str| Config::parse(Path::new("/c.yaml"), text).map(|config| config.tls).ok();
        let strict = TlsConfig::default();
        assert_eq!((tls("node: a"), strict.pass_unknown_quic), (Some(strict), false));
        let told = TlsConfig {
            deny_ech: true,
            pass_unknown_quic: true,
        };
        assert_eq!(tls("node: a\ntls: {denyEch: true, passUnknownQuic: true}"), Some(told));
        assert_eq!(tls("node: a\ntls: {denyECH: true}"), None);
    }

    #[test]
    fn a_wrong_value_names_its_field() {
        assert_eq!(field("workers: 0"), "workers");
        assert_eq!(field("mark: 0"), "mark");
        for table in ["flowsMax", "policyRowsMax", "ipcacheMax"] {
            assert_eq!(field(&format!("{table}: 3")), table);
        }
        assert_eq!(field("api: run/seventh.sock"), "api");
        assert_eq!(field("bpffs: bpf"), "bpffs");
        assert_eq!(field("node: ''"), "node");
        assert_eq!(
            field("endpoints: [{name: ab, interface: v0, ips: [10.0.0.1]}]"),
            "endpoints[0].name"
        );
        assert_eq!(
            field("endpoints: [{name: a/b, interface: '', ips: [10.0.0.1]}]"),
            "endpoints[0].interface"
        );
        assert_eq!(
            field("endpoints: [{name: a/b, interface: v0, ips: []}]"),
            "endpoints[0].ips"
        );
        assert_eq!(
            field("endpoints: [{name: a/b, interface: v0, ips: [10.0.0.256]}]"),
            "endpoints[0].ips[0]"
        );
    }

    #[test]
    fn the_example_in_the_repository_is_read() {
        let text = include_str!("../../../deploy/examples/config.yaml");
        let config = Config::parse(Path::new("/x/config.yaml"), text).unwrap();
        assert_eq!((config.endpoints.len(), config.mark), (2, 0x400));
    }

    #[test]
    fn the_command_line_comes_before_the_file() {
        let text = "node: file\nworkers: 2\nmark: 1\npolicyDirs: [p]\nattach: clsact";
        let settings = Settings {
            workers: Some(3),
            policy_dir: vec!["q".into()],
            ..Settings::default()
        };
        let config = Config::parse_with(Path::new("/x/c.yaml"), text, settings).unwrap();
        assert_eq!((config.workers, config.node.as_str(), config.mark), (3, "file", 1));
        // What the command line names is relative to where it was typed.
        assert_eq!(config.policy_dirs, [Path::new("q")]);
        assert_eq!(config.attach, AttachMode::Clsact);
    }

    #[test]
    fn every_setting_can_be_given_on_the_command_line() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            settings: Settings,
        }
        let read = |args: &str| {
            let args = std::iter::once("x").chain(args.split_whitespace());
            let line = <Line as clap::Parser>::try_parse_from(args).map_err(|e| e.to_string())?;
            let file = "node: n\nfqdn: {graceS: 7}\nhubble: {listen: '127.0.0.1:4244'}\ntls: {denyEch: true}";
            Config::parse_with(Path::new("/x/c.yaml"), file, line.settings).map_err(|e| e.to_string())
        };
        let plain = read("").unwrap();
        assert!(plain.tls.deny_ech && plain.allow_localhost && !plain.open_without_agent && !plain.fqdn.node_wide);
        let told = read(
            "--allow-localhost false --on-agent-down open --flows-max 2048 --tls-deny-ech false --tls-pass-unknown-quic true \
             --fqdn-scope node --fqdn-reject nameError --fqdn-ttl-min-s 3 --hubble-listen 127.0.0.1:5 \
             --hubble-event-buffer-capacity 1023 --hubble-redact-enabled false",
        )
        .unwrap();
        assert!(!told.tls.deny_ech && told.tls.pass_unknown_quic && !told.allow_localhost && told.open_without_agent);
        assert_eq!((told.flows_max, told.fqdn.node_wide), (2048, true));
        assert_eq!(told.fqdn.limits.ttl_min_ns, 3_000_000_000);
        assert_eq!(told.fqdn.limits.grace_ns, 7_000_000_000, "from the file");
        assert_eq!(told.hubble.listen.unwrap().address.port(), 5);
        assert!(
            read("--hubble-tls-cert-file a")
                .unwrap_err()
                .contains("--hubble-tls-key-file")
        );
        assert!(read("--fqdn-ttl-min-s 99999999").unwrap_err().contains("fqdn.ttlMinS"));
    }

    #[test]
    fn labels_that_only_tell_instances_apart_make_no_identity() {
        let read = |more: &str| {
            let text = format!(
                "{more}\nendpoints: [{{name: a/b, interface: v0, ips: [10.0.0.1], labels: {{app: web, pod-template-hash: x1, \
                 team: red}}}}]"
            );
            Config::parse(Path::new("/x/c.yaml"), &text).map(|config| {
                let of = |labels: &Labels| labels.iter().map(|l| l.key.clone()).collect::<Vec<_>>().join(" ");
                let [endpoint] = config.endpoints.as_slice() else {
                    panic!("one endpoint")
                };
                (of(&endpoint.labels), of(&endpoint.ignored_labels))
            })
        };
        let labels = |counting: &str, ignored: &str| (counting.to_owned(), ignored.to_owned());
        assert_eq!(
            read("").unwrap(),
            labels("app io.kubernetes.pod.namespace team", "pod-template-hash")
        );
        assert_eq!(
            read("identityLabels: ['!team']").unwrap(),
            labels("app io.kubernetes.pod.namespace", "pod-template-hash team")
        );
        assert_eq!(
            read("identityLabels: ['k8s:app']").unwrap(),
            labels("app io.kubernetes.pod.namespace", "pod-template-hash team")
        );
        assert_eq!(field("identityLabels: ['(']"), "identityLabels");
    }

    #[test]
    fn a_mark_is_read_in_both_notations() {
        assert_eq!((parse_mark("0x400"), parse_mark("1024")), (Ok(1024), Ok(1024)));
        assert!(parse_mark("0x").is_err() && parse_mark("-1").is_err() && parse_mark("0x1ffffffff").is_err());
    }

    #[test]
    fn what_two_endpoints_cannot_share_is_refused() {
        let second = |rest: &str| format!("{ENDPOINT}}}, {{{rest}}}]");
        assert_eq!(
            field(&second("name: a/b, interface: v1, ips: [10.0.0.2]")),
            "endpoints[1].name"
        );
        assert_eq!(
            field(&second("name: a/c, interface: v0, ips: [10.0.0.2]")),
            "endpoints[1].interface"
        );
        assert_eq!(
            field(&second("name: a/c, interface: v1, ips: [10.0.0.1]")),
            "endpoints[1].ips"
        );
    }

    #[test]
    fn audit_and_observe_are_off_until_somebody_asks() {
        let endpoint = |more: &str| {
            let text = format!("{ENDPOINT}{more}}}]");
            let config = Config::parse(Path::new("/c.yaml"), &text).unwrap();
            (config.endpoints[0].audit, config.endpoints[0].observe)
        };
        assert_eq!(endpoint(""), (false, false));
        assert_eq!(endpoint(", audit: true"), (true, false));
        assert_eq!(endpoint(", observe: true"), (false, true));
        let all = |text: &str, audit| {
            let settings = Settings {
                audit,
                ..Settings::default()
            };
            Config::parse_with(Path::new("/c.yaml"), text, settings).unwrap().audit
        };
        assert!(all("audit: true", false) && all("audit: false", true) && !all("node: a", false));
    }

    #[test]
    fn an_unknown_key_or_a_wrong_type_is_an_error_with_its_line() {
        for text in ["endpoint: []", "node: a\nworkers: many"] {
            match Config::parse(Path::new("c.yaml"), text) {
                Err(ConfigError::Syntax { reason, .. }) => assert!(reason.contains("line"), "{reason}"),
                other => panic!("{other:?}"),
            }
        }
    }
}
