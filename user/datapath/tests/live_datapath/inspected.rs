//! What of an inspected flow the kernel passes by itself, drops by itself, and takes for its end.

use super::*;
use seventh_abi::FlowFlags;
use std::os::fd::AsRawFd as _;

const RST: u8 = 4;
const URG: u8 = 32;
const UDP: u8 = 17;

impl Lab {
    /// Flags of the only TCP flow that began at the endpoint.
    fn tcp_flags(&self) -> u16 {
        let flows = self.datapath.flows(100);
        let mut flags = flows
            .iter()
            .filter(|(key, _)| key.protocol == TCP)
            .map(|(_, flow)| flow.flags);
        let only = flags.next().expect("a flow");
        assert_eq!(flags.next(), None, "one flow only");
        only
    }

    /// Frames that were punted while `job` ran at the endpoint.
    fn punted_by(&self, job: impl FnOnce() + Send + 'static) -> u64 {
        let before = self.counter(Counter::ToWorker);
        self.client.run(job);
        thread::sleep(Duration::from_millis(60));
        self.counter(Counter::ToWorker) - before
    }
}

#[test]
fn only_an_end_that_stands_where_one_may_counts() {
    isolated(|| {
        let lab = open_inspected();
        from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, 1001, 5001, ACK, 100));
        to_endpoint(&segment(OTHER_SERVER, OWN_CLIENT, 5001, 1101, ACK, 200));
        let ends = |what: &str| {
            let seen = lab.tcp_flags() & (FlowFlags::CLOSING | FlowFlags::OPENER_FIN | FlowFlags::OTHER_FIN);
            (what.to_owned(), seen)
        };
        for wrong in [1100_u32, 1101 + (1 << 24), 1101_u32.wrapping_sub(1 << 31)] {
            from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, wrong, 5201, ACK | RST, 0));
            from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, wrong, 5201, ACK | FIN, 0));
        }
        for wrong in [
            5201 + (1 << 24),
            5201_u32.wrapping_sub(1 << 24),
            5201_u32.wrapping_sub(1 << 31),
        ] {
            to_endpoint(&segment(OTHER_SERVER, OWN_CLIENT, wrong, 1101, ACK | RST, 0));
        }
        thread::sleep(Duration::from_millis(60));
        // What the other side sends moves what is expected of it, so its FIN comes last and alone.
        assert_eq!(ends("forged"), ("forged".to_owned(), 0));
        from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, 1101, 5201, ACK | FIN, 0));
        assert_eq!(ends("FIN").1, FlowFlags::OPENER_FIN);
        to_endpoint(&segment(OTHER_SERVER, OWN_CLIENT, 5201, 1102, ACK | FIN, 0));
        thread::sleep(Duration::from_millis(60));
        let all = FlowFlags::CLOSING | FlowFlags::OPENER_FIN | FlowFlags::OTHER_FIN;
        assert_eq!(ends("both").1, all);
        lab.end();
    });
    isolated(|| {
        let lab = open_inspected();
        to_endpoint(&segment(OTHER_SERVER, OWN_CLIENT, 5001, 1001, ACK | RST, 0));
        thread::sleep(Duration::from_millis(60));
        assert_ne!(lab.tcp_flags() & FlowFlags::CLOSING, 0, "a true reset");
        lab.end();
    });
}

#[test]
fn a_reset_that_nobody_believes_closes_nothing_for_long() {
    isolated(|| {
        let lab = open_inspected();
        from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, 1001, 5001, ACK, 100));
        let answer = |seq: u32, ack: u32, flags: u8, payload: usize| {
            to_endpoint(&segment(OTHER_SERVER, OWN_CLIENT, seq, ack, flags, payload));
            thread::sleep(Duration::from_millis(60));
        };
        let closing = || lab.tcp_flags() & FlowFlags::CLOSING != 0;
        answer(5001, 1101, ACK, 200);
        let forged = segment(OWN_CLIENT, OTHER_SERVER, 1101 + 5000, 5201, ACK | RST, 0);
        from_endpoint(&lab, forged.clone());
        assert!(closing());
        answer(5201, 1101, ACK, 0);
        assert!(!closing(), "its receiver asks back");
        from_endpoint(&lab, forged);
        from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, 1101, 5201, ACK, 100));
        assert!(!closing(), "the side that is said to have reset goes on");
        answer(5201 - 100, 1201, ACK | RST, 0);
        from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, 9000, 0, SYN, 0));
        assert!(closing(), "another connection may begin");
        answer(5201, 1201, ACK, 0);
        assert!(!closing());
        from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, 1201, 5201, ACK | FIN, 0));
        answer(5201, 1202, ACK | FIN, 0);
        from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, 1202, 5202, ACK, 0));
        answer(5202, 1202, ACK, 0);
        assert!(closing(), "both have said all");
        lab.end();
    });
}

#[test]
fn a_refusal_that_the_other_side_has_overtaken_reaches_nobody_and_the_next_one_does() {
    isolated(|| {
        let lab = open_inspected();
        let ask = |ack: u32| {
            let mut frame = segment(OWN_CLIENT, OTHER_SERVER, 1001, ack, ACK, REFUSE.len());
            let start = frame.len() - REFUSE.len();
            frame[start..].copy_from_slice(REFUSE);
            from_endpoint(&lab, frame);
            let flows = lab.datapath.flows(100);
            let mut tcp = flows.iter().filter(|(key, _)| key.protocol == TCP);
            let closed = tcp.next().expect("the flow").1.verdict == Verdict::Closed as u8;
            (closed, lab.drops(DropReason::AnswerOvertaken))
        };
        to_endpoint(&segment(OTHER_SERVER, OWN_CLIENT, 5001, 1001, ACK, 30));
        assert_eq!(ask(5001), (false, 1), "30 bytes of the other side are under way");
        assert_eq!(ask(5031), (true, 1));
        assert_eq!(ask(5001), (true, 1), "once closed, nothing comes from there any more");
        lab.end();
    });
}

#[test]
fn data_in_a_syn_fragments_and_urgent_flags_of_an_inspected_flow_are_dropped_with_their_reasons() {
    isolated(|| {
        let lab = open_inspected();
        from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, 3000, 0, SYN, 10));
        assert_eq!(lab.drops(DropReason::SynWithData), 1);
        let before = lab.counter(Counter::Punted);
        let mut first = segment(OWN_CLIENT, OTHER_SERVER, 1001, 5001, ACK, 100);
        first[20] = 0x20; // More fragments follow.
        from_endpoint(&lab, first.clone());
        assert_eq!(lab.drops(DropReason::FragmentOfInspectedFlow), 1);
        let mut later = first;
        (later[20], later[21]) = (0, 15);
        from_endpoint(&lab, later);
        assert_eq!(lab.drops(DropReason::FragmentNotFound), 1);
        from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, 1001, 5001, ACK | URG, 0));
        from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, 1001, 5001, ACK | URG, 10));
        assert_eq!(lab.drops(DropReason::UrgentFlag), 2);
        assert_eq!(lab.counter(Counter::Punted), before);
        lab.end();
    });
}

/// A socket of the endpoint.
pub(super) fn endpoint_socket() -> UdpSocket {
    let socket = UdpSocket::bind("10.77.1.2:40000").unwrap();
    socket.connect("10.77.2.2:443").unwrap();
    socket
}

/// Has the socket's datagrams cut into pieces by the kernel, on their way.
pub(super) fn cut_into(socket: &UdpSocket, len: u16) {
    let len = i32::from(len);
    // SAFETY: passes a live value and its size; the result is checked.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const len).cast(),
            u32::try_from(size_of::<i32>()).unwrap(),
        )
    };
    assert_eq!(result, 0, "UDP_SEGMENT");
}

#[test]
fn on_settled_quic_flows_only_long_headers_are_read() {
    isolated(|| {
        let key = PolicyKey::new(1, IDENTITY_ANY, Direction::Egress, UDP, 443);
        let rows = [
            any(Direction::Ingress, PolicyVerdict::Allow),
            (POLICY_PREFIX_FULL, key, entry(PolicyVerdict::Inspect, 7)),
        ];
        let lab = Lab::new(AttachMode::Auto, 1500, &rows);
        let listener = lab.server.run(|| {
            let socket = UdpSocket::bind("10.77.2.2:443").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            socket
        });
        let send = |datagrams: &'static [&'static [u8]]| {
            lab.punted_by(move || {
                let socket = endpoint_socket();
                for datagram in datagrams {
                    socket.send(datagram).unwrap();
                }
            })
        };
        assert_eq!(send(&[b"@short", b"@short"]), 2, "not settled");
        assert_eq!(send(&[SETTLE]), 1);
        assert_eq!(send(&[b"@short", b"\x7f", b"", b"@short"]), 0, "settled");
        assert_eq!(send(&[b"\xc0long", b"@short", b"\x80"]), 2);
        let hidden = lab.punted_by(|| {
            let socket = endpoint_socket();
            cut_into(&socket, 100);
            let mut datagrams = [b'@'; 950];
            socket.send(&datagrams).unwrap();
            datagrams[900] = 0xc0;
            socket.send(&datagrams).unwrap();
        });
        // 5.10 cuts them before anybody sees them, 6.1 does not.
        let of_one = if verifier::release_of_kernel() < (6, 1) { 1 } else { 10 };
        assert_eq!(
            hidden, of_one,
            "the super-packet with a long header, and not the one before"
        );
        let mut received = 0;
        while listener.recv(&mut [0; 2000]).is_ok() {
            received += 1;
        }
        assert_eq!(received, 2 + 1 + 4 + 3 + 20, "everything arrives");
        lab.client.run(|| endpoint_socket().send(&[b'@'; 4000]).unwrap());
        thread::sleep(Duration::from_millis(60));
        assert_eq!(lab.drops(DropReason::FragmentOfInspectedFlow), 1);
        assert!(listener.recv(&mut [0; 5000]).is_err());
        lab.end();
    });
}

#[test]
fn a_connection_on_the_ports_of_a_settled_one_is_read_from_its_beginning() {
    isolated(|| {
        let lab = open_inspected();
        let mut last = segment(OWN_CLIENT, OTHER_SERVER, 1001, 5001, ACK, 100);
        last.truncate(last.len() - SETTLE.len());
        last.extend(SETTLE);
        from_endpoint(&lab, last);
        from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, 1101, 5001, ACK, 100));
        assert_eq!(lab.counter(Counter::Punted), 1, "settled after the first segment");
        for (closing, base, answered) in [(FIN, 20_001, 60_000), (RST, 30_001, 70_000)] {
            from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, 1201, 5001, ACK | closing, 0));
            let before = lab.counter(Counter::Punted);
            from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, base - 1, 0, SYN, 0));
            to_endpoint(&segment(OTHER_SERVER, OWN_CLIENT, answered, base, SYN | ACK, 0));
            from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, base, answered + 1, ACK, 100));
            assert_eq!(lab.counter(Counter::Punted) - before, 1, "another connection");
            let meta = PuntMeta::decode(lab.last_frame.lock().unwrap().first_chunk().unwrap()).unwrap();
            assert_eq!(meta.base_seq, Some(base));
        }
        lab.end();
    });
}

#[test]
fn what_passed_while_no_policy_spoke_of_an_endpoint_has_been_read_by_nobody() {
    isolated(|| {
        let mut lab = open_inspected();
        from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, 1001, 5001, ACK, 100));
        assert_eq!(lab.counter(Counter::Punted), 1);
        let device = lab.indices[0];
        let managed = lab.datapath.endpoints()[&device];
        let unmanaged = Endpoint {
            flags: 0,
            epoch: 2,
            ..managed
        };
        lab.datapath.set_endpoint(device, unmanaged).unwrap();
        from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, 1101, 5001, ACK, 100));
        to_endpoint(&segment(OTHER_SERVER, OWN_CLIENT, 5001, 1201, ACK, 0));
        lab.datapath.forget_unmanaged([device].into_iter()).unwrap();
        let again = Endpoint { epoch: 3, ..managed };
        lab.datapath.set_endpoint(device, again).unwrap();
        from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, 1101, 5001, ACK, 200));
        let meta = PuntMeta::decode(lab.last_frame.lock().unwrap().first_chunk().unwrap()).unwrap();
        assert_eq!((lab.counter(Counter::Punted), meta.base_seq), (2, None));
        // Where policies spoke all the time nothing is forgotten.
        from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, 2000, 0, SYN, 0));
        to_endpoint(&segment(OTHER_SERVER, OWN_CLIENT, 7000, 2001, SYN | ACK, 0));
        lab.datapath.forget_unmanaged([device].into_iter()).unwrap();
        from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, 2001, 7001, ACK, 100));
        let meta = PuntMeta::decode(lab.last_frame.lock().unwrap().first_chunk().unwrap()).unwrap();
        assert_eq!(meta.base_seq, Some(2001));
        lab.end();
    });
}
