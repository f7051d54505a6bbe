//! The page that shows a run: `docs/benchmarks.md` and its plots.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    chart::{self, Group},
    floors,
    load::{Kind, Load},
    proxies::Programs,
    report::{Report, Row},
    rules, runs,
};

/// Writes the page and its plots into the folder of documents.
pub(crate) fn write(folder: &Path, report: &Report, programs: &Programs, seconds: u64) -> Result<()> {
    let plots = folder.join("benchmarks");
    fs::create_dir_all(&plots).with_context(|| plots.display().to_string())?;
    for (name, picture) in pictures(report) {
        fs::write(plots.join(name), picture)?;
    }
    let runs = plots.join("runs.tsv");
    runs::add(&runs, &machine(), &floors::floors(report))?;
    let page = folder.join("benchmarks.md");
    fs::write(&page, text(report, programs, seconds, &runs::table(&runs))).with_context(|| page.display().to_string())
}

fn pictures(report: &Report) -> Vec<(&'static str, String)> {
    let groups = |choose: fn(Load) -> bool, value: fn(&Row) -> f64| -> Vec<Group> {
        let loads = report.loads().into_iter().filter(|&load| choose(load));
        let group = |load: Load| Group {
            name: load.name(),
            bars: report
                .rows(load)
                .iter()
                .map(|row| (row.way, value(row)))
                .filter(|(_, value)| value.is_finite())
                .collect(),
        };
        loads.map(group).collect()
    };
    let requests = |load| matches!(load, Load::KeepAlive(_) | Load::Paced(_) | Load::Close(_));
    vec![
        (
            "http-rate.svg",
            chart::bars(
                "Small GETs under twenty HTTP rules",
                "requests/s, no enforcement = 1; longer is better",
                2,
                &groups(requests, |row| row.of_none),
            ),
        ),
        (
            "http-cpu.svg",
            chart::bars(
                "What 100 000 requests cost",
                "CPU seconds of the whole machine: client, server and what is between; shorter is better",
                1,
                &groups(requests, |row| row.system_cpu),
            ),
        ),
        (
            "bulk.svg",
            chart::bars(
                "One large body under HTTP rules",
                "MB/s; longer is better",
                0,
                &groups(|load| matches!(load, Load::Download | Load::Upload), |row| row.rate),
            ),
        ),
        (
            "names.svg",
            chart::bars(
                "TLS handshakes and DNS queries under rules for names",
                "per second, no enforcement = 1; longer is better",
                2,
                &groups(|load| load.kind() != Kind::Http, |row| row.of_none),
            ),
        ),
        (
            "memory.svg",
            chart::bars(
                "Memory of the process that enforces",
                "MiB resident; shorter is better",
                0,
                &groups(|load| matches!(load, Load::Held(_)), |row| row.enforcer_mib),
            ),
        ),
    ]
}

fn text(report: &Report, programs: &Programs, seconds: u64, runs: &str) -> String {
    let mut text = format!(
        "# Benchmarks\n\nHow much does it cost to read every request, and what do others take for the same? This page is written by the \
         program that measures:\n\n```\n./seventh-dev bench e2e --publish\n```\n\n{}\n\n",
        method(report.rounds(), seconds)
    );
    let _ = write!(
        text,
        "## What is promised\n\n{}\n",
        floors::table(&floors::floors(report))
    );
    let _ = write!(
        text,
        "What compares with others depends on the machine as much as on either: one that makes a proxy faster has less for it \
         to waste. The last published runs (numbers of both sides vary by a tenth from run to run):\n\n{runs}\n"
    );
    text.push_str("## At a glance\n\n");
    for (name, alt) in [
        ("http-rate.svg", "requests per second"),
        ("http-cpu.svg", "CPU time per 100 000 requests"),
        ("bulk.svg", "bulk transfers"),
        ("names.svg", "TLS handshakes and DNS queries"),
        ("memory.svg", "memory"),
    ] {
        let _ = writeln!(text, "![{alt}](benchmarks/{name})\n");
    }
    let _ = write!(text, "## All numbers\n\n{}", report.tables());
    if !report.failures.is_empty() {
        text.push_str("Runs that failed and are in no median:\n\n");
        for failure in &report.failures {
            let _ = writeln!(text, "- {}", failure.lines().next().unwrap_or_default());
        }
        text.push('\n');
    }
    let _ = write!(text, "## Machine and versions\n\n{}", versions(programs));
    text
}

fn method(rounds: usize, seconds: u64) -> String {
    format!(
        "Each way has a network of its own, of namespaces on one machine: a client (wrk, dnsperf, or a thread that sends or takes \
         {bulk}), a node that forwards, and a server (nginx with one worker, unbound with one thread). They are alike but for what \
         the node enforces. Each way is checked before it is measured: what a rule allows passes, what none allows is denied.\n\n\
         Every round runs every load once through every way, one after the other, so a machine that gets slower does so for \
         all. A number is the median of {rounds} rounds of {seconds} s; a ratio is the median of the ratios inside the rounds. The whole \
         CPU time is that of client, server, enforcer and the kernel's work for them, by cgroup. Client and server share the \
         machine's cores with what is between them, so who costs little CPU also lets them go faster.\n\n\
         The others do what Seventh does: {rules} HTTP rules of regular expressions for method and path, transparently. Envoy (RBAC \
         filter) and HAProxy get connections by TPROXY and connect to the original destination; nginx gets them by NAT and has the \
         server's address in its configuration; for TLS, Envoy and HAProxy choose by the ClientHello's server name and do \
         not decrypt; dnsdist forwards, without a cache. All speak plain HTTP to the server on connections that they keep.",
        bulk = "one large body",
        rules = rules::HTTP.len(),
    )
}

/// In one line.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':'))
            .map_or("unknown", |(_, value)| value.trim())
            .to_owned()
    };
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let memory = read("/proc/meminfo")
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemTotal:")?
                .trim()
                .strip_suffix(" kB")?
                .trim()
                .parse::<u64>()
                .ok()
        })
        .unwrap_or(0)
        / (1 << 20);
    let hypervisor = if field("flags").contains("hypervisor") {
        ", virtual"
    } else {
        ""
    };
    format!(
        "{cores} cores of {}{hypervisor}, {memory} GiB, Linux {}",
        field("model name"),
        read("/proc/sys/kernel/osrelease").trim()
    )
}

fn versions(programs: &Programs) -> String {
    let mut text = format!("{}.\n\n", machine());
    let envoy = programs.envoy.to_string_lossy();
    let seventh = programs.seventh.to_string_lossy();
    for (program, arguments) in [
        (seventh.as_ref(), "version"),
        (envoy.as_ref(), "--version"),
        ("haproxy", "-v"),
        ("nginx", "-v"),
        ("dnsdist", "--version"),
        ("unbound", "-V"),
        ("wrk", "-v"),
        ("dnsperf", "-h"),
    ] {
        let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy();
        let _ = writeln!(
            text,
            "- {name}: {}",
            version(program, arguments).unwrap_or_else(|| "unknown".to_owned())
        );
    }
    text
}

/// The first line with a number in it of what a program says of itself.
fn version(program: &str, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok()?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let line = said
        .lines()
        .find(|line| line.bytes().any(|byte| byte.is_ascii_digit()))?;
    let line = line.trim();
    // Envoy's begins with the path of its binary.
    let line = line.split_once("version: ").map_or(line, |(_, rest)| rest);
    Some(line.split(" Copyright").next().unwrap_or(line).to_owned())
}
