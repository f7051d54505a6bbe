//! Under which names addresses were learned: what endpoints were answered, as far as it was told here. The engine's own
//! table is not asked, because an answer on its way waits for it.

use std::{collections::VecDeque, net::IpAddr, sync::Arc};

use ahash::AHashMap as HashMap;
use seventh_engine::{L7Record, LearnedName, NameLimits, PolicyView, RecordVerdict, SCOPE_NODE};

use super::ip;

/// Pairs of name and address of one endpoint at most; the oldest are forgotten.
const PAIRS_MAX: usize = 16_384;
/// Names of one address that are remembered at most, and told at most.
const NAMES_MAX: usize = 64;
const NAMES_TOLD_MAX: usize = 8;
const SECOND_NS: u64 = 1_000_000_000;

/// Names of the two ends of a flow, in their order, without the final dot.
#[derive(Clone, Debug, Default)]
pub(crate) struct EndNames {
    pub(super) source: Vec<String>,
    pub(super) destination: Vec<String>,
}

/// Names by endpoint and address.
#[derive(Debug, Default)]
pub(crate) struct SeenNames {
    limits: NameLimits,
    by_endpoint: HashMap<u32, Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    by_address: HashMap<IpAddr, Vec<Named>>,
    /// In the order in which they were first seen.
    order: VecDeque<(IpAddr, Arc<str>)>,
}

#[derive(Debug)]
struct Named {
    name: Arc<str>,
    /// On the engine's clock.
    expires_ns: u64,
}

impl SeenNames {
    /// What is known beforehand.
    pub(super) fn new(limits: NameLimits, learned: &[LearnedName]) -> Self {
        let mut seen = Self {
            limits,
            by_endpoint: HashMap::default(),
        };
        for learned in learned.iter().filter(|learned| !learned.lingers) {
            seen.see(learned.scope, ip(learned.addr), &learned.name, learned.expires_ns);
        }
        seen
    }

    /// Takes up what an answer says that went on.
    pub(crate) fn learn(&mut self, record: &L7Record) {
        let Some(dns) = record.dns().filter(|_| record.verdict == RecordVerdict::Forwarded) else {
            return;
        };
        let Some(answer) = dns.answer() else { return };
        let ttl_ns = u64::from(answer.ttl_s()) * SECOND_NS;
        let held_ns = ttl_ns.max(self.limits.ttl_min_ns).saturating_add(self.limits.grace_ns);
        let expires_ns = record.time_ns.saturating_add(held_ns);
        for address in answer.ips() {
            self.see(record.endpoint_id, *address, dns.query(), expires_ns);
        }
    }

    /// Under which names the endpoint at this interface knows both ends.
    pub(crate) fn of_ends(
        &self,
        view: &PolicyView,
        ifindex: u32,
        source: [u8; 16],
        destination: [u8; 16],
        now_ns: u64,
    ) -> EndNames {
        match view.endpoints.get(&ifindex) {
            Some(endpoint) if !self.by_endpoint.is_empty() => EndNames {
                source: self.of(endpoint.id, ip(source), now_ns),
                destination: self.of(endpoint.id, ip(destination), now_ns),
            },
            _ => EndNames::default(),
        }
    }

    /// Names under which the endpoint knows the address.
    fn of(&self, endpoint_id: u32, address: IpAddr, now_ns: u64) -> Vec<String> {
        let mut names: Vec<String> = [endpoint_id, SCOPE_NODE]
            .iter()
            .filter_map(|scope| self.by_endpoint.get(scope)?.by_address.get(&address))
            .flatten()
            .filter(|named| named.expires_ns > now_ns)
            .map(|named| named.name.strip_suffix('.').unwrap_or(&named.name).to_owned())
            .collect();
        names.sort_unstable();
        names.dedup();
        names.truncate(NAMES_TOLD_MAX);
        names
    }

    fn see(&mut self, endpoint_id: u32, address: IpAddr, name: &str, expires_ns: u64) {
        let seen = self.by_endpoint.entry(endpoint_id).or_default();
        let known = seen.by_address.entry(address).or_default();
        if let Some(named) = known.iter_mut().find(|named| &*named.name == name) {
            named.expires_ns = named.expires_ns.max(expires_ns);
            return;
        }
        if known.len() == NAMES_MAX {
            known.remove(0);
        }
        let name: Arc<str> = name.into();
        known.push(Named {
            name: Arc::clone(&name),
            expires_ns,
        });
        seen.order.push_back((address, name));
        if seen.order.len() > PAIRS_MAX {
            seen.forget_oldest();
        }
    }
}

impl Seen {
    fn forget_oldest(&mut self) {
        let Some((address, name)) = self.order.pop_front() else {
            return;
        };
        if let Some(known) = self.by_address.get_mut(&address) {
            known.retain(|named| named.name != name);
            if known.is_empty() {
                self.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PAIRS_MAX, SeenNames};
    use seventh_engine::{LearnedName, NameLimits, SCOPE_NODE};
    use std::net::{IpAddr, Ipv4Addr};

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from(0x0a00_0000 + number).into()
    }

    #[test]
    fn an_endpoint_knows_an_address_under_its_own_names_as_long_as_they_hold() {
        let mut names = SeenNames::default();
        names.see(1, address(1), "b.example.", 100);
        names.see(1, address(1), "a.example.", 200);
        names.see(2, address(1), "c.example.", 200);
        assert_eq!(names.of(1, address(1), 50), ["a.example", "b.example"]);
        assert_eq!(names.of(1, address(1), 100), ["a.example"]);
        names.see(1, address(1), "b.example.", 300);
        assert_eq!(names.of(1, address(1), 250), ["b.example"]);
        assert!(names.of(3, address(1), 50).is_empty() && names.of(1, address(2), 50).is_empty());
    }

    #[test]
    fn what_an_earlier_agent_knew_for_everybody_is_known() {
        let learned = LearnedName {
            scope: SCOPE_NODE,
            name: "a.example.".into(),
            addr: seventh_abi::mapped_v4([10, 0, 0, 1]),
            expires_ns: 100,
            lingers: false,
            identity: 0,
        };
        let names = SeenNames::new(NameLimits::default(), &[learned]);
        assert_eq!(names.of(7, address(1), 0), ["a.example"]);
    }

    #[test]
    fn a_flood_of_one_endpoint_is_bounded_and_leaves_the_names_of_another() {
        let mut names = SeenNames::default();
        names.see(1, address(0), "kept.", 9);
        let many = u32::try_from(2 * PAIRS_MAX).unwrap();
        for number in 0..many {
            names.see(2, address(number), "flood.", 9);
        }
        assert_eq!(names.by_endpoint[&2].by_address.len(), PAIRS_MAX);
        assert_eq!(names.of(1, address(0), 0), ["kept"]);
        assert_eq!(names.of(2, address(many - 1), 0), ["flood"]);
    }

    #[test]
    fn many_names_of_one_address_are_bounded() {
        let mut names = SeenNames::default();
        for number in 0..1000 {
            names.see(1, address(0), &format!("n{number}."), 9);
        }
        assert_eq!(names.by_endpoint[&1].by_address[&address(0)].len(), super::NAMES_MAX);
        assert_eq!(names.of(1, address(0), 0).len(), super::NAMES_TOLD_MAX);
    }
}
