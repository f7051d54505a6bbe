//! Fuzz entry of the byte stream: what it says beside a plain vector that never forgets.

use crate::seq::plus;
use crate::stream::{Place, Stream};

/// Bytes of the model at most: a run stays short.
const MODEL_LEN_MAX: usize = 1 << 16;

/// The first four bytes are the number of the stream's first byte; then each step is a byte and what it needs.
///
/// # Panics
/// If the stream takes a byte for repeated that is another, or an equal one for another; if it forgets more than was
/// acknowledged, or holds more than it was given.
pub fn fuzz_stream(input: &[u8]) {
    let Some((base, mut steps)) = input.split_first_chunk() else {
        return;
    };
    let mut run = Run {
        base: u32::from_be_bytes(*base),
        stream: Stream::new(u32::from_be_bytes(*base)),
        model: Vec::new(),
        acked: 0,
    };
    while let Some((&step, rest)) = steps.split_first() {
        steps = run.step(step, rest);
        run.check();
    }
}

struct Run {
    base: u32,
    stream: Stream,
    /// What was inspected at each offset; `None` where it was given free.
    model: Vec<Option<u8>>,
    acked: usize,
}

impl Run {
    /// Does one step; gives what is left of the input.
    fn step<'a>(&mut self, step: u8, mut rest: &'a [u8]) -> &'a [u8] {
        let mut number = || {
            let (&first, after) = rest.split_first().unwrap_or((&0, &[]));
            rest = after;
            usize::from(first)
        };
        match step % 6 {
            0 => {
                let len = number();
                let (bytes, after) = rest.split_at_checked(len).unwrap_or((rest, &[]));
                if self.model.len() + bytes.len() <= MODEL_LEN_MAX {
                    self.stream.append(bytes);
                    self.model.extend(bytes.iter().map(|byte| Some(*byte)));
                }
                return after;
            }
            1 => {
                let inspected = self.model.iter().skip(self.acked).rev();
                let last = inspected.take_while(|byte| byte.is_some()).count();
                let len = number().min(last);
                self.stream.retract(len);
                self.model.truncate(self.model.len() - len);
            }
            2 => {
                let len = 16 * number();
                if len > 0
                    && self.model.len() + len <= MODEL_LEN_MAX
                    && self.stream.grant(u32::try_from(len).unwrap_or(0))
                {
                    self.model.resize(self.model.len() + len, None);
                }
            }
            3 => {
                let pending = number();
                self.stream.acknowledged(plus(self.base, self.model.len()), pending);
                self.acked = self.acked.max(self.model.len().saturating_sub(pending));
            }
            4 => {
                let acked = (self.acked + number()).min(self.model.len());
                self.stream.acknowledged(plus(self.base, acked), 0);
                self.acked = acked;
            }
            _ => {
                let (start, len, change, value) = (16 * number() + number(), number(), number(), number());
                self.compare(start, len, change, u8::try_from(value).unwrap_or(0));
            }
        }
        rest
    }

    /// Shows the stream the bytes that the model has at an offset, one of them with another value.
    fn compare(&self, start: usize, len: usize, change: usize, value: u8) {
        let start = start.min(self.model.len());
        let inspected = self.model.get(start..).unwrap_or_default();
        let mut bytes: Vec<u8> = inspected.iter().take(len).map(|byte| byte.unwrap_or(0)).collect();
        let seq = plus(self.base, start);
        assert!(self.stream.repeats(seq, &bytes), "what was inspected is repeated");
        assert_eq!(self.stream.place(seq, bytes.len()), Place::Repeats(bytes.len()));
        let gone = self.acked.saturating_sub(start).min(bytes.len());
        assert_eq!(self.stream.gone(seq, bytes.len()), gone);
        if let Some(byte) = bytes.get_mut(change) {
            let is_other = *byte != value && self.model.get(start + change).is_some_and(Option::is_some);
            *byte = value;
            assert_eq!(self.stream.repeats(seq, &bytes), !is_other || change < gone);
        }
    }

    fn check(&self) {
        assert_eq!(self.stream.next(), plus(self.base, self.model.len()));
        let kept = self.model.iter().skip(self.acked).filter(|byte| byte.is_some()).count();
        assert_eq!(self.stream.kept_len(), kept);
        let end = plus(self.base, self.model.len());
        assert_eq!(self.stream.place(plus(end, 1), 1), Place::Ahead);
    }
}

#[cfg(test)]
mod tests {
    use super::fuzz_stream;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    #[test]
    fn random_steps_agree_with_the_model() {
        let mut rng = StdRng::seed_from_u64(9);
        for _ in 0..2000 {
            let input: Vec<u8> = (0..rng.random_range(4..400))
                .map(|_| {
                    if rng.random() {
                        rng.random_range(0..12)
                    } else {
                        rng.random()
                    }
                })
                .collect();
            fuzz_stream(&input);
        }
    }
}
