//! Which records of a ring a caller gets: the first or the last so many, of a span of time, and what follows.

use std::{sync::Arc, time::Instant};

use prost_types::Timestamp;
use seventh_flows::{
    Cursor, Held, Read, Ring,
    pb::observer::{GetAgentEventsRequest, GetAgentEventsResponse, GetFlowsRequest},
};

use super::noted::Noted;

/// A record with its time.
pub(super) trait Recorded {
    fn time(&self) -> Option<Timestamp>;
    /// Tells of a loss, which everybody is told and nobody counts.
    fn is_loss(&self) -> bool {
        false
    }
}

impl Recorded for Noted {
    fn time(&self) -> Option<Timestamp> {
        Some(self.time())
    }

    fn is_loss(&self) -> bool {
        self.is_loss()
    }
}

impl Recorded for GetAgentEventsResponse {
    fn time(&self) -> Option<Timestamp> {
        self.time
    }
}

/// What a caller asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Window {
    number: u64,
    first: bool,
    follow: bool,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl From<&GetFlowsRequest> for Window {
    fn from(request: &GetFlowsRequest) -> Self {
        Self {
            number: request.number,
            first: request.first,
            follow: request.follow,
            since: request.since,
            until: request.until,
        }
    }
}

impl From<&GetAgentEventsRequest> for Window {
    fn from(request: &GetAgentEventsRequest) -> Self {
        Self {
            number: request.number,
            first: request.first,
            follow: request.follow,
            since: request.since,
            until: request.until,
        }
    }
}

/// What comes next.
#[derive(Debug)]
pub(super) enum Step<T> {
    Record(Held<T>),
    /// So many were overwritten before this caller came to them.
    Lost(u64),
    /// Nothing new yet.
    Wait,
    /// Others should have a turn.
    Yield,
    End,
}

/// One caller's way through a ring.
pub(super) struct Selection<T> {
    ring: Arc<Ring<T>>,
    cursor: Cursor,
    window: Window,
    /// Of the last so many, those that were found on the way back to where the cursor shall begin; `None`: it is there.
    found: Option<u64>,
    /// Records that may still be given; `None`: without end.
    left: Option<u64>,
    wanted: Box<dyn Fn(&T) -> bool + Send + Sync>,
}

impl<T: Recorded> Selection<T> {
    /// Looks at no record yet.
    ///
    /// # Errors
    /// The window contradicts itself.
    pub(super) fn new(
        ring: &Arc<Ring<T>>,
        window: Window,
        wanted: impl Fn(&T) -> bool + Send + Sync + 'static,
    ) -> Result<Self, &'static str> {
        if window.first && window.follow {
            return Err("`first` cannot be combined with `follow`");
        }
        let cursor = if window.first { ring.oldest() } else { ring.newest() };
        let only_new = window.follow && window.number == 0 && window.since.is_none();
        let goes_back = !window.first && !only_new;
        // The last so many are where the cursor stands; those who follow want all that comes after them, too.
        let counted = window.number > 0 && !window.follow;
        Ok(Self {
            ring: Arc::clone(ring),
            cursor,
            found: goes_back.then_some(0),
            left: counted.then_some(window.number),
            window,
            wanted: Box::new(wanted),
        })
    }

    /// Goes on until there is something to say, or at that time, at least by one record.
    pub(super) fn step(&mut self, until: Instant) -> Step<T> {
        while self.found.is_some() {
            self.look_back();
            if Instant::now() >= until {
                return Step::Yield;
            }
        }
        loop {
            if self.left == Some(0) {
                return Step::End;
            }
            match self.ring.read(&mut self.cursor) {
                Read::Nothing if self.window.follow => return Step::Wait,
                Read::Nothing => return Step::End,
                Read::Lost(number) => return Step::Lost(number),
                Read::Record(record) => {
                    if is_after(record.time(), self.window.until) {
                        return Step::End;
                    }
                    if !is_before(record.time(), self.window.since) {
                        if record.is_loss() {
                            return Step::Record(record);
                        }
                        if (self.wanted)(&record) {
                            self.left = self.left.map(|left| left - 1);
                            return Step::Record(record);
                        }
                    }
                }
            }
            if Instant::now() >= until {
                return Step::Yield;
            }
        }
    }

    /// One record back from the newest, until there are as many as are wanted, or the beginning of the span.
    fn look_back(&mut self) {
        let Some(found) = self.found else { return };
        if self.window.number != 0 && found >= self.window.number {
            self.found = None;
            return;
        }
        let before = self.cursor;
        match self.ring.read_back(&mut self.cursor) {
            None => self.found = None,
            Some(record) if is_before(record.time(), self.window.since) => {
                self.cursor = before;
                self.found = None;
            }
            Some(record) => {
                let counts = !record.is_loss() && !is_after(record.time(), self.window.until) && (self.wanted)(&record);
                self.found = Some(found + u64::from(counts));
            }
        }
    }
}

fn is_before(time: Option<Timestamp>, bound: Option<Timestamp>) -> bool {
    time.zip(bound)
        .is_some_and(|(time, bound)| (time.seconds, time.nanos) < (bound.seconds, bound.nanos))
}

fn is_after(time: Option<Timestamp>, bound: Option<Timestamp>) -> bool {
    time.zip(bound)
        .is_some_and(|(time, bound)| (time.seconds, time.nanos) > (bound.seconds, bound.nanos))
}

#[cfg(test)]
mod tests {
    use super::{Recorded, Selection, Step, Window};
    use prost_types::Timestamp;
    use seventh_flows::{Ring, RingCapacity, RingWriter};
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, AtomicUsize, Ordering},
        },
        thread,
        time::{Duration, Instant},
    };

    #[derive(Debug)]
    struct At(Timestamp);

    impl Recorded for At {
        fn time(&self) -> Option<Timestamp> {
            Some(self.0)
        }
    }

    fn second(seconds: i64) -> Timestamp {
        Timestamp { seconds, nanos: 0 }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(10)
    }

    fn ring(seconds: std::ops::Range<i64>) -> RingWriter<At> {
        let (mut writer, _) = Ring::create(RingCapacity::new(15).unwrap());
        for s in seconds {
            writer.push(At(second(s)));
        }
        writer
    }

    /// Even seconds of the window.
    fn selection(writer: &RingWriter<At>, window: Window) -> Selection<At> {
        Selection::new(writer.ring(), window, |at: &At| at.0.seconds % 2 == 0).unwrap()
    }

    fn drain(selection: &mut Selection<At>) -> (Vec<i64>, &'static str) {
        let mut got = Vec::new();
        loop {
            match selection.step(soon()) {
                Step::Record(at) => got.push(at.0.seconds),
                Step::Lost(number) => got.push(-i64::try_from(number).unwrap()),
                Step::Wait => return (got, "wait"),
                Step::End => return (got, "end"),
                Step::Yield => {}
            }
        }
    }

    fn selected(writer: &RingWriter<At>, window: Window) -> Vec<i64> {
        let (got, end) = drain(&mut selection(writer, window));
        assert_eq!(end, "end");
        got
    }

    #[test]
    fn the_last_so_many_are_counted_behind_the_filter() {
        let writer = ring(0..10);
        assert_eq!(
            selected(
                &writer,
                Window {
                    number: 2,
                    ..Window::default()
                }
            ),
            [6, 8]
        );
        assert_eq!(
            selected(
                &writer,
                Window {
                    number: 99,
                    ..Window::default()
                }
            ),
            [0, 2, 4, 6, 8]
        );
        assert_eq!(selected(&writer, Window::default()), [0, 2, 4, 6, 8]);
        let until = Some(second(5));
        assert_eq!(
            selected(
                &writer,
                Window {
                    number: 2,
                    until,
                    ..Window::default()
                }
            ),
            [2, 4]
        );
    }

    #[test]
    fn the_first_so_many_begin_with_the_oldest_or_the_span() {
        let writer = ring(0..10);
        let first = Window {
            number: 2,
            first: true,
            ..Window::default()
        };
        assert_eq!(selected(&writer, first.clone()), [0, 2]);
        assert_eq!(
            selected(
                &writer,
                Window {
                    since: Some(second(3)),
                    ..first
                }
            ),
            [4, 6]
        );
    }

    #[test]
    fn a_span_has_two_ends() {
        let writer = ring(0..10);
        let span = |since, until| Window {
            since: Some(second(since)),
            until: Some(second(until)),
            ..Window::default()
        };
        assert_eq!(selected(&writer, span(2, 6)), [2, 4, 6]);
        assert!(selected(&writer, span(20, 30)).is_empty());
    }

    #[test]
    fn who_follows_gets_what_comes_and_learns_what_is_lost() {
        let mut writer = ring(0..10);
        let mut only_new = selection(
            &writer,
            Window {
                follow: true,
                ..Window::default()
            },
        );
        let mut last_and_new = selection(
            &writer,
            Window {
                follow: true,
                number: 1,
                ..Window::default()
            },
        );
        assert_eq!(drain(&mut only_new), (vec![], "wait"));
        assert_eq!(drain(&mut last_and_new), (vec![8], "wait"));
        for s in 10..12 {
            writer.push(At(second(s)));
        }
        assert_eq!(drain(&mut only_new), (vec![10], "wait"));
        for s in 12..40 {
            writer.push(At(second(s)));
        }
        assert_eq!(drain(&mut last_and_new).0[..2], [-15, 26]);
    }

    /// Counts itself for as long as somebody holds it.
    #[derive(Debug)]
    struct Counted(Timestamp, Arc<AtomicUsize>);

    impl Counted {
        fn new(alive: &Arc<AtomicUsize>) -> Self {
            alive.fetch_add(1, Ordering::SeqCst);
            Self(second(1), Arc::clone(alive))
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.1.fetch_sub(1, Ordering::SeqCst);
        }
    }

    impl Recorded for Counted {
        fn time(&self) -> Option<Timestamp> {
            Some(self.0)
        }
    }

    /// Reads all that there is until the writer is done, a thousand times slower than it is written. Records and losses.
    fn read_slowly(mut selection: Selection<Counted>, done: &AtomicBool) -> (u64, u64) {
        let (mut records, mut lost) = (0, 0);
        loop {
            let last = done.load(Ordering::SeqCst);
            match selection.step(soon()) {
                Step::Record(record) => {
                    records += 1;
                    if !last {
                        thread::sleep(Duration::from_millis(10));
                    }
                    drop(record);
                }
                Step::Lost(number) => lost += number,
                Step::Wait if last => return (records, lost),
                Step::Wait => thread::yield_now(),
                Step::Yield | Step::End => {}
            }
        }
    }

    #[test]
    fn a_flood_with_a_slow_reader_stays_within_the_ring_and_each_loss_is_counted() {
        const RECORDS: u64 = 300_000;
        let (mut writer, ring) = Ring::create(RingCapacity::default());
        let (alive, done) = (Arc::new(AtomicUsize::new(0)), AtomicBool::new(false));
        let window = Window {
            follow: true,
            since: Some(second(0)),
            ..Window::default()
        };
        let selection = Selection::new(&ring, window, |_| true).unwrap();
        let (most, (records, lost)) = thread::scope(|scope| {
            let reader = scope.spawn(|| read_slowly(selection, &done));
            let mut most = 0;
            for _ in 0..RECORDS {
                drop(writer.push(Counted::new(&alive)));
                most = most.max(alive.load(Ordering::SeqCst));
            }
            done.store(true, Ordering::SeqCst);
            (most, reader.join().unwrap())
        });
        assert_eq!(records + lost, RECORDS);
        assert!(lost > 0 && records >= 4095, "{records} read, {lost} lost");
        // What the ring holds, the one that is being put in, and the one that the reader holds.
        assert!(most <= 4095 + 2, "{most} at once");
    }

    #[test]
    fn others_have_a_turn_on_the_way_back_and_on_the_way_forth() {
        let writer = ring(0..10);
        let looks = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&looks);
        let wanted = move |at: &At| {
            counted.fetch_add(1, Ordering::SeqCst);
            at.0.seconds == 9
        };
        let mut selection = Selection::new(writer.ring(), Window::default(), wanted).unwrap();
        assert_eq!(
            looks.load(Ordering::SeqCst),
            0,
            "nothing is looked at before the first turn"
        );
        let over = Instant::now();
        for look in 1..=10 {
            assert!(matches!(selection.step(over), Step::Yield));
            assert_eq!(looks.load(Ordering::SeqCst), look);
        }
        // There, and one look further for each turn.
        assert!(matches!(selection.step(over), Step::Yield));
        for look in 11..=19 {
            assert!(matches!(selection.step(over), Step::Yield));
            assert_eq!(looks.load(Ordering::SeqCst), look);
        }
        assert!(matches!(selection.step(over), Step::Record(_)));
        assert!(matches!(selection.step(over), Step::End));
    }

    #[test]
    fn the_first_ones_cannot_be_followed() {
        let window = Window {
            first: true,
            follow: true,
            ..Window::default()
        };
        assert!(Selection::new(ring(0..1).ring(), window, |_: &At| true).is_err());
    }
}
