//! Filters on what is inside: HTTP and DNS.

use regex_automata::meta::Regex;

use super::pattern::{Room, regex};
use super::{Check, FilterError, error};
use crate::event_type;
use crate::pb::flow::{Dns, Flow, FlowFilter, Http, layer7::Record};

/// The record of a request or an answer, if the flow is one of HTTP.
pub(crate) fn http(flow: &Flow) -> Option<&Http> {
    match flow.l7.as_ref()?.record.as_ref()? {
        Record::Http(http) => Some(http),
        _ => None,
    }
}

/// The same for DNS.
pub(crate) fn dns(flow: &Flow) -> Option<&Dns> {
    match flow.l7.as_ref()?.record.as_ref()? {
        Record::Dns(dns) => Some(dns),
        _ => None,
    }
}

pub(super) fn of(filter: &FlowFilter, room: &mut Room) -> Result<Vec<Check>, FilterError> {
    let mut checks: Vec<Check> = Vec::new();
    if !filter.dns_query.is_empty() {
        let patterns = regexes("dns_query", &filter.dns_query, room)?;
        checks.push(Box::new(move |flow| {
            dns(flow).is_some_and(|dns| any(&patterns, &dns.query))
        }));
    }
    if !filter.http_status_code.is_empty() {
        fits_event_types(filter, "http_status_code", "http status code")?;
        let codes = filter
            .http_status_code
            .iter()
            .map(|text| StatusCode::parse(text))
            .collect::<Result<Vec<_>, _>>()?;
        checks.push(Box::new(move |flow| {
            http(flow).is_some_and(|http| codes.iter().any(|code| code.matches(http.code)))
        }));
    }
    if !filter.http_method.is_empty() {
        fits_event_types(filter, "http_method", "http method")?;
        let methods = filter.http_method.clone();
        checks.push(Box::new(move |flow| {
            http(flow).is_some_and(|http| methods.iter().any(|method| method.eq_ignore_ascii_case(&http.method)))
        }));
    }
    if !filter.http_path.is_empty() {
        fits_event_types(filter, "http_path", "http path")?;
        let patterns = regexes("http_path", &filter.http_path, room)?;
        checks.push(Box::new(move |flow| {
            http(flow)
                .and_then(|http| path(&http.url))
                .is_some_and(|path| any(&patterns, &path))
        }));
    }
    if !filter.http_url.is_empty() {
        fits_event_types(filter, "http_url", "http url")?;
        let patterns = regexes("http_url", &filter.http_url, room)?;
        checks.push(Box::new(move |flow| {
            http(flow).is_some_and(|http| any(&patterns, &http.url))
        }));
    }
    if !filter.http_header.is_empty() {
        fits_event_types(filter, "http_header", "http header")?;
        let wanted = filter.http_header.clone();
        checks.push(Box::new(move |flow| {
            http(flow).is_some_and(|http| {
                let sent = |w: &crate::pb::flow::HttpHeader| {
                    http.headers
                        .iter()
                        .any(|h| h.key.eq_ignore_ascii_case(&w.key) && h.value == w.value)
                };
                wanted.iter().any(sent)
            })
        }));
    }
    Ok(checks)
}

fn fits_event_types(filter: &FlowFilter, field: &'static str, words: &str) -> Result<(), FilterError> {
    let types = &filter.event_type;
    if types.is_empty() || types.iter().any(|wanted| wanted.r#type == event_type::L7) {
        return Ok(());
    }
    let reason = format!("filtering by {words} requires the event type filter to match 'l7' events");
    Err(error(field, reason))
}

fn regexes(field: &'static str, patterns: &[String], room: &mut Room) -> Result<Vec<Regex>, FilterError> {
    patterns.iter().map(|pattern| regex(field, pattern, room)).collect()
}

fn any(patterns: &[Regex], text: &str) -> bool {
    patterns.iter().any(|pattern| pattern.is_match(text))
}

/// `404`, or `4+` and `40+`.
struct StatusCode {
    first: u32,
    last: u32,
}

impl StatusCode {
    fn parse(text: &str) -> Result<Self, FilterError> {
        let (digits, open) = match text.strip_suffix('+') {
            Some(digits) => (digits, 3_usize.checked_sub(digits.len()).filter(|open| *open > 0)),
            None => (text, Some(0).filter(|_| text.len() == 3)),
        };
        let number = digits
            .parse()
            .ok()
            .filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
        let size = open.and_then(|open| 10_u32.checked_pow(u32::try_from(open).ok()?));
        let range = number
            .zip(size)
            .map(|(number, size): (u32, u32)| (number * size, number * size + size - 1));
        range
            .filter(|(first, _)| (100..600).contains(first))
            .map(|(first, last)| Self { first, last })
            .ok_or_else(|| {
                error(
                    "http_status_code",
                    format!("`{text}` is neither a status code nor a prefix such as `5+`"),
                )
            })
    }

    fn matches(&self, code: u32) -> bool {
        (self.first..=self.last).contains(&code)
    }
}

/// The path of a URL, or of a target without host, decoded; `None` if it has none or its encoding is broken.
pub(crate) fn path(url: &str) -> Option<String> {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let (before, _) = url.split_at(end);
    let encoded = match before.split_once("://") {
        Some((_, rest)) => rest.find('/').and_then(|at| rest.get(at..)).unwrap_or_default(),
        None => before,
    };
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.bytes();
    while let Some(byte) = rest.next() {
        let decoded = match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                u8::try_from(digit(rest.next())? * 16 + digit(rest.next())?).ok()?
            }
            other => other,
        };
        bytes.push(decoded);
    }
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::path;

    #[test]
    fn the_path_of_a_url_ends_before_its_query_and_is_decoded() {
        assert_eq!(path("http://a:80/x/%41?y=/z").as_deref(), Some("/x/A"));
        assert_eq!(path("/x#y").as_deref(), Some("/x"));
        for none in ["", "?a", "http://a", "/%4", "/%zz"] {
            assert_eq!(path(none), None, "{none}");
        }
    }
}
