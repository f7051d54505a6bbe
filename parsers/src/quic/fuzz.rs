//! Fuzz entries of the QUIC parsers. Each asserts what the parser promises about any input.

use super::{
    ConnectionId, CryptoStream, Initial, InitialKeys, Packet, QuicFault, Side, Version, read_frames, split_packet,
    split_packet_or_draft,
};
use crate::tls::Limits;

/// Any bytes as a datagram.
///
/// # Panics
/// If a packet holds bytes that are not its own, or reading does not come to an end.
pub fn fuzz_datagram(datagram: &[u8]) {
    let mut rest = datagram;
    let mut payload = Vec::new();
    while !rest.is_empty() {
        let Ok((packet, after)) = split_packet_or_draft(rest) else {
            return;
        };
        assert!(after.len() < rest.len());
        if let Packet::Initial(initial) = packet {
            let keys = InitialKeys::new(initial.version, Side::Client, &initial.destination);
            if keys.open(&initial, 0, &mut payload).is_ok() {
                assert!(payload.len() < rest.len() - after.len());
            }
        }
        rest = after;
    }
}

/// Any bytes as the payload of an Initial packet that was opened, each cut of it as a second one.
///
/// # Panics
/// If the order of packets changes what the handshake is.
pub fn fuzz_frames(payload: &[u8]) {
    let mut pieces = Vec::new();
    let read = read_frames(payload, |offset, data| {
        pieces.push((offset, data));
        Ok(())
    });
    if read.is_err() {
        return;
    }
    let forward = gather(&pieces);
    pieces.reverse();
    let backward = gather(&pieces);
    if let (Ok(forward), Ok(backward)) = (forward, backward) {
        assert_eq!(forward.unread(), backward.unread());
        let _ = forward.client_hello(&Limits::default());
    }
}

fn gather(pieces: &[(u64, &[u8])]) -> Result<CryptoStream, QuicFault> {
    let mut stream = CryptoStream::new();
    for (offset, data) in pieces {
        stream.insert(*offset, data)?;
    }
    Ok(stream)
}

/// Any bytes as the payload of a genuine Initial packet: it is encrypted as a client would and must come out the same.
///
/// # Panics
/// If it does not.
pub fn fuzz_initial(input: &[u8]) {
    let Some((&choice, payload)) = input.split_first() else {
        return;
    };
    let version = if choice & 1 == 0 { Version::V1 } else { Version::V2 };
    let Some(id) = ConnectionId::new(&[choice; 8]) else {
        return;
    };
    let keys = InitialKeys::new(version, Side::Client, &id);
    let padding = vec![0; 4];
    let content = [payload, &padding].concat();
    let Some(packet) = keys.seal(version, &id, &ConnectionId::default(), u32::from(choice), &content) else {
        return assert!(content.len() > 16_000, "only too long ones are refused");
    };
    let Ok((Packet::Initial(initial), [])) = split_packet(&packet) else {
        return assert!(content.is_empty(), "an Initial packet");
    };
    let mut opened = Vec::new();
    let number = keys.open(&initial, u64::from(choice), &mut opened);
    assert_eq!((number, &opened), (Ok(u64::from(choice)), &content));
    check_tampering(&keys, &initial);
    fuzz_frames(&opened);
}

/// No byte of a packet can be changed without notice.
fn check_tampering(keys: &InitialKeys, initial: &Initial<'_>) {
    let mut changed = initial.bytes.to_vec();
    if let Some(byte) = changed.get_mut(initial.number_at) {
        *byte ^= 0x10;
    }
    let changed = Initial {
        bytes: &changed,
        ..initial.clone()
    };
    assert!(keys.open(&changed, 0, &mut Vec::new()).is_err());
}
