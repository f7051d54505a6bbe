//! The configuration as people look at it: every setting by its name in the file, with its value in force.

use std::{fmt::Display, path::PathBuf};

use seventh_datapath::AttachMode;
use seventh_engine::{DnsRefusal, EngineLimits, NameLimits};
use seventh_flows::HeaderRedaction;

use super::inspection::SECOND_NS;
use super::{Config, HubbleConfig, HubbleListen, HubbleTls, KubernetesConfig, MetricsConfig, TlsConfig};
use crate::fqdn::FqdnConfig;

/// A setting's name and its value; an empty value is none.
pub(crate) type Shown = (&'static str, String);

impl Config {
    /// Every setting that only the file and the command line give, in the order of the documentation. Taken apart field
    /// by field, so that none can be forgotten.
    pub(crate) fn shown(&self) -> Vec<Shown> {
        let Self {
            file,
            node,
            policy_dirs,
            endpoints,
            identity_labels,
            audit: _,
            enforcement: _,
            allow_localhost: _,
            open_without_agent,
            api,
            bpffs,
            workers,
            mark,
            attach,
            flows_max,
            policy_rows_max,
            ipcache_max,
            fqdn,
            tls,
            inspection,
            hubble,
            metrics,
            kubernetes,
        } = self;
        let mut all = vec![
            ("config", file.display().to_string()),
            ("node", node.clone()),
            ("policyDirs", paths(policy_dirs)),
            ("endpoints", endpoints.len().to_string()),
            ("identityLabels", identity_labels.join(" ")),
            (
                "onAgentDown",
                if *open_without_agent { "open" } else { "closed" }.to_owned(),
            ),
            ("api", api.display().to_string()),
            ("bpffs", bpffs.display().to_string()),
            ("workers", workers.to_string()),
            ("mark", format!("{mark:#x}")),
            ("attach", attach_mode(*attach).to_owned()),
            ("flowsMax", flows_max.to_string()),
            ("policyRowsMax", policy_rows_max.to_string()),
            ("ipcacheMax", ipcache_max.to_string()),
        ];
        all.extend(of_fqdn(fqdn));
        let TlsConfig {
            deny_ech,
            pass_unknown_quic,
        } = tls;
        all.push(("tls.denyEch", deny_ech.to_string()));
        all.push(("tls.passUnknownQuic", pass_unknown_quic.to_string()));
        all.extend(of_inspection(inspection));
        all.extend(of_hubble(hubble));
        all.extend(of_metrics(metrics.as_ref()));
        all.extend(kubernetes.iter().flat_map(of_kubernetes));
        all
    }
}

fn of_kubernetes(config: &KubernetesConfig) -> Vec<Shown> {
    let KubernetesConfig {
        kubeconfig,
        cluster,
        discover_every,
        netns_dirs,
        proc_dir,
    } = config;
    vec![
        (
            "kubernetes.kubeconfig",
            or_nothing(kubeconfig.as_ref().map(|file| file.display())),
        ),
        ("kubernetes.cluster", cluster.clone()),
        ("kubernetes.discoveryS", discover_every.as_secs().to_string()),
        ("kubernetes.netnsDirs", paths(netns_dirs)),
        ("kubernetes.procDir", proc_dir.display().to_string()),
    ]
}

fn paths(all: &[PathBuf]) -> String {
    let all: Vec<String> = all.iter().map(|path| path.display().to_string()).collect();
    all.join(":")
}

fn or_nothing(value: Option<impl Display>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

fn attach_mode(mode: AttachMode) -> &'static str {
    match mode {
        AttachMode::Auto => "auto",
        AttachMode::Tcx => "tcx",
        AttachMode::Clsact => "clsact",
    }
}

fn of_fqdn(config: &FqdnConfig) -> Vec<Shown> {
    let FqdnConfig {
        node_wide,
        refusal,
        limits,
        state_file,
        pre_cache,
    } = config;
    let NameLimits {
        names_max,
        addresses_per_name_max,
        // Has no name in the file: as much as the kernel's table holds.
        addresses_max: _,
        ttl_min_ns,
        grace_ns,
    } = limits;
    let reject = match refusal {
        DnsRefusal::Refused => "refused",
        DnsRefusal::NoSuchName => "nameError",
    };
    vec![
        ("fqdn.scope", if *node_wide { "node" } else { "endpoint" }.to_owned()),
        ("fqdn.reject", reject.to_owned()),
        ("fqdn.ttlMinS", (ttl_min_ns / SECOND_NS).to_string()),
        ("fqdn.graceS", (grace_ns / SECOND_NS).to_string()),
        ("fqdn.namesMax", names_max.to_string()),
        ("fqdn.addressesPerNameMax", addresses_per_name_max.to_string()),
        ("fqdn.stateFile", state_file.display().to_string()),
        (
            "fqdn.preCache",
            or_nothing(pre_cache.as_ref().map(|file| file.display())),
        ),
    ]
}

/// Those that `inspection:` of the file holds; the others are no settings.
fn of_inspection(limits: &EngineLimits) -> Vec<Shown> {
    let seconds = |time_ns: u64| (time_ns / SECOND_NS).to_string();
    vec![
        ("inspection.headBytesMax", limits.http.head_len_max.to_string()),
        ("inspection.headersMax", limits.http.headers_max.to_string()),
        ("inspection.headTimeoutS", seconds(limits.head_timeout_ns)),
        ("inspection.idleTimeoutS", seconds(limits.idle_timeout_ns)),
        ("inspection.quietTimeoutS", seconds(limits.quiet_timeout_ns)),
        ("inspection.flowBytesMax", limits.flow_bytes_max.to_string()),
        ("inspection.heldBytesMax", limits.held_bytes_max.to_string()),
        ("inspection.flowsMax", limits.flows_max.to_string()),
        (
            "inspection.midStream",
            if limits.take_up { "boundary" } else { "deny" }.to_owned(),
        ),
        ("inspection.kernelJudges", limits.kernel_judges.to_string()),
    ]
}

fn of_hubble(config: &HubbleConfig) -> Vec<Shown> {
    let HubbleConfig {
        listen,
        capacity,
        redaction,
        cluster,
        node_labels,
        http_headers,
        flow_logs,
        flow_logs_file,
    } = config;
    let (allow, deny) = match &redaction.headers {
        HeaderRedaction::Nothing => (String::new(), String::new()),
        HeaderRedaction::AllBut(names) => (names.iter().cloned().collect::<Vec<_>>().join(","), String::new()),
        HeaderRedaction::Only(names) => (String::new(), names.iter().cloned().collect::<Vec<_>>().join(",")),
    };
    let enabled = redaction.url_query || redaction.user_info || redaction.headers != HeaderRedaction::Nothing;
    let mut all = of_listen(listen.as_ref());
    all.extend([
        ("hubble.eventBufferCapacity", capacity.records().to_string()),
        ("hubble.redact.enabled", enabled.to_string()),
        ("hubble.redact.httpUrlQuery", redaction.url_query.to_string()),
        ("hubble.redact.httpUserInfo", redaction.user_info.to_string()),
        ("hubble.redact.httpHeadersAllow", allow),
        ("hubble.redact.httpHeadersDeny", deny),
        ("hubble.cluster", cluster.clone()),
        ("hubble.nodeLabels", node_labels.len().to_string()),
        ("hubble.httpHeaders", http_headers.to_string()),
        ("hubble.flowLogs", flow_logs.len().to_string()),
        (
            "hubble.flowLogsConfig",
            or_nothing(flow_logs_file.as_ref().map(|file| file.display())),
        ),
    ]);
    all
}

fn of_listen(listen: Option<&HubbleListen>) -> Vec<Shown> {
    let tls = listen.and_then(|listen| listen.tls.as_ref());
    let file = |of: fn(&HubbleTls) -> &PathBuf| or_nothing(tls.map(|tls| of(tls).display()));
    vec![
        ("hubble.listen", or_nothing(listen.map(|listen| listen.address))),
        (
            "hubble.announce",
            or_nothing(listen.and_then(|listen| listen.announce.as_ref())),
        ),
        ("hubble.tls.certFile", file(|tls| &tls.cert_file)),
        ("hubble.tls.keyFile", file(|tls| &tls.key_file)),
        ("hubble.tls.clientCaFile", file(|tls| &tls.client_ca_file)),
        (
            "hubble.tls.serverName",
            or_nothing(tls.and_then(|tls| tls.server_name.as_ref())),
        ),
    ]
}

fn of_metrics(config: Option<&MetricsConfig>) -> Vec<Shown> {
    let Some(config) = config else {
        return vec![("metrics.listen", String::new())];
    };
    let MetricsConfig {
        listen,
        plugins,
        plugins_file,
        series_max,
    } = config;
    vec![
        ("metrics.listen", listen.to_string()),
        ("metrics.hubble", plugins.len().to_string()),
        (
            "metrics.hubbleConfig",
            or_nothing(plugins_file.as_ref().map(|file| file.display())),
        ),
        ("metrics.seriesMax", series_max.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::Config;
    use std::path::Path;

    #[test]
    fn a_setting_is_shown_by_its_name_in_the_file_with_its_value() {
        let text = "node: n\npolicyDirs: [p, /q]\nonAgentDown: open\nworkers: 3\nattach: tcx\nfqdn: {scope: node, reject: \
                    nameError, ttlMinS: 7}\ntls: {denyEch: true}\ninspection: {headTimeoutS: 9, midStream: deny}\nhubble: \
                    {listen: '127.0.0.1:5', redact: {httpHeadersAllow: [accept]}}\nmetrics: {listen: '127.0.0.1:6', hubble: [dns]}";
        let shown = Config::parse(Path::new("/x/c.yaml"), text).unwrap().shown();
        let value = |wanted: &str| {
            let found: Vec<&str> = shown
                .iter()
                .filter(|(name, _)| *name == wanted)
                .map(|(_, v)| v.as_str())
                .collect();
            let [value] = found.as_slice() else {
                panic!("{wanted}: {found:?}")
            };
            (*value).to_owned()
        };
        for (name, wanted) in [
            ("config", "/x/c.yaml"),
            ("node", "n"),
            ("policyDirs", "/x/p:/q"),
            ("onAgentDown", "open"),
            ("workers", "3"),
            ("mark", "0x400"),
            ("attach", "tcx"),
            ("fqdn.scope", "node"),
            ("fqdn.reject", "nameError"),
            ("fqdn.ttlMinS", "7"),
            ("fqdn.preCache", ""),
            ("tls.denyEch", "true"),
            ("tls.passUnknownQuic", "false"),
            ("inspection.headTimeoutS", "9"),
            ("inspection.midStream", "deny"),
            ("hubble.listen", "127.0.0.1:5"),
            ("hubble.redact.httpHeadersAllow", "accept"),
            ("hubble.tls.certFile", ""),
            ("metrics.listen", "127.0.0.1:6"),
            ("metrics.hubble", "1"),
        ] {
            assert_eq!(value(name), wanted, "{name}");
        }
    }
}
