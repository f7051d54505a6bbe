//! `inspection:` of the configuration: bounds and waiting times of each engine.

use serde::Deserialize;
use seventh_engine::EngineLimits;

/// As written. Each worker has an engine of its own; times are in seconds, sizes in bytes.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawInspection {
    /// Of a request head.
    head_bytes_max: Option<u64>,
    /// Lines of a request head.
    headers_max: Option<u64>,
    /// From a head's first byte to its last.
    head_timeout_s: Option<u64>,
    /// From a connection's last frame until it is forgotten.
    idle_timeout_s: Option<u64>,
    /// The same between two requests, if the connection may be taken up again.
    quiet_timeout_s: Option<u64>,
    /// For one connection.
    flow_bytes_max: Option<u64>,
    /// For all connections.
    held_bytes_max: Option<u64>,
    /// Connections over TCP, and as many over QUIC.
    flows_max: Option<u64>,
    mid_stream: RawMidStream,
    /// The kernel judges requests that it can judge by itself.
    kernel_judges: Option<bool>,
}

/// Connections whose first byte the engine has not seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawMidStream {
    /// Reset, but for those of which the kernel knows that a request begins.
    #[default]
    Boundary,
    /// Reset.
    Deny,
}

pub(super) const SECOND_NS: u64 = 1_000_000_000;
/// A day: as long as anybody's connection tracking waits.
const SECONDS_MAX: u64 = 86_400;

impl RawInspection {
    /// Fills in and checks. The error is the field and what is wrong with it.
    pub(super) fn check(self) -> Result<EngineLimits, (String, String)> {
        let mut limits = EngineLimits::default();
        bytes(
            "headBytesMax",
            self.head_bytes_max,
            1024,
            128 << 10,
            &mut limits.http.head_len_max,
        )?;
        bytes("headersMax", self.headers_max, 8, 100, &mut limits.http.headers_max)?;
        seconds("headTimeoutS", self.head_timeout_s, &mut limits.head_timeout_ns)?;
        seconds("idleTimeoutS", self.idle_timeout_s, &mut limits.idle_timeout_ns)?;
        seconds("quietTimeoutS", self.quiet_timeout_s, &mut limits.quiet_timeout_ns)?;
        bytes(
            "heldBytesMax",
            self.held_bytes_max,
            1 << 20,
            64 << 30,
            &mut limits.held_bytes_max,
        )?;
        bytes("flowsMax", self.flows_max, 64, 1 << 20, &mut limits.flows_max)?;
        limits.quic_flows_max = limits.flows_max;
        limits.take_up = self.mid_stream == RawMidStream::Boundary;
        limits.kernel_judges = self.kernel_judges.unwrap_or(limits.take_up);
        if limits.kernel_judges && !limits.take_up {
            return Err((
                "inspection.kernelJudges".into(),
                "true; with `midStream: deny` the engine must see every request, so that it can only be false".into(),
            ));
        }
        // A head must fit, and the segments that are on their way with it.
        let least = 2 * limits.http.head_len_max as u64;
        let most = limits.held_bytes_max as u64;
        if least > most {
            return Err((
                "inspection.headBytesMax".into(),
                format!("{}; must be at most half of heldBytesMax, {most}", least / 2),
            ));
        }
        limits.flow_bytes_max = limits
            .flow_bytes_max
            .clamp(2 * limits.http.head_len_max, limits.held_bytes_max);
        bytes(
            "flowBytesMax",
            self.flow_bytes_max,
            least,
            most,
            &mut limits.flow_bytes_max,
        )?;
        Ok(limits)
    }
}

fn bytes(field: &str, value: Option<u64>, min: u64, max: u64, limit: &mut usize) -> Result<(), (String, String)> {
    if let Some(value) = value {
        let within = usize::try_from(value).ok().filter(|_| (min..=max).contains(&value));
        *limit = within.ok_or_else(|| {
            (
                format!("inspection.{field}"),
                format!("{value}; must be {min} to {max}"),
            )
        })?;
    }
    Ok(())
}

fn seconds(field: &str, value: Option<u64>, limit_ns: &mut u64) -> Result<(), (String, String)> {
    match value {
        Some(value) if (1..=SECONDS_MAX).contains(&value) => *limit_ns = value * SECOND_NS,
        Some(value) => {
            return Err((
                format!("inspection.{field}"),
                format!("{value}; must be 1 to {SECONDS_MAX} seconds"),
            ));
        }
        None => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, ConfigError};
    use seventh_engine::EngineLimits;
    use std::path::Path;

    fn limits(inspection: &str) -> Result<EngineLimits, String> {
        let text = format!("node: a\ninspection: {{{inspection}}}");
        match Config::parse(Path::new("/c.yaml"), &text) {
            Ok(config) => Ok(config.inspection),
            Err(ConfigError::Field { field, .. }) => Err(field),
            Err(other) => Err(other.to_string()),
        }
    }

    #[test]
    fn what_is_left_out_is_the_engines_own() {
        let (ours, theirs) = (limits("").unwrap(), EngineLimits::default());
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
    }

    #[test]
    fn every_setting_reaches_the_engine() {
        let limits = limits(
            "headBytesMax: 8192, headersMax: 50, headTimeoutS: 5, idleTimeoutS: 600, quietTimeoutS: 7, \
             flowBytesMax: 100000, heldBytesMax: 2000000, flowsMax: 1000, midStream: deny, kernelJudges: false",
        )
        .unwrap();
        assert_eq!((limits.http.head_len_max, limits.http.headers_max), (8192, 50));
        assert_eq!(
            (limits.head_timeout_ns, limits.idle_timeout_ns),
            (5_000_000_000, 600_000_000_000)
        );
        assert_eq!(
            (limits.quiet_timeout_ns, limits.flow_bytes_max),
            (7_000_000_000, 100_000)
        );
        assert_eq!((limits.held_bytes_max, limits.flows_max), (2_000_000, 1000));
        assert_eq!((limits.quic_flows_max, limits.take_up), (1000, false));
        assert!(!limits.kernel_judges);
    }

    #[test]
    fn a_wrong_value_names_its_field() {
        for (wrong, field) in [
            ("headBytesMax: 100", "headBytesMax"),
            ("headBytesMax: 1000000", "headBytesMax"),
            ("headersMax: 101", "headersMax"),
            ("headTimeoutS: 0", "headTimeoutS"),
            ("idleTimeoutS: 86401", "idleTimeoutS"),
            ("quietTimeoutS: 0", "quietTimeoutS"),
            ("heldBytesMax: 5", "heldBytesMax"),
            ("flowsMax: 0", "flowsMax"),
            ("flowBytesMax: 100000", "flowBytesMax"),
            ("flowBytesMax: 100000000", "flowBytesMax"),
        ] {
            assert_eq!(limits(wrong).err(), Some(format!("inspection.{field}")), "{wrong}");
        }
        for unknown in ["headBytes: 1", "midStream: allow", "headersMax: many", "flowsMax: -1"] {
            assert!(
                limits(unknown).is_err_and(|e| !e.starts_with("inspection.")),
                "{unknown}"
            );
        }
    }

    #[test]
    fn what_one_connection_may_hold_follows_the_size_of_heads() {
        assert_eq!(limits("headBytesMax: 131072").unwrap().flow_bytes_max, 256 << 10);
        assert_eq!(
            limits("heldBytesMax: 1048576, headBytesMax: 131072")
                .unwrap()
                .flow_bytes_max,
            256 << 10
        );
    }
}
