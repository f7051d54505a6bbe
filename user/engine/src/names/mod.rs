//! Names and the addresses that were learned under them: what toFQDNs rules go by.
//!
//! ```text
//! answer ──► Lesson ──► Table ──► NameSink (kernel's map) ──► only now the answer goes on
//!                         │ └───► opened (what the engines themselves look up)
//!                         └─────► new combination of selectors? NameSink::define gives it an identity first
//! ```
//!
//! One table for all engines of a process, behind one lock that is held while the kernel's map is written: an engine that
//! finds an address known can rely on it that the kernel knows it, too. Time is an argument.

mod class;
mod lesson;
mod rules;
mod table;

pub(crate) use lesson::Lesson;

pub use class::NameClass;
pub use rules::NameRules;
pub use table::{LearnedName, NameLimits};

use seventh_abi::{Addr, NameEntry};
use seventh_policy::IdentityId;
use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use table::Table;

/// Scope of names that every endpoint shares, see [`NameRules::node_wide`]. Other scopes are numbers of endpoints
/// ([`crate::EndpointView::id`]), which begin at 1.
pub const SCOPE_NODE: u32 = 0;
/// How often a lesson is tried again because policy changed while its identities were made.
const LEARN_ATTEMPTS: u32 = 3;

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

/// The datapath did not take names up; the answers that held them are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamesNotTaken;

/// Who makes names true. The engine calls it from a decision, so it must be quick.
pub trait NameSink: Send + Sync + Debug {
    /// Writes the changes where the kernel looks addresses up; when it returns, the next packet is decided by them.
    ///
    /// # Errors
    /// Not all of them were written. They are tried again later.
    fn apply(&self, changes: &[NameChange]) -> Result<(), NamesNotTaken>;

    /// Gives these classes identities that the policies in force know, and tells them with [`Names::define`].
    ///
    /// # Errors
    /// There are too many, or policy is being changed and it takes too long.
    fn define(&self, names: &Names, classes: &[NameClass]) -> Result<(), NamesNotTaken>;
}

/// A sink for engines without a datapath: takes everything up, and has an identity for nothing.
#[derive(Debug)]
struct NoSink;

impl NameSink for NoSink {
    fn apply(&self, _changes: &[NameChange]) -> Result<(), NamesNotTaken> {
        Ok(())
    }

    fn define(&self, _names: &Names, _classes: &[NameClass]) -> Result<(), NamesNotTaken> {
        Err(NamesNotTaken)
    }
}

/// The names of a node.
#[derive(Debug)]
pub struct Names {
    table: Mutex<Table>,
    sink: Box<dyn NameSink>,
    /// What the table has handed to the sink, for the engines' own lookups.
    opened: RwLock<HashMap<(u32, Addr), NameEntry>>,
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
        }
    }

    /// Learns what an answer says. When it returns, the addresses are open wherever a rule says so.
    ///
    /// # Errors
    /// They could not be opened; the answer must not go on.
    pub(crate) fn learn(&self, endpoint_id: u32, lesson: &Lesson, now_ns: u64) -> Result<(), NamesNotTaken> {
        if lesson.is_empty() {
            return Ok(());
        }
        self.lock().learn(endpoint_id, lesson, now_ns);
        for _ in 0..LEARN_ATTEMPTS {
            let missing = self.flush(&mut self.lock())?;
            if missing.is_empty() {
                return Ok(());
            }
            // Without the lock: whoever makes identities changes policy, and whoever does that needs it.
            self.sink.define(self, &missing)?;
        }
        Err(NamesNotTaken)
    }

    /// Switches to other rules: what is known is sorted by them anew. Call it when the policies in force know the
    /// identities of `rules`, and before endpoints are switched to policies that need them. Returns classes that have no
    /// identity yet; their addresses stay shut until it is defined.
    ///
    /// # Errors
    /// The kernel's map was not written.
    pub fn set_rules(&self, rules: NameRules) -> Result<Vec<NameClass>, NamesNotTaken> {
        let mut table = self.lock();
        table.set_rules(rules);
        self.flush(&mut table)
    }

    /// Classes that are needed under other rules for what is known now.
    #[must_use]
    pub fn classes_under(&self, rules: &NameRules) -> HashSet<NameClass> {
        self.lock().classes_under(rules)
    }

    /// Tells the identity of a class; its addresses are opened by the next lesson or [`Names::tend`].
    pub fn define(&self, class: NameClass, identity: IdentityId) {
        self.lock().define(class, identity);
    }

    /// Lets names go whose time is over, and tries again what could not be written. Call it about once a second.
    ///
    /// # Errors
    /// The kernel's map was not written.
    pub fn tend(&self, now_ns: u64) -> Result<Vec<NameClass>, NamesNotTaken> {
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
    ///
    /// # Errors
    /// The kernel's map was not written.
    pub fn collect(&self, has_flow: impl Fn(u32, &Addr) -> bool) -> Result<(), NamesNotTaken> {
        let mut table = self.lock();
        table.collect(has_flow);
        self.flush(&mut table).map(drop)
    }

    /// Forgets names as if their time were over: those for which `which` is true. Says how many.
    ///
    /// # Errors
    /// The kernel's map was not written.
    pub fn forget(&self, which: impl Fn(u32, &str) -> bool) -> Result<usize, NamesNotTaken> {
        let mut table = self.lock();
        let forgotten = table.forget(which);
        self.flush(&mut table).map(|_| forgotten)
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

    /// Takes up what an earlier agent or a file knows. Nothing is opened before the next [`Names::set_rules`].
    pub fn restore(&self, learned: impl IntoIterator<Item = LearnedName>, now_ns: u64) {
        let mut table = self.lock();
        for learned in learned {
            table.restore(&learned, now_ns);
        }
    }

    /// Every address that is open now, for a datapath that begins anew.
    #[must_use]
    pub fn opened(&self) -> Vec<NameChange> {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        let change = |(&(scope, addr), &entry): (&(u32, Addr), &NameEntry)| NameChange {
            scope,
            addr,
            entry: Some(entry),
        };
        opened.iter().map(change).collect()
    }

    /// Identity under which an endpoint knows the address of a flow, if it knows it by a name. The kernel has let the
    /// flow begin, so names whose time is over count.
    pub(crate) fn identity(&self, endpoint_id: u32, addr: &Addr) -> Option<IdentityId> {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        if opened.is_empty() {
            return None;
        }
        let entry = opened
            .get(&(endpoint_id, *addr))
            .or_else(|| opened.get(&(SCOPE_NODE, *addr)))?;
        (entry.flow_identity != 0).then_some(entry.flow_identity)
    }

    /// Hands changes to the kernel and to the engines. Returns the classes that lack an identity.
    fn flush(&self, table: &mut Table) -> Result<Vec<NameClass>, NamesNotTaken> {
        let due = table.due();
        if !due.changes.is_empty() {
            self.sink.apply(&due.changes)?;
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
        }
        Ok(due.missing)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
