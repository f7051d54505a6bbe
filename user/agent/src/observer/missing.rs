//! The rule that was missing: of what would be denied, which rule came nearest, and on what it failed.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use seventh_abi::{Direction, Event, Hook};
use seventh_engine::{Inside as Read, L7Record};
use seventh_flows::pb::flow::Flow;
use seventh_policy::{Content, HttpRequest, IdentityId, MissedField, NearMiss};

use super::record::asked;

/// Answers that are kept at most; then all are forgotten.
const KNOWN_MAX: usize = 4096;
/// New questions that are answered in a second at most: each looks at every rule of an endpoint.
const QUESTIONS_MAX: u32 = 100;
const SPAN: Duration = Duration::from_secs(1);

/// What would be denied, without who in particular did it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Denied {
    /// Of the endpoint.
    pub(crate) ifindex: u32,
    pub(crate) egress: bool,
    pub(crate) peer: IdentityId,
    /// IP protocol number and destination port.
    pub(crate) port: (u8, u16),
    inside: Inside,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Inside {
    Unread,
    Http { method: String, host: String, path: String },
    Dns(String),
    Tls(String),
}

impl Denied {
    pub(super) fn of_event(event: &Event) -> Self {
        let (direction, port) = asked(event);
        Self {
            ifindex: event.ifindex,
            egress: direction == Direction::Egress,
            peer: event.peer_identity,
            port: (event.protocol, port),
            inside: Inside::Unread,
        }
    }

    pub(super) fn of_record(record: &L7Record) -> Self {
        let inside = match record.inside() {
            Read::Nothing => Inside::Unread,
            Read::Http(http) => Inside::Http {
                method: http.method().to_owned(),
                host: http.host().to_owned(),
                path: http.path().to_owned(),
            },
            Read::Dns(dns) => Inside::Dns(dns.query().to_owned()),
            Read::Tls(hello) => Inside::Tls(hello.server_name.clone()),
        };
        Self {
            ifindex: record.ifindex,
            egress: record.hook == Hook::FromEndpoint,
            peer: record.peer_identity,
            port: (record.protocol, record.destination_port),
            inside,
        }
    }

    /// As rules are asked about it. Headers were not kept.
    pub(crate) fn content(&self) -> Option<Content<'_>> {
        match &self.inside {
            Inside::Unread => None,
            Inside::Http { method, host, path } => Some(Content::Http(HttpRequest {
                method,
                path,
                host,
                headers: &[],
            })),
            Inside::Dns(name) => Some(Content::Dns(name)),
            Inside::Tls(name) => Some(Content::Tls(name)),
        }
    }
}

/// Who knows the rules; asked of what the policy of this revision denies.
pub(crate) type Explain = Box<dyn Fn(&Denied, u64) -> Result<Option<NearMiss>, Busy> + Send + Sync>;

/// The rules are being changed, or are others already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Busy;

/// Asks, not too often, and remembers.
pub(super) struct Missing {
    explain: Explain,
    known: Mutex<Known>,
}

impl fmt::Debug for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Missing").finish_non_exhaustive()
    }
}

struct Known {
    answers: HashMap<Denied, Option<Arc<NearMiss>>>,
    /// Of the policy that the answers are about.
    revision: u64,
    asked: u32,
    span_began: Instant,
}

impl Missing {
    pub(super) fn new(explain: Explain) -> Self {
        Self {
            explain,
            known: Mutex::new(Known {
                answers: HashMap::new(),
                revision: 0,
                asked: 0,
                span_began: Instant::now(),
            }),
        }
    }

    /// Says it in the flow's decision. Where too much is asked, nothing is said.
    pub(super) fn tell(&self, flow: &mut Flow, denied: Denied, revision: u64) {
        let Some(near) = self.nearest(denied, revision, Instant::now()) else {
            return;
        };
        let decision = flow.decision.get_or_insert_default();
        decision.rule.clone_from(&near.rule.path);
        decision.file = near.rule.file.to_string();
        decision.line = near.rule.line;
        let read = near.misses.iter().filter(|miss| miss.field != MissedField::Header);
        decision.misses = read.map(ToString::to_string).collect();
    }

    fn nearest(&self, denied: Denied, revision: u64, now: Instant) -> Option<Arc<NearMiss>> {
        if let Some(known) = self.known().find(&denied, revision) {
            return known;
        }
        if !self.known().may_ask(now) {
            return None;
        }
        // Without the lock: whoever changes the rules does not wait for who asks about them, nor the other way round.
        let near = (self.explain)(&denied, revision).ok()?.map(Arc::new);
        self.known().answers.insert(denied, near.clone());
        near
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn find(&mut self, denied: &Denied, revision: u64) -> Option<Option<Arc<NearMiss>>> {
        if revision != self.revision || self.answers.len() >= KNOWN_MAX {
            self.answers.clear();
            self.revision = revision;
        }
        self.answers.get(denied).cloned()
    }

    fn may_ask(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.span_began) >= SPAN {
            self.span_began = now;
            self.asked = 0;
        }
        self.asked += 1;
        self.asked <= QUESTIONS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::{Denied, Inside, Missing, QUESTIONS_MAX, SPAN};
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
        time::Instant,
    };

    fn denied(path: u32) -> Denied {
        let inside = Inside::Http {
            method: "GET".to_owned(),
            host: "a".to_owned(),
            path: format!("/{path}"),
        };
        Denied {
            ifindex: 1,
            egress: true,
            peer: 2,
            port: (6, 80),
            inside,
        }
    }

    #[test]
    fn each_is_asked_once_and_not_too_many_at_a_time() {
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        let missing = Missing::new(Box::new(move |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(None)
        }));
        let now = Instant::now();
        for _ in 0..2 {
            for path in 0..2 * QUESTIONS_MAX {
                missing.nearest(denied(path), 1, now);
            }
        }
        assert_eq!(asked.load(Ordering::Relaxed), QUESTIONS_MAX);
        missing.nearest(denied(QUESTIONS_MAX), 1, now + SPAN);
        assert_eq!(asked.load(Ordering::Relaxed), QUESTIONS_MAX + 1);
        // Another policy: another answer.
        missing.nearest(denied(0), 2, now + SPAN);
        assert_eq!(asked.load(Ordering::Relaxed), QUESTIONS_MAX + 2);
    }
}
