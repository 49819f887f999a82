use serde_json::json;
use tokenizers::{TruncationParams, TruncationStrategy};

use super::super::fixtures;
use super::super::spec::Architecture;
use super::super::template::marked;
use super::*;

const KINDS: [Architecture; 3] = [Architecture::Bert, Architecture::Roberta, Architecture::XlmRoberta];

fn checkpoint(architecture: Architecture, change: impl FnOnce(&Path)) -> (tempfile::TempDir, Checkpoint) {
    let dir = tempfile::tempdir().unwrap();
    fixtures::write_checkpoint(dir.path(), architecture);
    change(dir.path());
    let checkpoint = Checkpoint::open("test", dir.path(), None).unwrap();
    (dir, checkpoint)
}

fn open(architecture: Architecture, length_max: usize) -> (PairTokenizer, Tokenizer) {
    let (_dir, mut checkpoint) = checkpoint(architecture, |_| {});
    checkpoint.spec.length_max = length_max;
    let ours = PairTokenizer::open(&checkpoint).unwrap();
    // What transformers does with the same file: its own padding and truncation replaced.
    let mut reference = Tokenizer::from_file(&checkpoint.tokenizer).unwrap();
    reference.with_padding(None);
    let params = TruncationParams {
        max_length: length_max,
        strategy: TruncationStrategy::LongestFirst,
        stride: 0,
        direction: TruncationDirection::Right,
    };
    reference.with_truncation(Some(params)).unwrap();
    (ours, reference)
}

#[test]
fn pairs_are_those_of_the_checkpoints_own_tokenizer() {
    for architecture in KINDS {
        for length_max in [7, 33] {
            let (ours, reference) = open(architecture, length_max);
            let mut untruncated = reference.clone();
            untruncated.with_truncation(None).unwrap();
            for query in fixtures::hard_texts() {
                let tokens = ours.query(&query).unwrap();
                for document in fixtures::hard_texts() {
                    let expected = reference.encode((query.as_str(), document.as_str()), true).unwrap();
                    let pair = ours.pair(&tokens, &document, true).unwrap();
                    assert_eq!(
                        pair.ids,
                        expected.get_ids(),
                        "{architecture:?} {length_max} {query:?} {document:?}"
                    );
                    let types = if architecture.is_roberta_family() {
                        &vec![0; pair.ids.len()]
                    } else {
                        expected.get_type_ids()
                    };
                    assert_eq!(
                        pair.type_ids, types,
                        "{architecture:?} {length_max} {query:?} {document:?}"
                    );
                    let whole = untruncated
                        .encode((query.as_str(), document.as_str()), true)
                        .unwrap()
                        .len();
                    assert_eq!(pair.truncated, whole > length_max);
                    match ours.pair(&tokens, &document, false) {
                        Ok(uncut) => assert_eq!((uncut, whole <= length_max), (pair, true)),
                        Err(error) => {
                            assert_eq!(
                                error,
                                TokenizeError::TooLong {
                                    tokens: whole,
                                    tokens_max: length_max
                                }
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn the_left_end_is_cut_where_the_checkpoint_says_so() {
    let (_dir, mut checkpoint) = checkpoint(Architecture::Bert, |dir| {
        fixtures::write_json(dir, "tokenizer_config.json", &json!({"truncation_side": "left"}));
    });
    checkpoint.spec.length_max = 12;
    let ours = PairTokenizer::open(&checkpoint).unwrap();
    let mut reference = Tokenizer::from_file(&checkpoint.tokenizer).unwrap();
    reference.with_padding(None);
    let params = TruncationParams {
        max_length: 12,
        direction: TruncationDirection::Left,
        ..Default::default()
    };
    reference.with_truncation(Some(params)).unwrap();
    for query in fixtures::hard_texts() {
        for document in fixtures::hard_texts() {
            let expected = reference.encode((query.as_str(), document.as_str()), true).unwrap();
            let pair = ours.pair(&ours.query(&query).unwrap(), &document, true).unwrap();
            assert_eq!(pair.ids, expected.get_ids());
        }
    }
}

#[test]
fn longest_first_is_that_of_the_tokenizers_crate_for_every_small_size() {
    let encoding = |len: usize| marked(&vec![1; len], 0);
    for max in 1..14 {
        for query in 0..20 {
            for document in 0..20 {
                let params = TruncationParams {
                    max_length: max,
                    ..Default::default()
                };
                let (first, second) = tokenizers::utils::truncation::truncate_encodings(
                    encoding(query),
                    Some(encoding(document)),
                    &params,
                )
                .unwrap();
                let expected = (first.len(), second.unwrap().len());
                assert_eq!(kept(query, document, max), expected, "{query} {document} {max}");
            }
        }
    }
}

#[test]
fn long_documents_are_not_tokenized_to_their_end() {
    for architecture in KINDS {
        let (ours, reference) = open(architecture, 64);
        assert!(ours.prefix_exact, "{architecture:?}");
        // If the whole were looked at, this would take minutes in a debug build.
        let document = "the cat sat on the mat, naïve café! ".repeat(1 << 20);
        let query = ours.query("the cat").unwrap();
        let pair = ours.pair(&query, &document, true).unwrap();
        let expected = reference.encode(("the cat", &document[..36 * 64]), true).unwrap();
        assert_eq!(pair.ids, expected.get_ids());
        assert!(pair.truncated);
    }
}

#[test]
fn kept_documents_give_the_same_pairs() {
    for architecture in KINDS {
        let (plain, _) = open(architecture, 33);
        let (cached, _) = open(architecture, 33);
        cached.cache_documents(1 << 20);
        assert!(plain.document_cache().is_none());
        let long_query = "the cat ".repeat(40);
        let mut texts = fixtures::hard_texts();
        // Just below, at and above what a pair takes.
        texts.extend((26..36).map(|words| "the ".repeat(words)));
        for _ in 0..2 {
            for query in ["", "the cat", &long_query] {
                let tokens = plain.query(query).unwrap();
                for text in &texts {
                    for truncate in [true, false] {
                        assert_eq!(
                            cached.pair(&tokens, text, truncate),
                            plain.pair(&tokens, text, truncate),
                            "{architecture:?} {query:?} {text:?} {truncate}"
                        );
                    }
                }
            }
        }
        let counts = cached.document_cache().unwrap();
        assert_eq!(
            counts.entries as usize,
            texts.iter().collect::<std::collections::BTreeSet<_>>().len()
        );
        assert_eq!(counts.hits + counts.misses, 12 * texts.len() as u64);
        assert_eq!(counts.misses, counts.entries);
    }
}

#[test]
fn kept_documents_are_bounded_by_bytes() {
    let (tokenizer, _) = open(Architecture::Bert, 33);
    tokenizer.cache_documents(100_000);
    let query = tokenizer.query("the cat").unwrap();
    for number in 0..2_000 {
        tokenizer
            .pair(
                &query,
                &format!("document {number} {}", "the ".repeat(number % 50)),
                true,
            )
            .unwrap();
    }
    let cache = tokenizer.cache.get().unwrap();
    assert!(
        cache.bytes() <= 100_000 && cache.counts().entries > 10,
        "{} bytes",
        cache.bytes()
    );
}

#[test]
fn a_cut_at_the_left_keeps_whole_documents() {
    let (_dir, mut checkpoint) = checkpoint(Architecture::Bert, |dir| {
        fixtures::write_json(dir, "tokenizer_config.json", &json!({"truncation_side": "left"}));
    });
    checkpoint.spec.length_max = 12;
    let plain = PairTokenizer::open(&checkpoint).unwrap();
    let cached = PairTokenizer::open(&checkpoint).unwrap();
    cached.cache_documents(1 << 20);
    let query = plain.query("the cat").unwrap();
    for text in fixtures::hard_texts() {
        for truncate in [true, false, true] {
            assert_eq!(
                cached.pair(&query, &text, truncate),
                plain.pair(&query, &text, truncate)
            );
        }
    }
}

#[test]
fn a_requests_own_limits_cut_the_document_first_and_then_the_pair() {
    for architecture in KINDS {
        let (plain, _) = open(architecture, 33);
        let (cached, _) = open(architecture, 33);
        cached.cache_documents(1 << 20);
        let (short, _) = open(architecture, 12);
        let query = plain.query("the cat").unwrap();
        for text in fixtures::hard_texts() {
            let mut whole = Vec::new();
            plain.push_ids(&text, usize::MAX, &mut whole).unwrap();
            for document_max in [None, Some(1), Some(5), Some(1000)] {
                for pair_max in [None, Some(12), Some(1000)] {
                    let limits = PairLimits {
                        truncate: true,
                        document_max,
                        pair_max,
                    };
                    let pair = plain.pair_within(&query, &text, limits).unwrap();
                    let kept_ids = &whole[..whole.len().min(document_max.unwrap_or(usize::MAX))];
                    let by = if pair_max == Some(12) { &short } else { &plain };
                    let (query_len, kept_len) = super::kept(query.len(), kept_ids.len(), by.texts_max);
                    let (ids, type_ids) = laid_out(&plain.template, &query.ids[..query_len], &kept_ids[..kept_len]);
                    assert_eq!((&pair.ids, &pair.type_ids), (&ids, &type_ids), "{limits:?} {text:?}");
                    assert_eq!(pair.truncated, query_len + kept_len < query.len() + whole.len());
                    // Twice: once to fill the cache, once from it; and what it holds is the whole document.
                    for _ in 0..2 {
                        assert_eq!(cached.pair_within(&query, &text, limits).unwrap(), pair);
                    }
                    assert_eq!(cached.pair(&query, &text, true), plain.pair(&query, &text, true));
                }
            }
        }
        let limits = PairLimits {
            truncate: false,
            document_max: Some(2),
            pair_max: None,
        };
        // A document that was to be cut is no reason to refuse.
        assert!(plain.pair_within(&query, &"cat ".repeat(99), limits).is_ok());
        let least = PairLimits {
            truncate: true,
            document_max: None,
            pair_max: Some(1),
        };
        let specials = plain.length_max - plain.texts_max;
        assert_eq!(
            plain.pair_within(&query, "cat cat", least).unwrap().ids.len(),
            specials + 2
        );
    }
}

#[test]
fn heads_end_before_white_space_and_never_inside_a_character() {
    let text = "東京 日本 ab\u{a0}cd ef".repeat(50);
    let heads: Vec<&str> = prefix::heads(&text, 8).collect();
    assert!(!heads.is_empty());
    for head in heads {
        assert!(head.len() <= text.len() / 2);
        assert!(head.ends_with(|c: char| c.is_ascii_graphic()));
        assert!(text[head.len()..].starts_with(' '));
    }
    // Nowhere to cut, or nothing to win.
    assert_eq!(prefix::heads(&"東京".repeat(1000), 8).count(), 0);
    assert_eq!(prefix::heads("the cat", 8).count(), 0);
}

#[test]
fn unknown_steps_forbid_the_short_cut() {
    let change = |pointer: &str, value: serde_json::Value| {
        let mut json = fixtures::xlm_roberta_tokenizer();
        *json.pointer_mut(pointer).unwrap() = value;
        Tokenizer::from_bytes(serde_json::to_vec(&json).unwrap()).unwrap()
    };
    assert!(prefix::is_exact(&change("/version", json!("1.0"))));
    let metaspace =
        |split: bool| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": split});
    assert!(prefix::is_exact(&change("/pre_tokenizer", metaspace(true))));
    assert!(!prefix::is_exact(&change("/pre_tokenizer", metaspace(false))));
    assert!(!prefix::is_exact(&change("/pre_tokenizer", json!(null))));
    assert!(!prefix::is_exact(&change(
        "/normalizer",
        json!({"type": "Replace", "pattern": {"Regex": "a\\s+b"}, "content": "c"})
    )));
    assert!(!prefix::is_exact(&change(
        "/added_tokens/0/content",
        json!("two words")
    )));
}

#[test]
fn the_configuration_beside_the_tokenizer_counts() {
    let lowercase = |config: serde_json::Value| {
        let (_dir, checkpoint) = checkpoint(Architecture::Bert, |dir| {
            fixtures::write_json(dir, "tokenizer_config.json", &config)
        });
        let ours = PairTokenizer::open(&checkpoint).unwrap();
        ours.query("THE").unwrap() == ours.query("the").unwrap()
    };
    assert!(lowercase(json!({})));
    assert!(lowercase(json!({"tokenizer_class": "BertTokenizerFast"})));
    assert!(!lowercase(json!({"do_lower_case": false})));

    // A RoBERTa family tokenizer never tells token types; a BERT one does unless it is told not to.
    let types = |config: serde_json::Value| {
        let (_dir, checkpoint) = checkpoint(Architecture::Bert, |dir| {
            fixtures::write_json(dir, "tokenizer_config.json", &config)
        });
        let ours = PairTokenizer::open(&checkpoint).unwrap();
        ours.pair(&ours.query("the").unwrap(), "cat", true).unwrap().type_ids
    };
    assert_eq!(types(json!({})), [0, 0, 0, 1, 1]);
    assert_eq!(
        types(json!({"model_input_names": ["input_ids", "attention_mask"]})),
        [0; 5]
    );

    let space = |config: serde_json::Value| {
        let (_dir, checkpoint) = checkpoint(Architecture::Roberta, |dir| {
            fixtures::write_json(dir, "tokenizer_config.json", &config)
        });
        let ours = PairTokenizer::open(&checkpoint).unwrap();
        ours.query("the").unwrap() == ours.query(" the").unwrap()
    };
    assert!(!space(json!({})));
    assert!(space(json!({"add_prefix_space": true})));
}

#[test]
fn a_tokenizer_that_does_not_fit_the_model_is_refused() {
    let refused = |architecture: Architecture, pointer: &str, value: serde_json::Value| {
        let (_dir, checkpoint) = checkpoint(architecture, |dir| {
            let mut config = fixtures::config(architecture);
            *config.pointer_mut(pointer).unwrap() = value;
            fixtures::write_json(dir, "config.json", &config);
        });
        PairTokenizer::open(&checkpoint).unwrap_err().to_string()
    };
    let message = refused(Architecture::Bert, "/vocab_size", json!(20));
    assert!(
        message.contains("tokenizer.json") && message.contains("only 20 embeddings"),
        "{message}"
    );
    let message = refused(Architecture::Bert, "/type_vocab_size", json!(1));
    assert!(
        message.contains("token type 1") && message.contains("type_vocab_size"),
        "{message}"
    );
    let message = refused(Architecture::Roberta, "/max_position_embeddings", json!(7));
    assert!(message.contains("a limit of 5 tokens"), "{message}");
    // The same token types are no trouble where they are never told.
    let (_dir, fits) = checkpoint(Architecture::Roberta, |_| {});
    assert_eq!(fits.spec.type_vocab_size, 1);
    PairTokenizer::open(&fits).unwrap();
}

#[test]
fn a_token_without_an_embedding_is_an_error_when_it_turns_up() {
    let (_dir, mut checkpoint) = checkpoint(Architecture::Bert, |dir| {
        let mut tokenizer = fixtures::bert_tokenizer();
        let extra = json!({"id": 900, "content": "@@", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": false});
        tokenizer["added_tokens"].as_array_mut().unwrap().push(extra);
        fixtures::write_json(dir, "tokenizer.json", &tokenizer);
    });
    let vocabulary = Tokenizer::from_file(&checkpoint.tokenizer)
        .unwrap()
        .get_vocab_size(false);
    checkpoint.spec.vocab_size = vocabulary;
    let ours = PairTokenizer::open(&checkpoint).unwrap();
    let query = ours.query("the cat").unwrap();
    assert!(matches!(ours.query("the @@ cat"), Err(TokenizeError::Failed(_))));
    assert!(matches!(
        ours.pair(&query, "secret @@ cat", true),
        Err(TokenizeError::Failed(_))
    ));
    assert!(
        !ours
            .pair(&query, "secret @@", true)
            .unwrap_err()
            .to_string()
            .contains("secret")
    );
}

#[test]
fn a_broken_tokenizer_file_is_named() {
    let (_dir, checkpoint) = checkpoint(Architecture::Bert, |dir| {
        std::fs::write(dir.join("tokenizer.json"), b"{}").unwrap()
    });
    let error = PairTokenizer::open(&checkpoint).unwrap_err();
    assert!(matches!(&error, ModelError::Tokenizer { .. }), "{error}");
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
}

#[test]
fn odd_post_processors_are_refused() {
    let open = |pair: serde_json::Value| {
        let (_dir, checkpoint) = checkpoint(Architecture::Bert, |dir| {
            let mut tokenizer = fixtures::bert_tokenizer();
            tokenizer["post_processor"]["pair"] = pair;
            fixtures::write_json(dir, "tokenizer.json", &tokenizer);
        });
        PairTokenizer::open(&checkpoint).map(|_| ())
    };
    let a = json!({"Sequence": {"id": "A", "type_id": 0}});
    let b = json!({"Sequence": {"id": "B", "type_id": 1}});
    assert!(open(json!([a, b])).is_ok());
    let message = open(json!([a, a, b])).unwrap_err().to_string();
    assert!(message.contains("once each"), "{message}");
}

#[test]
fn one_tokenizer_serves_many_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<PairTokenizer>();
    shared::<QueryTokens>();
}
