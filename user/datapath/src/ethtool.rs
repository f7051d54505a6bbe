//! Switches device features off, by name, through the ethtool ioctl (`linux/ethtool.h`).

use std::{ffi::c_char, io, mem, os::fd::AsRawFd as _};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::DatapathError;

const GET_STRINGS: u32 = 0x1b;
const GET_FEATURES: u32 = 0x3a;
const SET_FEATURES: u32 = 0x3b;
/// `ETH_SS_FEATURES`.
const SET_OF_FEATURES: u32 = 4;
/// Features that the kernel may know, at most; Linux 6.18 has 64.
const FEATURES_MAX: usize = 256;
const NAME_LENGTH: usize = 32;
const WORDS: usize = FEATURES_MAX / 32;

/// `struct ethtool_gstrings` with room for the names.
#[repr(C)]
struct Strings {
    command: u32,
    set: u32,
    count: u32,
    names: [[u8; NAME_LENGTH]; FEATURES_MAX],
}

/// `struct ethtool_gfeatures`.
#[repr(C)]
struct Features {
    command: u32,
    words: u32,
    blocks: [FeatureBlock; WORDS],
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FeatureBlock {
    available: u32,
    requested: u32,
    active: u32,
    never_changed: u32,
}

/// `struct ethtool_sfeatures`.
#[repr(C)]
struct Change {
    command: u32,
    words: u32,
    blocks: [ChangeBlock; WORDS],
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ChangeBlock {
    valid: u32,
    requested: u32,
}

/// Switches the named features off; one that this kernel does not know is off already.
///
/// # Errors
/// The kernel refuses, or leaves one of them on.
pub(crate) fn features_off(device: &str, names: &[&str]) -> Result<(), DatapathError> {
    let error = |step: &str, e: io::Error| DatapathError::PuntDevice {
        device: device.to_owned(),
        reason: format!("{step}: {e}"),
    };
    let bits = positions(device, names).map_err(|e| error("read feature names", e))?;
    let mut change = Change {
        command: SET_FEATURES,
        words: feature_words(device).map_err(|e| error("read features", e))?,
        blocks: [ChangeBlock::default(); WORDS],
    };
    for bit in &bits {
        if let Some(block) = change.blocks.get_mut(bit / 32) {
            block.valid |= 1 << (bit % 32);
        }
    }
    // SAFETY: `Change` has the layout that this command reads.
    unsafe { ioctl(device, &mut change) }.map_err(|e| error("switch features off", e))?;
    let after = read_features(device).map_err(|e| error("read features", e))?;
    let still_on = |bit: &usize| {
        after
            .blocks
            .get(bit / 32)
            .is_some_and(|b| b.active & (1 << (bit % 32)) != 0)
    };
    if bits.iter().any(still_on) {
        return Err(error(
            "switch features off",
            io::Error::other(format!("one of {names:?} stays on")),
        ));
    }
    Ok(())
}

fn positions(device: &str, names: &[&str]) -> io::Result<Vec<usize>> {
    let mut strings = Strings {
        command: GET_STRINGS,
        set: SET_OF_FEATURES,
        count: 0,
        names: [[0; NAME_LENGTH]; FEATURES_MAX],
    };
    // SAFETY: `Strings` has the layout that this command writes; the kernel knows fewer features than there is room for.
    unsafe { ioctl(device, &mut strings) }?;
    let wanted = |name: &[u8; NAME_LENGTH]| {
        let end = name.iter().position(|&b| b == 0).unwrap_or(NAME_LENGTH);
        names.iter().any(|wanted| name.get(..end) == Some(wanted.as_bytes()))
    };
    Ok((0..FEATURES_MAX)
        .zip(&strings.names)
        .filter(|(_, name)| wanted(name))
        .map(|(i, _)| i)
        .collect())
}

/// Words of features that this kernel has; a change must name exactly as many.
fn feature_words(device: &str) -> io::Result<u32> {
    Ok(read_features(device)?.words)
}

fn read_features(device: &str) -> io::Result<Features> {
    let words = u32::try_from(WORDS).map_err(io::Error::other)?;
    let mut features = Features {
        command: GET_FEATURES,
        words,
        blocks: [FeatureBlock::default(); WORDS],
    };
    // SAFETY: `Features` has the layout that this command writes, and says how many words it has room for.
    unsafe { ioctl(device, &mut features) }?;
    Ok(features)
}

/// Runs one ethtool command on a device.
///
/// # Safety
/// `value` begins with a command and has the layout and room which that command expects.
unsafe fn ioctl<T>(device: &str, value: &mut T) -> io::Result<()> {
    let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if device.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(value).cast();
    // SAFETY: the request names a NUL-terminated device; the rest is the caller's promise.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
