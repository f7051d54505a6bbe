//! Who may have how many frames on the way to a worker. The ring of its socket drops whoever comes next when it is full; so that
//! it never is, everybody gets a part of what is still free, and who has little there always finds room.

use crate::Addr;

/// Places in which the frames of endpoints are counted, and those of clients. Several may meet in one.
pub const SHARE_ENDPOINTS: usize = 256;
/// See [`SHARE_ENDPOINTS`].
pub const SHARE_CLIENTS: usize = 512;

/// One of so many parts of the room is kept for those who have nothing there, and the last of it for endpoints that have few
/// frames there: they do not feel it if somebody comes to another one from a thousand addresses.
const KEPT: u32 = 4;
const KEPT_FOR_ENDPOINTS: u32 = 8;
/// Few are less than one of so many parts.
const FEW: u32 = 64;
/// How many times as much as is left free of the others each endpoint may hold, and of an endpoint's part each client. One alone
/// comes to more than half of the room.
const TIMES_FREE: u32 = 4;

/// Where a frame is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Share {
    /// Place of the endpoint.
    pub endpoint: u8,
    /// Place of the one who opened the connection, below [`SHARE_CLIENTS`].
    pub client: u16,
}

impl Share {
    /// Of a frame taken at the device `ifindex`, of a connection that `opener` opened. Who does not know the secret cannot
    /// choose an address that meets somebody else's place.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "what is left of it are so many bits")]
    pub const fn of(secret: u64, ifindex: u32, opener: &Addr) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *opener;
        let endpoint = mix(secret ^ ifindex as u64);
        let upper = mix(endpoint ^ u64::from_le_bytes([a, b, c, d, e, f, g, h]));
        let client = mix(upper ^ u64::from_le_bytes([i, j, k, l, m, n, o, p]));
        Self {
            endpoint: (endpoint >> 56) as u8,
            client: (client >> (u64::BITS - SHARE_CLIENTS.ilog2())) as u16,
        }
    }

    /// Where the address of the opener stands in a frame without VLAN tags of this type, and how long it is. Tagged frames of
    /// one endpoint have one place.
    #[inline(always)]
    #[must_use]
    pub const fn opener_at(ether_type: u16, reply: bool) -> Option<(usize, usize)> {
        match (ether_type, reply) {
            (0x0800, false) => Some((26, 4)),
            (0x0800, true) => Some((30, 4)),
            (0x86dd, false) => Some((22, 16)),
            (0x86dd, true) => Some((38, 16)),
            _ => None,
        }
    }

    /// Whether one more frame may go to a ring with `room` for so many, in which so many are, of that endpoint and of that client.
    #[inline(always)]
    #[must_use]
    pub const fn admits(room: u32, all: u32, endpoint: u32, client: u32) -> bool {
        let free = room.saturating_sub(all);
        if endpoint < room / FEW {
            return free > 0;
        }
        if client == 0 {
            return free > room / KEPT_FOR_ENDPOINTS;
        }
        let of_endpoint = free
            .saturating_sub(room / KEPT)
            .saturating_mul(TIMES_FREE)
            .saturating_sub(endpoint);
        client < of_endpoint.saturating_mul(TIMES_FREE)
    }
}

/// One to one, and each bit of the number changes about half of all: the finalizer of `SplitMix64` (Steele, Lea, Flood: "Fast
/// splittable pseudorandom number generators", 2014).
#[inline(always)]
const fn mix(number: u64) -> u64 {
    let mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

/// Frames that have come and frames that were taken, each counted round and round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ShareCount {
    /// Counted by the kernel.
    pub arrived: u32,
    /// Counted by the worker.
    pub taken: u32,
}

/// How many have come that were not taken; none if more were taken, which a correction can bring about.
#[inline(always)]
#[must_use]
pub const fn share_waiting(arrived: u32, taken: u32) -> u32 {
    let waiting = arrived.wrapping_sub(taken);
    if waiting > i32::MAX as u32 { 0 } else { waiting }
}

/// What is on the way to one worker.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct WorkerShares {
    /// See [`Share::of`]; by the worker.
    pub secret: u64,
    /// Frames that found no room; by the kernel.
    pub refused: u64,
    /// Frames that the ring holds; by the worker. As long as it is 0 nothing goes there.
    pub room: u32,
    /// Zero.
    pub pad: u32,
    /// All.
    pub all: ShareCount,
    /// By [`Share::endpoint`].
    pub endpoints: [ShareCount; SHARE_ENDPOINTS],
    /// By [`Share::client`].
    pub clients: [ShareCount; SHARE_CLIENTS],
}

const _: () = assert!(size_of::<WorkerShares>() == 24 + 8 * (1 + SHARE_ENDPOINTS + SHARE_CLIENTS));
const _: () = assert!(SHARE_CLIENTS.is_power_of_two() && SHARE_ENDPOINTS == 1 << u8::BITS);

#[cfg(test)]
mod tests {
    extern crate std;

    use std::{collections::HashSet, vec, vec::Vec};

    use super::{FEW, SHARE_CLIENTS, Share, share_waiting};
    use crate::mapped_v4;

    const ROOM: u32 = 2048;

    /// Frames of clients by endpoint, those of each endpoint, and all.
    struct Counts {
        clients: Vec<Vec<u32>>,
        endpoints: Vec<u32>,
        all: u32,
    }

    impl Counts {
        /// Of so many clients of endpoints that all send as much as they can, in turn.
        fn full(clients_of_endpoints: &[usize]) -> Self {
            let mut counts = Self {
                clients: clients_of_endpoints.iter().map(|clients| vec![0; *clients]).collect(),
                endpoints: vec![0; clients_of_endpoints.len()],
                all: 0,
            };
            for _ in 0..ROOM {
                for endpoint in 0..counts.clients.len() {
                    for client in 0..counts.clients[endpoint].len() {
                        if counts.admits(endpoint, counts.clients[endpoint][client]) {
                            counts.clients[endpoint][client] += 1;
                            counts.endpoints[endpoint] += 1;
                            counts.all += 1;
                        }
                    }
                }
            }
            counts
        }

        fn admits(&self, endpoint: usize, client: u32) -> bool {
            Share::admits(ROOM, self.all, self.endpoints[endpoint], client)
        }
    }

    #[test]
    fn one_alone_has_more_than_half_of_the_room() {
        assert_eq!(Counts::full(&[1]).clients, [[1171]]);
    }

    #[test]
    fn who_comes_late_finds_room_whoever_has_come_before() {
        for crowd in [&[1][..], &[7], &[300], &[1000], &[1, 1, 1], &[300, 1, 7], &[40; 20]] {
            let counts = Counts::full(crowd);
            let all = counts.all;
            assert!(all <= ROOM - ROOM / 4, "{crowd:?}: {all}");
            assert!(all > ROOM / 2, "{crowd:?}: {all}, and not empty either");
            for endpoint in 0..crowd.len() {
                assert!(
                    counts.admits(endpoint, 0),
                    "{crowd:?}: at the crowd's endpoint {endpoint}"
                );
            }
            // One that meets somebody else's place, at another endpoint.
            assert!(Share::admits(ROOM, all, 0, 1), "{crowd:?}: at another endpoint");
        }
    }

    /// All places of clients are taken by one who comes to one endpoint from many addresses, after some have filled it.
    #[test]
    fn an_endpoint_with_few_frames_finds_room_whoever_has_come_to_another() {
        for heavy in [1, 3, 200, 500] {
            let mut all = Counts::full(&[heavy]).all;
            for _ in heavy..SHARE_CLIENTS {
                all += u32::from(Share::admits(ROOM, all, all, 0));
            }
            for few in 0..ROOM / FEW {
                assert!(Share::admits(ROOM, all + few, few, 1 + few), "{heavy}: {all} and {few}");
            }
        }
    }

    #[test]
    fn places_of_addresses_that_differ_little_are_as_good_as_any() {
        let secrets = (0..4000_u64).map(|n| super::mix(n ^ 0x5eed));
        for difference in [1, 0xc000, 0x00c0_0000, 0x0101_0101, 1 << 31] {
            let meet = |secret| {
                let place = |address: u32| Share::of(secret, 7, &mapped_v4(address.to_be_bytes())).client;
                place(0x0a00_0105) == place(0x0a00_0105 ^ difference)
            };
            // One of 512 by chance: 8 of these.
            let meetings = secrets.clone().filter(|secret| meet(*secret)).count();
            assert!(meetings < 24, "{difference:x}: {meetings}");
        }
    }

    #[test]
    fn there_is_room_for_everybody_who_has_nothing_whatever_the_others_hold() {
        for heavy in [1, 3, 200, 500] {
            let all = Counts::full(&[heavy]).all;
            let late = u32::try_from(SHARE_CLIENTS - heavy).unwrap().min(ROOM - ROOM / 8 - all);
            assert!(
                (0..late).all(|before| Share::admits(ROOM, all + before, all, 0)),
                "{heavy}"
            );
        }
    }

    #[test]
    fn equals_get_equal_parts() {
        for crowd in [&[7][..], &[1, 1, 1], &[20, 20]] {
            let counts: Vec<u32> = Counts::full(crowd).clients.into_iter().flatten().collect();
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(most - least <= 1 + most / 10, "{crowd:?}: {counts:?}");
        }
    }

    #[test]
    fn nothing_goes_to_a_worker_that_has_not_said_what_it_has_room_for() {
        assert!(!Share::admits(0, 0, 0, 0));
        assert!(!Share::admits(ROOM, ROOM, 0, 0) && !Share::admits(ROOM, u32::MAX, 0, 0));
        assert!(!Share::admits(u32::MAX, 0, u32::MAX, u32::MAX));
    }

    #[test]
    fn places_are_spread_and_depend_on_the_secret() {
        let at = |secret, last| Share::of(secret, 7, &mapped_v4([10, 0, last, 3]));
        for secret in [0, 1, u64::MAX] {
            let places: HashSet<Share> = (0..=255).map(|last| at(secret, last)).collect();
            assert!(places.len() > 150, "{}", places.len());
            assert!(places.iter().all(|place| usize::from(place.client) < SHARE_CLIENTS));
            let endpoints: HashSet<u8> = (1..=100).map(|i| Share::of(secret, i, &[0; 16]).endpoint).collect();
            assert!(endpoints.len() > 70, "{}", endpoints.len());
        }
        let same = (0..=255)
            .filter(|last| at(1, *last).client == at(2, *last).client)
            .count();
        assert!(same < 8, "{same}");
    }

    #[test]
    fn counts_go_round_and_never_below_nothing() {
        assert_eq!(share_waiting(5, 3), 2);
        assert_eq!(share_waiting(1, u32::MAX), 2);
        assert_eq!(share_waiting(3, 5), 0);
    }
}
