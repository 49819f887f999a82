//! The two encodings of a body, and how to tell them apart.

use serde::Serialize;

use super::Refusal;
use super::headers::CONTENT_TYPE;

/// What some writers of UTF-8 put before a text. It means nothing.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How a body is written. A reply is always in its request's encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// JSON in UTF-8: `application/json`.
    Json,
    /// MessagePack with string keys: `application/msgpack`.
    MsgPack,
}

impl Encoding {
    /// The value of `Content-Type` that names this encoding.
    pub fn content_type(self) -> &'static str {
        match self {
            Encoding::Json => "application/json",
            Encoding::MsgPack => "application/msgpack",
        }
    }

    /// The encoding of a body: by its `Content-Type` (parameters and case do not matter) or, without one, by its first
    /// byte that is not white space.
    ///
    /// # Errors
    /// `invalid_request` for a content type that is neither JSON nor MessagePack, or for a body without one whose
    /// start fits neither. The encoding being unknown, such a refusal is answered in JSON.
    pub fn detect(content_type: Option<&str>, body: &[u8]) -> Result<Encoding, Refusal> {
        let Some(content_type) = content_type else {
            return Self::by_first_byte(body);
        };
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let is = |name: &str| essence.eq_ignore_ascii_case(name);
        if is("application/json") {
            Ok(Encoding::Json)
        } else if is("application/msgpack") || is("application/x-msgpack") || is("application/vnd.msgpack") {
            Ok(Encoding::MsgPack)
        } else {
            Err(Refusal::invalid(format!(
                "header {CONTENT_TYPE}: expected application/json or application/msgpack, found another content type"
            )))
        }
    }

    fn by_first_byte(body: &[u8]) -> Result<Encoding, Refusal> {
        // fixmap, map16, map32: no JSON text starts with one of these.
        if matches!(body.first(), Some(0x80..=0x8f | 0xde | 0xdf)) {
            return Ok(Encoding::MsgPack);
        }
        // 0xef is no MessagePack map either.
        let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
        match body.iter().find(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r')) {
            // Whatever ASCII starts with is at best JSON: its decoder says what is wrong with it.
            Some(byte) if byte.is_ascii() => Ok(Encoding::Json),
            Some(_) => Err(Refusal::invalid(format!(
                "the body starts neither as a JSON object nor as a MessagePack map, and no {CONTENT_TYPE} header names \
                 its encoding"
            ))),
            None => Err(Refusal::invalid(
                "the body is empty: expected a JSON object or a MessagePack map",
            )),
        }
    }

    /// Writes one of this module's wire structs.
    pub(super) fn write<T: Serialize>(self, value: &T) -> Vec<u8> {
        let written = match self {
            Encoding::Json => serde_json::to_vec(value).map_err(|error| error.to_string()),
            Encoding::MsgPack => rmp_serde::to_vec_named(value).map_err(|error| error.to_string()),
        };
        // Writing to memory does no I/O, and the wire structs hold nothing that an encoder could object to: no map
        // with other keys than strings, no sequence of unknown length, four levels at most.
        written.expect("the wire structs can always be written")
    }
}
