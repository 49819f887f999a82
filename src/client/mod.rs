//! A caller of the reranking service.
