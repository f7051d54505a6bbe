use super::{
    ConnectionId, CryptoStream, Initial, InitialKeys, PIECES_MAX, Packet, QuicFault, Side, Version, fuzz_datagram,
    fuzz_frames, fuzz_initial, read_frames, split_packet, split_packet_or_draft, take_varint,
};
use crate::tls::{HELLO_LEN_MAX, Limits, TlsFault, read_hello};
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

/// Destination connection id of both RFCs' examples.
fn example_id() -> ConnectionId {
    ConnectionId::new(&hex("8394c8f03e515708")).unwrap()
}

/// CRYPTO frame of RFC 9001 appendix A.2: a ClientHello for example.com.
fn example_frame() -> Vec<u8> {
    hex(
        "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e86804fe3a47f06a2b69484c
         00000413011302010000c000000010000e00000b6578616d706c652e636f6dff01000100000a00080006
         001d0017001800100007000504616c706e000500050100000000003300260024001d00209370b2c9caa4
         7fbabaf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b0003020304000d0010000e040305
         0306030203080408050806002d00020101001c00024001003900320408ffffffffffffffff05048000ff
         ff07048000ffff0801100104800075300901100f088394c8f03e51570806048000ffff",
    )
}

fn initial(packet: &[u8]) -> Initial<'_> {
    match split_packet(packet) {
        Ok((Packet::Initial(initial), [])) => initial,
        other => panic!("{other:?}"),
    }
}

fn open(version: Version, side: Side, packet: &[u8]) -> Result<(u64, Vec<u8>), QuicFault> {
    let mut payload = Vec::new();
    let keys = InitialKeys::new(version, side, &example_id());
    let number = keys.open(&initial(packet), 0, &mut payload)?;
    Ok((number, payload))
}

/// RFC 9001 appendix A.2, RFC 9369 appendix A.2: the protected packet begins and ends so; its end is the tag over all.
#[test]
fn the_clients_example_packets_of_both_versions_are_made_and_opened() {
    for (version, begin, end) in [
        (
            Version::V1,
            "c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11",
            "e221af44860018ab0856972e194cd934",
        ),
        (
            Version::V2,
            "d76b3343cf088394c8f03e5157080000449ea0c95e82ffe67b6abcdb4298b485",
            "a18b2faa745b6fe189cf772a9f84cbfc",
        ),
    ] {
        let mut payload = example_frame();
        payload.resize(1162, 0);
        let keys = InitialKeys::new(version, Side::Client, &example_id());
        let packet = keys
            .seal(version, &example_id(), &ConnectionId::default(), 2, &payload)
            .unwrap();
        assert_eq!(packet.len(), 1200);
        assert!(
            packet.starts_with(&hex(begin)) && packet.ends_with(&hex(end)),
            "{version:?}"
        );
        assert_eq!(open(version, Side::Client, &packet), Ok((2, payload)));
        assert_eq!(initial(&packet).destination, example_id());
    }
}

/// RFC 9001 appendix A.3, RFC 9369 appendix A.3.
#[test]
fn the_servers_example_packets_of_both_versions_are_opened() {
    let payload = hex(
        "02000000000600405a020000560303eefce7f7b37ba1d1632e96677825ddf73988cfc79825df566dc5430b
         9a045a1200130100002e00330024001d00209d3c940d89690b84d08a60993c144eca684d1081287c834d53
         11bcf32bb9da1a002b00020304",
    );
    for (version, packet) in [
        (
            Version::V1,
            "cf000000010008f067a5502a4262b5004075c0d95a482cd0991cd25b0aac406a5816b6394100f37a1c69
             797554780bb38cc5a99f5ede4cf73c3ec2493a1839b3dbcba3f6ea46c5b7684df3548e7ddeb9c3bf9c73
             cc3f3bded74b562bfb19fb84022f8ef4cdd93795d77d06edbb7aaf2f58891850abbdca3d20398c276456
             cbc42158407dd074ee",
        ),
        (
            Version::V2,
            "dc6b3343cf0008f067a5502a4262b5004075d92faaf16f05d8a4398c47089698baeea26b91eb761d9b89
             237bbf87263017915358230035f7fd3945d88965cf17f9af6e16886c61bfc703106fbaf3cb4cfa52382d
             d16a393e42757507698075b2c984c707f0a0812d8cd5a6881eaf21ceda98f4bd23f6fe1a3e2c43edd9ce
             7ca84bed8521e2e140",
        ),
    ] {
        let packet = hex(packet);
        assert_eq!(open(version, Side::Server, &packet), Ok((1, payload.clone())));
        assert_eq!(open(version, Side::Client, &packet), Err(QuicFault::Undecryptable));
    }
}

/// Each group of drafts has its keys; the last ones have those of version 1.
#[test]
fn drafts_are_read_by_those_who_look_on_only() {
    let payload = example_frame();
    let mut opened = Vec::new();
    for number in [
        0xff00_0016_u32,
        0xff00_001b,
        0xff00_001d,
        0xff00_0022,
        0xface_b001,
        0xface_b002,
    ] {
        let mut packet = hex("c0 00000000 08 8394c8f03e515708 00 00 04 00000000");
        packet[1..5].copy_from_slice(&number.to_be_bytes());
        assert_eq!(split_packet(&packet), Ok((Packet::UnknownVersion(number), &[][..])));
        let Ok((Packet::Initial(initial), [])) = split_packet_or_draft(&packet) else {
            panic!("{number:x}");
        };
        let version = initial.version;
        assert_eq!(version.number(), number);
        let sealed = InitialKeys::new(version, Side::Client, &example_id())
            .seal(version, &example_id(), &ConnectionId::default(), 0, &payload)
            .unwrap();
        let Ok((Packet::Initial(initial), [])) = split_packet_or_draft(&sealed) else {
            panic!("{number:x}");
        };
        let mut read = Vec::new();
        let keys = InitialKeys::new(version, Side::Client, &example_id());
        assert_eq!((keys.open(&initial, 0, &mut read), &read), (Ok(0), &payload));
        let keys = InitialKeys::new(Version::V1, Side::Client, &example_id());
        opened.push(keys.open(&initial, 0, &mut read).is_ok());
    }
    assert_eq!(
        opened,
        [false, false, false, true, false, false],
        "with version 1's keys"
    );
    for number in ["ff000015", "ff000023", "54303531", "0a1a2a3a"] {
        let packet = hex(&format!("c0 {number} 08 8394c8f03e515708 00 00 04 00000000"));
        assert!(matches!(
            split_packet_or_draft(&packet),
            Ok((Packet::UnknownVersion(_), []))
        ));
    }
}

#[test]
fn the_hello_is_read_from_any_order_of_any_pieces() {
    let message = example_frame()[4..].to_vec();
    let mut random = StdRng::seed_from_u64(3);
    for round in 0..300 {
        let mut stream = CryptoStream::new();
        let size = 1 + round % 60;
        let mut pieces: Vec<_> = message.chunks(size.max(5)).enumerate().collect();
        for at in (1..pieces.len()).rev() {
            pieces.swap(at, random.random_range(0..=at));
        }
        let (last, others) = pieces.split_last().unwrap();
        for (at, piece) in others {
            stream.insert((at * size.max(5)) as u64, piece).unwrap();
            assert_eq!(stream.client_hello(&Limits::default()), Ok(None));
        }
        stream.insert((last.0 * size.max(5)) as u64, last.1).unwrap();
        let read = stream.client_hello(&Limits::default()).unwrap().expect("whole");
        assert_eq!(read_hello(read).unwrap().server_name.as_deref(), Some("example.com"));
        assert_eq!(stream.ranges(), [(0, message.len())]);
    }
}

#[test]
fn pieces_that_overlap_must_agree() {
    let mut stream = CryptoStream::new();
    stream.insert(0, b"\x01\0\0\x08ab").unwrap();
    stream.insert(2, b"\0\x08abc").unwrap();
    stream.insert(9, b"gh").unwrap();
    assert_eq!(stream.insert(6, b"cdeX"), Err(QuicFault::PiecesDiffer));
    assert_eq!(stream.insert(0, b"\x02"), Err(QuicFault::PiecesDiffer));
    assert_eq!(stream.unread(), b"\x01\0\0\x08abc");
    stream.insert(6, b"cdegh").unwrap();
    assert_eq!(stream.client_hello(&Limits::default()), Ok(None));
    stream.insert(11, b"z").unwrap();
    let whole = stream.client_hello(&Limits::default());
    assert_eq!(whole, Ok(Some(&b"\x01\0\0\x08abcdeghz"[..])));
}

#[test]
fn what_is_kept_is_bounded() {
    let mut stream = CryptoStream::new();
    for n in 0..PIECES_MAX {
        stream.insert(2 * n as u64 + 1, b"x").unwrap();
    }
    assert_eq!(stream.insert(1000, b"x"), Err(QuicFault::TooLarge));
    stream.insert(2, b"x").unwrap();
    stream.insert(1000, b"x").unwrap();
    assert_eq!(stream.insert(HELLO_LEN_MAX as u64, b"x"), Err(QuicFault::TooLarge));
    assert_eq!(stream.insert(u64::MAX, b"x"), Err(QuicFault::TooLarge));
    assert!(stream.held() < 2 * HELLO_LEN_MAX);
    let mut other = CryptoStream::new();
    other.insert(0, &[2]).unwrap();
    assert_eq!(other.client_hello(&Limits::default()), Err(TlsFault::NotClientHello));
    let mut large = CryptoStream::new();
    large.insert(0, &[1, 1, 0, 0]).unwrap();
    assert_eq!(large.client_hello(&Limits::default()), Err(TlsFault::TooLarge));
}

#[test]
fn after_a_message_the_next_one_is_the_beginning() {
    let mut stream = CryptoStream::new();
    stream.insert(0, b"\x01\0\0\x02ab\x01\0\0\x01").unwrap();
    stream.insert(11, b"?").unwrap();
    assert_eq!(
        stream.client_hello(&Limits::default()),
        Ok(Some(&b"\x01\0\0\x02ab"[..]))
    );
    stream.advance(6);
    assert_eq!(stream.client_hello(&Limits::default()), Ok(None));
    assert_eq!(
        stream.insert(4, b"aX"),
        Err(QuicFault::PiecesDiffer),
        "what was read stays what it was"
    );
    stream.insert(2, b"\0\x02ab\x01\0\0\x01?").unwrap();
    assert_eq!(stream.client_hello(&Limits::default()), Ok(Some(&b"\x01\0\0\x01?"[..])));
    assert_eq!(stream.ranges(), [(0, 12)]);
    assert!(!stream.is_read());
    stream.advance(5);
    assert!(!stream.is_read(), "a byte follows the message");
    stream.advance(9);
    assert_eq!((stream.is_read(), stream.unread()), (true, &b""[..]));
}

#[test]
fn only_frames_of_initial_packets_are_read() {
    let read = |payload: &[u8]| {
        let mut pieces = Vec::new();
        read_frames(payload, |offset, data| {
            pieces.push((offset, data.to_vec()));
            Ok(())
        })
        .map(|()| pieces)
    };
    let ack = hex("02 4010 00 01 03 00 02");
    let ack_ecn = hex("03 05 00 00 05 01 02 03");
    let close = hex("1c 4170 06 02 6869");
    let crypto = hex("06 04 02 abcd");
    let all = [&[0, 0, 1][..], &ack, &crypto, &ack_ecn, &[0; 9], &close, &crypto].concat();
    assert_eq!(read(&all), Ok(vec![(4, vec![0xab, 0xcd]), (4, vec![0xab, 0xcd])]));
    for bad in [
        "",
        "08 00",
        "1d 00 00",
        "06 04 03 abcd",
        "06 04",
        "40",
        "02 00 00 3f 00",
        "1e",
        "03 05 00 00 05 01",
    ] {
        assert_eq!(read(&hex(bad)), Err(QuicFault::BadFrame), "{bad}");
    }
}

#[test]
fn packets_of_a_datagram_are_told_apart() {
    let keys = InitialKeys::new(Version::V1, Side::Client, &example_id());
    let first = keys
        .seal(
            Version::V1,
            &example_id(),
            &ConnectionId::default(),
            0,
            &example_frame(),
        )
        .unwrap();
    let handshake = hex("e0 00000001 00 00 04 01020304");
    let datagram = [&first[..], &handshake, &[0x40, 1, 2]].concat();
    let (packet, rest) = split_packet(&datagram).unwrap();
    assert!(matches!(packet, Packet::Initial(_)));
    let (packet, rest) = split_packet(rest).unwrap();
    assert_eq!(packet, Packet::Handshake);
    assert_eq!(split_packet(rest), Ok((Packet::Short, &[][..])));
    for (bytes, packet) in [
        ("d0 00000001 00 00 01 00", Packet::ZeroRtt),
        ("f0 00000001 00 00 aabb", Packet::Retry),
        ("c0 6b3343cf 00 00 aabb", Packet::Retry),
        ("e0 6b3343cf 00 00 01 00", Packet::ZeroRtt),
        ("f0 6b3343cf 00 00 01 00", Packet::Handshake),
        ("80 00000000 00 00 00000001", Packet::VersionNegotiation),
        ("c0 ff00001d 08", Packet::UnknownVersion(0xff00_001d)),
        ("00", Packet::Short),
    ] {
        assert_eq!(
            split_packet(&hex(bytes)).map(|(packet, _)| packet),
            Ok(packet),
            "{bytes}"
        );
    }
    for bad in [
        "",
        "c0 000000",
        "80 00000001 00 00 00 01 00",
        "c0 00000001 15",
        "c0 00000001 15 000000000000000000000000000000000000000000 00 00 00",
        "c0 00000001 00 00 05 00",
        "c0 00000001 00 00 00 02 00",
        "c0 00000001 00 00 ffffffffffffffff 00",
    ] {
        assert_eq!(split_packet(&hex(bad)), Err(QuicFault::BadPacket), "{bad}");
    }
}

#[test]
fn a_packet_that_was_changed_anywhere_does_not_open() {
    let keys = InitialKeys::new(Version::V1, Side::Client, &example_id());
    let packet = keys
        .seal(
            Version::V1,
            &example_id(),
            &ConnectionId::default(),
            7,
            &example_frame(),
        )
        .unwrap();
    for at in 0..packet.len() {
        let mut changed = packet.clone();
        changed[at] ^= 1;
        let opened = match split_packet(&changed) {
            Ok((Packet::Initial(initial), [])) => keys.open(&initial, 0, &mut Vec::new()).is_ok(),
            _ => false,
        };
        assert!(!opened, "byte {at}");
    }
    assert_eq!(
        open(Version::V1, Side::Client, &packet).map(|(number, _)| number),
        Ok(7)
    );
    let short = keys.seal(Version::V1, &example_id(), &ConnectionId::default(), 0, &[]);
    assert!(short.is_some_and(|packet| open(Version::V1, Side::Client, &packet) == Ok((0, vec![]))));
}

/// RFC 9000 appendix A.1 and A.3.
#[test]
fn numbers_are_read_as_the_rfc_shows() {
    for (bytes, number) in [
        ("c2197c5eff14e88c", 151_288_809_941_952_652),
        ("9d7f3e7d", 494_878_333),
        ("7bbd", 15_293),
        ("25", 37),
        ("4025", 37),
    ] {
        assert_eq!(take_varint(&mut &hex(bytes)[..]), Some(number));
    }
    assert_eq!(take_varint(&mut &[0x40][..]), None);
    assert_eq!(super::crypto::full_number(&[0x9b, 0x32], 0xa82f_30ea + 1), 0xa82f_9b32);
    assert_eq!(super::crypto::full_number(&[0xff], 0x100), 0xff);
    assert_eq!(super::crypto::full_number(&[0x01], 0x1ff), 0x201);
}

proptest! {
    #[test]
    fn any_bytes_keep_the_promises(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        fuzz_datagram(&bytes);
        fuzz_frames(&bytes);
        fuzz_initial(&bytes);
        let long = [&[0xc0, 0, 0, 0, 1][..], &bytes].concat();
        fuzz_datagram(&long);
    }
}
