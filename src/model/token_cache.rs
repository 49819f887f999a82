//! Tokens of documents that come again and again, kept within a bound of bytes.
//!
//! The key is the text itself, compared whole, so another text's tokens are never given out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

/// What an entry takes besides text and tokens, about.
const ENTRY_BYTES: usize = 96;
/// Bytes of a usual entry, for the first size of the tables.
const USUAL_BYTES: u64 = 1024;

/// What a cache has done so far, and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Found.
    pub hits: u64,
    /// Looked for and not found.
    pub misses: u64,
    /// What it holds.
    pub entries: u64,
}

/// Hits and misses, counted by many threads.
#[derive(Debug, Default)]
pub(crate) struct HitCounter {
    hits: AtomicU64,
    misses: AtomicU64,
}

impl HitCounter {
    pub(crate) fn count(&self, hits: usize, misses: usize) {
        self.hits.fetch_add(hits as u64, Ordering::Relaxed);
        self.misses.fetch_add(misses as u64, Ordering::Relaxed);
    }

    pub(crate) fn read(&self, entries: usize) -> CacheCounts {
        CacheCounts {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            entries: entries as u64,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct TokenCache {
    cache: Cache<Box<str>, Arc<[u32]>, Bytes>,
    counter: HitCounter,
}

#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<Box<str>, Arc<[u32]>> for Bytes {
    fn weight(&self, text: &Box<str>, ids: &Arc<[u32]>) -> u64 {
        (text.len() + 4 * ids.len() + ENTRY_BYTES) as u64
    }
}

impl TokenCache {
    pub(super) fn new(bytes_max: u64) -> TokenCache {
        let entries = usize::try_from(bytes_max / USUAL_BYTES).unwrap_or(usize::MAX).max(16);
        TokenCache {
            cache: Cache::with_weighter(entries, bytes_max, Bytes),
            counter: HitCounter::default(),
        }
    }

    /// The tokens that were kept for this very text.
    pub(super) fn get(&self, text: &str) -> Option<Arc<[u32]>> {
        let found = self.cache.get(text);
        let hit = usize::from(found.is_some());
        self.counter.count(hit, 1 - hit);
        found
    }

    pub(super) fn insert(&self, text: &str, ids: &[u32]) {
        self.cache.insert(text.into(), ids.into());
    }

    pub(super) fn counts(&self) -> CacheCounts {
        self.counter.read(self.cache.len())
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.cache.weight()
    }
}
