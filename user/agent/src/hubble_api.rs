//! Hubble's services; their messages are `seventh_flows::pb`.

/// `proto/observer` of `seventh-flows`.
#[expect(
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::doc_markdown,
    clippy::too_many_lines,
    reason = "generated; the .proto file has the words"
)]
pub mod observer {
    tonic::include_proto!("observer");
}

/// `proto/peer` of `seventh-flows`.
#[expect(
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::doc_markdown,
    reason = "generated; the .proto file has the words"
)]
pub mod peer {
    tonic::include_proto!("peer");
}
