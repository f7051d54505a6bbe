//! `seventh sysdump`: what a report of a bug needs, in one file. It asks as the other commands ask, and what an agent does
//! not answer in time is missing, with the reason.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anstream::{eprintln, println};
use anyhow::{Context as _, Result};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};

use super::Answer;
use crate::config::API_SOCKET;

/// How long one question may take.
const QUESTION_MAX: Duration = Duration::from_secs(20);
/// Bytes of one answer that are kept.
const ANSWER_MAX: u64 = 64 << 20;
/// What stands where something was taken out.
const REDACTED: &str = "<redacted>";

/// Flags of `seventh sysdump`.
#[derive(Debug, clap::Args)]
pub(super) struct Sysdump {
    /// The agent: `unix://PATH` or `host:port`
    #[arg(long, env = "SEVENTH_SERVER", default_value_t = format!("unix://{API_SOCKET}"))]
    server: String,
    /// The file, which must not be there yet [default: seventh-sysdump-SECONDS.tar.gz]
    #[arg(long, value_name = "FILE")]
    output_file: Option<PathBuf>,
    /// So many of the last flow records
    #[arg(long, value_name = "N", default_value_t = 1000)]
    last: u32,
}

/// Commands of this program that ask the agent: the name of the file, the arguments.
const QUESTIONS: &[(&str, &[&str])] = &[
    ("status.json", &["status", "-o", "json"]),
    ("status.txt", &["status"]),
    ("config.json", &["config", "view", "-o", "json"]),
    ("endpoints.json", &["endpoint", "list", "-o", "json"]),
    // Where documents come from, not their text: a rule may compare a header with a secret.
    ("policies.json", &["policy", "get", "-o", "json"]),
    ("identities.json", &["identity", "list", "-o", "json"]),
    ("names.json", &["fqdn", "cache", "list", "-o", "json"]),
    ("bpf-policy.json", &["bpf", "policy", "list", "-o", "json"]),
    ("bpf-ipcache.json", &["bpf", "ipcache", "list", "-o", "json"]),
    ("bpf-names.json", &["bpf", "names", "list", "-o", "json"]),
    ("bpf-flows.json", &["bpf", "flows", "list", "-o", "json"]),
];

/// Programs that say how the system is.
const PROGRAMS: &[(&str, &str, &[&str])] = &[
    ("system/links.txt", "ip", &["-details", "-statistics", "link", "show"]),
    ("system/addresses.txt", "ip", &["address", "show"]),
    ("system/routes.txt", "ip", &["route", "show", "table", "all"]),
    ("system/uname.txt", "uname", &["-a"]),
];

/// Files that do.
const FILES: &[(&str, &str)] = &[
    ("system/os-release", "/etc/os-release"),
    ("system/meminfo", "/proc/meminfo"),
    ("system/softnet_stat", "/proc/net/softnet_stat"),
    ("system/bpf_jit_enable", "/proc/sys/net/core/bpf_jit_enable"),
    ("system/unprivileged_bpf", "/proc/sys/kernel/unprivileged_bpf_disabled"),
    ("system/lockdown", "/sys/kernel/security/lockdown"),
];

/// Asks everything and writes the bundle. The answer is no if something could not be had.
pub(super) fn run(command: &Sysdump) -> Result<Answer> {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let name = format!("seventh-sysdump-{seconds}");
    let path = command
        .output_file
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
    let mut bundle = Bundle::create(&path, &name)?;
    let program = std::env::current_exe().context("where this program is")?;
    for (file, args) in QUESTIONS {
        bundle.ask(
            file,
            Command::new(&program).args(*args).args(["--server", &command.server]),
        )?;
    }
    let last = command.last.to_string();
    let observe = ["observe", "--last", &last, "-o", "jsonpb", "--server", &command.server];
    bundle.ask("flows.json", Command::new(&program).args(observe))?;
    for (file, program, args) in PROGRAMS {
        bundle.ask(file, Command::new(program).args(*args))?;
    }
    for (file, from) in FILES {
        match fs::read(from) {
            Ok(bytes) => bundle.add(file, &bytes)?,
            Err(e) => bundle.missing(file, &e.to_string()),
        }
    }
    let missing = bundle.finish(seconds)?;
    println!("{}", path.display());
    for (file, reason) in &missing {
        eprintln!("seventh: {file} is missing: {reason}");
    }
    Ok(if missing.iter().any(|(file, _)| !file.starts_with("system/")) {
        Answer::No
    } else {
        Answer::Yes
    })
}

/// The file that is being written.
struct Bundle {
    archive: tar::Builder<GzEncoder<File>>,
    /// The folder inside.
    name: String,
    missing: Vec<(String, String)>,
    asked: Vec<Value>,
}

impl Bundle {
    /// Readable for its owner alone: names and addresses of a cluster are in it.
    fn create(path: &Path, name: &str) -> Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .with_context(|| path.display().to_string())?;
        Ok(Self {
            archive: tar::Builder::new(GzEncoder::new(file, Compression::default())),
            name: name.to_owned(),
            missing: Vec::new(),
            asked: Vec::new(),
        })
    }

    fn ask(&mut self, file: &str, command: &mut Command) -> Result<()> {
        let began = Instant::now();
        let answer = match answer_of(command) {
            Ok(answer) => answer,
            Err(e) => {
                self.missing(file, &format!("{e:#}"));
                return Ok(());
            }
        };
        self.asked.push(json!({
            "file": file, "exit": answer.code, "stderr": answer.complaint, "ms": u64::try_from(began.elapsed().as_millis())?,
        }));
        // 1 is an answer, too: status says no when something is wrong.
        if answer.code.is_none_or(|code| code > 1) {
            self.missing(file, answer.complaint.trim());
        }
        let redacted = if file.ends_with(".json") {
            redact_lines(&answer.text)
        } else {
            answer.text
        };
        self.add(file, &redacted)
    }

    fn missing(&mut self, file: &str, reason: &str) {
        self.missing.push((file.to_owned(), reason.to_owned()));
    }

    fn add(&mut self, file: &str, bytes: &[u8]) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(bytes.len())?);
        header.set_mode(0o600);
        let path = format!("{}/{file}", self.name);
        Ok(self.archive.append_data(&mut header, path, bytes)?)
    }

    /// What could not be had.
    fn finish(mut self, seconds: u64) -> Result<Vec<(String, String)>> {
        let manifest = json!({
            "version": env!("CARGO_PKG_VERSION"), "seconds_since_1970": seconds, "asked": self.asked, "missing": self.missing,
        });
        self.add("manifest.json", format!("{manifest:#}\n").as_bytes())?;
        let mut file = self.archive.into_inner()?.finish()?;
        file.flush()?;
        Ok(self.missing)
    }
}

/// What a program has said.
struct Said {
    code: Option<i32>,
    text: Vec<u8>,
    complaint: String,
}

/// Runs it for so long at most. It writes into files: nobody has to read two pipes at once.
fn answer_of(command: &mut Command) -> Result<Said> {
    let (text, complaint) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(text.try_clone()?)
        .stderr(complaint.try_clone()?)
        .spawn()
        .with_context(|| command.get_program().display().to_string())?;
    let deadline = Instant::now() + QUESTION_MAX;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            break None;
        }
        thread::sleep(Duration::from_millis(5));
    };
    let mut complaint = String::from_utf8_lossy(&written(complaint)?).into_owned();
    if status.is_none() {
        complaint.push_str("no answer in time");
    }
    Ok(Said {
        code: status.and_then(|status| status.code()),
        text: written(text)?,
        complaint,
    })
}

fn written(mut file: File) -> io::Result<Vec<u8>> {
    io::Seek::rewind(&mut file)?;
    let mut bytes = Vec::new();
    file.take(ANSWER_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Lines of JSON without what may be a secret. A line that is none is left out.
fn redact_lines(text: &[u8]) -> Vec<u8> {
    let mut redacted = Vec::with_capacity(text.len());
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        if let Ok(mut value) = serde_json::from_slice::<Value>(line) {
            redact(&mut value);
            redacted.extend(value.to_string().into_bytes());
            redacted.push(b'\n');
        }
    }
    redacted
}

/// Takes out what is behind the path of an URL and before its host, and the values of headers.
fn redact(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Object(fields) => {
            for (name, field) in fields {
                match (name.as_str(), &mut *field) {
                    ("url", Value::String(url)) => *url = redacted_url(url),
                    ("headers", Value::Array(headers)) => headers.iter_mut().for_each(redact_header),
                    _ => redact(field),
                }
            }
        }
        _ => {}
    }
}

fn redact_header(header: &mut Value) {
    if let Some(value) = header.get_mut("value") {
        *value = REDACTED.into();
    }
}

fn redacted_url(url: &str) -> String {
    let (path, query) = url.split_at(url.find(['?', '#']).unwrap_or(url.len()));
    let path = match path.split_once("://") {
        Some((scheme, rest)) => {
            let authority_len = rest.find('/').unwrap_or(rest.len());
            let (authority, behind) = rest.split_at(authority_len);
            let host = authority
                .rsplit_once('@')
                .map_or(authority.to_owned(), |(_, host)| format!("{REDACTED}@{host}"));
            format!("{scheme}://{host}{behind}")
        }
        None => path.to_owned(),
    };
    if query.is_empty() {
        path
    } else {
        format!("{path}?{REDACTED}")
    }
}

#[cfg(test)]
mod tests {
    use super::redact_lines;

    #[test]
    fn queries_users_and_values_of_headers_are_taken_out_wherever_they_stand() {
        let line = r#"{"flow":{"l7":{"http":{"method":"GET","url":"http://ann:secret@shop/a/b?token=secret#secret",
            "headers":[{"key":"Cookie","value":"secret"},{"key":"Host","value":"shop"}]}},"Summary":"x"},"url":"/plain"}"#;
        let line = line.replace('\n', "");
        let text = format!("{line}\nsecret in no JSON\n\n{{\"url\":\"http://shop\"}}\n");
        let redacted = String::from_utf8(redact_lines(text.as_bytes())).unwrap();
        assert!(!redacted.contains("secret"), "{redacted}");
        for kept in [
            "http://<redacted>@shop/a/b?<redacted>",
            "Cookie",
            "/plain",
            "\"http://shop\"",
            "GET",
        ] {
            assert!(redacted.contains(kept), "{kept}: {redacted}");
        }
        assert_eq!(redacted.lines().count(), 2);
    }
}
