//! Which plugins there are, as people write it: `name:option=value;option` on one line, or a file.

use std::{collections::HashSet, sync::Arc};

use serde::Deserialize;
use seventh_flows::{
    filter::FilterSet,
    json::{UnknownFields, from_json},
    pb::flow::FlowFilter,
};

use super::context::Contexts;

/// Plugins of a configuration at most.
const PLUGINS_MAX: usize = 64;

/// A plugin as it was configured.
#[derive(Clone, Debug)]
pub(crate) struct PluginSpec {
    pub(super) plugin: Plugin,
    pub(super) contexts: Contexts,
    pub(super) flags: Vec<String>,
    pub(super) filters: Arc<FilterSet>,
    /// What was written, to see whether it has changed.
    written: String,
}

impl PartialEq for PluginSpec {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

/// Plugins by their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Plugin {
    Dns,
    Drop,
    Flow,
    FlowsToWorld,
    Http,
    HttpV2,
    Icmp,
    Policy,
    PortDistribution,
    Tcp,
}

/// Name, plugin, and the options that it has besides contexts.
const PLUGINS: &[(&str, Plugin, &[&str])] = &[
    ("dns", Plugin::Dns, &["query", "ignoreAAAA"]),
    ("drop", Plugin::Drop, &[]),
    ("flow", Plugin::Flow, &[]),
    (
        "flows-to-world",
        Plugin::FlowsToWorld,
        &["any-drop", "port", "syn-only"],
    ),
    ("http", Plugin::Http, &[]),
    ("httpV2", Plugin::HttpV2, &[]),
    ("icmp", Plugin::Icmp, &[]),
    ("policy", Plugin::Policy, &[]),
    ("port-distribution", Plugin::PortDistribution, &[]),
    ("tcp", Plugin::Tcp, &[]),
];

/// A file of plugins.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    metrics: Option<Vec<RawPlugin>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawPlugin {
    name: Option<String>,
    context_options: Option<Vec<RawOption>>,
    include_filters: Option<Vec<serde_json::Value>>,
    exclude_filters: Option<Vec<serde_json::Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOption {
    name: String,
    #[serde(default)]
    values: Vec<String>,
}

impl PluginSpec {
    /// Reads plugins, one per text.
    ///
    /// # Errors
    /// Which one is wrong, and why.
    pub(crate) fn parse_all(texts: &[String]) -> Result<Vec<Self>, (usize, String)> {
        let mut specs = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            let spec = Self::parse(text).map_err(|e| (index, e))?;
            fits(&specs, &spec).map_err(|e| (index, e))?;
            specs.push(spec);
        }
        Ok(specs)
    }

    /// `name:option=value|value;option`; values of `labelsContext` are separated by commas.
    fn parse(text: &str) -> Result<Self, String> {
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        let options = rest.split(';').filter(|option| !option.is_empty()).map(|option| {
            let (key, values) = option.split_once('=').unwrap_or((option, ""));
            let separator = if key == "labelsContext" { ',' } else { '|' };
            let values = values.split(separator).filter(|value| !value.is_empty());
            (key.to_owned(), values.map(str::to_owned).collect())
        });
        Self::new(name, options.collect(), Arc::default(), text.to_owned())
    }

    /// Reads a file of plugins.
    ///
    /// # Errors
    /// Which field is wrong, and why.
    pub(in crate::metrics) fn parse_file(text: &str) -> Result<Vec<Self>, String> {
        // An empty file asks for nothing.
        let file: Option<RawFile> = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
        let plugins = file.unwrap_or_default().metrics.unwrap_or_default();
        let mut specs = Vec::new();
        for (index, raw) in plugins.into_iter().enumerate() {
            let at = |e: String| format!("metrics[{index}]: {e}");
            let spec = raw.check().map_err(at)?;
            fits(&specs, &spec).map_err(at)?;
            specs.push(spec);
        }
        Ok(specs)
    }

    fn new(
        name: &str,
        options: Vec<(String, Vec<String>)>,
        filters: Arc<FilterSet>,
        written: String,
    ) -> Result<Self, String> {
        let Some((_, plugin, allowed)) = PLUGINS.iter().find(|(known, ..)| *known == name) else {
            let names: Vec<&str> = PLUGINS.iter().map(|(name, ..)| *name).collect();
            return Err(format!("there is no metric `{name}`; there are {}", names.join(", ")));
        };
        let (mut contexts, mut flags, mut seen) = (Contexts::default(), Vec::new(), HashSet::new());
        for (option, values) in options {
            if !seen.insert(option.clone()) {
                return Err(format!("`{option}` is there twice"));
            }
            if contexts.take(&option, &values)? {
                continue;
            }
            if option == "exemplars" && *plugin == Plugin::HttpV2 {
                return Err("`exemplars` is not in this version: no record has a trace to point to".to_owned());
            }
            if !allowed.contains(&option.as_str()) {
                return Err(format!("`{name}` has no option `{option}`"));
            }
            match values.as_slice() {
                [] => flags.push(option),
                [value] if value == "true" => flags.push(option),
                [value] if value == "false" => {}
                _ => return Err(format!("`{option}` is `true` or `false`")),
            }
        }
        Ok(Self {
            plugin: *plugin,
            contexts,
            flags,
            filters,
            written,
        })
    }

    pub(super) fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|given| given == flag)
    }
}

impl RawPlugin {
    fn check(self) -> Result<PluginSpec, String> {
        let written = format!("{self:?}");
        let name = self.name.filter(|name| !name.is_empty()).ok_or("`name` is missing")?;
        let include = filters("includeFilters", self.include_filters)?;
        let exclude = filters("excludeFilters", self.exclude_filters)?;
        let set = FilterSet::new(&include, &exclude).map_err(|e| e.to_string())?;
        let options = self.context_options.unwrap_or_default().into_iter();
        let options = options.map(|option| (option.name, option.values)).collect();
        PluginSpec::new(&name, options, Arc::new(set), written)
    }
}

/// Filters as people write them in files: the fields of `FlowFilter`.
pub(crate) fn filters(field: &str, raw: Option<Vec<serde_json::Value>>) -> Result<Vec<FlowFilter>, String> {
    let read = |(index, value): (usize, serde_json::Value)| {
        from_json(&value.to_string(), UnknownFields::Refuse).map_err(|e| format!("{field}[{index}]: {e}"))
    };
    raw.unwrap_or_default().into_iter().enumerate().map(read).collect()
}

/// Whether the plugin can stand beside those before it.
fn fits(before: &[PluginSpec], spec: &PluginSpec) -> Result<(), String> {
    if before.len() >= PLUGINS_MAX {
        return Err(format!("at most {PLUGINS_MAX} metrics are counted"));
    }
    let http = |plugin: Plugin| matches!(plugin, Plugin::Http | Plugin::HttpV2);
    for other in before {
        if other.plugin == spec.plugin {
            return Err("the same metric is there twice".to_owned());
        }
        if http(other.plugin) && http(spec.plugin) {
            return Err("`http` and `httpV2` cannot stand together: their metrics have the same names".to_owned());
        }
    }
    Ok(())
}
