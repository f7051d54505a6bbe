//! What requests the kernel judges by itself.

use std::{collections::HashMap, sync::Arc};

use seventh_datapath::RequestAutomata;
use seventh_engine::EngineLimits;
use seventh_policy::{RequestLimits, RequestTable, RuleSet, request_grammar};
use tracing::warn;

use super::Publisher;

impl Publisher {
    /// Has the kernel judge requests by the rule sets that are in force. A rule set's number means the same as long as this
    /// agent runs, so it matters little when it does; while a device goes by an earlier agent's, it does not.
    pub(super) fn set_requests(&mut self) {
        let Some(limits) = self.request_limits.filter(|_| self.earlier.is_empty()) else {
            return;
        };
        let policies = self.endpoints.iter().filter_map(|endpoint| endpoint.policy.as_ref());
        let http = |rules: &Arc<RuleSet>| rules.http().is_some();
        let in_force = policies
            .flat_map(|policy| policy.rule_sets())
            .filter(|rules| http(rules));
        let in_force: HashMap<u32, &Arc<RuleSet>> = in_force.map(|rules| (rules.id(), rules)).collect();
        self.request_tables.retain(|id, _| in_force.contains_key(id));
        for (id, rules) in in_force {
            self.request_tables
                .entry(id)
                .or_insert_with(|| RequestTable::new(rules.http()?, limits));
        }
        let tables = self.request_tables.iter();
        let automata = tables.filter_map(|(id, table)| {
            let table = table.as_ref()?;
            let (states, rules) = (table.states(), *table.rules());
            Some((*id, RequestAutomata { states, rules }))
        });
        if let Err(error) = self.datapath.set_requests(&request_grammar(), automata) {
            warn!(error = %error, "the kernel does not judge requests by itself");
        }
    }
}

/// What the kernel may judge, if it may.
pub(super) fn request_limits(limits: &EngineLimits) -> Option<RequestLimits> {
    limits.kernel_judges.then_some(RequestLimits {
        len_max: limits.http.head_len_max,
        lines_max: limits.http.headers_max,
    })
}
