//! The streams of an HTTP/2 connection that the opener has not ended.
//!
//! A tunnel (CONNECT, plain or extended) outlives the verdict on the request that opened it, so that request is kept, to be
//! judged again under other rules.

use seventh_parsers::http2::Fields;

/// Streams that are remembered; of those without a promise the one gives way of which the opener has said nothing for the
/// longest time. Not all of them need to be alive: that the server has ended one is not seen.
const OPEN_MAX: usize = 1024;
/// Streams whose promised length is still to come. Servers allow a hundred or so at a time.
const PROMISES_MAX: usize = 256;
/// Bytes of the requests that opened tunnels, of all of them together. What such a request said beyond is not kept.
const TUNNELS_HELD_MAX: usize = 64 << 10;

/// In the order of their numbers.
#[derive(Debug, Default)]
pub(crate) struct OpenStreams {
    streams: Vec<OpenStream>,
    /// Memory held for tunnels.
    tunnels_held: usize,
}

#[derive(Debug)]
struct OpenStream {
    number: u32,
    /// Bytes of data that its Content-Length still promises, if it promises any.
    promise: Option<u64>,
    tunnel: Option<Tunnel>,
    /// When the opener last said something of it.
    heard_ns: u64,
}

/// The request that opened a tunnel.
#[derive(Debug)]
enum Tunnel {
    Kept(Box<Fields>),
    /// There was no room for it.
    NotKept,
}

impl Tunnel {
    fn held(&self) -> usize {
        match self {
            Self::Kept(fields) => size_of::<Fields>() + fields.held(),
            Self::NotKept => 0,
        }
    }
}

impl OpenStreams {
    /// Memory held, in bytes.
    pub(crate) const fn held(&self) -> usize {
        self.streams.capacity() * size_of::<OpenStream>() + self.tunnels_held
    }

    /// Whether no further stream may promise a length.
    pub(crate) fn is_full_of_promises(&self) -> bool {
        // Most connections have fewer streams than that.
        self.streams.len() >= PROMISES_MAX
            && self.streams.iter().filter(|stream| stream.promise.is_some()).count() >= PROMISES_MAX
    }

    /// A stream with a higher number than all before. `tunnel`: the fields of the request, if it opens one.
    pub(crate) fn begin(&mut self, number: u32, promise: Option<u64>, tunnel: Option<Fields>, now_ns: u64) {
        if self.streams.len() >= OPEN_MAX {
            let streams = self.streams.iter().enumerate();
            let others = streams.filter(|(_, stream)| stream.promise.is_none());
            if let Some((at, _)) = others.min_by_key(|(_, stream)| stream.heard_ns) {
                self.remove(at);
            }
        }
        let tunnel = tunnel.map(|fields| {
            let kept = Tunnel::Kept(Box::new(fields));
            if self.tunnels_held + kept.held() <= TUNNELS_HELD_MAX {
                kept
            } else {
                Tunnel::NotKept
            }
        });
        self.tunnels_held += tunnel.as_ref().map_or(0, Tunnel::held);
        self.streams.push(OpenStream {
            number,
            promise,
            tunnel,
            heard_ns: now_ns,
        });
    }

    /// The opener says something of the stream.
    pub(crate) fn hear(&mut self, number: u32, now_ns: u64) {
        if let Some(stream) = self.find(number).and_then(|at| self.streams.get_mut(at)) {
            stream.heard_ns = now_ns;
        }
    }

    /// What the stream promises; `None` if it is not open.
    pub(crate) fn promise(&mut self, number: u32) -> Option<&mut Option<u64>> {
        let at = self.find(number)?;
        self.streams.get_mut(at).map(|stream| &mut stream.promise)
    }

    /// Whether the stream is a tunnel.
    pub(crate) fn is_tunnel(&self, number: u32) -> bool {
        let stream = self.find(number).and_then(|at| self.streams.get(at));
        stream.is_some_and(|stream| stream.tunnel.is_some())
    }

    /// The opener has ended the stream.
    pub(crate) fn end(&mut self, number: u32) {
        if let Some(at) = self.find(number) {
            self.remove(at);
        }
    }

    /// The request of each tunnel; `None` for one that was not kept.
    pub(crate) fn tunnels(&self) -> impl Iterator<Item = Option<&Fields>> {
        let tunnels = self.streams.iter().filter_map(|stream| stream.tunnel.as_ref());
        tunnels.map(|tunnel| match tunnel {
            Tunnel::Kept(fields) => Some(&**fields),
            Tunnel::NotKept => None,
        })
    }

    fn find(&self, number: u32) -> Option<usize> {
        self.streams.binary_search_by_key(&number, |stream| stream.number).ok()
    }

    fn remove(&mut self, at: usize) {
        let stream = self.streams.remove(at);
        self.tunnels_held -= stream.tunnel.as_ref().map_or(0, Tunnel::held);
    }
}
