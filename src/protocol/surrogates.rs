//! Halves of surrogate pairs in a body, made U+FFFD.
//!
//! A program that cuts a UTF-16 text in the middle of an emoji holds half a character. Writers of JSON write it as an
//! escape (`\ud83d`: Python, JavaScript, Java) or as its three bytes (`surrogatepass`, ujson); JavaScript's MessagePack
//! writes the three bytes. What stands in its place is as long, so every position in a message stays true.

use super::Encoding;

/// U+FFFD as an escape, as long as that of any half.
const ESCAPE: &[u8] = b"\\ufffd";
/// U+FFFD in UTF-8, as long as any half.
const BYTES: &[u8] = "\u{fffd}".as_bytes();

/// The body with U+FFFD for every half; `None` if it holds none.
pub(super) fn replaced(encoding: Encoding, body: &[u8]) -> Option<Vec<u8>> {
    let mut mended: Option<Vec<u8>> = None;
    let mut put = |at: usize, whole: &[u8]| {
        let mended = mended.get_or_insert_with(|| body.to_vec());
        mended[at..at + whole.len()].copy_from_slice(whole);
    };
    match encoding {
        Encoding::Json => in_json(body, &mut put),
        Encoding::MsgPack => in_msgpack(body, &mut put),
    }
    mended
}

/// A backslash means an escape wherever JSON may hold one.
fn in_json(body: &[u8], put: &mut impl FnMut(usize, &[u8])) {
    let mut at = 0;
    while let Some(&byte) = body.get(at) {
        at += match byte {
            b'\\' => match unit(body, at) {
                Some(0xd800..=0xdbff) if matches!(unit(body, at + 6), Some(0xdc00..=0xdfff)) => 12,
                Some(0xd800..=0xdfff) => {
                    put(at, ESCAPE);
                    6
                }
                // The byte behind belongs to the escape, should it be a backslash.
                _ => 2,
            },
            0xed if is_half(&body[at..]) => {
                put(at, BYTES);
                3
            }
            _ => 1,
        };
    }
}

/// The UTF-16 code unit of an escape `\uXXXX` at this place.
fn unit(body: &[u8], at: usize) -> Option<u16> {
    let escape = body.get(at..at + 6)?;
    let digits = escape.strip_prefix(b"\\u")?;
    let digits = digits.iter().all(u8::is_ascii_hexdigit).then_some(digits)?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Whether this begins with a surrogate in what would be UTF-8 if it were a character.
fn is_half(bytes: &[u8]) -> bool {
    matches!(bytes, [0xed, 0xa0..=0xbf, 0x80..=0xbf, ..])
}

/// Goes from marker to marker. What an array or a map holds stands behind its marker, so nesting does not matter.
fn in_msgpack(body: &[u8], put: &mut impl FnMut(usize, &[u8])) {
    let mut at = 0;
    while let Some(&marker) = body.get(at) {
        at += 1;
        let number = |bytes: usize| {
            let number = body.get(at..at + bytes)?;
            Some(
                number
                    .iter()
                    .fold(0, |value: usize, &byte| value << 8 | usize::from(byte)),
            )
        };
        // The bytes that belong to this marker, and whether they are a text, behind its length.
        let (length_bytes, length, is_text) = match marker {
            0xa0..=0xbf => (0, Some(usize::from(marker & 0x1f)), true),
            0xd9 => (1, number(1), true),
            0xda => (2, number(2), true),
            0xdb => (4, number(4), true),
            0xc4 => (1, number(1), false),
            0xc5 => (2, number(2), false),
            0xc6 => (4, number(4), false),
            // Extensions have a byte for their type.
            0xc7 => (1, number(1).map(|length| length + 1), false),
            0xc8 => (2, number(2).map(|length| length + 1), false),
            0xc9 => (4, number(4).map(|length| length + 1), false),
            0xd4..=0xd8 => (0, Some((1 << (marker - 0xd4)) + 1), false),
            0xcc | 0xd0 => (0, Some(1), false),
            0xcd | 0xd1 | 0xdc | 0xde => (0, Some(2), false),
            0xca | 0xce | 0xd2 | 0xdd | 0xdf => (0, Some(4), false),
            0xcb | 0xcf | 0xd3 => (0, Some(8), false),
            _ => (0, Some(0), false),
        };
        let start = at + length_bytes;
        let Some(content) = length.and_then(|length| body.get(start..start.checked_add(length)?)) else {
            return;
        };
        at = start + content.len();
        if is_text {
            let mut place = 0;
            while place < content.len() {
                if is_half(&content[place..]) {
                    put(start + place, BYTES);
                    place += 3;
                } else {
                    place += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(body: &str) -> Option<String> {
        replaced(Encoding::Json, body.as_bytes()).map(|body| String::from_utf8(body).expect("UTF-8"))
    }

    #[test]
    fn halves_are_replaced_and_pairs_kept() {
        for (body, expected) in [
            (r#""half \ud83d""#, Some(r#""half \ufffd""#)),
            (r#""\uDC00\uD83D""#, Some(r#""\ufffd\ufffd""#)),
            (r#""\ud83d\ud83d\ude00""#, Some(r#""\ufffd\ud83d\ude00""#)),
            (r#""\ud83d\u0041""#, Some(r#""\ufffd\u0041""#)),
            (r#""\ud83d\\ude00""#, Some(r#""\ufffd\\ude00""#)),
            (r#""\ud83d\ude00""#, None),
            // A backslash that is escaped begins nothing.
            (r#""\\ud83d""#, None),
            (r#""\\\ud83d""#, Some(r#""\\\ufffd""#)),
            (r#""\ud83"#, None),
            (r#""\ud83g""#, None),
            (r#""\u+d83""#, None),
            ("", None),
        ] {
            assert_eq!(json(body).as_deref(), expected, "{body}");
        }
        let bytes = replaced(Encoding::Json, b"\"\xed\xa0\xbd, \xed\x9f\xbf\"");
        assert_eq!(bytes.as_deref(), Some("\"\u{fffd}, \u{d7ff}\"".as_bytes()));
    }

    #[test]
    fn only_texts_of_messagepack_are_looked_at() {
        let half = b"\xed\xa0\xbd";
        let text = [&[0xa3][..], half].concat();
        let whole = "\u{fffd}".as_bytes();
        for before in [
            &[][..],
            &[0x81],
            &[0xdc, 0, 1],
            &[0xc4, 3, 0xed, 0xa0, 0xbd],
            &[0xcf, 0xed, 0xa0, 0xbd, 0, 0, 0, 0, 0],
            &[0xd6, 1, 0xed, 0xa0, 0xbd, 0],
            &[0xc7, 3, 1, 0xed, 0xa0, 0xbd],
            &[0xd9, 1, b'a'],
            &[0xda, 0, 1, b'a'],
            &[0xdb, 0, 0, 0, 1, b'a'],
        ] {
            let body = [before, &text].concat();
            let expected = [before, &[0xa3], whole].concat();
            assert_eq!(replaced(Encoding::MsgPack, &body), Some(expected), "{before:x?}");
            assert_eq!(replaced(Encoding::MsgPack, before), None, "{before:x?}");
        }
        // Lengths that are only claimed.
        assert_eq!(
            replaced(Encoding::MsgPack, &[0xdb, 0xff, 0xff, 0xff, 0xff, 0xed, 0xa0, 0xbd]),
            None
        );
        assert_eq!(replaced(Encoding::MsgPack, &[0xdb, 0xff]), None);
    }
}
