use std::{sync::Arc, time::Instant};

use seventh_abi::{Hook, PuntMeta};
use seventh_engine::{Beside, Denials, EndpointView, EngineLimits, EngineShared, NameLimits, PolicyView};
use seventh_flows::{
    Read, Redaction, RingCapacity,
    pb::{flow::LostEventSource, observer::get_flows_response::ResponseTypes},
};
use seventh_policy::{CompiledPolicy, Ipcache};
use seventh_verdict_cache::KeyHasher;

use super::{ANSWERS_MAX, BATCH, Collector, Sources};
use crate::observer::{Busy, Node, Observer};

const IFINDEX: u32 = 7;
/// Records that the engine's queue holds.
const QUEUE: usize = 8192;
/// Requests in one segment.
const PIPELINED: usize = 40;

fn shared() -> Arc<EngineShared> {
    let shared = EngineShared::new(KeyHasher::from_secret([7; 16]), 64, QUEUE);
    let endpoint = EndpointView {
        id: 1,
        name: "default/a".into(),
        epoch: 1,
        policy: Arc::new(CompiledPolicy::observe()),
    };
    shared.set_policy(Arc::new(PolicyView {
        endpoints: [(IFINDEX, endpoint)].into(),
        ipcache: Arc::new(Ipcache::new()),
    }));
    Arc::new(shared)
}

/// An opener that asks, segment after segment, on one connection.
struct Opener {
    beside: Beside,
    next: u32,
    asked: u64,
}

impl Opener {
    fn new(shared: &Arc<EngineShared>) -> Self {
        Self {
            beside: Beside::new(Arc::clone(shared), EngineLimits::default(), Denials::Dropped),
            next: 100,
            asked: 0,
        }
    }

    fn ask(&mut self, segments: usize) {
        let payload = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n".repeat(PIPELINED);
        for _ in 0..segments {
            let frame = self.frame(&payload);
            self.beside.observe(&frame, self.asked);
            self.next += payload.len() as u32;
            self.asked += PIPELINED as u64;
        }
    }

    fn frame(&self, payload: &[u8]) -> Vec<u8> {
        let meta = PuntMeta {
            hook: Hook::FromEndpoint,
            ifindex: IFINDEX,
            base_seq: Some(100),
            acked_seq: Some(self.next),
            reply_idle: true,
            closed: false,
            reply: false,
            frontier: None,
            compared_to: None,
            clean: true,
        };
        let length = 40 + u16::try_from(payload.len()).unwrap();
        let ip = [
            &[0x45, 0][..],
            &length.to_be_bytes(),
            &[0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2],
        ]
        .concat();
        let ports = [0xc0, 0, 0, 80];
        let tcp = [
            &ports[..],
            &self.next.to_be_bytes(),
            &[0, 0, 0, 9, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0],
        ]
        .concat();
        [&meta.encode()[..], &[8, 0], &ip, &tcp, payload].concat()
    }
}

fn collector(engine: &Arc<EngineShared>) -> (Collector, Arc<Observer>) {
    let capacity = RingCapacity::new(1023).unwrap();
    let (observer, writer) = Observer::new(Node::new("", "node", Vec::new()), capacity);
    let sources = Sources {
        engine: Arc::clone(engine),
        beside: shared(),
        name_limits: NameLimits::default(),
        workers_began: Instant::now(),
        events: None,
        answers: None,
        pieces: None,
        requests: None,
        record_headers: false,
        kernel_lost: Box::new(|| 0),
    };
    let explain = Box::new(|_: &_, _| Err(Busy));
    (
        Collector::new(Arc::clone(&observer), writer, sources, Redaction::default(), explain),
        observer,
    )
}

#[test]
fn a_hundred_thousand_flows_and_a_slow_reader_cost_bounded_memory_and_every_loss_is_told() {
    let engine = shared();
    let (mut collector, observer) = collector(&engine);
    let mut opener = Opener::new(&engine);
    let ring = observer.records();
    let mut cursor = ring.oldest();
    // What the reader got, what it was told that it missed, and what the queue had no room for, by the ring's word.
    let (mut flows, mut missed, mut unqueued) = (0_u64, 0, 0);
    let mut read = |at_most: usize| {
        for _ in 0..at_most {
            match ring.read(&mut cursor) {
                Read::Record(noted) => match &noted.response().response_types {
                    Some(ResponseTypes::Flow(_)) => flows += 1,
                    Some(ResponseTypes::LostEvents(lost)) => {
                        assert_eq!(lost.source(), LostEventSource::ObserverEventsQueue);
                        unqueued += lost.num_events_lost;
                    }
                    other => panic!("{other:?}"),
                },
                Read::Lost(number) => missed += number,
                Read::Nothing => return,
            }
        }
    };
    let began = Instant::now();
    for _ in 0..100 {
        opener.ask(25);
        while collector.turn() > 0 {}
        read(10);
        assert!(ring.held() <= ring.capacity() && collector.noted.capacity() <= 4 * BATCH);
        assert!(collector.answers.len() <= ANSWERS_MAX);
    }
    let took = began.elapsed();
    assert_eq!(engine.records_lost(), 0, "who takes in time loses nothing");
    // Nobody takes what comes at once: the queue is full, and what finds no room is counted.
    opener.ask(500);
    while collector.turn() > 0 {}
    collector.look_for_losses();
    read(usize::MAX);
    assert_eq!(opener.asked, 120_000);
    assert_eq!(unqueued, 20_000 - QUEUE as u64);
    assert_eq!(
        flows + missed,
        opener.asked - unqueued,
        "every other one was told or is known to be missed"
    );
    assert!(flows >= 100 * 10 && missed > 0);
    println!("100000 records made and taken in {took:?}");
}
