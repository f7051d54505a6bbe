//! What can go wrong in the datapath room.

use std::{io, path::PathBuf};

use seventh_abi::PUNT_IFINDEX_MAX;

/// An error of the datapath; the text says what was tried and, where there is one, what to do next.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The kernel refused the object or one of its programs.
    #[error("cannot load the kernel programs: {0} (needs root or CAP_BPF + CAP_NET_ADMIN, and a kernel with BTF)")]
    Load(String),
    /// A map or program that this agent expects is not in the object.
    #[error("the kernel object has no `{0}`: agent and object were not built together")]
    Missing(&'static str),
    /// A program could not be attached.
    #[error("cannot attach {program} to {interface}: {reason}")]
    Attach {
        /// Name of the program.
        program: &'static str,
        /// Name of the device.
        interface: String,
        /// What the kernel said.
        reason: String,
    },
    /// There is no such device in this network namespace.
    #[error("no interface `{0}` in this network namespace (see `ip link`)")]
    NoInterface(String),
    /// A device whose index finds no room beside a punted frame.
    #[error(
        "the index of interface `{interface}`, {ifindex}, is over {PUNT_IFINDEX_MAX}, the highest that can be enforced: indices \
         begin anew when the node is restarted"
    )]
    IndexTooHigh {
        /// Name of the device.
        interface: String,
        /// Its index.
        ifindex: u32,
    },
    /// A map could not be read or written.
    #[error("map {map}: {reason}")]
    Map {
        /// Name of the map.
        map: &'static str,
        /// What the kernel said.
        reason: String,
    },
    /// The pin directory cannot be used.
    #[error("pin directory {path}: {source} (is a bpf file system mounted there? `mount -t bpf bpf DIR`)")]
    Pin {
        /// The directory or file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The punt devices could not be made.
    #[error("punt device {device}: {reason}")]
    PuntDevice {
        /// Name of the device.
        device: String,
        /// What the kernel said.
        reason: String,
    },
    /// An AF_XDP socket could not be made.
    #[error("AF_XDP socket on {device}: {step}: {source}")]
    Socket {
        /// Name of the device.
        device: String,
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The system gave no random bytes.
    #[error("no random bytes from the system: {0}")]
    Random(String),
    /// A setting is out of its range.
    #[error("setting {field}: {reason}")]
    Setting {
        /// Name of the setting.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl DatapathError {
    pub(crate) fn map(map: &'static str) -> impl Fn(aya::maps::MapError) -> Self {
        move |error| Self::Map {
            map,
            reason: chain(&error),
        }
    }
}

/// An error and its causes on one line: the kernel's own word is usually the last.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
