//! Which server of flow records is asked, and how it is reached.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use seventh_flows::timestamp;
use tokio::time::timeout;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::{api, config::API_SOCKET};

/// Flags of the connection, with Hubble's names.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Server")]
pub(in crate::cli) struct ServerFlags {
    /// A server of flow records: `unix://PATH`, `host:port`, or `tls://host:port`, which is the same with --tls
    #[arg(long, env = "SEVENTH_SERVER", default_value_t = format!("unix://{API_SOCKET}"))]
    server: String,
    /// How long to wait for a connection
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    timeout: Duration,
    /// How long to wait until the server begins to answer
    #[arg(long, value_name = "DURATION", default_value = "12s", value_parser = duration)]
    request_timeout: Duration,
    /// Speak TLS
    #[arg(long)]
    tls: bool,
    /// Who has signed the server's certificate (PEM), by commas
    #[arg(long, value_name = "FILES", value_delimiter = ',')]
    tls_ca_cert_files: Vec<PathBuf>,
    /// The own certificate (PEM), for servers that ask for one
    #[arg(long, value_name = "FILE", requires = "tls_client_key_file")]
    tls_client_cert_file: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_client_cert_file")]
    tls_client_key_file: Option<PathBuf>,
    /// The name in the server's certificate, if it is not the host of --server
    #[arg(long, value_name = "NAME")]
    tls_server_name: Option<String>,
}

impl ServerFlags {
    /// What was asked for.
    pub(in crate::cli) fn name(&self) -> &str {
        &self.server
    }

    /// # Errors
    /// Nobody answers, or a file cannot be used; the message says which.
    pub(in crate::cli) async fn connect(&self) -> Result<Channel> {
        let connection = self.channel();
        match timeout(self.timeout, connection).await {
            Ok(channel) => channel,
            Err(_) => bail!("{} does not answer within {:?} (--timeout)", self.server, self.timeout),
        }
    }

    /// Waits for the beginning of an answer.
    ///
    /// # Errors
    /// It does not come in time.
    pub(in crate::cli) async fn answer<T>(&self, answer: impl Future<Output = T>) -> Result<T> {
        let within = self.request_timeout;
        timeout(within, answer)
            .await
            .with_context(|| format!("{} does not answer within {within:?} (--request-timeout)", self.server))
    }

    async fn channel(&self) -> Result<Channel> {
        let host = self.server.strip_prefix("tls://");
        if !self.tls && host.is_none() {
            let unused = [
                ("--tls-ca-cert-files", !self.tls_ca_cert_files.is_empty()),
                ("--tls-client-cert-file", self.tls_client_cert_file.is_some()),
                ("--tls-server-name", self.tls_server_name.is_some()),
            ];
            if let Some((flag, _)) = unused.iter().find(|(_, given)| *given) {
                bail!("{flag} needs --tls");
            }
            return api::channel(&self.server).await;
        }
        let host = host.unwrap_or(&self.server);
        if host.starts_with("unix://") {
            bail!("a unix socket has no TLS; leave --tls out");
        }
        let tls = self.tls_config()?;
        Endpoint::from_shared(format!("https://{host}"))
            .and_then(|endpoint| endpoint.tls_config(tls))
            .with_context(|| format!("--server {}", self.server))?
            .connect()
            .await
            .with_context(|| format!("no TLS with {host}; do its certificate and the --tls flags fit?"))
    }

    fn tls_config(&self) -> Result<ClientTlsConfig> {
        if self.tls_ca_cert_files.is_empty() {
            bail!("--tls needs --tls-ca-cert-files: who has signed the server's certificate");
        }
        let mut tls = ClientTlsConfig::new();
        for file in &self.tls_ca_cert_files {
            tls = tls.ca_certificate(Certificate::from_pem(read("--tls-ca-cert-files", file)?));
        }
        if let (Some(cert), Some(key)) = (&self.tls_client_cert_file, &self.tls_client_key_file) {
            let cert = read("--tls-client-cert-file", cert)?;
            tls = tls.identity(Identity::from_pem(cert, read("--tls-client-key-file", key)?));
        }
        if let Some(name) = &self.tls_server_name {
            tls = tls.domain_name(name);
        }
        Ok(tls)
    }
}

fn read(flag: &str, file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("{flag} {}", file.display()))
}

pub(in crate::cli) fn duration(text: &str) -> Result<Duration, String> {
    timestamp::parse_duration(text).map_err(|_| format!("`{text}` is not a duration such as 5s or 1m30s"))
}
