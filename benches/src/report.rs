//! Medians over the rounds, as a table.

use std::{collections::BTreeMap, fmt};

use crate::{
    setup::Enforcement,
    wrk::{Load, Sample},
};

/// All samples so far.
#[derive(Default)]
pub(crate) struct Report {
    samples: BTreeMap<(Load, Enforcement), Vec<Sample>>,
}

impl Report {
    pub(crate) fn add(&mut self, load: Load, enforcement: Enforcement, sample: Sample) {
        self.samples.entry((load, enforcement)).or_default().push(sample);
    }

    fn median(&self, load: Load, enforcement: Enforcement, of: impl Fn(&Sample) -> f64) -> f64 {
        let samples = self.samples.get(&(load, enforcement));
        median(samples.into_iter().flatten().map(of).collect())
    }

    /// Median of the rounds' own ratios to the run without enforcement in the same round: drift of the machine between
    /// rounds cancels out.
    fn ratio(&self, load: Load, enforcement: Enforcement) -> f64 {
        let of = |enforcement| self.samples.get(&(load, enforcement)).into_iter().flatten();
        let pairs = of(enforcement).zip(of(Enforcement::None));
        median(
            pairs
                .map(|(sample, base)| sample.requests_per_second / base.requests_per_second)
                .collect(),
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounds = self.samples.values().map(Vec::len).max().unwrap_or(0);
        writeln!(
            f,
            "medians of {rounds} interleaved rounds; CPU is the agent's own, in seconds per 100 000 requests\n"
        )?;
        writeln!(f, "| load | enforced | requests/s | of none | p50 µs | p99 µs | CPU |")?;
        writeln!(f, "|---|---|---:|---:|---:|---:|---:|")?;
        for &load in Load::ALL {
            for &enforcement in Enforcement::ALL {
                let cpu = |sample: &Sample| sample.agent_cpu.as_secs_f64() / sample.requests * 1e5;
                writeln!(
                    f,
                    "| {} | {} | {:.0} | {:.2} | {:.0} | {:.0} | {:.2} |",
                    load.name(),
                    enforcement.name(),
                    self.median(load, enforcement, |sample| sample.requests_per_second),
                    self.ratio(load, enforcement),
                    self.median(load, enforcement, |sample| sample.p50_us),
                    self.median(load, enforcement, |sample| sample.p99_us),
                    self.median(load, enforcement, cpu),
                )?;
            }
        }
        Ok(())
    }
}

/// The middle value; of an even number, the mean of the two. Not a number without any.
fn median(mut values: Vec<f64>) -> f64 {
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
    use std::time::Duration;

    fn sample(requests_per_second: f64) -> Sample {
        Sample {
            requests: 1000.0,
            requests_per_second,
            p50_us: 10.0,
            p99_us: 20.0,
            agent_cpu: Duration::from_millis(10),
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
        let load = Load::ALL[0];
        // The machine halves its speed in the second and third round.
        for (base, http) in [(100.0, 90.0), (50.0, 45.0), (50.0, 45.0)] {
            report.add(load, Enforcement::None, sample(base));
            report.add(load, Enforcement::Http, sample(http));
        }
        assert!((report.ratio(load, Enforcement::Http) - 0.9).abs() < 1e-9);
        assert!(
            report
                .to_string()
                .contains("| keep-alive 1 | HTTP rules | 45 | 0.90 | 10 | 20 | 1.00 |")
        );
    }
}
