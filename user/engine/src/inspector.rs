//! Inspectors: who reads a connection's bytes, by the protocol of its rules.
//!
//! An inspector gets the opener's new bytes in order ([`Inspector::inspect`]), finds what the rules are about in them
//! and has it judged the moment its last byte is there. What may go on it appends to the [`Stream`]; where it refuses,
//! the stream ends just before the refused bytes of this segment. If it asked for them ([`Replies::Punt`]) it reads
//! the other side's bytes, too ([`Inspector::read_reply`]).

use crate::dns::{DnsInspector, NotOn};
use crate::flow::FlowPolicy;
use crate::http::HttpInspector;
use crate::judge::{About, Desk};
use crate::shared::EngineLimits;
use crate::sniff::{Found, Sniffer, Wanted};
use crate::stream::Stream;
use crate::tls::TlsInspector;
use seventh_abi::{DropReason, InjectAction, Replies};
use seventh_policy::{RuleSet, RuleSetKind};
use std::borrow::Cow;

/// Reads one connection.
#[derive(Debug)]
pub(crate) enum Inspector {
    Http(HttpInspector),
    Dns(DnsInspector),
    Tls(TlsInspector),
    /// Beside the traffic: the protocol is not known (yet).
    Sniff(Sniffer),
    /// Beside the traffic: nothing can be said of what follows.
    GivenUp,
}

/// What became of new bytes of the opener.
#[derive(Debug)]
pub(crate) struct Inspection {
    /// Requests that ended in these bytes and were allowed.
    pub(crate) allowed: usize,
    /// Set if not all bytes may go on.
    pub(crate) refusal: Option<Refusal>,
    /// Whether the other side's bytes are to be read, from the opener's present acknowledgement on, or the beginning of
    /// its next answer copied.
    pub(crate) replies: Replies,
    /// When a refusal is told.
    pub(crate) patience: Patience,
}

/// When a refusal is told. Until then what is refused is dropped, and comes again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Patience {
    /// When nothing of earlier requests is under way, in either direction.
    #[default]
    Answered,
    /// When no answer is under way; it may cut earlier requests off.
    Idle,
    /// Not at all: it is not known yet what the bytes are.
    Endless,
    /// There was no such moment: the connection is reset.
    Over,
}

impl Default for Inspection {
    fn default() -> Self {
        Self {
            allowed: 0,
            refusal: None,
            replies: Replies::Keep,
            patience: Patience::default(),
        }
    }
}

/// Why and from where on bytes may not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: DropReason,
    /// New bytes before the refused ones, which may go on.
    pub(crate) passed: usize,
    /// It is about the body of a request that was allowed, not about a new request.
    pub(crate) in_body: bool,
    /// What the opener is told, in its protocol.
    pub(crate) answer: Cow<'static, [u8]>,
}

/// What became of new bytes of the other side.
#[derive(Debug)]
pub(crate) struct ReplyReading {
    /// Set if they do not go on: for ever, and then the connection is reset, or not yet.
    pub(crate) not_on: Option<NotOn>,
    /// Further ones are to be read.
    pub(crate) more: bool,
    /// Set if frames of HTTP/2 begin among them: how many bytes from their end on.
    pub(crate) frames: Option<usize>,
}

/// Whom an inspector asks.
pub(crate) struct Judge<'a> {
    pub(crate) desk: &'a mut Desk,
    pub(crate) policy: &'a FlowPolicy,
    pub(crate) about: &'a About<'a>,
}

impl Inspector {
    /// The one for these rules over TCP; `None` if there is none.
    pub(crate) fn new(rules: &RuleSet, limits: &EngineLimits) -> Option<Self> {
        match rules.kind() {
            RuleSetKind::Http(_) => Some(Self::Http(HttpInspector::new(limits.http))),
            RuleSetKind::Dns(_) => Some(Self::Dns(DnsInspector::new(limits.dns_refusal))),
            RuleSetKind::Tls(_) => Some(Self::Tls(TlsInspector::new(limits.tls))),
            RuleSetKind::Observe => Some(Self::Sniff(Sniffer::new(Wanted::Any, limits))),
        }
    }

    /// The one for these rules where it is not known what came before: what it reads begins where a segment does.
    pub(crate) fn after_loss(rules: &RuleSet, limits: &EngineLimits) -> Self {
        match rules.kind() {
            RuleSetKind::Http(_) => Self::Sniff(Sniffer::new(Wanted::Http, limits)),
            RuleSetKind::Dns(_) => Self::Sniff(Sniffer::new(Wanted::Dns, limits)),
            RuleSetKind::Tls(_) => Self::Sniff(Sniffer::new(Wanted::Tls, limits)),
            RuleSetKind::Observe => Self::Sniff(Sniffer::new(Wanted::Any, limits)),
        }
    }

    /// Whether it can go on under these rules.
    pub(crate) fn serves(&self, rules: &RuleSet) -> bool {
        match self {
            Self::Http(_) => rules.http().is_some(),
            Self::Tls(_) => rules.tls().is_some(),
            Self::Dns(_) => rules.dns().is_some(),
            // Beside the traffic it is begun anew.
            Self::Sniff(_) | Self::GivenUp => false,
        }
    }

    /// Whether the other side's bytes are read from the first on.
    pub(crate) fn reads_replies(&self) -> bool {
        match self {
            Self::Http(_) => false,
            Self::Tls(_) => true,
            Self::Dns(_) => true,
            Self::Sniff(_) | Self::GivenUp => false,
        }
    }

    /// Bytes at the stream's end that belong to something that has begun and is not complete.
    pub(crate) fn pending(&self) -> usize {
        match self {
            Self::Http(http) => http.pending(),
            Self::Tls(tls) => tls.pending(),
            Self::Dns(dns) => dns.pending(),
            Self::Sniff(sniffer) => sniffer.pending(),
            Self::GivenUp => 0,
        }
    }

    /// Memory held beside the inspector itself, in bytes. Answers of DNS that are not complete are counted where they are
    /// bounded.
    pub(crate) fn held(&self) -> usize {
        match self {
            Self::Http(http) => http.held(),
            Self::Tls(tls) => tls.held(),
            Self::Dns(_) | Self::Sniff(_) | Self::GivenUp => 0,
        }
    }

    /// Gives back what it holds: the connection is closed.
    pub(crate) fn release(&mut self, limits: &EngineLimits) {
        match self {
            Self::Http(http) => *http = HttpInspector::new(limits.http),
            Self::Tls(tls) => *tls = TlsInspector::new(limits.tls),
            Self::Dns(dns) => *dns = DnsInspector::new(limits.dns_refusal),
            Self::Sniff(_) | Self::GivenUp => {}
        }
    }

    /// The connection was under way before its first byte that is read here.
    pub(crate) fn taken_up(&mut self) {
        if let Self::Http(http) = self {
            http.taken_up();
        }
    }

    /// Whether the next byte begins something that can be read without knowing what came before.
    pub(crate) fn at_boundary(&self) -> bool {
        match self {
            Self::Http(http) => http.at_boundary(),
            Self::Tls(_) => false,
            // Answers may be under way, which only this inspector can tell from others.
            Self::Dns(_) => false,
            Self::Sniff(_) | Self::GivenUp => false,
        }
    }

    /// Takes new bytes of the opener, which begin at `stream.next()`.
    pub(crate) fn inspect(&mut self, stream: &mut Stream, new: &[u8], judge: &mut Judge<'_>) -> Inspection {
        match self {
            Self::Http(http) => http.inspect(stream, new, judge),
            Self::Tls(tls) => tls.inspect(stream, new, judge),
            Self::Dns(dns) => dns.inspect(stream, new, judge),
            Self::Sniff(_) => self.sniff(stream, new, judge),
            Self::GivenUp => Inspection::default(),
        }
    }

    /// Becomes the inspector of the protocol that the bytes are known by.
    fn sniff(&mut self, stream: &mut Stream, new: &[u8], judge: &mut Judge<'_>) -> Inspection {
        let Self::Sniff(sniffer) = self else {
            return Inspection::default();
        };
        let pending = sniffer.pending();
        let port = judge.about.id.destination_port;
        let (found, limits) = (sniffer.look(stream.tail(pending), new, port), sniffer.limits);
        *self = match found {
            Found::Http => Self::Http(HttpInspector::new(limits.http)),
            Found::Tls => Self::Tls(TlsInspector::new(limits.tls)),
            Found::Dns => Self::Dns(DnsInspector::new(limits.dns_refusal)),
            Found::Unclear => {
                stream.append(new);
                return Inspection::default();
            }
            Found::Nothing => {
                return Inspection {
                    refusal: Some(Refusal {
                        reason: DropReason::HttpNotHttp,
                        passed: 0,
                        in_body: false,
                        answer: Cow::Borrowed(&[]),
                    }),
                    ..Inspection::default()
                };
            }
        };
        if pending == 0 {
            return self.inspect(stream, new, judge);
        }
        let all = [stream.tail(pending), new].concat();
        stream.retract(pending);
        self.inspect(stream, &all, judge)
    }

    /// So many bytes of the opener will never be shown. False if it is not certain what they are.
    pub(crate) fn skip(&mut self, len: u64) -> bool {
        match self {
            Self::Http(http) => http.skip(len),
            Self::GivenUp => true,
            Self::Tls(_) | Self::Dns(_) | Self::Sniff(_) => false,
        }
    }

    /// Bytes of the other side that would have been read will never be shown. Whether further ones are to be read.
    pub(crate) fn reply_lost(&mut self) -> bool {
        match self {
            Self::Http(http) => http.answer_lost(),
            Self::Dns(dns) => {
                dns.answer_lost();
                return true;
            }
            // Whether a second ClientHello was asked for is not known: if it comes, it is told from data.
            Self::Tls(_) | Self::Sniff(_) | Self::GivenUp => {}
        }
        false
    }

    /// Takes new bytes of the other side, in order.
    pub(crate) fn read_reply(&mut self, new: &[u8], judge: &mut Judge<'_>) -> ReplyReading {
        match self {
            Self::Dns(dns) => dns.read_reply(new, judge),
            Self::Http(http) => http.read_reply(new),
            Self::Tls(tls) => tls.read_reply(new),
            Self::Sniff(_) | Self::GivenUp => ReplyReading {
                not_on: None,
                more: false,
                frames: None,
            },
        }
    }

    /// Gives bytes that are to come free, if that pays: the range of sequence numbers.
    pub(crate) fn grant(&mut self, stream: &mut Stream) -> Option<(u32, u32)> {
        match self {
            Self::Http(http) => http.grant(stream),
            Self::Tls(_) => None,
            Self::Dns(_) => None,
            Self::Sniff(_) | Self::GivenUp => None,
        }
    }

    /// Whether it has seen all it needs: nothing that follows is read, and the kernel may let the connection pass as long
    /// as the policy stays.
    pub(crate) fn is_settled(&self) -> bool {
        match self {
            Self::Http(http) => http.is_settled(),
            Self::Dns(_) => false,
            Self::Tls(tls) => tls.is_settled(),
            Self::Sniff(_) => false,
            Self::GivenUp => true,
        }
    }

    /// The policy has changed. What was judged and still goes on is judged again, if it is of a kind that outlives its
    /// judgement; requests are not.
    ///
    /// # Errors
    /// Why the connection must end.
    pub(crate) fn judge_again(&mut self, judge: &mut Judge<'_>) -> Result<(), DropReason> {
        match self {
            Self::Http(http) => http.judge_again(judge),
            Self::Dns(_) => Ok(()),
            Self::Tls(tls) => tls.judge_again(judge),
            Self::Sniff(_) | Self::GivenUp => Ok(()),
        }
    }
}

/// What the kernel changes in the flow entry when a frame goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) action: InjectAction,
    pub(crate) replies: Replies,
}

impl Default for Change {
    fn default() -> Self {
        InjectAction::Keep.into()
    }
}

impl From<InjectAction> for Change {
    fn from(action: InjectAction) -> Self {
        Self {
            action,
            replies: Replies::Keep,
        }
    }
}
