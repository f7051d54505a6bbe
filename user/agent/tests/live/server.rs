//! A server that keeps a tally of what really reached it, for what nginx cannot tell.

use std::{
    hash::{DefaultHasher, Hasher as _},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use anyhow::{Context as _, Result};
use seventh::lab::LabEndpoint;

/// Request lines, in the order of their arrival.
pub(crate) type Tally = Arc<Mutex<Vec<String>>>;

/// Serves in an endpoint until the process ends: `GET /bytes/N` answers N bytes of [`Pattern`], `PUT` answers the
/// checksum of the body in decimal, everything else `ok`. Who expects 100 is told it first.
pub(crate) fn start(endpoint: &LabEndpoint) -> Result<Tally> {
    let tally = Tally::default();
    let seen = Arc::clone(&tally);
    let listener = endpoint.run(|| TcpListener::bind("[::]:8080"))?.context("listen")?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let seen = Arc::clone(&seen);
            // A client that goes away ends its thread with an error; that is its own business.
            thread::spawn(move || serve(stream, &seen));
        }
    });
    Ok(tally)
}

fn serve(stream: TcpStream, tally: &Tally) -> io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let request = line.trim_end().to_owned();
        let (mut length, mut expects) = (0, false);
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            if header.trim_end().is_empty() {
                break;
            }
            expects |= header.to_ascii_lowercase().starts_with("expect:");
            if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
        tally.lock().unwrap().push(request.clone());
        if expects {
            writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let body = checksum(&mut (&mut reader).take(length))?;
        match request.split('/').nth(2).filter(|_| request.starts_with("GET /bytes/")) {
            Some(count) => {
                let count: u64 = count
                    .split(' ')
                    .next()
                    .unwrap_or_default()
                    .parse()
                    .map_err(io::Error::other)?;
                write!(writer, "HTTP/1.1 200 OK\r\nContent-Length: {count}\r\n\r\n")?;
                io::copy(&mut Pattern::default().take(count), &mut writer)?;
            }
            None => {
                let text = if request.starts_with("PUT ") {
                    body.to_string()
                } else {
                    "ok".to_owned()
                };
                write!(
                    writer,
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}",
                    text.len()
                )?;
            }
        }
    }
}

/// Bytes that do not repeat in any way that a lost or doubled piece would hide.
#[derive(Default)]
pub(crate) struct Pattern(u64);

impl io::Read for Pattern {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for chunk in buffer.chunks_mut(8) {
            self.0 = self.0.wrapping_add(1);
            // SplitMix64.
            let mut z = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
        }
        Ok(buffer.len())
    }
}

pub(crate) fn checksum(reader: &mut impl io::Read) -> io::Result<u64> {
    let mut hasher = DefaultHasher::new();
    let mut chunk = vec![0; 64 << 10];
    let mut held = 0;
    loop {
        // Whole chunks only, so that the sum does not depend on how the bytes came in.
        match reader.read(&mut chunk[held..])? {
            0 => break,
            n => held += n,
        }
        if held == chunk.len() {
            hasher.write(&chunk);
            held = 0;
        }
    }
    hasher.write(&chunk[..held]);
    Ok(hasher.finish())
}
