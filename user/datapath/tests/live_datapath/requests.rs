//! Requests that the kernel judges by itself.

use super::*;
use seventh_abi::{Frontier, PassedRequest};
use seventh_datapath::{RequestAutomata, RequestReader, RequestTables};
use seventh_policy::{
    CompileOptions, Compiler, EndpointFacts, L4Decision, Labels, NamedPorts, RequestLimits, RequestTable, Surroundings,
    identity, load_text, request_grammar, resolve,
};

/// That of the inspected row.
const RULE_SET: u32 = 7;
const PSH: u8 = 8;
/// First number of the opener's data.
pub(super) const BASE: u32 = 1001;
const POLICY: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: all}
spec:
  endpointSelector: {}
  egress:
  - toPorts: [{ports: [{port: '8080', protocol: TCP}], rules: {http: [{method: PUT, path: /a}, {method: GET, path: '/a/[0-9]+'}]}}]
";

fn table() -> RequestTable {
    let loaded = load_text("all.yaml", POLICY);
    assert!(!loaded.has_errors(), "{:?}", loaded.findings);
    let mut compiler = Compiler::new(CompileOptions::default());
    compiler.set_rules(resolve(&loaded.documents, &Surroundings::default()).rules);
    let facts = EndpointFacts {
        labels: Labels::parse(["io.kubernetes.pod.namespace=default"]),
        named_ports: NamedPorts::default(),
    };
    let policy = compiler.compile(&facts).unwrap();
    let L4Decision::Inspect(rules) = policy.lookup(Direction::Egress, identity::WORLD_IPV4, TCP, 8080) else {
        panic!("the port has rules");
    };
    let limits = RequestLimits {
        len_max: 4096,
        lines_max: 64,
    };
    RequestTable::new(rules.http().unwrap(), limits).unwrap()
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: a.example\r\nUser-Agent: x\r\n\r\n").into_bytes()
}

/// A connection whose opener sends what it likes, and a server that acknowledges.
pub(super) struct Talk {
    pub(super) lab: Lab,
    tables: RequestTables,
    told: RequestReader,
}

impl Talk {
    pub(super) fn open() -> Self {
        let mut lab = open_inspected();
        let table = table();
        let (states, rules) = (table.states(), *table.rules());
        let automata = RequestAutomata { states, rules };
        let mut tables = lab.datapath.take_request_tables(request_grammar()).unwrap();
        tables.set([(RULE_SET, automata)].into_iter()).unwrap();
        let told = lab.datapath.take_requests().unwrap();
        Self { lab, tables, told }
    }

    /// Which way the segment took: let through by the kernel itself, as a repetition, or to the engine.
    fn send(&self, seq: u32, payload: &[u8]) -> Way {
        self.send_with(seq, 5001, ACK | PSH, payload)
    }

    fn send_with(&self, seq: u32, ack: u32, flags: u8, payload: &[u8]) -> Way {
        let counts = || {
            let of = |counter| self.lab.counter(counter);
            (of(Counter::RequestAllowed), of(Counter::Bypassed), of(Counter::Punted))
        };
        let before = counts();
        let mut frame = segment(OWN_CLIENT, OTHER_SERVER, seq, ack, flags, payload.len());
        let start = frame.len() - payload.len();
        frame[start..].copy_from_slice(payload);
        from_endpoint(&self.lab, frame);
        let after = counts();
        match (after.0 - before.0, after.1 - before.1, after.2 - before.2) {
            (1, 0, 0) => Way::Allowed,
            (0, 1, 0) => Way::Repeated,
            (0, 0, 1) => {
                let frame = self.lab.last_frame.lock().unwrap();
                let meta = PuntMeta::decode(frame.first_chunk().unwrap()).unwrap();
                Way::Engine(meta.frontier, meta.compared_to)
            }
            other => panic!("{other:?}"),
        }
    }

    fn acknowledge(&self, ack: u32) {
        to_endpoint(&segment(OTHER_SERVER, OWN_CLIENT, 5001, ack, ACK, 0));
        thread::sleep(Duration::from_millis(30));
    }

    fn told(&mut self) -> Vec<(PassedRequest, Vec<u8>)> {
        let read = std::iter::from_fn(|| self.told.next_request(|head, bytes| (*head, bytes.to_vec())));
        read.collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Allowed,
    Repeated,
    /// With where it may begin, and to where the kernel has compared.
    Engine(Option<Frontier>, Option<u32>),
}

/// At the engine, which may begin at this place.
fn engine(seq: u32, repeats: bool, answered: bool) -> Way {
    Way::Engine(Some(Frontier { seq, answered }), repeats.then_some(seq))
}

#[test]
fn a_whole_request_passes_by_the_kernels_own_judgement_and_is_told() {
    isolated(|| {
        let mut talk = Talk::open();
        let request = get("/a/17");
        let end = BASE + u32::try_from(request.len()).unwrap();
        assert_eq!(talk.send(BASE, &request), Way::Allowed, "the first of its connection");
        talk.acknowledge(end);
        let long = format!("PUT /a HTTP/1.1\r\nCookie: {}\r\nHost: b\r\n\r\n", "c".repeat(900)).into_bytes();
        let long_end = end + u32::try_from(long.len()).unwrap();
        assert_eq!(talk.send(end, &long), Way::Allowed);
        let told = talk.told();
        let [(first, first_bytes), (second, second_bytes)] = &told[..] else {
            panic!("{told:?}");
        };
        assert_eq!((first_bytes, second_bytes), (&request, &long));
        let seen = |told: &PassedRequest| {
            (
                told.rule_set,
                told.rule,
                told.base_seq,
                told.key.peer_port,
                told.key.direction,
            )
        };
        assert_eq!(seen(first), (RULE_SET, 1, BASE, 8080, Direction::Egress as u8));
        assert_eq!(seen(second), (RULE_SET, 0, BASE, 8080, Direction::Egress as u8));
        assert!(first.time_ns < second.time_ns);
        talk.acknowledge(long_end);
        talk.lab.end();
    });
}

#[test]
fn what_is_no_whole_request_by_itself_goes_to_the_engine_and_the_next_one_does_not() {
    isolated(|| {
        let talk = Talk::open();
        talk.lab.tells_boundaries.store(true, Ordering::Relaxed);
        let mut next = BASE;
        let body = b"PUT /a HTTP/1.1\r\nHost: b\r\nContent-Length: 1\r\n\r\nx".to_vec();
        let long = format!("PUT /a HTTP/1.1\r\nCookie: {}\r\nHost: b\r\n\r\n", "c".repeat(1000));
        for other in [
            get("/a/x"),
            get("/a/17").split_off(1),
            get("/a/17")[..20].to_vec(),
            [get("/a/17"), get("/a/18")].concat(),
            body,
            long.into_bytes(),
        ] {
            // Nobody has answered yet what was let through before.
            assert_eq!(talk.send(next, &other), engine(next, false, next == BASE));
            next += u32::try_from(other.len()).unwrap();
            talk.acknowledge(next);
            assert_eq!(
                talk.send(next, &get("/a/1")),
                Way::Allowed,
                "behind {:?}",
                other.escape_ascii().to_string()
            );
            next += u32::try_from(get("/a/1").len()).unwrap();
            talk.acknowledge(next);
        }
        assert_eq!(
            talk.send_with(next, 5001, ACK | PSH | FIN, &get("/a/1")),
            engine(next, false, false)
        );
        talk.lab.end();
    });
}

#[test]
fn a_request_that_was_let_through_comes_again_as_it_was_or_not_at_all() {
    isolated(|| {
        let talk = Talk::open();
        let request = get("/a/17");
        let end = BASE + u32::try_from(request.len()).unwrap();
        assert_eq!(talk.send(BASE, &request), Way::Allowed);
        assert_eq!(talk.send(BASE, &request), Way::Repeated);
        // An engine is told where it may begin: behind what was let through. What it cannot compare it lets nobody have.
        assert_eq!(
            talk.send(BASE, &get("/a/18")),
            engine(end, false, false),
            "allowed, and another"
        );
        assert_eq!(talk.send(BASE, &get("/b/17")), engine(end, false, false), "not allowed");
        assert_eq!(talk.send(BASE, &request[..30]), engine(end, false, false), "a part");
        assert_eq!(
            talk.send(BASE + 5, &request[5..]),
            engine(end, false, false),
            "another part"
        );
        talk.lab.end();
    });
}

#[test]
fn while_a_request_is_under_way_the_next_one_is_the_engines() {
    isolated(|| {
        let talk = Talk::open();
        talk.lab.tells_boundaries.store(true, Ordering::Relaxed);
        let request = get("/a/17");
        let len = u32::try_from(request.len()).unwrap();
        let end = BASE + len;
        assert_eq!(talk.send(BASE, &request), Way::Allowed);
        let both = [request.clone(), request.clone()].concat();
        assert_eq!(
            talk.send(BASE, &both),
            engine(end, true, false),
            "its beginning is known"
        );
        // The stand-in has let that pass, and says where the next begins; nothing of it was acknowledged yet.
        assert_eq!(talk.send(end + len, &request), Way::Engine(None, None));
        // What it knows itself it compares; what came before that was compared here.
        assert_eq!(talk.send(BASE, &both), Way::Engine(None, Some(end)));
        talk.acknowledge(end + 2 * len);
        // Of all that came before the place where an engine may begin now, the kernel knows the first request alone.
        let other = [&request[..], &get("/b/17")].concat();
        assert_eq!(talk.send(BASE, &other), engine(end + 2 * len, false, true));
        assert_eq!(talk.send(end + 2 * len, &request), Way::Allowed);
        talk.lab.end();
    });
}

#[test]
fn what_waits_at_the_engine_is_known_even_if_it_came_when_no_request_could_begin() {
    isolated(|| {
        let talk = Talk::open();
        let request = get("/a/17");
        let (first, second) = request.split_at(10);
        let middle = BASE + u32::try_from(first.len()).unwrap();
        let end = BASE + u32::try_from(request.len()).unwrap();
        assert!(matches!(talk.send(BASE, first), Way::Engine(..)));
        // The stand-in has let that pass without a word of where a request begins.
        let waiting = [b"POST /a HTTP/1.1\r\n", stand_in::WAITS].concat();
        assert!(matches!(talk.send(end, &waiting), Way::Engine(..)));
        talk.lab.tells_boundaries.store(true, Ordering::Relaxed);
        assert!(matches!(talk.send(middle, second), Way::Engine(..)));
        talk.acknowledge(end);
        assert!(
            matches!(talk.send(end, &request), Way::Engine(..)),
            "its place is taken"
        );
        talk.lab.end();
    });
}

#[test]
fn a_number_far_away_does_not_hide_what_waits_at_the_engine() {
    for far in [1 << 16, (1 << 30) + 10, 0x7fff_0000] {
        isolated(move || {
            let talk = Talk::open();
            let waiting = [b"POST /a HTTP/1.1\r\n", stand_in::WAITS].concat();
            assert!(matches!(talk.send(BASE, &waiting), Way::Engine(..)));
            assert!(matches!(talk.send(BASE.wrapping_sub(far), b"x"), Way::Engine(..)));
            assert!(
                matches!(talk.send(BASE, &get("/a/17")), Way::Engine(..)),
                "its place is taken, {far} behind"
            );
            talk.lab.end();
        });
    }
}

#[test]
fn what_the_engine_says_late_takes_back_nothing() {
    isolated(|| {
        let talk = Talk::open();
        let request = get("/a/17");
        let end = BASE + u32::try_from(request.len()).unwrap();
        assert_eq!(talk.send(BASE, &request), Way::Allowed);
        talk.acknowledge(end);
        // Of bytes from before: behind them comes a body, which ends before the request that was let through.
        let old = [b"x", stand_in::FREE].concat();
        let before = BASE.wrapping_sub(stand_in::FREE_LEN + u32::try_from(old.len()).unwrap());
        assert!(matches!(talk.send(before, &old), Way::Engine(..)));
        thread::sleep(Duration::from_millis(60));
        assert_eq!(talk.send(end, &request), Way::Allowed);
        talk.lab.end();
    });
}

#[test]
fn what_was_given_free_is_so_no_longer_when_a_request_passed_behind_it() {
    isolated(|| {
        let talk = Talk::open();
        talk.lab.tells_boundaries.store(true, Ordering::Relaxed);
        let head = [b"PUT /a HTTP/1.1\r\n", stand_in::FREE].concat();
        let free = BASE + u32::try_from(head.len()).unwrap();
        assert!(matches!(talk.send(BASE, &head), Way::Engine(..)));
        thread::sleep(Duration::from_millis(60));
        let next = free + stand_in::FREE_LEN;
        assert_eq!(talk.send(next - 4, b"body"), Way::Repeated, "it passes unread");
        talk.acknowledge(next);
        assert_eq!(talk.send(next, &get("/a/17")), Way::Allowed);
        assert!(matches!(talk.send(next - 4, b"body"), Way::Engine(..)));
        talk.lab.end();
    });
}

#[test]
fn rule_sets_that_are_gone_are_judged_by_the_engine() {
    isolated(|| {
        let mut talk = Talk::open();
        talk.tables.set(std::iter::empty()).unwrap();
        assert_eq!(talk.send(BASE, &get("/a/1")), engine(BASE, false, true));
        talk.lab.end();
    });
}
