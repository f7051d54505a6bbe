//! Addresses that somebody has to come back to.

use seventh_abi::Addr;
use std::collections::{BTreeMap, BTreeSet};

/// Addresses that stay for flows under names whose time is over, at most. Beyond, the scope that has most gives up one
/// for another that has less; else an address goes at once. Its flows then last as long as the policy does not change.
pub(super) const LINGERING_MAX: usize = 10_000;

/// As the module says.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// May mean something else than what is written.
    pub(super) dirty: BTreeSet<(u32, Addr)>,
    /// Have selectors of names whose time is over.
    lingering: BTreeSet<(u32, Addr)>,
    /// How many of them each scope has that has any.
    shares: BTreeMap<u32, usize>,
    /// Have such selectors still, and may not.
    given_up: Vec<(u32, Addr)>,
}

impl Pending {
    pub(super) fn lingering(&self) -> &BTreeSet<(u32, Addr)> {
        &self.lingering
    }

    /// Marks the address as lingering, if the bound lets it.
    pub(super) fn may_linger(&mut self, number: u32, addr: Addr) -> bool {
        if self.lingering.contains(&(number, addr)) {
            return true;
        }
        if self.lingering.len() >= LINGERING_MAX && !self.make_room(number) {
            return false;
        }
        self.lingering.insert((number, addr));
        *self.shares.entry(number).or_default() += 1;
        true
    }

    /// Has the scope that has most give up one for this one, which still has less with it.
    fn make_room(&mut self, number: u32) -> bool {
        let own = self.shares.get(&number).copied().unwrap_or(0);
        let largest = self.shares.iter().max_by_key(|(_, share)| **share);
        let Some((&largest, _)) = largest.filter(|(_, most)| own + 1 < **most) else {
            return false;
        };
        let Some(&key) = self.lingering.range((largest, Addr::default())..).next() else {
            return false;
        };
        self.no_longer(key);
        self.given_up.push(key);
        true
    }

    /// The address does not linger any more.
    pub(super) fn no_longer(&mut self, key: (u32, Addr)) {
        if self.lingering.remove(&key)
            && let Some(share) = self.shares.get_mut(&key.0)
        {
            *share -= 1;
            if *share == 0 {
                self.shares.remove(&key.0);
            }
        }
    }

    /// Addresses whose lingering selectors are to be taken.
    pub(super) fn take_given_up(&mut self) -> Vec<(u32, Addr)> {
        let mut given_up = std::mem::take(&mut self.given_up);
        // It may have come to linger again.
        given_up.retain(|key| !self.lingering.contains(key));
        given_up
    }
}
