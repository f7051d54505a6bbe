//! Pages that are made from the code.

use std::fmt::Write as _;

use anyhow::Context as _;
use seventh_abi::DropReason;
use seventh_metrics::Metric;

use crate::repository::root;

/// The page about drop reasons, from the root of the repository.
pub(crate) const DROP_REASONS: &str = "docs/drop-reasons.md";

/// The page about metrics.
pub(crate) const METRICS: &str = "docs/metrics.md";
/// What stands before its tables: written by people.
const METRICS_INTRODUCTION: &str = include_str!("metrics_introduction.md");

/// Writes every page.
pub(crate) fn write() -> anyhow::Result<bool> {
    for (path, text) in [(DROP_REASONS, drop_reasons()), (METRICS, metrics())] {
        let path = root().join(path);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(true)
}

/// All metrics, ours and those of Hubble's names.
pub(crate) fn metrics() -> String {
    let mut page = String::from(METRICS_INTRODUCTION);
    let (always, of_plugins): (Vec<&Metric>, Vec<&Metric>) =
        seventh_metrics::all().partition(|metric| metric.plugin.is_empty());
    page.push_str("\n## Always there\n\n| metric | kind | labels | meaning |\n|---|---|---|---|\n");
    for metric in always {
        metric_row(&mut page, "", metric);
    }
    page.push_str(
        "\n## Counted from flow records, as configured\n\n\
         | configured as | metric | kind | labels | meaning |\n|---|---|---|---|---|\n",
    );
    for metric in of_plugins {
        metric_row(&mut page, &format!("`{}` | ", metric.plugin), metric);
    }
    page
}

fn metric_row(page: &mut String, first: &str, metric: &Metric) {
    let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
    // Writing to a String cannot fail.
    let _ = writeln!(
        page,
        "| {first}`{}` | {} | {} | {} |",
        metric.name,
        metric.kind.name(),
        labels.join(", "),
        escaped(metric.help)
    );
}

/// All reasons with which a packet or a request is dropped.
pub(crate) fn drop_reasons() -> String {
    let mut page = String::from(
        "# Why a packet was dropped\n\n\
         Nothing is dropped without one of these numbers. Counters, events, flow records and the command line all use this \
         list; a number is never used again for something else. The kernel programs give 1 to 63, the engine the rest.\n\n\
         This page is made by `cargo xtask docs` from `kern/abi/src/reason.rs`.\n\n\
         | code | name | given by | meaning | Hubble's code |\n|---:|---|---|---|---:|\n",
    );
    for &reason in DropReason::ALL {
        let code = reason as u8;
        let giver = if code < 64 { "kernel" } else { "engine" };
        let hubble = match reason.hubble_code() {
            0 => "–".to_owned(),
            code => code.to_string(),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            page,
            "| {code} | `{}` | {giver} | {} | {hubble} |",
            reason.name(),
            escaped(reason.description())
        );
    }
    page
}

/// A bar would end the table's cell.
fn escaped(sentence: &str) -> String {
    sentence.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_row_with_its_code_and_name() {
        let page = drop_reasons();
        for &reason in DropReason::ALL {
            assert!(
                page.contains(&format!("| {} | `{}` |", reason as u8, reason.name())),
                "{reason:?}"
            );
        }
    }

    #[test]
    fn every_metric_has_a_row_with_its_kind() {
        let page = metrics();
        for metric in seventh_metrics::all() {
            let row = format!("`{}` | {} |", metric.name, metric.kind.name());
            assert!(page.contains(&row), "{row}");
        }
    }

    #[test]
    fn a_bar_in_a_description_does_not_break_the_table() {
        assert_eq!(escaped("a|b"), "a\\|b");
    }
}
