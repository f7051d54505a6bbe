//! Label selectors in the language of Kubernetes, with sources: `app=web, !k8s:old, tier in (a, b)`.

use std::fmt;

/// Requirements of a selector at most.
const REQUIREMENTS_MAX: usize = 256;

/// All of its requirements must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

/// Why a text is not a selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{selector}`: {reason}")]
pub struct SelectorError {
    selector: String,
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    /// `any` fits every source.
    source: String,
    key: String,
    condition: Condition,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    Exists,
    Absent,
    Is(String),
    IsNot(String),
    In(Vec<String>),
    NotIn(Vec<String>),
    Above(i64),
    Below(i64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Sign(&'static str),
}

impl LabelSelector {
    /// Reads a selector; the empty one selects everything.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let tokens = tokens(text);
        let mut reader = Reader { tokens: &tokens };
        let requirements = reader.requirements().map_err(|reason| SelectorError {
            selector: text.to_owned(),
            reason,
        })?;
        Ok(Self { requirements })
    }

    /// Whether labels such as `k8s:app=web` fulfil it.
    pub fn matches(&self, labels: &[String]) -> bool {
        self.requirements.iter().all(|requirement| requirement.holds(labels))
    }
}

/// Its normal form: sorted, sources written out before a dot.
impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<(String, String)> = self.requirements.iter().map(Requirement::normal_form).collect();
        parts.sort();
        let parts: Vec<String> = parts.into_iter().map(|(_, text)| text).collect();
        f.write_str(&parts.join(","))
    }
}

impl Requirement {
    fn holds(&self, labels: &[String]) -> bool {
        let value = labels.iter().find_map(|label| {
            let (source, key, value) = split_label(label);
            ((self.source == "any" || self.source == source) && self.key == key).then_some(value)
        });
        match (&self.condition, value) {
            (Condition::Exists, value) => value.is_some(),
            (Condition::Absent, value) => value.is_none(),
            (Condition::Is(wanted), value) => value == Some(wanted.as_str()),
            (Condition::IsNot(unwanted), value) => value != Some(unwanted.as_str()),
            (Condition::In(wanted), value) => value.is_some_and(|value| wanted.iter().any(|w| w == value)),
            (Condition::NotIn(unwanted), value) => value.is_none_or(|value| unwanted.iter().all(|w| w != value)),
            (Condition::Above(than), value) => number(value).is_some_and(|value| value > *than),
            (Condition::Below(than), value) => number(value).is_some_and(|value| value < *than),
        }
    }

    fn normal_form(&self) -> (String, String) {
        let name = format!("{}.{}", self.source, self.key);
        let list = |values: &[String]| {
            let mut values = values.to_vec();
            values.sort();
            values.join(",")
        };
        let text = match &self.condition {
            Condition::Exists => name.clone(),
            Condition::Absent => format!("!{name}"),
            Condition::Is(value) => format!("{name}={value}"),
            Condition::IsNot(value) => format!("{name}!={value}"),
            Condition::In(values) => format!("{name} in ({})", list(values)),
            Condition::NotIn(values) => format!("{name} notin ({})", list(values)),
            Condition::Above(than) => format!("{name}>{than}"),
            Condition::Below(than) => format!("{name}<{than}"),
        };
        (name, text)
    }
}

fn number(value: Option<&str>) -> Option<i64> {
    value?.parse().ok()
}

/// Source, key and value of `source:key=value`; both ends may be missing.
fn split_label(label: &str) -> (&str, &str, &str) {
    let (name, value) = label.split_once('=').unwrap_or((label, ""));
    let (source, key) = name.split_once(':').unwrap_or(("", name));
    (source, key, value)
}

/// Every character is looked at once.
fn tokens(text: &str) -> Vec<Token> {
    const SIGNS: &[&str] = &["==", "!=", "(", ")", ",", "!", "=", "<", ">"];
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some((sign, behind)) = SIGNS.iter().find_map(|sign| Some((*sign, rest.strip_prefix(sign)?))) {
            tokens.push(Token::Sign(sign));
            rest = behind.trim_start();
            continue;
        }
        let end = rest
            .find(|c: char| c.is_whitespace() || "(),!=<>".contains(c))
            .unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        tokens.push(Token::Word(word.to_owned()));
        rest = behind.trim_start();
    }
    tokens
}

struct Reader<'a> {
    tokens: &'a [Token],
}

impl Reader<'_> {
    fn requirements(&mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        while !self.tokens.is_empty() {
            if requirements.len() == REQUIREMENTS_MAX {
                return Err(format!("more than {REQUIREMENTS_MAX} requirements"));
            }
            requirements.push(self.requirement()?);
            if !self.tokens.is_empty() {
                self.expect(",")?;
                // A comma at the end is one too many.
                if self.tokens.is_empty() {
                    return Err("a label is missing behind the last comma".to_owned());
                }
            }
        }
        Ok(requirements)
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        if self.take_sign("!") {
            return self.named(Condition::Absent);
        }
        let mut requirement = self.named(Condition::Exists)?;
        requirement.condition = self.condition()?;
        Ok(requirement)
    }

    fn condition(&mut self) -> Result<Condition, String> {
        let Some((token, rest)) = self.tokens.split_first() else {
            return Ok(Condition::Exists);
        };
        if *token == Token::Sign(",") {
            return Ok(Condition::Exists);
        }
        self.tokens = rest;
        match token {
            Token::Sign("=" | "==") => Ok(Condition::Is(self.value())),
            Token::Sign("!=") => Ok(Condition::IsNot(self.value())),
            Token::Sign(">") => Ok(Condition::Above(self.bound()?)),
            Token::Sign("<") => Ok(Condition::Below(self.bound()?)),
            Token::Word(word) if word == "in" => Ok(Condition::In(self.values()?)),
            Token::Word(word) if word == "notin" => Ok(Condition::NotIn(self.values()?)),
            other => Err(format!(
                "{other} where `=`, `!=`, `in`, `notin`, `<`, `>` or `,` may stand"
            )),
        }
    }

    fn named(&mut self, condition: Condition) -> Result<Requirement, String> {
        let Some((Token::Word(word), rest)) = self.tokens.split_first() else {
            let found = self
                .tokens
                .first()
                .map_or_else(|| "the end".to_owned(), ToString::to_string);
            return Err(format!("{found} where a label must stand"));
        };
        self.tokens = rest;
        let (source, key) = match word.split_once(':') {
            Some((source, key)) => (source, key),
            None => ("any", word.as_str()),
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        if key.is_empty() || source.is_empty() || !key.chars().all(fits) || !source.chars().all(fits) {
            return Err(format!(
                "`{word}` is not a label: [source:]key of letters, digits and `-_./`"
            ));
        }
        Ok(Requirement {
            source: source.to_owned(),
            key: key.to_owned(),
            condition,
        })
    }

    /// A value, which may be empty.
    fn value(&mut self) -> String {
        match self.tokens.split_first() {
            Some((Token::Word(word), rest)) => {
                self.tokens = rest;
                word.clone()
            }
            _ => String::new(),
        }
    }

    fn bound(&mut self) -> Result<i64, String> {
        let value = self.value();
        value.parse().map_err(|_| format!("`{value}` is not a whole number"))
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        self.expect("(")?;
        let mut values = vec![self.value()];
        while self.take_sign(",") {
            values.push(self.value());
        }
        self.expect(")")?;
        Ok(values)
    }

    fn take_sign(&mut self, wanted: &str) -> bool {
        match self.tokens.split_first() {
            Some((Token::Sign(sign), rest)) if *sign == wanted => {
                self.tokens = rest;
                true
            }
            _ => false,
        }
    }

    fn expect(&mut self, sign: &str) -> Result<(), String> {
        if self.take_sign(sign) {
            return Ok(());
        }
        let found = self
            .tokens
            .first()
            .map_or_else(|| "the end".to_owned(), ToString::to_string);
        Err(format!("{found} where `{sign}` must stand"))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => write!(f, "`{word}`"),
            Self::Sign(sign) => write!(f, "`{sign}`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::LabelSelector;

    fn matches(selector: &str, labels: &[&str]) -> bool {
        let labels: Vec<String> = labels.iter().map(ToString::to_string).collect();
        LabelSelector::parse(selector).unwrap().matches(&labels)
    }

    #[test]
    fn numbers_are_compared_as_numbers() {
        assert!(matches("a > 9", &["k8s:a=10"]) && !matches("a > 9", &["k8s:a=9"]));
        assert!(matches("a < 9", &["k8s:a=-10"]) && !matches("a < 9", &["k8s:a=x"]) && !matches("a < 9", &[]));
    }

    #[test]
    fn an_absent_label_is_not_one_with_another_value() {
        assert!(matches("a != 1", &[]) && matches("a notin (1)", &[]) && !matches("a in (1)", &[]));
        assert!(matches("a=", &["k8s:a="]) && !matches("a=", &["k8s:a=1"]));
    }

    #[test]
    fn what_is_not_a_selector_is_refused() {
        for text in [
            "a,", ",a", "a in", "a in (", "a in (b", "a b", "a in b", "!", "a > b", "a:b:c", ":a", "a!", "é=1",
        ] {
            assert!(LabelSelector::parse(text).is_err(), "{text}");
        }
    }
}
