//! What an answer teaches.

use ahash::AHashMap as HashMap;
use seventh_abi::{Addr, mapped_v4};
use seventh_parsers::dns::{CLASS_IN, Message, Name, Question, RecordData};

/// CNAME records that are followed from one question; resolvers stop earlier.
pub(crate) const CHAIN_MAX: usize = 16;
/// Addresses that are taken from one answer. Over TCP an answer can hold 4000.
pub(crate) const LESSON_ADDRESSES_MAX: usize = 1024;
/// Names that are credited by one answer: the chains of all its questions together. Nobody asks more than one question
/// (RFC 9619), and each chain but the first is short.
pub(crate) const LESSON_NAMES_MAX: usize = 2 * CHAIN_MAX;

/// Names and the addresses that they lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lesson {
    /// Names in normal form, each with the seconds for which its way to the addresses holds.
    pub(crate) names: Vec<(String, u32)>,
    /// Addresses (IPv4 mapped), each with the seconds for which it holds. In ascending order, each once.
    pub(crate) addresses: Vec<(Addr, u32)>,
}

/// The answer section by owner: read once, however many questions and links lead through it.
///
/// The work is bounded by the message's length: each owner's name is written out once (a name has 255 bytes at most), and
/// of all answers [`LESSON_ADDRESSES_MAX`] addresses count, for all questions together.
#[derive(Debug)]
pub(crate) struct Answers<'a> {
    owners: HashMap<String, Owner<'a>>,
}

/// What is said of one name.
#[derive(Debug, Default)]
struct Owner<'a> {
    addresses: Vec<(Addr, u32)>,
    /// Where its first CNAME record leads, and the seconds for which that holds.
    alias: Option<(Name<'a>, u32)>,
}

impl<'a> Answers<'a> {
    /// Reads the answer section.
    pub(crate) fn of(message: &Message<'a>) -> Self {
        let mut owners: HashMap<String, Owner<'a>> = HashMap::new();
        let mut left = LESSON_ADDRESSES_MAX;
        let mut name = String::new();
        for record in message.answers() {
            if matches!(record.data, RecordData::Other) {
                continue;
            }
            name.clear();
            record.name.write(&mut name);
            if !owners.contains_key(&name) {
                owners.insert(name.clone(), Owner::default());
            }
            let Some(owner) = owners.get_mut(&name) else { continue };
            let ttl_s = record.ttl_s();
            let mut address = |addr| {
                if left > 0 {
                    left -= 1;
                    owner.addresses.push((addr, ttl_s));
                }
            };
            match record.data {
                RecordData::A(v4) => address(mapped_v4(v4)),
                RecordData::Aaaa(v6) => address(v6),
                RecordData::Service(service) => {
                    service.ipv4_hints().for_each(|v4| address(mapped_v4(v4)));
                    service.ipv6_hints().for_each(&mut address);
                }
                RecordData::Cname(target) => {
                    owner.alias.get_or_insert((target, ttl_s));
                }
                RecordData::Other => {}
            }
        }
        for owner in owners.values_mut() {
            // Of an address that comes twice the longer time counts.
            owner
                .addresses
                .sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
            owner.addresses.dedup_by_key(|(addr, _)| *addr);
        }
        Self { owners }
    }

    /// What the section says to one of the message's questions: the addresses of the name at the end of the chain of
    /// CNAME records that begins at the question, credited to every name of the chain. An address of a name that is not
    /// on the chain teaches nothing; a chain that does not end in an address here teaches nothing. Hints of SVCB and
    /// HTTPS records are addresses of the name that owns the record (RFC 9460 §7.3).
    pub(crate) fn lesson(&self, question: &Question<'_>) -> Lesson {
        let mut lesson = Lesson::default();
        if question.class != CLASS_IN {
            return lesson;
        }
        let mut name = text(&question.name);
        let mut links = Vec::new();
        for _ in 0..=CHAIN_MAX {
            let Some(owner) = self.owners.get(&name) else { break };
            if !owner.addresses.is_empty() {
                lesson.addresses.clone_from(&owner.addresses);
                lesson.credit(links, name);
                return lesson;
            }
            let Some((target, ttl_s)) = &owner.alias else { break };
            links.push((std::mem::replace(&mut name, text(target)), *ttl_s));
        }
        lesson
    }
}

impl Lesson {
    pub(crate) fn is_empty(&self) -> bool {
        self.names.is_empty() || self.addresses.is_empty()
    }

    /// A name holds as long as each link between it and the addresses does.
    fn credit(&mut self, links: Vec<(String, u32)>, last: String) {
        let mut holds_s = u32::MAX;
        self.names.push((last, holds_s));
        for (name, ttl_s) in links.into_iter().rev() {
            holds_s = holds_s.min(ttl_s);
            self.names.push((name, holds_s));
        }
    }
}

fn text(name: &Name<'_>) -> String {
    let mut text = String::new();
    name.write(&mut text);
    text
}
