//! The tables of Hubble's own tests, and the bytes that its clients read.
#![forbid(unsafe_code)]

mod filter_table;
mod printer_table;
mod table;
mod wire;
