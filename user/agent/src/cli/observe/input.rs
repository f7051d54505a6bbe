//! Records from a file.

use std::{collections::VecDeque, path::Path};

use anyhow::{Result, bail, ensure};
use prost_types::Timestamp;
use seventh_flows::{
    filter::FilterSet,
    mask::FieldMask,
    pb::observer::{GetFlowsRequest, GetFlowsResponse, get_flows_response::ResponseTypes},
};

use super::{Answer, Out, Reader};
use crate::cli::records::Records;

/// Records that `--last` keeps in memory at most.
const LAST_MAX: u64 = 1 << 20;

/// Status 1: there were lines that are no records.
pub(super) fn read(file: &Path, request: &GetFlowsRequest, out: &mut Out) -> Result<Answer> {
    if request.follow {
        bail!("--follow cannot be combined with --input-file; use `tail -f FILE | seventh observe --input-file -`");
    }
    let mut reading = Reading::new(request)?;
    let mut answer = Answer::Yes;
    for record in Records::open(file)? {
        match record? {
            Ok(record) => {
                if reading.take(record, out)? == Reader::Gone {
                    return Ok(answer);
                }
            }
            Err(trouble) => {
                out.complain(&trouble);
                answer = Answer::No;
            }
        }
        if reading.is_done() {
            break;
        }
    }
    reading.finish(out)?;
    Ok(answer)
}

/// What of the file is shown.
struct Reading {
    filters: FilterSet,
    mask: FieldMask,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    /// Still to be shown of the first ones.
    first: Option<u64>,
    /// The last ones so far, and how many of them are wanted.
    last: Option<(VecDeque<GetFlowsResponse>, u64)>,
}

impl Reading {
    fn new(request: &GetFlowsRequest) -> Result<Self> {
        let number = Some(request.number).filter(|number| *number > 0);
        let (first, last) = if request.first { (number, None) } else { (None, number) };
        ensure!(
            last.is_none_or(|last| last <= LAST_MAX),
            "--last is at most {LAST_MAX} with --input-file"
        );
        let paths = request
            .field_mask
            .as_ref()
            .map_or(&[][..], |mask| mask.paths.as_slice());
        Ok(Self {
            filters: FilterSet::new(&request.whitelist, &request.blacklist)?,
            mask: FieldMask::new(paths)?,
            since: request.since,
            until: request.until,
            first,
            last: last.map(|last| (VecDeque::new(), last)),
        })
    }

    fn take(&mut self, mut record: GetFlowsResponse, out: &mut Out) -> Result<Reader> {
        if !self.is_wanted(&record) {
            return Ok(Reader::There);
        }
        if let Some(ResponseTypes::Flow(flow)) = &mut record.response_types
            && !self.mask.is_everything()
        {
            *flow = self.mask.apply(flow);
        }
        if let Some((last, wanted)) = &mut self.last {
            if last.len() as u64 == *wanted {
                last.pop_front();
            }
            last.push_back(record);
            return Ok(Reader::There);
        }
        self.first = self.first.map(|first| first.saturating_sub(1));
        let text = out.printer.record(&record);
        out.write(&text)
    }

    fn is_wanted(&self, record: &GetFlowsResponse) -> bool {
        let time = record.time.as_ref();
        let key = |time: &Timestamp| (time.seconds, time.nanos);
        let in_span = time
            .zip(self.since.as_ref())
            .is_none_or(|(time, since)| key(time) >= key(since))
            && time
                .zip(self.until.as_ref())
                .is_none_or(|(time, until)| key(time) <= key(until));
        in_span
            && match &record.response_types {
                Some(ResponseTypes::Flow(flow)) => self.filters.matches(flow),
                Some(_) => true,
                None => false,
            }
    }

    fn is_done(&self) -> bool {
        self.first == Some(0)
    }

    fn finish(self, out: &mut Out) -> Result<()> {
        for record in self.last.into_iter().flat_map(|(last, _)| last) {
            let text = out.printer.record(&record);
            if out.write(&text)? == Reader::Gone {
                return Ok(());
            }
        }
        out.finish().map(|_| ())
    }
}
