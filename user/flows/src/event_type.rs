//! What kind of record a flow is: the numbers of `event_type`, and their names on the command line.

/// A packet was dropped; the sub-type is a number of `flow.DropReason`.
pub const DROP: i32 = 1;
/// A debugging program's event.
pub const DEBUG: i32 = 2;
/// A captured packet.
pub const CAPTURE: i32 = 3;
/// A packet was seen; the sub-type says where.
pub const TRACE: i32 = 4;
/// A policy decided a new flow.
pub const POLICY_VERDICT: i32 = 5;
/// An address was translated at a socket.
pub const TRACE_SOCK: i32 = 7;
/// Something inside a connection.
pub const L7: i32 = 129;
/// The agent tells of itself.
pub const AGENT: i32 = 130;

/// Names of `--type`.
pub const NAMES: &[(&str, i32)] = &[
    ("capture", CAPTURE),
    ("drop", DROP),
    ("l7", L7),
    ("policy-verdict", POLICY_VERDICT),
    ("trace", TRACE),
    ("trace-sock", TRACE_SOCK),
];

/// Names of the sub-types of [`TRACE`], in the order of their numbers from 0.
pub const TRACE_POINTS: &[&str] = &[
    "to-endpoint",
    "to-proxy",
    "to-host",
    "to-stack",
    "to-overlay",
    "from-endpoint",
    "from-proxy",
    "from-host",
    "from-stack",
    "from-overlay",
    "from-network",
    "to-network",
    "from-crypto",
    "to-crypto",
];

/// How a policy's row matched, in the order of the numbers of `policy_match_type`.
pub const POLICY_MATCHES: &[&str] = &["none", "L3-Only", "L3-L4", "L4-Only", "all", "L3-Proto", "Proto-Only"];
