//! What a Kubernetes API server says, in the form that an agent goes by.
//!
//! ```text
//! API server ──watch──► Change ──► Picture ──derive──► Cluster ──► agent
//!     ▲                 (trimmed)   (objects)           (pods, services, nodes, policies: who is who)
//!     └──────────────── Reporter ◄── what is wrong with a policy
//! ```
//!
//! Objects are other people's input. Of each only what is needed is kept, under bounds ([`object`]); what exceeds them is
//! treated as unknown, never as trusted. [`Picture`] and [`Deriver`] are plain data: everything about the network is in
//! [`watch`](follow).
#![forbid(unsafe_code)]

mod cluster;
mod connect;
mod kind;
mod node;
pub mod object;
mod picture;
mod report;
mod unread;
mod watch;

pub use cluster::{Backend, Cluster, Deriver, Front, FrontPort, NodeAddress, Workload};
pub use connect::{ConnectError, connect};
pub use kind::Kind;
pub use node::Node;
pub use object::{ObjectName, PolicyText, Trim};
pub use picture::{Change, Picture};
pub use report::{Report, Reports, report};
pub use watch::{Connection, FollowSettings, Following, Trouble, follow};
