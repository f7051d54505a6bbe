//! Decides a punted frame: streams, inspectors, verdicts.
//!
//! [`Engine::decide`] is the heart: a frame and the time go in, a [`Fate`] comes out. No socket, no clock, no thread, no
//! map: everything the engine knows comes with the frame ([`seventh_abi::PuntMeta`]) or from [`EngineShared`], and
//! everything it wants goes out in the frame ([`seventh_abi::InjectMeta`]) or the [`Outbox`].
//!
//! The promise, per inspected TCP connection: **one sequence number, one value**. Each byte that the other side can ever
//! accept at a position of the stream was inspected at that position with that value, or lies in a range (the rest of a
//! body) that the engine gave free. `stream` keeps it, `tests/engine/simulation.rs` attacks it.
//!
//! | step | where |
//! |---|---|
//! | the tiers of a decision, in order | [`Engine::decide`] in `decide` |
//! | which connection, which policy | `flow`, [`PolicyView`] in `shared` |
//! | which bytes are new, which are repeated | `stream` |
//! | who reads the bytes | `inspector` |
//! | where requests begin and end | `http`, `http2` |
//! | other protocols after a request | `upgrade` |
//! | the first flight of TLS | `tls`, `tls_judge` |
//! | the first flight of QUIC | `quic`, `quic_flows` |
//! | DNS: which questions may be asked | `dns` |
//! | what the other side answers, where it is read | `reply` |
//! | what DNS answers teach, and who is behind an address because of it | `names` |
//! | frames that wait for a policy or an identity that is being made | `parked` |
//! | what the rules say of one request | `judge` |
//! | the same beside the traffic, where nothing is refused | `beside`, `ahead`, `sniff` |
//! | what is done about it, frames of our own | `carry_out`, `answer` |
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::cast_possible_truncation, reason = "tests build frames from small numbers")
)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod ahead;
mod answer;
mod beside;
mod carry_out;
mod counters;
mod decide;
mod dns;
mod flow;
#[cfg(any(test, fuzzing))]
mod fuzz;
#[cfg(any(test, fuzzing))]
mod fuzz_beside;
#[cfg(any(test, fuzzing))]
mod fuzz_passed;
mod generations;
mod http;
mod http2;
mod http2_answer;
mod http2_open;
mod inspector;
mod judge;
mod names;
mod outbox;
mod parked;
mod passed;
mod punted;
mod quic;
mod quic_flows;
mod record;
mod reply;
mod seq;
mod shared;
mod sniff;
mod stream;
#[cfg(any(test, fuzzing))]
mod stream_fuzz;
mod tls;
mod tls_judge;
mod upgrade;

pub use beside::{Beside, Denials, Seen};
pub use counters::{EngineCounter, EngineCounters};
pub use decide::{Engine, Fate};
pub use dns::{DnsAnswer, DnsRecord, DnsRefusal};
#[cfg(any(test, fuzzing))]
pub use fuzz::fuzz_engine;
#[cfg(any(test, fuzzing))]
pub use fuzz_beside::fuzz_beside;
#[cfg(any(test, fuzzing))]
pub use fuzz_passed::fuzz_passed_request;
pub use http::http_reason;
pub use names::{
    Decided, Lacking, LearnedName, Learning, NAME_TTL_MAX_NS, NameChange, NameClass, NameLimits, NameRules, NameSink,
    Names, SCOPE_NODE,
};
pub use outbox::{OUTBOX_FRAMES_MAX, Outbox};
pub use quic::quic_reason;
pub use record::{
    Http2Stream, HttpRecord, Inside, L7Record, LoggedHeader, RECORD_HEADERS_MAX, RECORD_PATH_MAX, RecordVerdict,
    TlsRecord,
};
pub use shared::{EndpointView, EngineLimits, EngineShared, PolicyView};
#[cfg(any(test, fuzzing))]
pub use stream_fuzz::fuzz_stream;
pub use tls::tls_reason;
pub use upgrade::asks_for_upgrade;
