//! A bounded table that forgets by age.

use crate::punted::FlowId;
use ahash::AHashMap as HashMap;

/// Two generations: when the younger is full or old the older is forgotten, and the younger becomes the older. So an
/// entry stays for at least one period unless room is short, and nothing is walked.
#[derive(Debug)]
pub(crate) struct Generations<V> {
    young: HashMap<FlowId, V>,
    old: HashMap<FlowId, V>,
    young_since_ns: u64,
    generation_max: usize,
    period_ns: u64,
}

impl<V> Generations<V> {
    /// At most `entries_max` entries, each for at most two periods.
    pub(crate) fn new(entries_max: usize, period_ns: u64) -> Self {
        Self {
            young: HashMap::default(),
            old: HashMap::default(),
            young_since_ns: 0,
            generation_max: (entries_max / 2).max(1),
            period_ns,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// The entry, which is young again.
    pub(crate) fn meet(&mut self, id: &FlowId) -> Option<&mut V> {
        if let Some(old) = self.old.remove(id) {
            self.insert(*id, old);
        }
        self.young.get_mut(id)
    }

    pub(crate) fn insert(&mut self, id: FlowId, value: V) {
        self.old.remove(&id);
        if self.young.len() >= self.generation_max && !self.young.contains_key(&id) {
            self.turn();
        }
        self.young.insert(id, value);
    }

    pub(crate) fn remove(&mut self, id: &FlowId) -> Option<V> {
        self.young.remove(id).or_else(|| self.old.remove(id))
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.young.values().chain(self.old.values())
    }

    /// Forgets the older generation.
    pub(crate) fn turn(&mut self) {
        self.old = std::mem::take(&mut self.young);
    }

    /// Forgets what is old at this time. True if something may be gone.
    pub(crate) fn expire(&mut self, now_ns: u64) -> bool {
        let due = now_ns.saturating_sub(self.young_since_ns) >= self.period_ns;
        if due {
            self.turn();
            self.young_since_ns = now_ns;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::Generations;
    use crate::punted::FlowId;
    use seventh_abi::Hook;

    fn id(source_port: u16) -> FlowId {
        FlowId {
            source: [1; 16],
            destination: [2; 16],
            ifindex: 3,
            source_port,
            destination_port: 443,
            hook: Hook::FromEndpoint,
            ipv4: true,
        }
    }

    #[test]
    fn what_is_met_stays_and_the_rest_gives_way() {
        let mut table = Generations::new(8, 100);
        for n in 0..100 {
            table.insert(id(n), n);
            assert!(table.len() <= 8);
            assert_eq!(table.meet(&id(0)).copied(), Some(0), "met each time");
        }
        assert_eq!(table.meet(&id(99)).copied(), Some(99));
        assert_eq!(table.meet(&id(50)), None);
        assert_eq!((table.remove(&id(0)), table.remove(&id(0))), (Some(0), None));
    }

    #[test]
    fn an_entry_lives_for_one_to_two_periods() {
        let mut table = Generations::new(8, 100);
        assert!(table.expire(100));
        table.insert(id(1), 1);
        assert!(!table.expire(199) && table.values().count() == 1);
        assert!(table.expire(200) && table.values().count() == 1);
        assert!(table.expire(300) && table.values().count() == 0 && table.meet(&id(1)).is_none());
    }

    #[test]
    fn an_entry_is_never_there_twice() {
        let mut table = Generations::new(8, 100);
        table.insert(id(1), 1);
        table.turn();
        table.insert(id(1), 2);
        assert_eq!((table.len(), table.remove(&id(1)), table.len()), (1, Some(2), 0));
    }
}
