//! The kernel object: loading, sizes, pins of its maps.

use std::{
    error::Error,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::ProgramArray,
    programs::{Program, ProgramError, ProgramType, SchedClassifier, Xdp},
    sys::{BpfHelper, is_helper_supported},
    util::KernelVersion,
};
use seventh_abi::{ABI_VERSION, SkbLayout, names};
use tracing::{info, warn};

use crate::{DatapathError, Settings, error::chain, skb_layout};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/seventh-kern"));

const MAPS: &[&str] = &[
    names::CONFIG,
    names::ENDPOINTS,
    names::IPCACHE,
    names::NAMES,
    names::POLICY,
    names::FLOWS,
    names::FRAGMENTS,
    names::PUNT_WORKERS,
    names::XSKS,
    names::COUNTERS,
    names::EVENTS,
    names::ANSWERS,
    names::ANSWER_PIECES,
    names::TAILS,
    names::SCRATCH,
    names::COPIES,
    names::COPY_SKIPS,
    names::REQUESTS,
];
/// By their places in the map of this name.
const TAILS: [(u32, &str); 2] = [(0, names::TC_ANSWERS), (1, names::TC_BESIDE)];
const TAIL_REQUESTS: u32 = 2;
/// How often a program is given to the verifier that was interrupted.
const LOADS_MAX: u32 = 5;
pub(crate) const TC_PROGRAMS: &[&str] = &[names::TC_FROM_ENDPOINT, names::TC_TO_ENDPOINT, names::TC_FROM_PUNT];

/// Loads the object and all its programs; maps that an earlier agent of the same ABI pinned are taken over.
pub(crate) fn load(settings: &Settings) -> Result<Ebpf, DatapathError> {
    let maps_dir = maps_dir(&settings.bpffs);
    for dir in [settings.bpffs.as_path(), maps_dir.as_path()] {
        create_private_dir(dir)?;
    }
    let flows = settings.flows_max;
    let skb_layout = skb_layout();
    let mut loader = EbpfLoader::new();
    loader
        .override_global(names::SKB_LAYOUT, &skb_layout, true)
        .map_max_entries(names::FLOWS, flows)
        .map_max_entries(names::POLICY, settings.policy_entries_max)
        .map_max_entries(names::IPCACHE, settings.ipcache_entries_max)
        .map_max_entries(names::NAMES, settings.names_max)
        .map_max_entries(names::ENDPOINTS, settings.endpoints_max)
        .verifier_log_level(VerifierLogLevel::STATS);
    for &name in MAPS {
        loader.map_pin_path(name, maps_dir.join(name));
    }
    let mut object = loader.load(OBJECT).map_err(|e| DatapathError::Load(chain(&e)))?;
    for &name in TC_PROGRAMS {
        let program = classifier(&mut object, name)?;
        patiently(|| program.load()).map_err(|e| DatapathError::Load(format!("{name}: {}", chain(&e))))?;
    }
    for (place, name) in TAILS {
        load_tail(&mut object, place, name)?;
    }
    load_requests(&mut object)?;
    let program = xdp(&mut object)?;
    patiently(|| program.load()).map_err(|e| DatapathError::Load(format!("{}: {}", names::XDP_PUNT, chain(&e))))?;
    Ok(object)
}

/// The verifier gives up as soon as its caller has a signal or other work to see to (`EAGAIN`), which may have nothing to do with
/// us: so, as libbpf does, it is asked again.
fn patiently(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    for _ in 1..LOADS_MAX {
        match load() {
            Err(ProgramError::LoadError { io_error, .. }) if io_error.raw_os_error() == Some(libc::EAGAIN) => {}
            result => return result,
        }
    }
    load()
}

/// Loads a program that others go on to. Its place is pinned as all maps are, and keeps it when the agent is gone.
fn load_tail(object: &mut Ebpf, place: u32, name: &'static str) -> Result<(), DatapathError> {
    let failed = |e: &dyn Error| DatapathError::Load(format!("{name}: {}", chain(e)));
    let tail = classifier(object, name)?;
    patiently(|| tail.load()).map_err(|e| failed(&e))?;
    let tail = tail.fd().map_err(|e| failed(&e))?;
    let tail = tail.try_clone().map_err(|e| failed(&e))?;
    let map = object
        .map_mut(names::TAILS)
        .ok_or(DatapathError::Missing(names::TAILS))?;
    let mut tails = ProgramArray::try_from(map).map_err(DatapathError::map(names::TAILS))?;
    tails.set(place, &tail, 0).map_err(DatapathError::map(names::TAILS))
}

/// It exchanges words atomically and has the kernel call back, which kernels before 5.17 do not know. There the engine reads
/// every request.
fn load_requests(object: &mut Ebpf) -> Result<(), DatapathError> {
    if kernel_is_before(5, 17)? {
        info!("the kernel judges no requests by itself before Linux 5.17");
        return Ok(());
    }
    load_tail(object, TAIL_REQUESTS, names::TC_REQUESTS)
}

/// What the programs need to see where checksums will be filled in. Not known, nothing is looked for.
fn skb_layout() -> SkbLayout {
    let reads = is_helper_supported(ProgramType::SchedClassifier, BpfHelper::BPF_FUNC_probe_read_kernel);
    let layout = if reads.unwrap_or(false) {
        skb_layout::of_kernel()
    } else {
        None
    };
    layout.unwrap_or_else(|| {
        warn!("this kernel does not tell where checksums will be filled in: whoever sends raw frames can change one afterwards");
        SkbLayout::UNKNOWN
    })
}

fn kernel_is_before(major: u8, minor: u8) -> Result<bool, DatapathError> {
    let version = KernelVersion::current().map_err(|e| DatapathError::Load(format!("version of the kernel: {e}")))?;
    Ok(version < KernelVersion::new(major, minor, 0))
}

/// A program that the kernel has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedProgram {
    /// Its name.
    pub name: String,
    /// How many instructions the verifier walked through, of at most a million. None before Linux 5.16, which does not tell.
    pub verified_instructions: Option<u32>,
}

/// All programs that are loaded, by name.
pub(crate) fn loaded(object: &Ebpf) -> Result<Vec<LoadedProgram>, DatapathError> {
    let mut programs = Vec::new();
    for (name, program) in object.programs() {
        let verified_instructions = match program.info() {
            Ok(info) => info.verified_instruction_count(),
            Err(ProgramError::NotLoaded) => continue,
            Err(e) => return Err(DatapathError::Load(format!("{name}: {}", chain(&e)))),
        };
        programs.push(LoadedProgram {
            name: name.to_owned(),
            verified_instructions,
        });
    }
    programs.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(programs)
}

/// Where this version pins its maps.
pub(crate) fn maps_dir(bpffs: &Path) -> PathBuf {
    bpffs.join(format!("maps-v{ABI_VERSION}"))
}

/// The TC program of this name.
pub(crate) fn classifier<'a>(
    object: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, DatapathError> {
    object
        .program_mut(name)
        .and_then(|p: &mut Program| <&mut SchedClassifier>::try_from(p).ok())
        .ok_or(DatapathError::Missing(name))
}

/// The XDP program: of the two the one that this kernel takes. Whoever says that a program knows frames in several pieces is
/// refused before 5.18, and who does not say so is refused at devices whose frames may have them.
pub(crate) fn xdp(object: &mut Ebpf) -> Result<&mut Xdp, DatapathError> {
    let name = if kernel_is_before(5, 18)? {
        names::XDP_PUNT_WHOLE
    } else {
        names::XDP_PUNT
    };
    object
        .program_mut(name)
        .and_then(|p: &mut Program| <&mut Xdp>::try_from(p).ok())
        .ok_or(DatapathError::Missing(name))
}

/// Removes the maps of agents with another ABI; call once the new programs are attached everywhere.
pub(crate) fn remove_other_versions(bpffs: &Path) -> Result<(), DatapathError> {
    other_versions(bpffs)?.iter().try_for_each(|dir| remove_dir(dir))
}

/// Where agents with another ABI have pinned their maps.
pub(crate) fn other_versions(bpffs: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    let own = maps_dir(bpffs);
    let dirs = fs::read_dir(bpffs).map_err(pin_error(bpffs))?.flatten();
    let dirs = dirs.filter(|entry| entry.file_name().to_string_lossy().starts_with("maps-v"));
    Ok(dirs.map(|entry| entry.path()).filter(|path| *path != own).collect())
}

/// Removes every pin; the programs go with them.
pub(crate) fn remove_all(bpffs: &Path) -> Result<(), DatapathError> {
    let entries = match fs::read_dir(bpffs) {
        // Somebody has taken the file system away, and the pins with it.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(pin_error(bpffs))?,
    };
    for entry in entries.flatten() {
        remove_dir(&entry.path())?;
    }
    // The directory itself may be the mount point.
    match fs::remove_dir(bpffs) {
        Err(e) if !matches!(e.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::NotFound) => {
            Err(pin_error(bpffs)(e))
        }
        _ => Ok(()),
    }
}

fn remove_dir(dir: &Path) -> Result<(), DatapathError> {
    for entry in fs::read_dir(dir).map_err(pin_error(dir))?.flatten() {
        fs::remove_file(entry.path()).map_err(pin_error(&entry.path()))?;
    }
    fs::remove_dir(dir).map_err(pin_error(dir))
}

/// A directory that only root may enter: whoever can open a pinned map can change a verdict.
pub(crate) fn create_private_dir(dir: &Path) -> Result<(), DatapathError> {
    fs::create_dir_all(dir).map_err(pin_error(dir))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(pin_error(dir))
}

pub(crate) fn pin_error(path: &Path) -> impl Fn(io::Error) -> DatapathError {
    move |source| DatapathError::Pin {
        path: path.to_path_buf(),
        source,
    }
}
