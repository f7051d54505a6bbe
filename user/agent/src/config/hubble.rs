//! `hubble:` of the configuration: flow records and who may read them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use seventh_flows::{HeaderRedaction, Redaction, RingCapacity};

use super::{Wrong, wrong};
use crate::export::{self, ExportSpec, RawExport};

/// As written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawHubble {
    listen: Option<String>,
    tls: Option<RawTls>,
    announce: Option<String>,
    event_buffer_capacity: Option<usize>,
    #[serde(default)]
    redact: RawRedact,
    #[serde(default)]
    flow_logs: Vec<RawExport>,
    flow_logs_config: Option<PathBuf>,
    cluster: Option<String>,
    #[serde(default)]
    node_labels: BTreeMap<String, String>,
    #[serde(default)]
    http_headers: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawTls {
    cert_file: PathBuf,
    key_file: PathBuf,
    client_ca_file: PathBuf,
    server_name: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct RawRedact {
    enabled: bool,
    http_url_query: bool,
    http_user_info: bool,
    http_headers_allow: Vec<String>,
    http_headers_deny: Vec<String>,
}

impl Default for RawRedact {
    fn default() -> Self {
        Self {
            enabled: true,
            http_url_query: true,
            http_user_info: true,
            http_headers_allow: Vec::new(),
            http_headers_deny: Vec::new(),
        }
    }
}

/// `hubble:` from the command line and the environment.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct HubbleSettings {
    /// TCP address at which flow records are served, besides the unix socket
    #[arg(long, env = "SEVENTH_HUBBLE_LISTEN", value_name = "ADDRESS")]
    hubble_listen: Option<String>,
    /// Flow records that are kept: 2^n - 1
    #[arg(long, env = "SEVENTH_HUBBLE_EVENT_BUFFER_CAPACITY", value_name = "N")]
    hubble_event_buffer_capacity: Option<usize>,
    /// Certificates of the server at that address, PEM
    #[arg(long, env = "SEVENTH_HUBBLE_TLS_CERT_FILE", value_name = "FILE", requires_all = ["hubble_tls_key_file", "hubble_tls_client_ca_file"])]
    hubble_tls_cert_file: Option<PathBuf>,
    /// Their key, PEM
    #[arg(
        long,
        env = "SEVENTH_HUBBLE_TLS_KEY_FILE",
        value_name = "FILE",
        requires = "hubble_tls_cert_file"
    )]
    hubble_tls_key_file: Option<PathBuf>,
    /// Who has signed the certificates of clients, PEM
    #[arg(
        long,
        env = "SEVENTH_HUBBLE_TLS_CLIENT_CA_FILE",
        value_name = "FILE",
        requires = "hubble_tls_cert_file"
    )]
    hubble_tls_client_ca_file: Option<PathBuf>,
    /// Take queries, user names and headers out of flow records
    #[arg(long, env = "SEVENTH_HUBBLE_REDACT_ENABLED", value_name = "BOOL")]
    hubble_redact_enabled: Option<bool>,
}

impl HubbleSettings {
    pub(super) fn take_precedence(self, raw: &mut RawHubble) {
        raw.listen = self.hubble_listen.or(raw.listen.take());
        raw.event_buffer_capacity = self.hubble_event_buffer_capacity.or(raw.event_buffer_capacity);
        raw.redact.enabled = self.hubble_redact_enabled.unwrap_or(raw.redact.enabled);
        let files = (
            self.hubble_tls_cert_file,
            self.hubble_tls_key_file,
            self.hubble_tls_client_ca_file,
        );
        // The command line gives all three or none.
        if let (Some(cert_file), Some(key_file), Some(client_ca_file)) = files {
            raw.tls = Some(RawTls {
                cert_file,
                key_file,
                client_ca_file,
                server_name: raw.tls.take().and_then(|tls| tls.server_name),
            });
        }
    }
}

/// Flow records and who may read them.
#[derive(Clone, Debug, Default)]
pub struct HubbleConfig {
    /// Where clients on other machines are served; the unix socket is always there.
    pub listen: Option<HubbleListen>,
    /// Records that are kept.
    pub capacity: RingCapacity,
    /// What is taken out of them.
    pub redaction: Redaction,
    /// Name of the cluster in them; empty if nobody has said.
    pub cluster: String,
    /// Labels of the node in them.
    pub node_labels: BTreeMap<String, String>,
    /// Whether they tell the headers of requests.
    pub http_headers: bool,
    /// Exporters for as long as the agent runs.
    pub(crate) flow_logs: Vec<ExportSpec>,
    /// A file of exporters that is reloaded live.
    pub(crate) flow_logs_file: Option<PathBuf>,
}

/// A TCP address that is served.
#[derive(Clone, Debug)]
pub struct HubbleListen {
    /// The address.
    pub address: SocketAddr,
    /// Who may come; only the machine itself is served without.
    pub tls: Option<HubbleTls>,
    /// `host:port` that the peer service tells others in the place of the address.
    pub announce: Option<String>,
}

/// Mutual TLS; files in PEM.
#[derive(Clone, Debug)]
pub struct HubbleTls {
    /// The server's certificates, its own first.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
    /// Who has signed the certificates of clients.
    pub client_ca_file: PathBuf,
    /// The name in the server's certificate, for clients that learn the address from the peer service.
    pub server_name: Option<String>,
}

impl RawHubble {
    /// Files that are not absolute are relative to `base`.
    pub(super) fn check(self, base: &Path) -> Result<HubbleConfig, Wrong> {
        let capacity = self
            .event_buffer_capacity
            .map_or(Ok(RingCapacity::default()), RingCapacity::new);
        Ok(HubbleConfig {
            listen: check_listen(self.listen, self.tls, self.announce, base)?,
            capacity: capacity.map_err(|e| wrong("hubble.eventBufferCapacity", e.to_string()))?,
            redaction: self.redact.check()?,
            cluster: check_cluster(self.cluster)?,
            node_labels: self.node_labels,
            http_headers: self.http_headers,
            flow_logs: export::check_all(self.flow_logs)
                .map_err(|(field, reason)| wrong(format!("hubble.{field}"), reason))?,
            flow_logs_file: self.flow_logs_config.map(|file| base.join(file)),
        })
    }
}

fn check_cluster(name: Option<String>) -> Result<String, Wrong> {
    let is_name = |name: &String| !name.is_empty() && !name.contains('/') && !name.chars().any(char::is_whitespace);
    match name {
        Some(name) if !is_name(&name) => Err(wrong(
            "hubble.cluster",
            format!("`{name}` is no name of a cluster: it must not be empty, nor have a slash or a space in it"),
        )),
        name => Ok(name.unwrap_or_default()),
    }
}

fn check_listen(
    listen: Option<String>,
    tls: Option<RawTls>,
    announce: Option<String>,
    base: &Path,
) -> Result<Option<HubbleListen>, Wrong> {
    let is_address = |text: &String| {
        let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0))
    };
    if let Some(text) = announce.as_ref().filter(|text| !is_address(text)) {
        let reason = format!("`{text}` is not a host and port such as node-1.example:4244");
        return Err(wrong("hubble.announce", reason));
    }
    let tls = tls.map(|raw| HubbleTls {
        cert_file: base.join(raw.cert_file),
        key_file: base.join(raw.key_file),
        client_ca_file: base.join(raw.client_ca_file),
        server_name: raw.server_name,
    });
    let Some(text) = listen else {
        return match (tls, announce) {
            (Some(_), _) => Err(wrong(
                "hubble.tls",
                "is there without `hubble.listen`; there is nothing to protect",
            )),
            (None, Some(_)) => Err(wrong(
                "hubble.announce",
                "is there without `hubble.listen`; there is nothing to announce",
            )),
            (None, None) => Ok(None),
        };
    };
    let address: SocketAddr = text.parse().map_err(|_| {
        wrong(
            "hubble.listen",
            format!("`{text}` is not an address and port such as 127.0.0.1:4244"),
        )
    })?;
    if tls.is_none() && !address.ip().is_loopback() {
        let reason =
            format!("{address} can be reached from elsewhere; add `hubble.tls`, or listen on 127.0.0.1 or [::1]");
        return Err(wrong("hubble.listen", reason));
    }
    Ok(Some(HubbleListen { address, tls, announce }))
}

impl RawRedact {
    fn check(self) -> Result<Redaction, Wrong> {
        if !self.enabled {
            return Ok(Redaction::off());
        }
        let names = |list: Vec<String>| list.into_iter().collect::<BTreeSet<_>>();
        let headers = match (self.http_headers_allow.is_empty(), self.http_headers_deny.is_empty()) {
            (false, false) => {
                let reason = "cannot stand beside `httpHeadersDeny`: name those that stay, or those that go";
                return Err(wrong("hubble.redact.httpHeadersAllow", reason));
            }
            (_, true) => HeaderRedaction::AllBut(names(self.http_headers_allow)),
            (true, false) => HeaderRedaction::Only(names(self.http_headers_deny)),
        };
        Ok(Redaction {
            url_query: self.http_url_query,
            user_info: self.http_user_info,
            headers,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, ConfigError};
    use seventh_flows::{HeaderRedaction, Redaction};
    use std::path::Path;

    fn parse(hubble: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("/etc/seventh/config.yaml"), &format!("hubble: {hubble}"))
    }

    fn field(hubble: &str) -> String {
        match parse(hubble) {
            Err(ConfigError::Field { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_documented_example_listens_on_this_machine_and_redacts() {
        let hubble = parse("{listen: '127.0.0.1:4244'}").unwrap().hubble;
        assert_eq!(hubble.listen.unwrap().address.port(), 4244);
        assert_eq!(
            (hubble.capacity.records(), hubble.redaction),
            (4095, Redaction::default())
        );
    }

    #[test]
    fn who_can_be_reached_from_elsewhere_needs_tls() {
        assert_eq!(field("{listen: '0.0.0.0:4244'}"), "hubble.listen");
        let tls = "tls: {certFile: a.pem, keyFile: b.pem, clientCaFile: /c.pem}";
        let listen = parse(&format!("{{listen: '0.0.0.0:4244', {tls}}}"))
            .unwrap()
            .hubble
            .listen
            .unwrap();
        let tls = listen.tls.unwrap();
        assert_eq!(
            (tls.cert_file.as_path(), tls.client_ca_file.as_path()),
            (Path::new("/etc/seventh/a.pem"), Path::new("/c.pem"))
        );
    }

    #[test]
    fn a_wrong_value_names_its_field() {
        assert_eq!(field("{listen: here}"), "hubble.listen");
        assert_eq!(field("{eventBufferCapacity: 4096}"), "hubble.eventBufferCapacity");
        assert_eq!(field("{tls: {certFile: a, keyFile: b, clientCaFile: c}}"), "hubble.tls");
        assert_eq!(
            field("{redact: {httpHeadersAllow: [a], httpHeadersDeny: [b]}}"),
            "hubble.redact.httpHeadersAllow"
        );
        for announce in ["node", "node:", ":4244", "node:0", "node:99999"] {
            let hubble = format!("{{listen: '127.0.0.1:4244', announce: '{announce}'}}");
            assert_eq!(field(&hubble), "hubble.announce");
        }
        assert_eq!(field("{announce: 'node:4244'}"), "hubble.announce");
        for cluster in ["''", "a/b", "'a b'"] {
            assert_eq!(field(&format!("{{cluster: {cluster}}}")), "hubble.cluster");
        }
        let twice = "{flowLogs: [{name: a, filePath: /a}, {name: b, filePath: /a}]}";
        assert_eq!(field(twice), "hubble.flowLogs[1].filePath");
        assert!(matches!(parse("{lisen: x}"), Err(ConfigError::Syntax { .. })));
    }

    #[test]
    fn redaction_can_be_turned_off_and_narrowed() {
        assert_eq!(
            parse("{redact: {enabled: false}}").unwrap().hubble.redaction,
            Redaction::off()
        );
        let redaction = parse("{redact: {httpUrlQuery: false, httpHeadersDeny: [cookie]}}")
            .unwrap()
            .hubble
            .redaction;
        assert!(!redaction.url_query && redaction.user_info);
        assert_eq!(redaction.headers, HeaderRedaction::Only(["cookie".to_owned()].into()));
    }
}
