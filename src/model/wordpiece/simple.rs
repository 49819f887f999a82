//! The characters that most texts of the world's alphabets are made of, normalized beforehand: Latin with accents, Greek, Cyrillic,
//! typographic punctuation and what lies between.
//!
//! A character is simple if what it becomes never depends on its neighbours. Decomposing looks at neighbours for one thing
//! alone: to sort marks (characters of a combining class other than 0) that stand in a row. So one is simple if all that is
//! left of it after stripping has the class 0; or if nothing is decomposed at all.

use unicode_normalization_alignments::char::canonical_combining_class;

use super::normal::{Normal, is_punctuation};

/// The characters below this are looked at.
const END: usize = 0x2070;
/// Bytes of what one of them may become.
const BYTES_MAX: usize = 5;

/// What becomes of a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It is not known without its neighbours, or is more than fits.
    Unknown,
    /// Part of a word, or nothing at all.
    Word,
    /// It ends a word and leaves nothing behind.
    Space,
    /// A word by itself.
    Punctuation,
}

#[derive(Debug, Clone, Copy)]
struct Simple {
    kind: Kind,
    len: u8,
    chars: u8,
    bytes: [u8; BYTES_MAX],
}

/// See the module.
#[derive(Debug)]
pub(super) struct SimpleCharacters(Box<[Simple]>);

impl SimpleCharacters {
    pub(super) fn of(normal: &Normal) -> SimpleCharacters {
        SimpleCharacters((0..END).map(|c| simple(c, normal)).collect())
    }

    /// Hands over the words of a text that is not normalized yet, with their number of characters. False where a character is
    /// not simple: then what was handed over is of no account.
    pub(super) fn words(&self, text: &str, mut word: impl FnMut(&[u8], usize)) -> bool {
        let mut bytes = Vec::with_capacity(2 * text.len());
        let mut chars = 0;
        for c in text.chars() {
            let Some(simple) = self.0.get(c as usize) else {
                return false;
            };
            let becomes = &simple.bytes[..usize::from(simple.len)];
            match simple.kind {
                Kind::Unknown => return false,
                Kind::Word => {
                    bytes.extend_from_slice(becomes);
                    chars += usize::from(simple.chars);
                }
                Kind::Space | Kind::Punctuation => {
                    if chars > 0 {
                        word(&bytes, chars);
                        bytes.clear();
                        chars = 0;
                    }
                    if simple.kind == Kind::Punctuation {
                        word(becomes, 1);
                    }
                }
            }
        }
        if chars > 0 {
            word(&bytes, chars);
        }
        true
    }
}

fn simple(c: usize, normal: &Normal) -> Simple {
    let mut simple = Simple {
        kind: Kind::Unknown,
        len: 0,
        chars: 0,
        bytes: [0; BYTES_MAX],
    };
    let Some(c) = u32::try_from(c).ok().and_then(char::from_u32) else {
        return simple;
    };
    let mut becomes = String::new();
    normal.normalize(c.encode_utf8(&mut [0; 4]), &mut becomes);
    let Some(bytes) = simple.bytes.get_mut(..becomes.len()) else {
        return simple;
    };
    bytes.copy_from_slice(becomes.as_bytes());
    simple.len = becomes.len() as u8;
    simple.chars = becomes.chars().count() as u8;
    let alone = |c: char| !normal.decomposes() || canonical_combining_class(c) == 0;
    let in_word = |c: char| !c.is_whitespace() && !is_punctuation(c);
    simple.kind = if !becomes.chars().all(alone) {
        Kind::Unknown
    } else if becomes.chars().all(in_word) {
        Kind::Word
    } else if becomes.chars().all(char::is_whitespace) {
        Kind::Space
    } else if simple.chars == 1 {
        Kind::Punctuation
    } else {
        Kind::Unknown
    };
    simple
}
