//! What the agent tells of itself, as Hubble's agent events.

use std::time::SystemTime;

use seventh_flows::pb::flow::{
    AgentEvent, AgentEventType, EndpointRegenNotification, EndpointUpdateNotification, PolicyUpdateNotification,
    TimeNotification, agent_event::Notification,
};

use super::Observer;
use crate::publisher::Enforced;

impl Observer {
    /// The agent is ready.
    pub(crate) fn agent_started(&self, endpoints: &[Enforced]) {
        self.tell(AgentEvent {
            r#type: AgentEventType::AgentStarted.into(),
            notification: Some(Notification::AgentStart(TimeNotification {
                time: Some(SystemTime::now().into()),
            })),
        });
        for endpoint in endpoints {
            let (namespace, name) = endpoint
                .config
                .name
                .split_once('/')
                .unwrap_or(("", &endpoint.config.name));
            self.tell(AgentEvent {
                r#type: AgentEventType::EndpointCreated.into(),
                notification: Some(Notification::EndpointUpdate(EndpointUpdateNotification {
                    id: u64::from(endpoint.id),
                    labels: labels(endpoint),
                    error: String::new(),
                    pod_name: name.to_owned(),
                    namespace: namespace.to_owned(),
                })),
            });
        }
    }

    /// A change of policy is in force.
    pub(crate) fn policy_updated(&self, endpoints: &[Enforced], revision: u64, documents: usize) {
        self.tell(AgentEvent {
            r#type: AgentEventType::PolicyUpdated.into(),
            notification: Some(Notification::PolicyUpdate(PolicyUpdateNotification {
                labels: Vec::new(),
                revision,
                rule_count: i64::try_from(documents).unwrap_or(i64::MAX),
            })),
        });
        for endpoint in endpoints {
            self.tell(regenerated(AgentEventType::EndpointRegenerateSuccess, endpoint, ""));
        }
    }

    /// A change of policy is not in force.
    pub(crate) fn policy_failed(&self, endpoints: &[Enforced], reason: &str) {
        for endpoint in endpoints {
            self.tell(regenerated(AgentEventType::EndpointRegenerateFailure, endpoint, reason));
        }
    }
}

fn regenerated(kind: AgentEventType, endpoint: &Enforced, error: &str) -> AgentEvent {
    AgentEvent {
        r#type: kind.into(),
        notification: Some(Notification::EndpointRegenerate(EndpointRegenNotification {
            id: u64::from(endpoint.id),
            labels: labels(endpoint),
            error: error.to_owned(),
        })),
    }
}

fn labels(endpoint: &Enforced) -> Vec<String> {
    endpoint.config.labels.iter().map(ToString::to_string).collect()
}
