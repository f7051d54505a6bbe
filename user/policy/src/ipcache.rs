//! Whose address is it: the longest prefix that is known decides.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use seventh_abi::{IpcacheEntry, IpcacheKey};

use crate::identity::{IdentityId, WORLD_IPV4, WORLD_IPV6, all_of};

/// Prefixes with their identities. `0.0.0.0/0` and `::/0` are always there, so that every address has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipcache {
    /// By length from 128 down to 0, then by address; IPv4 is mapped into `::ffff:0:0/96`.
    by_length: BTreeMap<u8, BTreeMap<Ipv6Addr, Owner>>,
}

/// Who owns a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The identity.
    pub identity: IdentityId,
    /// Host-side interface if it is a local endpoint's address, else 0.
    pub ifindex: u32,
}

impl Default for Ipcache {
    fn default() -> Self {
        Self::new()
    }
}

impl Ipcache {
    /// Only the two families of the world.
    #[must_use]
    pub fn new() -> Self {
        let mut cache = Self {
            by_length: BTreeMap::new(),
        };
        cache.insert(
            all_of(false),
            Owner {
                identity: WORLD_IPV4,
                ifindex: 0,
            },
        );
        cache.insert(
            all_of(true),
            Owner {
                identity: WORLD_IPV6,
                ifindex: 0,
            },
        );
        cache
    }

    /// Gives a prefix an owner; says who had it.
    pub fn insert(&mut self, prefix: IpNet, owner: Owner) -> Option<Owner> {
        let mapped = mapped(prefix);
        self.by_length
            .entry(mapped.prefix_len())
            .or_default()
            .insert(mapped.network(), owner)
    }

    /// Takes a prefix away; says who had it. The two families of the world go back to their own identities instead.
    pub fn remove(&mut self, prefix: IpNet) -> Option<Owner> {
        let family = if prefix == all_of(false) {
            Some(WORLD_IPV4)
        } else if prefix == all_of(true) {
            Some(WORLD_IPV6)
        } else {
            None
        };
        if let Some(identity) = family {
            return self.insert(prefix, Owner { identity, ifindex: 0 });
        }
        let mapped = mapped(prefix);
        let same_length = self.by_length.get_mut(&mapped.prefix_len())?;
        let owner = same_length.remove(&mapped.network());
        if same_length.is_empty() {
            self.by_length.remove(&mapped.prefix_len());
        }
        owner
    }

    /// The owner of the longest prefix that holds the address.
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Owner {
        let address = to_v6(address);
        let found = self.by_length.iter().rev().find_map(|(length, prefixes)| {
            let network = Ipv6Net::new(address, *length).ok()?.network();
            prefixes.get(&network)
        });
        found.copied().unwrap_or(Owner {
            identity: WORLD_IPV6,
            ifindex: 0,
        })
    }

    /// Every entry, as the kernel's map takes it: prefix length, key, value.
    pub fn kernel_entries(&self) -> impl Iterator<Item = (u32, IpcacheKey, IpcacheEntry)> {
        self.by_length.iter().flat_map(|(length, prefixes)| {
            prefixes.iter().map(|(address, owner)| {
                let entry = IpcacheEntry {
                    identity: owner.identity,
                    ifindex: owner.ifindex,
                };
                (u32::from(*length), IpcacheKey { addr: address.octets() }, entry)
            })
        })
    }
}

fn mapped(prefix: IpNet) -> Ipv6Net {
    let (address, length) = match prefix {
        IpNet::V4(net) => (net.network().to_ipv6_mapped(), net.prefix_len() + 96),
        IpNet::V6(net) => (net.network(), net.prefix_len()),
    };
    Ipv6Net::new(address, length).unwrap_or_default()
}

fn to_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}
