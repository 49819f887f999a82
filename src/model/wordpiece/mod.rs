//! BERT's tokenizer, some thirty times as fast as the library's: for a tokenizer.json that is `BertNormalizer`,
//! `BertPreTokenizer` and `WordPiece` and nothing else; any other is the library's, and so is a text that spells an added token
//! (`[SEP]`, say) out.
//!
//! One pass over the bytes: the class of each byte tells where a word ends; a word of ASCII is lower-cased as one number and
//! looked up as one. A word with anything else in it is put together from characters that were normalized beforehand ([`simple`]), or
//! goes through [`normal`], which calls the very functions and tables of the library, without its book of offsets.
//!
//! Why pieces may be looked at one by one: an ASCII space or punctuation mark comes through every step as it is, separates words,
//! and is a character that no canonical reordering reaches across. So normalizing what stands between two of them gives
//! the same as normalizing the whole. The tests hold all of it to the library, over millions of odd texts.

mod normal;
mod simple;
mod vocabulary;

use tokenizers::models::ModelWrapper;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{AddedToken, Tokenizer};

use normal::Normal;
use simple::SimpleCharacters;
use vocabulary::{SHORT_MAX, Vocabulary, short_key};

/// What a byte is to the fast path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// An ASCII letter or digit.
    Word,
    /// Separates words and leaves nothing behind.
    Space,
    /// A word by itself.
    Punctuation,
    /// Not ASCII, or a control character: the word that it is in is [`normal`]'s.
    Other,
}

/// See the module.
#[derive(Debug)]
pub(super) struct FastWordPiece {
    vocabulary: Vocabulary,
    normal: Normal,
    simple: SimpleCharacters,
    classes: [Class; 256],
    /// The id of each ASCII punctuation mark as a word.
    punctuation: [u32; 128],
    /// Added tokens, all of which begin with a punctuation mark; never empty.
    added: Vec<Box<[u8]>>,
    /// Whether an added token begins with this byte.
    begins_added: [bool; 256],
}

/// How far [`FastWordPiece::extend`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coverage {
    /// All that was asked for is there.
    Done,
    /// The text spells an added token out: it is the library's as a whole, and what was pushed is to be thrown away.
    AddedToken,
}

impl FastWordPiece {
    /// The same tokenizer, if it is one that this can be exact for. `added`: the added tokens of its file; `ids_end`: no token
    /// may have an id from here on.
    pub(super) fn of(tokenizer: &Tokenizer, added: &[AddedToken], ids_end: usize) -> Option<FastWordPiece> {
        let (
            Some(NormalizerWrapper::BertNormalizer(normalizer)),
            Some(PreTokenizerWrapper::BertPreTokenizer(_)),
            ModelWrapper::WordPiece(model),
        ) = (
            tokenizer.get_normalizer(),
            tokenizer.get_pre_tokenizer(),
            tokenizer.get_model(),
        )
        else {
            return None;
        };
        if tokenizer.get_encode_special_tokens() || tokenizer.get_truncation().is_some() {
            return None;
        }
        // A normalized token is looked for in the normalized text; none of the models known carries one.
        let findable = |token: &AddedToken| {
            !token.normalized && token.content.as_bytes().first().is_some_and(u8::is_ascii_punctuation)
        };
        let added: Vec<&AddedToken> = added.iter().filter(|token| !token.content.is_empty()).collect();
        if !added.iter().all(|token| findable(token)) {
            return None;
        }
        let vocabulary = Vocabulary::of(model, ids_end)?;
        let normal = Normal::of(normalizer);
        let mut begins_added = [false; 256];
        for token in &added {
            begins_added[usize::from(token.content.as_bytes()[0])] = true;
        }
        Some(FastWordPiece {
            classes: std::array::from_fn(|byte| class(byte as u8, &normal)),
            punctuation: std::array::from_fn(|byte| {
                let mut ids = Vec::new();
                vocabulary.word(&[byte as u8], 1, &mut ids);
                // Proof: one character is one piece, or unknown.
                ids[0]
            }),
            added: added.into_iter().map(|token| token.content.as_bytes().into()).collect(),
            begins_added,
            vocabulary,
            simple: SimpleCharacters::of(&normal),
            normal,
        })
    }

    /// Pushes the ids of `text` to `ids`; stops once there are `enough` of them, and then may have pushed a few more.
    pub(super) fn extend(&self, text: &str, enough: usize, ids: &mut Vec<u32>) -> Coverage {
        let bytes = text.as_bytes();
        let enough = ids.len().saturating_add(enough);
        let mut scratch = String::new();
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match self.classes[usize::from(byte)] {
                Class::Space => {
                    at += 1;
                    continue;
                }
                Class::Punctuation => {
                    if self.added_at(bytes, at) {
                        return Coverage::AddedToken;
                    }
                    ids.push(self.punctuation[usize::from(byte)]);
                    at += 1;
                }
                Class::Word | Class::Other => {
                    let mut end = at;
                    while bytes.get(end).is_some_and(|&byte| self.is(byte, Class::Word)) {
                        end += 1;
                    }
                    if bytes.get(end).is_some_and(|&byte| self.is(byte, Class::Other)) {
                        while bytes
                            .get(end)
                            .is_some_and(|&byte| self.is(byte, Class::Word) || self.is(byte, Class::Other))
                        {
                            end += 1;
                        }
                        // Both ends are beside ASCII characters or the text's own, so between characters.
                        self.other_words(&text[at..end], &mut scratch, ids);
                    } else {
                        self.ascii_word(&bytes[at..], end - at, ids);
                    }
                    at = end;
                }
            }
            if ids.len() >= enough {
                break;
            }
        }
        Coverage::Done
    }

    /// Whether an added token stands anywhere in the text.
    pub(super) fn spells_added_token(&self, text: &str) -> bool {
        let bytes = text.as_bytes();
        (0..bytes.len()).any(|at| self.added_at(bytes, at))
    }

    fn added_at(&self, bytes: &[u8], at: usize) -> bool {
        self.begins_added[usize::from(bytes[at])] && self.added.iter().any(|token| bytes[at..].starts_with(token))
    }

    fn is(&self, byte: u8, class: Class) -> bool {
        self.classes[usize::from(byte)] == class
    }

    /// The words of a text that is not ASCII alone.
    fn other_words(&self, text: &str, scratch: &mut String, ids: &mut Vec<u32>) {
        let before = ids.len();
        if self
            .simple
            .words(text, |word, chars| self.vocabulary.word(word, chars, ids))
        {
            return;
        }
        ids.truncate(before);
        self.normal.normalize(text, scratch);
        normal::words(scratch, |word| {
            self.vocabulary.word(word.as_bytes(), word.chars().count(), ids);
        });
    }

    /// The word of ASCII letters and digits that `bytes` begins with.
    fn ascii_word(&self, bytes: &[u8], len: usize, ids: &mut Vec<u32>) {
        if len <= SHORT_MAX {
            let key = short_key(bytes, len);
            let key = if self.normal.lowercase { lowered(key) } else { key };
            self.vocabulary.short_word(key, len, ids);
        } else if self.normal.lowercase {
            self.vocabulary.word(&bytes[..len].to_ascii_lowercase(), len, ids);
        } else {
            self.vocabulary.word(&bytes[..len], len, ids);
        }
    }
}

fn class(byte: u8, normal: &Normal) -> Class {
    if !byte.is_ascii() {
        return Class::Other;
    }
    let mut cleaned = String::new();
    normal.normalize(char::from(byte).encode_utf8(&mut [0; 4]), &mut cleaned);
    if !cleaned.is_empty() && cleaned.chars().all(char::is_whitespace) {
        Class::Space
    } else if byte.is_ascii_punctuation() {
        Class::Punctuation
    } else if byte.is_ascii_alphanumeric() {
        Class::Word
    } else {
        Class::Other
    }
}

/// ASCII letters in lower case; all bytes must be ASCII.
fn lowered(word: u128) -> u128 {
    const EACH: u128 = u128::from_le_bytes([1; 16]);
    // The top bit of each byte: from `A` on, and beyond `Z`. No sum exceeds a byte.
    let from_a = word + EACH * u128::from(0x80 - b'A');
    let beyond_z = word + EACH * u128::from(0x80 - b'Z' - 1);
    word | (((from_a & !beyond_z) & (EACH * 0x80)) >> 2)
}

#[cfg(test)]
#[path = "../wordpiece_tests.rs"]
mod tests;
