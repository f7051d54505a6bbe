//! How the API server is reached.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// How long a connection may take to come up.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long the server may say nothing on an open watch: a little longer than it is asked to keep one open
/// ([`crate::watch::WATCH_S`]).
const SILENCE_MAX: Duration = Duration::from_secs(250);

/// Why there is no way to an API server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The file cannot be used.
    #[error("{}: {source}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: kube::config::KubeconfigError,
    },
    /// There is no pod's own way.
    #[error(
        "there is no service account here ({0}); inside a cluster give the pod one, elsewhere name a file in \
         `kubernetes.kubeconfig`"
    )]
    NotInCluster(#[from] kube::config::InClusterError),
    /// What was found cannot be used.
    #[error("the API server's address, certificates or token cannot be used: {0}")]
    Client(#[from] kube::Error),
}

/// A client by this file, or by the pod's own service account. Nothing is sent yet.
///
/// # Errors
/// There is no such way, or it cannot be used.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ConnectError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let fault = |source| ConnectError::Kubeconfig {
                path: path.to_owned(),
                source,
            };
            let read = Kubeconfig::read_from(path).map_err(fault)?;
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                .await
                .map_err(fault)?
        }
        None => Config::incluster()?,
    };
    config.connect_timeout = Some(CONNECT_MAX);
    config.read_timeout = Some(SILENCE_MAX);
    // Whoever follows tries again by itself, and tells of it.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}
