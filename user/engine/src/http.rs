//! Follows HTTP requests through the opener's stream.
//!
//! A segment may hold the end of one body, several whole requests and the beginning of another. [`HttpInspector`] takes
//! new bytes in order, finds each head, has it judged the moment its last byte is there, and follows each body to its
//! end. What was let through is appended to the [`Stream`]; where a request is refused the stream ends just before its
//! first byte of this segment, as if what follows had never come: it will come again.
//!
//! A connection that begins with HTTP/2's preface is handed to [`Http2Inspector`]. One whose first request asks for
//! another protocol is waited with until the server has answered: see `upgrade`.

use crate::answer::FORBIDDEN;
use crate::http2::Http2Inspector;
use crate::inspector::{Inspection, Patience, Refusal, ReplyReading};
use crate::record::Http2Stream;
use crate::stream::Stream;
use crate::upgrade::{Agreed, Asked, Protocol, UPGRADE_HEAD_MAX};
use seventh_abi::{DropReason, Replies};
use seventh_parsers::http1::{
    BodyLength, ChunkProgress, ChunkedFollower, HeadScanner, HttpFault, Limits, LooseHead, LooseScanner, RequestHead,
    read_head, read_loose,
};
use seventh_parsers::http2::PREFACE;

/// A rest of a body (or chunk) is given free if it is at least so long: below, asking the engine costs less than what a
/// change of the flow entry and a further run in the stream's history do.
const GRANT_MIN: u64 = 4096;
/// Bytes that are given free at once at most. With it and a window of 1 GiB the history spans less than half of the
/// circle of sequence numbers.
const GRANT_MAX: u64 = 256 << 20;

/// Gives the `left` bytes that are to come free, or as many of them as may be, if that pays: how many, and their range of
/// sequence numbers.
pub(crate) fn give_free(stream: &mut Stream, left: u64) -> Option<(u64, (u32, u32))> {
    if left < GRANT_MIN {
        return None;
    }
    let len = left.min(GRANT_MAX);
    let start = stream.next();
    let granted = stream.grant(u32::try_from(len).ok()?);
    granted.then(|| (len, (start, stream.next())))
}

/// `PRI * HTTP/2`: so far a preface is told from a request.
const PREFACE_LINE_LEN: usize = 12;

/// Judges requests.
pub(crate) trait HeadJudge {
    /// Judges one complete HTTP/1 head. `may_switch`: it may ask for another protocol.
    fn head(&mut self, head: &[u8], may_switch: bool) -> Result<Judged, DropReason>;

    /// Judges a complete HTTP/1 head that is not sound, for that reason: an error, unless nothing is refused.
    fn loose(&mut self, head: &[u8], reason: DropReason) -> Result<Judged, DropReason>;

    /// Judges a request on a stream of HTTP/2, which was read already.
    fn request(&mut self, head: &RequestHead<'_>, stream: Http2Stream) -> Result<(), DropReason>;

    /// Judges a request that was allowed before, under the rules of this moment. Nothing is recorded.
    fn again(&mut self, head: &RequestHead<'_>) -> Result<(), DropReason>;

    /// What becomes of a request (or of something else) that is not to pass for that reason: an error, unless nothing
    /// is refused.
    fn refuse(&mut self, request: Option<&LooseHead<'_>>, reason: DropReason) -> Result<(), DropReason>;

    /// Whether nothing is refused: beside the traffic.
    fn is_beside(&self) -> bool;

    /// The time of the frame.
    fn now_ns(&self) -> u64;
}

/// What is known of a request that may pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judged {
    pub(crate) body: BodyLength,
    /// What it wants the connection to speak from then on, if anything else.
    pub(crate) protocol: Option<Protocol>,
}

/// Where in the requests the stream stands.
#[derive(Debug)]
pub(crate) struct HttpInspector {
    phase: Phase,
    limits: Limits,
    /// The connection's first byte was the stream's first, and no request has been allowed yet.
    at_first: bool,
    /// The request that asks for another protocol and is not answered yet.
    asked: Option<Box<Asked>>,
    /// HTTP/2 was agreed to follow the request that asked.
    upgraded: Option<Box<Http2Inspector>>,
    /// Head of the request that made the connection opaque.
    tunnel: Option<Box<[u8]>>,
}

#[derive(Debug)]
enum Phase {
    /// In a request head or before one; its bytes are the tail of the stream.
    Head(HeadScanner),
    /// In a request head that is not sound, for this reason, and is only followed beside the traffic.
    Loose(LooseScanner, DropReason),
    /// So many bytes of a body are still to come.
    Body(u64),
    Chunks(ChunkedFollower),
    Http2(Box<Http2Inspector>),
}

impl HttpInspector {
    /// Before the first request.
    pub(crate) const fn new(limits: Limits) -> Self {
        Self {
            phase: Phase::Head(HeadScanner::new(limits)),
            limits,
            at_first: true,
            asked: None,
            upgraded: None,
            tunnel: None,
        }
    }

    /// Requests went by before the stream's first byte.
    pub(crate) const fn taken_up(&mut self) {
        self.at_first = false;
    }

    /// Bytes of the head that has begun and is not complete.
    pub(crate) const fn pending(&self) -> usize {
        match &self.phase {
            Phase::Head(scanner) => scanner.taken(),
            Phase::Loose(scanner, _) => scanner.taken(),
            Phase::Body(_) | Phase::Chunks(_) => 0,
            Phase::Http2(http2) => http2.pending(),
        }
    }

    /// Memory held, in bytes.
    pub(crate) fn held(&self) -> usize {
        let phase = match &self.phase {
            Phase::Head(_) | Phase::Loose(..) | Phase::Body(_) | Phase::Chunks(_) => 0,
            Phase::Http2(http2) => http2.held(),
        };
        let asked = self.asked.as_ref().map_or(0, |asked| asked.held());
        let upgraded = self.upgraded.as_ref().map_or(0, |http2| http2.held());
        phase + asked + upgraded + self.tunnel.as_ref().map_or(0, |head| head.len())
    }

    /// Whether the next byte begins a request, whatever came before it.
    pub(crate) const fn at_boundary(&self) -> bool {
        let is_plain = self.asked.is_none() && self.upgraded.is_none() && self.tunnel.is_none();
        match &self.phase {
            Phase::Head(scanner) => is_plain && scanner.taken() == 0,
            Phase::Loose(..) | Phase::Body(_) | Phase::Chunks(_) | Phase::Http2(_) => false,
        }
    }

    /// Whether the connection is opaque: see `Inspector::is_settled`.
    pub(crate) const fn is_settled(&self) -> bool {
        self.tunnel.is_some()
    }

    /// Other rules: a connection that has become opaque, or will when the server agrees, goes on if they allow the request
    /// that makes it so; the same holds for each tunnel inside HTTP/2.
    pub(crate) fn judge_again(&mut self, judge: &mut dyn HeadJudge) -> Result<(), DropReason> {
        if judge.is_beside() {
            return Ok(());
        }
        if let Phase::Http2(http2) = &self.phase {
            return http2.judge_again(judge);
        }
        let asked = self.asked.as_ref().map(|asked| &asked.head);
        let Some(head) = asked.or(self.tunnel.as_ref()) else {
            return Ok(());
        };
        judge.again(&read_head(head).map_err(http_reason)?)
    }

    /// Takes new bytes, which begin at `stream.next()`.
    pub(crate) fn inspect(&mut self, stream: &mut Stream, new: &[u8], judge: &mut dyn HeadJudge) -> Inspection {
        let was_asked = self.asked.is_some();
        if self.is_settled() {
            return self.wait(0, 0, was_asked);
        }
        let mut rest = new;
        let mut allowed = 0;
        // Each turn takes at least one byte, changes the phase once, or ends the loop.
        while !rest.is_empty() {
            if self.at_next_request()
                && let Some(http2) = self.upgraded.take()
            {
                self.phase = Phase::Http2(http2);
            }
            let passed = new.len() - rest.len();
            let in_body = matches!(self.phase, Phase::Body(_) | Phase::Chunks(_));
            let step = match &mut self.phase {
                Phase::Http2(http2) => {
                    let mut inspection = http2.inspect(stream, rest, judge);
                    inspection.allowed += allowed;
                    if let Some(refusal) = &mut inspection.refusal {
                        refusal.passed += passed;
                    }
                    return inspection;
                }
                Phase::Head(_) if self.asked.is_some() => {
                    return self.wait(passed, allowed, was_asked);
                }
                Phase::Head(scanner) => {
                    let scanner = *scanner;
                    self.head(scanner, stream, rest, judge)
                }
                Phase::Loose(scanner, reason) => {
                    let (scanner, reason) = (*scanner, *reason);
                    self.loose(scanner, reason, stream, rest, judge)
                }
                Phase::Body(left) => {
                    let left = *left;
                    self.body(left, stream, rest)
                }
                Phase::Chunks(follower) => {
                    let follower = *follower;
                    self.chunks(follower, stream, rest)
                }
            };
            match step {
                // HTTP/2: what was taken for a head is read again.
                Ok(0) => continue,
                Ok(taken) => rest = rest.get(taken..).unwrap_or_default(),
                Err(reason) => {
                    return Inspection {
                        allowed,
                        refusal: Some(refusal(reason, passed, in_body)),
                        replies: self.replies(allowed, was_asked),
                        ..Inspection::default()
                    };
                }
            }
            allowed += usize::from(!in_body && self.pending() == 0);
        }
        Inspection {
            allowed,
            replies: self.replies(allowed, was_asked),
            ..Inspection::default()
        }
    }

    /// Takes new bytes of the server.
    pub(crate) fn read_reply(&mut self, new: &[u8]) -> ReplyReading {
        let agreed = self.asked.as_mut().map_or(Agreed::No, |asked| asked.answer(new));
        let mut frames = None;
        if agreed != Agreed::NotYet
            && let Some(asked) = self.asked.take()
            && agreed == Agreed::Yes
        {
            match asked.protocol {
                Protocol::Opaque => self.tunnel = Some(asked.head),
                Protocol::Http2 => {
                    frames = Some(asked.behind_heads(new.len()));
                    let http2 = Http2Inspector::upgraded(self.limits, asked.settings().as_deref());
                    self.upgraded = Some(Box::new(http2));
                }
            }
        }
        ReplyReading {
            not_on: None,
            more: agreed == Agreed::NotYet,
            frames,
        }
    }

    /// Gives the rest of the present body or chunk free, if that pays: the range of sequence numbers.
    pub(crate) fn grant(&mut self, stream: &mut Stream) -> Option<(u32, u32)> {
        let left = match &mut self.phase {
            Phase::Head(_) | Phase::Loose(..) => 0,
            Phase::Body(_) if self.asked.as_ref().is_some_and(|asked| asked.reads_body()) => 0,
            Phase::Body(left) => *left,
            Phase::Chunks(follower) => follower.data_left(),
            Phase::Http2(http2) => return http2.grant(stream),
        };
        let (len, range) = give_free(stream, left)?;
        match &mut self.phase {
            Phase::Chunks(follower) => follower.skip_data(len),
            _ => self.phase = self.after_body(left - len),
        }
        Some(range)
    }

    const fn at_next_request(&self) -> bool {
        matches!(&self.phase, Phase::Head(scanner) if scanner.is_idle())
    }

    fn replies(&self, allowed: usize, was_asked: bool) -> Replies {
        if self.asked.is_some() && !was_asked {
            Replies::PuntAndCopy
        } else if allowed > 0 {
            Replies::Copy
        } else {
            Replies::Keep
        }
    }

    /// What follows a request that asks for another protocol goes on when the server has answered: it is dropped until
    /// then, and will come again.
    fn wait(&self, passed: usize, allowed: usize, was_asked: bool) -> Inspection {
        Inspection {
            allowed,
            refusal: Some(refusal(DropReason::HttpUpgradeUnsupported, passed, false)),
            patience: Patience::Endless,
            replies: self.replies(allowed, was_asked),
        }
    }

    fn head(
        &mut self,
        mut scanner: HeadScanner,
        stream: &mut Stream,
        rest: &[u8],
        judge: &mut dyn HeadJudge,
    ) -> Result<usize, DropReason> {
        let earlier = scanner.taken();
        let end = match scanner.advance(rest) {
            Ok(Some(end)) => end,
            Ok(None) => {
                stream.append(rest);
                self.phase = Phase::Head(scanner);
                return Ok(rest.len());
            }
            Err(HttpFault::Http2Preface) if self.at_first && is_preface(stream.tail(earlier), rest) => {
                self.phase = Phase::Http2(Box::new(Http2Inspector::new(self.limits, earlier)));
                return Ok(0);
            }
            Err(fault) => return self.unsound(fault, stream.tail(earlier), judge),
        };
        let here = rest.get(..end).unwrap_or_default();
        let may_switch = self.at_first && earlier + end <= UPGRADE_HEAD_MAX;
        let judged = if earlier == 0 {
            let judged = judge.head(here, may_switch)?;
            stream.append(here);
            judged
        } else {
            stream.append(here);
            judge
                .head(stream.tail(earlier + end), may_switch)
                .inspect_err(|_| stream.retract(end))?
        };
        self.at_first = false;
        self.asked = judged
            .protocol
            .map(|protocol| Box::new(Asked::new(protocol, stream.tail(earlier + end))));
        self.phase = self.after_head(judged.body);
        Ok(end)
    }

    /// The head can never become a sound one. Beside the traffic it is read again, loosely.
    fn unsound(&mut self, fault: HttpFault, earlier: &[u8], judge: &dyn HeadJudge) -> Result<usize, DropReason> {
        let reason = http_reason(fault);
        if !judge.is_beside() || matches!(fault, HttpFault::NotHttp | HttpFault::Tls | HttpFault::HeadTooLarge) {
            return Err(reason);
        }
        let mut scanner = LooseScanner::new(&self.limits);
        match scanner.advance(earlier) {
            Ok(None) => self.phase = Phase::Loose(scanner, reason),
            Ok(Some(_)) | Err(_) => return Err(reason),
        }
        Ok(0)
    }

    fn loose(
        &mut self,
        mut scanner: LooseScanner,
        reason: DropReason,
        stream: &mut Stream,
        rest: &[u8],
        judge: &mut dyn HeadJudge,
    ) -> Result<usize, DropReason> {
        let had_line = scanner.has_request_line();
        let end = scanner.advance(rest).map_err(http_reason)?;
        let taken = end.unwrap_or(rest.len());
        stream.append(rest.get(..taken).unwrap_or_default());
        let head = stream.tail(scanner.taken());
        if end.is_some() {
            let judged = judge.loose(head, reason)?;
            self.at_first = false;
            self.phase = self.after_head(judged.body);
        } else if !had_line && scanner.has_request_line() && read_loose(head).is_none() {
            return Err(reason);
        } else {
            self.phase = Phase::Loose(scanner, reason);
        }
        Ok(taken)
    }

    /// So many bytes will never be shown. False if it is not certain what they are.
    pub(crate) fn skip(&mut self, len: u64) -> bool {
        match &mut self.phase {
            Phase::Body(left) if *left >= len => {
                let left = *left - len;
                self.phase = self.after_body(left);
            }
            Phase::Chunks(follower) if follower.data_left() >= len => follower.skip_data(len),
            Phase::Http2(http2) => return http2.skip(len),
            Phase::Head(_) | Phase::Loose(..) | Phase::Body(_) | Phase::Chunks(_) => return false,
        }
        true
    }

    /// The server's answer to a request that asked for another protocol was not shown: it may speak anything now.
    pub(crate) fn answer_lost(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.tunnel = Some(asked.head);
        }
    }

    fn body(&mut self, left: u64, stream: &mut Stream, rest: &[u8]) -> Result<usize, DropReason> {
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
        let here = rest.get(..take).unwrap_or_default();
        if self.asked.as_mut().is_some_and(|asked| !asked.may_be_body(here)) {
            return Err(DropReason::HttpUpgradeUnsupported);
        }
        stream.append(here);
        self.phase = self.after_body(left.saturating_sub(take as u64));
        Ok(take)
    }

    fn chunks(&mut self, mut follower: ChunkedFollower, stream: &mut Stream, rest: &[u8]) -> Result<usize, DropReason> {
        let (taken, phase) = match follower.follow(rest).map_err(http_reason)? {
            ChunkProgress::More => (rest.len(), Phase::Chunks(follower)),
            ChunkProgress::Done(taken) => (taken, self.after_body(0)),
        };
        stream.append(rest.get(..taken).unwrap_or_default());
        self.phase = phase;
        Ok(taken)
    }

    const fn after_head(&self, body: BodyLength) -> Phase {
        match body {
            BodyLength::None => self.after_body(0),
            BodyLength::Fixed(len) => self.after_body(len),
            BodyLength::Chunked => Phase::Chunks(ChunkedFollower::new()),
        }
    }

    const fn after_body(&self, left: u64) -> Phase {
        if left == 0 {
            Phase::Head(HeadScanner::new(self.limits))
        } else {
            Phase::Body(left)
        }
    }
}

/// Whether these bytes, of which the scanner has read as many as [`PREFACE`]'s request line shows, begin the preface: no
/// empty line stands before it.
fn is_preface(earlier: &[u8], rest: &[u8]) -> bool {
    PREFACE.strip_prefix(earlier).is_some_and(|wanted| {
        rest.starts_with(
            wanted
                .get(..PREFACE_LINE_LEN.saturating_sub(earlier.len()))
                .unwrap_or(wanted),
        )
    })
}

fn refusal(reason: DropReason, passed: usize, in_body: bool) -> Refusal {
    Refusal {
        reason,
        passed,
        in_body,
        answer: FORBIDDEN.into(),
    }
}

/// The drop reason of each fault.
pub const fn http_reason(fault: HttpFault) -> DropReason {
    match fault {
        HttpFault::BadRequestLine => DropReason::HttpBadRequestLine,
        HttpFault::LowerCaseMethod => DropReason::HttpLowerCaseMethod,
        HttpFault::BadVersion => DropReason::HttpBadVersion,
        HttpFault::OldProtocol => DropReason::HttpOldProtocol,
        HttpFault::ControlByte => DropReason::HttpControlByte,
        HttpFault::BareLineEnd => DropReason::HttpBareLineEnd,
        HttpFault::EmptyLines => DropReason::HttpEmptyLines,
        HttpFault::HeadTooLarge => DropReason::HttpHeadTooLarge,
        HttpFault::TooManyHeaders => DropReason::HttpTooManyHeaders,
        HttpFault::BadHeader => DropReason::HttpBadHeader,
        HttpFault::FoldedHeader => DropReason::HttpFoldedHeader,
        HttpFault::SpaceBeforeColon => DropReason::HttpSpaceBeforeColon,
        HttpFault::UnderscoreHeader => DropReason::HttpUnderscoreHeader,
        HttpFault::AmbiguousLength => DropReason::HttpAmbiguousLength,
        HttpFault::RepeatedLength => DropReason::HttpRepeatedLength,
        HttpFault::BadLength => DropReason::HttpBadLength,
        HttpFault::BadTransferCoding => DropReason::HttpBadTransferCoding,
        HttpFault::TransferCodingInOldVersion => DropReason::HttpTransferCodingInOldVersion,
        HttpFault::MissingHost => DropReason::HttpMissingHost,
        HttpFault::RepeatedHost => DropReason::HttpRepeatedHost,
        HttpFault::BadHost => DropReason::HttpBadHost,
        HttpFault::HostContradictsTarget => DropReason::HttpHostContradictsTarget,
        HttpFault::BadTargetForm => DropReason::HttpBadTargetForm,
        HttpFault::AmbiguousPath => DropReason::HttpAmbiguousPath,
        HttpFault::BadExpectation => DropReason::HttpBadExpectation,
        HttpFault::RepeatedUpgrade => DropReason::HttpUpgradeUnsupported,
        HttpFault::BadChunk => DropReason::HttpBadChunk,
        HttpFault::BadChunkExtension => DropReason::HttpBadChunkExtension,
        HttpFault::BadTrailer => DropReason::HttpBadTrailer,
        HttpFault::Tls => DropReason::HttpTlsOnHttpRule,
        HttpFault::Http2Preface | HttpFault::NotHttp => DropReason::HttpNotHttp,
    }
}

#[cfg(test)]
mod tests {
    use super::{GRANT_MAX, HeadJudge, HttpInspector, Inspection, Judged, Refusal};
    use crate::answer::FORBIDDEN;
    use crate::record::Http2Stream;
    use crate::stream::Stream;
    use crate::upgrade::Protocol;
    use seventh_abi::DropReason;
    use seventh_parsers::http1::{Limits, LooseHead, RequestHead, read_head};

    /// Allows everything but paths that begin with `/no`; `seen` collects the paths judged.
    fn inspect(inspector: &mut HttpInspector, stream: &mut Stream, new: &[u8], seen: &mut Vec<String>) -> Inspection {
        inspector.inspect(stream, new, &mut Paths(seen))
    }

    struct Paths<'a>(&'a mut Vec<String>);

    impl Paths<'_> {
        fn judge(&mut self, head: &RequestHead<'_>) -> Result<(), DropReason> {
            self.0.push(head.path.to_string());
            if head.path.starts_with("/no") {
                Err(DropReason::HttpPolicyDenied)
            } else {
                Ok(())
            }
        }
    }

    impl HeadJudge for Paths<'_> {
        fn head(&mut self, head: &[u8], _may_switch: bool) -> Result<Judged, DropReason> {
            let head = read_head(head).map_err(super::http_reason)?;
            self.judge(&head)?;
            Ok(Judged {
                body: head.body,
                protocol: Protocol::asked_for(&head).unwrap(),
            })
        }

        fn request(&mut self, head: &RequestHead<'_>, _stream: Http2Stream) -> Result<(), DropReason> {
            self.judge(head)
        }

        fn again(&mut self, head: &RequestHead<'_>) -> Result<(), DropReason> {
            self.judge(head)
        }

        fn loose(&mut self, _head: &[u8], reason: DropReason) -> Result<Judged, DropReason> {
            Err(reason)
        }

        fn refuse(&mut self, _request: Option<&LooseHead<'_>>, reason: DropReason) -> Result<(), DropReason> {
            Err(reason)
        }

        fn is_beside(&self) -> bool {
            false
        }

        fn now_ns(&self) -> u64 {
            7
        }
    }

    fn fresh() -> (HttpInspector, Stream, Vec<String>) {
        (HttpInspector::new(Limits::default()), Stream::new(7), Vec::new())
    }

    fn request(path: &str, body: &str) -> String {
        let length = if body.is_empty() {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        format!("GET {path} HTTP/1.1\r\nHost: a\r\n{length}\r\n{body}")
    }

    #[test]
    fn cut_anywhere_each_request_is_judged_once() {
        let chunked = "POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nGET /\r\n0\r\n\r\n";
        let all = [
            &request("/a", "GET /no"),
            chunked,
            &request("/b", ""),
            &request("/d", "x"),
        ]
        .concat();
        for first in 0..=all.len() {
            for second in [first, (first + 7).min(all.len()), all.len()] {
                let (mut inspector, mut stream, mut seen) = fresh();
                let mut allowed = 0;
                for piece in [&all[..first], &all[first..second], &all[second..]] {
                    let inspection = inspect(&mut inspector, &mut stream, piece.as_bytes(), &mut seen);
                    assert_eq!(inspection.refusal, None, "cut at {first}, {second}");
                    allowed += inspection.allowed;
                }
                assert_eq!((allowed, seen.join(" ")), (4, "/a /c /b /d".to_owned()));
                assert_eq!(stream.next(), 7 + all.len() as u32);
                assert_eq!(inspector.pending(), 0);
            }
        }
    }

    #[test]
    fn a_refused_request_leaves_no_trace_of_its_last_segment() {
        let all = [request("/a", "body"), request("/no", "")].concat();
        let boundary = request("/a", "body").len();
        for cut in 0..all.len() {
            let (mut inspector, mut stream, mut seen) = fresh();
            assert_eq!(
                inspect(&mut inspector, &mut stream, &all.as_bytes()[..cut], &mut seen).refusal,
                None
            );
            for _ in 0..3 {
                let next = stream.next();
                let rest = &all.as_bytes()[(next - 7) as usize..];
                let refusal = inspect(&mut inspector, &mut stream, rest, &mut seen).refusal;
                let passed = boundary.saturating_sub((next - 7) as usize);
                let reason = DropReason::HttpPolicyDenied;
                assert_eq!(
                    refusal,
                    Some(Refusal {
                        reason,
                        passed,
                        in_body: false,
                        answer: FORBIDDEN.into(),
                    }),
                    "cut at {cut}"
                );
                assert_eq!(stream.next(), next + passed as u32);
            }
        }
    }

    #[test]
    fn long_bodies_are_given_free_from_the_end_of_the_segment() {
        let (mut inspector, mut stream, mut seen) = fresh();
        let length = GRANT_MAX * 2 + 100;
        let head = format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        inspect(
            &mut inspector,
            &mut stream,
            format!("{head}{}", "x".repeat(40)).as_bytes(),
            &mut seen,
        );
        let start = 7 + head.len() as u32 + 40;
        let grant = GRANT_MAX as u32;
        assert_eq!(inspector.grant(&mut stream), Some((start, start + grant)));
        inspect(&mut inspector, &mut stream, b"y", &mut seen);
        assert_eq!(
            inspector.grant(&mut stream),
            Some((start + grant + 1, start + 2 * grant + 1))
        );
        assert_eq!(inspector.grant(&mut stream), None, "59 bytes are not worth it");
        let last = format!("{}{}", "z".repeat(59), request("/next", ""));
        assert_eq!(
            inspect(&mut inspector, &mut stream, last.as_bytes(), &mut seen).allowed,
            1
        );
        assert_eq!(seen, ["/", "/next"]);
    }

    #[test]
    fn long_chunks_are_given_free_one_by_one() {
        let (mut inspector, mut stream, mut seen) = fresh();
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2000\r\nab";
        inspect(&mut inspector, &mut stream, head.as_bytes(), &mut seen);
        let start = 7 + head.len() as u32;
        assert_eq!(inspector.grant(&mut stream), Some((start, start + 0x2000 - 2)));
        let end = format!("\r\n1\r\nx\r\n0\r\n\r\n{}", request("/no", ""));
        let refusal = inspect(&mut inspector, &mut stream, end.as_bytes(), &mut seen)
            .refusal
            .unwrap();
        assert_eq!((refusal.passed, refusal.in_body), (13, false));
        let bad = [head, "cd"].concat();
        let (mut inspector, mut stream, mut seen) = fresh();
        inspect(
            &mut inspector,
            &mut stream,
            bad.replace("2000", "2").as_bytes(),
            &mut seen,
        );
        let refusal = inspect(&mut inspector, &mut stream, b"cd", &mut seen).refusal;
        assert!(refusal.is_none_or(|refusal| refusal.in_body));
    }
}
