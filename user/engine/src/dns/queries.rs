//! Queries whose answers are awaited.

use crate::judge::About;
use crate::punted::FlowId;
use ahash::AHashMap as HashMap;
use seventh_policy::RuleOrigin;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::Arc;

/// How long an answer is awaited. Resolvers wait for 5 seconds at most before they ask again.
const WAIT_NS: u64 = 30_000_000_000;
/// Queries of one endpoint that are awaited at most; the oldest gives way.
const ENDPOINT_QUERIES_MAX: usize = 8192;
/// Queries that are awaited at most by one engine; the oldest of the endpoint that asks gives way, else that of the one
/// that has most.
const QUERIES_MAX: usize = 65_536;
/// Answers over UDP that fit no query while one is awaited between the same addresses and ports, one after the other, until
/// somebody is taken to be guessing: then nothing is awaited there any more. A guesser has the chance of this many in
/// 65 536 for each query that is asked, and no flood helps him (RFC 5452 §9.2 for the idea).
const GUESSES_MAX: u32 = 8;
/// Different questions under the same addresses, ports and id at most; the oldest gives way.
const SLOT_QUERIES_MAX: usize = 4;
/// Places in the order of queries that may be left behind, besides as many as queries wait, until they are cleared away.
const PLACES_LEFT_MAX: usize = 64;

/// Where an answer comes back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Slot {
    flow: FlowId,
    protocol: u8,
    id: u16,
}

impl Slot {
    pub(super) fn of(about: &About<'_>, id: u16) -> Self {
        Self {
            flow: *about.id,
            protocol: about.protocol,
            id,
        }
    }

    fn between(&self) -> Between {
        (self.flow, self.protocol)
    }
}

/// Bounded table of queries, by endpoint so that one cannot push out another's.
#[derive(Debug, Default)]
pub(super) struct Queries {
    endpoints: HashMap<u32, Asked>,
    len: usize,
}

/// Addresses, ports and protocol between which queries are awaited.
type Between = (FlowId, u8);

#[derive(Debug, Default)]
struct Watch {
    /// Queries; never none.
    waiting: usize,
    /// Answers that fitted none of them since the last one that did.
    guesses: u32,
}

#[derive(Debug, Default)]
struct Asked {
    /// Hardly ever more than one in a slot.
    slots: HashMap<Slot, SmallVec<[Waiting; 1]>>,
    watched: HashMap<Between, Watch>,
    /// One place for each query that waits, in the order in which they were asked, and those of queries that do not wait
    /// any more, which are passed over.
    order: VecDeque<Place>,
    /// Of the next query.
    serial: u64,
    len: usize,
}

#[derive(Debug)]
struct Waiting {
    /// Tells it from every other of its endpoint, also from one with the same questions in the same instant.
    serial: u64,
    query: Query,
}

#[derive(Debug)]
struct Place {
    slot: Slot,
    serial: u64,
    asked_ns: u64,
}

/// Questions in a form in which equal ones are equal bytes; most are this short.
pub(super) type Questions = SmallVec<[u8; 48]>;

/// What was asked.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) questions: Questions,
    pub(super) asked_ns: u64,
    /// The rule that allowed the last question.
    pub(super) rule: Option<Arc<RuleOrigin>>,
}

impl Queries {
    /// A query goes on.
    pub(super) fn ask(&mut self, slot: Slot, query: Query) {
        let endpoint = slot.flow.ifindex;
        let asked = self.endpoints.entry(endpoint).or_default();
        let before = asked.len;
        asked.expire(query.asked_ns);
        asked.insert(slot, query);
        while asked.len > ENDPOINT_QUERIES_MAX {
            asked.drop_oldest();
        }
        self.len = (self.len + asked.len).saturating_sub(before);
        while self.len > QUERIES_MAX {
            let own = self.endpoints.get(&endpoint).is_some_and(|asked| asked.len > 1);
            // All endpoints are only looked through for one that has nothing else to give.
            let gives_way = if own {
                self.endpoints.get_mut(&endpoint)
            } else {
                self.endpoints.values_mut().max_by_key(|asked| asked.len)
            };
            let Some(asked) = gives_way else {
                return;
            };
            let before = asked.len;
            asked.drop_oldest();
            self.len = (self.len + asked.len).saturating_sub(before);
        }
    }

    /// Whether somebody waits for an answer to these questions, or for any under this id.
    pub(super) fn waits(&self, slot: &Slot, questions: Option<&[u8]>, now_ns: u64) -> bool {
        let asked = self.endpoints.get(&slot.flow.ifindex);
        let queries = asked.and_then(|asked| asked.slots.get(slot));
        queries.into_iter().flatten().any(|Waiting { query, .. }| {
            questions.is_none_or(|questions| *query.questions == *questions)
                && now_ns.saturating_sub(query.asked_ns) < WAIT_NS
        })
    }

    /// An answer to these questions goes on. `None` if nobody asked them.
    pub(super) fn answered(&mut self, slot: &Slot, questions: &[u8]) -> Option<Query> {
        self.take(slot, |query| *query.questions == *questions)
    }

    /// An answer that does not say to what has come.
    pub(super) fn answered_any(&mut self, slot: &Slot) -> Option<Query> {
        self.take(slot, |_| true)
    }

    /// An answer has come between these addresses and ports that fits no query.
    pub(super) fn guessed(&mut self, slot: &Slot) {
        let Some(asked) = self.endpoints.get_mut(&slot.flow.ifindex) else {
            return;
        };
        let Some(watch) = asked.watched.get_mut(&slot.between()) else {
            return;
        };
        watch.guesses += 1;
        if watch.guesses > GUESSES_MAX {
            let waiting = watch.waiting;
            asked.watched.remove(&slot.between());
            asked.slots.retain(|other, _| other.between() != slot.between());
            asked.len -= waiting;
            self.len = self.len.saturating_sub(waiting);
        }
    }

    /// Forgets queries that have waited too long.
    pub(super) fn expire(&mut self, now_ns: u64) {
        self.endpoints.retain(|_, asked| {
            asked.expire(now_ns);
            asked.len > 0
        });
        self.len = self.endpoints.values().map(|asked| asked.len).sum();
    }

    fn take(&mut self, slot: &Slot, is: impl Fn(&Query) -> bool) -> Option<Query> {
        let asked = self.endpoints.get_mut(&slot.flow.ifindex)?;
        let queries = asked.slots.get_mut(slot)?;
        let at = queries.iter().position(|waiting| is(&waiting.query))?;
        let Waiting { query, .. } = queries.remove(at);
        if queries.is_empty() {
            asked.slots.remove(slot);
        }
        if let Some(watch) = asked.watched.get_mut(&slot.between()) {
            watch.guesses = 0;
        }
        asked.gone(slot, 1);
        self.len = self.len.saturating_sub(1);
        Some(query)
    }
}

impl Asked {
    fn insert(&mut self, slot: Slot, query: Query) {
        let (serial, asked_ns) = (self.serial, query.asked_ns);
        self.serial += 1;
        let queries = self.slots.entry(slot).or_default();
        // Asked again: it is awaited once, from now on.
        let again = queries
            .iter()
            .position(|known| known.query.questions == query.questions);
        let gives_way = again.or((queries.len() >= SLOT_QUERIES_MAX).then_some(0));
        if let Some(at) = gives_way {
            queries.remove(at);
        } else {
            self.len += 1;
            self.watched.entry(slot.between()).or_default().waiting += 1;
        }
        queries.push(Waiting { serial, query });
        self.order.push_back(Place { slot, serial, asked_ns });
        self.clear_order();
    }

    /// What was answered or asked again leaves its place behind. When those are more than what waits they are cleared
    /// away: fewer are looked at and kept than go, so that each query pays for two looks at most.
    fn clear_order(&mut self) {
        if self.order.len() <= 2 * self.len + PLACES_LEFT_MAX {
            return;
        }
        let slots = &self.slots;
        self.order.retain(|place| {
            let mut queries = slots.get(&place.slot).into_iter().flatten();
            queries.any(|waiting| waiting.serial == place.serial)
        });
    }

    fn expire(&mut self, now_ns: u64) {
        while self
            .order
            .front()
            .is_some_and(|place| now_ns.saturating_sub(place.asked_ns) >= WAIT_NS)
        {
            self.drop_oldest();
        }
    }

    /// Forgets what was asked first.
    fn drop_oldest(&mut self) {
        let Some(Place { slot, serial, .. }) = self.order.pop_front() else {
            self.slots.clear();
            self.watched.clear();
            self.len = 0;
            return;
        };
        let Some(queries) = self.slots.get_mut(&slot) else {
            return;
        };
        let before = queries.len();
        queries.retain(|waiting| waiting.serial != serial);
        let gone = before - queries.len();
        if queries.is_empty() {
            self.slots.remove(&slot);
        }
        self.gone(&slot, gone);
    }

    /// So many queries are not awaited any more.
    fn gone(&mut self, slot: &Slot, count: usize) {
        self.len -= count;
        if let Some(watch) = self.watched.get_mut(&slot.between()) {
            watch.waiting -= count;
            if watch.waiting == 0 {
                self.watched.remove(&slot.between());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        ENDPOINT_QUERIES_MAX, FlowId, GUESSES_MAX, PLACES_LEFT_MAX, QUERIES_MAX, Queries, Query, SLOT_QUERIES_MAX,
        Slot, WAIT_NS,
    };
    use seventh_abi::Hook;
    use std::collections::HashSet;

    fn slot(ifindex: u32, port: u16, id: u16) -> Slot {
        let flow = FlowId {
            source: [1; 16],
            destination: [2; 16],
            ifindex,
            source_port: port,
            destination_port: 53,
            hook: Hook::FromEndpoint,
            ipv4: true,
        };
        Slot { flow, protocol: 17, id }
    }

    fn answered(queries: &mut Queries, slot: &Slot, question: &[u8], now_ns: u64) -> bool {
        queries.waits(slot, Some(question), now_ns) && queries.answered(slot, question).is_some()
    }

    fn ask(queries: &mut Queries, slot: Slot, question: &[u8], now_ns: u64) {
        let query = Query {
            questions: question.into(),
            asked_ns: now_ns,
            rule: None,
        };
        queries.ask(slot, query);
    }

    #[test]
    fn only_what_was_asked_is_answered_and_only_once() {
        let mut queries = Queries::default();
        ask(&mut queries, slot(1, 1000, 7), b"a", 0);
        for other in [slot(1, 1000, 8), slot(1, 1001, 7), slot(2, 1000, 7)] {
            assert!(!answered(&mut queries, &other, b"a", 0));
        }
        assert!(!answered(&mut queries, &slot(1, 1000, 7), b"b", 0));
        assert!(answered(&mut queries, &slot(1, 1000, 7), b"a", WAIT_NS - 1));
        assert!(!answered(&mut queries, &slot(1, 1000, 7), b"a", WAIT_NS - 1));
        ask(&mut queries, slot(1, 1000, 7), b"a", 0);
        assert!(!answered(&mut queries, &slot(1, 1000, 7), b"a", WAIT_NS), "too late");
    }

    #[test]
    fn different_questions_share_an_id_within_bounds() {
        let mut queries = Queries::default();
        for question in 0..=SLOT_QUERIES_MAX as u8 {
            ask(&mut queries, slot(1, 1, 1), &[question], 0);
            ask(&mut queries, slot(1, 1, 1), &[question], 1);
        }
        assert_eq!(queries.len, SLOT_QUERIES_MAX);
        assert!(!answered(&mut queries, &slot(1, 1, 1), &[0], 1) && answered(&mut queries, &slot(1, 1, 1), &[1], 1));
    }

    #[test]
    fn a_flood_of_one_endpoint_leaves_the_queries_of_another() {
        let mut queries = Queries::default();
        ask(&mut queries, slot(1, 1, 1), b"a", 0);
        for n in 0..3 * ENDPOINT_QUERIES_MAX {
            ask(&mut queries, slot(2, (n >> 16) as u16, n as u16), b"x", n as u64);
        }
        assert_eq!(queries.len, ENDPOINT_QUERIES_MAX + 1);
        assert_sound(&queries);
        assert!(queries.endpoints[&2].order.len() <= 2 * ENDPOINT_QUERIES_MAX + 1);
        assert!(answered(&mut queries, &slot(1, 1, 1), b"a", 1));
    }

    #[test]
    fn copies_of_queries_in_one_instant_take_up_no_more_than_what_waits() {
        let mut queries = Queries::default();
        let turns = 1000;
        for turn in 0..turns {
            for _ in 0..64 {
                ask(&mut queries, slot(1, 1, turn), b"a", u64::from(turn));
                places(&queries);
            }
        }
        assert_eq!(queries.len, usize::from(turns));
        assert_sound(&queries);
        for turn in 1..turns {
            assert!(answered(&mut queries, &slot(1, 1, turn), b"a", 1000));
        }
        ask(&mut queries, slot(1, 1, 1), b"a", 1000);
        assert_eq!((queries.len, places(&queries)), (2, 2));
        assert_sound(&queries);
    }

    /// Whatever happens, what is watched is what waits, each query has its place, and few others have one.
    fn assert_sound(queries: &Queries) {
        for asked in queries.endpoints.values() {
            let waiting: usize = asked.watched.values().map(|watch| watch.waiting).sum();
            let slots: usize = asked.slots.values().map(smallvec::SmallVec::len).sum();
            assert_eq!((waiting, slots), (asked.len, asked.len));
            assert!(asked.watched.values().all(|watch| watch.waiting > 0));
            let places: HashSet<_> = asked.order.iter().map(|place| (place.slot, place.serial)).collect();
            for (slot, queries) in &asked.slots {
                assert!(queries.iter().all(|waiting| places.contains(&(*slot, waiting.serial))));
            }
        }
    }

    /// Places in the order of the queries of endpoint 1; not many more than wait.
    fn places(queries: &Queries) -> usize {
        let asked = &queries.endpoints[&1];
        assert!(asked.order.len() <= 2 * asked.len + PLACES_LEFT_MAX);
        asked.order.len()
    }

    #[test]
    fn who_guesses_between_the_ports_of_a_query_ends_the_waiting_there_and_nowhere_else() {
        let mut queries = Queries::default();
        for id in [7, 8] {
            ask(&mut queries, slot(1, 1000, id), b"a", 0);
        }
        ask(&mut queries, slot(1, 1001, 7), b"a", 0);
        for _ in 0..GUESSES_MAX {
            queries.guessed(&slot(1, 1000, 9));
        }
        assert!(answered(&mut queries, &slot(1, 1000, 7), b"a", 0), "not too many yet");
        for _ in 0..GUESSES_MAX {
            queries.guessed(&slot(1, 1000, 9));
        }
        assert!(
            queries.waits(&slot(1, 1000, 8), Some(b"a"), 0),
            "an answer that fits begins anew"
        );
        queries.guessed(&slot(1, 1000, 9));
        assert!(!queries.waits(&slot(1, 1000, 8), Some(b"a"), 0));
        assert!(queries.waits(&slot(1, 1001, 7), Some(b"a"), 0), "between other ports");
        assert_eq!(queries.len, 1);
        assert_sound(&queries);
        ask(&mut queries, slot(1, 1000, 8), b"a", 0);
        assert!(answered(&mut queries, &slot(1, 1000, 8), b"a", 0), "asked again");
        queries.guessed(&slot(1, 1000, 8));
        assert!(!queries.endpoints[&1].watched.contains_key(&slot(1, 1000, 8).between()));
    }

    #[test]
    fn the_whole_is_bounded_and_empties_itself() {
        let mut queries = Queries::default();
        for endpoint in 0..20 {
            for n in 0..ENDPOINT_QUERIES_MAX {
                ask(&mut queries, slot(endpoint, 1, n as u16), b"x", 5);
            }
        }
        assert_eq!(queries.len, QUERIES_MAX);
        assert_sound(&queries);
        queries.expire(5 + WAIT_NS);
        assert!(queries.len == 0 && queries.endpoints.is_empty());
    }
}
