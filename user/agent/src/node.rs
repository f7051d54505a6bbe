//! What the node is: its addresses, its devices, and that one agent at a time has it.

use std::{
    fs,
    net::IpAddr,
    os::{linux::net::SocketAddrExt as _, unix::net as unix},
    path::Path,
};

use anyhow::{Context as _, Result, anyhow};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::resource::{Resource, getrlimit, setrlimit},
};

/// The device on which kube-proxy (ipvs) keeps every address of every service, so that the kernel takes packets to them for
/// its own. They are not the node's.
const SERVICES_DEVICE: &str = "kube-ipvs0";

/// As many files may be open as the system lets this process say by itself: pods' programs, and namespaces that are looked into, are
/// files, and the usual limit is for programs that use `select`.
///
/// # Errors
/// The system does not tell, or does not let it.
pub(crate) fn raise_open_files() -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("RLIMIT_NOFILE")?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("RLIMIT_NOFILE")?;
    }
    Ok(())
}

/// All addresses of this network namespace's devices: who has one of them is the identity `host`, unless it is a service's.
///
/// # Errors
/// The system does not tell.
pub(crate) fn addresses() -> Result<Vec<IpAddr>> {
    let interfaces = nix::ifaddrs::getifaddrs().context("cannot list this node's addresses")?;
    let mut addresses: Vec<IpAddr> = interfaces
        .filter(|interface| interface.interface_name != SERVICES_DEVICE)
        .filter_map(|interface| interface.address)
        .filter_map(|address| match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
            (_, Some(v6)) => Some(IpAddr::V6(v6.ip())),
            _ => None,
        })
        .collect();
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}

/// Index of the device of this name in this network namespace, if there is one.
pub(crate) fn interface_index(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

/// Name of the device with this index in this network namespace, if there is one.
pub(crate) fn interface_name(index: u32) -> Option<String> {
    let name = nix::net::if_::if_indextoname(index).ok()?;
    name.into_string().ok()
}

/// Held by a running agent; the kernel takes it back however the agent ends.
pub(crate) struct NodeLock {
    _pins: Flock<fs::File>,
    _devices: unix::UnixDatagram,
}

impl NodeLock {
    /// # Errors
    /// Another agent has the pin directory, or the punt devices of this network namespace.
    pub(crate) fn take(bpffs: &Path) -> Result<Self> {
        Self::take_as(bpffs, "seventh-agent")
    }

    fn take_as(bpffs: &Path, name: &str) -> Result<Self> {
        let at = || format!("bpffs: {}", bpffs.display());
        fs::create_dir_all(bpffs).with_context(at)?;
        let pins = Flock::lock(fs::File::open(bpffs).with_context(at)?, FlockArg::LockExclusiveNonblock);
        let pins = pins.map_err(|(_, error)| match error {
            Errno::EWOULDBLOCK => anyhow!("{}: another agent uses this directory; stop it first", at()),
            other => anyhow!("{}: {other}", at()),
        })?;
        // Abstract names belong to the network namespace, as the punt devices do.
        let name = unix::SocketAddr::from_abstract_name(name).context("lock")?;
        let devices = unix::UnixDatagram::bind_addr(&name)
            .context("another agent runs in this network namespace; stop it first")?;
        Ok(Self {
            _pins: pins,
            _devices: devices,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{NodeLock, addresses, interface_index};
    use std::net::Ipv4Addr;

    #[test]
    fn loopback_is_an_address_and_a_device_of_the_node() {
        assert!(addresses().unwrap().contains(&Ipv4Addr::LOCALHOST.into()));
        assert!(interface_index("lo").is_some());
        assert_eq!(interface_index("no-such-device"), None);
    }

    #[test]
    fn a_second_agent_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let name = format!("seventh-test-{}", std::process::id());
        let take = |pins: &str| NodeLock::take_as(&dir.path().join(pins), &name);
        let first = take("pins").unwrap();
        let same_pins = take("pins").err().unwrap();
        assert!(
            same_pins.to_string().contains("another agent uses this directory"),
            "{same_pins}"
        );
        let same_namespace = take("others").err().unwrap();
        assert!(
            same_namespace.to_string().contains("in this network namespace"),
            "{same_namespace}"
        );
        drop(first);
        assert!(take("pins").is_ok());
    }
}
