//! Hubble's services for clients on other machines: TCP, with mutual TLS unless it is this machine alone.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_stream::{Stream, StreamExt as _, wrappers::TcpListenerStream};
use tonic::transport::{
    Certificate, Identity, Server, ServerTlsConfig,
    server::{Connected, TcpConnectInfo},
};
use tracing::error;

use crate::{
    config::{HubbleListen, HubbleTls},
    node,
    observer::{self, Address, Observer},
};

/// Connections that are open at once at most; further ones are closed at once.
const CONNECTIONS_MAX: usize = 128;
/// How long a client may take to show its certificate.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// A client from which nothing has come for so long is asked whether it is there, and must answer within the second
/// time: else streams of machines that vanished would be held for ever.
const QUIET_MAX: Duration = Duration::from_secs(30);
const ANSWER_MAX: Duration = Duration::from_secs(20);

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
    let bound = listener.local_addr().context("hubble.listen")?;
    let announced = match &config.announce {
        Some(address) => address.clone(),
        None => reachable(bound, &node::addresses()?).to_string(),
    };
    Ok(HubbleServer {
        listener,
        tls,
        address: Address {
            address: announced,
            tls_server_name: config
                .tls
                .as_ref()
                .map(|tls| tls.server_name.clone().unwrap_or_default()),
        },
    })
}

/// The address at which others reach what listens at `bound`: `0.0.0.0` and `::` are nobody's. Then it is the first of
/// the node's own of that family that is not its loopback.
fn reachable(bound: SocketAddr, own: &[IpAddr]) -> SocketAddr {
    let is_reachable = |ip: &&IpAddr| {
        let link_local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        ip.is_ipv4() == bound.is_ipv4() && !ip.is_loopback() && !link_local
    };
    match own.iter().find(is_reachable) {
        Some(ip) if bound.ip().is_unspecified() => SocketAddr::new(*ip, bound.port()),
        _ => bound,
    }
}

impl HubbleServer {
    /// Where the services can be reached from elsewhere.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

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
        let mut server = Server::builder()
            .http2_keepalive_interval(Some(QUIET_MAX))
            .http2_keepalive_timeout(Some(ANSWER_MAX));
        if let Some(tls) = self.tls {
            server = server.tls_config(tls).context("hubble.tls")?;
        }
        server
            .add_service(flows)
            .add_service(peers)
            .serve_with_incoming(connections(self.listener))
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
    Ok(ServerTlsConfig::new()
        .identity(identity)
        .client_ca_root(clients)
        .timeout(HANDSHAKE_MAX))
}

/// Connections, [`CONNECTIONS_MAX`] at once.
fn connections(listener: TcpListener) -> impl Stream<Item = io::Result<Connection>> {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    TcpListenerStream::new(listener).filter_map(move |accepted| match accepted {
        Ok(stream) => {
            let place = Arc::clone(&places).try_acquire_owned().ok()?;
            Some(Ok(Connection { stream, _place: place }))
        }
        Err(e) => Some(Err(e)),
    })
}

/// A connection that gives its place back when it ends.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::{CONNECTIONS_MAX, connections, reachable};
    use std::net::IpAddr;
    use tokio::{
        io::AsyncReadExt as _,
        net::{TcpListener, TcpStream},
    };
    use tokio_stream::StreamExt as _;

    #[test]
    fn an_address_of_nobody_is_announced_as_one_of_the_node() {
        let own: Vec<IpAddr> = ["127.0.0.1", "192.0.2.7", "192.0.2.8", "::1", "fe80::1", "2001:db8::7"]
            .map(|text| text.parse().unwrap())
            .into();
        for (bound, announced) in [
            ("0.0.0.0:4244", "192.0.2.7:4244"),
            ("[::]:4244", "[2001:db8::7]:4244"),
            ("192.0.2.8:1", "192.0.2.8:1"),
            ("127.0.0.1:4244", "127.0.0.1:4244"),
        ] {
            assert_eq!(reachable(bound.parse().unwrap(), &own).to_string(), announced);
        }
        assert_eq!(reachable("0.0.0.0:1".parse().unwrap(), &[]).to_string(), "0.0.0.0:1");
    }

    #[tokio::test]
    async fn one_connection_too_many_is_closed_and_its_place_comes_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut accepted = Box::pin(connections(listener));
        let (mut clients, mut served) = (Vec::new(), Vec::new());
        for _ in 0..CONNECTIONS_MAX {
            clients.push(TcpStream::connect(address).await.unwrap());
            served.push(accepted.next().await.unwrap().unwrap());
        }
        let mut refused = TcpStream::connect(address).await.unwrap();
        let next = tokio::spawn(async move { accepted.next().await.unwrap().unwrap() });
        assert_eq!(refused.read(&mut [0]).await.unwrap(), 0, "closed");
        served.pop();
        let _late = TcpStream::connect(address).await.unwrap();
        next.await.unwrap();
    }
}
