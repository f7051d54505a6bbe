//! Flow records in the form Hubble gave them, and everything that can be done with one without a socket or a clock.
//!
//! ```text
//! records ──Redaction──► Ring (bounded; readers that are too slow learn how many they lost)
//!                          └──► filter::FilterSet ──► mask::FieldMask ──► print::Printer, json, protobuf
//! ```
#![forbid(unsafe_code)]

mod descriptors;
pub mod event_type;
pub mod filter;
#[cfg(any(test, fuzzing))]
mod fuzz;
pub mod json;
pub mod mask;
pub mod pb;
pub mod print;
mod reason;
mod redact;
mod ring;
pub mod safe_text;
mod slot;
pub mod summary;
pub mod timestamp;

pub use descriptors::descriptors;
#[cfg(any(test, fuzzing))]
pub use fuzz::{fuzz_filter, fuzz_record};
pub use reason::{drop_reason_text, hubble_reason};
pub use redact::{HeaderRedaction, REDACTED, Redaction};
pub use ring::{CAPACITY_DEFAULT, CAPACITY_MAX, Cursor, Held, Read, Ring, RingCapacity, RingError, RingWriter};
