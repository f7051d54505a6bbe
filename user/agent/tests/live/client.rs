//! An HTTP/1.1 client that shows exactly what came back, on connections that it opens where it is told to.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// A connection or an answer that takes longer is none.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// For what is expected not to come.
pub(crate) const IMPATIENCE: Duration = Duration::from_millis(700);

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    /// The server said that the connection ends here.
    pub(crate) closes: bool,
}

pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
        })
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub(crate) fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.send(get(path).as_bytes())?;
        self.answer()
    }

    /// The next answer, by its Content-Length.
    pub(crate) fn answer(&mut self) -> io::Result<Answer> {
        let head_len = loop {
            if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            self.fill()?;
        };
        let head = String::from_utf8_lossy(&self.buffer[..head_len]).to_ascii_lowercase();
        self.buffer.drain(..head_len);
        let header = |name: &str| {
            let line = head.lines().find(|line| line.starts_with(name))?;
            Some(line[name.len()..].trim().to_owned())
        };
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let length = header("content-length:").and_then(|length| length.parse::<usize>().ok());
        let (Some(status), Some(length)) = (status, length) else {
            return Err(io::Error::other(format!("not an answer: {head}")));
        };
        while self.buffer.len() < length {
            self.fill()?;
        }
        Ok(Answer {
            status,
            body: self.buffer.drain(..length).collect(),
            closes: header("connection:").is_some_and(|value| value == "close"),
        })
    }

    /// Everything until the other side ends the connection, orderly or by reset.
    pub(crate) fn rest(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.fill() {
                Ok(()) => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                    return Ok(std::mem::take(&mut self.buffer));
                }
                Err(e) => return Err(e),
            }
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16 << 10];
        match self.stream.read(&mut chunk)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.buffer.extend_from_slice(&chunk[..n]);
                Ok(())
            }
        }
    }
}

pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: server\r\n\r\n")
}

/// A request with a body, if an empty one: the kernel leaves it to the engine.
pub(crate) fn put(path: &str) -> String {
    format!("PUT {path} HTTP/1.1\r\nHost: server\r\nContent-Length: 0\r\n\r\n")
}

/// One request on a connection of its own: the status, or what went wrong.
pub(crate) fn fetch(server: impl Into<IpAddr>, path: &str, patience: Duration) -> Result<u16, io::ErrorKind> {
    let address = SocketAddr::new(server.into(), 8080);
    Connection::open(address, patience)
        .and_then(|mut connection| connection.get(path))
        .map(|answer| answer.status)
        .map_err(|e| e.kind())
}

/// Requests of somebody honest on one connection, one after the other, as long as `go_on` says so, which is told how many
/// were answered: when each was, and how long it took.
pub(crate) fn ask_while(server: SocketAddr, mut go_on: impl FnMut(usize) -> bool) -> Vec<(Instant, Duration)> {
    let mut connection = Connection::open(server, PATIENCE).unwrap();
    let mut answers = Vec::new();
    while go_on(answers.len()) {
        let asked = Instant::now();
        assert_eq!(connection.get("/public").unwrap().status, 200);
        answers.push((Instant::now(), asked.elapsed()));
    }
    answers
}

/// Whether this is silence: the packets went nowhere.
pub(crate) fn is_silence(result: &Result<u16, io::ErrorKind>) -> bool {
    matches!(result, Err(io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock))
}
