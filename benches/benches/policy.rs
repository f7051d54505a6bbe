//! Policies to tables: 1 000 policies for 1 000 endpoints among 10 000 identities, built from nothing and after one
//! change.

use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use seventh_policy::{
    CompileOptions, CompiledPolicy, Compiler, EndpointFacts, Labels, NamedPorts, Surroundings, identity::prefix_labels,
    load_text, prefixes_of, resolve, rule::PolicyRule,
};

const POLICIES: usize = 1_000;
const IDENTITIES: usize = 10_000;
const NAMESPACE: &str = "io.kubernetes.pod.namespace=default";

/// Every policy governs one application and speaks of two roles and a prefix with an exception.
fn policies(changed: Option<usize>) -> Vec<Arc<PolicyRule>> {
    let policy = |n: usize| {
        let path = if changed == Some(n) {
            "changed".to_owned()
        } else {
            format!("p{n}")
        };
        format!(
            "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p{n}}}\nspec:\n  \
             endpointSelector: {{matchLabels: {{app: s{n}}}}}\n  ingress:\n  - fromEndpoints: [{{matchLabels: {{role: \
             r{}}}}}]\n    toPorts: [{{ports: [{{port: '80', protocol: TCP}}], rules: {{http: [{{method: GET, path: \
             /{path}}}]}}}}]\n  egress:\n  - toEndpoints: [{{matchLabels: {{role: r{}}}}}]\n  - toCIDRSet: [{{cidr: \
             10.0.0.0/8, except: [10.{}.0.0/16]}}]\n",
            n % 100,
            (n + 1) % 100,
            n % 256
        )
    };
    let text: String = (0..POLICIES).map(policy).collect();
    let loaded = load_text("bench.yaml", &text);
    assert!(!loaded.has_errors(), "{:?}", loaded.findings.first());
    resolve(&loaded.documents, &Surroundings::default()).rules
}

fn identity(n: usize) -> Labels {
    let (app, role, pod) = (
        format!("app=s{}", n % POLICIES),
        format!("role=r{}", n % 100),
        format!("pod={n}"),
    );
    Labels::parse([app.as_str(), role.as_str(), pod.as_str(), NAMESPACE])
}

fn compiler(rules: &[Arc<PolicyRule>]) -> Compiler {
    let mut compiler = Compiler::new(CompileOptions::default());
    for n in 0..IDENTITIES {
        compiler.add_identity(&identity(n)).expect("numbers are left");
    }
    for prefix in prefixes_of(rules) {
        compiler.add_identity(&prefix_labels(prefix)).expect("numbers are left");
    }
    compiler
}

fn compile_all(compiler: &mut Compiler) -> Vec<Arc<CompiledPolicy>> {
    let endpoint = |n: usize| {
        let labels = Labels::parse([format!("app=s{n}").as_str(), "role=r1", NAMESPACE]);
        EndpointFacts {
            labels,
            named_ports: NamedPorts::default(),
        }
    };
    (0..POLICIES)
        .map(|n| compiler.compile(&endpoint(n)).expect("numbers are left"))
        .collect()
}

fn bench(c: &mut Criterion) {
    let rules = policies(None);
    let changed = policies(Some(POLICIES / 2));
    let mut group = c.benchmark_group("policy");
    group.sample_size(10);
    group.bench_function("all of 1000 policies, 10000 identities", |b| {
        b.iter_batched(
            || compiler(&rules),
            |mut compiler| {
                compiler.set_rules(rules.iter().cloned());
                compile_all(&mut compiler)
            },
            BatchSize::PerIteration,
        );
    });
    let mut live = compiler(&rules);
    live.set_rules(rules.iter().cloned());
    let mut held = compile_all(&mut live);
    let mut turn = 0;
    group.bench_function("one policy changes", |b| {
        b.iter(|| {
            turn += 1;
            let next = if turn % 2 == 0 { &rules } else { &changed };
            live.set_rules(next.iter().cloned());
            held = compile_all(&mut live);
        });
    });
    group.bench_function("one identity comes", |b| {
        b.iter(|| {
            turn += 1;
            let (id, patches) = live
                .add_identity(&identity(IDENTITIES + turn))
                .expect("numbers are left");
            assert!(id > 0 && !patches.is_empty());
        });
    });
    group.finish();
    drop(held);
}

criterion_group!(benches, bench);
criterion_main!(benches);
