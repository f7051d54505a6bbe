//! Frames that leave the kernel something to do: to cut them, to fill in a checksum. What it does comes after the verdict.

use super::*;
use std::os::fd::AsRawFd as _;

/// What a frame says of itself to the kernel (`virtio_net_hdr`).
#[derive(Clone, Copy, Default)]
struct Offload {
    flags: u8,
    gso_type: u8,
    header_len: u16,
    gso_size: u16,
    checksum_start: u16,
    checksum_offset: u16,
}

/// The checksum is to be filled in.
const NEEDS_CHECKSUM: u8 = 1;
const GSO_TCP_V4: u8 = 1;

impl Offload {
    /// Segments of TCP over IPv4 without options, of so many bytes.
    fn segments_of(len: u16) -> Self {
        Self {
            flags: NEEDS_CHECKSUM,
            gso_type: GSO_TCP_V4,
            header_len: 54,
            gso_size: len,
            checksum_start: 34,
            checksum_offset: 16,
        }
    }

    fn encode(self) -> [u8; 10] {
        let words = [
            self.header_len,
            self.gso_size,
            self.checksum_start,
            self.checksum_offset,
        ];
        let mut bytes = [0; 10];
        (bytes[0], bytes[1]) = (self.flags, self.gso_type);
        for (at, word) in words.into_iter().enumerate() {
            bytes[2 + 2 * at..][..2].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// Sends the frame from the endpoint with what it says of itself, and waits until it has been decided.
fn offload(lab: &Lab, offload: Offload, frame: &[u8]) {
    let bytes = [&offload.encode(), frame].concat();
    lab.client.run(move || {
        let socket = device_socket("eth0");
        let on = 1_i32;
        // SAFETY: passes a live value and its size; the result is checked.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_VNET_HDR,
                (&raw const on).cast(),
                u32::try_from(size_of::<i32>()).unwrap(),
            )
        };
        assert_eq!(result, 0, "PACKET_VNET_HDR");
        send_through(&socket, &bytes);
    });
    thread::sleep(Duration::from_millis(60));
}

#[test]
fn a_super_packet_that_is_longer_than_its_header_says_is_dropped() {
    isolated(|| {
        let lab = open_inspected();
        let mut frame = segment(OWN_CLIENT, OTHER_SERVER, 1001, 5001, ACK, 3000);
        let mut send = |length: u16| {
            frame[16..18].copy_from_slice(&length.to_be_bytes());
            let counts = || {
                let of = |counter| lab.counter(counter);
                (
                    of(Counter::Bypassed),
                    of(Counter::Punted),
                    lab.drops(DropReason::InvalidHeader),
                )
            };
            let before = counts();
            offload(&lab, Offload::segments_of(1000), &frame);
            let after = counts();
            (after.0 - before.0, after.1 - before.1, after.2 - before.2)
        };
        assert_eq!(send(3040), (0, 1, 0));
        assert_eq!(send(0), (0, 1, 0), "as the kernel says of more than 64 KiB");
        assert_eq!(send(40), (0, 0, 1), "taken for one without data");
        for length in [41, 1040, 3039, 3041] {
            assert_eq!(send(length), (0, 0, 1), "{length}");
        }
        lab.end();
    });
}
