//! Who the peer is, and what the endpoint's policy says of a flow with it.

use aya_ebpf::maps::lpm_trie::Key;
use seventh_abi::{
    Addr, Direction, DropReason, Endpoint, EndpointFlags, FlowFlags, FlowKey, IDENTITY_ANY, IpcacheKey, NameKey,
    POLICY_PREFIX_FULL, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PolicyEntryFlags, PolicyKey, PolicyVerdict, Verdict,
};

use crate::maps::{IPCACHE, NAMES, POLICY};

/// One question to the policy and its answer.
#[repr(C)]
pub struct Question {
    peer: Key<IpcacheKey>,
    key: Key<PolicyKey>,
    name: NameKey,
    /// Answer: who the peer is.
    pub peer_identity: u32,
    /// Answer: rule set of an inspected flow.
    pub rule_set: u32,
    /// Answer: a [`Verdict`] or, if 0, denied for `reason`.
    pub verdict: u8,
    /// Answer: a [`DropReason`] code if denied.
    pub reason: u8,
    /// Answer: [`FlowFlags`] of an inspected flow.
    pub flow_flags: u16,
    /// Answer: 1 if the peer is known by a name, else 0.
    pub by_name: u8,
    /// The question may go by names whose time is over.
    lingering: u8,
    /// The policy in audit is asked.
    audit: u8,
    pad: u8,
}

impl Question {
    /// Decides a new flow.
    #[inline(always)]
    pub fn decide(&mut self, endpoint: &Endpoint, flow: &FlowKey) {
        self.lingering = 0;
        self.audit = 0;
        self.decide_flow(endpoint, flow);
    }

    /// Decides a flow that is there already: as a new one and, if that is denied and it was opened by a name, by names
    /// whose time is over. In this order, so that an expired name never takes away what a rule in force asks for.
    #[inline(always)]
    pub fn decide_again(&mut self, endpoint: &Endpoint, flow: &FlowKey, by_name: u8) {
        self.decide(endpoint, flow);
        if self.verdict == 0 && by_name != 0 {
            self.lingering = 1;
            self.decide_flow(endpoint, flow);
        }
    }

    /// What the policy in audit would decide of a flow.
    #[inline(always)]
    pub fn decide_audit(&mut self, endpoint: &Endpoint, flow: &FlowKey) {
        self.lingering = 0;
        self.audit = 1;
        self.decide_flow(endpoint, flow);
    }

    #[inline(always)]
    fn decide_flow(&mut self, endpoint: &Endpoint, flow: &FlowKey) {
        self.decide_by(
            endpoint,
            &flow.peer_addr,
            flow.direction,
            flow.protocol,
            service_port(flow),
        );
    }

    /// Decides by the policy's own terms: peer, direction, protocol, port.
    #[inline(always)]
    pub fn decide_port(&mut self, endpoint: &Endpoint, peer: &Addr, direction: u8, protocol: u8, port: u16) {
        self.lingering = 0;
        self.audit = 0;
        self.decide_by(endpoint, peer, direction, protocol, port);
    }

    /// The same of the policy in audit.
    #[inline(always)]
    pub fn audit_port(&mut self, endpoint: &Endpoint, peer: &Addr, direction: u8, protocol: u8, port: u16) {
        self.lingering = 0;
        self.audit = 1;
        self.decide_by(endpoint, peer, direction, protocol, port);
    }

    #[inline(always)]
    fn decide_by(&mut self, endpoint: &Endpoint, peer: &Addr, direction: u8, protocol: u8, port: u16) {
        self.peer.data.addr = *peer;
        self.key.data.direction = direction;
        self.key.data.protocol = protocol;
        self.key.data.port = port.to_be_bytes();
        answer(endpoint, self);
    }

    /// The address's owner: host-side interface of a local endpoint, else 0.
    #[inline(always)]
    pub fn owner(&mut self, addr: &Addr) -> u32 {
        self.peer.prefix_len = 128;
        self.peer.data.addr = *addr;
        match IPCACHE.get(&self.peer) {
            Some(entry) => entry.ifindex,
            None => 0,
        }
    }
}

/// Port that a policy names for this flow: the one that was opened to; for echo, the request's ICMP type.
#[inline(always)]
fn service_port(flow: &FlowKey) -> u16 {
    match flow.protocol {
        PROTOCOL_ICMP => 8,
        PROTOCOL_ICMPV6 => 128,
        _ if flow.direction == Direction::Egress as u8 => flow.peer_port,
        _ => flow.local_port,
    }
}

#[inline(never)]
fn answer(endpoint: &Endpoint, question: &mut Question) {
    question.peer.prefix_len = 128;
    question.peer_identity = peer_identity(endpoint, question);
    question.key.prefix_len = POLICY_PREFIX_FULL;
    let policy_id = if question.audit != 0 {
        endpoint.audit_policy_id
    } else {
        endpoint.policy_id
    };
    question.key.data.policy_id = policy_id.to_be_bytes();
    question.key.data.identity = question.peer_identity.to_be_bytes();
    let mut entry = POLICY.get(&question.key);
    if entry.is_none() {
        question.key.data.identity = IDENTITY_ANY.to_be_bytes();
        entry = POLICY.get(&question.key);
    }
    question.verdict = 0;
    question.reason = 0;
    question.rule_set = 0;
    question.flow_flags = 0;
    match entry {
        None if default_deny(endpoint, question) => question.reason = DropReason::PolicyDenied as u8,
        None => question.verdict = Verdict::Forward as u8,
        Some(entry) if entry.verdict == PolicyVerdict::Allow as u8 => question.verdict = Verdict::Forward as u8,
        Some(entry) if entry.verdict == PolicyVerdict::Inspect as u8 => {
            question.verdict = Verdict::Inspect as u8;
            question.rule_set = entry.rule_set;
            if entry.flags & PolicyEntryFlags::PUNT_REPLIES != 0 {
                question.flow_flags = FlowFlags::PUNT_REPLIES;
            }
        }
        Some(entry) => question.reason = entry.reason,
    }
}

/// A name under which the endpoint has learned the address says more than the ipcache. Only what the endpoint itself
/// opens goes by names.
#[inline(always)]
fn peer_identity(endpoint: &Endpoint, question: &mut Question) -> u32 {
    question.by_name = 0;
    if endpoint.name_scope != 0 && question.key.data.direction == Direction::Egress as u8 {
        question.name.addr = question.peer.data.addr;
        question.name.scope = endpoint.name_scope;
        // SAFETY: the element is plain data; the agent replaces it as a whole.
        if let Some(entry) = unsafe { NAMES.get(&question.name) } {
            let identity = if question.lingering != 0 {
                entry.flow_identity
            } else {
                entry.identity
            };
            if identity != 0 {
                question.by_name = 1;
                return identity;
            }
        }
    }
    match IPCACHE.get(&question.peer) {
        Some(entry) => entry.identity,
        None => IDENTITY_ANY,
    }
}

#[inline(always)]
fn default_deny(endpoint: &Endpoint, question: &Question) -> bool {
    let ingress = question.key.data.direction == Direction::Ingress as u8;
    let flag = match (ingress, question.audit != 0) {
        (true, false) => EndpointFlags::ENFORCE_INGRESS,
        (false, false) => EndpointFlags::ENFORCE_EGRESS,
        (true, true) => EndpointFlags::AUDIT_INGRESS,
        (false, true) => EndpointFlags::AUDIT_EGRESS,
    };
    endpoint.flags & flag != 0
}
