//! Single packets to any port and of any kind, and whether they got through: what L3 and L4 rules decide about.

use std::{
    io::{self, Read as _},
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// An answer comes within this time or never.
const WAIT: Duration = Duration::from_millis(600);
/// Types of ICMP, the last of version 6.
pub(crate) const ECHO: u8 = 8;
pub(crate) const TIMESTAMP: u8 = 13;
pub(crate) const ECHO_V6: u8 = 128;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Knock {
    Tcp(u16),
    Udp(u16),
    Icmp(u8),
}

/// Answers on these ports of all addresses of this thread's network namespace until the process ends.
pub(crate) fn answer(tcp: &[u16], udp: &[u16]) -> io::Result<()> {
    for port in tcp {
        let listener = TcpListener::bind(("::", *port))?;
        // A connection that was made is the answer.
        thread::spawn(move || listener.incoming().for_each(drop));
    }
    for port in udp {
        let socket = UdpSocket::bind(("::", *port))?;
        thread::spawn(move || {
            let mut byte = [0];
            while let Ok((length, from)) = socket.recv_from(&mut byte) {
                // The asker may be gone.
                let _ = socket.send_to(&byte[..length], from);
            }
        });
    }
    Ok(())
}

/// Whether an answer comes; sends from `source`, if one is given.
pub(crate) fn knock(source: Option<IpAddr>, target: IpAddr, what: Knock) -> Result<bool> {
    match what {
        Knock::Tcp(port) => {
            let socket = socket(source, target, Type::STREAM, Protocol::TCP)?;
            let connected = socket.connect_timeout(&SocketAddr::new(target, port).into(), WAIT);
            match connected.map_err(|e| e.kind()) {
                Ok(()) => Ok(true),
                Err(io::ErrorKind::TimedOut) => Ok(false),
                Err(other) => Err(io::Error::from(other).into()),
            }
        }
        Knock::Udp(port) => {
            let socket = socket(source, target, Type::DGRAM, Protocol::UDP)?;
            socket.connect(&SocketAddr::new(target, port).into())?;
            socket.send(&[7])?;
            Ok(read(&socket)?.is_some())
        }
        Knock::Icmp(kind) => icmp(source, target, kind),
    }
}

fn socket(source: Option<IpAddr>, target: IpAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(SocketAddr::new(target, 0)), kind, Some(protocol))?;
    socket.set_read_timeout(Some(WAIT))?;
    if let Some(source) = source {
        socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
    }
    Ok(socket)
}

/// The next datagram, or `None` if none comes in time.
fn read(mut socket: &Socket) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0; 256];
    match socket.read(&mut buffer) {
        Ok(length) => {
            buffer.truncate(length);
            Ok(Some(buffer))
        }
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Sends a request of this type and waits for the answer with the same identifier.
fn icmp(source: Option<IpAddr>, target: IpAddr, kind: u8) -> Result<bool> {
    const ID: [u8; 2] = [0x53, 0x76];
    let v4 = target.is_ipv4();
    let protocol = if v4 { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
    let socket = socket(source, target, Type::RAW, protocol)?;
    let mut message = [0; 20];
    message[0] = kind;
    message[4..6].copy_from_slice(&ID);
    if v4 {
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum);
    }
    socket.send_to(&message, &SocketAddr::new(target, 0).into())?;
    let deadline = Instant::now() + WAIT;
    while Instant::now() < deadline {
        let Some(packet) = read(&socket)? else { break };
        // IPv4 hands out the IP header as well.
        let start = if v4 { usize::from(packet[0] & 15) * 4 } else { 0 };
        let Some([answer, _, _, _, a, b, ..]) = packet.get(start..) else {
            continue;
        };
        if *answer != kind && [*a, *b] == ID {
            return Ok(true);
        }
    }
    Ok(false)
}

/// RFC 1071.
fn checksum(message: &[u8]) -> [u8; 2] {
    let sum: u32 = message
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!u16::try_from(folded).unwrap()).to_be_bytes()
}
