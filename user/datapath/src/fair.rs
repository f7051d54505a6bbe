//! Who is next when more frames wait than a worker decides: every endpoint in turn, and at each endpoint everybody who opens
//! connections there in turn. What there is no room for goes from where most waits.

use std::{
    array,
    collections::VecDeque,
    hash::{BuildHasher as _, RandomState},
};

use seventh_abi::{PuntMeta, PuntedType};

/// Queues of one endpoint: those who open connections there are spread over them by their addresses. As many as a word has
/// bits.
const QUEUES: u32 = 64;

/// Whose turn a frame takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    ifindex: u32,
    queue: u32,
}

/// Reads whose turn a frame takes. The secret keeps strangers from choosing addresses that share somebody's queue.
#[derive(Default)]
pub(crate) struct Shares {
    secret: RandomState,
}

impl Shares {
    /// By the device at which it was taken and the address of who opened the connection.
    pub(crate) fn of(&self, frame: &[u8]) -> Share {
        let meta = frame.first_chunk().and_then(PuntMeta::decode);
        let Some(meta) = meta else {
            return Share { ifindex: 0, queue: 0 };
        };
        let place = frame.get(12..).and_then(|rest| rest.first_chunk());
        let punted = place.and_then(|place| PuntedType::decode(*place));
        let (source, destination) = match punted.map(|punted| punted.ether_type) {
            Some(0x0800) => (frame.get(26..30), frame.get(30..34)),
            Some(0x86dd) => (frame.get(22..38), frame.get(38..54)),
            // Tagged frames of one endpoint share a turn.
            _ => (None, None),
        };
        let opener = if meta.reply { destination } else { source };
        let hash = opener.map_or(0, |opener| self.secret.hash_one(opener));
        Share {
            ifindex: meta.ifindex,
            queue: u32::try_from(hash % u64::from(QUEUES)).unwrap_or(0),
        }
    }
}

/// Frames that wait, in order within each share.
pub(crate) struct Fair<T> {
    /// Those of whom something waits.
    endpoints: Vec<Endpoint<T>>,
    /// Whose turn it is.
    turn: usize,
    len: usize,
    max: usize,
}

struct Endpoint<T> {
    ifindex: u32,
    len: usize,
    /// Queues in which something waits, by bit.
    active: u64,
    /// The queue after which the next turn looks.
    turn: u32,
    queues: Box<[VecDeque<T>; QUEUES as usize]>,
}

impl<T> Endpoint<T> {
    fn new(ifindex: u32) -> Self {
        Self {
            ifindex,
            len: 0,
            active: 0,
            turn: 0,
            queues: Box::new(array::from_fn(|_| VecDeque::new())),
        }
    }

    fn push(&mut self, queue: u32, item: T) {
        if let Some(waiting) = self.queues.get_mut(queue as usize) {
            waiting.push_back(item);
            self.active |= 1 << queue;
            self.len += 1;
        }
    }

    fn pop(&mut self) -> Option<T> {
        // Rotated so that the queue after the last one comes first.
        let from = (self.turn + 1) % QUEUES;
        let ahead = self.active.rotate_right(from).trailing_zeros();
        let queue = (from + ahead) % QUEUES;
        self.turn = queue;
        self.take(queue, VecDeque::pop_front)
    }

    /// The newest of where most waits.
    fn shed(&mut self) -> Option<T> {
        let lengths = (0..).zip(self.queues.iter().map(VecDeque::len));
        let (queue, _) = lengths.max_by_key(|(_, len)| *len)?;
        self.take(queue, VecDeque::pop_back)
    }

    fn take(&mut self, queue: u32, end: impl Fn(&mut VecDeque<T>) -> Option<T>) -> Option<T> {
        let waiting = self.queues.get_mut(queue as usize)?;
        let item = end(waiting)?;
        if waiting.is_empty() {
            self.active &= !(1 << queue);
        }
        self.len -= 1;
        Some(item)
    }
}

impl<T> Fair<T> {
    /// With room for so many.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            endpoints: Vec::new(),
            turn: 0,
            len: 0,
            max: max.max(1),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds one; returns what had to go for it, perhaps that one itself.
    pub(crate) fn push(&mut self, share: Share, item: T) -> Option<T> {
        let known = self
            .endpoints
            .iter()
            .position(|endpoint| endpoint.ifindex == share.ifindex);
        let place = known.unwrap_or_else(|| {
            self.endpoints.push(Endpoint::new(share.ifindex));
            self.endpoints.len() - 1
        });
        self.endpoints.get_mut(place)?.push(share.queue, item);
        self.len += 1;
        if self.len <= self.max {
            return None;
        }
        let most =
            (0..self.endpoints.len()).max_by_key(|at| self.endpoints.get(*at).map_or(0, |endpoint| endpoint.len))?;
        let shed = self.endpoints.get_mut(most)?.shed();
        self.len -= 1;
        self.let_go(most);
        shed
    }

    /// The next one in turn.
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.turn >= self.endpoints.len() {
            self.turn = 0;
        }
        let item = self.endpoints.get_mut(self.turn)?.pop()?;
        self.len -= 1;
        if !self.let_go(self.turn) {
            self.turn += 1;
        }
        Some(item)
    }

    /// Forgets an endpoint of which nothing waits.
    fn let_go(&mut self, place: usize) -> bool {
        let is_empty = self.endpoints.get(place).is_some_and(|endpoint| endpoint.len == 0);
        if is_empty {
            self.endpoints.swap_remove(place);
        }
        is_empty
    }
}

#[cfg(test)]
mod tests {
    use seventh_abi::{Hook, PuntMeta};

    use super::{Fair, Share, Shares};

    const fn share(ifindex: u32, queue: u32) -> Share {
        Share { ifindex, queue }
    }

    /// What comes out, of as many as went in.
    fn drained(fair: &mut Fair<(u32, u32)>) -> Vec<(u32, u32)> {
        std::iter::from_fn(|| fair.pop()).collect()
    }

    #[test]
    fn a_flood_of_one_endpoint_takes_every_second_turn_only() {
        let mut fair = Fair::new(1000);
        for n in 0..900 {
            assert_eq!(fair.push(share(7, n % 64), (7, n)), None);
        }
        for n in 0..10 {
            assert_eq!(fair.push(share(8, 3), (8, n)), None);
        }
        let first: Vec<_> = (0..20).filter_map(|_| fair.pop()).collect();
        let quiet: Vec<u32> = first.iter().filter(|(who, _)| *who == 8).map(|(_, n)| *n).collect();
        assert_eq!(
            quiet,
            (0..10).collect::<Vec<_>>(),
            "in order, and all within twenty turns"
        );
        assert_eq!(drained(&mut fair).len(), 890);
        assert!(fair.is_empty());
    }

    #[test]
    fn a_flood_of_one_client_leaves_the_others_of_the_endpoint_their_turns() {
        let mut fair = Fair::new(1000);
        for n in 0..900 {
            fair.push(share(7, 5), (5, n));
        }
        for n in 0..10 {
            fair.push(share(7, 63), (63, n));
            fair.push(share(7, 0), (0, n));
        }
        let first: Vec<_> = (0..30).filter_map(|_| fair.pop()).collect();
        for who in [5, 63, 0] {
            assert_eq!(
                first.iter().filter(|(seen, _)| *seen == who).count(),
                10,
                "{who}: {first:?}"
            );
        }
    }

    #[test]
    fn what_there_is_no_room_for_goes_from_where_most_waits() {
        let mut fair = Fair::new(100);
        for n in 0..500 {
            let shed = fair.push(share(7, n % 2), (7, n));
            assert_eq!(shed.is_some(), n >= 100);
        }
        for n in 0..40 {
            let shed = fair.push(share(8, 0), (8, n)).expect("it is full");
            assert_eq!(shed.0, 7, "not from the one of whom little waits");
        }
        for n in 0..200 {
            assert!(fair.push(share(9, n % 64), (9, n)).is_some());
        }
        let left = drained(&mut fair);
        assert_eq!(left.len(), 100);
        for who in [7, 8, 9] {
            let of_one: Vec<u32> = left.iter().filter(|(seen, _)| *seen == who).map(|(_, n)| *n).collect();
            assert!((30..=40).contains(&of_one.len()), "{who}: {of_one:?}");
        }
    }

    #[test]
    fn a_share_is_of_who_opened_the_connection_at_which_device() {
        let shares = Shares::default();
        let frame = |reply, ifindex, from: [u8; 4], to: [u8; 4]| {
            let meta = PuntMeta {
                hook: Hook::ToEndpoint,
                ifindex,
                base_seq: None,
                acked_seq: None,
                reply_idle: false,
                closed: false,
                reply,
                frontier: None,
                clean: false,
            };
            let mut frame = meta.encode().to_vec();
            frame.extend([0x07, 0xff, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0]);
            frame.extend([from, to].concat());
            frame
        };
        let (client, server) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let asks = shares.of(&frame(false, 4, client, server));
        assert_eq!(asks, shares.of(&frame(true, 4, server, client)), "its answers, too");
        assert_eq!(asks.ifindex, 4);
        let others = (0..=255).map(|last| shares.of(&frame(false, 4, [10, 0, 9, last], server)).queue);
        let used: std::collections::HashSet<u32> = others.collect();
        assert!(used.len() > 32, "spread over {} queues", used.len());
        for length in 0..34 {
            let whole = frame(false, 4, client, server);
            // Cut anywhere it is somebody's, and nothing panics.
            let _ = shares.of(&whole[..length]);
        }
    }
}
