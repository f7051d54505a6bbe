//! Field numbers, byte by byte: a client that was built from Hubble's own files must read what we write.

use prost::Message;
use seventh_flows::descriptors;
use seventh_flows::pb::flow::*;
use seventh_flows::pb::observer::{GetFlowsResponse, get_flows_response::ResponseTypes};

/// A field of type 2 (length, bytes).
fn bytes(number: u32, inside: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut out);
    prost::encoding::encode_varint(inside.len() as u64, &mut out);
    out.extend_from_slice(inside);
    out
}

/// A field of type 0 (a number).
fn number(field: u32, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_key(field, prost::encoding::WireType::Varint, &mut out);
    prost::encoding::encode_varint(value, &mut out);
    out
}

/// A flow as Hubble writes it, field by field.
fn written() -> Vec<u8> {
    [
        number(2, 2),
        bytes(5, &[bytes(1, b"1.1.1.1"), bytes(2, b"2.2.2.2"), number(3, 1)].concat()),
        bytes(
            6,
            &bytes(
                1,
                &[number(1, 31793), number(2, 8080), bytes(3, &number(2, 1))].concat(),
            ),
        ),
        bytes(
            8,
            &[
                number(1, 7),
                number(2, 4),
                bytes(3, b"ns"),
                bytes(4, b"k8s:a=b"),
                bytes(5, b"pod"),
                bytes(6, &[bytes(1, b"w"), bytes(2, b"Pod")].concat()),
                bytes(7, b"c"),
            ]
            .concat(),
        ),
        number(10, 2),
        bytes(11, b"node"),
        bytes(13, b"name."),
        bytes(
            15,
            &[
                number(1, 2),
                number(2, 9),
                bytes(
                    101,
                    &[
                        number(1, 200),
                        bytes(2, b"GET"),
                        bytes(3, b"/"),
                        bytes(4, b"HTTP/1.1"),
                        bytes(5, &[bytes(1, b"k"), bytes(2, b"v")].concat()),
                    ]
                    .concat(),
                ),
            ]
            .concat(),
        ),
        bytes(19, &[number(1, 129), number(2, 3)].concat()),
        number(22, 1),
        number(23, 2),
        number(25, 133),
        bytes(26, &number(1, 1)),
        bytes(28, &[number(1, 5), bytes(2, b"eth0")].concat()),
        bytes(34, b"u"),
        bytes(100_000, b"s"),
        bytes(
            21_002,
            &[
                bytes(1, b"p"),
                bytes(2, b"ns"),
                bytes(3, b"l"),
                number(4, 6),
                bytes(5, b"K"),
            ]
            .concat(),
        ),
    ]
    .concat()
}

#[test]
fn a_flow_is_written_under_the_numbers_of_hubble() {
    let expected = written();
    let read = Flow::decode(expected.as_slice()).unwrap();
    assert_eq!(
        (read.verdict(), read.r#type(), read.drop_reason_desc()),
        (Verdict::Dropped, FlowType::L7, DropReason::PolicyDenied)
    );
    assert_eq!(
        (read.is_reply, read.traffic_direction(), read.policy_match_type),
        (Some(true), TrafficDirection::Ingress, 2)
    );
    let source = read.source.as_ref().unwrap();
    assert_eq!(
        (
            source.id,
            source.identity,
            source.pod_name.as_str(),
            source.cluster_name.as_str()
        ),
        (7, 4, "pod", "c")
    );
    assert_eq!(read.ingress_allowed_by[0].kind, "K");
    // Nothing was passed over: all of it is there again, in the order of the numbers.
    assert_eq!(read.encoded_len(), expected.len());
    assert_eq!(Flow::decode(read.encode_to_vec().as_slice()).unwrap(), read);
}

#[test]
fn a_response_holds_its_flow_under_one_and_its_node_under_a_thousand() {
    let response = GetFlowsResponse {
        response_types: Some(ResponseTypes::Flow(Flow {
            uuid: "u".into(),
            ..Flow::default()
        })),
        node_name: "n".into(),
        time: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
    };
    let expected = [
        bytes(1, &bytes(34, b"u")),
        bytes(1000, b"n"),
        bytes(1001, &number(1, 1)),
    ]
    .concat();
    assert_eq!(response.encode_to_vec(), expected);
}

/// Numbers of FLOWS.md's tables in one list each: whoever changes one breaks every client.
#[test]
fn no_number_of_hubbles_has_moved() {
    let numbers = |message: &str| {
        let message = descriptors().get_message_by_name(message).unwrap();
        message
            .fields()
            .map(|field| format!("{}={}", field.name(), field.number()))
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(
        numbers("flow.Flow"),
        "time=1 verdict=2 drop_reason=3 ethernet=4 IP=5 l4=6 source=8 destination=9 Type=10 node_name=11 source_names=13 \
         destination_names=14 l7=15 reply=16 event_type=19 source_service=20 destination_service=21 traffic_direction=22 \
         policy_match_type=23 trace_observation_point=24 drop_reason_desc=25 is_reply=26 debug_capture_point=27 \
         interface=28 proxy_port=29 trace_context=30 sock_xlate_point=31 socket_cookie=32 cgroup_id=33 uuid=34 auth_type=35 \
         trace_reason=36 node_labels=37 file=38 tunnel=39 ip_trace_id=40 emitter=41 egress_allowed_by=21001 \
         ingress_allowed_by=21002 egress_denied_by=21004 ingress_denied_by=21005 policy_log=21006 aggregate=21007 \
         Summary=100000 extensions=150000 decision=150007"
    );
    assert_eq!(
        numbers("flow.FlowFilter"),
        "source_ip=1 source_pod=2 destination_ip=3 destination_pod=4 verdict=5 event_type=6 source_fqdn=7 \
         destination_fqdn=8 http_status_code=9 source_label=10 destination_label=11 protocol=12 source_port=13 \
         destination_port=14 reply=15 source_service=16 destination_service=17 dns_query=18 source_identity=19 \
         destination_identity=20 http_method=21 http_path=22 tcp_flags=23 node_name=24 ip_version=25 source_workload=26 \
         destination_workload=27 trace_id=28 uuid=29 traffic_direction=30 http_url=31 http_header=32 drop_reason_desc=33 \
         source_ip_xlated=34 interface=35 node_labels=36 source_cluster_name=37 destination_cluster_name=38 \
         ip_trace_id=39 encrypted=40 experimental=999"
    );
    assert_eq!(
        numbers("flow.DNS"),
        "query=1 ips=2 ttl=3 cnames=4 observation_source=5 rcode=6 qtypes=7 rrtypes=8"
    );
    assert_eq!(numbers("flow.HTTP"), "code=1 method=2 url=3 protocol=4 headers=5");
    assert_eq!(
        numbers("flow.Layer7"),
        "type=1 latency_ns=2 dns=100 http=101 kafka=102 tls=150007"
    );
    assert_eq!(
        numbers("flow.LostEvent"),
        "source=1 num_events_lost=2 cpu=3 first=4 last=5"
    );
    for (message, expected) in OTHER_MESSAGES {
        assert_eq!(numbers(message), *expected, "{message}");
    }
    assert_eq!(
        numbers("observer.GetFlowsRequest"),
        "number=1 follow=3 blacklist=5 whitelist=6 since=7 until=8 first=9 field_mask=10 experimental=999 extensions=150000"
    );
}

/// The messages that clients meet beside flows.
const OTHER_MESSAGES: &[(&str, &str)] = &[
    (
        "flow.Endpoint",
        "ID=1 identity=2 namespace=3 labels=4 pod_name=5 workloads=6 cluster_name=7",
    ),
    ("flow.Workload", "name=1 kind=2"),
    ("flow.Policy", "name=1 namespace=2 labels=3 revision=4 kind=5"),
    (
        "flow.IP",
        "source=1 destination=2 ipVersion=3 encrypted=4 source_xlated=5",
    ),
    ("flow.Ethernet", "source=1 destination=2"),
    ("flow.TCP", "source_port=1 destination_port=2 flags=3"),
    ("flow.UDP", "source_port=1 destination_port=2"),
    ("flow.ICMPv4", "type=1 code=2"),
    ("flow.Layer4", "TCP=1 UDP=2 ICMPv4=3 ICMPv6=4 SCTP=5 VRRP=6 IGMP=7"),
    ("flow.CiliumEventType", "type=1 sub_type=2"),
    ("flow.Service", "name=1 namespace=2"),
    ("flow.HTTPHeader", "key=1 value=2"),
    (
        "observer.GetFlowsResponse",
        "flow=1 node_status=2 lost_events=3 node_name=1000 time=1001",
    ),
    (
        "observer.GetAgentEventsResponse",
        "agent_event=1 node_name=1000 time=1001",
    ),
    (
        "observer.ServerStatusResponse",
        "num_flows=1 max_flows=2 seen_flows=3 uptime_ns=4 num_connected_nodes=5 num_unavailable_nodes=6 \
         unavailable_nodes=7 version=8 flows_rate=9",
    ),
    (
        "observer.Node",
        "name=1 version=2 address=3 state=4 tls=5 uptime_ns=6 num_flows=7 max_flows=8 seen_flows=9",
    ),
    ("observer.GetNodesResponse", "nodes=1"),
    ("observer.TLS", "enabled=1 server_name=2"),
    ("observer.Namespace", "cluster=1 namespace=2"),
    ("observer.GetNamespacesResponse", "namespaces=1"),
    ("peer.ChangeNotification", "name=1 address=2 type=3 tls=4"),
    ("peer.TLS", "server_name=1"),
    ("relay.NodeStatusEvent", "state_change=1 node_names=2 message=3"),
];

#[test]
fn no_value_of_hubbles_enums_has_moved() {
    let values = |name: &str| {
        let described = descriptors().get_enum_by_name(name).unwrap();
        described
            .values()
            .map(|value| format!("{}={}", value.name(), value.number()))
            .collect::<Vec<_>>()
            .join(" ")
    };
    for (name, expected) in [
        (
            "flow.Verdict",
            "VERDICT_UNKNOWN=0 FORWARDED=1 DROPPED=2 ERROR=3 AUDIT=4 REDIRECTED=5 TRACED=6 TRANSLATED=7",
        ),
        ("flow.FlowType", "UNKNOWN_TYPE=0 L3_L4=1 L7=2 SOCK=3"),
        (
            "flow.TrafficDirection",
            "TRAFFIC_DIRECTION_UNKNOWN=0 INGRESS=1 EGRESS=2",
        ),
        ("flow.L7FlowType", "UNKNOWN_L7_TYPE=0 REQUEST=1 RESPONSE=2 SAMPLE=3"),
        ("flow.IPVersion", "IP_NOT_USED=0 IPv4=1 IPv6=2"),
        ("flow.AuthType", "DISABLED=0 SPIRE=1 TEST_ALWAYS_FAIL=2"),
        (
            "flow.LostEventSource",
            "UNKNOWN_LOST_EVENT_SOURCE=0 PERF_EVENT_RING_BUFFER=1 OBSERVER_EVENTS_QUEUE=2 HUBBLE_RING_BUFFER=3",
        ),
        (
            "peer.ChangeNotificationType",
            "UNKNOWN=0 PEER_ADDED=1 PEER_DELETED=2 PEER_UPDATED=3",
        ),
        (
            "relay.NodeState",
            "UNKNOWN_NODE_STATE=0 NODE_CONNECTED=1 NODE_UNAVAILABLE=2 NODE_GONE=3 NODE_ERROR=4",
        ),
    ] {
        assert_eq!(values(name), expected, "{name}");
    }
}
