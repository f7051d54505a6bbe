//! Frames that show that the way from the kernel to a worker is open: sent at the near end of a punt pair as the kernel's
//! programs do, they have to arrive at the worker's socket.

use std::{
    io, mem,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use seventh_abi::{Hook, PuntMeta};

use crate::punt_pair::PuntPair;

/// For experiments of a single network (IEEE 802); the kernel's programs punt only what is IP.
const ETHER_TYPE: u16 = 0x88b5;
/// Metadata, type, number.
const TYPE_AT: usize = 12;
const NUMBER_AT: usize = 14;
#[expect(
    clippy::cast_possible_truncation,
    reason = "the C library has a small constant in a wider type"
)]
const FAMILY: u16 = libc::AF_PACKET as u16;
#[expect(clippy::cast_possible_truncation, reason = "a few bytes")]
const ADDRESS_LEN: libc::socklen_t = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
/// As short as an Ethernet frame may be.
const FRAME_LEN: usize = 60;

/// Sends probes to all workers.
#[derive(Debug)]
pub struct Prober {
    socket: OwnedFd,
    near_ifindexes: Vec<u32>,
}

impl Prober {
    pub(crate) fn new(pairs: &[PuntPair]) -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: takes no memory. Of protocol 0, it receives nothing.
        let raw = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            // SAFETY: the descriptor is new and nobody else's.
            socket: unsafe { OwnedFd::from_raw_fd(raw) },
            near_ifindexes: pairs.iter().map(|pair| pair.near_ifindex).collect(),
        })
    }

    /// Sends a probe to every worker, which shows its number in [`crate::ChannelStats::probed`] when it has got it.
    ///
    /// # Errors
    /// One that could not be sent; the others were.
    pub fn send(&self, number: u64) -> io::Result<()> {
        let sent: Vec<io::Result<()>> = self
            .near_ifindexes
            .iter()
            .map(|near| self.send_to(*near, number))
            .collect();
        sent.into_iter().collect()
    }

    fn send_to(&self, near_ifindex: u32, number: u64) -> io::Result<()> {
        let frame = frame(number);
        // SAFETY: plain data, of which zeros are a value.
        let mut to: libc::sockaddr_ll = unsafe { mem::zeroed() };
        to.sll_family = FAMILY;
        to.sll_protocol = ETHER_TYPE.to_be();
        to.sll_ifindex = near_ifindex.cast_signed();
        // SAFETY: the kernel reads the frame and the address, whose lengths we give; both outlive the call.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                ADDRESS_LEN,
            )
        };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

fn frame(number: u64) -> [u8; FRAME_LEN] {
    let meta = PuntMeta {
        hook: Hook::FromEndpoint,
        ifindex: 0,
        base_seq: None,
        acked_seq: None,
        reply_idle: false,
        closed: false,
        reply: false,
        frontier: None,
        compared_to: None,
        clean: false,
    };
    let mut frame = [0; FRAME_LEN];
    let parts = meta.encode().into_iter().chain(ETHER_TYPE.to_be_bytes());
    for (to, from) in frame.iter_mut().zip(parts.chain(number.to_be_bytes())) {
        *to = from;
    }
    frame
}

/// The number, if the frame is a probe: no endpoint's device has index 0.
pub(crate) fn number(frame: &[u8]) -> Option<u64> {
    let meta = frame.first_chunk().and_then(PuntMeta::decode)?;
    if meta.ifindex != 0 || frame.get(TYPE_AT..NUMBER_AT)? != ETHER_TYPE.to_be_bytes() {
        return None;
    }
    Some(u64::from_be_bytes(*frame.get(NUMBER_AT..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::{frame, number};
    use seventh_abi::PuntMeta;

    #[test]
    fn a_probe_has_what_the_kernel_asks_for_and_is_told_from_frames_of_endpoints() {
        let probe = frame(u64::MAX - 3);
        let meta = PuntMeta::decode(probe.first_chunk().unwrap()).unwrap();
        assert_eq!((meta.ifindex, number(&probe)), (0, Some(u64::MAX - 3)));
        let mut other = probe;
        other[12..14].copy_from_slice(&0x0800_u16.to_be_bytes());
        assert_eq!(number(&other), None);
        let mut punted = probe;
        let of_endpoint = PuntMeta { ifindex: 5, ..meta };
        punted[..12].copy_from_slice(&of_endpoint.encode());
        assert_eq!(number(&punted), None, "whatever stands in place of its type");
        assert_eq!((number(&probe[..13]), number(&probe[..20])), (None, None));
    }
}
