//! Hubble's services, as its clients call them.

use std::{pin::Pin, sync::Arc};

use seventh_flows::{
    filter::FilterSet,
    mask::FieldMask,
    pb::{
        flow::LostEventSource,
        observer::{
            GetAgentEventsRequest, GetAgentEventsResponse, GetDebugEventsRequest, GetDebugEventsResponse,
            GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest, GetNamespacesResponse, GetNodesRequest,
            GetNodesResponse, Namespace, Node, ServerStatusRequest, ServerStatusResponse, Tls as NodeTls,
            get_flows_response::ResponseTypes,
        },
        peer::{ChangeNotification, ChangeNotificationType, NotifyRequest, Tls as PeerTls},
        relay::NodeState,
    },
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::yield_now,
};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};

use super::{
    Observer, lost_response,
    noted::Noted,
    selection::{Recorded, Selection, Step, Window},
    version,
};
use crate::hubble_api::{
    observer::observer_server::{Observer as ObserverApi, ObserverServer},
    peer::peer_server::{Peer as PeerApi, PeerServer},
};

/// Streams that are served at once at each address at most: who comes from elsewhere locks out nobody here.
const STREAMS_MAX: usize = 64;
/// Records on their way to one caller: who reads no faster than this loses what the ring overwrites.
const ON_THE_WAY: usize = 64;

/// Where the services can be reached from elsewhere.
#[derive(Clone, Debug, Default)]
pub(crate) struct Address {
    /// `host:port`, or the path of the unix socket.
    pub(crate) address: String,
    /// The server's name in its certificate, if it has one.
    pub(crate) tls_server_name: Option<String>,
}

/// `observer.Observer`.
#[derive(Clone)]
pub(crate) struct ObserverService {
    observer: Arc<Observer>,
    streams: Arc<Semaphore>,
    address: Address,
}

/// `peer.Peer`.
#[derive(Clone)]
pub(crate) struct PeerService {
    node: String,
    streams: Arc<Semaphore>,
    address: Address,
}

/// Both services for one address.
pub(crate) type Servers = (ObserverServer<ObserverService>, PeerServer<PeerService>);

/// As [`Servers`].
pub(crate) fn servers(observer: &Arc<Observer>, address: &Address) -> Servers {
    let streams = Arc::new(Semaphore::new(STREAMS_MAX));
    let observer_service = ObserverService {
        observer: Arc::clone(observer),
        streams: Arc::clone(&streams),
        address: address.clone(),
    };
    let peer_service = PeerService {
        node: observer.node.name.clone(),
        streams,
        address: address.clone(),
    };
    (ObserverServer::new(observer_service), PeerServer::new(peer_service))
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn admitted(streams: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Status> {
    let full = |_| Status::resource_exhausted(format!("{STREAMS_MAX} streams are being served; end one of them"));
    Arc::clone(streams).try_acquire_owned().map_err(full)
}

#[tonic::async_trait]
impl ObserverApi for ObserverService {
    type GetFlowsStream = Answers<GetFlowsResponse>;

    async fn get_flows(&self, request: Request<GetFlowsRequest>) -> Result<Response<Self::GetFlowsStream>, Status> {
        let request = request.into_inner();
        let invalid = |reason: String| Status::invalid_argument(reason);
        let filters = FilterSet::new(&request.whitelist, &request.blacklist).map_err(|e| invalid(e.to_string()))?;
        let mask = mask_of(&request).map_err(invalid)?;
        let wanted = move |noted: &Noted| match &noted.response().response_types {
            Some(ResponseTypes::Flow(flow)) => filters.matches(flow),
            _ => false,
        };
        let selection = Selection::new(&self.observer.flows, Window::from(&request), wanted);
        let selection = selection.map_err(|reason| invalid(reason.to_owned()))?;
        let permit = admitted(&self.streams)?;
        let node = self.observer.node.name.clone();
        let lost = move |number| Some(lost_response(&node, LostEventSource::HubbleRingBuffer, number));
        let told = |noted: &Noted| Arc::unwrap_or_clone(noted.response());
        let records = stream(Arc::clone(&self.observer), selection, told, lost, permit);
        Ok(Response::new(Box::pin(
            records.map(move |record| record.map(|record| masked(&mask, record))),
        )))
    }

    type GetAgentEventsStream = Answers<GetAgentEventsResponse>;

    async fn get_agent_events(
        &self,
        request: Request<GetAgentEventsRequest>,
    ) -> Result<Response<Self::GetAgentEventsStream>, Status> {
        let window = Window::from(&request.into_inner());
        let selection =
            Selection::new(&self.observer.agent_ring, window, |_| true).map_err(Status::invalid_argument)?;
        let permit = admitted(&self.streams)?;
        // This kind of stream has no words for a loss.
        let events = stream(Arc::clone(&self.observer), selection, Clone::clone, |_| None, permit);
        Ok(Response::new(Box::pin(events)))
    }

    type GetDebugEventsStream = Answers<GetDebugEventsResponse>;

    async fn get_debug_events(
        &self,
        request: Request<GetDebugEventsRequest>,
    ) -> Result<Response<Self::GetDebugEventsStream>, Status> {
        // The kernel programs have none, as those of Hubble that were not built for debugging.
        if !request.into_inner().follow {
            return Ok(Response::new(Box::pin(tokio_stream::empty())));
        }
        let permit = admitted(&self.streams)?;
        Ok(Response::new(Box::pin(silence(permit))))
    }

    async fn get_nodes(&self, _: Request<GetNodesRequest>) -> Result<Response<GetNodesResponse>, Status> {
        let status = self.observer.status();
        let node = Node {
            name: self.observer.node.name.clone(),
            version: version(),
            address: self.address.address.clone(),
            state: NodeState::NodeConnected.into(),
            tls: Some(NodeTls {
                enabled: self.address.tls_server_name.is_some(),
                server_name: self.address.tls_server_name.clone().unwrap_or_default(),
            }),
            uptime_ns: status.uptime_ns,
            num_flows: status.num_flows,
            max_flows: status.max_flows,
            seen_flows: status.seen_flows,
        };
        Ok(Response::new(GetNodesResponse { nodes: vec![node] }))
    }

    async fn get_namespaces(
        &self,
        _: Request<GetNamespacesRequest>,
    ) -> Result<Response<GetNamespacesResponse>, Status> {
        let names = self.observer.directory.load().namespaces().into_iter();
        let namespaces = names.map(|namespace| Namespace {
            cluster: self.observer.node.cluster.clone(),
            namespace,
        });
        Ok(Response::new(GetNamespacesResponse {
            namespaces: namespaces.collect(),
        }))
    }

    async fn server_status(&self, _: Request<ServerStatusRequest>) -> Result<Response<ServerStatusResponse>, Status> {
        Ok(Response::new(self.observer.status()))
    }
}

/// Older clients send it as an experiment.
fn mask_of(request: &GetFlowsRequest) -> Result<FieldMask, String> {
    #[expect(deprecated, reason = "that is the older place")]
    let older = request
        .experimental
        .as_ref()
        .and_then(|experimental| experimental.field_mask.as_ref());
    let paths = request
        .field_mask
        .as_ref()
        .or(older)
        .map_or(&[][..], |mask| mask.paths.as_slice());
    FieldMask::new(paths).map_err(|e| format!("field_mask: {e}"))
}

fn masked(mask: &FieldMask, mut response: GetFlowsResponse) -> GetFlowsResponse {
    if let Some(ResponseTypes::Flow(flow)) = &mut response.response_types
        && !mask.is_everything()
    {
        *flow = mask.apply(flow);
    }
    response
}

/// Sends what is selected until the caller goes, or there is no more.
fn stream<T: Recorded + Send + Sync + 'static, M: Send + 'static>(
    observer: Arc<Observer>,
    mut selection: Selection<T>,
    told: impl Fn(&T) -> M + Send + 'static,
    lost: impl Fn(u64) -> Option<M> + Send + 'static,
    permit: OwnedSemaphorePermit,
) -> ReceiverStream<Result<M, Status>> {
    let (sender, receiver) = mpsc::channel(ON_THE_WAY);
    tokio::spawn(async move {
        let _permit = permit;
        loop {
            // Before looking: what is written after the look wakes this.
            let news = observer.news.notified();
            let record = match selection.step() {
                Step::Record(record) => told(&record),
                Step::Lost(number) => match lost(number) {
                    Some(record) => record,
                    None => continue,
                },
                Step::Yield => {
                    yield_now().await;
                    continue;
                }
                Step::Wait => {
                    tokio::select! {
                        () = news => continue,
                        () = sender.closed() => return,
                    }
                }
                Step::End => return,
            };
            if sender.send(Ok(record)).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(receiver)
}

#[tonic::async_trait]
impl PeerApi for PeerService {
    type NotifyStream = Answers<ChangeNotification>;

    /// This node is the only one it knows, and stays so for as long as the caller listens.
    async fn notify(&self, _: Request<NotifyRequest>) -> Result<Response<Self::NotifyStream>, Status> {
        let permit = admitted(&self.streams)?;
        let this_node = ChangeNotification {
            name: self.node.clone(),
            address: self.address.address.clone(),
            r#type: ChangeNotificationType::PeerAdded.into(),
            tls: self
                .address
                .tls_server_name
                .clone()
                .map(|server_name| PeerTls { server_name }),
        };
        Ok(Response::new(Box::pin(
            tokio_stream::once(Ok(this_node)).chain(silence(permit)),
        )))
    }
}

/// A stream without an element and without an end.
fn silence<T>(permit: OwnedSemaphorePermit) -> impl Stream<Item = Result<T, Status>> {
    tokio_stream::pending().map(move |never| {
        let _ = &permit;
        Ok(never)
    })
}
