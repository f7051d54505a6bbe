//! Requests that the kernel judges by itself: the automata that it walks through, and what it tells of those that it let pass.

use std::{
    collections::{HashMap as StdHashMap, HashSet},
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError, RingBuf},
};
use seventh_abi::{
    ABI_VERSION, DatapathConfig, PassedRequest, REQUEST_RULE_SETS_MAX, REQUEST_STATES_MAX, RequestRules, RequestState,
    RequestStep, names,
};
use tracing::debug;

use crate::{DatapathError, maps};

/// States of a rule set that is gone are not written over for so long: a program that has begun to walk through them ends
/// within microseconds.
const GRACE: Duration = Duration::from_secs(2);

/// Where states lie in the kernel's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    first: u32,
    len: u32,
}

impl Block {
    /// How much later than at the beginning of the table it begins: every number of a state is below [`RequestStep::FIRST`].
    fn by(self) -> u16 {
        const _: () = assert!(REQUEST_STATES_MAX <= RequestStep::FIRST as u32);
        u16::try_from(self.first).unwrap_or(RequestStep::FIRST)
    }
}

/// Automata of a rule set, as if they stood at the beginning of the kernel's table.
#[derive(Clone, Copy, Debug)]
pub struct RequestAutomata<'a> {
    /// All states.
    pub states: &'a [RequestState],
    /// Where they begin, and what a head may hold.
    pub rules: RequestRules,
}

/// Where the kernel's automata are to lie.
pub(crate) struct RequestMaps {
    rules: HashMap<MapData, u32, RequestRules>,
    states: Array<MapData, RequestState>,
}

impl RequestMaps {
    pub(crate) fn take(object: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            rules: maps::take(object, names::REQUEST_RULES)?,
            states: maps::take(object, names::REQUEST_STATES)?,
        })
    }

    /// For automata that go on in those of `grammar`.
    pub(crate) fn with(self, grammar: Vec<RequestState>) -> RequestTables {
        RequestTables {
            maps: self,
            grammar,
            placed: StdHashMap::new(),
            without: HashSet::new(),
            room: None,
        }
    }

    /// Says which place is the first behind them.
    fn write(&mut self, first: u32, states: impl Iterator<Item = RequestState>) -> Result<u32, DatapathError> {
        let mut number = first;
        for state in states {
            self.states
                .set(number, state, 0)
                .map_err(DatapathError::map(names::REQUEST_STATES))?;
            number += 1;
        }
        Ok(number)
    }
}

/// The kernel's automata.
pub struct RequestTables {
    maps: RequestMaps,
    /// Where all of them go on.
    grammar: Vec<RequestState>,
    placed: StdHashMap<u32, Block>,
    /// Rule sets that find no room.
    without: HashSet<u32>,
    /// Behind the grammar, when that is there.
    room: Option<Room>,
}

impl std::fmt::Debug for RequestTables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestTables").finish_non_exhaustive()
    }
}

impl RequestTables {
    /// Has the kernel judge requests by itself under these rule sets, by number, as far as there is room, and under no others.
    /// Call when no endpoint goes by the numbers of an earlier agent any more.
    ///
    /// # Errors
    /// The kernel refuses; the engine judges then.
    pub fn set<'a>(&mut self, tables: impl Iterator<Item = (u32, RequestAutomata<'a>)>) -> Result<(), DatapathError> {
        if self.room.is_none() {
            let end = self.maps.write(0, self.grammar.iter().copied())?;
            self.room = Some(Room::new(end, self.maps.states.len().min(REQUEST_STATES_MAX)));
        }
        let wanted: StdHashMap<u32, RequestAutomata<'a>> = tables.collect();
        let gone: Vec<u32> = self
            .placed
            .keys()
            .filter(|id| !wanted.contains_key(id))
            .copied()
            .collect();
        let now = Instant::now();
        for id in gone {
            match self.maps.rules.remove(&id) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(DatapathError::map(names::REQUEST_RULES)(error)),
            }
            if let Some(block) = self.placed.remove(&id) {
                self.room.iter_mut().for_each(|room| room.give_back(block, now));
            }
        }
        self.without.retain(|id| wanted.contains_key(id));
        let mut ids: Vec<u32> = wanted.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            if let Some(table) = wanted.get(&id).filter(|_| !self.placed.contains_key(&id)) {
                self.place(id, table, now)?;
            }
        }
        Ok(())
    }

    fn place(&mut self, id: u32, automata: &RequestAutomata<'_>, now: Instant) -> Result<(), DatapathError> {
        let is_full = self.placed.len() >= REQUEST_RULE_SETS_MAX as usize;
        let len = u32::try_from(automata.states.len()).ok().filter(|_| !is_full);
        let block = len.and_then(|len| self.room.as_mut()?.find(len, now));
        let Some(block) = block else {
            if self.without.insert(id) {
                debug!(
                    rule_set = id,
                    states = automata.states.len(),
                    "no room for automata in the kernel: the engine judges"
                );
            }
            return Ok(());
        };
        let states = automata.states.iter().map(|state| state.moved(block.by()));
        self.maps.write(block.first, states)?;
        let rules = automata.rules.moved(block.by());
        self.maps
            .rules
            .insert(id, rules, 0)
            .map_err(DatapathError::map(names::REQUEST_RULES))?;
        self.placed.insert(id, block);
        self.without.remove(&id);
        Ok(())
    }
}

/// Free places of a table, first fit.
#[derive(Debug)]
struct Room {
    /// In order, never side by side.
    free: Vec<Block>,
    given_back: Vec<(Instant, Block)>,
}

impl Room {
    fn new(first: u32, end: u32) -> Self {
        let len = end.saturating_sub(first);
        Self {
            free: vec![Block { first, len }],
            given_back: Vec::new(),
        }
    }

    fn find(&mut self, len: u32, now: Instant) -> Option<Block> {
        self.take_in(now);
        let place = self.free.iter().position(|block| block.len >= len)?;
        let block = self.free.get_mut(place)?;
        let found = Block {
            first: block.first,
            len,
        };
        block.first += len;
        block.len -= len;
        if block.len == 0 {
            self.free.remove(place);
        }
        Some(found)
    }

    fn give_back(&mut self, block: Block, now: Instant) {
        self.given_back.push((now + GRACE, block));
    }

    /// What was given back long enough ago is free.
    fn take_in(&mut self, now: Instant) {
        let mut free = std::mem::take(&mut self.free);
        self.given_back.retain(|(due, block)| {
            let waits = *due > now;
            if !waits {
                free.push(*block);
            }
            waits
        });
        free.sort_unstable_by_key(|block| block.first);
        for block in free {
            match self.free.last_mut() {
                Some(last) if last.first + last.len == block.first => last.len += block.len,
                _ => self.free.push(block),
            }
        }
    }
}

/// Takes requests that the kernel let pass out of their ring. Nobody is woken when one comes.
pub struct RequestReader {
    ring: RingBuf<MapData>,
}

impl std::fmt::Debug for RequestReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestReader").finish_non_exhaustive()
    }
}

impl RequestReader {
    pub(crate) fn take(object: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            ring: maps::take(object, names::REQUESTS)?,
        })
    }

    /// Reads the next request, if one is there: what is known of it, and its bytes. Records that are too short are skipped.
    pub fn next_request<R>(&mut self, read: impl FnOnce(&PassedRequest, &[u8]) -> R) -> Option<R> {
        loop {
            let item = self.ring.next()?;
            let Some((head, bytes)) = item.split_first_chunk::<{ size_of::<PassedRequest>() }>() else {
                continue;
            };
            // SAFETY: as many bytes as a `PassedRequest` has, which is integers and arrays of them without padding: any
            // bytes are a value.
            let head = unsafe { head.as_ptr().cast::<PassedRequest>().read_unaligned() };
            if let Some(request) = bytes.get(..head.len as usize) {
                return Some(read(&head, request));
            }
        }
    }
}

/// The key of hashes: that of an earlier agent whose flows are kept, in our tables or in those of another version, so that
/// what it let pass is still known when it comes again.
pub(crate) fn hash_key(
    ours: Option<DatapathConfig>,
    of_others: Option<DatapathConfig>,
) -> Result<[u64; 2], DatapathError> {
    let ours = ours.filter(|config| config.abi_version == ABI_VERSION);
    if let Some(config) = ours.or(of_others) {
        return Ok(config.hash_key);
    }
    let word = || getrandom::u64().map_err(|e| DatapathError::Random(e.to_string()));
    Ok([word()?, word()?])
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{Block, GRACE, Room};

    #[test]
    fn places_that_were_given_back_are_used_again_when_nobody_walks_there_any_more() {
        let now = Instant::now();
        let mut room = Room::new(100, 1000);
        let blocks = [300, 300, 300].map(|len| room.find(len, now).unwrap());
        assert_eq!(blocks.map(|block| block.first), [100, 400, 700]);
        assert_eq!(room.find(1, now), None);
        room.give_back(blocks[1], now);
        room.give_back(blocks[0], now);
        assert_eq!(room.find(1, now), None, "a program may still walk there");
        assert_eq!(room.find(600, now + GRACE), Some(Block { first: 100, len: 600 }));
        assert_eq!(room.find(1, now + GRACE), None);
    }
}
