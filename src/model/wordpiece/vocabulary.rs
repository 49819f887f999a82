//! A word → its pieces: the longest token that the word begins with, then the longest that the rest begins with, and so on.
//!
//! Nearly all tokens are short: 15 bytes and their number fit into one integer, which hashes and compares as one.

use std::collections::HashMap;

use foldhash::fast::FixedState;
use tokenizers::Model as _;
use tokenizers::models::wordpiece::WordPiece;

/// Bytes of the longest word that is looked up as a number.
pub(super) const SHORT_MAX: usize = 15;

/// Keys come from the vocabulary alone, so no text can fill a bucket: the hash needs no secret.
type Map<K> = HashMap<K, u32, FixedState>;

/// A WordPiece vocabulary.
#[derive(Debug)]
pub(super) struct Vocabulary {
    /// Tokens that begin a word.
    first: Tokens,
    /// Tokens that go on with one, without their prefix (`##`).
    rest: Tokens,
    unknown: u32,
    word_chars_max: usize,
}

#[derive(Debug, Default)]
struct Tokens {
    short: Map<u128>,
    long: Map<Box<[u8]>>,
    /// Bytes of the longest.
    bytes_max: usize,
}

impl Vocabulary {
    /// The vocabulary of `model`. `None` where the library could fail, or give an id from `ids_end` on.
    pub(super) fn of(model: &WordPiece, ids_end: usize) -> Option<Vocabulary> {
        let tokens = model.get_vocab();
        if tokens.values().any(|&id| id as usize >= ids_end) {
            return None;
        }
        let (mut first, mut rest) = (Tokens::default(), Tokens::default());
        for (token, &id) in &tokens {
            first.insert(token.as_bytes(), id);
            if let Some(token) = token.strip_prefix(&model.continuing_subword_prefix) {
                rest.insert(token.as_bytes(), id);
            }
        }
        Some(Vocabulary {
            first,
            rest,
            unknown: *tokens.get(&model.unk_token)?,
            word_chars_max: model.max_input_chars_per_word,
        })
    }

    /// Pushes the pieces of a word of `chars` characters, or the unknown token if it cannot be put together. Not empty.
    pub(super) fn word(&self, word: &[u8], chars: usize, ids: &mut Vec<u32>) {
        if word.len() <= SHORT_MAX && chars <= self.word_chars_max {
            return self.short_pieces(short_key(word, word.len()), word.len(), ids);
        }
        if chars > self.word_chars_max {
            return ids.push(self.unknown);
        }
        let before = ids.len();
        let (mut tokens, mut left) = (&self.first, word);
        while !left.is_empty() {
            let Some((id, len)) = tokens.longest(left) else {
                ids.truncate(before);
                return ids.push(self.unknown);
            };
            ids.push(id);
            left = &left[len..];
            tokens = &self.rest;
        }
    }

    /// As [`Self::word`], for ASCII of at most [`SHORT_MAX`] bytes as [`short_key`] makes it.
    pub(super) fn short_word(&self, key: u128, len: usize, ids: &mut Vec<u32>) {
        if len > self.word_chars_max {
            return ids.push(self.unknown);
        }
        self.short_pieces(key, len, ids);
    }

    fn short_pieces(&self, key: u128, len: usize, ids: &mut Vec<u32>) {
        if let Some(&id) = self.first.short.get(&key) {
            return ids.push(id);
        }
        let before = ids.len();
        // The bytes without their number.
        let (mut tokens, mut left, mut len) = (&self.first, key & bytes_mask(SHORT_MAX), len);
        while len > 0 {
            let Some((id, taken)) = tokens.longest_short(left, len) else {
                ids.truncate(before);
                return ids.push(self.unknown);
            };
            ids.push(id);
            left >>= 8 * taken;
            len -= taken;
            tokens = &self.rest;
        }
    }
}

impl Tokens {
    fn insert(&mut self, token: &[u8], id: u32) {
        self.bytes_max = self.bytes_max.max(token.len());
        if token.len() <= SHORT_MAX {
            self.short.insert(short_key(token, token.len()), id);
        } else {
            self.long.insert(token.into(), id);
        }
    }

    /// The longest token that `word` begins with, and its bytes. (A token is UTF-8, so none ends inside a character.)
    fn longest(&self, word: &[u8]) -> Option<(u32, usize)> {
        let longest = word.len().min(self.bytes_max);
        let long = (SHORT_MAX + 1..=longest)
            .rev()
            .find_map(|len| Some((*self.long.get(&word[..len])?, len)));
        long.or_else(|| {
            let len = longest.min(SHORT_MAX);
            self.longest_short(short_key(word, len) & bytes_mask(SHORT_MAX), len)
        })
    }

    /// The same among tokens of at most `len` bytes, for a word as a number.
    fn longest_short(&self, word: u128, len: usize) -> Option<(u32, usize)> {
        (1..=len.min(self.bytes_max)).rev().find_map(|len| {
            let key = (word & bytes_mask(len)) | numbered(len);
            Some((*self.short.get(&key)?, len))
        })
    }
}

/// The first `len` bytes, at most [`SHORT_MAX`], and their number in the topmost byte: without it, a zero byte at the end would
/// be no different from none.
pub(super) fn short_key(bytes: &[u8], len: usize) -> u128 {
    let word = match bytes.first_chunk::<16>() {
        Some(chunk) => u128::from_le_bytes(*chunk),
        None => {
            let mut chunk = [0; 16];
            chunk[..len].copy_from_slice(&bytes[..len]);
            u128::from_le_bytes(chunk)
        }
    };
    (word & bytes_mask(len)) | numbered(len)
}

fn numbered(len: usize) -> u128 {
    (len as u128) << 120
}

fn bytes_mask(len: usize) -> u128 {
    (1 << (8 * len)) - 1
}
