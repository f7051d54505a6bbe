//! Indices into the per-CPU counter array: drop reasons first, then the path a packet took.

use crate::DropReason;

/// Elements of the counter array.
pub const COUNTERS_MAX: u32 = 288;

/// Paths that are counted. Every packet at an endpoint's hook ends in exactly one of: `Unmanaged`, `Forwarded`,
/// `ForwardedReply`, `Bypassed`, `RequestAllowed`, `Punted`, `Reinjected`, `PassedUnread` or a drop reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Counter {
    /// The endpoint enforces nothing, or the frame is ARP or neighbour discovery.
    Unmanaged = 256,
    /// Allowed at L3/L4 by the flow table or the policy.
    Forwarded = 257,
    /// A reply of an allowed flow, or an ICMP error about one.
    ForwardedReply = 258,
    /// A packet of an inspected flow that carries nothing left to inspect.
    Bypassed = 259,
    /// Sent to the engine.
    Punted = 260,
    /// Came back from the engine and passed its endpoint's hook.
    Reinjected = 261,
    /// Frames that a worker's socket took.
    ToWorker = 262,
    /// A new flow entered the table.
    FlowCreated = 263,
    /// A flow was decided again because the policy's epoch moved on.
    FlowRedecided = 264,
    /// Events that found the ring buffer full.
    EventLost = 265,
    /// Beginnings of answers, and pieces of their header blocks, that were copied.
    AnswerCopied = 266,
    /// Those that found their ring buffer full, or that could not be read; and connections of HTTP/2 on which it is not known
    /// any more where a frame begins.
    AnswerLost = 267,
    /// A packet that had to be inspected and passed, because no agent runs and the configuration wants it so.
    PassedUnread = 268,
    /// Frames that were copied beside the traffic.
    Copied = 270,
    /// Those that found their ring buffer full.
    CopyLost = 271,
    /// Of those that were copied: cut short, because their ring buffer was more than half full.
    CopyCut = 275,
    /// Packets that passed and would be dropped if what is in audit were enforced; of flows, the first.
    Audited = 272,
    /// A whole request that the kernel judged by itself.
    RequestAllowed = 273,
    /// Requests of which the ring buffer had no room to tell.
    RequestLost = 274,
}

impl Counter {
    /// Every counter with its stable name.
    pub const ALL: &[(Counter, &'static str)] = &[
        (Counter::Unmanaged, "unmanaged"),
        (Counter::Forwarded, "forwarded"),
        (Counter::ForwardedReply, "forwarded_reply"),
        (Counter::Bypassed, "bypassed"),
        (Counter::Punted, "punted"),
        (Counter::Reinjected, "reinjected"),
        (Counter::ToWorker, "to_worker"),
        (Counter::FlowCreated, "flow_created"),
        (Counter::FlowRedecided, "flow_redecided"),
        (Counter::EventLost, "event_lost"),
        (Counter::AnswerCopied, "answer_copied"),
        (Counter::AnswerLost, "answer_lost"),
        (Counter::PassedUnread, "passed_unread"),
        (Counter::Copied, "copied"),
        (Counter::CopyLost, "copy_lost"),
        (Counter::CopyCut, "copy_cut"),
        (Counter::Audited, "audited"),
        (Counter::RequestAllowed, "request_allowed"),
        (Counter::RequestLost, "request_lost"),
    ];
}

/// Index of the counter of a drop reason.
#[must_use]
pub const fn drop_counter(reason: DropReason) -> u32 {
    reason as u32
}
