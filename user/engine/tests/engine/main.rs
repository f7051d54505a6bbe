//! The engine from outside: one test per rule of the decision, and a simulation that attacks the promise "one sequence
//! number, one value".
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "tests build frames from small numbers and compare sequence numbers"
)]

mod allocations;
mod beside;
mod closing;
mod decisions;
mod dns;
mod http2;
mod limits;
mod policies;
mod requests;
mod reused;
mod simulation;
mod streams;
mod tls;
mod tunnels;
mod upgrades;
mod wire;
mod world;
