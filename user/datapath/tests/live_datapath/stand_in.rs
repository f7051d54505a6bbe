//! A stand-in for the engine: gives every frame back, with what its last bytes ask for.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use seventh_abi::{InjectAction, InjectMeta, PuntMeta, PuntedType, Replies};
use seventh_datapath::{Disposition, PuntChannel};

use super::TCP;

/// A datagram after which the rest of its flow passes as settled QUIC.
pub(super) const SETTLE: &[u8] = b"settle";
/// What ends like this is refused.
pub(super) const REFUSE: &[u8] = b"refuse";
/// What ends like this never comes back: it waits.
pub(super) const WAITS: &[u8] = b"waits";
/// Behind a segment that ends like this so many bytes pass unread.
pub(super) const FREE: &[u8] = b"free";
pub(super) const FREE_LEN: u32 = 100_000;

/// The engine's stand-in.
pub(super) fn give_back(
    mut channel: Box<dyn PuntChannel>,
    stop: &AtomicBool,
    punted: &AtomicU64,
    seen: &Mutex<Vec<u8>>,
    tells_boundaries: &AtomicBool,
    holds: &AtomicBool,
) {
    while !stop.load(Ordering::Relaxed) {
        if holds.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
            continue;
        }
        channel.wait(Duration::from_millis(50)).unwrap();
        channel
            .turn(&mut |frame, _| {
                let meta = PuntMeta::decode(frame.first_chunk().unwrap()).unwrap();
                let connection = take_connection(frame);
                punted.fetch_add(1, Ordering::Relaxed);
                let tcp = frame[12..14] == [0x08, 0x00] && frame[23] == TCP;
                *seen.lock().unwrap() = frame.to_vec();
                if tcp && meta.base_seq.is_none() {
                    // Not seen from its beginning: the engine lets nothing of it pass, either.
                    return Disposition::Release;
                }
                if frame.ends_with(WAITS) {
                    return Disposition::Release;
                }
                let refuses = tcp && frame.ends_with(REFUSE);
                if refuses {
                    turn_round(frame);
                }
                let end = if tcp { end_of(frame) } else { 0 };
                let back = InjectMeta {
                    hook: meta.hook,
                    ifindex: meta.ifindex,
                    reverse: refuses,
                    connection,
                    action: if refuses {
                        InjectAction::Close
                    } else if frame.ends_with(SETTLE) {
                        InjectAction::ForwardQuic { epoch: 1 }
                    } else if frame.ends_with(FREE) {
                        InjectAction::Bypass {
                            start: end,
                            end: end.wrapping_add(FREE_LEN),
                            boundary: tells_boundaries.load(Ordering::Relaxed),
                        }
                    } else if tcp && tells_boundaries.load(Ordering::Relaxed) {
                        InjectAction::Bypass {
                            start: end,
                            end,
                            boundary: true,
                        }
                    } else {
                        InjectAction::Keep
                    },
                    replies: Replies::Keep,
                };
                frame[..12].copy_from_slice(&back.encode(end));
                Disposition::Send
            })
            .unwrap();
    }
}

/// Takes the connection's number out of a punted frame, and puts its `EtherType` back.
fn take_connection(frame: &mut [u8]) -> u16 {
    let at = if frame[12] & 0x80 == 0 { 12 } else { 16 };
    let punted = PuntedType::decode([frame[at], frame[at + 1]]).unwrap();
    frame[at..at + 2].copy_from_slice(&punted.ether_type.to_be_bytes());
    punted.connection
}

/// Number after the last byte of a TCP segment over IPv4 without options.
fn end_of(frame: &[u8]) -> u32 {
    let seq = u32::from_be_bytes([frame[38], frame[39], frame[40], frame[41]]);
    let header = usize::from(frame[46] >> 4) * 4;
    seq.wrapping_add(u32::try_from(frame.len() - 34 - header).unwrap())
}

/// A TCP segment over IPv4 becomes an answer to itself, where its sender expects the next byte.
fn turn_round(frame: &mut [u8]) {
    let (source, destination) = frame[26..34].split_at_mut(4);
    source.swap_with_slice(destination);
    let (source, destination) = frame[34..38].split_at_mut(2);
    source.swap_with_slice(destination);
    let (seq, ack) = frame[38..46].split_at_mut(4);
    seq.swap_with_slice(ack);
}
