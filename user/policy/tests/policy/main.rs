//! Policies from the outside: documents in, verdicts out. One binary, so that it links once.

mod agreement;
mod compiler;
mod demo;
mod documents;
mod explain;
mod kernel;
mod random;
mod requests;
mod semantics;
mod tables;
mod world;
