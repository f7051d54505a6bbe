//! What is told of questions and answers.

use crate::record::{DnsAnswer, DnsRecord};
use seventh_parsers::dns::{Head, Message, Name, Question, RecordData, type_name};
use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Header in front of questions that are kept without one: one of them follows.
const ONE_QUESTION: [u8; 12] = [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];

/// A question.
pub(super) fn question(question: &Question<'_>) -> DnsRecord {
    DnsRecord {
        query: text(&question.name),
        query_type: type_text(question.query_type),
        answer: None,
    }
}

/// An answer by its first question, if it repeats one. `whole` is the same message, if it could be read to its end.
pub(super) fn answer(head: &Head<'_>, whole: Option<&Message<'_>>) -> DnsRecord {
    DnsRecord {
        answer: Some(content(head, whole)),
        ..head
            .questions()
            .next()
            .map_or_else(DnsRecord::default, |first| question(&first))
    }
}

/// An answer by each of its questions; by the first of those that were asked (`asked`, without a header) if it repeats
/// none.
pub(super) fn answers(
    head: &Head<'_>,
    whole: Option<&Message<'_>>,
    asked: &[u8],
    latency_ns: u64,
) -> impl Iterator<Item = DnsRecord> {
    let mut records: Vec<_> = head.questions().map(|asked| question(&asked)).collect();
    if records.is_empty() {
        let asked = [&ONE_QUESTION, asked].concat();
        let first = Head::parse(&asked)
            .ok()
            .and_then(|head| head.questions().next().map(|q| question(&q)));
        records.extend(first);
    }
    let answer = DnsAnswer {
        latency_ns,
        ..content(head, whole)
    };
    records.into_iter().map(move |question| DnsRecord {
        answer: Some(answer.clone()),
        ..question
    })
}

fn content(head: &Head<'_>, whole: Option<&Message<'_>>) -> DnsAnswer {
    let mut answer = DnsAnswer {
        rcode: head.header().rcode(),
        ..DnsAnswer::default()
    };
    let mut ttl_s = None;
    for record in whole.into_iter().flat_map(Message::answers) {
        ttl_s = Some(ttl_s.map_or(record.ttl_s(), |shortest: u32| shortest.min(record.ttl_s())));
        match record.data {
            RecordData::A(v4) => push(&mut answer.ips, IpAddr::V4(Ipv4Addr::from(v4))),
            RecordData::Aaaa(v6) => push(&mut answer.ips, IpAddr::V6(Ipv6Addr::from(v6))),
            RecordData::Cname(name) => push(&mut answer.cnames, text(&name)),
            RecordData::Service(_) | RecordData::Other => {}
        }
        let kind = type_text(record.record_type);
        if !answer.record_types.contains(&kind) {
            push(&mut answer.record_types, kind);
        }
    }
    answer.ttl_s = ttl_s.unwrap_or_default();
    answer
}

fn push<T>(list: &mut Vec<T>, entry: T) {
    if list.len() < DnsAnswer::LIST_MAX {
        list.push(entry);
    }
}

fn text(name: &Name<'_>) -> String {
    let mut text = String::new();
    name.write(&mut text);
    text
}

fn type_text(number: u16) -> Cow<'static, str> {
    type_name(number).map_or_else(|| Cow::Owned(format!("TYPE{number}")), Cow::Borrowed)
}
