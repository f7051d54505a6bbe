//! The trace that a request belongs to, as its headers say.

use seventh_engine::HttpRecord;
use seventh_flows::pb::flow::{TraceContext, TraceParent};

/// Digits of a trace's number, and of a span's.
const TRACE_DIGITS: usize = 32;
const SPAN_DIGITS: usize = 16;

/// By the first of these that the request has and that is sound: W3C's `traceparent` (Trace Context section 3.2), B3's `b3`, B3's
/// `X-B3-TraceId` and `X-B3-SpanId` (openzipkin/b3-propagation).
pub(super) fn trace_context(request: &HttpRecord) -> Option<TraceContext> {
    let trace_id = trace_id(|wanted| {
        let mut headers = request.headers();
        let (_, value) = headers.find(|(name, _)| name.eq_ignore_ascii_case(wanted))?;
        Some(value)
    })?;
    Some(TraceContext {
        parent: Some(TraceParent { trace_id }),
    })
}

fn trace_id<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Option<String> {
    let w3c = || of_w3c(header("traceparent")?);
    let b3 = || {
        let mut parts = header("b3")?.split('-');
        of_b3(parts.next()?, parts.next()?)
    };
    let several = || of_b3(header("x-b3-traceid")?, header("x-b3-spanid")?);
    w3c().or_else(b3).or_else(several)
}

/// `VERSION-TRACE-PARENT-FLAGS`
fn of_w3c(value: &str) -> Option<String> {
    let mut parts = value.split('-');
    let (version, trace, parent) = (parts.next()?, parts.next()?, parts.next()?);
    let is_sound = is_number(version, 2) && version != "ff" && is_number(parent, SPAN_DIGITS);
    (is_sound && is_number(trace, TRACE_DIGITS) && !is_nought(trace)).then(|| trace.to_owned())
}

/// Traces may have half as many digits there; they are told as if they had the others, too.
fn of_b3(trace: &str, span: &str) -> Option<String> {
    let has_length = is_number(trace, TRACE_DIGITS) || is_number(trace, TRACE_DIGITS / 2);
    (has_length && is_number(span, SPAN_DIGITS) && !is_nought(trace)).then(|| format!("{trace:0>TRACE_DIGITS$}"))
}

fn is_number(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_nought(text: &str) -> bool {
    text.bytes().all(|digit| digit == b'0')
}

#[cfg(test)]
mod tests {
    use super::trace_id;

    const TRACE: &str = "80f198ee56343ba864fe8b2a57d3eff7";
    const SPAN: &str = "e457b5a2e4d86bd1";

    fn read(headers: &[(&str, String)]) -> Option<String> {
        trace_id(|wanted| {
            let mut headers = headers.iter();
            headers
                .find(|(name, _)| *name == wanted)
                .map(|(_, value)| value.as_str())
        })
    }

    #[test]
    fn the_trace_is_found_in_every_form_that_it_is_told_in() {
        let padded = format!("0000000000000000{}", &TRACE[16..]);
        for (headers, expected) in [
            (vec![("traceparent", format!("00-{TRACE}-{SPAN}-01"))], TRACE),
            (vec![("b3", format!("{TRACE}-{SPAN}"))], TRACE),
            (vec![("b3", format!("{TRACE}-{SPAN}-1-05e3ac9a4f6e3b90"))], TRACE),
            (vec![("b3", format!("{}-{SPAN}-d", &TRACE[16..]))], padded.as_str()),
            (
                vec![("x-b3-traceid", TRACE.to_owned()), ("x-b3-spanid", SPAN.to_owned())],
                TRACE,
            ),
            (
                vec![
                    ("traceparent", "00-broken".to_owned()),
                    ("b3", format!("{TRACE}-{SPAN}-0")),
                ],
                TRACE,
            ),
        ] {
            assert_eq!(read(&headers).as_deref(), Some(expected), "{headers:?}");
        }
    }

    #[test]
    fn what_is_no_trace_is_not_told() {
        for headers in [
            vec![],
            vec![("b3", "0".to_owned())],
            vec![("b3", format!("{TRACE}0-{SPAN}-1"))],
            vec![("b3", format!("{}-{SPAN}-1", TRACE.to_uppercase()))],
            vec![("b3", format!("{}-{SPAN}-1", "0".repeat(32)))],
            vec![("x-b3-traceid", TRACE.to_owned())],
            vec![("traceparent", format!("ff-{TRACE}-{SPAN}-01"))],
            vec![("traceparent", format!("00-{}-{SPAN}-01", "0".repeat(32)))],
        ] {
            assert_eq!(read(&headers), None, "{headers:?}");
        }
    }
}
