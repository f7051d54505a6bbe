//! What published runs measured, one after the other: machines differ.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::{floors::Floor, report::Cell};

/// Runs that are shown, the last ones.
const SHOWN: usize = 4;

/// One number of a run, a line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// When and on which machine.
    run: String,
    what: String,
    measured: String,
}

impl Entry {
    fn read(line: &str) -> Option<Self> {
        let mut fields = line.split('\t').map(str::to_owned);
        Some(Self {
            run: fields.next()?,
            what: fields.next()?,
            measured: fields.next()?,
        })
    }
}

/// Adds a run that ends now, on this machine, to the file.
pub(crate) fn add(file: &Path, machine: &str, floors: &[Floor]) -> Result<()> {
    let now = Command::new("date")
        .args(["-u", "+%F %H:%M"])
        .output()
        .context("date")?;
    let run = format!("{}, {machine}", String::from_utf8_lossy(&now.stdout).trim());
    let mut text = fs::read_to_string(file).unwrap_or_default();
    for floor in floors {
        let _ = writeln!(text, "{run}\t{}\t{}", name(floor), Cell(floor.measured, 3));
    }
    fs::write(file, text).with_context(|| file.display().to_string())
}

fn name(floor: &Floor) -> String {
    format!("{}, {}", floor.what, floor.promise)
}

/// The last runs side by side, by what they measured.
pub(crate) fn table(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let entries: Vec<Entry> = text.lines().filter_map(Entry::read).collect();
    let mut runs: Vec<&str> = entries.iter().map(|entry| entry.run.as_str()).collect();
    runs.dedup();
    let runs = runs.split_off(runs.len().saturating_sub(SHOWN));
    let mut whats: Vec<&str> = Vec::new();
    for entry in entries.iter().rev().filter(|entry| runs.contains(&entry.run.as_str())) {
        if !whats.contains(&entry.what.as_str()) {
            whats.push(&entry.what);
        }
    }
    let mut text = format!("| what | {} |\n|---|{}\n", runs.join(" | "), "---:|".repeat(runs.len()));
    for what in whats.iter().rev() {
        let of = |run: &&str| {
            let entry = entries
                .iter()
                .rev()
                .find(|entry| entry.run == *run && entry.what == *what);
            entry.map_or("", |entry| entry.measured.as_str())
        };
        let cells: Vec<&str> = runs.iter().map(of).collect();
        let _ = writeln!(text, "| {what} | {} |", cells.join(" | "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_runs_stand_side_by_side() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("runs.tsv");
        let runs = (1..=5).map(|run| format!("day {run}\ta\t{run}.000\nday {run}\tb\t0.{run}\n"));
        fs::write(&file, runs.collect::<String>() + "day 5\tc\t7\n").unwrap();
        assert_eq!(
            table(&file),
            "| what | day 2 | day 3 | day 4 | day 5 |\n|---|---:|---:|---:|---:|\n| a | 2.000 | 3.000 | 4.000 | 5.000 |\n\
             | b | 0.2 | 0.3 | 0.4 | 0.5 |\n| c |  |  |  | 7 |\n"
        );
    }

    #[test]
    fn a_run_is_added_behind_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("runs.tsv");
        fs::write(&file, "day 1, old\ta\t1\n").unwrap();
        add(&file, "2 cores", &[]).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "day 1, old\ta\t1\n");
        add(&file, "2 cores", &[Floor::example()]).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert!(
            text.starts_with("day 1") && text.ends_with(", 2 cores\tspeed, at least 2 × none\t2.500\n"),
            "{text}"
        );
    }
}
