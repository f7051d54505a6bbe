//! What reading one request costs: the frame's headers and checksums, and the HTTP head.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use seventh_parsers::{
    http1::{HeadScanner, Limits, normalise_path, parse_head},
    packet::Frame,
};

const SMALL: &[u8] = b"GET /api/items/42 HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";

/// What a browser sends: fourteen headers, one long cookie.
fn browser_request() -> Vec<u8> {
    let mut request =
        b"GET /articles/2026/07/network-policy?ref=front&lang=en HTTP/1.1\r\nHost: www.shop.example\r\n".to_vec();
    for name in [
        "Accept",
        "Accept-Encoding",
        "Accept-Language",
        "Cache-Control",
        "Referer",
        "Sec-Fetch-Dest",
    ] {
        request.extend_from_slice(format!("{name}: text/html,application/xhtml+xml;q=0.9\r\n").as_bytes());
    }
    for name in ["Sec-Fetch-Mode", "Sec-Fetch-Site", "Sec-Fetch-User", "Pragma", "DNT"] {
        request.extend_from_slice(format!("{name}: same-origin\r\n").as_bytes());
    }
    request.extend_from_slice(
        format!(
            "Cookie: session={}\r\nConnection: keep-alive\r\n\r\n",
            "0123456789abcdef".repeat(20)
        )
        .as_bytes(),
    );
    request
}

/// Ethernet, IPv4 and TCP around `payload`, with right checksums.
fn frame(payload: &[u8]) -> Vec<u8> {
    let total = u16::try_from(40 + payload.len()).expect("a payload that fits a packet");
    let mut frame = vec![0; 12];
    frame.extend_from_slice(&[0x08, 0x00, 0x45, 0]);
    frame.extend_from_slice(&total.to_be_bytes());
    frame.extend_from_slice(&[0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 1, 2, 10, 0, 2, 2]);
    frame.extend_from_slice(&[
        0x9c, 0x40, 0x1f, 0x90, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0,
    ]);
    frame.extend_from_slice(payload);
    let header_sum = internet_sum(&frame[14..34], 0);
    frame[24..26].copy_from_slice(&header_sum.to_be_bytes());
    let pseudo = frame[26..34].chunks(2).map(word).sum::<u32>() + 6 + u32::from(total - 20);
    let segment_sum = internet_sum(&frame[34..], pseudo);
    frame[50..52].copy_from_slice(&segment_sum.to_be_bytes());
    frame
}

fn internet_sum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start + bytes.chunks(2).map(word).sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("sixteen bits are left")
}

fn word(pair: &[u8]) -> u32 {
    u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))
}

fn frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame");
    for (name, payload) in [("small", SMALL.to_vec()), ("full", vec![b'x'; 1460])] {
        let frame = frame(&payload);
        Frame::parse(&frame)
            .expect("a valid frame")
            .verify_checksums()
            .expect("right checksums");
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(format!("{name}/headers"), |b| {
            b.iter(|| Frame::parse(black_box(&frame)).is_ok());
        });
        group.bench_function(format!("{name}/headers and checksums"), |b| {
            b.iter(|| Frame::parse(black_box(&frame)).is_ok_and(|frame| frame.verify_checksums().is_ok()));
        });
    }
    group.finish();
}

fn heads(c: &mut Criterion) {
    let mut group = c.benchmark_group("http1 head");
    for (name, request) in [("small", SMALL.to_vec()), ("browser", browser_request())] {
        parse_head(&request, &Limits::default()).expect("a valid request");
        group.throughput(Throughput::Bytes(request.len() as u64));
        group.bench_function(format!("{name}/scan"), |b| {
            b.iter(|| HeadScanner::new(Limits::default()).advance(black_box(&request)).is_ok());
        });
        group.bench_function(format!("{name}/scan and read"), |b| {
            b.iter(|| parse_head(black_box(&request), &Limits::default()).is_ok());
        });
        // It checks less: what is left out is in docs/http.md.
        group.bench_function(format!("{name}/httparse"), |b| {
            b.iter(|| {
                let mut headers = [httparse::EMPTY_HEADER; 100];
                httparse::Request::new(&mut headers).parse(black_box(&request)).is_ok()
            });
        });
    }
    group.finish();
}

fn paths(c: &mut Criterion) {
    let mut group = c.benchmark_group("path");
    for (name, path) in [
        ("plain", "/api/items/42?full=1"),
        ("to normalise", "/api/./items//%34%32/../43?full=1"),
    ] {
        group.bench_function(name, |b| b.iter(|| normalise_path(black_box(path)).is_ok()));
    }
    group.finish();
}

criterion_group!(benches, frames, heads, paths);
criterion_main!(benches);
