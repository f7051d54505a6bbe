//! First flights of TLS and QUIC in captures: the names that were asked for.

use seventh_fixtures::{frames, manifest};
use seventh_parsers::packet::{Frame, Transport};
use seventh_parsers::quic::{ConnectionId, CryptoStream, InitialKeys, Packet, Side, read_frames, split_packet};
use seventh_parsers::tls::{HelloScanner, Limits, join_records, parse_hello, read_hello};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// The name of each ClientHello, in the order of their connections; `-` for one without.
#[derive(Debug, Default, PartialEq, Eq)]
struct Hellos {
    tls: Vec<String>,
    quic: Vec<String>,
}

/// One direction of a connection: addresses and ports.
type Line = ([u8; 16], [u8; 16], u16, u16);

fn hellos(path: &Path) -> Hellos {
    let mut streams: Vec<(Line, Stream)> = Vec::new();
    let mut datagrams: Vec<(Line, Vec<Vec<u8>>)> = Vec::new();
    for bytes in frames(path).unwrap() {
        let Ok(frame) = Frame::parse(&bytes) else { continue };
        let (source_port, destination_port) = frame.transport().ports();
        let line = (frame.source(), frame.destination(), source_port, destination_port);
        match frame.transport() {
            Transport::Tcp(tcp) => {
                let syn = tcp.flags.0 & 2 != 0;
                let known = streams
                    .iter()
                    .rposition(|(l, stream)| *l == line && !(syn && stream.begun));
                let at = known.unwrap_or_else(|| {
                    streams.push((line, Stream::default()));
                    streams.len() - 1
                });
                streams[at]
                    .1
                    .add(tcp.seq.wrapping_add(u32::from(syn)), syn, frame.payload());
            }
            Transport::Udp(_) => {
                let known = datagrams.iter().position(|(l, _)| *l == line);
                let at = known.unwrap_or_else(|| {
                    datagrams.push((line, Vec::new()));
                    datagrams.len() - 1
                });
                datagrams[at].1.push(frame.payload().to_vec());
            }
        }
    }
    Hellos {
        tls: streams.iter().flat_map(|(_, stream)| stream.hellos()).collect(),
        quic: datagrams
            .iter()
            .filter_map(|(_, datagrams)| quic_hello(datagrams))
            .collect(),
    }
}

/// The bytes of one direction, by their distance from the first.
#[derive(Default)]
struct Stream {
    begun: bool,
    base: Option<u32>,
    pieces: BTreeMap<u32, Vec<u8>>,
}

impl Stream {
    fn add(&mut self, seq: u32, syn: bool, payload: &[u8]) {
        self.begun |= !payload.is_empty();
        if syn || (self.base.is_none() && !payload.is_empty()) {
            self.base = Some(seq);
        }
        let Some(base) = self.base.filter(|_| !payload.is_empty()) else {
            return;
        };
        let at = seq.wrapping_sub(base);
        if at < 1 << 20 {
            self.pieces.entry(at).or_insert_with(|| payload.to_vec());
        }
    }

    /// The first ClientHello, and the second if the server asked for one.
    fn hellos(&self) -> Vec<String> {
        let bytes = self.bytes();
        let Ok((message, end)) = parse_hello(&bytes, &Limits::default()) else {
            return Vec::new();
        };
        let rest = &bytes[end..];
        let mut scanner = HelloScanner::after_hello(true, Limits::default());
        let second = scanner.advance(rest).ok().flatten().and_then(|end| {
            let records = &rest[end - scanner.taken()..end];
            name_of(&join_records(records).ok()?)
        });
        name_of(&message).into_iter().chain(second).collect()
    }

    /// From the first on, without a gap.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = Vec::new();
        for (at, piece) in &self.pieces {
            let Some(known) = bytes.len().checked_sub(usize::try_from(*at).unwrap()) else {
                break;
            };
            bytes.extend(piece.get(known..).unwrap_or_default());
        }
        bytes
    }
}

fn quic_hello(datagrams: &[Vec<u8>]) -> Option<String> {
    let mut attempts: HashMap<ConnectionId, CryptoStream> = HashMap::new();
    let mut first = Vec::new();
    for datagram in datagrams {
        let mut rest = &datagram[..];
        while let Ok((packet, after)) = split_packet(rest) {
            rest = after;
            let Packet::Initial(initial) = packet else { continue };
            first.push(initial.destination);
            // The first connection id makes the keys; after a Retry another one does.
            for original in first.clone() {
                let mut payload = Vec::new();
                let keys = InitialKeys::new(initial.version, Side::Client, &original);
                if keys.open(&initial, 0, &mut payload).is_err() {
                    continue;
                }
                let stream = attempts.entry(original).or_default();
                let _ = read_frames(&payload, |offset, data| stream.insert(offset, data));
                if let Ok(Some(message)) = stream.client_hello(&Limits::default()) {
                    return name_of(message);
                }
                break;
            }
        }
    }
    None
}

fn name_of(message: &[u8]) -> Option<String> {
    let hello = read_hello(message).ok()?;
    Some(hello.server_name.as_deref().unwrap_or("-").to_owned())
}

/// `tls a b; quic c`
fn written(hellos: &Hellos) -> String {
    let part = |kind: &str, names: &[String]| (!names.is_empty()).then(|| format!("{kind} {}", names.join(" ")));
    let parts = [part("tls", &hellos.tls), part("quic", &hellos.quic)];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

#[test]
fn every_capture_gives_the_names_that_its_line_says() {
    for folder in ["tls/", "quic/"] {
        let fixtures = manifest(folder).unwrap();
        assert!(fixtures.len() >= 8, "{folder}");
        for fixture in fixtures {
            let found = written(&hellos(&fixture.path));
            assert_eq!(found, fixture.expected, "{}: {}", fixture.path.display(), fixture.shows);
        }
    }
}

/// `SEVENTH_CAPTURES=DIR`: every capture below DIR that has a `<file>.truth.json` beside it on which its witnesses agree.
#[test]
fn captures_from_elsewhere_give_what_their_witnesses_agree_on() {
    let Some(dir) = std::env::var_os("SEVENTH_CAPTURES") else {
        return;
    };
    let (mut right, mut wrong) = (0, Vec::new());
    for truth_path in truths(Path::new(&dir)) {
        let truth: serde_json::Value = serde_json::from_slice(&std::fs::read(&truth_path).unwrap()).unwrap();
        let capture = truth_path.to_str().unwrap().strip_suffix(".truth.json").unwrap();
        let Ok(_) = frames(Path::new(capture)) else { continue };
        let found = hellos(Path::new(capture));
        for (kind, list, mut names) in [
            ("tls", "tls_client_hellos", found.tls),
            ("quic", "quic_client_hellos", found.quic),
        ] {
            let agreed = truth["confidence"][kind]
                .as_str()
                .is_some_and(|word| word.starts_with("agreed"));
            if !agreed {
                continue;
            }
            let named = |hello: &serde_json::Value| hello["sni"][0].as_str().map_or("-".to_owned(), str::to_lowercase);
            let mut expected: Vec<_> = truth[list].as_array().unwrap().iter().map(named).collect();
            expected.sort();
            names.sort();
            if kind == "quic" {
                expected.dedup();
                names.dedup();
            }
            if expected == names {
                right += 1;
            } else {
                wrong.push(format!("{capture} ({kind}): {names:?} instead of {expected:?}"));
            }
        }
    }
    println!("{right} right, {} wrong\n{}", wrong.len(), wrong.join("\n"));
    // Left are what this test does not unwrap: tunnels, proxies, STARTTLS; drafts of QUIC; hellos that are malformed.
    assert!(right > 3 * wrong.len(), "captures below {}", dir.display());
}

fn truths(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(truths(&path));
        } else if path.to_string_lossy().ends_with(".truth.json") {
            found.push(path);
        }
    }
    found.sort();
    found
}
