//! Empties the queues of kernel and engine into the ring, in the background.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use seventh_abi::Answer;
use seventh_datapath::{AnswerReader, EventReader};
use seventh_engine::{EngineShared, L7Record, RecordVerdict};
use seventh_flows::{
    Redaction, RingWriter,
    json::to_json,
    pb::{
        flow::{Flow, LostEventSource},
        observer::GetFlowsResponse,
    },
};
use tokio::{task::yield_now, time::sleep};
use tracing::Level;

use super::{
    Observer,
    answers::{Request, Requests, connection, http},
    clock::Moment,
    flow_response, lost_response,
    record::{Scribe, Uuids},
};

/// How often queues are looked at while there is something in them, and when there is not.
const BUSY: Duration = Duration::from_millis(5);
const IDLE: Duration = Duration::from_millis(50);
/// Records of each queue that are taken before somebody else has a turn.
const BATCH: usize = 2048;
/// How often losses are looked for.
const LOSS_LOOK: Duration = Duration::from_secs(1);

/// Where records come from.
pub(crate) struct Sources {
    pub(crate) engine: Arc<EngineShared>,
    /// When the engine's clock began.
    pub(crate) workers_began: Instant,
    pub(crate) events: Option<EventReader>,
    pub(crate) answers: Option<AnswerReader>,
    /// How many records the kernel had no room for so far.
    pub(crate) kernel_lost: Box<dyn Fn() -> u64 + Send>,
}

/// The only writer of the ring.
pub(crate) struct Collector {
    observer: Arc<Observer>,
    writer: RingWriter<GetFlowsResponse>,
    sources: Sources,
    redaction: Redaction,
    requests: Requests,
    uuids: Arc<Uuids>,
    engine_lost: u64,
    kernel_lost: u64,
    next_loss_look: Instant,
    /// Used again.
    answers: Vec<Answer>,
    flows: Vec<Flow>,
}

impl Collector {
    pub(crate) fn new(
        observer: Arc<Observer>,
        writer: RingWriter<GetFlowsResponse>,
        sources: Sources,
        redaction: Redaction,
    ) -> Self {
        Self {
            observer,
            writer,
            // What was lost before this agent is not this ring's loss.
            kernel_lost: (sources.kernel_lost)(),
            sources,
            redaction,
            requests: Requests::default(),
            uuids: Arc::new(Uuids::new()),
            engine_lost: 0,
            next_loss_look: Instant::now(),
            answers: Vec::with_capacity(BATCH),
            flows: Vec::new(),
        }
    }

    /// Until somebody stops the task.
    pub(crate) async fn run(mut self) {
        loop {
            let taken = self.turn();
            if Instant::now() >= self.next_loss_look {
                self.next_loss_look = Instant::now() + LOSS_LOOK;
                self.look_for_losses();
            }
            match taken {
                0 => sleep(IDLE).await,
                n if n >= BATCH => yield_now().await,
                _ => sleep(BUSY).await,
            }
        }
    }

    /// Takes what is there; says how much.
    fn turn(&mut self) -> usize {
        // Answers first and last: the record of a request is in its queue before its answer can be in its own.
        while self.answers.len() < BATCH {
            let Some(answer) = self.sources.answers.as_mut().and_then(AnswerReader::next_record) else {
                break;
            };
            self.answers.push(answer);
        }
        let (directory, view) = (self.observer.directory.load_full(), self.sources.engine.policy());
        let moment = Moment::now(self.sources.workers_began);
        let node = self.observer.node.clone();
        let uuids = Arc::clone(&self.uuids);
        let scribe = Scribe {
            node: &node,
            directory: &directory,
            view: &view,
            moment,
            uuids: &uuids,
        };
        self.take_events(&scribe);
        self.take_records(&scribe);
        for answer in std::mem::take(&mut self.answers) {
            self.take_answer(&answer, &scribe);
        }
        self.write_all()
    }

    fn take_events(&mut self, scribe: &Scribe<'_>) {
        for _ in 0..BATCH {
            let Some(event) = self.sources.events.as_mut().and_then(EventReader::next_record) else {
                break;
            };
            self.flows.extend(scribe.of_kernel(&event));
        }
    }

    fn take_records(&mut self, scribe: &Scribe<'_>) {
        for _ in 0..BATCH {
            let Some(record) = self.sources.engine.take_record() else {
                break;
            };
            let flow = scribe.of_engine(&record);
            self.remember(&record, &flow, scribe.moment);
            self.flows.push(flow);
            self.sources.engine.recycle_record(record);
        }
    }

    /// Only requests that went on are answered by somebody else; those of HTTP where the kernel sees it.
    fn remember(&mut self, record: &L7Record, flow: &Flow, moment: Moment) {
        if record.verdict == RecordVerdict::Forwarded && record.http().is_some() {
            let request = Request {
                time_ns: moment.monotonic(record.time_ns),
                flow: flow.clone(),
            };
            self.requests.remember(connection(record), request);
        }
    }

    fn take_answer(&mut self, answer: &Answer, scribe: &Scribe<'_>) {
        let Some(request) = self.requests.answered(answer) else {
            return;
        };
        if let Some(http) = http(&answer.head, &request) {
            self.flows.push(scribe.of_answer(answer, http, &request));
        }
    }

    /// What came from several queues is told in the order in which it happened.
    fn write_all(&mut self) -> usize {
        let mut flows = std::mem::take(&mut self.flows);
        flows.sort_by_key(|flow| flow.time.as_ref().map(|time| (time.seconds, time.nanos)));
        let count = flows.len();
        for flow in flows.drain(..) {
            let response = flow_response(flow, &self.redaction);
            if tracing::enabled!(Level::DEBUG) {
                tracing::debug!(record = to_json(&response), "flow");
            }
            self.writer.push(response);
        }
        self.flows = flows;
        if count > 0 {
            self.observer.written(count as u64);
        }
        count
    }

    fn look_for_losses(&mut self) {
        let (engine, kernel) = (self.sources.engine.records_lost(), (self.sources.kernel_lost)());
        let new = [
            (
                LostEventSource::ObserverEventsQueue,
                engine.saturating_sub(self.engine_lost),
            ),
            (
                LostEventSource::PerfEventRingBuffer,
                kernel.saturating_sub(self.kernel_lost),
            ),
        ];
        for (source, number) in new.into_iter().filter(|(_, number)| *number > 0) {
            self.writer.push(lost_response(&self.observer.node, source, number));
            self.observer.written(0);
        }
        (self.engine_lost, self.kernel_lost) = (engine, kernel);
    }
}
