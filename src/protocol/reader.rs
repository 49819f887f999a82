//! Reads a body field by field, the same way in both encodings.
//!
//! serde's derived code names neither the place of an error nor keeps quiet about content (`invalid type: string
//! "..."`), so what a body may hold is written down as a [`Sink`] here: the fields it takes, and what to do with each
//! [`Value`]. The reader sees to the rest: duplicates, unknown fields, types, places, and messages free of content.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::Deserialize as _;
use serde::de::{self, Deserializer, IgnoredAny};

use super::encoding::{BYTE_ORDER_MARK, Encoding};
use super::place::{Found, Place, Step};
use super::surrogates;
use super::visit::{Any, Single};

/// How deep values may nest in MessagePack. (serde_json has a bound of its own, 128, for what is looked into, and skips
/// unknown fields without recursion.)
const DEPTH_MAX: usize = 128;

/// What takes the values of an object or an array. By default it takes neither.
pub(crate) trait Sink {
    /// The fields that an object may have here; others are skipped. Empty: no object may stand here.
    const FIELDS: &'static [&'static str] = &[];
    /// Whether an object may have any field here: those that are not in `FIELDS` come to [`Sink::other`].
    const ANY_FIELD: bool = false;
    /// Whether an array may stand here.
    const ELEMENTS: bool = false;

    /// Takes the value of a field, one of `FIELDS`. Each comes once at most.
    fn field<'de, D: Deserializer<'de>>(&mut self, _name: &'static str, value: Value<'_, D>) -> Result<(), D::Error> {
        value.skip()
    }

    /// Takes the value of a field that is not in `FIELDS`, where any may come.
    fn other<'de, D: Deserializer<'de>>(&mut self, _name: &str, value: Value<'_, D>) -> Result<(), D::Error> {
        value.skip()
    }

    /// Takes the next element of an array.
    fn element<'de, D: Deserializer<'de>>(&mut self, _index: usize, value: Value<'_, D>) -> Result<(), D::Error> {
        value.skip()
    }
}

/// Takes neither objects nor arrays: for places where a plain value stands.
pub(crate) struct Plain;

impl Sink for Plain {}

/// Reads `body`, which must hold one object and nothing else, into a sink of `fresh`. The error is a message for people;
/// the sink comes back in either case.
///
/// A text cut through the middle of a character (half of a surrogate pair) is no reason to refuse a request: the half is
/// read as U+FFFD. Only a body that cannot be read is searched for such halves (`surrogates`), and then read once more.
pub(crate) fn read<S: Sink>(encoding: Encoding, body: &[u8], fresh: impl Fn() -> S) -> (S, Result<(), String>) {
    let mut sink = fresh();
    let first = read_once(encoding, body, &mut sink);
    let Err(_) = &first else { return (sink, first) };
    match surrogates::replaced(encoding, body) {
        None => (sink, first),
        Some(body) => {
            let mut sink = fresh();
            let second = read_once(encoding, &body, &mut sink);
            (sink, second)
        }
    }
}

fn read_once<S: Sink>(encoding: Encoding, body: &[u8], sink: &mut S) -> Result<(), String> {
    let reader = Reader::default();
    match encoding {
        Encoding::Json => read_json(body, &reader, sink),
        Encoding::MsgPack => read_msgpack(body, &reader, sink),
    }
    .map_err(|codec_message| {
        reader
            .problem
            .take()
            .unwrap_or_else(|| format!("{}: {codec_message}", reader.at.get()))
    })
}

fn read_json<S: Sink>(body: &[u8], reader: &Reader, sink: &mut S) -> Result<(), String> {
    // .NET's UTF-8 encoding writes one by default.
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    let text = std::str::from_utf8(body)
        .map_err(|error| format!("not JSON: it is not UTF-8 from byte {} on", error.valid_up_to()))?;
    let mut json = serde_json::Deserializer::from_str(text);
    let explain = |error: serde_json::Error| match error.classify() {
        // The parser's own messages are fixed sentences with a line and a column.
        serde_json::error::Category::Syntax | serde_json::error::Category::Eof => {
            format!("not valid JSON: {error}")
        }
        _ => "not valid JSON".to_owned(),
    };
    reader.body(&mut json).object(sink).map_err(explain)?;
    reader.at.set(Place::BODY);
    json.end().map_err(|error| {
        format!(
            "expected nothing after the object, found more at column {}",
            error.column()
        )
    })
}

fn read_msgpack<S: Sink>(body: &[u8], reader: &Reader, sink: &mut S) -> Result<(), String> {
    use rmp_serde::decode::Error;
    let mut msgpack = rmp_serde::Deserializer::from_read_ref(body);
    msgpack.set_max_depth(DEPTH_MAX);
    reader.body(&mut msgpack).object(sink).map_err(|error| match error {
        Error::InvalidMarkerRead(_) | Error::InvalidDataRead(_) => {
            "not valid MessagePack: it ends before a value is complete".to_owned()
        }
        Error::DepthLimitExceeded => {
            format!("not valid MessagePack: it nests deeper than {DEPTH_MAX} levels")
        }
        _ => "not valid MessagePack".to_owned(),
    })?;
    reader.at.set(Place::BODY);
    // Asking for a number reads one marker and goes no deeper: only at the end is there none to read.
    match u8::deserialize(&mut msgpack) {
        Err(Error::InvalidMarkerRead(_)) => Ok(()),
        _ => Err("expected nothing after the object, found more".to_owned()),
    }
}

/// The message for a field that has to be there and is not.
pub(crate) fn missing(field: &'static str, expected: &str) -> String {
    format!("`{field}` is missing: expected {expected}")
}

/// Where the reader is, and what it found wrong there.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) at: Cell<Place>,
    problem: RefCell<Option<String>>,
}

impl Reader {
    fn body<D>(&self, deserializer: D) -> Value<'_, D> {
        Value {
            deserializer,
            place: Place::BODY,
            reader: self,
        }
    }

    /// Keeps the message (the codecs would dress it up with content) and gives the codec an error to stop at.
    pub(super) fn refuse<E: de::Error>(&self, message: String) -> E {
        self.problem.borrow_mut().get_or_insert(message);
        E::custom("refused")
    }
}

/// A value not yet read, and its place.
pub(crate) struct Value<'r, D> {
    pub(super) deserializer: D,
    pub(super) place: Place,
    pub(super) reader: &'r Reader,
}

impl<'r, 'de, D: Deserializer<'de>> Value<'r, D> {
    /// The value, whatever it is; arrays and objects go into `sink` if it takes them.
    pub(crate) fn read<S: Sink>(self, sink: &mut S, expected: &'static str) -> Result<Found<'de>, D::Error> {
        self.reader.at.set(self.place);
        self.deserializer.deserialize_any(Any {
            sink,
            expected,
            place: self.place,
            reader: self.reader,
        })
    }

    /// Reads and forgets it.
    pub(crate) fn skip(self) -> Result<(), D::Error> {
        self.reader.at.set(self.place);
        IgnoredAny::deserialize(self.deserializer).map(drop)
    }

    /// Something to complain about this value with, after it was read.
    pub(crate) fn complaint(&self) -> Complaint<'r> {
        Complaint {
            place: self.place,
            reader: self.reader,
        }
    }

    fn plain<T>(
        self,
        expected: &'static str,
        take: impl FnOnce(&mut Found<'de>) -> Option<T>,
    ) -> Result<Option<T>, D::Error> {
        let complaint = self.complaint();
        match self.read(&mut Plain, expected)? {
            Found::Null => Ok(None),
            mut found => match take(&mut found) {
                Some(value) => Ok(Some(value)),
                None => Err(complaint.mismatch(expected, &found)),
            },
        }
    }

    /// A string; `None` for null, as in all that follow.
    pub(crate) fn text(self) -> Result<Option<String>, D::Error> {
        self.plain("a string", |found| match found {
            Found::Text(text) => Some(std::mem::take(text).into_owned()),
            _ => None,
        })
    }

    /// A boolean.
    pub(crate) fn boolean(self) -> Result<Option<bool>, D::Error> {
        self.plain("a boolean", |found| match found {
            Found::Bool(value) => Some(*value),
            _ => None,
        })
    }

    /// An integer of at least 0.
    pub(crate) fn count(self) -> Result<Option<u64>, D::Error> {
        self.at_least(0, "an integer of at least 0")
    }

    /// An integer of at least 1.
    pub(crate) fn positive(self) -> Result<Option<u64>, D::Error> {
        self.at_least(1, "an integer of at least 1")
    }

    fn at_least(self, least: u64, expected: &'static str) -> Result<Option<u64>, D::Error> {
        let complaint = self.complaint();
        match self.read(&mut Plain, expected)? {
            Found::Null => Ok(None),
            Found::Unsigned(value) => Ok(Some(value)),
            Found::Integer(value) => match u64::try_from(value) {
                Ok(value) if value >= least => Ok(Some(value)),
                _ => Err(complaint.because(format_args!("expected {expected}, found {value}"))),
            },
            found => Err(complaint.mismatch(expected, &found)),
        }
    }

    /// A number, of whichever kind.
    pub(crate) fn number(self, expected: &'static str) -> Result<Option<f64>, D::Error> {
        self.plain(expected, |found| match found {
            Found::Integer(value) => Some(*value as f64),
            Found::Unsigned(value) => Some(*value as f64),
            Found::Float(value) => Some(*value),
            _ => None,
        })
    }

    /// A boolean as web frameworks take it from an option: `"true"`, `"1"`, `"yes"`, `"on"`, 1, and their opposites.
    #[cfg(feature = "gateway")]
    pub(crate) fn lax_boolean(self) -> Result<Option<bool>, D::Error> {
        self.plain("a boolean", |found| match found {
            Found::Bool(value) => Some(*value),
            Found::Integer(0) => Some(false),
            Found::Integer(1) => Some(true),
            Found::Text(text) => match &*text.trim().to_ascii_lowercase() {
                "true" | "t" | "yes" | "y" | "on" | "1" => Some(true),
                "false" | "f" | "no" | "n" | "off" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        })
    }

    /// An integer as web frameworks take it from an option: also a whole number with a fraction of zero (`3.0`), and either
    /// as a string.
    #[cfg(feature = "gateway")]
    pub(crate) fn lax_integer(self) -> Result<Option<i64>, D::Error> {
        /// Up to here a double holds every integer.
        const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
        let whole = |value: f64| (value.fract() == 0.0 && value.abs() <= WHOLE_MAX).then_some(value as i64);
        self.plain("an integer", |found| match found {
            Found::Integer(value) => Some(*value),
            Found::Unsigned(_) => Some(i64::MAX),
            Found::Float(value) => whole(*value),
            Found::Text(text) => {
                let text = text.trim();
                text.parse().ok().or_else(|| whole(text.parse().ok()?))
            }
            _ => None,
        })
    }

    /// The value as it stands in the JSON, halves of surrogate pairs replaced.
    #[cfg(feature = "gateway")]
    pub(crate) fn json(self) -> Result<Box<serde_json::value::RawValue>, D::Error> {
        use serde_json::value::RawValue;
        self.reader.at.set(self.place);
        let raw = Box::<RawValue>::deserialize(self.deserializer)?;
        // What is skipped is not held to be a text; so this is where halves are found.
        let mended = surrogates::replaced(Encoding::Json, raw.get().as_bytes())
            .and_then(|bytes| RawValue::from_string(String::from_utf8(bytes).ok()?).ok());
        Ok(mended.unwrap_or(raw))
    }

    /// A number as the single-precision float that it was written from.
    pub(crate) fn single(self) -> Result<Option<f32>, D::Error> {
        let Value {
            deserializer,
            place,
            reader,
        } = self;
        Value {
            deserializer: Single(deserializer),
            place,
            reader,
        }
        .number("a number")
        .map(|number| number.map(|number| number as f32))
    }

    /// An object, into `sink`; false for null.
    pub(crate) fn object<S: Sink>(self, sink: &mut S) -> Result<bool, D::Error> {
        let complaint = self.complaint();
        match self.read(sink, "an object")? {
            Found::Object => Ok(true),
            Found::Null if !complaint.is_body() => Ok(false),
            found => Err(complaint.mismatch("an object", &found)),
        }
    }

    /// An array, into `sink`; false for null.
    pub(crate) fn array<S: Sink>(self, sink: &mut S) -> Result<bool, D::Error> {
        let complaint = self.complaint();
        match self.read(sink, "an array")? {
            Found::Array => Ok(true),
            Found::Null => Ok(false),
            found => Err(complaint.mismatch("an array", &found)),
        }
    }
}

/// Says what is wrong with a value that was read.
#[derive(Clone, Copy)]
pub(crate) struct Complaint<'r> {
    place: Place,
    reader: &'r Reader,
}

impl Complaint<'_> {
    fn is_body(self) -> bool {
        matches!(self.place.0[0], Step::End)
    }

    /// The value is of the wrong type.
    pub(crate) fn mismatch<E: de::Error>(self, expected: &str, found: &Found<'_>) -> E {
        self.because(format_args!("expected {expected}, found {}", found.name()))
    }

    /// The value will not do for this reason (free of content, unless a number).
    pub(crate) fn because<E: de::Error>(self, reason: fmt::Arguments<'_>) -> E {
        self.reader.refuse(format!("{}: {reason}", self.place))
    }

    /// A field of this object is missing.
    pub(crate) fn missing<E: de::Error>(self, field: &'static str, expected: &str) -> E {
        let place = self.place.then(Step::Field(field));
        self.reader.refuse(format!("{place} is missing: expected {expected}"))
    }
}
