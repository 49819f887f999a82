//! A query and a document → the tokens of a pair, exactly as the checkpoint's own tokenizer would give them.
//!
//! A request holds one query and many documents, so the query is tokenized once. What the tokenizer's post-processor does to
//! a pair (where `[CLS]`, `</s>` and the two texts go, and which token type each gets) never depends on the texts
//! themselves; it is therefore learned once, by giving it two marked texts, and checked on others. A pair is then the query's
//! integers, copied, and the document's, written to their place at once. The tests hold all of this to
//! `Tokenizer::encode((query, document), true)`.
//!
//! BERT's own kind of tokenizer has a fast path (`wordpiece`); the library does the rest.

use std::path::Path;
use std::sync::OnceLock;

use tokenizers::{AddedToken, Tokenizer, TruncationDirection};

use super::error::ModelError;
use super::files::Checkpoint;
use super::object::Object;
use super::prefix;
use super::spec::ModelSpec;
use super::template::{Piece, check_template, kept, laid_out, learn_template, push_pieces};
pub use super::token_cache::CacheCounts;
#[cfg(feature = "worker")]
pub(crate) use super::token_cache::HitCounter;
use super::token_cache::TokenCache;
use super::tokenizer_class::token_types;
use super::tokenizer_files::{
    ReadTokenizer, Refused, follow_config, lower_first, read_tokenizer, truncation_direction,
};
use super::wordpiece::{Coverage, FastWordPiece};

/// Bytes of a tokenizer.json at most; the largest known has some 35 MB.
pub(super) const TOKENIZER_BYTES_MAX: u64 = 512 << 20;

/// Why a text could not be tokenized.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenizeError {
    /// The pair is longer than the model takes, and was not to be cut.
    #[error("the pair has {tokens} tokens; at most {tokens_max} are possible")]
    TooLong {
        /// Tokens of the whole pair, special tokens included.
        tokens: usize,
        /// The limit.
        tokens_max: usize,
    },
    /// The tokenizer failed; the reason holds none of the text.
    #[error("the tokenizer failed: {0}")]
    Failed(String),
}

/// A query's tokens, without special tokens, ready to be paired with documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryTokens {
    ids: Vec<u32>,
}

impl QueryTokens {
    /// How many tokens the query has, special tokens not counted.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// The ids of its tokens.
    #[cfg(feature = "worker")]
    pub(super) fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Whether the query has no token at all (white space only, say).
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// What a request wants of its pairs' lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairLimits {
    /// Cut a pair over its limit; false: refuse it.
    pub truncate: bool,
    /// A document keeps so many of its first tokens, whatever its pair may have.
    pub document_max: Option<usize>,
    /// A limit for the pair below the model's own, special tokens included. One token of each text is always left room for.
    pub pair_max: Option<usize>,
}

/// The tokens of a pair, special tokens included, never padded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairTokens {
    /// Token ids, each below the model's `vocab_size`.
    pub ids: Vec<u32>,
    /// Token types, one for each id; all 0 in the RoBERTa family.
    pub type_ids: Vec<u32>,
    /// Whether any token was cut off to keep to a limit.
    pub truncated: bool,
}

/// The checkpoint's tokenizer. One is shared by all threads.
#[derive(Debug)]
pub struct PairTokenizer {
    tokenizer: Tokenizer,
    /// The same, only faster, where there is such a one.
    fast: Option<FastWordPiece>,
    /// Documents' tokens, if they are to be kept.
    cache: OnceLock<TokenCache>,
    template: Vec<Piece>,
    /// Tokens that are left for the two texts together.
    texts_max: usize,
    length_max: usize,
    vocab_size: usize,
    direction: TruncationDirection,
    /// Whether a text may be tokenized up to a white space only (see [`prefix`]).
    prefix_exact: bool,
    /// Goes before every query.
    query_prompt: String,
    token_types: (bool, String),
    class_differences: Vec<String>,
}

impl PairTokenizer {
    /// Reads tokenizer.json, and tokenizer_config.json for what transformers takes from there.
    ///
    /// Errors: the file cannot be read, or does not fit the model (more tokens than the model has embeddings, token types
    /// that it does not know, a limit that leaves no room for the texts).
    pub fn open(checkpoint: &Checkpoint) -> Result<Self, ModelError> {
        let config = checkpoint.tokenizer_config.as_deref().map(Object::read).transpose()?;
        let ReadTokenizer {
            tokenizer,
            added_tokens,
            class_differences,
        } = read_tokenizer(checkpoint, config.as_ref())?;
        let mut ours = Self::new(
            tokenizer,
            &added_tokens,
            &checkpoint.tokenizer,
            config.as_ref(),
            &checkpoint.spec,
        )?;
        ours.class_differences = class_differences;
        Ok(ours)
    }

    fn new(
        mut tokenizer: Tokenizer,
        added: &[AddedToken],
        path: &Path,
        config: Option<&Object>,
        spec: &ModelSpec,
    ) -> Result<Self, ModelError> {
        let refused = Refused { path };
        let direction = truncation_direction(&tokenizer, config)?;
        // Some files bake in a length and a padding from training. Neither is ours.
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|error| refused.because(error.to_string()))?;
        if let Some(config) = config {
            follow_config(&mut tokenizer, config)?;
        }
        if spec.lowercase {
            lower_first(&mut tokenizer);
        }

        let tokens = tokenizer.get_vocab_size(false);
        if tokens == 0 {
            return Err(refused.because("its vocabulary is empty: it knows no token at all".to_owned()));
        }
        if tokens > spec.vocab_size {
            return Err(refused.because(format!(
                "has {tokens} tokens, but the model only {} embeddings (vocab_size): they do not belong together",
                spec.vocab_size
            )));
        }
        let mut template = learn_template(&tokenizer).map_err(|reason| refused.because(reason))?;
        let token_types = token_types(config, spec);
        if !token_types.0 {
            for piece in &mut template {
                let (Piece::Special { type_id, .. } | Piece::Query { type_id } | Piece::Document { type_id }) = piece;
                *type_id = 0;
            }
        }
        check_template(&template, spec).map_err(|reason| refused.because(reason))?;
        let specials = template
            .iter()
            .filter(|piece| matches!(piece, Piece::Special { .. }))
            .count();
        // At least one token of each text.
        if spec.length_max < specials + 2 {
            return Err(refused.because(format!(
                "adds {specials} special tokens to a pair, so that a limit of {} tokens (from {}) leaves no room for the texts",
                spec.length_max, spec.origins.length_max
            )));
        }
        let prefix_exact = direction == TruncationDirection::Right && prefix::is_exact(&tokenizer);
        Ok(PairTokenizer {
            fast: FastWordPiece::of(&tokenizer, added, spec.vocab_size),
            tokenizer,
            cache: OnceLock::new(),
            template,
            texts_max: spec.length_max - specials,
            length_max: spec.length_max,
            vocab_size: spec.vocab_size,
            direction,
            prefix_exact,
            query_prompt: spec
                .query_prompt
                .as_ref()
                .map(|prompt| prompt.text.clone())
                .unwrap_or_default(),
            token_types,
            class_differences: Vec::new(),
        })
    }

    /// Longest pair in tokens, special tokens included.
    pub fn length_max(&self) -> usize {
        self.length_max
    }

    /// What a pair looks like, for people: `[CLS] query [SEP] document [SEP]`.
    pub fn template(&self) -> String {
        let pieces = self.template.iter().map(|piece| match piece {
            Piece::Special { id, .. } => self.tokenizer.id_to_token(*id).unwrap_or_else(|| format!("token {id}")),
            Piece::Query { .. } => "query".to_owned(),
            Piece::Document { .. } => "document".to_owned(),
        });
        pieces.collect::<Vec<_>>().join(" ")
    }

    /// Whether texts go through a fast path of our own (those that spell a special token out excepted).
    pub fn is_fast(&self) -> bool {
        self.fast.is_some()
    }

    /// Whether the fast path takes this text, and is at its fastest: plain ASCII without a special token spelt out.
    pub fn is_quick(&self, text: &str) -> bool {
        self.fast
            .as_ref()
            .is_some_and(|fast| text.is_ascii() && !fast.spells_added_token(text))
    }

    /// From now on tokens of documents are kept, within so many bytes. Once; a second bound is not taken.
    pub fn cache_documents(&self, bytes_max: u64) {
        let _ = self.cache.set(TokenCache::new(bytes_max));
    }

    /// What the cache of documents' tokens has done; `None` without one.
    pub fn document_cache(&self) -> Option<CacheCounts> {
        self.cache.get().map(TokenCache::counts)
    }

    /// Bytes of the text that goes before every query; 0 without one.
    pub fn query_prompt_bytes(&self) -> usize {
        self.query_prompt.len()
    }

    /// Whether the model is given token types, and by what that was decided.
    pub fn token_types(&self) -> (bool, &str) {
        (self.token_types.0, &self.token_types.1)
    }

    /// What the tokenizer's class in transformers 5 builds otherwise than tokenizer.json has it; empty where they agree.
    pub fn class_differences(&self) -> &[String] {
        &self.class_differences
    }

    /// Tokenizes a query, once for all its documents: the checkpoint's prompt and the text, as one text.
    pub fn query(&self, text: &str) -> Result<QueryTokens, TokenizeError> {
        let mut ids = Vec::new();
        if self.query_prompt.is_empty() {
            self.push_ids(text, usize::MAX, &mut ids)?;
        } else {
            self.push_ids(&format!("{}{text}", self.query_prompt), usize::MAX, &mut ids)?;
        }
        Ok(QueryTokens { ids })
    }

    /// Tokenizes a document and joins it to the query. A pair over the limit is cut as transformers does it (the longer of
    /// the two first), or refused if it is not to be cut.
    pub fn pair(&self, query: &QueryTokens, document: &str, truncate: bool) -> Result<PairTokens, TokenizeError> {
        let limits = PairLimits {
            truncate,
            document_max: None,
            pair_max: None,
        };
        self.pair_within(query, document, limits)
    }

    /// [`Self::pair`] within limits of the request's own: the document is cut to its limit first, then the pair to its.
    pub fn pair_within(
        &self,
        query: &QueryTokens,
        document: &str,
        limits: PairLimits,
    ) -> Result<PairTokens, TokenizeError> {
        let truncate = limits.truncate;
        let specials = self.length_max - self.texts_max;
        let texts_max = limits.pair_max.map_or(self.texts_max, |pair_max| {
            pair_max.saturating_sub(specials).max(2).min(self.texts_max)
        });
        let document_max = limits.document_max.unwrap_or(usize::MAX);
        let enough = if truncate { self.enough(query) } else { usize::MAX };
        let enough = enough.min(document_max.saturating_add(1));
        // The document's tokens are written where they belong, behind all that stands before them: English has some four
        // bytes a token.
        let room = (document.len() / 4 + 8).min(enough);
        let mut ids = Vec::with_capacity(self.template.len() + query.len() + room);
        let document_at = self
            .template
            .iter()
            .position(|piece| matches!(piece, Piece::Document { .. }))
            .unwrap_or_default();
        let (before, behind) = self.template.split_at(document_at);
        push_pieces(before, &query.ids, &mut ids);
        let start = ids.len();
        self.push_document(document, enough, &mut ids)?;
        let document_cut = ids.len() - start > document_max;
        if document_cut {
            ids.truncate(start + document_max);
        }
        let document_len = ids.len() - start;
        let total = query.len() + document_len;
        let pair_cut = total > texts_max;
        if pair_cut && !truncate {
            return Err(TokenizeError::TooLong {
                tokens: total + specials,
                tokens_max: texts_max + specials,
            });
        }
        let truncated = pair_cut || document_cut;
        let (query_len, kept_len) = kept(query.len(), document_len, texts_max);
        if query_len < query.len() || (pair_cut && self.direction == TruncationDirection::Left) {
            let document = &ids[start..];
            let (ids, type_ids) = laid_out(
                &self.template,
                self.cut(&query.ids, query_len),
                self.cut(document, kept_len),
            );
            return Ok(PairTokens {
                ids,
                type_ids,
                truncated,
            });
        }
        ids.truncate(start + kept_len);
        push_pieces(behind, &query.ids, &mut ids);
        let mut type_ids = Vec::with_capacity(ids.len());
        for &piece in &self.template {
            let (len, type_id) = match piece {
                Piece::Special { type_id, .. } => (1, type_id),
                Piece::Query { type_id } => (query_len, type_id),
                Piece::Document { type_id } => (kept_len, type_id),
            };
            type_ids.resize(type_ids.len() + len, type_id);
        }
        Ok(PairTokens {
            ids,
            type_ids,
            truncated,
        })
    }

    /// More tokens of a document than this cannot change its pair: it is the longer text, and is cut.
    fn enough(&self, query: &QueryTokens) -> usize {
        match self.direction {
            TruncationDirection::Right => self.texts_max.max(query.len()) + 1,
            TruncationDirection::Left => usize::MAX,
        }
    }

    /// As [`Self::push_ids`], through the cache if there is one.
    fn push_document(&self, text: &str, enough: usize, ids: &mut Vec<u32>) -> Result<(), TokenizeError> {
        let Some(cache) = self.cache.get() else {
            return self.push_ids(text, enough, ids);
        };
        // So many are kept of a longer document, whatever its query: with all of them, that it is longer is known too.
        let kept_max = self.texts_max + 1;
        // A request's own limit must not leave a part of a document in the cache.
        let enough = match self.direction {
            TruncationDirection::Right => enough.max(kept_max),
            TruncationDirection::Left => usize::MAX,
        };
        if let Some(known) = cache.get(text)
            && (known.len() < kept_max || enough <= kept_max || self.direction == TruncationDirection::Left)
        {
            ids.extend_from_slice(&known);
            return Ok(());
        }
        let start = ids.len();
        self.push_ids(text, enough, ids)?;
        // The end of a text that is cut at the left is what counts.
        let kept = if self.direction == TruncationDirection::Right {
            (ids.len() - start).min(kept_max)
        } else {
            ids.len() - start
        };
        cache.insert(text, &ids[start..start + kept]);
        Ok(())
    }

    fn cut<'a>(&self, ids: &'a [u32], len: usize) -> &'a [u32] {
        match self.direction {
            TruncationDirection::Right => &ids[..len],
            TruncationDirection::Left => &ids[ids.len() - len..],
        }
    }

    /// Pushes the ids of a text, special tokens not added; a long text may be left once `enough` tokens are certain.
    fn push_ids(&self, text: &str, enough: usize, ids: &mut Vec<u32>) -> Result<(), TokenizeError> {
        let before = ids.len();
        if let Some(fast) = &self.fast {
            match fast.extend(text, enough, ids) {
                Coverage::Done => return Ok(()),
                Coverage::AddedToken => ids.truncate(before),
            }
        }
        if self.prefix_exact {
            for head in prefix::heads(text, enough) {
                self.push_by_library(head, ids)?;
                if ids.len() - before >= enough {
                    return Ok(());
                }
                ids.truncate(before);
            }
        }
        self.push_by_library(text, ids)
    }

    fn push_by_library(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizeError> {
        let encoding = self
            .tokenizer
            .encode_fast(text, false)
            .map_err(|error| TokenizeError::Failed(error.to_string()))?;
        if encoding.get_ids().iter().any(|&id| id as usize >= self.vocab_size) {
            let reason = format!(
                "it gave a token that the model has no embedding for (vocab_size {})",
                self.vocab_size
            );
            return Err(TokenizeError::Failed(reason));
        }
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
mod tests;
