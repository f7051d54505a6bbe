//! What requests the kernel judges by itself.

use std::{collections::HashMap, sync::Arc};

use seventh_datapath::{Datapath, RequestAutomata, RequestTables};
use seventh_engine::EngineLimits;
use seventh_policy::{RequestLimits, RequestTable, RuleSet, request_grammar};
use tracing::warn;

use super::Publisher;

/// What the kernel may judge, and by what.
pub(super) struct KernelRequests {
    limits: RequestLimits,
    /// By rule set; none for those that the kernel cannot judge by.
    automata: HashMap<u32, Option<RequestTable>>,
    tables: RequestTables,
}

impl KernelRequests {
    /// None if the engine is to judge everything.
    pub(super) fn new(limits: &EngineLimits, datapath: &mut Datapath) -> Option<Self> {
        if !limits.kernel_judges {
            return None;
        }
        Some(Self {
            limits: RequestLimits {
                len_max: limits.http.head_len_max,
                lines_max: limits.http.headers_max,
            },
            automata: HashMap::new(),
            tables: datapath.take_request_tables(request_grammar())?,
        })
    }

    /// These rule sets, by number, and no others.
    fn set(&mut self, in_force: &HashMap<u32, &Arc<RuleSet>>) {
        self.automata.retain(|id, _| in_force.contains_key(id));
        for (id, rules) in in_force {
            self.automata
                .entry(*id)
                .or_insert_with(|| RequestTable::new(rules.http()?, self.limits));
        }
        let automata = self.automata.iter().filter_map(|(id, table)| {
            let table = table.as_ref()?;
            let (states, rules) = (table.states(), *table.rules());
            Some((*id, RequestAutomata { states, rules }))
        });
        if let Err(error) = self.tables.set(automata) {
            warn!(error = %error, "the kernel does not judge requests by itself");
        }
    }
}

impl Publisher {
    /// Has the kernel judge requests by the rule sets that are in force. A rule set's number means the same as long as this
    /// agent runs, so it matters little when it does; while a device goes by an earlier agent's, it does not.
    pub(super) fn set_requests(&mut self) {
        let Some(requests) = self.requests.as_mut().filter(|_| self.earlier.is_empty()) else {
            return;
        };
        let policies = self.endpoints.iter().filter_map(|endpoint| endpoint.policy.as_ref());
        let in_force = policies
            .flat_map(|policy| policy.rule_sets())
            .filter(|rules| rules.http().is_some());
        requests.set(&in_force.map(|rules| (rules.id(), rules)).collect());
    }
}
