//! When the head of a long text has the same tokens as the whole text begins with.
//!
//! A document may be a whole page while the model takes 512 tokens of it. Every tokenizer that can be served splits a text at
//! white space before its model sees it, and what normalizes the text looks no further than one character cluster. So a head
//! that ends at a white space gives exactly the first tokens of the whole, **if** each step is one that is known to be like
//! that; [`is_exact`] asks for that, step by step, and says no to anything that it does not know.

use serde_json::Value;
use tokenizers::Tokenizer;

/// Whether tokens of a head (see [`heads`]) are the first tokens of the whole text, whatever the text.
pub(super) fn is_exact(tokenizer: &Tokenizer) -> bool {
    // A token with a space in it could begin in the head and end behind it.
    let tokens_whole = tokenizer
        .get_added_tokens_decoder()
        .values()
        .all(|token| !token.content.contains(char::is_whitespace));
    // Looked at as the JSON of tokenizer.json: the fields are not public.
    let normalizer = serde_json::to_value(tokenizer.get_normalizer()).unwrap_or(Value::Bool(false));
    let pre_tokenizer = serde_json::to_value(tokenizer.get_pre_tokenizer()).unwrap_or(Value::Bool(false));
    tokens_whole && normalizes_locally(&normalizer) && splits_at_space(&pre_tokenizer)
}

fn kind(step: &Value) -> &str {
    step.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// Whether the text before a white space is normalized alike whatever follows it.
fn normalizes_locally(step: &Value) -> bool {
    match kind(step) {
        "" => step.is_null(),
        // By character or, for `Precompiled`, by grapheme cluster. A head ends in an ASCII character before a white space:
        // always the end of a cluster, and nothing that composes with what follows.
        "BertNormalizer" | "Lowercase" | "StripAccents" | "NFC" | "NFD" | "NFKC" | "NFKD" | "Precompiled" => true,
        // At the ends: a head's end is not white, its start is the text's.
        "Strip" => true,
        // The one replacement that converted sentencepiece models carry: it touches runs of spaces only.
        "Replace" => step.get("pattern") == Some(&serde_json::json!({"Regex": " {2,}"})),
        "Sequence" => each(step, "normalizers", normalizes_locally),
        _ => false,
    }
}

/// Whether no piece that the model sees reaches over a white space that follows a visible character.
fn splits_at_space(step: &Value) -> bool {
    match kind(step) {
        "BertPreTokenizer" | "Whitespace" | "WhitespaceSplit" => true,
        "ByteLevel" => step.get("use_regex") != Some(&Value::Bool(false)),
        "Metaspace" => step.get("split") != Some(&Value::Bool(false)),
        // One that splits is enough: those after it work inside the pieces, those before it by the same rule.
        "Sequence" => each(step, "pretokenizers", splits_at_space),
        _ => false,
    }
}

fn each(step: &Value, field: &str, holds: fn(&Value) -> bool) -> bool {
    match step.get(field) {
        Some(Value::Array(steps)) => !steps.is_empty() && steps.iter().all(holds),
        _ => false,
    }
}

/// Heads of the text, each at least twice as long as the one before, that may hold `tokens` tokens. None for a text that is
/// short anyway, and none longer than half of it: then the whole is as cheap.
pub(super) fn heads(text: &str, tokens: usize) -> impl Iterator<Item = &str> {
    // English has some four to five bytes a token; the first guess should mostly do.
    let mut size = tokens.saturating_mul(6);
    std::iter::from_fn(move || {
        while size <= text.len() / 2 {
            let end = cut_before(text, size);
            size = size.saturating_mul(2);
            if let Some(end) = end {
                return Some(&text[..end]);
            }
        }
        None
    })
}

/// The last place at or before `size` where white space follows a visible ASCII character.
fn cut_before(text: &str, size: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    // Both bytes are ASCII, so the place is between two characters.
    (1..=size.min(bytes.len().saturating_sub(1)))
        .rev()
        .find(|&at| matches!(bytes[at], b' ' | b'\n' | b'\t' | b'\r') && bytes[at - 1].is_ascii_graphic())
}
