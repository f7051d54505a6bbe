//! What the engine does with a segment: streams put together, requests read and judged from the cache.

// The engine's own tests make frames and worlds for it.
#[expect(
    dead_code,
    clippy::cast_possible_truncation,
    reason = "tests use more of it, with small numbers"
)]
#[path = "../../user/engine/tests/engine/wire.rs"]
mod wire;
#[expect(
    dead_code,
    clippy::cast_possible_truncation,
    reason = "tests use more of it, with small numbers"
)]
#[path = "../../user/engine/tests/engine/world.rs"]
mod world;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use seventh_engine::{Fate, Outbox};

use crate::world::{Connection, World, get};

/// Requests of one connection that are decided in a row.
const REQUESTS: usize = 256;

/// Where a segment begins and ends in its request.
type Part = (usize, usize);
const REST: usize = usize::MAX;

/// Frames of a keep-alive connection, `offset` bytes into it; `segments` says how a request is cut and in which order the
/// pieces come.
fn frames(connection: &mut Connection, segments: &[Part]) -> Vec<Vec<u8>> {
    let request = get("/public/42");
    let mut frames = Vec::new();
    for number in 0..REQUESTS {
        let offset = number * request.len();
        connection.answered(offset, 100);
        for &(start, end) in segments {
            let bytes = &request[start..end.min(request.len())];
            let mut frame = connection.frame(offset + start, bytes);
            wire::number(&mut frame, 0);
            frames.push(frame);
        }
    }
    frames
}

fn decide(world: &mut World, frames: &mut [Vec<u8>], out: &mut Outbox) -> usize {
    let mut forwarded = 0;
    for frame in frames {
        forwarded += usize::from(world.engine.decide(frame, world.now_ns, out) == Fate::Forward);
        while let Some(record) = world.shared.take_record() {
            world.shared.recycle_record(record);
        }
    }
    forwarded
}

fn streams(c: &mut Criterion) {
    let mut group = c.benchmark_group("stream");
    group.throughput(Throughput::Elements(REQUESTS as u64));
    let shapes: [(&str, &[Part]); 3] = [
        ("a request in one segment", &[(0, REST)]),
        ("in two segments", &[(0, 10), (10, REST)]),
        (
            "in two segments, each twice",
            &[(0, 10), (0, 10), (10, REST), (10, REST)],
        ),
    ];
    for (name, segments) in shapes {
        let mut world = World::new();
        let mut base = 1000;
        let mut out = Outbox::new();
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || {
                    // Each time another connection, so that nothing repeats what went before.
                    base += 100_000;
                    let mut connection = Connection::at(base);
                    connection.shape = wire::Shape::new(u8::try_from(base / 100_000 % 200).unwrap_or(0) + 3, 2, 80);
                    frames(&mut connection, segments)
                },
                |frames| assert!(decide(&mut world, frames, &mut out) >= REQUESTS),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

/// None, once a verdict is cached.
fn allocations(_: &mut Criterion) {
    let mut world = World::new();
    let mut out = Outbox::new();
    let mut connection = Connection::new();
    let mut all = frames(&mut connection, &[(0, REST)]);
    let (warm_up, measured) = all.split_at_mut(REQUESTS / 2);
    decide(&mut world, warm_up, &mut out);
    let made = allocation_counter::measure(|| {
        decide(&mut world, measured, &mut out);
    });
    assert_eq!(made.count_total, 0);
}

criterion_group!(benches, streams, allocations);
criterion_main!(benches);
