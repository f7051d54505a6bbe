//! Files that an agent keeps for the next one, for its eyes alone.

use std::{fs, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path};

use anyhow::{Context as _, Result};

/// What a file has to outlive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outlives {
    /// The agent.
    Agent,
    /// A power cut, too.
    PowerCut,
}

/// Writes a file as a whole, or leaves what is there.
///
/// # Errors
/// It cannot be written. The error names the file.
pub(crate) fn replace(path: &Path, bytes: &[u8], what: Outlives) -> Result<()> {
    let temporary = path.with_extension("new");
    let write = || {
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&temporary)?;
        file.write_all(bytes)?;
        if what == Outlives::PowerCut {
            file.sync_all()?;
        }
        Ok::<_, std::io::Error>(())
    };
    write().with_context(|| temporary.display().to_string())?;
    fs::rename(&temporary, path).with_context(|| path.display().to_string())
}
