//! Which protocol is it? Told by the first bytes, for those who look on.

use crate::dns::DnsRefusal;
use crate::shared::EngineLimits;
use seventh_parsers::http1::METHOD_LEN_MAX;
use seventh_parsers::{http1, tls};

/// Record type and versions of TLS, length of the record, type of the message.
const TLS_LOOK_LEN: usize = 6;
/// Length, and a header.
const DNS_LOOK_LEN: usize = 14;
const DNS_PORT: u16 = 53;
/// The shortest method that is registered has three letters; where the beginning is missing, fewer are the end of one.
const METHOD_LEN_MIN: u8 = 3;

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Any,
    Http,
    Dns,
    Tls,
}

/// What the bytes are known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Http,
    Dns,
    Tls,
    /// Too few bytes.
    Unclear,
    Nothing,
}

/// What an inspector needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wants {
    pub(crate) http: http1::Limits,
    pub(crate) tls: tls::Limits,
    pub(crate) dns_refusal: DnsRefusal,
}

/// Looks at the first bytes of a connection, or at those behind a place where track of it was lost.
#[derive(Debug)]
pub(crate) struct Sniffer {
    wanted: Wanted,
    pub(crate) limits: Wants,
    pending: usize,
}

impl Sniffer {
    pub(crate) const fn new(wanted: Wanted, limits: &EngineLimits) -> Self {
        Self {
            wanted,
            limits: Wants {
                http: limits.http,
                tls: limits.tls,
                dns_refusal: limits.dns_refusal,
            },
            pending: 0,
        }
    }

    /// Bytes that were too few so far; fewer than 64.
    pub(crate) const fn pending(&self) -> usize {
        self.pending
    }

    /// Looks at what is `pending` and what is new, of a connection to this port.
    pub(crate) fn look(&mut self, pending: &[u8], new: &[u8], port: u16) -> Found {
        let bytes = || pending.iter().chain(new).copied();
        let wants = |wanted| self.wanted == wanted || self.wanted == Wanted::Any;
        let answers = [
            if wants(Wanted::Tls) {
                tls(bytes())
            } else {
                Found::Nothing
            },
            if wants(Wanted::Http) {
                http(bytes())
            } else {
                Found::Nothing
            },
            if wants(Wanted::Dns) {
                dns(bytes(), port)
            } else {
                Found::Nothing
            },
        ];
        let known = answers
            .into_iter()
            .find(|found| !matches!(found, Found::Unclear | Found::Nothing));
        let found = known.unwrap_or(if answers.contains(&Found::Unclear) {
            Found::Unclear
        } else {
            Found::Nothing
        });
        self.pending = if found == Found::Unclear {
            self.pending + new.len()
        } else {
            0
        };
        found
    }
}

/// A record of the handshake with a ClientHello.
fn tls(bytes: impl Iterator<Item = u8>) -> Found {
    let mut known = 0;
    for (at, byte) in bytes.take(TLS_LOOK_LEN).enumerate() {
        let fits = match at {
            0 => byte == 22,
            1 => byte == 3,
            2 => byte <= 4,
            5 => byte == 1,
            _ => true,
        };
        if !fits {
            return Found::Nothing;
        }
        known += 1;
    }
    if known == TLS_LOOK_LEN {
        Found::Tls
    } else {
        Found::Unclear
    }
}

/// A method in capital letters and the beginning of a target; an empty line may stand before them. The version, without
/// which it is something else (SIP, RTSP), is looked for by the inspector.
fn http(bytes: impl Iterator<Item = u8>) -> Found {
    let mut bytes = bytes.skip_while(|byte| matches!(byte, b'\r' | b'\n')).peekable();
    let mut len = 0;
    while let Some(byte) = bytes.next_if(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_')) {
        if len == 0 && !byte.is_ascii_uppercase() || len == METHOD_LEN_MAX {
            return Found::Nothing;
        }
        len += 1;
    }
    match (bytes.next(), bytes.next()) {
        (None, _) => Found::Unclear,
        (Some(b' '), None) if len >= METHOD_LEN_MIN => Found::Unclear,
        (
            Some(b' '),
            Some(b'/' | b'*' | b'[' | b' ' | b'.' | b'?' | b'%' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z'),
        ) if len >= METHOD_LEN_MIN => Found::Http,
        _ => Found::Nothing,
    }
}

/// The length of a query with one question, and its header (RFC 1035 §4.1.1, RFC 7766 §8); less will do on DNS' port.
fn dns(bytes: impl Iterator<Item = u8>, port: u16) -> Found {
    let by_port = port == DNS_PORT;
    // Header, and elsewhere the shortest question.
    let shortest = if by_port { 12 } else { 17 };
    let mut len = 0;
    let mut known = 0;
    for (at, byte) in bytes.take(DNS_LOOK_LEN).enumerate() {
        let fits = match at {
            0 | 1 => {
                len = (len << 8) | u16::from(byte);
                at == 0 || len >= shortest
            }
            _ if by_port => true,
            // QUERY, neither an answer nor one with authority or truncation.
            4 => byte & 0b1111_1110 == 0,
            // How many questions, answers, authorities; more than 255 further records nobody sends.
            7 => byte == 1,
            6 | 8..=12 => byte == 0,
            _ => true,
        };
        if !fits {
            return Found::Nothing;
        }
        known += 1;
    }
    if known == DNS_LOOK_LEN {
        Found::Dns
    } else {
        Found::Unclear
    }
}

#[cfg(test)]
mod tests {
    use super::{Found, Sniffer, Wanted};
    use crate::shared::EngineLimits;

    const HELLO: &[u8] = &[22, 3, 1, 0, 80, 1, 0, 0, 76];
    const QUERY: &[u8] = &[0, 29, 9, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, b'w'];

    fn look(wanted: Wanted, bytes: &[u8], port: u16) -> Found {
        Sniffer::new(wanted, &EngineLimits::default()).look(&[], bytes, port)
    }

    #[test]
    fn protocols_are_known_by_their_first_bytes_on_any_port() {
        for (bytes, found) in [
            (HELLO, Found::Tls),
            (b"GET /", Found::Http),
            (b"\r\nM-SEARCH * HTTP/1.1", Found::Http),
            (b"PRI * HTTP/2.0", Found::Http),
            (b"CONNECT a:1", Found::Http),
            (QUERY, Found::Dns),
            (b"SSH-2.0-x\r\n", Found::Nothing),
            (b"get / HTTP/1.1", Found::Nothing),
            (b"ET / HTTP/1.1", Found::Nothing),
            (b"HTTP/1.1 200 OK", Found::Nothing),
            (b"220 mail ESMTP", Found::Nothing),
            (&[0; 40], Found::Nothing),
        ] {
            assert_eq!(look(Wanted::Any, bytes, 9999), found, "{bytes:?}");
        }
    }

    #[test]
    fn only_what_is_wanted_is_found() {
        for (bytes, wanted) in [
            (HELLO, Wanted::Tls),
            (b"GET / HTTP/1.1\r\n", Wanted::Http),
            (QUERY, Wanted::Dns),
        ] {
            for other in [Wanted::Http, Wanted::Tls, Wanted::Dns] {
                let is_found = look(other, bytes, 9999) != Found::Nothing;
                assert_eq!(is_found, other == wanted, "{other:?} {bytes:?}");
            }
        }
    }

    #[test]
    fn bytes_may_come_one_by_one() {
        for (bytes, found) in [(HELLO, Found::Tls), (b"GET / ", Found::Http), (QUERY, Found::Dns)] {
            let mut sniffer = Sniffer::new(Wanted::Any, &EngineLimits::default());
            let told = (0..bytes.len()).find_map(|at| {
                let (pending, rest) = bytes.split_at(at);
                assert_eq!(sniffer.pending(), at);
                Some(sniffer.look(pending, &rest[..1], 1)).filter(|found| *found != Found::Unclear)
            });
            assert_eq!(told, Some(found));
        }
    }

    #[test]
    fn the_port_of_dns_makes_it_easier() {
        let mut odd = QUERY.to_vec();
        odd[4] = 0x84;
        assert_eq!(
            (look(Wanted::Any, &odd, 9999), look(Wanted::Any, &odd, 53)),
            (Found::Nothing, Found::Dns)
        );
    }
}
