//! The table of names, for whoever feeds it.

use std::{io, os::fd::AsFd as _, path::Path};

use aya::{
    Ebpf,
    maps::{HashMap, IterableMap as _, MapData, MapError},
};
use seventh_abi::{FlowKey, FlowState, NameEntry, NameKey, names};
use tracing::warn;

use crate::{DatapathError, batch, maps};

/// The kernel's table of names: what addresses mean to endpoints that learned them under a name. A handle of its own,
/// since it is written on the way of an answer, whatever else the datapath is doing.
pub struct NameTable {
    map: HashMap<MapData, NameKey, NameEntry>,
    /// The kernel takes several rows with one call.
    batches: bool,
}

impl std::fmt::Debug for NameTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NameTable").finish_non_exhaustive()
    }
}

impl NameTable {
    pub(crate) fn take(object: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            map: maps::take(object, names::NAMES)?,
            batches: true,
        })
    }

    /// Sets what addresses mean, or forgets them (`None`; one that is not there is no error); in force for the next
    /// packet when this returns. One call into the kernel for all that is set, where it can do that. Returns the places
    /// of those that the kernel refused and the last reason; the others are done.
    pub fn write(&mut self, rows: &[(NameKey, Option<NameEntry>)]) -> (Vec<usize>, Option<DatapathError>) {
        let mut refused = Refused::default();
        let mut set = Vec::with_capacity(rows.len());
        // What goes first makes room for what comes.
        for (place, (key, entry)) in rows.iter().enumerate() {
            match entry {
                Some(entry) => set.push((place, *key, *entry)),
                None => refused.note(place, self.remove(key)),
            }
        }
        let mut left = set.as_slice();
        while self.batches && left.len() > 1 {
            match self.write_batch(left) {
                Ok(()) => left = &[],
                Err((_, error)) if is_unsupported(&error) => {
                    warn!("this kernel takes names one by one only");
                    self.batches = false;
                }
                // The row at which it stopped is asked for alone, the rest goes on.
                Err((done, _)) => {
                    left = left.get(done..).unwrap_or_default();
                    if let Some((&(place, key, entry), rest)) = left.split_first() {
                        refused.note(place, self.set(key, entry));
                        left = rest;
                    }
                }
            }
        }
        for &(place, key, entry) in left {
            refused.note(place, self.set(key, entry));
        }
        (refused.places, refused.last)
    }

    /// How many rows were written before the error.
    fn write_batch(&self, rows: &[(usize, NameKey, NameEntry)]) -> Result<(), (usize, io::Error)> {
        let (keys, entries): (Vec<_>, Vec<_>) = rows.iter().map(|(_, key, entry)| (*key, *entry)).unzip();
        batch::update(self.map.map().fd().as_fd(), &keys, &entries)
    }

    fn set(&mut self, key: NameKey, entry: NameEntry) -> Result<(), DatapathError> {
        self.map.insert(key, entry, 0).map_err(DatapathError::map(names::NAMES))
    }

    fn remove(&mut self, key: &NameKey) -> Result<(), DatapathError> {
        match self.map.remove(key) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(DatapathError::map(names::NAMES)(error)),
        }
    }

    /// Forgets every address of scopes for which `keep` is false.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn retain_scopes(&mut self, keep: impl Fn(u32) -> bool) -> Result<(), DatapathError> {
        let stale: Vec<NameKey> = self
            .map
            .keys()
            .filter_map(Result::ok)
            .filter(|key| !keep(key.scope))
            .collect();
        stale.iter().try_for_each(|key| self.remove(key))
    }

    /// All of it, as the kernel has it; rows that change meanwhile may be missing or come twice.
    #[must_use]
    pub fn entries(&self) -> Vec<(NameKey, NameEntry)> {
        self.map.iter().filter_map(Result::ok).collect()
    }
}

/// The kernel, or this type of map, knows no batches.
fn is_unsupported(error: &io::Error) -> bool {
    /// The kernel's ENOTSUPP, which never was meant to be seen outside.
    const ENOTSUPP: i32 = 524;
    [libc::EINVAL, libc::EOPNOTSUPP, ENOTSUPP].contains(&error.raw_os_error().unwrap_or(0))
}

#[derive(Default)]
struct Refused {
    places: Vec<usize>,
    last: Option<DatapathError>,
}

impl Refused {
    fn note(&mut self, place: usize, done: Result<(), DatapathError>) {
        if let Err(error) = done {
            self.places.push(place);
            self.last = Some(error);
        }
    }
}

/// A second handle of the flow table, for whoever asks about single flows.
pub struct FlowTable {
    map: HashMap<MapData, FlowKey, FlowState>,
}

impl std::fmt::Debug for FlowTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowTable").finish_non_exhaustive()
    }
}

impl FlowTable {
    /// By its pin: to open a map by its number takes `CAP_SYS_ADMIN`.
    pub(crate) fn open(maps_dir: &Path) -> Result<Self, DatapathError> {
        let data = MapData::from_pin(maps_dir.join(names::FLOWS)).map_err(DatapathError::map(names::FLOWS))?;
        let map = HashMap::try_from(aya::maps::Map::LruHashMap(data)).map_err(DatapathError::map(names::FLOWS))?;
        Ok(Self { map })
    }

    /// What the kernel remembers of the flow, if it does.
    #[must_use]
    pub fn get(&self, key: &FlowKey) -> Option<FlowState> {
        self.map.get(key, 0).ok()
    }
}
