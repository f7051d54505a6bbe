//! Files and directories to documents. One bad document never blocks another.

use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::document::{self, Document, Outcome, Source};
use crate::finding::{Finding, Severity, is_plain};
use crate::yaml;

/// Bytes of one file at most.
pub const FILE_BYTES_MAX: u64 = 8 << 20;
/// Files of all directory trees at most.
pub const FILES_MAX: usize = 10_000;
/// Directories at most, one counted as often as links lead to it.
pub const DIRECTORIES_MAX: usize = 1_000;
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
pub struct Sources(HashMap<Arc<str>, Lines>);

/// A text whose lines are found without counting them again and again: a file may have very many findings.
#[derive(Clone, Debug)]
struct Lines {
    text: Arc<str>,
    starts: OnceLock<Vec<usize>>,
}

impl Lines {
    fn of(text: Arc<str>) -> Self {
        Self {
            text,
            starts: OnceLock::new(),
        }
    }

    /// A line by its number from 0.
    fn get(&self, number: usize) -> Option<&str> {
        let starts = self.starts.get_or_init(|| {
            let behind_ends = self.text.match_indices('\n').map(|(at, _)| at + 1);
            std::iter::once(0).chain(behind_ends).collect()
        });
        self.text.get(*starts.get(number)?..)?.lines().next()
    }
}

/// Characters of a line that are shown at most.
const QUOTED_MAX: usize = 120;

impl Sources {
    /// The line that a finding is about, with its number, and a caret under the place: two lines of text. `None` if the
    /// finding has no line or the file is not known. What could change the look of a terminal's line is replaced.
    #[must_use]
    pub fn quote(&self, finding: &Finding) -> Option<String> {
        let line = usize::try_from(finding.line).ok()?.checked_sub(1)?;
        let text = self.0.get(&finding.file)?.get(line)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let column = usize::try_from(finding.column).ok()?.max(1) - 1;
        // A long line is shown from a little before the place.
        let skipped = if column < QUOTED_MAX {
            0
        } else {
            column - QUOTED_MAX / 2
        };
        let shown = text.chars().skip(skipped).take(QUOTED_MAX);
        let shown: String = shown.map(|c| if is_plain(c) { c } else { '\u{fffd}' }).collect();
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
    texts: HashMap<Arc<str>, Parsed>,
}

/// A file's text and what it came to.
#[derive(Debug)]
struct Parsed {
    text: Arc<str>,
    loaded: Loaded,
}

impl Parsed {
    /// What is known of this text, else what it comes to.
    fn unless_known(known: Option<Self>, name: &Arc<str>, text: &str) -> Self {
        known.filter(|parsed| *parsed.text == *text).unwrap_or_else(|| {
            let mut loaded = Loaded::default();
            load_into(name, text, &mut loaded);
            Self {
                text: text.into(),
                loaded,
            }
        })
    }

    fn add_to(&self, all: &mut Loaded, name: Arc<str>) {
        all.documents.extend(self.loaded.documents.iter().cloned());
        all.findings.extend(self.loaded.findings.iter().cloned());
        all.others += self.loaded.others;
        all.sources.0.insert(name, Lines::of(Arc::clone(&self.text)));
    }
}

impl Loader {
    /// As [`load_paths`].
    pub fn load<P: AsRef<Path>>(&mut self, paths: impl IntoIterator<Item = P>) -> Loaded {
        self.load_with(paths, [])
    }

    /// As [`Loader::load`], with documents that lie in no file: each by a name that stands in the place of a file's.
    pub fn load_with<P: AsRef<Path>>(
        &mut self,
        paths: impl IntoIterator<Item = P>,
        texts: impl IntoIterator<Item = (Arc<str>, Arc<str>)>,
    ) -> Loaded {
        let mut walk = Walk::default();
        for path in paths {
            walk.visit(path.as_ref(), 0);
        }
        let Walk { files, findings, .. } = walk;
        let mut loaded = Loaded {
            findings,
            ..Loaded::default()
        };
        let mut before = std::mem::take(&mut self.files);
        for path in files {
            let name: Arc<str> = path.to_string_lossy().into();
            match read_file(&path) {
                Ok(text) => {
                    let known = before.remove(&path).or_else(|| self.files.remove(&path));
                    let parsed = Parsed::unless_known(known, &name, &text);
                    parsed.add_to(&mut loaded, name);
                    self.files.insert(path, parsed);
                }
                Err(reason) => loaded.findings.push(whole_file(&name, reason)),
            }
        }
        let mut before = std::mem::take(&mut self.texts);
        for (name, text) in texts {
            if text.len() as u64 > FILE_BYTES_MAX {
                let reason = format!("has more than {FILE_BYTES_MAX} bytes");
                loaded.findings.push(whole_file(&name, reason));
                continue;
            }
            let parsed = Parsed::unless_known(before.remove(&name), &name, &text);
            parsed.add_to(&mut loaded, Arc::clone(&name));
            self.texts.insert(name, parsed);
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
    loaded.sources.0.insert(file, Lines::of(text.into()));
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

/// The files of what was named, and what could not be looked at.
#[derive(Default)]
struct Walk {
    files: Vec<PathBuf>,
    directories: usize,
    findings: Vec<Finding>,
}

impl Walk {
    /// Whether no more is taken. Links may lead round in circles: their number is bounded as that of files is.
    fn is_full(&self) -> bool {
        self.files.len() > FILES_MAX || self.directories > DIRECTORIES_MAX
    }

    fn fail(&mut self, path: &Path, reason: String) {
        self.findings.push(whole_file(&path.to_string_lossy().into(), reason));
    }

    fn visit(&mut self, path: &Path, depth: u32) {
        if self.is_full() {
            return;
        }
        if depth > DIRECTORY_DEPTH_MAX {
            return self.fail(path, format!("lies deeper than {DIRECTORY_DEPTH_MAX} directories"));
        }
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) => return self.fail(path, format!("cannot be read: {error}")),
        };
        if metadata.is_dir() {
            self.directories += 1;
            self.enter(path, depth);
        } else if depth > 0 && !metadata.is_file() {
            // A pipe that somebody names is read to its end; one that lies about would stop the reader.
            self.fail(path, "is neither a file nor a directory".to_owned());
        } else {
            self.files.push(path.to_owned());
        }
        if self.is_full() && !self.findings.iter().any(|f| f.reason.starts_with(TOO_MANY)) {
            let reason = format!("{TOO_MANY}, at most {FILES_MAX} and {DIRECTORIES_MAX}; the rest is not read");
            self.fail(path, reason);
        }
    }

    fn enter(&mut self, directory: &Path, depth: u32) {
        let entries = match fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
            Ok(entries) => entries,
            Err(error) => return self.fail(directory, format!("cannot be read: {error}")),
        };
        let mut paths: Vec<PathBuf> = entries.iter().map(fs::DirEntry::path).filter(|p| is_ours(p)).collect();
        paths.sort();
        for inner in paths {
            self.visit(&inner, depth + 1);
        }
    }
}

const TOO_MANY: &str = "too many files or directories";

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
