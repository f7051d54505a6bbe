//! DNS rules and what answers teach: one test per promise.

mod learning;
mod message;
mod node;
mod queries;
mod stream;
mod table;
mod time;
