//! Fuzz entry of the engine beside the traffic: frames of one connection, in any order, cut anywhere.

use seventh_abi::{Hook, PuntMeta};
use std::sync::Arc;

use crate::fuzz::{IFINDEX, SECOND, shared};
use crate::{Beside, Denials, EndpointView, EngineCounter, EngineLimits, PolicyView, Seen};
use seventh_policy::{CompiledPolicy, Ipcache};

/// Steps of one run at most.
const STEPS_MAX: usize = 64;
/// Bytes that may be held for one connection: two directions that wait, and a stream.
const HELD_MAX: u64 = 4 << 20;
const PORTS: [u16; 4] = [80, 443, 53, 4711];

/// Any bytes as what is shown of a connection: the first byte chooses rules, protocol and port; each step is a byte of
/// flags, two of an offset, one of a length, and payload.
///
/// # Panics
/// If what is given free lies before the frame, or too much is held.
pub fn fuzz_beside(input: &[u8]) {
    let (&first, mut rest) = input.split_first().unwrap_or((&0, &[]));
    let shared = shared();
    if first & 1 != 0 {
        let endpoint = EndpointView {
            id: 1,
            name: "all".into(),
            epoch: 1,
            policy: Arc::new(CompiledPolicy::observe()),
        };
        shared.set_policy(Arc::new(PolicyView {
            endpoints: [(IFINDEX, endpoint)].into(),
            ipcache: Arc::new(Ipcache::new()),
        }));
    }
    let mut beside = Beside::new(Arc::clone(&shared), EngineLimits::default(), Denials::Audited);
    let udp = first & 2 != 0;
    let port = PORTS.get(usize::from(first >> 2 & 3)).copied().unwrap_or(80);
    for step in 0..STEPS_MAX {
        let Some((&[flags, high, low, len], after)) = rest.split_first_chunk() else {
            break;
        };
        let (payload, after) = after.split_at_checked(usize::from(len)).unwrap_or((after, &[]));
        rest = after;
        let offset = u32::from(u16::from_be_bytes([high, low]));
        let frame = frame(flags, offset, payload, port, udp);
        let cut = frame.len() - if flags & 64 != 0 { payload.len() / 2 } else { 0 };
        let seen = beside.observe(frame.get(..cut).unwrap_or_default(), SECOND * step as u64);
        if let Seen::Skip { until } = seen {
            assert!(until.wrapping_sub(offset) < 1 << 31, "what was shown is not to come");
        }
        while let Some(record) = shared.take_record() {
            shared.recycle_record(record);
        }
    }
    beside.tick(SECOND * 3600);
    beside.finish(SECOND * 3601);
    beside.tick(SECOND * 3602);
    assert!(shared.counters().path(EngineCounter::HeldBytes) <= HELD_MAX);
}

fn frame(flags: u8, offset: u32, payload: &[u8], port: u16, udp: bool) -> Vec<u8> {
    let meta = PuntMeta {
        hook: if (port == 53) == (flags & 4 == 0) {
            Hook::FromEndpoint
        } else {
            Hook::ToEndpoint
        },
        ifindex: IFINDEX,
        base_seq: (flags & 1 != 0).then_some(0),
        acked_seq: (flags & 2 != 0).then_some(offset),
        reply_idle: true,
        closed: false,
        reply: flags & 4 != 0,
        frontier: None,
        compared_to: None,
        clean: true,
    };
    let ports = if meta.reply { [port, 40_000] } else { [40_000, port] };
    let mut transport = ports.map(u16::to_be_bytes).concat();
    if udp {
        let len = u16::try_from(payload.len() + 8).unwrap_or(u16::MAX);
        transport.extend([len, 0].map(u16::to_be_bytes).concat());
    } else {
        let ack = if flags & 8 != 0 { offset } else { 0 };
        transport.extend([offset, ack].map(u32::to_be_bytes).concat());
        let bits = 0x10 | if flags & 16 != 0 { 1 } else { 0 } | if flags & 32 != 0 { 4 } else { 0 };
        transport.extend([0x50, bits, 0xff, 0xff, 0, 0, 0, 0]);
    }
    transport.extend(payload);
    let ends: [u8; 8] = if meta.reply {
        [10, 0, 0, 2, 10, 0, 0, 1]
    } else {
        [10, 0, 0, 1, 10, 0, 0, 2]
    };
    let len = u16::try_from(transport.len() + 20).unwrap_or(u16::MAX).to_be_bytes();
    let protocol = if udp { 17 } else { 6 };
    let ip = [0x45, 0, len[0], len[1], 0, 0, 0x40, 0, 64, protocol, 0, 0];
    [&meta.encode()[..], &[8, 0], &ip, &ends, &transport].concat()
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_of_every_kind_and_none_are_a_run() {
        for seed in 0..=255_u8 {
            let mut input: Vec<u8> = (0..600_u32).map(|n| (n * 167 + u32::from(seed) * 59) as u8).collect();
            super::fuzz_beside(&input);
            super::fuzz_beside(&input[..usize::from(seed % 3)]);
            // Bytes that are requests, shuffled.
            for at in 0..6_u8 {
                let text =
                    b"GET /public HTTP/1.1\r\nHost: a\r\n\r\nPOST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n";
                input.splice(
                    0..0,
                    [&[seed & 1, seed ^ at, 0, (at ^ seed) % 7 * 40, 80][..], &text[..80]].concat(),
                );
            }
            super::fuzz_beside(&input);
        }
    }
}
