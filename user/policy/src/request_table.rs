//! HTTP rules as automata that the kernel walks through, for requests that it can judge by itself.
//!
//! What the kernel allows, the engine must allow for the same rule, so the texts that it takes are narrower than HTTP:
//! the usual methods without CONNECT, a path in origin-form that is in normal form as it stands, HTTP/1.1, one Host that
//! is a name or an IPv4 address, and headers none of which says anything about a body or another protocol. Every
//! automaton is the product of the rules' own with such a grammar. A rule set of which that cannot be made, or that asks
//! for headers, has none, and the engine judges all of its requests.

use std::collections::HashMap;

use regex_automata::util::primitives::StateID;
use seventh_abi::{
    REQUEST_BYTES, REQUEST_LEN_MAX, REQUEST_LINES_MAX, REQUEST_RULES_MAX, RequestRules, RequestState, RequestStep,
    RequestWalk,
};

use crate::automaton::{Patterns, Stepper};
use crate::http::HttpRuleSet;

/// States of one rule set at most.
const STATES_MAX: usize = 4096;
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];
/// What the kernel leaves to the engine: headers that frame a body or ask for another protocol.
const REFUSED_HEADERS: [&str; 4] = ["content-length", "transfer-encoding", "upgrade", "expect"];
const HOST: &str = "host";

/// The automata of one rule set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestTable {
    states: Vec<RequestState>,
    /// `method`, `path` and `host` count from the table's beginning.
    rules: RequestRules,
}

/// What a head may hold at most.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    /// Bytes of a head.
    pub len_max: usize,
    /// Header lines.
    pub lines_max: usize,
}

impl RequestTable {
    /// The automata of these rules, if they have any that the kernel can walk through.
    #[must_use]
    pub fn new(rules: &HttpRuleSet, limits: RequestLimits) -> Option<Self> {
        if !rules.headers_read().is_empty() || !(1..=REQUEST_RULES_MAX).contains(&rules.len()) {
            return None;
        }
        let mut states = Vec::new();
        let [methods, paths, hosts] = rules.fields();
        let grammar = Grammar::new();
        Some(Self {
            rules: RequestRules {
                method: product(
                    &mut states,
                    &Field::new(&methods),
                    &Methods::new(),
                    RequestStep::METHOD_END,
                )?,
                path: product(&mut states, &Field::new(&paths), &Path, RequestStep::PATH_END)?,
                host: product(&mut states, &Field::new(&hosts), &Host, RequestStep::HOST_END)?,
                len_max: u16::try_from(limits.len_max.min(REQUEST_LEN_MAX)).ok()?,
                lines_max: u16::try_from(limits.lines_max)
                    .unwrap_or(u16::MAX)
                    .min(REQUEST_LINES_MAX),
                ..grammar.rules
            },
            states,
        })
    }

    /// Its states. They count from its beginning, except for those behind which [`request_grammar`] goes on.
    #[must_use]
    pub fn states(&self) -> &[RequestState] {
        &self.states
    }

    /// Where it begins, and what a head may hold.
    #[must_use]
    pub fn rules(&self) -> &RequestRules {
        &self.rules
    }

    /// The whole of what the kernel walks through.
    #[must_use]
    pub fn walker(&self) -> Option<RequestWalker> {
        let mut states = request_grammar();
        let first = u16::try_from(states.len()).ok()?;
        states.extend(self.states.iter().map(|state| state.moved(first)));
        let rules = self.rules.moved(first);
        (states.len() < usize::from(RequestStep::FIRST)).then_some(RequestWalker { states, rules })
    }
}

/// The kernel's table with one rule set in it, for those who want to know what the kernel would say.
#[derive(Clone, Debug)]
pub struct RequestWalker {
    states: Vec<RequestState>,
    rules: RequestRules,
}

impl RequestWalker {
    /// The rule that allows these bytes, if they are one whole request that the kernel judges.
    #[must_use]
    pub fn judge(&self, bytes: &[u8]) -> Option<u32> {
        if bytes.len() > usize::from(self.rules.len_max) {
            return None;
        }
        let mut walk = RequestWalk::begin(&self.rules);
        for (place, byte) in (0_u16..).zip(bytes) {
            let state = self.states.get(usize::from(walk.state))?;
            let next = state.after(*byte);
            if next < RequestStep::FIRST {
                walk.state = next;
            } else if !walk.turn(&self.rules, state.rules, next, place) {
                let is_last = usize::from(place) + 1 == bytes.len();
                return walk.allowed_by().filter(|_| is_last);
            }
        }
        None
    }
}

/// States of what stands between method, path and host, the same for all rule sets: they come first in the kernel's table.
#[must_use]
pub fn request_grammar() -> Vec<RequestState> {
    Grammar::new().states
}

const REFUSED: RequestState = RequestState {
    next: [RequestStep::REFUSE; REQUEST_BYTES],
    rules: 0,
};

/// What the rules say of one field: which of them ask nothing of it, and which ask for a pattern.
pub(crate) struct FieldRules<'a> {
    pub(crate) patterns: &'a Patterns,
    /// The pattern of each rule.
    pub(crate) wanted: Vec<Option<usize>>,
}

struct Field<'a> {
    stepper: Option<Stepper<'a>>,
    /// Rules that any text fulfils.
    always: u64,
    /// Rules that a text fulfils which matches the pattern with this index.
    by_pattern: HashMap<usize, u64>,
}

impl<'a> Field<'a> {
    fn new(field: &FieldRules<'a>) -> Self {
        let (mut always, mut by_pattern) = (0, HashMap::<usize, u64>::new());
        for (rule, wanted) in field.wanted.iter().enumerate() {
            match wanted {
                None => always |= 1 << rule,
                Some(pattern) => *by_pattern.entry(*pattern).or_default() |= 1 << rule,
            }
        }
        Self {
            stepper: field.patterns.stepper(),
            always,
            by_pattern,
        }
    }

    fn fulfilled(&self, stepper: &Stepper<'_>, state: StateID) -> u64 {
        let matching = stepper.matching_at_end(state);
        matching.fold(self.always, |all, pattern| {
            all | self.by_pattern.get(&pattern).copied().unwrap_or_default()
        })
    }
}

/// Which texts the kernel takes for a field. States are small numbers; 0 is the first.
trait Texts {
    /// Where a byte leads.
    fn next(&self, state: u8, byte: u8) -> Option<u8>;
    /// Whether a text may end here.
    fn may_end(&self, state: u8) -> bool;
    /// The byte behind the text.
    fn end(&self) -> u8;
    /// Whether this byte stands before the text.
    fn is_skipped(&self, _state: u8, _byte: u8) -> bool {
        false
    }
}

/// Adds the states of the rules' automaton and the grammar side by side; says which is the first.
fn product(states: &mut Vec<RequestState>, field: &Field<'_>, texts: &dyn Texts, end: u16) -> Option<u16> {
    let stepper = field.stepper.as_ref()?;
    let first = u16::try_from(states.len()).ok()?;
    let mut numbers = HashMap::new();
    let mut waiting = vec![(stepper.start()?, 0)];
    numbers.insert((stepper.start()?, 0), first);
    states.push(REFUSED);
    while let Some((state, place)) = waiting.pop() {
        let number = *numbers.get(&(state, place))?;
        let mut row = REFUSED;
        row.rules = field.fulfilled(stepper, state);
        for byte in 0..128 {
            let slot = row.next.get_mut(usize::from(byte))?;
            let to = match texts.next(place, byte) {
                _ if byte == texts.end() && texts.may_end(place) => {
                    *slot = end;
                    continue;
                }
                _ if texts.is_skipped(place, byte) => (state, place),
                Some(next) => (stepper.next(state, byte)?, next),
                None => continue,
            };
            *slot = match numbers.get(&to) {
                Some(number) => *number,
                None => {
                    let number = u16::try_from(states.len()).ok().filter(|_| states.len() < STATES_MAX)?;
                    states.push(REFUSED);
                    numbers.insert(to, number);
                    waiting.push(to);
                    number
                }
            };
        }
        *states.get_mut(usize::from(number))? = row;
    }
    Some(first)
}

/// The beginnings of [`METHODS`], in order.
struct Methods(Vec<&'static str>);

impl Methods {
    fn new() -> Self {
        let mut beginnings: Vec<&str> = METHODS
            .iter()
            .flat_map(|method| (0..=method.len()).filter_map(|len| method.get(..len)))
            .collect();
        beginnings.sort_unstable();
        beginnings.dedup();
        Self(beginnings)
    }

    fn text(&self, state: u8) -> &'static str {
        self.0.get(usize::from(state)).copied().unwrap_or_default()
    }
}

impl Texts for Methods {
    fn next(&self, state: u8, byte: u8) -> Option<u8> {
        let text = format!("{}{}", self.text(state), char::from(byte));
        let index = self.0.binary_search(&text.as_str()).ok()?;
        u8::try_from(index).ok()
    }

    fn may_end(&self, state: u8) -> bool {
        METHODS.contains(&self.text(state))
    }

    fn end(&self) -> u8 {
        b' '
    }
}

/// Paths that are in normal form and need no decoding: no empty segment, none that begins with a dot, no escape (RFC 3986
/// §6.2.2). A query is taken as it is.
struct Path;

impl Path {
    const START: u8 = 0;
    const SEGMENT_START: u8 = 1;
    const SEGMENT: u8 = 2;
    const QUERY: u8 = 3;
}

impl Texts for Path {
    fn next(&self, state: u8, byte: u8) -> Option<u8> {
        let is_unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        match (state, byte) {
            (Self::START | Self::SEGMENT, b'/') => Some(Self::SEGMENT_START),
            (Self::SEGMENT_START, b'.') => None,
            (Self::SEGMENT_START | Self::SEGMENT, b'?') => Some(Self::QUERY),
            (Self::SEGMENT_START | Self::SEGMENT, _) if is_unreserved || b"!$&'()*+,;=:@".contains(&byte) => {
                Some(Self::SEGMENT)
            }
            (Self::QUERY, 0x21..=0x7e) if byte != b'#' => Some(Self::QUERY),
            _ => None,
        }
    }

    fn may_end(&self, state: u8) -> bool {
        state != Self::START
    }

    fn end(&self) -> u8 {
        b' '
    }
}

/// `name[:port]`, where no reader could take one for something else (RFC 9110 §7.2). Spaces before it do not belong to it.
struct Host;

impl Host {
    const START: u8 = 0;
    const NAME: u8 = 1;
    const DOT: u8 = 2;
    const COLON: u8 = 3;
    /// So many digits of a port that begins with one of 1 to 5: up to five are no more than 65 535.
    const LOW_PORT: u8 = 10;
    /// The same of one that begins with one of 6 to 9: up to four.
    const HIGH_PORT: u8 = 20;
}

impl Texts for Host {
    fn next(&self, state: u8, byte: u8) -> Option<u8> {
        let is_digit = byte.is_ascii_digit();
        match state {
            Self::START | Self::NAME | Self::DOT if byte.is_ascii_alphanumeric() || b"-_".contains(&byte) => {
                Some(Self::NAME)
            }
            Self::NAME if byte == b'.' => Some(Self::DOT),
            Self::NAME | Self::DOT if byte == b':' => Some(Self::COLON),
            Self::COLON if (b'1'..=b'5').contains(&byte) => Some(Self::LOW_PORT + 1),
            Self::COLON if (b'6'..=b'9').contains(&byte) => Some(Self::HIGH_PORT + 1),
            11..=14 | 21..=23 if is_digit => Some(state + 1),
            _ => None,
        }
    }

    fn may_end(&self, state: u8) -> bool {
        !matches!(state, Self::START | Self::COLON)
    }

    fn end(&self) -> u8 {
        b'\r'
    }

    fn is_skipped(&self, state: u8, byte: u8) -> bool {
        state == Self::START && byte == b' '
    }
}

/// The states that are the same for all rule sets.
struct Grammar {
    states: Vec<RequestState>,
    rules: RequestRules,
}

impl Grammar {
    fn new() -> Self {
        let mut grammar = Self {
            states: Vec::new(),
            rules: RequestRules::default(),
        };
        let value = grammar.value();
        let name = grammar.add();
        grammar.lead(name, is_name, name);
        grammar.lead(name, |byte| byte == b':', value);
        grammar.rules.line = grammar.line(name, value, RequestStep::HOST_BEGIN, RequestStep::REFUSE);
        let end = grammar.word(b"\n", RequestStep::HEAD_END);
        grammar.rules.later_line = grammar.line(name, value, RequestStep::REFUSE, end);
        grammar.rules.host_line_end = grammar.word(b"\n", RequestStep::LINE_END);
        grammar.rules.version = grammar.word(b"HTTP/1.1\r\n", grammar.rules.line);
        grammar
    }

    fn add(&mut self) -> u16 {
        self.states.push(REFUSED);
        u16::try_from(self.states.len() - 1).unwrap_or(RequestStep::REFUSE)
    }

    fn lead(&mut self, from: u16, bytes: impl Fn(u8) -> bool, to: u16) {
        let Some(state) = self.states.get_mut(usize::from(from)) else {
            return;
        };
        for (byte, next) in (0_u8..).zip(&mut state.next) {
            if bytes(byte) {
                *next = to;
            }
        }
    }

    /// States that take exactly these bytes and lead on; the first of them.
    fn word(&mut self, bytes: &[u8], to: u16) -> u16 {
        bytes.iter().rev().fold(to, |next, wanted| {
            let state = self.add();
            self.lead(state, |byte| byte == *wanted, next);
            state
        })
    }

    /// A header's value, its end included: visible ASCII, space and tab. The other bytes that HTTP allows are the engine's.
    fn value(&mut self) -> u16 {
        let line_end = self.word(b"\n", RequestStep::LINE_END);
        let value = self.add();
        self.lead(value, |byte| byte == b'\t' || (0x20..0x7f).contains(&byte), value);
        self.lead(value, |byte| byte == b'\r', line_end);
        value
    }

    /// A header line from its beginning, or what ends the head in its place.
    fn line(&mut self, name: u16, value: u16, behind_host: u16, behind_end: u16) -> u16 {
        let mut nodes = HashMap::new();
        let special = REFUSED_HEADERS.map(|header| (header, RequestStep::REFUSE));
        let first = self.name_node(&mut nodes, "", name, value);
        self.lead(first, |byte| byte == b':', RequestStep::REFUSE);
        self.lead(first, |byte| byte == b'\r', behind_end);
        for (header, behind) in special.into_iter().chain([(HOST, behind_host)]) {
            let mut node = first;
            for (index, letter) in header.bytes().enumerate() {
                let beginning = header.get(..=index).unwrap_or_default();
                let next = self.name_node(&mut nodes, beginning, name, value);
                self.lead(node, |byte| byte.eq_ignore_ascii_case(&letter), next);
                node = next;
            }
            self.lead(node, |byte| byte == b':', behind);
        }
        first
    }

    /// The state behind this beginning of a name, which is still like one of those that mean something.
    fn name_node(&mut self, nodes: &mut HashMap<String, u16>, beginning: &str, name: u16, value: u16) -> u16 {
        if let Some(node) = nodes.get(beginning) {
            return *node;
        }
        let node = self.add();
        self.lead(node, is_name, name);
        self.lead(node, |byte| byte == b':', value);
        nodes.insert(beginning.to_owned(), node);
        node
    }
}

/// A token's byte (RFC 9110 §5.6.2) that nobody takes for another: gateways confuse `_` with `-`.
fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^`|~".contains(&byte)
}
