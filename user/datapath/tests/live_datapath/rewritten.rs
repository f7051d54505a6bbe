//! An endpoint that sends out of memory in which it goes on to write: what was judged is what arrives.

use super::{
    inspected::{cut_into, endpoint_socket},
    *,
};
use std::os::fd::AsRawFd as _;

/// Sends the bytes without copying them.
fn send_in_place(socket: &UdpSocket, memory: &[u8]) {
    let (from, to) = nix::unistd::pipe().unwrap();
    let piece = libc::iovec {
        iov_base: memory.as_ptr().cast_mut().cast(),
        iov_len: memory.len(),
    };
    // SAFETY: the memory is only read, and lives longer than whoever receives it here needs it.
    let given = unsafe { libc::vmsplice(to.as_raw_fd(), &raw const piece, 1, 0) };
    assert_eq!(given, memory.len().cast_signed(), "vmsplice");
    let none = std::ptr::null_mut;
    // SAFETY: both descriptors are open; no offsets are passed.
    let sent = unsafe { libc::splice(from.as_raw_fd(), none(), socket.as_raw_fd(), none(), memory.len(), 0) };
    assert_eq!(sent, given, "splice");
}

/// Sends such a datagram, or one that is cut into pieces of 100 bytes, has it decided, and begins the last piece anew. What the
/// pieces begin with that arrive.
fn begin_anew(lab: &Lab, listener: &UdpSocket, len: usize, is_cut: bool) -> Vec<u8> {
    lab.client.run(move || {
        let mut memory = vec![b'@'; len];
        let socket = endpoint_socket();
        if is_cut {
            cut_into(&socket, 100);
        }
        send_in_place(&socket, &memory);
        thread::sleep(Duration::from_millis(60));
        let last = if is_cut { (len - 1) / 100 * 100 } else { 0 };
        let first: *mut u8 = &raw mut memory[last];
        // SAFETY: inside the memory. Nobody here reads it any more, so the compiler would leave another kind of write out.
        unsafe { first.write_volatile(0xc0) };
        // It is not given to anybody else before it has arrived.
        std::mem::forget(memory);
    });
    let mut buffer = [0; 2000];
    let firsts = std::iter::from_fn(|| listener.recv(&mut buffer).ok().map(|_| buffer[0]));
    firsts.collect()
}

#[test]
fn a_datagram_that_passed_as_settled_quic_does_not_get_a_long_header_afterwards() {
    isolated(|| {
        let key = PolicyKey::new(1, IDENTITY_ANY, Direction::Egress, 17, 443);
        let rows = [
            any(Direction::Ingress, PolicyVerdict::Allow),
            (POLICY_PREFIX_FULL, key, entry(PolicyVerdict::Inspect, 7)),
        ];
        let lab = Lab::new(AttachMode::Auto, 1500, &rows);
        let listener = lab.server.run(|| UdpSocket::bind("10.77.2.2:443").unwrap());
        listener.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        lab.client.run(|| endpoint_socket().send(SETTLE).unwrap());
        assert_eq!(listener.recv(&mut [0; 100]).unwrap(), SETTLE.len());
        assert_eq!(begin_anew(&lab, &listener, 1000, false), [b'@']);
        assert_eq!(begin_anew(&lab, &listener, 950, true), [b'@'; 10]);
        assert_eq!(begin_anew(&lab, &listener, 6000, true), [b'@'; 60]);
        assert_eq!(
            lab.counter(Counter::Punted),
            1,
            "all but the first passed in the kernel"
        );
        lab.end();
    });
}
