//! Frames, built field by field, and frames read back.

use seventh_abi::{Hook, InjectAction, InjectMeta, PuntMeta, PuntedType};
use seventh_parsers::packet::{Frame, Tcp, Transport};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const URG: u8 = 0x20;

/// How a connection's frames look on the wire; source is the opener.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) ipv6: bool,
    pub(crate) tags: Vec<[u8; 4]>,
    pub(crate) source: [u8; 16],
    pub(crate) destination: [u8; 16],
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) protocol: u8,
    pub(crate) ttl: u8,
    pub(crate) window: u16,
    /// `(TSval, TSecr)`
    pub(crate) timestamps: Option<(u32, u32)>,
}

pub(crate) fn v4(last: u8) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, last]
}

pub(crate) fn v6(last: u8) -> [u8; 16] {
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

impl Shape {
    pub(crate) fn new(source: u8, destination: u8, destination_port: u16) -> Self {
        Self {
            ipv6: false,
            tags: Vec::new(),
            source: v4(source),
            destination: v4(destination),
            source_port: 40_000,
            destination_port,
            protocol: 6,
            ttl: 61,
            window: 0xffff,
            timestamps: None,
        }
    }

    /// A complete frame with `meta` in place of its MAC addresses.
    pub(crate) fn frame(&self, meta: &PuntMeta, seq: u32, ack: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut transport = Vec::new();
        transport.extend(self.source_port.to_be_bytes());
        transport.extend(self.destination_port.to_be_bytes());
        let checksum_at = if self.protocol == 17 {
            transport.extend(((8 + payload.len()) as u16).to_be_bytes());
            transport.extend([0, 0]);
            6
        } else {
            transport.extend(seq.to_be_bytes());
            transport.extend(ack.to_be_bytes());
            let words = if self.timestamps.is_some() { 8 } else { 5 };
            transport.extend([words << 4, flags]);
            transport.extend(self.window.to_be_bytes());
            transport.extend([0; 4]);
            if let Some((value, echo)) = self.timestamps {
                transport.extend([1, 1, 8, 10]);
                transport.extend(value.to_be_bytes());
                transport.extend(echo.to_be_bytes());
            }
            16
        };
        transport.extend(payload);
        let mut pseudo = if self.ipv6 {
            [self.source, self.destination].concat()
        } else {
            [&self.source[12..], &self.destination[12..]].concat()
        };
        pseudo.extend((transport.len() as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, self.protocol]);
        pseudo.extend(&transport);
        let sum = checksum(&pseudo);
        transport[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
        let mut frame = meta.encode().to_vec();
        frame.extend(self.tags.concat());
        frame.extend(self.ip_header(transport.len()));
        frame.extend(transport);
        frame
    }

    fn ip_header(&self, len: usize) -> Vec<u8> {
        let mut header = Vec::new();
        if self.ipv6 {
            header.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            header.extend((len as u16).to_be_bytes());
            header.extend([self.protocol, self.ttl]);
            header.extend([self.source, self.destination].concat());
        } else {
            let mut ip = vec![0x45, 0];
            ip.extend((20 + len as u16).to_be_bytes());
            ip.extend([0xab, 0xcd, 0x40, 0, self.ttl, self.protocol, 0, 0]);
            ip.extend([&self.source[12..], &self.destination[12..]].concat());
            let sum = checksum(&ip);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            header.extend([0x08, 0x00]);
            header.extend(ip);
        }
        header
    }
}

/// The frame as the kernel punts it: with the number of its connection in place of its `EtherType`, behind the first tag,
/// as if that had been kept beside the frame.
pub(crate) fn number(frame: &mut [u8], connection: u16) {
    let at = match frame.get(12..14) {
        Some([0x81, 0x00] | [0x88, 0xa8]) => 16,
        _ => 12,
    };
    let place = frame.get_mut(at..).and_then(|rest| rest.first_chunk_mut());
    let Some(place) = place else { return };
    let ether_type = u16::from_be_bytes(*place);
    if let Some(code) = (PuntedType { ether_type, connection }).encode() {
        *place = code;
    }
}

pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += (u32::from(pair[0]) << 8) | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A frame that left the engine.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) meta: InjectMeta,
    pub(crate) tcp: Tcp,
    pub(crate) source: [u8; 16],
    pub(crate) destination: [u8; 16],
    pub(crate) link: Vec<u8>,
    pub(crate) timestamps: Option<(u32, u32)>,
    pub(crate) payload: Vec<u8>,
    /// From the IP header on.
    pub(crate) packet: Vec<u8>,
}

impl Sent {
    /// Reads a frame; its checksums must be right.
    #[track_caller]
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let frame = Frame::parse(bytes).expect("a frame that left the engine");
        assert_eq!(
            frame.verify_checksums(),
            Ok(()),
            "checksums of a frame that left the engine"
        );
        let Transport::Tcp(tcp) = *frame.transport() else {
            panic!("TCP expected")
        };
        let end = tcp.seq.wrapping_add(frame.payload().len() as u32);
        Self {
            meta: InjectMeta::decode(bytes.first_chunk().unwrap(), end).expect("inject metadata"),
            tcp,
            source: frame.source(),
            destination: frame.destination(),
            link: frame.link_header()[12..].to_vec(),
            timestamps: frame.tcp_timestamps(),
            payload: frame.payload().to_vec(),
            packet: bytes[frame.link_header().len()..].to_vec(),
        }
    }

    pub(crate) fn flags(&self) -> u8 {
        self.tcp.flags.0
    }

    /// `reverse`, flags, seq, ack of a frame that closes.
    #[track_caller]
    pub(crate) fn closing(&self) -> (bool, u8, u32, u32) {
        assert_eq!(self.meta.action, InjectAction::Close);
        (self.meta.reverse, self.flags(), self.tcp.seq, self.tcp.ack)
    }
}

pub(crate) fn punt(hook: Hook, ifindex: u32) -> PuntMeta {
    PuntMeta {
        hook,
        ifindex,
        base_seq: None,
        acked_seq: None,
        reply_idle: true,
        closed: false,
        reply: false,
        frontier: None,
        compared_to: None,
        clean: true,
    }
}
