//! Texts of a cluster's policies that were sound, for the next agent: one that is broken by then stays in force as it was.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::private_file::{self, Outlives};

const VERSION: u32 = 1;

/// The last sound text of each policy.
#[derive(Debug, Default)]
pub(super) struct Kept {
    path: PathBuf,
    texts: HashMap<Arc<str>, Arc<str>>,
    changed: bool,
}

/// What is written, and where.
#[derive(Debug)]
pub(crate) struct ToKeep {
    path: PathBuf,
    texts: Vec<(Arc<str>, Arc<str>)>,
}

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    texts: BTreeMap<&'a str, &'a str>,
}

#[derive(Deserialize)]
struct Read {
    version: u32,
    texts: HashMap<Arc<str>, Arc<str>>,
}

impl Kept {
    /// What an earlier agent has left.
    ///
    /// # Errors
    /// There is something that cannot be read; nothing is known then.
    pub(super) fn read(path: &Path) -> (Self, Result<()>) {
        let (texts, read) = match read(path) {
            Ok(texts) => (texts, Ok(())),
            Err(e) => (HashMap::new(), Err(e)),
        };
        let kept = Self {
            path: path.to_path_buf(),
            texts,
            changed: false,
        };
        (kept, read)
    }

    /// The last sound text.
    pub(super) fn text(&self, file: &str) -> Option<&Arc<str>> {
        self.texts.get(file)
    }

    /// These are the policies now; of the broken ones what was known before stays.
    pub(super) fn follow<'a>(
        &mut self,
        texts: impl Iterator<Item = &'a (Arc<str>, Arc<str>)>,
        broken: &HashSet<Arc<str>>,
    ) {
        let mut before = std::mem::take(&mut self.texts);
        for (file, text) in texts {
            let known = before.remove(file);
            if broken.contains(file) {
                self.texts.extend(known.map(|known| (Arc::clone(file), known)));
                continue;
            }
            self.changed |= known.as_ref() != Some(text);
            self.texts.insert(Arc::clone(file), Arc::clone(text));
        }
        self.changed |= !before.is_empty();
    }

    /// What has to be written, if something has changed since this was asked last.
    pub(super) fn take(&mut self) -> Option<ToKeep> {
        std::mem::take(&mut self.changed).then(|| ToKeep {
            path: self.path.clone(),
            texts: self
                .texts
                .iter()
                .map(|(file, text)| (Arc::clone(file), Arc::clone(text)))
                .collect(),
        })
    }
}

impl ToKeep {
    /// Writes it as a whole, or leaves what is there.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write(&self) -> Result<()> {
        let texts = self.texts.iter().map(|(file, text)| (&**file, &**text));
        let written = Written {
            version: VERSION,
            texts: texts.collect(),
        };
        let text = serde_json::to_vec(&written)?;
        private_file::replace(&self.path, &text, Outlives::Agent)
    }
}

fn read(path: &Path) -> Result<HashMap<Arc<str>, Arc<str>>> {
    let at = || path.display().to_string();
    let text = match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
        text => text.with_context(at)?,
    };
    let read: Read = serde_json::from_slice(&text).with_context(at)?;
    ensure!(read.version == VERSION, "{}: is of version {}", at(), read.version);
    Ok(read.texts)
}
