//! Audit and visibility: what is judged beside the traffic.
//!
//! ```text
//! kernel: copies ─► reader ─► engine of its own (policies as if all were enforced) ─► records ─► collector
//!    ▲                 │
//!    └── "no more of this flow", "not before this byte"
//! ```

mod modes;
mod names;
mod reader;

pub(crate) use modes::AuditModes;
pub(crate) use names::AuditSink;
pub(crate) use reader::{CopyCounts, look_on};
