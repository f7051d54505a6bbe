//! Frames that leave the kernel something to do: to cut them, to fill in a checksum. What it does comes after the verdict.

use super::{
    inspected::endpoint_socket,
    requests::{BASE, Talk},
    *,
};
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
    offer(lab, offload, frame);
    thread::sleep(Duration::from_millis(60));
}

/// The same without waiting.
fn offer(lab: &Lab, offload: Offload, frame: &[u8]) {
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

/// Has what leaves through the device of the node's side carry a whole checksum, as a network card without offload would.
fn fill_in_at(device: &str) {
    const ETHTOOL_STXCSUM: u32 = 0x17;
    let mut off = [ETHTOOL_STXCSUM, 0];
    // SAFETY: all-zero bytes are a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = off.as_mut_ptr().cast();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap_or_else(|_| UdpSocket::bind("0.0.0.0:0").unwrap());
    // SAFETY: the request and what it points to are live; the result is checked.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    assert_eq!(result, 0, "ETHTOOL_STXCSUM");
}

/// The frame, addressed to the node.
fn to_node(mut frame: Vec<u8>) -> Vec<u8> {
    let address = std::fs::read_to_string("/sys/class/net/cl0/address").unwrap();
    for (to, digits) in frame.iter_mut().zip(address.trim().split(':')) {
        *to = u8::from_str_radix(digits, 16).unwrap();
    }
    frame
}

/// Sum of the words, as checksums have it.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    u16::try_from(sum).unwrap()
}

/// Sets the word at this place, which is nought, so that the checksum from the transport's header on is `wanted`.
fn have_sum(frame: &mut [u8], at: usize, wanted: u16) {
    let missing = sum(&[(!wanted).to_be_bytes(), (!sum(&frame[34..])).to_be_bytes()].concat());
    frame[at..at + 2].copy_from_slice(&missing.to_be_bytes());
    assert_eq!(!sum(&frame[34..]), wanted);
}

/// Of what is sent the checksum from `start` on is to be filled in at `place`.
fn fill_in(start: usize, place: usize) -> Offload {
    Offload {
        flags: NEEDS_CHECKSUM,
        checksum_start: u16::try_from(start).unwrap(),
        checksum_offset: u16::try_from(place - start).unwrap(),
        ..Offload::default()
    }
}

/// The endpoint, and a server behind the node.
const FROM: frames::End = ("10.77.1.2", 40_000);
const SERVER_ADDRESS: &str = "10.77.2.2";

/// What the checksum of a datagram with four bytes counts beside it.
fn pseudo_header() -> u16 {
    sum(&[10, 77, 1, 2, 10, 77, 2, 2, 0, frames::UDP, 0, 12])
}

/// A datagram of the endpoint to this port. If its checksum from the transport's header on is filled in, in two bytes that are
/// there, it is `wanted`.
fn datagram(port: u16, wanted: u16) -> Vec<u8> {
    let mut frame = frames::frame(frames::UDP, FROM, (SERVER_ADDRESS, port), &frames::Wrapping::default());
    frame.truncate(42);
    frame.extend([0, 0, b'h', b'i']);
    let ip_sum = !sum(&frame[14..34]);
    frame[24..26].copy_from_slice(&ip_sum.to_be_bytes());
    have_sum(&mut frame, 42, wanted);
    to_node(frame)
}

#[test]
fn a_checksum_that_would_change_a_port_is_never_filled_in() {
    isolated(|| {
        let udp = |direction, port, verdict: PolicyVerdict| {
            let key = PolicyKey::new(1, IDENTITY_ANY, direction, frames::UDP, port);
            (POLICY_PREFIX_FULL, key, entry(verdict, 0))
        };
        let rows = [
            any(Direction::Ingress, PolicyVerdict::Allow),
            udp(Direction::Egress, 7000, PolicyVerdict::Allow),
        ];
        let lab = Lab::new(AttachMode::Auto, 1500, &rows);
        fill_in_at("sv0");
        let [allowed, denied] = [7000_u16, 7001].map(|port| {
            let socket = lab.server.run(move || UdpSocket::bind((SERVER_ADDRESS, port)).unwrap());
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            socket
        });
        offload(&lab, fill_in(34, 36), &datagram(7000, 7001));
        assert!(denied.recv(&mut [0; 100]).is_err(), "nobody may send to this port");
        assert_eq!(lab.drops(DropReason::ChecksumElsewhere), 1);
        let mut honest = datagram(7000, 0);
        honest[40..42].copy_from_slice(&pseudo_header().to_be_bytes());
        offload(&lab, fill_in(34, 40), &honest);
        assert_eq!(allowed.recv(&mut [0; 100]).unwrap(), 4, "at its own place");
        lab.end();
    });
}

/// Sends the frame as often as it has places for a checksum to be filled in, but those that the kernel itself refuses, and
/// compares which were dropped.
fn passes_only(lab: &Lab, frame: &[u8], is_fine: impl Fn(usize) -> bool) {
    const FIRST: usize = 20;
    let (fine, others): (Vec<_>, Vec<_>) = (FIRST..frame.len() - 1).partition(|place| is_fine(*place));
    for (places, dropped) in [(fine, 0), (others.clone(), others.len())] {
        let before = lab.drops(DropReason::ChecksumElsewhere);
        for place in places {
            offer(lab, fill_in(FIRST, place), frame);
        }
        thread::sleep(Duration::from_millis(60));
        let counted = lab.drops(DropReason::ChecksumElsewhere) - before;
        assert_eq!(counted, u64::try_from(dropped).unwrap(), "{frame:02x?}");
    }
}

#[test]
fn a_checksum_is_filled_in_where_its_transport_has_it_or_behind_all_that_is_judged() {
    isolated(|| {
        let mut lab = Lab::new(AttachMode::Auto, 1500, &[any(Direction::Egress, PolicyVerdict::Allow)]);
        let plain = frames::Wrapping::default();
        let v4 = |protocol| frames::frame(protocol, FROM, ("10.77.2.9", 7000), &plain);
        let wrapped = |protocol, number| {
            let wrapping = frames::Wrapping {
                tags: vec![(0x8100, 100)],
                extensions: vec![(number, vec![0, 0, 1, 4, 0, 0, 0, 0])],
                ..frames::Wrapping::default()
            };
            frames::frame(protocol, ("fd77:1::2", 40_000), ("fd77:2::9", 7000), &wrapping)
        };
        let mut tunnel = v4(frames::UDP);
        tunnel[23] = 47;
        let mut later = v4(frames::UDP);
        later[21] = 8;
        let mut arp = v4(frames::UDP);
        arp[13] = 6;
        for is_enforced in [true, false] {
            passes_only(&lab, &v4(TCP), |place| place == 50);
            passes_only(&lab, &v4(frames::UDP), |place| place == 40 || place >= 42);
            passes_only(&lab, &v4(frames::SCTP), |place| place == 42 || place >= 46);
            passes_only(&lab, &wrapped(frames::UDP, 0), |place| place == 72 || place >= 74);
            passes_only(&lab, &tunnel, |place| place >= 34);
            passes_only(&lab, &later, |place| place == 40 || place >= 34);
            passes_only(&lab, &arp, |_| false);
            passes_only(&lab, &frames::icmp_v6(128, "fd77:1::2", "fd77:2::9", &plain), |place| {
                place == 56
            });
            // A routing header, which is dropped for its own reason where something is enforced.
            passes_only(&lab, &wrapped(frames::UDP, 43), |_| is_enforced);
            let unmanaged = Endpoint {
                id: 1,
                identity: CLIENT,
                policy_id: 1,
                epoch: 2,
                flags: 0,
                name_scope: 0,
                audit_policy_id: 0,
            };
            lab.datapath.set_endpoint(lab.indices[0], unmanaged).unwrap();
        }
        lab.end();
    });
}

/// Where the letter of its path stands in the frame of a request.
const LETTER: usize = 59;

/// A request for `/a/17` that asks for `/b/17` once the checksum from the transport's header on is filled in at [`LETTER`].
fn request() -> Vec<u8> {
    let payload = b"GET /a/17 HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let mut frame = segment(OWN_CLIENT, OTHER_SERVER, BASE, 5001, ACK, payload.len());
    frame[54..].copy_from_slice(payload);
    let ip_sum = !sum(&frame[14..34]);
    frame[24..26].copy_from_slice(&ip_sum.to_be_bytes());
    // The urgent pointer, of which nobody takes notice.
    have_sum(&mut frame, 52, u16::from_be_bytes(*b"b/"));
    to_node(frame)
}

/// Device behind the node that is no endpoint's.
const OUTSIDE: &str = "outside0";

/// A socket that gets its frames.
fn listener() -> OwnedFd {
    let socket = device_socket(OUTSIDE);
    // SAFETY: all-zero bytes are a valid address.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
    address.sll_protocol = u16::try_from(libc::ETH_P_ALL).unwrap().to_be();
    address.sll_ifindex = i32::try_from(nix::net::if_::if_nametoindex(OUTSIDE).unwrap()).unwrap();
    let length = u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap();
    // SAFETY: passes a live address and its size.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    assert_eq!(bound, 0, "bind");
    nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
    socket
}

/// Paths of the requests that have come.
fn asked_for(socket: &OwnedFd) -> Vec<String> {
    let mut buffer = [0; 2000];
    let frames = std::iter::from_fn(|| {
        nix::unistd::read(socket, &mut buffer)
            .ok()
            .map(|len| buffer[..len].to_vec())
    });
    let requests = frames.filter_map(|frame| frame.get(54..)?.strip_prefix(b"GET ").map(<[u8]>::to_vec));
    requests
        .map(|rest| String::from_utf8_lossy(&rest[..5]).into_owned())
        .collect()
}

#[test]
fn a_checksum_that_would_change_a_judged_request_is_never_filled_in() {
    // Before, the engine judges them all.
    if verifier::release_of_kernel() < (5, 17) {
        return;
    }
    isolated(|| {
        let talk = Talk::open();
        ip(&format!(
            "link add out0 type veth peer name {OUTSIDE} netns {}",
            talk.lab.server.tid
        ));
        ip("link set out0 up");
        ip("route add 10.77.2.9/32 dev out0");
        ip("neigh replace 10.77.2.9 lladdr 02:00:00:00:00:09 dev out0");
        fill_in_at("out0");
        let socket = talk.lab.server.run(|| {
            ip(&format!("link set {OUTSIDE} up"));
            listener()
        });
        let frame = request();
        let counts = || {
            let lab = &talk.lab;
            (
                lab.counter(Counter::RequestAllowed),
                lab.drops(DropReason::ChecksumElsewhere),
            )
        };
        offload(&talk.lab, fill_in(34, LETTER), &frame);
        assert_eq!((asked_for(&socket), counts()), (vec![], (0, 1)));
        offload(&talk.lab, fill_in(34, 50), &frame);
        assert_eq!((asked_for(&socket), counts()), (vec!["/a/17".to_owned()], (1, 1)));
        talk.lab.end();
    });
}

#[test]
fn a_datagram_of_settled_quic_that_will_begin_otherwise_is_the_engines() {
    isolated(|| {
        let key = PolicyKey::new(1, IDENTITY_ANY, Direction::Egress, frames::UDP, 443);
        let rows = [
            any(Direction::Ingress, PolicyVerdict::Allow),
            (POLICY_PREFIX_FULL, key, entry(PolicyVerdict::Inspect, 7)),
        ];
        let lab = Lab::new(AttachMode::Auto, 1500, &rows);
        lab.client.run(|| endpoint_socket().send(SETTLE).unwrap());
        thread::sleep(Duration::from_millis(60));
        let punted = |place| {
            let before = lab.counter(Counter::Punted);
            let mut frame = datagram(443, 0);
            frame[42] = b'@';
            offload(&lab, fill_in(34, place), &frame);
            lab.counter(Counter::Punted) - before
        };
        assert_eq!([40, 42, 43, 44].map(punted), [0, 1, 1, 1]);
        lab.end();
    });
}
