//! Who reads the capture, how long it takes, and what it takes.

use std::{
    fmt::Write as _,
    fs,
    io::Read as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{merged::Merged, policy::Files};

/// How often memory is looked at. The kernel keeps the peak, so only what is reached in the last moment can be missed.
const LOOK: Duration = Duration::from_millis(2);
/// Bytes of an error that are shown: what a pipe holds, so that nobody waits for a reader.
const SAID_MAX: u64 = 4096;
/// A program that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(600);

/// What `seventh replay` tells, in tshark's words.
const TSHARK_TELLS: &[&str] = &[
    "-Y",
    "http.request or dns or tls.handshake.type == 1",
    "-T",
    "fields",
    "-e",
    "http.request.full_uri",
    "-e",
    "dns.qry.name",
    "-e",
    "tls.handshake.extensions_server_name",
];

/// A program with its arguments.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    what: &'static str,
    command: Vec<String>,
    /// Exit statuses that are fine.
    fine: &'static [i32],
}

/// One run.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    seconds: f64,
    peak_bytes: u64,
}

impl Program {
    /// In the order in which they are run.
    pub(crate) fn all(seventh: &Path, capture: &Path, files: &Files) -> Vec<Self> {
        let replay = |before: &[&str], threads: u32, files: Option<&Files>| {
            [words(before), replay(seventh, capture, threads, files)].concat()
        };
        let capture_file = capture.display().to_string();
        let one_core = ["taskset", "-c", "0"];
        let on_one_core = |rest: &[&str]| [words(&one_core), words(rest)].concat();
        let tshark = [words(&["tshark", "-n", "-r", &capture_file]), words(TSHARK_TELLS)].concat();
        vec![
            Self {
                name: "tcpdump",
                what: "only copies the packets",
                command: on_one_core(&["tcpdump", "-n", "-r", &capture_file, "-w", "/dev/null"]),
                fine: &[0],
            },
            Self {
                name: "seventh replay, one core",
                what: "streams put together, every request judged by 100 rules of HTTP, DNS and SNI",
                command: replay(&one_core, 1, Some(files)),
                fine: &[0, 1],
            },
            Self {
                name: "seventh replay, two threads",
                what: "the same",
                command: replay(&[], 2, Some(files)),
                fine: &[0, 1],
            },
            Self {
                name: "seventh replay, no policy, one core",
                what: "protocols by content on every port, nothing judged",
                command: replay(&one_core, 1, None),
                fine: &[0],
            },
            Self {
                name: "ndpiReader, one core",
                what: "protocols by content, the first packets of each flow",
                command: on_one_core(&["ndpiReader", "-q", "-i", &capture_file]),
                fine: &[0],
            },
            Self {
                name: "tshark, one core",
                what: "URLs, DNS names and server names",
                command: [words(&one_core), tshark].concat(),
                fine: &[0],
            },
        ]
    }

    /// Runs it once.
    pub(crate) fn run(&self) -> Result<Run> {
        let (program, arguments) = self.command.split_first().context("no command")?;
        let began = Instant::now();
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{program}: ./seventh-dev bench replay installs what is needed"))?;
        let peak_bytes = watch(&mut child, began)?;
        let status = child.wait()?;
        let seconds = began.elapsed().as_secs_f64();
        let is_fine = status.code().is_some_and(|code| self.fine.contains(&code));
        let mut said = String::new();
        if let Some(stderr) = &mut child.stderr {
            stderr.take(SAID_MAX).read_to_string(&mut said)?;
        }
        ensure!(is_fine, "{}: {status}: {said}", self.command.join(" "));
        Ok(Run { seconds, peak_bytes })
    }
}

fn replay(seventh: &Path, capture: &Path, threads: u32, files: Option<&Files>) -> Vec<String> {
    let text = |path: &Path| path.display().to_string();
    let mut command = vec![text(seventh)];
    command.extend(words(&["replay", "--summary", "--threads", &threads.to_string()]));
    if let Some(Files { policy, endpoints }) = files {
        command.extend([
            "--policy".to_owned(),
            text(policy),
            "--endpoints".to_owned(),
            text(endpoints),
        ]);
    }
    command.push(text(capture));
    command
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Until it ends: the most memory that it had.
fn watch(child: &mut Child, began: Instant) -> Result<u64> {
    let status = format!("/proc/{}/status", child.id());
    let mut peak_bytes = 0;
    while child.try_wait()?.is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        peak_bytes = peak_bytes.max(peak(&text).unwrap_or(0));
        if began.elapsed() > PATIENCE {
            child.kill()?;
            bail!("it does not end");
        }
        thread::sleep(LOOK);
    }
    Ok(peak_bytes)
}

/// In `/proc/PID/status`.
fn peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Medians, as a table of Markdown.
pub(crate) fn table(programs: &[Program], runs: &mut [Vec<Run>], merged: &Merged) -> String {
    let (packets, bits) = (float(merged.packets), float(merged.bytes) * 8.0);
    let medians: Vec<Run> = runs.iter_mut().map(|runs| median(runs)).collect();
    let reader = programs
        .iter()
        .position(|program| program.name.starts_with("ndpiReader"));
    let ndpi_s = reader
        .and_then(|index| medians.get(index))
        .map_or(f64::NAN, |run| run.seconds);
    let mut text = "| program | seconds | packets/s | Gbit/s | × ndpiReader | peak memory, MiB | what it does |\n\
                    |---|--:|--:|--:|--:|--:|---|\n"
        .to_owned();
    for (program, run) in programs.iter().zip(medians) {
        let _ = writeln!(
            text,
            "| {} | {:.2} | {:.0} | {:.2} | {:.2} | {:.0} | {} |",
            program.name,
            run.seconds,
            packets / run.seconds,
            bits / run.seconds / 1e9,
            ndpi_s / run.seconds,
            float(run.peak_bytes) / f64::from(1 << 20),
            program.what
        );
    }
    text
}

/// The page of documentation.
pub(crate) fn page(table: &str, merged: &Merged, rounds: u32) -> String {
    format!(
        "# Replay, measured\n\n`./seventh-dev bench replay --publish` wrote this. All programs read the same file in turn; \
         medians of {rounds} rounds, with the time it takes to start. The file: {merged}, made of `pcap-fixtures/` \
         (`benches/src/bin/replay-bench/merged.rs`).\n\n{table}"
    )
}

fn median(runs: &mut [Run]) -> Run {
    let middle = runs.len() / 2;
    runs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let seconds = runs.get(middle).map_or(f64::NAN, |run| run.seconds);
    runs.sort_by_key(|run| run.peak_bytes);
    Run {
        seconds,
        peak_bytes: runs.get(middle).map_or(0, |run| run.peak_bytes),
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::peak;

    #[test]
    fn the_peak_of_memory_is_read_from_what_the_kernel_says() {
        assert_eq!(peak("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n"), Some(2 << 20));
        assert_eq!(peak("Name:\tx\n"), None);
    }
}
