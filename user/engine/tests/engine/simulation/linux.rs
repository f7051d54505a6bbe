//! Linux's TCP as the other side: a server in a network namespace of its own, behind a TUN device that gets the very
//! packets that left the gate. Needs root.

use crate::wire::{ACK, SYN, Shape};
use nix::sched::{CloneFlags, unshare};
use smoltcp::phy::{Device, Medium, RxToken, TunTapInterface, TxToken};
use smoltcp::time::Instant;
use std::cell::RefCell;
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

/// The device and the server, for one connection after the other.
pub(crate) struct Host {
    tun: TunTapInterface,
    listeners: [TcpListener; 2],
}

/// A connection to it.
pub(crate) struct Linux {
    host: Rc<RefCell<Host>>,
    stream: TcpStream,
    /// Its first sequence number of data.
    pub(crate) own_base: u32,
}

impl Host {
    /// Moves the calling thread into a new network namespace.
    pub(crate) fn new() -> Rc<RefCell<Self>> {
        unshare(CloneFlags::CLONE_NEWNET).expect("root is needed for a network namespace");
        let tun = TunTapInterface::new("tun0", Medium::Ip).expect("a TUN device");
        for command in [
            "addr add 10.0.0.2/24 dev tun0",
            "link set dev tun0 mtu 9000",
            "link set dev tun0 up",
        ] {
            let done = Command::new("ip").args(command.split(' ')).status().unwrap();
            assert!(done.success(), "ip {command}");
        }
        let listeners = [80, 443].map(|port| {
            let listener = TcpListener::bind(("10.0.0.2", port)).unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        });
        Rc::new(RefCell::new(Self { tun, listeners }))
    }

    fn send(&mut self, packet: &[u8]) {
        let token = self.tun.transmit(Instant::ZERO).expect("the device takes a packet");
        token.consume(packet.len(), |buffer| buffer.copy_from_slice(packet));
    }

    /// Packets of the host that are waiting.
    fn receive(&mut self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        while let Some((token, _)) = self.tun.receive(Instant::ZERO) {
            packets.push(token.consume(<[u8]>::to_vec));
        }
        packets
    }

    /// Answers of the host to the opener of `shape`: their sequence numbers and flags.
    fn answers(&mut self, shape: &Shape) -> Vec<(u32, u8)> {
        let packets = self.receive();
        let ours = packets.iter().filter(|packet| {
            packet.len() >= 40
                && packet[0] == 0x45
                && packet[9] == 6
                && packet[22..24] == shape.source_port.to_be_bytes()
        });
        ours.map(|packet| (u32::from_be_bytes(packet[24..28].try_into().unwrap()), packet[33]))
            .collect()
    }
}

impl Linux {
    /// A connection whose opener's first byte has the number `base`.
    pub(crate) fn new(host: Rc<RefCell<Host>>, shape: &Shape, base: u32) -> Self {
        let meta = crate::wire::punt(seventh_abi::Hook::ToEndpoint, 1);
        let mut this = host.borrow_mut();
        this.send(&shape.frame(&meta, base.wrapping_sub(1), 0, SYN, &[])[14..]);
        let own_base = patiently(|| {
            let answers = this.answers(shape);
            let accepted = answers.iter().find(|(_, flags)| *flags == SYN | ACK);
            accepted.map(|(seq, _)| seq.wrapping_add(1))
        });
        this.send(&shape.frame(&meta, base, own_base, ACK, &[])[14..]);
        let listener = &this.listeners[usize::from(shape.destination_port == 443)];
        let stream = patiently(|| match listener.accept() {
            Ok((stream, _)) => Some(stream),
            Err(e) if e.kind() == ErrorKind::WouldBlock => None,
            Err(e) => panic!("accept: {e}"),
        });
        stream.set_nonblocking(true).unwrap();
        drop(this);
        Self { host, stream, own_base }
    }

    /// The application sends. A connection that has been reset takes nothing.
    pub(crate) fn says(&mut self, bytes: &[u8]) {
        match self.stream.write(bytes) {
            Ok(_) => {}
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
                ) => {}
            Err(e) => panic!("write: {e}"),
        }
        self.host.borrow_mut().receive();
    }

    /// Takes a packet: what the application can read now, and whether the connection has been reset.
    pub(crate) fn packet(&mut self, packet: &[u8]) -> (Vec<u8>, bool) {
        let mut host = self.host.borrow_mut();
        host.send(packet);
        host.receive();
        let mut read = Vec::new();
        let mut buffer = [0; 16 << 10];
        loop {
            match self.stream.read(&mut buffer) {
                // The opener's FIN.
                Ok(0) => return (read, false),
                Ok(len) => read.extend_from_slice(&buffer[..len]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return (read, false),
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return (read, true),
                Err(e) => panic!("read: {e}"),
            }
        }
    }
}

impl fmt::Debug for Linux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Linux")
            .field("own_base", &self.own_base)
            .finish_non_exhaustive()
    }
}

/// The host works on another CPU at times.
fn patiently<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    for _ in 0..2000 {
        if let Some(done) = attempt() {
            return done;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("the host does not answer");
}
