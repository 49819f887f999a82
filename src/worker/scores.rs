//! Scores that were computed before, kept within a bound of entries.
//!
//! A logit depends on the pair's tokens and on the model in its precision on its device. A cache belongs to one engine for life,
//! so the tokens are all that a key has to hold; texts, limits and cuts are in them already. Kept is not the tokens but
//! their HMAC-SHA256 under a random key of this process, of which 128 bits are compared: two pairs that share them are not to
//! be found, neither by chance (2^24 entries and 2^40 look-ups: 2^-64) nor by somebody who does not know the key.

use std::collections::HashMap;

use quick_cache::sync::Cache;
use ring::hmac;
use ring::rand::SystemRandom;

use crate::model::tokenizer::{CacheCounts, HitCounter, PairTokens};

/// Names a pair.
pub(super) type PairKey = u128;

/// See the module.
pub(super) struct ScoreCache {
    key: hmac::Key,
    logits: Cache<PairKey, f32>,
    counter: HitCounter,
}

/// What is known of a request's pairs.
pub(super) struct Known {
    /// One for each pair.
    pub(super) keys: Vec<PairKey>,
    /// One for each pair; NaN where none is known.
    pub(super) logits: Vec<f32>,
}

impl ScoreCache {
    /// For at most so many scores; `None` where the system has no random numbers.
    pub(super) fn new(scores_max: usize) -> Option<ScoreCache> {
        Some(ScoreCache {
            key: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok()?,
            logits: Cache::new(scores_max),
            counter: HitCounter::default(),
        })
    }

    /// Looks up what is known. Equal pairs of a request share one answer, whatever happens meanwhile: they have to tie.
    pub(super) fn look_up(&self, pairs: &[PairTokens]) -> Known {
        let mut bytes = Vec::new();
        let keys: Vec<PairKey> = pairs.iter().map(|pair| self.key_of(pair, &mut bytes)).collect();
        let mut seen: HashMap<PairKey, f32> = HashMap::with_capacity(keys.len());
        let logits: Vec<f32> = keys
            .iter()
            .map(|key| {
                *seen
                    .entry(*key)
                    .or_insert_with(|| self.logits.get(key).unwrap_or(f32::NAN))
            })
            .collect();
        let misses = logits.iter().filter(|logit| logit.is_nan()).count();
        self.counter.count(logits.len() - misses, misses);
        Known { keys, logits }
    }

    /// Keeps the logit of a pair that was computed; finite.
    pub(super) fn insert(&self, key: PairKey, logit: f32) {
        debug_assert!(logit.is_finite());
        self.logits.insert(key, logit);
    }

    pub(super) fn counts(&self) -> CacheCounts {
        self.counter.read(self.logits.len())
    }

    fn key_of(&self, pair: &PairTokens, bytes: &mut Vec<u8>) -> PairKey {
        bytes.clear();
        // Both lists are of this one length, so no other pair is written like this.
        bytes.extend((pair.ids.len() as u64).to_le_bytes());
        for id in pair.ids.iter().chain(&pair.type_ids) {
            bytes.extend(id.to_le_bytes());
        }
        let tag = hmac::sign(&self.key, bytes);
        let mut key = [0; 16];
        key.copy_from_slice(&tag.as_ref()[..16]);
        PairKey::from_le_bytes(key)
    }
}

impl std::fmt::Debug for ScoreCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScoreCache")
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(ids: &[u32], type_ids: &[u32]) -> PairTokens {
        PairTokens {
            ids: ids.to_vec(),
            type_ids: type_ids.to_vec(),
            truncated: false,
        }
    }

    #[test]
    fn a_score_belongs_to_its_tokens_and_types_alone() {
        let cache = ScoreCache::new(100).unwrap();
        let pairs = [
            pair(&[1, 2, 3], &[0, 0, 1]),
            pair(&[1, 2, 3], &[0, 1, 1]),
            pair(&[1, 2], &[0, 0]),
            pair(&[3, 2, 1], &[0, 0, 1]),
            pair(&[1, 2, 3, 0], &[0, 1, 0, 0]),
        ];
        let known = cache.look_up(&pairs);
        assert!(known.logits.iter().all(|logit| logit.is_nan()));
        for (place, key) in known.keys.iter().enumerate() {
            cache.insert(*key, place as f32 + 0.1);
        }
        let cut = PairTokens {
            truncated: true,
            ..pairs[0].clone()
        };
        assert_eq!(cache.look_up(&pairs).logits, [0.1, 1.1, 2.1, 3.1, 4.1]);
        assert_eq!(
            cache.look_up(&[cut]).logits,
            [0.1],
            "the same pair, cut from another text"
        );
        assert_eq!(
            cache.counts(),
            CacheCounts {
                hits: 6,
                misses: 5,
                entries: 5
            }
        );
        // Another process, or another model, has another key.
        let other = ScoreCache::new(100).unwrap();
        assert_ne!(other.look_up(&pairs).keys, known.keys);
    }

    #[test]
    fn it_holds_no_more_than_it_may() {
        let cache = ScoreCache::new(50).unwrap();
        for id in 0..5_000 {
            let known = cache.look_up(&[pair(&[id], &[0])]);
            cache.insert(known.keys[0], id as f32);
        }
        let entries = cache.counts().entries;
        assert!((1..=50).contains(&entries), "{entries}");
    }
}
