//! Small checkpoints for the tests of this module, made in a moment: a tokenizer of each kind, a configuration, weights.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::TensorView as FileTensor;
use serde_json::{Value, json};

use super::spec::Architecture;

/// Words that the tiny vocabularies know; everything else falls apart into characters or becomes unknown.
const WORDS: &[&str] = &[
    "the",
    "cat",
    "sat",
    "on",
    "mat",
    "machine",
    "learning",
    "deep",
    "networks",
    "pizza",
    "recipe",
    "straße",
    "cafe",
    "café",
    "naïve",
    "مرحبا",
    "שלום",
    "東",
    "京",
    "日",
    "本",
    "語",
    "i",
    "and",
    "of",
    "a",
    "to",
    "in",
    "is",
    "it",
    ",",
    ".",
    "!",
    "?",
    "-",
    "'",
    "\"",
    "(",
    ")",
    "🦀",
];

/// BERT: WordPiece, `[CLS] q [SEP] d [SEP]`, token types 0 and 1. It bakes in a padding and a length, as files from training do.
pub(crate) fn bert_tokenizer() -> Value {
    let specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let mut vocab: Vec<String> = specials.map(str::to_owned).to_vec();
    vocab.extend(WORDS.iter().map(|word| (*word).to_owned()));
    for letter in ('a'..='z').chain('0'..='9') {
        vocab.push(letter.to_string());
        vocab.push(format!("##{letter}"));
    }
    vocab.extend(["##ing", "##s", "##ed"].map(str::to_owned));
    let mut seen = BTreeMap::new();
    for token in vocab {
        let id = seen.len();
        seen.entry(token).or_insert(id);
    }
    let added: Vec<Value> = specials
        .iter()
        .map(|token| added(token, seen[*token], *token == "[MASK]"))
        .collect();
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 7, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special("[CLS]", 0), sequence("A", 0), special("[SEP]", 0)],
            "pair": [special("[CLS]", 0), sequence("A", 0), special("[SEP]", 0), sequence("B", 1), special("[SEP]", 1)],
            "special_tokens": {
                "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]},
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": seen},
    })
}

/// RoBERTa: byte-level BPE, `<s> q </s></s> d </s>`.
pub(crate) fn roberta_tokenizer() -> Value {
    let specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"];
    let mut vocab: BTreeMap<String, usize> = BTreeMap::new();
    for (id, token) in specials.iter().enumerate() {
        vocab.insert((*token).to_owned(), id);
    }
    let mut alphabet: Vec<char> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet()
        .into_iter()
        .collect();
    alphabet.sort_unstable();
    for letter in alphabet {
        let id = vocab.len();
        vocab.insert(letter.to_string(), id);
    }
    let merges = [
        "t h", "th e", "Ġ the", "c a", "ca t", "Ġ cat", "i n", "in g", "Ġ t", "Ġ m", "Ġm a",
    ];
    for merge in merges {
        let id = vocab.len();
        vocab.insert(merge.replace(' ', ""), id);
    }
    let added: Vec<Value> = specials
        .iter()
        .map(|token| added(token, vocab[*token], *token == "<mask>"))
        .collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": true, "add_prefix_space": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": merges},
    })
}

/// XLM-RoBERTa: unigram pieces behind a metaspace, `<s> q </s></s> d </s>`.
pub(crate) fn xlm_roberta_tokenizer() -> Value {
    let specials = ["<s>", "<pad>", "</s>", "<unk>"];
    let mut pieces: Vec<(String, f64)> = specials.map(|token| (token.to_owned(), 0.0)).to_vec();
    let mut add = |piece: String, score: f64| {
        if !pieces.iter().any(|(known, _)| *known == piece) {
            pieces.push((piece, score));
        }
    };
    for (rank, word) in WORDS.iter().enumerate() {
        add(format!("▁{word}"), -5.0 - rank as f64 / 10.0);
        add((*word).to_owned(), -7.0 - rank as f64 / 10.0);
    }
    add("▁".to_owned(), -4.0);
    for letter in ('a'..='z').chain('0'..='9') {
        add(letter.to_string(), -10.0);
    }
    let mask = pieces.len();
    pieces.push(("<mask>".to_owned(), 0.0));
    let mut added: Vec<Value> = specials
        .iter()
        .enumerate()
        .map(|(id, token)| self::added(token, id, false))
        .collect();
    added.push(self::added("<mask>", mask, true));
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special("<s>", 0), sequence("A", 0), special("</s>", 0)],
            "pair": [special("<s>", 0), sequence("A", 0), special("</s>", 0), special("</s>", 0), sequence("B", 0), special("</s>", 0)],
            "special_tokens": {
                "<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]},
                "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]},
            },
        },
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
        "model": {"type": "Unigram", "unk_id": 3, "vocab": pieces, "byte_fallback": false},
    })
}

fn added(content: &str, id: usize, lstrip: bool) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": lstrip, "rstrip": false, "normalized": false, "special": true})
}

fn special(id: &str, type_id: u32) -> Value {
    json!({"SpecialToken": {"id": id, "type_id": type_id}})
}

fn sequence(id: &str, type_id: u32) -> Value {
    json!({"Sequence": {"id": id, "type_id": type_id}})
}

/// The tokenizer that goes with an architecture.
pub(crate) fn tokenizer(architecture: Architecture) -> Value {
    match architecture {
        Architecture::Bert => bert_tokenizer(),
        Architecture::Roberta => roberta_tokenizer(),
        Architecture::XlmRoberta | Architecture::Camembert => xlm_roberta_tokenizer(),
    }
}

/// A configuration that can be served, of one layer.
pub(crate) fn config(architecture: Architecture) -> Value {
    let roberta = architecture.is_roberta_family();
    json!({
        "architectures": [architecture.name()],
        "model_type": architecture.model_type(),
        "id2label": {"0": "LABEL_0"},
        "vocab_size": 400,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": if roberta { 514 } else { 512 },
        "type_vocab_size": if roberta { 1 } else { 2 },
        "pad_token_id": u32::from(roberta),
        "layer_norm_eps": if roberta { 1e-5 } else { 1e-12 },
        "hidden_act": "gelu",
        "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity",
    })
}

/// A small safetensors file: `names`, each a 2 × 3 matrix of floats counting up from the given number.
pub(crate) fn safetensors(names: &[(&str, f32)]) -> Vec<u8> {
    let data: Vec<(String, Vec<u8>)> = names
        .iter()
        .map(|(name, first)| {
            (
                (*name).to_owned(),
                (0..6).flat_map(|i| (first + i as f32).to_le_bytes()).collect(),
            )
        })
        .collect();
    let views = data.iter().map(|(name, bytes)| {
        (
            name.clone(),
            FileTensor::new(safetensors::Dtype::F32, vec![2, 3], bytes).unwrap(),
        )
    });
    safetensors::serialize(views, None).unwrap()
}

/// Writes all files of a checkpoint.
pub(crate) fn write_checkpoint(dir: &Path, architecture: Architecture) {
    std::fs::create_dir_all(dir).unwrap();
    write_json(dir, "config.json", &config(architecture));
    write_json(dir, "tokenizer.json", &tokenizer(architecture));
    write_json(dir, "tokenizer_config.json", &json!({"model_max_length": 512}));
    std::fs::write(
        dir.join("model.safetensors"),
        safetensors(&[("classifier.weight", 1.0)]),
    )
    .unwrap();
}

/// Copies a whole small checkpoint of `tests/reference`, for tests that change a file of it.
pub(crate) fn copy_reference(name: &str, dir: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(name);
    for file in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
    ] {
        if from.join(file).is_file() {
            std::fs::copy(from.join(file), dir.join(file)).unwrap();
        }
    }
}

/// Changes a JSON file of a checkpoint.
pub(crate) fn change_json(dir: &Path, name: &str, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&std::fs::read(dir.join(name)).unwrap()).unwrap();
    change(&mut value);
    write_json(dir, name, &value);
}

/// Changes the elements of one tensor of a checkpoint, which has to be of single precision.
pub(crate) fn change_tensor(dir: &Path, name: &str, change: impl FnOnce(&mut [f32])) {
    let path = dir.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let info = metadata.info(name).unwrap();
    assert_eq!(info.dtype, safetensors::Dtype::F32);
    let (start, end) = info.data_offsets;
    let range = 8 + header + start..8 + header + end;
    let mut values: Vec<f32> = bytes[range.clone()]
        .as_chunks::<4>()
        .0
        .iter()
        .map(|&x| f32::from_le_bytes(x))
        .collect();
    change(&mut values);
    let changed: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
    bytes[range].copy_from_slice(&changed);
    std::fs::write(path, bytes).unwrap();
}

pub(crate) fn write_json(dir: &Path, name: &str, value: &Value) {
    std::fs::write(dir.join(name), serde_json::to_vec_pretty(value).unwrap()).unwrap();
}

/// Texts that have broken tokenizers before.
pub(crate) fn hard_texts() -> Vec<String> {
    let mut texts: Vec<String> = [
        "",
        " ",
        "\n\t \u{a0}\u{3000}",
        "the cat sat on the mat",
        "The  CAT   sat, on\tthe\nmat!",
        "naïve café STRASSE straße e\u{301}",
        "東京は日本語です",
        "مرحبا שלום \u{202e}abc\u{202c}",
        "🦀🦀 👩\u{200d}👩\u{200d}👧 🇩🇪",
        "[SEP] [CLS] the [PAD] cat [MASK]",
        "<s> the </s></s> cat <pad> <mask>",
        "a[SEP]b</s>c",
        "\u{0}\u{fffd}\u{feff}zero",
        "ﬁne ½ Ⅷ ｆｕｌｌ",
        "##ing ##s Ġthe ▁the",
        "-- ''\"\" (( .. ,, !? ",
        "  leading and trailing  ",
        "it's I'm we'll they've",
    ]
    .map(str::to_owned)
    .to_vec();
    texts.push("machine learning ".repeat(10));
    texts.push("deep networks and pizza. ".repeat(16));
    texts.push("東京".repeat(20));
    texts.push("x".repeat(120));
    texts.push(format!("{} [SEP] {}", "the cat ".repeat(12), "مرحبا ".repeat(6)));
    texts
}
