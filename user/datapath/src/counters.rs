//! The kernel's counters, for whoever reads them.

use std::sync::Arc;

use aya::{
    Ebpf,
    maps::{MapData, MapError, PerCpuArray},
};
use seventh_abi::{COUNTERS_MAX, names};

use crate::{DatapathError, maps};

/// A handle of the kernel's counters that needs nobody's lock: who reads them does not wait for a change of policy.
#[derive(Clone)]
pub struct CounterReader {
    map: Arc<PerCpuArray<MapData, u64>>,
}

impl std::fmt::Debug for CounterReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CounterReader").finish_non_exhaustive()
    }
}

impl CounterReader {
    pub(crate) fn take(object: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            map: Arc::new(maps::take(object, names::COUNTERS)?),
        })
    }

    /// The sum over all CPUs of the counter with this index ([`seventh_abi::Counter`], [`seventh_abi::drop_counter`]).
    ///
    /// # Errors
    /// The kernel refuses, or there is no such counter.
    pub fn read(&self, index: u32) -> Result<u64, DatapathError> {
        self.sum(index).map_err(DatapathError::map(names::COUNTERS))
    }

    /// Sums over all CPUs, by counter index.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn all(&self) -> Result<Vec<u64>, DatapathError> {
        (0..COUNTERS_MAX)
            .map(|index| self.sum(index))
            .collect::<Result<_, MapError>>()
            .map_err(DatapathError::map(names::COUNTERS))
    }

    fn sum(&self, index: u32) -> Result<u64, MapError> {
        Ok(self.map.get(&index, 0)?.iter().sum())
    }
}
