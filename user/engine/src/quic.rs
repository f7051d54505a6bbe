//! One QUIC connection, from its first datagram to the server's answer.
//!
//! As over TLS (`tls`): the name in the ClientHello is judged, a second ClientHello must carry the same, and when the
//! server has accepted, or can no longer ask, nothing more is read. What differs: the pieces of a ClientHello come in
//! any order of packets, and a datagram cannot be let through before the whole is known, because who else reads it may
//! put pieces of several connections together otherwise than we do. So datagrams are held back until then, and go on
//! together. A client can send ten before it hears of the server (RFC 9002 §7.2), and so many are held.

use crate::tls::{HelloJudge, SeenHello, tls_reason};
use seventh_abi::DropReason;
use seventh_parsers::quic::{
    ConnectionId, CryptoStream, Initial, InitialKeys, Packet, QuicFault, Side, Version, read_frames, split_packet,
    split_packet_or_draft,
};
use seventh_parsers::tls::{Limits, ServerAnswer, ServerHelloScanner, read_hello};
use smallvec::SmallVec;

/// Datagrams of one connection that are held back: the initial window of RFC 9002 §7.2.
pub(crate) const HELD_DATAGRAMS_MAX: usize = 10;
/// Initial packets in one datagram at most. Clients and servers put one in a datagram, hardly ever two; each has to be
/// decrypted, and the smallest leave room for dozens.
const INITIALS_MAX: usize = 8;
/// `CONNECTION_CLOSE` with the TLS alert `unrecognized_name` (RFC 9000 §19.19, RFC 9001 §4.8), about a CRYPTO frame.
const CLOSE: &[u8] = &[0x1c, 0x41, 0x70, 0x06, 0x00];

/// Which versions are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Versions {
    /// Those that were published.
    Published,
    /// Drafts, too.
    AndDrafts,
}

/// A connection whose outcome is not settled.
#[derive(Debug)]
pub(crate) struct Attempt {
    version: Version,
    /// Destination of the client's first packet: what the keys are made of.
    pub(crate) original: ConnectionId,
    /// Source of that packet: where an answer goes.
    client: ConnectionId,
    handshake: CryptoStream,
    /// The client's packet number that would come next.
    next_number: u64,
    server: ServerHelloScanner,
    /// Bytes of the server's handshake that were read.
    server_read: u64,
    /// A second ClientHello was asked for.
    retry: bool,
    /// So many were allowed.
    hellos: u8,
    pub(crate) seen: Option<SeenHello>,
    /// Frames that wait for the verdict.
    pub(crate) held: Vec<Vec<u8>>,
}

/// What a client's datagram holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// Initial packets of the connection that is known; their pieces were taken.
    Known,
    /// Initial packets of a new connection under the same addresses and ports, which takes the place of the old.
    Another,
    /// None: early data, later packets.
    None,
}

impl Attempt {
    /// The attempt that `datagram` belongs to, or begins; its pieces of the handshake are taken. `known` is left as it
    /// was if the datagram is invalid.
    pub(crate) fn read(
        known: Option<&mut Self>,
        datagram: &[u8],
        versions: Versions,
    ) -> Result<(Opening, Option<Self>), DropReason> {
        let initials = initials_of(datagram, versions)?;
        let Some(first) = initials.first() else {
            return Ok((Opening::None, None));
        };
        if let Some(known) = known {
            match known.take(&initials) {
                Ok(()) => return Ok((Opening::Known, None)),
                // A Retry, or a client that begins anew, makes other keys.
                Err(DropReason::QuicUndecryptable) if first.destination != known.original => {}
                Err(reason) => return Err(reason),
            }
        }
        let mut fresh = Self::new(first);
        fresh.take(&initials)?;
        Ok((Opening::Another, Some(fresh)))
    }

    /// Judges the ClientHello if it is whole. True if every one that has begun was judged.
    pub(crate) fn judge(&mut self, limits: &Limits, judge: &mut dyn HelloJudge) -> Result<bool, DropReason> {
        // A client has at most two.
        while let Some(message) = self.handshake.client_hello(limits).map_err(tls_reason)? {
            let len = message.len();
            let hello = read_hello(message).map_err(tls_reason)?;
            judge.hello(&hello, self.seen.as_ref())?;
            self.seen = Some(SeenHello::of(&hello));
            self.hellos = self.hellos.saturating_add(1);
            self.handshake.advance(len);
        }
        Ok(self.hellos > 0 && self.handshake.is_read())
    }

    /// Whether the server can no longer ask for another ClientHello.
    pub(crate) const fn is_settled(&self) -> bool {
        self.retry && self.hellos > 1
    }

    /// Reads what the server sends; true if the connection is settled. What cannot be read is of no interest.
    pub(crate) fn read_reply(&mut self, datagram: &[u8]) -> bool {
        let versions = match self.version {
            Version::V1 | Version::V2 => Versions::Published,
            Version::Draft(_) => Versions::AndDrafts,
        };
        let initials = initials_of(datagram, versions).unwrap_or_default();
        let mut keys = Keys::new(Side::Server, self.original);
        let mut payload = Vec::new();
        for initial in initials {
            if keys.open(&initial, 0, &mut payload).is_err() {
                continue;
            }
            let mut answer = None;
            // Frames before an invalid one count.
            let _ = read_frames(&payload, |offset, data| {
                let known = usize::try_from(self.server_read.saturating_sub(offset)).unwrap_or(usize::MAX);
                if offset <= self.server_read
                    && let Some(new) = data.get(known..)
                {
                    self.server_read += new.len() as u64;
                    answer = answer.or(self.server.message_bytes(new));
                }
                Ok(())
            });
            match answer {
                Some(ServerAnswer::Accepted) => return true,
                Some(ServerAnswer::Retry) => self.retry = true,
                Some(ServerAnswer::Other) | None => {}
            }
        }
        self.is_settled()
    }

    /// Whether this is a packet of the same connection's beginning.
    pub(crate) fn is_repeated_by(&self, datagram: &[u8]) -> bool {
        matches!(split_packet(datagram), Ok((Packet::Initial(initial), _)) if initial.destination == self.original)
    }

    /// A datagram that tells the client why nobody answers, if it can still take one from the server's first packets.
    pub(crate) fn close(&self) -> Option<Vec<u8>> {
        if self.hellos > 0 {
            return None;
        }
        let keys = InitialKeys::new(self.version, Side::Server, &self.original);
        keys.seal(self.version, &self.client, &self.original, 0, CLOSE)
    }

    /// Memory held, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.handshake.held() + self.held.iter().map(Vec::capacity).sum::<usize>()
    }

    fn new(first: &Initial<'_>) -> Self {
        Self {
            version: first.version,
            original: first.destination,
            client: first.source,
            handshake: CryptoStream::new(),
            next_number: 0,
            server: ServerHelloScanner::new(),
            server_read: 0,
            retry: false,
            hellos: 0,
            seen: None,
            held: Vec::new(),
        }
    }

    /// Takes the handshake pieces of a datagram's packets; all or none.
    fn take(&mut self, initials: &[Initial<'_>]) -> Result<(), DropReason> {
        let mut payloads = Vec::with_capacity(initials.len());
        let mut keys = Keys::new(Side::Client, self.original);
        let mut next_number = self.next_number;
        for initial in initials {
            let mut payload = Vec::new();
            let number = keys.open(initial, next_number, &mut payload).map_err(quic_reason)?;
            next_number = next_number.max(number + 1);
            payloads.push(payload);
        }
        let mut handshake = self.handshake.clone();
        for payload in &payloads {
            read_frames(payload, |offset, data| handshake.insert(offset, data)).map_err(quic_reason)?;
        }
        self.handshake = handshake;
        self.next_number = next_number;
        Ok(())
    }
}

/// Whether every Initial packet in the client's datagram belongs to the connection with this first destination, and not
/// to its beginning: a server that has forgotten the connection would take one to that destination for another's first.
/// True if there is none: nothing begins then.
///
/// # Errors
/// Why the datagram cannot be read.
pub(crate) fn is_of(datagram: &[u8], original: Option<&ConnectionId>) -> Result<bool, DropReason> {
    let initials = initials_of(datagram, Versions::Published)?;
    let Some(original) = original else {
        return Ok(initials.is_empty());
    };
    let mut keys = Keys::new(Side::Client, *original);
    let mut payload = Vec::new();
    // Whatever number comes next: the client has sent a few Initial packets at most.
    Ok(initials
        .iter()
        .all(|initial| initial.destination != *original && keys.open(initial, 0, &mut payload).is_ok()))
}

/// Keys of one side's Initial packets of a connection, made once for each version that is met: that costs several times
/// what it costs to open a packet.
struct Keys {
    side: Side,
    original: ConnectionId,
    made: SmallVec<[(Version, InitialKeys); 1]>,
}

impl Keys {
    fn new(side: Side, original: ConnectionId) -> Self {
        Self {
            side,
            original,
            made: SmallVec::new(),
        }
    }

    /// [`InitialKeys::open`] with the keys of the packet's version.
    fn open(&mut self, initial: &Initial<'_>, expected: u64, payload: &mut Vec<u8>) -> Result<u64, QuicFault> {
        let version = initial.version;
        if let Some((_, keys)) = self.made.iter().find(|(made, _)| *made == version) {
            return keys.open(initial, expected, payload);
        }
        let keys = InitialKeys::new(version, self.side, &self.original);
        let number = keys.open(initial, expected, payload);
        self.made.push((version, keys));
        number
    }
}

/// The Initial packets of a datagram. All must be for the same connection (RFC 9000 §12.2).
fn initials_of(datagram: &[u8], versions: Versions) -> Result<Vec<Initial<'_>>, DropReason> {
    let mut initials: Vec<Initial<'_>> = Vec::new();
    let mut rest = datagram;
    while !rest.is_empty() {
        let split = match versions {
            Versions::Published => split_packet(rest),
            Versions::AndDrafts => split_packet_or_draft(rest),
        };
        let (packet, after) = split.map_err(quic_reason)?;
        match packet {
            Packet::Initial(initial) => {
                let other = initials
                    .first()
                    .is_some_and(|first| first.destination != initial.destination);
                if other {
                    return Err(DropReason::QuicBadPacket);
                }
                if initials.len() >= INITIALS_MAX {
                    return Err(DropReason::QuicHelloTooLong);
                }
                initials.push(initial);
            }
            // Behind another packet it is not read by anybody.
            Packet::UnknownVersion(_) if rest.len() == datagram.len() => return Err(DropReason::QuicUnknownVersion),
            Packet::UnknownVersion(_)
            | Packet::ZeroRtt
            | Packet::Handshake
            | Packet::Retry
            | Packet::VersionNegotiation
            | Packet::Short => {}
        }
        rest = after;
    }
    Ok(initials)
}

/// The drop reason of each fault.
pub const fn quic_reason(fault: QuicFault) -> DropReason {
    match fault {
        QuicFault::BadPacket => DropReason::QuicBadPacket,
        QuicFault::Undecryptable => DropReason::QuicUndecryptable,
        QuicFault::BadFrame | QuicFault::PiecesDiffer => DropReason::QuicBadHandshake,
        QuicFault::TooLarge => DropReason::QuicHelloTooLong,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Attempt, ConnectionId, DropReason, INITIALS_MAX, InitialKeys, Keys, Opening, Side, Version, Versions,
        initials_of, is_of,
    };

    fn id(byte: u8) -> ConnectionId {
        ConnectionId::new(&[byte; 8]).unwrap()
    }

    /// A datagram with so many Initial packets of the client, of these versions in turn.
    fn datagram(versions: &[Version], to: ConnectionId, count: usize) -> Vec<u8> {
        let packets = versions.iter().cycle().zip(0..).take(count).map(|(version, number)| {
            let keys = InitialKeys::new(*version, Side::Client, &id(7));
            keys.seal(*version, &to, &id(1), number, &[1; 20]).unwrap()
        });
        packets.collect::<Vec<_>>().concat()
    }

    #[test]
    fn keys_are_made_once_for_each_version_in_a_datagram() {
        for (versions, expected) in [(&[Version::V1][..], 1), (&[Version::V1, Version::V2], 2)] {
            let datagram = datagram(versions, id(7), INITIALS_MAX);
            let initials = initials_of(&datagram, Versions::Published).unwrap();
            assert_eq!(initials.len(), INITIALS_MAX);
            let mut keys = Keys::new(Side::Client, id(7));
            for (initial, number) in initials.iter().zip(0..) {
                assert_eq!(keys.open(initial, number, &mut Vec::new()), Ok(number));
            }
            assert_eq!(keys.made.len(), expected);
        }
    }

    #[test]
    fn a_datagram_with_more_initial_packets_than_anybody_sends_is_refused_unread() {
        let read = |count| {
            let begins = Attempt::read(None, &datagram(&[Version::V1], id(7), count), Versions::Published);
            let goes_on = is_of(&datagram(&[Version::V1], id(2), count), Some(&id(7)));
            (begins.map(|(opening, _)| opening), goes_on)
        };
        assert_eq!(read(INITIALS_MAX), (Ok(Opening::Another), Ok(true)));
        let too_many = DropReason::QuicHelloTooLong;
        assert_eq!(read(INITIALS_MAX + 1), (Err(too_many), Err(too_many)));
    }
}
