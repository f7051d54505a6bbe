//! What the .proto files say, for everything that goes by names and numbers instead of types.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let bytes = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
    // Written by the build script from what it compiled. Were it broken, every test would see it.
    DescriptorPool::decode(bytes.as_slice()).unwrap_or_default()
});

/// Descriptors of all messages and services of `proto/`.
#[must_use]
pub fn descriptors() -> &'static DescriptorPool {
    &POOL
}

/// A message that has a descriptor.
pub trait Described: Message + Default {
    /// Its full name.
    const NAME: &'static str;
}

macro_rules! described {
    ($($package:ident::$name:ident = $full:literal),+ $(,)?) => {
        $(impl Described for crate::pb::$package::$name {
            const NAME: &'static str = $full;
        })+
        #[cfg(test)]
        const ALL: &[&str] = &[$($full),+];
    };
}

described! {
    flow::Flow = "flow.Flow",
    flow::FlowFilter = "flow.FlowFilter",
    observer::GetFlowsRequest = "observer.GetFlowsRequest",
    observer::GetFlowsResponse = "observer.GetFlowsResponse",
    observer::GetAgentEventsResponse = "observer.GetAgentEventsResponse",
    observer::GetDebugEventsResponse = "observer.GetDebugEventsResponse",
    observer::ServerStatusResponse = "observer.ServerStatusResponse",
    observer::Node = "observer.Node",
    observer::Namespace = "observer.Namespace",
    observer::ExportEvent = "observer.ExportEvent",
    peer::ChangeNotification = "peer.ChangeNotification",
}

pub(crate) fn descriptor<M: Described>() -> Option<MessageDescriptor> {
    POOL.get_message_by_name(M::NAME)
}

/// The same message with its fields by number.
pub(crate) fn dynamic<M: Described>(message: &M) -> Option<DynamicMessage> {
    DynamicMessage::decode(descriptor::<M>()?, message.encode_to_vec().as_slice()).ok()
}

/// Back again.
pub(crate) fn typed<M: Described>(message: &DynamicMessage) -> Option<M> {
    M::decode(message.encode_to_vec().as_slice()).ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_described_message_is_in_the_proto_files() {
        for name in super::ALL {
            assert!(super::POOL.get_message_by_name(name).is_some(), "{name}");
        }
    }
}
