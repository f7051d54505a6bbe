//! Flows that an agent of another ABI left: taken over if their layout can be read, so that an upgrade cuts no connection.
//!
//! The programs of the earlier agent go on with their own tables until ours are in their place, device by device. What an entry
//! says of a connection that is read must be all that has passed by then: were the last byte of a body counted only in a table
//! that nobody looks at any more, no request could begin behind it, and what passed there unread would be taken for what never
//! came. An entry that ours have begun to change cannot be set right from here any more: the kernel only replaces whole ones,
//! and with them what it changes in this moment. So no flow that is read gets an entry before it has come to rest. For each
//! device:
//!
//! 1. The earlier programs judge no request by themselves from now on: their records of it would be read by nobody.
//! 2. Flows that nobody reads are copied. All that is asked of those is that they pass.
//! 3. Ours take the place of the earlier programs, first at one side of the device and then at the other. They drop what comes
//!    of TCP that begins no connection and belongs to no flow they know ([`seventh_abi::EndpointFlags::TAKES_OVER`]). So
//!    whatever passes of the flows that are still to come, the earlier programs let pass, and noted.
//! 4. When the last of those is done with its last packet, their entries of this device stand still. They are moved, and nothing
//!    waits any more; what was dropped comes again.
//!
//! They are moved and not copied: an agent that dies in between is followed by one that begins with step 1, and it must not find
//! what was known of a connection before it went on with ours. Where both have an entry, the one counts that has seen the later
//! packet. So of a flow that nobody reads, what the earlier programs saw last is missing if ours have seen a packet of it
//! before step 4. It matters if that was its end: the entry then lives as long as one of an open connection. One that
//! begins in step 3 takes the place of whatever had its addresses and ports before.

use std::{mem, os::fd::AsFd as _, path::Path, thread, time::Duration};

use aya::maps::{Array, HashMap, IterableMap as _, Map, MapData, MapError};
use seventh_abi::{
    ConfigFlags, DatapathConfig, FLOW_LAYOUTS_READ, FlowFlags, FlowKey, FlowState, PROTOCOL_TCP, Verdict, names,
};
use tracing::{info, warn};

use crate::{DatapathError, batch, object::other_versions};

/// `BPF_NOEXIST`: what our programs know by now is newer.
const ONLY_NEW: u64 = 1;

/// A program that has begun with a packet is done with it long before.
const GRACE: Duration = Duration::from_millis(5);

type Flows = HashMap<MapData, FlowKey, FlowState>;

/// What an earlier agent left.
struct Earlier {
    config: Array<MapData, DatapathConfig>,
    flows: Flows,
}

/// What earlier agents left.
#[derive(Default)]
pub(crate) struct CarryOver {
    earlier: Vec<Earlier>,
    /// Their programs were told.
    told: bool,
    /// Something was enforced here under another ABI, whether its flows can be read or not.
    found: bool,
    /// Flows of the device that is being taken over which come last.
    waiting: Vec<FlowKey>,
}

/// Moments while a device is taken over; see `carry_over.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeOver {
    /// Flows that nobody reads have been copied. The earlier programs are in their places.
    BeforeSwap,
    /// Ours are. The other flows have not come yet.
    AfterSwap,
}

impl CarryOver {
    /// Looks for tables of other versions.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub(crate) fn find(bpffs: &Path) -> Result<Self, DatapathError> {
        let mut found = Self::default();
        for dir in other_versions(bpffs)? {
            found.found = true;
            match open(&dir) {
                Ok(Some(earlier)) => found.earlier.push(earlier),
                Ok(None) => warn!(
                    dir = %dir.display(),
                    "flows of an agent of another version have another layout: they are decided anew, and inspected ones reset"
                ),
                Err(error) => warn!(
                    dir = %dir.display(), %error,
                    "flows of an agent of another version cannot be read: they are decided anew, and inspected ones reset"
                ),
            }
        }
        Ok(found)
    }

    /// Whether something was enforced under another ABI.
    pub(crate) fn found(&self) -> bool {
        self.found
    }

    /// The configuration of one of them, whose flows know its secrets.
    pub(crate) fn config(&self) -> Option<DatapathConfig> {
        self.earlier.iter().find_map(|earlier| earlier.config.get(&0, 0).ok())
    }

    /// From now on the earlier programs judge no request by themselves.
    fn tell(&mut self) -> Result<(), DatapathError> {
        if self.told || self.earlier.is_empty() {
            return Ok(());
        }
        for Earlier { config, .. } in &mut self.earlier {
            let error = DatapathError::map(names::CONFIG);
            let now = config.get(&0, 0).map_err(&error)?;
            let flags = now.flags | ConfigFlags::HANDS_OVER;
            config.set(0, DatapathConfig { flags, ..now }, 0).map_err(&error)?;
        }
        thread::sleep(GRACE);
        self.told = true;
        Ok(())
    }

    /// There is nothing to copy.
    pub(crate) fn is_empty(&self) -> bool {
        self.earlier.is_empty()
    }

    /// Copies the flows of one device that nobody reads, while the earlier programs are at work there.
    ///
    /// The tables are read anew, although they hold all devices' flows: between two devices any time may go by.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn copy_unread(&mut self, ifindex: u32, to: &mut Flows) -> Result<(), DatapathError> {
        self.tell()?;
        self.waiting.clear();
        for Earlier { flows, .. } in &self.earlier {
            for (key, flow) in of_device(flows, ifindex) {
                if waits(&key, &flow) {
                    self.waiting.push(key);
                } else {
                    put(to, &key, flow)?;
                }
            }
        }
        Ok(())
    }

    /// Moves all flows of one device, where ours are in the place of the earlier programs.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn move_all(&mut self, ifindex: u32, to: &mut Flows) -> Result<(), DatapathError> {
        thread::sleep(GRACE);
        let mut moved = 0_u32;
        let waiting = mem::take(&mut self.waiting);
        for Earlier { flows, .. } in &mut self.earlier {
            // To read the whole table takes longer, and connections wait for these.
            for key in &waiting {
                if let Ok(flow) = flows.get(key, 0) {
                    move_over(flows, key, flow, to)?;
                    moved += 1;
                }
            }
            for (key, flow) in of_device(flows, ifindex) {
                move_over(flows, &key, flow, to)?;
                moved += 1;
            }
        }
        if moved > 0 {
            info!(
                ifindex,
                flows = moved,
                "flows taken over from an agent of another version"
            );
        }
        Ok(())
    }
}

/// What the entry says must not be older than the last packet of its connection: it is read, or closed; or it is at an end, which
/// might be taken for the end of one that begins now.
fn waits(key: &FlowKey, flow: &FlowState) -> bool {
    let passes = flow.verdict == Verdict::Forward as u8 && flow.flags & FlowFlags::CLOSING == 0;
    key.protocol == PROTOCOL_TCP && !passes
}

/// Writes a flow, unless the entry that is there has seen a later packet. It carries no epoch: it is decided again with its next
/// packet.
fn put(to: &mut Flows, key: &FlowKey, flow: FlowState) -> Result<(), DatapathError> {
    let error = DatapathError::map(names::FLOWS);
    let flags = match to.get(key, 0) {
        Ok(present) if present.last_seen_ns >= flow.last_seen_ns => return Ok(()),
        Ok(_) => 0,
        Err(MapError::KeyNotFound) => ONLY_NEW,
        Err(e) => return Err(error(e)),
    };
    match to.insert(key, FlowState { epoch: 0, ..flow }, flags) {
        // Not new any more: `BPF_NOEXIST` says so.
        Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        result => result.map_err(error),
    }
}

fn move_over(from: &mut Flows, key: &FlowKey, flow: FlowState, to: &mut Flows) -> Result<(), DatapathError> {
    put(to, key, flow)?;
    match from.remove(key) {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(e) => Err(DatapathError::map(names::FLOWS)(e)),
    }
}

/// What lies in a directory of pins, if its layout can be read.
fn open(dir: &Path) -> Result<Option<Earlier>, DatapathError> {
    let error = DatapathError::map(names::CONFIG);
    let data = MapData::from_pin(dir.join(names::CONFIG)).map_err(&error)?;
    let Ok(config) = Array::<_, DatapathConfig>::try_from(Map::Array(data)) else {
        return Ok(None);
    };
    if !FLOW_LAYOUTS_READ.contains(&config.get(&0, 0).map_err(&error)?.flow_layout) {
        return Ok(None);
    }
    let error = DatapathError::map(names::FLOWS);
    let data = MapData::from_pin(dir.join(names::FLOWS)).map_err(&error)?;
    let flows = HashMap::try_from(Map::LruHashMap(data)).map_err(&error)?;
    Ok(Some(Earlier { config, flows }))
}

/// The flows of a device: with few calls where the kernel can do that, since the table may be large and packets do not wait.
fn of_device(table: &Flows, ifindex: u32) -> impl Iterator<Item = (FlowKey, FlowState)> + use<> {
    let all = match batch::read(table.map().fd().as_fd()) {
        Ok(rows) => rows,
        Err(_) => table.iter().filter_map(Result::ok).collect(),
    };
    all.into_iter().filter(move |(key, _)| key.ifindex == ifindex)
}
