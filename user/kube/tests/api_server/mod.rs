//! An API server for tests: lists in pages, watches with resource versions and bookmarks, patches of a status, events;
//! and everything that a real one may do to its clients: forget old versions, break connections off, answer slowly, refuse.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::Duration,
};

use futures_util::stream;
use http_body_util::{BodyExt as _, Collected, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::watch;

/// How often a quiet watch gets a bookmark.
const BOOKMARK_EVERY: Duration = Duration::from_millis(200);

/// What the server serves from the beginning: plural, group and version, kind.
const BUILT_IN: &[(&str, &str, &str)] = &[
    ("pods", "v1", "Pod"),
    ("namespaces", "v1", "Namespace"),
    ("nodes", "v1", "Node"),
    ("services", "v1", "Service"),
    ("endpointslices", "discovery.k8s.io/v1", "EndpointSlice"),
    ("networkpolicies", "networking.k8s.io/v1", "NetworkPolicy"),
];
/// What can be defined later.
const DEFINED: &[(&str, &str, &str)] = &[
    ("ciliumnetworkpolicies", "cilium.io/v2", "CiliumNetworkPolicy"),
    (
        "ciliumclusterwidenetworkpolicies",
        "cilium.io/v2",
        "CiliumClusterwideNetworkPolicy",
    ),
    ("ciliumcidrgroups", "cilium.io/v2", "CiliumCIDRGroup"),
    (
        "clusternetworkpolicies",
        "policy.networking.k8s.io/v1alpha2",
        "ClusterNetworkPolicy",
    ),
];

type Name = (String, String);
type Body = BoxBody<Bytes, io::Error>;

/// A server on a listener of the test's choice.
#[derive(Debug)]
pub(crate) struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Raised with everything that happens.
    news: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    objects: BTreeMap<&'static str, BTreeMap<Name, Value>>,
    /// What happened: version, plural, type of the event, object.
    log: Vec<(u64, &'static str, &'static str, Value)>,
    /// Versions up to this one are forgotten.
    forgotten: u64,
    defined: Vec<&'static str>,
    /// Watches that began before this are broken off.
    cuts: u64,
    refuses: bool,
    /// Who sends another token than this one is not known.
    token: Option<String>,
    delay: Duration,
    events: Vec<Value>,
    requests: BTreeMap<String, u64>,
    patches: u64,
}

impl State {
    fn happened(&mut self, kind: &'static str, what: &'static str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.log.push((self.version, kind, what, object.clone()));
        object
    }
}

impl ApiServer {
    /// Serves on a thread of its own until the process ends.
    pub(crate) fn start(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                version: 1,
                ..State::default()
            }),
            news: watch::Sender::new(0),
        });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                loop {
                    let Ok((stream, _)) = listener.accept().await else {
                        continue;
                    };
                    let shared = Arc::clone(&serving);
                    let service = service_fn(move |request| answer(Arc::clone(&shared), request));
                    tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
                }
            });
        });
        Self { shared, address }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    fn tell(&self) {
        self.shared.news.send_modify(|n| *n += 1);
    }

    /// A file by which clients find it.
    pub(crate) fn kubeconfig(&self) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\nclusters:\n- name: test\n  cluster: {{server: \
             'http://{}'}}\ncontexts:\n- name: test\n  context: {{cluster: test, user: test}}\nusers:\n- name: test\n  \
             user: {{token: test}}\n",
            self.address
        )
    }

    /// Serves what every cluster does not: the kind of this plural.
    pub(crate) fn define(&self, plural: &str) {
        let (known, ..) = DEFINED.iter().find(|(p, ..)| *p == plural).unwrap();
        self.state().defined.push(known);
    }

    /// Makes an object, or puts another one in its place.
    pub(crate) fn put(&self, plural: &str, mut object: Value) {
        let (plural, api, kind) = kind_of(plural);
        object["apiVersion"] = api.into();
        object["kind"] = kind.into();
        let name = name_of(&object);
        let mut state = self.state();
        let known = state.objects.entry(plural).or_default().get(&name).cloned();
        if object["metadata"]["uid"].is_null() {
            let uid = known.as_ref().map_or_else(
                || format!("uid-{}-{}", name.1, state.version).into(),
                |known| known["metadata"]["uid"].clone(),
            );
            object["metadata"]["uid"] = uid;
        }
        let generation = known
            .as_ref()
            .map_or(0, |known| known["metadata"]["generation"].as_i64().unwrap_or(0));
        object["metadata"]["generation"] = (generation + 1).into();
        if let Some(known) = &known
            && object["status"].is_null()
            && !known["status"].is_null()
        {
            object["status"] = known["status"].clone();
        }
        let what = if known.is_some() { "MODIFIED" } else { "ADDED" };
        let object = state.happened(plural, what, object);
        state.objects.entry(plural).or_default().insert(name, object);
        drop(state);
        self.tell();
    }

    /// Removes an object.
    pub(crate) fn delete(&self, plural: &str, namespace: &str, name: &str) {
        let (plural, ..) = kind_of(plural);
        let mut state = self.state();
        let name = (namespace.to_owned(), name.to_owned());
        let gone = state.objects.entry(plural).or_default().remove(&name).unwrap();
        state.happened(plural, "DELETED", gone);
        drop(state);
        self.tell();
    }

    /// An object as it is now.
    pub(crate) fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let name = (namespace.to_owned(), name.to_owned());
        self.state().objects.get(plural)?.get(&name).cloned()
    }

    /// Breaks off every watch.
    pub(crate) fn cut(&self) {
        self.state().cuts += 1;
        self.tell();
    }

    /// Forgets what happened: watches from before are told that they are too old.
    pub(crate) fn forget(&self) {
        let mut state = self.state();
        state.forgotten = state.version;
        state.log.clear();
        // The next version is beyond what any client has seen.
        state.version += 1;
    }

    /// Refuses everything, or no longer.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.state().refuses = refuses;
        if refuses {
            self.cut();
        }
    }

    /// From now on only who sends this token is known; watches are broken off.
    pub(crate) fn demand(&self, token: &str) {
        self.state().token = Some(token.to_owned());
        self.cut();
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers after this time.
    pub(crate) fn slow_down(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// The Kubernetes Events that were written.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.state().events.clone()
    }

    /// How often a status was patched.
    pub(crate) fn patches(&self) -> u64 {
        self.state().patches
    }

    /// How many requests came for a path.
    pub(crate) fn requests(&self, path: &str) -> u64 {
        self.state().requests.get(path).copied().unwrap_or(0)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

fn kind_of(plural: &str) -> (&'static str, &'static str, &'static str) {
    *BUILT_IN.iter().chain(DEFINED).find(|(p, ..)| *p == plural).unwrap()
}

fn name_of(object: &Value) -> Name {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let query: BTreeMap<String, String> = parts
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let sent_token = parts.headers.get("authorization").and_then(|value| value.to_str().ok());
    let (refuses, is_known, delay) = {
        let mut state = shared.state();
        *state.requests.entry(path.clone()).or_default() += 1;
        let demanded = state.token.as_ref().map(|token| format!("Bearer {token}"));
        let is_known = demanded.is_none_or(|demanded| sent_token == Some(&demanded));
        (state.refuses, is_known, state.delay)
    };
    tokio::time::sleep(delay).await;
    if refuses {
        return Ok(failure(StatusCode::SERVICE_UNAVAILABLE, "the test refuses"));
    }
    if !is_known {
        return Ok(failure(StatusCode::UNAUTHORIZED, "Unauthorized"));
    }
    let sent = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
    let words: Vec<&str> = path.trim_matches('/').split('/').collect();
    // Without the prefix: group and version, then the rest.
    let (api, rest) = match words.as_slice() {
        ["api", version, rest @ ..] => ((*version).to_owned(), rest),
        ["apis", group, version, rest @ ..] => (format!("{group}/{version}"), rest),
        _ => return Ok(failure(StatusCode::NOT_FOUND, "no such path")),
    };
    let known = {
        let state = shared.state();
        let defined = DEFINED.iter().filter(|(plural, ..)| state.defined.contains(plural));
        let all = BUILT_IN.iter().chain(defined).copied();
        all.filter(|(_, of, _)| *of == api).collect::<Vec<_>>()
    };
    if known.is_empty() {
        return Ok(failure(StatusCode::NOT_FOUND, "no such group"));
    }
    let kind = |plural: &str| known.iter().copied().find(|(p, ..)| *p == plural);
    Ok(match (parts.method, rest) {
        (Method::GET, []) => groups(&api, &known),
        (Method::GET, [plural]) => match kind(plural) {
            Some(kind) if query.contains_key("watch") => watching(shared, kind.0, &query),
            Some(kind) => list(&shared.state(), kind, &query),
            None => failure(StatusCode::NOT_FOUND, "no such kind"),
        },
        (Method::POST, ["namespaces", _, "events"]) => {
            let event: Value = serde_json::from_slice(&sent).unwrap();
            shared.state().events.push(event.clone());
            json_answer(StatusCode::CREATED, &event)
        }
        (Method::PATCH, ["namespaces", namespace, plural, name, "status"]) => {
            patch(&shared, plural, (*namespace).to_owned(), (*name).to_owned(), &sent)
        }
        (Method::PATCH, [plural, name, "status"]) => patch(&shared, plural, String::new(), (*name).to_owned(), &sent),
        _ => failure(StatusCode::METHOD_NOT_ALLOWED, "the test's server does not do that"),
    })
}

fn groups(api: &str, known: &[(&str, &str, &str)]) -> Response<Body> {
    let resources: Vec<Value> = known
        .iter()
        .map(|(plural, _, kind)| {
            json!({"name": plural, "singularName": "", "namespaced": true, "kind": kind, "verbs": ["list", "watch"]})
        })
        .collect();
    let list = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api, "resources": resources});
    json_answer(StatusCode::OK, &list)
}

fn list(
    state: &State,
    (plural, api, kind): (&'static str, &str, &str),
    query: &BTreeMap<String, String>,
) -> Response<Body> {
    let all: Vec<&Value> = state
        .objects
        .get(plural)
        .into_iter()
        .flat_map(BTreeMap::values)
        .collect();
    let number = |key: &str| query.get(key).and_then(|text| text.parse::<usize>().ok());
    let from = number("continue").unwrap_or(0).min(all.len());
    let to = number("limit").map_or(all.len(), |limit| (from + limit).min(all.len()));
    let mut meta = json!({"resourceVersion": state.version.to_string()});
    if to < all.len() {
        meta["continue"] = to.to_string().into();
    }
    let items: Vec<Value> = all[from..to]
        .iter()
        .map(|object| {
            // A real server leaves these out of the items of its own kinds.
            let mut object = (*object).clone();
            if let Some(object) = object.as_object_mut() {
                object.remove("kind");
                object.remove("apiVersion");
            }
            object
        })
        .collect();
    let list = json!({"kind": format!("{kind}List"), "apiVersion": api, "metadata": meta, "items": items});
    json_answer(StatusCode::OK, &list)
}

/// A watch: what it has told, and what it is about.
struct Watch {
    shared: Arc<Shared>,
    news: watch::Receiver<u64>,
    plural: &'static str,
    told: u64,
    cuts: u64,
    is_over: bool,
}

fn watching(shared: Arc<Shared>, plural: &'static str, query: &BTreeMap<String, String>) -> Response<Body> {
    let told = query.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
    let (news, cuts) = (shared.news.subscribe(), shared.state().cuts);
    let watch = Watch {
        shared,
        news,
        plural,
        told,
        cuts,
        is_over: false,
    };
    let lines = stream::unfold(watch, |mut watch| async move {
        let line = watch.next().await?;
        Some((line.map(|text| Frame::data(Bytes::from(text))), watch))
    });
    Response::builder()
        .header("content-type", "application/json")
        .body(BoxBody::new(StreamBody::new(lines)))
        .unwrap()
}

impl Watch {
    async fn next(&mut self) -> Option<io::Result<String>> {
        if self.is_over {
            return None;
        }
        loop {
            if let Some(line) = self.ready() {
                return Some(line);
            }
            if tokio::time::timeout(BOOKMARK_EVERY, self.news.changed()).await.is_err() {
                let version = self.shared.state().version;
                self.told = self.told.max(version);
                let kind = kind_of(self.plural);
                let bookmark = json!({"kind": kind.2, "apiVersion": kind.1,
                    "metadata": {"resourceVersion": version.to_string(), "creationTimestamp": null}});
                return Some(Ok(format!("{}\n", json!({"type": "BOOKMARK", "object": bookmark}))));
            }
        }
    }

    fn ready(&mut self) -> Option<io::Result<String>> {
        let state = self.shared.state();
        if state.cuts != self.cuts {
            self.is_over = true;
            return Some(Err(io::Error::other("the test breaks it off")));
        }
        if self.told < state.forgotten {
            self.is_over = true;
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "too old resource version", "reason": "Expired", "code": 410});
            return Some(Ok(format!("{}\n", json!({"type": "ERROR", "object": status}))));
        }
        let mut news = state.log.iter().filter(|(version, ..)| *version > self.told);
        let (version, _, what, object) = news.find(|(_, plural, ..)| *plural == self.plural)?;
        self.told = *version;
        Some(Ok(format!("{}\n", json!({"type": what, "object": object}))))
    }
}

fn patch(shared: &Shared, plural: &str, namespace: String, name: String, sent: &[u8]) -> Response<Body> {
    let (plural, ..) = kind_of(plural);
    let patch: Value = serde_json::from_slice(sent).unwrap();
    let mut state = shared.state();
    let key = (namespace, name);
    let Some(mut object) = state.objects.get(plural).and_then(|all| all.get(&key)).cloned() else {
        return failure(StatusCode::NOT_FOUND, "no such object");
    };
    // Of a patch of the status everything else is ignored; lists are replaced.
    if let Some(changed) = patch["status"].as_object() {
        for (field, value) in changed {
            object["status"][field] = value.clone();
        }
    }
    state.patches += 1;
    let object = state.happened(plural, "MODIFIED", object);
    state.objects.entry(plural).or_default().insert(key, object.clone());
    drop(state);
    shared.news.send_modify(|n| *n += 1);
    json_answer(StatusCode::OK, &object)
}

fn failure(code: StatusCode, message: &str) -> Response<Body> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": code.canonical_reason(), "code": code.as_u16()});
    json_answer(code, &status)
}

fn json_answer(code: StatusCode, value: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(value.to_string())).map_err(|never| match never {});
    Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .body(BoxBody::new(body))
        .unwrap()
}
