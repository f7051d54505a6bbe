//! Follows an API server: one watch per kind, one picture, and a cluster whenever it has settled.
//!
//! Lists are read in pages and watches go on where they broke off; both is [`kube::runtime::watcher`]'s work. While the
//! server does not answer, what was known last holds.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::{
    StreamExt as _,
    stream::{BoxStream, SelectAll},
};
use kube::{
    Api, Client,
    api::DynamicObject,
    runtime::{
        WatchStreamExt as _,
        utils::Backoff,
        watcher::{self, Event},
    },
};
use seventh_policy::LabelFilter;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{interval, sleep_until},
};
use tracing::{debug, info, warn};

use crate::{
    Change, Cluster, Deriver, Kind, Picture, Trim,
    object::{Object, ObjectName},
    unread::Unread,
};

/// How long the server is asked to keep a watch open, in seconds. A connection that has silently died is found after
/// this time, too.
pub(crate) const WATCH_S: u32 = 240;
/// Changes are one change until none comes for the first time, but not for longer than the second.
const SETTLE: Duration = Duration::from_millis(50);
const SETTLE_MAX: Duration = Duration::from_millis(100);
/// Pauses after failures: the first and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A kind that has not failed for this long is followed again, even if nothing was told of it since.
const RECOVERED: Duration = Duration::from_secs(25);
/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Whom to follow, and as whom.
#[derive(Debug)]
pub struct FollowSettings {
    /// Name of this node's Node object.
    pub node: String,
    /// Name of the cluster, as endpoints carry it in a label.
    pub cluster: String,
    /// Which labels make an identity: patterns of [`LabelFilter::new`].
    pub labels: Vec<String>,
    /// How often it is looked whether kinds are served that were not.
    pub discover_every: Duration,
}

/// What is followed.
#[derive(Debug)]
pub struct Following {
    /// The cluster as it is, once everything was listed; another one whenever it has changed and settled.
    pub cluster: watch::Receiver<Option<Arc<Cluster>>>,
    /// How it stands with the server.
    pub connection: watch::Receiver<Connection>,
}

/// How it stands with the server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Connection {
    /// Kinds that cannot be followed at present.
    pub troubles: Vec<Trouble>,
    /// Kinds that the cluster does not serve.
    pub absent: Vec<Kind>,
    /// Kinds that were not listed yet.
    pub awaited: Vec<Kind>,
    /// Objects that there was no room for, by kind.
    pub refused: Vec<(Kind, usize)>,
    /// How often an object could not be read, since the beginning.
    pub unreadable: u64,
    /// Objects that cannot be read at present, as far as their names are kept.
    pub unread: Vec<(Kind, ObjectName)>,
}

/// A kind that cannot be followed.
#[derive(Clone, Debug, PartialEq)]
pub struct Trouble {
    /// The kind.
    pub kind: Kind,
    /// Since when.
    pub since: SystemTime,
    /// Why, and what to do about it.
    pub reason: String,
}

/// Follows until the future is dropped.
///
/// # Errors
/// A label pattern is none.
pub fn follow(
    client: Client,
    settings: &FollowSettings,
) -> Result<(Following, impl Future<Output = ()> + Send + use<>), String> {
    let filter = || LabelFilter::new(settings.labels.iter().map(String::as_str));
    let (cluster_tx, cluster) = watch::channel(None);
    let (connection_tx, connection) = watch::channel(Connection::default());
    let follower = Follower {
        client,
        discover_every: settings.discover_every,
        trim: Trim::new(filter()?, &settings.node),
        deriver: Deriver::new(&settings.node, &settings.cluster, filter()?),
        picture: Picture::default(),
        followed: HashSet::new(),
        troubles: BTreeMap::new(),
        unread: Unread::default(),
        cluster: cluster_tx,
        connection: connection_tx,
    };
    Ok((Following { cluster, connection }, follower.run()))
}

struct Follower {
    client: Client,
    discover_every: Duration,
    trim: Trim,
    deriver: Deriver,
    picture: Picture,
    followed: HashSet<Kind>,
    troubles: BTreeMap<Kind, Failing>,
    unread: Unread,
    cluster: watch::Sender<Option<Arc<Cluster>>>,
    connection: watch::Sender<Connection>,
}

struct Failing {
    since: SystemTime,
    last: Instant,
    reason: String,
}

type Told = (Kind, &'static str, watcher::Result<Event<DynamicObject>>);

/// Whether a kind is served: in this version, or not at all.
type Discovered = (Kind, Result<Option<&'static str>, String>);

impl Follower {
    async fn run(mut self) {
        let mut streams: SelectAll<BoxStream<'static, Told>> = SelectAll::new();
        let mut discoveries: JoinSet<Discovered> = JoinSet::new();
        for kind in Kind::ALL.iter().filter(|kind| kind.is_everywhere()) {
            self.begin(&mut streams, *kind, kind.versions().first().copied().unwrap_or("v1"));
        }
        let mut discover = interval(self.discover_every);
        let mut look = interval(LOOK);
        let mut due: Option<(Instant, Instant)> = None;
        loop {
            let settled = async {
                match due {
                    Some((first, last)) => sleep_until((last + SETTLE).min(first + SETTLE_MAX).into()).await,
                    None => std::future::pending().await,
                }
            };
            let changed = tokio::select! {
                biased;
                () = settled => {
                    due = None;
                    self.publish();
                    false
                }
                told = streams.next(), if !streams.is_empty() => told.is_some_and(|told| self.hear(told)),
                Some(Ok((kind, found))) = discoveries.join_next(), if !discoveries.is_empty() => {
                    self.discovered(&mut streams, kind, found)
                }
                _ = discover.tick() => {
                    self.discover(&mut discoveries);
                    false
                }
                _ = look.tick() => {
                    self.look();
                    false
                }
            };
            if changed {
                let now = Instant::now();
                due = Some((due.map_or(now, |(first, _)| first), now));
            }
        }
    }

    /// Begins to follow a kind.
    fn begin(&mut self, streams: &mut SelectAll<BoxStream<'static, Told>>, kind: Kind, version: &'static str) {
        if !self.followed.insert(kind) {
            return;
        }
        debug!(kind = kind.name(), version, "following");
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &kind.resource(version));
        let config = watcher::Config::default().timeout(WATCH_S);
        let stream = watcher::watcher(api, config).backoff(Pauses::default());
        streams.push(stream.map(move |event| (kind, version, event)).boxed());
    }

    /// Takes up what was told; says whether the picture is another one now.
    fn hear(&mut self, (kind, version, told): Told) -> bool {
        let event = match told {
            Ok(event) => event,
            Err(error) => {
                self.fail(kind, explain(kind, &error));
                return false;
            }
        };
        if self.troubles.remove(&kind).is_some() {
            info!(kind = kind.name(), "followed again");
            self.tell();
        }
        let change = match event {
            Event::Init => {
                self.unread.begin(kind);
                Some(Change::Began(kind))
            }
            Event::InitDone => {
                if self.unread.complete(kind) {
                    self.tell();
                }
                Some(Change::Complete(kind))
            }
            Event::InitApply(object) => self
                .trimmed(kind, version, object)
                .map(|(name, object)| Change::Listed(kind, name, object)),
            Event::Apply(object) => self
                .trimmed(kind, version, object)
                .map(|(name, object)| Change::Applied(kind, name, object)),
            Event::Delete(object) => {
                let meta = object.metadata;
                let name = ObjectName::new(meta.namespace.unwrap_or_default(), meta.name.unwrap_or_default());
                self.readable(kind, &name);
                Some(Change::Gone(kind, name))
            }
        };
        change.is_some_and(|change| self.picture.apply(change))
    }

    fn trimmed(&mut self, kind: Kind, version: &'static str, object: DynamicObject) -> Option<(ObjectName, Object)> {
        let meta = &object.metadata;
        let name = ObjectName::new(
            meta.namespace.clone().unwrap_or_default(),
            meta.name.clone().unwrap_or_default(),
        );
        let value = serde_json::to_value(object).map_err(Into::into);
        match value.and_then(|value| self.trim.object(kind, version, value)) {
            Ok(trimmed) => {
                self.readable(kind, &name);
                Some(trimmed)
            }
            Err(e) => {
                warn!(kind = kind.name(), %name, error = %e, "an object cannot be read; what was known of it stays");
                self.unread.add(kind, name);
                self.tell();
                None
            }
        }
    }

    fn readable(&mut self, kind: Kind, name: &ObjectName) {
        if self.unread.remove(kind, name) {
            self.tell();
        }
    }

    fn fail(&mut self, kind: Kind, reason: String) {
        let failing = self.troubles.entry(kind).or_insert_with(|| {
            warn!(kind = kind.name(), "{reason}");
            Failing {
                since: SystemTime::now(),
                last: Instant::now(),
                reason: String::new(),
            }
        });
        failing.last = Instant::now();
        failing.reason = reason;
        self.tell();
    }

    fn look(&mut self) {
        let failing = self.troubles.len();
        self.troubles.retain(|_, failing| failing.last.elapsed() < RECOVERED);
        if self.troubles.len() != failing {
            self.tell();
        }
    }

    /// Asks whether kinds are served that were not.
    fn discover(&self, discoveries: &mut JoinSet<Discovered>) {
        // One answer per kind is awaited at a time.
        if !discoveries.is_empty() {
            return;
        }
        for kind in Kind::ALL.iter().filter(|kind| !self.followed.contains(kind)) {
            let (client, kind) = (self.client.clone(), *kind);
            discoveries.spawn(async move { (kind, served(&client, kind).await) });
        }
    }

    fn discovered(
        &mut self,
        streams: &mut SelectAll<BoxStream<'static, Told>>,
        kind: Kind,
        found: Result<Option<&'static str>, String>,
    ) -> bool {
        match found {
            Ok(Some(version)) => {
                self.troubles.remove(&kind);
                self.begin(streams, kind, version);
                self.tell();
                false
            }
            Ok(None) => {
                self.troubles.remove(&kind);
                let changed = self.picture.apply(Change::Absent(kind));
                self.tell();
                changed
            }
            Err(reason) => {
                self.fail(kind, reason);
                false
            }
        }
    }

    fn publish(&mut self) {
        self.tell();
        if !self.picture.is_whole() {
            return;
        }
        let cluster = self.deriver.derive(&self.picture);
        self.cluster.send_if_modified(|known| {
            let is_new = known.as_deref() != Some(&cluster);
            if is_new {
                *known = Some(Arc::new(cluster));
            }
            is_new
        });
    }

    fn tell(&self) {
        let kinds = || Kind::ALL.iter().copied();
        let connection = Connection {
            troubles: self
                .troubles
                .iter()
                .map(|(kind, failing)| Trouble {
                    kind: *kind,
                    since: failing.since,
                    reason: failing.reason.clone(),
                })
                .collect(),
            absent: kinds()
                .filter(|kind| !self.followed.contains(kind) && self.picture.knows(*kind))
                .collect(),
            awaited: kinds().filter(|kind| !self.picture.knows(*kind)).collect(),
            refused: kinds()
                .map(|kind| (kind, self.picture.refused(kind)))
                .filter(|(_, refused)| *refused > 0)
                .collect(),
            unreadable: self.unread.count(),
            unread: self.unread.names(),
        };
        self.connection.send_if_modified(|known| {
            let is_new = *known != connection;
            *known = connection;
            is_new
        });
    }
}

/// The version in which the server serves the kind.
async fn served(client: &Client, kind: Kind) -> Result<Option<&'static str>, String> {
    for version in kind.versions() {
        let listed = client
            .list_api_group_resources(&format!("{}/{version}", kind.group()))
            .await;
        match listed {
            Ok(list) if list.resources.iter().any(|resource| resource.name == kind.plural()) => {
                return Ok(Some(version));
            }
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(e) => return Err(advice(kind, &e)),
        }
    }
    Ok(None)
}

fn explain(kind: Kind, error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(e) | watcher::Error::WatchStartFailed(e) | watcher::Error::WatchFailed(e) => {
            advice(kind, e)
        }
        watcher::Error::WatchError(status) => format!("{} are listed again: {}", kind.plural(), status.message),
        watcher::Error::NoResourceVersion => format!("{} cannot be watched: {error}", kind.plural()),
    }
}

/// What is wrong and what to do about it.
fn advice(kind: Kind, error: &kube::Error) -> String {
    let plural = kind.plural();
    match error {
        kube::Error::Api(status) if status.code == 401 => format!(
            "the API server does not know who we are ({}); check the service account's token or the kubeconfig",
            status.message
        ),
        kube::Error::Api(status) if status.code == 403 => format!(
            "the API server does not let us see {plural} ({}); grant list and watch on {plural} of the group `{}`",
            status.message,
            kind.group()
        ),
        kube::Error::Api(status) => format!("the API server refuses {plural}: {} ({})", status.message, status.code),
        other => {
            let mut text = format!("the API server does not answer: {other}");
            let mut cause = std::error::Error::source(other);
            while let Some(inner) = cause {
                let inner_text = inner.to_string();
                if !text.contains(&inner_text) {
                    text = format!("{text}: {inner_text}");
                }
                cause = inner.source();
            }
            format!("{text}; it is tried again, and what was known last stays in force")
        }
    }
}

/// Growing pauses between attempts. Many agents lose the server at the same moment: each waits its own time.
#[derive(Debug)]
struct Pauses {
    next: Duration,
    seed: u64,
}

impl Default for Pauses {
    fn default() -> Self {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            next: PAUSE_MIN,
            seed: u64::from(now.subsec_nanos()) ^ u64::from(std::process::id()) << 32,
        }
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        // A step of a linear congruential generator: any spread will do.
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let share = u32::try_from(self.seed >> 54).unwrap_or(0);
        let pause = self.next / 2 + self.next * share / 2048;
        self.next = (self.next * 2).min(PAUSE_MAX);
        Some(pause)
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.next = PAUSE_MIN;
    }
}

#[cfg(test)]
mod tests {
    use super::{PAUSE_MAX, PAUSE_MIN, Pauses};
    use kube::runtime::utils::Backoff as _;

    #[test]
    fn pauses_grow_to_a_bound_and_begin_anew() {
        let mut pauses = Pauses::default();
        let first = pauses.next().unwrap();
        assert!(first >= PAUSE_MIN / 2 && first <= PAUSE_MIN, "{first:?}");
        let last = (0..20).filter_map(|_| pauses.next()).last().unwrap();
        assert!(last >= PAUSE_MAX / 2 && last <= PAUSE_MAX, "{last:?}");
        pauses.reset();
        assert!(pauses.next().unwrap() <= PAUSE_MIN);
    }
}
