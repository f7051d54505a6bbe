//! Files of records: a JSON object per line, as `-o json` and Hubble's exporter write them.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use seventh_flows::{
    json::{UnknownFields, from_json},
    pb::observer::GetFlowsResponse,
    safe_text::printable,
};

/// Bytes of a line at most.
const LINE_MAX: u64 = 4 << 20;

/// The records of a file, in its order. In the place of one that cannot be understood stands why, as `name:line: why`, fit
/// for a terminal. Empty lines are passed over.
///
/// # Errors
/// The file cannot be read (any further).
pub(super) struct Records {
    name: String,
    input: Box<dyn BufRead>,
    /// Of the line that was read last, from 1 on.
    number: u64,
}

impl Records {
    /// `-` is the standard input.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(super) fn open(file: &Path) -> Result<Self> {
        let name = file.display().to_string();
        let input: Box<dyn BufRead> = if name == "-" {
            Box::new(BufReader::new(io::stdin()))
        } else {
            Box::new(BufReader::new(File::open(file).with_context(|| name.clone())?))
        };
        Ok(Self { name, input, number: 0 })
    }

    /// The next line, `None` if it is too long; `None` at the end.
    fn next_line(&mut self) -> io::Result<Option<Option<String>>> {
        let mut bytes = Vec::new();
        self.number += 1;
        if (&mut self.input).take(LINE_MAX).read_until(b'\n', &mut bytes)? == 0 {
            return Ok(None);
        }
        if bytes.len() as u64 == LINE_MAX && bytes.last() != Some(&b'\n') {
            self.input.skip_until(b'\n')?;
            return Ok(Some(None));
        }
        Ok(Some(Some(String::from_utf8_lossy(&bytes).into_owned())))
    }

    fn place(&self) -> String {
        format!("{}:{}", self.name, self.number)
    }
}

impl Iterator for Records {
    type Item = Result<Result<GetFlowsResponse, String>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let line = match self.next_line().with_context(|| self.place()) {
                Ok(line) => line?,
                Err(e) => return Some(Err(e)),
            };
            let record = match line {
                Some(line) if line.trim().is_empty() => continue,
                Some(line) => from_json(&line, UnknownFields::PassOver).map_err(|e| e.to_string()),
                None => Err(format!("longer than {LINE_MAX} bytes")),
            };
            return Some(Ok(
                record.map_err(|why| printable(&format!("{}: {why}", self.place())).into_owned())
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LINE_MAX, Records};
    use std::path::Path;

    fn records(text: &str) -> Vec<Result<String, String>> {
        let records = Records {
            name: "a".to_owned(),
            input: Box::new(std::io::Cursor::new(text.to_owned())),
            number: 0,
        };
        records
            .map(|record| record.unwrap().map(|record| record.node_name))
            .collect()
    }

    #[test]
    fn what_is_no_record_is_told_by_its_line_and_the_others_are_read() {
        let long = "x".repeat(usize::try_from(LINE_MAX).unwrap() + 10);
        let text = format!(
            "{{\"node_name\":\"one\"}}\n\n \t\n{{\"node_name\":7}}\n{long}\n{{\"node_name\":\"two\",\"new\":1}}\n{{\"\u{1b}[31m\n{{\"node_name\":\"three\"}}"
        );
        let read = records(&text);
        let [one, number, too_long, two, hostile, three] = read.as_slice() else {
            panic!("{read:?}")
        };
        assert_eq!(
            [one, two, three].map(|read| read.as_deref().unwrap()),
            ["one", "two", "three"]
        );
        let complaints = [number, too_long, hostile].map(|read| read.as_deref().unwrap_err());
        for (complaint, line) in complaints.iter().zip([4, 5, 7]) {
            assert!(complaint.starts_with(&format!("a:{line}: ")), "{complaint}");
            assert!(!complaint.contains('\u{1b}'), "{complaint:?}");
        }
        assert_eq!(*complaints[1], format!("a:5: longer than {LINE_MAX} bytes"));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let missing = Records::open(Path::new("/nowhere/flows.json")).err().unwrap();
        assert_eq!(missing.to_string(), "/nowhere/flows.json");
        let mut directory = Records::open(Path::new("/")).unwrap();
        let error = directory.next().unwrap().unwrap_err();
        assert_eq!(error.to_string(), "/:1");
    }
}
