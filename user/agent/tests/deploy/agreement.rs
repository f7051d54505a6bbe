//! What is deployed and the program agree: how it is started, what it is told, where it listens.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Container, HTTPGetAction, PodSpec, Probe},
    rbac::v1::ClusterRole,
};
use serde_json::{Value, json};
use seventh::{cli, config::Config};
use seventh_kube::Kind;

use super::{
    chart::everything,
    helm::{objects, only},
    kinds, text,
};

fn pod(objects: &[(String, Value)]) -> PodSpec {
    let daemon_set: DaemonSet = kinds::read(only(objects, "DaemonSet"));
    daemon_set.spec.template.spec.unwrap()
}

/// The configuration that the chart writes, as the agent reads it.
fn config(objects: &[(String, Value)]) -> Config {
    let texts = objects
        .iter()
        .filter_map(|(_, object)| object["data"]["config.yaml"].as_str());
    let text: String = texts.collect();
    Config::parse(Path::new("/etc/seventh/config/config.yaml"), &text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// Variables that the program reads, those of client commands included.
fn variables(command: &clap::Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter_map(|argument| argument.get_env());
    let mut all: BTreeSet<String> = own.map(|name| name.to_string_lossy().into_owned()).collect();
    all.extend(command.get_subcommands().flat_map(variables));
    all
}

fn port(container: &Container, name: &str) -> i32 {
    let mut ports = container.ports.iter().flatten();
    let port = ports.find(|port| port.name.as_deref() == Some(name)).unwrap();
    // In the host's network both are one, and the API server insists.
    assert_eq!(Some(port.container_port), port.host_port);
    port.container_port
}

#[test]
fn the_agent_is_told_what_it_understands_by_names_that_it_knows() {
    let mut known = variables(&cli::command());
    // Read before the command line is.
    known.insert("SEVENTH_LOG".to_owned());
    for values in [json!({}), everything()] {
        let pod = pod(&objects(&values));
        let args = pod.containers[0].args.as_ref().unwrap();
        let words = ["seventh"].into_iter().chain(args.iter().map(String::as_str));
        let matches = cli::command()
            .try_get_matches_from(words)
            .unwrap_or_else(|e| panic!("{e}"));
        let agent = matches.subcommand_matches("agent").unwrap();
        assert!(agent.get_flag("kubernetes"));
        let file = agent.get_one::<PathBuf>("config").unwrap();
        let mut mounts = pod.containers[0].volume_mounts.iter().flatten();
        assert!(mounts.any(|mount| file.parent() == Some(Path::new(&mount.mount_path)) && mount.name == "config"));
        for variable in pod.containers[0].env.iter().flatten() {
            assert!(known.contains(&variable.name), "{}", variable.name);
            let field = variable.value_from.as_ref().and_then(|from| from.field_ref.as_ref());
            let of_node = field.is_some_and(|field| field.field_path == "spec.nodeName");
            assert_eq!(variable.name == "SEVENTH_NODE", of_node, "{}", variable.name);
        }
    }
}

#[test]
fn it_listens_where_the_objects_say_and_writes_where_it_may() {
    for values in [
        json!({}),
        everything(),
        json!({"metrics": {"address": "10.0.0.1", "port": 19964}}),
    ] {
        let all = objects(&values);
        let (pod, config) = (pod(&all), config(&all));
        let agent = &pod.containers[0];
        let metrics = config.metrics.as_ref().unwrap().listen;
        assert_eq!(port(agent, "metrics"), i32::from(metrics.port()));
        if let Some(listen) = &config.hubble.listen {
            assert_eq!(port(agent, "hubble"), i32::from(listen.address.port()));
            let mounts = agent.volume_mounts.iter().flatten();
            let files = &listen.tls.as_ref().unwrap().key_file;
            assert!(mounts.clone().any(|mount| files.starts_with(&mount.mount_path)));
        }
        for written in [&config.api, &config.bpffs] {
            let mut mounts = agent.volume_mounts.iter().flatten();
            let mount = mounts.find(|mount| written.starts_with(&mount.mount_path));
            assert_ne!(mount.expect("a mount").read_only, Some(true));
        }
        for (_, service) in all.iter().filter(|(_, object)| object["kind"] == "Service") {
            for service_port in service["spec"]["ports"].as_array().unwrap() {
                let name = service_port["targetPort"].as_str().unwrap();
                assert_eq!(service_port["port"], port(agent, name));
            }
        }
        probes(agent, &metrics.ip().to_string());
        let mut mounts = agent.volume_mounts.iter().flatten();
        let netns = mounts.find(|mount| mount.name == "netns").unwrap();
        assert_eq!(config.kubernetes.unwrap().netns_dirs, [Path::new(&netns.mount_path)]);
        assert_eq!(netns.mount_propagation.as_deref(), Some("HostToContainer"));
    }
}

fn probes(agent: &Container, listens: &str) {
    // The pages as the server has them.
    let server = include_str!("../../src/metrics/server.rs");
    for probe in [&agent.startup_probe, &agent.liveness_probe, &agent.readiness_probe] {
        let Some(Probe {
            http_get: Some(HTTPGetAction { host, path, .. }),
            ..
        }) = probe
        else {
            panic!("{probe:?}")
        };
        let (host, path) = (host.as_deref().unwrap(), path.as_deref().unwrap());
        assert!(server.contains(&format!("\"{path}\"")), "{path}");
        let reachable = match listens {
            "0.0.0.0" => "127.0.0.1",
            "::" => "::1",
            own => own,
        };
        assert_eq!(host, reachable);
    }
}

#[test]
fn what_values_say_reaches_the_agent() {
    let all = objects(&everything());
    let config = config(&all);
    assert_eq!((config.workers, config.open_without_agent), (2, true));
    assert_eq!(config.hubble.redaction, seventh_flows::Redaction::off());
    let env = pod(&all).containers[0].env.clone().unwrap();
    let value = |name: &str| {
        env.iter()
            .find(|variable| variable.name == name)
            .and_then(|v| v.value.clone())
    };
    assert_eq!(value("SEVENTH_AUDIT").as_deref(), Some("true"));
    assert_eq!(value("SEVENTH_KEEP_ENFORCING").as_deref(), Some("true"));
    assert_eq!(value("SEVENTH_ENFORCEMENT").as_deref(), Some("always"));
}

#[test]
fn the_image_has_the_programs_that_are_started() {
    let dockerfile = text("Dockerfile");
    assert!(dockerfile.contains("ENTRYPOINT [\"/seventh\"]"));
    let pod = pod(&objects(&json!({"cni": {"action": "install"}})));
    assert_eq!(pod.containers[0].command, None, "the entry point");
    let cni = &pod.init_containers.unwrap()[0];
    assert_eq!(cni.command.as_deref(), Some(&["/seventh-cni".to_owned()][..]));
    let built = dockerfile
        .lines()
        .find(|line| line.contains("--target-directory=/image"))
        .unwrap();
    for program in ["seventh", "seventh-cni"] {
        assert!(built.contains(&format!("target/image/{program}")), "{built}");
    }
}

#[test]
fn the_container_s_arguments_put_the_plugin_into_a_node_s_configuration() {
    let node = tempfile::tempdir().unwrap();
    let [binaries, lists] = ["bin", "net.d"].map(|name| node.path().join(name));
    for dir in [&binaries, &lists] {
        fs::create_dir(dir).unwrap();
    }
    fs::write(binaries.join("ptp"), "").unwrap();
    let list = lists.join("10-pods.conflist");
    fs::write(
        &list,
        r#"{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp"}]}"#,
    )
    .unwrap();
    let run = |action: &str| {
        let values = json!({"cni": {"action": action, "binDir": binaries, "confDir": lists, "timeoutSeconds": 3, "onTimeout": "open"}});
        let init = pod(&objects(&values)).init_containers.unwrap().remove(0);
        let program = Path::new(env!("CARGO_BIN_EXE_seventh")).with_file_name("seventh-cni");
        let (keep, args): (Vec<String>, Vec<String>) = init.args.unwrap().into_iter().partition(|arg| arg == "--keep");
        // What ends once is waited for; what stays keeps no agent waiting, and the pod says whether it is in place.
        let stays = action == "install";
        assert_eq!(
            (!keep.is_empty(), init.restart_policy.as_deref() == Some("Always")),
            (stays, stays)
        );
        assert_eq!(init.readiness_probe.is_some(), stays);
        let output = Command::new(&program).args(args).output();
        let output = output.unwrap_or_else(|e| panic!("{}: {e}; build the workspace", program.display()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        if let Some(probe) = init.readiness_probe {
            let command = probe.exec.unwrap().command.unwrap();
            assert_eq!(command[0], "/seventh-cni");
            assert!(Command::new(&program).args(&command[1..]).status().unwrap().success());
        }
        let list: Value = serde_json::from_str(&fs::read_to_string(&list).unwrap()).unwrap();
        list["plugins"].as_array().unwrap().clone()
    };
    let wanted =
        json!({"type": "seventh-cni", "socket": "/run/seventh/seventh.sock", "timeoutSeconds": 3, "onTimeout": "open"});
    assert_eq!(run("install"), [json!({"type": "ptp"}), wanted]);
    assert!(binaries.join("seventh-cni").exists());
    assert_eq!(run("remove"), [json!({"type": "ptp"})]);
}

#[test]
fn the_role_gives_what_the_agent_asks_for_and_nothing_else() {
    let all = objects(&json!({}));
    let role: ClusterRole = kinds::read(only(&all, "ClusterRole"));
    let mut given = BTreeSet::new();
    for rule in role.rules.unwrap() {
        assert_eq!((&rule.resource_names, &rule.non_resource_urls), (&None, &None));
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                given.extend(rule.verbs.iter().map(|verb| format!("{verb} {group}/{resource}")));
            }
        }
    }
    let mut asked = BTreeSet::from(["create /events".to_owned()]);
    for kind in Kind::ALL {
        let name = format!("{}/{}", kind.group(), kind.plural());
        asked.extend(["list", "watch"].map(|verb| format!("{verb} {name}")));
        if kind.has_conditions() {
            asked.insert(format!("patch {name}/status"));
        }
    }
    assert_eq!(given, asked);
}
