//! Who is next when more frames wait than a worker decides: every endpoint in turn, and at each endpoint everybody who opens
//! connections there in turn. What there is no room for goes from where most waits.

use std::{array, collections::VecDeque};

use crate::shares::Owner;

/// Queues of one endpoint: those who open connections there are spread over them by their addresses. As many as a word has
/// bits.
const QUEUES: u32 = 64;

/// Whose turn a frame takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    ifindex: u32,
    queue: u32,
}

impl From<Owner> for Turn {
    fn from(owner: Owner) -> Self {
        Self {
            ifindex: owner.ifindex,
            queue: u32::from(owner.share.client) % QUEUES,
        }
    }
}

/// Frames that wait, in order within each turn.
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
    pub(crate) fn push(&mut self, of: Turn, item: T) -> Option<T> {
        let known = self
            .endpoints
            .iter()
            .position(|endpoint| endpoint.ifindex == of.ifindex);
        let place = known.unwrap_or_else(|| {
            self.endpoints.push(Endpoint::new(of.ifindex));
            self.endpoints.len() - 1
        });
        self.endpoints.get_mut(place)?.push(of.queue, item);
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
    use super::{Fair, Turn};

    const fn turn(ifindex: u32, queue: u32) -> Turn {
        Turn { ifindex, queue }
    }

    /// What comes out, of as many as went in.
    fn drained(fair: &mut Fair<(u32, u32)>) -> Vec<(u32, u32)> {
        std::iter::from_fn(|| fair.pop()).collect()
    }

    #[test]
    fn a_flood_of_one_endpoint_takes_every_second_turn_only() {
        let mut fair = Fair::new(1000);
        for n in 0..900 {
            assert_eq!(fair.push(turn(7, n % 64), (7, n)), None);
        }
        for n in 0..10 {
            assert_eq!(fair.push(turn(8, 3), (8, n)), None);
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
            fair.push(turn(7, 5), (5, n));
        }
        for n in 0..10 {
            fair.push(turn(7, 63), (63, n));
            fair.push(turn(7, 0), (0, n));
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
            let shed = fair.push(turn(7, n % 2), (7, n));
            assert_eq!(shed.is_some(), n >= 100);
        }
        for n in 0..40 {
            let shed = fair.push(turn(8, 0), (8, n)).expect("it is full");
            assert_eq!(shed.0, 7, "not from the one of whom little waits");
        }
        for n in 0..200 {
            assert!(fair.push(turn(9, n % 64), (9, n)).is_some());
        }
        let left = drained(&mut fair);
        assert_eq!(left.len(), 100);
        for who in [7, 8, 9] {
            let of_one: Vec<u32> = left.iter().filter(|(seen, _)| *seen == who).map(|(_, n)| *n).collect();
            assert!((30..=40).contains(&of_one.len()), "{who}: {of_one:?}");
        }
    }
}
