//! What answers have taught since names were written down last, noted before each answer goes on: an agent that is killed
//! loses no name.
//!
//! A file of records behind [`MAGIC`]: length (4 bytes, little endian), CRC-32 of what follows (4 bytes), one [`Record`] as
//! JSON. What was given to the kernel with `write` outlives the process; nothing waits for a disk.
//!
//! When all names are written down, the file begins anew. The one before stays under another name until that has
//! succeeded ([`Journal::turn`], [`Journal::settle`]), so there is no moment at which a name stands nowhere. Records may
//! be read twice: of equal addresses the latest time counts.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read as _, Write as _},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use flate2::Crc;
use serde::{Deserialize, Serialize};

/// What the file begins with. The last byte is raised when the form changes.
const MAGIC: &[u8; 8] = b"7names\0\x01";
/// Bytes of one file at most. Writing all names down is due long before.
const BYTES_MAX: u64 = 16 << 20;
/// From so many bytes on, all names are to be written down.
const BYTES_ENOUGH: u64 = BYTES_MAX / 4;
/// Bytes of one record at most: a name of 1013 bytes and 1024 addresses are less.
const RECORD_BYTES_MAX: usize = 1 << 20;
/// Length and checksum.
const PREFIX_LEN: usize = 8;

/// A name and the addresses that an answer has given it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record<'a> {
    /// `namespace/name`; none if all endpoints share it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) endpoint: Option<std::borrow::Cow<'a, str>>,
    pub(super) name: std::borrow::Cow<'a, str>,
    /// Each with the milliseconds since 1970 at which it ends.
    pub(super) ips: Vec<(IpAddr, u64)>,
}

/// The file that is written to.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    len: u64,
    buffer: Vec<u8>,
    /// The last record could not be written, which has been told.
    is_failing: bool,
}

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) records: Vec<Record<'static>>,
    /// Bytes up to the end of the last whole record.
    whole: u64,
    /// What is wrong with the bytes behind them.
    pub(super) fault: Option<&'static str>,
}

/// Where what was learned since the names in `state_file` were written down is noted.
pub(super) fn path_beside(state_file: &Path) -> PathBuf {
    with_suffix(state_file, ".journal")
}

/// Where it was noted before the present attempt to write all names down.
pub(super) fn path_before(journal: &Path) -> PathBuf {
    with_suffix(journal, ".old")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Reads a file up to its last whole record; nothing if there is none.
///
/// # Errors
/// It cannot be read at all.
pub(super) fn read(path: &Path) -> Result<Content> {
    let mut bytes = Vec::new();
    match File::open(path) {
        // Larger than any that was written here: what is behind is not whole, and said to be.
        Ok(file) => file.take(BYTES_MAX + 1).read_to_end(&mut bytes),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Content::default()),
        Err(e) => Err(e),
    }
    .with_context(|| path.display().to_string())?;
    Ok(parse(&bytes))
}

fn parse(bytes: &[u8]) -> Content {
    let mut content = Content::default();
    let Some(mut rest) = bytes.strip_prefix(MAGIC) else {
        content.fault = (!bytes.is_empty()).then_some("it is of another form");
        return content;
    };
    content.whole = MAGIC.len() as u64;
    while !rest.is_empty() {
        let Some((record, len, after)) = first_record(rest) else {
            content.fault = Some("a record that is not whole");
            break;
        };
        content.records.push(record);
        content.whole += len as u64;
        rest = after;
    }
    content
}

/// The record, its bytes, and what follows.
fn first_record(bytes: &[u8]) -> Option<(Record<'static>, usize, &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    let (crc, rest) = rest.split_first_chunk()?;
    let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
    let (text, rest) = rest.split_at_checked(len)?;
    if len > RECORD_BYTES_MAX || checksum(text) != u32::from_le_bytes(*crc) {
        return None;
    }
    let record = serde_json::from_slice(text).ok()?;
    Some((record, PREFIX_LEN + len, rest))
}

fn checksum(text: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(text);
    crc.sum()
}

impl Journal {
    /// Opens the file for more records; what is not whole at its end is cut off.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        let at = || path.display().to_string();
        let whole = read(&path)?.whole;
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600);
        let mut file = options.open(&path).with_context(at)?;
        file.set_len(whole).with_context(at)?;
        let mut len = whole;
        if len == 0 {
            file.write_all(MAGIC).with_context(at)?;
            len = MAGIC.len() as u64;
        }
        Ok(Self {
            path,
            file,
            len,
            buffer: Vec::new(),
            is_failing: false,
        })
    }

    /// Adds records. When this returns they outlive the process.
    ///
    /// # Errors
    /// They do not. Told once until it works again.
    pub(super) fn append<'a>(&mut self, records: impl Iterator<Item = Record<'a>>) -> Result<()> {
        let written = self.try_append(records);
        let is_news = written.is_err() && !self.is_failing;
        self.is_failing = written.is_err();
        if is_news { written } else { Ok(()) }
    }

    fn try_append<'a>(&mut self, records: impl Iterator<Item = Record<'a>>) -> Result<()> {
        self.buffer.clear();
        for record in records {
            let start = self.buffer.len();
            self.buffer.extend_from_slice(&[0; PREFIX_LEN]);
            serde_json::to_writer(&mut self.buffer, &record)?;
            let (_, framed) = self.buffer.split_at_mut(start);
            let (prefix, text) = framed.split_at_mut(PREFIX_LEN);
            let len = u32::try_from(text.len())?;
            prefix.copy_from_slice(&[len.to_le_bytes(), checksum(text).to_le_bytes()].concat());
        }
        let len = self.len + u64::try_from(self.buffer.len())?;
        if len > BYTES_MAX {
            bail!("{}: it is full", self.path.display());
        }
        if let Err(e) = self.file.write_all(&self.buffer) {
            // Half a record would hide what comes behind it.
            self.file.set_len(self.len).context("cannot take back half a record")?;
            return Err(e).with_context(|| self.path.display().to_string());
        }
        self.len = len;
        Ok(())
    }

    /// All names are to be written down soon.
    pub(super) fn is_long(&self) -> bool {
        self.len > BYTES_ENOUGH
    }

    /// All names are about to be written down: what is learned from now on goes to a new file. If the file before is
    /// still there, that did not succeed last time, and both stay.
    ///
    /// # Errors
    /// There is no new file; the present one goes on.
    pub(super) fn turn(&mut self) -> Result<()> {
        let before = path_before(&self.path);
        if before.exists() {
            return Ok(());
        }
        let fresh = with_suffix(&self.path, ".new");
        remove(&fresh)?;
        let next = Self::open(fresh.clone())?;
        fs::rename(&self.path, &before).with_context(|| before.display().to_string())?;
        if let Err(e) = fs::rename(&fresh, &self.path) {
            fs::rename(&before, &self.path).context("cannot undo a renaming")?;
            return Err(e).with_context(|| self.path.display().to_string());
        }
        (self.file, self.len) = (next.file, next.len);
        Ok(())
    }

    /// All names that were known at the last [`Self::turn`] are written down.
    ///
    /// # Errors
    /// The file before cannot be removed.
    pub(super) fn settle(&self) -> Result<()> {
        remove(&path_before(&self.path))
    }
}

/// Sees to it that there is no such file.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e).with_context(|| path.display().to_string()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{BYTES_MAX, Journal, MAGIC, Record, path_before, read};
    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
    use std::{fs, path::PathBuf, time::Instant};

    fn record(n: u64) -> Record<'static> {
        Record {
            endpoint: (!n.is_multiple_of(3)).then(|| format!("shop/web-{n}").into()),
            name: format!("n{n}.example.").into(),
            ips: (0..n % 4)
                .map(|k| ([192, 0, 2, u8::try_from(k).unwrap()].into(), 1_000 * n + k))
                .chain([("2001:db8::1".parse().unwrap(), n)])
                .collect(),
        }
    }

    fn noted(count: u64) -> (tempfile::TempDir, PathBuf, Journal) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("names.json.journal");
        let mut journal = Journal::open(path.clone()).unwrap();
        for n in 0..count {
            journal.append([record(n)].into_iter()).unwrap();
        }
        (dir, path, journal)
    }

    #[test]
    fn what_is_noted_is_read_again_also_by_an_agent_that_goes_on_with_the_file() {
        let (_dir, path, journal) = noted(5);
        drop(journal);
        let mut next = Journal::open(path.clone()).unwrap();
        next.append((5..7).map(record)).unwrap();
        let content = read(&path).unwrap();
        assert_eq!((content.records.len(), content.fault), (7, None));
        assert!((0..).zip(&content.records).all(|(n, known)| *known == record(n)));
        assert_eq!(content.whole, fs::metadata(&path).unwrap().len());
    }

    #[test]
    fn cut_anywhere_the_whole_records_count_and_more_can_be_added() {
        let (_dir, path, _journal) = noted(6);
        let bytes = fs::read(&path).unwrap();
        let mut last = 0;
        for cut in 0..=bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            let content = read(&path).unwrap();
            let count = content.records.len();
            assert!((0..).zip(&content.records).all(|(n, known)| *known == record(n)));
            assert!(count == last || count == last + 1, "a record is lost at {cut}");
            assert_eq!(content.fault.is_none(), cut == 0 || content.whole == cut as u64);
            last = count;
            let mut next = Journal::open(path.clone()).unwrap();
            next.append([record(99)].into_iter()).unwrap();
            let content = read(&path).unwrap();
            assert_eq!((content.records.len(), content.fault), (count + 1, None), "at {cut}");
        }
        assert_eq!(last, 6);
    }

    /// Random damage: no panic, and nothing is read that was not noted.
    #[test]
    fn of_a_damaged_file_only_records_before_the_damage_count() {
        let (_dir, path, _journal) = noted(20);
        let bytes = fs::read(&path).unwrap();
        let mut rng = StdRng::seed_from_u64(5);
        for _ in 0..3000 {
            let mut damaged = bytes.clone();
            let mut first = damaged.len();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..damaged.len());
                first = first.min(at);
                match rng.random_range(0..3) {
                    0 => damaged[at] ^= 1 << rng.random_range(0..8),
                    1 => damaged.insert(at, rng.random()),
                    _ => drop(damaged.remove(at)),
                }
            }
            let content = super::parse(&damaged);
            assert!((0..).zip(&content.records).all(|(n, known)| *known == record(n)));
            assert!(content.whole <= damaged.len() as u64);
            let untouched = super::parse(&bytes[..first]).records.len();
            assert!(content.records.len() >= untouched, "whole records before {first} count");
        }
        for _ in 0..3000 {
            let noise: Vec<u8> = (0..rng.random_range(0..200)).map(|_| rng.random()).collect();
            assert!(super::parse(&[&MAGIC[..], &noise].concat()).records.is_empty());
            assert_eq!(super::parse(&noise).whole, 0);
        }
    }

    #[test]
    fn a_file_of_another_form_is_told_and_begun_anew() {
        let (_dir, path, _journal) = noted(0);
        fs::write(&path, "{\"version\":1}").unwrap();
        assert!(read(&path).unwrap().fault.unwrap().contains("another form"));
        let mut next = Journal::open(path.clone()).unwrap();
        next.append([record(1)].into_iter()).unwrap();
        assert_eq!(read(&path).unwrap().records, [record(1)]);
    }

    #[test]
    fn writing_everything_down_loses_no_record_wherever_it_is_interrupted() {
        let (_dir, path, mut journal) = noted(2);
        let all = || {
            let mut records = read(&path_before(&path)).unwrap().records;
            records.extend(read(&path).unwrap().records);
            records.len()
        };
        journal.turn().unwrap();
        assert_eq!(all(), 2);
        journal.append([record(2)].into_iter()).unwrap();
        // It did not succeed: the next attempt must not lose what the first has set aside.
        journal.turn().unwrap();
        assert_eq!(all(), 3);
        journal.settle().unwrap();
        assert_eq!(read(&path).unwrap().records, [record(2)]);
        journal.turn().unwrap();
        journal.settle().unwrap();
        assert_eq!(all(), 0);
        journal.append([record(3)].into_iter()).unwrap();
        assert_eq!(all(), 1);
    }

    #[test]
    fn a_full_file_is_told_once_and_grows_no_more() {
        let (_dir, path, mut journal) = noted(0);
        let begin = Instant::now();
        let mut count: u64 = 0;
        while journal.len < BYTES_MAX - 200 {
            journal.append([record(count)].into_iter()).unwrap();
            count += 1;
        }
        assert!(journal.is_long());
        let each_ns = begin.elapsed().as_nanos() / u128::from(count);
        assert!(each_ns < 200_000, "{each_ns} ns for each");
        println!("{each_ns} ns for each of {count}");
        let mut told = 0;
        for n in 0..20 {
            told += u32::from(journal.append([record(n)].into_iter()).is_err());
        }
        assert_eq!(told, 1);
        assert!(fs::metadata(&path).unwrap().len() <= BYTES_MAX);
        journal.turn().unwrap();
        journal.append([record(1)].into_iter()).unwrap();
        assert_eq!(read(&path).unwrap().records.len(), 1);
    }
}
