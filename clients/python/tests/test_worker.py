"""Calls to a real worker process with the built-in model."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import NatsServer, Worker, options, until

from nats_rerank import BlockingReranker, Reranker

QUERY = "machine learning algorithms"
DOCUMENTS = ["Pizza recipes for beginners", "ML algorithms and optimization", "The history of the bicycle"]


async def test_a_worker_from_its_start_to_its_end(own_server: NatsServer, tmp_path: Path) -> None:
    async with await Reranker.connect(own_server.url, options()) as reranker:
        assert (await reranker.rerank(QUERY, DOCUMENTS)).reason == "no_responders"
        worker = Worker(tmp_path, own_server.url, "limits.documents_max=50", "model.max_length=64")
        try:
            answer = await reranker.rerank(QUERY, DOCUMENTS)
            assert answer.documents[0] == DOCUMENTS[1]
            assert sorted(ranked.index for ranked in answer) == [0, 1, 2]
            assert all(ranked.score is not None and 0 < ranked.score < 1 for ranked in answer)
            assert (answer.model, len(answer.workers)) == ("builtin", 1)

            raw = await reranker.rerank(QUERY, DOCUMENTS, 2, raw_scores=True)
            assert raw.documents == answer.documents[:2]
            assert raw.items[0].score != answer.items[0].score

            assert (await reranker.rerank(QUERY, DOCUMENTS * 20)).kind == "too_large"
            assert (await reranker.rerank(QUERY, DOCUMENTS, model="another")).kind == "unknown_model"
            assert (await reranker.rerank(QUERY, ["word " * 200], truncate=False)).kind == "invalid_request"

            with BlockingReranker.connect(own_server.url, options()) as blocking:
                assert blocking.rerank(QUERY, DOCUMENTS, 1).documents == [DOCUMENTS[1]]

            worker.pause()
            assert (await reranker.rerank(QUERY, DOCUMENTS, budget_ms=100)).reason == "timed_out"
            worker.resume()

            async def answered() -> bool:
                return (await reranker.rerank(QUERY, DOCUMENTS)).is_reranked

            await until(answered)
        finally:
            worker.stop()
        answer = await reranker.rerank(QUERY, DOCUMENTS, 2)
        assert (answer.reason, answer.documents) == ("no_responders", DOCUMENTS[:2])


async def test_parts_of_a_large_list_come_together_in_one_order(shared_server: NatsServer, tmp_path: Path) -> None:
    words = ["machine", "learning", "pizza", "bicycle", "history", "optimization", "algorithms", "garden"]
    documents = [" ".join(words[(place * step) % 8] for step in range(1, 90)) for place in range(160)]
    assert sum(map(len, documents)) > 65_536
    worker = Worker(tmp_path, shared_server.url, "model.precision=fp32")
    try:
        async with await Reranker.connect(shared_server.url, options(raw_scores=True)) as reranker:
            answer = await reranker.rerank(QUERY, documents)
            assert (answer.order, answer.partial, len(answer.items)) == ("model", None, len(documents))
            scores = [ranked.score for ranked in answer if ranked.score is not None]
            assert scores == sorted(scores, reverse=True)
            best, worst = answer.items[0], answer.items[-1]
            alone = await reranker.rerank(QUERY, [worst.item, best.item])
            assert [ranked.score for ranked in alone] == pytest.approx([best.score, worst.score], abs=1e-3)
    finally:
        worker.stop()
