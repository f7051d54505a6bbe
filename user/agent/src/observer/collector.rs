//! Empties the queues of kernel and engine into the ring, in the background.

use std::{
    cell::RefCell,
    sync::Arc,
    time::{Duration, Instant},
};

use seventh_abi::Answer;
use seventh_datapath::{AnswerReader, EventReader, PieceReader};
use seventh_engine::{EngineShared, L7Record, NameLimits, RecordVerdict};
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
    answers::{Asked, Request, Requests, connection, status},
    clock::Moment,
    flow_response, lost_response,
    names::SeenNames,
    record::{Answered, Scribe, Uuids},
    streams::{Said, Streams, Told},
};

/// How often queues are looked at while there is something in them, and when there is not: each look that finds nothing
/// doubles the pause, for these looks are most of what an idle agent does.
const BUSY: Duration = Duration::from_millis(5);
const IDLE: Duration = Duration::from_millis(50);
const IDLE_MAX: Duration = Duration::from_millis(200);
/// Records of each queue that are taken before somebody else has a turn.
const BATCH: usize = 2048;
/// Answers that wait for the records of their requests at most; further ones wait in the kernel's ring, which counts what
/// finds no room.
const ANSWERS_MAX: usize = 4 * BATCH;
/// How often losses are looked for.
const LOSS_LOOK: Duration = Duration::from_secs(1);

/// Where records come from.
pub(crate) struct Sources {
    pub(crate) engine: Arc<EngineShared>,
    /// How long the engine holds names.
    pub(crate) name_limits: NameLimits,
    /// When the engine's clock began.
    pub(crate) workers_began: Instant,
    pub(crate) events: Option<EventReader>,
    pub(crate) answers: Option<AnswerReader>,
    pub(crate) pieces: Option<PieceReader>,
    /// How many records the kernel had no room for so far.
    pub(crate) kernel_lost: Box<dyn Fn() -> u64 + Send>,
}

/// The only writer of the ring.
pub(crate) struct Collector {
    observer: Arc<Observer>,
    writer: RingWriter<GetFlowsResponse>,
    sources: Sources,
    redaction: Redaction,
    requests: Requests<L7Record>,
    streams: Streams<L7Record>,
    uuids: Arc<Uuids>,
    names: SeenNames,
    engine_lost: u64,
    kernel_lost: u64,
    /// Answers to requests of which no record is known.
    answers_lost: u64,
    next_loss_look: Instant,
    /// Answers whose requests may still be in the queue of records.
    answers: Vec<Answer>,
    /// The same over HTTP/2.
    told: Vec<Told>,
    /// Used again.
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
            names: SeenNames::new(sources.name_limits, &sources.engine.names().list()),
            sources,
            redaction,
            requests: Requests::default(),
            streams: Streams::default(),
            uuids: Arc::new(Uuids::new()),
            engine_lost: 0,
            answers_lost: 0,
            next_loss_look: Instant::now(),
            answers: Vec::new(),
            told: Vec::new(),
            flows: Vec::new(),
        }
    }

    /// Until somebody stops the task.
    pub(crate) async fn run(mut self) {
        let mut idle = IDLE;
        loop {
            let taken = self.turn();
            if Instant::now() >= self.next_loss_look {
                self.next_loss_look = Instant::now() + LOSS_LOOK;
                self.look_for_losses();
            }
            if taken == 0 {
                sleep(idle).await;
                idle = IDLE_MAX.min(idle * 2);
                continue;
            }
            idle = IDLE;
            if taken < BATCH {
                sleep(BUSY).await;
            } else {
                yield_now().await;
            }
        }
    }

    /// Takes what is there; says how much.
    fn turn(&mut self) -> usize {
        // Answers first and last: the record of a request is in its queue before its answer can be in its own.
        self.read_answers();
        self.read_pieces();
        let (directory, view) = (self.observer.directory.load_full(), self.sources.engine.policy());
        let moment = Moment::now(self.sources.workers_began);
        let node = self.observer.node.clone();
        let uuids = Arc::clone(&self.uuids);
        let names = RefCell::new(std::mem::take(&mut self.names));
        let scribe = Scribe {
            node: &node,
            directory: &directory,
            view: &view,
            moment,
            uuids: &uuids,
            names: &names,
        };
        self.take_events(&scribe);
        let behind = self.take_records(&scribe);
        self.take_answers(behind, &scribe);
        self.take_told(behind, &scribe);
        self.names = names.into_inner();
        self.write_all()
    }

    fn read_answers(&mut self) {
        let room = ANSWERS_MAX.saturating_sub(self.answers.len());
        let Some(reader) = &mut self.sources.answers else {
            return;
        };
        let read = std::iter::from_fn(|| reader.next_record());
        self.answers.extend(read.take(room.min(BATCH)));
    }

    fn read_pieces(&mut self) {
        let Some(reader) = &mut self.sources.pieces else {
            return;
        };
        for _ in 0..BATCH {
            if self.told.len() >= ANSWERS_MAX {
                return;
            }
            match reader.next_piece(|piece, bytes| self.streams.piece(piece, bytes)) {
                Some(told) => self.told.extend(told),
                None => return,
            }
        }
    }

    fn take_events(&mut self, scribe: &Scribe<'_>) {
        for _ in 0..BATCH {
            let Some(event) = self.sources.events.as_mut().and_then(EventReader::next_record) else {
                break;
            };
            self.flows.extend(scribe.of_kernel(&event));
        }
    }

    /// If there are more than it takes: when the last one happened that it took.
    fn take_records(&mut self, scribe: &Scribe<'_>) -> Option<u64> {
        let mut last = None;
        for _ in 0..BATCH {
            let record = self.sources.engine.take_record()?;
            last = Some(scribe.moment.monotonic(record.time_ns));
            self.flows.push(scribe.of_engine(&record));
            scribe.names.borrow_mut().learn(&record);
            self.remember(record, scribe.moment);
        }
        last
    }

    /// Only requests that went on are answered by somebody else; those of HTTP where the kernel sees it.
    fn remember(&mut self, record: L7Record, moment: Moment) {
        let stream = match record.http() {
            Some(http) if record.verdict == RecordVerdict::Forwarded => http.stream,
            _ => return self.sources.engine.recycle_record(record),
        };
        let (key, base_seq) = (connection(&record), record.base_seq);
        let request = Request {
            time_ns: moment.monotonic(record.time_ns),
            bytes: record.bytes(),
            what: record,
        };
        match (stream, base_seq) {
            (Some(stream), Some(base_seq)) => self.streams.remember((key, base_seq), stream, request),
            (Some(_), None) => self.sources.engine.recycle_record(request.what),
            (None, _) => self.requests.remember(key, request),
        }
    }

    /// Whose records may not have been taken yet (`behind`) waits.
    fn take_answers(&mut self, behind: Option<u64>, scribe: &Scribe<'_>) {
        for answer in std::mem::take(&mut self.answers) {
            if behind.is_some_and(|last_ns| answer.time_ns > last_ns) {
                self.answers.push(answer);
                continue;
            }
            match self.requests.answered(&answer) {
                Asked::Request(asked) => {
                    let answered = status(&answer.head).map(|status| Answered {
                        time_ns: answer.time_ns,
                        latency_ns: answer.latency_ns,
                        protocol: status.protocol,
                        code: status.code,
                        grpc_status: None,
                    });
                    self.flows
                        .extend(answered.map(|answered| scribe.of_answer(&answered, &asked)));
                    self.sources.engine.recycle_record(asked);
                }
                Asked::Interim | Asked::Several => {}
                Asked::Nothing if behind.is_some() => self.answers.push(answer),
                Asked::Nothing => self.answers_lost += 1,
            }
        }
    }

    /// The same over HTTP/2.
    fn take_told(&mut self, behind: Option<u64>, scribe: &Scribe<'_>) {
        for told in std::mem::take(&mut self.told) {
            if behind.is_some_and(|last_ns| told.time_ns > last_ns) {
                self.told.push(told);
                continue;
            }
            match self.streams.said(&told) {
                Said::Answer(answer) => {
                    let answered = Answered {
                        time_ns: answer.time_ns,
                        latency_ns: answer.time_ns.saturating_sub(answer.asked_ns),
                        protocol: answer.asked.http().map_or("", |http| http.version),
                        code: answer.status,
                        grpc_status: answer.grpc_status,
                    };
                    self.flows.push(scribe.of_answer(&answered, &answer.asked));
                    self.sources.engine.recycle_record(answer.asked);
                }
                Said::Nothing => {}
                Said::Lost => self.answers_lost += 1,
            }
        }
    }

    /// What came from several queues is told in the order in which it happened.
    fn write_all(&mut self) -> usize {
        let mut flows = std::mem::take(&mut self.flows);
        flows.sort_by_key(|flow| flow.time.as_ref().map(|time| (time.seconds, time.nanos)));
        let count = flows.len();
        for flow in flows.drain(..) {
            let response = flow_response(flow, &self.redaction);
            if tracing::enabled!(Level::TRACE) {
                tracing::trace!(record = to_json(&response), "flow");
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
        let engine = self.sources.engine.records_lost() + self.answers_lost;
        let kernel = (self.sources.kernel_lost)();
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
