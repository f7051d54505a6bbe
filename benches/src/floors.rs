//! The least that Seventh promises, and whether this run shows it.

use std::fmt::Write as _;

use crate::{
    load::{Load, Sample},
    report::{Cell, Report},
    way::Way,
};

const KEEP_ALIVE: [Load; 3] = [Load::KeepAlive(1), Load::KeepAlive(8), Load::KeepAlive(64)];

/// One promise.
pub(crate) struct Floor {
    pub(crate) what: &'static str,
    pub(crate) promise: String,
    pub(crate) measured: f64,
    met: bool,
    /// What the same says without any enforcement, if it compares with somebody else: nobody can do better.
    bound: Option<f64>,
}

impl Floor {
    fn at_least(what: &'static str, least: f64, of: &str, measured: f64) -> Floor {
        Floor {
            what,
            promise: format!("at least {least} × {of}"),
            measured,
            met: measured >= least,
            bound: None,
        }
    }

    fn at_most(what: &'static str, promise: &str, most: f64, measured: f64) -> Floor {
        Floor {
            what,
            promise: promise.to_owned(),
            measured,
            met: measured <= most,
            bound: None,
        }
    }

    #[cfg(test)]
    pub(crate) fn example() -> Floor {
        Floor::at_least("speed", 2.0, "none", 2.5)
    }

    fn within(mut self, bound: f64) -> Floor {
        self.bound = Some(bound);
        self
    }
}

/// All promises that the loads of this report say something of.
pub(crate) fn floors(report: &Report) -> Vec<Floor> {
    let mut floors = rates(report);
    floors.extend(costs(report));
    floors.retain(|floor| !floor.measured.is_nan());
    floors
}

fn rates(report: &Report) -> Vec<Floor> {
    let keep_alive = &KEEP_ALIVE;
    let close = &[Load::Close(1), Load::Close(8), Load::Close(64)];
    let tls = &[Load::Tls(1), Load::Tls(8)];
    let dns = &[Load::Dns(1), Load::Dns(100)];
    let is_rate = |load: &&Load| !matches!(load, Load::Held(_) | Load::Paced(_));
    let paced: Vec<Load> = Load::ALL
        .iter()
        .filter(|load| matches!(load, Load::Paced(_)))
        .copied()
        .collect();
    let audited: Vec<Load> = Load::ALL.iter().filter(is_rate).copied().collect();
    let none = |what, promised, loads: &[Load], way| {
        let ratios = loads
            .iter()
            .map(|&load| report.ratio(load, way, Way::None, Sample::rate));
        Floor::at_least(what, promised, "no enforcement", least(ratios))
    };
    let envoy = |what, promised, loads: &[Load]| {
        let ratio = |way| {
            loads
                .iter()
                .map(move |&load| report.ratio(load, way, Way::Envoy2, Sample::rate))
        };
        Floor::at_least(what, promised, "Envoy", least(ratio(Way::SeventhHttp))).within(least(ratio(Way::None)))
    };
    let http = Way::SeventhHttp;
    vec![
        none("requests/s, keep-alive (worst load)", 0.7, keep_alive, http),
        envoy("requests/s, keep-alive (worst load)", 4.0, keep_alive),
        none("requests/s, connection per request (worst load)", 0.75, close, http),
        envoy("requests/s, connection per request (worst load)", 2.5, close),
        none("bulk download, MB/s", 0.9, &[Load::Download], http),
        none("bulk upload, MB/s", 0.9, &[Load::Upload], http),
        none("TLS handshakes/s (worst load)", 0.9, tls, Way::SeventhTls),
        none("DNS queries/s (worst load)", 0.5, dns, Way::SeventhDns),
        none(
            "audit that denies everything (worst load)",
            0.9,
            &audited,
            Way::SeventhAudit,
        ),
        none(
            "the same where the machine is not at its end",
            0.9,
            &paced,
            Way::SeventhAudit,
        ),
    ]
}

fn costs(report: &Report) -> Vec<Floor> {
    let cpu = |sample: &Sample| sample.enforcer_cpu.unwrap_or(f64::NAN) / sample.amount;
    let p50 = |sample: &Sample| sample.p50_us.unwrap_or(f64::NAN);
    let p99 = |sample: &Sample| sample.p99_us.unwrap_or(f64::NAN);
    let memory = |sample: &Sample| sample.enforcer_mib.unwrap_or(f64::NAN);
    let (http, envoy) = (Way::SeventhHttp, Way::Envoy2);
    let one = Load::KeepAlive(1);
    let added = report.compare(one, http, Way::None, |ours, base| p50(ours) - p50(base));
    let cpus = KEEP_ALIVE.iter().map(|&load| report.ratio(load, http, envoy, cpu));
    vec![
        Floor::at_most(
            "µs that inspection adds to p50, one connection",
            "at most 15 µs",
            15.0,
            added,
        ),
        Floor::at_most(
            "p99, one connection",
            "at most ¼ of Envoy's",
            0.25,
            report.ratio(one, http, envoy, p99),
        )
        .within(report.ratio(one, Way::None, envoy, p99)),
        Floor::at_most(
            "enforcer's CPU per request, keep-alive (worst load)",
            "at most 1/15 of Envoy's",
            1.0 / 15.0,
            greatest(cpus),
        ),
        Floor::at_most(
            "memory with 10 000 connections",
            "at most ¼ of Envoy's",
            0.25,
            report.ratio(Load::Held(10_000), http, envoy, memory),
        ),
    ]
}

fn least(values: impl Iterator<Item = f64>) -> f64 {
    // `min` leaves out what is not a number, that is, loads that were not run.
    values.fold(f64::NAN, f64::min)
}

fn greatest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(f64::NAN, f64::max)
}

/// As a table.
pub(crate) fn table(floors: &[Floor]) -> String {
    let head = "| what | promised | measured | kept | no enforcement itself |\n|---|---|---:|---|---:|\n";
    let mut text = head.to_owned();
    for floor in floors {
        let kept = if floor.met { "yes" } else { "**no**" };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {kept} | {} |",
            floor.what,
            floor.promise,
            Cell(floor.measured, 3),
            Cell(floor.bound.unwrap_or(f64::NAN), 3)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rate: f64, p50_us: f64) -> Sample {
        Sample {
            amount: rate,
            seconds: 1.0,
            p50_us: Some(p50_us),
            ..Sample::default()
        }
    }

    #[test]
    fn the_worst_load_counts_and_what_was_not_run_is_left_out() {
        let mut report = Report::default();
        for (load, ours) in [(Load::KeepAlive(1), 80.0), (Load::KeepAlive(8), 60.0)] {
            report.add(1, load, Way::None, sample(100.0, 40.0));
            report.add(1, load, Way::SeventhHttp, sample(ours, 50.0));
        }
        let text = table(&floors(&report));
        assert!(
            text.contains("| at least 0.7 × no enforcement | 0.600 | **no** |  |"),
            "{text}"
        );
        assert!(text.contains("| at most 15 µs | 10.000 | yes |  |"), "{text}");
        assert!(!text.contains("Envoy") && !text.contains("DNS"), "{text}");
    }

    #[test]
    fn beside_what_is_promised_of_envoy_stands_what_no_enforcement_has() {
        let mut report = Report::default();
        for (way, rate) in [(Way::None, 300.0), (Way::SeventhHttp, 270.0), (Way::Envoy2, 100.0)] {
            report.add(1, Load::KeepAlive(8), way, sample(rate, 40.0));
        }
        let text = table(&floors(&report));
        assert!(
            text.contains("| at least 4 × Envoy | 2.700 | **no** | 3.000 |"),
            "{text}"
        );
    }
}
