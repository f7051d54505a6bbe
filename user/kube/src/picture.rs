//! The objects of a cluster as they are known, changed by what the API server tells.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use crate::{
    Kind, ObjectName,
    object::{Object, PolicyText},
};

/// Something that the API server told.
#[derive(Clone, Debug)]
pub enum Change {
    /// A list of all objects of the kind begins.
    Began(Kind),
    /// The list has this one.
    Listed(Kind, ObjectName, Object),
    /// The list is complete: what it did not have is gone.
    Complete(Kind),
    /// An object is new, or another one now.
    Applied(Kind, ObjectName, Object),
    /// An object is gone.
    Gone(Kind, ObjectName),
    /// The cluster does not serve the kind: there is none.
    Absent(Kind),
}

/// Objects by kind and name. A list replaces what is known of its kind as a whole and only when it is complete: one that
/// breaks off changes nothing.
#[derive(Debug, Default)]
pub struct Picture {
    tables: BTreeMap<Kind, Table>,
}

#[derive(Debug, Default)]
struct Table {
    objects: BTreeMap<ObjectName, Arc<Object>>,
    /// The list that is being read.
    coming: Option<BTreeMap<ObjectName, Arc<Object>>>,
    is_known: bool,
    /// Objects that there was no room for.
    refused: BTreeSet<ObjectName>,
}

/// Refused objects that are counted at most.
const REFUSED_MAX: usize = 10_000;

impl Picture {
    /// Takes up what was told; says whether the picture is another one now.
    pub fn apply(&mut self, change: Change) -> bool {
        match change {
            Change::Began(kind) => {
                self.table(kind).coming = Some(BTreeMap::new());
                false
            }
            Change::Listed(kind, name, object) => {
                let table = self.table(kind);
                let room = kind.objects_max();
                if let Some(coming) = table.coming.as_mut() {
                    put(coming, &mut table.refused, room, name, object);
                }
                false
            }
            Change::Complete(kind) => {
                let table = self.table(kind);
                let was_known = std::mem::replace(&mut table.is_known, true);
                let Some(mut coming) = table.coming.take() else {
                    return !was_known;
                };
                // What is the same stays the same object, so that nothing is derived from it again.
                for (name, object) in &mut coming {
                    if let Some(old) = table.objects.get(name).filter(|old| *old == object) {
                        *object = Arc::clone(old);
                    }
                }
                table.refused.retain(|name| !coming.contains_key(name));
                let changed = table.objects != coming;
                table.objects = coming;
                changed || !was_known
            }
            Change::Applied(kind, name, object) => {
                let table = self.table(kind);
                put(&mut table.objects, &mut table.refused, kind.objects_max(), name, object)
            }
            Change::Gone(kind, name) => {
                let table = self.table(kind);
                table.refused.remove(&name);
                table.objects.remove(&name).is_some()
            }
            Change::Absent(kind) => {
                let table = self.table(kind);
                !std::mem::replace(&mut table.is_known, true)
            }
        }
    }

    fn table(&mut self, kind: Kind) -> &mut Table {
        self.tables.entry(kind).or_default()
    }

    /// Whether every kind was listed once, or is known to be absent.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        Kind::ALL
            .iter()
            .all(|kind| self.tables.get(kind).is_some_and(|table| table.is_known))
    }

    /// Whether this kind was listed once, or is known to be absent.
    #[must_use]
    pub fn knows(&self, kind: Kind) -> bool {
        self.tables.get(&kind).is_some_and(|table| table.is_known)
    }

    /// Objects of this kind that there was no room for.
    #[must_use]
    pub fn refused(&self, kind: Kind) -> usize {
        self.tables.get(&kind).map_or(0, |table| table.refused.len())
    }

    /// The objects of a kind, by name.
    pub(crate) fn objects(&self, kind: Kind) -> impl Iterator<Item = (&ObjectName, &Arc<Object>)> {
        self.tables.get(&kind).into_iter().flat_map(|table| &table.objects)
    }

    /// An object.
    pub(crate) fn get(&self, kind: Kind, name: &ObjectName) -> Option<&Arc<Object>> {
        self.tables.get(&kind)?.objects.get(name)
    }

    /// All documents for the policy loader, by kind and name.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<PolicyText>> {
        let documents = Kind::ALL.iter().filter(|kind| kind.is_document());
        documents
            .flat_map(|kind| self.objects(*kind))
            .filter_map(|(_, object)| match &**object {
                Object::Policy(policy) => Some(policy),
                _ => None,
            })
    }
}

fn put(
    objects: &mut BTreeMap<ObjectName, Arc<Object>>,
    refused: &mut BTreeSet<ObjectName>,
    room: usize,
    name: ObjectName,
    object: Object,
) -> bool {
    let held = objects.len();
    match objects.entry(name) {
        Entry::Occupied(known) if **known.get() == object => false,
        Entry::Occupied(mut known) => {
            known.insert(Arc::new(object));
            true
        }
        Entry::Vacant(free) if held >= room => {
            if refused.len() < REFUSED_MAX {
                refused.insert(free.into_key());
            }
            false
        }
        Entry::Vacant(free) => {
            free.insert(Arc::new(object));
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Node;

    fn node(name: &str, last: u8) -> (ObjectName, Object) {
        let ips = vec![std::net::Ipv4Addr::new(192, 0, 2, last).into()];
        (
            ObjectName::new("", name),
            Object::Node(Node {
                ips,
                tunnels: Vec::new(),
            }),
        )
    }

    fn names(picture: &Picture) -> String {
        let names: Vec<String> = picture.objects(Kind::Node).map(|(name, _)| name.to_string()).collect();
        names.join(" ")
    }

    fn listed(picture: &mut Picture, nodes: &[(&str, u8)]) -> bool {
        picture.apply(Change::Began(Kind::Node));
        for (name, last) in nodes {
            let (name, object) = node(name, *last);
            picture.apply(Change::Listed(Kind::Node, name, object));
        }
        picture.apply(Change::Complete(Kind::Node))
    }

    #[test]
    fn a_list_replaces_what_was_known_when_it_is_complete() {
        let mut picture = Picture::default();
        assert!(listed(&mut picture, &[("a", 1), ("b", 2)]));
        picture.apply(Change::Began(Kind::Node));
        let (name, object) = node("c", 3);
        picture.apply(Change::Listed(Kind::Node, name, object));
        assert_eq!(names(&picture), "a b", "a list that is not complete changes nothing");
        assert!(listed(&mut picture, &[("b", 2), ("c", 3)]));
        assert_eq!(names(&picture), "b c");
    }

    #[test]
    fn the_same_once_more_is_no_change_and_stays_the_same_object() {
        let mut picture = Picture::default();
        listed(&mut picture, &[("a", 1)]);
        let before = Arc::clone(picture.get(Kind::Node, &ObjectName::new("", "a")).unwrap());
        assert!(!listed(&mut picture, &[("a", 1)]));
        let (name, object) = node("a", 1);
        assert!(!picture.apply(Change::Applied(Kind::Node, name.clone(), object)));
        assert!(Arc::ptr_eq(&before, picture.get(Kind::Node, &name).unwrap()));
        let (name, object) = node("a", 2);
        assert!(picture.apply(Change::Applied(Kind::Node, name.clone(), object)));
        assert!(
            picture.apply(Change::Gone(Kind::Node, name.clone())) && !picture.apply(Change::Gone(Kind::Node, name))
        );
    }

    #[test]
    fn it_is_whole_when_every_kind_was_listed_or_is_known_to_be_absent() {
        let mut picture = Picture::default();
        for kind in Kind::ALL {
            assert!(!picture.is_whole());
            if kind.is_everywhere() {
                picture.apply(Change::Began(*kind));
                picture.apply(Change::Complete(*kind));
            } else {
                picture.apply(Change::Absent(*kind));
            }
        }
        assert!(picture.is_whole());
    }

    #[test]
    fn a_kind_that_vanishes_keeps_what_was_known() {
        let mut picture = Picture::default();
        listed(&mut picture, &[("a", 1)]);
        assert!(!picture.apply(Change::Absent(Kind::Node)));
        assert_eq!(names(&picture), "a");
    }

    #[test]
    fn there_is_no_room_beyond_the_bound() {
        let (mut objects, mut refused) = (BTreeMap::new(), BTreeSet::new());
        let mut add = |name, last| {
            let (name, object) = node(name, last);
            put(&mut objects, &mut refused, 1, name, object)
        };
        assert!(add("a", 1) && !add("b", 2) && add("a", 3));
        assert_eq!((objects.len(), refused.len()), (1, 1));
    }
}
