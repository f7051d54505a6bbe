//! Records of the event ring buffer.

use crate::Addr;

/// What an event tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EventKind {
    /// A packet was dropped; `reason` says why.
    Drop = 1,
    /// A new flow was decided; `verdict` says how.
    FlowDecided = 2,
    /// A packet, or with it a flow, passed that the policy in audit would not let pass; `reason` says why.
    Audited = 3,
}

/// One record. Addresses and ports are the packet's own, source first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// `bpf_ktime_get_ns`.
    pub time_ns: u64,
    /// IP source.
    pub source: Addr,
    /// IP destination.
    pub destination: Addr,
    /// Host-side interface of the endpoint.
    pub ifindex: u32,
    /// Identity of the peer, 0 if it was not looked up.
    pub peer_identity: u32,
    /// Length of the frame in bytes.
    pub length: u32,
    /// Host byte order; ICMP: the type.
    pub source_port: u16,
    /// Host byte order; ICMP: the code.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// TCP flags, else 0.
    pub tcp_flags: u8,
    /// An [`EventKind`].
    pub kind: u8,
    /// A [`crate::DropReason`] code, else 0.
    pub reason: u8,
    /// A [`crate::Verdict`], else 0.
    pub verdict: u8,
    /// A [`crate::Hook`].
    pub hook: u8,
    /// 4 or 6, 0 if the packet is neither.
    pub ip_version: u8,
    /// A [`crate::Direction`]: that of the flow which the packet belongs to, or would begin.
    pub direction: u8,
    /// Where the frame goes on its link, zero if that could not be read.
    pub mac_destination: [u8; 6],
    /// Where it comes from, likewise.
    pub mac_source: [u8; 6],
    /// Zero.
    pub pad: [u8; 4],
}

const _: () = assert!(size_of::<Event>() == 80);
