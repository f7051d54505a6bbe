//! What dnsperf says.

use anyhow::{Context as _, Result, ensure};

use crate::load::Sample;

/// Reads dnsperf's report. Lost or refused queries are no measurement but an error.
pub(crate) fn parse(report: &str) -> Result<Sample> {
    let field = |name: &str| {
        let line = report.lines().map(str::trim).find_map(|line| line.strip_prefix(name));
        let word = line.and_then(|line| line.split_ascii_whitespace().next());
        word.with_context(|| format!("dnsperf's report has no `{name}`:\n{}", tail(report)))
    };
    let completed: f64 = field("Queries completed:")?.parse()?;
    let lost: f64 = field("Queries lost:")?.parse()?;
    ensure!(
        completed > 0.0 && lost <= completed / 1000.0,
        "{lost} queries were lost, {completed} answered"
    );
    let codes = report.lines().find(|line| line.trim().starts_with("Response codes:"));
    ensure!(
        codes.is_some_and(|codes| codes.contains("NOERROR") && codes.contains("(100.00%)")),
        "not every query was answered by NOERROR: {codes:?}"
    );
    Ok(Sample {
        amount: completed,
        seconds: field("Run time (s):")?.parse()?,
        ..Sample::default()
    })
}

fn tail(report: &str) -> String {
    let lines: Vec<&str> = report.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "DNS Performance Testing Tool\n\nStatistics:\n\n  Queries sent:         3\n  Queries completed:    3 \
                          (100.00%)\n  Queries lost:         0 (0.00%)\n\n  Response codes:       NOERROR 3 \
                          (100.00%)\n  Average packet size:  request 31, response 47\n  Run time (s):         1.500000\n  \
                          Queries per second:   2.000000\n";

    #[test]
    fn a_report_has_a_rate() {
        assert_eq!(parse(REPORT).unwrap().rate().round(), 2.0);
    }

    #[test]
    fn lost_or_refused_queries_are_no_measurement() {
        assert!(parse(&REPORT.replace("lost:         0", "lost:         2")).is_err());
        assert!(parse(&REPORT.replace("NOERROR 3 (100.00%)", "NOERROR 2 (66.67%), REFUSED 1 (33.33%)")).is_err());
        assert!(parse("nothing").is_err());
    }
}
