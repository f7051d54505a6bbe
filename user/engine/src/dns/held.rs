//! Bytes of answers that are not complete: who holds how many.

use seventh_abi::DropReason;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of answers over TCP that are not complete, over all connections of one engine, at most. Half of it is for who
/// comes first; of the other half each endpoint has its part, whatever the others do.
const HELD_MAX: usize = 16 << 20;

/// The account of one engine.
#[derive(Clone, Debug, Default)]
pub(super) struct HeldBytes(Arc<Mutex<Account>>);

#[derive(Debug, Default)]
struct Account {
    total: usize,
    /// By host-side interface; none of them holds nothing.
    endpoints: HashMap<u32, usize>,
}

impl HeldBytes {
    /// Only one thread ever locks it; it is a lock so that an engine can be moved to its thread.
    fn account(&self) -> MutexGuard<'_, Account> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts `len` bytes more for an endpoint, one of `endpoints`. False if it has no room for them.
    fn take(&self, endpoint: u32, len: usize, endpoints: usize) -> bool {
        let mut account = self.account();
        let own = account.endpoints.get(&endpoint).copied().unwrap_or(0) + len;
        let total = account.total + len;
        let share = HELD_MAX / 2 / endpoints.max(1);
        if total > HELD_MAX || (total > HELD_MAX / 2 && own > share) {
            return false;
        }
        account.total = total;
        account.endpoints.insert(endpoint, own);
        true
    }

    fn give_back(&self, endpoint: u32, len: usize) {
        let mut account = self.account();
        account.total = account.total.saturating_sub(len);
        if let Some(own) = account.endpoints.get_mut(&endpoint) {
            *own = own.saturating_sub(len);
            if *own == 0 {
                account.endpoints.remove(&endpoint);
            }
        }
    }
}

/// Bytes that count as held as long as they are there.
#[derive(Debug, Default)]
pub(super) struct Held {
    bytes: Vec<u8>,
    account: Option<(HeldBytes, u32)>,
}

impl Held {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Holds `more`, of one message in all, for an endpoint, one of `endpoints`.
    ///
    /// # Errors
    /// All connections together, or those of the endpoint, hold too much.
    pub(super) fn hold(
        &mut self,
        more: &[u8],
        account: &HeldBytes,
        endpoint: u32,
        endpoints: usize,
    ) -> Result<(), DropReason> {
        if more.is_empty() {
            return Ok(());
        }
        if !account.take(endpoint, more.len(), endpoints) {
            return Err(DropReason::EngineLimit);
        }
        self.account.get_or_insert_with(|| (account.clone(), endpoint));
        self.bytes.extend_from_slice(more);
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((account, endpoint)) = &self.account {
            account.give_back(*endpoint, self.bytes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{HELD_MAX, Held, HeldBytes};
    use seventh_abi::DropReason;

    const PIECE: usize = 1 << 16;

    /// Holds pieces for the endpoint until there is no room.
    fn fill(account: &HeldBytes, endpoint: u32, endpoints: usize) -> Vec<Held> {
        let mut all = Vec::new();
        loop {
            let mut held = Held::default();
            if held.hold(&[0; PIECE], account, endpoint, endpoints) == Err(DropReason::EngineLimit) {
                return all;
            }
            all.push(held);
            assert!(all.len() * PIECE <= HELD_MAX);
        }
    }

    #[test]
    fn one_endpoint_leaves_the_others_their_share() {
        let account = HeldBytes::default();
        let greedy = fill(&account, 1, 4);
        assert_eq!(greedy.len() * PIECE, HELD_MAX / 2);
        let others: Vec<_> = (2..=4).map(|endpoint| fill(&account, endpoint, 4)).collect();
        for other in &others {
            assert_eq!(other.len() * PIECE, HELD_MAX / 8);
        }
        drop((greedy, others));
        let account = account.account();
        assert!(
            account.total == 0 && account.endpoints.is_empty(),
            "all of it was given back"
        );
    }
}
