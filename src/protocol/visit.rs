//! The reader's side that faces the codecs: serde's visitors and seeds, which lead each value to the sink.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::place::{Found, Place, Step};
use super::reader::{Plain, Reader, Sink, Value};

/// Asks the codec for an `f32` in place of anything: serde_json then rounds a decimal number once, not twice.
pub(super) struct Single<D>(pub(super) D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Single<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_f32(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// Whatever stands here; arrays and objects go into the sink.
pub(super) struct Any<'s, 'r, S> {
    pub(super) sink: &'s mut S,
    pub(super) expected: &'static str,
    pub(super) place: Place,
    pub(super) reader: &'r Reader,
}

impl<S> Any<'_, '_, S> {
    fn unexpected<T, E: de::Error>(&self, found: &str) -> Result<T, E> {
        Err(self
            .reader
            .refuse(format!("{}: expected {}, found {found}", self.place, self.expected)))
    }
}

impl<'de, S: Sink> Visitor<'de> for Any<'_, '_, S> {
    type Value = Found<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_unit<E>(self) -> Result<Found<'de>, E> {
        Ok(Found::Null)
    }

    fn visit_none<E>(self) -> Result<Found<'de>, E> {
        Ok(Found::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Found<'de>, E> {
        Ok(Found::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Found<'de>, E> {
        Ok(Found::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Found<'de>, E> {
        Ok(i64::try_from(value).map_or(Found::Unsigned(value), Found::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Found<'de>, E> {
        Ok(Found::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Found<'de>, E> {
        Ok(Found::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Found<'de>, E> {
        Ok(Found::Text(Cow::Borrowed(value)))
    }

    fn visit_string<E>(self, value: String) -> Result<Found<'de>, E> {
        Ok(Found::Text(Cow::Owned(value)))
    }

    fn visit_bytes<E: de::Error>(self, _: &[u8]) -> Result<Found<'de>, E> {
        // rmp-serde gives a string that is not UTF-8 as bytes, too.
        self.unexpected("binary data, or a string that is not UTF-8")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, _: D) -> Result<Found<'de>, D::Error> {
        self.unexpected("a MessagePack extension")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Found<'de>, A::Error> {
        if !S::ELEMENTS {
            return self.unexpected(Found::Array.name());
        }
        let Any {
            sink, place, reader, ..
        } = self;
        let mut index = 0;
        loop {
            let place = place.then(Step::Index(index));
            reader.at.set(place);
            if elements
                .next_element_seed(Element {
                    sink,
                    index,
                    place,
                    reader,
                })?
                .is_none()
            {
                return Ok(Found::Array);
            }
            index += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Found<'de>, A::Error> {
        if S::FIELDS.is_empty() && !S::ANY_FIELD {
            return self.unexpected(Found::Object.name());
        }
        let Any {
            sink, place, reader, ..
        } = self;
        let mut seen = 0_u64;
        while let Some(key) = entries.next_key_seed(Key {
            fields: S::FIELDS,
            keeps: S::ANY_FIELD,
            place,
            reader,
        })? {
            let position = match key {
                Name::Known(position) => position,
                Name::Other(name) => {
                    match name {
                        Some(name) => entries.next_value_seed(Other {
                            sink: &mut *sink,
                            name: &name,
                            place,
                            reader,
                        })?,
                        None => drop(entries.next_value::<IgnoredAny>()?),
                    }
                    reader.at.set(place);
                    continue;
                }
            };
            let name = S::FIELDS[position];
            let place_of_field = place.then(Step::Field(name));
            if seen & (1 << position) != 0 {
                return Err(reader.refuse(format!("{place_of_field} is given more than once")));
            }
            seen |= 1 << position;
            entries.next_value_seed(Field {
                sink,
                name,
                place: place_of_field,
                reader,
            })?;
            reader.at.set(place);
        }
        Ok(Found::Object)
    }
}

/// What a key of an object says.
enum Name<'de> {
    /// The position among the known fields.
    Known(usize),
    /// Another field; its name where any may come.
    Other(Option<Cow<'de, str>>),
}

/// A key of an object.
struct Key<'r> {
    fields: &'static [&'static str],
    keeps: bool,
    place: Place,
    reader: &'r Reader,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Name<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Name<'de>, D::Error> {
        let value = Value {
            deserializer,
            place: self.place,
            reader: self.reader,
        };
        let complaint = value.complaint();
        match value.read(&mut Plain, "string keys only")? {
            Found::Text(name) => Ok(match self.fields.iter().position(|field| *field == name) {
                Some(position) => Name::Known(position),
                None => Name::Other(self.keeps.then_some(name)),
            }),
            found => Err(complaint.mismatch("string keys only", &found)),
        }
    }
}

struct Field<'s, 'r, S> {
    sink: &'s mut S,
    name: &'static str,
    place: Place,
    reader: &'r Reader,
}

impl<'de, S: Sink> DeserializeSeed<'de> for Field<'_, '_, S> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.sink.field(
            self.name,
            Value {
                deserializer,
                place: self.place,
                reader: self.reader,
            },
        )
    }
}

struct Other<'s, 'r, S> {
    sink: &'s mut S,
    name: &'s str,
    place: Place,
    reader: &'r Reader,
}

impl<'de, S: Sink> DeserializeSeed<'de> for Other<'_, '_, S> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.sink.other(
            self.name,
            Value {
                deserializer,
                place: self.place,
                reader: self.reader,
            },
        )
    }
}

struct Element<'s, 'r, S> {
    sink: &'s mut S,
    index: usize,
    place: Place,
    reader: &'r Reader,
}

impl<'de, S: Sink> DeserializeSeed<'de> for Element<'_, '_, S> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.sink.element(
            self.index,
            Value {
                deserializer,
                place: self.place,
                reader: self.reader,
            },
        )
    }
}
