//! What h2load is told and what it says.

use anyhow::{Context as _, Result, ensure};

use crate::load::Sample;

const CONNECTIONS: u32 = 8;

/// For so many requests a second in all, on connections of HTTP/1.1 that stay.
pub(crate) fn arguments(rate: u32, seconds: u64) -> Vec<String> {
    vec![
        "--h1".to_owned(),
        "-t1".to_owned(),
        format!("-c{CONNECTIONS}"),
        format!("--rps={}", rate / CONNECTIONS),
        format!("-D{seconds}"),
    ]
}

/// Reads h2load's report and what it wrote of each request: when it began, its status, how many microseconds it took. A run
/// in which a request failed or was denied is no measurement but an error.
pub(crate) fn parse(report: &str, requests: &str) -> Result<Sample> {
    let finished = report.lines().find_map(|line| line.strip_prefix("finished in "));
    let seconds: f64 = finished
        .and_then(|rest| rest.split_once("s,"))
        .with_context(|| format!("h2load's report has no total:\n{report}"))?
        .0
        .parse()
        .context("total time")?;
    let mut latencies = Vec::new();
    for line in requests.lines() {
        let mut columns = line.split('\t').skip(1);
        let mut column = || columns.next().with_context(|| format!("h2load's log: `{line}`"));
        let status = column()?;
        ensure!(status == "200", "a request failed: {line}");
        latencies.push(column()?.parse::<f64>().context("time of a request")?);
    }
    Sample::of_latencies(latencies, seconds).with_context(|| format!("no request was answered:\n{report}"))
}

#[cfg(test)]
mod tests {
    use super::parse;

    const REPORT: &str = "starting benchmark...\n\nfinished in 2.00s, 1.50 req/s, 1KB/s\nrequests: 3 total\n";

    #[test]
    fn a_report_has_a_rate_and_percentiles() {
        let sample = parse(REPORT, "17\t200\t100\n18\t200\t300\n19\t200\t200\n").unwrap();
        assert_eq!((sample.amount, sample.rate()), (3.0, 1.5));
        assert_eq!((sample.p50_us, sample.p99_us), (Some(200.0), Some(300.0)));
    }

    #[test]
    fn a_run_with_denied_or_failed_requests_is_no_measurement() {
        for log in ["17\t403\t100\n", "17\t-1\t100\n", "17\n", ""] {
            assert!(parse(REPORT, log).is_err(), "{log}");
        }
        assert!(parse("unable to connect", "17\t200\t100\n").is_err());
    }
}
