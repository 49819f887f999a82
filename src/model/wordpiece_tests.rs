//! The fast path against the library, over texts that nobody would write.

use serde_json::json;

use super::super::fixtures;
use super::*;

struct Both {
    fast: FastWordPiece,
    library: Tokenizer,
}

/// `None`: there is no fast path for this file.
fn both(file: &serde_json::Value) -> Option<Both> {
    let mut library = Tokenizer::from_bytes(serde_json::to_vec(file).unwrap()).unwrap();
    library.with_padding(None);
    library.with_truncation(None).unwrap();
    let added: Vec<AddedToken> = serde_json::from_value(file["added_tokens"].clone()).unwrap();
    let fast = FastWordPiece::of(&library, &added, 1 << 20)?;
    Some(Both { fast, library })
}

fn builtin() -> serde_json::Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/builtin/tokenizer.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

impl Both {
    /// Holds the two to each other; whether the fast path served this text.
    fn hold(&self, text: &str) -> bool {
        let mut ids = vec![7];
        let coverage = self.fast.extend(text, usize::MAX, &mut ids);
        let spelt_out = self.fast.added.iter().any(|token| {
            let token = std::str::from_utf8(token).unwrap();
            text.contains(token)
        });
        assert_eq!(coverage == Coverage::AddedToken, spelt_out, "{text:?}");
        if coverage == Coverage::AddedToken {
            return false;
        }
        let expected = self.library.encode_fast(text, false).unwrap();
        assert_eq!(&ids[1..], expected.get_ids(), "{text:?}");
        // Stopped early, it has a head of the same.
        for enough in [1, 5] {
            let mut head = Vec::new();
            self.fast.extend(text, enough, &mut head);
            assert!(head.len() >= enough.min(expected.len()), "{text:?}");
            assert_eq!(head, expected.get_ids()[..head.len()], "{text:?}");
        }
        true
    }
}

/// Files with each option of the normalizer, and some of the model's.
fn variants() -> Vec<serde_json::Value> {
    let mut files = Vec::new();
    for options in 0..16 {
        let set = |bit: u32| options & (1 << bit) != 0;
        let mut file = if set(0) { builtin() } else { fixtures::bert_tokenizer() };
        file["normalizer"]["clean_text"] = json!(set(1));
        file["normalizer"]["handle_chinese_chars"] = json!(set(2));
        file["normalizer"]["lowercase"] = json!(set(3));
        for strip in [json!(null), json!(true), json!(false)] {
            file["normalizer"]["strip_accents"] = strip;
            files.push(file.clone());
        }
    }
    for (key, value) in [
        ("max_input_chars_per_word", json!(3)),
        ("max_input_chars_per_word", json!(20)),
        ("continuing_subword_prefix", json!("")),
        ("continuing_subword_prefix", json!("a")),
        ("unk_token", json!("the")),
    ] {
        let mut file = fixtures::bert_tokenizer();
        file["model"][key] = value;
        files.push(file);
    }
    // Tokens that no real vocabulary has: longer than fits a number, with a zero byte, of several words' characters.
    let mut file = fixtures::bert_tokenizer();
    let vocabulary = file["model"]["vocab"].as_object_mut().unwrap();
    for token in [
        "abcdefghijklmno",
        "abcdefghijklmnop",
        "##abcdefghijklmno",
        "##abcdefghijklmnopqrstuvwxyz",
        "ab\0",
        "##\0",
        "東京都東京都",
        "##é",
        "##ééééééééé",
        "##",
        "i̇",
    ] {
        let id = vocabulary.len();
        vocabulary.insert(token.to_owned(), json!(id));
    }
    for (clean, strip) in [(true, true), (false, false), (false, true)] {
        file["normalizer"]["clean_text"] = json!(clean);
        file["normalizer"]["strip_accents"] = json!(strip);
        files.push(file.clone());
    }
    files
}

/// Bits of text, from words to things that hardly any text holds.
fn odd_text(random: &mut fastrand::Rng) -> String {
    const BITS: &[&str] = &[
        "the",
        "cat",
        "Machine",
        "LEARNING",
        "ing",
        "abcdefghijklmno",
        "abcdefghijklmnop",
        "a",
        "I",
        "s",
        "ed",
        " ",
        " ",
        " ",
        "  ",
        "\t",
        "\n",
        "\r\n",
        "\u{b}",
        "\u{c}",
        "\0",
        "\u{1c}",
        "\u{7f}",
        "\u{85}",
        "\u{a0}",
        "\u{2028}",
        "\u{3000}",
        "\u{200b}",
        "\u{200d}",
        "\u{feff}",
        "\u{fffd}",
        "\u{ad}",
        ".",
        ",",
        "-",
        "'",
        "[",
        "]",
        "$",
        "`",
        "^",
        "~",
        "|",
        "«",
        "。",
        "’",
        "…",
        "¿",
        "€",
        "é",
        "e\u{301}",
        "\u{301}",
        "\u{302}\u{323}",
        "\u{323}\u{302}",
        "Å",
        "ﬁ",
        "ß",
        "ẞ",
        "İ",
        "Σ",
        "ς",
        "Ω",
        "ñ",
        "Й",
        "ё",
        "Привет",
        "мир",
        "東",
        "京",
        "東京都",
        "日本語",
        "が",
        "ガ",
        "か\u{3099}",
        "한국어",
        "각",
        "مرحبا",
        "שלום",
        "हिन्दी",
        "ไทย",
        "🦀",
        "👩\u{200d}🔬",
        "\u{1d165}",
        "\u{302e}",
        "\u{10ffff}",
        "\u{e000}",
        "\u{f900}",
        "\u{2f800}",
        "\u{2a6df}",
        "𝔘",
        "0",
        "42",
        "3.14",
        "[SEP",
        "SEP]",
        "[sep]",
        "[ SEP ]",
        "[UNK]",
        "[MASK]",
        "[CLS]",
        "@@",
        "##ing",
        "#",
        "http://a.b/c?d=e&f",
        "naïve",
        "café",
    ];
    let mut text = String::new();
    for _ in 0..random.usize(0..12) {
        match random.u8(0..12) {
            0 => text.extend(std::iter::repeat_with(|| random.char(..)).take(3)),
            1 => text.extend(std::iter::repeat_with(|| char::from(random.u8(0..128))).take(8)),
            2 => text.extend(std::iter::repeat_with(|| random.char('\u{80}'..'\u{3100}')).take(4)),
            3 => text.extend(std::iter::repeat_n(random.alphabetic(), random.usize(1..130))),
            4 => {
                let len = random.usize(1..40);
                text.extend(std::iter::repeat_with(|| random.lowercase()).take(len));
            }
            _ => text.push_str(BITS[random.usize(0..BITS.len())]),
        }
    }
    text
}

#[test]
fn odd_texts_are_the_librarys_under_every_option() {
    // Seeded, so that what is found once is found again.
    let mut random = fastrand::Rng::with_seed(5);
    let (mut fast, mut spelt_out) = (0, 0);
    for file in variants() {
        let both = both(&file).expect("a fast path");
        for _ in 0..400 {
            if both.hold(&odd_text(&mut random)) {
                fast += 1;
            } else {
                spelt_out += 1;
            }
        }
        for text in fixtures::hard_texts() {
            both.hold(&text);
        }
    }
    assert!(fast > 10_000 && spelt_out > 100, "{fast} and {spelt_out}");
}

#[test]
fn every_character_is_the_librarys() {
    let mut files = vec![builtin()];
    files.push(builtin());
    files[1]["normalizer"] = json!({"type": "BertNormalizer", "clean_text": false, "handle_chinese_chars": false, "strip_accents": false, "lowercase": false});
    for file in files {
        let both = both(&file).unwrap();
        // All that is in the tables, and one in a hundred of the planes that hold next to nothing.
        let all = (0..0x3_2000).chain((0x3_2000..=0x10_ffff).step_by(101));
        let mut characters = all.filter_map(char::from_u32);
        loop {
            let chunk: Vec<char> = characters.by_ref().take(256).collect();
            if chunk.is_empty() {
                break;
            }
            // By itself, inside a word, before and behind a mark; many a text, since a call has its price.
            let text: String = chunk
                .iter()
                .flat_map(|&c| ['x', c, 'Y', ' ', c, '\u{301}', '\u{323}', '.', c, '-'])
                .collect();
            both.hold(&text);
        }
    }
}

#[test]
fn every_token_of_the_vocabulary_and_its_like_is_the_librarys() {
    let both = both(&builtin()).unwrap();
    let mut random = fastrand::Rng::with_seed(6);
    let vocabulary: Vec<String> = both.library.get_vocab(false).into_keys().collect();
    for token in &vocabulary {
        let plain = token.trim_start_matches('#');
        let other = vocabulary[random.usize(0..vocabulary.len())].trim_start_matches('#');
        both.hold(&format!("{plain} {plain}{other} {}-{plain}s", plain.to_uppercase()));
    }
}

#[test]
fn the_projects_own_texts_are_the_librarys() {
    let both = both(&builtin()).unwrap();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut bytes = 0;
    for folder in ["docs", "src/model", "tests/it"] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            if let Ok(text) = std::fs::read_to_string(entry.unwrap().path()) {
                bytes += text.len();
                both.hold(&text);
            }
        }
    }
    assert!(bytes > 300_000, "{bytes}");
}

#[test]
fn a_spelt_out_token_is_found_unless_there_is_enough_before_it() {
    let both = both(&builtin()).unwrap();
    let extend = |text: &str, enough| both.fast.extend(text, enough, &mut Vec::new());
    assert_eq!(extend("the cat [SEP] sat", usize::MAX), Coverage::AddedToken);
    assert_eq!(extend("the cat[MASK]", usize::MAX), Coverage::AddedToken);
    assert_eq!(extend("the cat [SEP sat", usize::MAX), Coverage::Done);
    assert_eq!(extend("the cat [SEP] sat", 2), Coverage::Done);
}

#[test]
fn what_cannot_be_held_to_the_library_is_left_to_it() {
    let refused = |pointer: &str, value: serde_json::Value| {
        let mut file = fixtures::bert_tokenizer();
        *file.pointer_mut(pointer).unwrap() = value;
        both(&file).is_none()
    };
    assert!(!refused("/version", json!("1.0")));
    assert!(refused("/added_tokens/0/normalized", json!(true)));
    assert!(refused("/added_tokens/0/content", json!("word")));
    assert!(refused("/added_tokens/0/content", json!("é")));
    assert!(refused("/model/unk_token", json!("[GONE]")));
    assert!(refused("/pre_tokenizer", json!({"type": "Whitespace"})));
    assert!(refused("/pre_tokenizer", json!(null)));
    assert!(refused("/normalizer", json!({"type": "Lowercase"})));
    assert!(refused("/normalizer", json!(null)));
    assert!(both(&fixtures::roberta_tokenizer()).is_none());
    assert!(both(&fixtures::xlm_roberta_tokenizer()).is_none());
    // A token without an embedding: the library's path tells when it turns up.
    let file = fixtures::bert_tokenizer();
    let library = Tokenizer::from_bytes(serde_json::to_vec(&file).unwrap()).unwrap();
    assert!(FastWordPiece::of(&library, &[], 10).is_none());
}

#[test]
fn lower_case_as_a_number() {
    for byte in 0..128_u8 {
        for other in [0, b'A', b'z', 127] {
            let word = [
                byte, other, byte, byte, 0, byte, 1, other, byte, byte, byte, byte, byte, other, byte, byte,
            ];
            let lower = word.map(|byte| byte.to_ascii_lowercase());
            assert_eq!(lowered(u128::from_le_bytes(word)).to_le_bytes(), lower);
        }
    }
}
