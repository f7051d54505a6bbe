//! The handle that the agent holds.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    os::fd::{AsRawFd as _, OwnedFd},
    path::PathBuf,
};

use aya::{Ebpf, maps::MapError, programs::links::PinnedLink};
use seventh_abi::{
    ABI_VERSION, ConfigFlags, DatapathConfig, Endpoint, EndpointFlags, FLOW_LAYOUT, FlowKey, FlowState, IdleLimits,
    IpcacheEntry, POLICY_SHUT, PUNT_IFINDEX_MAX, PolicyKey, RequestState, WORKERS_MAX, names,
};
use tracing::{debug, info};

use crate::{
    AnswerReader, AttachMode, CopyReader, CounterReader, DatapathError, EventReader, FillReader, FlowTable,
    IpcachePrefix, NameTable, PieceReader, PolicyRow, Prober, PuntChannel, RequestReader,
    attach::{self, Attached, Attachment},
    carry_over::{CarryOver, TakeOver},
    maps::{self, Maps},
    object::{self, LoadedProgram},
    punt_pair::{PuntPair, ifindex, largest_mtu},
    requests::{RequestMaps, RequestTables, hash_key},
    shares::Shares,
    xsk::Xsk,
};

/// How the datapath is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory on a bpf file system, for this agent alone.
    pub bpffs: PathBuf,
    /// Workers, each with a punt pair and an AF_XDP socket; 1 to [`WORKERS_MAX`].
    pub workers: usize,
    /// Bits of `skb->mark` for frames that come back from the engine; not zero.
    pub mark: u32,
    /// How programs are attached.
    pub attach: AttachMode,
    /// Names of punt devices begin with this; at most 10 bytes.
    pub device_prefix: String,
    /// Entries of the flow table.
    pub flows_max: u32,
    /// Rows of the policy table.
    pub policy_entries_max: u32,
    /// Prefixes of the ipcache.
    pub ipcache_entries_max: u32,
    /// Addresses in the table of names.
    pub names_max: u32,
    /// Endpoints.
    pub endpoints_max: u32,
    /// TCP flows without a packet for so long are forgotten, in seconds.
    pub tcp_idle_s: u64,
    /// TCP flows after FIN or RST, or before the first reply, in seconds.
    pub tcp_closing_s: u64,
    /// All other flows, in seconds.
    pub other_idle_s: u64,
    /// While no agent runs, what would have to be inspected passes.
    pub open_without_agent: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            bpffs: PathBuf::from("/sys/fs/bpf/seventh"),
            workers: 1,
            mark: 0x400,
            attach: AttachMode::Auto,
            device_prefix: "seventh".to_owned(),
            flows_max: 262_144,
            policy_entries_max: 1 << 20,
            ipcache_entries_max: 1 << 20,
            names_max: 262_144,
            endpoints_max: 4096,
            // As long as Cilium's: 6 hours, 10 seconds, 1 minute.
            tcp_idle_s: 21_600,
            tcp_closing_s: 10,
            other_idle_s: 60,
            open_without_agent: false,
        }
    }
}

/// Punt pairs carry at least ordinary Ethernet, at most jumbo frames.
const PUNT_MTU_MIN: u32 = 1500;
const PUNT_MTU_MAX: u32 = 9216;
/// How much longer than its name's prefix a punt device's name may get, and the kernel's limit.
const DEVICE_SUFFIX: usize = 3;
const DEVICE_NAME_MAX: usize = 15;

/// The loaded programs, their maps and attachments.
pub struct Datapath {
    settings: Settings,
    object: Ebpf,
    maps: Maps,
    links: PathBuf,
    pairs: Vec<PuntPair>,
    punt_mtu: u32,
    endpoints: HashMap<u32, Vec<Attached>>,
    punt_attachments: Vec<Attached>,
    /// As [`Attached`] holds its own.
    xdp_links: Vec<PinnedLink>,
    /// Keeps the workers' sockets in the kernel's table after their workers: a worker that died in an agent that lives is no
    /// reason to let anything pass unread.
    sockets: Vec<OwnedFd>,
    events: Option<EventReader>,
    answers: Option<AnswerReader>,
    pieces: Option<PieceReader>,
    names: Option<NameTable>,
    copies: Option<CopyReader>,
    requests: Option<RequestReader>,
    request_maps: Option<RequestMaps>,
    carry_over: CarryOver,
}

impl Datapath {
    /// Loads the programs, takes over what an earlier agent pinned, makes the punt pairs and opens their sockets.
    /// Endpoints that an earlier agent attached stay under its verdicts until they are attached or forgotten.
    ///
    /// Returns one channel per worker, in order.
    ///
    /// # Errors
    /// The first step that failed; what was made before it is left for the next attempt to replace.
    pub async fn start(settings: Settings) -> Result<(Self, Vec<Box<dyn PuntChannel>>), DatapathError> {
        check(&settings)?;
        let mut object = object::load(&settings)?;
        let links = settings.bpffs.join("links");
        object::create_private_dir(&links)?;
        let carry_over = CarryOver::find(&settings.bpffs)?;
        let mut datapath = Self {
            maps: Maps::take(&mut object)?,
            events: Some(EventReader::new(maps::take_events(&mut object)?)),
            names: Some(NameTable::take(&mut object)?),
            copies: Some(CopyReader::take(&mut object)?),
            answers: Some(AnswerReader::new(maps::take_answers(&mut object)?)),
            pieces: Some(PieceReader::new(maps::take_pieces(&mut object)?)),
            requests: Some(RequestReader::take(&mut object)?),
            request_maps: Some(RequestMaps::take(&mut object)?),
            punt_mtu: largest_mtu(PUNT_MTU_MIN, PUNT_MTU_MAX).await?,
            settings,
            object,
            links,
            pairs: Vec::new(),
            endpoints: HashMap::new(),
            punt_attachments: Vec::new(),
            xdp_links: Vec::new(),
            sockets: Vec::new(),
            carry_over,
        };
        let mut channels: Vec<Box<dyn PuntChannel>> = Vec::new();
        for worker in 0..datapath.settings.workers {
            channels.push(Box::new(datapath.open_worker(worker).await?));
        }
        datapath.write_config()?;
        for program in datapath.programs()? {
            debug!(program.name, program.verified_instructions, "program loaded");
        }
        info!(
            workers = datapath.pairs.len(),
            punt_mtu = datapath.punt_mtu,
            "datapath loaded"
        );
        Ok((datapath, channels))
    }

    /// The programs that the kernel has taken: all, or on kernels that lack what one needs all others.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn programs(&self) -> Result<Vec<LoadedProgram>, DatapathError> {
        object::loaded(&self.object)
    }

    async fn open_worker(&mut self, worker: usize) -> Result<Xsk, DatapathError> {
        let pair = PuntPair::create(&self.settings.device_prefix, worker, self.punt_mtu).await?;
        let at = Attachment {
            program: names::TC_FROM_PUNT,
            interface: pair.near.clone(),
            ifindex: pair.near_ifindex,
            ingress: true,
        };
        let used = attach::attach(&mut self.object, &at, self.settings.attach, &self.links)?;
        self.punt_attachments.push(used);
        let link = attach::attach_xdp(&mut self.object, &pair.far, pair.far_ifindex, &self.links)?;
        self.xdp_links.push(link);
        pair.up().await?;
        let shares = Shares::open(&self.object, worker, Xsk::room(self.punt_mtu))?;
        let socket = Xsk::open(&pair.far, pair.far_ifindex, self.punt_mtu, shares)?;
        let index = u32::try_from(worker).map_err(|_| setting("workers", "too many"))?;
        self.maps.set_punt_worker(pair.far_ifindex, index)?;
        self.maps
            .xsks
            .set(index, socket.fd().as_raw_fd(), 0)
            .map_err(DatapathError::map(names::XSKS))?;
        if self.settings.open_without_agent {
            let held = socket.fd().try_clone_to_owned();
            self.sockets.push(held.map_err(|source| DatapathError::Socket {
                device: pair.far.clone(),
                step: "second handle",
                source,
            })?);
        }
        self.pairs.push(pair);
        Ok(socket)
    }

    fn write_config(&mut self) -> Result<(), DatapathError> {
        let mut punt_ifindex = [0; WORKERS_MAX];
        for (slot, pair) in punt_ifindex.iter_mut().zip(&self.pairs) {
            *slot = pair.near_ifindex;
        }
        let config = DatapathConfig {
            abi_version: ABI_VERSION,
            mark: self.settings.mark,
            workers: u32::try_from(self.pairs.len()).map_err(|_| setting("workers", "too many"))?,
            punt_mtu: self.punt_mtu,
            flags: if self.settings.open_without_agent {
                ConfigFlags::OPEN_WITHOUT_AGENT
            } else {
                0
            },
            flow_layout: FLOW_LAYOUT,
            punt_ifindex,
            idle: self.idle_limits(),
            hash_key: hash_key(self.maps.config.get(&0, 0).ok(), self.carry_over.config())?,
        };
        self.maps
            .config
            .set(0, config, 0)
            .map_err(DatapathError::map(names::CONFIG))
    }

    /// Attaches both programs to the host-side device of an endpoint and returns its interface index. Set the endpoint
    /// first: a device without an entry passes nothing.
    ///
    /// # Errors
    /// No such device, its index is over [`PUNT_IFINDEX_MAX`], or the kernel refuses.
    pub fn attach_endpoint(&mut self, interface: &str) -> Result<u32, DatapathError> {
        self.attach_endpoint_watched(interface, |_| ())
    }

    /// The same, and calls `watch` in the moments of it, if flows of an agent of another version are taken over.
    ///
    /// # Errors
    /// As above.
    #[doc(hidden)]
    pub fn attach_endpoint_watched(
        &mut self,
        interface: &str,
        mut watch: impl FnMut(TakeOver),
    ) -> Result<u32, DatapathError> {
        let ifindex = ifindex(interface)?;
        if ifindex > PUNT_IFINDEX_MAX {
            return Err(DatapathError::IndexTooHigh {
                interface: interface.to_owned(),
                ifindex,
            });
        }
        let attached = if self.carry_over.is_empty() {
            self.attach_programs(interface, ifindex)?
        } else {
            self.carry_over.copy_unread(ifindex, &mut self.maps.flows)?;
            watch(TakeOver::BeforeSwap);
            self.let_wait(ifindex, true)?;
            let attached = self.attach_programs(interface, ifindex)?;
            watch(TakeOver::AfterSwap);
            self.carry_over.move_all(ifindex, &mut self.maps.flows)?;
            self.let_wait(ifindex, false)?;
            attached
        };
        self.endpoints.insert(ifindex, attached);
        Ok(ifindex)
    }

    fn attach_programs(&mut self, interface: &str, ifindex: u32) -> Result<Vec<Attached>, DatapathError> {
        let mut attached = Vec::new();
        for (program, ingress) in [(names::TC_FROM_ENDPOINT, true), (names::TC_TO_ENDPOINT, false)] {
            let at = Attachment {
                program,
                interface: interface.to_owned(),
                ifindex,
                ingress,
            };
            attached.push(attach::attach(
                &mut self.object,
                &at,
                self.settings.attach,
                &self.links,
            )?);
        }
        Ok(attached)
    }

    /// Whether packets of connections wait that may still come to be known, if anything is enforced at the endpoint.
    fn let_wait(&mut self, ifindex: u32, waits: bool) -> Result<(), DatapathError> {
        let endpoint = match self.maps.endpoints.get(&ifindex, 0) {
            Ok(endpoint) if endpoint.flags & EndpointFlags::ENFORCE != 0 => endpoint,
            // A device without an entry passes nothing.
            Ok(_) | Err(MapError::KeyNotFound) => return Ok(()),
            Err(e) => return Err(DatapathError::map(names::ENDPOINTS)(e)),
        };
        let others = endpoint.flags & !EndpointFlags::TAKES_OVER;
        let flags = if waits {
            others | EndpointFlags::TAKES_OVER
        } else {
            others
        };
        self.set_endpoint(ifindex, Endpoint { flags, ..endpoint })
    }

    /// Takes the programs off an endpoint's device and removes its entry.
    ///
    /// # Errors
    /// The kernel refuses; the endpoint is still enforced then.
    pub fn detach_endpoint(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        for attached in self.endpoints.remove(&ifindex).unwrap_or_default() {
            attach::detach(&attached, &self.links)?;
        }
        self.remove_endpoint(ifindex)
    }

    fn remove_endpoint(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        match self.maps.endpoints.remove(&ifindex) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(e) => Err(DatapathError::map(names::ENDPOINTS)(e)),
        }
    }

    /// Sets what the kernel knows of an endpoint; takes effect for the next packet as a whole.
    ///
    /// # Errors
    /// The map is full.
    pub fn set_endpoint(&mut self, ifindex: u32, endpoint: Endpoint) -> Result<(), DatapathError> {
        maps::set(&mut self.maps.endpoints, names::ENDPOINTS, ifindex, endpoint)
    }

    /// To be called before policies speak of endpoints, by their devices, of which none spoke: what passed there meanwhile left
    /// no mark in the flows that are known from before. Those that are read would go on from a place that is none any more, so
    /// they are forgotten, and their connections taken for what they are, begun unseen.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn forget_unmanaged(&mut self, devices: impl Iterator<Item = u32>) -> Result<(), DatapathError> {
        let unmanaged = |ifindex: &u32| self.maps.endpoints.get(ifindex, 0).is_ok_and(|known| known.flags == 0);
        let devices: HashSet<u32> = devices.filter(unmanaged).collect();
        if devices.is_empty() {
            return Ok(());
        }
        self.maps.forget_read(&devices)
    }

    /// Endpoints that the kernel knows, also those of an earlier agent: a new agent continues their epochs and uses
    /// policy ids beyond theirs.
    #[must_use]
    pub fn endpoints(&self) -> HashMap<u32, Endpoint> {
        self.maps.endpoints.iter().filter_map(Result::ok).collect()
    }

    /// Devices on which an earlier agent has enforced and this one does not (yet).
    #[must_use]
    pub fn left_devices(&self) -> BTreeSet<u32> {
        let left = self
            .endpoints()
            .into_keys()
            .chain(attach::endpoints_with_links(&self.links));
        left.filter(|ifindex| !self.endpoints.contains_key(ifindex)).collect()
    }

    /// Whether an earlier agent, of this ABI or another, has left something in force; to be asked before anything is set.
    #[must_use]
    pub fn takes_over(&self) -> bool {
        self.carry_over.found() || !self.endpoints().is_empty()
    }

    /// Forgets endpoints and attachments of an earlier agent that are not attached now, rows of policies that no
    /// endpoint uses, and maps of other ABI versions. Call when all endpoints are attached and set.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn forget_stale(&mut self) -> Result<(), DatapathError> {
        let attached = self.endpoints.values().flatten().chain(&self.punt_attachments);
        let keep: Vec<Attachment> = attached.map(|attached| attached.at.clone()).collect();
        let keep_xdp: Vec<u32> = self.pairs.iter().map(|pair| pair.far_ifindex).collect();
        attach::remove_stale_links(&self.links, &keep, &keep_xdp)?;
        for ifindex in self
            .endpoints()
            .into_keys()
            .filter(|i| !self.endpoints.contains_key(i))
            .collect::<Vec<_>>()
        {
            self.remove_endpoint(ifindex)?;
        }
        self.retain_policies()?;
        self.carry_over = CarryOver::default();
        object::remove_other_versions(&self.settings.bpffs)
    }

    /// Writes rows of the policy table. They mean nothing until an endpoint's `policy_id` names them.
    ///
    /// # Errors
    /// The table is full; rows written before stay and are removed by the next [`Self::retain_policies`].
    pub fn write_policy(&mut self, rows: impl Iterator<Item = PolicyRow>) -> Result<(), DatapathError> {
        self.maps.write_policy(rows)
    }

    /// Removes single rows, by prefix length and key; rows that are not there are no error.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove_policy_rows(&mut self, rows: impl Iterator<Item = (u32, PolicyKey)>) -> Result<(), DatapathError> {
        self.maps.remove_policy_rows(rows)
    }

    /// Removes the rows of policies that no endpoint uses, but those of endpoints that are shut; says how many.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn retain_policies(&mut self) -> Result<usize, DatapathError> {
        let used = |endpoint: &Endpoint| [endpoint.policy_id, endpoint.audit_policy_id];
        let used = self.endpoints().into_values().flat_map(|endpoint| used(&endpoint));
        let keep: HashSet<u32> = used.chain([POLICY_SHUT]).collect();
        self.maps.retain_policies(&keep)
    }

    /// Every row of the policy table, as the kernel has it.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn policy_rows(&self) -> Result<Vec<PolicyRow>, DatapathError> {
        self.maps.policy_rows()
    }

    /// Every prefix of the ipcache, as the kernel has it.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn ipcache(&self) -> Result<HashMap<IpcachePrefix, IpcacheEntry>, DatapathError> {
        self.maps.ipcache()
    }

    /// Makes the ipcache hold exactly `wanted`.
    ///
    /// # Errors
    /// The map is full.
    pub fn sync_ipcache(&mut self, wanted: &HashMap<IpcachePrefix, IpcacheEntry>) -> Result<(), DatapathError> {
        self.maps.sync_ipcache(wanted)
    }

    /// Writes one prefix of the ipcache, for who knows what is in it.
    ///
    /// # Errors
    /// The map is full.
    pub fn add_to_ipcache(&mut self, prefix: IpcachePrefix, entry: IpcacheEntry) -> Result<(), DatapathError> {
        self.maps.add_to_ipcache(prefix, entry)
    }

    /// Removes prefixes of the ipcache; those that are not there are no error.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove_from_ipcache(&mut self, prefixes: impl Iterator<Item = IpcachePrefix>) -> Result<(), DatapathError> {
        self.maps.remove_from_ipcache(prefixes)
    }

    /// Sums of the kernel's counters, by [`seventh_abi::Counter`] and [`seventh_abi::drop_counter`].
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn counters(&self) -> Result<Vec<u64>, DatapathError> {
        self.maps.counters.all()
    }

    /// A handle of the counters for somebody who must not wait for this one.
    #[must_use]
    pub fn counter_reader(&self) -> CounterReader {
        self.maps.counters.clone()
    }

    /// How long the kernel remembers flows.
    #[must_use]
    pub fn idle_limits(&self) -> IdleLimits {
        let nanoseconds = |s: u64| s.saturating_mul(1_000_000_000);
        IdleLimits {
            tcp_ns: nanoseconds(self.settings.tcp_idle_s),
            tcp_closing_ns: nanoseconds(self.settings.tcp_closing_s),
            other_ns: nanoseconds(self.settings.other_idle_s),
        }
    }

    /// A snapshot of the flow table, of so many entries at most.
    #[must_use]
    pub fn flows(&self, max: usize) -> Vec<(FlowKey, FlowState)> {
        self.maps.flows(max)
    }

    /// Counts entries of the maps.
    ///
    /// # Errors
    /// A map cannot be opened a second time.
    pub fn fill_reader(&self) -> Result<FillReader, DatapathError> {
        FillReader::open(&object::maps_dir(&self.settings.bpffs))
    }

    /// The table of names; the first caller gets it.
    pub fn take_names(&mut self) -> Option<NameTable> {
        self.names.take()
    }

    /// A second handle of the flow table.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn flow_table(&self) -> Result<FlowTable, DatapathError> {
        FlowTable::open(&object::maps_dir(&self.settings.bpffs))
    }

    /// The reader of the kernel's events; the first caller gets it.
    pub fn take_events(&mut self) -> Option<EventReader> {
        self.events.take()
    }

    /// The reader of beginnings of answers; the first caller gets it.
    pub fn take_answers(&mut self) -> Option<AnswerReader> {
        self.answers.take()
    }

    /// The reader of pieces of answers; the first caller gets it.
    pub fn take_pieces(&mut self) -> Option<PieceReader> {
        self.pieces.take()
    }

    /// The kernel's automata of requests, all of which go on in those of `grammar`; the first caller gets them.
    pub fn take_request_tables(&mut self, grammar: Vec<RequestState>) -> Option<RequestTables> {
        Some(self.request_maps.take()?.with(grammar))
    }

    /// The reader of requests that the kernel let pass; the first caller gets it.
    pub fn take_requests(&mut self) -> Option<RequestReader> {
        self.requests.take()
    }

    /// The reader of copies; the first caller gets it.
    pub fn take_copies(&mut self) -> Option<CopyReader> {
        self.copies.take()
    }

    /// Punt devices that somebody has taken away: what would be inspected through them is dropped.
    #[must_use]
    pub fn lost_devices(&self) -> Vec<&str> {
        let ends = self
            .pairs
            .iter()
            .flat_map(|pair| [(&pair.near, pair.near_ifindex), (&pair.far, pair.far_ifindex)]);
        ends.filter(|(name, index)| ifindex(name).ok() != Some(*index))
            .map(|(name, _)| name.as_str())
            .collect()
    }

    /// Who sends probes to the workers.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn prober(&self) -> std::io::Result<Prober> {
        Prober::new(&self.pairs)
    }

    /// Whether what is in force is pinned still. If somebody has taken the file system away, it ends with this agent.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.links.is_dir() && object::maps_dir(&self.settings.bpffs).is_dir()
    }

    /// How endpoints are attached: what [`AttachMode::Auto`] has come to.
    #[must_use]
    pub fn attach_mode(&self) -> AttachMode {
        self.punt_attachments
            .first()
            .map_or(self.settings.attach, |attached| attached.mode)
    }

    /// Ends. With `keep` everything stays in force without an agent: L3/L4 verdicts as they are, flows that need a new
    /// L7 verdict dropped. Without, programs, maps and devices are removed and all traffic passes.
    ///
    /// # Errors
    /// The first thing that could not be removed.
    pub async fn stop(mut self, keep: bool) -> Result<(), DatapathError> {
        if keep {
            return Ok(());
        }
        for ifindex in self.endpoints.keys().copied().collect::<Vec<_>>() {
            self.detach_endpoint(ifindex)?;
        }
        for attached in std::mem::take(&mut self.punt_attachments) {
            attach::detach(&attached, &self.links)?;
        }
        self.xdp_links.clear();
        for pair in &self.pairs {
            PuntPair::remove(&pair.near).await?;
        }
        object::remove_all(&self.settings.bpffs)
    }
}

fn check(settings: &Settings) -> Result<(), DatapathError> {
    if !(1..=WORKERS_MAX).contains(&settings.workers) {
        return Err(setting("workers", format!("must be 1 to {WORKERS_MAX}")));
    }
    if settings.mark == 0 {
        return Err(setting("mark", "must have at least one bit"));
    }
    if settings.device_prefix.is_empty() || settings.device_prefix.len() + DEVICE_SUFFIX > DEVICE_NAME_MAX {
        return Err(setting(
            "device_prefix",
            format!("must be 1 to {} bytes", DEVICE_NAME_MAX - DEVICE_SUFFIX),
        ));
    }
    Ok(())
}

fn setting(field: &'static str, reason: impl Into<String>) -> DatapathError {
    DatapathError::Setting {
        field,
        reason: reason.into(),
    }
}
