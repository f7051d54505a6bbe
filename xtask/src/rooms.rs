//! The rooms of the repository as data: which crate may use which, and what each may do.
//!
//! ARCHITECTURE.md shows this table to people; `rules::arrows` compares it with what Cargo says.

/// A crate and what it may do.
pub(crate) struct Room {
    /// The crate's name.
    pub(crate) name: &'static str,
    /// Its folder, from the root.
    pub(crate) folder: &'static str,
    /// Rooms it may depend on, in its build script too.
    pub(crate) may_use: &'static [&'static str],
    /// Rooms that only its tests may depend on.
    pub(crate) tests_may_use: &'static [&'static str],
    /// Whether `unsafe` may stand in it.
    pub(crate) may_be_unsafe: bool,
    /// What strangers' bytes reach must not panic: the crate denies `unwrap`, `expect`, `panic` and indexing.
    pub(crate) must_not_panic: bool,
    /// Opens nothing, reads no clock, starts no thread: time and bytes are arguments.
    pub(crate) sans_io: bool,
}

const PLAIN: Room = Room {
    name: "",
    folder: "",
    may_use: &[],
    tests_may_use: &[],
    may_be_unsafe: false,
    must_not_panic: false,
    sans_io: false,
};

/// Every crate of the repository, from the bottom up: a room uses rooms above it in this list only.
pub(crate) const ROOMS: &[Room] = &[
    Room {
        name: "seventh-abi",
        folder: "kern/abi",
        may_be_unsafe: true,
        sans_io: true,
        ..PLAIN
    },
    Room {
        name: "seventh-kern-build",
        folder: "kern/build",
        ..PLAIN
    },
    Room {
        name: "seventh-kern",
        folder: "kern/prog",
        may_use: &["seventh-abi"],
        may_be_unsafe: true,
        ..PLAIN
    },
    Room {
        name: "seventh-parsers",
        folder: "parsers",
        must_not_panic: true,
        sans_io: true,
        ..PLAIN
    },
    Room {
        name: "seventh-verdict-cache",
        folder: "verdict-cache",
        may_use: &["seventh-abi"],
        must_not_panic: true,
        sans_io: true,
        ..PLAIN
    },
    Room {
        name: "seventh-policy",
        folder: "user/policy",
        may_use: &["seventh-abi"],
        sans_io: true,
        ..PLAIN
    },
    Room {
        name: "seventh-engine",
        folder: "user/engine",
        may_use: &[
            "seventh-abi",
            "seventh-parsers",
            "seventh-verdict-cache",
            "seventh-policy",
        ],
        must_not_panic: true,
        sans_io: true,
        ..PLAIN
    },
    Room {
        name: "seventh-datapath",
        folder: "user/datapath",
        may_use: &["seventh-abi", "seventh-kern-build"],
        tests_may_use: &["seventh-policy"],
        may_be_unsafe: true,
        ..PLAIN
    },
    Room {
        name: "seventh-flows",
        folder: "user/flows",
        may_use: &["seventh-abi"],
        sans_io: true,
        ..PLAIN
    },
    Room {
        name: "seventh-metrics",
        folder: "user/metrics",
        sans_io: true,
        ..PLAIN
    },
    Room {
        name: "seventh-kube",
        folder: "user/kube",
        may_use: &["seventh-policy"],
        ..PLAIN
    },
    Room {
        name: "seventh-fixtures",
        folder: "pcap-fixtures",
        may_use: &["seventh-parsers"],
        ..PLAIN
    },
    Room {
        name: "seventh",
        folder: "user/agent",
        may_use: &[
            "seventh-abi",
            "seventh-parsers",
            "seventh-verdict-cache",
            "seventh-policy",
            "seventh-engine",
            "seventh-datapath",
            "seventh-flows",
            "seventh-metrics",
            "seventh-kube",
        ],
        tests_may_use: &["seventh-fixtures"],
        ..PLAIN
    },
    // Speaks with the agent, and shares no code with it: its own program, small, in the way of every pod that starts.
    Room {
        name: "seventh-cni",
        folder: "user/cni",
        tests_may_use: &["seventh"],
        ..PLAIN
    },
    Room {
        name: "seventh-benches",
        folder: "benches",
        may_use: &[
            "seventh-abi",
            "seventh-parsers",
            "seventh-verdict-cache",
            "seventh-policy",
            "seventh-engine",
            "seventh-datapath",
            "seventh-flows",
            "seventh-fixtures",
            "seventh",
        ],
        ..PLAIN
    },
    Room {
        name: "xtask",
        folder: "xtask",
        // Both are lists that pages are made from, and depend on nothing.
        may_use: &["seventh-abi", "seventh-metrics"],
        ..PLAIN
    },
];

/// Crates of others that only some rooms may know; their tests may use any.
pub(crate) const RESERVED: &[(&str, &[&str])] = &[
    ("aya", &["seventh-abi", "seventh-datapath"]),
    ("libc", &["seventh-datapath"]),
    ("httparse", &["seventh-parsers"]),
    ("tls-parser", &["seventh-parsers"]),
    ("hickory-proto", &["seventh-parsers"]),
    ("kube", &["seventh-kube"]),
    ("k8s-openapi", &["seventh-kube"]),
    ("tokio", &["seventh", "seventh-cni", "seventh-kube"]),
    ("tonic", &["seventh", "seventh-cni"]),
    ("hyper", &["seventh"]),
    ("hyper-util", &["seventh", "seventh-cni"]),
    ("prometheus-client", &["seventh"]),
    ("clap", &["seventh", "seventh-cni", "seventh-benches"]),
    ("anyhow", &["seventh", "seventh-cni", "seventh-benches", "xtask"]),
    ("notify", &["seventh"]),
];

/// The fewest tests the repository may have: raised as it grows, so that tests cannot vanish unseen.
pub(crate) const TESTS_MIN: usize = 1100;

/// The room that a file belongs to.
pub(crate) fn room_of(path: &str) -> Option<&'static Room> {
    ROOMS
        .iter()
        .find(|room| path.strip_prefix(room.folder).is_some_and(|rest| rest.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrows_point_to_earlier_rooms_only_so_there_is_no_cycle() {
        for (index, room) in ROOMS.iter().enumerate() {
            for used in room.may_use {
                assert!(
                    ROOMS[..index].iter().any(|earlier| earlier.name == *used),
                    "{} uses {used}",
                    room.name
                );
            }
        }
    }

    #[test]
    fn a_file_belongs_to_the_room_of_its_folder() {
        assert_eq!(
            room_of("user/engine/src/lib.rs").map(|room| room.name),
            Some("seventh-engine")
        );
        assert_eq!(room_of("user/engine-old/src/lib.rs").map(|room| room.name), None);
        assert_eq!(room_of("README.md").map(|room| room.name), None);
    }
}
