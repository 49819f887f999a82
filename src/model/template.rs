//! What a pair looks like: where the two texts stand, which special tokens stand around them, and their token types.

use tokenizers::{Encoding, Token, Tokenizer};

use super::spec::ModelSpec;

/// A part of a pair, in the order of the template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    Special { id: u32, type_id: u32 },
    Query { type_id: u32 },
    Document { type_id: u32 },
}

/// Stand for the texts' tokens while the template is learned; no vocabulary reaches so far.
const QUERY_MARK: u32 = u32::MAX;
const DOCUMENT_MARK: u32 = u32::MAX - 1;

/// The ids of a pair and their types: the template with the texts in their places.
pub(super) fn laid_out(template: &[Piece], query: &[u32], document: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let len = template.len() + query.len() + document.len();
    let (mut ids, mut type_ids) = (Vec::with_capacity(len), Vec::with_capacity(len));
    for &piece in template {
        let type_id = match piece {
            Piece::Special { id, type_id } => {
                ids.push(id);
                type_id
            }
            Piece::Query { type_id } => {
                ids.extend_from_slice(query);
                type_id
            }
            Piece::Document { type_id } => {
                ids.extend_from_slice(document);
                type_id
            }
        };
        type_ids.resize(ids.len(), type_id);
    }
    (ids, type_ids)
}

/// Gives the post-processor two marked texts and reads the template off the result; then checks it on texts of other
/// lengths, and that a text alone, without special tokens, stays as it is (so a query may be tokenized alone).
pub(super) fn learn_template(tokenizer: &Tokenizer) -> Result<Vec<Piece>, String> {
    let process = |query: usize, document: usize| {
        let pair = tokenizer.post_process(
            marked(&vec![QUERY_MARK; query], 0),
            Some(marked(&vec![DOCUMENT_MARK; document], 1)),
            true,
        );
        pair.map_err(|error| format!("its post-processor failed: {error}"))
    };
    let sample = process(1, 1)?;
    let template: Vec<Piece> = sample
        .get_ids()
        .iter()
        .zip(sample.get_type_ids())
        .map(|(&id, &type_id)| match id {
            QUERY_MARK => Piece::Query { type_id },
            DOCUMENT_MARK => Piece::Document { type_id },
            id => Piece::Special { id, type_id },
        })
        .collect();
    let times = |wanted: fn(&Piece) -> bool| template.iter().filter(|piece| wanted(piece)).count();
    if times(|piece| matches!(piece, Piece::Query { .. })) != 1
        || times(|piece| matches!(piece, Piece::Document { .. })) != 1
    {
        return Err("its post-processor does not put query and document into a pair once each".to_owned());
    }
    for (query, document) in [(0, 0), (0, 3), (2, 0), (3, 5)] {
        let sample = process(query, document)?;
        let (ids, type_ids) = laid_out(&template, &vec![QUERY_MARK; query], &vec![DOCUMENT_MARK; document]);
        if sample.get_ids() != ids || sample.get_type_ids() != type_ids {
            return Err("its post-processor treats pairs of different lengths differently".to_owned());
        }
    }
    let alone = tokenizer
        .post_process(marked(&[QUERY_MARK, QUERY_MARK], 0), None, false)
        .map_err(|error| format!("its post-processor failed: {error}"))?;
    if alone.get_ids() != [QUERY_MARK, QUERY_MARK] {
        return Err("its post-processor changes a text even without special tokens".to_owned());
    }
    Ok(template)
}

/// An encoding as the tokenizer's model would hand it to the post-processor.
pub(super) fn marked(ids: &[u32], type_id: u32) -> Encoding {
    let tokens = ids.iter().map(|&id| Token::new(id, String::new(), (0, 0)));
    Encoding::from_tokens(tokens.collect(), type_id)
}

/// Refuses a template that names what the model does not have.
pub(super) fn check_template(template: &[Piece], spec: &ModelSpec) -> Result<(), String> {
    for &piece in template {
        if let Piece::Special { id, .. } = piece
            && id as usize >= spec.vocab_size
        {
            return Err(format!(
                "adds the special token {id} to a pair, but the model has only {} embeddings (vocab_size)",
                spec.vocab_size
            ));
        }
        let (Piece::Special { type_id, .. } | Piece::Query { type_id } | Piece::Document { type_id }) = piece;
        if type_id as usize >= spec.type_vocab_size {
            return Err(format!(
                "gives a pair the token type {type_id}, but the model knows only {} (type_vocab_size)",
                spec.type_vocab_size
            ));
        }
    }
    Ok(())
}

/// What stands before or behind the document.
pub(super) fn push_pieces(pieces: &[Piece], query: &[u32], ids: &mut Vec<u32>) {
    for piece in pieces {
        match piece {
            Piece::Special { id, .. } => ids.push(*id),
            Piece::Query { .. } => ids.extend_from_slice(query),
            Piece::Document { .. } => {}
        }
    }
}

/// How many tokens of each text stay when both together may have `max`: the "longest first" strategy, which cuts the longer
/// text down to the shorter one's length and then both alike. The odd token goes to the longer text.
pub(super) fn kept(query: usize, document: usize, max: usize) -> (usize, usize) {
    if query + document <= max {
        return (query, document);
    }
    let (shorter, longer_was_query) = if query > document {
        (document, true)
    } else {
        (query, false)
    };
    let (shorter, longer) = if shorter <= max / 2 {
        (shorter, max - shorter)
    } else {
        (max / 2, max - max / 2)
    };
    if longer_was_query {
        (longer, shorter)
    } else {
        (shorter, longer)
    }
}
