//! Bounded lock-free verdict tables with epochs.
//!
//! A [`VerdictCache`] maps a 128-bit [`Key`] to 32 bits. It is shared by all workers, never blocks, never grows and never
//! answers wrongly: what it gives back was inserted under exactly this key and epoch, or it gives back nothing. That
//! an entry vanishes (overwritten, torn by two writers) costs a second judgement and nothing else.
//!
//! A key is the hash of what was judged, made by a [`KeyHasher`] with a secret of this process ([SipHash-2-4, 128 bits
//! of output][siphash]): nobody outside can aim for two requests with one key.
//!
//! An entry is valid for one epoch. A changed policy raises the epoch and nothing is walked: older entries are misses
//! and the first to be overwritten. Verdicts that depend on nothing which changes (a rule set whose number names its
//! content) use one epoch for ever.
//!
//! [siphash]: https://www.aumasson.jp/siphash/siphash.pdf
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod key;
mod table;

pub use key::{Key, KeyBuilder, KeyHasher};
pub use table::{VerdictCache, WAYS};
