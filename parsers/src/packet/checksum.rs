//! The Internet checksum (RFC 1071).

/// A running ones' complement sum. 16-bit words are added in network order; every piece but the last must have an even
/// length, which all pieces of IP, TCP and UDP have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum(u64);

impl Checksum {
    /// Sum of nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Sum of the pseudo header of RFC 9293 §3.1 and RFC 8200 §8.1. Mapped IPv4 addresses count with their last four
    /// bytes only, as the IPv4 pseudo header demands.
    #[must_use]
    pub fn pseudo(source: &[u8; 16], destination: &[u8; 16], ipv4: bool, protocol: u8, length: u32) -> Self {
        let sum = if ipv4 {
            let (_, source) = source.split_at(12);
            let (_, destination) = destination.split_at(12);
            Self::new().plus(source).plus(destination)
        } else {
            Self::new().plus(source).plus(destination)
        };
        sum.plus(&length.to_be_bytes()).plus(&[0, protocol])
    }

    /// Adds a piece. At most 2^32 bytes can be added before the sum could overflow; a frame has less than 2^17.
    #[must_use]
    pub fn plus(self, bytes: &[u8]) -> Self {
        let (words, tail) = bytes.as_chunks::<4>();
        let mut sum = self.0;
        for word in words {
            sum = sum.wrapping_add(u64::from(u32::from_be_bytes(*word)));
        }
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(tail) {
            *to = *from;
        }
        Self(sum.wrapping_add(u64::from(u32::from_be_bytes(last))))
    }

    /// The checksum field for what was added; 0 if the added bytes already held their right checksum.
    #[must_use]
    pub fn finish(self) -> u16 {
        let mut sum = self.0;
        // A 64-bit sum needs at most four folds to fit 16 bits.
        for _ in 0..4 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum & 0xffff).unwrap_or(u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::Checksum;
    use proptest::prelude::*;

    /// RFC 1071 written down word by word.
    fn model(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn the_example_of_rfc_1071_has_its_sum() {
        let sum = Checksum::new()
            .plus(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])
            .finish();
        assert_eq!(!sum, 0xddf2);
    }

    proptest! {
        #[test]
        fn equals_the_word_by_word_model(head in prop::collection::vec(any::<[u8; 2]>(), 0..40), tail in prop::collection::vec(any::<u8>(), 0..1600)) {
            let head = head.concat();
            let whole = [head.clone(), tail.clone()].concat();
            prop_assert_eq!(Checksum::new().plus(&head).plus(&tail).finish(), model(&whole));
        }
    }
}
