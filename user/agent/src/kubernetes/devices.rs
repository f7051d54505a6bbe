//! Which device of the node belongs to a pod, without asking whoever made its network.
//!
//! A veth's outer end is found by what the kernel knows: a route to the pod's address alone leads to it; else the pod's
//! network namespace is looked up, the address in it, and by the device that has the address the other end. Namespaces are
//! those of processes, whose control group names the pod, and those that runtimes keep as files.
//!
//! A pod that may change its own addresses can claim those of others. What was found once therefore holds as long as
//! the device is there, and a namespace whose processes belong to one pod is never another's.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use futures_util::{StreamExt as _, TryStreamExt as _};
use nix::sched::{CloneFlags, setns};
use rtnetlink::{
    Handle, RouteMessageBuilder, new_connection,
    packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        address::AddressAttribute,
        link::{InfoKind, LinkAttribute, LinkInfo},
        nsid::{NsidAttribute, NsidMessage},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
    },
};
use seventh_kube::Workload;

/// Processes that are looked at for their namespaces at most.
const PROCESSES_MAX: usize = 100_000;
/// Namespaces that are looked into at a time at most.
const NAMESPACES_MAX: usize = 10_000;
/// Bytes of what a process's control group is called at most.
const CGROUP_BYTES_MAX: usize = 16 << 10;
/// Length of a UID.
const UID_LEN: usize = 36;

/// Where devices are looked for, and what was found.
#[derive(Debug)]
pub(super) struct Devices {
    netns_dirs: Vec<PathBuf>,
    proc_dir: PathBuf,
    found: HashMap<String, Found>,
}

/// The device of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    interface: String,
    ifindex: u32,
    /// The pod's namespace, if it was looked into.
    netns: Option<NetnsId>,
}

/// Device and inode of a namespace.
type NetnsId = (u64, u64);

/// What a pod's device is, or why it is not known.
pub(super) type Looked = Result<String, String>;

/// A network namespace that could be a pod's.
struct Candidate {
    file: File,
    id: NetnsId,
    /// UIDs of pods to which its processes belong.
    pods: HashSet<String>,
}

/// Devices, addresses and routes of a network namespace.
#[derive(Debug, Default)]
struct Network {
    links: HashMap<u32, Link>,
    addresses: Vec<(IpAddr, u32)>,
    /// Routes to single addresses.
    routes: Vec<(IpAddr, u32)>,
}

#[derive(Debug)]
struct Link {
    name: String,
    kind: String,
    /// Index of the other end, and this namespace's number of that in which it is.
    peer: Option<u32>,
    peer_netns: Option<i32>,
}

/// Where an address was found: in which namespace, and which device of the node is behind it.
struct Place {
    netns: NetnsId,
    pods: HashSet<String>,
    outer: Result<u32, String>,
}

/// Where addresses were found.
type Places = HashMap<IpAddr, Vec<Place>>;

impl Devices {
    /// Nothing was found yet.
    pub(super) fn new(netns_dirs: Vec<PathBuf>, proc_dir: PathBuf) -> Self {
        Self {
            netns_dirs,
            proc_dir,
            found: HashMap::new(),
        }
    }

    /// Looks for the devices of these pods, by their UIDs. Takes its time: not for a thread that serves others.
    ///
    /// # Errors
    /// The node's own devices cannot be listed.
    pub(super) fn look(&mut self, pods: &[&Workload]) -> Result<HashMap<String, Looked>> {
        let node = look_into(None).context("this node's devices")?;
        let wanted: HashSet<&str> = pods.iter().map(|pod| pod.uid.as_str()).collect();
        self.found.retain(|uid, found| {
            let there = node.links.get(&found.ifindex);
            wanted.contains(uid.as_str()) && there.is_some_and(|link| link.name == found.interface)
        });
        for pod in pods {
            if !self.found.contains_key(&pod.uid)
                && let Some(found) = self.by_route(&node, pod)
            {
                self.found.insert(pod.uid.clone(), found);
            }
        }
        let mut reasons = HashMap::new();
        if pods.iter().any(|pod| !self.found.contains_key(&pod.uid)) {
            let places = self.places(&node)?;
            for pod in pods {
                if self.found.contains_key(&pod.uid) {
                    continue;
                }
                match self.by_namespace(&node, &places, pod, &wanted) {
                    Ok(found) => drop(self.found.insert(pod.uid.clone(), found)),
                    Err(reason) => drop(reasons.insert(pod.uid.clone(), reason)),
                }
            }
        }
        let looked = pods.iter().map(|pod| {
            let looked = match self.found.get(&pod.uid) {
                Some(found) => Ok(found.interface.clone()),
                None => Err(reasons.remove(&pod.uid).unwrap_or_default()),
            };
            (pod.uid.clone(), looked)
        });
        Ok(looked.collect())
    }

    fn is_taken(&self, ifindex: u32) -> bool {
        self.found.values().any(|found| found.ifindex == ifindex)
    }

    /// Whoever made the pod's network routes its address, and nothing else, to its device.
    fn by_route(&self, node: &Network, pod: &Workload) -> Option<Found> {
        let mut devices: Vec<u32> = Vec::new();
        for ip in &pod.ips {
            let to = node.routes.iter().filter(|(address, _)| address == ip);
            devices.extend(to.map(|(_, device)| *device));
        }
        devices.sort_unstable();
        devices.dedup();
        let [ifindex] = devices.as_slice() else { return None };
        let link = node.links.get(ifindex)?;
        (link.is_veth() && !self.is_taken(*ifindex)).then(|| Found {
            interface: link.name.clone(),
            ifindex: *ifindex,
            netns: None,
        })
    }

    fn by_namespace(
        &self,
        node: &Network,
        places: &Places,
        pod: &Workload,
        known_pods: &HashSet<&str>,
    ) -> Result<Found, String> {
        let mut there: Vec<&Place> = pod.ips.iter().flat_map(|ip| places.get(ip)).flatten().collect();
        if there.iter().any(|place| place.pods.contains(&pod.uid)) {
            there.retain(|place| place.pods.contains(&pod.uid));
        } else {
            // Namespaces of other pods are theirs, whatever addresses they have given themselves.
            there.retain(|place| !place.pods.iter().any(|uid| known_pods.contains(uid.as_str())));
        }
        // Elsewhere somebody may have the same address: what leads to no device of this node says nothing.
        if there.iter().any(|place| place.outer.is_ok()) {
            there.retain(|place| place.outer.is_ok());
        }
        there.sort_by_key(|place| place.netns);
        there.dedup_by_key(|place| (place.netns, place.outer.clone()));
        let [place] = there.as_slice() else {
            return Err(if there.is_empty() {
                "no network namespace on this node has its address".to_owned()
            } else {
                "its address is in several network namespaces, or on several devices".to_owned()
            });
        };
        let ifindex = place.outer.clone()?;
        let link = node
            .links
            .get(&ifindex)
            .ok_or("the other end of its device is not in the node's network namespace")?;
        if !link.is_veth() {
            return Err(format!(
                "the other end of its device, {}, is no veth but {}",
                link.name, link.kind
            ));
        }
        if self.is_taken(ifindex) {
            return Err(format!(
                "the other end of its device, {}, belongs to another pod",
                link.name
            ));
        }
        Ok(Found {
            interface: link.name.clone(),
            ifindex,
            netns: Some(place.netns),
        })
    }

    /// Who has which address, in all namespaces that are nobody's yet.
    fn places(&self, node: &Network) -> Result<Places> {
        let candidates = self.candidates();
        let files: Result<Vec<File>, _> = candidates.iter().map(|candidate| candidate.file.try_clone()).collect();
        let numbers = numbers_of(files?)?;
        let mut places = Places::new();
        for (candidate, number) in candidates.into_iter().zip(numbers) {
            // One that vanishes meanwhile has no pod any more.
            let Ok(network) = look_into(Some(candidate.file)) else {
                continue;
            };
            for (ip, device) in &network.addresses {
                let Some(link) = network.links.get(device).filter(|_| !ip.is_loopback()) else {
                    continue;
                };
                places.entry(*ip).or_default().push(Place {
                    netns: candidate.id,
                    pods: candidate.pods.clone(),
                    outer: outer_end(node, (*device, link), number),
                });
            }
        }
        Ok(places)
    }

    fn candidates(&self) -> Vec<Candidate> {
        let own = File::open("/proc/thread-self/ns/net")
            .ok()
            .and_then(|file| id_of(&file));
        let taken: HashSet<NetnsId> = self.found.values().filter_map(|found| found.netns).chain(own).collect();
        let mut candidates: HashMap<NetnsId, Candidate> = HashMap::new();
        let mut add = |path: &Path, pod: Option<String>| {
            // Known ones are not even opened.
            let Some(id) = fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino())) else {
                return;
            };
            if taken.contains(&id) {
                return;
            }
            if let Some(known) = candidates.get_mut(&id) {
                known.pods.extend(pod);
            } else if candidates.len() < NAMESPACES_MAX
                && let Ok(file) = File::open(path)
                && id_of(&file) == Some(id)
            {
                let pods = pod.into_iter().collect();
                candidates.insert(id, Candidate { file, id, pods });
            }
        };
        for process in entries(&self.proc_dir)
            .filter(|path| is_process(path))
            .take(PROCESSES_MAX)
        {
            add(&process.join("ns/net"), pod_of(&process));
        }
        for path in self.netns_dirs.iter().flat_map(|dir| entries(dir)).take(NAMESPACES_MAX) {
            add(&path, None);
        }
        candidates.into_values().collect()
    }
}

/// The node's end of a pod's device, which must say the same of the two as the pod's end does: numbers of devices alone
/// repeat in every namespace.
fn outer_end(node: &Network, (inner, link): (u32, &Link), netns: Option<i32>) -> Result<u32, String> {
    let peer = link.peer.filter(|_| link.is_veth()).ok_or_else(|| {
        format!(
            "its device, {}, is no veth but {}: nothing on the node sees its packets",
            link.name, link.kind
        )
    })?;
    let outer = node
        .links
        .get(&peer)
        .filter(|outer| outer.is_veth() && outer.peer == Some(inner) && netns.is_some() && outer.peer_netns == netns);
    let elsewhere = || {
        format!(
            "the other end of its device, {}, is not in the node's network namespace",
            link.name
        )
    };
    outer.map(|_| peer).ok_or_else(elsewhere)
}

impl Link {
    fn is_veth(&self) -> bool {
        self.kind == "veth"
    }
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
}

fn is_process(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    !name.is_empty() && name.iter().all(u8::is_ascii_digit)
}

fn id_of(file: &File) -> Option<NetnsId> {
    file.metadata().ok().map(|meta| (meta.dev(), meta.ino()))
}

/// UID of the pod to which a process belongs, by its control group.
fn pod_of(process: &Path) -> Option<String> {
    let text = fs::read(process.join("cgroup")).ok()?;
    pod_in(&String::from_utf8_lossy(text.get(..CGROUP_BYTES_MAX.min(text.len()))?))
}

/// The UID in `…/pod<uid>/…` or `…-pod<uid with underscores>.slice/…`.
fn pod_in(cgroup: &str) -> Option<String> {
    cgroup.match_indices("pod").find_map(|(at, word)| {
        let uid = cgroup
            .get(at + word.len()..at + word.len() + UID_LEN)?
            .replace('_', "-");
        let hexadecimal = |c: char| c.is_ascii_hexdigit() || c == '-';
        (uid.matches('-').count() == 4 && uid.chars().all(hexadecimal)).then_some(uid)
    })
}

/// Lists a namespace, or the one that this process is in.
fn look_into(netns: Option<File>) -> Result<Network> {
    with_netlink(netns, async |handle| list(&handle).await)
}

/// This namespace's numbers of others, as its devices speak of them; none for those with which it has nothing in common.
fn numbers_of(files: Vec<File>) -> Result<Vec<Option<i32>>> {
    with_netlink(None, async move |mut handle: Handle| {
        let mut numbers = Vec::with_capacity(files.len());
        for file in &files {
            let mut message = NsidMessage::default();
            let descriptor = u32::try_from(file.as_raw_fd()).unwrap_or(u32::MAX);
            message.attributes.push(NsidAttribute::Fd(descriptor));
            let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(message));
            request.header.flags = NLM_F_REQUEST;
            let mut answers = handle.request(request)?;
            let mut number = None;
            while let Some(answer) = answers.next().await {
                if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(answer)) = answer.payload {
                    number = answer.attributes.into_iter().find_map(|attribute| match attribute {
                        NsidAttribute::Id(number) => Some(number),
                        _ => None,
                    });
                }
            }
            // -1: none was given.
            numbers.push(number.filter(|number| *number >= 0));
        }
        Ok(numbers)
    })
}

/// Asks in a namespace, or in the one that this process is in, on a thread of its own.
fn with_netlink<T: Send + 'static>(
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
    use super::{Link, Network, is_process, look_into, outer_end, pod_in};
    use std::path::Path;

    fn link(kind: &str, peer: u32, peer_netns: Option<i32>) -> Link {
        Link {
            name: "x".into(),
            kind: kind.into(),
            peer: Some(peer),
            peer_netns,
        }
    }

    #[test]
    fn both_ends_of_a_device_must_say_the_same() {
        let mut node = Network::default();
        node.links.insert(7, link("veth", 2, Some(3)));
        let inner = link("veth", 7, Some(0));
        assert_eq!(outer_end(&node, (2, &inner), Some(3)), Ok(7));
        // The same numbers in a namespace that the node's device does not speak of, or has nothing to do with.
        assert!(outer_end(&node, (2, &inner), Some(4)).is_err() && outer_end(&node, (2, &inner), None).is_err());
        assert!(outer_end(&node, (3, &inner), Some(3)).is_err());
        let macvlan = link("macvlan", 7, Some(0));
        assert!(
            outer_end(&node, (2, &macvlan), Some(3))
                .unwrap_err()
                .contains("no veth but macvlan")
        );
        node.links.insert(7, link("veth", 2, None));
        assert!(outer_end(&node, (2, &inner), None).is_err());
    }

    #[test]
    fn a_control_group_names_its_pod_in_both_notations() {
        let uid = "8dbc3c3b-1a2b-4c5d-8e9f-0123456789ab";
        let of_systemd = format!(
            "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice/cri-containerd-1.scope",
            uid.replace('-', "_")
        );
        assert_eq!(pod_in(&of_systemd).as_deref(), Some(uid));
        assert_eq!(
            pod_in(&format!("0::/kubepods/besteffort/pod{uid}/c1")).as_deref(),
            Some(uid)
        );
        for other in ["0::/", "0::/kubepods", "0::/user.slice/podman-1.scope", "0::/podé", ""] {
            assert_eq!(pod_in(other), None, "{other}");
        }
    }

    #[test]
    fn processes_are_told_from_other_files() {
        assert!(
            is_process(Path::new("/proc/1")) && !is_process(Path::new("/proc/self")) && !is_process(Path::new("/"))
        );
    }

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
