//! Names and the addresses that were learned under them: what toFQDNs rules go by.
//!
//! ```text
//! answer ──► Lesson ──► Table ──► NameSink (kernel's map) ──► only now the answer goes on
//!                         │ └───► opened (which addresses the kernel knows by a name)
//!                         └─────► new combination of selectors? the answer waits until somebody gives it an identity
//! ```
//!
//! One table for all engines of a process, behind one lock that is held while the kernel's map is written: an engine that
//! finds an address known can rely on it that the kernel knows it, too. Time is an argument.
//!
//! By which of its names an address was open when a flow began only the kernel knows. So an engine does not decide that
//! a second time: it asks for the identity by which the kernel let the flow begin ([`NameSink::decided`]).

mod class;
mod lesson;
mod rules;
mod table;

pub(crate) use lesson::{Answers, LESSON_NAMES_MAX, Lesson};

pub use class::NameClass;
pub use rules::NameRules;
pub use table::{LearnedName, Learning, NameLimits, TTL_MAX_NS as NAME_TTL_MAX_NS};

use crate::shared::EndpointView;
use ahash::AHashMap as HashMap;
use seventh_abi::{Addr, FlowKey, NameEntry};
use seventh_policy::IdentityId;
use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use table::{Stand, Table};

/// Scope of names that every endpoint shares, see [`NameRules::node_wide`]. Other scopes are numbers of endpoints
/// ([`crate::EndpointView::id`]), which begin at 1.
pub const SCOPE_NODE: u32 = 0;
/// A change of what an address means to the endpoints of a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameChange {
    /// [`SCOPE_NODE`] or an endpoint's number.
    pub scope: u32,
    /// The address, IPv4 mapped.
    pub addr: Addr,
    /// What it means now; `None`: nothing any more.
    pub entry: Option<NameEntry>,
}

/// A class of addresses that lacks an identity, and the scope in which it was met first.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lacking {
    /// [`SCOPE_NODE`] or an endpoint's number.
    pub scope: u32,
    /// What lacks an identity.
    pub class: NameClass,
}

/// By whom the kernel let a flow begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    /// There is no kernel: what is open now counts.
    NoKernel,
    /// The kernel does not know the flow any more.
    Unknown,
    /// [`seventh_abi::FlowState::peer_identity`] and [`seventh_abi::FlowState::epoch`] of its entry.
    By {
        /// Whose rights it goes by.
        peer_identity: IdentityId,
        /// Epoch of the endpoint under which that was decided.
        epoch: u32,
    },
}

/// Why an answer may not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotLearned {
    /// An identity is being made; the same lesson will do when it is there.
    Later,
    /// The kernel did not take an address.
    Refused,
}

/// By what the peer of a flow is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// By its address alone.
    Address,
    /// The kernel decided by this identity.
    Identity(IdentityId),
    /// Engine and kernel are not under the same policy at this moment.
    Changing,
}

/// Who makes names true. The engine calls it from a decision, so it must be quick.
pub trait NameSink: Send + Sync + Debug {
    /// Writes the changes where the kernel looks addresses up; when it returns, the next packet is decided by them.
    /// Returns the places of those that were not written; what they would replace still holds. They are tried again
    /// later. One that cannot be written keeps no other from it.
    fn apply(&self, changes: &[NameChange]) -> Vec<usize>;

    /// Has somebody give these classes identities that the policies in force know, and tell them with
    /// [`Names::define`], now or soon. Does not wait for it.
    fn define(&self, names: &Names, lacking: &[Lacking]);

    /// Notes what an answer has taught, before that answer goes on, so that it outlives the process. Times that end less
    /// than a second later than what was noted before are not told again.
    fn note(&self, _news: &[Learning], _now_ns: u64) {}

    /// What the kernel knows of a flow.
    fn decided(&self, flow: &FlowKey) -> Decided;
}

/// A sink for engines without a datapath: takes everything up, and has an identity for nothing.
#[derive(Debug)]
struct NoSink;

impl NameSink for NoSink {
    fn apply(&self, _changes: &[NameChange]) -> Vec<usize> {
        Vec::new()
    }

    fn define(&self, _names: &Names, _lacking: &[Lacking]) {}

    fn decided(&self, _flow: &FlowKey) -> Decided {
        Decided::NoKernel
    }
}

/// The names of a node.
#[derive(Debug)]
pub struct Names {
    table: Mutex<Table>,
    sink: Box<dyn NameSink>,
    /// What the table has handed to the sink, for the engines' own lookups.
    opened: RwLock<HashMap<(u32, Addr), NameEntry>>,
    /// Raised when what has waited may go on.
    turn: AtomicU64,
    /// Asked for what is not open here.
    others: Option<Arc<Names>>,
}

impl Default for Names {
    fn default() -> Self {
        Self::new(NameLimits::default(), Box::new(NoSink))
    }
}

impl Names {
    /// No names yet, and no rules that ask for any.
    #[must_use]
    pub fn new(limits: NameLimits, sink: Box<dyn NameSink>) -> Self {
        Self {
            table: Mutex::new(Table::new(limits)),
            sink,
            opened: RwLock::default(),
            turn: AtomicU64::new(0),
            others: None,
        }
    }

    /// Goes by what `others` know where this table knows nothing.
    #[must_use]
    pub fn with_others(mut self, others: Arc<Names>) -> Self {
        self.others = Some(others);
        self
    }

    /// Learns what an answer says. When it returns, the addresses are open wherever a rule says so.
    ///
    /// # Errors
    /// They are not, or not yet; the answer must not go on.
    pub(crate) fn learn(&self, endpoint_id: u32, lesson: &Lesson, now_ns: u64) -> Result<(), NotLearned> {
        if lesson.is_empty() {
            return Ok(());
        }
        let (news, lacking) = {
            let mut table = self.lock();
            let news = table.learn(endpoint_id, lesson, now_ns);
            self.flush(&mut table);
            (news, table.stand(endpoint_id, lesson))
        };
        if !news.is_empty() {
            self.sink.note(&news, now_ns);
        }
        let lacking = match lacking {
            Stand::Open => return Ok(()),
            Stand::Refused => return Err(NotLearned::Refused),
            Stand::Lacking(lacking) => lacking,
        };
        // Without the lock: whoever makes identities changes policy, and whoever does that needs it.
        self.sink.define(self, &lacking);
        let mut table = self.lock();
        self.flush(&mut table);
        match table.stand(endpoint_id, lesson) {
            Stand::Open => Ok(()),
            Stand::Refused => Err(NotLearned::Refused),
            Stand::Lacking(_) => Err(NotLearned::Later),
        }
    }

    /// Switches to other rules: what is known is sorted by them anew. Call it when the policies in force know the
    /// identities of `rules`, and before endpoints are switched to policies that need them. With `must`, addresses of
    /// classes without an identity are shut until it is defined.
    ///
    /// # Errors
    /// Without `must`: classes that have no identity under `rules`; nothing has changed.
    pub fn set_rules(&self, rules: &NameRules, must: bool) -> Result<(), Vec<NameClass>> {
        let mut table = self.lock();
        if !must {
            let needed = table.classes_under(rules).into_iter();
            let lacking: Vec<NameClass> = needed.filter(|class| rules.identity(class).is_none()).collect();
            if !lacking.is_empty() {
                return Err(lacking);
            }
        }
        table.set_rules(rules.clone());
        self.flush(&mut table);
        drop(table);
        self.take_turn();
        Ok(())
    }

    /// Classes that are needed under other rules for what is known now.
    #[must_use]
    pub fn classes_under(&self, rules: &NameRules) -> HashSet<NameClass> {
        self.lock().classes_under(rules)
    }

    /// Tells the identity of a class, and opens its addresses.
    pub fn define(&self, class: NameClass, identity: IdentityId) {
        let mut table = self.lock();
        table.define(class, identity);
        self.flush(&mut table);
        drop(table);
        self.take_turn();
    }

    /// Lets names go whose time is over, and tries again what could not be written. Returns classes that lack an
    /// identity. Call it about once a second.
    pub fn tend(&self, now_ns: u64) -> Vec<Lacking> {
        let mut table = self.lock();
        table.expire(now_ns);
        self.flush(&mut table)
    }

    /// Addresses under expired names that stay open for flows that are there already.
    #[must_use]
    pub fn lingering(&self) -> usize {
        self.lock().lingering()
    }

    /// Shuts lingering addresses for which `has_flow` (scope, address) is false.
    pub fn collect(&self, has_flow: impl Fn(u32, &Addr) -> bool) {
        let mut table = self.lock();
        table.collect(has_flow);
        self.flush(&mut table);
    }

    /// Forgets names as if their time were over: those for which `which` is true. Says how many, and whether the kernel
    /// knows of it already; if not, it is tried again.
    pub fn forget(&self, which: impl Fn(u32, &str) -> bool) -> (usize, bool) {
        let mut table = self.lock();
        let forgotten = table.forget(which);
        self.flush(&mut table);
        (forgotten, table.is_written())
    }

    /// A number that is another one whenever [`Names::list`] is.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.lock().revision()
    }

    /// All that is known, by scope and name.
    #[must_use]
    pub fn list(&self) -> Vec<LearnedName> {
        self.lock().list()
    }

    /// How many addresses the kernel knows by a name, each counted once for every endpoint that knows it.
    #[must_use]
    pub fn addresses(&self) -> usize {
        self.opened.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Takes up what an earlier agent or a file knows. Nothing is opened before the next [`Names::set_rules`].
    pub fn restore(&self, learned: impl IntoIterator<Item = LearnedName>, now_ns: u64) {
        let mut table = self.lock();
        for learned in learned {
            table.restore(&learned, now_ns);
        }
    }

    /// A number that is another one when answers that were not learned yet ([`NotLearned::Later`]) may be tried again.
    pub(crate) fn turn(&self) -> u64 {
        // Acquire: who sees the number sees what was opened before it.
        self.turn.load(Ordering::Acquire)
    }

    fn take_turn(&self) {
        // Release: see `turn`.
        self.turn.fetch_add(1, Ordering::Release);
    }

    /// By what an endpoint knows the peer of a flow that it opened. An address that has no name costs one lookup here;
    /// for one that has, the kernel is asked by which identity it let the flow begin: the name may have gone since, or
    /// come.
    pub(crate) fn peer(&self, endpoint: &EndpointView, flow: &FlowKey) -> Peer {
        match (self.own_peer(endpoint, flow), &self.others) {
            (Peer::Address, Some(others)) => others.own_peer(endpoint, flow),
            (known, _) => known,
        }
    }

    fn own_peer(&self, endpoint: &EndpointView, flow: &FlowKey) -> Peer {
        let entry = {
            let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
            let own = opened.get(&(endpoint.id, flow.peer_addr));
            match own.or_else(|| opened.get(&(SCOPE_NODE, flow.peer_addr))) {
                Some(entry) => *entry,
                None => return Peer::Address,
            }
        };
        match self.sink.decided(flow) {
            Decided::By { peer_identity, epoch } if epoch == endpoint.epoch => Peer::Identity(peer_identity),
            Decided::By { .. } | Decided::Unknown => Peer::Changing,
            Decided::NoKernel if entry.identity == 0 => Peer::Address,
            Decided::NoKernel => Peer::Identity(entry.identity),
        }
    }

    /// Hands changes to the kernel and to the engines. Returns the classes that lack an identity.
    fn flush(&self, table: &mut Table) -> Vec<Lacking> {
        let mut due = table.due();
        if !due.changes.is_empty() {
            let mut failed = self.sink.apply(&due.changes);
            failed.sort_unstable();
            let refused: Vec<NameChange> = failed.iter().filter_map(|&at| due.changes.get(at)).copied().collect();
            let mut at = 0;
            due.changes.retain(|_| {
                at += 1;
                failed.binary_search(&(at - 1)).is_err()
            });
            let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
            for change in &due.changes {
                let key = (change.scope, change.addr);
                match change.entry {
                    Some(entry) => drop(opened.insert(key, entry)),
                    None => drop(opened.remove(&key)),
                }
            }
            drop(opened);
            table.written(&due.changes);
            table.refused(&refused);
        }
        due.lacking
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
