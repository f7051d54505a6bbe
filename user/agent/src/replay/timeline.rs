//! What happened when, in a bounded number of spans of equal length.

use super::tally::Outcome;

/// Spans at most; with more, each becomes twice as long.
const SPANS_MAX: usize = 120;
const SECOND_NS: u64 = 1_000_000_000;

/// Counts by time.
#[derive(Debug)]
pub(crate) struct Timeline {
    first_ns: Option<u64>,
    pub(crate) span_ns: u64,
    pub(crate) spans: Vec<Outcome>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            first_ns: None,
            span_ns: SECOND_NS,
            spans: Vec::new(),
        }
    }
}

impl Timeline {
    /// When it begins, in nanoseconds since 1970.
    pub(crate) fn begin_ns(&self) -> u64 {
        self.first_ns.unwrap_or(0)
    }

    /// Takes in a moment in which nothing needs to have happened. What is before the first moment counts with it.
    pub(crate) fn see(&mut self, time_ns: u64) {
        self.span_at(time_ns);
    }

    /// Counts one.
    pub(crate) fn count(&mut self, time_ns: u64, is_denied: bool) {
        let at = self.span_at(time_ns);
        if let Some(span) = self.spans.get_mut(at) {
            span.count(is_denied);
        }
    }

    fn span_at(&mut self, time_ns: u64) -> usize {
        let since_ns = time_ns.saturating_sub(*self.first_ns.get_or_insert(time_ns));
        // At most 28 turns: then the spans hold any time.
        loop {
            match usize::try_from(since_ns / self.span_ns) {
                Ok(at) if at < SPANS_MAX => {
                    if self.spans.len() <= at {
                        self.spans.resize(at + 1, Outcome::default());
                    }
                    return at;
                }
                _ => self.widen(),
            }
        }
    }

    fn widen(&mut self) {
        self.span_ns = self.span_ns.saturating_mul(2);
        self.spans = self
            .spans
            .chunks(2)
            .map(|pair| Outcome {
                forwarded: pair.iter().map(|span| span.forwarded).sum(),
                denied: pair.iter().map(|span| span.denied).sum(),
            })
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::{SECOND_NS, SPANS_MAX, Timeline};

    #[test]
    fn nothing_is_lost_when_spans_become_longer() {
        let mut timeline = Timeline::default();
        let day_s = 86_400;
        for second in 0..day_s {
            timeline.count((1000 + second) * SECOND_NS, second % 3 == 0);
        }
        let (forwarded, denied) = timeline
            .spans
            .iter()
            .fold((0, 0), |(f, d), span| (f + span.forwarded, d + span.denied));
        assert_eq!((forwarded, denied), (day_s * 2 / 3, day_s / 3));
        assert!(timeline.spans.len() <= SPANS_MAX && timeline.span_ns == 1024 * SECOND_NS);
        assert_eq!(timeline.spans[0].sum(), 1024);
        assert_eq!(timeline.begin_ns(), 1000 * SECOND_NS);
    }

    #[test]
    fn the_end_of_time_and_the_time_before_are_counted() {
        let mut timeline = Timeline::default();
        for time_ns in [5 * SECOND_NS, u64::MAX, 0] {
            timeline.count(time_ns, true);
        }
        assert_eq!(timeline.spans.iter().map(|span| span.denied).sum::<u64>(), 3);
    }
}
