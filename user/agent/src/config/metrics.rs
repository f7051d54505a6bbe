//! `metrics:` of the configuration: where they are served, and which of Hubble's there are.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{Wrong, wrong};
use crate::metrics::PluginSpec;

/// Series of one metric at most, unless configured.
const SERIES_DEFAULT: usize = 2000;
/// More would cost a scraper more than it could use.
const SERIES_MAX: usize = 100_000;

/// As written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawMetrics {
    listen: String,
    #[serde(default)]
    hubble: Vec<String>,
    hubble_config: Option<PathBuf>,
    series_max: Option<usize>,
}

/// Where metrics are served, and which of Hubble's there are.
#[derive(Clone, Debug)]
pub struct MetricsConfig {
    /// Address of `/metrics`, `/healthz` and `/readyz`.
    pub listen: SocketAddr,
    /// Plugins for as long as the agent runs.
    pub(crate) plugins: Vec<PluginSpec>,
    /// A file of plugins that is reloaded live.
    pub(crate) plugins_file: Option<PathBuf>,
    /// Series that one metric may have.
    pub(crate) series_max: usize,
}

impl RawMetrics {
    /// Files that are not absolute are relative to `base`.
    pub(super) fn check(self, base: &Path) -> Result<MetricsConfig, Wrong> {
        let listen = self.listen.parse().map_err(|_| {
            let reason = format!("`{}` is not an address and port such as 127.0.0.1:9964", self.listen);
            wrong("metrics.listen", reason)
        })?;
        let series_max = self.series_max.unwrap_or(SERIES_DEFAULT);
        if !(1..=SERIES_MAX).contains(&series_max) {
            return Err(wrong(
                "metrics.seriesMax",
                format!("{series_max}; must be 1 to {SERIES_MAX}"),
            ));
        }
        if self.hubble_config.is_some() && !self.hubble.is_empty() {
            let reason = "cannot stand beside `hubble`: name the metrics here, or in a file of their own";
            return Err(wrong("metrics.hubbleConfig", reason));
        }
        let plugins =
            PluginSpec::parse_all(&self.hubble).map_err(|(index, e)| wrong(format!("metrics.hubble[{index}]"), e))?;
        Ok(MetricsConfig {
            listen,
            plugins,
            plugins_file: self.hubble_config.map(|file| base.join(file)),
            series_max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, ConfigError};
    use std::path::Path;

    fn parse(metrics: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("/etc/seventh/config.yaml"), &format!("metrics: {metrics}"))
    }

    fn field(metrics: &str) -> String {
        match parse(metrics) {
            Err(ConfigError::Field { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_documented_example_listens() {
        let metrics = parse("{listen: '127.0.0.1:9964', hubble: ['dns:query', 'flow:sourceContext=pod|ip']}");
        let metrics = metrics.unwrap().metrics.unwrap();
        assert_eq!((metrics.listen.port(), metrics.plugins.len()), (9964, 2));
        let file = parse("{listen: '[::1]:1', hubbleConfig: m.yaml}")
            .unwrap()
            .metrics
            .unwrap();
        assert_eq!(file.plugins_file.as_deref(), Some(Path::new("/etc/seventh/m.yaml")));
        assert!(parse("null").unwrap().metrics.is_none());
    }

    #[test]
    fn a_wrong_value_names_its_field() {
        assert_eq!(field("{listen: here}"), "metrics.listen");
        assert_eq!(field("{listen: '[::1]:1', seriesMax: 0}"), "metrics.seriesMax");
        assert_eq!(field("{listen: '[::1]:1', hubble: [dns, dsn]}"), "metrics.hubble[1]");
        assert_eq!(
            field("{listen: '[::1]:1', hubble: [http, httpV2]}"),
            "metrics.hubble[1]"
        );
        assert_eq!(
            field("{listen: '[::1]:1', hubble: [dns], hubbleConfig: a}"),
            "metrics.hubbleConfig"
        );
        assert!(matches!(parse("{lisen: x}"), Err(ConfigError::Syntax { .. })));
    }
}
