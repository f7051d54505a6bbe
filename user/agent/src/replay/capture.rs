//! Captures as they lie on disk: pcap and pcapng, packed or not, read packet by packet into one buffer.
//!
//! Formats: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng. Own code because the packet must land where a frame can be
//! made of it without copying, and because captures that end in the middle of a packet are common and still tell much.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

/// Free bytes before each packet, in which a link header can be written.
pub(crate) const HEADROOM: usize = 64;
/// Bytes of a packet (or of a block that is read) at most.
const LEN_MAX: usize = 1 << 20;
/// Interfaces of a pcapng section at most.
const INTERFACES_MAX: usize = 65_536;
const NS_PER_S: u64 = 1_000_000_000;

const PCAP_MICRO: u32 = 0xa1b2_c3d4;
const PCAP_NANO: u32 = 0xa1b2_3c4d;
/// A patched libpcap of the nineties, whose packets have eight bytes more of header.
const PCAP_MODIFIED: u32 = 0xa1b2_cd34;
const SECTION: u32 = 0x0a0d_0d0a;
const SECTION_ORDER: u32 = 0x1a2b_3c4d;
const INTERFACE: u32 = 1;
const OLD_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
const OPTION_TIME_RESOLUTION: u16 = 9;
const OPTION_TIME_OFFSET: u16 = 14;

/// Why a capture cannot be read (further).
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaptureError {
    /// The file cannot be read.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// It is no capture.
    #[error("is neither pcap nor pcapng")]
    NotACapture,
    /// It ends within a packet.
    #[error("ends in the middle of a packet")]
    Cut,
    /// A length or number in it cannot be.
    #[error("is damaged: {0}")]
    Damaged(&'static str),
}

/// A packet that was read into the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    /// Since 1970.
    pub(crate) time_ns: u64,
    /// Link type (LINKTYPE_*).
    pub(crate) link: u16,
    /// Where it lies in the buffer; at least [`HEADROOM`].
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// Bytes that it had on the wire.
    pub(crate) wire_len: u32,
}

/// A capture that is being read.
pub(crate) struct Capture<'a> {
    reader: Box<dyn BufRead + 'a>,
    form: Form,
    big_endian: bool,
}

enum Form {
    Pcap { link: u16, nano: bool, modified: bool },
    PcapNg { interfaces: Vec<Interface>, last_ns: u64 },
}

#[derive(Clone, Copy)]
struct Interface {
    link: u16,
    snap_len: u32,
    units_per_s: u64,
    offset_s: i64,
}

impl<'a> Capture<'a> {
    /// Reads the beginning.
    ///
    /// # Errors
    /// It is no capture, or cannot be read.
    pub(crate) fn open(file: impl Read + 'a) -> Result<Self, CaptureError> {
        let mut file = BufReader::with_capacity(1 << 18, file);
        if file.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
            let unpacked = BufReader::with_capacity(1 << 18, MultiGzDecoder::new(file));
            return Self::open_plain(Box::new(unpacked));
        }
        Self::open_plain(Box::new(file))
    }

    fn open_plain(mut reader: Box<dyn BufRead + 'a>) -> Result<Self, CaptureError> {
        let mut magic = [0; 4];
        if !fill(&mut reader, &mut magic)? {
            return Err(CaptureError::NotACapture);
        }
        let (little, big) = (u32::from_le_bytes(magic), u32::from_be_bytes(magic));
        let known = |n: u32| matches!(n, PCAP_MICRO | PCAP_NANO | PCAP_MODIFIED);
        if big == SECTION {
            let mut capture = Self {
                reader,
                form: Form::PcapNg {
                    interfaces: Vec::new(),
                    last_ns: 0,
                },
                big_endian: false,
            };
            capture.section()?;
            return Ok(capture);
        }
        let (magic, big_endian) = match (known(little), known(big)) {
            (true, _) => (little, false),
            (_, true) => (big, true),
            _ => return Err(CaptureError::NotACapture),
        };
        let mut header = [0; 20];
        if !fill(&mut reader, &mut header)? {
            return Err(CaptureError::NotACapture);
        }
        let link = number32(&header, 16, big_endian);
        Ok(Self {
            reader,
            form: Form::Pcap {
                // The upper bits are about the length of a check sum at the end of frames.
                link: u16::try_from(link & 0xffff).unwrap_or_default(),
                nano: magic == PCAP_NANO,
                modified: magic == PCAP_MODIFIED,
            },
            big_endian,
        })
    }

    /// Reads the next packet into `buffer`; `None` at the end.
    ///
    /// # Errors
    /// See [`CaptureError`]; nothing more can be read then.
    pub(crate) fn next(&mut self, buffer: &mut Vec<u8>) -> Result<Option<Packet>, CaptureError> {
        match self.form {
            Form::Pcap { link, nano, modified } => self.next_pcap(buffer, link, nano, modified),
            Form::PcapNg { .. } => self.next_block(buffer),
        }
    }

    fn next_pcap(
        &mut self,
        buffer: &mut Vec<u8>,
        link: u16,
        nano: bool,
        modified: bool,
    ) -> Result<Option<Packet>, CaptureError> {
        let mut header = [0; 24];
        let header = if modified { &mut header[..] } else { &mut header[..16] };
        if !fill(&mut self.reader, header)? {
            return Ok(None);
        }
        let field = |at| number32(header, at, self.big_endian);
        let (seconds, fraction, len, wire_len) = (field(0), field(4), field(8), field(12));
        let len = length(len)?;
        let end = self.read_into(buffer, len)?;
        let fraction_ns = u64::from(fraction) * if nano { 1 } else { 1000 };
        Ok(Some(Packet {
            time_ns: u64::from(seconds) * NS_PER_S + fraction_ns,
            link,
            start: HEADROOM,
            end,
            wire_len,
        }))
    }

    fn next_block(&mut self, buffer: &mut Vec<u8>) -> Result<Option<Packet>, CaptureError> {
        loop {
            let mut header = [0; 8];
            if !fill(&mut self.reader, &mut header[..4])? {
                return Ok(None);
            }
            let kind = number32(&header, 0, self.big_endian);
            if kind == SECTION {
                self.section()?;
                continue;
            }
            self.reader.read_exact(&mut header[4..]).map_err(cut)?;
            let len = number32(&header, 4, self.big_endian) as usize;
            if len < 12 || !len.is_multiple_of(4) {
                return Err(CaptureError::Damaged("the length of a block"));
            }
            if !matches!(kind, INTERFACE | OLD_PACKET | SIMPLE_PACKET | ENHANCED_PACKET) {
                self.skip(len - 8)?;
                continue;
            }
            if len > LEN_MAX {
                return Err(CaptureError::Damaged("the length of a block"));
            }
            self.read_into(buffer, len - 8)?;
            let end = HEADROOM + len - 12;
            let packet = match kind {
                INTERFACE => {
                    self.interface(buffer.get(HEADROOM..end).unwrap_or_default())?;
                    continue;
                }
                SIMPLE_PACKET => self.simple(buffer, end)?,
                _ => self.packet(buffer, end, kind)?,
            };
            return Ok(Some(packet));
        }
    }

    /// Behind the type of a section's block: its length, order of bytes, version and options.
    fn section(&mut self) -> Result<(), CaptureError> {
        let mut header = [0; 8];
        self.reader.read_exact(&mut header).map_err(cut)?;
        self.big_endian = number32(&header, 4, true) == SECTION_ORDER;
        if number32(&header, 4, self.big_endian) != SECTION_ORDER {
            return Err(CaptureError::Damaged("the order of bytes of a section"));
        }
        let len = number32(&header, 0, self.big_endian) as usize;
        if len < 28 {
            return Err(CaptureError::Damaged("the length of a block"));
        }
        if let Form::PcapNg { interfaces, .. } = &mut self.form {
            interfaces.clear();
        }
        self.skip(len - 12)
    }

    fn interface(&mut self, block: &[u8]) -> Result<(), CaptureError> {
        let big = self.big_endian;
        if block.len() < 8 {
            return Err(CaptureError::Damaged("an interface"));
        }
        let mut interface = Interface {
            link: number16(block, 0, big),
            snap_len: number32(block, 4, big),
            units_per_s: 1_000_000,
            offset_s: 0,
        };
        let mut options = block.get(8..).unwrap_or_default();
        while options.len() >= 4 {
            let (code, len) = (number16(options, 0, big), usize::from(number16(options, 2, big)));
            let value = options.get(4..4 + len).unwrap_or_default();
            match (code, value) {
                (OPTION_TIME_RESOLUTION, [resolution, ..]) => {
                    let power = u32::from(resolution & 0x7f);
                    let base: u64 = if resolution & 0x80 == 0 { 10 } else { 2 };
                    interface.units_per_s = base
                        .checked_pow(power)
                        .ok_or(CaptureError::Damaged("the resolution of time"))?;
                }
                (OPTION_TIME_OFFSET, value) if value.len() == 8 => {
                    let (a, b) = (u64::from(number32(value, 0, big)), u64::from(number32(value, 4, big)));
                    let offset = if big { a << 32 | b } else { b << 32 | a };
                    interface.offset_s = offset.cast_signed();
                }
                _ => {}
            }
            options = options.get(4 + len.next_multiple_of(4)..).unwrap_or_default();
        }
        match &mut self.form {
            Form::PcapNg { interfaces, .. } if interfaces.len() < INTERFACES_MAX => {
                interfaces.push(interface);
                Ok(())
            }
            _ => Err(CaptureError::Damaged("too many interfaces")),
        }
    }

    /// An enhanced packet, or one of the form that came before it.
    fn packet(&mut self, buffer: &[u8], block_end: usize, kind: u32) -> Result<Packet, CaptureError> {
        let big = self.big_endian;
        let block = buffer.get(HEADROOM..block_end).unwrap_or_default();
        if block.len() < 20 {
            return Err(CaptureError::Damaged("a packet"));
        }
        let index = if kind == OLD_PACKET {
            u32::from(number16(block, 0, big))
        } else {
            number32(block, 0, big)
        };
        let Form::PcapNg { interfaces, last_ns } = &mut self.form else {
            return Err(CaptureError::NotACapture);
        };
        let interface = *interfaces
            .get(index as usize)
            .ok_or(CaptureError::Damaged("a packet of an interface that is not described"))?;
        let units = u64::from(number32(block, 4, big)) << 32 | u64::from(number32(block, 8, big));
        let time_ns = nanoseconds(units, &interface);
        *last_ns = time_ns;
        let start = HEADROOM + 20;
        let end = start + length(number32(block, 12, big))?;
        if end > block_end {
            return Err(CaptureError::Damaged("the length of a packet"));
        }
        Ok(Packet {
            time_ns,
            link: interface.link,
            start,
            end,
            wire_len: number32(block, 16, big),
        })
    }

    /// A packet of the first interface that has no time.
    fn simple(&mut self, buffer: &[u8], block_end: usize) -> Result<Packet, CaptureError> {
        let Form::PcapNg { interfaces, last_ns } = &self.form else {
            return Err(CaptureError::NotACapture);
        };
        let interface = interfaces
            .first()
            .ok_or(CaptureError::Damaged("a packet of an interface that is not described"))?;
        let wire_len = number32(buffer.get(HEADROOM..).unwrap_or_default(), 0, self.big_endian);
        let start = HEADROOM + 4;
        let snap = match interface.snap_len {
            0 => usize::MAX,
            snap => snap as usize,
        };
        let len = (wire_len as usize).min(snap).min(block_end.saturating_sub(start));
        Ok(Packet {
            time_ns: *last_ns,
            link: interface.link,
            start,
            end: start + len,
            wire_len,
        })
    }

    fn read_into(&mut self, buffer: &mut Vec<u8>, len: usize) -> Result<usize, CaptureError> {
        let end = HEADROOM + len;
        if buffer.len() < end {
            buffer.resize(end, 0);
        }
        let place = buffer.get_mut(HEADROOM..end).unwrap_or_default();
        self.reader.read_exact(place).map_err(cut)?;
        Ok(end)
    }

    fn skip(&mut self, len: usize) -> Result<(), CaptureError> {
        let skipped = io::copy(&mut (&mut self.reader).take(len as u64), &mut io::sink())?;
        if skipped == len as u64 {
            Ok(())
        } else {
            Err(CaptureError::Cut)
        }
    }
}

/// Fills `place`; false if the file ends before it, an error if within it.
fn fill(reader: &mut dyn BufRead, place: &mut [u8]) -> Result<bool, CaptureError> {
    if reader.fill_buf()?.is_empty() {
        return Ok(false);
    }
    reader.read_exact(place).map_err(cut)?;
    Ok(true)
}

fn cut(error: io::Error) -> CaptureError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        CaptureError::Cut
    } else {
        error.into()
    }
}

fn length(len: u32) -> Result<usize, CaptureError> {
    let len = len as usize;
    if len > LEN_MAX {
        return Err(CaptureError::Damaged("the length of a packet"));
    }
    Ok(len)
}

fn nanoseconds(units: u64, interface: &Interface) -> u64 {
    let ns = u128::from(units) * u128::from(NS_PER_S) / u128::from(interface.units_per_s);
    let ns = i128::try_from(ns).unwrap_or(i128::MAX);
    let offset = i128::from(interface.offset_s) * i128::from(NS_PER_S);
    u64::try_from(ns.saturating_add(offset).max(0)).unwrap_or(u64::MAX)
}

fn number32(bytes: &[u8], at: usize, big_endian: bool) -> u32 {
    let of = if big_endian {
        u32::from_be_bytes
    } else {
        u32::from_le_bytes
    };
    of(chunk(bytes, at))
}

fn number16(bytes: &[u8], at: usize, big_endian: bool) -> u16 {
    let of = if big_endian {
        u16::from_be_bytes
    } else {
        u16::from_le_bytes
    };
    of(chunk(bytes, at))
}

/// Zeros where there are too few bytes: callers have checked.
fn chunk<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let rest = bytes.get(at..);
    rest.and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::{Capture, CaptureError, HEADROOM, Packet};
    use std::io::Write as _;

    fn word(n: u32, big: bool) -> [u8; 4] {
        if big { n.to_be_bytes() } else { n.to_le_bytes() }
    }

    fn pcap(magic: u32, big: bool, link: u32, packets: &[&[u8]]) -> Vec<u8> {
        let mut bytes = word(magic, big).to_vec();
        bytes.extend([2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0]);
        bytes.extend(word(link, big));
        for packet in packets {
            for n in [7, 5, packet.len() as u32, packet.len() as u32 + 1] {
                bytes.extend(word(n, big));
            }
            bytes.extend(*packet);
        }
        bytes
    }

    fn block(kind: u32, body: &[u8], big: bool) -> Vec<u8> {
        let padded = [body, &vec![0; body.len().next_multiple_of(4) - body.len()]].concat();
        let len = word(padded.len() as u32 + 12, big);
        [&word(kind, big)[..], &len, &padded, &len].concat()
    }

    fn section(big: bool) -> Vec<u8> {
        let mut body = word(0x1a2b_3c4d, big).to_vec();
        body.extend([0; 12]);
        block(0x0a0d_0d0a, &body, big)
    }

    fn interface(link: u16, options: &[u8], big: bool) -> Vec<u8> {
        let link = if big { link.to_be_bytes() } else { link.to_le_bytes() };
        block(1, &[&link[..], &[0; 6], options].concat(), big)
    }

    fn enhanced(index: u32, units: u32, data: &[u8], big: bool) -> Vec<u8> {
        let len = data.len() as u32;
        let head = [index, 0, units, len, len].map(|n| word(n, big)).concat();
        block(6, &[&head, data].concat(), big)
    }

    fn read(bytes: &[u8]) -> (Vec<(Packet, Vec<u8>)>, Option<CaptureError>) {
        let mut packets = Vec::new();
        let mut capture = match Capture::open(bytes) {
            Ok(capture) => capture,
            Err(e) => return (packets, Some(e)),
        };
        let mut buffer = Vec::new();
        loop {
            match capture.next(&mut buffer) {
                Ok(Some(packet)) => packets.push((packet, buffer[packet.start..packet.end].to_vec())),
                Ok(None) => return (packets, None),
                Err(e) => return (packets, Some(e)),
            }
        }
    }

    #[test]
    fn pcap_of_either_order_and_resolution_is_read() {
        for (magic, fraction) in [(0xa1b2_c3d4_u32, 5000), (0xa1b2_3c4d, 5)] {
            for big in [false, true] {
                let (packets, error) = read(&pcap(magic, big, 113, &[b"abc", b""]));
                assert!(error.is_none());
                let first = Packet {
                    time_ns: 7_000_000_000 + fraction,
                    link: 113,
                    start: HEADROOM,
                    end: HEADROOM + 3,
                    wire_len: 4,
                };
                assert_eq!(
                    (packets[0].0, &packets[0].1[..], packets.len()),
                    (first, &b"abc"[..], 2)
                );
            }
        }
    }

    #[test]
    fn pcapng_with_several_interfaces_and_sections_is_read() {
        for big in [false, true] {
            let nano = if big {
                [0, 9, 0, 1, 9, 0, 0, 0]
            } else {
                [9, 0, 1, 0, 9, 0, 0, 0]
            };
            let bytes = [
                section(big),
                interface(1, &[], big),
                block(0x0bad, b"passed over", big),
                interface(101, &nano, big),
                enhanced(0, 3, b"micro", big),
                enhanced(1, 3, b"nano", big),
                block(3, &[&word(3, big)[..], b"sim"].concat(), big),
                section(!big),
                interface(276, &[], !big),
                enhanced(0, 1, b"swapped", !big),
            ]
            .concat();
            let (packets, error) = read(&bytes);
            assert!(error.is_none(), "{error:?}");
            let told: Vec<(u64, u16, &[u8])> = packets.iter().map(|(p, d)| (p.time_ns, p.link, &d[..])).collect();
            assert_eq!(
                told,
                [
                    (3000, 1, &b"micro"[..]),
                    (3, 101, b"nano"),
                    (3, 1, b"sim"),
                    (1000, 276, b"swapped")
                ]
            );
        }
    }

    #[test]
    fn packed_captures_are_unpacked() {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(&pcap(0xa1b2_c3d4, false, 1, &[b"abc"])).unwrap();
        let (packets, error) = read(&packer.finish().unwrap());
        assert!(error.is_none() && packets[0].1 == b"abc");
    }

    #[test]
    fn what_is_cut_tells_what_came_before() {
        let whole = pcap(0xa1b2_c3d4, false, 1, &[b"abc", b"defg"]);
        let (packets, error) = read(&whole[..whole.len() - 1]);
        assert!(packets.len() == 1 && matches!(error, Some(CaptureError::Cut)));
        let (packets, error) = read(b"GET / HTTP/1.1");
        assert!(packets.is_empty() && matches!(error, Some(CaptureError::NotACapture)));
        let mut lies = pcap(0xa1b2_c3d4, false, 1, &[b"abc"]);
        lies[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(read(&lies).1, Some(CaptureError::Damaged(_))));
    }
}
