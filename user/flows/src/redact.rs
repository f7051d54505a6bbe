//! What a record must not tell: user names, passwords and tokens inside URLs and headers.

use std::collections::BTreeSet;

use crate::pb::flow::{Flow, Http, layer7::Record};

/// Stands in the place of what was taken out.
pub const REDACTED: &str = "HUBBLE_REDACTED";

/// A number that is a secret for nobody: it stays unless it is listed by name.
const GRPC_STATUS: &str = "grpc-status";

/// What is taken out of records. On unless somebody turns it off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redaction {
    /// The part of a URL behind `?`.
    pub url_query: bool,
    /// The password of `user:password@host`.
    pub user_info: bool,
    /// Values of headers.
    pub headers: HeaderRedaction,
}

/// Whose values are taken out. Names are compared without their case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderRedaction {
    /// Nobody's.
    Nothing,
    /// All but these.
    AllBut(BTreeSet<String>),
    /// Only these.
    Only(BTreeSet<String>),
}

impl Default for Redaction {
    fn default() -> Self {
        Self {
            url_query: true,
            user_info: true,
            headers: HeaderRedaction::AllBut(BTreeSet::new()),
        }
    }
}

impl Redaction {
    /// Nothing is taken out.
    #[must_use]
    pub fn off() -> Self {
        Self {
            url_query: false,
            user_info: false,
            headers: HeaderRedaction::Nothing,
        }
    }

    /// Takes it out of this record.
    pub fn apply(&self, flow: &mut Flow) {
        if let Some(Record::Http(http)) = flow.l7.as_mut().and_then(|l7| l7.record.as_mut()) {
            self.apply_to_http(http);
        }
    }

    fn apply_to_http(&self, http: &mut Http) {
        if self.user_info {
            redact_password(&mut http.url);
        }
        if self.url_query {
            redact_query(&mut http.url);
        }
        for header in &mut http.headers {
            if self.headers.covers(&header.key) {
                REDACTED.clone_into(&mut header.value);
            }
        }
    }
}

impl HeaderRedaction {
    fn covers(&self, name: &str) -> bool {
        let listed = |names: &BTreeSet<String>| names.iter().any(|listed| listed.eq_ignore_ascii_case(name));
        match self {
            Self::Nothing => false,
            Self::AllBut(names) => !listed(names) && !name.eq_ignore_ascii_case(GRPC_STATUS),
            Self::Only(names) => listed(names),
        }
    }
}

/// Up to the first `#`, which ends a query.
fn redact_query(url: &mut String) {
    let Some((before, query)) = url.split_once('?') else {
        return;
    };
    let fragment = query.find('#').and_then(|at| query.get(at..)).unwrap_or_default();
    *url = format!("{before}?{REDACTED}{fragment}");
}

/// The authority of a URL ends with the first of `/?#`; the last `@` in it ends user and password.
fn redact_password(url: &mut String) {
    let Some((scheme, rest)) = url.split_once("//") else {
        return;
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(end);
    let Some((user_info, host)) = authority.rsplit_once('@') else {
        return;
    };
    let Some((user, _)) = user_info.split_once(':') else {
        return;
    };
    *url = format!("{scheme}//{user}:{REDACTED}@{host}{behind}");
}

#[cfg(test)]
mod tests {
    use super::{HeaderRedaction, Redaction};
    use crate::pb::flow::{Flow, Http, HttpHeader, Layer7, layer7::Record};

    fn redacted(redaction: &Redaction, url: &str, headers: &[(&str, &str)]) -> Http {
        let headers = headers.iter().map(|&(key, value)| HttpHeader {
            key: key.into(),
            value: value.into(),
        });
        let http = Http {
            url: url.into(),
            headers: headers.collect(),
            ..Http::default()
        };
        let l7 = Layer7 {
            record: Some(Record::Http(http)),
            ..Layer7::default()
        };
        let mut flow = Flow {
            l7: Some(l7),
            ..Flow::default()
        };
        redaction.apply(&mut flow);
        match flow.l7.unwrap().record.unwrap() {
            Record::Http(http) => http,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn by_default_queries_passwords_and_headers_are_taken_out() {
        let http = redacted(
            &Redaction::default(),
            "http://u:p@h:80/a?token=1#f",
            &[("Authorization", "Bearer x")],
        );
        assert_eq!(http.url, "http://u:HUBBLE_REDACTED@h:80/a?HUBBLE_REDACTED#f");
        assert_eq!(http.headers[0].value, "HUBBLE_REDACTED");
    }

    #[test]
    fn what_is_no_secret_stays() {
        for url in ["http://h/a", "/a", "", "http://u@h/", "http://h/a:b@c"] {
            assert_eq!(redacted(&Redaction::default(), url, &[]).url, url);
        }
    }

    #[test]
    fn a_password_with_an_at_sign_is_taken_out_whole() {
        assert_eq!(
            redacted(&Redaction::default(), "//u:p@q@h/", &[]).url,
            "//u:HUBBLE_REDACTED@h/"
        );
    }

    #[test]
    fn headers_are_chosen_by_name_without_its_case() {
        let names = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        let sent = &[("A", "1"), ("b", "2")];
        let values = |headers| {
            let redaction = Redaction {
                headers,
                ..Redaction::off()
            };
            redacted(&redaction, "/?q", sent)
                .headers
                .into_iter()
                .map(|h| h.value)
                .collect::<Vec<_>>()
        };
        assert_eq!(values(HeaderRedaction::AllBut(names(&["a"]))), ["1", "HUBBLE_REDACTED"]);
        assert_eq!(values(HeaderRedaction::Only(names(&["a"]))), ["HUBBLE_REDACTED", "2"]);
        assert_eq!(values(HeaderRedaction::Nothing), ["1", "2"]);
    }
}
