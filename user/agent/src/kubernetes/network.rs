//! What a network namespace has: devices, addresses, routes; asked by netlink.

use std::{
    collections::HashMap,
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use futures_util::TryStreamExt as _;
use nix::sched::{CloneFlags, setns};
use rtnetlink::{
    Handle, RouteMessageBuilder, new_connection,
    packet_route::{
        address::AddressAttribute,
        link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
    },
};

/// Devices, addresses and routes of a network namespace.
#[derive(Debug, Default)]
pub(super) struct Network {
    pub(super) links: HashMap<u32, Link>,
    pub(super) addresses: Vec<(IpAddr, u32)>,
    /// Routes to single addresses.
    pub(super) routes: Vec<(IpAddr, u32)>,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) is_loopback: bool,
    /// Index of the other end, and this namespace's number of that in which it is.
    pub(super) peer: Option<u32>,
    pub(super) peer_netns: Option<i32>,
}

impl Link {
    pub(super) fn is_veth(&self) -> bool {
        self.kind == "veth"
    }
}

/// Lists a namespace, or the one that this process is in.
pub(super) fn look_into(netns: Option<File>) -> Result<Network> {
    with_netlink(netns, async |handle| list(&handle).await)
}

/// Asks in a namespace, or in the one that this process is in, on a thread of its own.
pub(super) fn with_netlink<T: Send + 'static>(
    netns: Option<File>,
    exchange: impl AsyncFnOnce(Handle) -> Result<T, rtnetlink::Error> + Send + 'static,
) -> Result<T> {
    let asking = thread::Builder::new().name("netns".to_owned()).spawn(move || {
        if let Some(netns) = netns {
            setns(netns, CloneFlags::CLONE_NEWNET).context("entering a network namespace needs CAP_SYS_ADMIN")?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(async {
            let (connection, handle, _) = new_connection().context("netlink")?;
            let connection = tokio::spawn(connection);
            let answer = exchange(handle).await.context("netlink");
            connection.abort();
            answer
        })
    });
    asking?
        .join()
        .map_err(|_| anyhow!("looking into a network namespace failed"))?
}

async fn list(handle: &Handle) -> Result<Network, rtnetlink::Error> {
    let mut network = Network::default();
    let mut links = handle.link().get().execute();
    while let Some(message) = links.try_next().await? {
        let mut link = Link {
            name: String::new(),
            kind: "a device of the hardware".to_owned(),
            is_loopback: message.header.link_layer_type == LinkLayerType::Loopback,
            peer: None,
            peer_netns: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Link(peer) => link.peer = Some(peer),
                LinkAttribute::LinkNetNsId(number) => link.peer_netns = Some(number),
                LinkAttribute::LinkInfo(infos) => {
                    let kind = infos.into_iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind),
                        _ => None,
                    });
                    link.kind = kind.as_ref().map_or(link.kind, InfoKind::to_string);
                }
                _ => {}
            }
        }
        network.links.insert(message.header.index, link);
    }
    let mut addresses = handle.address().get().execute();
    while let Some(message) = addresses.try_next().await? {
        let mut ip = None;
        for attribute in message.attributes {
            match attribute {
                // On a point-to-point device the other attribute is the other side's.
                AddressAttribute::Local(local) => ip = Some(local),
                AddressAttribute::Address(address) => ip = ip.or(Some(address)),
                _ => {}
            }
        }
        network.addresses.extend(ip.map(|ip| (ip, message.header.index)));
    }
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
    for family in [v4, v6] {
        let mut routes = handle.route().get(family).execute();
        while let Some(route) = routes.try_next().await? {
            network.routes.extend(to_one_address(&route));
        }
    }
    Ok(network)
}

/// The address and the device of a route to one address only, through no other router.
fn to_one_address(route: &RouteMessage) -> Option<(IpAddr, u32)> {
    let (mut to, mut device) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => to = Some(IpAddr::V4(*ip)),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => to = Some(IpAddr::V6(*ip)),
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Gateway(_) => return None,
            _ => {}
        }
    }
    let (to, device) = (to?, device?);
    let whole = if to.is_ipv4() { 32 } else { 128 };
    let is_unicast = route.header.kind == RouteType::Unicast;
    (route.header.destination_prefix_length == whole && is_unicast).then_some((to, device))
}

#[cfg(test)]
mod tests {
    use super::look_into;

    #[test]
    fn the_own_namespace_has_a_loopback() {
        let network = look_into(None).unwrap();
        assert!(
            network
                .addresses
                .iter()
                .any(|(ip, device)| ip.is_loopback() && network.links.contains_key(device))
        );
    }
}
