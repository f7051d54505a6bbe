//! Sequence numbers (RFC 9293 §3.4): a circle of 2^32, compared by the shorter way round.

/// Half of the circle.
const HALF: u32 = 1 << 31;

/// Whether `a` comes before `b`.
pub(crate) const fn before(a: u32, b: u32) -> bool {
    a != b && b.wrapping_sub(a) < HALF
}

/// The one that comes first.
pub(crate) const fn earlier(a: u32, b: u32) -> u32 {
    if before(b, a) { b } else { a }
}

/// `seq + len`. Lengths of payloads and kept bytes are far below 2^32.
pub(crate) fn plus(seq: u32, len: usize) -> u32 {
    seq.wrapping_add(u32::try_from(len).unwrap_or(u32::MAX))
}

/// Bytes from `from` to `to`, which is not before it.
pub(crate) fn between(from: u32, to: u32) -> usize {
    usize::try_from(to.wrapping_sub(from)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::{before, between, earlier, plus};

    #[test]
    fn order_holds_across_the_wrap() {
        for base in [0, 5, u32::MAX - 2, 1 << 31] {
            assert!(before(base, plus(base, 1)) && !before(plus(base, 1), base) && !before(base, base));
            assert_eq!(earlier(plus(base, 9), base), base);
            assert_eq!(between(base, plus(base, 9)), 9);
        }
    }
}
