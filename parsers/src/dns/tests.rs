use super::{
    DnsFault, Head, Message, Name, POINTERS_MAX, QUESTIONS_MAX, RCODE_NXDOMAIN, RCODE_REFUSED, RecordData, fuzz_frames,
    fuzz_message, record_type, split_frame, type_name, write_refusal,
};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Header with id 0x1234, these flags and counts.
fn header(flags: u16, counts: [u16; 4]) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34];
    bytes.extend(flags.to_be_bytes());
    bytes.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
    bytes
}

/// A name without compression.
fn name(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in text.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

fn question(text: &str, query_type: u16) -> Vec<u8> {
    [name(text), query_type.to_be_bytes().to_vec(), vec![0, 1]].concat()
}

fn query(text: &str) -> Vec<u8> {
    [header(0x0100, [1, 0, 0, 0]), question(text, 1)].concat()
}

fn record(owner: &[u8], record_type: u16, ttl_s: u32, data: &[u8]) -> Vec<u8> {
    let len = (data.len() as u16).to_be_bytes();
    [
        owner,
        &record_type.to_be_bytes(),
        &[0, 1],
        &ttl_s.to_be_bytes(),
        &len,
        data,
    ]
    .concat()
}

/// The answer to `query("a.example")` with these records.
fn answer(records: &[Vec<u8>]) -> Vec<u8> {
    let head = header(0x8180, [1, records.len() as u16, 0, 0]);
    [head, question("a.example", 1), records.concat()].concat()
}

/// Pointer to the question's name.
const ASKED: [u8; 2] = [0xc0, 12];

fn text(name: &Name<'_>) -> String {
    let mut text = String::new();
    name.write(&mut text);
    text
}

fn first_name(bytes: &[u8]) -> Result<String, DnsFault> {
    Ok(Head::parse(bytes)?.questions().map(|q| text(&q.name)).next().unwrap())
}

#[test]
fn a_query_is_read_and_its_name_is_lowered() {
    let message = Message::parse(&query("WwW.ExAmple.COM"))
        .unwrap()
        .head()
        .header()
        .to_owned();
    assert_eq!(
        (message.id, message.is_response(), message.opcode()),
        (0x1234, false, 0)
    );
    assert!(message.recursion_desired() && !message.is_truncated());
    assert_eq!(first_name(&query("WwW.ExAmple.COM")).unwrap(), "www.example.com.");
    assert_eq!(first_name(&query("xn--mnchen-3ya.de")).unwrap(), "xn--mnchen-3ya.de.");
    assert_eq!(first_name(&query("")).unwrap(), ".");
}

#[test]
fn a_label_cannot_look_like_two() {
    let dotted = [header(0, [1, 0, 0, 0]), b"\x03a.b\x03com\x00\0\x01\0\x01".to_vec()].concat();
    assert_eq!(first_name(&dotted).unwrap(), "a\\.b.com.");
    let odd = [header(0, [1, 0, 0, 0]), b"\x04\\ \0\xff\x00\0\x01\0\x01".to_vec()].concat();
    assert_eq!(first_name(&odd).unwrap(), "\\\\\\032\\000\\255.");
}

#[test]
fn every_question_is_read() {
    let two = [
        header(0, [2, 0, 0, 0]),
        question("a.example", 1),
        b"\x01b\xc0\x0e\0\x1c\0\x01".to_vec(),
    ]
    .concat();
    let names: Vec<_> = Head::parse(&two)
        .unwrap()
        .questions()
        .map(|q| (text(&q.name), q.query_type))
        .collect();
    assert_eq!(names, [("a.example.".to_owned(), 1), ("b.example.".to_owned(), 28)]);
    let many = [header(0, [QUESTIONS_MAX + 1, 0, 0, 0]), question("a", 1).repeat(9)].concat();
    assert_eq!(Head::parse(&many).unwrap_err(), DnsFault::TooManyQuestions);
}

#[test]
fn compression_that_does_not_lead_back_is_a_fault() {
    let with = |bytes: &[u8]| [&header(0, [1, 0, 0, 0])[..], bytes, &[0, 1, 0, 1]].concat();
    let fault = |bytes: &[u8]| first_name(&with(bytes)).unwrap_err();
    assert_eq!(fault(&[0xc0, 12]), DnsFault::ForwardPointer, "to itself");
    assert_eq!(fault(&[1, b'a', 0xc0, 12]), DnsFault::ForwardPointer, "a loop");
    assert_eq!(fault(&[0xc0, 14, 0]), DnsFault::ForwardPointer, "forward");
    assert_eq!(fault(&[0xc0, 4]), DnsFault::PointerIntoHeader);
    assert_eq!(fault(&[0xff, 0xff]), DnsFault::ForwardPointer, "beyond the end");
    assert_eq!(fault(&[0x40, 1, 0]), DnsFault::ReservedLabel);
    assert_eq!(fault(&[0x80, 1, 0]), DnsFault::ReservedLabel);
}

/// The second question's name leads to a byte inside of the first's label, from which labels run into itself.
#[test]
fn labels_that_run_into_the_name_that_leads_to_them_are_a_fault() {
    let with = |len: u8| {
        let first = [&[1, len, 0][..], &[0, 1, 0, 1]].concat();
        let second = [&[1, b'b', 0xc0, 13][..], &[0, 1, 0, 1]].concat();
        [header(0, [2, 0, 0, 0]), first, second].concat()
    };
    assert!(Head::parse(&with(3)).is_ok(), "it ends before");
    assert_eq!(Head::parse(&with(8)).unwrap_err(), DnsFault::Overlap);
    for len in 0..=255 {
        fuzz_message(&with(len));
    }
}

/// The seeds of the fuzz target and what it has found.
#[test]
fn the_reference_reads_the_seeds_alike() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/dns_message");
    let mut count = 0;
    for seed in std::fs::read_dir(seeds).unwrap() {
        fuzz_message(&std::fs::read(seed.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 7, "{count}");
}

#[test]
fn a_chain_of_pointers_is_bounded() {
    // One A record whose owner is a chain of `links` pointers in the data of an earlier record.
    let chained = |links: usize| {
        let first_at = 12 + question("a.example", 1).len();
        let data_at = first_at + 2 + 10;
        let mut chain = Vec::from(ASKED);
        for link in 1..links {
            chain.extend((0xc000 | (data_at + 2 * (link - 1)) as u16).to_be_bytes());
        }
        let last = (0xc000 | (data_at + chain.len() - 2) as u16).to_be_bytes();
        answer(&[record(&ASKED, 99, 0, &chain), record(&last, 1, 0, &[1, 2, 3, 4])])
    };
    assert!(Message::parse(&chained(POINTERS_MAX - 1)).is_ok());
    assert_eq!(
        Message::parse(&chained(POINTERS_MAX)).unwrap_err(),
        DnsFault::TooManyPointers
    );
}

#[test]
fn names_and_labels_have_their_lengths() {
    let longest = format!("{}{}", "a23456789.".repeat(23), "b".repeat(22));
    assert_eq!(name(&longest).len(), 254);
    assert!(first_name(&query(&longest)).is_ok());
    assert!(first_name(&query(&format!("{longest}c"))).is_ok(), "255 bytes");
    assert_eq!(
        first_name(&query(&format!("{longest}cd"))).unwrap_err(),
        DnsFault::NameTooLong
    );
    let label = [header(0, [1, 0, 0, 0]), vec![64], vec![b'a'; 64], vec![0, 0, 1, 0, 1]].concat();
    assert_eq!(first_name(&label).unwrap_err(), DnsFault::ReservedLabel, "64 bytes");
}

#[test]
fn lengths_and_counts_that_lie_are_faults() {
    let whole = query("a.example");
    for cut in 0..whole.len() {
        assert_eq!(
            Message::parse(&whole[..cut]).unwrap_err(),
            DnsFault::Truncated,
            "at {cut}"
        );
    }
    let parse = |bytes: &[u8]| Message::parse(bytes).unwrap_err();
    assert_eq!(parse(&[&whole[..], &[0]].concat()), DnsFault::TrailingBytes);
    let promised = [header(0, [1, 1, 0, 0]), question("a", 1)].concat();
    assert_eq!(parse(&promised), DnsFault::Truncated);
    assert_eq!(
        parse(&answer(&[record(&ASKED, 1, 0, &[1, 2, 3])])),
        DnsFault::BadRecordData
    );
    assert_eq!(
        parse(&answer(&[record(&ASKED, 1, 0, &[1, 2, 3, 4, 5])])),
        DnsFault::BadRecordData
    );
    assert_eq!(
        parse(&answer(&[record(&ASKED, 28, 0, &[0; 15])])),
        DnsFault::BadRecordData
    );
    assert_eq!(
        parse(&answer(&[record(&ASKED, 5, 0, b"\x01a\0x")])),
        DnsFault::BadRecordData
    );
    assert_eq!(
        parse(&answer(&[record(&ASKED, 5, 0, b"\x01")])),
        DnsFault::BadRecordData
    );
    assert_eq!(parse(&vec![0; 65_536]), DnsFault::TooLong);
}

#[test]
fn answers_are_read() {
    let hints = [
        &[0, 1, 0][..],
        &[0, 4, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8],
        &[0, 6, 0, 16],
        &[7; 16],
    ]
    .concat();
    let bytes = answer(&[
        record(&ASKED, record_type::CNAME, 60, b"\x01b\xc0\x0e"),
        record(b"\x01b\xc0\x0e", record_type::A, 30, &[192, 0, 2, 1]),
        record(&ASKED, record_type::AAAA, u32::MAX, &[1; 16]),
        record(&ASKED, record_type::HTTPS, 5, &hints),
        record(&ASKED, 16, 5, b"\x03abc"),
    ]);
    fuzz_message(&bytes);
    let message = Message::parse(&bytes).unwrap();
    let records: Vec<_> = message.answers().collect();
    assert!(matches!(records[0].data, RecordData::Cname(target) if text(&target) == "b.example."));
    assert!(matches!(records[1].data, RecordData::A([192, 0, 2, 1])) && records[1].ttl_s() == 30);
    assert!(matches!(records[2].data, RecordData::Aaaa([1, ..])) && records[2].ttl_s() == 0);
    let RecordData::Service(service) = records[3].data else {
        panic!()
    };
    assert_eq!(service.ipv4_hints().collect::<Vec<_>>(), [[1, 2, 3, 4], [5, 6, 7, 8]]);
    assert_eq!(service.ipv6_hints().collect::<Vec<_>>(), [[7; 16]]);
    assert!(service.target.is_root() && matches!(records[4].data, RecordData::Other));
}

#[test]
fn service_parameters_out_of_order_or_in_pieces_are_faults() {
    let service = |params: &[u8]| {
        let bytes = answer(&[record(&ASKED, 65, 0, &[&[0, 1, 0], params].concat())]);
        Message::parse(&bytes).map(|_| ())
    };
    assert!(service(&[0, 1, 0, 3, 2, b'h', b'2']).is_ok());
    for params in [
        &[0, 4, 0, 3, 1, 2, 3][..],
        &[0, 4, 0, 0],
        &[0, 6, 0, 4, 1, 2, 3, 4],
        &[0, 4, 0, 4, 1, 2, 3, 4, 0, 3, 0, 2, 0, 80],
        &[0, 3, 0, 2, 0, 80, 0, 3, 0, 2, 0, 81],
    ] {
        assert_eq!(service(params).unwrap_err(), DnsFault::BadRecordData, "{params:?}");
    }
}

#[test]
fn an_opt_record_stands_where_it_may() {
    let opt = record(&[0], record_type::OPT, 0, &[]);
    let with = |counts: [u16; 4], records: &[u8]| [&header(0, counts)[..], &question("a", 1), records].concat();
    let edns = Message::parse(&with([1, 0, 0, 1], &opt)).unwrap().edns().unwrap();
    assert_eq!((edns.datagram_len_max, edns.version), (1, 0));
    let fault = |counts, records: &[u8]| Message::parse(&with(counts, records)).unwrap_err();
    assert_eq!(fault([1, 1, 0, 0], &opt), DnsFault::BadOpt);
    assert_eq!(fault([1, 0, 0, 2], &opt.repeat(2)), DnsFault::BadOpt);
    assert_eq!(fault([1, 0, 0, 1], &record(&name("a"), 41, 0, &[])), DnsFault::BadOpt);
}

#[test]
fn a_refusal_echoes_id_question_and_edns() {
    let opt = record(&[0], record_type::OPT, 0, &[]);
    let bytes = [&header(0x0110, [1, 0, 0, 1])[..], &question("No.Example", 28), &opt].concat();
    let mut refusal = Vec::new();
    assert!(write_refusal(&bytes, RCODE_REFUSED, &mut refusal));
    assert_eq!(refusal[..12], header(0x8195, [1, 0, 0, 1]));
    let message = Message::parse(&refusal).unwrap();
    assert!(message.edns().is_some());
    assert!(
        refusal.windows(11).any(|w| w == b"\x02No\x07Example"),
        "the case is kept"
    );
    refusal.clear();
    assert!(write_refusal(&query("a"), RCODE_NXDOMAIN, &mut refusal));
    assert_eq!(refusal, [header(0x8183, [1, 0, 0, 0]), question("a", 1)].concat());
    refusal.clear();
    assert!(
        write_refusal(&header(0x0100, [7, 0, 0, 0]), RCODE_REFUSED, &mut refusal),
        "without its questions"
    );
    assert_eq!(refusal, header(0x8185, [0, 0, 0, 0]));
    assert!(
        !write_refusal(&answer(&[]), RCODE_REFUSED, &mut refusal),
        "to an answer"
    );
    assert!(
        !write_refusal(&bytes[..11], RCODE_REFUSED, &mut refusal),
        "to half a header"
    );
}

#[test]
fn messages_on_a_stream_are_split() {
    let stream = [&[0, 3][..], b"abc", &[0, 0, 0, 2], b"de", &[0]].concat();
    let (first, rest) = split_frame(&stream).unwrap();
    let (empty, rest) = split_frame(rest).unwrap();
    let (last, rest) = split_frame(rest).unwrap();
    assert_eq!(
        (first, empty, last, rest),
        (&b"abc"[..], &b""[..], &b"de"[..], &[0][..])
    );
    assert!(split_frame(rest).is_none() && split_frame(&stream[..4]).is_none());
}

#[test]
fn type_names_are_those_that_people_write() {
    assert_eq!(
        (type_name(1), type_name(28), type_name(65)),
        (Some("A"), Some("AAAA"), Some("HTTPS"))
    );
    assert_eq!(type_name(0), None);
}

/// Messages of every kind that mutation begins with.
fn seeds() -> Vec<Vec<u8>> {
    let hints = [&[0, 1, 0][..], &[0, 4, 0, 4, 1, 2, 3, 4], &[0, 6, 0, 16], &[7; 16]].concat();
    let opt = record(&[0], record_type::OPT, 0, &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
    vec![
        query("www.example.com"),
        [&header(0x0100, [1, 0, 0, 1])[..], &question("a.b", 28), &opt].concat(),
        [
            header(0, [2, 0, 0, 0]),
            question("a.example", 1),
            b"\x01b\xc0\x0e\0\x1c\0\x01".to_vec(),
        ]
        .concat(),
        answer(&[
            record(&ASKED, record_type::CNAME, 60, b"\x01b\xc0\x0e"),
            record(b"\x01b\xc0\x0e", record_type::A, 30, &[192, 0, 2, 1]),
        ]),
        answer(&[
            record(&ASKED, record_type::AAAA, 9, &[1; 16]),
            record(&ASKED, record_type::HTTPS, 5, &hints),
        ]),
    ]
}

#[test]
fn the_reference_reads_mutated_messages_alike() {
    let mut rng = StdRng::seed_from_u64(5);
    let odd = [0, 1, 4, 5, 12, 28, 41, 63, 64, 65, 0x80, 0xc0, 0xff, b'a'];
    for _ in 0..20_000 {
        for mut bytes in seeds() {
            for _ in 0..rng.random_range(0..4) {
                let at = rng.random_range(0..bytes.len());
                match rng.random_range(0..4) {
                    0 => bytes[at] = odd[rng.random_range(0..odd.len())],
                    1 => bytes.insert(at, odd[rng.random_range(0..odd.len())]),
                    2 => bytes[at] = rng.random(),
                    _ => drop(bytes.remove(at)),
                }
            }
            fuzz_message(&bytes);
            fuzz_frames(&bytes);
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        fuzz_message(&bytes);
        fuzz_frames(&bytes);
    }

    #[test]
    fn random_sections_behind_a_sound_header(counts in prop::array::uniform4(0u16..4), rest in prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, 4, 12, 16, 28, 0xc0, b'a']), 0..120)) {
        fuzz_message(&[header(0x8180, counts), rest].concat());
    }
}
