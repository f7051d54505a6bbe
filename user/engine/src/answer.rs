//! Frames that the engine makes itself: refusals, resets, acknowledgements and cut copies.

use crate::inspector::Change;
use crate::punted::{FlowId, LinkType, META_LEN, Punted, Segment};
use crate::seq::plus;
use bytes::BufMut as _;
use seventh_abi::InjectMeta;
use seventh_parsers::packet::{Checksum, PROTOCOL_TCP, PROTOCOL_UDP, TcpFlags, Transport};
use std::ops::Range;

/// What a refused HTTP/1 request is answered with. The body is the same as the neighbours', so that people recognise it.
pub(crate) const FORBIDDEN: &[u8] = b"HTTP/1.1 403 Forbidden\r\n\
    content-length: 15\r\n\
    content-type: text/plain\r\n\
    connection: close\r\n\
    \r\n\
    Access denied\r\n";

const TTL: u8 = 64;
const DONT_FRAGMENT: u16 = 0x4000;
/// Window that our segments announce; nothing more is wanted from either side.
const WINDOW: u16 = 1024;
const TCP_HEADER_LEN: u8 = 20;
const V4_HEADER_LEN: u16 = 20;
const TIMESTAMPS_LEN: u8 = 12;
const TCP_SEQ_OFFSET: usize = 4;
const TCP_FLAGS_OFFSET: usize = 13;
const TCP_CHECKSUM_OFFSET: usize = 16;
const UDP_HEADER_LEN: u16 = 8;
const UDP_CHECKSUM_OFFSET: usize = 6;

/// A TCP segment of our own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reply<'a> {
    /// It goes to the opener in the other side's name, else to the other side in the opener's.
    pub(crate) to_opener: bool,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    /// `(TSval, TSecr)`. A connection that negotiated timestamps has them in every segment but resets (RFC 7323 §3.2).
    pub(crate) timestamps: Option<(u32, u32)>,
    pub(crate) payload: &'a [u8],
    pub(crate) change: Change,
}

/// Whose frame is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line<'a> {
    pub(crate) id: &'a FlowId,
    /// See [`seventh_abi::PuntedType::connection`].
    pub(crate) connection: u16,
    pub(crate) link: &'a LinkType,
}

impl<'a> Line<'a> {
    /// The one of which this frame came.
    pub(crate) const fn of(punted: &'a Punted<'_>) -> Self {
        Self {
            id: &punted.id,
            connection: punted.connection,
            link: &punted.link,
        }
    }

    const fn inject(&self, reverse: bool, change: Change) -> InjectMeta {
        InjectMeta {
            hook: self.id.hook,
            ifindex: self.id.ifindex,
            reverse,
            connection: self.connection,
            action: change.action,
            replies: change.replies,
        }
    }
}

/// Writes `reply` as a complete frame of the connection into the empty `frame`.
pub(crate) fn write(frame: &mut Vec<u8>, line: Line<'_>, reply: &Reply<'_>) {
    let id = line.id;
    let end = plus(reply.seq, reply.payload.len());
    frame.put_slice(&line.inject(reply.to_opener, reply.change).encode(end));
    frame.put_slice(line.link.as_bytes());
    let (source, destination) = if reply.to_opener {
        ((&id.destination, id.destination_port), (&id.source, id.source_port))
    } else {
        ((&id.source, id.source_port), (&id.destination, id.destination_port))
    };
    let header_len = TCP_HEADER_LEN + if reply.timestamps.is_some() { TIMESTAMPS_LEN } else { 0 };
    let segment_len = u16::from(header_len) + u16::try_from(reply.payload.len()).unwrap_or(0);
    write_ip(frame, id.ipv4, PROTOCOL_TCP, source.0, destination.0, segment_len);
    let start = frame.len();
    frame.put_u16(source.1);
    frame.put_u16(destination.1);
    frame.put_u32(reply.seq);
    frame.put_u32(reply.ack);
    frame.put_u8(header_len << 2);
    frame.put_u8(reply.flags);
    frame.put_u16(WINDOW);
    frame.put_bytes(0, 4);
    if let Some((value, echo)) = reply.timestamps {
        frame.put_slice(&[1, 1, 8, 10]);
        frame.put_u32(value);
        frame.put_u32(echo);
    }
    frame.put_slice(reply.payload);
    set_checksum(frame, start, PROTOCOL_TCP, source.0, destination.0, id.ipv4);
}

/// Writes a datagram to the opener, in the other side's name, as a complete frame into the empty `frame`. False if it
/// does not fit into one.
pub(crate) fn write_datagram(frame: &mut Vec<u8>, line: Line<'_>, payload: &[u8]) -> bool {
    let id = line.id;
    let Some(len) = u16::try_from(payload.len())
        .ok()
        .and_then(|len| len.checked_add(UDP_HEADER_LEN))
    else {
        return false;
    };
    if len.checked_add(V4_HEADER_LEN).is_none() {
        return false;
    }
    frame.put_slice(&line.inject(true, Change::default()).encode(0));
    frame.put_slice(line.link.as_bytes());
    write_ip(frame, id.ipv4, PROTOCOL_UDP, &id.destination, &id.source, len);
    let start = frame.len();
    frame.put_u16(id.destination_port);
    frame.put_u16(id.source_port);
    frame.put_u16(len);
    frame.put_u16(0);
    frame.put_slice(payload);
    set_checksum(frame, start, PROTOCOL_UDP, &id.destination, &id.source, id.ipv4);
    true
}

/// Copies the segment's frame into the empty `frame` with only these bytes of its payload. Numbers, lengths and checksums
/// are made right; FIN is taken away if the segment's end is not part of it. Without any byte it stays where it was.
pub(crate) fn write_part(frame: &mut Vec<u8>, segment: &Segment<'_>, payload: &Range<usize>, change: Change) {
    let original = &segment.punted.frame;
    let id = &segment.punted.id;
    let is_empty = payload.is_empty();
    let seq = if is_empty {
        segment.tcp.seq
    } else {
        plus(segment.tcp.seq, payload.start)
    };
    let meta = Line::of(&segment.punted).inject(false, change);
    frame.put_slice(&meta.encode(plus(seq, payload.len())));
    frame.put_slice(original.headers().get(META_LEN..).unwrap_or_default());
    frame.put_slice(segment.payload.get(payload.clone()).unwrap_or_default());
    let ip = original.link_len();
    let transport = ip + original.network_header_len();
    let packet_len = u16::try_from(frame.len().saturating_sub(ip)).unwrap_or(u16::MAX);
    if original.is_ipv4() {
        put(frame, ip + 2, &packet_len.to_be_bytes());
        set_v4_checksum(frame, ip, transport);
    } else {
        put(frame, ip + 4, &packet_len.saturating_sub(40).to_be_bytes());
    }
    put(frame, transport + TCP_SEQ_OFFSET, &seq.to_be_bytes());
    if is_empty || payload.end < segment.payload.len() {
        let flags = segment.tcp.flags.0 & !TcpFlags::FIN;
        put(frame, transport + TCP_FLAGS_OFFSET, &[flags]);
    }
    set_checksum(frame, transport, PROTOCOL_TCP, &id.source, &id.destination, id.ipv4);
}

/// What is to stand in place of the MAC addresses of a frame that goes on.
pub(crate) fn onward(punted: &Punted<'_>, change: Change) -> [u8; META_LEN] {
    let end = match punted.frame.transport() {
        Transport::Tcp(tcp) => plus(tcp.seq, punted.frame.payload().len()),
        Transport::Udp(_) => 0,
    };
    Line::of(punted).inject(punted.meta.reply, change).encode(end)
}

fn write_ip(
    frame: &mut Vec<u8>,
    ipv4: bool,
    protocol: u8,
    source: &[u8; 16],
    destination: &[u8; 16],
    payload_len: u16,
) {
    let start = frame.len();
    if ipv4 {
        frame.put_slice(&[0x45, 0]);
        frame.put_u16(V4_HEADER_LEN + payload_len);
        frame.put_u16(0);
        frame.put_u16(DONT_FRAGMENT);
        frame.put_slice(&[TTL, protocol, 0, 0]);
        frame.put_slice(source.split_at(12).1);
        frame.put_slice(destination.split_at(12).1);
        let end = frame.len();
        set_v4_checksum(frame, start, end);
    } else {
        frame.put_slice(&[0x60, 0, 0, 0]);
        frame.put_u16(payload_len);
        frame.put_slice(&[protocol, TTL]);
        frame.put_slice(source);
        frame.put_slice(destination);
    }
}

fn set_v4_checksum(frame: &mut [u8], start: usize, end: usize) {
    put(frame, start + 10, &[0, 0]);
    let sum = Checksum::new().plus(frame.get(start..end).unwrap_or_default());
    put(frame, start + 10, &sum.finish().to_be_bytes());
}

/// The checksum of the TCP or UDP packet that begins at `start`.
fn set_checksum(frame: &mut [u8], start: usize, protocol: u8, source: &[u8; 16], destination: &[u8; 16], ipv4: bool) {
    let offset = start
        + if protocol == PROTOCOL_UDP {
            UDP_CHECKSUM_OFFSET
        } else {
            TCP_CHECKSUM_OFFSET
        };
    put(frame, offset, &[0, 0]);
    let packet = frame.get(start..).unwrap_or_default();
    let len = u32::try_from(packet.len()).unwrap_or(0);
    let sum = Checksum::pseudo(source, destination, ipv4, protocol, len)
        .plus(packet)
        .finish();
    // In UDP 0 says that there is none (RFC 768); in TCP both forms of zero are right.
    let sum = if sum == 0 { u16::MAX } else { sum };
    put(frame, offset, &sum.to_be_bytes());
}

/// Overwrites bytes that are there: callers have just written or parsed the header they lie in.
fn put(frame: &mut [u8], offset: usize, bytes: &[u8]) {
    if let Some(place) = frame.get_mut(offset..offset + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}
