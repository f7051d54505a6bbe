//! The example application: its objects are Kubernetes', its policies say what its page says.

use std::{path::Path, process::Command};

use super::{documents, kinds, path, text};

fn seventh(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_seventh"))
        .args(arguments)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

/// Commands of the example's page that begin with `seventh policy`, as a shell would run them.
fn commands_of_the_page() -> Vec<String> {
    let page = text("examples/three-tier/README.md").replace("\\\n", " ");
    let commands = page.lines().filter(|line| line.starts_with("seventh policy "));
    commands.map(str::to_owned).collect()
}

#[test]
fn the_page_s_own_commands_say_what_it_says_of_them() {
    let program = Path::new(env!("CARGO_BIN_EXE_seventh"));
    let programs = format!(
        "{}:{}",
        program.parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    let run = |command: &str| {
        let output = Command::new("sh")
            .args(["-c", command])
            .current_dir(path(".."))
            .env("PATH", &programs)
            .output()
            .unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!said.contains("warning:"), "{command}: {said}");
        (output.status.code(), said)
    };
    let commands = commands_of_the_page();
    let [validate, trace] = commands.as_slice() else {
        panic!("{commands:?}")
    };
    assert_eq!(run(validate).0, Some(0));
    let (status, said) = run(trace);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("shop/web") && said.contains("nearest"), "{said}");
    // The same for what a visitor may do.
    let (status, said) = run(&trace.replace("GET web/api/admin/orders", "GET web/api/items"));
    assert_eq!(status, Some(0), "{said}");
}

#[test]
fn the_application_is_what_kubernetes_takes() {
    for object in documents(&text("examples/three-tier/app.yaml")) {
        kinds::check(&object);
    }
}

#[test]
fn every_policy_that_is_shipped_is_valid_without_a_warning() {
    for name in ["three-tier/policies.yaml", "http.yaml", "dns.yaml", "tls.yaml"] {
        let file = path("examples").join(name);
        let (status, said) = seventh(&["policy", "validate", "--output", "json", file.to_str().unwrap()]);
        assert_eq!(status, Some(0), "{name}: {said}");
        let report: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(report["findings"], serde_json::json!([]), "{name}");
    }
}

/// Whoever asks for `name`, with the search domains of a pod in `shop`, asks for these one after the other until one is there
/// (`ndots` of resolv.conf, resolver(5)).
fn asked_for(name: &str, ndots: usize) -> Vec<String> {
    let domains = ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local"];
    let searched = domains.map(|domain| format!("{name}.{domain}"));
    let itself = [name.to_owned()];
    if name.matches('.').count() >= ndots {
        [&itself[..], &searched].concat()
    } else {
        [&searched[..], &itself].concat()
    }
}

/// No name that a tier needs is asked for behind one that is refused: musl would wait for its answer in vain.
#[test]
fn what_a_tier_needs_is_the_first_name_that_it_asks_for() {
    let mut pods = documents(&text("examples/three-tier/app.yaml"));
    pods.retain(|object| object["kind"] == "Deployment");
    let file = path("examples/three-tier/policies.yaml");
    for (tier, needed) in [("web", &["api"][..]), ("api", &["store", "example.com"])] {
        let pod = pods.iter().find(|pod| pod["metadata"]["name"] == tier).unwrap();
        let options = pod["spec"]["template"]["spec"]["dnsConfig"]["options"].as_array();
        let ndots = options.into_iter().flatten().find(|option| option["name"] == "ndots");
        // What the kubelet writes where a pod does not say.
        let ndots = ndots.map_or(5, |option| option["value"].as_str().unwrap().parse().unwrap());
        for name in needed {
            let first = &asked_for(name, ndots)[0];
            let (status, said) = seventh(&[
                "policy",
                "trace",
                "--policy",
                file.to_str().unwrap(),
                "--from",
                &format!("app={tier},io.kubernetes.pod.namespace=shop"),
                "--to",
                "k8s-app=kube-dns,io.kubernetes.pod.namespace=kube-system",
                "--port",
                "53/UDP",
                "--dns",
                first,
            ]);
            assert_eq!(status, Some(0), "{tier} asks for {first}: {said}");
        }
    }
}

/// What the page of the example promises: who asks whom for what, and whether it passes.
#[test]
fn the_application_s_policies_allow_what_it_does_and_nothing_else() {
    let file = path("examples/three-tier/policies.yaml");
    let [web, api, store, visitor] = ["web", "api", "store", "visitor"];
    let dns = "kube-dns";
    let labels = |who: &str| match who {
        "kube-dns" => "k8s-app=kube-dns,io.kubernetes.pod.namespace=kube-system".to_owned(),
        name if name.contains('.') => name.to_owned(),
        app => format!("app={app},io.kubernetes.pod.namespace=shop"),
    };
    for (from, to, port, question, passes) in [
        (visitor, web, "8080", &["--http", "GET web/api/items"][..], true),
        (visitor, web, "8080", &["--http", "POST web/api/orders"], true),
        (visitor, web, "8080", &["--http", "GET web/api/admin/orders"], false),
        (visitor, web, "8080", &["--http", "DELETE web/api/items"], false),
        (visitor, api, "8080", &["--http", "GET api/items"], false),
        (web, api, "8080", &["--http", "GET api/items"], true),
        (web, api, "8080", &["--http", "GET api/admin/orders"], false),
        (web, store, "6379", &[], false),
        (api, store, "6379", &[], true),
        (store, "192.0.2.1", "443", &[], false),
        (store, dns, "53/UDP", &["--dns", "example.com"], false),
        (api, "example.com", "443", &["--sni", "example.com"], true),
        (api, "example.com", "443", &["--sni", "example.org"], false),
        (api, "example.org", "443", &["--sni", "example.com"], false),
        (api, dns, "53/UDP", &["--dns", "store.shop.svc.cluster.local"], true),
        (api, dns, "53/UDP", &["--dns", "example.com"], true),
        (
            api,
            dns,
            "53/UDP",
            &["--dns", "example.com.shop.svc.cluster.local"],
            false,
        ),
        (api, dns, "53/UDP", &["--dns", "example.org"], false),
        (web, dns, "53/UDP", &["--dns", "api.shop.svc.cluster.local"], true),
        (web, dns, "53/UDP", &["--dns", "store.shop.svc.cluster.local"], false),
    ] {
        let (from_labels, to_labels) = (labels(from), labels(to));
        let ends = ["--from", &from_labels, "--to", &to_labels, "--port", port];
        let (status, said) = seventh(
            &[
                &["policy", "trace", "--policy", file.to_str().unwrap()],
                &ends[..],
                question,
            ]
            .concat(),
        );
        assert_eq!(status, Some(i32::from(!passes)), "{from} -> {to} {question:?}: {said}");
    }
}
