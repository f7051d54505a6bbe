//! DNS messages, built field by field.

use seventh_abi::Addr;

pub(super) const A: u16 = 1;
pub(super) const CNAME: u16 = 5;
pub(super) const HTTPS: u16 = 65;

pub(super) fn header(id: u16, flags: u16, counts: [u16; 4]) -> Vec<u8> {
    let words = [id, flags].into_iter().chain(counts);
    words.flat_map(u16::to_be_bytes).collect()
}

pub(super) fn name(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in text.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

pub(super) fn question(text: &str, query_type: u16) -> Vec<u8> {
    [name(text), query_type.to_be_bytes().to_vec(), vec![0, 1]].concat()
}

pub(super) fn query(id: u16, text: &str, query_type: u16) -> Vec<u8> {
    [header(id, 0x0100, [1, 0, 0, 0]), question(text, query_type)].concat()
}

pub(super) fn record(owner: &str, record_type: u16, ttl_s: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = name(owner);
    bytes.extend(record_type.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(ttl_s.to_be_bytes());
    bytes.extend((data.len() as u16).to_be_bytes());
    bytes.extend(data);
    bytes
}

/// An A record.
pub(super) fn a(owner: &str, addr: Addr, ttl_s: u32) -> Vec<u8> {
    record(owner, A, ttl_s, &addr[12..])
}

pub(super) fn cname(owner: &str, target: &str, ttl_s: u32) -> Vec<u8> {
    record(owner, CNAME, ttl_s, &name(target))
}

pub(super) fn answer(id: u16, asked: &str, query_type: u16, records: &[Vec<u8>]) -> Vec<u8> {
    with_flags(id, 0x8180, asked, query_type, records)
}

pub(super) fn with_flags(id: u16, flags: u16, asked: &str, query_type: u16, records: &[Vec<u8>]) -> Vec<u8> {
    let head = header(id, flags, [1, records.len() as u16, 0, 0]);
    [head, question(asked, query_type), records.concat()].concat()
}
