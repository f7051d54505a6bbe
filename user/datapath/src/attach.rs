//! Attaching TC programs so that they outlive the agent: tcx links pinned by path, or clsact filters, which stay by
//! themselves.

use std::{
    fs, io, mem,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        links::{FdLink, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
        xdp::XdpMode,
    },
    sys::SyscallError,
};
use seventh_abi::names;

use crate::{
    DatapathError,
    error::chain,
    object::{classifier, pin_error, xdp},
};

/// How TC programs are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachMode {
    /// tcx where the kernel has it (6.6), else clsact.
    #[default]
    Auto,
    /// tcx links only.
    Tcx,
    /// The clsact queueing discipline only.
    Clsact,
}

/// Filters of ours under clsact: first in line, one handle.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// One place where a program sits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attachment {
    pub(crate) program: &'static str,
    pub(crate) interface: String,
    pub(crate) ifindex: u32,
    pub(crate) ingress: bool,
}

impl Attachment {
    fn kind(&self) -> TcAttachType {
        if self.ingress {
            TcAttachType::Ingress
        } else {
            TcAttachType::Egress
        }
    }

    fn link_path(&self, links: &Path) -> PathBuf {
        let side = if self.ingress { "ingress" } else { "egress" };
        links.join(format!("{}-{side}", self.ifindex))
    }

    fn error(&self, reason: impl Into<String>) -> DatapathError {
        DatapathError::Attach {
            program: self.program,
            interface: self.interface.clone(),
            reason: reason.into(),
        }
    }
}

/// A program where it was attached. Its link is held beside the pin: if the file system of pins goes away while the agent
/// lives, the gate stays closed.
pub(crate) struct Attached {
    pub(crate) at: Attachment,
    pub(crate) mode: AttachMode,
    /// None under clsact, where a filter stays by itself.
    _held: Option<PinnedLink>,
}

impl Attached {
    fn pinned(at: &Attachment, path: &Path) -> Result<Self, DatapathError> {
        Ok(Self {
            at: at.clone(),
            mode: AttachMode::Tcx,
            _held: Some(held(at, path)?),
        })
    }
}

/// The link that is pinned there.
fn held(at: &Attachment, path: &Path) -> Result<PinnedLink, DatapathError> {
    PinnedLink::from_pin(path).map_err(|e| at.error(chain(&e)))
}

/// Attaches, or swaps the program under an attachment that an earlier agent left, without a gap.
pub(crate) fn attach(
    object: &mut Ebpf,
    at: &Attachment,
    mode: AttachMode,
    links: &Path,
) -> Result<Attached, DatapathError> {
    let program = classifier(object, at.program)?;
    match mode {
        AttachMode::Tcx => attach_tcx(program, at, links),
        AttachMode::Clsact => attach_clsact(program, at),
        AttachMode::Auto => match attach_tcx(program, at, links) {
            Err(DatapathError::Attach { reason, .. }) if reason.contains("Invalid argument") => {
                attach_clsact(program, at)
            }
            result => result,
        },
    }
}

fn attach_tcx(program: &mut SchedClassifier, at: &Attachment, links: &Path) -> Result<Attached, DatapathError> {
    let path = at.link_path(links);
    if let Ok(pinned) = PinnedLink::from_pin(&path) {
        let link = SchedClassifierLink::try_from(FdLink::from(pinned)).map_err(|e| at.error(chain(&e)))?;
        if program.attach_to_link(link).is_ok() {
            // The pin still names the same kernel object.
            return Attached::pinned(at, &path);
        }
        // The link outlived its device; another device has its index now.
        fs::remove_file(&path).map_err(pin_error(&path))?;
    }
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program
        .attach_with_options(&at.interface, at.kind(), order)
        .map_err(|e| at.error(chain(&e)))?;
    let link = program.take_link(id).map_err(|e| at.error(chain(&e)))?;
    let link = FdLink::try_from(link).map_err(|e| at.error(chain(&e)))?;
    link.pin(&path).map_err(|e| at.error(chain(&e)))?;
    Attached::pinned(at, &path)
}

fn attach_clsact(program: &mut SchedClassifier, at: &Attachment) -> Result<Attached, DatapathError> {
    // One clsact serves both directions, and somebody else may have made it.
    if let Err(e) = tc::qdisc_add_clsact(&at.interface) {
        let reason = chain(&e);
        if !reason.contains("File exists") {
            return Err(at.error(reason));
        }
    }
    let options = NlOptions {
        priority: PRIORITY,
        handle: HANDLE,
        ..NlOptions::default()
    };
    let id = match program.attach_with_options(&at.interface, at.kind(), TcAttachOptions::Netlink(options)) {
        Ok(id) => id,
        Err(first) => {
            let link = clsact_link(at).map_err(|e| at.error(e.to_string()))?;
            program
                .attach_to_link(link)
                .map_err(|e| at.error(format!("{}; then {}", chain(&first), chain(&e))))?
        }
    };
    let link = program.take_link(id).map_err(|e| at.error(chain(&e)))?;
    // Dropping the link would take the filter away; it is meant to stay.
    mem::forget(link);
    Ok(Attached {
        at: at.clone(),
        mode: AttachMode::Clsact,
        _held: None,
    })
}

fn clsact_link(at: &Attachment) -> io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(&at.interface, at.kind(), PRIORITY, HANDLE, None)
}

/// Takes the program away.
pub(crate) fn detach(attached: &Attached, links: &Path) -> Result<(), DatapathError> {
    if attached.mode == AttachMode::Clsact {
        // Dropped at the end of the statement, and the filter with it. A device that is gone took the filter along.
        drop(clsact_link(&attached.at));
        return Ok(());
    }
    remove_link(&attached.at.link_path(links))
}

/// Devices at which an earlier agent left programs of an endpoint, as far as links tell (not under clsact).
pub(crate) fn endpoints_with_links(links: &Path) -> Vec<u32> {
    let names = fs::read_dir(links).into_iter().flatten().flatten();
    let index = |name: String| name.strip_suffix("-egress")?.parse().ok();
    names
        .filter_map(|entry| index(entry.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// Removes the pins of everything else: of endpoints and punt pairs that went away while no agent ran.
pub(crate) fn remove_stale_links(links: &Path, keep: &[Attachment], keep_xdp: &[u32]) -> Result<(), DatapathError> {
    let mut keep: Vec<PathBuf> = keep.iter().map(|at| at.link_path(links)).collect();
    keep.extend(keep_xdp.iter().map(|&ifindex| xdp_link_path(links, ifindex)));
    for entry in fs::read_dir(links).map_err(pin_error(links))?.flatten() {
        if !keep.contains(&entry.path()) {
            remove_link(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_link(path: &Path) -> Result<(), DatapathError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(pin_error(path)(e)),
        _ => Ok(()),
    }
}

/// Attaches `xdp_punt` natively and pins the link: generic XDP never sees a redirected frame, so there is no fall-back.
pub(crate) fn attach_xdp(
    object: &mut Ebpf,
    interface: &str,
    ifindex: u32,
    links: &Path,
) -> Result<PinnedLink, DatapathError> {
    let error = |reason: String| DatapathError::Attach {
        program: names::XDP_PUNT,
        interface: interface.to_owned(),
        reason,
    };
    let path = xdp_link_path(links, ifindex);
    remove_link(&path)?;
    let program = xdp(object)?;
    let id = program
        .attach_to_if_index(ifindex, XdpMode::Driver)
        .map_err(|e| error(xdp_reason(&e)))?;
    let link = program.take_link(id).map_err(|e| error(chain(&e)))?;
    let link = FdLink::try_from(link).map_err(|e| error(chain(&e)))?;
    link.pin(&path).map_err(|e| error(chain(&e)))
}

fn xdp_link_path(links: &Path, ifindex: u32) -> PathBuf {
    links.join(format!("{ifindex}-xdp"))
}

fn xdp_reason(error: &ProgramError) -> String {
    match error {
        ProgramError::SyscallError(SyscallError { io_error, .. })
            if io_error.raw_os_error() == Some(libc::EOPNOTSUPP) =>
        {
            "this kernel's veth has no native XDP (needs Linux 4.19)".to_owned()
        }
        ProgramError::SyscallError(SyscallError { io_error, .. }) if io_error.raw_os_error() == Some(libc::ERANGE) => {
            "some device's MTU is too large for XDP before Linux 5.18: make it smaller, or use a newer kernel"
                .to_owned()
        }
        other => chain(other),
    }
}
