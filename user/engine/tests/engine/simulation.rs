//! Adversarial simulation: an opener that does what it likes, a model of the kernel, the real engine, and a model of the
//! other side's TCP and HTTP. Everything follows from a seed; a failure prints it.
//!
//! What is asserted:
//! 1. no request that the policy denies is ever complete at the other side, read by a parser that is far more lenient
//!    than ours (bare LF ends lines, anything is a method);
//! 2. one sequence number, one value: all frames that reach the other side (and were not below its acknowledgement then)
//!    agree about each byte outside of the ranges that the engine gave free;
//! 3. what an honest opener sends and the policy allows arrives completely and unchanged, and its first denied request
//!    is answered with a 403 that stands exactly where its TCP expects it, after all earlier answers;
//! 4. every byte that the other side's application got was inspected at its position with that value, or lies in such a
//!    range;
//! 5. what the engine says it holds is, after every step, what its connections hold.
//!
//! The kernel has several CPUs: while one handles a packet of the opener, others handle further ones, up to and behind each place
//! at which it looks at or changes what they share.
//!
//! The opener lets its segments die on their way (TTL), or be dropped as old (timestamps, RFC 7323), lies about what it has
//! received, and speaks HTTP/1 with upgrades (websockets, CONNECT, h2c with and without a body) that the server grants or
//! not, HTTP/2, or TLS with and without a HelloRetryRequest.
//!
//! The receiver comes in five kinds. Three are models, because stacks differ in what they do with bytes before their turn:
//! drop them, keep those that came first, keep those that came last. The fourth is smoltcp's TCP, the fifth Linux's, which
//! gets the very packets, and whose application answers ([`LINUX_SEEDS`] of the runs of each kind: it is slower). The
//! kernel's rules are those of `kern/prog`: bytes inside a free range pass, other data is punted; after Close only data and
//! FIN of the opener are punted and nothing else passes.

mod adversary;
mod honest;
mod kernel;
mod linux;
mod receiver;
mod stack;
mod traffic;

/// Runs of the attack by what is spoken, 15 000 in all; those on Linux come on top.
const HTTP1_SEEDS: u64 = 6000;
const SHORT_SEEDS: u64 = 2000;
const HTTP2_SEEDS: u64 = 4000;
const TLS_SEEDS: u64 = 3000;
/// Of the attack on Linux, per protocol.
const LINUX_SEEDS: u64 = 700;
/// Of honest openers, with and without a denied request; these runs are longer.
const HONEST_SEEDS: u64 = 2000;

/// Seeds of one kind of run; `SEVENTH_SIMULATION_SEEDS` asks for another number.
fn seeds(usual: u64) -> std::ops::Range<u64> {
    let count = std::env::var("SEVENTH_SIMULATION_SEEDS")
        .ok()
        .and_then(|n| n.parse().ok());
    0..count.unwrap_or(usual)
}
