//! Many captures become one long one.
//!
//! Packets of all seeds are put in the order of their times, each seed beginning at the same moment, so that conversations
//! lie between each other as on a wire. The whole is repeated with other addresses of servers until it is long enough.
//! Checksums of TCP and UDP stay what they were: no reader here verifies them unless told to.

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, File},
    io::BufWriter,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use pcap_file::{
    DataLink, Endianness, TsResolution,
    pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter},
    pcapng::{Block, PcapNgReader},
};

/// Seeds that were captured over hours become no longer than this.
const SEED_SPAN_MAX: Duration = Duration::from_secs(30);
/// Between two repetitions.
const PAUSE: Duration = Duration::from_secs(1);
/// Packets of a seed are no longer than this.
const SNAP_LEN: u32 = 262_144;

const ETHER_IPV4: u16 = 0x0800;
const ETHER_IPV6: u16 = 0x86dd;
const ETHER_TAGS: [u16; 2] = [0x8100, 0x88a8];
const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;

/// The long capture.
pub(crate) struct Merged {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    seeds: usize,
    repetitions: u64,
    /// Who opens conversations and is never called: endpoints for a policy.
    pub(crate) clients: BTreeSet<IpAddr>,
}

#[derive(Clone)]
struct SeedPacket {
    at: Duration,
    bytes: Vec<u8>,
}

/// Where addresses lie in a frame.
struct Ends {
    source: IpAddr,
    destination: IpAddr,
    /// Offsets of the two addresses.
    places: [usize; 2],
    /// Of the header.
    network: usize,
    /// Protocol and offset of the header behind, unless it is a later fragment.
    transport: Option<(u8, usize)>,
}

/// The captures of the project that are Ethernet.
pub(crate) fn fixtures() -> Result<Vec<PathBuf>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("pcap-fixtures");
    let (mut found, mut folders) = (Vec::new(), vec![root]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "pcap") && !read(&path)?.is_empty() {
                found.push(path);
            }
        }
    }
    found.sort();
    ensure!(!found.is_empty(), "there are no captures in pcap-fixtures/");
    Ok(found)
}

impl Merged {
    /// Writes it.
    pub(crate) fn write(seeds: &[PathBuf], packets_min: u64, file: &Path) -> Result<Self> {
        let mut all = Vec::new();
        for seed in seeds {
            all.extend(read(seed)?);
        }
        all.sort_by_key(|packet| packet.at);
        let Some(span) = all.last().map(|packet| packet.at + PAUSE) else {
            bail!("the seeds have no packets on Ethernet");
        };
        let header = PcapHeader {
            version_major: 2,
            version_minor: 4,
            ts_correction: 0,
            ts_accuracy: 0,
            snaplen: SNAP_LEN,
            datalink: DataLink::ETHERNET,
            ts_resolution: TsResolution::MicroSecond,
            endianness: Endianness::native(),
        };
        let mut writer = PcapWriter::with_header(BufWriter::new(File::create(file)?), header)?;
        let mut merged = Self {
            packets: 0,
            bytes: 0,
            seeds: seeds.len(),
            repetitions: 0,
            clients: clients(&all),
        };
        // The year 2020, as good as any.
        let mut begin = Duration::from_secs(1_577_836_800);
        while merged.packets < packets_min {
            for packet in &all {
                let mut bytes = packet.bytes.clone();
                readdress(&mut bytes, merged.repetitions, &merged.clients);
                merged.packets += 1;
                merged.bytes += bytes.len() as u64;
                writer.write_packet(&PcapPacket::new(begin + packet.at, u32::try_from(bytes.len())?, &bytes))?;
            }
            merged.repetitions += 1;
            begin += span;
        }
        Ok(merged)
    }
}

impl fmt::Display for Merged {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            packets,
            bytes,
            seeds,
            repetitions,
            clients,
        } = self;
        write!(
            formatter,
            "{packets} packets, {bytes} bytes of {seeds} captures, {repetitions} times, {} clients",
            clients.len()
        )
    }
}

/// The packets of a capture; none if it is not Ethernet. A capture that ends within a packet has those before.
fn read(path: &Path) -> Result<Vec<SeedPacket>> {
    let file = || File::open(path).with_context(|| path.display().to_string());
    let mut packets: Vec<(Duration, Vec<u8>)> = Vec::new();
    if let Ok(mut reader) = PcapReader::new(file()?) {
        if reader.header().datalink != DataLink::ETHERNET {
            return Ok(Vec::new());
        }
        while let Some(Ok(packet)) = reader.next_packet() {
            packets.push((packet.timestamp, packet.data.into_owned()));
        }
    } else {
        let mut reader = PcapNgReader::new(file()?)?;
        while let Some(block) = reader.next_block() {
            match block {
                Ok(Block::EnhancedPacket(packet)) => packets.push((packet.timestamp, packet.data.into_owned())),
                Ok(Block::InterfaceDescription(interface)) if interface.linktype != DataLink::ETHERNET => {
                    return Ok(Vec::new());
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }
    let begin = packets.iter().map(|(time, _)| *time).min().unwrap_or_default();
    let from_begin = |(time, bytes): (Duration, Vec<u8>)| SeedPacket {
        at: (time - begin).min(SEED_SPAN_MAX),
        bytes,
    };
    Ok(packets.into_iter().map(from_begin).collect())
}

fn clients(packets: &[SeedPacket]) -> BTreeSet<IpAddr> {
    let (mut openers, mut called) = (BTreeSet::new(), BTreeSet::new());
    for packet in packets {
        let Some(ends) = ends(&packet.bytes) else { continue };
        let Some((protocol, at)) = ends.transport else { continue };
        let opens = match (protocol, packet.bytes.get(at..at + 14)) {
            (TCP, Some(header)) => header[13] & SYN_ACK == SYN,
            (UDP, Some(header)) => matches!(u16::from_be_bytes([header[2], header[3]]), 53 | 443),
            _ => false,
        };
        if opens {
            openers.insert(ends.source);
            called.insert(ends.destination);
        }
    }
    openers.difference(&called).copied().collect()
}

/// Servers get other addresses in each repetition.
fn readdress(frame: &mut [u8], repetition: u64, clients: &BTreeSet<IpAddr>) {
    let Some(ends) = ends(frame) else { return };
    let [high, low] = u16::try_from(repetition % 65_536).unwrap_or(0).to_be_bytes();
    for (address, place) in [ends.source, ends.destination].into_iter().zip(ends.places) {
        if clients.contains(&address) || address.is_multicast() {
            continue;
        }
        if let Some(bytes) = frame.get_mut(place + 1..place + 3) {
            bytes[0] ^= high;
            bytes[1] ^= low;
        }
    }
    if ends.source.is_ipv4() {
        set_checksum(frame, ends.network);
    }
}

/// RFC 791 section 3.1.
fn set_checksum(frame: &mut [u8], network: usize) {
    let len = usize::from(frame[network] & 0x0f) * 4;
    let Some(header) = frame.get_mut(network..network + len) else {
        return;
    };
    header[10..12].fill(0);
    let mut sum: u32 = header
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    header[10..12].copy_from_slice(&(!u16::try_from(sum).unwrap_or(0)).to_be_bytes());
}

fn ends(frame: &[u8]) -> Option<Ends> {
    let mut at = 12;
    let mut kind = ether_type(frame, at)?;
    while ETHER_TAGS.contains(&kind) {
        at += 4;
        kind = ether_type(frame, at)?;
    }
    let network = at + 2;
    let header = frame.get(network..)?;
    match kind {
        ETHER_IPV4 => {
            let v4 = |at: usize| {
                Some(IpAddr::V4(Ipv4Addr::from(
                    <[u8; 4]>::try_from(header.get(at..at + 4)?).ok()?,
                )))
            };
            let is_first = u16::from_be_bytes([*header.get(6)?, *header.get(7)?]) & 0x1fff == 0;
            let transport = (*header.get(9)?, network + usize::from(header.first()? & 0x0f) * 4);
            Some(Ends {
                source: v4(12)?,
                destination: v4(16)?,
                places: [network + 12, network + 16],
                network,
                transport: is_first.then_some(transport),
            })
        }
        ETHER_IPV6 => {
            let v6 = |at: usize| {
                Some(IpAddr::V6(Ipv6Addr::from(
                    <[u8; 16]>::try_from(header.get(at..at + 16)?).ok()?,
                )))
            };
            Some(Ends {
                source: v6(8)?,
                destination: v6(24)?,
                places: [network + 8, network + 24],
                network,
                transport: Some((*header.get(6)?, network + 40)),
            })
        }
        _ => None,
    }
}

fn ether_type(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]))
}

#[cfg(test)]
mod tests {
    use super::{Merged, ends, fixtures, read, readdress};
    use std::collections::BTreeSet;

    #[test]
    fn a_capture_grows_by_conversations_with_other_servers_and_the_same_clients() {
        let file = std::env::temp_dir().join(format!("seventh-merged-{}.pcap", std::process::id()));
        let seeds = fixtures().unwrap();
        let merged = Merged::write(&seeds, 20_000, &file).unwrap();
        let packets = read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert!(
            merged.repetitions > 1 && packets.len() as u64 == merged.packets,
            "{merged}"
        );
        let half = packets.len() / usize::try_from(merged.repetitions).unwrap();
        let (first, second) = (ends(&packets[0].bytes).unwrap(), ends(&packets[half].bytes).unwrap());
        assert_ne!((first.source, first.destination), (second.source, second.destination));
        for client in &merged.clients {
            assert!(
                packets
                    .iter()
                    .filter_map(|packet| ends(&packet.bytes))
                    .any(|ends| ends.source == *client)
            );
        }
    }

    #[test]
    fn the_checksum_of_a_header_is_right_again() {
        let mut frame = vec![0_u8; 34];
        frame[12] = 0x08;
        frame[14..].copy_from_slice(&[0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        readdress(&mut frame, 7, &BTreeSet::new());
        assert_eq!(frame[26..30], [10, 0, 7, 1]);
        let sum: u32 = frame[14..]
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }
}
