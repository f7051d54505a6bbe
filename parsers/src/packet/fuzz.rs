//! Fuzz entry of the packet parser.

use super::{Frame, PacketError, Transport};

/// Parses any bytes as a frame and asserts what every accepted view promises.
///
/// # Panics
/// If a view of an accepted frame is not the sum of its parts.
pub fn fuzz_frame(bytes: &[u8]) {
    let Ok(frame) = Frame::parse(bytes) else { return };
    assert_eq!(
        frame.link_len() + frame.packet().len(),
        frame.headers().len() + frame.payload().len()
    );
    assert!(bytes.starts_with(frame.headers()));
    assert!(frame.segment().ends_with(frame.payload()));
    assert_eq!(frame.packet().len(), frame.network_header_len() + frame.segment().len());
    // Changing one payload bit of an intact frame must be noticed.
    if frame.verify_checksums().is_ok() && frame.payload().len() > 1 {
        let mut changed = bytes.to_vec();
        if let Some(byte) = changed.get_mut(frame.headers().len()) {
            *byte ^= 0x10;
        }
        let unchecked = matches!(frame.transport(), Transport::Udp(udp) if udp.checksum == 0);
        let answer = Frame::parse(&changed).map(|changed| changed.verify_checksums());
        assert!(answer == Ok(Err(PacketError::TransportChecksum)) || unchecked);
    }
}
