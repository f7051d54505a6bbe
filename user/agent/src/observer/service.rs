//! Hubble's services, as its clients call them.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use seventh_flows::{
    filter::{FilterError, FilterSet},
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
    task::spawn_blocking,
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
/// How long records are looked at for one caller before another has a turn. One alone may take longer.
const TURN: Duration = Duration::from_millis(10);

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
    turns: Turns,
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
        turns: Turns::default(),
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

/// What strangers' filters cost is worked off one after the other, beside the threads that all else runs on.
#[derive(Clone, Debug)]
struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Turns {
    /// Whoever waits longest is next.
    async fn take<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> Result<R, Status> {
        let failed = |_| Status::internal("the agent could not do it; its log says why");
        let turn = Arc::clone(&self.0).acquire_owned().await;
        // The turn lasts as long as the work, though the caller may be gone.
        let worked = spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        worked.await.map_err(failed)
    }
}

#[tonic::async_trait]
impl ObserverApi for ObserverService {
    type GetFlowsStream = Answers<GetFlowsResponse>;

    async fn get_flows(&self, request: Request<GetFlowsRequest>) -> Result<Response<Self::GetFlowsStream>, Status> {
        let request = request.into_inner();
        let invalid = |reason: String| Status::invalid_argument(reason);
        // Who is not served costs nothing.
        let permit = admitted(&self.streams)?;
        let mask = mask_of(&request).map_err(invalid)?;
        let window = Window::from(&request);
        let compile = move || FilterSet::new(&request.whitelist, &request.blacklist);
        let filters: Result<_, FilterError> = self.turns.take(compile).await?;
        let filters = filters.map_err(|e| invalid(e.to_string()))?;
        let wanted = move |noted: &Noted| match &noted.response().response_types {
            Some(ResponseTypes::Flow(flow)) => filters.matches(flow),
            _ => false,
        };
        let selection = Selection::new(&self.observer.flows, window, wanted);
        let selection = selection.map_err(|reason| invalid(reason.to_owned()))?;
        let node = self.observer.node.name.clone();
        let lost = move |number| Some(lost_response(&node, LostEventSource::HubbleRingBuffer, number));
        let told = |noted: &Noted| Arc::unwrap_or_clone(noted.response());
        let reader = Reader { selection, told, lost };
        let records = stream(Arc::clone(&self.observer), reader, self.turns.clone(), permit);
        Ok(Response::new(Box::pin(
            records.map(move |record| record.map(|record| masked(&mask, record))),
        )))
    }

    type GetAgentEventsStream = Answers<GetAgentEventsResponse>;

    async fn get_agent_events(
        &self,
        request: Request<GetAgentEventsRequest>,
    ) -> Result<Response<Self::GetAgentEventsStream>, Status> {
        let permit = admitted(&self.streams)?;
        let window = Window::from(&request.into_inner());
        let selection =
            Selection::new(&self.observer.agent_ring, window, |_| true).map_err(Status::invalid_argument)?;
        let reader = Reader {
            selection,
            told: Clone::clone,
            // This kind of stream has no words for a loss.
            lost: |_| None,
        };
        let events = stream(Arc::clone(&self.observer), reader, self.turns.clone(), permit);
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

/// One caller's selection, and how it is told.
struct Reader<T, Told, Lost> {
    selection: Selection<T>,
    told: Told,
    lost: Lost,
}

/// What comes after a turn.
enum Then {
    Another,
    /// Another when there are news.
    Wait,
    End,
}

impl<T: Recorded, M, Told: Fn(&T) -> M, Lost: Fn(u64) -> Option<M>> Reader<T, Told, Lost> {
    /// What is to be sent, of [`TURN`] or so much as is on the way at most.
    fn turn(&mut self) -> (Vec<M>, Then) {
        let until = Instant::now() + TURN;
        let mut found = Vec::new();
        while found.len() < ON_THE_WAY {
            match self.selection.step(until) {
                Step::Record(record) => found.push((self.told)(&record)),
                Step::Lost(number) => found.extend((self.lost)(number)),
                Step::Yield => break,
                Step::Wait => return (found, Then::Wait),
                Step::End => return (found, Then::End),
            }
            if Instant::now() >= until {
                break;
            }
        }
        (found, Then::Another)
    }
}

/// Sends what is selected until the caller goes, or there is no more.
fn stream<T, M, Told, Lost>(
    observer: Arc<Observer>,
    mut reader: Reader<T, Told, Lost>,
    turns: Turns,
    permit: OwnedSemaphorePermit,
) -> ReceiverStream<Result<M, Status>>
where
    T: Recorded + Send + Sync + 'static,
    M: Send + 'static,
    Told: Fn(&T) -> M + Send + 'static,
    Lost: Fn(u64) -> Option<M> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(ON_THE_WAY);
    tokio::spawn(async move {
        let _permit = permit;
        loop {
            // Before looking: what is written after the look wakes this.
            let news = observer.news.notified();
            let work = move || {
                let (found, then) = reader.turn();
                (reader, found, then)
            };
            let turn = tokio::select! {
                turn = turns.take(work) => turn,
                () = sender.closed() => return,
            };
            let Ok((back, found, then)) = turn else { return };
            reader = back;
            for record in found {
                if sender.send(Ok(record)).await.is_err() {
                    return;
                }
            }
            match then {
                Then::Another => {}
                Then::Wait => tokio::select! {
                    () = news => {}
                    () = sender.closed() => return,
                },
                Then::End => return,
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

#[cfg(test)]
mod tests {
    use super::{
        Address, Arc, Duration, GetFlowsRequest, Observer, ObserverApi as _, ObserverService, Request, STREAMS_MAX,
        Semaphore, Turns,
    };
    use crate::observer::Node;
    use seventh_flows::{RingCapacity, pb::flow::FlowFilter};
    use tonic::{Code, Status};

    fn service() -> ObserverService {
        let (observer, _) = Observer::new(Node::new("", "node", Vec::new()), RingCapacity::new(15).unwrap());
        ObserverService {
            observer,
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            turns: Turns::default(),
            address: Address::default(),
        }
    }

    /// More requirements than are read.
    fn heavy() -> GetFlowsRequest {
        let filter = FlowFilter {
            source_label: vec![["k8s:a=b"; 256].join(","); 8],
            ..FlowFilter::default()
        };
        GetFlowsRequest {
            whitelist: vec![filter],
            ..GetFlowsRequest::default()
        }
    }

    async fn refusal(service: &ObserverService, request: GetFlowsRequest) -> Status {
        service.get_flows(Request::new(request)).await.err().expect("a refusal")
    }

    #[tokio::test]
    async fn too_many_requirements_are_refused_with_the_name_of_their_field() {
        let refused = refusal(&service(), heavy()).await;
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("source_label"), "{}", refused.message());
    }

    #[tokio::test]
    async fn one_stream_too_many_is_refused_before_its_filters_are_read() {
        let service = service();
        let open = || {
            service.get_flows(Request::new(GetFlowsRequest {
                follow: true,
                ..GetFlowsRequest::default()
            }))
        };
        let mut streams = Vec::new();
        for _ in 0..STREAMS_MAX {
            streams.push(open().await.unwrap());
        }
        // It is not its turn, which it would need for its filters.
        let _turn = service.turns.0.acquire().await.unwrap();
        let refused = tokio::time::timeout(Duration::from_secs(10), refusal(&service, heavy())).await;
        assert_eq!(refused.unwrap().code(), Code::ResourceExhausted);
    }

    /// One thread, which serves while the work goes on.
    #[tokio::test]
    async fn work_for_one_caller_holds_up_the_next_and_nobody_else() {
        let turns = Turns::default();
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let first = tokio::spawn({
            let turns = turns.clone();
            async move { turns.take(move || gone.recv()).await }
        });
        while turns.0.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let second = tokio::time::timeout(Duration::from_millis(20), turns.take(|| ())).await;
        assert!(second.is_err());
        go.send(()).unwrap();
        assert!(first.await.unwrap().unwrap().is_ok());
        assert!(turns.take(|| ()).await.is_ok());
    }
}
