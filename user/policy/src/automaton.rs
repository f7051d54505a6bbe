//! Patterns as finished automata: one step per byte of text, whatever the text is.
//!
//! Automata that are built while matching are faster to make, but a text can be chosen that makes them build on and
//! on, and the fallback costs (pattern × text). Here everything is built beforehand; a pattern whose automaton does not
//! fit its bound is refused when the document is read.

use std::collections::HashSet;

use regex_automata::dfa::{Automaton, StartKind, dense, sparse};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::util::primitives::StateID;
use regex_automata::util::{start, syntax};
use regex_automata::{Anchored, MatchKind};

/// Bytes of the automaton of one pattern at most.
pub const AUTOMATON_BYTES_MAX: usize = 512 << 10;
/// Bytes that building it may use besides. This is what bounds the time as well: about 0.1 s.
const AUTOMATON_BUILD_BYTES_MAX: usize = 2 << 20;
/// Bytes of the common automaton of all patterns of one field of a rule set at most.
const COMMON_BYTES_MAX: usize = 1 << 20;
/// Bytes that building it may use besides.
const COMMON_BUILD_BYTES_MAX: usize = 512 << 10;
/// From so many patterns on, one pass through a common automaton is worth more than its size: it is built and then packed, to
/// about a fifteenth and for two to four times as long a step.
const PACKED_FROM: usize = 32;
/// It may be as large as the automata of each together, and building it may use as much besides: patterns that have little to do with
/// each other keep within that, and of others nobody waits for a product that explodes. Those keep an automaton each.
const UNPACKED_BYTES_MAX: usize = 64 << 20;
/// Bytes of the automata of one field of a rule set, and of all patterns of one document, at most.
pub const AUTOMATA_BYTES_MAX: usize = 32 << 20;
/// Nesting of one pattern's syntax at most.
pub(crate) const NEST_MAX: u32 = 100;

type Dfa = dense::DFA<Vec<u32>>;
type PackedDfa = sparse::DFA<Vec<u8>>;

/// Patterns, each of which must match the whole text.
#[derive(Debug)]
pub(crate) enum Patterns {
    /// One automaton that knows them all.
    Common(Box<Dfa>),
    /// The same in less space.
    Packed(Box<PackedDfa>),
    /// One for each.
    Each(Vec<Dfa>),
}

/// What a text comes to.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// The state in which the common automaton ended, if it is one of a match.
    Common(&'a Dfa, Option<StateID>),
    /// The patterns that match by a packed one, a bit each: to ask it costs more.
    Packed(Box<[u64]>),
    /// Each automaton is asked when somebody wants to know.
    Each(&'a [Dfa], &'a str),
    /// No pattern matches.
    Nothing,
}

impl Patterns {
    /// # Errors
    /// A pattern cannot be compiled, or all of them together take more than [`AUTOMATA_BYTES_MAX`].
    pub(crate) fn new(patterns: &[&str]) -> Result<Self, String> {
        if patterns.is_empty() {
            return Ok(Self::Each(Vec::new()));
        }
        if let Ok(common) = build(patterns, COMMON_BYTES_MAX, COMMON_BUILD_BYTES_MAX) {
            return Ok(Self::Common(Box::new(common)));
        }
        let mut bytes = 0;
        let mut each = Vec::new();
        for pattern in patterns {
            let automaton = build(&[pattern], AUTOMATON_BYTES_MAX, AUTOMATON_BUILD_BYTES_MAX)?;
            bytes += automaton.memory_usage();
            if bytes <= AUTOMATA_BYTES_MAX {
                each.push(automaton);
            } else {
                each = Vec::new();
            }
            if bytes > UNPACKED_BYTES_MAX {
                break;
            }
        }
        if let Some(packed) = packed(patterns, bytes) {
            return Ok(Self::Packed(Box::new(packed)));
        }
        if bytes > AUTOMATA_BYTES_MAX {
            return Err(format!(
                "the patterns of these rules need more than {AUTOMATA_BYTES_MAX} bytes together"
            ));
        }
        Ok(Self::Each(each))
    }

    /// Reads the text. Text that is not ASCII matches nothing.
    pub(crate) fn read<'a>(&'a self, text: &'a str) -> Found<'a> {
        if !text.is_ascii() {
            return Found::Nothing;
        }
        match self {
            Patterns::Common(automaton) => Found::Common(automaton, run(&**automaton, text)),
            Patterns::Packed(automaton) => match run(&**automaton, text) {
                Some(state) => Found::Packed(all_of(automaton, state)),
                None => Found::Nothing,
            },
            Patterns::Each(automata) => Found::Each(automata, text),
        }
    }
}

/// An automaton that is followed byte by byte.
pub(crate) enum Stepper<'a> {
    /// No pattern: no text matches anything.
    Nothing,
    Common(&'a Dfa),
}

impl Patterns {
    /// For following a text; `None` if the patterns have no automaton in common that can be followed fast.
    pub(crate) fn stepper(&self) -> Option<Stepper<'_>> {
        match self {
            Patterns::Common(automaton) => Some(Stepper::Common(automaton)),
            Patterns::Packed(_) => None,
            Patterns::Each(automata) => automata.is_empty().then_some(Stepper::Nothing),
        }
    }
}

impl Stepper<'_> {
    /// The state before the first byte.
    pub(crate) fn start(&self) -> Option<StateID> {
        match self {
            Stepper::Nothing => Some(StateID::ZERO),
            Stepper::Common(automaton) => {
                let start = start::Config::new().anchored(Anchored::Yes);
                automaton.start_state(&start).ok()
            }
        }
    }

    /// The state behind a byte; `None` where the automaton gives up.
    pub(crate) fn next(&self, state: StateID, byte: u8) -> Option<StateID> {
        match self {
            Stepper::Nothing => Some(state),
            Stepper::Common(automaton) => {
                let next = automaton.next_state(state, byte);
                (!automaton.is_quit_state(next)).then_some(next)
            }
        }
    }

    /// The patterns that match a text which ends in this state.
    pub(crate) fn matching_at_end(&self, state: StateID) -> impl Iterator<Item = usize> {
        let automaton = match self {
            Stepper::Nothing => None,
            Stepper::Common(automaton) => Some(automaton),
        };
        let end = automaton.map(|automaton| (automaton, automaton.next_eoi_state(state)));
        let end = end.filter(|(automaton, end)| automaton.is_match_state(*end));
        end.into_iter().flat_map(|(automaton, end)| {
            (0..automaton.match_len(end)).map(move |i| automaton.match_pattern(end, i).as_usize())
        })
    }
}

impl Found<'_> {
    /// Whether the pattern with this index matches.
    pub(crate) fn has(&self, pattern: usize) -> bool {
        match self {
            Found::Common(automaton, Some(state)) => {
                let mut matching = (0..automaton.match_len(*state)).map(|i| automaton.match_pattern(*state, i));
                matching.any(|id| id.as_usize() == pattern)
            }
            Found::Packed(matching) => {
                let word = matching.get(pattern / 64);
                word.is_some_and(|word| word >> (pattern % 64) & 1 == 1)
            }
            Found::Each(automata, text) => automata
                .get(pattern)
                .is_some_and(|automaton| run(automaton, text).is_some()),
            Found::Common(_, None) | Found::Nothing => false,
        }
    }
}

/// The automaton of one pattern, while the document that holds it is checked.
#[derive(Debug)]
pub(crate) struct Examined(Dfa);

impl Examined {
    /// # Errors
    /// The reason why it has none.
    pub(crate) fn new(pattern: &str) -> Result<Self, String> {
        build(&[pattern], AUTOMATON_BYTES_MAX, AUTOMATON_BUILD_BYTES_MAX).map(Self)
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> usize {
        self.0.memory_usage()
    }

    /// Whether it matches any text whose first byte and further bytes are among these. Every state is looked at once at
    /// most, so the automaton's bound is that of the time.
    pub(crate) fn matches_some(&self, first: impl Fn(u8) -> bool, further: impl Fn(u8) -> bool) -> bool {
        let start = start::Config::new().anchored(Anchored::Yes);
        let Ok(start) = self.0.start_state(&start) else {
            return true;
        };
        let mut seen = HashSet::new();
        let mut waiting: Vec<StateID> = self.steps(start, first).filter(|state| seen.insert(*state)).collect();
        while let Some(state) = waiting.pop() {
            if self.0.is_match_state(self.0.next_eoi_state(state)) {
                return true;
            }
            waiting.extend(self.steps(state, &further).filter(|state| seen.insert(*state)));
        }
        false
    }

    fn steps(&self, from: StateID, allowed: impl Fn(u8) -> bool) -> impl Iterator<Item = StateID> {
        let bytes = (0..=u8::MAX).filter(move |byte| allowed(*byte));
        bytes
            .map(move |byte| self.0.next_state(from, byte))
            .filter(|state| !self.0.is_dead_state(*state))
    }
}

/// The patterns of which this is a state of a match, a bit each.
fn all_of(automaton: &PackedDfa, state: StateID) -> Box<[u64]> {
    let mut bits = vec![0; automaton.pattern_len().div_ceil(64)];
    for i in 0..automaton.match_len(state) {
        let pattern = automaton.match_pattern(state, i).as_usize();
        if let Some(word) = bits.get_mut(pattern / 64) {
            *word |= 1_u64 << (pattern % 64);
        }
    }
    bits.into()
}

/// The state of a match in which the automaton ends, if it does.
fn run(automaton: &impl Automaton, text: &str) -> Option<StateID> {
    let start = start::Config::new().anchored(Anchored::Yes);
    let mut state = automaton.start_state(&start).ok()?;
    for byte in text.bytes() {
        state = automaton.next_state(state, byte);
        if automaton.is_dead_state(state) {
            return None;
        }
    }
    let end = automaton.next_eoi_state(state);
    automaton.is_match_state(end).then_some(end)
}

/// The common automaton of many patterns whose own are so large together, if it keeps within its bounds.
fn packed(patterns: &[&str], bytes: usize) -> Option<PackedDfa> {
    if patterns.len() < PACKED_FROM || bytes > UNPACKED_BYTES_MAX {
        return None;
    }
    let unpacked = build(patterns, bytes, bytes).ok()?;
    let packed = unpacked.to_sparse().ok()?;
    (packed.memory_usage() <= AUTOMATA_BYTES_MAX).then_some(packed)
}

/// Compiles `\A(?:pattern)\z` for each. Classes mean ASCII unless a pattern can only be read with Unicode tables; for
/// ASCII text the two readings are the same.
fn build(patterns: &[&str], bytes_max: usize, build_bytes_max: usize) -> Result<Dfa, String> {
    let ascii = syntax::Config::new()
        .unicode(false)
        .utf8(false)
        .nest_limit(NEST_MAX + 2);
    let mut trees = Vec::with_capacity(patterns.len());
    for pattern in patterns {
        let whole = format!("\\A(?:{pattern})\\z");
        let tree = match syntax::parse_with(&whole, &ascii) {
            Ok(tree) => tree,
            Err(_) => syntax::parse_with(&whole, &ascii.unicode(true))
                .map_err(|e| format!("not a regular expression: {e}"))?,
        };
        trees.push(tree);
    }
    let too_large = || format!("the regular expression needs an automaton of more than {bytes_max} bytes; simplify it");
    let nfa = thompson::Config::new()
        .utf8(false)
        .which_captures(WhichCaptures::None)
        .nfa_size_limit(Some(build_bytes_max));
    let nfa = thompson::Compiler::new()
        .configure(nfa)
        .build_many_from_hir(&trees)
        .map_err(|error| {
            if error.size_limit().is_some() {
                too_large()
            } else {
                format!("not a regular expression: {error}")
            }
        })?;
    let config = dense::Config::new()
        .start_kind(StartKind::Anchored)
        .match_kind(MatchKind::All)
        .dfa_size_limit(Some(bytes_max))
        .determinize_size_limit(Some(build_bytes_max));
    dense::Builder::new()
        .configure(config)
        .build_from_nfa(&nfa)
        .map_err(|error| {
            if error.is_size_limit_exceeded() {
                too_large()
            } else {
                format!("not a regular expression: {error}")
            }
        })
}
