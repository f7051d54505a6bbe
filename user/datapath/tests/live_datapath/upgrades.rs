//! An agent of another ABI takes over while bytes pass: its tables say what the earlier one's said last.

use std::{fs, path::PathBuf};

use super::*;
use seventh_abi::{ABI_VERSION, FlowFlags, FlowState, Frontier};
use stand_in::{FREE, FREE_LEN};

/// Where a request's body begins and ends, and where the last segment of it does.
const BODY_BEGINS: u32 = 1101;
const BODY_ENDS: u32 = BODY_BEGINS + FREE_LEN;
const LAST_LEN: u32 = 500;
const LAST_BEGINS: u32 = BODY_ENDS - LAST_LEN;
const OTHER_ABI: u32 = ABI_VERSION + 1000;

impl Lab {
    /// The agent goes and leaves what it enforced.
    fn leave(mut self) -> Ground {
        self.stop.store(true, Ordering::Relaxed);
        self.worker.take().unwrap().join().unwrap();
        self.runtime.block_on(self.datapath.stop(true)).unwrap();
        (self.client, self.server, self.runtime, self._dir)
    }

    /// What is said of a segment of the opener when it comes to the engine.
    fn punted(&self, seq: u32) -> PuntMeta {
        let before = self.counter(Counter::Punted);
        from_endpoint(self, segment(OWN_CLIENT, OTHER_SERVER, seq, 5001, ACK, 100));
        assert_eq!(self.counter(Counter::Punted) - before, 1, "it goes to the engine");
        PuntMeta::decode(self.last_frame.lock().unwrap().first_chunk().unwrap()).unwrap()
    }

    fn begins_behind_the_body(&self) {
        let flow = self.tcp_flow();
        let known = (flow.sent_next_seq, flow.acked_seq, flow.reply_next_seq);
        assert_eq!(known, (BODY_ENDS, BODY_ENDS, 5001));
        let begins = Frontier {
            seq: BODY_ENDS,
            answered: true,
        };
        assert_eq!(self.punted(BODY_ENDS).frontier, Some(begins), "the next request");
    }

    fn tcp_flow(&self) -> FlowState {
        let mut flows = self.datapath.flows(100);
        flows.retain(|(key, _)| key.protocol == TCP);
        assert_eq!(flows.len(), 1, "one flow only");
        flows[0].1
    }
}

fn pins(ground: &Ground, abi_version: u32) -> PathBuf {
    ground.3.path().join("seventh").join(format!("maps-v{abi_version}"))
}

/// What the agent left becomes that of another ABI, which it is but for its number.
fn age(ground: &Ground) {
    fs::rename(pins(ground, ABI_VERSION), pins(ground, OTHER_ABI)).unwrap();
}

/// Sends bytes of the opener, and what the other side says then.
fn pass(own: &OwnedFd, seq: u32, len: u32) {
    send_through(
        own,
        &segment(OWN_CLIENT, OTHER_SERVER, seq, 5001, ACK, usize::try_from(len).unwrap()),
    );
    thread::sleep(Duration::from_millis(30));
    to_endpoint(&segment(OTHER_SERVER, OWN_CLIENT, 5001, seq + len, ACK, 0));
    thread::sleep(Duration::from_millis(30));
}

/// A connection whose request has a body, all of which has passed but the last segment.
fn most_of_a_body(lab: &Lab, own: &OwnedFd) {
    lab.tells_boundaries.store(true, Ordering::Relaxed);
    let mut head = segment(OWN_CLIENT, OTHER_SERVER, 1001, 5001, ACK, 100);
    head.truncate(head.len() - FREE.len());
    head.extend(FREE);
    from_endpoint(lab, head);
    to_endpoint(&segment(OTHER_SERVER, OWN_CLIENT, 5001, BODY_BEGINS, ACK, 0));
    pass(own, LAST_BEGINS - 500, 500);
    assert_eq!(lab.tcp_flow().acked_seq, LAST_BEGINS, "the body passes");
    assert_eq!(lab.counter(Counter::Punted), 1, "and nobody reads it");
}

#[test]
fn a_connection_whose_body_ends_while_it_is_taken_over_lives_on() {
    isolated(|| {
        let lab = open_inspected();
        let own = lab.client.run(|| device_socket("eth0"));
        most_of_a_body(&lab, &own);
        let ground = lab.leave();
        age(&ground);
        let lab = Lab::begin(ground, Settings::default(), &[inspected_row()], |moment| {
            if moment == TakeOver::BeforeSwap {
                pass(&own, LAST_BEGINS, LAST_LEN);
            }
        });
        lab.begins_behind_the_body();
        lab.end();
    });
}

#[test]
fn what_comes_before_its_connection_is_known_again_waits() {
    isolated(|| {
        let lab = open_inspected();
        let own = lab.client.run(|| device_socket("eth0"));
        most_of_a_body(&lab, &own);
        let ground = lab.leave();
        age(&ground);
        let lab = Lab::begin(ground, Settings::default(), &[inspected_row()], |moment| {
            if moment == TakeOver::AfterSwap {
                pass(&own, LAST_BEGINS, LAST_LEN);
            }
        });
        assert_eq!(lab.drops(DropReason::BeingTakenOver), 2, "from either side");
        assert_eq!(lab.tcp_flow().acked_seq, LAST_BEGINS);
        pass(&own, LAST_BEGINS, LAST_LEN);
        lab.begins_behind_the_body();
        assert_eq!(lab.drops(DropReason::BeingTakenOver), 2, "and nothing since");
        lab.end();
    });
}

#[test]
fn bytes_that_pass_unread_while_a_connection_is_taken_over_are_not_forgotten() {
    isolated(|| {
        let settings = Settings {
            open_without_agent: true,
            ..Settings::default()
        };
        let lab = open_inspected_with(settings.clone());
        let own = lab.client.run(|| device_socket("eth0"));
        assert_eq!(lab.punted(1001).base_seq, Some(1001), "its beginning is known");
        to_endpoint(&segment(OTHER_SERVER, OWN_CLIENT, 5001, 1101, ACK, 0));
        thread::sleep(Duration::from_millis(30));
        let ground = lab.leave();
        age(&ground);
        let lab = Lab::begin(ground, settings, &[inspected_row()], |moment| {
            if moment == TakeOver::BeforeSwap {
                pass(&own, 1101, 100);
            }
        });
        let meta = lab.punted(1201);
        assert_eq!(
            (meta.base_seq, meta.frontier),
            (None, None),
            "nobody has read 1101 to 1200"
        );
        assert_ne!(lab.tcp_flow().flags & FlowFlags::PASSED_UNREAD, 0);
        // The opener's SYN, accepted once more, does not give it a beginning.
        from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, 1000, 0, SYN, 0));
        to_endpoint(&segment(OTHER_SERVER, OWN_CLIENT, 5000, 1001, SYN | ACK, 0));
        thread::sleep(Duration::from_millis(30));
        assert_eq!(lab.punted(1001).base_seq, None);
        lab.end();
    });
}

#[test]
fn what_went_on_since_a_take_over_is_not_undone_by_an_agent_that_begins_it_anew() {
    isolated(|| {
        let lab = open_inspected();
        let own = lab.client.run(|| device_socket("eth0"));
        most_of_a_body(&lab, &own);
        let ground = lab.leave();
        age(&ground);
        // An agent that dies before all devices are taken over leaves the earlier one's tables.
        let kept = ground.3.path().join("kept");
        fs::create_dir(&kept).unwrap();
        for pin in fs::read_dir(pins(&ground, OTHER_ABI)).unwrap().flatten() {
            fs::hard_link(pin.path(), kept.join(pin.file_name())).unwrap();
        }
        let lab = Lab::begin(ground, Settings::default(), &[inspected_row()], |_| ());
        pass(&own, LAST_BEGINS, LAST_LEN);
        let ground = lab.leave();
        fs::rename(kept, pins(&ground, OTHER_ABI)).unwrap();
        let lab = Lab::begin(ground, Settings::default(), &[inspected_row()], |_| ());
        lab.begins_behind_the_body();
        lab.end();
    });
}
