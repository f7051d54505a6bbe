//! Which of a workload's labels make its identity. The rest only tell instances apart and would give every pod an
//! identity of its own.

use regex_automata::meta::Regex;
use regex_automata::{Anchored, Input};

use crate::label::{Label, Labels};

/// Patterns of a filter at most.
const PATTERNS_MAX: usize = 1_000;

/// Patterns that are always there, see [`LabelFilter::new`] for the notation.
const DEFAULTS: &[&str] = &[
    r"reserved:.*",
    r"io\.kubernetes\.pod\.namespace",
    r"io\.cilium\.k8s\.namespace\.labels",
    r"app\.kubernetes\.io",
    r"io\.cilium\.k8s\.policy\.cluster",
    r"io\.cilium\.k8s\.policy\.serviceaccount",
    r"!io\.kubernetes",
    r"!kubernetes\.io",
    r"!statefulset\.kubernetes\.io/pod-name",
    r"!apps\.kubernetes\.io/pod-index",
    r"!batch\.kubernetes\.io/job-completion-index",
    r"!batch\.kubernetes\.io/controller-uid",
    r"!.*beta\.kubernetes\.io",
    r"!k8s\.io",
    r"!pod-template-generation",
    r"!pod-template-hash",
    r"!controller-revision-hash",
    r"!controller-uid",
    r"!annotation.*",
    r"!etcd_node",
];

/// Tells labels that count from those that do not, by length of match and not by order: a label counts if no ignoring
/// pattern matches it (and no list of own inclusions is given), or if the longest match of an including pattern is longer
/// than the shortest match of an ignoring one.
#[derive(Debug)]
pub struct LabelFilter {
    patterns: Vec<Pattern>,
    only_included: bool,
}

#[derive(Debug)]
struct Pattern {
    ignore: bool,
    source: Option<String>,
    regex: Regex,
}

impl LabelFilter {
    /// The defaults and further patterns: `[!][source:]regex`, matched from the beginning of the key; `!` ignores. As
    /// soon as one of them includes, only what is included counts.
    ///
    /// # Errors
    /// The pattern and why it is none.
    pub fn new<'a>(own: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut filter = Self {
            patterns: Vec::new(),
            only_included: false,
        };
        for text in DEFAULTS {
            filter.patterns.push(Pattern::new(text)?);
        }
        for text in own {
            let pattern = Pattern::new(text)?;
            filter.only_included |= !pattern.ignore;
            filter.patterns.push(pattern);
            if filter.patterns.len() > PATTERNS_MAX {
                return Err(format!("more than {PATTERNS_MAX} label patterns"));
            }
        }
        Ok(filter)
    }

    /// The labels that count.
    #[must_use]
    pub fn apply(&self, labels: &Labels) -> Labels {
        Labels::new(labels.iter().filter(|label| self.counts(label)).cloned())
    }

    fn counts(&self, label: &Label) -> bool {
        let mut included = 0;
        let mut ignored: Option<usize> = None;
        for pattern in &self.patterns {
            let Some(length) = pattern.matches(label) else { continue };
            if pattern.ignore {
                ignored = Some(ignored.map_or(length, |shortest| shortest.min(length)));
            } else {
                included = included.max(length);
            }
        }
        match ignored {
            None => !self.only_included || included > 0,
            Some(ignored) => included > ignored,
        }
    }
}

impl Pattern {
    fn new(text: &str) -> Result<Self, String> {
        let (ignore, rest) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
        let (source, key) = rest
            .split_once(':')
            .map_or((None, rest), |(source, key)| (Some(source), key));
        crate::pattern::check(key).map_err(|reason| format!("label pattern {text:?}: {reason}"))?;
        let regex = Regex::new(key).map_err(|error| format!("label pattern {text:?}: {error}"))?;
        Ok(Self {
            ignore,
            source: source.filter(|s| !s.is_empty()).map(str::to_owned),
            regex,
        })
    }

    /// Length of the match at the beginning of the key.
    fn matches(&self, label: &Label) -> Option<usize> {
        if self.source.as_ref().is_some_and(|source| *source != label.source) {
            return None;
        }
        self.regex
            .search(&Input::new(&label.key).anchored(Anchored::Yes))
            .map(|found| found.end())
    }
}
