//! Empties the queues of kernel and engine into the ring, in the background.

#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use prost_types::Timestamp;
use seventh_abi::{Answer, Event, EventKind, Verdict};
use seventh_datapath::{AnswerReader, EventReader, PieceReader, RequestReader};
use seventh_engine::{EngineShared, Http2Stream, L7Record, NameLimits, PolicyView, RecordVerdict};
use seventh_flows::{Read, Redaction, RingWriter, json::to_json, pb::flow::LostEventSource};
use tracing::Level;

use super::{
    Observer,
    answers::{Asked, Request, Requests, Status, connection, status},
    audited::Pending,
    beside::Late,
    clock::Moment,
    directory::Directory,
    lost_response,
    missing::{Explain, Missing},
    names::SeenNames,
    noted::{Happened, Noted, Setting},
    record::{Answered, Seen, Uuids, tellings},
    streams::{Said, Streams, Told},
};
use crate::background::{Background, Stop};

/// How often queues are looked at while there is something in them, and when there is not: each look that finds nothing
/// doubles the pause, for these looks are most of what an idle agent does.
const BUSY: Duration = Duration::from_millis(5);
const IDLE: Duration = Duration::from_millis(50);
const IDLE_MAX: Duration = Duration::from_millis(100);
/// Records of each queue that are taken before somebody else has a turn.
const BATCH: usize = 2048;
/// Answers that wait for the records of their requests at most; further ones wait in the kernel's ring, which counts what
/// finds no room.
const ANSWERS_MAX: usize = 4 * BATCH;
/// The same of what is judged beside the traffic, which must not feel it: some 25 000 a second. More are lost, and counted.
const BESIDE_BATCH: usize = 128;
/// How records name the protocol.
const HTTP_2: &str = "HTTP/2";
/// The stream of a request that asked for HTTP/2 in HTTP/1.1.
const STREAM_1: Http2Stream = Http2Stream {
    number: 1,
    is_grpc: false,
};
/// With this answer the server agrees to another protocol.
const SWITCHED: Status = Status {
    protocol: "HTTP/1.1",
    code: 101,
};
/// Of the thread: a peer that is woken up need not wait until a batch is done, and on cores that are never idle a quarter of
/// one is left for records.
const NICENESS: i32 = 5;
/// How often losses are looked for.
const LOSS_LOOK: Duration = Duration::from_secs(1);

/// Where records come from.
pub(crate) struct Sources {
    pub(crate) engine: Arc<EngineShared>,
    /// Judges beside the traffic.
    pub(crate) beside: Arc<EngineShared>,
    /// How long the engine holds names.
    pub(crate) name_limits: NameLimits,
    /// When the engine's clock began.
    pub(crate) workers_began: Instant,
    pub(crate) events: Option<EventReader>,
    pub(crate) answers: Option<AnswerReader>,
    pub(crate) pieces: Option<PieceReader>,
    pub(crate) requests: Option<RequestReader>,
    /// Records tell the headers of requests.
    pub(crate) record_headers: bool,
    /// How many records the kernel had no room for so far.
    pub(crate) kernel_lost: Box<dyn Fn() -> u64 + Send>,
}

/// By whose policies something is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// Those that are enforced.
    Engine,
    /// All, those in audit among them.
    Beside,
}

/// A request whose answer is awaited.
#[derive(Debug)]
struct Awaited {
    by: By,
    record: Arc<L7Record>,
}

/// The only writer of the ring.
pub(crate) struct Collector {
    observer: Arc<Observer>,
    writer: RingWriter<Noted>,
    sources: Sources,
    setting: Arc<Setting>,
    /// The same under all policies, those in audit among them.
    beside: Arc<Setting>,
    /// What would be denied, until names are learned that may allow it.
    pending: Pending,
    requests: Requests<Awaited>,
    streams: Streams<Awaited>,
    /// Answers whose requests are judged beside the traffic.
    late: Late<Awaited>,
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
    /// What this turn found. Used again.
    noted: Vec<Noted>,
}

impl Collector {
    pub(crate) fn new(
        observer: Arc<Observer>,
        writer: RingWriter<Noted>,
        sources: Sources,
        redaction: Redaction,
        explain: Explain,
    ) -> Self {
        let setting = Setting {
            node: Arc::new(observer.node.clone()),
            directory: observer.directory.load_full(),
            view: sources.engine.policy(),
            uuids: Arc::new(Uuids::new()),
            redaction: Arc::new(redaction),
            missing: Arc::new(Missing::new(explain)),
        };
        let beside = setting.under(observer.directory.load_full(), sources.beside.policy());
        Self {
            observer,
            writer,
            // What was lost before this agent is not this ring's loss.
            kernel_lost: (sources.kernel_lost)(),
            names: SeenNames::new(sources.name_limits, &sources.engine.names().list()),
            sources,
            setting: Arc::new(setting),
            beside: Arc::new(beside),
            pending: Pending::default(),
            requests: Requests::default(),
            streams: Streams::default(),
            late: Late::default(),
            engine_lost: 0,
            answers_lost: 0,
            next_loss_look: Instant::now(),
            answers: Vec::new(),
            told: Vec::new(),
            noted: Vec::new(),
        }
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn start(self) -> Result<Background> {
        Background::start("collector", NICENESS, move |stop| self.run(&stop))
    }

    fn run(mut self, stop: &Stop) {
        let mut idle = IDLE;
        while !stop.is_told() {
            let taken = self.turn();
            if Instant::now() >= self.next_loss_look {
                self.next_loss_look = Instant::now() + LOSS_LOOK;
                self.look_for_losses();
            }
            if taken == 0 {
                thread::park_timeout(idle);
                idle = IDLE_MAX.min(idle * 2);
                continue;
            }
            idle = IDLE;
            if taken < BATCH {
                thread::park_timeout(BUSY);
            }
        }
    }

    /// Takes what is there; says how much.
    fn turn(&mut self) -> usize {
        // Answers first and last: the record of a request is in its queue before its answer can be in its own.
        self.read_answers();
        self.read_pieces();
        self.set_setting();
        let moment = Moment::now(self.sources.workers_began);
        self.take_events(moment);
        self.take_audited(moment);
        let records = self.take_records(moment);
        let requests = self.take_requests(moment);
        let behind = [records, requests].into_iter().flatten().min();
        self.take_audit_records(moment);
        self.take_answers(behind, moment);
        self.take_told(behind, moment);
        self.take_late(moment);
        self.write_all()
    }

    /// Under other names or another policy what happened until now is told at once, so that the ring keeps none of the former
    /// ones alive.
    fn set_setting(&mut self) {
        let directory = self.observer.directory.load_full();
        let (view, beside) = (self.sources.engine.policy(), self.sources.beside.policy());
        if self.setting.is(&directory, &view) && self.beside.is(&directory, &beside) {
            return;
        }
        let ring = self.writer.ring();
        let mut cursor = ring.oldest();
        while let Read::Record(noted) = ring.read(&mut cursor) {
            drop(noted.response());
        }
        self.set_settings(directory, view, beside);
    }

    fn set_settings(&mut self, directory: Arc<Directory>, view: Arc<PolicyView>, beside: Arc<PolicyView>) {
        self.beside = Arc::new(self.setting.under(Arc::clone(&directory), beside));
        self.setting = Arc::new(self.setting.under(directory, view));
    }

    fn note(&mut self, by: By, happened: Happened, time: Timestamp, moment: Moment) {
        let setting = match by {
            By::Engine => &self.setting,
            By::Beside => &self.beside,
        };
        let (ifindex, source, destination) = match &happened {
            Happened::Event(event, _) => (event.ifindex, event.source, event.destination),
            Happened::Record(record) | Happened::Answer(record, _) => {
                (record.ifindex, record.source, record.destination)
            }
        };
        let names = &self.names;
        let names = names.of_ends(&setting.view, ifindex, source, destination, moment.engine_ns());
        let seen = Seen { time, names };
        self.noted.push(Noted::new(happened, seen, setting));
    }

    fn read_answers(&mut self) {
        let room = ANSWERS_MAX.saturating_sub(self.answers.len());
        let Some(reader) = &mut self.sources.answers else {
            return;
        };
        let read = std::iter::from_fn(|| reader.next_record());
        for answer in read.take(room.min(BATCH)) {
            if answer.beside == 0 {
                self.answers.push(answer);
            } else if status(&answer.head).is_some() {
                // Else what is looked at is not HTTP/1.
                self.late.hold_answer(answer);
            }
        }
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
                Some(Some(told)) if told.beside => self.late.hold_told(told),
                Some(told) => self.told.extend(told),
                None => return,
            }
        }
    }

    fn take_events(&mut self, moment: Moment) {
        for _ in 0..BATCH {
            let Some(event) = self.sources.events.as_mut().and_then(EventReader::next_record) else {
                break;
            };
            if event.kind == EventKind::Audited as u8 {
                self.pending.hold(event);
            } else {
                self.note_event(By::Engine, event, moment);
            }
        }
    }

    fn note_event(&mut self, by: By, event: Event, moment: Moment) {
        for telling in tellings(&event) {
            let happened = Happened::Event(event, *telling);
            self.note(by, happened, moment.wall(event.time_ns), moment);
        }
    }

    /// What the kernel said would be denied, when it has waited for names that may allow it.
    fn take_audited(&mut self, moment: Moment) {
        while let Some(mut event) = self.pending.due(moment.monotonic_ns()) {
            if !Pending::is_denied(&event, &self.sources.beside) {
                event.kind = EventKind::FlowDecided as u8;
                event.verdict = Verdict::Forward as u8;
                event.reason = 0;
            }
            self.note_event(By::Beside, event, moment);
        }
    }

    /// What was judged beside the traffic. What was not read, the kernel has told of.
    fn take_audit_records(&mut self, moment: Moment) {
        let beside = Arc::clone(&self.sources.beside);
        for _ in 0..BESIDE_BATCH {
            let Some(record) = beside.take_record() else { break };
            if record.rule_set == 0 {
                beside.recycle_record(record);
                continue;
            }
            let time = moment.wall(moment.monotonic(record.time_ns));
            self.note(By::Beside, Happened::Record(Arc::clone(&record)), time, moment);
            self.names.learn(&record);
            let time_ns = moment.monotonic(record.time_ns);
            self.remember(By::Beside, record, time_ns);
        }
    }

    /// If there are more than it takes: when the last one happened that it took.
    fn take_records(&mut self, moment: Moment) -> Option<u64> {
        let mut last = None;
        for _ in 0..BATCH {
            let record = self.sources.engine.take_record()?;
            let time_ns = moment.monotonic(record.time_ns);
            last = Some(time_ns);
            self.take_record(record, time_ns, moment);
        }
        last
    }

    /// The same of requests that the kernel let pass by itself.
    fn take_requests(&mut self, moment: Moment) -> Option<u64> {
        let mut last = None;
        for _ in 0..BATCH {
            let Sources {
                engine,
                requests,
                record_headers,
                ..
            } = &mut self.sources;
            let (time_ns, record) = requests.as_mut()?.next_request(|passed, head| {
                let engine_ns = moment.engine(passed.time_ns);
                (
                    passed.time_ns,
                    engine.passed_request(passed, head, engine_ns, *record_headers),
                )
            })?;
            last = Some(time_ns);
            if let Some(record) = record {
                self.take_record(record, time_ns, moment);
            }
        }
        last
    }

    fn take_record(&mut self, record: Arc<L7Record>, time_ns: u64, moment: Moment) {
        let happened = Happened::Record(Arc::clone(&record));
        self.note(By::Engine, happened, moment.wall(time_ns), moment);
        self.names.learn(&record);
        self.remember(By::Engine, record, time_ns);
    }

    /// Only requests that went on are answered by somebody else; those of HTTP where the kernel sees it.
    fn remember(&mut self, by: By, record: Arc<L7Record>, time_ns: u64) {
        let goes_on = by == By::Beside || record.verdict == RecordVerdict::Forwarded;
        let Some(http) = record.http().filter(|_| goes_on) else {
            return;
        };
        let (key, stream, asks_http2) = (connection(&record), http.stream, http.asks_http2);
        let request = |record: Arc<L7Record>| Request {
            time_ns,
            bytes: record.bytes(),
            what: Awaited { by, record },
        };
        match (stream, record.base_seq) {
            (Some(stream), Some(base_seq)) => self.streams.remember((key, base_seq), stream, request(record)),
            (Some(_), None) => {}
            (None, base_seq) => {
                if let Some(base_seq) = base_seq.filter(|_| asks_http2) {
                    // If the server agrees it is answered there, else in HTTP/1 (RFC 7540 section 3.2).
                    let request = request(Arc::clone(&record));
                    self.streams.remember((key, base_seq), STREAM_1, request);
                }
                match by {
                    By::Engine => self.requests.remember(key, request(record)),
                    By::Beside => self.late.hold_request(key, request(record), &mut self.requests),
                }
            }
        }
    }

    /// Whose records may not have been taken yet (`behind`) waits.
    fn take_answers(&mut self, behind: Option<u64>, moment: Moment) {
        for answer in std::mem::take(&mut self.answers) {
            let may_come = behind.is_some_and(|last_ns| answer.time_ns > last_ns);
            if may_come || !self.take_answer(&answer, behind.is_none(), moment) {
                self.answers.push(answer);
            }
        }
    }

    /// False if its request is not known, unless that is final.
    fn take_answer(&mut self, answer: &Answer, is_final: bool, moment: Moment) -> bool {
        let asked = match self.requests.answered(answer) {
            Asked::Request(asked) => asked,
            Asked::Interim | Asked::Several => return true,
            Asked::Nothing => {
                self.answers_lost += u64::from(is_final);
                return is_final;
            }
        };
        match status(&answer.head) {
            Some(SWITCHED) | None if asks_http2(&asked.record) => {}
            Some(status) => {
                let answered = Answered {
                    latency_ns: answer.latency_ns,
                    protocol: status.protocol,
                    code: status.code,
                    grpc_status: None,
                };
                self.note_answer(asked, answered, answer.time_ns, moment);
            }
            None => self.answers_lost += 1,
        }
        true
    }

    fn note_answer(&mut self, asked: Awaited, answered: Answered, time_ns: u64, moment: Moment) {
        let happened = Happened::Answer(asked.record, answered);
        self.note(asked.by, happened, moment.wall(time_ns), moment);
    }

    /// The same over HTTP/2.
    fn take_told(&mut self, behind: Option<u64>, moment: Moment) {
        for told in std::mem::take(&mut self.told) {
            if behind.is_some_and(|last_ns| told.time_ns > last_ns) {
                self.told.push(told);
            } else {
                self.take_block(&told, moment);
            }
        }
    }

    fn take_block(&mut self, told: &Told, moment: Moment) {
        match self.streams.said(told) {
            Said::Answer(answer) => {
                let answered = Answered {
                    latency_ns: answer.time_ns.saturating_sub(answer.asked_ns),
                    protocol: HTTP_2,
                    code: answer.status,
                    grpc_status: answer.grpc_status,
                };
                self.note_answer(answer.asked, answered, answer.time_ns, moment);
            }
            Said::Nothing => {}
            Said::Lost => self.answers_lost += 1,
        }
    }

    /// Answers to what was judged beside the traffic, when they have waited for it.
    fn take_late(&mut self, moment: Moment) {
        let now_ns = moment.monotonic_ns();
        while let Some(answer) = self.late.due_answer(now_ns, &mut self.requests) {
            self.take_answer(&answer, true, moment);
        }
        while let Some(told) = self.late.due_told(now_ns) {
            self.take_block(&told, moment);
        }
    }

    /// What came from several queues is told in the order in which it happened.
    fn write_all(&mut self) -> usize {
        let mut noted = std::mem::take(&mut self.noted);
        noted.sort_by_key(|noted| (noted.time().seconds, noted.time().nanos));
        let count = noted.len();
        for noted in noted.drain(..) {
            if tracing::enabled!(Level::TRACE) {
                tracing::trace!(record = to_json(&*noted.response()), "flow");
            }
            if let Some(record) = self.writer.push(noted).and_then(Noted::into_record) {
                self.sources.engine.recycle_record(record);
            }
        }
        self.noted = noted;
        if count > 0 {
            self.observer.written(count as u64);
        }
        count
    }

    fn look_for_losses(&mut self) {
        let judged = [&self.sources.engine, &self.sources.beside];
        let engine: u64 = judged.iter().map(|engine| engine.records_lost()).sum();
        let engine = engine + self.answers_lost + self.pending.lost() + self.late.lost();
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
            self.writer
                .push(lost_response(&self.observer.node.name, source, number).into());
            self.observer.written(0);
        }
        (self.engine_lost, self.kernel_lost) = (engine, kernel);
    }
}

/// Whether it asks to go on with HTTP/2, if the server agrees.
fn asks_http2(asked: &L7Record) -> bool {
    asked.http().is_some_and(|http| http.asks_http2)
}
