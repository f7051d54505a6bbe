//! Numbers of IP protocols (IANA, Assigned Internet Protocol Numbers), as flow and policy keys hold them.

/// ICMP for IPv4.
pub const PROTOCOL_ICMP: u8 = 1;
/// TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// ICMP for IPv6.
pub const PROTOCOL_ICMPV6: u8 = 58;
/// SCTP.
pub const PROTOCOL_SCTP: u8 = 132;
