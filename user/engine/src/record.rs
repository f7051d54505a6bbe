//! Records: what the engine tells of requests and drops.

use crate::dns::DnsRecord;
use crossbeam::queue::ArrayQueue;
use seventh_abi::{DropReason, Hook};
use seventh_parsers::http1::LooseHead;
use seventh_policy::RuleOrigin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a path that a record keeps, as of a method and a host; the rest is cut off.
pub const RECORD_PATH_MAX: usize = 2048;
/// Bytes of headers that a record keeps: those that follow the first which finds no room are left out with it.
pub const RECORD_HEADERS_MAX: usize = 4096;

/// Bytes of a buffer that is kept for the next record; few records have more.
const KEPT_MAX: usize = 4096;

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordVerdict {
    /// The request went on.
    Forwarded,
    /// The request was refused, or a frame dropped.
    Dropped,
    /// Nothing was refused, because only looked at; enforcement would have.
    Audit,
}

/// One request, one answer of DNS, or one frame that the engine dropped. Addresses and ports are the opener's view: source
/// opened the connection.
#[derive(Clone, Debug)]
pub struct L7Record {
    /// The `now_ns` of the decision.
    pub time_ns: u64,
    /// How it ended.
    pub verdict: RecordVerdict,
    /// Why, if dropped or to be dropped; for a request that only was to be shown, what is wrong with it.
    pub reason: Option<DropReason>,
    /// Where it was inspected: [`Hook::FromEndpoint`] is the endpoint's egress.
    pub hook: Hook,
    /// Host-side interface of the endpoint.
    pub ifindex: u32,
    /// Number of the endpoint, 0 if it is not known.
    pub endpoint_id: u32,
    /// Identity of the other side, 0 if it was not looked up.
    pub peer_identity: u32,
    /// IP source; IPv4 mapped.
    pub source: [u8; 16],
    /// IP destination; IPv4 mapped.
    pub destination: [u8; 16],
    /// TCP or UDP source port.
    pub source_port: u16,
    /// TCP or UDP destination port.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Number of the opener's first byte, if it is known: tells the connections apart that use the same ports.
    pub base_seq: Option<u32>,
    /// The rule set that was asked, 0 if none.
    pub rule_set: u32,
    /// The rule that allowed it; of an answer: the one that allowed the question.
    pub rule: Option<Arc<RuleOrigin>>,
    pub(crate) content: Content,
}

impl L7Record {
    /// What it is about.
    #[must_use]
    pub const fn inside(&self) -> &Inside {
        &self.content.inside
    }

    /// The request of HTTP, if it is about one that could be read.
    #[must_use]
    pub const fn http(&self) -> Option<&HttpRecord> {
        match &self.content.inside {
            Inside::Http(http) => Some(http),
            _ => None,
        }
    }

    /// The question or answer of DNS, if it is about one that could be read.
    #[must_use]
    pub const fn dns(&self) -> Option<&DnsRecord> {
        match &self.content.inside {
            Inside::Dns(dns) => Some(dns),
            _ => None,
        }
    }

    /// What a ClientHello said, if it is about one.
    #[must_use]
    pub const fn tls(&self) -> Option<&TlsRecord> {
        match &self.content.inside {
            Inside::Tls(tls) => Some(tls),
            _ => None,
        }
    }

    /// Headers that the rule wants and does not insist on (`mismatch: LOG`), and that the request lacks or has with another
    /// value.
    #[must_use]
    pub fn logged_headers(&self) -> &[LoggedHeader] {
        self.http().map_or(&[], |http| &http.logged)
    }

    /// Bytes of memory that it takes, about.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        let text = match &self.content.inside {
            Inside::Http(http) => http.text.capacity(),
            Inside::Dns(dns) => size_of::<DnsRecord>() + dns.bytes(),
            Inside::Nothing | Inside::Tls(_) => 0,
        };
        size_of::<Self>() + text + self.content.buffer.capacity()
    }

    /// Method of a request of HTTP, else empty.
    #[must_use]
    pub fn method(&self) -> &str {
        self.http().map_or("", HttpRecord::method)
    }

    /// Host of a request of HTTP, or the server name of a ClientHello; empty if there was none.
    #[must_use]
    pub fn host(&self) -> &str {
        match &self.content.inside {
            Inside::Http(http) => http.host(),
            Inside::Tls(tls) => &tls.server_name,
            Inside::Nothing | Inside::Dns(_) => "",
        }
    }

    /// Path of a request of HTTP, else empty.
    #[must_use]
    pub fn path(&self) -> &str {
        self.http().map_or("", HttpRecord::path)
    }
}

/// What was inside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Inside {
    /// Nothing that could be read.
    #[default]
    Nothing,
    /// A request of HTTP.
    Http(HttpRecord),
    /// A question or an answer of DNS.
    Dns(Box<DnsRecord>),
    /// A ClientHello.
    Tls(TlsRecord),
}

/// A request of HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpRecord {
    /// Version as requests and answers name it, such as `HTTP/1.1`.
    pub version: &'static str,
    /// Where on its connection it was asked; `None` for HTTP/1.
    pub stream: Option<Http2Stream>,
    /// It asks for HTTP/2 on its connection: if the server agrees, it is stream 1 there (RFC 7540 §3.2).
    pub asks_http2: bool,
    /// Method, host and path in one buffer that is used again.
    text: String,
    method_len: usize,
    host_len: usize,
    path_len: usize,
    /// The target is another than the path, and stands behind it.
    has_target: bool,
    /// Where the headers begin, a line each.
    headers_at: usize,
    logged: Vec<LoggedHeader>,
}

impl HttpRecord {
    /// Method.
    #[must_use]
    pub fn method(&self) -> &str {
        self.part(0, self.method_len)
    }

    /// Host as sent; empty if there was none.
    #[must_use]
    pub fn host(&self) -> &str {
        self.part(self.method_len, self.host_len)
    }

    /// Path as policy matched it, at most [`RECORD_PATH_MAX`] bytes.
    #[must_use]
    pub fn path(&self) -> &str {
        self.part(self.method_len + self.host_len, self.path_len)
    }

    /// Target as sent, likewise.
    #[must_use]
    pub fn target(&self) -> &str {
        if !self.has_target {
            return self.path();
        }
        let start = self.method_len + self.host_len + self.path_len;
        self.part(start, self.headers_at.saturating_sub(start))
    }

    /// Names as sent, and values, of the headers; of more than [`RECORD_HEADERS_MAX`] bytes the first. None unless
    /// [`crate::EngineLimits::record_headers`] is set. What is not UTF-8 in a value is replaced.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let lines = self.text.get(self.headers_at..).unwrap_or_default().lines();
        lines.filter_map(|line| line.split_once(':'))
    }

    fn part(&self, start: usize, len: usize) -> &str {
        self.text.get(start..start + len).unwrap_or_default()
    }
}

/// A stream of HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2Stream {
    /// Its number.
    pub number: u32,
    /// It speaks gRPC, whose status comes in trailers.
    pub is_grpc: bool,
}

/// A header that a rule wants and does not insist on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedHeader {
    /// Its name, from the rule.
    pub name: String,
    /// The request has it, with another value than the rule wants. The value may be a secret and is not told.
    pub sent: bool,
}

/// What a ClientHello said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsRecord {
    /// Name of the server; empty if there was none.
    pub server_name: String,
    /// The highest version offered (0x0304 is TLS 1.3), 0 if the connection was judged again after a change of policy.
    pub version: u16,
    /// Protocols offered (ALPN), joined by commas.
    pub alpn: String,
    /// ECH is offered or pretended: the server name is the outer one.
    pub ech: bool,
    /// It came over QUIC.
    pub quic: bool,
}

/// What is inside, and buffers of what was inside before, for the next one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    inside: Inside,
    buffer: String,
    dns: Option<Box<DnsRecord>>,
}

impl Content {
    pub(crate) fn clear(&mut self) {
        self.set(Inside::Nothing);
    }

    pub(crate) fn set(&mut self, inside: Inside) {
        match std::mem::replace(&mut self.inside, inside) {
            Inside::Http(http) if http.text.capacity() <= KEPT_MAX => self.buffer = http.text,
            Inside::Dns(dns) if dns.bytes() <= KEPT_MAX => self.dns = Some(dns),
            Inside::Http(_) | Inside::Dns(_) | Inside::Nothing | Inside::Tls(_) => {}
        }
    }

    /// Writes a record of DNS over whatever stands in it.
    pub(crate) fn set_dns(&mut self, write: impl FnOnce(&mut DnsRecord)) {
        self.clear();
        let mut dns = self.dns.take().unwrap_or_default();
        write(&mut dns);
        self.inside = Inside::Dns(dns);
    }

    pub(crate) const fn inside(&self) -> &Inside {
        &self.inside
    }

    /// Whether nothing was noted.
    pub(crate) const fn is_empty(&self) -> bool {
        matches!(self.inside, Inside::Nothing)
    }

    pub(crate) fn set_http(&mut self, version: &'static str, head: &LooseHead<'_>, path: &str) {
        self.clear();
        let mut text = std::mem::take(&mut self.buffer);
        text.clear();
        let (method, host) = (cut(head.method), cut(head.host));
        text.push_str(method);
        text.push_str(host);
        text.push_str(cut(path));
        let path_len = text.len() - method.len() - host.len();
        let same = cut(head.target) == cut(path);
        if !same {
            text.push_str(cut(head.target));
        }
        self.inside = Inside::Http(HttpRecord {
            headers_at: text.len(),
            version,
            stream: None,
            asks_http2: false,
            text,
            method_len: method.len(),
            host_len: host.len(),
            path_len,
            has_target: !same,
            logged: Vec::new(),
        });
    }

    pub(crate) fn set_stream(&mut self, stream: Http2Stream) {
        if let Inside::Http(http) = &mut self.inside {
            http.stream = Some(stream);
        }
    }

    pub(crate) fn set_asks_http2(&mut self) {
        if let Inside::Http(http) = &mut self.inside {
            http.asks_http2 = true;
        }
    }

    pub(crate) fn set_headers<'h>(&mut self, headers: impl Iterator<Item = (&'h str, &'h [u8])>) {
        let Inside::Http(HttpRecord { text, headers_at, .. }) = &mut self.inside else {
            return;
        };
        text.truncate(*headers_at);
        for (name, value) in headers {
            let value = String::from_utf8_lossy(value);
            if text.len() - *headers_at + name.len() + value.len() + 2 > RECORD_HEADERS_MAX {
                return;
            }
            text.push_str(name);
            text.push(':');
            text.push_str(&value);
            text.push('\n');
        }
    }

    pub(crate) fn set_logged(&mut self, headers: impl Iterator<Item = LoggedHeader>) {
        if let Inside::Http(http) = &mut self.inside {
            http.logged = headers.collect();
        }
    }
}

fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(RECORD_PATH_MAX)).unwrap_or(text)
}

/// Records that were given back and are kept at most.
const SPARE_MAX: usize = 1024;

/// Bounded queue of records. Never blocks; what does not fit is counted as lost. Its places are pointers, so that a queue
/// that is never full takes little memory.
#[derive(Debug)]
pub(crate) struct RecordQueue {
    ready: ArrayQueue<Arc<L7Record>>,
    /// Those that the reader gave back, emptied.
    spare: ArrayQueue<Arc<L7Record>>,
    lost: AtomicU64,
}

impl RecordQueue {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            ready: ArrayQueue::new(capacity.max(1)),
            spare: ArrayQueue::new(capacity.clamp(1, SPARE_MAX)),
            lost: AtomicU64::new(0),
        }
    }

    /// Queues the record and gives a buffer for the next one.
    pub(crate) fn push(&self, record: L7Record) -> Content {
        let mut spare = Content::default();
        let record = self.make(|content| {
            spare = content;
            record
        });
        if let Err(refused) = self.ready.push(record) {
            // Relaxed: a plain count.
            self.lost.fetch_add(1, Ordering::Relaxed);
            self.recycle(refused);
        }
        spare
    }

    /// A record that does not come from an engine, with a buffer for it. In the place of one that was given back, if there is
    /// any.
    pub(crate) fn make(&self, make: impl FnOnce(Content) -> L7Record) -> Arc<L7Record> {
        if let Some(mut spare) = self.spare.pop()
            && let Some(place) = Arc::get_mut(&mut spare)
        {
            *place = make(std::mem::take(&mut place.content));
            return spare;
        }
        Arc::new(make(Content::default()))
    }

    pub(crate) fn pop(&self) -> Option<Arc<L7Record>> {
        self.ready.pop()
    }

    /// Nothing comes of it if somebody else has the record still.
    pub(crate) fn recycle(&self, mut record: Arc<L7Record>) {
        if let Some(place) = Arc::get_mut(&mut record) {
            place.content.clear();
            place.rule = None;
            // A full pool means records enough: this one is freed.
            drop(self.spare.push(record));
        }
    }

    pub(crate) fn lost(&self) -> u64 {
        // Relaxed: a plain count.
        self.lost.load(Ordering::Relaxed)
    }
}
