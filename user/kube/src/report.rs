//! Tells the API server what became of policies: in the status of those that have one, and as Events.
//!
//! Every node comes to the same verdict, and one of them is enough to write it: for each policy the nodes have an order of
//! their own, and each waits its turn. What has been written by then, which the watch shows, is not written again. One
//! verdict of one generation of a policy is written once: whoever writes something else after us has the last word.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tracing::{debug, warn};

use crate::object::PolicyText;

/// A node's turn comes so much after that of the node before it, but not later than the second.
const TURN: Duration = Duration::from_millis(500);
const TURNS_MAX: u32 = 60;
/// Pause between two writes: ten a second at most.
const BETWEEN_WRITES: Duration = Duration::from_millis(100);
/// How soon a write that failed is tried again: at first, and at last.
const AGAIN_MIN: Duration = Duration::from_secs(5);
const AGAIN_MAX: Duration = Duration::from_secs(300);
/// Bytes of a message at most.
const MESSAGE_MAX: usize = 1000;

/// The type of the condition.
const VALID: &str = "Valid";

/// What became of the policies.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reports {
    /// Names of the cluster's nodes.
    pub nodes: Vec<String>,
    /// What became of each policy; those of which this node cannot say yet are left out.
    pub policies: Vec<Report>,
    /// Why not everything that is valid is in force on this node.
    pub trouble: Option<String>,
}

/// What became of a policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The policy.
    pub policy: Arc<PolicyText>,
    /// Why it is not in force as written; `None`: it is.
    pub fault: Option<String>,
}

/// What was written, or need not be: of a policy by its UID, which generation and which fault; of the node, which trouble.
type Told = HashMap<String, (i64, Option<String>)>;
/// The node among UIDs of policies.
const OF_NODE: &str = "";

/// Reports whatever comes, until the sender is gone.
pub async fn report(client: Client, node: String, mut reports: watch::Receiver<Arc<Reports>>) {
    let mut told = Told::new();
    let mut due: HashMap<String, Instant> = HashMap::new();
    let mut again = AGAIN_MIN;
    loop {
        let now = Instant::now();
        let present = Arc::clone(&reports.borrow_and_update());
        plan(&present, &node, &mut told, &mut due, now);
        let next = due
            .iter()
            .min_by_key(|(_, at)| **at)
            .map(|(uid, at)| (uid.clone(), *at));
        let Some((uid, at)) = next else {
            if reports.changed().await.is_err() {
                return;
            }
            continue;
        };
        tokio::select! {
            changed = reports.changed() => {
                if changed.is_err() {
                    return;
                }
                continue;
            }
            () = sleep_until(at) => {}
        }
        let report = present.policies.iter().find(|report| report.policy.uid == uid);
        let (written, verdict) = if let Some(report) = report {
            (write(&client, &node, report).await, verdict(report))
        } else {
            let event = of_node(&node, present.trouble.as_deref(), &self::now());
            (create(&client, &event).await, (0, present.trouble.clone()))
        };
        match written {
            Ok(()) => {
                due.remove(&uid);
                told.insert(uid, verdict);
                again = AGAIN_MIN;
            }
            Err(e) => {
                let about = report.map_or_else(|| format!("node {node}"), |report| report.policy.name.to_string());
                warn!(about, error = %e, "the API server cannot be told; it is tried again");
                due.insert(uid, Instant::now() + again);
                again = (again * 2).min(AGAIN_MAX);
            }
        }
        sleep(BETWEEN_WRITES).await;
    }
}

fn verdict(report: &Report) -> (i64, Option<String>) {
    (report.policy.generation, report.fault.clone())
}

/// Decides what is to be written, and when: of policies in `reports`, and of the node that its trouble has begun or ended.
fn plan(reports: &Reports, node: &str, told: &mut Told, due: &mut HashMap<String, Instant>, now: Instant) {
    let policies = reports.policies.iter().map(|report| report.policy.uid.as_str());
    let known: HashSet<&str> = policies.chain([OF_NODE]).collect();
    let was_troubled = told.get(OF_NODE).is_some_and(|(_, trouble)| trouble.is_some());
    if was_troubled == reports.trouble.is_some() {
        due.remove(OF_NODE);
    } else {
        due.entry(OF_NODE.to_owned()).or_insert(now);
    }
    told.retain(|uid, _| known.contains(uid.as_str()));
    due.retain(|uid, _| known.contains(uid.as_str()));
    for report in &reports.policies {
        let uid = &report.policy.uid;
        let verdict = verdict(report);
        let is_told = told.get(uid) == Some(&verdict);
        if is_told || !is_news(report) {
            told.insert(uid.clone(), verdict);
            due.remove(uid);
            continue;
        }
        let turn = turn(&reports.nodes, node, uid);
        if !report.policy.kind.has_conditions() && turn > 0 {
            // Nothing shows whether another node has told of it, so only the first does.
            told.insert(uid.clone(), verdict);
            continue;
        }
        due.entry(uid.clone()).or_insert(now + TURN * turn.min(TURNS_MAX));
    }
}

/// Whether the API server does not know it yet. Where it has no place for that, only faults are told.
fn is_news(report: &Report) -> bool {
    if report.policy.kind.has_conditions() {
        conditions(report, "").is_some()
    } else {
        report.fault.is_some()
    }
}

/// A node's place in the order for this policy, from 0.
fn turn(nodes: &[String], node: &str, uid: &str) -> u32 {
    let place = |node: &str| {
        let mut hasher = DefaultHasher::new();
        (node, uid).hash(&mut hasher);
        hasher.finish()
    };
    let own = place(node);
    let before = nodes
        .iter()
        .filter(|other| other.as_str() != node && place(other) < own)
        .count();
    u32::try_from(before).unwrap_or(u32::MAX)
}

async fn write(client: &Client, node: &str, report: &Report) -> Result<(), kube::Error> {
    let policy = &report.policy;
    let now = now();
    if policy.kind.has_conditions() {
        let Some(conditions) = conditions(report, &now) else {
            return Ok(());
        };
        let resource = policy.kind.resource(policy.version);
        let api: Api<DynamicObject> = if policy.name.namespace.is_empty() {
            Api::all_with(client.clone(), &resource)
        } else {
            Api::namespaced_with(client.clone(), &policy.name.namespace, &resource)
        };
        let status = json!({"status": {"conditions": conditions}});
        let patched = api
            .patch_status(&policy.name.name, &PatchParams::default(), &Patch::Merge(status))
            .await;
        match patched {
            // It is gone meanwhile.
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            patched => drop(patched?),
        }
    }
    let was_invalid = said(policy).is_some_and(|(status, _)| status == "False");
    if report.fault.is_some() || was_invalid {
        create(client, &event(report, node, &now)).await?;
    }
    debug!(policy = %policy.name, valid = report.fault.is_none(), "told the API server");
    Ok(())
}

async fn create(client: &Client, event: &DynamicObject) -> Result<(), kube::Error> {
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    let events: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &event_resource());
    events.create(&PostParams::default(), event).await.map(drop)
}

fn event_resource() -> kube::api::ApiResource {
    kube::api::ApiResource::erase::<k8s_openapi::api::core::v1::Event>(&())
}

/// Status and message of the condition as it is.
fn said(policy: &PolicyText) -> Option<(&str, &str)> {
    let mut all = policy.conditions.iter();
    let condition = all.find(|condition| condition["type"] == VALID)?;
    Some((
        condition["status"].as_str().unwrap_or_default(),
        condition["message"].as_str().unwrap_or_default(),
    ))
}

/// The conditions as they should be; `None` if they are. Those of others stay as they are.
fn conditions(report: &Report, now: &str) -> Option<Vec<Value>> {
    let (status, reason, message) = match &report.fault {
        None => ("True", "Accepted", "in force".to_owned()),
        Some(fault) => ("False", "Rejected", bounded(fault)),
    };
    let before = said(&report.policy);
    // Who else has found it valid may say so in words of their own.
    let same = before.is_some_and(|(is, said)| is == status && (status == "True" || said == message));
    if same {
        return None;
    }
    let mut conditions = report.policy.conditions.clone();
    conditions.retain(|condition| condition["type"] != VALID);
    conditions.push(json!({
        "type": VALID, "status": status, "reason": reason, "message": message, "lastTransitionTime": now,
    }));
    Some(conditions)
}

fn event(report: &Report, node: &str, now: &str) -> DynamicObject {
    let policy = &report.policy;
    let resource = policy.kind.resource(policy.version);
    let (kind, reason, message) = match &report.fault {
        None => ("Normal", "PolicyAccepted", "in force as written".to_owned()),
        Some(fault) => ("Warning", "PolicyRejected", bounded(fault)),
    };
    let namespace = Some(policy.name.namespace.clone()).filter(|namespace| !namespace.is_empty());
    let involved = json!({
        "apiVersion": resource.api_version, "kind": resource.kind, "namespace": namespace,
        "name": policy.name.name, "uid": policy.uid,
    });
    event_about(&involved, namespace, (kind, reason, &message), node, now)
}

/// Begins or ends that not everything is in force on a node.
fn of_node(node: &str, trouble: Option<&str>, now: &str) -> DynamicObject {
    let (kind, reason, message) = match trouble {
        None => ("Normal", "PoliciesInForce", "every valid policy is in force".to_owned()),
        Some(trouble) => ("Warning", "PoliciesNotInForce", bounded(trouble)),
    };
    let involved = json!({"apiVersion": "v1", "kind": "Node", "name": node, "uid": node});
    event_about(&involved, None, (kind, reason, &message), node, now)
}

fn event_about(
    involved: &Value,
    namespace: Option<String>,
    (kind, reason, message): (&str, &str, &str),
    node: &str,
    now: &str,
) -> DynamicObject {
    let mut event = DynamicObject::new("", &event_resource());
    event.metadata.name = None;
    event.metadata.generate_name = Some("seventh-".to_owned());
    // Events of objects without a namespace belong into this one.
    event.metadata.namespace = Some(namespace.unwrap_or_else(|| "default".to_owned()));
    event.data = json!({
        "involvedObject": involved,
        "type": kind, "reason": reason, "message": message, "count": 1,
        "source": {"component": "seventh", "host": node},
        "firstTimestamp": now, "lastTimestamp": now,
    });
    event
}

/// A message that is not longer than it may be, cut where a character ends.
fn bounded(text: &str) -> String {
    let mut end = text.len().min(MESSAGE_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

/// In the form of RFC 3339, to the second.
fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, ObjectName};

    fn policy(kind: Kind, conditions: Vec<Value>) -> Arc<PolicyText> {
        Arc::new(PolicyText {
            kind,
            version: "v2",
            name: ObjectName::new("default", "p"),
            uid: "u".into(),
            generation: 1,
            text: "{}".into(),
            conditions,
        })
    }

    fn of(kind: Kind, conditions: Vec<Value>, fault: Option<&str>) -> Report {
        Report {
            policy: policy(kind, conditions),
            fault: fault.map(str::to_owned),
        }
    }

    fn valid(status: &str, message: &str) -> Value {
        json!({"type": "Valid", "status": status, "message": message})
    }

    const CNP: Kind = Kind::CiliumNetworkPolicy;

    #[test]
    fn only_what_is_not_known_is_written_and_conditions_of_others_stay() {
        assert!(conditions(&of(CNP, vec![valid("True", "somebody else's words")], None), "").is_none());
        assert!(conditions(&of(CNP, vec![valid("False", "x")], Some("x")), "").is_none());
        let other = json!({"type": "Other", "status": "True"});
        let written = conditions(&of(CNP, vec![other.clone(), valid("False", "x")], Some("y")), "now").unwrap();
        assert_eq!(written.len(), 2);
        assert_eq!((&written[0], &written[1]["message"]), (&other, &json!("y")));
        let mended = conditions(&of(CNP, vec![valid("False", "x")], None), "now").unwrap();
        assert_eq!(mended[0]["status"], "True");
    }

    #[test]
    fn each_node_has_another_turn_and_every_policy_another_order() {
        let nodes: Vec<String> = (0..50).map(|n| format!("node-{n}")).collect();
        let mut first = HashSet::new();
        for policy in 0..50 {
            let uid = format!("uid-{policy}");
            let mut turns: Vec<u32> = nodes.iter().map(|node| turn(&nodes, node, &uid)).collect();
            first.insert(turns.iter().position(|turn| *turn == 0).unwrap());
            turns.sort_unstable();
            assert_eq!(turns, (0..50).collect::<Vec<_>>());
        }
        assert!(first.len() > 20, "{}", first.len());
    }

    #[test]
    fn a_verdict_is_written_once_by_the_node_whose_turn_it_is() {
        let nodes = vec!["a".to_owned(), "b".to_owned()];
        let now = Instant::now();
        let turns = [turn(&nodes, "a", "u"), turn(&nodes, "b", "u")];
        assert!(turns == [0, 1] || turns == [1, 0]);
        let reports = Reports {
            nodes: nodes.clone(),
            policies: vec![of(CNP, Vec::new(), Some("x"))],
            trouble: None,
        };
        for (node, turn) in nodes.iter().zip(turns) {
            let (mut told, mut due) = (Told::new(), HashMap::new());
            plan(&reports, node, &mut told, &mut due, now);
            assert_eq!(due["u"], now + TURN * turn);
            // The other one was faster.
            let seen = Reports {
                policies: vec![of(CNP, vec![valid("False", "x")], Some("x"))],
                ..reports.clone()
            };
            plan(&seen, node, &mut told, &mut due, now);
            assert!(due.is_empty());
            // Somebody writes something else: that is theirs.
            plan(&reports, node, &mut told, &mut due, now);
            assert!(due.is_empty());
        }
    }

    #[test]
    fn where_there_is_no_status_only_faults_are_told_and_only_by_one() {
        let nodes = vec!["a".to_owned(), "b".to_owned()];
        let due_at = |fault| {
            let reports = Reports {
                nodes: nodes.clone(),
                policies: vec![of(Kind::NetworkPolicy, Vec::new(), fault)],
                trouble: None,
            };
            let all = nodes.iter().map(|node| {
                let (mut told, mut due) = (Told::new(), HashMap::new());
                plan(&reports, node, &mut told, &mut due, Instant::now());
                due.len()
            });
            all.sum::<usize>()
        };
        assert_eq!((due_at(None), due_at(Some("x"))), (0, 1));
    }

    #[test]
    fn of_the_node_is_told_what_was_not_told_of_it_before() {
        let (mut told, mut due) = (Told::new(), HashMap::new());
        let now = Instant::now();
        let mut is_due = |trouble: Option<&str>, told: &mut Told| {
            let reports = Reports {
                trouble: trouble.map(str::to_owned),
                ..Reports::default()
            };
            plan(&reports, "a", told, &mut due, now);
            due.contains_key(OF_NODE)
        };
        assert!(!is_due(None, &mut told));
        assert!(is_due(Some("x"), &mut told) && is_due(Some("y"), &mut told));
        // It was over before it could be told.
        assert!(!is_due(None, &mut told));
        assert!(is_due(Some("x"), &mut told));
        told.insert(OF_NODE.to_owned(), (0, Some("x".to_owned())));
        assert!(!is_due(Some("x"), &mut told) && !is_due(Some("y"), &mut told));
        assert!(is_due(None, &mut told));
    }

    #[test]
    fn a_message_is_cut_where_a_character_ends() {
        let cut = bounded(&"ä".repeat(MESSAGE_MAX));
        assert!(cut.len() <= MESSAGE_MAX && cut.chars().all(|c| c == 'ä'));
    }
}
