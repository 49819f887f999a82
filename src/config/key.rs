//! What a key is: its name, what it may hold, and how that is told.

use super::forms;

/// One setting.
#[derive(Debug)]
pub struct Key {
    /// `section.key`, or `key` at the top.
    pub name: &'static str,
    /// What it may hold.
    pub kind: Kind,
    /// Never shown.
    pub secret: bool,
    /// Says what is wrong with a text, where that can be said better than by what is allowed. Shows no secret.
    pub hint: fn(&str) -> Option<String>,
}

fn no_hint(_: &str) -> Option<String> {
    None
}

/// What a setting may hold.
#[derive(Debug)]
pub enum Kind {
    /// `true` or `false`.
    Switch,
    /// A whole number from `min` to `max`; `zero` says what 0 stands for where it is allowed outside that range.
    Integer {
        min: i64,
        max: i64,
        unit: &'static str,
        zero: Option<&'static str>,
    },
    /// A text of a given form.
    Text(Form),
    /// From `min` to [`LIST_ITEMS_MAX`] texts of a given form; in one text they are separated by commas.
    List { min: usize, form: Form },
}

/// What a text must look like.
#[derive(Debug)]
pub struct Form {
    /// What is allowed, in words.
    pub allowed: &'static str,
    /// Whether the empty text is allowed, and stands for "not set".
    pub optional: bool,
    /// Says whether a text that is not empty has this form.
    pub check: fn(&str) -> bool,
}

/// A list longer than this is a mistake.
pub const LIST_ITEMS_MAX: usize = 64;
/// A text longer than this is a mistake.
pub const TEXT_BYTES_MAX: usize = 4096;

pub(super) const fn switch(name: &'static str) -> Key {
    Key {
        name,
        kind: Kind::Switch,
        secret: false,
        hint: no_hint,
    }
}

pub(super) const fn integer(name: &'static str, min: i64, max: i64, unit: &'static str) -> Key {
    Key {
        name,
        kind: Kind::Integer {
            min,
            max,
            unit,
            zero: None,
        },
        secret: false,
        hint: no_hint,
    }
}

/// An integer where 0 stands for something else.
pub(super) const fn or_zero(name: &'static str, min: i64, max: i64, unit: &'static str, zero: &'static str) -> Key {
    Key {
        name,
        kind: Kind::Integer {
            min,
            max,
            unit,
            zero: Some(zero),
        },
        secret: false,
        hint: no_hint,
    }
}

const fn form(name: &'static str, allowed: &'static str, optional: bool, check: fn(&str) -> bool) -> Key {
    Key {
        name,
        kind: Kind::Text(Form {
            allowed,
            optional,
            check,
        }),
        secret: false,
        hint: no_hint,
    }
}

pub(super) const fn text(name: &'static str, allowed: &'static str, check: fn(&str) -> bool) -> Key {
    form(name, allowed, false, check)
}

pub(super) const fn optional(name: &'static str, allowed: &'static str, check: fn(&str) -> bool) -> Key {
    form(name, allowed, true, check)
}

pub(super) const fn secret(name: &'static str) -> Key {
    let form = Form {
        allowed: "a text without control characters",
        optional: true,
        check: forms::is_plain,
    };
    Key {
        name,
        kind: Kind::Text(form),
        secret: true,
        hint: no_hint,
    }
}

pub(super) const fn list(name: &'static str, min: usize, allowed: &'static str, check: fn(&str) -> bool) -> Key {
    Key {
        name,
        kind: Kind::List {
            min,
            form: Form {
                allowed,
                optional: false,
                check,
            },
        },
        secret: false,
        hint: no_hint,
    }
}

/// The same key, whose messages say more.
pub(super) const fn hinted(key: Key, hint: fn(&str) -> Option<String>) -> Key {
    Key { hint, ..key }
}

impl Key {
    /// The part before the dot; empty at the top.
    pub fn section(&self) -> &'static str {
        self.name.split_once('.').map_or("", |(section, _)| section)
    }

    /// The part after the dot.
    pub fn leaf(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(_, leaf)| leaf)
    }

    /// The environment variable of this key.
    pub fn variable(&self) -> String {
        format!("RERANK_{}", self.name.to_uppercase().replace('.', "__"))
    }

    /// What the key may hold, in words.
    pub fn allowed(&self) -> String {
        match &self.kind {
            Kind::Switch => "true or false".to_owned(),
            Kind::Integer {
                min,
                max,
                unit,
                zero: None,
            } => format!("{min} to {max} {unit}"),
            Kind::Integer {
                min,
                max,
                unit,
                zero: Some(zero),
            } => format!("{min} to {max} {unit}, or 0: {zero}"),
            Kind::Text(form) if form.optional => format!("{}, or empty: not set", form.allowed),
            Kind::Text(form) => form.allowed.to_owned(),
            Kind::List { form, .. } => format!("a list, each of it {}", form.allowed),
        }
    }

    /// The kind in one word.
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            Kind::Switch => "boolean",
            Kind::Integer { .. } => "integer",
            Kind::Text(_) => "string",
            Kind::List { .. } => "list of strings",
        }
    }
}
