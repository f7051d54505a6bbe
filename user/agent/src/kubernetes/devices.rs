//! Which device of the node belongs to a pod, without asking whoever made its network.
//!
//! A veth's outer end is found by what the kernel knows: a route to the pod's address alone leads to it; else the pod's
//! network namespace is looked up, the address in it, and by the device that has the address the other end. Namespaces are
//! those of processes, whose control group names the pod, and those that runtimes keep as files.
//!
//! A pod that may change its own addresses can claim those of others, or none. So the namespace whose processes belong to
//! the pod and to no other is the pod's whatever addresses are in it, and is never another's; and what was found once holds
//! as long as the device is there. Addresses decide only where control groups say nothing.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, File},
    io,
    net::IpAddr,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use rtnetlink::{
    Handle,
    packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        nsid::{NsidAttribute, NsidMessage},
    },
};
use seventh_kube::Workload;
use tracing::error;

use super::network::{Link, Network, look_into, with_netlink};

/// Processes that are looked at for their namespaces at most.
const PROCESSES_MAX: usize = 100_000;
/// Namespaces that are looked into at a time at most.
const NAMESPACES_MAX: usize = 10_000;
/// Files that are known of one namespace at most.
const PATHS_MAX: usize = 4;
/// Bytes of what a process's control group is called at most.
const CGROUP_BYTES_MAX: usize = 16 << 10;
/// Length of a UID, and of that of a pod that the kubelet has from a file.
const UID_LEN: usize = 36;
const FILE_UID_LEN: usize = 32;
/// How often it is looked whether a pod has further devices, until its namespace was seen.
const LOOKS_FOR_MORE: u32 = 5;

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
    /// Other devices of the node that lead into it.
    more: Vec<String>,
    /// How often its namespace was looked for in vain.
    looks: u32,
}

/// Device and inode of a namespace.
type NetnsId = (u64, u64);

/// What a pod's device is, or why it is not known.
pub(super) type Looked = Result<Device, String>;

/// A pod's device on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) interface: String,
    /// Further devices that lead into the pod: a second network.
    pub(super) more: Vec<String>,
}

/// A network namespace that could be a pod's. It is opened only while it is looked into: a node has many, and the files that
/// an agent may have open are few.
#[derive(Debug)]
struct Candidate {
    /// Files that lead to it; a process of several may end meanwhile.
    paths: Vec<PathBuf>,
    id: NetnsId,
    /// UIDs of pods to which its processes belong.
    pods: HashSet<String>,
}

/// A namespace that could be a pod's, looked into.
struct Place {
    netns: NetnsId,
    pods: HashSet<String>,
    addresses: Vec<(IpAddr, u32)>,
    /// The node's ends of its devices, by theirs.
    outer: BTreeMap<u32, Result<u32, String>>,
}

impl Candidate {
    /// # Errors
    /// No file leads to it any more, or no more may be open.
    fn open(&self) -> io::Result<File> {
        let mut fault = io::Error::from(io::ErrorKind::NotFound);
        for path in &self.paths {
            match File::open(path) {
                // The number of a process that has ended may be another's by now.
                Ok(file) if id_of(&file) == Some(self.id) => return Ok(file),
                Ok(_) => {}
                Err(e) => fault = e,
            }
        }
        Err(fault)
    }
}

impl Place {
    fn device_of(&self, ips: &[IpAddr]) -> Option<&Result<u32, String>> {
        let (_, device) = self.addresses.iter().find(|(ip, _)| ips.contains(ip))?;
        self.outer.get(device)
    }

    /// Devices of the node that lead into it, in the order in which the pod's ends were made.
    fn reachable(&self) -> impl Iterator<Item = u32> {
        self.outer.values().filter_map(|outer| outer.as_ref().ok().copied())
    }
}

impl Devices {
    /// Nothing was found yet.
    pub(super) fn new(netns_dirs: Vec<PathBuf>, proc_dir: PathBuf) -> Self {
        Self {
            netns_dirs,
            proc_dir,
            found: HashMap::new(),
        }
    }

    /// Looks for the devices of these pods, by their UIDs. Takes its time: not for a thread that serves others. If it cannot
    /// be looked, devices that were found before are still their pods'.
    pub(super) fn look(&mut self, pods: &[&Workload]) -> HashMap<String, Looked> {
        let (mut reasons, fault) = match self.search(pods) {
            Ok(reasons) => (reasons, String::new()),
            Err(e) => {
                error!(error = format!("{e:#}"), "devices of pods cannot be looked for");
                (HashMap::new(), format!("its device cannot be looked for: {e:#}"))
            }
        };
        let looked = pods.iter().map(|pod| {
            let looked = match self.found.get(&pod.uid) {
                Some(found) => Ok(Device {
                    interface: found.interface.clone(),
                    more: found.more.clone(),
                }),
                None => Err(reasons.remove(&pod.uid).unwrap_or_else(|| fault.clone())),
            };
            (pod.uid.clone(), looked)
        });
        looked.collect()
    }

    /// Finds what can be found; says why others were not.
    ///
    /// # Errors
    /// Devices cannot be listed.
    fn search(&mut self, pods: &[&Workload]) -> Result<HashMap<String, String>> {
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
        let is_done = |found: &Found| found.netns.is_some() || found.looks >= LOOKS_FOR_MORE;
        if !pods.iter().all(|pod| self.found.get(&pod.uid).is_some_and(is_done)) {
            let places = self.places(&node)?;
            for pod in pods {
                match self.found.get_mut(&pod.uid) {
                    Some(found) if found.netns.is_none() => found.see(&places),
                    Some(_) => {}
                    None => match self.by_namespace(&node, &places, pod, &wanted) {
                        Ok(found) => drop(self.found.insert(pod.uid.clone(), found)),
                        Err(reason) => drop(reasons.insert(pod.uid.clone(), reason)),
                    },
                }
            }
            self.name_more(&node, &places);
        }
        Ok(reasons)
    }

    /// Which other devices lead into the namespaces of those that were found.
    fn name_more(&mut self, node: &Network, places: &[Place]) {
        for found in self.found.values_mut() {
            let Some(place) = places.iter().find(|place| Some(place.netns) == found.netns) else {
                continue;
            };
            let others = place.reachable().filter(|outer| *outer != found.ifindex);
            let names = others.filter_map(|outer| Some(node.links.get(&outer)?.name.clone()));
            found.more = names.collect();
        }
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
            more: Vec::new(),
            looks: 0,
        })
    }

    fn by_namespace(
        &self,
        node: &Network,
        places: &[Place],
        pod: &Workload,
        known_pods: &HashSet<&str>,
    ) -> Result<Found, String> {
        let (netns, ifindex) = match owned(places, pod) {
            Some(place) => (place.netns, self.device_in(place, pod)?),
            None => by_address(places, pod, known_pods)?,
        };
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
            netns: Some(netns),
            more: Vec::new(),
            looks: 0,
        })
    }

    /// The pod's device in its own namespace: the one with its address, else the first that leads to a device of the node.
    /// A pod that has taken its address away is enforced all the same.
    fn device_in(&self, place: &Place, pod: &Workload) -> Result<u32, String> {
        let by_address = place.device_of(&pod.ips);
        if let Some(Ok(outer)) = by_address {
            return Ok(*outer);
        }
        let mut free = place.reachable().filter(|outer| !self.is_taken(*outer));
        let why_not = by_address.or_else(|| place.outer.values().find(|outer| outer.is_err()));
        free.next().ok_or_else(|| match why_not {
            Some(Err(reason)) => reason.clone(),
            _ => "its network namespace has no device that leads to one of the node".to_owned(),
        })
    }

    /// All namespaces that are nobody's yet.
    fn places(&self, node: &Network) -> Result<Vec<Place>> {
        let mut places = Vec::new();
        for (candidate, number) in numbers_of(self.candidates())? {
            // One that vanishes meanwhile has no pod any more.
            let Ok(network) = candidate
                .open()
                .map_err(Into::into)
                .and_then(|file| look_into(Some(file)))
            else {
                continue;
            };
            let devices = network.links.iter().filter(|(_, link)| !link.is_loopback);
            places.push(Place {
                netns: candidate.id,
                pods: candidate.pods,
                outer: devices
                    .map(|(device, link)| (*device, outer_end(node, (*device, link), number)))
                    .collect(),
                addresses: network
                    .addresses
                    .into_iter()
                    .filter(|(ip, _)| !ip.is_loopback())
                    .collect(),
            });
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
            let Some(id) = fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino())) else {
                return;
            };
            if taken.contains(&id) {
                return;
            }
            if let Some(known) = candidates.get_mut(&id) {
                known.pods.extend(pod);
                if known.paths.len() < PATHS_MAX {
                    known.paths.push(path.to_owned());
                }
            } else if candidates.len() < NAMESPACES_MAX {
                let pods = pod.into_iter().collect();
                let paths = vec![path.to_owned()];
                candidates.insert(id, Candidate { paths, id, pods });
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

impl Found {
    /// The namespace into which the device leads, if it is among these.
    fn see(&mut self, places: &[Place]) {
        let leads_there = |place: &&Place| place.reachable().any(|outer| outer == self.ifindex);
        match places.iter().find(leads_there) {
            Some(place) => self.netns = Some(place.netns),
            None => self.looks += 1,
        }
    }
}

/// The namespace that is the pod's by its control group, and no other pod's.
fn owned<'a>(places: &'a [Place], pod: &Workload) -> Option<&'a Place> {
    let mut own = places
        .iter()
        .filter(|place| place.pods.len() == 1 && place.pods.contains(&pod.uid));
    let first = own.next()?;
    // A pod that may make namespaces has several; the one that its address leads to is the one that it was given.
    let others: Vec<&Place> = own.collect();
    if others.is_empty() {
        return Some(first);
    }
    let all = others.into_iter().chain([first]);
    let mut connected = all.filter(|place| place.reachable().next().is_some());
    connected.next().filter(|_| connected.next().is_none())
}

/// By the pod's address, among namespaces that are no other pod's.
fn by_address(places: &[Place], pod: &Workload, known_pods: &HashSet<&str>) -> Result<(NetnsId, u32), String> {
    let there = places
        .iter()
        .filter_map(|place| Some((place, place.device_of(&pod.ips)?)));
    let mut there: Vec<(&Place, &Result<u32, String>)> = there.collect();
    if there.iter().any(|(place, _)| place.pods.contains(&pod.uid)) {
        there.retain(|(place, _)| place.pods.contains(&pod.uid));
    } else {
        // Namespaces of other pods are theirs, whatever addresses they have given themselves.
        there.retain(|(place, _)| !place.pods.iter().any(|uid| known_pods.contains(uid.as_str())));
    }
    // Elsewhere somebody may have the same address: what leads to no device of this node says nothing.
    if there.iter().any(|(_, outer)| outer.is_ok()) {
        there.retain(|(_, outer)| outer.is_ok());
    }
    let [(place, outer)] = there.as_slice() else {
        return Err(if there.is_empty() {
            "no network namespace on this node has its address".to_owned()
        } else {
            "its address is in several network namespaces".to_owned()
        });
    };
    Ok((place.netns, (*outer).clone()?))
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

/// The UID in `…/pod<uid>/…` or `…-pod<uid with underscores>.slice/…`; one from a file has no hyphens.
fn pod_in(cgroup: &str) -> Option<String> {
    let digits = |uid: &str| uid.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    cgroup.match_indices("pod").find_map(|(at, word)| {
        let rest = cgroup.get(at + word.len()..)?;
        let end = rest.find(['/', '.']).unwrap_or(rest.len());
        let uid = rest.get(..end)?.replace('_', "-");
        let hyphens = uid.matches('-').count();
        ([(UID_LEN, 4), (FILE_UID_LEN, 0)].contains(&(uid.len(), hyphens)) && digits(&uid)).then_some(uid)
    })
}

/// This namespace's numbers of others, as its devices speak of them; none for those with which it has nothing in common.
fn numbers_of(candidates: Vec<Candidate>) -> Result<Vec<(Candidate, Option<i32>)>> {
    with_netlink(None, async move |mut handle: Handle| {
        let mut numbered = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            let Ok(file) = candidate.open() else {
                numbered.push((candidate, None));
                continue;
            };
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
            numbered.push((candidate, number.filter(|number| *number >= 0)));
        }
        Ok(numbered)
    })
}

#[cfg(test)]
mod tests {
    use super::{Devices, Link, Network, Place, is_process, outer_end, pod_in};
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use seventh_kube::{ObjectName, Workload};
    use seventh_policy::{Labels, NamedPorts};
    use std::{
        collections::HashSet,
        fs,
        net::IpAddr,
        path::{Path, PathBuf},
    };

    fn pod(name: &str, ip: &str) -> Workload {
        Workload {
            name: ObjectName::new("default", name),
            uid: name.into(),
            is_local: true,
            ips: vec![ip.parse().unwrap()],
            labels: Labels::new([]),
            ignored_labels: Labels::new([]),
            ports: NamedPorts::default(),
            host_network: false,
        }
    }

    /// A namespace of these pods' processes, with these addresses on devices that lead to the node's.
    fn place(inode: u64, pods: &[&str], devices: &[(&str, u32)]) -> Place {
        let addresses = (2..)
            .zip(devices)
            .map(|(inner, (ip, _))| (ip.parse::<IpAddr>().unwrap(), inner));
        Place {
            netns: (4, inode),
            pods: pods.iter().map(|uid| (*uid).to_owned()).collect(),
            addresses: addresses.collect(),
            outer: (2..)
                .zip(devices)
                .map(|(inner, (_, outer))| (inner, Ok(*outer)))
                .collect(),
        }
    }

    /// The device of the pod `mine`, whose address is 10.0.0.1, beside the pod `theirs`.
    fn found(places: &[Place]) -> Result<String, String> {
        let mut node = Network::default();
        for index in 10..20 {
            let veth = Link {
                name: format!("veth{index}"),
                ..link("veth", 2, Some(1))
            };
            node.links.insert(index, veth);
        }
        let devices = Devices::new(Vec::new(), PathBuf::new());
        let known = HashSet::from(["mine", "theirs"]);
        let found = devices.by_namespace(&node, places, &pod("mine", "10.0.0.1"), &known);
        found.map(|found| found.interface)
    }

    #[test]
    fn a_pod_that_has_changed_its_address_is_found_by_its_control_group() {
        let changed = place(1, &["mine"], &[("192.0.2.66", 10)]);
        assert_eq!(found(&[changed]), Ok("veth10".into()));
        let changed = place(1, &["mine"], &[("192.0.2.66", 10)]);
        let claims_it = place(2, &["theirs"], &[("10.0.0.1", 11)]);
        assert_eq!(found(&[claims_it, changed]), Ok("veth10".into()));
        // A second network, and an address that is on the second device.
        let two = place(1, &["mine"], &[("192.0.2.66", 10), ("10.0.0.1", 12)]);
        assert_eq!(found(&[two]), Ok("veth12".into()));
        let two = place(1, &["mine"], &[("192.0.2.66", 10), ("192.0.2.67", 12)]);
        assert_eq!(found(&[two]), Ok("veth10".into()));
    }

    #[test]
    fn a_namespace_that_processes_of_several_pods_are_in_is_found_by_the_address() {
        let own = || place(1, &["mine", "theirs"], &[("10.0.0.1", 10)]);
        assert_eq!(found(&[own()]), Ok("veth10".into()));
        // One of its processes is in somebody else's namespace, too.
        let entered = place(2, &["mine", "theirs"], &[("10.0.0.2", 11)]);
        assert_eq!(found(&[entered, own()]), Ok("veth10".into()));
        let nobodys = || place(3, &[], &[("10.0.0.1", 13)]);
        assert_eq!(found(&[nobodys()]), Ok("veth13".into()));
        let claims_it = place(2, &["theirs"], &[("10.0.0.1", 11)]);
        assert!(found(&[claims_it]).is_err());
        assert!(
            found(&[nobodys(), place(5, &[], &[("10.0.0.1", 14)])]).is_err(),
            "ambiguous"
        );
    }

    fn link(kind: &str, peer: u32, peer_netns: Option<i32>) -> Link {
        Link {
            name: "x".into(),
            kind: kind.into(),
            is_loopback: false,
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
        let of_file = "0123456789abcdef0123456789abcdef";
        assert_eq!(
            pod_in(&format!("0::/kubepods.slice/kubepods-pod{of_file}.slice/x")).as_deref(),
            Some(of_file)
        );
        for other in ["0::/", "0::/kubepods", "0::/user.slice/podman-1.scope", "0::/podé", ""] {
            assert_eq!(pod_in(other), None, "{other}");
        }
    }

    /// On a node with many namespaces that are no pod's, or not yet, more would be open at once than usual limits allow.
    #[test]
    fn as_many_namespaces_as_there_are_take_a_few_open_files() {
        let node = tempfile::tempdir().unwrap();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let few = 256;
        for process in 0..2 * few {
            let dir = node.path().join(process.to_string()).join("ns");
            fs::create_dir_all(&dir).unwrap();
            // What is no namespace cannot be entered; that it is looked at is enough here.
            fs::write(dir.join("net"), "").unwrap();
        }
        let devices = Devices::new(Vec::new(), node.path().to_owned());
        setrlimit(Resource::RLIMIT_NOFILE, few, hard).unwrap();
        let (candidates, places) = (devices.candidates(), devices.places(&Network::default()));
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        assert_eq!(candidates.len(), usize::try_from(2 * few).unwrap());
        assert!(places.unwrap().is_empty());
        assert!(candidates.iter().all(|candidate| candidate.open().is_ok()));
    }

    #[test]
    fn a_process_that_has_ended_leads_to_its_namespace_no_more_and_another_one_does() {
        let node = tempfile::tempdir().unwrap();
        let [first, second] = ["1", "2"].map(|process| node.path().join(process).join("ns/net"));
        for path in [&first, &second] {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
        }
        fs::write(&first, "").unwrap();
        fs::hard_link(&first, &second).unwrap();
        let devices = Devices::new(Vec::new(), node.path().to_owned());
        let mut candidates = devices.candidates();
        let candidate = candidates.pop().unwrap();
        assert!(candidates.is_empty() && candidate.paths.len() == 2);
        fs::remove_file(&candidate.paths[0]).unwrap();
        fs::write(&candidate.paths[0], "another's").unwrap();
        assert!(candidate.open().is_ok());
        fs::remove_file(&candidate.paths[1]).unwrap();
        assert!(candidate.open().is_err());
    }

    #[test]
    fn processes_are_told_from_other_files() {
        assert!(
            is_process(Path::new("/proc/1")) && !is_process(Path::new("/proc/self")) && !is_process(Path::new("/"))
        );
    }
}
