//! Medians over the rounds, and which floors they reach.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use crate::{
    load::{Load, Sample},
    way::Way,
};

/// All samples so far.
#[derive(Default)]
pub(crate) struct Report {
    samples: BTreeMap<(Load, Way), Vec<(u32, Sample)>>,
    /// Runs that gave no sample, and why.
    pub(crate) failures: Vec<String>,
}

/// A row of a table: medians.
pub(crate) struct Row {
    pub(crate) way: Way,
    pub(crate) rate: f64,
    /// Of the runs of the same rounds without enforcement.
    pub(crate) of_none: f64,
    /// Of Envoy's runs with two workers in the same rounds.
    pub(crate) of_envoy: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// CPU seconds per [`Load::cpu_per`].
    pub(crate) enforcer_cpu: f64,
    pub(crate) system_cpu: f64,
    pub(crate) enforcer_mib: f64,
}

impl Report {
    pub(crate) fn add(&mut self, round: u32, load: Load, way: Way, sample: Sample) {
        self.samples.entry((load, way)).or_default().push((round, sample));
    }

    /// Rounds that gave samples.
    pub(crate) fn rounds(&self) -> usize {
        self.samples.values().map(Vec::len).max().unwrap_or(0)
    }

    /// Loads that there are samples of.
    pub(crate) fn loads(&self) -> Vec<Load> {
        let mut loads: Vec<Load> = self.samples.keys().map(|(load, _)| *load).collect();
        loads.dedup();
        loads
    }

    pub(crate) fn rows(&self, load: Load) -> Vec<Row> {
        let ways = Way::ALL.iter().filter(|&&way| self.samples.contains_key(&(load, way)));
        ways.map(|&way| self.row(load, way)).collect()
    }

    fn row(&self, load: Load, way: Way) -> Row {
        let (per, _) = load.cpu_per();
        let or_nan = |value: Option<f64>| value.unwrap_or(f64::NAN);
        Row {
            way,
            rate: self.median(load, way, Sample::rate),
            of_none: self.ratio(load, way, Way::None, Sample::rate),
            of_envoy: self.ratio(load, way, Way::Envoy2, Sample::rate),
            p50_us: self.median(load, way, |sample| or_nan(sample.p50_us)),
            p99_us: self.median(load, way, |sample| or_nan(sample.p99_us)),
            enforcer_cpu: self.median(load, way, |sample| or_nan(sample.enforcer_cpu) / sample.amount * per),
            system_cpu: self.median(load, way, |sample| sample.system_cpu / sample.amount * per),
            enforcer_mib: self.median(load, way, |sample| or_nan(sample.enforcer_mib)),
        }
    }

    fn of(&self, load: Load, way: Way) -> impl Iterator<Item = &(u32, Sample)> {
        self.samples.get(&(load, way)).into_iter().flatten()
    }

    fn median(&self, load: Load, way: Way, of: impl Fn(&Sample) -> f64) -> f64 {
        median(self.of(load, way).map(|(_, sample)| of(sample)).collect())
    }

    /// Median of the ratios inside each round, so that a machine that gets slower or faster cancels out.
    pub(crate) fn ratio(&self, load: Load, way: Way, to: Way, of: impl Fn(&Sample) -> f64) -> f64 {
        self.compare(load, way, to, |a, b| of(a) / of(b))
    }

    /// Median over the rounds of what `compare` says of both runs of a round.
    pub(crate) fn compare(&self, load: Load, way: Way, to: Way, compare: impl Fn(&Sample, &Sample) -> f64) -> f64 {
        let others: BTreeMap<u32, &Sample> = self.of(load, to).map(|(round, sample)| (*round, sample)).collect();
        let pairs = self
            .of(load, way)
            .filter_map(|(round, sample)| Some(compare(sample, others.get(round)?)));
        median(pairs.collect())
    }

    /// One table per load.
    pub(crate) fn tables(&self) -> String {
        let mut text = String::new();
        for load in self.loads() {
            let (_, per) = load.cpu_per();
            let _ = writeln!(text, "### {}\n", capitalised(&load.name()));
            let _ = writeln!(
                text,
                "| way | {} | of none | of Envoy, 2 workers | p50 µs | p99 µs | enforcer's CPU s per {per} | whole CPU s per {per} | enforcer's MiB |",
                load.unit()
            );
            text.push_str("|---|---:|---:|---:|---:|---:|---:|---:|---:|\n");
            for row in self.rows(load) {
                let _ = writeln!(
                    text,
                    "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                    row.way.name(),
                    Cell(row.rate, 0),
                    Cell(row.of_none, 2),
                    Cell(row.of_envoy, 2),
                    Cell(row.p50_us, 0),
                    Cell(row.p99_us, 0),
                    Cell(row.enforcer_cpu, 2),
                    Cell(row.system_cpu, 2),
                    Cell(row.enforcer_mib, 0),
                );
            }
            text.push('\n');
        }
        text
    }
}

/// A number with so many decimals; nothing if there is none.
pub(crate) struct Cell(pub(crate) f64, pub(crate) usize);

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_finite() {
            write!(f, "{:.*}", self.1, self.0)
        } else {
            Ok(())
        }
    }
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

/// The middle value; of an even number, the mean of the two. Not a number without any.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.as_slice() {
        [] => f64::NAN,
        values if values.len() % 2 == 1 => values[middle],
        values => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rate: f64) -> Sample {
        Sample {
            amount: 2.0 * rate,
            seconds: 2.0,
            system_cpu: 1.0,
            ..Sample::default()
        }
    }

    #[test]
    fn medians_of_odd_and_even_numbers() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn the_ratio_is_taken_inside_each_round() {
        let mut report = Report::default();
        let load = Load::KeepAlive(8);
        // The machine halves its speed in the second and third round; one run of the second has failed.
        for (round, base, http) in [(1, 100.0, Some(90.0)), (2, 50.0, None), (3, 50.0, Some(45.0))] {
            report.add(round, load, Way::None, sample(base));
            if let Some(http) = http {
                report.add(round, load, Way::SeventhHttp, sample(http));
            }
        }
        let of_none = report.ratio(load, Way::SeventhHttp, Way::None, Sample::rate);
        assert!((of_none - 0.9).abs() < 1e-9, "{of_none}");
        assert!(
            report
                .tables()
                .contains("| Seventh, HTTP rules | 68 | 0.90 |  |  |  |  | 833.33 |  |"),
            "{}",
            report.tables()
        );
    }
}
