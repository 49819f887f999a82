//! What messages about a body are made of: the place of a value, and its type. Never its content.

use std::borrow::Cow;
use std::fmt;

/// A place in the body: shown as `` `documents[3].text` ``.
#[derive(Clone, Copy, Default)]
pub(crate) struct Place(pub(crate) [Step; 4]);

#[derive(Clone, Copy, Default)]
pub(crate) enum Step {
    #[default]
    End,
    Field(&'static str),
    Index(usize),
}

impl Place {
    pub(crate) const BODY: Place = Place([Step::End; 4]);

    pub(crate) fn then(mut self, step: Step) -> Place {
        // The contract nests no deeper; if it ever did, the place would be named less exactly.
        if let Some(end) = self.0.iter_mut().find(|step| matches!(step, Step::End)) {
            *end = step;
        }
        self
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Step::End = self.0[0] {
            return f.write_str("the body");
        }
        f.write_str("`")?;
        for (depth, step) in self.0.iter().enumerate() {
            match step {
                Step::End => break,
                Step::Field(name) if depth == 0 => f.write_str(name)?,
                Step::Field(name) => write!(f, ".{name}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        f.write_str("`")
    }
}

/// A plain value, or the sign that the sink was given an array or object.
pub(crate) enum Found<'de> {
    Null,
    Bool(bool),
    Integer(i64),
    /// Above `i64::MAX`.
    Unsigned(u64),
    Float(f64),
    Text(Cow<'de, str>),
    Array,
    Object,
}

impl Found<'_> {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Found::Null => "null",
            Found::Bool(_) => "a boolean",
            Found::Integer(_) | Found::Unsigned(_) => "an integer",
            Found::Float(_) => "a floating-point number",
            Found::Text(_) => "a string",
            Found::Array => "an array",
            Found::Object => "an object",
        }
    }
}
