//! Records of requests that the kernel let pass by itself.

use crate::EngineShared;
use crate::record::{L7Record, RecordVerdict};
use std::sync::Arc;

use seventh_abi::{Direction, Hook, PassedRequest};
use seventh_parsers::http1::read_head;
use seventh_parsers::packet::PROTOCOL_TCP;

impl EngineShared {
    /// The record of a request that the kernel let pass, as if the engine had judged it at `time_ns` of its clock; `None` if
    /// `head` is none. `with_headers` as [`crate::EngineLimits::record_headers`].
    #[must_use]
    pub fn passed_request(
        &self,
        passed: &PassedRequest,
        head: &[u8],
        time_ns: u64,
        with_headers: bool,
    ) -> Option<Arc<L7Record>> {
        let head = read_head(head).ok()?;
        let view = self.load_policy();
        let endpoint = view.endpoints.get(&passed.key.ifindex);
        let rules = endpoint.and_then(|endpoint| endpoint.policy.rule_set(passed.rule_set));
        let origin = rules.and_then(|rules| rules.http()?.origin(passed.rule));
        let (local, peer) = (
            (passed.key.local_addr, passed.key.local_port),
            (passed.key.peer_addr, passed.key.peer_port),
        );
        let is_egress = passed.key.direction == Direction::Egress as u8;
        let (hook, source, destination) = if is_egress {
            (Hook::FromEndpoint, local, peer)
        } else {
            (Hook::ToEndpoint, peer, local)
        };
        Some(self.records.make(|mut content| {
            content.set_http(head.version.name(), &head.loosely(), &head.path);
            if with_headers {
                content.set_headers(head.headers.iter());
            }
            L7Record {
                time_ns,
                verdict: RecordVerdict::Forwarded,
                reason: None,
                hook,
                ifindex: passed.key.ifindex,
                endpoint_id: endpoint.map_or(0, |endpoint| endpoint.id),
                peer_identity: passed.peer_identity,
                source: source.0,
                destination: destination.0,
                source_port: source.1,
                destination_port: destination.1,
                protocol: PROTOCOL_TCP,
                base_seq: Some(passed.base_seq),
                rule_set: passed.rule_set,
                rule: origin.cloned(),
                content,
            }
        }))
    }
}
