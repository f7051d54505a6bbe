//! What the ring holds: what happened, as kernel or engine said it, until somebody reads it. A flow is many small pieces of
//! memory, and most records are overwritten before anybody asks for them.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prost_types::Timestamp;
use seventh_abi::Event;
use seventh_engine::{L7Record, PolicyView, RecordVerdict};
use seventh_flows::{
    Redaction,
    pb::observer::{GetFlowsResponse, get_flows_response::ResponseTypes},
};

use super::{
    directory::{Directory, Node},
    flow_response,
    missing::{Denied, Missing},
    record::{Answered, Scribe, Seen, Telling, Uuids},
};

/// Under which names and policies something happened.
pub(super) struct Setting {
    pub(super) node: Arc<Node>,
    pub(super) directory: Arc<Directory>,
    pub(super) view: Arc<PolicyView>,
    pub(super) uuids: Arc<Uuids>,
    pub(super) redaction: Arc<Redaction>,
    pub(super) missing: Arc<Missing>,
}

/// What happened.
pub(super) enum Happened {
    /// In the kernel.
    Event(Event, Telling),
    /// In the engine.
    Record(Arc<L7Record>),
    /// The answer to a request.
    Answer(Arc<L7Record>, Answered),
}

/// A record of the ring.
pub(crate) struct Noted {
    time: Timestamp,
    is_loss: bool,
    state: Mutex<State>,
}

enum State {
    /// Nobody has read it.
    Unread(Unread),
    Told(Arc<GetFlowsResponse>),
}

struct Unread {
    happened: Happened,
    seen: Seen,
    setting: Arc<Setting>,
}

impl Noted {
    pub(super) fn new(happened: Happened, seen: Seen, setting: &Arc<Setting>) -> Self {
        Self {
            time: seen.time,
            is_loss: false,
            state: Mutex::new(State::Unread(Unread {
                happened,
                seen,
                setting: Arc::clone(setting),
            })),
        }
    }

    pub(super) fn time(&self) -> Timestamp {
        self.time
    }

    /// It tells of a loss.
    pub(crate) fn is_loss(&self) -> bool {
        self.is_loss
    }

    /// The flow, or the loss. Whoever reads it first makes it; afterwards nothing else is kept.
    pub(crate) fn response(&self) -> Arc<GetFlowsResponse> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let told = match &*state {
            State::Told(told) => return Arc::clone(told),
            State::Unread(unread) => Arc::new(unread.tell()),
        };
        *state = State::Told(Arc::clone(&told));
        told
    }

    /// The engine's record, for the next one to be written into its memory, if nobody has read it.
    pub(super) fn into_record(self) -> Option<Arc<L7Record>> {
        match self.state.into_inner().unwrap_or_else(PoisonError::into_inner) {
            State::Unread(unread) => match unread.happened {
                Happened::Record(record) | Happened::Answer(record, _) => Some(record),
                Happened::Event(..) => None,
            },
            State::Told(_) => None,
        }
    }
}

/// What is a message already.
impl From<GetFlowsResponse> for Noted {
    fn from(response: GetFlowsResponse) -> Self {
        Self {
            time: response.time.unwrap_or_default(),
            is_loss: matches!(response.response_types, Some(ResponseTypes::LostEvents(_))),
            state: Mutex::new(State::Told(Arc::new(response))),
        }
    }
}

impl fmt::Debug for Noted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Noted")
            .field("time", &self.time)
            .finish_non_exhaustive()
    }
}

impl Unread {
    fn tell(&self) -> GetFlowsResponse {
        let Self {
            happened,
            seen,
            setting,
        } = self;
        let scribe = setting.scribe();
        let mut flow = match happened {
            Happened::Event(event, telling) => scribe.of_kernel(event, *telling, seen),
            Happened::Record(record) => scribe.of_engine(record, seen),
            Happened::Answer(asked, answer) => scribe.of_answer(answer, asked, seen),
        };
        let denied = match happened {
            Happened::Event(event, Telling::Audit) => Some(Denied::of_event(event)),
            Happened::Record(record) if record.verdict == RecordVerdict::Audit => Some(Denied::of_record(record)),
            _ => None,
        };
        if let Some(denied) = denied {
            setting.missing.tell(&mut flow, denied, setting.directory.revision());
        }
        flow_response(flow, &setting.redaction)
    }
}

impl Setting {
    fn scribe(&self) -> Scribe<'_> {
        Scribe {
            node: &self.node,
            directory: &self.directory,
            view: &self.view,
            uuids: &self.uuids,
        }
    }

    /// The same under other names and policies.
    pub(super) fn under(&self, directory: Arc<Directory>, view: Arc<PolicyView>) -> Self {
        Self {
            node: Arc::clone(&self.node),
            directory,
            view,
            uuids: Arc::clone(&self.uuids),
            redaction: Arc::clone(&self.redaction),
            missing: Arc::clone(&self.missing),
        }
    }

    /// Whether names and policies are still these.
    pub(super) fn is(&self, directory: &Arc<Directory>, view: &Arc<PolicyView>) -> bool {
        Arc::ptr_eq(&self.directory, directory) && Arc::ptr_eq(&self.view, view)
    }
}
