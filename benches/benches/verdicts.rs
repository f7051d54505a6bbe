//! What judging one request costs: from the cache, and by the rules.

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, criterion_group, criterion_main};
use seventh_policy::{HttpRequest, HttpRuleSet, HttpVerdict, Labels, RuleOrigin, http::HttpRule};
use seventh_verdict_cache::{Key, KeyHasher, VerdictCache};

const PATH: &str = "/api/items/42";

fn key(hasher: &KeyHasher, path: &str) -> Key {
    hasher
        .begin()
        .number(7)
        .bytes(b"GET")
        .bytes(path.as_bytes())
        .bytes(b"shop.example")
        .finish()
}

fn cache(c: &mut Criterion) {
    let mut group = c.benchmark_group("verdict cache");
    let hasher = KeyHasher::from_secret([7; 16]);
    let cache = VerdictCache::new(64 * 1024);
    let known = key(&hasher, PATH);
    cache.insert(&known, 1, 42);
    let unknown = key(&hasher, "/other");
    group.bench_function("key", |b| b.iter(|| key(&hasher, black_box(PATH))));
    group.bench_function("hit", |b| b.iter(|| cache.lookup(black_box(&known), 1)));
    group.bench_function("miss", |b| b.iter(|| cache.lookup(black_box(&unknown), 1)));
    group.bench_function("older epoch", |b| b.iter(|| cache.lookup(black_box(&known), 2)));
    let mut serial = 0;
    group.bench_function("insert", |b| {
        b.iter(|| {
            serial += 1;
            cache.insert(
                &Key::from_bits(serial, serial.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
                1,
                1,
            );
        });
    });
    group.finish();
}

fn rules(count: usize) -> HttpRuleSet {
    let origin = Arc::new(RuleOrigin {
        file: "bench.yaml".into(),
        document: 1,
        line: 1,
        kind: "CiliumNetworkPolicy",
        namespace: "default".into(),
        name: "bench".into(),
        labels: Labels::new(Vec::new()),
        log: None,
        audit: false,
        path: "spec.ingress[0].toPorts[0].rules.http[0]".to_owned(),
    });
    let rules: Vec<HttpRule> = (0..count)
        .map(|n| HttpRule {
            method: Some("GET|HEAD".to_owned()),
            path: Some(format!("/service-{n}/(items|orders)/[0-9]+(/.*)?")),
            host: None,
            headers: Vec::new(),
            origin: origin.clone(),
        })
        .collect();
    HttpRuleSet::new(&rules.iter().collect::<Vec<_>>(), None).expect("patterns that compile")
}

fn judge(c: &mut Criterion) {
    let mut group = c.benchmark_group("rules");
    for count in [1, 10, 100, 1_000, 10_000] {
        let set = rules(count);
        let last = format!("/service-{}/orders/4711", count - 1);
        let allowed = HttpRequest {
            method: "GET",
            path: &last,
            host: "shop.example",
            headers: &[],
        };
        let denied = HttpRequest {
            path: "/admin",
            ..allowed
        };
        assert!(matches!(set.judge(&allowed), HttpVerdict::Allow { .. }));
        assert_eq!(set.judge(&denied), HttpVerdict::Deny);
        group.bench_function(format!("{count}/allowed by the last"), |b| {
            b.iter(|| set.judge(black_box(&allowed)));
        });
        group.bench_function(format!("{count}/denied"), |b| b.iter(|| set.judge(black_box(&denied))));
    }
    group.finish();
}

criterion_group!(benches, cache, judge);
criterion_main!(benches);
