//! The gate on live traffic. Each test builds a node and endpoints in network namespaces of its own (`seventh::lab`),
//! starts servers and an agent in them, and looks at what the clients and the servers saw.
//!
//! These tests need root and BPF. Without, they fail, unless `SEVENTH_ALLOW_SKIP=1` says that they may be passed over;
//! each one that is says so with the count so far.
#![forbid(unsafe_code)]

#[expect(dead_code, reason = "each test uses a part of it")]
#[path = "../../../kube/tests/api_server/mod.rs"]
mod api_server;
mod attach;
mod audit;
mod bad_input;
mod bulk;
mod client;
mod cluster_nodes;
mod cluster_scale;
mod cni;
mod config;
mod crowd;
mod demo;
mod differential;
mod dns;
mod dns_answers;
mod faults;
mod flows;
mod http2;
mod hubble;
mod kubernetes;
mod lifecycle;
mod listings;
mod load;
mod loss;
mod metrics;
mod overload;
mod policies;
mod privileges;
mod probe;
mod replay;
mod requests;
mod restarts;
mod rules;
mod server;
mod soak;
mod stage;
mod tls;
