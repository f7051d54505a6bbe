//! Answers to requests that are judged beside the traffic: the kernel may tell of an answer before its request was judged,
//! so both wait a moment here, and are then taken in the order in which they happened.

use std::collections::VecDeque;

use seventh_abi::{Answer, FlowKey};

use super::{
    answers::{Request, Requests},
    streams::Told,
};

/// How long an answer waits, in nanoseconds: many times what the reader of copies needs to come round.
const WAIT_NS: u64 = 300_000_000;
/// So much later than an answer a request may have been copied and yet stand before an older one: each CPU copies for itself.
/// A request that came after the answer is not taken for its own.
const DISORDER_NS: u64 = 10_000_000;
/// Answers, blocks of HTTP/2, and requests that wait, of each at most.
const WAITING_MAX: usize = 8192;

/// What waits.
#[derive(Debug)]
pub(super) struct Late<T> {
    requests: VecDeque<(FlowKey, Request<T>)>,
    answers: VecDeque<Answer>,
    told: VecDeque<Told>,
    lost: u64,
}

impl<T> Default for Late<T> {
    fn default() -> Self {
        Self {
            requests: VecDeque::new(),
            answers: VecDeque::new(),
            told: VecDeque::new(),
            lost: 0,
        }
    }
}

impl<T> Late<T> {
    /// A request of HTTP/1. One that finds no room takes that of the oldest, which is remembered at once.
    pub(super) fn hold_request(&mut self, key: FlowKey, request: Request<T>, requests: &mut Requests<T>) {
        if self.requests.len() == WAITING_MAX
            && let Some((key, oldest)) = self.requests.pop_front()
        {
            requests.remember(key, oldest);
        }
        self.requests.push_back((key, request));
    }

    /// Its answer. One that finds no room is lost, and counted.
    pub(super) fn hold_answer(&mut self, answer: Answer) {
        if self.answers.len() < WAITING_MAX {
            self.answers.push_back(answer);
        } else {
            self.lost += 1;
        }
    }

    /// The same of HTTP/2.
    pub(super) fn hold_told(&mut self, told: Told) {
        if self.told.len() < WAITING_MAX {
            self.told.push_back(told);
        } else {
            self.lost += 1;
        }
    }

    /// The next answer that has waited long enough; the requests before it are remembered.
    pub(super) fn due_answer(&mut self, now_ns: u64, requests: &mut Requests<T>) -> Option<Answer> {
        let answer = self.answers.pop_front_if(|answer| is_due(answer.time_ns, now_ns))?;
        let is_before = |(_, request): &mut (_, Request<T>)| request.time_ns <= answer.time_ns + DISORDER_NS;
        while let Some((key, request)) = self.requests.pop_front_if(is_before) {
            requests.remember(key, request);
        }
        Some(answer)
    }

    /// The next block of HTTP/2 that has waited long enough.
    pub(super) fn due_told(&mut self, now_ns: u64) -> Option<Told> {
        self.told.pop_front_if(|told| is_due(told.time_ns, now_ns))
    }

    /// What found no room.
    pub(super) const fn lost(&self) -> u64 {
        self.lost
    }
}

fn is_due(time_ns: u64, now_ns: u64) -> bool {
    now_ns.saturating_sub(time_ns) >= WAIT_NS
}

#[cfg(test)]
mod tests {
    use super::{DISORDER_NS, Late, WAIT_NS, WAITING_MAX};
    use crate::observer::answers::{Asked, Request, Requests};
    use seventh_abi::{Answer, FlowKey};

    const KEY: FlowKey = FlowKey {
        local_addr: [0; 16],
        peer_addr: [1; 16],
        ifindex: 1,
        local_port: 80,
        peer_port: 9,
        protocol: 6,
        direction: 1,
        pad: [0; 2],
    };

    fn answer(time_ns: u64) -> Answer {
        Answer {
            time_ns,
            latency_ns: 1,
            key: KEY,
            beside: 1,
            pad: [0; 3],
            head: *b"HTTP/1.1 200 OK\r",
        }
    }

    fn request(time_ns: u64) -> Request<u64> {
        Request {
            time_ns,
            bytes: 1,
            what: time_ns,
        }
    }

    #[test]
    fn a_request_that_is_judged_after_its_answer_came_gets_it_all_the_same() {
        let (mut late, mut requests) = (Late::default(), Requests::default());
        // More than are remembered of a connection, each answered before the next.
        for number in 0..100 {
            late.hold_answer(answer(3 * DISORDER_NS * number + 5));
        }
        assert!(late.due_answer(WAIT_NS, &mut requests).is_none(), "not yet");
        for number in 0..100 {
            late.hold_request(KEY, request(3 * DISORDER_NS * number), &mut requests);
        }
        let now_ns = 300 * DISORDER_NS + WAIT_NS;
        for number in 0..100 {
            let answer = late.due_answer(now_ns, &mut requests).unwrap();
            assert_eq!(requests.answered(&answer), Asked::Request(3 * DISORDER_NS * number));
        }
        assert!(late.due_answer(now_ns, &mut requests).is_none());
    }

    #[test]
    fn what_waits_is_bounded_and_what_is_lost_is_counted() {
        let (mut late, mut requests) = (Late::default(), Requests::default());
        for number in 0..2 * WAITING_MAX as u64 {
            late.hold_request(KEY, request(number), &mut requests);
            late.hold_answer(answer(number));
        }
        assert_eq!((late.requests.len(), late.answers.len()), (WAITING_MAX, WAITING_MAX));
        assert_eq!(late.lost(), WAITING_MAX as u64);
    }
}
