//! Lines into a file that does not grow without end: it is renamed when it is full, earlier ones are compressed, and only
//! so many of them are kept.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use flate2::{Compression, write::GzEncoder};
use seventh_flows::timestamp::{TimeFormat, format};

use super::spec::{FileTarget, Target};

/// Who talks to whom is nobody else's business.
const MODE: u32 = 0o600;

/// Where lines go.
pub(super) enum Output {
    Stdout,
    File(RotatedFile),
}

impl Output {
    pub(super) fn new(target: &Target) -> Self {
        match target {
            Target::Stdout => Self::Stdout,
            Target::File(file) => Self::File(RotatedFile {
                target: file.clone(),
                open: None,
            }),
        }
    }

    /// # Errors
    /// The line is not there, not even a part of it.
    pub(super) fn write_line(&mut self, line: &str) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                writeln!(out, "{line}")?;
                out.flush()
            }
            Self::File(file) => file.write_line(line),
        }
    }
}

/// A file that is opened when the first line comes, and again after an error.
pub(super) struct RotatedFile {
    target: FileTarget,
    open: Option<Open>,
}

struct Open {
    file: File,
    bytes: u64,
}

impl RotatedFile {
    fn write_line(&mut self, line: &str) -> io::Result<()> {
        let bytes = line.len() as u64 + 1;
        let bytes_max = self.target.bytes_max;
        let open = self.opened()?;
        if open.bytes > 0 && open.bytes + bytes > bytes_max {
            self.open = None;
            self.rotate()?;
        }
        let open = self.opened()?;
        if let Err(e) = open.file.write_all(format!("{line}\n").as_bytes()) {
            // Half a line would spoil the next one.
            let _ = open.file.set_len(open.bytes);
            self.open = None;
            return Err(e);
        }
        open.bytes += bytes;
        Ok(())
    }

    fn opened(&mut self) -> io::Result<&mut Open> {
        let open = match self.open.take() {
            Some(open) => open,
            None => {
                let file = OpenOptions::new()
                    .append(true)
                    .create(true)
                    .mode(MODE)
                    .open(&self.target.path)?;
                let bytes = file.metadata()?.len();
                Open { file, bytes }
            }
        };
        Ok(self.open.insert(open))
    }

    fn rotate(&self) -> io::Result<()> {
        let path = &self.target.path;
        let backup = self.free_name();
        fs::rename(path, &backup)?;
        if self.target.compress {
            compress(&backup)?;
        }
        let mut backups = self.backups()?;
        // Their names are times: the oldest come first.
        backups.sort();
        let surplus = backups.len().saturating_sub(self.target.backups);
        for old in backups.into_iter().take(surplus) {
            fs::remove_file(old)?;
        }
        Ok(())
    }

    /// `flows-2026-01-02T03-04-05.000000000.log` for `flows.log`.
    fn free_name(&self) -> PathBuf {
        let now = format(Some(&SystemTime::now().into()), TimeFormat::Rfc3339Nano);
        // Colons are trouble on the command line.
        let time = now.replace(':', "-");
        let (stem, extension) = self.name_parts();
        self.target.path.with_file_name(format!("{stem}-{time}{extension}"))
    }

    fn name_parts(&self) -> (String, String) {
        let path = &self.target.path;
        let text = |part: Option<&std::ffi::OsStr>| part.map(|p| p.to_string_lossy().into_owned());
        let stem = text(path.file_stem()).unwrap_or_default();
        (
            stem,
            text(path.extension()).map_or_else(String::new, |extension| format!(".{extension}")),
        )
    }

    fn backups(&self) -> io::Result<Vec<PathBuf>> {
        let (stem, extension) = self.name_parts();
        let dir = self.target.path.parent().unwrap_or(Path::new("/"));
        let is_backup = |name: &str| {
            let name = name.strip_suffix(".gz").unwrap_or(name);
            let time = name
                .strip_prefix(&format!("{stem}-"))
                .and_then(|rest| rest.strip_suffix(&extension));
            // A year and a time zone: nobody else's file.
            time.is_some_and(|time| time.ends_with('Z') && time.bytes().take(4).all(|b| b.is_ascii_digit()))
        };
        let entries = fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
        Ok(entries
            .into_iter()
            .filter(|entry| is_backup(&entry.file_name().to_string_lossy()))
            .map(|entry| entry.path())
            .collect())
    }
}

/// The file is there until the compressed one is whole.
fn compress(path: &Path) -> io::Result<()> {
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let unfinished = with(".gz.tmp");
    let out = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(MODE)
        .open(&unfinished)?;
    let mut encoder = GzEncoder::new(out, Compression::default());
    io::copy(&mut BufReader::new(File::open(path)?), &mut encoder)?;
    encoder.finish()?.sync_all()?;
    fs::rename(&unfinished, with(".gz"))?;
    fs::remove_file(path)
}
