//! What is asked of the agent: over its unix socket, within the time that the configuration gives.

use std::{future::Future, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::{
    net::UnixStream,
    runtime,
    time::{Instant, sleep, timeout, timeout_at},
};
use tonic::{
    Code, Request,
    transport::{Channel, Endpoint, Uri},
};

use crate::{
    call::Attachment,
    config::Config,
    v1::{AwaitEndpointRequest, StatusRequest, agent_client::AgentClient},
};

/// Until an agent that is not there, or cannot say anything yet, is asked again.
const AGAIN: Duration = Duration::from_millis(100);
/// How long an answer may take that nothing has to be waited for.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Waits until the pod's policies are in force.
///
/// # Errors
/// They were not in time; the error says what was missing at the end.
pub(crate) fn wait(config: &Config, attachment: &Attachment) -> Result<()> {
    run(async {
        let deadline = Instant::now() + config.timeout;
        let mut reason = anyhow!("the agent did not answer");
        loop {
            match timeout_at(deadline, ask(config, attachment, deadline)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(e)) => reason = e,
                Err(_) => {}
            }
            if deadline.saturating_duration_since(Instant::now()) <= AGAIN {
                let waited = config.timeout.as_secs();
                return Err(reason.context(format!("{} was not ready after {waited} s", attachment.endpoint)));
            }
            sleep(AGAIN).await;
        }
    })
}

/// Whether the pod's policies are in force now.
///
/// # Errors
/// They are not, or nobody says.
pub(crate) fn look(config: &Config, attachment: &Attachment) -> Result<()> {
    run(async {
        let asked = ask(config, attachment, Instant::now() + AT_ONCE);
        timeout(AT_ONCE, asked)
            .await
            .unwrap_or_else(|_| bail!("the agent did not answer"))
    })
}

/// Whether there is an agent that answers.
///
/// # Errors
/// There is none.
pub(crate) fn status(config: &Config) -> Result<()> {
    run(async {
        let answer = async {
            connect(config).await?.status(StatusRequest {}).await?;
            Ok(())
        };
        timeout(AT_ONCE, answer)
            .await
            .unwrap_or_else(|_| bail!("the agent did not answer"))
    })
}

async fn ask(config: &Config, attachment: &Attachment, deadline: Instant) -> Result<()> {
    let mut agent = connect(config).await?;
    let mut request = Request::new(AwaitEndpointRequest {
        endpoint: attachment.endpoint.clone(),
        uid: attachment.uid.clone(),
        interfaces: attachment.interfaces.clone(),
        ips: attachment.ips.clone(),
    });
    request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    match agent.await_endpoint(request).await {
        Ok(_) => Ok(()),
        Err(status) if status.code() == Code::Unimplemented => bail!("the agent is of a version without this question"),
        Err(status) => bail!("{}", status.message()),
    }
}

async fn connect(config: &Config) -> Result<AgentClient<Channel>> {
    let socket = config.socket.clone();
    // The address is only a name here: the connector goes to the socket.
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await
        .with_context(|| format!("no agent answers at {}", config.socket.display()))?;
    Ok(AgentClient::new(channel))
}

/// On this thread.
pub(crate) fn run<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(work)
}
