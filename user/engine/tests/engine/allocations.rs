//! What a request costs in memory once one like it has been judged: nothing.

use crate::wire;
use crate::world::{Connection, World, get};
use seventh_engine::{EngineCounter, EngineLimits, Fate, Outbox};

/// Requests after which buffers have their size and the verdict is cached.
const WARM_UP: usize = 64;
const MEASURED: usize = 256;

#[test]
fn a_request_like_one_before_is_decided_without_allocating() {
    for record_headers in [false, true] {
        measure(World::with_limits(EngineLimits {
            record_headers,
            ..EngineLimits::default()
        }));
    }
}

fn measure(mut world: World) {
    let mut connection = Connection::new();
    let request = get("/public/42");
    let mut frames: Vec<Vec<u8>> = (0..WARM_UP + MEASURED)
        .map(|n| {
            let offset = n * request.len();
            connection.answered(offset, 100);
            let mut frame = connection.frame(offset, &request);
            wire::number(&mut frame, 0);
            frame
        })
        .collect();
    let (warm_up, measured) = frames.split_at_mut(WARM_UP);
    let mut out = Outbox::new();
    let mut decide = |frames: &mut [Vec<u8>]| {
        for frame in frames {
            assert!(world.engine.decide(frame, world.now_ns, &mut out) == Fate::Forward);
            while let Some(record) = world.shared.take_record() {
                world.shared.recycle_record(record);
            }
        }
    };
    decide(warm_up);
    let made = allocation_counter::measure(|| decide(measured));
    assert_eq!((made.count_total, made.bytes_total), (0, 0));
    // They were hits, and the counter does count.
    let hits = world.count(EngineCounter::CacheHit);
    assert!(hits >= MEASURED as u64, "{hits}");
    assert!(allocation_counter::measure(|| drop(std::hint::black_box(vec![1_u8; 64]))).count_total > 0);
}
