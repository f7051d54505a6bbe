//! Records and verdict times of a running agent, for as long as somebody wants them.

use std::time::Duration;

use anyhow::{Result, bail};
use seventh_flows::pb::observer::{GetFlowsRequest, GetFlowsResponse};
use tokio::{
    sync::mpsc::Sender,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_stream::StreamExt as _;
use tonic::{Code, transport::Channel};

use crate::{
    api::v1::{LatencyBucket, StatusRequest, agent_client::AgentClient},
    cli::observe::{ServerFlags, refused},
    hubble_api::observer::observer_client::ObserverClient,
};

/// How long to wait before a server that is not there is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// What comes from the server.
#[derive(Debug)]
pub(super) enum News {
    /// It is there.
    Connected,
    /// It is not there (any more), for this reason; it is tried again.
    Gone(String),
    Record(Box<GetFlowsResponse>),
    /// How long the engine took for its verdicts so far.
    Verdicts(Vec<LatencyBucket>),
}

/// Asks until nobody listens any more. `every`: how often for verdict times.
pub(super) async fn follow(server: ServerFlags, every: Duration, news: Sender<News>) {
    while !news.is_closed() {
        let trouble = match session(&server, every, &news).await {
            Ok(()) => return,
            Err(e) => format!("{e:#}"),
        };
        if news.send(News::Gone(trouble)).await.is_err() {
            return;
        }
        sleep(RETRY).await;
    }
}

/// One connection. Ends well when nobody listens any more.
async fn session(server: &ServerFlags, every: Duration, news: &Sender<News>) -> Result<()> {
    let channel = server.connect().await?;
    let request = GetFlowsRequest {
        follow: true,
        ..GetFlowsRequest::default()
    };
    let mut client = ObserverClient::new(channel.clone());
    let records = server.answer(client.get_flows(request)).await?;
    let mut records = records.map_err(refused)?.into_inner();
    let mut agent = Some(AgentClient::new(channel));
    let mut looks = interval(every);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    if news.send(News::Connected).await.is_err() {
        return Ok(());
    }
    loop {
        let said = tokio::select! {
            record = records.next() => match record {
                Some(record) => News::Record(Box::new(record.map_err(refused)?)),
                None => bail!("the server has ended"),
            },
            _ = looks.tick(), if agent.is_some() => match verdicts(&mut agent).await? {
                Some(verdicts) => News::Verdicts(verdicts),
                None => continue,
            },
            () = news.closed() => return Ok(()),
        };
        if news.send(said).await.is_err() {
            return Ok(());
        }
    }
}

/// Servers of flow records that are no agent of ours are not asked again.
async fn verdicts(agent: &mut Option<AgentClient<Channel>>) -> Result<Option<Vec<LatencyBucket>>> {
    let Some(client) = agent else { return Ok(None) };
    match client.status(StatusRequest {}).await {
        Ok(status) => Ok(Some(status.into_inner().verdicts)),
        Err(status) if status.code() == Code::Unimplemented => {
            *agent = None;
            Ok(None)
        }
        Err(status) => Err(refused(status)),
    }
}
