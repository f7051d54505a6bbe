//! Follows the first flight of a TLS connection; afterwards the kernel alone carries it.
//!
//! A connection is judged by the name in its ClientHello. One TLS 1.3 client may send a second one, if the server asks
//! for it (HelloRetryRequest, RFC 8446 §4.1.4), and nothing but the server's answer tells whether it may. So if TLS 1.3
//! is offered, both sides are read until that answer: the beginning of one message of the server. A second ClientHello
//! must carry the name of the first; it may come early, hidden behind what servers pass over, and is found there. When
//! the server has accepted, or could not ask, the connection is settled: no further byte of it comes here once the hello
//! was received ([`crate::flow::Flow::may_pass`]).
//!
//! What was judged is kept, so that a change of policy judges it again.

use crate::inspector::{Inspection, Refusal, ReplyReading};
use crate::stream::Stream;
use seventh_abi::{DropReason, Replies};
use seventh_parsers::tls::{
    ClientHello, HelloScanner, Limits, ServerAnswer, ServerHelloScanner, TlsFault, join_records, read_hello,
};

/// Judges hellos.
pub(crate) trait HelloJudge {
    /// Judges a ClientHello that was read. `earlier` is the one that the same connection sent before.
    fn hello(&mut self, hello: &ClientHello<'_>, earlier: Option<&SeenHello>) -> Result<(), DropReason>;

    /// Judges again what a connection goes on under.
    fn again(&mut self, seen: &SeenHello) -> Result<(), DropReason>;

    /// Whether there is a rule beside the names that allows whatever is sent.
    fn allows_all(&self) -> bool;
}

/// What is kept of a connection's ClientHello.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SeenHello {
    /// In lower case.
    pub(crate) server_name: Option<Box<str>>,
    pub(crate) ech: bool,
}

impl SeenHello {
    pub(crate) fn of(hello: &ClientHello<'_>) -> Self {
        Self {
            server_name: hello.server_name.as_deref().map(Into::into),
            ech: hello.ech,
        }
    }

    /// Memory held, in bytes.
    pub(crate) fn held(&self) -> usize {
        self.server_name.as_ref().map_or(0, |name| name.len())
    }
}

/// How far the first flight has come.
#[derive(Debug)]
pub(crate) struct TlsInspector {
    phase: Phase,
    seen: Option<SeenHello>,
    limits: Limits,
}

#[derive(Debug)]
enum Phase {
    /// In the first ClientHello, or before it.
    Hello(HelloScanner),
    /// It was allowed; the server may ask for a second one.
    Answer(Box<Answer>),
    /// Nothing is read any more.
    Settled,
}

#[derive(Debug)]
struct Answer {
    client: HelloScanner,
    /// None when the server's answer is known, or will never be.
    server: Option<ServerHelloScanner>,
    early_data: bool,
    /// A second ClientHello was asked for.
    retry: bool,
    /// A second ClientHello came.
    second: bool,
}

impl TlsInspector {
    /// Before the first byte.
    pub(crate) const fn new(limits: Limits) -> Self {
        Self {
            phase: Phase::Hello(HelloScanner::new(limits)),
            seen: None,
            limits,
        }
    }

    /// Bytes of the ClientHello that has begun and is not complete.
    pub(crate) fn pending(&self) -> usize {
        match &self.phase {
            Phase::Hello(scanner) => scanner.taken(),
            Phase::Answer(answer) => answer.client.taken(),
            Phase::Settled => 0,
        }
    }

    /// Memory held, in bytes.
    pub(crate) fn held(&self) -> usize {
        let answer = match &self.phase {
            Phase::Answer(_) => size_of::<Answer>(),
            Phase::Hello(_) | Phase::Settled => 0,
        };
        answer + self.seen.as_ref().map_or(0, SeenHello::held)
    }

    /// Whether nothing needs to be read any more.
    pub(crate) const fn is_settled(&self) -> bool {
        matches!(self.phase, Phase::Settled)
    }

    /// Takes new bytes of the opener, which begin at `stream.next()`.
    pub(crate) fn inspect(&mut self, stream: &mut Stream, new: &[u8], judge: &mut dyn HelloJudge) -> Inspection {
        let mut rest = new;
        let mut allowed = 0;
        // Each turn takes at least one byte or ends the loop.
        while !rest.is_empty() && !self.is_settled() {
            match self.step(stream, rest, judge) {
                Ok(None) => rest = &[],
                Ok(Some(taken)) => {
                    rest = rest.get(taken..).unwrap_or_default();
                    allowed += 1;
                }
                // What a rule without names allows needs not be TLS.
                Err(_) if judge.allows_all() => self.phase = Phase::Settled,
                Err(reason) => {
                    let refusal = Some(Refusal {
                        reason,
                        passed: new.len() - rest.len(),
                        in_body: false,
                        answer: alert(reason).into(),
                    });
                    return Inspection {
                        allowed,
                        refusal,
                        ..Inspection::default()
                    };
                }
            }
        }
        stream.append(rest);
        Inspection {
            allowed,
            refusal: None,
            replies: match &self.phase {
                Phase::Hello(_) => Replies::Keep,
                Phase::Answer(answer) if answer.server.is_some() && allowed > 0 => Replies::Punt,
                Phase::Answer(_) => Replies::Keep,
                Phase::Settled => Replies::Pass,
            },
            ..Inspection::default()
        }
    }

    /// Takes new bytes of the other side, in order. They go on whatever they are.
    pub(crate) fn read_reply(&mut self, new: &[u8]) -> ReplyReading {
        let mut more = false;
        if let Phase::Answer(answer) = &mut self.phase
            && let Some(server) = &mut answer.server
        {
            match server.advance(new) {
                None => more = true,
                Some(ServerAnswer::Accepted) => self.phase = Phase::Settled,
                // No third one is ever asked for.
                Some(ServerAnswer::Retry) if answer.second => self.phase = Phase::Settled,
                Some(ServerAnswer::Retry) => {
                    answer.retry = true;
                    answer.server = None;
                }
                Some(ServerAnswer::Other) => answer.server = None,
            }
        }
        // Before the first ClientHello a server has nothing to say that is of interest.
        more |= matches!(self.phase, Phase::Hello(_));
        ReplyReading {
            not_on: None,
            more,
            frames: None,
        }
    }

    /// The policy has changed: judges what was seen. What was not seen yet will be judged when it comes.
    pub(crate) fn judge_again(&self, judge: &mut dyn HelloJudge) -> Result<(), DropReason> {
        match (&self.seen, &self.phase) {
            (Some(seen), _) => judge.again(seen),
            (None, Phase::Settled) if !judge.allows_all() => Err(DropReason::TlsNotTls),
            (None, _) => Ok(()),
        }
    }

    /// Goes as far as the end of a ClientHello: how many bytes it took, or `None` if it took all and there is none.
    /// After an error the inspector and the stream are as they were.
    fn step(
        &mut self,
        stream: &mut Stream,
        rest: &[u8],
        judge: &mut dyn HelloJudge,
    ) -> Result<Option<usize>, DropReason> {
        let mut scanner = match &self.phase {
            Phase::Hello(scanner) => *scanner,
            Phase::Answer(answer) => answer.client,
            Phase::Settled => return Ok(None),
        };
        let found = scanner.advance(rest).map_err(tls_reason)?;
        let Some(end) = found else {
            stream.append(rest);
            match &mut self.phase {
                Phase::Hello(known) => *known = scanner,
                Phase::Answer(answer) => answer.client = scanner,
                Phase::Settled => {}
            }
            return Ok(None);
        };
        stream.append(rest.get(..end).unwrap_or_default());
        let outcome = self.hello(stream.tail(scanner.taken()), judge);
        outcome.inspect_err(|_| stream.retract(end))?;
        Ok(Some(end))
    }

    /// Judges the ClientHello in these records and goes on to what follows it.
    fn hello(&mut self, records: &[u8], judge: &mut dyn HelloJudge) -> Result<(), DropReason> {
        let message = join_records(records).map_err(tls_reason)?;
        let hello = read_hello(&message).map_err(tls_reason)?;
        judge.hello(&hello, self.seen.as_ref())?;
        self.seen = Some(SeenHello::of(&hello));
        match &mut self.phase {
            Phase::Hello(_) if hello.offers_tls13 => {
                self.phase = Phase::Answer(Box::new(Answer {
                    client: HelloScanner::after_hello(hello.early_data, self.limits),
                    server: Some(ServerHelloScanner::new()),
                    early_data: hello.early_data,
                    retry: false,
                    second: false,
                }));
            }
            Phase::Answer(answer) if !answer.retry => {
                answer.second = true;
                answer.client = HelloScanner::after_hello(answer.early_data, self.limits);
            }
            Phase::Hello(_) | Phase::Answer(_) | Phase::Settled => self.phase = Phase::Settled,
        }
        Ok(())
    }
}

/// The drop reason of each fault.
pub const fn tls_reason(fault: TlsFault) -> DropReason {
    match fault {
        TlsFault::NotTls => DropReason::TlsNotTls,
        TlsFault::Sslv2Hello => DropReason::TlsSslv2Hello,
        TlsFault::NotClientHello => DropReason::TlsNotClientHello,
        TlsFault::Interleaved | TlsFault::BadRecord | TlsFault::Coalesced => DropReason::TlsBadRecord,
        TlsFault::TooLarge => DropReason::TlsHelloTooLarge,
        TlsFault::Malformed => DropReason::TlsBadHello,
        TlsFault::DuplicateExtension => DropReason::TlsRepeatedExtension,
        TlsFault::SeveralNames | TlsFault::BadName => DropReason::TlsBadServerName,
    }
}

/// What a refused client is told: a fatal alert in the clear (RFC 8446 §6), or nothing if it would not understand one.
const fn alert(reason: DropReason) -> &'static [u8] {
    match reason {
        DropReason::TlsNotTls | DropReason::TlsSslv2Hello => &[],
        // unrecognized_name (RFC 6066 §3).
        DropReason::TlsPolicyDenied | DropReason::TlsNoServerName | DropReason::TlsBadServerName => {
            &[21, 3, 3, 0, 2, 2, 112]
        }
        // access_denied.
        DropReason::TlsEchDenied => &[21, 3, 3, 0, 2, 2, 49],
        // illegal_parameter.
        DropReason::TlsNameChanged => &[21, 3, 3, 0, 2, 2, 47],
        // unexpected_message.
        DropReason::TlsNotClientHello => &[21, 3, 3, 0, 2, 2, 10],
        // decode_error.
        _ => &[21, 3, 3, 0, 2, 2, 50],
    }
}
