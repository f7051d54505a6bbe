//! Every case of Hubble's filters.

use serde_json::{Value, json};
use seventh_flows::filter::{FilterSet, LabelSelector, name_pattern};
use seventh_flows::json::{UnknownFields, from_json};
use seventh_flows::pb::flow::{Flow, FlowFilter};

use crate::table::{cases, from_go};

const TABLE: &str = include_str!("../data/filter_cases.json");
const CASES: usize = 264;

/// Cases about how the original does it, not about what it does, and cases that lost what they are about when they were
/// written as JSON. Each with the reason.
fn passed_over(case: &Value) -> Option<&'static str> {
    let test = case["test"].as_str().unwrap();
    let name = case["name"].as_str().unwrap_or_default();
    match (test, name) {
        // Filters are functions in the source; `filter::tests` says the same with filters.
        ("TestApply", _) => Some("functions"),
        // Its steps in between: selectors in the language of another library. `Test_parseSelector` has the results.
        ("Test_translateSelector", _) => Some("steps in between"),
        // Filters on the agent's own events, which are no flows and are not filtered here.
        ("TestEventTypeFilter", name) if name.starts_with("agent event") => Some("agent events"),
        // Whether the word of a sub-type matches is lost: the expected answer is about another kind of event.
        ("TestCELExpressionFilter", name) if !name.ends_with("expression") => Some("CEL is refused, see docs"),
        _ => None,
    }
}

fn filters(value: &Value) -> Result<Vec<FlowFilter>, String> {
    let list = value.as_array().cloned().unwrap_or_default();
    let read =
        |filter: &Value| from_json(&from_go(filter).to_string(), UnknownFields::Refuse).map_err(|e| e.to_string());
    list.iter().map(read).collect()
}

/// Flows of a case; some tests wrap theirs.
fn flows(case: &Value) -> Vec<Flow> {
    let events = case
        .get("events")
        .or_else(|| case.get("ev"))
        .cloned()
        .unwrap_or_default();
    let events = if events.is_object() {
        vec![events]
    } else {
        events.as_array().cloned().unwrap_or_default()
    };
    let unwrapped = |event: &Value| event.get("Event").cloned().unwrap_or_else(|| event.clone());
    // Lost and agent events have become empty, or flows with fields that flows do not have.
    let flow =
        |event: &Value| from_json(&from_go(&unwrapped(event)).to_string(), UnknownFields::PassOver).unwrap_or_default();
    events.iter().map(flow).collect()
}

/// What was seen and expected; the answers of events that are no flows are left out.
fn judged(case: &Value) -> Result<(), String> {
    let list = case.get("filters").or_else(|| case.get("f")).cloned();
    let list = match (list, case["argsf"].as_array(), case["nodeName"].as_array()) {
        (Some(list), _, _) => list,
        (_, Some(flags), _) => flags.iter().map(|flags| json!({"tcp_flags": [flags]})).collect(),
        (_, _, Some(names)) => json!([{"node_name": names}]),
        _ => json!([]),
    };
    let built = filters(&list).and_then(|allow| {
        // A workload filter with a fault excludes.
        let deny = if case["test"] == "TestWorkloadFilterExclude" {
            allow.clone()
        } else {
            Vec::new()
        };
        let allow = if deny.is_empty() { allow } else { Vec::new() };
        FilterSet::new(&allow, &deny).map_err(|e| e.to_string())
    });
    let set = match (built, case["wantErr"] == true) {
        (Err(e), true) => {
            let words = case["wantErrContains"].as_str().unwrap_or_default();
            return if e.contains(words) {
                Ok(())
            } else {
                Err(format!("{e}: it should tell `{words}`"))
            };
        }
        (Err(e), false) => return Err(e),
        (Ok(_), true) => return Err("the filter should have been refused".into()),
        (Ok(set), false) => set,
    };
    compare(case, &set)
}

fn compare(case: &Value, set: &FilterSet) -> Result<(), String> {
    let mut flows = flows(case);
    if let Some(flags) = case.get("argsev") {
        let text =
            json!({"l4": {"TCP": if flags.is_null() { json!({}) } else { json!({"flags": flags}) }}}).to_string();
        flows = vec![from_json(&text, UnknownFields::Refuse).unwrap()];
    }
    match &case["want"] {
        Value::Object(nodes) => {
            for (node_name, want) in nodes {
                let flow = Flow {
                    node_name: node_name.clone(),
                    ..Flow::default()
                };
                expect(node_name, set.matches(&flow), want)?;
            }
            Ok(())
        }
        Value::Array(wants) => {
            let pairs = flows.iter().zip(wants);
            pairs
                .enumerate()
                .filter(|(index, _)| !is_no_flow(case, *index))
                .try_for_each(|(index, (flow, want))| expect(&format!("event {index}"), set.matches(flow), want))
        }
        want => expect(
            "the event",
            set.matches(flows.first().unwrap_or(&Flow::default())),
            want,
        ),
    }
}

/// Events that are written as `{}` and match nevertheless are lost events, which pass every filter.
fn is_no_flow(case: &Value, index: usize) -> bool {
    case["test"] == "TestEventTypeFilter" && case["events"][index] == json!({}) && case["want"][index] == true
}

fn expect(what: &str, seen: bool, want: &Value) -> Result<(), String> {
    if want.as_bool() == Some(seen) {
        Ok(())
    } else {
        Err(format!("{what}: matched {seen}, expected {want}"))
    }
}

fn judge(case: &Value) -> Result<(), String> {
    if let Some(selector) = case["selector"].as_str() {
        return match (LabelSelector::parse(selector), case["want"].as_str()) {
            (Ok(read), Some(want)) if read.to_string() == want => Ok(()),
            (Err(_), None) => Ok(()),
            other => Err(format!("{other:?}")),
        };
    }
    if let Some(patterns) = case["fqdnPatterns"].as_array() {
        let made = name_pattern(patterns.iter().filter_map(Value::as_str));
        return match (made, case["want"].as_str(), case["wantErrContains"].as_str()) {
            (Ok(made), Some(want), _) if made == want => Ok(()),
            (Err(e), None, Some(words)) if e.contains(words) => Ok(()),
            other => Err(format!("{other:?}")),
        };
    }
    judged(case)
}

#[test]
fn every_case_of_hubbles_filters_has_hubbles_answer() {
    let cases = cases(TABLE);
    assert_eq!(cases.len(), CASES);
    let (mut passed, mut wrong) = (0, Vec::new());
    for case in cases.iter().filter(|case| passed_over(case).is_none()) {
        match judge(case) {
            Ok(()) => passed += 1,
            Err(e) => wrong.push(format!("{} / {}: {e}\n  {case}", case["test"], case["name"])),
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}\n{}",
        wrong.len(),
        passed + wrong.len(),
        wrong.join("\n")
    );
    assert_eq!(passed, 235);
}
