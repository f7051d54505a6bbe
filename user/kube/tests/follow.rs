//! Following an API server that does to its clients what real ones do.

#[expect(dead_code, reason = "each test uses a part of it")]
mod api_server;

use std::{
    net::TcpListener,
    sync::Arc,
    time::{Duration, Instant},
};

use api_server::ApiServer;
use serde_json::{Value, json};
use seventh_kube::{Cluster, Connection, FollowSettings, Following, Kind, Reports, connect, follow, report};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

const PATIENCE: Duration = Duration::from_secs(15);

struct Stage {
    server: ApiServer,
    following: Following,
    task: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stage {
    async fn new(prepare: impl FnOnce(&ApiServer)) -> Self {
        let server = ApiServer::start(TcpListener::bind("127.0.0.1:0").unwrap());
        prepare(&server);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        std::fs::write(&file, server.kubeconfig()).unwrap();
        let client = connect(Some(&file)).await.unwrap();
        let settings = FollowSettings {
            node: "node-a".into(),
            cluster: "default".into(),
            labels: Vec::new(),
            discover_every: Duration::from_millis(200),
        };
        let (following, run) = follow(client, &settings).unwrap();
        Self {
            server,
            following,
            task: tokio::spawn(run),
            _dir: dir,
        }
    }

    /// Waits until the cluster is so.
    async fn until(&mut self, what: &str, is_so: impl Fn(&Cluster) -> bool) -> Arc<Cluster> {
        let so = |cluster: &Option<Arc<Cluster>>| cluster.as_deref().is_some_and(&is_so);
        let found = timeout(PATIENCE, self.following.cluster.wait_for(so)).await;
        let found = found.ok().map(|found| found.unwrap().clone().unwrap());
        found.unwrap_or_else(|| panic!("{what}: {:#?}", self.following.cluster.borrow()))
    }

    async fn until_connection(&mut self, what: &str, is_so: impl Fn(&Connection) -> bool) -> Connection {
        let found = timeout(PATIENCE, self.following.connection.wait_for(&is_so)).await;
        let found = found.ok().map(|found| found.unwrap().clone());
        found.unwrap_or_else(|| panic!("{what}: {:#?}", self.following.connection.borrow()))
    }
}

fn pod(name: &str, ip: &str) -> Value {
    json!({"metadata": {"namespace": "default", "name": name, "labels": {"app": name}},
        "spec": {"nodeName": "node-a", "containers": []}, "status": {"phase": "Running", "podIPs": [{"ip": ip}]}})
}

fn policy(name: &str) -> Value {
    json!({"metadata": {"namespace": "default", "name": name}, "spec": {"endpointSelector": {}, "ingress": [{}]}})
}

fn namespace(server: &ApiServer) {
    server.put(
        "namespaces",
        json!({"metadata": {"name": "default", "labels": {"team": "red"}}}),
    );
}

fn pods(cluster: &Cluster) -> String {
    let names: Vec<&str> = cluster.workloads.iter().map(|w| w.name.name.as_str()).collect();
    names.join(" ")
}

#[tokio::test]
async fn objects_come_change_and_go() {
    let mut stage = Stage::new(|server| {
        namespace(server);
        server.put("pods", pod("web", "10.0.0.1"));
    })
    .await;
    let cluster = stage.until("one pod", |cluster| pods(cluster) == "web").await;
    let labels = cluster.workloads[0].labels.to_string();
    assert!(
        labels.contains("k8s:io.cilium.k8s.namespace.labels.team=red") && labels.contains("k8s:app=web"),
        "{labels}"
    );
    stage.server.put("pods", pod("db", "10.0.0.2"));
    let began = Instant::now();
    stage.until("two pods", |cluster| pods(cluster) == "db web").await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let mut other = pod("web", "10.0.0.1");
    other["metadata"]["labels"]["app"] = "other".into();
    stage.server.put("pods", other);
    let is_other = |cluster: &Cluster| {
        cluster
            .workloads
            .iter()
            .any(|w| w.labels.to_string().contains("app=other"))
    };
    stage.until("another label", is_other).await;
    stage.server.delete("pods", "default", "web");
    stage.until("one pod again", |cluster| pods(cluster) == "db").await;
}

#[tokio::test]
async fn a_watch_that_breaks_or_is_too_old_loses_nothing() {
    let mut stage = Stage::new(|server| {
        namespace(server);
        server.put("pods", pod("a", "10.0.0.1"));
        server.put("pods", pod("b", "10.0.0.2"));
    })
    .await;
    stage.until("both", |cluster| pods(cluster) == "a b").await;
    stage.server.cut();
    stage.server.put("pods", pod("c", "10.0.0.3"));
    stage
        .until("one came meanwhile", |cluster| pods(cluster) == "a b c")
        .await;
    let listed = stage.server.requests("/api/v1/pods");
    // What happens now is told to nobody, and forgotten before anybody asks.
    stage.server.refuse(true);
    stage.server.delete("pods", "default", "a");
    stage.server.put("pods", pod("d", "10.0.0.4"));
    stage.server.forget();
    let connection = stage.until_connection("it is told", |c| !c.troubles.is_empty()).await;
    assert!(
        connection.troubles[0].reason.contains("the test refuses"),
        "{connection:?}"
    );
    assert_eq!(
        pods(stage.following.cluster.borrow().as_deref().unwrap()),
        "a b c",
        "what was known last holds"
    );
    stage.server.refuse(false);
    stage.until("listed anew", |cluster| pods(cluster) == "b c d").await;
    assert!(stage.server.requests("/api/v1/pods") > listed);
    stage
        .until_connection("all is well again", |c| c.troubles.iter().all(|t| t.kind != Kind::Pod))
        .await;
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_named_until_it_can_be_or_is_gone() {
    let unreadable = |name: &str| {
        let mut pod = pod(name, "10.0.0.9");
        pod["spec"]["nodeName"] = 5.into();
        pod
    };
    let mut stage = Stage::new(|server| {
        namespace(server);
        server.put("pods", pod("a", "10.0.0.1"));
        for name in ["mended", "removed", "vanished"] {
            server.put("pods", unreadable(name));
        }
    })
    .await;
    stage.until("the others", |cluster| pods(cluster) == "a").await;
    let connection = stage.until_connection("all three", |c| c.unread.len() == 3).await;
    assert_eq!(
        (connection.unread[0].0, connection.unread[0].1.to_string()),
        (Kind::Pod, "default/mended".into())
    );
    stage.server.put("pods", pod("mended", "10.0.0.2"));
    stage.server.delete("pods", "default", "removed");
    stage
        .until_connection("two are no matter", |c| c.unread.len() == 1)
        .await;
    // Nobody tells of the third: it is not in the next list.
    stage.server.refuse(true);
    stage.server.delete("pods", "default", "vanished");
    stage.server.forget();
    stage.server.refuse(false);
    let connection = stage.until_connection("all is well", |c| c.unread.is_empty()).await;
    assert_eq!(connection.unreadable, 3, "what is counted stays");
}

#[tokio::test]
async fn nothing_is_known_before_everything_was_listed() {
    let mut stage = Stage::new(|server| {
        namespace(server);
        server.put("pods", pod("a", "10.0.0.1"));
        server.refuse(true);
    })
    .await;
    let connection = stage.until_connection("refused", |c| !c.troubles.is_empty()).await;
    assert!(connection.awaited.contains(&Kind::Pod) && stage.following.cluster.borrow().is_none());
    stage.server.slow_down(Duration::from_millis(300));
    stage.server.refuse(false);
    stage.until("slowly listed", |cluster| pods(cluster) == "a").await;
}

#[tokio::test]
async fn kinds_that_are_defined_later_are_found_without_a_restart() {
    let mut stage = Stage::new(namespace).await;
    stage.until("no policy", |cluster| cluster.policies.is_empty()).await;
    let connection = stage.until_connection("absent", |c| c.absent.len() == 4).await;
    assert!(connection.awaited.is_empty(), "{connection:?}");
    stage.server.define("ciliumnetworkpolicies");
    stage.server.put("ciliumnetworkpolicies", policy("late"));
    let cluster = stage.until("found", |cluster| cluster.policies.len() == 1).await;
    assert_eq!(
        cluster.policies[0].file(),
        "kubernetes:CiliumNetworkPolicy/default/late"
    );
    stage.until_connection("three are left", |c| c.absent.len() == 3).await;
}

#[tokio::test]
async fn long_lists_are_read_in_pages() {
    let mut stage = Stage::new(|server| {
        namespace(server);
        for n in 0..1203_u32 {
            server.put(
                "pods",
                pod(&format!("p{n}"), &std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string()),
            );
        }
    })
    .await;
    stage.until("all", |cluster| cluster.workloads.len() == 1203).await;
    assert!(stage.server.requests("/api/v1/pods") >= 3);
}

#[tokio::test]
async fn trouble_of_the_node_that_could_not_be_told_is_told_when_it_can_be() {
    let server = ApiServer::start(TcpListener::bind("127.0.0.1:0").unwrap());
    server.refuse(true);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config");
    std::fs::write(&file, server.kubeconfig()).unwrap();
    let client = connect(Some(&file)).await.unwrap();
    let (_sender, reports) = watch::channel(Arc::new(Reports {
        trouble: Some("no room".to_owned()),
        ..Reports::default()
    }));
    let task = tokio::spawn(report(client, "node-a".to_owned(), reports));
    let is_so = async |is_so: &dyn Fn() -> bool| {
        while !is_so() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let tried = || server.requests("/api/v1/namespaces/default/events") > 0;
    timeout(PATIENCE, is_so(&tried)).await.unwrap();
    server.refuse(false);
    timeout(PATIENCE, is_so(&|| !server.events().is_empty())).await.unwrap();
    let [event] = server.events().try_into().unwrap();
    assert_eq!(
        (&event["reason"], &event["message"]),
        (&json!("PoliciesNotInForce"), &json!("no room"))
    );
    task.abort();
}
