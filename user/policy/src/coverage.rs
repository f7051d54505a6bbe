//! Which rules decide: for the records of flows. Asked far more often than policies change, so answers are kept.

use std::sync::Arc;

use dashmap::DashMap;
use seventh_abi::Direction;

use crate::finding::RuleOrigin;
use crate::identity::IdentityId;
use crate::rule::Rule;
use crate::table::{Area, Ruling, weigh};

/// Answers that a policy keeps. Peers choose ports, so there is no end of questions: at this number all are forgotten.
const ANSWERS_MAX: usize = 4096;

/// The rules that speak of one class of peers, port names resolved.
#[derive(Debug, Default)]
pub(crate) struct Coverage {
    rules: Vec<(Arc<Rule>, Area)>,
}

impl Coverage {
    pub(crate) fn new(rules: Vec<(Arc<Rule>, Area)>) -> Self {
        Self { rules }
    }

    pub(crate) fn rules(&self) -> &[(Arc<Rule>, Area)] {
        &self.rules
    }

    fn deciders(&self, protocol: u8, port: u16) -> Deciders {
        let covering = self.rules.iter().filter(|(_, area)| area.covers(protocol, port));
        let decisive = match weigh(covering.map(|(rule, _)| &**rule).collect()) {
            None => Vec::new(),
            Some(Ruling::Deny(rule) | Ruling::Bypass(rule)) => vec![rule],
            Some(Ruling::Allow(rules)) => rules,
        };
        let written = decisive.into_iter().filter(|rule| !rule.origin.is_built_in());
        written.map(|rule| rule.origin.clone()).collect()
    }
}

/// Where the rules that decide some traffic were written.
pub type Deciders = Arc<[Arc<RuleOrigin>]>;

/// Answers that were given. A changed policy begins with none.
#[derive(Debug)]
pub(crate) struct Answers(DashMap<(u8, IdentityId, u8, u16), Deciders>);

impl Default for Answers {
    fn default() -> Self {
        // The least that the map takes: many policies are never asked.
        Self(DashMap::with_shard_amount(2))
    }
}

impl Clone for Answers {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Answers {
    pub(crate) fn deciders(
        &self,
        coverage: &Coverage,
        (direction, peer): (Direction, IdentityId),
        (protocol, port): (u8, u16),
    ) -> Deciders {
        let question = (direction as u8, peer, protocol, port);
        if let Some(known) = self.0.get(&question) {
            return known.clone();
        }
        let found = coverage.deciders(protocol, port);
        if self.0.len() >= ANSWERS_MAX {
            self.0.clear();
        }
        self.0.insert(question, found.clone());
        found
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::{ANSWERS_MAX, Answers, Coverage};
    use seventh_abi::Direction;

    #[test]
    fn a_peer_that_tries_every_port_does_not_fill_the_memory() {
        let (answers, coverage) = (Answers::default(), Coverage::default());
        for port in 0..=u16::MAX {
            assert!(
                answers
                    .deciders(&coverage, (Direction::Ingress, 9), (6, port))
                    .is_empty()
            );
        }
        assert!(answers.len() <= ANSWERS_MAX);
    }
}
