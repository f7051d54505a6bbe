//! Cilium's own table of what answers teach (see tests/data/ORIGIN.md), case by case.

use std::net::IpAddr;

use serde_json::Value;
use seventh_abi::{Addr, DropReason};

use super::message::{A, answer, cname, header, query, record};
use super::node::{Became, Node, SECOND, SHOP};

const TABLE: &str = include_str!("../../data/extract_msg_details_cases.json");
const AAAA: u16 = 28;
const POLICY: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: shop, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress:
  - toCIDR: [10.0.0.53/32]
    toPorts: [{ports: [{port: "53", protocol: ANY}], rules: {dns: [{matchPattern: "*"}]}}]
  - toFQDNs: [{matchPattern: "*"}]
    toPorts: [{ports: [{port: "443", protocol: TCP}]}]
"#;

/// The case on which we differ, by the owner of its first record: a chain that does not begin at the question belongs to
/// another name, and whoever sends it could open any address under any name.
const TEACHES_NOTHING: &str = "cilium.io. 600 CNAME";

/// `name ttl TYPE data` as a record, and its address if it holds one.
fn read(text: &str) -> (Vec<u8>, Option<Addr>) {
    let parts: Vec<&str> = text.split(' ').collect();
    let [owner, ttl_s, kind, data] = parts.as_slice() else {
        panic!("{text}")
    };
    let ttl_s = ttl_s.parse().unwrap();
    match (*kind, data.parse()) {
        ("CNAME", _) => (cname(owner, data, ttl_s), None),
        ("A", Ok(IpAddr::V4(v4))) => (
            record(owner, A, ttl_s, &v4.octets()),
            Some(v4.to_ipv6_mapped().octets()),
        ),
        ("AAAA", Ok(IpAddr::V6(v6))) => (record(owner, AAAA, ttl_s, &v6.octets()), Some(v6.octets())),
        _ => panic!("{text}"),
    }
}

#[test]
fn answers_teach_what_they_teach_in_cilium() {
    let table: Value = serde_json::from_str(TABLE).unwrap();
    let cases = table["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 6);
    for case in cases {
        let mut node = Node::new();
        node.set_policy(POLICY, false);
        let texts: Vec<&str> = case["answers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|text| text.as_str().unwrap())
            .collect();
        let (records, addresses): (Vec<_>, Vec<_>) = texts.iter().map(|text| read(text)).unzip();
        let Some(asked) = case["question"].as_str() else {
            // Nobody was asked anything.
            assert_eq!(case["expect"]["error"], true);
            assert_eq!(node.ask(SHOP, 1000, &query(7, "cilium.io", A)), Became::Passed);
            assert_eq!(node.reply(SHOP, 1000, &header(7, 0x8180, [0; 4])), Became::Nothing);
            assert_eq!(node.reason(DropReason::DnsUnsolicitedAnswer), 1);
            continue;
        };
        let kind = if texts.iter().any(|text| text.contains(" AAAA ")) {
            AAAA
        } else {
            A
        };
        assert_eq!(node.ask(SHOP, 1000, &query(7, asked, kind)), Became::Passed);
        assert_eq!(
            node.reply(SHOP, 1000, &answer(7, asked, kind, &records)),
            Became::Passed
        );
        let learned = node.shared.names().list();
        if texts.iter().any(|text| text.starts_with(TEACHES_NOTHING)) {
            assert!(learned.is_empty(), "{learned:?}");
            continue;
        }
        // An address is open for as long as each record on the way to it holds: the first of them that ends is the time of
        // the whole answer in the table.
        let of_asked = learned.iter().filter(|l| l.name == asked);
        let first_end = of_asked.map(|l| l.expires_ns).min().unwrap();
        assert_eq!(
            first_end,
            node.now_ns + case["expect"]["ttl"].as_u64().unwrap() * SECOND,
            "{case}"
        );
        let mut aliases: Vec<&str> = learned
            .iter()
            .map(|l| l.name.as_str())
            .filter(|name| *name != asked)
            .collect();
        aliases.sort_unstable();
        aliases.dedup();
        let wanted = case["expect"]["cnames"].as_array().into_iter().flatten();
        assert_eq!(
            aliases,
            wanted.map(|name| name.as_str().unwrap()).collect::<Vec<_>>(),
            "{case}"
        );
        for address in addresses.into_iter().flatten() {
            assert!(node.open(address), "{case}");
        }
    }
}
