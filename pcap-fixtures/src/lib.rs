//! Captures with their origin, licence and expected outcome.
//!
//! Each file under this directory has one line in `MANIFEST`: path, origin, licence, what it shows, and what must come
//! of it, separated by ` | `. [`manifest`] reads the lines, [`frames`] the captures.
#![forbid(unsafe_code)]

use pcap_file::DataLink;
use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::{Block, PcapNgReader};
use std::fs;
use std::path::{Path, PathBuf};

/// Packets that are read from one capture at most; the largest here has a few hundred.
pub const PACKETS_MAX: usize = 1_000_000;

/// One line of the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixture {
    /// The capture.
    pub path: PathBuf,
    /// Repository and path in it, and which version.
    pub origin: String,
    /// Licence of the origin (SPDX).
    pub licence: String,
    /// What is in it.
    pub shows: String,
    /// What must come of it, in the words of the test that reads it.
    pub expected: String,
}

/// Why a capture or the manifest cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FixtureError {
    /// The file cannot be read.
    #[error("{0}: {1}")]
    Read(PathBuf, std::io::Error),
    /// A line of the manifest has not five parts.
    #[error("MANIFEST, line {0}: not `path | origin | licence | what it shows | expected`")]
    Line(usize),
    /// The capture is malformed, or its link type is not read.
    #[error("{0}: {1}")]
    Capture(PathBuf, String),
}

/// The directory of the captures.
#[must_use]
pub fn directory() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every fixture of the manifest whose path begins with `folder`.
///
/// # Errors
/// The manifest cannot be read.
pub fn manifest(folder: &str) -> Result<Vec<Fixture>, FixtureError> {
    let path = directory().join("MANIFEST");
    let text = fs::read_to_string(&path).map_err(|e| FixtureError::Read(path, e))?;
    let mut fixtures = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let parts: Vec<&str> = line.split(" | ").map(str::trim).collect();
        let [file, origin, licence, shows, expected] = parts[..] else {
            return Err(FixtureError::Line(at + 1));
        };
        if file.starts_with(folder) {
            fixtures.push(Fixture {
                path: directory().join(file),
                origin: origin.to_owned(),
                licence: licence.to_owned(),
                shows: shows.to_owned(),
                expected: expected.to_owned(),
            });
        }
    }
    Ok(fixtures)
}

/// The packets of a capture (pcap or pcapng), each as an Ethernet frame: packets of other link types get a header of
/// zeros. At most [`PACKETS_MAX`].
///
/// # Errors
/// It cannot be read, or its link type is none of Ethernet, raw IP, null, Linux cooked and PPP.
pub fn frames(path: &Path) -> Result<Vec<Vec<u8>>, FixtureError> {
    let bytes = fs::read(path).map_err(|e| FixtureError::Read(path.to_owned(), e))?;
    let packets = if bytes.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]) {
        packets_of_pcapng(&bytes)
    } else {
        packets_of_pcap(&bytes)
    };
    let failed = |reason: String| FixtureError::Capture(path.to_owned(), reason);
    let packets = packets.map_err(failed)?;
    packets
        .iter()
        .map(|(link, data)| ethernet(*link, data))
        .collect::<Result<_, String>>()
        .map_err(failed)
}

type Packets = Result<Vec<(DataLink, Vec<u8>)>, String>;

fn packets_of_pcap(bytes: &[u8]) -> Packets {
    let mut reader = PcapReader::new(bytes).map_err(|e| e.to_string())?;
    let link = reader.header().datalink;
    let mut packets = Vec::new();
    while let Some(packet) = reader.next_packet()
        && packets.len() < PACKETS_MAX
    {
        let packet = packet.map_err(|e| e.to_string())?;
        packets.push((link, packet.data.into_owned()));
    }
    Ok(packets)
}

fn packets_of_pcapng(bytes: &[u8]) -> Packets {
    let mut reader = PcapNgReader::new(bytes).map_err(|e| e.to_string())?;
    let mut links = Vec::new();
    let mut packets = Vec::new();
    while let Some(block) = reader.next_block()
        && packets.len() < PACKETS_MAX
    {
        match block.map_err(|e| e.to_string())? {
            Block::InterfaceDescription(interface) => links.push(interface.linktype),
            Block::EnhancedPacket(packet) => {
                let index = usize::try_from(packet.interface_id).map_err(|e| e.to_string())?;
                let link = links
                    .get(index)
                    .ok_or("a packet of an interface that is not described")?;
                packets.push((*link, packet.data.into_owned()));
            }
            _ => {}
        }
    }
    Ok(packets)
}

/// The packet as an Ethernet frame.
fn ethernet(link: DataLink, data: &[u8]) -> Result<Vec<u8>, String> {
    let skipped = match link {
        DataLink::ETHERNET => return Ok(data.to_vec()),
        DataLink::RAW | DataLink::IPV4 | DataLink::IPV6 => 0,
        DataLink::NULL | DataLink::LOOP | DataLink::PPP => 4,
        DataLink::LINUX_SLL => 16,
        DataLink::LINUX_SLL2 => 20,
        other => return Err(format!("link type {other:?} is not read")),
    };
    // PPP comes with its address and control bytes, or without.
    let skipped = if link == DataLink::PPP && data.first() != Some(&0xff) {
        2
    } else {
        skipped
    };
    let packet = data.get(skipped..).unwrap_or_default();
    let kind: [u8; 2] = match packet.first().map(|byte| byte >> 4) {
        Some(6) => [0x86, 0xdd],
        _ => [0x08, 0x00],
    };
    Ok([&[0; 12][..], &kind, packet].concat())
}
