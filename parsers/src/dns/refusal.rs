//! Answers to queries that may not be asked.

use super::{Head, Header, Message, record_type};
use bytes::BufMut as _;

/// No error.
pub const RCODE_NOERROR: u8 = 0;
/// The query cannot be read.
pub const RCODE_FORMERR: u8 = 1;
/// There is no such name.
pub const RCODE_NXDOMAIN: u8 = 3;
/// Not answered for reasons of policy.
pub const RCODE_REFUSED: u8 = 5;

/// Datagrams that we say to take (RFC 9715 §3.1); nothing is sent to us.
const DATAGRAM_LEN: u16 = 1232;
const RESPONSE_HIGH: u8 = 1 << 7;
/// Opcode and RD of a query's first flag byte are echoed.
const ECHOED_HIGH: u8 = 0b0111_1001;
/// RA, so that a stub does not take us for a server that will not recurse; CD is echoed.
const RECURSION_AVAILABLE_LOW: u8 = 1 << 7;
const CHECKING_DISABLED_LOW: u8 = 1 << 4;

/// Appends the answer to `query`, with `rcode` (the low four bits count): id, opcode, RD and CD echoed, the questions if
/// they could be read, and an OPT record if the query had one (RFC 6891 §6.1.1). False, and nothing is appended, if
/// there is no header that could be answered or it is that of an answer: answering answers would let two sides talk for
/// ever.
pub fn write_refusal(query: &[u8], rcode: u8, answer: &mut Vec<u8>) -> bool {
    let (Ok(header), Some(&[high, low])) = (Header::parse(query), query.get(2..).and_then(<[u8]>::first_chunk)) else {
        return false;
    };
    if header.is_response() {
        return false;
    }
    let head = Head::parse(query).ok();
    let has_edns = Message::parse(query).is_ok_and(|message| message.edns().is_some());
    answer.put_u16(header.id);
    answer.put_u8(RESPONSE_HIGH | high & ECHOED_HIGH);
    answer.put_u8(RECURSION_AVAILABLE_LOW | low & CHECKING_DISABLED_LOW | rcode & 0b1111);
    let questions = head.map_or(0, |head| head.header().questions);
    for count in [questions, 0, 0, u16::from(has_edns)] {
        answer.put_u16(count);
    }
    answer.put_slice(head.map(|head| head.question_bytes()).unwrap_or_default());
    if has_edns {
        answer.put_u8(0);
        for word in [record_type::OPT, DATAGRAM_LEN, 0, 0, 0] {
            answer.put_u16(word);
        }
    }
    true
}
