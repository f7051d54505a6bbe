//! serverNames rules: one test per promise.

mod first_flight;
pub(crate) mod hello;
mod policy;
mod quic;
mod second_hello;

use crate::wire::{self, Shape};
use crate::world::{Connection, IFINDEX, Outcome, World};
use seventh_abi::Hook;

/// Port 443: names. 8443: names, but a rule without them beside.
pub(crate) const POLICY: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: names, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress:
  - toPorts:
    - ports: [{port: "443", protocol: ANY}]
      serverNames: ["a.example", "*.shop.example", "**.deep.example"]
  - toPorts:
    - ports: [{port: "8443", protocol: ANY}]
      serverNames: ["a.example"]
  - toPorts:
    - ports: [{port: "8443", protocol: ANY}]
"#;

pub(crate) fn world() -> World {
    let mut world = World::new();
    world.set_policy(POLICY);
    world
}

/// A connection of the endpoint to this port of another host.
pub(crate) fn connection(port: u16) -> Connection {
    let mut connection = Connection::new();
    connection.shape = Shape::new(2, 9, port);
    connection.meta = wire::punt(Hook::FromEndpoint, IFINDEX);
    connection.meta.base_seq = Some(connection.base);
    connection.meta.acked_seq = Some(connection.base);
    connection
}

/// The server sends `payload` at `offset` of its stream, having received `acked` bytes.
pub(crate) fn answer(
    world: &mut World,
    connection: &Connection,
    offset: u32,
    acked: usize,
    payload: impl AsRef<[u8]>,
) -> Outcome {
    let shape = Shape {
        source: connection.shape.destination,
        destination: connection.shape.source,
        source_port: connection.shape.destination_port,
        destination_port: connection.shape.source_port,
        ..connection.shape.clone()
    };
    let mut meta = connection.meta;
    // It is met where packets to the endpoint are.
    meta.hook = Hook::ToEndpoint;
    meta.reply = true;
    meta.acked_seq = Some(connection.seq(acked));
    let seq = 5000 + offset;
    world.decide(shape.frame(
        &meta,
        seq,
        connection.seq(acked),
        wire::ACK | wire::PSH,
        payload.as_ref(),
    ))
}
