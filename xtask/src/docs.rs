//! Pages that are made from the code.

use std::fmt::Write as _;

use anyhow::Context as _;
use seventh_abi::DropReason;

use crate::repository::root;

/// The page about drop reasons, from the root of the repository.
pub(crate) const DROP_REASONS: &str = "docs/drop-reasons.md";

/// Writes every page.
pub(crate) fn write() -> anyhow::Result<bool> {
    let path = root().join(DROP_REASONS);
    std::fs::write(&path, drop_reasons()).with_context(|| format!("writing {}", path.display()))?;
    Ok(true)
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
    fn a_bar_in_a_description_does_not_break_the_table() {
        assert_eq!(escaped("a|b"), "a\\|b");
    }
}
