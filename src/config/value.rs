//! One value as written, checked against its key.

use std::fmt;

use super::key::{Form, Key, Kind, LIST_ITEMS_MAX, TEXT_BYTES_MAX};
use super::secret::{REDACTED, redact_url};
use crate::switch::parse_switch;

/// Characters of a value that a message shows at most.
const SHOWN_CHARS_MAX: usize = 80;

/// A value of the kind that its key wants.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// A boolean.
    Switch(bool),
    /// A whole number.
    Integer(i64),
    /// A text.
    Text(String),
    /// Several texts.
    List(Vec<String>),
}

impl Value {
    /// Reads a value of a TOML file. The kind must be the key's own, except that a list may be one text.
    pub fn from_toml(key: &Key, written: &config::Value) -> Result<Self, String> {
        use config::ValueKind as Toml;
        let value = match (&key.kind, &written.kind) {
            (Kind::Switch, Toml::Boolean(value)) => Self::Switch(*value),
            (Kind::Integer { .. }, Toml::I64(value)) => Self::Integer(*value),
            (Kind::Text(_), Toml::String(text)) => Self::Text(text.clone()),
            (Kind::List { .. }, Toml::String(text)) => Self::List(split_list(text)),
            (Kind::List { .. }, Toml::Array(items)) => {
                let texts = items.iter().map(|item| match &item.kind {
                    Toml::String(text) => Some(text.clone()),
                    _ => None,
                });
                match texts.collect() {
                    Some(texts) => Self::List(texts),
                    None => return Err(wrong(key, &"a list with something else than strings")),
                }
            }
            (_, Toml::String(text)) => {
                return Err(wrong(key, &format_args!("{:?}", shown_text(key, text))));
            }
            (_, Toml::Array(_)) => return Err(wrong(key, &"a list")),
            _ => return Err(wrong(key, &written)),
        };
        value.checked(key)
    }

    /// What is wrong with a date or a time of a TOML file, for whatever key: none holds one.
    pub fn date_problem(key: &Key, date: &str) -> String {
        let problem = wrong(key, &date);
        if key.secret {
            return format!("{problem}; what stands there is a date in TOML: put it in quotes");
        }
        match key.kind {
            Kind::Text(_) | Kind::List { .. } => {
                format!("{problem}; {date} is a date or a time in TOML, as a text it is written \"{date}\"")
            }
            Kind::Switch | Kind::Integer { .. } => format!("{problem}; {date} is a date or a time in TOML"),
        }
    }

    /// Reads a value of the environment or a flag, where everything is text.
    pub fn from_text(key: &Key, written: &str) -> Result<Self, String> {
        let value = match key.kind {
            Kind::Switch => match parse_switch(written) {
                Some(value) => Self::Switch(value),
                None => return Err(wrong(key, &format_args!("{:?}", shown_text(key, written)))),
            },
            Kind::Integer { .. } => match written.trim().parse() {
                Ok(value) => Self::Integer(value),
                Err(_) => return Err(wrong(key, &format_args!("{:?}", shown_text(key, written)))),
            },
            Kind::Text(_) => Self::Text(written.to_owned()),
            Kind::List { .. } => Self::List(split_list(written)),
        };
        value.checked(key)
    }

    /// The value, if it lies in its key's range.
    fn checked(self, key: &Key) -> Result<Self, String> {
        let good = match (&self, &key.kind) {
            (Self::Integer(value), Kind::Integer { min, max, zero, .. }) => {
                (min..=max).contains(&value) || (*value == 0 && zero.is_some())
            }
            (Self::Text(text), Kind::Text(form)) => form.fits(text),
            (Self::List(items), Kind::List { min, form }) => {
                if items.len() > LIST_ITEMS_MAX || items.len() < *min {
                    let items_count = items.len();
                    return Err(format!(
                        "{} has {items_count} items: expects {min} to {LIST_ITEMS_MAX}",
                        key.name
                    ));
                }
                match items.iter().find(|item| !form.fits(item)) {
                    Some(item) => {
                        let problem = wrong(key, &format_args!("{:?}", shown_text(key, item)));
                        return Err(with_hint(key, problem, item));
                    }
                    None => true,
                }
            }
            _ => true,
        };
        if good {
            Ok(self)
        } else {
            let problem = wrong(key, &self.shown(key));
            Err(match &self {
                Self::Text(text) => with_hint(key, problem, text),
                _ => problem,
            })
        }
    }

    /// True for what stands for "not set".
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Text(text) if text.is_empty())
    }

    /// The value as TOML and JSON both write it, without secrets.
    pub fn shown(&self, key: &Key) -> serde_json::Value {
        match self {
            Self::Switch(value) => (*value).into(),
            Self::Integer(value) => (*value).into(),
            Self::Text(text) if text.is_empty() => "".into(),
            Self::Text(_) if key.secret => REDACTED.into(),
            Self::Text(text) => redacted(text).into(),
            Self::List(items) => items.iter().map(|item| redacted(item)).collect(),
        }
    }
}

impl From<Value> for config::Value {
    fn from(value: Value) -> Self {
        match value {
            Value::Switch(value) => value.into(),
            Value::Integer(value) => value.into(),
            Value::Text(text) => text.into(),
            Value::List(items) => items.into(),
        }
    }
}

impl Form {
    fn fits(&self, text: &str) -> bool {
        if text.is_empty() {
            return self.optional;
        }
        text.len() <= TEXT_BYTES_MAX && (self.check)(text)
    }
}

/// "key = value: expects …".
fn wrong(key: &Key, shown: &dyn fmt::Display) -> String {
    let mut value = shown.to_string();
    if key.secret {
        value = REDACTED.to_owned();
    } else if let Some((cut, _)) = value.char_indices().nth(SHOWN_CHARS_MAX) {
        value.truncate(cut);
        value.push('…');
    }
    format!("{} = {value}: expects {}", key.name, key.allowed())
}

fn with_hint(key: &Key, problem: String, text: &str) -> String {
    match (key.hint)(text) {
        Some(hint) if !key.secret && text.len() <= TEXT_BYTES_MAX => format!("{problem}; {hint}"),
        _ => problem,
    }
}

fn shown_text(key: &Key, text: &str) -> String {
    if key.secret {
        REDACTED.to_owned()
    } else {
        redacted(text)
    }
}

/// Any text that might be a URL with a password in it.
fn redacted(text: &str) -> String {
    if text.contains('@') {
        redact_url(text)
    } else {
        text.to_owned()
    }
}

fn split_list(text: &str) -> Vec<String> {
    if text.trim().is_empty() {
        return Vec::new();
    }
    text.split(',').map(|item| item.trim().to_owned()).collect()
}
