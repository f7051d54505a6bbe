//! The agent's API: gRPC on a unix socket.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixStream as StdUnixStream},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use seventh_abi::{Addr, FlowKey, FlowState, IpcacheEntry, NameEntry};
use seventh_datapath::{IpcachePrefix, PolicyRow};
use seventh_policy::Identity;
use tokio::{
    net::UnixListener,
    time::{Instant, sleep},
};
use tokio_stream::{Stream, wrappers::UnixListenerStream};
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint, Server, Uri},
};

use crate::observer;

/// Messages and stubs of `proto/seventh/v1`.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::doc_markdown,
    clippy::too_many_lines,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated; the .proto file has the words"
)]
pub mod v1 {
    tonic::include_proto!("seventh.v1");
}

use v1::{
    AwaitEndpointRequest, AwaitEndpointResponse, CleanNamesRequest, CleanNamesResponse, ConfigureEndpointRequest,
    ConfigureEndpointResponse, FlowEntries, GetPolicyRequest, Identities, IpcacheEntries, LearnedName, LearnedNames,
    ListEndpointsRequest, ListEndpointsResponse, ListFlowEntriesRequest, ListIdentitiesRequest, ListIpcacheRequest,
    ListNameRowsRequest, ListNamesRequest, ListPolicyRowsRequest, ListSettingsRequest, ListSettingsResponse, NameRows,
    PolicyDocument, PolicyRows, SetSettingRequest, Setting, StatusRequest, StatusResponse,
    agent_client::AgentClient,
    agent_server::{Agent, AgentServer},
};

/// Items of a long list in one message: far below the 4 MiB that a client takes.
const PIECE: usize = 1024;
/// Flows that are listed at once at most.
pub const FLOWS_LISTED_MAX: usize = 65_536;

/// How long an answer to [`Agent::await_endpoint`] may take, and how often is looked meanwhile. Who asks for longer asks again.
const AWAITED_MAX: Duration = Duration::from_secs(1);
const AWAITED_LOOK: Duration = Duration::from_millis(20);

/// What the API asks of the agent.
pub trait Answers: Send + Sync + 'static {
    /// How it is.
    fn status(&self) -> StatusResponse;
    /// Its endpoints.
    fn endpoints(&self) -> Vec<v1::Endpoint>;
    /// The endpoint that a network plugin asks for, if policies are in force on it.
    ///
    /// # Errors
    /// They are not; the reason.
    fn in_force(&self, wanted: &AwaitEndpointRequest) -> Result<v1::Endpoint>;
    /// Puts the endpoint of this name in audit, or has its policies enforced.
    ///
    /// # Errors
    /// The change is not in force, or would not outlive the agent.
    fn set_audit(&self, endpoint: &str, audit: bool) -> Result<()>;
    /// The documents in force, or those of this name with their texts.
    fn policy(&self, name: &str) -> Vec<PolicyDocument>;
    /// The identities that policies tell apart.
    fn identities(&self) -> Vec<Arc<Identity>>;
    /// They in words.
    fn describe_identities(&self, identities: &[Arc<Identity>]) -> Vec<v1::Identity>;
    /// The kernel's policy table, in the order of its keys.
    ///
    /// # Errors
    /// It cannot be read.
    fn policy_rows(&self) -> Result<Vec<PolicyRow>>;
    /// Rows in words.
    fn describe_policy_rows(&self, rows: &[PolicyRow]) -> Vec<v1::PolicyRow>;
    /// The kernel's ipcache, by address.
    ///
    /// # Errors
    /// It cannot be read.
    fn ipcache(&self) -> Result<Vec<Prefix>>;
    /// Prefixes in words.
    fn describe_ipcache(&self, prefixes: &[Prefix]) -> Vec<v1::IpcacheEntry>;
    /// Names and the addresses under them.
    fn names(&self) -> Vec<LearnedName>;
    /// The kernel's table of names.
    fn name_rows(&self) -> Vec<NameRow>;
    /// Rows of it in words.
    fn describe_name_rows(&self, rows: &[NameRow]) -> Vec<v1::NameRow>;
    /// Forgets names that match the pattern; says how many.
    ///
    /// # Errors
    /// The pattern is none, or the kernel refuses.
    fn clean_names(&self, pattern: &str) -> Result<usize>;
    /// The kernel's flows, so many at most, by endpoint and peer.
    ///
    /// # Errors
    /// They cannot be read.
    fn flows(&self, max: usize) -> Result<Vec<Flow>>;
    /// Flows in words.
    fn describe_flows(&self, flows: &[Flow]) -> Vec<v1::FlowEntry>;
    /// All settings, or the one of this name.
    fn settings(&self, name: &str) -> Vec<Setting>;
    /// Changes a setting; without a value, to what is configured.
    ///
    /// # Errors
    /// There is none of this name, or it cannot be changed to this.
    fn set(&self, name: &str, value: Option<&str>) -> Result<Setting>;
}

/// A prefix of the kernel's ipcache and whose it is.
pub type Prefix = (IpcachePrefix, IpcacheEntry);
/// A row of the kernel's table of names: the endpoint's number, the address, and what it means.
pub type NameRow = (u32, Addr, NameEntry);
/// A flow of the kernel's table.
pub type Flow = (FlowKey, FlowState);

struct Service<A>(Arc<A>);

type Pieces<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl<A: Answers> Service<A> {
    /// Asks where it may take its time, and sends the answer in pieces. Items become words, which take many times their
    /// space, only when their piece is sent.
    async fn list<T: Send + 'static, P: Send + 'static>(
        &self,
        ask: impl FnOnce(&A) -> Result<Vec<T>> + Send + 'static,
        describe: impl Fn(&A, &[T]) -> P + Send + 'static,
    ) -> Result<Response<Pieces<P>>, Status> {
        let (asked, answers) = (Arc::clone(&self.0), Arc::clone(&self.0));
        let items = tokio::task::spawn_blocking(move || ask(&asked)).await;
        let items = items
            .map_err(|e| Status::internal(e.to_string()))?
            .map_err(|e| Status::unavailable(format!("{e:#}")))?;
        let mut sent = 0;
        let pieces = std::iter::from_fn(move || {
            let piece = items.get(sent..items.len().min(sent + PIECE))?;
            sent += piece.len();
            (!piece.is_empty()).then(|| Ok(describe(&answers, piece)))
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(pieces))))
    }
}

#[tonic::async_trait]
impl<A: Answers> Agent for Service<A> {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(self.0.status()))
    }

    async fn list_endpoints(
        &self,
        _: Request<ListEndpointsRequest>,
    ) -> Result<Response<ListEndpointsResponse>, Status> {
        Ok(Response::new(ListEndpointsResponse {
            endpoints: self.0.endpoints(),
        }))
    }

    async fn await_endpoint(
        &self,
        request: Request<AwaitEndpointRequest>,
    ) -> Result<Response<AwaitEndpointResponse>, Status> {
        let wanted = Arc::new(request.into_inner());
        let until = Instant::now() + AWAITED_MAX;
        loop {
            let (answers, asked) = (Arc::clone(&self.0), Arc::clone(&wanted));
            let looked = tokio::task::spawn_blocking(move || answers.in_force(&asked)).await;
            match looked.map_err(|e| Status::internal(e.to_string()))? {
                Ok(endpoint) => {
                    let endpoint = Some(endpoint);
                    return Ok(Response::new(AwaitEndpointResponse { endpoint }));
                }
                Err(reason) if Instant::now() >= until => return Err(Status::unavailable(format!("{reason:#}"))),
                Err(_) => sleep(AWAITED_LOOK).await,
            }
        }
    }

    async fn configure_endpoint(
        &self,
        request: Request<ConfigureEndpointRequest>,
    ) -> Result<Response<ConfigureEndpointResponse>, Status> {
        let answers = Arc::clone(&self.0);
        let request = request.into_inner();
        let configured = tokio::task::spawn_blocking(move || configure(&*answers, &request)).await;
        let endpoint = configured.map_err(|e| Status::internal(e.to_string()))??;
        Ok(Response::new(ConfigureEndpointResponse {
            endpoint: Some(endpoint),
        }))
    }

    type GetPolicyStream = Pieces<PolicyDocument>;

    async fn get_policy(&self, request: Request<GetPolicyRequest>) -> Result<Response<Self::GetPolicyStream>, Status> {
        let documents = self.0.policy(&request.into_inner().name).into_iter().map(Ok);
        Ok(Response::new(Box::pin(tokio_stream::iter(documents))))
    }

    type ListIdentitiesStream = Pieces<Identities>;

    async fn list_identities(
        &self,
        _: Request<ListIdentitiesRequest>,
    ) -> Result<Response<Self::ListIdentitiesStream>, Status> {
        let describe = |answers: &A, items: &[_]| Identities {
            items: answers.describe_identities(items),
        };
        self.list(|answers| Ok(answers.identities()), describe).await
    }

    type ListPolicyRowsStream = Pieces<PolicyRows>;

    async fn list_policy_rows(
        &self,
        _: Request<ListPolicyRowsRequest>,
    ) -> Result<Response<Self::ListPolicyRowsStream>, Status> {
        let describe = |answers: &A, items: &[_]| PolicyRows {
            items: answers.describe_policy_rows(items),
        };
        self.list(Answers::policy_rows, describe).await
    }

    type ListIpcacheStream = Pieces<IpcacheEntries>;

    async fn list_ipcache(&self, _: Request<ListIpcacheRequest>) -> Result<Response<Self::ListIpcacheStream>, Status> {
        let describe = |answers: &A, items: &[_]| IpcacheEntries {
            items: answers.describe_ipcache(items),
        };
        self.list(Answers::ipcache, describe).await
    }

    type ListNameRowsStream = Pieces<NameRows>;

    async fn list_name_rows(
        &self,
        _: Request<ListNameRowsRequest>,
    ) -> Result<Response<Self::ListNameRowsStream>, Status> {
        let describe = |answers: &A, items: &[_]| NameRows {
            items: answers.describe_name_rows(items),
        };
        self.list(|answers| Ok(answers.name_rows()), describe).await
    }

    type ListNamesStream = Pieces<LearnedNames>;

    async fn list_names(&self, _: Request<ListNamesRequest>) -> Result<Response<Self::ListNamesStream>, Status> {
        let describe = |_: &A, items: &[LearnedName]| LearnedNames { items: items.to_vec() };
        self.list(|answers| Ok(answers.names()), describe).await
    }

    async fn clean_names(&self, request: Request<CleanNamesRequest>) -> Result<Response<CleanNamesResponse>, Status> {
        let answers = Arc::clone(&self.0);
        let pattern = request.into_inner().pattern;
        let cleaned = tokio::task::spawn_blocking(move || answers.clean_names(&pattern)).await;
        let cleaned = cleaned
            .map_err(|e| Status::internal(e.to_string()))?
            .map_err(|e| Status::invalid_argument(format!("{e:#}")))?;
        Ok(Response::new(CleanNamesResponse {
            names: u32::try_from(cleaned).unwrap_or(u32::MAX),
        }))
    }

    type ListFlowEntriesStream = Pieces<FlowEntries>;

    async fn list_flow_entries(
        &self,
        request: Request<ListFlowEntriesRequest>,
    ) -> Result<Response<Self::ListFlowEntriesStream>, Status> {
        let max = match usize::try_from(request.into_inner().max) {
            Ok(max) if (1..FLOWS_LISTED_MAX).contains(&max) => max,
            _ => FLOWS_LISTED_MAX,
        };
        let describe = |answers: &A, items: &[_]| FlowEntries {
            items: answers.describe_flows(items),
        };
        self.list(move |answers| answers.flows(max), describe).await
    }

    async fn list_settings(
        &self,
        request: Request<ListSettingsRequest>,
    ) -> Result<Response<ListSettingsResponse>, Status> {
        let settings = self.0.settings(&request.into_inner().name);
        Ok(Response::new(ListSettingsResponse { settings }))
    }

    async fn set_setting(&self, request: Request<SetSettingRequest>) -> Result<Response<Setting>, Status> {
        let (answers, request) = (Arc::clone(&self.0), request.into_inner());
        let set = tokio::task::spawn_blocking(move || answers.set(&request.name, request.value.as_deref())).await;
        let set = set.map_err(|e| Status::internal(e.to_string()))?;
        Ok(Response::new(
            set.map_err(|e| Status::invalid_argument(format!("{e:#}")))?,
        ))
    }
}

fn configure<A: Answers>(answers: &A, request: &ConfigureEndpointRequest) -> Result<v1::Endpoint, Status> {
    let wanted = &request.endpoint;
    let find = || {
        let mut all = answers.endpoints().into_iter();
        let found = all.find(|endpoint| endpoint.name == *wanted || endpoint.id.to_string() == *wanted);
        found.ok_or_else(|| Status::not_found(format!("there is no endpoint `{wanted}`")))
    };
    let name = find()?.name;
    if let Some(audit) = request.policy_audit_mode {
        let failed = |e| Status::failed_precondition(format!("PolicyAuditMode: {e:#}"));
        answers.set_audit(&name, audit).map_err(failed)?;
    }
    find()
}

/// Listens on the socket, for root alone. One that a killed agent left is replaced, one that answers is not.
///
/// # Errors
/// Another agent is there, or the socket cannot be made.
pub fn listen(path: &Path) -> Result<UnixListener> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    if path.exists() {
        if StdUnixStream::connect(path).is_ok() {
            bail!(
                "{}: another agent answers there; stop it first or choose another `api` path",
                path.display()
            );
        }
        fs::remove_file(path).with_context(|| path.display().to_string())?;
    }
    let listener = UnixListener::bind(path).with_context(|| path.display().to_string())?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).with_context(|| path.display().to_string())?;
    Ok(listener)
}

/// Serves until `stop` is done.
///
/// # Errors
/// The listener broke.
pub(crate) async fn serve<A: Answers>(
    listener: UnixListener,
    answers: Arc<A>,
    services: Option<observer::Servers>,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let (observer, peer) = services.unzip();
    Server::builder()
        .add_service(AgentServer::new(Service(answers)))
        .add_optional_service(observer)
        .add_optional_service(peer)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop)
        .await
        .context("API")
}

/// Connects to a running agent: `unix://PATH` or `host:port`.
///
/// # Errors
/// Nobody answers; the message says what to try.
pub async fn connect(server: &str) -> Result<AgentClient<Channel>> {
    Ok(AgentClient::new(channel(server).await?))
}

/// The same for any of the services.
///
/// # Errors
/// As [`connect`].
pub async fn channel(server: &str) -> Result<Channel> {
    let hint = || {
        format!(
            "no agent answers at {server}; is it running? (`seventh agent --config FILE`, or --server for another address)"
        )
    };
    let channel = match server.strip_prefix("unix://") {
        Some(path) => {
            let path = PathBuf::from(path);
            // The address is only a name here: the connector goes to the socket.
            let connector = tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move {
                    tokio::net::UnixStream::connect(path)
                        .await
                        .map(hyper_util::rt::TokioIo::new)
                }
            });
            Endpoint::from_static("http://localhost")
                .connect_with_connector(connector)
                .await
        }
        None => {
            Endpoint::from_shared(format!("http://{server}"))
                .with_context(hint)?
                .connect()
                .await
        }
    };
    channel.with_context(hint)
}
