//! Policies whose rows are in the kernel's table: whole, or not at all.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use seventh_abi::{
    Direction, DropReason, IDENTITY_ANY, POLICY_PREFIX_ANY_PROTO, POLICY_SHUT, PolicyEntry, PolicyKey, PolicyVerdict,
};
use seventh_datapath::{Datapath, DatapathError, PolicyRow};
use seventh_policy::{CompiledPolicy, PolicyPatch};

/// What is done to the kernel's table.
pub(super) trait Table {
    /// Writes rows, up to one that there is no room for.
    fn write(&mut self, rows: &mut dyn Iterator<Item = PolicyRow>) -> Result<(), DatapathError>;
    /// Removes rows; those that are not there are no error.
    fn remove(&mut self, rows: &mut dyn Iterator<Item = (u32, PolicyKey)>) -> Result<(), DatapathError>;
    /// Removes the rows of all policies that no endpoint goes by; says how many.
    fn sweep(&mut self) -> Result<usize, DatapathError>;
}

impl Table for Datapath {
    fn write(&mut self, rows: &mut dyn Iterator<Item = PolicyRow>) -> Result<(), DatapathError> {
        self.write_policy(rows)
    }

    fn remove(&mut self, rows: &mut dyn Iterator<Item = (u32, PolicyKey)>) -> Result<(), DatapathError> {
        self.remove_policy_rows(rows)
    }

    fn sweep(&mut self) -> Result<usize, DatapathError> {
        self.retain_policies()
    }
}

/// What was written, by the compiler's numbers.
#[derive(Debug)]
pub(super) struct Rows {
    /// Numbers of policies begin after this one in the kernel: what an earlier agent left may still be there.
    base: u32,
    written: HashMap<u32, Arc<CompiledPolicy>>,
    /// There may be rows besides those of `written`: of an earlier agent, or that could not be removed.
    others: bool,
    /// Rows of an earlier agent go one after another, as endpoints are switched.
    takes_over: bool,
    /// Policies under whose numbers there may be rows that are not theirs.
    spoiled: HashSet<u32>,
}

impl Rows {
    /// Of an agent that begins beside what an earlier one left under numbers up to `base`.
    pub(super) fn new(base: u32) -> Self {
        Self {
            base,
            written: HashMap::new(),
            others: true,
            takes_over: base > 0,
            spoiled: HashSet::new(),
        }
    }

    /// A policy's number in the kernel.
    ///
    /// # Errors
    /// All are used.
    pub(super) fn number(&self, policy: u32) -> Result<u32, String> {
        self.base.checked_add(policy).ok_or_else(|| {
            "all policy numbers are used; stop the agent without --keep-enforcing and start it again".to_owned()
        })
    }

    /// Whether the rows of the policy are there.
    pub(super) fn has(&self, policy: u32) -> bool {
        self.written.contains_key(&policy)
    }

    /// Writes the rows of a policy, unless they are there. What is refused leaves none.
    ///
    /// # Errors
    /// The table is full, or the kernel refuses otherwise.
    pub(super) fn write(&mut self, table: &mut impl Table, policy: &Arc<CompiledPolicy>) -> Result<(), String> {
        let id = policy.policy_id();
        if self.has(id) {
            return Ok(());
        }
        self.number(id)?;
        if self.spoiled.contains(&id) {
            return Err("rows of it that are void could not be removed".to_owned());
        }
        let (base, mut count) = (self.base, 0);
        let mut rows = policy
            .kernel_entries()
            .map(|row| moved(base, row))
            .inspect(|_| count += 1);
        let Err(e) = table.write(&mut rows) else {
            self.written.insert(id, Arc::clone(policy));
            return Ok(());
        };
        let begun = policy.kernel_entries().take(count);
        let removed = table.remove(&mut begun.map(|(bits, key, _)| (bits, moved_key(base, key))));
        if removed.is_err() {
            self.spoil(id);
        }
        Err(e.to_string())
    }

    /// Changes a policy that keeps its number, if its rows are there. After an error they are partly: nobody may go by them
    /// any more.
    ///
    /// # Errors
    /// The table is full, or the kernel refuses otherwise.
    pub(super) fn patch(&mut self, table: &mut impl Table, patch: &PolicyPatch) -> Result<(), String> {
        let (base, id) = (self.base, patch.policy.policy_id());
        if !self.has(id) {
            return Ok(());
        }
        let written = table.write(&mut patch.added.iter().map(|row| moved(base, *row)));
        let mut removed = patch.removed.iter().map(|(bits, key)| (*bits, moved_key(base, *key)));
        if let Err(e) = written.and_then(|()| table.remove(&mut removed)) {
            self.spoil(id);
            return Err(e.to_string());
        }
        self.written.insert(id, Arc::clone(&patch.policy));
        Ok(())
    }

    /// Removes the rows of all policies but these, by which nobody goes; says whether there were any.
    ///
    /// # Errors
    /// The kernel refuses. It is tried again with the next call.
    pub(super) fn retain(&mut self, table: &mut impl Table, keep: &HashSet<u32>) -> Result<bool, DatapathError> {
        let base = self.base;
        let gone: Vec<u32> = self.written.keys().filter(|id| !keep.contains(id)).copied().collect();
        for id in &gone {
            let Some(policy) = self.written.remove(id) else {
                continue;
            };
            let mut keys = policy
                .kernel_entries()
                .map(|(bits, key, _)| (bits, moved_key(base, key)));
            if let Err(e) = table.remove(&mut keys) {
                self.spoil(*id);
                return Err(e);
            }
        }
        let mut swept = 0;
        if self.others {
            swept = table.sweep()?;
            self.others = self.takes_over;
            self.spoiled.clear();
        }
        Ok(!gone.is_empty() || swept > 0)
    }

    /// Every endpoint that an earlier agent left was switched, or goes on by what there is.
    pub(super) fn settle(&mut self) {
        self.takes_over = false;
    }

    /// Somebody went by rows of an earlier agent and does no longer.
    pub(super) fn look_again(&mut self) {
        self.others = true;
    }

    fn spoil(&mut self, id: u32) {
        self.written.remove(&id);
        self.spoiled.insert(id);
        self.others = true;
    }
}

/// What goes for a device that is shut: nothing passes, with a reason of its own.
pub(super) fn shut() -> [PolicyRow; 2] {
    [Direction::Ingress, Direction::Egress].map(|direction| {
        let entry = PolicyEntry {
            verdict: PolicyVerdict::Deny as u8,
            reason: DropReason::PolicyIncomplete as u8,
            flags: 0,
            pad: 0,
            rule_set: 0,
        };
        (
            POLICY_PREFIX_ANY_PROTO,
            PolicyKey::new(POLICY_SHUT, IDENTITY_ANY, direction, 0, 0),
            entry,
        )
    })
}

/// Under the number that the row has in the kernel; `number` has seen that it fits.
fn moved(base: u32, (bits, key, entry): PolicyRow) -> PolicyRow {
    (bits, moved_key(base, key), entry)
}

fn moved_key(base: u32, key: PolicyKey) -> PolicyKey {
    PolicyKey {
        policy_id: base.wrapping_add(u32::from_be_bytes(key.policy_id)).to_be_bytes(),
        ..key
    }
}

#[cfg(test)]
mod tests {
    use super::{POLICY_SHUT, Rows, Table, shut};
    use seventh_abi::{DropReason, PolicyEntry, PolicyKey};
    use seventh_datapath::{DatapathError, PolicyRow};
    use seventh_policy::{CompileOptions, CompiledPolicy, Compiler, EndpointFacts, Labels, NamedPorts, Surroundings};
    use std::{
        collections::{HashMap, HashSet},
        sync::Arc,
    };

    /// A table with little room that can refuse to let go.
    #[derive(Default)]
    struct Small {
        rows: HashMap<(u32, PolicyKey), PolicyEntry>,
        room: usize,
        is_stuck: bool,
    }

    fn refused() -> DatapathError {
        DatapathError::Missing("room")
    }

    impl Small {
        fn policies(&self) -> HashSet<u32> {
            self.rows
                .keys()
                .map(|(_, key)| u32::from_be_bytes(key.policy_id))
                .collect()
        }
    }

    impl Table for Small {
        fn write(&mut self, rows: &mut dyn Iterator<Item = PolicyRow>) -> Result<(), DatapathError> {
            for (bits, key, entry) in rows {
                if self.rows.len() == self.room {
                    return Err(refused());
                }
                self.rows.insert((bits, key), entry);
            }
            Ok(())
        }

        fn remove(&mut self, rows: &mut dyn Iterator<Item = (u32, PolicyKey)>) -> Result<(), DatapathError> {
            for key in rows {
                if self.is_stuck {
                    return Err(refused());
                }
                self.rows.remove(&key);
            }
            Ok(())
        }

        /// No endpoint goes by anything here.
        fn sweep(&mut self) -> Result<usize, DatapathError> {
            if self.is_stuck {
                return Err(refused());
            }
            let count = self.rows.len();
            self.rows.clear();
            Ok(count)
        }
    }

    /// One policy with so many rows for each of these numbers.
    fn policies(sizes: &[usize]) -> Vec<Arc<CompiledPolicy>> {
        let rule = |(at, size): (usize, &usize)| {
            let ports = (0..*size).map(|port| format!("{{port: '{}', protocol: TCP}}", 1000 + 2 * port));
            let ports: Vec<String> = ports.collect();
            format!(
                "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p{at}}}\nspec:\n  \
                 endpointSelector: {{matchLabels: {{app: a{at}}}}}\n  egress: [{{toPorts: [{{ports: [{}]}}]}}]\n",
                ports.join(", ")
            )
        };
        let text: String = sizes.iter().enumerate().map(rule).collect();
        let loaded = seventh_policy::load_text("p.yaml", &text);
        assert!(loaded.findings.is_empty(), "{:?}", loaded.findings);
        let mut compiler = Compiler::new(CompileOptions::default());
        compiler.set_rules(seventh_policy::resolve(&loaded.documents, &Surroundings::default()).rules);
        let compile = |at: usize| {
            let labels = [
                format!("k8s:app=a{at}"),
                "k8s:io.kubernetes.pod.namespace=default".to_owned(),
            ];
            let facts = EndpointFacts {
                labels: Labels::parse(labels.iter().map(String::as_str)),
                named_ports: NamedPorts::default(),
            };
            compiler.compile(&facts).unwrap()
        };
        let policies: Vec<_> = (0..sizes.len()).map(compile).collect();
        let counts: Vec<usize> = policies.iter().map(|p| p.kernel_entries().count()).collect();
        assert_eq!(counts, sizes);
        policies
    }

    #[test]
    fn what_does_not_fit_leaves_no_row_and_no_other_policy_suffers() {
        let policies = policies(&[30, 40]);
        let (mut table, mut rows) = (
            Small {
                room: 50,
                ..Small::default()
            },
            Rows::new(7),
        );
        rows.settle();
        assert!(
            !rows.retain(&mut table, &HashSet::new()).unwrap(),
            "an earlier agent has left nothing"
        );
        rows.write(&mut table, &policies[0]).unwrap();
        assert!(rows.write(&mut table, &policies[1]).is_err() && !rows.has(policies[1].policy_id()));
        assert_eq!((table.rows.len(), table.policies().len()), (30, 1));
        // Room comes when the other goes.
        assert!(rows.retain(&mut table, &HashSet::new()).unwrap() && table.rows.is_empty());
        rows.write(&mut table, &policies[1]).unwrap();
        assert_eq!(table.policies(), [7 + policies[1].policy_id()].into());
        assert!(!rows.retain(&mut table, &[policies[1].policy_id()].into()).unwrap());
        assert_eq!(table.rows.len(), 40);
    }

    #[test]
    fn rows_that_could_not_be_removed_are_never_taken_for_a_policy() {
        let policies = policies(&[30]);
        let mut table = Small {
            room: 20,
            is_stuck: true,
            ..Small::default()
        };
        let mut rows = Rows::new(0);
        assert!(rows.write(&mut table, &policies[0]).is_err());
        table.room = 100;
        assert!(rows.write(&mut table, &policies[0]).is_err(), "void rows are there");
        assert!(rows.retain(&mut table, &HashSet::new()).is_err());
        table.is_stuck = false;
        assert!(rows.retain(&mut table, &HashSet::new()).unwrap() && table.rows.is_empty());
        rows.write(&mut table, &policies[0]).unwrap();
    }

    #[test]
    fn who_is_shut_has_rows_that_deny_everything_with_a_reason_of_their_own() {
        for (_, key, entry) in shut() {
            assert_eq!(u32::from_be_bytes(key.policy_id), POLICY_SHUT);
            assert_eq!(entry.reason, DropReason::PolicyIncomplete as u8);
        }
        assert_ne!(shut()[0].1.direction, shut()[1].1.direction);
    }
}
