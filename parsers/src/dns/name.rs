//! Names in a message.

use super::message::HEADER_LEN;
use super::{Cursor, DnsFault};

/// Bytes of a name at most, with its lengths and the final zero (RFC 1035 §3.1).
pub const NAME_LEN_MAX: usize = 255;
/// Compression pointers in one name at most. A name has 127 labels at most, and a pointer that only leads to a pointer
/// says nothing.
pub const POINTERS_MAX: usize = 127;

/// A name in a message: checked to its end.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Name<'a> {
    /// Reads the name at the cursor and leaves the cursor behind it.
    pub(super) fn read(cursor: &mut Cursor<'a>) -> Result<Self, DnsFault> {
        let name = Self {
            message: cursor.message,
            at: cursor.at,
        };
        let mut walk = Walk::new(cursor.message, cursor.at);
        let mut len = 1;
        while let Some(label) = walk.next_label()? {
            len += 1 + label.len();
            if len > NAME_LEN_MAX {
                return Err(DnsFault::NameTooLong);
            }
        }
        cursor.at = walk.end.unwrap_or(cursor.at);
        Ok(name)
    }

    /// Its labels, first to last, as they were sent; none for the root.
    #[must_use]
    pub fn labels(&self) -> Labels<'a> {
        Labels(Walk::new(self.message, self.at))
    }

    /// Whether it is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.labels().next().is_none()
    }

    /// Whether both are the same name: ASCII letters are equal in both cases (RFC 4343).
    #[must_use]
    pub fn is(&self, other: &Name<'_>) -> bool {
        let (mut own, mut others) = (self.labels(), other.labels());
        loop {
            match (own.next(), others.next()) {
                (None, None) => return true,
                (Some(a), Some(b)) if a.eq_ignore_ascii_case(b) => {}
                _ => return false,
            }
        }
    }

    /// Appends the name in the form in which policies compare it: lower case, with the final dot. A dot or backslash
    /// inside a label is escaped with a backslash, a byte that cannot be seen is `\DDD` (RFC 1035 §5.1), so that no
    /// label can look like two. At most 1013 bytes.
    pub fn write(&self, text: &mut String) {
        let start = text.len();
        for label in self.labels() {
            for &byte in label {
                write_byte(byte, text);
            }
            text.push('.');
        }
        if text.len() == start {
            text.push('.');
        }
    }
}

fn write_byte(byte: u8, text: &mut String) {
    match byte {
        b'.' | b'\\' => {
            text.push('\\');
            text.push(char::from(byte));
        }
        b'!'..=b'~' => text.push(char::from(byte.to_ascii_lowercase())),
        _ => {
            text.push('\\');
            for unit in [100, 10, 1] {
                text.push(char::from(b'0' + byte / unit % 10));
            }
        }
    }
}

/// See [`Name::labels`].
#[derive(Clone, Debug)]
pub struct Labels<'a>(Walk<'a>);

impl<'a> Iterator for Labels<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        // The name was walked to its end when it was read.
        self.0.next_label().ok().flatten()
    }
}

/// A walk along labels and pointers.
#[derive(Clone, Debug)]
struct Walk<'a> {
    message: &'a [u8],
    at: usize,
    /// Where the present run of labels began: a pointer leads before it, so each run begins before the last.
    run: usize,
    /// Where the present run must have ended: where the run began that led to it.
    limit: usize,
    pointers: usize,
    /// Where the name ends in the message: behind its first pointer or its zero.
    end: Option<usize>,
}

impl<'a> Walk<'a> {
    fn new(message: &'a [u8], at: usize) -> Self {
        Self {
            message,
            at,
            run: at,
            limit: usize::MAX,
            pointers: 0,
            end: None,
        }
    }

    /// The next label; `None` at the root, and again whenever asked.
    fn next_label(&mut self) -> Result<Option<&'a [u8]>, DnsFault> {
        loop {
            if self.at >= self.limit {
                return Err(DnsFault::Overlap);
            }
            let mut cursor = Cursor {
                message: self.message,
                at: self.at,
            };
            let [first] = cursor.array()?;
            match first >> 6 {
                0b00 if first == 0 => {
                    self.end.get_or_insert(cursor.at);
                    return Ok(None);
                }
                0b00 => {
                    let label = cursor.take(usize::from(first))?;
                    self.at = cursor.at;
                    return Ok(Some(label));
                }
                0b11 => {
                    let [second] = cursor.array()?;
                    self.end.get_or_insert(cursor.at);
                    self.follow(usize::from(first & 0b0011_1111) << 8 | usize::from(second))?;
                }
                _ => return Err(DnsFault::ReservedLabel),
            }
        }
    }

    fn follow(&mut self, target: usize) -> Result<(), DnsFault> {
        self.pointers += 1;
        if target < HEADER_LEN {
            return Err(DnsFault::PointerIntoHeader);
        }
        if target >= self.run {
            return Err(DnsFault::ForwardPointer);
        }
        if self.pointers > POINTERS_MAX {
            return Err(DnsFault::TooManyPointers);
        }
        self.limit = self.run;
        self.run = target;
        self.at = target;
        Ok(())
    }
}
