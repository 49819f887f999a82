//! The table: which paths take requests, which dialect is spoken there, and what is particular to each dialect.

use super::{Dialect, ModelRule, Route, Scale};
use super::{hosted, lists, own, tei};

/// Every path that takes a request for a ranking. Docs, `openapi.json`, router, token and statistics follow it.
pub(in super::super) static ROUTES: &[Route] = &[
    Route {
        path: "/rerank",
        label: "rerank",
        dialect: &OWN,
        by_field: &[("texts", &TEI), ("property", &WEAVIATE)],
    },
    // LiteLLM asks vLLM and infinity in the same words, and reads a document as an object of the one, a string of the other.
    Route::plain("/infinity/rerank", "rerank", &INFINITY),
    Route::plain("/v1/rerank", "v1", &V1),
    Route::plain("/v2/rerank", "v2", &V2),
    Route::plain("/v3/rerank", "v3", &V1),
    Route {
        path: "/reranking",
        label: "reranking",
        dialect: &V1,
        by_field: &[("input", &MIXEDBREAD)],
    },
    Route {
        path: "/v1/reranking",
        label: "reranking",
        dialect: &V1,
        by_field: &[("input", &MIXEDBREAD)],
    },
    Route::plain("/models/rerank", "zeroentropy", &ZEROENTROPY),
    Route::plain("/v1/models/rerank", "zeroentropy", &ZEROENTROPY),
    Route::plain("/ranking", "ranking", &NVIDIA),
    Route::plain("/v1/ranking", "ranking", &NVIDIA),
    Route::plain("/v1/retrieval/{organization}/{model}/reranking", "ranking", &NVIDIA),
    Route::plain("/score", "score", &SCORE),
    Route::plain("/v1/score", "score", &SCORE),
];

/// What most hosted rerankers have in common.
const HOSTED: Dialect = Dialect {
    name: "hosted",
    query_field: "query",
    documents_field: "documents",
    model: ModelRule::ByName,
    scale: Scale::Relevance,
    returns_documents: false,
    top_zero_is_all: true,
    scores_pairs: false,
    documents_as_strings: false,
    answer: hosted::answer_v1,
    failure: hosted::failure_v1,
};

/// The wire's own shape, with what vLLM's, infinity's and llama.cpp's clients read at this path beside it.
pub(in super::super) static OWN: Dialect = Dialect {
    name: "own",
    scale: Scale::Both,
    answer: own::answer,
    failure: own::failure,
    ..HOSTED
};

/// infinity, for clients that do not say so themselves.
pub(in super::super) static INFINITY: Dialect = Dialect {
    name: "infinity",
    scale: Scale::Both,
    documents_as_strings: true,
    answer: own::answer,
    failure: own::failure,
    ..HOSTED
};

/// text-embeddings-inference.
pub(in super::super) static TEI: Dialect = Dialect {
    name: "tei",
    documents_field: "texts",
    model: ModelRule::Ignored,
    scale: Scale::Relevance,
    top_zero_is_all: false,
    answer: tei::answer,
    failure: tei::failure,
    ..HOSTED
};

/// Weaviate's reranker-transformers: scores in the request's order.
pub(in super::super) static WEAVIATE: Dialect = Dialect {
    name: "weaviate",
    model: ModelRule::Ignored,
    answer: lists::answer_weaviate,
    failure: tei::failure,
    ..HOSTED
};

/// Jina, and with it vLLM, LocalAI, Voyage, OpenVINO Model Server and Cohere's first interface.
pub(in super::super) static V1: Dialect = Dialect {
    name: "v1",
    // Who does not expect the texts ignores them; who does would stumble without.
    returns_documents: true,
    ..HOSTED
};

/// Cohere.
pub(in super::super) static V2: Dialect = Dialect {
    name: "v2",
    top_zero_is_all: false,
    answer: hosted::answer_v2,
    failure: hosted::failure_v2,
    ..HOSTED
};

/// Mixedbread.
pub(in super::super) static MIXEDBREAD: Dialect = Dialect {
    name: "mixedbread",
    documents_field: "input",
    answer: lists::answer_mixedbread,
    ..HOSTED
};

/// ZeroEntropy.
pub(in super::super) static ZEROENTROPY: Dialect = Dialect {
    name: "zeroentropy",
    answer: hosted::answer_zeroentropy,
    ..HOSTED
};

/// NVIDIA NIM: logits.
pub(in super::super) static NVIDIA: Dialect = Dialect {
    name: "nvidia",
    documents_field: "passages",
    scale: Scale::Logits,
    answer: lists::answer_nvidia,
    failure: lists::failure_nvidia,
    ..HOSTED
};

/// vLLM's scores of pairs, in the request's order.
pub(in super::super) static SCORE: Dialect = Dialect {
    name: "score",
    query_field: "text_1",
    documents_field: "text_2",
    scores_pairs: true,
    answer: lists::answer_score,
    ..HOSTED
};
