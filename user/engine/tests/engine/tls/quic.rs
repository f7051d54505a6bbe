//! QUIC: the same names, over datagrams.

use super::hello::{Hello, server_hello_message};
use super::{POLICY, world};
use crate::wire::{self, Shape};
use crate::world::{IFINDEX, SECOND, World};
use seventh_abi::{DropReason, Hook, InjectAction, InjectMeta, Replies};
use seventh_engine::{EngineCounter, EngineLimits, Fate, Outbox, RecordVerdict};
use seventh_parsers::packet::Frame;
use seventh_parsers::quic::{ConnectionId, InitialKeys, Packet, Side, Version, split_packet};

/// What left the engine: payload and metadata.
type Sent = (InjectMeta, Vec<u8>);

/// A client of port 443 behind the endpoint, and the server's side of its connection.
struct Client {
    version: Version,
    original: ConnectionId,
    port: u16,
    number: u32,
}

fn id(byte: u8) -> ConnectionId {
    ConnectionId::new(&[byte; 8]).unwrap()
}

impl Client {
    fn new() -> Self {
        Self {
            version: Version::V1,
            original: id(7),
            port: 443,
            number: 0,
        }
    }

    /// An Initial packet with these pieces of the handshake.
    fn initial(&mut self, pieces: &[(usize, &[u8])]) -> Vec<u8> {
        let keys = InitialKeys::new(self.version, Side::Client, &self.original);
        self.number += 1;
        keys.seal(self.version, &self.original, &id(1), self.number - 1, &crypto(pieces))
            .unwrap()
    }

    fn hello(&mut self, hello: &Hello) -> Vec<u8> {
        self.initial(&[(0, &hello.message())])
    }

    /// The server's Initial packet with the beginning of its answer.
    fn answer(&self, retry: bool) -> Vec<u8> {
        let keys = InitialKeys::new(self.version, Side::Server, &self.original);
        let message = server_hello_message(retry);
        keys.seal(self.version, &id(1), &id(2), 0, &crypto(&[(0, &message)]))
            .unwrap()
    }

    fn send(&self, world: &mut World, datagram: &[u8]) -> Vec<Sent> {
        send(world, self.port, false, datagram)
    }

    fn receive(&self, world: &mut World, datagram: &[u8]) -> Vec<Sent> {
        send(world, self.port, true, datagram)
    }
}

/// CRYPTO frames and padding.
fn crypto(pieces: &[(usize, &[u8])]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (offset, data) in pieces {
        payload.push(6);
        payload.extend((0x8000_0000 | *offset as u32).to_be_bytes());
        payload.extend((0x4000 | data.len() as u16).to_be_bytes());
        payload.extend(*data);
    }
    payload.resize(payload.len().max(20), 0);
    payload
}

fn send(world: &mut World, port: u16, reply: bool, datagram: &[u8]) -> Vec<Sent> {
    let mut meta = wire::punt(if reply { Hook::ToEndpoint } else { Hook::FromEndpoint }, IFINDEX);
    meta.reply = reply;
    let mut shape = Shape::new(2, 9, port);
    shape.protocol = 17;
    if reply {
        std::mem::swap(&mut shape.source, &mut shape.destination);
        std::mem::swap(&mut shape.source_port, &mut shape.destination_port);
    }
    let mut frame = shape.frame(&meta, 0, 0, 0, datagram);
    wire::number(&mut frame, world.connection);
    let mut out = Outbox::new();
    let fate = world.engine.decide(&mut frame, world.now_ns, &mut out);
    let own = (fate == Fate::Forward).then_some(&frame[..]);
    own.into_iter().chain(out.frames()).map(read).collect()
}

fn read(bytes: &[u8]) -> Sent {
    let frame = Frame::parse(bytes).unwrap();
    assert_eq!(frame.verify_checksums(), Ok(()));
    let meta = InjectMeta::decode(bytes.first_chunk().unwrap(), 0).unwrap();
    (meta, frame.payload().to_vec())
}

/// The datagram went on, and the kernel was told this.
#[track_caller]
fn passed(sent: &[Sent], datagram: &[u8]) -> InjectAction {
    let [(meta, payload)] = sent else { panic!("{sent:?}") };
    assert_eq!(payload, datagram);
    meta.action
}

#[test]
fn an_allowed_name_passes_and_after_the_servers_answer_the_kernel_carries_on_alone() {
    for version in [Version::V1, Version::V2] {
        let mut world = world();
        let mut client = Client {
            version,
            ..Client::new()
        };
        let hello = client.hello(&Hello::new("A.example"));
        let sent = client.send(&mut world, &hello);
        assert_eq!(passed(&sent, &hello), InjectAction::Keep);
        assert_eq!(sent[0].0.replies, Replies::Punt);
        let answer = client.answer(false);
        let sent = client.receive(&mut world, &answer);
        assert_eq!(
            passed(&sent, &answer),
            InjectAction::ForwardQuic { epoch: world.epoch() }
        );
        assert_eq!(sent[0].0.replies, Replies::Pass);
        let short = client.send(&mut world, b"@short");
        assert_eq!(
            passed(&short, b"@short"),
            InjectAction::ForwardQuic { epoch: world.epoch() }
        );
        let records = world.records();
        let [record] = &records[..] else { panic!("{records:?}") };
        assert_eq!((record.verdict, record.host()), (RecordVerdict::Forwarded, "a.example"));
        assert!(record.tls().is_some_and(|tls| tls.quic && tls.alpn == "h2,http/1.1"));
    }
}

#[test]
fn a_denied_name_is_told_to_the_client_once_recorded_and_then_silent() {
    let mut world = world();
    let mut client = Client::new();
    let hello = client.hello(&Hello::new("b.example"));
    let sent = client.send(&mut world, &hello);
    let [(meta, close)] = &sent[..] else { panic!("{sent:?}") };
    assert!(meta.reverse);
    let Ok((Packet::Initial(initial), [])) = split_packet(close) else {
        panic!("an Initial")
    };
    let mut payload = Vec::new();
    let keys = InitialKeys::new(Version::V1, Side::Server, &client.original);
    assert_eq!(keys.open(&initial, 0, &mut payload), Ok(0));
    // CONNECTION_CLOSE, 0x0170: alert 112 of TLS.
    assert_eq!((initial.destination, &payload[..3]), (id(1), &[0x1c, 0x41, 0x70][..]));
    for datagram in [client.hello(&Hello::new("b.example")), b"@short".to_vec()] {
        assert!(client.send(&mut world, &datagram).is_empty());
    }
    assert!(client.receive(&mut world, &client.answer(false)).is_empty());
    let records = world.records();
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!(
        (record.host(), record.reason),
        ("b.example", Some(DropReason::TlsPolicyDenied))
    );
    // Another connection from the same port is another matter.
    let mut other = Client {
        original: id(8),
        ..Client::new()
    };
    let hello = other.hello(&Hello::new("a.example"));
    assert_eq!(passed(&other.send(&mut world, &hello), &hello), InjectAction::Keep);
}

#[test]
fn datagrams_wait_until_the_hello_is_whole_whatever_their_order() {
    let message = Hello {
        padding: 1700,
        ..Hello::new("a.example")
    }
    .message();
    let pieces: Vec<_> = message
        .chunks(600)
        .enumerate()
        .map(|(n, piece)| (n * 600, piece))
        .collect();
    assert_eq!(pieces.len(), 4);
    for first in 0..4 {
        for step in [1, 3] {
            let mut world = world();
            let mut client = Client::new();
            let order: Vec<_> = (0..4).map(|n| (first + n * step) % 4).collect();
            let mut waiting = Vec::new();
            for (n, at) in order.iter().enumerate() {
                let datagram = client.initial(&[pieces[*at]]);
                let sent = client.send(&mut world, &datagram);
                waiting.push(datagram);
                if n < 3 {
                    assert!(sent.is_empty(), "{order:?}");
                    continue;
                }
                let mut released: Vec<_> = sent.iter().map(|(_, payload)| payload.clone()).collect();
                released.rotate_left(1);
                assert_eq!(released, waiting, "this one first, then those that waited");
                assert!(
                    sent.iter()
                        .all(|(meta, _)| !meta.reverse && meta.hook == Hook::FromEndpoint)
                );
            }
            assert_eq!(world.count(EngineCounter::DatagramHeld), 3);
        }
    }
}

#[test]
fn connections_that_are_mixed_on_one_port_never_let_an_unread_hello_through() {
    let mut world = world();
    let message = Hello::new("b.example").message();
    let (first, second) = message.split_at(60);
    let mut secret = Client::new();
    let mut other = Client {
        original: id(9),
        ..Client::new()
    };
    let parts = [secret.initial(&[(0, first)]), secret.initial(&[(60, second)])];
    let mut sent = secret.send(&mut world, &parts[0]);
    let allowed = other.hello(&Hello::new("a.example"));
    sent.extend(other.send(&mut world, &allowed));
    sent.extend(secret.send(&mut world, &parts[1]));
    sent.extend(secret.send(&mut world, &parts[0]));
    let payloads: Vec<_> = sent
        .into_iter()
        .filter(|(meta, _)| !meta.reverse)
        .map(|(_, payload)| payload)
        .collect();
    assert_eq!(payloads, [allowed]);
}

#[test]
fn a_second_hello_must_carry_the_name_of_the_first() {
    for (name, allowed) in [("a.example", true), ("b.shop.example", false)] {
        let mut world = world();
        let mut client = Client::new();
        let hello = Hello::new("a.example");
        let len = hello.message().len();
        let datagram = client.hello(&hello);
        client.send(&mut world, &datagram);
        let retry = client.answer(true);
        assert_eq!(passed(&client.receive(&mut world, &retry), &retry), InjectAction::Keep);
        let second = Hello::new(name).message();
        let (a, b) = second.split_at(40);
        let begin = client.initial(&[(len, a)]);
        assert!(client.send(&mut world, &begin).is_empty(), "it waits");
        let end = client.initial(&[(len + 40, b)]);
        let sent = client.send(&mut world, &end);
        if allowed {
            assert_eq!(sent.len(), 2);
            assert_eq!(sent[0].0.action, InjectAction::ForwardQuic { epoch: world.epoch() });
        } else {
            assert!(sent.is_empty());
            assert_eq!(world.reason(DropReason::TlsNameChanged), 1);
        }
    }
}

#[test]
fn what_is_no_beginning_of_a_connection_has_reasons_of_its_own() {
    let mut client = Client::new();
    let mut changed = client.hello(&Hello::new("a.example"));
    *changed.last_mut().unwrap() ^= 1;
    let no_name = Hello {
        name: None,
        ..Hello::new("")
    };
    for (datagram, reason) in [
        (b"@short".to_vec(), DropReason::QuicNotInitial),
        (b"\0\0plain".to_vec(), DropReason::QuicNotInitial),
        (vec![0xe0, 0, 0, 0, 1, 0, 0, 1, 9], DropReason::QuicNotInitial),
        (vec![0xc0, 0xff, 0, 0, 29, 8], DropReason::QuicUnknownVersion),
        (vec![0xc0, 0, 0, 0, 1, 99], DropReason::QuicBadPacket),
        (changed, DropReason::QuicUndecryptable),
        (client.initial(&[(0, &[2, 0, 0, 0])]), DropReason::TlsNotClientHello),
        (
            client.initial(&[(0, b"\x01\0"), (1, b"\x01")]),
            DropReason::QuicBadHandshake,
        ),
        (client.initial(&[(200_000, b"x")]), DropReason::QuicHelloTooLong),
        (client.hello(&no_name), DropReason::TlsNoServerName),
    ] {
        let mut world = world();
        let sent = client.send(&mut world, &datagram);
        assert!(sent.iter().all(|(meta, _)| meta.reverse), "{sent:?}");
        assert_eq!(world.reason(reason), 1, "{reason:?}");
        assert_eq!(world.records().len(), 1);
    }
}

#[test]
fn unknown_versions_pass_if_told_so_and_hide_no_connection_that_can_be_read() {
    let mut world = World::with_limits(EngineLimits {
        pass_unknown_quic: true,
        ..EngineLimits::default()
    });
    world.set_policy(POLICY);
    let mut client = Client::new();
    let unknown = [0xc0, 0xff, 0, 0, 29, 8];
    for _ in 0..2 {
        for datagram in [&unknown[..], b"@x"] {
            assert_eq!(
                passed(&client.send(&mut world, datagram), datagram),
                InjectAction::ForwardQuic { epoch: world.epoch() }
            );
        }
        let denied = client.hello(&Hello::new("b.example"));
        let sent = client.send(&mut world, &denied);
        assert!(sent.iter().all(|(meta, _)| meta.reverse), "{sent:?}");
        world.set_policy(POLICY);
    }
    assert_eq!(world.reason(DropReason::TlsPolicyDenied), 2);
    let mut other = Client {
        original: id(8),
        ..Client::new()
    };
    let hello = other.hello(&Hello::new("a.example"));
    passed(&other.send(&mut world, &hello), &hello);
    passed(&other.send(&mut world, &unknown), &unknown);
}

#[test]
fn beside_a_rule_without_names_every_datagram_passes() {
    let mut world = world();
    let mut client = Client {
        port: 8443,
        ..Client::new()
    };
    let hello = client.hello(&Hello::new("other.example"));
    passed(&client.send(&mut world, &hello), &hello);
    assert_eq!(
        world
            .records()
            .first()
            .map(|record| record.host().to_owned())
            .as_deref(),
        Some("other.example")
    );
    let mut world = super::world();
    assert_eq!(
        passed(&client.send(&mut world, b"plain"), b"plain"),
        InjectAction::Forward { epoch: world.epoch() }
    );
}

#[test]
fn a_change_of_policy_judges_the_name_again() {
    let mut world = world();
    let mut client = Client::new();
    let hello = client.hello(&Hello::new("a.example"));
    client.send(&mut world, &hello);
    client.receive(&mut world, &client.answer(false));
    world.records();
    world.set_policy(POLICY);
    assert_eq!(
        passed(&client.send(&mut world, b"@x"), b"@x"),
        InjectAction::ForwardQuic { epoch: world.epoch() }
    );
    world.set_policy(&POLICY.replace("\"a.example\", ", ""));
    assert!(client.receive(&mut world, b"@from the server").is_empty());
    assert!(client.send(&mut world, b"@x").is_empty());
    let records = world.records();
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!(
        (record.host(), record.reason),
        ("a.example", Some(DropReason::TlsPolicyDenied))
    );
}

#[test]
fn what_waits_is_bounded_and_forgotten() {
    let mut world = world();
    let mut client = Client::new();
    for n in 0..12 {
        let datagram = client.initial(&[(10 + n, b"x")]);
        assert!(client.send(&mut world, &datagram).is_empty());
    }
    assert_eq!(world.count(EngineCounter::DatagramHeld), 10);
    assert_eq!(world.reason(DropReason::QuicHelloTooLong), 2);
    assert!(world.tick().is_empty());
    assert!(world.count(EngineCounter::HeldBytes) > 1000);
    for _ in 0..3 {
        world.now_ns += 61 * SECOND;
        world.tick();
    }
    assert_eq!(
        (world.count(EngineCounter::HeldBytes), world.count(EngineCounter::Flows)),
        (0, 0)
    );
}

#[test]
fn after_a_retry_packet_the_client_begins_anew_with_other_keys() {
    let mut world = world();
    let mut client = Client::new();
    let hello = client.hello(&Hello::new("a.example"));
    client.send(&mut world, &hello);
    let retry = [0xf0, 0, 0, 0, 1, 0, 0, 1, 2, 3];
    assert_eq!(passed(&client.receive(&mut world, &retry), &retry), InjectAction::Keep);
    client.original = id(2);
    let hello = client.hello(&Hello::new("a.example"));
    assert_eq!(passed(&client.send(&mut world, &hello), &hello), InjectAction::Keep);
    let answer = client.answer(false);
    assert_eq!(
        passed(&client.receive(&mut world, &answer), &answer),
        InjectAction::ForwardQuic { epoch: world.epoch() }
    );
}

/// A world in which the server has accepted the client's connection.
fn settled() -> (World, Client) {
    let mut world = world();
    let mut client = Client::new();
    let hello = client.hello(&Hello::new("a.example"));
    client.send(&mut world, &hello);
    let answer = client.answer(false);
    client.receive(&mut world, &answer);
    world.records();
    (world, client)
}

impl Client {
    /// A later Initial packet, to the id that the server has chosen.
    fn acknowledgement(&mut self) -> Vec<u8> {
        let keys = InitialKeys::new(self.version, Side::Client, &self.original);
        self.number += 1;
        let ack = [2, 0, 0, 0, 0];
        keys.seal(
            self.version,
            &id(2),
            &id(1),
            self.number - 1,
            &[&ack[..], &[0; 30]].concat(),
        )
        .unwrap()
    }
}

#[test]
fn another_connection_on_settled_ports_is_judged_by_its_own_name() {
    let (mut world, mut client) = settled();
    let epoch = world.epoch();
    let later = client.acknowledgement();
    assert_eq!(
        passed(&client.send(&mut world, &later), &later),
        InjectAction::ForwardQuic { epoch }
    );
    let mut secret = Client {
        original: id(8),
        ..Client::new()
    };
    let hello = secret.hello(&Hello::new("b.example"));
    assert!(secret.send(&mut world, &hello).iter().all(|(meta, _)| meta.reverse));
    let behind = [&client.acknowledgement()[..], &hello].concat();
    assert!(
        client.send(&mut world, &behind).is_empty(),
        "two connections in one datagram"
    );
    assert_eq!(world.reason(DropReason::TlsPolicyDenied), 1);
    // The first one goes on, and a third may begin.
    let later = client.acknowledgement();
    passed(&client.send(&mut world, &later), &later);
    let mut third = Client {
        original: id(9),
        ..Client::new()
    };
    let hello = third.hello(&Hello::new("b.shop.example"));
    assert_eq!(passed(&third.send(&mut world, &hello), &hello), InjectAction::Keep);
    let later = third.acknowledgement();
    passed(&third.send(&mut world, &later), &later);
    let second = third.initial(&[(
        Hello::new("b.shop.example").message().len(),
        &Hello::new("a.example").message(),
    )]);
    assert!(third.send(&mut world, &second).is_empty());
    assert_eq!(world.reason(DropReason::TlsNameChanged), 1);
}

#[test]
fn the_beginning_of_a_known_connection_is_read_again_when_it_comes_again() {
    let (mut world, mut client) = settled();
    // A server that has forgotten the connection would take it for a new one.
    let evil = client.hello(&Hello::new("b.example"));
    assert!(client.send(&mut world, &evil).iter().all(|(meta, _)| meta.reverse));
    assert_eq!(world.reason(DropReason::TlsPolicyDenied), 1);
    // Before the server has accepted nothing that was read may come with other bytes either.
    let mut world = super::world();
    let mut client = Client::new();
    let hello = client.hello(&Hello::new("a.example"));
    passed(&client.send(&mut world, &hello), &hello);
    client.number = 0;
    let evil = client.hello(&Hello::new("b.example"));
    assert!(client.send(&mut world, &evil).is_empty());
    assert_eq!(world.reason(DropReason::QuicBadHandshake), 1);
    passed(&client.send(&mut world, &hello), &hello);
}

#[test]
fn a_change_of_policy_judges_every_name_on_settled_ports() {
    let (mut world, client) = settled();
    let mut other = Client {
        original: id(8),
        ..Client::new()
    };
    let hello = other.hello(&Hello::new("b.shop.example"));
    passed(&other.send(&mut world, &hello), &hello);
    world.set_policy(POLICY);
    passed(&client.send(&mut world, b"@x"), b"@x");
    world.set_policy(&POLICY.replace("*.shop.example", "*.other.example"));
    assert!(client.send(&mut world, b"@x").is_empty());
    assert_eq!(world.reason(DropReason::TlsPolicyDenied), 1);
}

#[test]
fn names_on_the_same_ports_are_bounded() {
    let (mut world, _) = settled();
    let names = [
        "a.shop.example",
        "b.shop.example",
        "c.shop.example",
        "d.shop.example",
        "e.shop.example",
        "f.shop.example",
        "g.shop.example",
        "h.shop.example",
        "i.shop.example",
        "a.example",
    ];
    for (n, name) in names.into_iter().enumerate() {
        let mut client = Client {
            original: id(20 + n as u8),
            ..Client::new()
        };
        let hello = client.hello(&Hello::new(name));
        let sent = client.send(&mut world, &hello);
        assert_eq!(!sent.is_empty(), n < 7 || name == "a.example", "{name}");
    }
    assert_eq!(world.reason(DropReason::QuicTooManyNames), 2);
}
