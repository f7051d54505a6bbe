//! The opener's byte stream: one sequence number, one value.
//!
//! A [`Stream`] knows up to where the bytes are accounted for (`next`) and holds what may still be repeated: bytes that
//! were inspected and that the other side has not acknowledged. A repeated byte must be equal to the held one. Bytes
//! below the other side's acknowledgement are not held, and not let through again. Ranges that were given free (the
//! rest of a body) are accounted for without holding them.
//!
//! ```text
//!   base        acknowledged      floor          next
//!    ├── gone ──────┴───────────────┼─ inspected ─┼─ granted ─┼─ inspected ─┤ not seen yet
//! ```

use crate::seq::{before, between, earlier, plus};
use std::collections::VecDeque;

/// Runs of inspected and granted bytes that a stream holds at most. With the smallest grant this is 16 MiB in flight.
const RUNS_MAX: usize = 4096;
/// Buffer that an idle stream keeps; larger ones are given back when they are empty.
const IDLE_BUFFER_MAX: usize = 4096;

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Stream {
    floor: u32,
    next: u32,
    /// From `floor` to `next`, without gaps.
    runs: VecDeque<Run>,
    /// Bytes of the inspected runs.
    kept: Kept,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    len: usize,
    granted: bool,
}

/// Where a segment lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It begins after `next`: bytes before it are missing.
    Ahead,
    /// So many of its first bytes are repeated (or granted), the others are new.
    Repeats(usize),
}

impl Stream {
    /// A stream whose first byte has the number `base`.
    pub(crate) const fn new(base: u32) -> Self {
        Self {
            floor: base,
            next: base,
            runs: VecDeque::new(),
            kept: Kept::new(),
        }
    }

    /// Number of the first byte of which anything is known.
    pub(crate) const fn floor(&self) -> u32 {
        self.floor
    }

    /// Number of the first byte that is not accounted for.
    pub(crate) const fn next(&self) -> u32 {
        self.next
    }

    /// How many of the first bytes of a segment of `len` bytes at `seq` were acknowledged and are held no more.
    pub(crate) fn gone(&self, seq: u32, len: usize) -> usize {
        if before(seq, self.floor) {
            between(seq, self.floor).min(len)
        } else {
            0
        }
    }

    /// Memory held, in bytes.
    pub(crate) fn held(&self) -> usize {
        self.kept.bytes.capacity() + self.runs.capacity() * size_of::<Run>()
    }

    /// Bytes kept for comparing.
    pub(crate) fn kept_len(&self) -> usize {
        self.kept.as_slice().len()
    }

    /// Where a segment of `len` bytes at `seq` lies.
    pub(crate) fn place(&self, seq: u32, len: usize) -> Place {
        if before(self.next, seq) {
            Place::Ahead
        } else {
            Place::Repeats(between(seq, self.next).min(len))
        }
    }

    /// Whether the bytes at `seq`, all before `next`, are the ones that were inspected there. Those that are
    /// [gone](Self::gone) cannot be told.
    pub(crate) fn repeats(&self, seq: u32, bytes: &[u8]) -> bool {
        let gone = self.gone(seq, bytes.len());
        let mut rest = bytes.get(gone..).unwrap_or_default();
        let mut skip = between(self.floor, plus(seq, gone));
        let mut kept = self.kept.as_slice();
        // At most RUNS_MAX turns.
        for run in &self.runs {
            let (run_kept, kept_after) = kept
                .split_at_checked(if run.granted { 0 } else { run.len })
                .unwrap_or((kept, &[]));
            kept = kept_after;
            let take = run.len.saturating_sub(skip).min(rest.len());
            let (compared, rest_after) = rest.split_at_checked(take).unwrap_or((rest, &[]));
            if !run.granted && take > 0 && run_kept.get(skip..skip + take) != Some(compared) {
                return false;
            }
            rest = rest_after;
            skip = skip.saturating_sub(run.len);
            if rest.is_empty() {
                break;
            }
        }
        rest.is_empty()
    }

    /// Accounts for inspected bytes at `next`.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.kept.push(bytes);
        self.next = plus(self.next, bytes.len());
        match self.runs.back_mut() {
            Some(run) if !run.granted => run.len += bytes.len(),
            _ => self.runs.push_back(Run {
                len: bytes.len(),
                granted: false,
            }),
        }
    }

    /// Takes back the last `len` appended bytes: they were not let through.
    pub(crate) fn retract(&mut self, len: usize) {
        let Some(run) = self.runs.back_mut().filter(|run| !run.granted) else {
            return;
        };
        let len = len.min(run.len);
        run.len -= len;
        if run.len == 0 {
            self.runs.pop_back();
        }
        self.kept.truncate(len);
        self.next = self.next.wrapping_sub(u32::try_from(len).unwrap_or(0));
    }

    /// Accounts for `len` bytes at `next` that nobody will look at. False if no further run fits.
    pub(crate) fn grant(&mut self, len: u32) -> bool {
        if self.runs.len() >= RUNS_MAX {
            return false;
        }
        let run = Run {
            len: between(0, len),
            granted: true,
        };
        self.runs.push_back(run);
        self.next = self.next.wrapping_add(len);
        true
    }

    /// The last `len` bytes before `next`; they were appended and not granted.
    pub(crate) fn tail(&self, len: usize) -> &[u8] {
        let kept = self.kept.as_slice();
        kept.get(kept.len().saturating_sub(len)..).unwrap_or_default()
    }

    /// Forgets what the other side has acknowledged, but not the last `pending` bytes: a head that is not complete.
    pub(crate) fn acknowledged(&mut self, seq: u32, pending: usize) {
        let pending = u32::try_from(pending).unwrap_or(u32::MAX);
        let target = earlier(seq, self.next.wrapping_sub(pending));
        if !before(self.floor, target) {
            return;
        }
        let mut gone = between(self.floor, target);
        self.floor = target;
        while gone > 0
            && let Some(run) = self.runs.front_mut()
        {
            let take = gone.min(run.len);
            if !run.granted {
                self.kept.trim(take);
            }
            gone -= take;
            run.len -= take;
            if run.len == 0 {
                self.runs.pop_front();
            }
        }
    }
}

/// A byte queue whose content is one slice.
#[derive(Debug)]
struct Kept {
    bytes: Vec<u8>,
    start: usize,
}

impl Kept {
    const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            start: 0,
        }
    }

    fn as_slice(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 && self.bytes.len() + bytes.len() > self.bytes.capacity() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    fn truncate(&mut self, len: usize) {
        let end = self.bytes.len().saturating_sub(len).max(self.start);
        self.bytes.truncate(end);
    }

    fn trim(&mut self, len: usize) {
        self.start = (self.start + len).min(self.bytes.len());
        if self.start == self.bytes.len() {
            self.start = 0;
            self.bytes.clear();
            if self.bytes.capacity() > IDLE_BUFFER_MAX {
                self.bytes = Vec::new();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Place, Stream};
    use proptest::prelude::*;

    #[test]
    fn equal_repetitions_pass_and_others_do_not() {
        let base = u32::MAX - 3;
        let mut stream = Stream::new(base);
        stream.append(b"abcdefgh");
        assert_eq!(stream.next(), 4);
        assert_eq!(stream.place(base, 3), Place::Repeats(3));
        assert_eq!(stream.place(2, 9), Place::Repeats(2));
        assert_eq!(stream.place(4, 9), Place::Repeats(0));
        assert_eq!(stream.place(5, 1), Place::Ahead);
        assert!(stream.repeats(base, b"abcdefgh") && stream.repeats(0, b"ef"));
        assert!(!stream.repeats(base, b"abcdefgX") && !stream.repeats(1, b"X"));
    }

    #[test]
    fn granted_ranges_equal_anything_and_hold_nothing() {
        let mut stream = Stream::new(0);
        stream.append(b"ab");
        assert!(stream.grant(1 << 28));
        stream.append(b"yz");
        let end = 2 + (1 << 28);
        assert_eq!((stream.next(), stream.kept_len()), (end + 2, 4));
        assert!(stream.repeats(1, b"b??????") && stream.repeats(end - 2, b"??yz"));
        assert!(!stream.repeats(end - 2, b"??yX") && !stream.repeats(0, b"?b"));
    }

    #[test]
    fn acknowledged_bytes_are_gone_but_a_pending_head_stays() {
        let mut stream = Stream::new(100);
        stream.append(b"0123456789");
        stream.acknowledged(110, 4);
        assert_eq!((stream.kept_len(), stream.tail(4)), (4, &b"6789"[..]));
        assert!(stream.repeats(100, b"??????6789") && !stream.repeats(105, b"?X"));
        stream.acknowledged(90, 0);
        assert_eq!(stream.kept_len(), 4, "acknowledgements do not go back");
        stream.acknowledged(200, 0);
        assert_eq!(stream.kept_len(), 0, "nor past what was sent");
        stream.append(b"ab");
        stream.retract(1);
        assert_eq!((stream.next(), stream.tail(9)), (111, &b"a"[..]));
    }

    proptest! {
        /// Beside a plain vector that never forgets.
        #[test]
        fn behaves_like_a_plain_vector(base: u32, steps in prop::collection::vec((0..5u8, 1..40usize, any::<u8>()), 1..60), seq in 0..800usize, len in 1..80usize, change: bool) {
            let mut stream = Stream::new(base);
            let mut model: Vec<Option<u8>> = Vec::new();
            let mut acked = 0;
            for (step, n, byte) in steps {
                match step {
                    0 | 1 => {
                        stream.append(&vec![byte; n]);
                        model.extend(std::iter::repeat_n(Some(byte), n));
                    }
                    2 => {
                        prop_assert!(stream.grant(n as u32));
                        model.extend(std::iter::repeat_n(None, n));
                    }
                    3 => {
                        let appended = model.iter().rev().take_while(|b| b.is_some()).count();
                        let n = n.min(appended).min(model.len() - acked);
                        stream.retract(n);
                        model.truncate(model.len() - n);
                    }
                    _ => {
                        acked = (acked + n).min(model.len());
                        stream.acknowledged(base.wrapping_add(acked as u32), 0);
                    }
                }
                prop_assert_eq!(stream.next(), base.wrapping_add(model.len() as u32));
            }
            let seq = seq.min(model.len());
            let len = len.min(model.len() - seq);
            let mut bytes: Vec<u8> = model[seq..seq + len].iter().map(|b| b.unwrap_or(7)).collect();
            let mut differs = false;
            if change && len > 0 {
                bytes[len / 2] ^= 1;
                differs = seq + len / 2 >= acked && model[seq + len / 2].is_some();
            }
            prop_assert_eq!(stream.repeats(base.wrapping_add(seq as u32), &bytes), !differs);
        }
    }
}
