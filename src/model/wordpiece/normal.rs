//! What `BertNormalizer` and `BertPreTokenizer` do to a text, character by character, with the crates and tables that the library
//! itself uses: cleaning, spaces round Chinese characters, accents, lower case; then words and punctuation marks.

use tokenizers::normalizers::BertNormalizer;
use unicode_categories::UnicodeCategories as _;
use unicode_normalization_alignments::UnicodeNormalization as _;

/// The settings of a `BertNormalizer`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Normal {
    clean_text: bool,
    chinese_apart: bool,
    strip_accents: bool,
    pub(super) lowercase: bool,
}

impl Normal {
    pub(super) fn of(normalizer: &BertNormalizer) -> Normal {
        Normal {
            clean_text: normalizer.clean_text,
            chinese_apart: normalizer.handle_chinese_chars,
            strip_accents: normalizer.strip_accents.unwrap_or(normalizer.lowercase),
            lowercase: normalizer.lowercase,
        }
    }

    /// Whether characters are decomposed, so that marks in a row are sorted.
    pub(super) fn decomposes(&self) -> bool {
        self.strip_accents
    }

    /// Normalizes `text` into `out`, which is emptied first.
    pub(super) fn normalize(&self, text: &str, out: &mut String) {
        out.clear();
        if self.strip_accents {
            // Decomposing looks at neighbours, so it takes the cleaned text as a whole.
            let mut cleaned = String::with_capacity(text.len());
            self.clean(text, |c| cleaned.push(c));
            for (c, _) in cleaned.nfd() {
                if !c.is_mark_nonspacing() {
                    self.push(c, out);
                }
            }
        } else {
            self.clean(text, |c| self.push(c, out));
        }
    }

    fn clean(&self, text: &str, mut push: impl FnMut(char)) {
        for mut c in text.chars() {
            if self.clean_text {
                if matches!(c, '\0' | '\u{fffd}') || is_control(c) {
                    continue;
                }
                if is_white(c) {
                    c = ' ';
                }
            }
            if self.chinese_apart && is_chinese(c) {
                push(' ');
                push(c);
                push(' ');
            } else {
                push(c);
            }
        }
    }

    fn push(&self, c: char, out: &mut String) {
        if self.lowercase {
            out.extend(c.to_lowercase());
        } else {
            out.push(c);
        }
    }
}

/// The words of a normalized text; a punctuation mark is one by itself.
pub(super) fn words(text: &str, mut word: impl FnMut(&str)) {
    let mut start = 0;
    for (at, c) in text.char_indices() {
        let end = at + c.len_utf8();
        let punctuation = is_punctuation(c);
        if punctuation || c.is_whitespace() {
            if start < at {
                word(&text[start..at]);
            }
            if punctuation {
                word(&text[at..end]);
            }
            start = end;
        }
    }
    if start < text.len() {
        word(&text[start..]);
    }
}

fn is_white(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r') || c.is_whitespace()
}

fn is_control(c: char) -> bool {
    !matches!(c, '\t' | '\n' | '\r') && c.is_other()
}

pub(super) fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() || c.is_punctuation()
}

/// The blocks of CJK ideographs, as the library has them.
fn is_chinese(c: char) -> bool {
    matches!(
        u32::from(c),
        0x4E00..=0x9FFF
            | 0x3400..=0x4DBF
            | 0x20000..=0x2A6DF
            | 0x2A700..=0x2B73F
            | 0x2B740..=0x2B81F
            | 0x2B920..=0x2CEAF
            | 0xF900..=0xFAFF
            | 0x2F800..=0x2FA1F
    )
}
