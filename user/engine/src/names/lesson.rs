//! What an answer teaches.

use seventh_abi::{Addr, mapped_v4};
use seventh_parsers::dns::{CLASS_IN, Message, Name, Question, RecordData};

/// CNAME records that are followed from one question; resolvers stop earlier.
pub(crate) const CHAIN_MAX: usize = 16;
/// Addresses that are taken from one answer. Over TCP an answer can hold 4000.
pub(crate) const LESSON_ADDRESSES_MAX: usize = 1024;

/// Names and the addresses that they lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lesson {
    /// Names in normal form, each with the seconds for which its way to the addresses holds.
    pub(crate) names: Vec<(String, u32)>,
    /// Addresses (IPv4 mapped), each with the seconds for which it holds.
    pub(crate) addresses: Vec<(Addr, u32)>,
}

impl Lesson {
    /// What the answer section says to one of its questions: the addresses of the name at the end of the chain of CNAME
    /// records that begins at the question, credited to every name of the chain. An address of a name that is not on
    /// the chain teaches nothing; a chain that does not end in an address here teaches nothing. Hints of SVCB and HTTPS
    /// records are addresses of the name that owns the record (RFC 9460 §7.3).
    pub(crate) fn of(message: &Message<'_>, question: &Question<'_>) -> Self {
        let mut lesson = Self::default();
        if question.class != CLASS_IN {
            return lesson;
        }
        let mut name = question.name;
        let mut links = Vec::new();
        for _ in 0..=CHAIN_MAX {
            lesson.addresses_of(message, &name);
            if !lesson.addresses.is_empty() {
                lesson.credit(&links, &name);
                return lesson;
            }
            let Some((target, ttl_s)) = alias(message, &name) else {
                break;
            };
            links.push((name, ttl_s));
            name = target;
        }
        lesson
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.names.is_empty() || self.addresses.is_empty()
    }

    fn addresses_of(&mut self, message: &Message<'_>, owner: &Name<'_>) {
        for record in message.answers().filter(|record| record.name.is(owner)) {
            let ttl_s = record.ttl_s();
            match record.data {
                RecordData::A(v4) => self.address(mapped_v4(v4), ttl_s),
                RecordData::Aaaa(v6) => self.address(v6, ttl_s),
                RecordData::Service(service) => {
                    for v4 in service.ipv4_hints() {
                        self.address(mapped_v4(v4), ttl_s);
                    }
                    for v6 in service.ipv6_hints() {
                        self.address(v6, ttl_s);
                    }
                }
                RecordData::Cname(_) | RecordData::Other => {}
            }
        }
    }

    fn address(&mut self, addr: Addr, ttl_s: u32) {
        if self.addresses.len() < LESSON_ADDRESSES_MAX {
            self.addresses.push((addr, ttl_s));
        }
    }

    /// A name holds as long as each link between it and the addresses does.
    fn credit(&mut self, links: &[(Name<'_>, u32)], last: &Name<'_>) {
        let mut holds_s = u32::MAX;
        self.names.push((text(last), holds_s));
        for (name, ttl_s) in links.iter().rev() {
            holds_s = holds_s.min(*ttl_s);
            self.names.push((text(name), holds_s));
        }
    }
}

fn alias<'a>(message: &Message<'a>, owner: &Name<'_>) -> Option<(Name<'a>, u32)> {
    message.answers().find_map(|record| match record.data {
        RecordData::Cname(target) if record.name.is(owner) => Some((target, record.ttl_s())),
        _ => None,
    })
}

fn text(name: &Name<'_>) -> String {
    let mut text = String::new();
    name.write(&mut text);
    text
}
