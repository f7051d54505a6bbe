//! Tunnels inside HTTP/2: they outlive the verdict on the request that opened them, and are judged again.

use crate::http2::{DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, begin, block, fields, frame, literal, request};
use crate::upgrades::with_connect;
use crate::world::{Connection, Outcome, POLICY, World};
use seventh_abi::{DropReason, InjectAction};
use seventh_engine::EngineCounter;

const PLAIN: &[(&str, &str)] = &[(":method", "CONNECT"), (":authority", "a:443")];
/// RFC 8441.
const EXTENDED: &[(&str, &str)] = &[
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    (":scheme", "http"),
    (":path", "/chat"),
    (":authority", "a:443"),
    ("x-some", "header"),
];

/// A connection whose opener has sent so many bytes, all of which went on.
struct Sender {
    connection: Connection,
    at: usize,
}

impl Sender {
    /// Under [`with_connect`].
    fn new() -> (World, Self) {
        let mut world = World::new();
        world.set_policy(&with_connect());
        let mut sender = Self {
            connection: Connection::new(),
            at: 0,
        };
        sender.goes_on(&mut world, begin());
        (world, sender)
    }

    fn send(&self, world: &mut World, bytes: impl AsRef<[u8]>) -> Outcome {
        self.connection.send(world, self.at, bytes)
    }

    #[track_caller]
    fn goes_on(&mut self, world: &mut World, bytes: impl AsRef<[u8]>) -> InjectAction {
        let action = self.send(world, &bytes).forwarded().meta.action;
        self.at += bytes.as_ref().len();
        self.connection.answered(self.at, 1);
        world.weigh();
        action
    }
}

fn connect(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(fields))
}

/// The same rules for CONNECT, other ones beside them.
fn unrelated() -> String {
    with_connect().replace("/public.*", "/other")
}

#[test]
fn a_tunnel_inside_http_2_is_judged_again_when_the_rules_change() {
    for opened in [PLAIN, EXTENDED] {
        let (mut world, mut sender) = Sender::new();
        sender.goes_on(&mut world, request(1, "/public"));
        sender.goes_on(&mut world, connect(3, opened));
        let data = frame(DATA, 0, 3, b"what nobody but the server reads");
        sender.goes_on(&mut world, &data);
        world.set_policy(&unrelated());
        sender.goes_on(&mut world, &data);
        assert_eq!(world.reason(DropReason::HttpPolicyDenied), 0);
        world.set_policy(POLICY);
        sender.send(&mut world, &data).resets();
        assert_eq!(world.reason(DropReason::HttpPolicyDenied), 1);
        assert!(sender.send(&mut world, &data).forwarded.is_none());
        assert_eq!(
            world.count(EngineCounter::RequestAllowed),
            2,
            "nothing is recorded twice"
        );
    }
}

#[test]
fn a_tunnel_that_was_ended_is_not_judged_again() {
    for end in [
        frame(DATA, END_STREAM, 1, b"the last of it"),
        frame(DATA, END_STREAM, 1, b""),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("x-sum", "1")])),
        frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
    ] {
        let (mut world, mut sender) = Sender::new();
        sender.goes_on(&mut world, connect(1, PLAIN));
        sender.goes_on(&mut world, end);
        world.set_policy(POLICY);
        sender.goes_on(&mut world, request(3, "/public"));
    }
}

#[test]
fn requests_that_open_no_tunnel_are_not_judged_again() {
    let (mut world, mut sender) = Sender::new();
    sender.goes_on(
        &mut world,
        frame(HEADERS, END_HEADERS, 1, &block(&fields("POST", "/upload"))),
    );
    world.set_policy(&POLICY.replace("/upload", "/elsewhere"));
    sender.goes_on(&mut world, frame(DATA, END_STREAM, 1, b"an upload that has begun"));
}

/// A frame of data may be long, and its last byte slow to come.
#[test]
fn the_data_of_a_tunnel_does_not_go_on_for_long_after_the_rules_forbid_it() {
    for flags in [0, END_STREAM] {
        let (mut world, mut sender) = Sender::new();
        sender.goes_on(&mut world, connect(1, PLAIN));
        let data = frame(DATA, flags, 1, &[7; 200_000]);
        let action = sender.goes_on(&mut world, &data[..1000]);
        let start = sender.connection.seq(sender.at);
        let end = start.wrapping_add(16 << 10);
        let boundary = false;
        assert_eq!(action, InjectAction::Bypass { start, end, boundary });
        let sent = sender.at - 1000;
        sender.at += 16 << 10;
        sender.connection.answered(sender.at, 1);
        sender.goes_on(&mut world, &data[sender.at - sent..][..1000]);
        sender.at += 16 << 10;
        sender.connection.answered(sender.at, 1);
        world.set_policy(POLICY);
        sender.send(&mut world, &data[sender.at - sent..][..1000]).resets();
        assert_eq!(world.reason(DropReason::HttpPolicyDenied), 1);
    }
}

/// What the requests of tunnels said is kept up to a bound. Beyond it, nobody can say whether other rules allow them.
#[test]
fn with_more_tunnels_than_can_be_judged_again_a_change_of_rules_ends_the_connection() {
    let value = "v".repeat(120);
    let long = [block(PLAIN), literal(0, "x-some", &value).repeat(90)].concat();
    // Each holds more than 11 000 bytes of names and values; all together may hold 64 KiB.
    for (tunnels, ended, are_kept) in [(4, 0, true), (9, 0, false), (9, 1, false), (9, 8, true)] {
        let (mut world, mut sender) = Sender::new();
        for n in 0..tunnels {
            sender.goes_on(&mut world, frame(HEADERS, END_HEADERS, 1 + 2 * n, &long));
        }
        // The newest first: those were not kept.
        for n in (tunnels - ended..tunnels).rev() {
            sender.goes_on(&mut world, frame(DATA, END_STREAM, 1 + 2 * n, b"the last of it"));
        }
        world.set_policy(&unrelated());
        let data = frame(DATA, 0, 1, b"what nobody but the server reads");
        if are_kept {
            sender.goes_on(&mut world, data);
        } else {
            sender.send(&mut world, data).resets();
        }
        let untold = world.reason(DropReason::Http2TooManyStreams);
        assert_eq!(untold, u64::from(!are_kept), "{tunnels} tunnels, {ended} ended");
        world.weigh();
    }
}
