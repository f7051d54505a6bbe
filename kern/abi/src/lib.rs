//! What kernel and user space agree on: map keys and values, the bytes that ride with a punted frame, verdicts, drop
//! reasons and counters.
//!
//! Rules of this room: `no_std`, `#[repr(C)]` without implicit padding, no `bool`, sizes asserted at compile time.
//! Any change of a layout, of a ring's size or of the meaning of a number raises [`ABI_VERSION`]; an agent that finds pinned
//! maps of another version replaces them instead of reading them.
#![no_std]
#![cfg_attr(not(feature = "user"), forbid(unsafe_code))]

mod connection;
mod counter;
mod event;
mod flow;
mod policy;
mod protocol;
mod punt;
mod reason;
mod request;
mod share;
mod skb;

use core::net::IpAddr;

pub use connection::{ConnectionNumber, PuntedType};
pub use counter::{COUNTERS_MAX, Counter, drop_counter};
pub use event::{Event, EventKind};
pub use flow::{
    ANSWER_HEAD_LEN, Answer, AnswerPiece, COPY_ROOMS, CopyHeader, CopySkip, Direction, FlowFlags, FlowKey, FlowState,
    FragmentKey, Frames, PIECE_LEN_MAX, Verdict,
};
pub use policy::{
    ConfigFlags, DatapathConfig, Endpoint, EndpointFlags, IDENTITY_ANY, IdleLimits, IpcacheEntry, IpcacheKey,
    NameEntry, NameKey, POLICY_PREFIX_ANY_PORT, POLICY_PREFIX_ANY_PROTO, POLICY_PREFIX_FULL, POLICY_SHUT, PolicyEntry,
    PolicyEntryFlags, PolicyKey, PolicyVerdict, WORKERS_MAX,
};
pub use protocol::{PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP};
pub use punt::{Frontier, Hook, InjectAction, InjectMeta, PUNT_IFINDEX_MAX, PuntMeta, Replies};
pub use reason::DropReason;
pub use request::{
    PassedRequest, REQUEST_BYTES, REQUEST_HOST_LEN_MAX, REQUEST_LEN_MAX, REQUEST_LINES_MAX, REQUEST_ROOMS,
    REQUEST_RULE_SETS_MAX, REQUEST_RULES_MAX, REQUEST_STATES_MAX, RequestRules, RequestState, RequestStep, RequestWalk,
};
pub use share::{SHARE_CLIENTS, SHARE_ENDPOINTS, Share, ShareCount, WorkerShares, share_waiting};
pub use skb::SkbLayout;

/// Version of every layout and number in this crate; stored in the configuration map.
pub const ABI_VERSION: u32 = 15;

/// Version of [`FlowKey`] and [`FlowState`]: raise it with any change of their layout or meaning. An agent of another ABI
/// takes over the flows of an earlier one only if this is in [`FLOW_LAYOUTS_READ`]. Never 0, which says that nobody knows.
pub const FLOW_LAYOUT: u32 = 3;

/// Layouts whose entries are entries of ours as they are. In those of layout 2 the upper half of a longer length is 0 where
/// the number of the connection stands now; no frame of theirs is under way any more.
pub const FLOW_LAYOUTS_READ: [u32; 2] = [2, FLOW_LAYOUT];

/// An address as the maps hold it: 16 bytes in network order, IPv4 mapped into `::ffff:0:0/96`.
pub type Addr = [u8; 16];

/// IPv4 bytes in the mapped form.
#[must_use]
pub const fn mapped_v4(v4: [u8; 4]) -> Addr {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}

/// An address in the mapped form.
#[must_use]
pub const fn mapped(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(v4) => mapped_v4(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Names of the maps and programs in the kernel object; also their file names under the pin directory.
pub mod names {
    /// Program on the host side of an endpoint's veth, ingress: packets from the endpoint.
    pub const TC_FROM_ENDPOINT: &str = "tc_from_endpoint";
    /// Program on the host side of an endpoint's veth, egress: packets to the endpoint.
    pub const TC_TO_ENDPOINT: &str = "tc_to_endpoint";
    /// Program that the two above go on to with answers of HTTP/2.
    pub const TC_ANSWERS: &str = "tc_answers";
    /// Program that they go on to where something is judged beside the traffic.
    pub const TC_BESIDE: &str = "tc_beside";
    /// Program that they go on to with what may be a whole request.
    pub const TC_REQUESTS: &str = "tc_requests";
    /// Program on the near end of a punt pair: frames that the engine gives back.
    pub const TC_FROM_PUNT: &str = "tc_from_punt";
    /// Program on the far end of a punt pair: hands frames to the worker's AF_XDP socket.
    pub const XDP_PUNT: &str = "xdp_punt";
    /// The same on kernels before 5.18, where all frames are in one piece.
    pub const XDP_PUNT_WHOLE: &str = "xdp_punt_whole";
    /// [`super::DatapathConfig`], one element.
    pub const CONFIG: &str = "CONFIG";
    /// Interface index → [`super::Endpoint`].
    pub const ENDPOINTS: &str = "ENDPOINTS";
    /// [`super::IpcacheKey`] → [`super::IpcacheEntry`], longest prefix.
    pub const IPCACHE: &str = "IPCACHE";
    /// [`super::NameKey`] → [`super::NameEntry`].
    pub const NAMES: &str = "NAMES";
    /// [`super::PolicyKey`] → [`super::PolicyEntry`], longest prefix.
    pub const POLICY: &str = "POLICY";
    /// [`super::FlowKey`] → [`super::FlowState`], least recently used out first.
    pub const FLOWS: &str = "FLOWS";
    /// [`super::FragmentKey`] → 1 for datagrams whose first fragment was allowed.
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// Interface index of a punt pair's far end → worker.
    pub const PUNT_WORKERS: &str = "PUNT_WORKERS";
    /// Worker → AF_XDP socket.
    pub const XSKS: &str = "XSKS";
    /// Worker → [`super::WorkerShares`]; its memory is shared with user space. Each agent has its own.
    pub const SHARES: &str = "SHARES";
    /// Per-CPU counters, indexed by [`super::Counter`] and [`super::drop_counter`].
    pub const COUNTERS: &str = "COUNTERS";
    /// Ring buffer of [`super::Event`].
    pub const EVENTS: &str = "EVENTS";
    /// Ring buffer of [`crate::Answer`].
    pub const ANSWERS: &str = "ANSWERS";
    /// Programs that others go on to: [`TC_ANSWERS`], [`TC_BESIDE`], [`TC_REQUESTS`].
    pub const TAILS: &str = "TAILS";
    /// What programs hand on to those that they go on to. Pinned: for a moment at a restart the programs before are an earlier
    /// agent's. So its layout is a part of the ABI.
    pub const SCRATCH: &str = "SCRATCH";
    /// Ring buffer of [`crate::AnswerPiece`].
    pub const ANSWER_PIECES: &str = "ANSWER_PIECES";
    /// Ring buffer of [`crate::CopyHeader`] and the frame.
    pub const COPIES: &str = "COPIES";
    /// [`super::FlowKey`] → [`super::CopySkip`], least recently used out first.
    pub const COPY_SKIPS: &str = "COPY_SKIPS";
    /// Number of a rule set → [`super::RequestRules`].
    pub const REQUEST_RULES: &str = "REQUEST_RULES";
    /// [`super::RequestState`], by number.
    pub const REQUEST_STATES: &str = "REQUEST_STATES";
    /// Ring buffer of [`super::PassedRequest`] and the request.
    pub const REQUESTS: &str = "REQUESTS";
    /// [`super::SkbLayout`], a constant of the object.
    pub const SKB_LAYOUT: &str = "SKB_LAYOUT";
}

#[cfg(feature = "user")]
mod pod {
    use super::{
        CopySkip, DatapathConfig, Endpoint, Event, FlowKey, FlowState, FragmentKey, IpcacheEntry, IpcacheKey,
        NameEntry, NameKey, PolicyEntry, PolicyKey, RequestRules, RequestState, SkbLayout,
    };

    macro_rules! pod {
        ($($t:ty),+ $(,)?) => {$(
            // SAFETY: `repr(C)`, integers and byte arrays only, no padding (sizes asserted beside each type), so every
            // bit pattern is a value and every byte is initialised.
            unsafe impl aya::Pod for $t {}
        )+};
    }
    pod!(
        CopySkip,
        DatapathConfig,
        Endpoint,
        Event,
        FlowKey,
        FlowState,
        FragmentKey,
        IpcacheEntry,
        IpcacheKey,
        NameEntry,
        NameKey,
        PolicyEntry,
        PolicyKey,
        RequestRules,
        RequestState,
        SkbLayout
    );
}
