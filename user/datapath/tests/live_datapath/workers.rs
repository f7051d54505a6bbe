//! Without a worker: what needs no verdict passes, and the rest does not, however the gate is set, while the agent lives.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::Ordering,
    thread,
    time::Duration,
};

use seventh_abi::{Counter, Direction, DropReason, PolicyKey, PolicyVerdict, WORKERS_MAX};
use seventh_datapath::{AttachMode, Datapath, Settings};

use super::{CLIENT, Lab, any, echo_once, frames::UDP, isolated, row};

/// A connection to an inspected port, whose bytes nobody reads: whether they arrive all the same.
fn bytes_pass_unread(lab: &Lab) -> bool {
    let address: SocketAddr = "10.77.2.2:8080".parse().unwrap();
    let got = lab.server.spawn(move || {
        let listener = TcpListener::bind(address).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        stream.read(&mut [0; 16]).is_ok()
    });
    thread::sleep(Duration::from_millis(50));
    let mut stream = lab.client.run(move || TcpStream::connect(address)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    got.join().unwrap()
}

impl Lab {
    /// The worker's thread ends, and with it its socket; the agent goes on.
    fn end_worker(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.worker.take().unwrap().join().unwrap();
        self.worker = Some(thread::spawn(|| ()));
    }
}

#[test]
fn without_a_worker_inspected_flows_are_dropped_and_others_are_not() {
    isolated(|| {
        let mut lab = Lab::new(
            AttachMode::Auto,
            1500,
            &[
                any(Direction::Egress, PolicyVerdict::Allow),
                row(Direction::Ingress, CLIENT, 8080, PolicyVerdict::Inspect),
                row(Direction::Ingress, CLIENT, 8081, PolicyVerdict::Allow),
            ],
        );
        lab.end_worker();
        assert_eq!(echo_once(&lab, "10.77.2.2:8081".parse().unwrap(), 1000), 1000);
        assert!(!bytes_pass_unread(&lab), "bytes passed without a verdict");
        assert!(lab.drops(DropReason::NoWorker) >= 1);
        lab.end();
    });
}

#[test]
fn a_gate_that_opens_without_an_agent_stays_closed_while_the_agent_lives() {
    isolated(|| {
        let settings = Settings {
            open_without_agent: true,
            ..Settings::default()
        };
        let inspected = row(Direction::Ingress, CLIENT, 8080, PolicyVerdict::Inspect);
        let datagrams = PolicyKey::new(1, CLIENT, Direction::Ingress, UDP, 8080);
        let rows = [
            any(Direction::Egress, PolicyVerdict::Allow),
            inspected,
            (inspected.0, datagrams, inspected.2),
        ];
        let mut lab = Lab::with(settings, 1500, &rows);
        // Its frames go to a socket that nobody reads, until the ring is full and beyond.
        lab.end_worker();
        assert!(!bytes_pass_unread(&lab), "a dead worker opens nothing");
        for _ in 0..20 {
            lab.client.run(|| {
                let socket = UdpSocket::bind("10.77.1.2:0").unwrap();
                for _ in 0..500 {
                    let _ = socket.send_to(b"x", "10.77.2.2:8080");
                }
            });
        }
        assert!(lab.counter(Counter::Punted) > 5000, "more than the ring holds");
        assert!(!bytes_pass_unread(&lab), "a full ring opens nothing");
        assert_eq!(lab.counter(Counter::PassedUnread), 0);
        lab.end();
    });
}

#[test]
fn however_many_devices_earlier_agents_had_the_next_one_starts() {
    isolated(|| {
        let settings = Settings {
            workers: WORKERS_MAX,
            ..Settings::default()
        };
        let mut lab = Lab::with(settings.clone(), 1500, &[]);
        lab.end_worker();
        let Lab {
            datapath,
            runtime,
            _dir,
            ..
        } = lab;
        runtime.block_on(datapath.stop(true)).unwrap();
        let settings = Settings {
            bpffs: _dir.path().join("seventh"),
            ..settings
        };
        let (next, _channels) = runtime.block_on(Datapath::start(settings)).unwrap();
        runtime.block_on(next.stop(false)).unwrap();
    });
}
