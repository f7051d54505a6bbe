//! The veth pair between TC and a worker's AF_XDP socket.
//!
//! TC redirects frames into the near end; they arrive at the far end, where `xdp_punt` hands them to the socket. What
//! the worker sends leaves by the far end and arrives at the near end, at `tc_from_punt`.

use std::fs;

use futures_util::{
    TryStreamExt as _,
    future::{Either, select},
    pin_mut,
};
use nix::net::if_::if_nametoindex;
use rtnetlink::{
    Handle, LinkUnspec, LinkVeth, new_connection,
    packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute},
};

use crate::{DatapathError, ethtool};

/// Ethernet header and two VLAN tags.
pub(crate) const LINK_HEADERS: u32 = 14 + 8;

/// Features by which a device is handed what belongs into the frame beside it (names of `ethtool -k`).
const IN_BAND: [&str; 3] = ["tx-checksum-ip-generic", "tx-vlan-hw-insert", "tx-vlan-stag-hw-insert"];

/// One pair, by its devices' names and indices.
#[derive(Clone, Debug)]
pub(crate) struct PuntPair {
    pub(crate) near: String,
    pub(crate) near_ifindex: u32,
    pub(crate) far: String,
    pub(crate) far_ifindex: u32,
}

impl PuntPair {
    /// Makes the pair of `worker`, replacing one that a killed agent left. It is not up yet.
    pub(crate) async fn create(prefix: &str, worker: usize, mtu: u32) -> Result<Self, DatapathError> {
        let near = format!("{prefix}{worker}");
        let far = format!("{prefix}{worker}x");
        Self::remove(&near).await?;
        with_netlink(&near, async |handle: Handle| {
            // One queue on both ends: with more, native XDP is refused for want of receive queues.
            let message = LinkVeth::new(&near, &far)
                .append_extra_attribute(LinkAttribute::NumTxQueues(1))
                .append_extra_attribute(LinkAttribute::NumRxQueues(1))
                .build();
            handle.link().add(message).execute().await
        })
        .await?;
        let pair = Self {
            near_ifindex: ifindex(&near)?,
            far_ifindex: ifindex(&far)?,
            near,
            far,
        };
        for (name, index) in [(&pair.near, pair.near_ifindex), (&pair.far, pair.far_ifindex)] {
            quieten(name, index).await;
            // Frames must carry checksums and VLAN tags in their bytes: user space sees neither of them otherwise.
            ethtool::features_off(name, &IN_BAND)?;
            set_link(name, LinkUnspec::new_with_index(index).mtu(mtu)).await?;
        }
        Ok(pair)
    }

    /// Brings both ends up; call once the programs are attached.
    pub(crate) async fn up(&self) -> Result<(), DatapathError> {
        for (name, index) in [(&self.near, self.near_ifindex), (&self.far, self.far_ifindex)] {
            set_link(name, LinkUnspec::new_with_index(index).up()).await?;
        }
        Ok(())
    }

    /// Removes the pair whose near end has this name, if there is one.
    pub(crate) async fn remove(near: &str) -> Result<(), DatapathError> {
        let Ok(index) = if_nametoindex(near) else { return Ok(()) };
        with_netlink(near, async |handle: Handle| handle.link().del(index).execute().await).await
    }
}

/// Largest MTU of all devices in this network namespace that are up to it: no endpoint's packet may be too long for
/// the punt pair, where it would be dropped without a word.
pub(crate) async fn largest_mtu(at_least: u32, at_most: u32) -> Result<u32, DatapathError> {
    let mut mtu = at_least;
    let sizes = with_netlink("(all)", async |handle: Handle| {
        let mut sizes = Vec::new();
        let mut links = handle.link().get().execute();
        while let Some(link) = links.try_next().await? {
            for attribute in link.attributes {
                if let LinkAttribute::Mtu(size) = attribute {
                    sizes.push(size);
                }
            }
        }
        Ok(sizes)
    })
    .await?;
    // Loopback has 65536 and carries no endpoint's traffic.
    for size in sizes.into_iter().filter(|&size| size <= at_most) {
        mtu = mtu.max(size);
    }
    Ok(mtu)
}

async fn set_link(device: &str, message: rtnetlink::LinkMessageBuilder<LinkUnspec>) -> Result<(), DatapathError> {
    with_netlink(device, async |handle: Handle| {
        handle.link().set(message.build()).execute().await
    })
    .await
}

/// Runs one exchange on a connection of its own, driven from this very future: no task is left behind.
async fn with_netlink<T>(
    device: &str,
    exchange: impl AsyncFnOnce(Handle) -> Result<T, rtnetlink::Error>,
) -> Result<T, DatapathError> {
    let error = |reason: String| DatapathError::PuntDevice {
        device: device.to_owned(),
        reason,
    };
    let (connection, handle, _) = new_connection().map_err(|e| error(e.to_string()))?;
    let exchange = exchange(handle);
    pin_mut!(connection);
    pin_mut!(exchange);
    match select(exchange, connection).await {
        Either::Left((result, _)) => result.map_err(|e| error(e.to_string())),
        Either::Right(((), _)) => Err(error("netlink closed the connection".to_owned())),
    }
}

pub(crate) fn ifindex(name: &str) -> Result<u32, DatapathError> {
    if_nametoindex(name).map_err(|_| DatapathError::NoInterface(name.to_owned()))
}

/// Neighbour discovery on the pair would only be noise in the counters. Where the kernel has no IPv6 there is none. In a
/// container `/proc/sys` is not to be written to; a device without an address of its own is quiet, too.
async fn quieten(device: &str, index: u32) {
    if fs::write(format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6"), "1").is_ok() {
        return;
    }
    let no_address = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    let message =
        LinkUnspec::new_with_index(index).append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![no_address]));
    let _ = set_link(device, message).await;
}
