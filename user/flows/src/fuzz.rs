//! Fuzz entries: filters and records of strangers.

use crate::{
    Redaction,
    descriptors::Described,
    filter::FilterSet,
    json::{UnknownFields, from_json, to_json},
    pb::{
        flow::{Flow, FlowFilter},
        observer::{GetFlowsResponse, get_flows_response::ResponseTypes},
    },
    print::{Options, Output, Printer, end_names},
    safe_text::is_hostile,
};

/// JSON if it begins with a brace, else protobuf.
fn message<M: Described + prost::Message + Default>(bytes: &[u8]) -> Option<M> {
    match bytes {
        [b'{', ..] => from_json(std::str::from_utf8(bytes).ok()?, UnknownFields::PassOver).ok(),
        _ => M::decode(bytes).ok(),
    }
}

/// Any bytes as a filter that somebody asks a server for (the first line), and a flow that somebody caused (the rest).
///
/// # Panics
/// If it says two things of one flow, as a filter for what is wanted and as one for what is not.
pub fn fuzz_filter(input: &[u8]) {
    let cut = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (first, rest) = input.split_at(cut);
    let filter = message::<FlowFilter>(first);
    let (Some(filter), Some(flow)) = (filter, message::<Flow>(rest.get(1..).unwrap_or_default())) else {
        return;
    };
    let wanted = FilterSet::new(std::slice::from_ref(&filter), &[]).map(|filters| filters.matches(&flow));
    let unwanted = FilterSet::new(&[], &[filter]).map(|filters| !filters.matches(&flow));
    assert_eq!(
        wanted.map_err(|e| e.to_string()),
        unwanted.map_err(|e| e.to_string()),
        "what may be wanted may be unwanted"
    );
}

/// Any bytes as a record from a file or a server of others, in every form in which it is shown.
///
/// # Panics
/// If a form of text lets through what commands a terminal, if JSON is read as another record than was written, or if what
/// is redacted is not when it is redacted again.
pub fn fuzz_record(input: &[u8]) {
    let Some(mut record) = message::<GetFlowsResponse>(input) else {
        return;
    };
    for output in [Output::Compact, Output::Dict, Output::Tab, Output::Json] {
        let mut printer = Printer::new(Options {
            output,
            node_name: true,
            policy_names: true,
            ..Options::default()
        });
        let text = printer.record(&record) + &printer.finish();
        assert!(
            !text.chars().any(|c| c != '\n' && is_hostile(c)),
            "{output:?}: {text:?}"
        );
    }
    let json = to_json(&record);
    if let Ok(again) = from_json::<GetFlowsResponse>(&json, UnknownFields::Refuse) {
        assert_eq!(to_json(&again), json);
    }
    if let Some(ResponseTypes::Flow(flow)) = &mut record.response_types {
        let (source, destination) = end_names(flow);
        assert!(!(source + &destination).chars().any(is_hostile));
        Redaction::default().apply(flow);
        let redacted = flow.clone();
        Redaction::default().apply(flow);
        assert_eq!(*flow, redacted);
    }
}

#[cfg(test)]
mod tests {
    use super::{fuzz_filter, fuzz_record};
    use std::{fs, path::Path};

    #[test]
    fn seeds_of_the_fuzz_targets_hold() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
        for (target, entry) in [("flow_filter", fuzz_filter as fn(&[u8])), ("flow_record", fuzz_record)] {
            let mut seen = 0;
            for file in fs::read_dir(seeds.join(target)).unwrap() {
                entry(&fs::read(file.unwrap().path()).unwrap());
                seen += 1;
            }
            assert!(seen > 0, "{target}");
        }
    }
}
