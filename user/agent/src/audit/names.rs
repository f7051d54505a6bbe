//! Names that were learned beside the traffic.

use std::sync::Arc;

use seventh_abi::FlowKey;
use seventh_engine::{Decided, Lacking, NameChange, NameSink, Names};

use crate::fqdn::KernelNames;

/// What copies teach opens nothing: no answer was held until its addresses were known, and what the policy denies has
/// taught, too. So the kernel does not learn it; records are judged by it.
#[derive(Debug)]
pub(crate) struct AuditSink(pub(crate) Arc<KernelNames>);

impl NameSink for AuditSink {
    fn apply(&self, _changes: &[NameChange]) -> Vec<usize> {
        Vec::new()
    }

    fn define(&self, _names: &Names, _lacking: &[Lacking]) {
        self.0.want_identities();
    }

    fn decided(&self, _flow: &FlowKey) -> Decided {
        Decided::NoKernel
    }
}
