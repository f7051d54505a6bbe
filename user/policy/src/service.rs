//! What rules come to for the address of a service: traffic is decided before it is known which backend it will reach, so
//! what goes for every one of them goes for the address.

use seventh_abi::DropReason;

use crate::compile::{Plan, Ruled};
use crate::coverage::Coverage;
use crate::finding::RuleOrigin;
use crate::identity::{Identities, Identity, IdentityId, ServicePort, ServicePorts};
use crate::rule_set::RuleSetRegistry;
use crate::table::{Area, Conflict, Covering, Decision, PortTable};
use std::collections::HashMap;
use std::sync::Arc;

impl Plan {
    /// The table for an address behind which others answer: at each of its ports what goes for those. What is not one of
    /// its ports, and at its ports too, is decided by what the address is itself ([`ServicePorts::beside_own`]); one that is
    /// nothing but a service's is decided as anybody.
    pub(crate) fn fronted(
        &mut self,
        front: &Identity,
        ports: &ServicePorts,
        identities: &Identities,
        registry: &mut RuleSetRegistry,
        conflicts: &mut Vec<Conflict>,
    ) -> Ruled {
        let class = self.class(front);
        let own = ports.has_own().then(|| self.ruled(&class, registry, conflicts));
        let mut of_backend: HashMap<IdentityId, Ruled> = HashMap::new();
        let mut points = Vec::new();
        let mut covering: Vec<Covering> = own
            .iter()
            .flat_map(|own| own.coverage.rules().iter().cloned())
            .collect();
        for port in ports.iter() {
            let mut decisions = Vec::with_capacity(port.backends.len() + 1);
            decisions.extend(own.as_ref().map(|own| self.at(&own.table, port.protocol, port.port)));
            for (id, target) in &port.backends {
                let ruled = of_backend.entry(*id).or_insert_with(|| {
                    let class = identities
                        .get(*id)
                        .map(|identity| self.class(identity))
                        .unwrap_or_default();
                    self.ruled(&class, registry, conflicts)
                });
                decisions.push(self.at(&ruled.table, port.protocol, *target));
                cover(&mut covering, &ruled.coverage, port, *target);
            }
            let decision = self.for_all(&decisions);
            if decision == Decision::Deny(DropReason::ServiceBackendsDiffer) {
                tell(conflicts, &covering, port);
            }
            points.push((port.protocol, port.port, decision));
        }
        let base = own.map_or_else(Arc::default, |own| own.table);
        let table = base.with_points(points);
        Ruled {
            table: Arc::new(table.beyond(&self.any.table, &self.unmatched)),
            coverage: Arc::new(Coverage::new(covering)),
        }
    }

    /// What a peer with this table of its own gets.
    fn at(&self, table: &PortTable, protocol: u8, port: u16) -> Decision {
        let own = table.lookup(protocol, port);
        let decision = own.or_else(|| self.any.table.lookup(protocol, port));
        decision.unwrap_or(&self.unmatched).clone()
    }

    /// What goes for all of them.
    fn for_all(&self, decisions: &[Decision]) -> Decision {
        let denied = decisions.iter().find(|d| matches!(d, Decision::Deny(_)));
        if let Some(denied) = denied {
            return denied.clone();
        }
        let mut inspected = decisions.iter().filter(|d| matches!(d, Decision::Inspect(_)));
        match (inspected.next(), decisions.is_empty()) {
            (Some(first), _) if inspected.all(|other| other == first) => first.clone(),
            (Some(_), _) => Decision::Deny(DropReason::ServiceBackendsDiffer),
            (None, false) => Decision::Allow,
            (None, true) if self.unmatched == Decision::Allow => Decision::Allow,
            (None, true) => Decision::Deny(DropReason::ServiceWithoutBackends),
        }
    }
}

/// Notes the rules that decide of a backend's port as deciding of the service's.
fn cover(covering: &mut Vec<Covering>, of_backend: &Coverage, port: &ServicePort, target: u16) {
    let span = (port.protocol, port.port, port.port);
    for (rule, area) in of_backend.rules() {
        if !area.covers(port.protocol, target) {
            continue;
        }
        match covering.iter_mut().find(|(known, _)| Arc::ptr_eq(known, rule)) {
            Some((_, Area::Spans(spans))) if spans.contains(&span) => {}
            Some((_, Area::Spans(spans))) => spans.push(span),
            Some((_, Area::All)) => {}
            None => covering.push((Arc::clone(rule), Area::Spans(vec![span]))),
        }
    }
}

fn tell(conflicts: &mut Vec<Conflict>, covering: &[Covering], port: &ServicePort) {
    let covering = covering
        .iter()
        .filter(|(_, area)| area.covers(port.protocol, port.port));
    let rules: Vec<Arc<RuleOrigin>> = covering.map(|(rule, _)| Arc::clone(&rule.origin)).collect();
    let conflict = Conflict {
        rules,
        reason: format!(
            "those who answer behind port {} of a service fall under different L7 rules; traffic to the service is \
             therefore denied",
            port.port
        ),
    };
    if !conflicts.contains(&conflict) {
        conflicts.push(conflict);
    }
}
