//! Follows HTTP/2 through the opener's stream: every request on every stream of the connection is judged.
//!
//! A header block can be acted on with its last byte, not before; so that byte waits for the verdict, as the last byte
//! of an HTTP/1 head does, and a refused block leaves no trace: neither in the [`Stream`] nor in the table of the
//! decompressor. Other frames are judged by their headers. Data is followed and, if there is much of it, given free.
//!
//! Kept for a connection: the decompressor's table ([`seventh_parsers::http2::TABLE_LEN_MAX`]), the streams that the
//! opener has not ended ([`OpenStreams`]), and five [`Allowance`]s. Numbers of new streams only rise (RFC 9113 §5.1.1), so a block on an older stream is trailers, and those cannot hold a request.
//!
//! A server resets a stream on which something stands that must not be there. A client could have that done without end
//! and without a `RST_STREAM` of its own, each time with the work of a request thrown away. So what can only be meant
//! to provoke it is refused, and what perhaps does counts as a `RST_STREAM`.

use crate::http::{HeadJudge, give_free, http_reason};
use crate::http2_answer::{ErrorCode, forbidden, go_away};
use crate::http2_open::OpenStreams;
use crate::inspector::{Inspection, Patience, Refusal};
use crate::record::Http2Stream;
use crate::stream::Stream;
use seventh_abi::DropReason;
use seventh_parsers::http1::{BodyLength, Limits, LooseHead, Version};
use seventh_parsers::http2::{
    Decoder, Fields, FrameHeader, FrameKind, FrameScanner, Http2Fault, PREFACE, Unit, check_trailers, join_block,
    read_request,
};
use std::borrow::Cow;

/// DATA with less content is more work than it is worth.
const TINY_DATA_LEN: u32 = 16;
/// A window that is opened so far at once may be more than a stream has (2^31 - 1, RFC 9113 §6.9.1).
const LARGE_INCREMENT: u32 = 1 << 24;
/// The same for what all streams begin with.
const LARGE_WINDOW: u32 = 1 << 30;
/// What a stream's window begins with unless settings say otherwise (RFC 9113 §6.9.2).
const INITIAL_WINDOW: u32 = 0xffff;
/// RFC 9113 §6.5.2.
const SETTINGS_INITIAL_WINDOW_SIZE: u16 = 4;
const FRAME_HEADER_LEN: usize = 9;
/// Data of a tunnel that is given free at once at most: what is given free goes on when the policy changes.
const TUNNEL_GRANT_MAX: u64 = 16 << 10;
const SECOND_NS: u64 = 1_000_000_000;
/// How long a refusal waits for the answers to earlier requests, which it would cut off.
const POLITENESS_NS: u64 = SECOND_NS;
/// How long it waits for a moment in which no answer is under way. Then the connection is reset.
const PATIENCE_NS: u64 = 10 * SECOND_NS;

/// Frames that make work for the server without asking it for anything: so many at once, and so many a second.
#[derive(Clone, Copy, Debug)]
struct Pace {
    burst: u32,
    per_second: u32,
}

/// SETTINGS: clients send a handful in the life of a connection.
const SETTINGS: Pace = Pace {
    burst: 100,
    per_second: 10,
};
/// PING, PRIORITY, unknown types, acknowledgements, DATA without content. Clients of gRPC measure the path with a PING
/// per round trip.
const CONTROL: Pace = Pace {
    burst: 10_000,
    per_second: 10_000,
};
/// DATA with little content that does not end its stream: messages of chatty clients are that small.
const TINY: Pace = Pace {
    burst: 20_000,
    per_second: 20_000,
};
/// `RST_STREAM`: the figures that nghttp2 has against rapid reset, three times over a second.
const RESETS: Pace = Pace {
    burst: 1000,
    per_second: 100,
};
/// `WINDOW_UPDATE`: a fast download needs many.
const WINDOWS: Pace = Pace {
    burst: 100_000,
    per_second: 200_000,
};

/// What is left of a [`Pace`].
#[derive(Clone, Copy, Debug)]
struct Allowance {
    left: u32,
    since_ns: u64,
}

impl Allowance {
    const fn full(pace: Pace) -> Self {
        Self {
            left: pace.burst,
            since_ns: 0,
        }
    }

    /// Takes one; false if there is none.
    fn take(&mut self, pace: Pace, now_ns: u64) -> bool {
        let per_one_ns = SECOND_NS / u64::from(pace.per_second);
        let earned = now_ns.saturating_sub(self.since_ns) / per_one_ns;
        if self.left >= pace.burst || earned > u64::from(pace.burst) {
            self.since_ns = now_ns;
        } else {
            self.since_ns += earned * per_one_ns;
        }
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(earned).min(pace.burst);
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

/// Where in the frames the stream stands.
#[derive(Debug)]
pub(crate) struct Http2Inspector {
    phase: Phase,
    limits: Limits,
    decoder: Decoder,
    /// No frame has come yet: SETTINGS must be the first.
    at_first: bool,
    /// The newest stream of the opener.
    newest: u32,
    /// Streams that the opener has not ended.
    open: OpenStreams,
    /// What each stream's window begins with, by the opener's settings.
    initial_window: u32,
    settings: Allowance,
    control: Allowance,
    tiny: Allowance,
    resets: Allowance,
    windows: Allowance,
    /// Since when the present refusal waits to be told.
    refused_since_ns: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// So many bytes of the preface are there.
    Preface(usize),
    /// In a frame, a header block, or before one.
    Unit(FrameScanner),
    Data(Data),
}

/// The rest of a frame's data.
#[derive(Clone, Copy, Debug)]
struct Data {
    stream: u32,
    /// It ends the stream.
    end_stream: bool,
    /// So many bytes are still to come.
    left: u64,
}

/// Why a unit may not go on, and what the opener is told.
struct Refused {
    reason: DropReason,
    answer: Vec<u8>,
}

impl Http2Inspector {
    /// After so many bytes of the preface, which were let through.
    pub(crate) fn new(limits: Limits, preface: usize) -> Self {
        Self {
            phase: Phase::Preface(preface),
            limits,
            decoder: Decoder::new(),
            at_first: true,
            newest: 0,
            open: OpenStreams::default(),
            initial_window: INITIAL_WINDOW,
            settings: Allowance::full(SETTINGS),
            control: Allowance::full(CONTROL),
            tiny: Allowance::full(TINY),
            resets: Allowance::full(RESETS),
            windows: Allowance::full(WINDOWS),
            refused_since_ns: None,
        }
    }

    /// After an upgrade: the request that asked for it was stream 1 (RFC 7540 §3.2). `settings`: the payload that it brought
    /// with it. If that could not be read, windows may begin with anything until other settings come.
    pub(crate) fn upgraded(limits: Limits, settings: Option<&[u8]>) -> Self {
        let initial_window = match settings {
            Some(settings) => initial_window(settings).unwrap_or(INITIAL_WINDOW),
            None => u32::MAX,
        };
        Self {
            newest: 1,
            initial_window,
            ..Self::new(limits, 0)
        }
    }

    /// Bytes of the preface, frame or header block that has begun and is not complete.
    pub(crate) const fn pending(&self) -> usize {
        match &self.phase {
            Phase::Preface(there) => *there,
            Phase::Unit(scanner) => scanner.taken(),
            Phase::Data(_) => 0,
        }
    }

    /// Memory held, in bytes.
    pub(crate) fn held(&self) -> usize {
        size_of::<Self>() + self.decoder.held() + self.open.held()
    }

    /// Other rules: the connection goes on if they allow every request that opened a tunnel which the opener has not
    /// ended. Where one was not kept nobody can say so.
    pub(crate) fn judge_again(&self, judge: &mut dyn HeadJudge) -> Result<(), DropReason> {
        let mut lines = Vec::new();
        for tunnel in self.open.tunnels() {
            let fields = tunnel.ok_or(DropReason::Http2TooManyStreams)?;
            let request = read_request(fields, &mut lines).map_err(http2_reason)?;
            judge.again(&request.head)?;
        }
        Ok(())
    }

    /// Takes new bytes, which begin at `stream.next()`.
    pub(crate) fn inspect(&mut self, stream: &mut Stream, new: &[u8], judge: &mut dyn HeadJudge) -> Inspection {
        let mut rest = new;
        let mut allowed = 0;
        // Each turn takes at least one byte or ends the loop.
        while !rest.is_empty() {
            let step = match self.phase {
                Phase::Preface(there) => self.preface(there, stream, rest),
                Phase::Unit(scanner) => self.unit(scanner, stream, rest, judge, &mut allowed),
                Phase::Data(data) => Ok(self.data(data, stream, rest)),
            };
            match step {
                Ok(taken) => rest = rest.get(taken..).unwrap_or_default(),
                Err(refused) => {
                    let passed = new.len() - rest.len();
                    return self.refuse(refused, passed, allowed, judge.now_ns());
                }
            }
        }
        self.refused_since_ns = None;
        Inspection {
            allowed,
            ..Inspection::default()
        }
    }

    /// Gives the rest of the present data free, if that pays: the range of sequence numbers.
    pub(crate) fn grant(&mut self, stream: &mut Stream) -> Option<(u32, u32)> {
        let Phase::Data(data) = self.phase else { return None };
        let left = if self.open.is_tunnel(data.stream) {
            data.left.min(TUNNEL_GRANT_MAX)
        } else {
            data.left
        };
        let (len, range) = give_free(stream, left)?;
        self.after_data(data, len);
        Some(range)
    }

    /// So many bytes will never be shown. False if it is not certain what they are.
    pub(crate) fn skip(&mut self, len: u64) -> bool {
        match self.phase {
            Phase::Data(data) if data.left >= len => {
                self.after_data(data, len);
                true
            }
            Phase::Data(_) | Phase::Unit(_) | Phase::Preface(_) => false,
        }
    }

    /// A refusal is told when it disturbs nothing, but not for ever: see `docs/http.md`.
    fn refuse(&mut self, refused: Refused, passed: usize, allowed: usize, now_ns: u64) -> Inspection {
        let since_ns = *self.refused_since_ns.get_or_insert(now_ns);
        let patience = match now_ns.saturating_sub(since_ns) {
            ..POLITENESS_NS => Patience::Answered,
            POLITENESS_NS..PATIENCE_NS => Patience::Idle,
            _ => Patience::Over,
        };
        Inspection {
            allowed,
            refusal: Some(Refusal {
                reason: refused.reason,
                passed,
                in_body: false,
                answer: Cow::Owned(refused.answer),
            }),
            patience,
            ..Inspection::default()
        }
    }

    fn preface(&mut self, there: usize, stream: &mut Stream, rest: &[u8]) -> Result<usize, Refused> {
        let wanted = PREFACE.get(there..).unwrap_or_default();
        let here = rest.get(..wanted.len()).unwrap_or(rest);
        if !wanted.starts_with(here) {
            return Err(self.fault(Http2Fault::BadPreface));
        }
        stream.append(here);
        self.phase = if here.len() == wanted.len() {
            self.next_unit()
        } else {
            Phase::Preface(there + here.len())
        };
        Ok(here.len())
    }

    fn data(&mut self, data: Data, stream: &mut Stream, rest: &[u8]) -> usize {
        let take = usize::try_from(data.left).unwrap_or(usize::MAX).min(rest.len());
        stream.append(rest.get(..take).unwrap_or_default());
        self.after_data(data, take as u64);
        take
    }

    /// `len` bytes of the data have gone on. The stream ends with the last one, not with the frame's header: until then it
    /// may be a tunnel.
    fn after_data(&mut self, data: Data, len: u64) {
        let left = data.left.saturating_sub(len);
        if left > 0 {
            self.phase = Phase::Data(Data { left, ..data });
            return;
        }
        if data.end_stream {
            self.open.end(data.stream);
        }
        self.phase = self.next_unit();
    }

    const fn next_unit(&self) -> Phase {
        Phase::Unit(FrameScanner::new(&self.limits))
    }

    fn unit(
        &mut self,
        mut scanner: FrameScanner,
        stream: &mut Stream,
        rest: &[u8],
        judge: &mut dyn HeadJudge,
        allowed: &mut usize,
    ) -> Result<usize, Refused> {
        let earlier = scanner.taken();
        let progress = scanner.advance(rest).map_err(|fault| self.fault(fault))?;
        if self.at_first && scanner.kind().is_some_and(|kind| kind != FrameKind::Settings) {
            return Err(self.fault(Http2Fault::BadPreface));
        }
        let Some((end, unit)) = progress else {
            stream.append(rest);
            self.phase = Phase::Unit(scanner);
            return Ok(rest.len());
        };
        let here = rest.get(..end).unwrap_or_default();
        match unit {
            Unit::Block { stream: id, end_stream } => {
                // The block's last bytes count only if it is allowed.
                let judged = if earlier == 0 {
                    self.block(id, end_stream, here, judge)
                } else {
                    stream.append(here);
                    let judged = self.block(id, end_stream, stream.tail(earlier + end), judge);
                    stream.retract(end);
                    judged
                };
                *allowed += usize::from(judged?);
                self.phase = self.next_unit();
            }
            Unit::Data {
                stream: id,
                end_stream,
                len,
                padding,
            } => {
                self.data_frame(id, end_stream, len, padding, judge)?;
                let data = Data {
                    stream: id,
                    end_stream,
                    left: u64::from(len),
                };
                self.after_data(data, 0);
            }
            Unit::Frame(frame) => {
                if earlier == 0 {
                    self.frame(&frame, here, judge)?;
                } else {
                    stream.append(here);
                    let judged = self.frame(&frame, stream.tail(earlier + end), judge);
                    stream.retract(end);
                    judged?;
                }
                self.phase = self.next_unit();
            }
        }
        self.at_first = false;
        stream.append(here);
        Ok(end)
    }

    /// Whether the block is a request (else it is trailers).
    fn block(&mut self, id: u32, end_stream: bool, unit: &[u8], judge: &mut dyn HeadJudge) -> Result<bool, Refused> {
        let result = self.decode_and_judge(id, end_stream, unit, judge);
        if result.is_ok() {
            self.decoder.commit();
        } else {
            self.decoder.rollback();
        }
        result
    }

    fn decode_and_judge(
        &mut self,
        id: u32,
        end_stream: bool,
        unit: &[u8],
        judge: &mut dyn HeadJudge,
    ) -> Result<bool, Refused> {
        let block = join_block(unit).map_err(|fault| self.fault(fault))?;
        let mut fields = Fields::default();
        self.decoder
            .decode(&block, &self.limits, &mut fields)
            .map_err(|fault| self.fault(fault))?;
        if id <= self.newest {
            return self.trailers(id, end_stream, &fields).map(|()| false);
        }
        let mut lines = Vec::new();
        let on_stream = |reason, is_grpc| Refused {
            reason,
            answer: forbidden(id, is_grpc),
        };
        let request = match read_request(&fields, &mut lines) {
            Ok(request) => request,
            Err(fault) => {
                let reason = http2_reason(fault);
                judge
                    .refuse(Some(&loosely(&fields)), reason)
                    .map_err(|reason| on_stream(reason, false))?;
                self.newest = id;
                return Ok(true);
            }
        };
        let promised = request.content_length.unwrap_or(0);
        let promise = request.content_length.filter(|_| !end_stream);
        let judged = if end_stream && promised > 0 {
            judge.refuse(Some(&request.head.loosely()), DropReason::Http2LengthMismatch)
        } else if promise.is_some() && self.open.is_full_of_promises() {
            judge.refuse(Some(&request.head.loosely()), DropReason::Http2TooManyStreams)
        } else {
            let stream = Http2Stream {
                number: id,
                is_grpc: request.is_grpc,
            };
            judge.request(&request.head, stream)
        };
        judged.map_err(|reason| on_stream(reason, request.is_grpc))?;
        self.newest = id;
        let opens_tunnel = request.head.method == "CONNECT";
        if !end_stream {
            let tunnel = opens_tunnel.then(|| fields.clone());
            self.open.begin(id, promise, tunnel, judge.now_ns());
        }
        Ok(true)
    }

    fn trailers(&mut self, id: u32, end_stream: bool, fields: &Fields) -> Result<(), Refused> {
        check_trailers(fields).map_err(|fault| self.fault(fault))?;
        // RFC 9113 §8.1: what is not the first block of a stream ends it.
        if !end_stream {
            return Err(self.fault(Http2Fault::BadFrame));
        }
        self.keep_promise(id, 0, true)?;
        self.open.end(id);
        Ok(())
    }

    fn data_frame(
        &mut self,
        id: u32,
        end_stream: bool,
        len: u32,
        padding: u32,
        judge: &mut dyn HeadJudge,
    ) -> Result<(), Refused> {
        if id > self.newest {
            return Err(self.fault(Http2Fault::BadFrame));
        }
        let content = len - padding;
        let (is_within, reason) = match content {
            _ if end_stream => (true, DropReason::Http2ControlFlood),
            0 => (
                self.control.take(CONTROL, judge.now_ns()),
                DropReason::Http2ControlFlood,
            ),
            _ => (
                content >= TINY_DATA_LEN || self.tiny.take(TINY, judge.now_ns()),
                DropReason::Http2TinyDataFlood,
            ),
        };
        if !is_within {
            let flood = judge.refuse(None, reason);
            flood.map_err(|reason| self.flood(reason))?;
        }
        self.open.hear(id, judge.now_ns());
        self.keep_promise(id, content, end_stream)
    }

    /// Data of a stream that was not ended; if it has promised a length no more than that, and at the end no less.
    fn keep_promise(&mut self, id: u32, len: u32, end_stream: bool) -> Result<(), Refused> {
        let Some(promise) = self.open.promise(id) else {
            return Err(Refused {
                reason: DropReason::Http2StreamClosed,
                answer: go_away(self.newest, ErrorCode::StreamClosed),
            });
        };
        if let Some(left) = promise {
            match left.checked_sub(u64::from(len)) {
                Some(rest) if rest == 0 || !end_stream => *left = rest,
                _ => {
                    return Err(Refused {
                        reason: DropReason::Http2LengthMismatch,
                        answer: go_away(self.newest, ErrorCode::Protocol),
                    });
                }
            }
        }
        Ok(())
    }

    /// A frame, with its header.
    fn frame(&mut self, frame: &FrameHeader, unit: &[u8], judge: &mut dyn HeadJudge) -> Result<(), Refused> {
        let now_ns = judge.now_ns();
        if self.at_first && frame.is_ack() {
            return Err(self.fault(Http2Fault::BadPreface));
        }
        // Frames about streams that nobody has opened (RFC 9113 §5.1); PRIORITY may come first.
        let is_idle = frame.stream > self.newest && frame.stream % 2 == 1;
        if is_idle && matches!(frame.kind, FrameKind::ResetStream | FrameKind::WindowUpdate) {
            return Err(self.fault(Http2Fault::BadFrame));
        }
        let payload = unit.get(FRAME_HEADER_LEN..).unwrap_or_default();
        let (is_within, reason) = match frame.kind {
            FrameKind::Settings if !frame.is_ack() => {
                self.initial_window = initial_window(payload).unwrap_or(self.initial_window);
                (self.settings.take(SETTINGS, now_ns), DropReason::Http2SettingsFlood)
            }
            FrameKind::ResetStream => (self.resets.take(RESETS, now_ns), DropReason::Http2ResetFlood),
            FrameKind::WindowUpdate => {
                if self.may_provoke(frame, payload)? && !self.resets.take(RESETS, now_ns) {
                    return Err(self.flood(DropReason::Http2ResetFlood));
                }
                self.open.hear(frame.stream, now_ns);
                (self.windows.take(WINDOWS, now_ns), DropReason::Http2ControlFlood)
            }
            FrameKind::Priority if word(payload) == frame.stream => return Err(self.fault(Http2Fault::BadFrame)),
            _ => (self.control.take(CONTROL, now_ns), DropReason::Http2ControlFlood),
        };
        if !is_within {
            judge.refuse(None, reason).map_err(|reason| self.flood(reason))?;
        }
        if frame.kind == FrameKind::ResetStream {
            self.open.end(frame.stream);
        }
        Ok(())
    }

    /// Whether the server may have to reset the stream because its window becomes too large.
    fn may_provoke(&self, frame: &FrameHeader, payload: &[u8]) -> Result<bool, Refused> {
        let increment = word(payload);
        if increment == 0 {
            // RFC 9113 §6.9: an error, of the stream if it is about one.
            return Err(self.fault(Http2Fault::BadFrame));
        }
        let is_large = increment >= LARGE_INCREMENT || self.initial_window.saturating_add(increment) > LARGE_WINDOW;
        Ok(frame.stream != 0 && is_large)
    }

    fn flood(&self, reason: DropReason) -> Refused {
        Refused {
            reason,
            answer: go_away(self.newest, ErrorCode::EnhanceYourCalm),
        }
    }

    fn fault(&self, fault: Http2Fault) -> Refused {
        let code = match fault {
            Http2Fault::BadCompression => ErrorCode::Compression,
            Http2Fault::TooManyContinuations | Http2Fault::Request(_) => ErrorCode::EnhanceYourCalm,
            _ => ErrorCode::Protocol,
        };
        Refused {
            reason: http2_reason(fault),
            answer: go_away(self.newest, code),
        }
    }
}

/// What windows begin with by these settings, if they say so. The last word counts.
fn initial_window(settings: &[u8]) -> Option<u32> {
    let (settings, _) = settings.as_chunks::<6>();
    settings.iter().rev().find_map(|&[i0, i1, value @ ..]| {
        (u16::from_be_bytes([i0, i1]) == SETTINGS_INITIAL_WINDOW_SIZE).then_some(u32::from_be_bytes(value))
    })
}

/// The first 31 bits of a payload after the one that is reserved.
fn word(payload: &[u8]) -> u32 {
    payload
        .first_chunk()
        .map_or(0, |bytes| u32::from_be_bytes(*bytes) & 0x7fff_ffff)
}

/// What fields that are no request say all the same.
fn loosely(fields: &Fields) -> LooseHead<'_> {
    let value = |name: &[u8]| {
        let field = fields.iter().find(|(known, _)| *known == name);
        field
            .and_then(|(_, value)| std::str::from_utf8(value).ok())
            .unwrap_or_default()
    };
    LooseHead {
        method: value(b":method"),
        target: value(b":path"),
        host: value(b":authority"),
        body: BodyLength::None,
        version: Version::Http2,
    }
}

/// The drop reason of each fault.
const fn http2_reason(fault: Http2Fault) -> DropReason {
    match fault {
        Http2Fault::BadPreface => DropReason::Http2BadPreface,
        Http2Fault::BadFrame => DropReason::Http2BadFrame,
        Http2Fault::BadCompression => DropReason::Http2BadCompression,
        Http2Fault::BadPseudoHeader => DropReason::Http2BadPseudoHeader,
        Http2Fault::BadHeader => DropReason::Http2BadHeader,
        Http2Fault::ConnectionHeader => DropReason::Http2ConnectionHeader,
        Http2Fault::TooManyContinuations => DropReason::Http2TooManyContinuations,
        Http2Fault::Request(fault) => http_reason(fault),
    }
}
