//! Messages.

use super::{Cursor, DnsFault, Name, Record, record_type};

/// Bytes of a message at most: what the length in front of it over TCP can say.
pub const MESSAGE_LEN_MAX: usize = 65_535;
/// Questions of a message at most. One is usual and all that RFC 9619 allows; each is judged.
pub const QUESTIONS_MAX: u16 = 8;
/// Opcode of a standard query.
pub const OPCODE_QUERY: u8 = 0;
/// Bytes of the header.
pub(super) const HEADER_LEN: usize = 12;

/// The first twelve bytes (RFC 1035 §4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Echoed by the answer.
    pub id: u16,
    flags: u16,
    /// Questions.
    pub questions: u16,
    /// Records of the answer section.
    pub answers: u16,
    /// Records of the authority section.
    pub authorities: u16,
    /// Records of the additional section.
    pub additionals: u16,
}

impl Header {
    const RESPONSE: u16 = 1 << 15;
    const TRUNCATED: u16 = 1 << 9;
    const RECURSION_DESIRED: u16 = 1 << 8;

    /// Reads it; nothing behind it is looked at.
    ///
    /// # Errors
    /// [`DnsFault::Truncated`].
    pub fn parse(bytes: &[u8]) -> Result<Self, DnsFault> {
        let mut cursor = Cursor { message: bytes, at: 0 };
        Ok(Self {
            id: cursor.u16()?,
            flags: cursor.u16()?,
            questions: cursor.u16()?,
            answers: cursor.u16()?,
            authorities: cursor.u16()?,
            additionals: cursor.u16()?,
        })
    }

    /// It is an answer (QR).
    #[must_use]
    pub const fn is_response(&self) -> bool {
        self.flags & Self::RESPONSE != 0
    }

    /// What is asked for: [`OPCODE_QUERY`] or something else.
    #[must_use]
    pub fn opcode(&self) -> u8 {
        self.flags.to_be_bytes().first().map_or(0, |high| high >> 3 & 0b1111)
    }

    /// The answer did not fit (TC).
    #[must_use]
    pub const fn is_truncated(&self) -> bool {
        self.flags & Self::TRUNCATED != 0
    }

    /// The server is asked to ask others (RD).
    #[must_use]
    pub const fn recursion_desired(&self) -> bool {
        self.flags & Self::RECURSION_DESIRED != 0
    }

    /// How it ended; without the bits that an OPT record adds.
    #[must_use]
    pub fn rcode(&self) -> u8 {
        self.flags.to_be_bytes().last().map_or(0, |low| low & 0b1111)
    }
}

/// One question.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Whose records.
    pub name: Name<'a>,
    /// Of which type, or a number that stands for several (255: any).
    pub query_type: u16,
    /// Of which class.
    pub class: u16,
}

impl<'a> Question<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Result<Self, DnsFault> {
        Ok(Self {
            name: Name::read(cursor)?,
            query_type: cursor.u16()?,
            class: cursor.u16()?,
        })
    }
}

/// The header and every question; what follows has not been looked at.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    message: &'a [u8],
    header: Header,
    end: usize,
}

impl<'a> Head<'a> {
    /// Reads header and questions.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(message: &'a [u8]) -> Result<Self, DnsFault> {
        if message.len() > MESSAGE_LEN_MAX {
            return Err(DnsFault::TooLong);
        }
        let header = Header::parse(message)?;
        if header.questions > QUESTIONS_MAX {
            return Err(DnsFault::TooManyQuestions);
        }
        let mut cursor = Cursor {
            message,
            at: HEADER_LEN,
        };
        for _ in 0..header.questions {
            Question::read(&mut cursor)?;
        }
        Ok(Self {
            message,
            header,
            end: cursor.at,
        })
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The questions, in their order.
    pub fn questions(&self) -> impl Iterator<Item = Question<'a>> + use<'a> {
        let mut cursor = Cursor {
            message: self.message,
            at: HEADER_LEN,
        };
        // They were read before.
        (0..self.header.questions).map_while(move |_| Question::read(&mut cursor).ok())
    }

    /// The bytes of the question section. Pointers in them keep their meaning behind any other header.
    pub(super) fn question_bytes(&self) -> &'a [u8] {
        self.message.get(HEADER_LEN..self.end).unwrap_or_default()
    }
}

/// What an OPT record says (RFC 6891 §6.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// Largest datagram that the sender takes, in bytes.
    pub datagram_len_max: u16,
    /// 0 is the only one there is.
    pub version: u8,
}

/// A whole message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    head: Head<'a>,
    edns: Option<Edns>,
}

impl<'a> Message<'a> {
    /// Reads all of it, to the last byte.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(message: &'a [u8]) -> Result<Self, DnsFault> {
        let head = Head::parse(message)?;
        let mut cursor = Cursor { message, at: head.end };
        let mut edns = None;
        let header = head.header;
        for (count, last) in [
            (header.answers, false),
            (header.authorities, false),
            (header.additionals, true),
        ] {
            for _ in 0..count {
                let record = Record::read(&mut cursor)?;
                if record.record_type == record_type::OPT {
                    if !last || edns.is_some() || !record.name.is_root() {
                        return Err(DnsFault::BadOpt);
                    }
                    let [_, version, ..] = record.ttl.to_be_bytes();
                    edns = Some(Edns {
                        datagram_len_max: record.class,
                        version,
                    });
                }
            }
        }
        if cursor.at != message.len() {
            return Err(DnsFault::TrailingBytes);
        }
        Ok(Self { head, edns })
    }

    /// Header and questions.
    #[must_use]
    pub const fn head(&self) -> &Head<'a> {
        &self.head
    }

    /// The records of the answer section, in their order.
    pub fn answers(&self) -> impl Iterator<Item = Record<'a>> + use<'a> {
        let mut cursor = Cursor {
            message: self.head.message,
            at: self.head.end,
        };
        // They were read before.
        (0..self.head.header.answers).map_while(move |_| Record::read(&mut cursor).ok())
    }

    /// What its OPT record says, if it has one.
    #[must_use]
    pub const fn edns(&self) -> Option<Edns> {
        self.edns
    }
}
