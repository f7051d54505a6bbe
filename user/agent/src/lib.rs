//! The agent and its command line.
//!
//! ```text
//! config ──► agent ──► policy_store (documents → compiled) ──► publisher (engine's view, kernel maps)
//!               ├────► worker × n  (punt channel ⇄ engine)
//!               ├────► audit       (copies → engine beside the traffic)
//!               ├────► observer    (records of what happened: ring, Hubble's services)
//!               │         ├──► export   (into files)
//!               │         └──► metrics  (counted, and served with everything else that is counted)
//!               └────► api         (what `seventh status` and others ask)
//! ```
//!
//! Only this room knows tokio, the command line, the wall clock and the environment.
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::cast_possible_truncation, reason = "tests build packets from small numbers")
)]

pub mod agent;
pub mod api;
mod audit;
mod background;
pub mod cli;
pub mod config;
mod confine;
pub mod demo;
mod demo_dns;
mod demo_tls;
mod export;
mod fqdn;
mod fronts;
mod hubble;
pub mod hubble_api;
mod inventory;
mod kubernetes;
pub mod lab;
mod lab_dns;
mod lab_tls;
mod listings;
mod log_filter;
mod metrics;
mod node;
mod observer;
mod policy_store;
mod private_file;
mod publisher;
mod reloaded;
mod replay;
mod settings;
mod status;
mod waiting;
mod way;
mod worker;
