//! A file that is read again whenever it changes.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::task::spawn_blocking;

/// How often it is looked at. By its text, not by what the file system tells: that works on any file system, and for a
/// Kubernetes volume whose links are swapped.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Bytes at most.
const BYTES_MAX: u64 = 1 << 20;

/// A file and what it was when it was last looked at.
#[derive(Debug)]
pub(crate) struct Reloaded {
    path: PathBuf,
    last: Option<Result<String, String>>,
    next_look: Instant,
}

impl Reloaded {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            last: None,
            next_look: Instant::now(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its text, or why it cannot be read, if that is not what it was. Looks at it once a second at most.
    pub(crate) async fn look(&mut self) -> Option<Result<String, String>> {
        if Instant::now() < self.next_look {
            return None;
        }
        let path = self.path.clone();
        let now = spawn_blocking(move || read(&path))
            .await
            .unwrap_or_else(|e| Err(e.to_string()));
        self.next_look = Instant::now() + LOOK_EVERY;
        if self.last.as_ref() == Some(&now) {
            return None;
        }
        self.last = Some(now.clone());
        Some(now)
    }
}

fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|e| e.to_string())?;
    let read = file
        .take(BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|e| e.to_string())?;
    if read as u64 > BYTES_MAX {
        return Err(format!("longer than {BYTES_MAX} bytes"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::Reloaded;
    use std::{fs, time::Instant};

    #[tokio::test]
    async fn each_change_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file.yaml");
        let mut file = Reloaded::new(path.clone());
        let mut look = async || {
            file.next_look = Instant::now();
            file.look().await
        };
        assert!(matches!(look().await, Some(Err(_))));
        assert_eq!(look().await, None);
        fs::write(&path, "a").unwrap();
        assert_eq!(look().await, Some(Ok("a".to_owned())));
        assert_eq!(look().await, None);
        fs::write(&path, vec![b'a'; (1 << 20) + 1]).unwrap();
        assert!(matches!(look().await, Some(Err(_))));
    }
}
