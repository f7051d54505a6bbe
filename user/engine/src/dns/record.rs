//! What is told of questions and answers, in buffers that are used again: there are two records for each name that is
//! resolved.

use seventh_parsers::dns::{Head, Message, Question, RecordData, type_name};
use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Header in front of questions that are kept without one: one of them follows.
const ONE_QUESTION: [u8; 12] = [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];

/// One question, or an answer to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsRecord {
    /// The name that is asked for, and behind it those that it leads to.
    names: String,
    query_len: usize,
    query_type: Option<u16>,
    answer: Option<Outcome>,
    ips: Vec<IpAddr>,
    /// Where in `names` each name ends that the name leads to.
    cname_ends: Vec<usize>,
    record_types: Vec<u16>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Outcome {
    rcode: u8,
    ttl_s: u32,
    latency_ns: u64,
}

/// What a server answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsAnswer<'a> {
    record: &'a DnsRecord,
    outcome: Outcome,
}

impl DnsRecord {
    /// Entries of a list at most; the rest is cut off.
    pub const LIST_MAX: usize = 64;

    /// The name that is asked for, as policies compare it: lower case, with the final dot. Empty if it is not known.
    #[must_use]
    pub fn query(&self) -> &str {
        self.names.get(..self.query_len).unwrap_or_default()
    }

    /// Of which type, such as `AAAA`; empty if it is not known.
    #[must_use]
    pub fn query_type(&self) -> Cow<'static, str> {
        self.query_type.map_or_else(Cow::default, type_text)
    }

    /// What was answered; `None` for the question itself.
    #[must_use]
    pub fn answer(&self) -> Option<DnsAnswer<'_>> {
        self.answer.map(|outcome| DnsAnswer { record: self, outcome })
    }

    /// Becomes a question.
    pub(crate) fn set_question(&mut self, question: &Question<'_>) {
        self.clear();
        question.name.write(&mut self.names);
        self.query_len = self.names.len();
        self.query_type = Some(question.query_type);
    }

    /// Becomes the question that was asked (`asked`: without a header).
    pub(crate) fn set_asked(&mut self, asked: &[u8]) {
        self.clear();
        let asked = [&ONE_QUESTION, asked].concat();
        if let Some(first) = Head::parse(&asked)
            .ok()
            .as_ref()
            .and_then(|head| head.questions().next())
        {
            self.set_question(&first);
        }
    }

    /// The question becomes an answer. `whole` is the same message as `head`, if it could be read to its end.
    pub(crate) fn set_answer(&mut self, head: &Head<'_>, whole: Option<&Message<'_>>, latency_ns: u64) {
        let mut ttl_s = None;
        for record in whole.into_iter().flat_map(Message::answers) {
            ttl_s = Some(ttl_s.map_or(record.ttl_s(), |shortest: u32| shortest.min(record.ttl_s())));
            match record.data {
                RecordData::A(v4) => push(&mut self.ips, IpAddr::V4(Ipv4Addr::from(v4))),
                RecordData::Aaaa(v6) => push(&mut self.ips, IpAddr::V6(Ipv6Addr::from(v6))),
                RecordData::Cname(name) if self.cname_ends.len() < Self::LIST_MAX => {
                    name.write(&mut self.names);
                    self.cname_ends.push(self.names.len());
                }
                RecordData::Cname(_) | RecordData::Service(_) | RecordData::Other => {}
            }
            if !self.record_types.contains(&record.record_type) {
                push(&mut self.record_types, record.record_type);
            }
        }
        self.answer = Some(Outcome {
            rcode: head.header().rcode(),
            ttl_s: ttl_s.unwrap_or_default(),
            latency_ns,
        });
    }

    /// Bytes of memory behind it.
    pub(crate) const fn bytes(&self) -> usize {
        self.names.capacity()
            + self.ips.capacity() * size_of::<IpAddr>()
            + self.cname_ends.capacity() * size_of::<usize>()
            + self.record_types.capacity() * size_of::<u16>()
    }

    pub(crate) fn clear(&mut self) {
        self.names.clear();
        self.query_len = 0;
        self.query_type = None;
        self.answer = None;
        self.ips.clear();
        self.cname_ends.clear();
        self.record_types.clear();
    }
}

impl<'a> DnsAnswer<'a> {
    /// How it ended (RFC 1035 §4.1.1); without the bits that an OPT record adds.
    #[must_use]
    pub const fn rcode(&self) -> u8 {
        self.outcome.rcode
    }

    /// Addresses, in their order, at most [`DnsRecord::LIST_MAX`].
    #[must_use]
    pub fn ips(&self) -> &'a [IpAddr] {
        &self.record.ips
    }

    /// Names that the name leads to, likewise.
    pub fn cnames(&self) -> impl Iterator<Item = &'a str> {
        let record = self.record;
        let mut begin = record.query_len;
        record.cname_ends.iter().map(move |&end| {
            let name = record.names.get(begin..end).unwrap_or_default();
            begin = end;
            name
        })
    }

    /// Types of the records, each once, likewise.
    pub fn record_types(&self) -> impl Iterator<Item = Cow<'static, str>> + use<'a> {
        self.record.record_types.iter().map(|number| type_text(*number))
    }

    /// The shortest time for which one of the records holds, in seconds; 0 if there are none.
    #[must_use]
    pub const fn ttl_s(&self) -> u32 {
        self.outcome.ttl_s
    }

    /// From the question to the answer; 0 if the question is not known.
    #[must_use]
    pub const fn latency_ns(&self) -> u64 {
        self.outcome.latency_ns
    }
}

fn push<T>(list: &mut Vec<T>, entry: T) {
    if list.len() < DnsRecord::LIST_MAX {
        list.push(entry);
    }
}

fn type_text(number: u16) -> Cow<'static, str> {
    type_name(number).map_or_else(|| Cow::Owned(format!("TYPE{number}")), Cow::Borrowed)
}
