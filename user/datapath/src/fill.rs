//! How full the kernel's maps are, counted beside everybody else.

use std::path::Path;

use aya::{
    Pod,
    maps::{HashMap, LpmTrie, Map, MapData, MapError},
};
use seventh_abi::{
    Endpoint, FlowKey, FlowState, IpcacheEntry, IpcacheKey, NameEntry, NameKey, PolicyEntry, PolicyKey, names,
};

use crate::DatapathError;

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapFill {
    /// Its name, in small letters.
    pub map: &'static str,
    /// Entries that are in it; those that move meanwhile may be missed or counted twice.
    pub entries: usize,
    /// Entries that it has room for.
    pub capacity: usize,
}

/// Counts with handles of its own: a large table takes a while, and nobody waits for it.
pub struct FillReader {
    endpoints: Counted<HashMap<MapData, u32, Endpoint>>,
    flows: Counted<HashMap<MapData, FlowKey, FlowState>>,
    names: Counted<HashMap<MapData, NameKey, NameEntry>>,
    ipcache: Counted<LpmTrie<MapData, IpcacheKey, IpcacheEntry>>,
    policy: Counted<LpmTrie<MapData, PolicyKey, PolicyEntry>>,
}

impl std::fmt::Debug for FillReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FillReader").finish_non_exhaustive()
    }
}

struct Counted<M> {
    map: M,
    capacity: usize,
}

impl FillReader {
    pub(crate) fn open(maps_dir: &Path) -> Result<Self, DatapathError> {
        Ok(Self {
            endpoints: open(maps_dir, names::ENDPOINTS)?,
            flows: open(maps_dir, names::FLOWS)?,
            names: open(maps_dir, names::NAMES)?,
            ipcache: open(maps_dir, names::IPCACHE)?,
            policy: open(maps_dir, names::POLICY)?,
        })
    }

    /// Walks all of them: at most as many system calls as they have room for entries.
    #[must_use]
    pub fn read(&self) -> Vec<MapFill> {
        vec![
            of_hash("endpoints", &self.endpoints),
            of_hash("flows", &self.flows),
            of_hash("names", &self.names),
            of_trie("ipcache", &self.ipcache),
            of_trie("policy", &self.policy),
        ]
    }
}

fn open<M>(maps_dir: &Path, name: &'static str) -> Result<Counted<M>, DatapathError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let error = DatapathError::map(name);
    let data = MapData::from_pin(maps_dir.join(name)).map_err(&error)?;
    let capacity = data.info().map_err(&error)?.max_entries();
    let map = Map::from_map_data(data).and_then(M::try_from).map_err(&error)?;
    Ok(Counted {
        map,
        capacity: usize::try_from(capacity).unwrap_or(usize::MAX),
    })
}

fn of_hash<K: Pod, V: Pod>(map: &'static str, counted: &Counted<HashMap<MapData, K, V>>) -> MapFill {
    fill(map, counted.map.keys().filter(Result::is_ok), counted.capacity)
}

fn of_trie<K: Pod, V: Pod>(map: &'static str, counted: &Counted<LpmTrie<MapData, K, V>>) -> MapFill {
    fill(map, counted.map.keys().filter(Result::is_ok), counted.capacity)
}

/// A key that goes while its successor is asked for begins the walk anew, hence the bound.
fn fill(map: &'static str, keys: impl Iterator, capacity: usize) -> MapFill {
    MapFill {
        map,
        entries: keys.take(capacity).count(),
        capacity,
    }
}
