//! Files and directories to documents. One bad document never blocks another.

use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::document::{self, Document, Outcome, Source};
use crate::finding::{Finding, Severity};
use crate::yaml;

/// Bytes of one file at most.
pub const FILE_BYTES_MAX: u64 = 8 << 20;
/// Files of one directory tree at most.
pub const FILES_MAX: usize = 10_000;
/// Depth of a directory tree at most.
pub const DIRECTORY_DEPTH_MAX: u32 = 16;
/// Documents of one file at most.
pub const DOCUMENTS_MAX: usize = 10_000;

/// What was read.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// Documents without error, in the order of files and documents.
    pub documents: Vec<Arc<Document>>,
    /// What is wrong, and what may not be meant.
    pub findings: Vec<Finding>,
    /// How many objects of other kinds were passed over.
    pub others: usize,
    /// The texts.
    pub sources: Sources,
}

/// The texts of files, to show what a finding is about.
#[derive(Clone, Debug, Default)]
pub struct Sources(HashMap<Arc<str>, Arc<str>>);

/// Characters of a line that are shown at most.
const QUOTED_MAX: usize = 120;

impl Sources {
    /// The line that a finding is about, with its number, and a caret under the place: two lines of text. `None` if the
    /// finding has no line or the file is not known. Control characters are replaced.
    #[must_use]
    pub fn quote(&self, finding: &Finding) -> Option<String> {
        let line = usize::try_from(finding.line).ok()?.checked_sub(1)?;
        let text = self.0.get(&finding.file)?.lines().nth(line)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let column = usize::try_from(finding.column).ok()?.max(1) - 1;
        // A long line is shown from a little before the place.
        let skipped = if column < QUOTED_MAX {
            0
        } else {
            column - QUOTED_MAX / 2
        };
        let shown = text.chars().skip(skipped).take(QUOTED_MAX);
        let shown: String = shown.map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        let number = finding.line.to_string();
        let (margin, indent) = (" ".repeat(number.len()), " ".repeat(column - skipped));
        Some(format!("  {number} | {shown}\n  {margin} | {indent}^"))
    }
}

impl Loaded {
    /// Whether there is an error among the findings.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|f| f.severity == Severity::Error)
    }
}

/// Reads files and directory trees (`.yaml`, `.yml` and `.json` of them, in the order of their names; names that begin
/// with a dot are passed over).
pub fn load_paths<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Loaded {
    Loader::default().load(paths)
}

/// Reads the same paths again and again: files that did not change are not parsed again.
#[derive(Debug, Default)]
pub struct Loader {
    files: HashMap<PathBuf, Parsed>,
}

/// A file's text and what it came to.
#[derive(Debug)]
struct Parsed {
    text: Arc<str>,
    loaded: Loaded,
}

impl Loader {
    /// As [`load_paths`].
    pub fn load<P: AsRef<Path>>(&mut self, paths: impl IntoIterator<Item = P>) -> Loaded {
        let mut loaded = Loaded::default();
        let mut files = Vec::new();
        for path in paths {
            collect_files(path.as_ref(), 0, &mut files, &mut loaded.findings);
        }
        let mut before = std::mem::take(&mut self.files);
        for path in files {
            let name: Arc<str> = path.to_string_lossy().into();
            match read_file(&path) {
                Ok(text) => {
                    let known = before.remove(&path).or_else(|| self.files.remove(&path));
                    let parsed = known.filter(|parsed| *parsed.text == *text).unwrap_or_else(|| {
                        let mut loaded = Loaded::default();
                        load_into(&name, &text, &mut loaded);
                        Parsed {
                            text: text.into(),
                            loaded,
                        }
                    });
                    loaded.documents.extend(parsed.loaded.documents.iter().cloned());
                    loaded.findings.extend(parsed.loaded.findings.iter().cloned());
                    loaded.others += parsed.loaded.others;
                    loaded.sources.0.insert(name, parsed.text.clone());
                    self.files.insert(path, parsed);
                }
                Err(reason) => loaded.findings.push(whole_file(&name, reason)),
            }
        }
        refuse_duplicates(&mut loaded);
        loaded
    }
}

/// Reads the text of one file.
#[must_use]
pub fn load_text(file: &str, text: &str) -> Loaded {
    let mut loaded = Loaded::default();
    let file: Arc<str> = file.into();
    load_into(&file, text, &mut loaded);
    loaded.sources.0.insert(file, text.into());
    refuse_duplicates(&mut loaded);
    loaded
}

fn load_into(file: &Arc<str>, text: &str, loaded: &mut Loaded) {
    let chunks = yaml::split_documents(text);
    if chunks.len() > DOCUMENTS_MAX {
        let reason = format!("holds {} documents, at most {DOCUMENTS_MAX} are taken", chunks.len());
        loaded.findings.push(whole_file(file, reason));
        return;
    }
    for (number, chunk) in (1..).zip(chunks) {
        let source = Source {
            file: file.clone(),
            document: number,
            text: chunk.text.into(),
        };
        match yaml::parse(chunk) {
            Ok(node) => {
                for outcome in document::read(&node, &source, &mut loaded.findings) {
                    match outcome {
                        Outcome::Read(document) => loaded.documents.push(Arc::from(document)),
                        Outcome::Other => loaded.others += 1,
                        Outcome::Rejected => {}
                    }
                }
            }
            Err(error) => loaded.findings.push(Finding {
                severity: Severity::Error,
                file: file.clone(),
                document: number,
                line: error.line,
                column: error.column,
                object: String::new(),
                field: String::new(),
                reason: error.reason,
            }),
        }
    }
}

/// Of several documents with the same kind, namespace and name the first one is kept.
fn refuse_duplicates(loaded: &mut Loaded) {
    let mut first: HashMap<(&'static str, Arc<str>, Arc<str>), String> = HashMap::new();
    let findings = &mut loaded.findings;
    loaded.documents.retain(|document| {
        let origin = &document.origin;
        let key = (origin.kind, origin.namespace.clone(), origin.name.clone());
        let place = format!("{}:{}", origin.file, origin.line);
        let Some(before) = first.insert(key.clone(), place) else {
            return true;
        };
        findings.push(Finding {
            severity: Severity::Error,
            file: origin.file.clone(),
            document: origin.document,
            line: origin.line,
            column: 1,
            object: format!("{} {}", origin.kind, origin.policy()),
            field: "metadata.name".to_owned(),
            reason: format!("the name is already used at {before}; this document is not used"),
        });
        first.insert(key, before);
        false
    });
}

fn collect_files(path: &Path, depth: u32, files: &mut Vec<PathBuf>, findings: &mut Vec<Finding>) {
    let mut fail = |reason: String| findings.push(whole_file(&path.to_string_lossy().into(), reason));
    if files.len() > FILES_MAX {
        return;
    }
    if depth > DIRECTORY_DEPTH_MAX {
        return fail(format!("lies deeper than {DIRECTORY_DEPTH_MAX} directories"));
    }
    let is_directory = match fs::metadata(path) {
        Ok(metadata) => metadata.is_dir(),
        Err(error) => return fail(format!("cannot be read: {error}")),
    };
    if !is_directory {
        files.push(path.to_owned());
        if files.len() > FILES_MAX {
            fail(format!("more than {FILES_MAX} files; the rest is not read"));
        }
        return;
    }
    let entries = match fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
        Ok(entries) => entries,
        Err(error) => return fail(format!("cannot be read: {error}")),
    };
    let mut paths: Vec<PathBuf> = entries.iter().map(fs::DirEntry::path).filter(|p| is_ours(p)).collect();
    paths.sort();
    for inner in paths {
        collect_files(&inner, depth + 1, files, findings);
    }
}

/// Whether an entry of a directory is read: directories and policy files, hidden ones not (editors and config maps
/// keep their own files there).
fn is_ours(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    !hidden && (path.is_dir() || matches!(extension, "yaml" | "yml" | "json"))
}

fn read_file(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = fs::File::open(path).map_err(|e| format!("cannot be opened: {e}"))?;
    file.take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|e| format!("cannot be read: {e}"))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!(
            "has more than {FILE_BYTES_MAX} bytes; split it into several files"
        ));
    }
    Ok(text)
}

fn whole_file(file: &Arc<str>, reason: String) -> Finding {
    Finding {
        severity: Severity::Error,
        file: file.clone(),
        document: 0,
        line: 0,
        column: 0,
        object: String::new(),
        field: String::new(),
        reason,
    }
}
