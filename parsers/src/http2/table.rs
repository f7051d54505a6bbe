//! The static and the dynamic table of HPACK (RFC 7541 §2.3).

use std::collections::VecDeque;

/// What an entry counts beside its name and value (RFC 7541 §4.1).
const ENTRY_OVERHEAD: usize = 32;
/// Size of the dynamic table before anybody says another (RFC 9113 §6.5.2).
const SIZE_AT_FIRST: usize = 4096;

/// RFC 7541, appendix A, from index 1 on.
#[rustfmt::skip]
const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""), ("etag", ""),
    ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""), ("if-modified-since", ""),
    ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""),
    ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""),
    ("www-authenticate", ""),
];

/// Both tables. What is done to the dynamic one between [`Table::commit`]s can be undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// Newest first. Those after the first `live` were evicted since the last commit.
    entries: VecDeque<Entry>,
    live: usize,
    size: usize,
    size_max: usize,
    /// Entries at the front that are new since the last commit.
    inserted: usize,
    /// `live`, `size`, `size_max` at the last commit.
    saved: (usize, usize, usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// Name, then value.
    bytes: Box<[u8]>,
    name_len: usize,
}

impl Entry {
    fn size(&self) -> usize {
        self.bytes.len() + ENTRY_OVERHEAD
    }
}

impl Table {
    pub(super) const fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            live: 0,
            size: 0,
            size_max: SIZE_AT_FIRST,
            inserted: 0,
            saved: (0, 0, SIZE_AT_FIRST),
        }
    }

    /// Memory held, in bytes: as RFC 7541 §4.1 counts, which is about what an entry takes, and the room for more.
    pub(super) fn held(&self) -> usize {
        self.size + self.entries.capacity() * size_of::<Entry>()
    }

    /// Name and value of the field that everybody knows by this index.
    pub(super) fn fixed(index: usize) -> Option<(&'static str, &'static str)> {
        STATIC.get(index.checked_sub(1)?).copied()
    }

    /// Name and value of the field with this index.
    pub(super) fn get(&self, index: usize) -> Option<(&[u8], &[u8])> {
        let index = index.checked_sub(1)?;
        if let Some((name, value)) = STATIC.get(index) {
            return Some((name.as_bytes(), value.as_bytes()));
        }
        let index = index - STATIC.len();
        let entry = self.entries.get(index).filter(|_| index < self.live)?;
        entry.bytes.split_at_checked(entry.name_len)
    }

    /// Adds a field as the newest; older ones give way (RFC 7541 §4.4).
    pub(super) fn insert(&mut self, name: &[u8], value: &[u8]) {
        let entry = Entry {
            bytes: [name, value].concat().into(),
            name_len: name.len(),
        };
        if entry.size() > self.size_max {
            self.evict_to(0);
            return;
        }
        self.evict_to(self.size_max - entry.size());
        self.size += entry.size();
        self.live += 1;
        self.inserted += 1;
        self.entries.push_front(entry);
    }

    /// Another size; what does not fit any more gives way (RFC 7541 §4.3).
    pub(super) fn resize(&mut self, size_max: usize) {
        self.size_max = size_max;
        self.evict_to(size_max);
    }

    /// What was done since the last commit stays.
    pub(super) fn commit(&mut self) {
        self.entries.truncate(self.live);
        self.inserted = 0;
        self.saved = (self.live, self.size, self.size_max);
    }

    /// What was done since the last commit is undone.
    pub(super) fn rollback(&mut self) {
        self.entries.drain(..self.inserted.min(self.entries.len()));
        self.inserted = 0;
        (self.live, self.size, self.size_max) = self.saved;
    }

    fn evict_to(&mut self, size: usize) {
        while self.size > size
            && let Some(last) = self.live.checked_sub(1)
        {
            self.size -= self.entries.get(last).map_or(self.size, Entry::size);
            self.live = last;
        }
    }
}
