//! Policies from the outside: documents in, verdicts out. One binary, so that it links once.

mod agreement;
mod compiler;
mod demo;
mod documents;
mod explain;
mod kernel;
mod label_tables;
mod notation;
mod random;
mod requests;
mod schema;
mod semantics;
mod services;
mod tables;
mod world;
