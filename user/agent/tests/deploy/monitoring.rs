//! Alerts and the dashboard ask for metrics and labels that the agent has.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    chart::everything,
    helm::{objects, only},
    kinds::{self, PodMonitor, PrometheusRule},
    text,
};

/// Labels that a scraper puts there: the operator those of the pod, our relabelling the node.
const OF_SCRAPERS: &[&str] = &["node", "pod", "namespace", "job", "instance", "le"];
/// What others say of agents, which cannot say that they are not there: the scraper, and kube-state-metrics. Each is about
/// everything in the cluster, but for the label that says whom it is asked of.
const OF_OTHERS: &[(&str, &str)] = &[("up", "job"), ("kube_daemonset_status_number_unavailable", "daemonset")];
/// Labels that come from the contexts that are configured.
const OF_CONTEXTS: &[&str] = &["source", "destination"];

/// Words of an expression, strings left out; a word before `{`, or that begins like one of ours, is a metric.
fn words(expression: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in expression.chars() {
        match c {
            '"' => quoted = !quoted,
            _ if quoted => {}
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '$' => words.last_mut().unwrap().push(c),
            _ => words.push(String::new()),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Labels between braces and behind `by`.
fn labels(expression: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (index, _) in expression.match_indices('{') {
        let inside = expression[index + 1..].split('}').next().unwrap();
        for matcher in inside.split("\",").filter(|matcher| !matcher.is_empty()) {
            let end = matcher.find(['=', '!']).unwrap_or_else(|| panic!("{matcher}"));
            found.insert(matcher[..end].trim_start_matches(',').trim().to_owned());
        }
    }
    for by in expression.split("by (").skip(1) {
        let inside = by.split(')').next().unwrap();
        found.extend(inside.split(',').map(|label| label.trim().to_owned()));
    }
    found
}

/// # Panics
/// The expression asks for what no agent has.
fn check(expression: &str) {
    let mut known: BTreeSet<&str> = OF_SCRAPERS.iter().chain(OF_CONTEXTS).copied().collect();
    let mut metrics = 0;
    for word in words(expression) {
        if let Some((name, whose)) = OF_OTHERS.iter().find(|(name, _)| *name == word) {
            let of_agents = [format!("{name}{{{whose}=\""), format!("{name}{{{whose}=~\"")];
            assert!(of_agents.iter().any(|asked| expression.contains(asked)), "{expression}");
            known.insert(*whose);
            metrics += 1;
        }
        if !word.starts_with("seventh_") && !word.starts_with("hubble_") {
            continue;
        }
        let of_word = |metric: &&seventh_metrics::Metric| {
            let base = match metric.kind {
                seventh_metrics::Kind::Histogram => {
                    let ends = ["_bucket", "_sum", "_count"];
                    ends.iter().find_map(|end| word.strip_suffix(end)).unwrap_or("")
                }
                _ => word.as_str(),
            };
            metric.name == base
        };
        let found: Vec<_> = seventh_metrics::all().filter(of_word).collect();
        assert!(!found.is_empty(), "no metric `{word}`: {expression}");
        known.extend(found.iter().flat_map(|metric| metric.labels));
        metrics += 1;
    }
    assert!(metrics > 0, "{expression}");
    for label in labels(expression) {
        assert!(known.contains(label.as_str()), "no label `{label}`: {expression}");
    }
}

#[test]
fn alerts_ask_for_what_there_is_and_say_what_to_do() {
    let all = objects(&everything());
    let rules: PrometheusRule = kinds::read(only(&all, "PrometheusRule"));
    assert_eq!(rules.api_version, "monitoring.coreos.com/v1");
    for alert in rules.spec.groups.iter().flat_map(|group| &group.rules) {
        check(&alert.expr);
        assert!(alert.alert.starts_with("Seventh"));
        assert!(["critical", "warning", "info"].contains(&alert.labels["severity"].as_str()));
        for text in [&alert.annotations["summary"], &alert.annotations["description"]] {
            let of_expression = labels(&alert.expr);
            for label in text.split("$labels.").skip(1) {
                let label = label.split([' ', '}']).next().unwrap();
                assert!(of_expression.contains(label), "{}: {label}", alert.alert);
            }
        }
    }
}

/// An agent that is not there cannot say so; and a policy that no node can use is one alert, not one for each node.
#[test]
fn absent_agents_and_broken_policies_are_told_of_once_by_names_of_this_release() {
    let values = serde_json::json!({"fullnameOverride": "l7", "metrics": {
        "podMonitor": {"enabled": true}, "prometheusRule": {"enabled": true}}});
    let all = objects(&values);
    let rules: PrometheusRule = kinds::read(only(&all, "PrometheusRule"));
    let alerts: Vec<_> = rules.spec.groups.iter().flat_map(|group| &group.rules).collect();
    let expression = |name: &str| {
        let alert = alerts.iter().find(|alert| alert.alert == name).unwrap();
        alert.expr.as_str()
    };
    let name = |kind: &str| only(&all, kind)["metadata"]["name"].as_str().unwrap().to_owned();
    let missing = expression("SeventhAgentMissing");
    assert!(
        missing.contains(&format!("{{daemonset=\"{}\"}}", name("DaemonSet"))),
        "{missing}"
    );
    // A PodMonitor's job is NAMESPACE/NAME, a Service's its name.
    let (monitor, service) = (name("PodMonitor"), name("Service"));
    let scraped = expression("SeventhAgentNotScraped");
    assert_eq!(service, format!("{monitor}-metrics"));
    assert!(
        scraped.contains(&format!("{{job=~\"(.+/)?{monitor}(-metrics)?\"}}")),
        "{scraped}"
    );
    assert!(labels(expression("SeventhPolicyNotCurrent")).contains("node"));
    assert!(expression("SeventhPolicyNotCurrent").starts_with("count("));
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    let dashboard: Value = serde_json::from_str(&text("helm/seventh/dashboards/seventh.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut asked = 0;
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()));
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            assert!(expression.contains("node=~\"$node\""), "{expression}");
            check(expression);
            asked += 1;
        }
    }
    assert!(asked > 15, "{asked}");
    let all = objects(&everything());
    let shipped = all
        .iter()
        .find_map(|(_, object)| object["data"]["seventh.json"].as_str());
    assert_eq!(serde_json::from_str::<Value>(shipped.unwrap()).unwrap(), dashboard);
}

#[test]
fn scrapers_find_the_pods_by_the_labels_that_they_have() {
    let all = objects(&everything());
    let monitor: PodMonitor = kinds::read(only(&all, "PodMonitor"));
    assert_eq!(monitor.api_version, "monitoring.coreos.com/v1");
    let labels = &only(&all, "DaemonSet")["spec"]["template"]["metadata"]["labels"];
    for (name, value) in monitor.spec.selector.match_labels.unwrap() {
        assert_eq!(labels[name], value);
    }
    let endpoint = &monitor.spec.pod_metrics_endpoints[0];
    assert_eq!(
        (endpoint.port.as_str(), endpoint.path.as_str()),
        ("metrics", "/metrics")
    );
    assert_eq!(endpoint.relabelings[0].target_label, "node");
}

#[test]
fn what_is_not_there_is_found() {
    let refused = |expression: &str| std::panic::catch_unwind(|| check(expression)).is_err();
    assert!(!refused(
        "sum by (node, reason) (rate(seventh_drops_total{reason=~\"a|b\", node!=\"c\"}[5m]))"
    ));
    assert!(refused("seventh_drops"));
    assert!(refused("seventh_drops_total{reasn=\"a\"}"));
    assert!(refused("sum by (path) (seventh_drops_total)"));
    assert!(
        refused("seventh_verdict_seconds"),
        "of a histogram only its parts are there"
    );
    assert!(refused("up") && refused("up{node=\"a\"} == 0"), "of everybody");
    assert!(!refused("up{job=\"seventh\"} == 0") && refused("up{job=\"seventh\", daemonset=\"a\"}"));
}
