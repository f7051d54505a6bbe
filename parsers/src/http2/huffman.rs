//! The Huffman code of RFC 7541, appendix B.
//!
//! The code is canonical: sorted by length, then by symbol, the codes count upwards. The lengths are the whole code.

/// Bits of each symbol's code; the last symbol is the end of the string, which may only be its padding.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];
const SYMBOLS: usize = 257;
const LENGTH_MIN: u32 = 5;
const LENGTH_MAX: u32 = 30;

/// The codes of one length: they count from `first`, their symbols stand in [`CODE`]'s `symbols` from `offset` on.
#[derive(Clone, Copy)]
struct Level {
    length: u32,
    first: u64,
    count: u64,
    offset: usize,
}

struct Code {
    levels: [Level; (LENGTH_MAX - LENGTH_MIN + 1) as usize],
    symbols: [u16; SYMBOLS],
}

static CODE: Code = build();

#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "runs in the compiler only, on 257 symbols"
)]
const fn build() -> Code {
    let mut code = Code {
        levels: [Level {
            length: 0,
            first: 0,
            count: 0,
            offset: 0,
        }; (LENGTH_MAX - LENGTH_MIN + 1) as usize],
        symbols: [0; SYMBOLS],
    };
    let (mut next, mut placed, mut length) = (0, 0, LENGTH_MIN);
    while length <= LENGTH_MAX {
        let level = &mut code.levels[(length - LENGTH_MIN) as usize];
        level.length = length;
        level.first = next;
        level.offset = placed;
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as u32 == length {
                code.symbols[placed] = symbol as u16;
                placed += 1;
                next += 1;
            }
            symbol += 1;
        }
        level.count = next - level.first;
        next <<= 1;
        length += 1;
    }
    code
}

/// Appends the text that `coded` stands for to `out`, but no more than `room` bytes. `None` if it is longer, or is not
/// the code of any text: the end's symbol inside, padding that is not ones or is a whole byte.
pub(super) fn decode(coded: &[u8], room: usize, out: &mut Vec<u8>) -> Option<()> {
    let mut rest = coded.iter();
    // The next bits, left-aligned.
    let (mut bits, mut count) = (0u64, 0u32);
    let end = out.len().saturating_add(room);
    loop {
        while count <= 56
            && let Some(&byte) = rest.next()
        {
            bits |= u64::from(byte) << (56 - count);
            count += 8;
        }
        let Some((symbol, length)) = first_symbol(bits, count) else {
            let ones = count == 0 || bits >> (64 - count) == (1 << count) - 1;
            return (count < 8 && ones).then_some(());
        };
        let byte = u8::try_from(symbol).ok()?;
        if out.len() >= end {
            return None;
        }
        out.push(byte);
        bits <<= length;
        count -= length;
    }
}

fn first_symbol(bits: u64, count: u32) -> Option<(u16, u32)> {
    let levels = CODE.levels.iter().take_while(|level| level.length <= count);
    for level in levels {
        let index = (bits >> (64 - level.length)).checked_sub(level.first);
        if let Some(index) = index.filter(|index| *index < level.count) {
            let at = level.offset + usize::try_from(index).ok()?;
            return Some((*CODE.symbols.get(at)?, level.length));
        }
    }
    None
}

#[cfg(test)]
pub(super) mod tests {
    use super::{CODE, LENGTH_MAX, LENGTHS, decode};
    use proptest::prelude::*;

    /// The code of a text, by the same table read the other way.
    pub(crate) fn encode(text: &[u8]) -> Vec<u8> {
        let mut bits = Vec::new();
        for &byte in text {
            let level = CODE.levels[usize::from(LENGTHS[usize::from(byte)]) - 5];
            let index = CODE.symbols[level.offset..][..level.count as usize]
                .iter()
                .position(|&symbol| symbol == u16::from(byte))
                .unwrap();
            let code = level.first + index as u64;
            bits.extend((0..level.length).rev().map(|bit| code >> bit & 1 == 1));
        }
        while bits.len() % 8 != 0 {
            bits.push(true);
        }
        bits.chunks(8)
            .map(|byte| byte.iter().fold(0, |all, &bit| all << 1 | u8::from(bit)))
            .collect()
    }

    #[test]
    fn the_code_is_complete() {
        let sum: u64 = LENGTHS
            .iter()
            .map(|&length| 1 << (LENGTH_MAX - u32::from(length)))
            .sum();
        assert_eq!(sum, 1 << LENGTH_MAX, "every sequence of bits means something");
    }

    #[test]
    fn strings_of_the_standards_examples_are_decoded() {
        for (coded, text) in [
            (
                &b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"[..],
                "www.example.com",
            ),
            (b"\xa8\xeb\x10\x64\x9c\xbf", "no-cache"),
            (b"\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f", "custom-key"),
            (b"\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf", "custom-value"),
            (b"\x64\x02", "302"),
            (b"\xae\xc3\x77\x1a\x4b", "private"),
            (
                b"\xd0\x7a\xbe\x94\x10\x54\xd4\x44\xa8\x20\x05\x95\x04\x0b\x81\x66\xe0\x82\xa6\x2d\x1b\xff",
                "Mon, 21 Oct 2013 20:13:21 GMT",
            ),
        ] {
            let mut out = Vec::new();
            assert_eq!(decode(coded, 99, &mut out), Some(()), "{text}");
            assert_eq!(out, text.as_bytes());
            assert_eq!(encode(text.as_bytes()), coded);
        }
    }

    #[test]
    fn codes_of_no_text_are_refused() {
        for coded in [
            &b"\xff"[..],
            b"\xff\xff\xff\xff",
            b"\xa8\xeb\x10\x64\x9c\xbf\xff",
            b"\xa8\xeb\x10\x64\x9c\xbe",
            b"\x00\x00\x00\x00\x07\xff\xff\xff\xfc",
            b"\x07\xff\xff\xff\xff\x80",
        ] {
            assert_eq!(decode(coded, 99, &mut Vec::new()), None, "{coded:x?}");
        }
        assert_eq!(
            decode(b"\xa8\xeb\x10\x64\x9c\xbf", 7, &mut Vec::new()),
            None,
            "8 bytes do not fit 7"
        );
    }

    proptest! {
        #[test]
        fn any_text_survives(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut out = Vec::new();
            prop_assert_eq!(decode(&encode(&text), text.len(), &mut out), Some(()));
            prop_assert_eq!(out, text);
        }

        #[test]
        fn what_is_accepted_has_one_code(coded in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut out = Vec::new();
            if decode(&coded, 1000, &mut out).is_some() {
                prop_assert_eq!(encode(&out), coded);
            }
        }
    }
}
