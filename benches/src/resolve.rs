//! A client that has one query of DNS outstanding. dnsperf waits tens of milliseconds between two then.

use std::{
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::load::Sample;

/// A query without an answer for so long has failed.
const LOST: Duration = Duration::from_secs(2);
const TYPE_A: u16 = 1;
const CLASS_IN: u16 = 1;

/// Names that are asked for in turn.
const NAMES: usize = 16;

/// Asks for the addresses of some of these names in turn, for so many seconds, once the first answers have been learned.
pub(crate) fn ask(server: SocketAddr, names: &[String], seconds: u64) -> Result<Sample> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(LOST))?;
    let names = &names[..names.len().min(NAMES)];
    for name in names {
        ask_one(&socket, 0, name)?;
    }
    let begin = Instant::now();
    let mut latencies = Vec::new();
    for (number, name) in (0..=u16::MAX).cycle().zip(names.iter().cycle()) {
        if begin.elapsed() >= Duration::from_secs(seconds) {
            break;
        }
        latencies.push(ask_one(&socket, number, name)?);
    }
    Sample::of_latencies(latencies, begin.elapsed().as_secs_f64()).context("there is no name to ask for")
}

/// How many microseconds the answer took.
fn ask_one(socket: &UdpSocket, number: u16, name: &str) -> Result<f64> {
    let mut answer = [0; 1500];
    let asked = Instant::now();
    socket.send(&query(number, name)?)?;
    let length = socket.recv(&mut answer).with_context(|| format!("{name}: no answer"))?;
    let took = asked.elapsed();
    check(&answer[..length], number).with_context(|| name.to_owned())?;
    Ok(took.as_secs_f64() * 1e6)
}

/// RFC 1035 section 4.1, recursion desired.
fn query(number: u16, name: &str) -> Result<Vec<u8>> {
    let [high, low] = number.to_be_bytes();
    let mut message = vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(u8::try_from(label.len()).with_context(|| format!("{name}: a label is too long"))?);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(TYPE_A.to_be_bytes());
    message.extend(CLASS_IN.to_be_bytes());
    Ok(message)
}

/// The answer to the query of this number, without an error, with an address.
fn check(answer: &[u8], number: u16) -> Result<()> {
    let Some((head, _)) = answer.split_first_chunk::<12>() else {
        anyhow::bail!("an answer of {} bytes", answer.len());
    };
    ensure!(head[..2] == number.to_be_bytes(), "the answer to another query");
    ensure!(head[3] & 0x0f == 0, "response code {}", head[3] & 0x0f);
    ensure!(head[6..8] != [0, 0], "an answer without records");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_query_waits_for_its_answer() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut message = [0; 512];
            while let Ok((length, from)) = server.recv_from(&mut message) {
                message[2] |= 0x80;
                message[7] = 1;
                server.send_to(&message[..length], from).unwrap();
            }
        });
        let sample = ask(address, &["a.test".to_owned()], 1).unwrap();
        assert!(sample.rate() > 100.0 && sample.p50_us.unwrap() > 0.0, "{sample:?}");
    }

    #[test]
    fn a_refusal_is_no_measurement() {
        let mut answer = query(7, "a.test").unwrap();
        assert!(check(&answer, 7).is_err(), "no record");
        answer[7] = 1;
        assert!(check(&answer, 7).is_ok());
        assert!(check(&answer, 8).is_err());
        answer[3] = 5;
        assert!(check(&answer, 7).is_err());
        assert!(check(&[], 7).is_err());
    }
}
