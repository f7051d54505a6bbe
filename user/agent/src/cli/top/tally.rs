//! Counts by name, for names that strangers can make up.

use std::{collections::HashMap, hash::Hash};

/// A bounded map of counts. What comes first is kept; what finds no room is counted together.
#[derive(Debug)]
pub(super) struct Tally<K, V> {
    entries: HashMap<K, V>,
    max: usize,
    others: u64,
}

impl<K: Eq + Hash, V: Default> Tally<K, V> {
    pub(super) fn new(max: usize) -> Self {
        Self {
            entries: HashMap::new(),
            max,
            others: 0,
        }
    }

    /// Changes the counts of this name.
    pub(super) fn count(&mut self, key: K, change: impl FnOnce(&mut V)) {
        if self.entries.len() < self.max {
            change(self.entries.entry(key).or_default());
            return;
        }
        match self.entries.get_mut(&key) {
            Some(counts) => change(counts),
            None => self.others += 1,
        }
    }

    /// How often a name found no room.
    pub(super) fn others(&self) -> u64 {
        self.others
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter()
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.values_mut()
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.others = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn what_finds_no_room_is_counted_and_what_is_there_goes_on() {
        let mut tally: Tally<String, u64> = Tally::new(10);
        for i in 0..1000 {
            tally.count(i.to_string(), |count| *count += 1);
            tally.count("3".to_owned(), |count| *count += 1);
        }
        assert_eq!(tally.iter().count(), 10);
        assert_eq!(tally.iter().find(|(name, _)| *name == "3").map(|(_, n)| *n), Some(1001));
        let counted: u64 = tally.iter().map(|(_, n)| n).sum();
        assert_eq!(counted + tally.others(), 2000);
        tally.clear();
        assert_eq!((tally.iter().count(), tally.others()), (0, 0));
    }
}
