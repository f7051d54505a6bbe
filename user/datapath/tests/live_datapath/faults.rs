//! Tables that have no room left.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use seventh_abi::{
    Direction, FlowFlags, FlowKey, FlowState, IpcacheEntry, POLICY_PREFIX_FULL, PUNT_IFINDEX_MAX, PolicyKey,
    PolicyVerdict, Verdict, mapped,
};
use seventh_datapath::{AttachMode, IpcachePrefix, Settings};

use super::{CLIENT, Lab, any, echo_once, entry, ip, isolated, row};

#[test]
fn a_device_whose_index_cannot_be_told_beside_a_frame_is_not_enforced_under_another_ones() {
    isolated(|| {
        let mut lab = Lab::with(Settings::default(), 1500, &[]);
        let (last, beyond) = (PUNT_IFINDEX_MAX, PUNT_IFINDEX_MAX + 1);
        for (name, index) in [("last", last), ("beyond", beyond)] {
            ip(&format!("link add {name} index {index} type veth peer name {name}x"));
        }
        let endpoint = lab.datapath.endpoints()[&lab.indices[0]];
        lab.datapath.set_endpoint(last, endpoint).unwrap();
        assert_eq!(lab.datapath.attach_endpoint("last").unwrap(), last);
        let refused = lab.datapath.attach_endpoint("beyond").unwrap_err().to_string();
        assert!(
            refused.contains(&beyond.to_string()) && refused.contains("restarted"),
            "{refused}"
        );
        lab.end();
    });
}

#[test]
fn a_full_table_of_rules_or_of_addresses_refuses_what_is_new_and_keeps_what_is_in_force() {
    isolated(|| {
        let settings = Settings {
            attach: AttachMode::Auto,
            policy_entries_max: 4,
            ipcache_entries_max: 4,
            ..Settings::default()
        };
        let rows = [
            any(Direction::Egress, PolicyVerdict::Allow),
            row(Direction::Ingress, CLIENT, 8080, PolicyVerdict::Allow),
        ];
        let mut lab = Lab::with(settings, 1500, &rows);
        let address: SocketAddr = "10.77.2.2:8080".parse().unwrap();
        assert_eq!(echo_once(&lab, address, 1000), 1000);
        let next = (9000..9010).map(|port| {
            let (bits, key, entry) = row(Direction::Ingress, CLIENT, port, PolicyVerdict::Allow);
            (
                bits,
                PolicyKey {
                    policy_id: 2_u32.to_be_bytes(),
                    ..key
                },
                entry,
            )
        });
        let full = lab.datapath.write_policy(next).unwrap_err().to_string();
        assert!(full.contains("POLICY"), "{full}");
        assert_eq!(echo_once(&lab, address, 1000), 1000, "the policy before");
        lab.datapath.retain_policies().unwrap();
        let mut left = lab.datapath.policy_rows().unwrap();
        left.sort_by_key(|(bits, ..)| *bits);
        assert_eq!(left, rows.to_vec(), "what was begun is gone, the rest is there");
        let stranger = IpcachePrefix {
            addr: mapped("10.99.9.9".parse().unwrap()),
            prefix_len: 128,
        };
        let entry = IpcacheEntry {
            identity: 3,
            ifindex: 0,
        };
        let full = lab.datapath.add_to_ipcache(stranger, entry).unwrap_err().to_string();
        assert!(full.contains("IPCACHE"), "{full}");
        assert_eq!(lab.datapath.ipcache().unwrap().len(), 4);
        assert_eq!(echo_once(&lab, address, 1000), 1000, "who was known before");
        lab.end();
    });
}

/// A connection of the client; the server sends back what comes.
fn connection(lab: &Lab, address: SocketAddr) -> TcpStream {
    let (tell, told) = mpsc::channel();
    lab.server.spawn(move || {
        let listener = TcpListener::bind(address).unwrap();
        tell.send(()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = [0; 100];
        while let Ok(length @ 1..) = stream.read(&mut bytes) {
            stream.write_all(&bytes[..length]).unwrap();
        }
    });
    told.recv().unwrap();
    let stream = lab.client.run(move || TcpStream::connect(address)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    stream
}

/// Whether a word comes back.
fn answers(stream: &mut TcpStream) -> bool {
    let mut back = [0; 4];
    stream.write_all(b"word").unwrap();
    stream.read_exact(&mut back).is_ok_and(|()| &back == b"word")
}

#[test]
fn when_the_table_of_flows_is_full_allowed_connections_go_on_and_inspected_ones_only_if_they_are_known() {
    const FLOWS: u32 = 1024;
    isolated(|| {
        let settings = Settings {
            attach: AttachMode::Auto,
            flows_max: FLOWS,
            ..Settings::default()
        };
        let every_port = PolicyKey::new(1, CLIENT, Direction::Ingress, 17, 0);
        let rows = [
            any(Direction::Egress, PolicyVerdict::Allow),
            row(Direction::Ingress, CLIENT, 8080, PolicyVerdict::Allow),
            row(Direction::Ingress, CLIENT, 8081, PolicyVerdict::Inspect),
            (POLICY_PREFIX_FULL - 16, every_port, entry(PolicyVerdict::Allow, 0)),
        ];
        let lab = Lab::with(settings, 1500, &rows);
        let mut allowed = connection(&lab, "10.77.2.2:8080".parse().unwrap());
        let mut inspected = connection(&lab, "10.77.2.2:8081".parse().unwrap());
        assert!(answers(&mut allowed) && answers(&mut inspected));
        let processors = thread::available_parallelism().unwrap().get();
        for round in 0..4_u16 {
            // One datagram to each of so many ports: as many flows, at either endpoint.
            lab.client.run(move || {
                // The kernel keeps a part of the table for each processor.
                let mut processor = CpuSet::new();
                processor.set(usize::from(round) % processors).unwrap();
                sched_setaffinity(Pid::from_raw(0), &processor).unwrap();
                let socket = UdpSocket::bind("10.77.1.2:0").unwrap();
                for port in 0..2000 {
                    socket
                        .send_to(b"x", ("10.77.2.2", 10_000 + 2000 * round + port))
                        .unwrap();
                }
            });
            assert!(answers(&mut allowed), "round {round}");
        }
        thread::sleep(Duration::from_millis(100));
        let flows = lab.datapath.flows(10_000);
        assert!(flows.len() <= FLOWS as usize, "{}", flows.len());
        // The kernel looks at a part of its table when it forgets: which entry goes is not exactly known.
        let is_known = |key: &FlowKey, flow: &FlowState| {
            key.local_port == 8081 && flow.verdict == Verdict::Inspect as u8 && flow.flags & FlowFlags::BASE_VALID != 0
        };
        let known = flows.iter().any(|(key, flow)| is_known(key, flow));
        assert_eq!(answers(&mut inspected), known, "where it stands must be known");
        assert!(answers(&mut allowed));
        drop((allowed, inspected));
        lab.end();
    });
}
