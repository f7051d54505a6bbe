//! The collection of requests in `corpus/http1-smuggling.tsv`, each with what must become of it.

use super::{BodyLength, ChunkProgress, ChunkedFollower, HeadError, Limits, parse_head};
use std::collections::BTreeMap;

const CORPUS: &str = include_str!("../../corpus/http1-smuggling.tsv");

struct Case {
    class: &'static str,
    name: &'static str,
    bytes: Vec<u8>,
    expected: &'static str,
}

fn cases() -> Vec<Case> {
    let lines = CORPUS.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let [class, name, bytes, expected] = line.split('\t').collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            Case {
                class,
                name,
                bytes: unescape(bytes),
                expected,
            }
        })
        .collect()
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next().unwrap() {
                b'r' => b'\r',
                b'n' => b'\n',
                b't' => b'\t',
                b'0' => 0,
                b'x' => {
                    let digits = [rest.next().unwrap(), rest.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                other => other,
            },
            _ => byte,
        });
    }
    bytes
}

/// What becomes of the bytes, in the corpus' words.
fn read(mut bytes: &[u8]) -> String {
    let or_dash = |text: &str| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            text.to_owned()
        }
    };
    let mut said = Vec::new();
    while !bytes.is_empty() {
        let head = match parse_head(bytes, &Limits::default()) {
            Ok(head) => head,
            Err(HeadError::Incomplete) => {
                said.push("...".to_owned());
                break;
            }
            Err(HeadError::Invalid(fault)) => {
                said.push(format!("!{fault:?}"));
                break;
            }
        };
        said.push(format!(
            "{} {} {}",
            head.method,
            or_dash(&head.path),
            or_dash(head.host.unwrap_or_default())
        ));
        bytes = &bytes[head.head_len..];
        match head.body {
            BodyLength::None => {}
            BodyLength::Fixed(len) => bytes = &bytes[bytes.len().min(len as usize)..],
            BodyLength::Chunked => match ChunkedFollower::new().follow(bytes) {
                Ok(ChunkProgress::Done(len)) => bytes = &bytes[len..],
                Ok(ChunkProgress::More) => break,
                Err(fault) => {
                    said.push(format!("!{fault:?}"));
                    break;
                }
            },
        }
    }
    said.join("; ")
}

#[test]
fn every_case_of_the_collection_ends_as_it_must() {
    let cases = cases();
    let mut classes = BTreeMap::new();
    let mut wrong = Vec::new();
    for case in &cases {
        *classes.entry(case.class).or_insert(0) += 1;
        let got = read(&case.bytes);
        if got != case.expected {
            wrong.push(format!("{} / {}: {got}, not {}", case.class, case.name, case.expected));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(cases.len() >= 150 && classes.len() >= 12, "{classes:?}");
}
