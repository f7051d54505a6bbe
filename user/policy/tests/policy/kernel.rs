//! The kernel's policy table as user space sees it: longest prefix, the peer's identity before any identity.

use std::collections::HashMap;

use seventh_abi::{Direction, IDENTITY_ANY, POLICY_PREFIX_ANY_PROTO, POLICY_PREFIX_FULL, PolicyEntry, PolicyKey};
use seventh_policy::{IdentityId, KernelEntry, PolicyPatch};

#[derive(Default)]
pub(crate) struct PolicyTable {
    entries: HashMap<(u32, u128), PolicyEntry>,
}

impl PolicyTable {
    pub(crate) fn write(&mut self, entries: impl IntoIterator<Item = KernelEntry>) {
        for (bits, key, entry) in entries {
            assert!((POLICY_PREFIX_ANY_PROTO..=POLICY_PREFIX_FULL).contains(&bits));
            assert_eq!(
                number(&key),
                masked(&key, bits),
                "bits behind the prefix must be zero: {key:?}/{bits}"
            );
            self.entries.insert((bits, masked(&key, bits)), entry);
        }
    }

    pub(crate) fn patch(&mut self, patch: &PolicyPatch) {
        for (bits, key) in &patch.removed {
            let gone = self.entries.remove(&(*bits, masked(key, *bits)));
            assert!(gone.is_some(), "a patch removes {key:?}/{bits}, which is not there");
        }
        self.write(patch.added.iter().copied());
    }

    pub(crate) fn lookup(
        &self,
        policy: u32,
        direction: Direction,
        peer: IdentityId,
        protocol: u8,
        port: u16,
    ) -> Option<PolicyEntry> {
        [peer, IDENTITY_ANY].into_iter().find_map(|identity| {
            let key = PolicyKey::new(policy, identity, direction, protocol, port);
            (POLICY_PREFIX_ANY_PROTO..=POLICY_PREFIX_FULL)
                .rev()
                .find_map(|bits| self.entries.get(&(bits, masked(&key, bits))).copied())
        })
    }
}

fn number(key: &PolicyKey) -> u128 {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&key.policy_id);
    bytes[4..8].copy_from_slice(&key.identity);
    bytes[8] = key.direction;
    bytes[9] = key.protocol;
    bytes[10..12].copy_from_slice(&key.port);
    u128::from_be_bytes(bytes)
}

fn masked(key: &PolicyKey, bits: u32) -> u128 {
    number(key) & (u128::MAX << (128 - bits))
}
