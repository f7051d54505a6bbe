//! Large bodies, one way or the other: a client, and a sink that reads what it is sent and keeps nothing.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

/// Bytes per system call.
const CHUNK: usize = 256 * 1024;
/// A transfer that stands still for so long has failed.
const STALLED: Duration = Duration::from_secs(20);

/// Accepts connections for ever; reads each request with its body, answers 200.
pub(crate) fn serve_sink(listener: &TcpListener) {
    for connection in listener.incoming().flatten() {
        // A client that breaks off has said so at its own end.
        thread::spawn(move || drop(swallow(&connection)));
    }
}

fn swallow(connection: &TcpStream) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(CHUNK, connection);
    while let Some(length) = read_head(&mut reader)?.1 {
        let mut left = length;
        while left > 0 {
            let available = reader.fill_buf()?.len().min(usize::try_from(left).unwrap_or(CHUNK));
            if available == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            reader.consume(available);
            left -= available as u64;
        }
        let mut writer = connection;
        writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")?;
    }
    Ok(())
}

/// First line and length of the body. No first line and no length at the end of the connection.
fn read_head(reader: &mut impl io::BufRead) -> io::Result<(String, Option<u64>)> {
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok((first, None));
    }
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line.trim_end().is_empty() {
            return Ok((first, Some(length)));
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
}

/// Sends `bytes` zeros to the sink; how long it took until the answer came.
pub(crate) fn upload(to: SocketAddr, path: &str, bytes: u64) -> Result<Duration> {
    let mut stream = connect(to)?;
    let begin = Instant::now();
    stream.write_all(format!("PUT {path} HTTP/1.1\r\nHost: sink\r\nContent-Length: {bytes}\r\n\r\n").as_bytes())?;
    let chunk = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        stream.write_all(&chunk[..length])?;
        left -= length as u64;
    }
    let (first, _) = read_head(&mut BufReader::new(&stream))?;
    ensure!(
        first.starts_with("HTTP/1.1 200"),
        "the upload is answered with {first:?}"
    );
    Ok(begin.elapsed())
}

/// Fetches a body of `bytes`; how long it took.
pub(crate) fn download(from: SocketAddr, path: &str, bytes: u64) -> Result<Duration> {
    let mut stream = connect(from)?;
    let begin = Instant::now();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: source\r\n\r\n").as_bytes())?;
    let mut reader = BufReader::with_capacity(CHUNK, &stream);
    let (first, length) = read_head(&mut reader)?;
    ensure!(
        first.starts_with("HTTP/1.1 200") && length == Some(bytes),
        "the download is answered with {first:?} and {length:?} bytes"
    );
    let copied = io::copy(&mut reader.take(bytes), &mut io::sink())?;
    ensure!(copied == bytes, "the download ended after {copied} of {bytes} bytes");
    Ok(begin.elapsed())
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(to).with_context(|| to.to_string())?;
    stream.set_read_timeout(Some(STALLED))?;
    stream.set_write_timeout(Some(STALLED))?;
    Ok(stream)
}

/// Opens `count` connections and has a small request answered on each; they stay open as long as the result lives.
pub(crate) fn hold(to: SocketAddr, path: &str, count: u32) -> Result<Vec<TcpStream>> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: held\r\n\r\n");
    let mut held = Vec::new();
    let mut answer = [0; 4096];
    for n in 0..count {
        let mut stream = connect(to).with_context(|| format!("connection {n}"))?;
        stream.write_all(request.as_bytes())?;
        let length = stream.read(&mut answer).with_context(|| format!("connection {n}"))?;
        ensure!(
            answer[..length].starts_with(b"HTTP/1.1 200"),
            "connection {n} is answered with {:?}",
            String::from_utf8_lossy(&answer[..length.min(80)])
        );
        held.push(stream);
    }
    Ok(held)
}

/// A listener on all addresses of the network namespace it is called in.
pub(crate) fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sink_takes_bodies_of_any_size_and_several_on_a_connection() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || serve_sink(&listener));
        for bytes in [0, 1, CHUNK as u64 + 1] {
            upload(address, "/upload/x", bytes).unwrap();
        }
        let mut stream = connect(address).unwrap();
        stream
            .write_all(b"PUT / HTTP/1.1\r\ncontent-length: 2\r\n\r\nabPUT / HTTP/1.1\r\ncontent-length: 0\r\n\r\n")
            .unwrap();
        let mut reader = BufReader::new(&stream);
        for _ in 0..2 {
            let (first, length) = read_head(&mut reader).unwrap();
            assert!(first.starts_with("HTTP/1.1 200") && length == Some(3));
            reader.consume(3);
        }
    }

    #[test]
    fn a_download_that_is_refused_or_too_short_is_an_error() {
        for answer in [
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nabcde",
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        ] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = listener.local_addr().unwrap();
            thread::spawn(move || {
                let (mut connection, _) = listener.accept().unwrap();
                read_head(&mut BufReader::new(&connection)).unwrap();
                connection.write_all(answer.as_bytes()).unwrap();
            });
            assert!(download(address, "/", 5).is_err(), "{answer:?}");
        }
    }
}
