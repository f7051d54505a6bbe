//! What reading names costs, beside crates that read the same: DNS messages, `ClientHello`s, header blocks of HTTP/2.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hickory_proto::{op::Message as Reference, serialize::binary::BinDecodable as _};
use seventh_parsers::{
    dns, http1,
    http2::{Decoder, Fields, read_request},
    tls,
};
use tls_parser::{TlsExtension, TlsMessage, TlsMessageHandshake, parse_tls_extensions, parse_tls_plaintext};

/// A query for `www.names.test`, and its answer with four addresses behind an alias.
fn dns_messages() -> [(&'static str, Vec<u8>); 2] {
    let question = b"\x03www\x05names\x04test\x00\x00\x01\x00\x01";
    let mut query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
    query.extend_from_slice(question);
    let mut answer = b"\x12\x34\x81\x80\x00\x01\x00\x05\x00\x00\x00\x00".to_vec();
    answer.extend_from_slice(question);
    // The name at offset 12 is an alias of `web.names.test`: a label of its own and a pointer to `names.test`.
    answer.extend_from_slice(b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x01\x2c\x00\x06\x03web\xc0\x10");
    for last in 1..=4 {
        answer.extend_from_slice(b"\x03web\xc0\x10\x00\x01\x00\x01\x00\x00\x01\x2c\x00\x04\xc6\x12\x00");
        answer.push(last);
    }
    [("query", query), ("answer of five records", answer)]
}

fn dns(c: &mut Criterion) {
    let mut group = c.benchmark_group("dns");
    for (name, message) in dns_messages() {
        let ours = dns::Message::parse(&message).expect("a message");
        let reference = Reference::from_bytes(&message).expect("a message");
        assert_eq!(ours.answers().count(), reference.answers.len());
        group.throughput(Throughput::Bytes(message.len() as u64));
        group.bench_function(format!("{name}/ours"), |b| {
            b.iter(|| dns::Message::parse(black_box(&message)).map(|message| message.answers().count()));
        });
        group.bench_function(format!("{name}/hickory-proto"), |b| {
            b.iter(|| Reference::from_bytes(black_box(&message)).map(|message| message.answers.len()));
        });
    }
    group.finish();
}

/// The first flight of a TLS 1.3 client: name, protocols, groups, a key share of X25519 size.
fn client_hello() -> Vec<u8> {
    fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &length(body), body].concat()
    }
    fn length(body: &[u8]) -> [u8; 2] {
        u16::try_from(body.len()).expect("a short body").to_be_bytes()
    }
    let name = b"api.shop.test";
    let entry = [&[0][..], &length(name), name].concat();
    let share = [&[0, 29, 0, 32][..], &[7; 32]].concat();
    let extensions = [
        extension(0, &[&length(&entry)[..], &entry].concat()),
        extension(16, b"\x00\x0c\x02h2\x08http/1.1"),
        extension(10, &[0, 4, 0, 29, 0, 23]),
        extension(13, &[0, 4, 4, 3, 8, 4]),
        extension(43, &[4, 3, 4, 3, 3]),
        extension(51, &[&length(&share)[..], &share].concat()),
    ]
    .concat();
    let hello = [
        &[3, 3][..],
        &[9; 32],
        &[32],
        &[5; 32],
        &[0, 6, 0x13, 1, 0x13, 2, 0x13, 3],
        &[1, 0],
        &length(&extensions),
        &extensions,
    ]
    .concat();
    let message = [&[1, 0][..], &length(&hello), &hello].concat();
    [&[22, 3, 1][..], &length(&message), &message].concat()
}

fn ours_name(flight: &[u8]) -> Option<usize> {
    let (message, _) = tls::parse_hello(flight, &tls::Limits::default()).ok()?;
    Some(tls::read_hello(&message).ok()?.server_name?.len())
}

fn reference_name(flight: &[u8]) -> Option<usize> {
    let (_, record) = parse_tls_plaintext(flight).ok()?;
    let TlsMessage::Handshake(TlsMessageHandshake::ClientHello(hello)) = record.msg.first()? else {
        return None;
    };
    let (_, extensions) = parse_tls_extensions(hello.ext?).ok()?;
    extensions.iter().find_map(|extension| match extension {
        TlsExtension::SNI(names) => names.first().map(|(_, name)| name.len()),
        _ => None,
    })
}

fn hellos(c: &mut Criterion) {
    let mut group = c.benchmark_group("client hello");
    let flight = client_hello();
    assert_eq!((ours_name(&flight), reference_name(&flight)), (Some(13), Some(13)));
    group.throughput(Throughput::Bytes(flight.len() as u64));
    group.bench_function("ours", |b| b.iter(|| ours_name(black_box(&flight))));
    group.bench_function("tls-parser", |b| b.iter(|| reference_name(black_box(&flight))));
    group.finish();
}

/// A request as RFC 7541 §C.3.1 compresses the first on a connection, and as §C.3.2 the second.
const FIRST_BLOCK: &[u8] = b"\x82\x86\x84\x41\x0fwww.example.com";
const SECOND_BLOCK: &[u8] = b"\x82\x86\x84\xbe\x58\x08no-cache";

fn header_blocks(c: &mut Criterion) {
    let mut group = c.benchmark_group("hpack");
    let limits = http1::Limits::default();
    let mut decoder = Decoder::new();
    let (mut fields, mut lines) = (Fields::default(), Vec::new());
    decoder.decode(FIRST_BLOCK, &limits, &mut fields).expect("a block");
    decoder.commit();
    group.bench_function("a block with the table, undone", |b| {
        b.iter(|| {
            let decoded = decoder.decode(black_box(SECOND_BLOCK), &limits, &mut fields).is_ok();
            decoder.rollback();
            decoded
        });
    });
    group.bench_function("the same, read as a request", |b| {
        b.iter(|| {
            let decoded = decoder.decode(black_box(SECOND_BLOCK), &limits, &mut fields).is_ok();
            decoder.rollback();
            decoded && read_request(&fields, &mut lines).is_ok()
        });
    });
    let mut reference = fluke_hpack::Decoder::new();
    reference.decode(FIRST_BLOCK).expect("a block");
    // It cannot be undone, so what it decodes here adds nothing to its table.
    let unindexed = b"\x82\x86\x84\xbe\x08\x08no-cache";
    group.bench_function("a block with the table, fluke-hpack", |b| {
        b.iter(|| reference.decode(black_box(unindexed)).is_ok());
    });
    group.finish();
}

criterion_group!(benches, dns, hellos, header_blocks);
criterion_main!(benches);
