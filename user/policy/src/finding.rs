//! What is wrong, or dangerous, in a document: file, line, field, reason.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use serde::Serialize;

use crate::label::Labels;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The document is enforced as written; what it says may not be what was meant.
    Warning,
    /// The document is not used.
    Error,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// File, as it was named to the loader.
    pub file: Arc<str>,
    /// Document inside the file, from 1; 0 if the finding is about the whole file.
    pub document: u32,
    /// Line in the file, from 1; 0 if there is none.
    pub line: u32,
    /// Column in characters, from 1; 0 if there is none.
    pub column: u32,
    /// `Kind namespace/name` as far as known, else empty.
    pub object: String,
    /// Path of the field, such as `spec.ingress[0].toPorts[0]`; empty for the whole document.
    pub field: String,
    /// What is wrong and, where there is one, the next step.
    pub reason: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Plain(&self.file))?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        match self.severity {
            Severity::Error => f.write_str(": error")?,
            Severity::Warning => f.write_str(": warning")?,
        }
        if self.document > 0 {
            write!(f, ": document {}", self.document)?;
            if !self.object.is_empty() {
                write!(f, " ({})", Plain(&self.object))?;
            }
        }
        if !self.field.is_empty() {
            write!(f, ": {}", Plain(&self.field))?;
        }
        write!(f, ": {}", Plain(&self.reason))
    }
}

/// Text of a stranger on a terminal or in a log: control characters are written as escapes, so that they can neither
/// move the cursor nor begin a line of their own.
struct Plain<'a>(&'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if is_plain(c) {
                f.write_char(c)?;
            } else {
                write!(f, "{}", c.escape_default())?;
            }
        }
        Ok(())
    }
}

/// Whether a character shows itself and nothing else: no control character, and none that reorders or hides the text
/// around it.
#[must_use]
pub fn is_plain(c: char) -> bool {
    let reorders = matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    !(c.is_control() || reorders)
}

impl std::error::Error for Finding {}

/// Where a rule was written, for verdicts, flows and explanations.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct RuleOrigin {
    /// File, as it was named to the loader.
    pub file: Arc<str>,
    /// Document inside the file, from 1.
    pub document: u32,
    /// Line of the rule, from 1.
    pub line: u32,
    /// `CiliumNetworkPolicy`, …
    pub kind: &'static str,
    /// Namespace of the policy; empty for cluster-wide ones.
    pub namespace: Arc<str>,
    /// Name of the policy.
    pub name: Arc<str>,
    /// Labels of the rule: its own and those that name the policy (`k8s:io.cilium.k8s.policy.name=…`).
    pub labels: Labels,
    /// The policy's `log.value`, for the records of flows that the rule decides.
    pub log: Option<Arc<str>>,
    /// The policy is in audit: what it would deny is told and not denied, see [`crate::document::AUDIT`].
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub audit: bool,
    /// Path of the rule inside the document, such as `spec.ingress[0].toPorts[1].rules.http[2]`.
    pub path: String,
}

impl RuleOrigin {
    /// [`RuleOrigin::document`] of rules that no document holds.
    pub(crate) const NO_DOCUMENT: u32 = 0;

    /// Whether the modes of enforcement added the rule: no document holds it.
    #[must_use]
    pub fn is_built_in(&self) -> bool {
        self.document == Self::NO_DOCUMENT
    }

    /// The same document, another place in it.
    #[must_use]
    pub fn at(&self, line: u32, path: impl Into<String>) -> Self {
        Self {
            line,
            path: path.into(),
            ..self.clone()
        }
    }

    /// `namespace/name`, or the name alone for a cluster-wide policy.
    #[must_use]
    pub fn policy(&self) -> String {
        if self.namespace.is_empty() {
            self.name.to_string()
        } else {
            format!("{}/{}", self.namespace, self.name)
        }
    }
}

impl fmt::Display for RuleOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_built_in() {
            return write!(f, "{} rule {}", self.kind, self.name);
        }
        write!(
            f,
            "{} {} {} ({}:{}, document {}{})",
            self.kind,
            self.policy(),
            Plain(&self.path),
            Plain(&self.file),
            self.line,
            self.document,
            if self.audit { ", in audit" } else { "" }
        )
    }
}
