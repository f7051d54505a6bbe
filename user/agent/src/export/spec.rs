//! What is exported, as people write it: the entries of `flowLogs`.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::Deserialize;
use seventh_flows::{filter::FilterSet, mask::FieldMask, timestamp};

use crate::metrics::filters;

/// Exporters of a configuration at most; each costs a walk through every record.
const EXPORTERS_MAX: usize = 64;
/// Megabytes of a file and number of earlier files, unless configured.
const SIZE_MB_DEFAULT: u64 = 10;
const BACKUPS_DEFAULT: usize = 5;
/// What a typing error must not exceed.
const SIZE_MB_MAX: u64 = 1 << 20;
const BACKUPS_MAX: usize = 1000;
const INTERVAL_MAX: Duration = Duration::from_secs(24 * 3600);

/// A file of exporters.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawFile {
    flow_logs: Option<Vec<RawExport>>,
}

/// As written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct RawExport {
    name: String,
    file_path: PathBuf,
    #[serde(default)]
    field_mask: Vec<String>,
    #[serde(default)]
    field_aggregate: Vec<String>,
    aggregation_interval: Option<String>,
    include_filters: Option<Vec<serde_json::Value>>,
    exclude_filters: Option<Vec<serde_json::Value>>,
    #[serde(default)]
    file_max_size_mb: u64,
    #[serde(default)]
    file_max_backups: usize,
    #[serde(default)]
    file_compress: bool,
    end: Option<String>,
}

/// An exporter as it was configured.
#[derive(Clone, Debug)]
pub(crate) struct ExportSpec {
    pub(crate) name: String,
    pub(super) target: Target,
    pub(super) filters: Arc<FilterSet>,
    pub(super) mask: FieldMask,
    pub(super) groups: Option<Grouping>,
    pub(super) end: Option<SystemTime>,
    /// What was written, to see whether it has changed.
    written: String,
}

impl PartialEq for ExportSpec {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

/// Where records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Standard output of the agent.
    Stdout,
    /// A file.
    File(FileTarget),
}

/// A file and how it is kept small.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileTarget {
    pub(super) path: PathBuf,
    pub(super) bytes_max: u64,
    /// Earlier files that are kept.
    pub(super) backups: usize,
    pub(super) compress: bool,
}

/// Flows that are told once per interval, with their number.
#[derive(Clone, Debug)]
pub(super) struct Grouping {
    /// Flows that are equal in these fields are one.
    pub(super) fields: FieldMask,
    pub(super) interval: Duration,
}

/// Reads a file of exporters that stand beside others.
///
/// # Errors
/// Which field is wrong, and why.
pub(super) fn parse_file<'a>(
    text: &str,
    others: impl Iterator<Item = &'a ExportSpec>,
) -> Result<Vec<ExportSpec>, String> {
    // An empty file asks for nothing.
    let file: Option<RawFile> = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    let raw = file.unwrap_or_default().flow_logs.unwrap_or_default();
    check_beside(others, raw).map_err(|(field, reason)| format!("{field}: {reason}"))
}

/// Checks exporters that stand alone; says which field is wrong, and why.
pub(crate) fn check_all(raw: Vec<RawExport>) -> Result<Vec<ExportSpec>, (String, String)> {
    check_beside(std::iter::empty(), raw)
}

fn check_beside<'a>(
    others: impl Iterator<Item = &'a ExportSpec>,
    raw: Vec<RawExport>,
) -> Result<Vec<ExportSpec>, (String, String)> {
    let (mut names, mut targets) = (HashSet::new(), HashSet::new());
    for other in others {
        names.insert(other.name.clone());
        targets.insert(other.target.key());
    }
    let mut specs = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let at = |field: &str| format!("flowLogs[{index}].{field}");
        if names.len() >= EXPORTERS_MAX {
            return Err((at("name"), format!("at most {EXPORTERS_MAX} exporters can be")));
        }
        let spec = raw.check().map_err(|(field, reason)| (at(field), reason))?;
        if !names.insert(spec.name.clone()) {
            return Err((at("name"), format!("`{}` is there twice", spec.name)));
        }
        if !targets.insert(spec.target.key()) {
            let reason = format!("another exporter writes `{}`, too", spec.target.key().display());
            return Err((at("filePath"), reason));
        }
        specs.push(spec);
    }
    Ok(specs)
}

impl Target {
    fn key(&self) -> PathBuf {
        match self {
            Self::Stdout => PathBuf::from("stdout"),
            Self::File(file) => file.path.clone(),
        }
    }
}

type Wrong = (&'static str, String);

impl RawExport {
    fn check(self) -> Result<ExportSpec, Wrong> {
        let written = format!("{self:?}");
        if self.name.is_empty() || self.name.len() > 128 {
            return Err(("name", "must be 1 to 128 bytes".to_owned()));
        }
        let include = filters("includeFilters", self.include_filters.clone()).map_err(|e| ("includeFilters", e))?;
        let exclude = filters("excludeFilters", self.exclude_filters.clone()).map_err(|e| ("excludeFilters", e))?;
        let set = FilterSet::new(&include, &exclude).map_err(|e| ("includeFilters", e.to_string()))?;
        let end = self
            .end
            .as_deref()
            .map(point_in_time)
            .transpose()
            .map_err(|e| ("end", e))?;
        Ok(ExportSpec {
            target: self.target()?,
            groups: self.grouping()?,
            mask: FieldMask::new(&self.field_mask).map_err(|e| ("fieldMask", e.to_string()))?,
            filters: Arc::new(set),
            name: self.name,
            end,
            written,
        })
    }

    fn target(&self) -> Result<Target, Wrong> {
        if self.file_path.as_os_str() == "stdout" {
            return Ok(Target::Stdout);
        }
        if !self.file_path.is_absolute() || self.file_path.file_name().is_none() {
            let reason = format!(
                "`{}` is neither `stdout` nor begins with a slash",
                self.file_path.display()
            );
            return Err(("filePath", reason));
        }
        if self.file_max_size_mb > SIZE_MB_MAX {
            return Err(("fileMaxSizeMb", format!("at most {SIZE_MB_MAX}")));
        }
        if self.file_max_backups > BACKUPS_MAX {
            return Err(("fileMaxBackups", format!("at most {BACKUPS_MAX}")));
        }
        let megabytes = Some(self.file_max_size_mb).filter(|size| *size > 0);
        Ok(Target::File(FileTarget {
            path: self.file_path.clone(),
            bytes_max: megabytes.unwrap_or(SIZE_MB_DEFAULT) << 20,
            backups: Some(self.file_max_backups)
                .filter(|backups| *backups > 0)
                .unwrap_or(BACKUPS_DEFAULT),
            compress: self.file_compress,
        }))
    }

    fn grouping(&self) -> Result<Option<Grouping>, Wrong> {
        let text = self.aggregation_interval.as_deref().unwrap_or("0s");
        let interval = timestamp::parse_duration(text).map_err(|e| ("aggregationInterval", e.to_string()))?;
        if interval > INTERVAL_MAX {
            return Err(("aggregationInterval", "at most 24h".to_owned()));
        }
        match (self.field_aggregate.is_empty(), interval.is_zero()) {
            (true, true) => Ok(None),
            (true, false) => Err(("fieldAggregate", "is missing beside `aggregationInterval`".to_owned())),
            (false, true) => Err(("aggregationInterval", "is missing beside `fieldAggregate`".to_owned())),
            (false, false) => Ok(Some(Grouping {
                fields: FieldMask::new(&self.field_aggregate).map_err(|e| ("fieldAggregate", e.to_string()))?,
                interval,
            })),
        }
    }
}

/// Not relative: the file would mean something else whenever it is read.
fn point_in_time(text: &str) -> Result<SystemTime, String> {
    if timestamp::parse_duration(text).is_ok() {
        return Err(format!("`{text}` is no date such as 2006-01-02T15:04:05Z"));
    }
    let time = timestamp::parse(text, SystemTime::now().into()).map_err(|e| e.to_string())?;
    SystemTime::try_from(time).map_err(|e| e.to_string())
}
