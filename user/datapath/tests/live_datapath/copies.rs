//! Copies beside the traffic: of what they are made, how much there is in them, and when they end.

use seventh_abi::{
    COPY_ROOMS, CopyHeader, CopySkip, Counter, Direction, DropReason, Endpoint, EndpointFlags, EventKind, IDENTITY_ANY,
    PolicyKey, PolicyVerdict, PuntMeta,
};
use seventh_datapath::{AttachMode, CopyReader, EventReader};

use crate::{
    ACK, CLIENT, Lab, OTHER_SERVER, OWN_CLIENT, SYN, Socket, TCP, from_endpoint, isolated, row, segment, to_endpoint,
};

/// Nobody is there, either, and no rule mentions the port.
const UNMENTIONED: Socket = (OTHER_SERVER.0, 9090);

/// The endpoint under this epoch: everything passes, and a policy in audit would have connections to port 8080 read and
/// allows no others.
fn audit(lab: &mut Lab, epoch: u32) {
    let endpoint = Endpoint {
        id: 1,
        identity: CLIENT,
        policy_id: 1,
        epoch,
        flags: EndpointFlags::AUDIT | EndpointFlags::AUDIT_EGRESS,
        name_scope: 0,
        audit_policy_id: 2,
    };
    lab.datapath.set_endpoint(lab.indices[0], endpoint).unwrap();
}

fn audited() -> Lab {
    audited_over(1500)
}

fn audited_over(mtu: u32) -> Lab {
    let mut lab = Lab::new(AttachMode::Auto, mtu, &[]);
    let (bits, key, entry) = row(Direction::Egress, IDENTITY_ANY, 8080, PolicyVerdict::Inspect);
    let key = PolicyKey {
        policy_id: 2_u32.to_be_bytes(),
        ..key
    };
    lab.datapath.write_policy([(bits, key, entry)].into_iter()).unwrap();
    audit(&mut lab, 2);
    lab
}

fn open(lab: &Lab, number: u32) {
    from_endpoint(lab, segment(OWN_CLIENT, OTHER_SERVER, number, 0, SYN, 0));
    to_endpoint(&segment(OTHER_SERVER, OWN_CLIENT, 5000, number + 1, SYN | ACK, 0));
}

fn copies(reader: &mut CopyReader) -> Vec<(CopyHeader, Vec<u8>)> {
    std::iter::from_fn(|| reader.next_copy(|header, frame| (*header, frame.to_vec()))).collect()
}

/// What is copied when the endpoint sends so many bytes from this number on.
fn sent(lab: &Lab, reader: &mut CopyReader, seq: u32, payload: usize) -> Vec<(CopyHeader, Vec<u8>)> {
    from_endpoint(lab, segment(OWN_CLIENT, OTHER_SERVER, seq, 5001, ACK, payload));
    copies(reader)
}

#[test]
fn data_is_copied_whole_until_somebody_says_that_it_need_not() {
    isolated(|| {
        let mut lab = audited();
        let mut reader = lab.datapath.take_copies().unwrap();
        open(&lab, 1000);
        assert!(sent(&lab, &mut reader, 1001, 0).is_empty(), "nothing is in it");
        for (seq, payload) in [(1001, 100), (1101, 1400)] {
            let found = sent(&lab, &mut reader, seq, payload);
            let [(header, frame)] = found.as_slice() else {
                panic!("{found:?}")
            };
            let wanted = segment(OWN_CLIENT, OTHER_SERVER, seq, 5001, ACK, payload);
            assert_eq!(frame[12..], wanted[12..]);
            assert_eq!(
                (header.length as usize, header.captured as usize),
                (wanted.len(), wanted.len())
            );
            assert_eq!((header.sequence, header.base_seq, header.epoch), (seq, 1001, 2));
            assert_eq!(
                PuntMeta::decode(frame.first_chunk().unwrap()).unwrap().base_seq,
                Some(1001)
            );
        }
        let key = sent(&lab, &mut reader, 2501, 1)[0].0.key;
        let skip = |start: u32, end: u32, flags: u32| CopySkip {
            epoch: 2,
            base_seq: 1001,
            start,
            end,
            flags,
        };
        reader.skip(&key, skip(2502, 3502, 0)).unwrap();
        assert!(sent(&lab, &mut reader, 2502, 500).is_empty());
        assert!(sent(&lab, &mut reader, 3002, 500).is_empty());
        assert_eq!(sent(&lab, &mut reader, 3402, 101).len(), 1, "its last byte lies behind");
        reader.skip(&key, skip(0, 0, CopySkip::ALL)).unwrap();
        assert!(sent(&lab, &mut reader, 3503, 100).is_empty());
        // Another connection, and another epoch: nobody has said anything of them.
        open(&lab, 9000);
        assert_eq!(sent(&lab, &mut reader, 9001, 100).len(), 1);
        reader
            .skip(
                &key,
                CopySkip {
                    base_seq: 9001,
                    ..skip(0, 0, CopySkip::ALL)
                },
            )
            .unwrap();
        assert!(sent(&lab, &mut reader, 9101, 100).is_empty());
        audit(&mut lab, 3);
        assert_eq!(sent(&lab, &mut reader, 9201, 100).len(), 1);
        assert_eq!((lab.counter(Counter::Copied), lab.counter(Counter::CopyLost)), (6, 0));
        lab.end();
    });
}

#[test]
fn long_frames_are_cut_when_nobody_reads_their_copies() {
    const FRAMES: usize = 400;
    // As long as every kernel's AF_XDP carries.
    const LONG: usize = 3000;
    isolated(|| {
        let mut lab = audited_over(3200);
        let mut reader = lab.datapath.take_copies().unwrap();
        open(&lab, 1000);
        for number in 0..FRAMES {
            let seq = 1001 + u32::try_from(number * LONG).unwrap();
            from_endpoint(&lab, segment(OWN_CLIENT, OTHER_SERVER, seq, 5001, ACK, LONG));
        }
        let lengths: Vec<_> = copies(&mut reader).iter().map(|(_, frame)| frame.len()).collect();
        // Rooms of 16 KiB in the first 2 MiB, of 2 KiB in the others.
        let whole = lengths.iter().take_while(|&&length| length > LONG).count();
        assert!((100..150).contains(&whole), "{whole}");
        assert!(
            lengths[whole..].iter().all(|&length| length == COPY_ROOMS[1]),
            "{lengths:?}"
        );
        assert_eq!(lengths.len(), FRAMES);
        let [cut, lost] = [Counter::CopyCut, Counter::CopyLost].map(|counter| lab.counter(counter));
        assert_eq!((cut, lost), ((FRAMES - whole) as u64, 0));
        // There is room again.
        let seq = 1001 + u32::try_from(FRAMES * LONG).unwrap();
        assert!(sent(&lab, &mut reader, seq, LONG)[0].1.len() > LONG);
        lab.end();
    });
}

#[test]
fn what_would_be_denied_passes_and_is_told_once_for_each_flow() {
    isolated(|| {
        let mut lab = audited();
        let (mut reader, mut events) = (lab.datapath.take_copies().unwrap(), lab.datapath.take_events().unwrap());
        let passed = lab.counter(Counter::Forwarded);
        from_endpoint(&lab, segment(OWN_CLIENT, UNMENTIONED, 1000, 0, SYN, 0));
        to_endpoint(&segment(UNMENTIONED, OWN_CLIENT, 5000, 1001, SYN | ACK, 0));
        from_endpoint(&lab, segment(OWN_CLIENT, UNMENTIONED, 1001, 5001, ACK, 100));
        assert_eq!(lab.counter(Counter::Forwarded) - passed, 2);
        assert_eq!(lab.counter(Counter::Audited), 1);
        let of_kind = |events: &mut EventReader, kind: EventKind| {
            let all = std::iter::from_fn(|| events.next_record());
            all.filter(|event| event.kind == kind as u8 && event.protocol == TCP)
                .collect::<Vec<_>>()
        };
        let told = of_kind(&mut events, EventKind::Audited);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(
            (told[0].reason, told[0].destination_port),
            (DropReason::PolicyDenied as u8, 9090)
        );
        assert!(copies(&mut reader).is_empty(), "nobody would read it");
        // What a policy that is enforced denies is dropped, and not told of a second time.
        let (bits, key, entry) = row(Direction::Egress, IDENTITY_ANY, 9091, PolicyVerdict::Deny);
        lab.datapath.write_policy([(bits, key, entry)].into_iter()).unwrap();
        from_endpoint(&lab, segment(OWN_CLIENT, (OTHER_SERVER.0, 9091), 1000, 0, SYN, 0));
        assert!(of_kind(&mut events, EventKind::Audited).is_empty());
        assert_eq!(lab.counter(Counter::Audited), 1);
        lab.end();
    });
}
