//! `/metrics`, `/healthz` and `/readyz`: HTTP/1, a handful of connections, none of them for long.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore},
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use super::{
    Metrics, health,
    snapshot::{Snapshots, text_while_waiting},
};
use crate::{agent::Shared, waiting::Waiting};

/// Connections at a time; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 16;
/// How long a head may take, and a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of a head at most.
const HEAD_MAX: usize = 16 << 10;
/// Pause after the system gave no connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// An address that is taken.
pub(crate) struct MetricsServer {
    listener: TcpListener,
}

/// Takes the address, so that one that is taken already is found before the kernel is touched.
///
/// # Errors
/// It is taken, or not of this machine.
pub(crate) async fn listen(address: SocketAddr) -> Result<MetricsServer> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("metrics.listen: cannot listen on {address}"))?;
    Ok(MetricsServer { listener })
}

/// What the pages are made of.
struct Pages {
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    /// One scrape at a time: a second one would only make both slow.
    snapshots: Arc<Mutex<Snapshots>>,
}

impl MetricsServer {
    /// Serves until the task is stopped.
    pub(crate) async fn serve(self, shared: Arc<Shared>, metrics: Arc<Metrics>) {
        let pages = Pages {
            snapshots: Arc::new(Mutex::new(Snapshots::new(&shared))),
            shared,
            metrics,
        };
        self.accept(Arc::new(pages)).await;
    }

    /// Says that the agent lives and waits, until the future is dropped.
    pub(crate) async fn serve_waiting(&self, waiting: Arc<Waiting>) {
        self.accept(waiting).await;
    }

    async fn accept<P: Answer>(&self, pages: Arc<P>) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
                return;
            };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(e) => {
                    warn!(error = %e, "metrics: no connection");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let pages = Arc::clone(&pages);
            tokio::spawn(async move {
                let _permit = permit;
                // A connection whose time is over is dropped, whatever it was about.
                let _ = timeout(CONNECTION_TIMEOUT, talk(stream, pages)).await;
            });
        }
    }
}

/// Somebody who has pages.
trait Answer: Send + Sync + 'static {
    /// Whether it will still be asked in a minute.
    const STAYS: bool;

    fn answer(&self, request: &Request<Incoming>) -> impl Future<Output = Response<Full<Bytes>>> + Send;
}

async fn talk<P: Answer>(stream: TcpStream, pages: Arc<P>) {
    let service = service_fn(|request| {
        let pages = Arc::clone(&pages);
        async move { Ok::<_, Infallible>(pages.answer(&request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(P::STAYS)
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(e) = served {
        debug!(error = %e, "metrics: a connection broke");
    }
}

impl Answer for Waiting {
    const STAYS: bool = false;

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        match (request.method(), request.uri().path()) {
            (&(Method::GET | Method::HEAD), "/healthz") => page(StatusCode::OK, TEXT, "ok\n"),
            (&(Method::GET | Method::HEAD), "/metrics") => match text_while_waiting(&self.connection()) {
                Ok(text) => page(StatusCode::OK, OPEN_METRICS, text),
                Err(_) => page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "metrics cannot be written\n"),
            },
            _ => page(
                StatusCode::SERVICE_UNAVAILABLE,
                TEXT,
                self.obstacles().join("\n") + "\n",
            ),
        }
    }
}

impl Answer for Pages {
    const STAYS: bool = true;

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
        }
        match request.uri().path() {
            "/metrics" => {
                let begun = Instant::now();
                let answer = self.scrape().await;
                self.metrics.answered(answer.status().as_u16(), begun.elapsed());
                answer
            }
            "/healthz" => self.health(|shared| health::ailments(&shared.state())).await,
            "/readyz" => self.health(|shared| health::obstacles(&shared.state())).await,
            _ => page(
                StatusCode::NOT_FOUND,
                TEXT,
                "there are /metrics, /healthz and /readyz\n",
            ),
        }
    }
}

impl Pages {
    async fn scrape(&self) -> Response<Full<Bytes>> {
        let mut snapshots = Arc::clone(&self.snapshots).lock_owned().await;
        let (shared, metrics) = (Arc::clone(&self.shared), Arc::clone(&self.metrics));
        match spawn_blocking(move || snapshots.text(&shared, &metrics)).await {
            Ok(Ok(text)) => page(StatusCode::OK, OPEN_METRICS, text),
            _ => page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "metrics cannot be written\n"),
        }
    }

    /// Beside the runtime: the state may be locked for as long as a policy is being put in force.
    async fn health(&self, look: fn(&Shared) -> Vec<String>) -> Response<Full<Bytes>> {
        let shared = Arc::clone(&self.shared);
        match spawn_blocking(move || look(&shared)).await {
            Ok(reasons) if reasons.is_empty() => page(StatusCode::OK, TEXT, "ok\n"),
            Ok(reasons) => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, reasons.join("\n") + "\n"),
            Err(e) => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{e}\n")),
        }
    }
}

fn page(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
