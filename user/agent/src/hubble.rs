//! Hubble's services for clients on other machines: TCP, with mutual TLS unless it is this machine alone.

use std::{fs, path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tracing::error;

use crate::{
    config::{HubbleListen, HubbleTls},
    observer::{self, Address, Observer},
};

/// An address that is taken, with what is needed to serve there.
pub(crate) struct HubbleServer {
    listener: TcpListener,
    tls: Option<ServerTlsConfig>,
    address: Address,
}

/// Takes the address and reads certificates, so that what is wrong with them is found before the kernel is touched.
///
/// # Errors
/// The address is taken, or a file cannot be used.
pub(crate) async fn listen(config: &HubbleListen) -> Result<HubbleServer> {
    let listener = TcpListener::bind(config.address)
        .await
        .with_context(|| format!("hubble.listen: cannot listen on {}", config.address))?;
    let tls = config.tls.as_ref().map(server_tls).transpose()?;
    if let Some(tls) = &tls {
        // A certificate that does not fit its key is found here.
        Server::builder().tls_config(tls.clone()).context("hubble.tls")?;
    }
    Ok(HubbleServer {
        listener,
        tls,
        address: Address {
            address: config.address.to_string(),
            tls_server_name: config
                .tls
                .as_ref()
                .map(|tls| tls.server_name.clone().unwrap_or_default()),
        },
    })
}

impl HubbleServer {
    /// Serves until the task is stopped.
    pub(crate) async fn serve(self, observer: Arc<Observer>) {
        if let Err(e) = self.try_serve(&observer).await {
            error!(
                error = format!("{e:#}"),
                "flow records are served on the unix socket only"
            );
        }
    }

    async fn try_serve(self, observer: &Arc<Observer>) -> Result<()> {
        let (flows, peers) = observer::servers(observer, &self.address);
        let mut server = Server::builder();
        if let Some(tls) = self.tls {
            server = server.tls_config(tls).context("hubble.tls")?;
        }
        server
            .add_service(flows)
            .add_service(peers)
            .serve_with_incoming(TcpListenerStream::new(self.listener))
            .await
            .context("hubble.listen")
    }
}

fn server_tls(files: &HubbleTls) -> Result<ServerTlsConfig> {
    let read = |field: &str, path: &Path| {
        fs::read(path).with_context(|| format!("hubble.tls.{field}: cannot read {}", path.display()))
    };
    let identity = Identity::from_pem(read("certFile", &files.cert_file)?, read("keyFile", &files.key_file)?);
    let clients = Certificate::from_pem(read("clientCaFile", &files.client_ca_file)?);
    Ok(ServerTlsConfig::new().identity(identity).client_ca_root(clients))
}
