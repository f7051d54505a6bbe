//! Configuration, endpoints, identities and the policy table.

use crate::{Addr, Direction, FlowFlags, FlowState, PROTOCOL_TCP};

/// Workers (and punt pairs) at most.
pub const WORKERS_MAX: usize = 16;

/// The one element of the configuration map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DatapathConfig {
    /// [`crate::ABI_VERSION`] of the agent that wrote this.
    pub abi_version: u32,
    /// Bits of `skb->mark` that say "came back from the engine"; all of them are set, and cleared after the check.
    pub mark: u32,
    /// Punt pairs in use; 0 = no L7 verdict can be had, flows that need one are dropped.
    pub workers: u32,
    /// Largest IP packet that a punt pair carries, in bytes.
    pub punt_mtu: u32,
    /// [`ConfigFlags`].
    pub flags: u32,
    /// [`crate::FLOW_LAYOUT`]. It stays in this place in every version, as `abi_version` does.
    pub flow_layout: u32,
    /// Near ends of the punt pairs, by worker.
    pub punt_ifindex: [u32; WORKERS_MAX],
    /// How long flows are remembered.
    pub idle: IdleLimits,
    /// Key of [`crate::FlowState::kept_hash`]: a secret.
    pub hash_key: [u64; 2],
}

/// Flows without a packet for so long are new again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct IdleLimits {
    /// TCP, established.
    pub tcp_ns: u64,
    /// TCP after FIN or RST, or before the first reply.
    pub tcp_closing_ns: u64,
    /// Everything else.
    pub other_ns: u64,
}

impl IdleLimits {
    /// Whether the entry of a flow of this IP protocol still counts at `now_ns` (`bpf_ktime_get_ns`).
    #[inline(always)]
    #[must_use]
    pub const fn is_live(&self, protocol: u8, flow: &FlowState, now_ns: u64) -> bool {
        let limit_ns = if protocol != PROTOCOL_TCP {
            self.other_ns
        } else if flow.flags & FlowFlags::CLOSING != 0 || flow.flags & FlowFlags::REPLIED == 0 {
            self.tcp_closing_ns
        } else {
            self.tcp_ns
        };
        now_ns <= flow.last_seen_ns || now_ns - flow.last_seen_ns <= limit_ns
    }
}

/// Bits of [`DatapathConfig::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigFlags;

impl ConfigFlags {
    /// While no agent runs, what would have to be inspected passes. An agent runs as long as its sockets are there, whether
    /// it reads them or not.
    pub const OPEN_WITHOUT_AGENT: u32 = 1;
    /// The kernel judges no request by itself, whatever automata there are: other programs take the place of these, and nobody
    /// would hear of what these let through now. Means the same in every version of one [`crate::FLOW_LAYOUT`].
    pub const HANDS_OVER: u32 = 2;
}

/// Bits of [`Endpoint::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointFlags;

impl EndpointFlags {
    /// Ingress is in default deny.
    pub const ENFORCE_INGRESS: u32 = 1;
    /// Egress is in default deny.
    pub const ENFORCE_EGRESS: u32 = 2;
    /// Either: what is not allowed may be dropped.
    pub const ENFORCE: u32 = Self::ENFORCE_INGRESS | Self::ENFORCE_EGRESS;
    /// What `audit_policy_id` would not let pass is told. It passes.
    pub const AUDIT: u32 = 4;
    /// Ingress would be in default deny under `audit_policy_id`.
    pub const AUDIT_INGRESS: u32 = 8;
    /// Egress would be in default deny under `audit_policy_id`.
    pub const AUDIT_EGRESS: u32 = 16;
    /// The policy in audit goes by names that only user space knows: what it seems to deny for want of one is copied, too.
    pub const AUDIT_NAMES: u32 = 32;
    /// What passes is copied to be shown.
    pub const OBSERVE: u32 = 64;
    /// Flows of an earlier agent are being copied. Whatever it is of TCP that begins no connection and belongs to no known flow
    /// is dropped: its flow may come in a moment.
    pub const TAKES_OVER: u32 = 128;
    /// Something is judged beside the traffic.
    pub const BESIDE: u32 = Self::AUDIT | Self::OBSERVE;
}

/// An endpoint, by the interface index of the host side of its veth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Endpoint {
    /// Number that people see.
    pub id: u32,
    /// Its security identity.
    pub identity: u32,
    /// Which part of the policy table is its own. A changed policy is written under a new number and switched to by
    /// one update of this element, so that no packet meets half of it.
    pub policy_id: u32,
    /// Raised with every change of what `policy_id` or `flags` mean; older flow entries are decided again.
    pub epoch: u32,
    /// [`EndpointFlags`].
    pub flags: u32,
    /// Its part of the table of names, 0 if it has none. Switched together with the policy.
    pub name_scope: u32,
    /// What is asked of flows that `policy_id` lets pass, if [`EndpointFlags::AUDIT`] is set. Switched together with it.
    pub audit_policy_id: u32,
}

/// Identity 0 in a policy key: whoever the peer is.
pub const IDENTITY_ANY: u32 = 0;

/// Bits of a [`PolicyKey`] that name policy, identity and direction: any protocol, any port.
pub const POLICY_PREFIX_ANY_PROTO: u32 = 72;
/// As [`POLICY_PREFIX_ANY_PROTO`] and the protocol: any port.
pub const POLICY_PREFIX_ANY_PORT: u32 = 80;
/// All bits: one port. Ranges lie between (`POLICY_PREFIX_ANY_PORT + bits of the port`).
pub const POLICY_PREFIX_FULL: u32 = 96;

/// Data of a longest-prefix key of the policy table. The lookup tries the peer's identity first and
/// [`IDENTITY_ANY`] only if nothing matched; the compiler writes tables for which this order is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PolicyKey {
    /// [`Endpoint::policy_id`], big endian.
    pub policy_id: [u8; 4],
    /// Peer's identity, big endian.
    pub identity: [u8; 4],
    /// A [`Direction`].
    pub direction: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port, big endian; ICMP: the type.
    pub port: [u8; 2],
}

impl PolicyKey {
    /// The key of one lookup.
    #[must_use]
    pub const fn new(policy_id: u32, identity: u32, direction: Direction, protocol: u8, port: u16) -> Self {
        Self {
            policy_id: policy_id.to_be_bytes(),
            identity: identity.to_be_bytes(),
            direction: direction as u8,
            protocol,
            port: port.to_be_bytes(),
        }
    }
}

/// Number of the policy of endpoints that are shut. Compilers give numbers from 1 on.
pub const POLICY_SHUT: u32 = 0;

/// What an entry of the policy table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PolicyVerdict {
    /// Allow at L3/L4.
    Allow = 1,
    /// Deny; the entry holds the reason.
    Deny = 2,
    /// Ask the engine; the entry holds the rule set.
    Inspect = 3,
}

/// Bits of [`PolicyEntry::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyEntryFlags;

impl PolicyEntryFlags {
    /// The engine reads what the other side answers, too.
    pub const PUNT_REPLIES: u8 = 1;
}

/// Value of the policy table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PolicyEntry {
    /// A [`PolicyVerdict`].
    pub verdict: u8,
    /// A [`crate::DropReason`] code if denied, else 0.
    pub reason: u8,
    /// [`PolicyEntryFlags`].
    pub flags: u8,
    /// Zero.
    pub pad: u8,
    /// Rule set if inspected, else 0.
    pub rule_set: u32,
}

/// Data of a longest-prefix key of the ipcache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct IpcacheKey {
    /// Mapped address; IPv4 prefix lengths count from 96.
    pub addr: Addr,
}

/// Whose address it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct IpcacheEntry {
    /// Security identity.
    pub identity: u32,
    /// Host-side interface if the address is a local endpoint's, else 0.
    pub ifindex: u32,
}

/// Key of the table of names: an address as the endpoints of one scope know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct NameKey {
    /// The address.
    pub addr: Addr,
    /// [`Endpoint::name_scope`].
    pub scope: u32,
}

/// What an address means because of the names it was learned under. Asked before the ipcache for flows that an endpoint
/// opens; an identity of 0 leaves the answer to the ipcache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct NameEntry {
    /// Security identity for new flows.
    pub identity: u32,
    /// Security identity for flows that were opened by a name and are decided again, if the other one no longer lets
    /// them: they may use names whose time is over.
    pub flow_identity: u32,
}

const _: () = assert!(size_of::<DatapathConfig>() == 24 + 4 * WORKERS_MAX + 24 + 16);
const _: () = assert!(size_of::<Endpoint>() == 28);
const _: () = assert!(size_of::<PolicyKey>() == 12 && POLICY_PREFIX_FULL == 96);
const _: () = assert!(size_of::<PolicyEntry>() == 8);
const _: () = assert!(size_of::<IpcacheKey>() == 16);
const _: () = assert!(size_of::<IpcacheEntry>() == 8);
const _: () = assert!(size_of::<NameKey>() == 20);
const _: () = assert!(size_of::<NameEntry>() == 8);
