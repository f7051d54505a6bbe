//! What can be wrong with a message.

/// Why bytes are no DNS message that everybody reads alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum DnsFault {
    /// It ends before what its header or a length in it promises (RFC 1035 §4.1).
    #[error("the message ends too early")]
    Truncated,
    /// Bytes after the last record that the header counts.
    #[error("bytes after the last record")]
    TrailingBytes,
    /// More bytes than [`super::MESSAGE_LEN_MAX`].
    #[error("the message is too long")]
    TooLong,
    /// More questions than [`super::QUESTIONS_MAX`] (RFC 9619 §4 allows one).
    #[error("too many questions")]
    TooManyQuestions,
    /// A name longer than [`super::NAME_LEN_MAX`] bytes (RFC 1035 §3.1).
    #[error("a name is longer than 255 bytes")]
    NameTooLong,
    /// A label that begins with the bits 01 or 10 (RFC 1035 §4.1.4; RFC 6891 §5 withdrew the only use).
    #[error("a label of a reserved type")]
    ReservedLabel,
    /// A compression pointer that does not point before the labels it ends (RFC 1035 §4.1.4: "a prior occurrence").
    #[error("a compression pointer that does not point backwards")]
    ForwardPointer,
    /// A compression pointer to labels that run into the name it ends: no prior occurrence of a name.
    #[error("a compression pointer into the name that it ends")]
    Overlap,
    /// A compression pointer into the message's header, where no name stands.
    #[error("a compression pointer into the header")]
    PointerIntoHeader,
    /// More pointers in one name than [`super::POINTERS_MAX`].
    #[error("too many compression pointers in one name")]
    TooManyPointers,
    /// Data of an A, AAAA, CNAME, SVCB or HTTPS record whose length or form is not that of its type.
    #[error("the data of a record do not fit its type")]
    BadRecordData,
    /// An OPT record in another section than the last, twice, or with a name (RFC 6891 §6.1.1).
    #[error("an OPT record where none may be")]
    BadOpt,
}
