//! Flows that an agent of another ABI left: taken over if their layout can be read, so that an upgrade cuts no connection.
//!
//! The programs of the earlier agent go on with their own tables until ours are in their place, device by device. A device's
//! flows are copied right before that, and what came meanwhile right after it. From the first copy on those programs judge no
//! request by themselves: of what they let through the copy would not know, and the engine would miss it.

use std::{os::fd::AsFd as _, path::Path, thread, time::Duration};

use aya::maps::{Array, HashMap, IterableMap as _, Map, MapData, MapError};
use seventh_abi::{ConfigFlags, DatapathConfig, FLOW_LAYOUTS_READ, FlowKey, FlowState, names};
use tracing::{info, warn};

use crate::{DatapathError, batch, object::other_versions};

/// `BPF_NOEXIST`: what our programs know by now is newer.
const ONLY_NEW: u64 = 1;

/// A program that has begun with a packet is done with it long before.
const GRACE: Duration = Duration::from_millis(5);

/// What an earlier agent left.
struct Earlier {
    config: Array<MapData, DatapathConfig>,
    flows: HashMap<MapData, FlowKey, FlowState>,
}

/// What earlier agents left.
#[derive(Default)]
pub(crate) struct CarryOver {
    earlier: Vec<Earlier>,
    /// Their programs were told.
    told: bool,
    /// Something was enforced here under another ABI, whether its flows can be read or not.
    found: bool,
}

/// When a device's flows are copied.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Ours are not there yet.
    BeforeSwap,
    /// What our programs have not seen yet.
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

    /// Copies the flows of one device. They carry no epoch: each is decided again with its next packet.
    ///
    /// The tables are read for each pass, although they hold all devices' flows: between two devices any time may go by, and what
    /// an earlier read has of a flow that went on since would stay, because the second pass writes over nothing.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn copy(
        &mut self,
        ifindex: u32,
        to: &mut HashMap<MapData, FlowKey, FlowState>,
        pass: Pass,
    ) -> Result<(), DatapathError> {
        self.tell()?;
        let error = DatapathError::map(names::FLOWS);
        let flags = if pass == Pass::AfterSwap { ONLY_NEW } else { 0 };
        let mut copied = 0_u32;
        for Earlier { flows, .. } in &self.earlier {
            for (key, flow) in all(flows).into_iter().filter(|(key, _)| key.ifindex == ifindex) {
                match to.insert(key, FlowState { epoch: 0, ..flow }, flags) {
                    Ok(()) => copied += 1,
                    // Not new: `BPF_NOEXIST` says so.
                    Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::EEXIST) => {}
                    Err(e) => return Err(error(e)),
                }
            }
        }
        if copied > 0 {
            info!(
                ifindex,
                flows = copied,
                "flows taken over from an agent of another version"
            );
        }
        Ok(())
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

/// A snapshot of a table: with few calls where the kernel can do that, since it may be large and packets do not wait.
fn all(table: &HashMap<MapData, FlowKey, FlowState>) -> Vec<(FlowKey, FlowState)> {
    match batch::read(table.map().fd().as_fd()) {
        Ok(rows) => rows,
        Err(_) => table.iter().filter_map(Result::ok).collect(),
    }
}
