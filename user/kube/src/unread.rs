//! Objects that cannot be read at present.

use std::collections::BTreeMap;

use crate::{Kind, ObjectName};

/// Names that are kept at most; more are counted only.
const NAMES_MAX: usize = 1000;

/// Which objects could not be read when they were told of last.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    /// How often one could not, since the beginning.
    count: u64,
    /// Each with the count that it made.
    names: BTreeMap<(Kind, ObjectName), u64>,
    /// The count when the list of the kind began.
    lists: BTreeMap<Kind, u64>,
}

impl Unread {
    /// It cannot be read.
    pub(crate) fn add(&mut self, kind: Kind, name: ObjectName) {
        self.count += 1;
        let key = (kind, name);
        if self.names.len() < NAMES_MAX || self.names.contains_key(&key) {
            self.names.insert(key, self.count);
        }
    }

    /// It can be read again, or is gone. Says whether it could not before.
    pub(crate) fn remove(&mut self, kind: Kind, name: &ObjectName) -> bool {
        !self.names.is_empty() && self.names.remove(&(kind, name.clone())).is_some()
    }

    /// A list of all objects of the kind begins.
    pub(crate) fn begin(&mut self, kind: Kind) {
        self.lists.insert(kind, self.count);
    }

    /// It is complete: what it did not have is gone. Says whether that was among these.
    pub(crate) fn complete(&mut self, kind: Kind) -> bool {
        let before = self.names.len();
        let began = self.lists.get(&kind).copied().unwrap_or(0);
        self.names.retain(|(of, _), count| *of != kind || *count > began);
        self.names.len() != before
    }

    /// How often an object could not be read, since the beginning.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Those that cannot be read now, by kind and name.
    pub(crate) fn names(&self) -> Vec<(Kind, ObjectName)> {
        self.names.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{NAMES_MAX, Unread};
    use crate::{Kind, ObjectName};

    #[test]
    fn an_object_is_unread_until_it_can_be_read_or_is_gone() {
        let mut unread = Unread::default();
        let name = |name: &str| ObjectName::new("n", name);
        for object in ["a", "b", "b"] {
            unread.add(Kind::Pod, name(object));
        }
        unread.add(Kind::Service, name("a"));
        assert_eq!((unread.count(), unread.names().len()), (4, 3));
        assert!(unread.remove(Kind::Pod, &name("a")) && !unread.remove(Kind::Pod, &name("a")));
        // A list in which one is as it was, and another is not any more.
        unread.add(Kind::Pod, name("c"));
        unread.begin(Kind::Pod);
        unread.add(Kind::Pod, name("b"));
        assert!(unread.complete(Kind::Pod));
        assert_eq!(unread.names(), [(Kind::Pod, name("b")), (Kind::Service, name("a"))]);
        assert_eq!(unread.count(), 6);
    }

    #[test]
    fn names_are_bounded() {
        let mut unread = Unread::default();
        for object in 0..NAMES_MAX + 10 {
            unread.add(Kind::Pod, ObjectName::new("n", object.to_string()));
        }
        assert_eq!(
            (unread.names().len(), unread.count()),
            (NAMES_MAX, NAMES_MAX as u64 + 10)
        );
    }
}
