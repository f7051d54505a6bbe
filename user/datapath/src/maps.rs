//! Typed handles of the maps that user space reads and writes.

use std::{
    borrow::Borrow,
    collections::{HashMap as StdHashMap, HashSet},
};

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, RingBuf, XskMap, lpm_trie::Key},
};
use seventh_abi::{
    Addr, DatapathConfig, Endpoint, FlowKey, FlowState, IpcacheEntry, IpcacheKey, PROTOCOL_TCP, PolicyEntry, PolicyKey,
    Verdict, names,
};

use crate::{CounterReader, DatapathError};

/// One row of the policy table: how many bits of the key count, the key, what it says.
pub type PolicyRow = (u32, PolicyKey, PolicyEntry);

/// A prefix of the ipcache: the mapped address and how many of its 128 bits count (IPv4: 96 + prefix length).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IpcachePrefix {
    /// Mapped address.
    pub addr: Addr,
    /// Bits that count, at most 128.
    pub prefix_len: u32,
}

/// All maps but those of the punt pairs.
pub(crate) struct Maps {
    pub(crate) config: Array<MapData, DatapathConfig>,
    pub(crate) endpoints: HashMap<MapData, u32, Endpoint>,
    ipcache: LpmTrie<MapData, IpcacheKey, IpcacheEntry>,
    policy: LpmTrie<MapData, PolicyKey, PolicyEntry>,
    pub(crate) flows: HashMap<MapData, FlowKey, FlowState>,
    pub(crate) counters: CounterReader,
    punt_workers: HashMap<MapData, u32, u32>,
    pub(crate) xsks: XskMap<MapData>,
}

impl Maps {
    pub(crate) fn take(object: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            config: take(object, names::CONFIG)?,
            endpoints: take(object, names::ENDPOINTS)?,
            ipcache: take(object, names::IPCACHE)?,
            policy: take(object, names::POLICY)?,
            flows: take(object, names::FLOWS)?,
            counters: CounterReader::take(object)?,
            punt_workers: take(object, names::PUNT_WORKERS)?,
            xsks: take(object, names::XSKS)?,
        })
    }

    /// Says whose worker's frames come out of this device. There is room for one device of each worker, and agents that ended
    /// without taking theirs along have left their rows.
    pub(crate) fn set_punt_worker(&mut self, ifindex: u32, worker: u32) -> Result<(), DatapathError> {
        let rows: Vec<(u32, u32)> = self.punt_workers.iter().filter_map(Result::ok).collect();
        for (earlier, _) in rows.into_iter().filter(|(_, of)| *of == worker) {
            match self.punt_workers.remove(&earlier) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(DatapathError::map(names::PUNT_WORKERS)(error)),
            }
        }
        set(&mut self.punt_workers, names::PUNT_WORKERS, ifindex, worker)
    }

    pub(crate) fn write_policy(&mut self, rows: impl Iterator<Item = PolicyRow>) -> Result<(), DatapathError> {
        for (prefix_len, key, entry) in rows {
            self.policy
                .insert(&Key::new(prefix_len, key), entry, 0)
                .map_err(DatapathError::map(names::POLICY))?;
        }
        Ok(())
    }

    pub(crate) fn remove_policy_rows(
        &mut self,
        rows: impl Iterator<Item = (u32, PolicyKey)>,
    ) -> Result<(), DatapathError> {
        let keys: Vec<Key<PolicyKey>> = rows.map(|(prefix_len, key)| Key::new(prefix_len, key)).collect();
        remove_all(&mut self.policy, &keys, names::POLICY)
    }

    /// Every row of the policy table; rows that change meanwhile may be missing or come twice.
    pub(crate) fn policy_rows(&self) -> Result<Vec<PolicyRow>, DatapathError> {
        let rows = self.policy.iter();
        rows.map(|row| row.map(|(key, entry)| (key.prefix_len(), key.data(), entry)))
            .collect::<Result<_, MapError>>()
            .map_err(DatapathError::map(names::POLICY))
    }

    /// Every prefix of the ipcache.
    pub(crate) fn ipcache(&self) -> Result<StdHashMap<IpcachePrefix, IpcacheEntry>, DatapathError> {
        let entries = self.ipcache.iter();
        entries
            .map(|entry| {
                entry.map(|(key, entry)| {
                    let prefix = IpcachePrefix {
                        addr: key.data().addr,
                        prefix_len: key.prefix_len(),
                    };
                    (prefix, entry)
                })
            })
            .collect::<Result<_, MapError>>()
            .map_err(DatapathError::map(names::IPCACHE))
    }

    /// Removes every row whose policy id is not in `keep`; says how many.
    pub(crate) fn retain_policies(&mut self, keep: &HashSet<u32>) -> Result<usize, DatapathError> {
        let stale: Vec<Key<PolicyKey>> = self
            .policy
            .keys()
            .filter_map(Result::ok)
            .filter(|key| !keep.contains(&u32::from_be_bytes(key.data().policy_id)))
            .collect();
        remove_all(&mut self.policy, &stale, names::POLICY)?;
        Ok(stale.len())
    }

    /// Makes the ipcache hold exactly `wanted`; prefixes whose entry stays the same are not touched.
    pub(crate) fn sync_ipcache(
        &mut self,
        wanted: &StdHashMap<IpcachePrefix, IpcacheEntry>,
    ) -> Result<(), DatapathError> {
        let error = DatapathError::map(names::IPCACHE);
        let present = self.ipcache()?;
        for (prefix, entry) in wanted {
            if present.get(prefix) != Some(entry) {
                let key = Key::new(prefix.prefix_len, IpcacheKey { addr: prefix.addr });
                self.ipcache.insert(&key, entry, 0).map_err(&error)?;
            }
        }
        let stale: Vec<_> = present
            .keys()
            .filter(|prefix| !wanted.contains_key(prefix))
            .map(|prefix| Key::new(prefix.prefix_len, IpcacheKey { addr: prefix.addr }))
            .collect();
        remove_all(&mut self.ipcache, &stale, names::IPCACHE)
    }

    /// Writes one prefix of the ipcache.
    pub(crate) fn add_to_ipcache(&mut self, prefix: IpcachePrefix, entry: IpcacheEntry) -> Result<(), DatapathError> {
        let key = Key::new(prefix.prefix_len, IpcacheKey { addr: prefix.addr });
        let inserted = self.ipcache.insert(&key, entry, 0);
        inserted.map_err(DatapathError::map(names::IPCACHE))
    }

    /// Removes prefixes of the ipcache.
    pub(crate) fn remove_from_ipcache(
        &mut self,
        prefixes: impl Iterator<Item = IpcachePrefix>,
    ) -> Result<(), DatapathError> {
        let key = |prefix: IpcachePrefix| Key::new(prefix.prefix_len, IpcacheKey { addr: prefix.addr });
        let stale: Vec<_> = prefixes.map(key).collect();
        remove_all(&mut self.ipcache, &stale, names::IPCACHE)
    }

    /// Forgets flows of TCP at these devices whose bytes are read.
    pub(crate) fn forget_read(&mut self, devices: &HashSet<u32>) -> Result<(), DatapathError> {
        let is_read = |flow: &FlowState| flow.verdict != Verdict::Forward as u8;
        let at_devices = self
            .flows
            .iter()
            .filter_map(Result::ok)
            .filter(|(key, flow)| key.protocol == PROTOCOL_TCP && devices.contains(&key.ifindex) && is_read(flow));
        for (key, _) in at_devices.collect::<Vec<_>>() {
            match self.flows.remove(&key) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(DatapathError::map(names::FLOWS)(error)),
            }
        }
        Ok(())
    }

    /// A snapshot of the flow table, of so many entries at most; those that move meanwhile may be missing or come twice.
    pub(crate) fn flows(&self, max: usize) -> Vec<(FlowKey, FlowState)> {
        self.flows.iter().filter_map(Result::ok).take(max).collect()
    }
}

fn remove_all<K: Pod, V: Pod>(
    trie: &mut LpmTrie<MapData, K, V>,
    stale: &[Key<K>],
    name: &'static str,
) -> Result<(), DatapathError> {
    for key in stale {
        match trie.remove(key) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(DatapathError::map(name)(error)),
        }
    }
    Ok(())
}

pub(crate) fn take<M>(object: &mut Ebpf, name: &'static str) -> Result<M, DatapathError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map = object.take_map(name).ok_or(DatapathError::Missing(name))?;
    M::try_from(map).map_err(DatapathError::map(name))
}

/// The event ring, for [`crate::EventReader`].
pub(crate) fn take_events(object: &mut Ebpf) -> Result<RingBuf<MapData>, DatapathError> {
    take(object, names::EVENTS)
}

/// The ring of answers, for [`crate::AnswerReader`].
pub(crate) fn take_answers(object: &mut Ebpf) -> Result<RingBuf<MapData>, DatapathError> {
    take(object, names::ANSWERS)
}

/// The ring of pieces of answers, for [`crate::PieceReader`].
pub(crate) fn take_pieces(object: &mut Ebpf) -> Result<RingBuf<MapData>, DatapathError> {
    take(object, names::ANSWER_PIECES)
}

/// Sets one element of a hash map.
pub(crate) fn set<K: Pod, V: Pod>(
    map: &mut HashMap<MapData, K, V>,
    name: &'static str,
    key: impl Borrow<K>,
    value: impl Borrow<V>,
) -> Result<(), DatapathError> {
    map.insert(key, value, 0).map_err(DatapathError::map(name))
}
