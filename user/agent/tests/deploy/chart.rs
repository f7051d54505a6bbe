//! The chart: what Helm makes of it, and what it refuses.

use k8s_openapi::api::apps::v1::DaemonSet;
use serde_json::{Value, json};

use super::{
    documents,
    helm::{ask, objects, only},
    kinds, text,
};

/// Everything that can be turned on.
pub(crate) fn everything() -> Value {
    json!({
        "labels": {"team": "net"},
        "annotations": {"a": "b"},
        "imagePullSecrets": [{"name": "registry"}],
        "image": {"digest": format!("sha256:{}", "0".repeat(64))},
        "config": {"workers": 2, "onAgentDown": "open", "hubble": {"redact": {"enabled": false}}},
        "audit": true,
        "env": [{"name": "SEVENTH_ENFORCEMENT", "value": "always"}],
        "metrics": {
            "address": "::",
            "podMonitor": {"enabled": true},
            "prometheusRule": {"enabled": true, "labels": {"release": "p"}},
            "dashboard": {"enabled": true},
        },
        "hubble": {"enabled": true, "tls": {"secret": "hubble"}},
        "cni": {"action": "install"},
        "serviceAccount": {"name": "other", "annotations": {"c": "d"}},
        "podLabels": {"e": "f"},
        "podAnnotations": {"g": "h"},
        "affinity": {"nodeAffinity": {}},
        "securityContext": {"seccomp": "Localhost", "seLinuxOptions": {"type": "spc_t"}},
        "networkPolicy": {"enabled": true, "from": [{"namespaceSelector": {}}], "apiServerPorts": [443, 16443]},
    })
}

fn sets() -> [Value; 4] {
    let little = json!({
        "metrics": {"address": "127.0.0.1", "hubble": [], "service": {"enabled": false}},
        "keepEnforcing": false, "priorityClassName": "", "resources": {}, "tolerations": [], "nodeSelector": {},
        "serviceAccount": {"create": false}, "rbac": {"create": false},
    });
    [json!({}), everything(), little, json!({"cni": {"action": "remove"}})]
}

#[test]
fn whatever_is_chosen_kubernetes_knows_every_field_of_it() {
    for values in sets() {
        let all = objects(&values);
        for (template, object) in &all {
            kinds::check(object);
            let cluster = ["ClusterRole", "ClusterRoleBinding"].contains(&object["kind"].as_str().unwrap());
            assert_eq!(object["metadata"]["namespace"].is_null(), cluster, "{template}");
        }
        let daemon_set: DaemonSet = kinds::read(only(&all, "DaemonSet"));
        let pod = daemon_set.spec.template.spec.unwrap();
        for container in pod.containers.iter().chain(pod.init_containers.iter().flatten()) {
            let context = container.security_context.as_ref().unwrap();
            let capabilities = context.capabilities.as_ref().unwrap();
            assert_eq!(capabilities.drop.as_deref(), Some(&["ALL".to_owned()][..]));
            // The API server refuses it.
            let added = capabilities.add.iter().flatten();
            let admin = added.clone().any(|capability| capability == "SYS_ADMIN");
            assert!(!(admin && context.allow_privilege_escalation == Some(false)));
            assert_eq!(
                (context.privileged, context.read_only_root_filesystem),
                (Some(false), Some(true))
            );
            let volumes: Vec<&str> = pod
                .volumes
                .iter()
                .flatten()
                .map(|volume| volume.name.as_str())
                .collect();
            for mount in container.volume_mounts.iter().flatten() {
                assert!(volumes.contains(&mount.name.as_str()), "{}", mount.name);
            }
        }
    }
}

#[test]
fn what_a_node_s_own_rules_need_is_where_they_look() {
    let all = objects(&everything());
    let daemon_set: DaemonSet = kinds::read(only(&all, "DaemonSet"));
    // That of a pod holds for all its containers.
    let context = daemon_set.spec.template.spec.unwrap().security_context.unwrap();
    assert_eq!(context.se_linux_options.unwrap().type_.as_deref(), Some("spc_t"));
    let egress = &only(&all, "NetworkPolicy")["spec"]["egress"][0]["ports"];
    let ports: Vec<_> = egress
        .as_array()
        .unwrap()
        .iter()
        .map(|port| port["port"].as_i64())
        .collect();
    assert_eq!(ports, [Some(443), Some(16443)]);
    let daemon_set = objects(&json!({}));
    assert!(only(&daemon_set, "DaemonSet")["spec"]["template"]["spec"]["securityContext"]["seLinuxOptions"].is_null());
}

#[test]
fn helm_s_own_check_finds_nothing() {
    for values in sets() {
        let report = ask(&["lint"], &values).unwrap();
        assert_eq!(report["errors"], json!([]), "{report}");
        let messages = report["messages"].as_array().unwrap();
        // An icon is a matter of taste.
        let others: Vec<&Value> = messages
            .iter()
            .filter(|m| m["error"] != "icon is recommended")
            .collect();
        assert!(others.is_empty(), "{others:?}");
    }
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_made() {
    for (values, reason) in [
        (json!({"hubbel": {}}), "hubbel"),
        (json!({"cni": {"onTimeout": "wait"}}), "onTimeout"),
        (json!({"cni": {"timeoutSeconds": 121}}), "timeoutSeconds"),
        (json!({"metrics": {"port": 0}}), "port"),
        (json!({"hubble": {"eventBufferCapacity": 4096}}), "eventBufferCapacity"),
        (json!({"config": {"api": "/elsewhere"}}), "api"),
        (json!({"config": {"hubble": {"listen": "0.0.0.0:1"}}}), "listen"),
        (json!({"config": {"kubernetes": {"netnsDirs": ["/x"]}}}), "netnsDirs"),
        (json!({"hubble": {"enabled": true}}), "mutual TLS"),
        (json!({"image": {"digest": "sha256:1"}}), "digest"),
        (json!({"networkPolicy": {"apiServerPorts": []}}), "apiServerPorts"),
        (
            json!({"securityContext": {"seLinuxOptions": {"types": "spc_t"}}}),
            "seLinuxOptions",
        ),
    ] {
        let refused = ask(&["render"], &values).expect_err(&values.to_string());
        assert!(refused.contains(reason), "{values}: {refused}");
    }
}

#[test]
fn every_value_is_told_of_in_the_schema() {
    let values: Value = serde_saphyr::from_str(&text("helm/seventh/values.yaml")).unwrap();
    let schema: Value = serde_json::from_str(&text("helm/seventh/values.schema.json")).unwrap();
    let mut open = vec![(String::new(), values, schema)];
    while let Some((path, values, schema)) = open.pop() {
        let (Some(values), Some(known)) = (values.as_object(), schema["properties"].as_object()) else {
            continue;
        };
        if path != "config" {
            assert_eq!(schema["additionalProperties"], false, "{path}");
            for name in known.keys().filter(|name| *name != "global") {
                assert!(values.contains_key(name), "values.yaml does not have {path}.{name}");
            }
        }
        for (name, value) in values {
            assert!(known.contains_key(name), "the schema does not have {path}.{name}");
            open.push((format!("{path}{name}"), value.clone(), known[name].clone()));
        }
    }
}

#[test]
fn the_plain_manifests_are_what_the_chart_makes() {
    let made = ask(&["files"], &json!({})).unwrap();
    for (name, wanted) in made.as_object().unwrap() {
        let there = text(&format!("manifests/{name}"));
        assert_eq!(
            there,
            wanted.as_str().unwrap(),
            "deploy/manifests/{name}: run ./seventh-dev manifests"
        );
        for object in documents(&there) {
            kinds::check(&object);
        }
    }
    assert_eq!(
        std::fs::read_dir(super::path("manifests")).unwrap().count(),
        made.as_object().unwrap().len()
    );
}
