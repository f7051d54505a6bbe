//! smoltcp's TCP as the other side: a stack that others have written.

use crate::wire::{ACK, PSH, RST, SYN, Shape};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{HardwareAddress, IpCidr, Ipv4Address};
use std::collections::VecDeque;
use std::fmt;

const MTU: usize = 9216;
const BUFFER: usize = 64 << 10;

/// A server's stack with one connection to it.
pub(crate) struct Stack {
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    now: Instant,
    shape: Shape,
    base: u32,
    /// Its first sequence number of data.
    own_base: u32,
}

/// Packets to it and from it.
#[derive(Debug, Default)]
struct Wire {
    arriving: VecDeque<Vec<u8>>,
    leaving: Vec<Vec<u8>>,
}

struct Arriving(Vec<u8>);
struct Leaving<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for Arriving {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push(packet);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Arriving;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Arriving, Leaving<'_>)> {
        let packet = self.arriving.pop_front()?;
        Some((Arriving(packet), Leaving(&mut self.leaving)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Leaving<'_>> {
        Some(Leaving(&mut self.leaving))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        capabilities
    }
}

impl Stack {
    /// A connection whose opener's first byte has the number `base`.
    pub(crate) fn new(shape: &Shape, base: u32) -> Self {
        let mut wire = Wire::default();
        let now = Instant::from_millis(1);
        let mut interface = Interface::new(Config::new(HardwareAddress::Ip), &mut wire, now);
        let [.., a, b, c, d] = shape.destination;
        interface.update_ip_addrs(|addresses| {
            addresses
                .push(IpCidr::new(Ipv4Address::new(a, b, c, d).into(), 24))
                .unwrap();
        });
        let mut socket = Socket::new(SocketBuffer::new(vec![0; BUFFER]), SocketBuffer::new(vec![0; BUFFER]));
        socket.listen(shape.destination_port).unwrap();
        socket.set_timeout(None);
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        let mut stack = Self {
            wire,
            interface,
            sockets,
            handle,
            now,
            shape: shape.clone(),
            base,
            own_base: 0,
        };
        stack.packet(base.wrapping_sub(1), 0, SYN, &[]);
        let answer = stack.wire.leaving.pop().expect("SYN, ACK");
        stack.own_base = u32::from_be_bytes(answer[24..28].try_into().unwrap()).wrapping_add(1);
        stack.packet(base, stack.own_base, ACK, &[]);
        assert_eq!(stack.socket().state(), State::Established);
        stack
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    fn packet(&mut self, seq: u32, ack: u32, flags: u8, payload: &[u8]) {
        let meta = crate::wire::punt(seventh_abi::Hook::ToEndpoint, 1);
        let frame = self.shape.frame(&meta, seq, ack, flags, payload);
        // Without the Ethernet header.
        self.wire.arriving.push_back(frame[14..].to_vec());
        self.now += Duration::from_millis(1);
        self.interface.poll(self.now, &mut self.wire, &mut self.sockets);
    }

    #[expect(clippy::cast_sign_loss, reason = "sequence numbers wrap")]
    fn seq(&self, offset: i64) -> u32 {
        self.base.wrapping_add(offset as u32)
    }

    /// Takes data at `offset`: what its application can read now.
    pub(crate) fn data(&mut self, offset: i64, bytes: &[u8]) -> Vec<u8> {
        let seq = self.seq(offset);
        self.wire.leaving.clear();
        self.packet(seq, self.own_base, ACK | PSH, bytes);
        let mut read = Vec::new();
        let socket = self.socket();
        while socket.can_recv() {
            socket
                .recv(|data| {
                    read.extend_from_slice(data);
                    (data.len(), ())
                })
                .unwrap();
        }
        read
    }

    /// Whether the connection has ended by this reset.
    pub(crate) fn reset(&mut self, offset: i64) -> bool {
        let seq = self.seq(offset);
        self.packet(seq, self.own_base, RST | ACK, &[]);
        self.socket().state() == State::Closed
    }
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack")
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}
