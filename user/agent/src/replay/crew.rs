//! Threads that work on the shards of a replay. Packets are dealt in batches, and what came of a batch is put into the
//! order of its packets, so that a replay tells the same whatever the number of threads.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::shard::{Captured, Shard, Told};

/// Packets and bytes of a batch at most.
const BATCH_PACKETS: usize = 4096;
const BATCH_BYTES: usize = 4 << 20;
/// Batches that are worked on while the next one is read.
const BATCHES_AHEAD: usize = 1;

/// Who works on the shards.
#[derive(Debug)]
pub(crate) enum Crew {
    /// Whoever deals the packets.
    Alone(Vec<Shard>),
    /// Others.
    Threads(Threads),
}

/// See [`Crew::Threads`].
#[derive(Debug)]
pub(crate) struct Threads {
    workers: Vec<Worker>,
    /// Shards in all.
    shards: usize,
    packets: usize,
    bytes: usize,
    /// Batches that were dealt and not collected.
    under_way: usize,
}

#[derive(Debug)]
struct Worker {
    /// Dropped to end the worker.
    tasks: Option<SyncSender<Batch>>,
    done: Receiver<(Vec<Told>, Batch)>,
    thread: JoinHandle<Vec<Shard>>,
    filling: Batch,
    empty: Vec<Batch>,
}

/// Packets for one worker.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    packets: Vec<Piece>,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Among the worker's.
    shard: usize,
    start: usize,
    end: usize,
    time_ns: u64,
    packet: u64,
}

impl Crew {
    /// At most `threads` work on the shards: at most one on each of them.
    pub(crate) fn new(shards: Vec<Shard>, threads: usize) -> Self {
        let threads = threads.min(shards.len());
        if threads < 2 {
            return Self::Alone(shards);
        }
        let count = shards.len();
        let mut hands: Vec<Vec<Shard>> = (0..threads).map(|_| Vec::new()).collect();
        for (at, shard) in shards.into_iter().enumerate() {
            if let Some(hand) = hands.get_mut(at % threads) {
                hand.push(shard);
            }
        }
        Self::Threads(Threads {
            workers: hands.into_iter().map(Worker::start).collect(),
            shards: count,
            packets: 0,
            bytes: 0,
            under_way: 0,
        })
    }

    /// How many shards there are to deal to.
    pub(crate) fn shards(&self) -> usize {
        match self {
            Self::Alone(shards) => shards.len(),
            Self::Threads(threads) => threads.shards,
        }
    }

    /// Deals a packet. What came of earlier ones, or of this one, is added to `out`.
    pub(crate) fn deal(&mut self, shard: usize, captured: Captured<'_>, out: &mut Vec<Told>) {
        match self {
            Self::Alone(shards) => {
                if let Some(shard) = shards.get_mut(shard) {
                    shard.take(captured, out);
                }
            }
            Self::Threads(threads) => threads.deal(shard, &captured, out),
        }
    }

    /// Nothing more comes: what is left is told, and the shards come back.
    pub(crate) fn finish(self, out: &mut Vec<Told>) -> Vec<Shard> {
        let mut shards = match self {
            Self::Alone(shards) => shards,
            Self::Threads(threads) => threads.finish(out),
        };
        for shard in &mut shards {
            shard.finish(out);
        }
        shards
    }
}

impl Threads {
    fn deal(&mut self, shard: usize, captured: &Captured<'_>, out: &mut Vec<Told>) {
        let threads = self.workers.len();
        let Some(worker) = self.workers.get_mut(shard % threads) else {
            return;
        };
        worker.filling.push(shard / threads, captured);
        self.packets += 1;
        self.bytes += captured.frame.len();
        if self.packets >= BATCH_PACKETS || self.bytes >= BATCH_BYTES {
            self.hand_out();
            while self.under_way > BATCHES_AHEAD {
                self.collect(out);
            }
        }
    }

    fn hand_out(&mut self) {
        (self.packets, self.bytes) = (0, 0);
        self.under_way += 1;
        for worker in &mut self.workers {
            let empty = worker.empty.pop().unwrap_or_default();
            let batch = std::mem::replace(&mut worker.filling, empty);
            if let Some(tasks) = &worker.tasks {
                // It fails only if the worker has panicked; `finish` tells.
                let _ = tasks.send(batch);
            }
        }
    }

    /// What came of the oldest batch.
    fn collect(&mut self, out: &mut Vec<Told>) {
        self.under_way -= 1;
        let begin = out.len();
        for worker in &mut self.workers {
            if let Ok((told, mut batch)) = worker.done.recv() {
                out.extend(told);
                batch.clear();
                worker.empty.push(batch);
            }
        }
        if let Some(told) = out.get_mut(begin..) {
            // Each worker's are in their order, and a packet belongs to one of them.
            told.sort_by_key(|told| told.packet);
        }
    }

    fn finish(mut self, out: &mut Vec<Told>) -> Vec<Shard> {
        self.hand_out();
        while self.under_way > 0 {
            self.collect(out);
        }
        let threads = self.workers.len();
        let mut shards: Vec<Option<Shard>> = (0..self.shards).map(|_| None).collect();
        for (at, worker) in self.workers.into_iter().enumerate() {
            drop(worker.tasks);
            let hand = match worker.thread.join() {
                Ok(hand) => hand,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            for (nth, shard) in hand.into_iter().enumerate() {
                if let Some(place) = shards.get_mut(nth * threads + at) {
                    *place = Some(shard);
                }
            }
        }
        shards.into_iter().flatten().collect()
    }
}

impl Worker {
    fn start(mut shards: Vec<Shard>) -> Self {
        let (tasks, todo) = sync_channel::<Batch>(BATCHES_AHEAD + 1);
        let (tell, done) = sync_channel(BATCHES_AHEAD + 2);
        let thread = std::thread::spawn(move || {
            while let Ok(mut batch) = todo.recv() {
                let mut told = Vec::new();
                batch.work(&mut shards, &mut told);
                if tell.send((told, batch)).is_err() {
                    break;
                }
            }
            shards
        });
        Self {
            tasks: Some(tasks),
            done,
            thread,
            filling: Batch::default(),
            empty: Vec::new(),
        }
    }
}

impl Batch {
    fn push(&mut self, shard: usize, captured: &Captured<'_>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(captured.frame);
        self.packets.push(Piece {
            shard,
            start,
            end: self.bytes.len(),
            time_ns: captured.time_ns,
            packet: captured.packet,
        });
    }

    fn work(&mut self, shards: &mut [Shard], out: &mut Vec<Told>) {
        for piece in &self.packets {
            let (Some(shard), Some(frame)) = (shards.get_mut(piece.shard), self.bytes.get_mut(piece.start..piece.end))
            else {
                continue;
            };
            let captured = Captured {
                frame,
                time_ns: piece.time_ns,
                packet: piece.packet,
            };
            shard.take(captured, out);
        }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.packets.clear();
    }
}
