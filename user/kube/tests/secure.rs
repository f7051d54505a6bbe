//! The API server as a pod meets it: over TLS by an authority of the cluster's own, and by a token in a file that is another one
//! every now and then.

#[expect(dead_code, reason = "each test uses a part of it")]
mod api_server;

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use api_server::ApiServer;
use seventh_kube::{FollowSettings, Following, connect, follow};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};

/// A client reads its token again every minute at the latest.
const PATIENCE: Duration = Duration::from_secs(120);

fn openssl(dir: &Path, words: &str) {
    let output = Command::new("openssl")
        .args(words.split_whitespace())
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .expect("openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// An authority, `NAME-ca.crt`, and what it says of who is at 127.0.0.1: `NAME.crt`, `NAME.key`.
fn certify(dir: &Path, name: &str) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    fs::write(dir.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(
        dir,
        &format!("req -x509 {key} -keyout {name}-ca.key -out {name}-ca.crt -days 2 -subj /CN={name}-ca"),
    );
    openssl(
        dir,
        &format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN=kube-apiserver"),
    );
    openssl(
        dir,
        &format!(
            "x509 -req -in {name}.csr -CA {name}-ca.crt -CAkey {name}-ca.key -CAcreateserial -out {name}.crt -days 2 -extfile \
             names"
        ),
    );
}

/// Ends TLS, with the certificate of this name, before the server.
async fn secure(dir: &Path, name: &str, server: SocketAddr) -> SocketAddr {
    let certificate = CertificateDer::from_pem_file(dir.join(format!("{name}.crt"))).unwrap();
    let key = PrivateKeyDer::from_pem_file(dir.join(format!("{name}.key"))).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust us says so and goes.
                let Ok(mut client) = acceptor.accept(stream).await else {
                    return;
                };
                let mut server = TcpStream::connect(server).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    address
}

/// Follows as a pod does: an authority in a file, a token in a file, and nothing else.
async fn follow_from_pod(dir: &Path, authority: &str, server: SocketAddr) -> (Following, tokio::task::JoinHandle<()>) {
    let file = dir.join("config");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: pod\nclusters:\n- name: pod\n  cluster: {{server: 'https://{server}', \
         certificate-authority: {authority}}}\ncontexts:\n- name: pod\n  context: {{cluster: pod, user: pod}}\nusers:\n- name: \
         pod\n  user: {{tokenFile: {token}}}\n",
        authority = dir.join(authority).display(),
        token = dir.join("token").display(),
    );
    fs::write(&file, text).unwrap();
    let client = connect(Some(&file)).await.unwrap();
    let settings = FollowSettings {
        node: "node-a".into(),
        cluster: "default".into(),
        labels: Vec::new(),
        discover_every: Duration::from_millis(500),
    };
    let (following, run) = follow(client, &settings).unwrap();
    (following, tokio::spawn(run))
}

async fn until_trouble(following: &mut Following, word: &str) {
    let so = |connection: &seventh_kube::Connection| connection.troubles.iter().any(|t| t.reason.contains(word));
    let told = timeout(PATIENCE, following.connection.wait_for(so)).await.is_ok();
    assert!(told, "{word}: {:#?}", following.connection.borrow());
}

#[tokio::test]
async fn a_server_of_another_authority_is_told_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["own", "other"] {
        certify(dir.path(), name);
    }
    fs::write(dir.path().join("token"), "first").unwrap();
    let server = ApiServer::start(TcpListener::bind("127.0.0.1:0").unwrap());
    let address = secure(dir.path(), "other", server.address()).await;
    let (mut following, task) = follow_from_pod(dir.path(), "own-ca.crt", address).await;
    until_trouble(&mut following, "certificate").await;
    assert_eq!(server.requests("/api/v1/pods"), 0);
    assert!(following.cluster.borrow().is_none());
    task.abort();
}

#[tokio::test]
async fn a_token_that_is_refused_is_told_and_one_that_was_changed_is_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    certify(dir.path(), "own");
    let token = dir.path().join("token");
    fs::write(&token, "first").unwrap();
    let server = ApiServer::start(TcpListener::bind("127.0.0.1:0").unwrap());
    server.demand("first");
    server.put("namespaces", serde_json::json!({"metadata": {"name": "before"}}));
    let address = secure(dir.path(), "own", server.address()).await;
    let (mut following, task) = follow_from_pod(dir.path(), "own-ca.crt", address).await;
    let known = timeout(PATIENCE, following.cluster.wait_for(Option::is_some))
        .await
        .is_ok();
    assert!(known, "{:#?}", following.connection.borrow());
    assert!(following.connection.borrow().troubles.is_empty());
    // The old one is worth nothing from one moment to the next: the kubelet gives more time than that.
    fs::write(&token, "second").unwrap();
    server.demand("second");
    until_trouble(&mut following, "does not know who we are").await;
    assert!(following.cluster.borrow().is_some(), "what was known last holds");
    let is_well = |connection: &seventh_kube::Connection| connection.troubles.is_empty();
    let well = timeout(PATIENCE, following.connection.wait_for(is_well)).await.is_ok();
    assert!(well, "{:#?}", following.connection.borrow());
    // What happened meanwhile is known.
    let pod = serde_json::json!({"metadata": {"namespace": "before", "name": "late"}, "spec": {"nodeName": "node-a"},
        "status": {"podIPs": [{"ip": "10.0.0.1"}]}});
    server.put("pods", pod);
    let so = |cluster: &Option<Arc<seventh_kube::Cluster>>| cluster.as_ref().is_some_and(|c| c.workloads.len() == 1);
    assert!(timeout(PATIENCE, following.cluster.wait_for(so)).await.is_ok());
    task.abort();
}
