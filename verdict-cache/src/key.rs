//! Keys: keyed hashes of what was judged.

use siphasher::sip128::{Hasher128, SipHasher24};
use std::hash::Hasher;

/// Names what was judged. Never zero: an empty place of the table reads as the zero key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub(crate) high: u64,
    pub(crate) low: u64,
}

impl Key {
    /// The key with these 128 bits; zero becomes one.
    #[must_use]
    pub const fn from_bits(high: u64, low: u64) -> Self {
        Self {
            high,
            low: if high | low == 0 { 1 } else { low },
        }
    }
}

/// Makes keys under one secret.
#[derive(Clone, Debug)]
pub struct KeyHasher(SipHasher24);

impl KeyHasher {
    /// A hasher under a secret from the operating system.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut secret = [0; 16];
        getrandom::fill(&mut secret)?;
        Ok(Self::from_secret(secret))
    }

    /// A hasher under a given secret, for runs that must repeat exactly.
    #[must_use]
    pub fn from_secret(secret: [u8; 16]) -> Self {
        Self(SipHasher24::new_with_key(&secret))
    }

    /// Begins a key.
    #[must_use]
    pub fn begin(&self) -> KeyBuilder {
        KeyBuilder(self.0)
    }
}

/// A key under way. Every part is hashed with its length, so that no two lists of parts run together.
#[derive(Clone, Debug)]
pub struct KeyBuilder(SipHasher24);

impl KeyBuilder {
    /// Adds a number.
    #[must_use]
    pub fn number(mut self, number: u32) -> Self {
        self.0.write_u32(number);
        self
    }

    /// Adds bytes of any length.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.write_u64(bytes.len() as u64);
        self.0.write(bytes);
        self
    }

    /// The key.
    #[must_use]
    pub fn finish(self) -> Key {
        let hash = self.0.finish128();
        Key::from_bits(hash.h1, hash.h2)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{Key, KeyHasher};

    #[test]
    fn parts_do_not_run_together() {
        let hasher = KeyHasher::from_secret([7; 16]);
        let of = |parts: &[&[u8]]| parts.iter().fold(hasher.begin(), |key, part| key.bytes(part)).finish();
        assert_eq!(of(&[b"ab", b"c"]), of(&[b"ab", b"c"]));
        for other in [&[&b"a"[..], b"bc"][..], &[b"abc"], &[b"abc", b""], &[b"", b"abc"]] {
            assert_ne!(of(&[b"ab", b"c"]), of(other));
        }
    }

    #[test]
    fn secrets_give_other_keys() {
        let of = |hasher: KeyHasher| hasher.begin().number(1).bytes(b"x").finish();
        assert_ne!(of(KeyHasher::from_secret([1; 16])), of(KeyHasher::from_secret([2; 16])));
        assert_ne!(of(KeyHasher::random().unwrap()), of(KeyHasher::random().unwrap()));
    }

    #[test]
    fn no_key_is_zero() {
        assert_eq!(Key::from_bits(0, 0), Key { high: 0, low: 1 });
    }
}
