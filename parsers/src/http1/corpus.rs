//! The collection of requests in `corpus/http1-smuggling.tsv`, each with what must become of it.

#[path = "../../corpus/escapes.rs"]
mod escapes;

use super::{BodyLength, ChunkProgress, ChunkedFollower, HeadError, Limits, parse_head};
use escapes::unescape;
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
