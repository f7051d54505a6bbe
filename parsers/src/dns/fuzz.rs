//! Fuzz entries of the DNS parser. Each asserts what the parser promises about any input; the reference is
//! `hickory-proto`.

use super::{
    DnsFault, FRAME_PREFIX_LEN, Head, Message, NAME_LEN_MAX, Name, Record, RecordData, split_frame, write_refusal,
};
use hickory_proto::op;
use hickory_proto::rr::rdata::svcb::{SVCB, SvcParamValue};
use hickory_proto::rr::{self, DNSClass, RData};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

/// Any bytes as a message.
///
/// # Panics
/// If the reference reads other questions or answers, or reads what we call broken, or the refusal is no answer.
pub fn fuzz_message(bytes: &[u8]) {
    let head = Head::parse(bytes);
    let whole = Message::parse(bytes);
    let reference = reference_questions(bytes);
    match &head {
        Ok(head) => {
            let Some((header, reference)) = reference else {
                unreachable!("only we read questions in {bytes:?}");
            };
            assert_eq!(head.header().id, header.metadata.id);
            assert_eq!(
                head.header().is_response(),
                header.metadata.message_type == op::MessageType::Response
            );
            assert_eq!(head.header().opcode(), u8::from(header.metadata.op_code));
            assert_eq!(head.header().is_truncated(), header.metadata.truncation);
            assert_eq!(head.header().recursion_desired(), header.metadata.recursion_desired);
            assert_eq!(head.questions().count(), reference.len());
            for (own, other) in head.questions().zip(&reference) {
                assert_same_name(&own.name, &other.name);
                assert_eq!(own.query_type, u16::from(other.query_type));
                assert_eq!(own.class, u16::from(other.query_class));
            }
        }
        Err(fault) => assert!(
            reference.is_none() || is_stricter(*fault),
            "{fault:?}: only the reference reads questions in {bytes:?}"
        ),
    }
    match (&whole, op::Message::from_vec(bytes)) {
        (Ok(own), Ok(other)) => assert_same_answers(own, &other),
        // It also reads the data of types that we only measure.
        (Ok(_) | Err(_), Err(_)) => {}
        (Err(fault), Ok(_)) => assert!(
            is_stricter(*fault),
            "{fault:?}: only the reference reads a message in {bytes:?}"
        ),
    }
    assert_refusal(bytes, head.ok(), whole.ok());
}

/// Any bytes as the beginning of a stream of messages, whole and byte by byte.
///
/// # Panics
/// If the number of messages depends on how the bytes come.
pub fn fuzz_frames(bytes: &[u8]) {
    let mut rest = bytes;
    let mut used = 0;
    while let Some((message, after)) = split_frame(rest) {
        let len = FRAME_PREFIX_LEN + message.len();
        let cut = rest.get(..len - 1).unwrap_or_default();
        assert!(split_frame(cut).is_none(), "a message before its last byte");
        used += len;
        rest = after;
    }
    assert_eq!(used + rest.len(), bytes.len());
}

/// Faults of what the reference lets pass.
const fn is_stricter(fault: DnsFault) -> bool {
    matches!(
        fault,
        DnsFault::TooManyQuestions
            | DnsFault::TrailingBytes
            | DnsFault::PointerIntoHeader
            | DnsFault::TooManyPointers
            | DnsFault::BadRecordData
            | DnsFault::TooLong
            | DnsFault::BadOpt
    )
}

fn reference_questions(bytes: &[u8]) -> Option<(op::Header, Vec<op::Query>)> {
    let mut decoder = BinDecoder::new(bytes);
    let header = op::Header::read(&mut decoder).ok()?;
    let count = usize::from(header.counts.queries);
    let questions = op::Message::read_queries(&mut decoder, count).ok()?;
    Some((header, questions))
}

fn assert_same_name(own: &Name<'_>, other: &rr::Name) {
    let labels: Vec<&[u8]> = own.labels().collect();
    let reference: Vec<&[u8]> = other.iter().collect();
    assert_eq!(labels, reference);
    let mut text = String::new();
    own.write(&mut text);
    assert!(text.ends_with('.') && text.len() <= 4 * NAME_LEN_MAX);
    assert!(text.bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase()));
    assert!(own.is(own));
}

fn assert_same_answers(own: &Message<'_>, other: &op::Message) {
    assert_eq!(own.answers().count(), usize::from(own.head().header().answers));
    assert_eq!(own.edns().is_some(), other.edns.is_some());
    if let (Some(own), Some(other)) = (own.edns(), &other.edns) {
        assert_eq!(own.version, other.version());
        // It takes sizes below 512 for 512 (RFC 6891 §6.2.3).
        assert_eq!(own.datagram_len_max.max(512), other.max_payload());
    }
    // It sets signatures aside; none of the types we read is among them.
    let mut others = other.answers.iter().filter(|record| is_read(record));
    for record in own.answers() {
        if !matches!(record.data, RecordData::Other) {
            let Some(reference) = others.next() else {
                unreachable!("only we read {record:?}");
            };
            assert_same_record(&record, reference);
        }
    }
    assert!(others.next().is_none(), "only the reference reads a record");
}

fn is_read(record: &rr::Record) -> bool {
    let kind = matches!(
        record.data,
        RData::A(_) | RData::AAAA(_) | RData::CNAME(_) | RData::SVCB(_) | RData::HTTPS(_)
    );
    kind && record.dns_class == DNSClass::IN
}

fn assert_same_record(own: &Record<'_>, other: &rr::Record) {
    assert_same_name(&own.name, &other.name);
    assert_eq!(own.ttl, other.ttl);
    match (own.data, &other.data) {
        (RecordData::A(address), RData::A(other)) => assert_eq!(address, other.octets()),
        (RecordData::Aaaa(address), RData::AAAA(other)) => assert_eq!(address, other.octets()),
        (RecordData::Cname(name), RData::CNAME(other)) => assert_same_name(&name, other),
        (RecordData::Service(_), RData::SVCB(other)) => assert_same_service(own, other),
        (RecordData::Service(_), RData::HTTPS(other)) => assert_same_service(own, other),
        (own, other) => unreachable!("{own:?} is {other:?}"),
    }
}

fn assert_same_service(own: &Record<'_>, other: &SVCB) {
    let RecordData::Service(own) = own.data else { return };
    assert_eq!(own.priority, other.svc_priority);
    assert_same_name(&own.target, &other.target_name);
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (_, value) in &other.svc_params {
        match value {
            SvcParamValue::Ipv4Hint(hint) => v4.extend(hint.0.iter().map(|a| a.octets())),
            SvcParamValue::Ipv6Hint(hint) => v6.extend(hint.0.iter().map(|a| a.octets())),
            _ => {}
        }
    }
    if own.priority == 0 {
        v4.clear();
        v6.clear();
    }
    assert_eq!(own.ipv4_hints().collect::<Vec<_>>(), v4);
    assert_eq!(own.ipv6_hints().collect::<Vec<_>>(), v6);
}

fn assert_refusal(bytes: &[u8], head: Option<Head<'_>>, whole: Option<Message<'_>>) {
    let mut answer = Vec::new();
    if !write_refusal(bytes, super::RCODE_REFUSED, &mut answer) {
        assert!(answer.is_empty());
        assert!(head.is_none_or(|head| head.header().is_response()));
        return;
    }
    let Ok(refusal) = Message::parse(&answer) else {
        unreachable!("the refusal {answer:?} is no message");
    };
    let header = refusal.head().header();
    assert!(header.is_response() && header.rcode() == super::RCODE_REFUSED && !header.is_truncated());
    assert_eq!(
        header.id.to_be_bytes(),
        bytes.first_chunk().copied().unwrap_or_default()
    );
    assert_eq!(
        refusal.edns().is_some(),
        whole.is_some_and(|message| message.edns().is_some())
    );
    let asked: Vec<_> = head.iter().flat_map(Head::questions).collect();
    assert_eq!(refusal.head().questions().count(), asked.len());
    for (own, asked) in refusal.head().questions().zip(&asked) {
        assert!(own.name.is(&asked.name) && own.query_type == asked.query_type && own.class == asked.class);
    }
}
