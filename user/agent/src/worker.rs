//! Worker threads: punt channel in, engine, punt channel out.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use seventh_datapath::{ChannelStats, Disposition, Outgoing, PuntChannel, prefer_batches};
use seventh_engine::{Engine, EngineLimits, EngineShared, Fate, Outbox};
use tracing::{debug, error};

use crate::metrics::{Latency, LatencySum, Sampling};

/// How long a worker sleeps at most when nothing comes.
const WAIT: Duration = Duration::from_millis(200);
/// The same while frames wait in the engine for what is made in a moment.
const PARKED_WAIT: Duration = Duration::from_millis(1);
/// How often the engine's time-outs are looked after, and the heart beats.
const TICK: Duration = Duration::from_millis(200);
/// A worker whose heart has not beaten for so long is stuck.
const STUCK: Duration = Duration::from_secs(2);
/// For how long lost frames and a panic are called a problem.
const NEWS_LASTS: Duration = Duration::from_secs(60);
/// How long a worker rests after its engine has panicked: whoever found out how to make it must not fill the log.
const PANIC_PAUSE: Duration = Duration::from_millis(10);

/// What a worker asks about frames.
pub(crate) trait Judge: Send {
    /// As [`Engine::decide`].
    fn decide(&mut self, frame: &mut [u8], now_ns: u64, outbox: &mut Outbox) -> Fate;
    /// As [`Engine::retry`].
    fn retry(&mut self, now_ns: u64, outbox: &mut Outbox);
    /// As [`Engine::tick`].
    fn tick(&mut self, now_ns: u64, outbox: &mut Outbox);
    /// As [`Engine::parked`].
    fn parked(&self) -> usize;
}

impl Judge for Engine {
    fn decide(&mut self, frame: &mut [u8], now_ns: u64, outbox: &mut Outbox) -> Fate {
        self.decide(frame, now_ns, outbox)
    }

    fn retry(&mut self, now_ns: u64, outbox: &mut Outbox) {
        self.retry(now_ns, outbox);
    }

    fn tick(&mut self, now_ns: u64, outbox: &mut Outbox) {
        self.tick(now_ns, outbox);
    }

    fn parked(&self) -> usize {
        self.parked()
    }
}

/// Makes what a worker asks, when it starts and after a panic.
type MakeJudge = Arc<dyn Fn() -> Box<dyn Judge> + Send + Sync>;

/// All workers of the agent.
pub(crate) struct Workers {
    stop: Arc<AtomicBool>,
    workers: Vec<Worker>,
    started: Instant,
}

struct Worker {
    /// Taken by the thread when it starts.
    job: Option<Job>,
    thread: Option<JoinHandle<()>>,
    vital: Arc<Vital>,
    lost_before: u64,
    last_loss: Option<Instant>,
    panics_before: u64,
    last_panic: Option<Instant>,
    was: Life,
}

/// What a worker tells of itself.
#[derive(Default)]
struct Vital {
    /// Milliseconds since the start at which it last came round.
    beat_ms: AtomicU64,
    /// How often its engine has panicked and was made anew.
    panics: AtomicU64,
    stats: Mutex<ChannelStats>,
    latency: Latency,
}

/// Whether a worker does its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It does.
    Alive,
    /// Its thread has not come round for a while.
    Stuck,
    /// Its thread has ended.
    Dead,
}

/// A worker as `seventh status` shows it.
pub(crate) struct WorkerReport {
    pub(crate) life: Life,
    pub(crate) stats: ChannelStats,
    pub(crate) panics: u64,
    lost_lately: bool,
    panicked_lately: bool,
}

impl WorkerReport {
    /// What needs somebody's attention.
    pub(crate) fn problems(&self, index: u32) -> Vec<String> {
        let mut problems = Vec::new();
        let life = match self.life {
            Life::Alive => None,
            Life::Stuck => Some("is stuck"),
            Life::Dead => Some("is dead; restart the agent"),
        };
        problems
            .extend(life.map(|life| format!("worker {index} {life}: flows of L7 rules that it inspects are dropped")));
        if self.lost_lately {
            let lost = self.stats.lost();
            problems.push(format!(
                "worker {index} does not keep up: {lost} frames were dropped so far"
            ));
        }
        if self.panicked_lately {
            let panics = self.panics;
            problems.push(format!(
                "worker {index} panicked ({panics} times so far, see the log): connections that it read are taken up anew or reset"
            ));
        }
        problems
    }
}

impl Workers {
    /// One worker per channel, not started yet.
    pub(crate) fn new(
        channels: Vec<Box<dyn PuntChannel>>,
        engine: &Arc<EngineShared>,
        limits: EngineLimits,
        started: Instant,
    ) -> Self {
        let engine = Arc::clone(engine);
        let make = Arc::new(move || -> Box<dyn Judge> { Box::new(Engine::new(Arc::clone(&engine), limits)) });
        Self::asking(channels, &(make as MakeJudge), started)
    }

    fn asking(channels: Vec<Box<dyn PuntChannel>>, make: &MakeJudge, started: Instant) -> Self {
        let worker = |channel| {
            let vital = Arc::new(Vital::default());
            Worker {
                job: Some(Job {
                    channel,
                    mind: Mind {
                        judge: make(),
                        make: Arc::clone(make),
                        outbox: Outbox::default(),
                        vital: Arc::clone(&vital),
                        started,
                    },
                }),
                thread: None,
                vital,
                lost_before: 0,
                last_loss: None,
                panics_before: 0,
                last_panic: None,
                was: Life::Alive,
            }
        };
        Self {
            stop: Arc::new(AtomicBool::new(false)),
            workers: channels.into_iter().map(worker).collect(),
            started,
        }
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn start(&mut self) -> Result<()> {
        for (index, worker) in self.workers.iter_mut().enumerate() {
            let Some(job) = worker.job.take() else { continue };
            job.beat();
            let stop = Arc::clone(&self.stop);
            let thread = thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || job.run(&stop, index))
                .context("cannot start a worker thread")?;
            worker.thread = Some(thread);
        }
        Ok(())
    }

    /// How each worker is.
    pub(crate) fn reports(&self) -> Vec<WorkerReport> {
        let now = Instant::now();
        let lately = |at: Option<Instant>| at.is_some_and(|at| now.saturating_duration_since(at) < NEWS_LASTS);
        let report = |worker: &Worker| WorkerReport {
            life: worker.life(self.started.elapsed()),
            stats: worker.stats(),
            panics: worker.panics(),
            lost_lately: lately(worker.last_loss),
            panicked_lately: lately(worker.last_panic),
        };
        self.workers.iter().map(report).collect()
    }

    /// How long decisions took, of all workers together.
    pub(crate) fn latency(&self) -> LatencySum {
        let mut sum = LatencySum::default();
        for worker in &self.workers {
            worker.vital.latency.add_to(&mut sum);
        }
        sum
    }

    /// Looks at all workers; returns what has become a problem since the last look. Call it about once a second.
    pub(crate) fn look(&mut self, now: Instant) -> Vec<String> {
        let age = self.started.elapsed();
        let mut problems = Vec::new();
        for (index, worker) in (0..).zip(&mut self.workers) {
            let life = worker.life(age);
            let stats = worker.stats();
            let lost = stats.lost();
            let panics = worker.panics();
            let news = WorkerReport {
                life: if life == worker.was { Life::Alive } else { life },
                lost_lately: lost > worker.lost_before,
                panicked_lately: panics > worker.panics_before,
                stats,
                panics,
            };
            problems.extend(news.problems(index));
            if news.lost_lately {
                worker.last_loss = Some(now);
            }
            if news.panicked_lately {
                worker.last_panic = Some(now);
            }
            worker.panics_before = panics;
            worker.lost_before = lost;
            worker.was = life;
        }
        problems
    }

    /// Ends all workers and waits for them.
    pub(crate) fn stop(&mut self) {
        // Relaxed: the join below orders everything.
        self.stop.store(true, Ordering::Relaxed);
        for worker in &mut self.workers {
            worker.job = None;
            if let Some(thread) = worker.thread.take() {
                // A panic has been reported when it happened.
                let _ = thread.join();
            }
        }
    }
}

impl Worker {
    fn life(&self, age: Duration) -> Life {
        // Relaxed: a time for people to look at; nothing is ordered by it.
        let beat = Duration::from_millis(self.vital.beat_ms.load(Ordering::Relaxed));
        match &self.thread {
            Some(thread) if !thread.is_finished() && age.saturating_sub(beat) < STUCK => Life::Alive,
            Some(thread) if !thread.is_finished() => Life::Stuck,
            _ => Life::Dead,
        }
    }

    fn panics(&self) -> u64 {
        // Relaxed: a count for people to look at.
        self.vital.panics.load(Ordering::Relaxed)
    }

    fn stats(&self) -> ChannelStats {
        *self.vital.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one worker thread owns.
struct Job {
    channel: Box<dyn PuntChannel>,
    mind: Mind,
}

/// The part of it that decides, and is made anew when it panics.
struct Mind {
    judge: Box<dyn Judge>,
    make: MakeJudge,
    outbox: Outbox,
    vital: Arc<Vital>,
    started: Instant,
}

impl Job {
    fn run(mut self, stop: &AtomicBool, index: usize) {
        if let Err(e) = prefer_batches() {
            debug!(worker = index, error = %e, "each frame is taken at once, which costs more under load");
        }
        if let Err(e) = self.work(stop) {
            // Its socket closes with it: the kernel drops what it would have inspected, and counts it.
            error!(worker = index, error = %e, "worker died");
        }
    }

    fn work(&mut self, stop: &AtomicBool) -> io::Result<()> {
        let mut next_tick = Instant::now();
        // Relaxed: set once, seen soon enough.
        while !stop.load(Ordering::Relaxed) {
            if self.turn()? == 0 {
                let wait = if self.mind.judge.parked() > 0 {
                    PARKED_WAIT
                } else {
                    WAIT
                };
                self.channel.wait(wait)?;
            }
            if self.mind.judge.parked() > 0 {
                self.retry()?;
            }
            let now = Instant::now();
            if now >= next_tick {
                next_tick = now + TICK;
                self.tick()?;
            }
        }
        Ok(())
    }

    fn turn(&mut self) -> io::Result<usize> {
        let Self { channel, mind } = self;
        let now_ns = nanoseconds(mind.started);
        let mut sampling = Sampling::default();
        let vital = Arc::clone(&mind.vital);
        channel.turn(&mut |frame, outgoing| {
            let fate = sampling.time(&vital.latency, || {
                mind.step(|judge, outbox| judge.decide(frame, now_ns, outbox))
            });
            send_all(&mut mind.outbox, outgoing);
            match fate {
                Some(Fate::Forward) => Disposition::Send,
                Some(Fate::Consumed) | None => Disposition::Release,
            }
        })
    }

    /// Frames that waited are decided again.
    fn retry(&mut self) -> io::Result<()> {
        let Self { channel, mind } = self;
        let now_ns = nanoseconds(mind.started);
        mind.step(|judge, outbox| judge.retry(now_ns, outbox));
        if mind.outbox.is_empty() {
            return Ok(());
        }
        channel.push(&mut |outgoing| send_all(&mut mind.outbox, outgoing))
    }

    fn tick(&mut self) -> io::Result<()> {
        let Self { channel, mind } = self;
        let now_ns = nanoseconds(mind.started);
        mind.step(|judge, outbox| judge.tick(now_ns, outbox));
        channel.push(&mut |outgoing| send_all(&mut mind.outbox, outgoing))?;
        self.beat();
        Ok(())
    }

    fn beat(&self) {
        let Mind { vital, started, .. } = &self.mind;
        let beat_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        // Relaxed: see `Worker::life`.
        vital.beat_ms.store(beat_ms, Ordering::Relaxed);
        *vital.stats.lock().unwrap_or_else(PoisonError::into_inner) = self.channel.stats();
    }
}

impl Mind {
    /// One step of the engine. If it panics nothing of it goes on, and the next step meets a new engine, which takes up
    /// connections where a request begins and resets the others, as that of a restarted agent does.
    fn step<T>(&mut self, act: impl FnOnce(&mut dyn Judge, &mut Outbox) -> T) -> Option<T> {
        let Self { judge, outbox, .. } = self;
        // Unwind safe: what may be half done is thrown away.
        if let Ok(done) = catch_unwind(AssertUnwindSafe(|| act(judge.as_mut(), outbox))) {
            return Some(done);
        }
        self.judge = (self.make)();
        self.outbox.clear();
        // Relaxed: a count for people to look at.
        self.vital.panics.fetch_add(1, Ordering::Relaxed);
        error!("the engine panicked; it begins anew and the frame is dropped. Please report what the log says above");
        thread::sleep(PANIC_PAUSE);
        None
    }
}

fn send_all(outbox: &mut Outbox, outgoing: &mut dyn Outgoing) {
    for frame in outbox.frames() {
        // A frame without room is counted by the channel; whoever waits for it asks again.
        outgoing.send(frame);
    }
    outbox.clear();
}

/// The engine's clock.
pub(crate) fn nanoseconds(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering},
        },
        thread,
        time::{Duration, Instant},
    };

    use seventh_datapath::{ChannelStats, Decide, Disposition, Outgoing, PuntChannel};
    use seventh_engine::{EngineLimits, EngineShared, Fate, Outbox};
    use seventh_verdict_cache::KeyHasher;

    use super::{Judge, Life, MakeJudge, Workers};

    /// Receives nothing, breaks when told to, and has lost as many frames as the test says.
    struct Silent {
        broken: bool,
        lost: Arc<AtomicU64>,
    }

    impl PuntChannel for Silent {
        fn turn(&mut self, _: &mut Decide<'_>) -> io::Result<usize> {
            if self.broken {
                Err(io::ErrorKind::BrokenPipe.into())
            } else {
                Ok(0)
            }
        }

        fn push(&mut self, _: &mut dyn FnMut(&mut dyn Outgoing)) -> io::Result<()> {
            Ok(())
        }

        fn wait(&mut self, _: Duration) -> io::Result<bool> {
            thread::sleep(Duration::from_millis(1));
            Ok(false)
        }

        fn stats(&self) -> ChannelStats {
            ChannelStats {
                lost_receiving: self.lost.load(Ordering::Relaxed),
                ..ChannelStats::default()
            }
        }
    }

    fn workers(broken: &[bool]) -> (Workers, Arc<AtomicU64>) {
        let lost = Arc::new(AtomicU64::new(0));
        let channel = |&broken: &bool| -> Box<dyn PuntChannel> {
            let lost = Arc::clone(&lost);
            Box::new(Silent { broken, lost })
        };
        let channels = broken.iter().map(channel).collect();
        let engine = Arc::new(EngineShared::new(KeyHasher::from_secret([7; 16]), 64, 64));
        let mut workers = Workers::new(channels, &engine, EngineLimits::default(), Instant::now());
        workers.start().unwrap();
        (workers, lost)
    }

    fn until(mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(Instant::now() < deadline, "it did not come to that");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_worker_whose_channel_breaks_is_reported_dead_once_and_shown_as_long_as_it_is() {
        let (mut workers, _) = workers(&[false, true]);
        until(|| workers.reports()[1].life == Life::Dead);
        assert_eq!(workers.reports()[0].life, Life::Alive);
        let news = workers.look(Instant::now());
        assert!(news.len() == 1 && news[0].starts_with("worker 1 is dead"), "{news:?}");
        assert!(workers.look(Instant::now()).is_empty());
        assert_eq!(workers.reports()[1].problems(1).len(), 1);
        workers.stop();
    }

    /// Hands in frames without an end, every fourth of them the one that its judge cannot bear, and notes what became of each.
    struct Feeder {
        number: u8,
        fates: Arc<[AtomicU64; 2]>,
    }

    impl PuntChannel for Feeder {
        fn turn(&mut self, decide: &mut Decide<'_>) -> io::Result<usize> {
            self.number = self.number.wrapping_add(1);
            let mut frame = [self.number % 4; 60];
            let fate = decide(&mut frame, &mut Nobody);
            assert_eq!(
                fate == Disposition::Release,
                self.number.is_multiple_of(4),
                "what panicked does not go on"
            );
            self.fates[usize::from(fate == Disposition::Release)].fetch_add(1, Ordering::Relaxed);
            Ok(1)
        }

        fn push(&mut self, produce: &mut dyn FnMut(&mut dyn Outgoing)) -> io::Result<()> {
            produce(&mut Nobody);
            Ok(())
        }

        fn wait(&mut self, _: Duration) -> io::Result<bool> {
            Ok(true)
        }

        fn stats(&self) -> ChannelStats {
            ChannelStats::default()
        }
    }

    /// Nothing is to be sent.
    struct Nobody;

    impl Outgoing for Nobody {
        fn send(&mut self, _: &[u8]) -> bool {
            panic!("nobody has anything to send")
        }
    }

    /// Lets everything pass, and panics at frames of zeros.
    struct Fragile;

    impl Judge for Fragile {
        fn decide(&mut self, frame: &mut [u8], _: u64, _: &mut Outbox) -> Fate {
            if frame[0] == 0 {
                panic!("as the test wants it");
            }
            Fate::Forward
        }

        fn retry(&mut self, _: u64, _: &mut Outbox) {}

        fn tick(&mut self, _: u64, _: &mut Outbox) {}

        fn parked(&self) -> usize {
            0
        }
    }

    #[test]
    fn a_worker_that_panics_drops_the_frame_begins_anew_and_says_so() {
        let fates: Arc<[AtomicU64; 2]> = Arc::default();
        let feeder = Feeder {
            number: 0,
            fates: Arc::clone(&fates),
        };
        let made = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&made);
        let make: MakeJudge = Arc::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            Box::new(Fragile)
        });
        let mut workers = Workers::asking(vec![Box::new(feeder)], &make, Instant::now());
        workers.start().unwrap();
        until(|| workers.reports()[0].panics >= 3);
        assert_eq!(workers.reports()[0].life, Life::Alive);
        let news = workers.look(Instant::now());
        assert!(news.len() == 1 && news[0].contains("panicked"), "{news:?}");
        assert_eq!(workers.reports()[0].problems(0).len(), 1);
        workers.stop();
        let [passed, dropped] = [0, 1].map(|fate| fates[fate].load(Ordering::Relaxed));
        assert!(passed > 3 * (dropped - 1), "{passed} passed, {dropped} dropped");
        assert_eq!(made.load(Ordering::Relaxed), 1 + dropped, "a new engine each time");
    }

    #[test]
    fn lost_frames_are_a_problem_and_then_history() {
        let (mut workers, lost) = workers(&[false]);
        assert!(workers.look(Instant::now()).is_empty());
        lost.store(3, Ordering::Relaxed);
        until(|| workers.reports()[0].stats.lost() == 3);
        assert_eq!(workers.look(Instant::now()).len(), 1);
        assert_eq!(workers.reports()[0].problems(0).len(), 1);
        workers.workers[0].last_loss = Instant::now().checked_sub(Duration::from_secs(61));
        assert!(workers.reports()[0].problems(0).is_empty());
        workers.stop();
    }

    #[test]
    fn a_worker_that_does_not_come_round_is_stuck() {
        let (mut workers, _) = workers(&[false]);
        assert_eq!(workers.workers[0].life(Duration::from_secs(3600)), Life::Stuck);
        workers.stop();
        assert_eq!(workers.reports()[0].life, Life::Dead);
    }
}
