//! A worker's side of the counts by which the kernel leaves everybody a part of its ring ([`seventh_abi::WorkerShares`]).
//!
//! The kernel counts what it hands to the socket, the worker what it takes. A frame that is lost between the two would take room
//! for ever: what seems to be on its way at every one of several looks into an empty ring is counted as taken.

use std::{
    hash::{BuildHasher as _, RandomState},
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use aya::{Ebpf, maps::Map};
use seventh_abi::{
    Addr, PuntMeta, PuntedType, SHARE_CLIENTS, SHARE_ENDPOINTS, Share, WORKERS_MAX, WorkerShares, mapped_v4, names,
    share_waiting,
};

use crate::{DatapathError, memory::Mapping};

/// Longer than any frame is on its way from the kernel's count to the ring, and how often it is looked meanwhile for what is.
const ON_THE_WAY_MAX: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_millis(5);
const ELEMENT: usize = size_of::<WorkerShares>();
/// Counts of one worker: of all, of endpoints, of clients.
const COUNTS: usize = 1 + SHARE_ENDPOINTS + SHARE_CLIENTS;

/// Whose a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Device at which it was taken.
    pub(crate) ifindex: u32,
    /// Where it is counted.
    pub(crate) share: Share,
}

impl Owner {
    /// By the device and the address of who opened the connection, read where the kernel's program reads them.
    pub(crate) fn of(frame: &[u8], secret: u64) -> Self {
        let meta = frame.first_chunk().and_then(PuntMeta::decode);
        let ifindex = meta.map_or(0, |meta| meta.ifindex);
        let opener = meta.and_then(|meta| opener(frame, meta.reply)).unwrap_or([0; 16]);
        Self {
            ifindex,
            share: Share::of(secret, ifindex, &opener),
        }
    }
}

fn opener(frame: &[u8], reply: bool) -> Option<Addr> {
    let punted = PuntedType::decode(*frame.get(12..)?.first_chunk()?)?;
    let (at, len) = Share::opener_at(punted.ether_type, reply)?;
    let bytes = frame.get(at..at + len)?;
    match bytes.first_chunk::<16>() {
        Some(whole) => Some(*whole),
        None => bytes.first_chunk::<4>().copied().map(mapped_v4),
    }
}

/// [`WorkerShares`] as two sides write it at once, each its own words.
#[repr(C)]
struct Element {
    secret: AtomicU64,
    refused: AtomicU64,
    room: AtomicU32,
    pad: u32,
    /// Of all, then by the places of endpoints, then by those of clients.
    counts: [Count; COUNTS],
}

/// [`seventh_abi::ShareCount`].
#[repr(C)]
struct Count {
    arrived: AtomicU32,
    taken: AtomicU32,
}

const _: () = assert!(size_of::<Element>() == ELEMENT && align_of::<Element>() == align_of::<WorkerShares>());

/// The counts of one worker, in memory in which the kernel's program counts, too.
pub(crate) struct Shares {
    memory: Mapping,
    /// Of this worker's element, in bytes.
    at: usize,
    secret: u64,
    looks: Option<Looks>,
}

/// What was on its way at several moments at which the ring was empty.
struct Looks {
    first: Instant,
    last: Instant,
    /// The least, by count.
    least: Box<[u32]>,
}

impl Shares {
    /// Of `worker`, whose ring holds `room` frames. From now on the kernel lets so many come.
    pub(crate) fn open(object: &Ebpf, worker: usize, room: u32) -> Result<Self, DatapathError> {
        let Some(Map::Array(map)) = object.map(names::SHARES) else {
            return Err(DatapathError::Missing(names::SHARES));
        };
        let failed = |error: io::Error| DatapathError::Map {
            map: names::SHARES,
            reason: format!("its memory: {error}"),
        };
        let memory = Mapping::shared(WORKERS_MAX * ELEMENT, map.fd().as_fd().as_raw_fd(), 0).map_err(failed)?;
        Self::new(memory, worker, room).ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))
    }

    fn new(memory: Mapping, worker: usize, room: u32) -> Option<Self> {
        let at = worker.checked_mul(ELEMENT)?;
        if at.checked_add(ELEMENT)? > memory.bytes() {
            return None;
        }
        let shares = Self {
            memory,
            at,
            secret: RandomState::new().hash_one(worker),
            looks: None,
        };
        shares.element().secret.store(shares.secret, Ordering::Relaxed);
        shares.element().room.store(room, Ordering::Relaxed);
        Some(shares)
    }

    fn element(&self) -> &Element {
        // SAFETY: `new` has made sure that the element lies in the memory.
        let element = unsafe { self.memory.base().add(self.at) }.cast();
        // SAFETY: the memory lives as long as `self`, begins with a page, and any bytes are an `Element`, whose words whoever
        // else has them writes as wholes.
        unsafe { element.as_ref() }
    }

    /// Whose a frame is.
    pub(crate) fn owner(&self, frame: &[u8]) -> Owner {
        Owner::of(frame, self.secret)
    }

    /// A frame was taken from the ring.
    pub(crate) fn take(&self, owner: Owner) {
        let endpoint = 1 + usize::from(owner.share.endpoint);
        let client = 1 + SHARE_ENDPOINTS + usize::from(owner.share.client);
        for index in [0, endpoint, client] {
            let taken = &self.count(index).taken;
            taken.store(taken.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// Frames that the kernel has dropped for want of room.
    pub(crate) fn refused(&self) -> u64 {
        self.element().refused.load(Ordering::Relaxed)
    }

    /// Call it when the ring has been found empty: of what is on its way all the time, something was lost.
    pub(crate) fn settle(&mut self) {
        let Count { arrived, taken } = self.count(0);
        if arrived.load(Ordering::Relaxed) == taken.load(Ordering::Relaxed) {
            self.looks = None;
            return;
        }
        self.settle_at(Instant::now());
    }

    fn settle_at(&mut self, now: Instant) {
        let since = |then: Instant| now.saturating_duration_since(then);
        let mut looks = self.looks.take().unwrap_or_else(|| Looks {
            first: now,
            last: now,
            least: vec![u32::MAX; COUNTS].into(),
        });
        if looks.first == now || since(looks.last) >= LOOK {
            looks.last = now;
            for (index, least) in looks.least.iter_mut().enumerate() {
                let Count { arrived, taken } = self.count(index);
                let waiting = share_waiting(arrived.load(Ordering::Relaxed), taken.load(Ordering::Relaxed));
                *least = waiting.min(*least);
            }
        }
        if since(looks.first) < ON_THE_WAY_MAX {
            self.looks = Some(looks);
            return;
        }
        for (index, lost) in looks.least.iter().enumerate() {
            let Count { arrived, taken } = self.count(index);
            let (now_arrived, now_taken) = (arrived.load(Ordering::Relaxed), taken.load(Ordering::Relaxed));
            // What was given up and came after all was taken twice.
            let is_ahead = share_waiting(now_taken, now_arrived) > 0;
            let settled = if is_ahead {
                now_arrived
            } else {
                now_taken.wrapping_add(*lost)
            };
            taken.store(settled, Ordering::Relaxed);
        }
    }

    /// What has come and what was taken, of all (0), an endpoint's place or a client's.
    fn count(&self, index: usize) -> &Count {
        &self.element().counts[index]
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        sync::atomic::Ordering,
        time::{Duration, Instant},
    };

    use seventh_abi::{Hook, PuntMeta, SHARE_ENDPOINTS};

    use super::{ELEMENT, ON_THE_WAY_MAX, Owner, Shares};
    use crate::memory::Mapping;

    fn frame(reply: bool, ifindex: u32, from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
        let meta = PuntMeta {
            hook: Hook::ToEndpoint,
            ifindex,
            base_seq: None,
            acked_seq: None,
            reply_idle: false,
            closed: false,
            reply,
            frontier: None,
            compared_to: None,
            clean: false,
        };
        let mut frame = meta.encode().to_vec();
        frame.extend([0x07, 0xff, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0]);
        frame.extend([from, to].concat());
        frame
    }

    #[test]
    fn a_frame_is_owned_by_who_opened_the_connection_at_which_device() {
        let (client, server) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let asks = Owner::of(&frame(false, 4, client, server), 9);
        assert_eq!(asks, Owner::of(&frame(true, 4, server, client), 9), "its answers, too");
        assert_eq!(asks.ifindex, 4);
        assert_ne!(asks.share, Owner::of(&frame(false, 5, client, server), 9).share);
        let others = (0..=255).map(|last| Owner::of(&frame(false, 4, [10, 0, 9, last], server), 9).share);
        let used: HashSet<_> = others.collect();
        assert!(used.len() > 200, "spread over {} places", used.len());
        for length in 0..34 {
            let whole = frame(false, 4, client, server);
            // Cut anywhere it is somebody's, and nothing panics.
            let _ = Owner::of(&whole[..length], 9);
        }
    }

    /// Counts of the second of two workers, and who has so many frames there.
    fn shares() -> (Shares, Owner) {
        let shares = Shares::new(Mapping::anonymous(2 * ELEMENT).unwrap(), 1, 2048).unwrap();
        let owner = shares.owner(&frame(false, 4, [10, 0, 0, 1], [10, 0, 0, 2]));
        (shares, owner)
    }

    /// As the kernel does.
    fn arrive(shares: &Shares, owner: Owner, frames: u32) {
        for index in places(owner) {
            shares.count(index).arrived.fetch_add(frames, Ordering::Relaxed);
        }
    }

    fn places(owner: Owner) -> [usize; 3] {
        let (endpoint, client) = (usize::from(owner.share.endpoint), usize::from(owner.share.client));
        [0, 1 + endpoint, 1 + SHARE_ENDPOINTS + client]
    }

    fn on_the_way(shares: &Shares, owner: Owner) -> Vec<i32> {
        let counts = places(owner).map(|index| shares.count(index));
        let waiting = counts.map(|count| {
            let taken = count.taken.load(Ordering::Relaxed);
            count.arrived.load(Ordering::Relaxed).wrapping_sub(taken).cast_signed()
        });
        waiting.to_vec()
    }

    #[test]
    fn what_was_lost_on_the_way_takes_room_for_a_moment_only() {
        let (mut shares, owner) = shares();
        arrive(&shares, owner, 10);
        (0..7).for_each(|_| shares.take(owner));
        let began = Instant::now();
        shares.settle_at(began);
        shares.settle_at(began + ON_THE_WAY_MAX / 2);
        assert_eq!(on_the_way(&shares, owner), [3, 3, 3], "it may still come");
        // Traffic goes on, more than what is missing.
        arrive(&shares, owner, 500);
        (0..495).for_each(|_| shares.take(owner));
        shares.settle_at(began + ON_THE_WAY_MAX);
        assert_eq!(on_the_way(&shares, owner), [5, 5, 5], "those came later");
        (0..5).for_each(|_| shares.take(owner));
        shares.settle();
        assert_eq!(on_the_way(&shares, owner), [0, 0, 0]);
    }

    #[test]
    fn what_was_given_up_and_is_taken_after_all_shuts_nobody_out() {
        let (mut shares, owner) = shares();
        arrive(&shares, owner, 1);
        let began = Instant::now();
        shares.settle_at(began);
        shares.settle_at(began + ON_THE_WAY_MAX);
        shares.take(owner);
        assert_eq!(on_the_way(&shares, owner), [-1, -1, -1]);
        shares.settle_at(began + Duration::from_secs(1));
        arrive(&shares, owner, 5000);
        (0..5000).for_each(|_| shares.take(owner));
        shares.settle_at(began + Duration::from_secs(2));
        assert_eq!(on_the_way(&shares, owner), [0, 0, 0]);
    }

    #[test]
    fn a_worker_beyond_the_memory_is_refused() {
        assert!(Shares::new(Mapping::anonymous(2 * ELEMENT).unwrap(), 2, 1).is_none());
    }
}
