//! What engine and kernel go by, of who is there.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use seventh_abi::IpcacheEntry;
use seventh_datapath::IpcachePrefix;
use seventh_engine::{EndpointView, PolicyView};
use seventh_policy::{CompiledPolicy, IdentityId, Ipcache, Owner, identity::HOST};

use super::Enforced;
use crate::inventory::Held;

/// What the engine goes by: the endpoints that are there, with their policies.
pub(crate) fn view(endpoints: &[Enforced], ipcache: Arc<Ipcache>) -> PolicyView {
    view_by(endpoints, ipcache, |endpoint| endpoint.policy.clone())
}

pub(super) fn view_by(
    endpoints: &[Enforced],
    ipcache: Arc<Ipcache>,
    policy: impl Fn(&Enforced) -> Option<Arc<CompiledPolicy>>,
) -> PolicyView {
    let endpoints = endpoints.iter().filter_map(|endpoint| {
        let view = EndpointView {
            id: endpoint.id,
            name: endpoint.config.name.as_str().into(),
            epoch: endpoint.epoch,
            policy: policy(endpoint)?,
        };
        Some((endpoint.ifindex?, view))
    });
    PolicyView {
        endpoints: endpoints.collect(),
        ipcache,
    }
}

/// Whose addresses are whose: those that rules name, everybody's, the node's own, and the endpoints'.
pub(crate) fn ipcache(
    prefixes: &HashMap<IpNet, IdentityId>,
    held: &Held,
    node_addresses: &[IpAddr],
    endpoints: &[Enforced],
) -> Ipcache {
    let owner = |identity, ifindex| Owner { identity, ifindex };
    let mut ipcache = Ipcache::new();
    for (prefix, identity) in prefixes {
        ipcache.insert(*prefix, owner(*identity, 0));
    }
    for (address, identity) in &held.addresses {
        ipcache.insert(IpNet::from(*address), owner(*identity, 0));
    }
    for address in node_addresses.iter().filter(|ip| !held.services.contains(*ip)) {
        let identity = held.own.get(address).copied().unwrap_or(HOST);
        ipcache.insert(IpNet::from(*address), owner(identity, 0));
    }
    for endpoint in endpoints {
        for address in &endpoint.config.ips {
            let owner = owner(endpoint.identity, endpoint.ifindex.unwrap_or(0));
            ipcache.insert(IpNet::from(*address), owner);
        }
    }
    ipcache
}

pub(super) fn kernel_ipcache(ipcache: &Ipcache) -> HashMap<IpcachePrefix, IpcacheEntry> {
    ipcache
        .kernel_entries()
        .map(|(prefix_len, key, entry)| {
            let prefix = IpcachePrefix {
                addr: key.addr,
                prefix_len,
            };
            (prefix, entry)
        })
        .collect()
}
