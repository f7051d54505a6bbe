//! `kubernetes:` of the configuration: the cluster whose pods and policies an agent serves.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use super::{Wrong, wrong};

/// Name of a cluster that nobody has named; the label that carries it is on every pod.
const CLUSTER_DEFAULT: &str = "default";
/// Bytes of a cluster's name at most: it is the value of a label.
const CLUSTER_LEN_MAX: usize = 63;
/// How often it is looked whether kinds of policies are served that were not, unless configured.
const DISCOVERY_DEFAULT_S: u64 = 30;
const DISCOVERY_MAX_S: u64 = 3600;
/// Where container runtimes keep network namespaces, unless configured. Those of processes are found without.
const NETNS_DIRS: &[&str] = &["/run/netns", "/run/docker/netns"];

/// As written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawKubernetes {
    kubeconfig: Option<PathBuf>,
    cluster: Option<String>,
    discovery_s: Option<u64>,
    netns_dirs: Option<Vec<PathBuf>>,
    proc_dir: Option<PathBuf>,
}

/// From the command line and the environment.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct KubernetesSettings {
    /// Take pods and policies from the API server of a cluster
    #[arg(long, env = "SEVENTH_KUBERNETES")]
    kubernetes: bool,
    /// File that says how to reach the API server; without, as a pod of the cluster
    #[arg(long, env = "SEVENTH_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

impl KubernetesSettings {
    pub(super) fn take_precedence(self, raw: &mut Option<RawKubernetes>) {
        if self.kubernetes || self.kubeconfig.is_some() {
            let raw = raw.get_or_insert_default();
            if self.kubeconfig.is_some() {
                raw.kubeconfig = self.kubeconfig;
            }
        }
    }
}

/// The cluster whose pods and policies an agent serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesConfig {
    /// How to reach the API server; without, by the pod's own service account.
    pub kubeconfig: Option<PathBuf>,
    /// Name of the cluster, as pods carry it in a label.
    pub cluster: String,
    /// How often it is looked whether kinds of policies are served that were not.
    pub discover_every: Duration,
    /// Directories of network namespaces.
    pub netns_dirs: Vec<PathBuf>,
    /// Where the node's processes are listed.
    pub proc_dir: PathBuf,
}

impl RawKubernetes {
    /// A file that is not absolute is relative to `base`.
    pub(super) fn check(self, base: &Path) -> Result<KubernetesConfig, Wrong> {
        let cluster = self.cluster.unwrap_or_else(|| CLUSTER_DEFAULT.to_owned());
        if cluster.is_empty() || cluster.len() > CLUSTER_LEN_MAX {
            let reason = format!("must be 1 to {CLUSTER_LEN_MAX} bytes: it becomes the value of a label");
            return Err(wrong("kubernetes.cluster", reason));
        }
        let discovery_s = self.discovery_s.unwrap_or(DISCOVERY_DEFAULT_S);
        if !(1..=DISCOVERY_MAX_S).contains(&discovery_s) {
            let reason = format!("{discovery_s}; must be 1 to {DISCOVERY_MAX_S}");
            return Err(wrong("kubernetes.discoveryS", reason));
        }
        let dirs = self.netns_dirs;
        Ok(KubernetesConfig {
            kubeconfig: self.kubeconfig.map(|file| base.join(file)),
            cluster,
            discover_every: Duration::from_secs(discovery_s),
            netns_dirs: dirs.unwrap_or_else(|| NETNS_DIRS.iter().map(PathBuf::from).collect()),
            proc_dir: self.proc_dir.unwrap_or_else(|| "/proc".into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, ConfigError, Settings};
    use std::path::Path;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        settings: Settings,
    }

    fn read(file: &str, args: &str) -> Result<Config, ConfigError> {
        let args = std::iter::once("x").chain(args.split_whitespace());
        let settings = <Line as clap::Parser>::try_parse_from(args).unwrap().settings;
        Config::parse_with(Path::new("/etc/seventh/c.yaml"), file, settings)
    }

    #[test]
    fn a_cluster_is_served_if_the_file_or_the_command_line_says_so() {
        assert_eq!(read("node: a", "").unwrap().kubernetes, None);
        for (file, args) in [("kubernetes: {}", ""), ("node: a", "--kubernetes")] {
            let kubernetes = read(file, args).unwrap().kubernetes.unwrap();
            assert_eq!((kubernetes.kubeconfig, kubernetes.cluster.as_str()), (None, "default"));
        }
        let named = read("kubernetes: {kubeconfig: k, cluster: blue}", "")
            .unwrap()
            .kubernetes
            .unwrap();
        assert_eq!(named.kubeconfig.as_deref(), Some(Path::new("/etc/seventh/k")));
        let told = read("kubernetes: {kubeconfig: k}", "--kubeconfig /x")
            .unwrap()
            .kubernetes
            .unwrap();
        assert_eq!(told.kubeconfig.as_deref(), Some(Path::new("/x")));
    }

    #[test]
    fn with_a_cluster_no_file_is_needed() {
        let settings = <Line as clap::Parser>::try_parse_from(["x", "--kubernetes", "--node", "n"])
            .unwrap()
            .settings;
        let config = Config::without_file(settings).unwrap();
        assert!(config.kubernetes.is_some() && config.node == "n");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let field = |file: &str| match read(file, "") {
            Err(ConfigError::Field { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(field("kubernetes: {cluster: ''}"), "kubernetes.cluster");
        assert_eq!(field("kubernetes: {discoveryS: 0}"), "kubernetes.discoveryS");
        let endpoints = "endpoints: [{name: a/b, interface: v0, ips: [10.0.0.1]}]";
        assert_eq!(field(&format!("kubernetes: {{}}\n{endpoints}")), "endpoints");
        assert_eq!(field("kubernetes: {}\nfqdn: {preCache: f}"), "fqdn.preCache");
    }
}
