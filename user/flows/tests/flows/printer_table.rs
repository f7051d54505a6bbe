//! Every case of the printer's table, letter by letter.

use serde_json::{Value, json};
use seventh_flows::json::{UnknownFields, from_json};
use seventh_flows::pb::flow::{AgentEvent, DebugEvent, Flow, Policy};
use seventh_flows::pb::observer::{
    ExportEvent, GetDebugEventsResponse, GetFlowsResponse, ServerStatusResponse, export_event,
    get_flows_response::ResponseTypes,
};
use seventh_flows::print::{Options, Output, Printer, agent_event_details, flow_type, policy_names};
use seventh_flows::timestamp::TimeFormat;

use crate::table::{cases, from_go, merged};

const TABLE: &str = include_str!("../data/printer_cases.json");
const CASES: usize = 53;

fn flow(value: &Value) -> Flow {
    from_json(&from_go(value).to_string(), UnknownFields::Refuse).unwrap()
}

/// An exported event holds every kind of message that the table has.
fn inside(kind: &str, value: &Value) -> export_event::ResponseTypes {
    let text = json!({kind: from_go(value)}).to_string();
    from_json::<ExportEvent>(&text, UnknownFields::Refuse)
        .unwrap()
        .response_types
        .unwrap()
}

fn printer(case: &Value) -> Printer {
    let has = |option: &str| {
        case["options"]
            .as_array()
            .is_some_and(|list| list.iter().any(|o| o == option))
    };
    let output = match () {
        () if has("output=compact") => Output::Compact,
        () if has("output=dict") => Output::Dict,
        () if has("output=jsonpb") => Output::Json,
        () => Output::Tab,
    };
    Printer::new(Options {
        output,
        color: has("Color=always"),
        node_name: has("print-node-name"),
        policy_names: has("print-policy-names"),
        ..Options::default()
    })
}

fn print_flow(case: &Value) -> String {
    let mut printer = printer(case);
    let flow = flow(&merged(&case["args"]["f"], &case["args"]["merge"]));
    let response = GetFlowsResponse {
        response_types: Some(ResponseTypes::Flow(flow)),
        ..GetFlowsResponse::default()
    };
    printer.record(&response) + &printer.finish()
}

fn print_debug_event(case: &Value) -> String {
    let args = &case["args"];
    let export_event::ResponseTypes::DebugEvent(event) = inside("debug_event", &args["dbg"]) else {
        panic!()
    };
    let response = GetDebugEventsResponse {
        debug_event: Some::<DebugEvent>(event),
        node_name: args["node"].as_str().unwrap().into(),
        time: Some(from_go(&args["ts"]).as_str().unwrap().parse().unwrap()),
    };
    let mut printer = printer(case);
    printer.debug_event(&response) + &printer.finish()
}

fn print_response(case: &Value) -> String {
    let text = from_go(&case["args"][0]).to_string();
    let mut printer = printer(case);
    if case["test"] == "TestPrinter_WriteServerStatusResponse" {
        return printer.server_status(&from_json::<ServerStatusResponse>(&text, UnknownFields::Refuse).unwrap());
    }
    printer.record(&from_json(&text, UnknownFields::Refuse).unwrap()) + &printer.finish()
}

/// Source and destination as a record of keys shows them.
fn host_names(case: &Value) -> Value {
    let options = Options {
        output: Output::Dict,
        ..Options::default()
    };
    let response = GetFlowsResponse {
        response_types: Some(ResponseTypes::Flow(flow(&case["args"]["f"]))),
        ..GetFlowsResponse::default()
    };
    let text = Printer::new(options).record(&response);
    let line = |key: &str| {
        text.lines()
            .find_map(|line| line.trim_start().strip_prefix(key))
            .unwrap()
            .trim()
            .to_owned()
    };
    match (line("SOURCE:"), line("DESTINATION:")) {
        (src, dst) if src.is_empty() && dst.is_empty() => json!({}),
        (src, dst) => json!({"src": src, "dst": dst}),
    }
}

fn agent_event(case: &Value) -> String {
    let export_event::ResponseTypes::AgentEvent(event) = inside("agent_event", &case["ev"]) else {
        panic!()
    };
    agent_event_details(&event as &AgentEvent, TimeFormat::StampMilli)
}

fn time_stamp(case: &Value) -> String {
    let part = |name: &str| case["args"]["t"][name].as_i64().unwrap();
    let time = prost_types::Timestamp {
        seconds: part("Seconds"),
        nanos: i32::try_from(part("Nanos")).unwrap(),
    };
    seventh_flows::timestamp::format(Some(&time), TimeFormat::StampMilli)
}

fn named_policies(case: &Value) -> String {
    let text = json!({"ingress_denied_by": case["policies"]}).to_string();
    let policies: Vec<Policy> = from_json::<Flow>(&text, UnknownFields::Refuse)
        .unwrap()
        .ingress_denied_by;
    policy_names(&policies)
}

#[test]
fn every_case_of_hubbles_printer_is_printed_as_hubble_does() {
    let cases = cases(TABLE);
    assert_eq!(cases.len(), CASES);
    let mut wrong = Vec::new();
    for case in &cases {
        let (test, name) = (case["test"].as_str().unwrap(), case["name"].as_str().unwrap());
        let printed: Value = match test {
            "TestPrinter_WriteProtoFlow" => print_flow(case).into(),
            "TestPrinter_WriteProtoDebugEvent" => print_debug_event(case).into(),
            "TestPrinter_WriteServerStatusResponse" | "TestPrinter_WriteLostEventsResponse" => {
                print_response(case).into()
            }
            "Test_getHostNames" => host_names(case),
            // The Go value names the record's type only by being of it; written as JSON it is a record without one.
            "Test_getFlowType" if name == "Kafka" => continue,
            "Test_getFlowType" => flow_type(&flow(&case["args"]["f"])).into(),
            "TestPrinter_AgentEventDetails" => agent_event(case).into(),
            "Test_fmtTimestamp" => time_stamp(case).into(),
            "TestFormatPolicyNames" => named_policies(case).into(),
            other => panic!("no such test: {other}"),
        };
        let expected = case.get("expected").or_else(|| case.get("want")).unwrap();
        // Only policy names begin with a space that counts; the table's texts begin and end with lines of the test.
        let trimmed = |value: &Value| match value.as_str() {
            Some(text) if test != "TestFormatPolicyNames" => Value::from(text.trim_matches('\n').trim_end()),
            _ => value.clone(),
        };
        if trimmed(&printed) != trimmed(expected) {
            wrong.push(format!("{test} / {name}\n  printed  {printed}\n  expected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn whatever_a_record_holds_no_text_form_lets_a_command_through() {
    let hostile = format!("\u{1b}]0;x\u{7}\u{9b}2J\r\n{}\u{202e}", "A".repeat(64 << 10));
    let record = json!({"flow": {
        "verdict": "DROPPED", "node_name": hostile, "IP": {"source": hostile, "destination": "::1"}, "Type": "L7",
        "source": {"pod_name": hostile, "namespace": hostile}, "destination_names": [hostile],
        "l4": {"TCP": {"source_port": 1, "destination_port": 2}}, "traffic_direction": "INGRESS",
        "l7": {"type": "REQUEST", "http": {"method": "GET", "url": hostile, "protocol": "HTTP/1.1"}},
        "ingress_denied_by": [{"name": hostile, "kind": hostile}], "decision": {"reason": hostile},
    }, "node_name": hostile});
    let response: GetFlowsResponse = from_json(&record.to_string(), UnknownFields::Refuse).unwrap();
    for output in [Output::Compact, Output::Dict, Output::Tab, Output::Json] {
        let options = Options {
            output,
            node_name: true,
            policy_names: true,
            ..Options::default()
        };
        let mut printer = Printer::new(options);
        let text = printer.record(&response) + &printer.finish();
        assert!(text.len() > 64 << 10, "{output:?} lost the path");
        let lines = text.lines().count();
        assert!(
            matches!(
                (output, lines),
                (Output::Compact | Output::Json, 1) | (Output::Tab, 2) | (Output::Dict, 7)
            ),
            "{output:?}: {lines} lines"
        );
        assert!(
            !text
                .chars()
                .any(|c| c != '\n' && seventh_flows::safe_text::is_hostile(c)),
            "{output:?}"
        );
    }
}
