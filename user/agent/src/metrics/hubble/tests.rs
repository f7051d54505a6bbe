//! Configurations that others wrote, and flows against what must be counted of them.

use std::path::Path;

use prometheus_client::encoding::text::encode_registry;
use seventh_flows::{
    json::{UnknownFields, from_json},
    pb::flow::Flow,
};

use super::{PluginSpec, Plugins};
use crate::metrics::series::Overflow;

/// Cilium's own test files; their names say whether they are valid.
#[test]
fn files_of_others_are_taken_or_refused_as_their_names_say() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hubble/metrics-config");
    let mut seen = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let read = PluginSpec::parse_file(&std::fs::read_to_string(&path).unwrap());
        assert_eq!(read.is_ok(), name.starts_with("valid"), "{name}: {read:?}");
        seen += 1;
    }
    assert_eq!(seen, 8);
    let error = PluginSpec::parse_file("metrics: [{name: drop}, {name: }]").unwrap_err();
    assert!(error.contains("metrics[1]") && error.contains("name"), "{error}");
}

#[test]
fn what_cannot_be_counted_is_refused_with_its_reason() {
    let error = |text: &str| PluginSpec::parse_all(&[text.to_owned()]).unwrap_err().1;
    assert!(error("dsn").contains("there is no metric `dsn`"));
    assert!(error("drop:query").contains("no option `query`"));
    assert!(error("drop:sourceContext=").contains("no value"));
    assert!(error("drop:sourceContext=pod|podd").contains("`podd`"));
    assert!(error("drop:labelsContext=source_ip,source_ip").contains("twice"));
    assert!(error("dns:query;query").contains("twice"));
    assert!(error("dns:query=maybe").contains("true"));
    assert!(error("httpV2:exemplars=true").contains("not in this version"));
    let filter = "metrics: [{name: drop, includeFilters: [{source_pot: [a]}]}]";
    assert!(PluginSpec::parse_file(filter).unwrap_err().contains("source_pot"));
}

/// What a scrape shows after these flows, sorted, without the lines that describe.
fn counted(plugins: &[&str], flows: &[&str]) -> Vec<String> {
    let texts: Vec<String> = plugins.iter().map(|text| (*text).to_owned()).collect();
    let specs = PluginSpec::parse_all(&texts).unwrap();
    let mut plugins = Plugins::new(100, Overflow::default());
    let registries = plugins.set(&specs);
    for text in flows {
        let flow: Flow = from_json(text, UnknownFields::Refuse).unwrap();
        plugins.count(&flow);
    }
    let mut text = String::new();
    for registry in registries {
        encode_registry(&mut text, &registry).unwrap();
    }
    let mut lines: Vec<String> = text
        .lines()
        .filter(|l| !l.starts_with('#'))
        .map(str::to_owned)
        .collect();
    lines.sort();
    lines
}

const REQUEST: &str = r#"{"verdict":"FORWARDED","traffic_direction":"INGRESS","is_reply":false,"event_type":{"type":129},
    "IP":{"source":"10.0.0.1","destination":"10.0.0.2"},
    "source":{"namespace":"shop","pod_name":"front-1","labels":["k8s:app=front"],"workloads":[{"name":"front","kind":"Deployment"}]},
    "destination":{"namespace":"shop","pod_name":"back-1"},
    "l7":{"type":"REQUEST","http":{"method":"GET","url":"http://b/x","protocol":"HTTP/1.1"}}}"#;
const ANSWER: &str = r#"{"verdict":"FORWARDED","traffic_direction":"INGRESS","is_reply":true,"event_type":{"type":129},
    "IP":{"source":"10.0.0.2","destination":"10.0.0.1"},
    "source":{"namespace":"shop","pod_name":"back-1"},
    "destination":{"namespace":"shop","pod_name":"front-1","workloads":[{"name":"front","kind":"Deployment"}]},
    "l7":{"type":"RESPONSE","latency_ns":"3000000","http":{"method":"GET","code":200,"url":"http://b/x","protocol":"HTTP/1.1"}}}"#;
const VERDICT: &str = r#"{"verdict":"DROPPED","drop_reason_desc":"POLICY_DENIED","traffic_direction":"EGRESS","is_reply":false,
    "event_type":{"type":5},"policy_match_type":0,"source":{"labels":["reserved:host"]},
    "destination":{"labels":["reserved:world-ipv4","reserved:world"]},"destination_names":["a.example","b.example"],
    "IP":{"source":"10.0.0.1","destination":"192.0.2.1","ipVersion":"IPv4"},
    "l4":{"TCP":{"source_port":4000,"destination_port":443,"flags":{"SYN":true}}}}"#;

/// The same drop, told a second time.
fn drop_of(verdict: &str) -> String {
    verdict.replace(r#""type":5"#, r#""type":1,"sub_type":133"#)
}

#[test]
fn a_request_is_counted_under_the_names_of_the_one_who_asked() {
    let labels = "labelsContext=source_pod,source_workload_kind,source_app,destination_pod,traffic_direction";
    let lines = counted(&[&format!("httpV2:{labels}")], &[REQUEST, ANSWER]);
    let expected = "hubble_http_requests_total{method=\"GET\",protocol=\"HTTP/1.1\",status=\"200\",reporter=\"server\",\
         source_pod=\"front-1\",source_workload_kind=\"Deployment\",source_app=\"\",destination_pod=\"back-1\",\
         traffic_direction=\"ingress\"} 1";
    assert!(lines.contains(&expected.to_owned()), "{lines:#?}");
    let sum = lines
        .iter()
        .find(|l| l.starts_with("hubble_http_request_duration_seconds_sum"))
        .unwrap();
    assert!(sum.ends_with(" 0.003"), "{sum}");
    let old = counted(&["http:sourceContext=pod"], &[REQUEST, ANSWER]);
    for expected in [
        "hubble_http_requests_total{method=\"GET\",protocol=\"HTTP/1.1\",reporter=\"server\",source=\"shop/front-1\"} 1",
        "hubble_http_responses_total{method=\"GET\",status=\"200\",reporter=\"server\",source=\"shop/front-1\"} 1",
    ] {
        assert!(old.contains(&expected.to_owned()), "{old:#?}");
    }
}

#[test]
fn a_refused_flow_is_one_drop_though_it_is_told_twice() {
    let context = "sourceContext=pod|reserved-identity;destinationEgressContext=dns;destinationIngressContext=ip";
    let plugins = [
        format!("drop:{context}"),
        "policy".to_owned(),
        "flows-to-world:port;syn-only".to_owned(),
        "flow".to_owned(),
        "port-distribution".to_owned(),
    ];
    let plugins: Vec<&str> = plugins.iter().map(String::as_str).collect();
    let lines = counted(&plugins, &[VERDICT, &drop_of(VERDICT)]);
    assert_eq!(
        lines,
        [
            "hubble_drop_total{reason=\"Policy denied\",protocol=\"TCP\",source=\"reserved:host\",\
             destination=\"a.example,b.example\"} 1",
            "hubble_flows_processed_total{type=\"Drop\",subtype=\"\",verdict=\"DROPPED\"} 1",
            "hubble_flows_processed_total{type=\"PolicyVerdict\",subtype=\"\",verdict=\"DROPPED\"} 1",
            "hubble_flows_to_world_total{protocol=\"TCP\",verdict=\"DROPPED\",port=\"443\"} 1",
            "hubble_policy_verdicts_total{direction=\"egress\",match=\"none\",action=\"dropped\"} 1",
        ]
    );
}

#[test]
fn names_flags_ports_and_messages_are_counted() {
    let passed = VERDICT
        .replace("DROPPED", "FORWARDED")
        .replace(r#""drop_reason_desc":"POLICY_DENIED","#, "");
    let answer = passed
        .replace(r#""is_reply":false"#, r#""is_reply":true"#)
        .replace(r#""SYN":true"#, r#""SYN":true,"ACK":true"#);
    let icmp = r#"{"verdict":"FORWARDED","l4":{"ICMPv6":{"type":128}}}"#;
    let dns = |kind: &str, more: &str| {
        format!(
            r#"{{"verdict":"FORWARDED","event_type":{{"type":129}},"l7":{{"type":"{kind}","dns":{{"query":"a.example.","qtypes":["A"]{more}}}}}}}"#
        )
    };
    let asked = dns("REQUEST", "");
    let told = dns(
        "RESPONSE",
        r#","rcode":3,"ips":["192.0.2.1","192.0.2.2"],"rrtypes":["A","A"]"#,
    );
    let ignored = asked.replace(r#"["A"]"#, r#"["AAAA"]"#);
    let flows = [&passed, &answer, icmp, &asked, &told, &ignored];
    let lines = counted(
        &["tcp", "port-distribution", "icmp", "dns:query;ignoreAAAA=true"],
        &flows,
    );
    assert_eq!(
        lines,
        [
            "hubble_dns_queries_total{rcode=\"\",qtypes=\"A\",ips_returned=\"0\",query=\"a.example.\"} 1",
            "hubble_dns_response_types_total{type=\"A\",qtypes=\"A\",query=\"a.example.\"} 2",
            "hubble_dns_responses_total{rcode=\"Non-Existent Domain\",qtypes=\"A\",ips_returned=\"2\",\
             query=\"a.example.\"} 1",
            "hubble_icmp_total{family=\"IPv6\",type=\"EchoRequest\"} 1",
            "hubble_port_distribution_total{protocol=\"TCP\",port=\"443\"} 1",
            "hubble_tcp_flags_total{flag=\"SYN\",family=\"IPv4\"} 1",
            "hubble_tcp_flags_total{flag=\"SYN-ACK\",family=\"IPv4\"} 1",
        ]
    );
}

#[test]
fn a_change_of_the_file_keeps_the_numbers_of_what_stays() {
    let mut plugins = Plugins::new(100, Overflow::default());
    let file = |text: &str| PluginSpec::parse_file(text).unwrap();
    plugins.set(&file("metrics: [{name: flow}, {name: icmp}]"));
    let flow: Flow = from_json(VERDICT, UnknownFields::Refuse).unwrap();
    plugins.count(&flow);
    let filtered = "{name: policy, includeFilters: [{source_pod: [nobody/]}]}";
    let registries = plugins.set(&file(&format!("metrics: [{filtered}, {{name: flow}}]")));
    plugins.count(&flow);
    let mut text = String::new();
    for registry in registries {
        encode_registry(&mut text, &registry).unwrap();
    }
    assert!(text.contains("verdict=\"DROPPED\"} 2\n"), "{text}");
    assert!(
        !text.contains("hubble_policy_verdicts_total{") && !text.contains("icmp"),
        "{text}"
    );
}
