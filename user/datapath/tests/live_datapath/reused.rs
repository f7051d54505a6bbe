//! Addresses and ports that are used again: what is said of one connection never holds for the next.

use super::{stand_in::FREE, *};
use seventh_abi::ConnectionNumber;

const RST: u8 = 4;
/// Where the next connection begins: in the bytes that the one before was given free.
const NEXT: u32 = 2001;
const NEXT_ANSWERED: u32 = 60_000;

impl Lab {
    /// Whether the engine has to read the flow's bytes.
    fn is_inspected(&self) -> bool {
        let flows = self.datapath.flows(100);
        let mut tcp = flows.iter().filter(|(key, _)| key.protocol == TCP);
        let verdict = tcp.next().expect("a flow").1.verdict;
        assert!(tcp.next().is_none(), "one flow only");
        verdict == Verdict::Inspect as u8
    }

    /// The endpoint ends its connection and begins another one, with this number of its first byte.
    fn begin_again(&self, base: u32) {
        from_endpoint(self, segment(OWN_CLIENT, OTHER_SERVER, 1001, 5001, ACK | RST, 0));
        from_endpoint(self, segment(OWN_CLIENT, OTHER_SERVER, base - 1, 0, SYN, 0));
        to_endpoint(&segment(OTHER_SERVER, OWN_CLIENT, NEXT_ANSWERED, base, SYN | ACK, 0));
        thread::sleep(Duration::from_millis(60));
    }

    /// From now on frames wait for the engine.
    fn hold(&self) {
        self.holds.store(true, Ordering::Relaxed);
        // It may be looking for some still.
        thread::sleep(Duration::from_millis(60));
    }

    /// Until now.
    fn let_go(&self) {
        self.holds.store(false, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(100));
    }

    /// Whether a segment of the endpoint that begins here goes to the engine.
    fn reads(&self, seq: u32) -> bool {
        let before = self.counter(Counter::Punted);
        from_endpoint(
            self,
            segment(OWN_CLIENT, OTHER_SERVER, seq, NEXT_ANSWERED + 1, ACK, 100),
        );
        self.counter(Counter::Punted) > before
    }
}

/// A segment of the first connection that ends like this.
fn ending(end: &[u8]) -> Vec<u8> {
    let mut frame = segment(OWN_CLIENT, OTHER_SERVER, 1001, 5001, ACK, 100);
    frame.truncate(frame.len() - end.len());
    frame.extend(end);
    frame
}

#[test]
fn what_the_engine_says_late_of_a_connection_does_not_hold_for_the_next_one_on_its_ports() {
    for end in [FREE, SETTLE, REFUSE] {
        isolated(move || {
            let what = String::from_utf8_lossy(end);
            let lab = open_inspected();
            lab.hold();
            from_endpoint(&lab, ending(end));
            lab.begin_again(NEXT);
            lab.let_go();
            assert_eq!(lab.drops(DropReason::InjectOtherConnection), 1, "{what}");
            assert!(lab.is_inspected(), "{what}");
            assert!(lab.reads(NEXT), "bytes passed unread: {what}");
            // And what it says of this one does.
            assert_eq!(lab.counter(Counter::Reinjected), 1, "{what}");
            lab.end();
        });
    }
}

#[test]
fn a_connection_that_follows_too_soon_begins_when_its_syn_comes_again() {
    isolated(|| {
        let lab = open_inspected();
        thread::sleep(Duration::from_millis(60));
        let now_ns = || {
            let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
            u64::try_from(Duration::from(now).as_nanos()).unwrap()
        };
        let (own, outside) = (lab.client.run(|| device_socket("eth0")), device_socket("cl0"));
        let begin = |base: u32| {
            send_through(&own, &segment(OWN_CLIENT, OTHER_SERVER, base - 1, 0, SYN, 0));
            let accepts = segment(OTHER_SERVER, OWN_CLIENT, NEXT_ANSWERED, base, SYN | ACK, 0);
            send_through(&outside, &accepts);
        };
        let soon = |first: u32| {
            let into_unit_ns = now_ns() % ConnectionNumber::UNIT_NS;
            thread::sleep(Duration::from_nanos(ConnectionNumber::UNIT_NS - into_unit_ns));
            begin(first);
            begin(first + 1000);
            lab.drops(DropReason::ReusedTooSoon) == 1
        };
        // Again if it took so long that another unit had begun.
        let base = (1..50)
            .map(|n| n * 10_000)
            .find(|base| soon(*base))
            .expect("a fast run");
        let known = |seq: u32| {
            assert!(lab.reads(seq));
            let seen = lab.last_frame.lock().unwrap();
            PuntMeta::decode(seen.first_chunk().unwrap()).unwrap().base_seq
        };
        assert_eq!(known(base), Some(base), "the one before is still the one that is known");
        begin(base + 1000);
        thread::sleep(Duration::from_millis(60));
        assert_eq!(known(base + 1000), Some(base + 1000));
        assert_eq!(lab.drops(DropReason::ReusedTooSoon), 1);
        lab.end();
    });
}

#[test]
fn a_syn_and_its_acceptance_that_come_twice_are_the_same_connection() {
    isolated(|| {
        let lab = open_inspected();
        for _ in 0..2 {
            from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, 1000, 0, SYN, 0));
            to_endpoint(&segment(OTHER_SERVER, OWN_CLIENT, 5000, 1001, SYN | ACK, 0));
        }
        lab.hold();
        from_endpoint(&lab, ending(FREE));
        to_endpoint(&segment(OTHER_SERVER, OWN_CLIENT, 5000, 1001, SYN | ACK, 0));
        lab.let_go();
        assert_eq!(lab.counter(Counter::Reinjected), 1);
        assert!(!lab.reads(1101), "what was given free");
        for reason in [
            DropReason::ReusedTooSoon,
            DropReason::InjectOtherConnection,
            DropReason::AcceptsOtherSyn,
        ] {
            assert_eq!(lab.drops(reason), 0, "{}", reason.name());
        }
        lab.end();
    });
}

#[test]
fn a_connection_whose_beginning_another_syn_hides_does_not_begin() {
    isolated(|| {
        let lab = open_inspected();
        from_endpoint(&lab, ending(FREE));
        assert!(!lab.reads(1101), "what was given free");
        from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, 1201, 5001, ACK | RST, 0));
        for base in [NEXT, 700_000] {
            from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, base - 1, 0, SYN, 0));
        }
        // The server has seen the first alone. If that were accepted, its bytes would pass as the earlier one's.
        let accepts = |base: u32| {
            to_endpoint(&segment(OTHER_SERVER, OWN_CLIENT, NEXT_ANSWERED, base, SYN | ACK, 0));
            thread::sleep(Duration::from_millis(60));
            lab.drops(DropReason::AcceptsOtherSyn)
        };
        assert_eq!(accepts(NEXT), 1);
        assert_eq!(accepts(700_000), 1, "the opener's last");
        assert!(lab.reads(700_000));
        lab.end();
    });
}
