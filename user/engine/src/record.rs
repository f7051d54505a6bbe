//! Records: what the engine tells of requests and drops.

use crossbeam::queue::ArrayQueue;
use seventh_abi::{DropReason, Hook};
use seventh_policy::RuleOrigin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a path that a record keeps; the rest is cut off.
pub const RECORD_PATH_MAX: usize = 2048;

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordVerdict {
    /// The request went on.
    Forwarded,
    /// The request was refused, or a frame dropped.
    Dropped,
}

/// One request, or one frame that the engine dropped. Addresses and ports are the opener's view: source opened the
/// connection.
#[derive(Clone, Debug)]
pub struct L7Record {
    /// The `now_ns` of the decision.
    pub time_ns: u64,
    /// How it ended.
    pub verdict: RecordVerdict,
    /// Why, if dropped.
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
    /// The rule set that was asked, 0 if none.
    pub rule_set: u32,
    /// The rule that allowed it.
    pub rule: Option<Arc<RuleOrigin>>,
    pub(crate) text: RequestText,
}

impl L7Record {
    /// Method, or empty if this is not about a request that could be read.
    #[must_use]
    pub fn method(&self) -> &str {
        self.text.part(0, self.text.method_len)
    }

    /// What a ClientHello said, if this is about one; its server name is the [`L7Record::host`].
    #[must_use]
    pub const fn tls(&self) -> Option<&TlsRecord> {
        self.text.tls.as_ref()
    }

    /// Host as sent, or the server name of a ClientHello; empty if there was none.
    #[must_use]
    pub fn host(&self) -> &str {
        self.text.part(self.text.method_len, self.text.host_len)
    }

    /// Path as policy matched it, at most [`RECORD_PATH_MAX`] bytes.
    #[must_use]
    pub fn path(&self) -> &str {
        let start = self.text.method_len + self.text.host_len;
        self.text.part(start, self.text.all.len() - start)
    }
}

/// What a ClientHello said beside its server name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsRecord {
    /// The highest version offered (0x0304 is TLS 1.3), 0 if the connection was judged again after a change of policy.
    pub version: u16,
    /// Protocols offered (ALPN), joined by commas.
    pub alpn: String,
    /// ECH is offered or pretended: the server name is the outer one.
    pub ech: bool,
    /// It came over QUIC.
    pub quic: bool,
}

/// Method, host and path of a request in one buffer that is used again.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestText {
    all: String,
    method_len: usize,
    host_len: usize,
    tls: Option<TlsRecord>,
}

impl RequestText {
    pub(crate) fn clear(&mut self) {
        self.all.clear();
        self.method_len = 0;
        self.host_len = 0;
        self.tls = None;
    }

    pub(crate) fn set(&mut self, method: &str, host: &str, path: &str) {
        self.clear();
        self.all.push_str(method);
        self.all.push_str(host);
        self.all
            .push_str(path.get(..path.floor_char_boundary(RECORD_PATH_MAX)).unwrap_or(path));
        self.method_len = method.len();
        self.host_len = host.len();
    }

    pub(crate) fn tls_mut(&mut self) -> &mut TlsRecord {
        self.tls.get_or_insert_default()
    }

    fn part(&self, start: usize, len: usize) -> &str {
        self.all.get(start..start + len).unwrap_or_default()
    }
}

/// Bounded queue of records. Never blocks; what does not fit is counted as lost.
#[derive(Debug)]
pub(crate) struct RecordQueue {
    ready: ArrayQueue<L7Record>,
    /// Text buffers that the reader gave back.
    spare: ArrayQueue<RequestText>,
    lost: AtomicU64,
}

impl RecordQueue {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            ready: ArrayQueue::new(capacity.max(1)),
            spare: ArrayQueue::new(capacity.max(1)),
            lost: AtomicU64::new(0),
        }
    }

    /// Queues the record and gives a buffer for the next one.
    pub(crate) fn push(&self, record: L7Record) -> RequestText {
        match self.ready.push(record) {
            Ok(()) => self.spare.pop().unwrap_or_default(),
            Err(refused) => {
                // Relaxed: a plain count.
                self.lost.fetch_add(1, Ordering::Relaxed);
                refused.text
            }
        }
    }

    pub(crate) fn pop(&self) -> Option<L7Record> {
        self.ready.pop()
    }

    pub(crate) fn recycle(&self, record: L7Record) {
        let mut text = record.text;
        text.clear();
        // A full pool means buffers enough: this one is freed.
        drop(self.spare.push(text));
    }

    pub(crate) fn lost(&self) -> u64 {
        // Relaxed: a plain count.
        self.lost.load(Ordering::Relaxed)
    }
}
