//! The table of names, for whoever feeds it.

use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError},
};
use seventh_abi::{NameEntry, NameKey, names};

use crate::{DatapathError, maps};

/// The kernel's table of names: what addresses mean to endpoints that learned them under a name. A handle of its own,
/// since it is written on the way of an answer, whatever else the datapath is doing.
pub struct NameTable {
    map: HashMap<MapData, NameKey, NameEntry>,
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
        })
    }

    /// Sets what an address means; in force for the next packet when this returns.
    ///
    /// # Errors
    /// The table is full.
    pub fn set(&mut self, key: NameKey, entry: NameEntry) -> Result<(), DatapathError> {
        self.map.insert(key, entry, 0).map_err(DatapathError::map(names::NAMES))
    }

    /// Forgets an address; one that is not there is no error.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove(&mut self, key: &NameKey) -> Result<(), DatapathError> {
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

    /// All of it.
    #[must_use]
    pub fn entries(&self) -> Vec<(NameKey, NameEntry)> {
        self.map.iter().filter_map(Result::ok).collect()
    }
}
