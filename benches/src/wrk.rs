//! What wrk is told and what it says.

use anyhow::{Context as _, Result, bail};

use crate::load::Sample;

/// For so many connections at a time; each used for many requests, or for one.
pub(crate) fn arguments(connections: u32, keep_alive: bool, seconds: u64) -> Vec<String> {
    let mut arguments = vec![
        "-t1".to_owned(),
        "--latency".to_owned(),
        format!("-c{connections}"),
        format!("-d{seconds}s"),
    ];
    if !keep_alive {
        arguments.extend(["-H".to_owned(), "Connection: close".to_owned()]);
    }
    arguments
}

/// Reads wrk's report. A run in which a request failed or was denied is no measurement but an error.
pub(crate) fn parse(report: &str) -> Result<Sample> {
    for line in report.lines().map(str::trim) {
        // wrk counts a connection that the server closes in the middle of its last second as an error of reading.
        let failed = line
            .strip_prefix("Socket errors:")
            .is_some_and(|errors| !errors.contains("connect 0") || !errors.contains("timeout 0"));
        if failed || line.starts_with("Non-2xx") {
            bail!("requests failed: {line}");
        }
    }
    let field = |name: &str| {
        let line = report.lines().map(str::trim).find_map(|line| line.strip_prefix(name));
        line.map(str::trim)
            .with_context(|| format!("wrk's report has no `{name}`:\n{report}"))
    };
    let total = report
        .lines()
        .find(|line| line.contains(" requests in "))
        .context("wrk's report has no total")?;
    let requests: f64 = total
        .split_ascii_whitespace()
        .next()
        .unwrap_or_default()
        .parse()
        .context("total of requests")?;
    let per_second: f64 = field("Requests/sec:")?.parse().context("Requests/sec")?;
    if requests == 0.0 {
        bail!("no request was answered:\n{report}");
    }
    Ok(Sample {
        amount: requests,
        seconds: requests / per_second,
        p50_us: Some(microseconds(field("50%")?)?),
        p99_us: Some(microseconds(field("99%")?)?),
        ..Sample::default()
    })
}

fn microseconds(text: &str) -> Result<f64> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let factor = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => bail!("`{text}` has no unit that wrk uses"),
    };
    Ok(number.parse::<f64>().with_context(|| format!("`{text}`"))? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "Running 2s test @ http://10.0.2.2:8080/\n  1 threads and 8 connections\n  Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency   137.60us  201.77us   8.99ms   97.80%\n  Latency Distribution\n     50%  116.00us\n     75%  138.00us\n     90%  175.00us\n     99%    1.02ms\n  123456 requests in 2.10s, 20.01MB read\nRequests/sec:  58789.12\nTransfer/sec:      9.53MB\n";

    #[test]
    fn a_report_is_read_in_its_units() {
        let sample = parse(REPORT).unwrap();
        assert_eq!((sample.amount, sample.rate().round()), (123_456.0, 58_789.0));
        assert_eq!((sample.p50_us, sample.p99_us), (Some(116.0), Some(1020.0)));
    }

    #[test]
    fn a_run_with_denied_or_failed_requests_is_no_measurement() {
        assert!(parse(&format!("{REPORT}  Non-2xx or 3xx responses: 3\n")).is_err());
        assert!(
            parse(&format!(
                "{REPORT}  Socket errors: connect 0, read 0, write 0, timeout 2\n"
            ))
            .is_err()
        );
        assert!(
            parse(&format!(
                "{REPORT}  Socket errors: connect 0, read 4, write 0, timeout 0\n"
            ))
            .is_ok()
        );
    }

    #[test]
    fn a_report_that_ends_early_is_an_error() {
        assert!(parse("unable to connect").is_err());
        assert!(parse(&REPORT.replace("99%", "98%")).is_err());
    }
}
