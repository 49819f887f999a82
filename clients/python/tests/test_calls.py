"""Calls over a real nats-server, answered by responders that say what the test wants."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import nats
import pytest
from conftest import NatsServer, Responder, options, ranked, refusal, score_of, silent, until

from nats_rerank import BlockingReranker, BreakerOptions, Reranked, Reranker

DOCUMENTS = ["b 2", "a 1", "c 3"]


def is_ann(answer: Reranked[Any], documents: list[Any], reason: str) -> bool:
    """Whether the documents came back as they were, for this reason."""
    kept = [(ranked.item, ranked.index, ranked.score) for ranked in answer.items]
    assert (answer.order, answer.reason) == ("ann", reason), answer
    return kept == [(document, index, None) for index, document in enumerate(documents)]


async def test_the_callers_own_items_come_back_best_first(shared_server: NatsServer, responder: Responder) -> None:
    @dataclass(eq=False)
    class Hit:
        body: str

    hits = [Hit(text) for text in DOCUMENTS]
    async with await Reranker.connect(shared_server.url, options()) as reranker:
        answer = await reranker.rerank("q", hits, 2, text=lambda hit: hit.body)
        assert answer.is_reranked
        assert [ranked.item for ranked in answer] == [hits[2], hits[0]]
        assert [(ranked.index, ranked.score) for ranked in answer] == [(2, 3.0), (0, 2.0)]
        assert (answer.model, answer.workers, answer.partial) == ("scripted", ("worker-1",), None)
        assert (await reranker.rerank("q", [{"text": text} for text in DOCUMENTS], 1)).documents == [{"text": "c 3"}]
        assert (await reranker.rerank("q", iter(DOCUMENTS), 9)).documents == ["c 3", "b 2", "a 1"]
        empty: list[str] = []
        assert (await reranker.rerank("q", empty)).order == "model"
        assert (await reranker.rerank("q", DOCUMENTS, 0)).items == []
    assert len(responder.requests) == 3
    assert responder.requests[0] == {"query": "q", "top_k": 2, "documents": DOCUMENTS}


async def test_the_remaining_budget_and_the_options_are_sent(shared_server: NatsServer, responder: Responder) -> None:
    async with await Reranker.connect(shared_server.url, options(raw_scores=True, model="m")) as reranker:
        await reranker.rerank("q", DOCUMENTS, budget_ms=20_000)
        await reranker.rerank("q", DOCUMENTS, raw_scores=False, truncate=False, model="n")
    assert 0 < float(responder.headers[0]["Rerank-Timeout-Ms"]) <= 20_000
    assert responder.headers[0]["Content-Type"] == "application/json"
    assert responder.requests[0] == {"query": "q", "raw_scores": True, "model": "m", "documents": DOCUMENTS}
    assert responder.requests[1] == {"query": "q", "truncate": False, "model": "n", "documents": DOCUMENTS}


async def test_the_least_score_leaves_out_what_is_below(shared_server: NatsServer, responder: Responder) -> None:
    async with await Reranker.connect(shared_server.url, options()) as reranker:
        answer = await reranker.rerank("q", DOCUMENTS, 2, min_score=2.5)
        assert [(ranked.index, ranked.score) for ranked in answer] == [(2, 3.0)]
        assert (answer.below_min_score, answer.order) == (1, "model")
        answer = await reranker.rerank("q", DOCUMENTS, min_score=3)
        assert (answer.documents, answer.below_min_score) == (["c 3"], 2)
        assert (await reranker.rerank("q", DOCUMENTS, min_score=9)).items == []
        wrong = await reranker.rerank("q", DOCUMENTS, min_score="much")  # type: ignore[arg-type]
        assert (wrong.order, wrong.kind) == ("ann", "invalid_request")
    # Nobody has to know of it.
    assert all("min_score" not in request for request in responder.requests)


async def test_half_a_character_is_sent_as_the_replacement_character(
    shared_server: NatsServer, responder: Responder
) -> None:
    async with await Reranker.connect(shared_server.url, options()) as reranker:
        assert (await reranker.rerank("half \ud83d", ["\ud83d\ude00 \udc00 1"])).is_reranked
    assert responder.requests[0] == {"query": "half \ufffd", "documents": ["\U0001f600 \ufffd 1"]}


async def test_without_workers_and_without_answers(shared_server: NatsServer, responder: Responder) -> None:
    responder.answer = silent
    async with await Reranker.connect(shared_server.url, options()) as reranker:
        began = time.monotonic()
        answer = await reranker.rerank("q", DOCUMENTS, 2, budget_ms=80)
        assert is_ann(answer, DOCUMENTS[:2], "timed_out")
        assert time.monotonic() - began >= 0.08
    async with await Reranker.connect(shared_server.url, options(subject="rerank.v1.nobody")) as reranker:
        assert is_ann(await reranker.rerank("q", DOCUMENTS), DOCUMENTS, "no_responders")


@pytest.mark.parametrize(
    "answer",
    [
        b"hello",
        b"",
        {"rankings": [{"index": 0, "score": 1.0}], "model": "m"},
        {"rankings": [{"index": 7, "score": 1.0}] * 3, "model": "m"},
        {"rankings": [{"index": index, "score": float("nan")} for index in range(3)], "model": "m"},
    ],
)
async def test_bad_replies(shared_server: NatsServer, responder: Responder, answer: Any) -> None:
    responder.answer = lambda _: answer
    async with await Reranker.connect(shared_server.url, options()) as reranker:
        assert is_ann(await reranker.rerank("q", DOCUMENTS), DOCUMENTS, "bad_reply")


async def test_refusals_are_told_and_those_of_full_workers_retried(
    shared_server: NatsServer, responder: Responder
) -> None:
    async with await Reranker.connect(shared_server.url, options()) as reranker:
        responder.answer = refusal(500, "internal")
        answer = await reranker.rerank("q", DOCUMENTS)
        assert is_ann(answer, DOCUMENTS, "refused")
        assert (answer.kind, answer.detail, len(responder.requests)) == ("internal", "told in the body", 1)

        responder.answer = refusal(429, "overloaded")
        assert (await reranker.rerank("q", DOCUMENTS)).kind == "overloaded"
        assert len(responder.requests) == 4, "once, and twice more"
        left = [float(headers["Rerank-Timeout-Ms"]) for headers in responder.headers[1:]]
        assert left == sorted(left, reverse=True), "of one budget"

        def once(request: dict[str, Any]) -> Any:
            responder.answer = ranked
            return refusal(429, "unavailable")(request)

        responder.answer = once
        assert (await reranker.rerank("q", DOCUMENTS)).is_reranked


async def test_calls_that_make_no_sense_are_not_sent(shared_server: NatsServer, responder: Responder) -> None:
    async with await Reranker.connect(shared_server.url, options()) as reranker:
        for wrong in (
            await reranker.rerank(" ", DOCUMENTS),
            await reranker.rerank(None, DOCUMENTS),  # type: ignore[arg-type]
            await reranker.rerank("q", DOCUMENTS, -1),
            await reranker.rerank("q", DOCUMENTS, text=lambda text: text[99]),
        ):
            assert is_ann(wrong, DOCUMENTS, "refused")
            assert wrong.kind == "invalid_request"
        assert is_ann(await reranker.rerank("q", [1, 2], 1), [1], "refused")
        assert is_ann(await reranker.rerank("q", DOCUMENTS, budget_ms=0), DOCUMENTS, "timed_out")
    assert responder.requests == []


async def test_a_list_larger_than_a_message_is_split_and_merged(
    shared_server: NatsServer, responder: Responder
) -> None:
    documents = [f"{'x' * 900} {place * 7919 % 200}" for place in range(200)]
    best = sorted(range(200), key=lambda place: -score_of(documents[place]))
    async with await Reranker.connect(shared_server.url, options()) as reranker:
        answer = await reranker.rerank("q", documents)
        assert [ranked.index for ranked in answer] == best
        assert (answer.partial, answer.order) == (None, "model")
        assert len(responder.requests) in (3, 4)
        answer = await reranker.rerank("q", documents, 5)
        assert [ranked.index for ranked in answer] == best[:5]

        # Parts are asked for logits: scores that the activation has saturated are all alike.
        assert all(request.get("raw_scores") for request in responder.requests)
        responder.activation = "sigmoid"
        answer = await reranker.rerank("q", documents)
        assert [ranked.index for ranked in answer] == best
        assert answer.items[0].score == 1.0
        assert answer.items[-1].score == 0.5
        responder.activation = "from the future"
        assert is_ann(await reranker.rerank("q", documents), documents, "bad_reply")
        assert (await reranker.rerank("q", documents, raw_scores=True)).items[0].score == 199
        assert (await reranker.rerank("q", DOCUMENTS)).is_reranked, "what fits is not in need of it"
        responder.activation = "identity"

        # One part is refused: what it held keeps its order behind the rest.
        responder.answer = lambda request: (
            refusal(500, "internal")(request) if documents[0] in request["documents"] else ranked(request)
        )
        answer = await reranker.rerank("q", documents)
        assert answer.partial is not None
        unscored = answer.partial.unscored
        assert (answer.partial.reason, answer.partial.kind) == ("refused", "internal")
        assert 50 <= unscored <= 100
        assert [ranked.index for ranked in answer] == [place for place in best if place >= unscored] + list(
            range(unscored)
        )
        assert all((ranked.score is None) == (ranked.index < unscored) for ranked in answer)

        # One document fits into no message.
        responder.answer = ranked
        answer = await reranker.rerank("q", ["a 1", "x" * 70_000, "b 2"])
        assert [ranked.index for ranked in answer] == [2, 0, 1]
        assert answer.partial is not None
        assert (answer.partial.unscored, answer.partial.kind) == (1, "too_large")
        asked = len(responder.requests)
        answer = await reranker.rerank("q" * 70_000, DOCUMENTS)
        assert is_ann(answer, DOCUMENTS, "refused")
        assert (answer.kind, len(responder.requests)) == ("too_large", asked)


async def test_after_failures_nothing_is_asked_until_a_try_succeeds(
    shared_server: NatsServer, responder: Responder
) -> None:
    # The pause outlasts any stall of a busy machine.
    breaker = BreakerOptions(calls=4, calls_min=4, failure_percent=100, pause_ms_min=3_600_000, pause_ms_max=3_600_000)
    responder.answer = silent
    async with await Reranker.connect(shared_server.url, options(budget_ms=50, breaker=breaker)) as reranker:
        for _ in range(4):
            assert (await reranker.rerank("q", DOCUMENTS)).reason == "timed_out"
        asked = len(responder.requests)
        answer = await reranker.rerank("q", DOCUMENTS, 1)
        assert is_ann(answer, DOCUMENTS[:1], "circuit_open")
        assert "timed_out" in (answer.detail or ""), "what opened it"
        assert len(responder.requests) == asked
        # Lists of another size are asked about all the same.
        assert (await reranker.rerank("q", ["x" * 5_000, *DOCUMENTS])).reason == "timed_out"

    # The same with a short pause: a try finds the workers again.
    breaker = BreakerOptions(calls=4, calls_min=4, failure_percent=100, pause_ms_min=50)
    async with await Reranker.connect(shared_server.url, options(budget_ms=500, breaker=breaker)) as reranker:
        for _ in range(4):
            assert (await reranker.rerank("q", DOCUMENTS)).reason == "timed_out"
        responder.answer = ranked

        async def reranked() -> bool:
            return (await reranker.rerank("q", DOCUMENTS)).is_reranked

        await until(reranked)
        await until(reranked)


async def test_what_costs_no_time_or_is_the_calls_own_doing_opens_nothing(
    shared_server: NatsServer, responder: Responder
) -> None:
    breaker = BreakerOptions(calls=4, calls_min=4, failure_percent=100, pause_ms_min=3_600_000, pause_ms_max=3_600_000)
    async with await Reranker.connect(shared_server.url, options(breaker=breaker, retries_max=2)) as reranker:
        for answer, kind, asked in [
            (refusal(400, "invalid_request"), "invalid_request", 1),
            (refusal(500, "internal"), "internal", 1),
            (refusal(429, "overloaded"), "overloaded", 3),
            (refusal(429, "overloaded", "worker"), "overloaded", 3),
            # What an idle worker would refuse as well is not asked again.
            (refusal(429, "overloaded", "request"), "overloaded", 1),
            (refusal(504, "deadline_exceeded", "request"), "deadline_exceeded", 1),
        ]:
            responder.answer = answer
            for _ in range(8):
                before = len(responder.requests)
                assert (await reranker.rerank("q", DOCUMENTS)).kind == kind
                assert len(responder.requests) - before == asked
        responder.answer = silent
        for _ in range(8):
            assert (await reranker.rerank("q", DOCUMENTS, budget_ms=5)).reason == "timed_out"
        responder.answer = ranked
        assert (await reranker.rerank("q", DOCUMENTS)).is_reranked


async def test_calls_side_by_side_and_cancelled_ones(shared_server: NatsServer, responder: Responder) -> None:
    async with await Reranker.connect(shared_server.url, options()) as reranker:
        answers = await asyncio.gather(*(reranker.rerank("q", [f"a {n}", f"b {n + 1}"]) for n in range(100)))
        assert [answer.items[0].score for answer in answers] == [float(n + 1) for n in range(100)]
        responder.answer = silent
        call = asyncio.create_task(reranker.rerank("q", DOCUMENTS))

        async def asked() -> bool:
            return len(responder.requests) == 101

        await until(asked)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

        client = reranker._core.connection.client
        assert client is not None

        async def nothing_is_left() -> bool:
            return not client._resp_map and not reranker._core._stragglers and not reranker._core._waiting

        await until(nothing_is_left)
        responder.answer = ranked
        assert (await reranker.rerank("q", DOCUMENTS)).is_reranked


async def test_over_a_connection_of_the_program(shared_server: NatsServer, responder: Responder) -> None:
    client = await nats.connect(shared_server.url)
    async with Reranker.over(client, options()) as reranker:
        assert (await reranker.rerank("q", DOCUMENTS)).is_reranked
    assert client.is_connected
    await client.close()


async def test_the_blocking_client(shared_server: NatsServer, responder: Responder) -> None:
    def blocking() -> None:
        with BlockingReranker.connect(shared_server.url, options()) as reranker:
            assert reranker.rerank("q", DOCUMENTS, 1).documents == ["c 3"]
            responder.answer = silent
            assert is_ann(reranker.rerank("q", DOCUMENTS, budget_ms=80), DOCUMENTS, "timed_out")
            assert is_ann(reranker.rerank("", DOCUMENTS), DOCUMENTS, "refused")
        assert is_ann(reranker.rerank("q", DOCUMENTS), DOCUMENTS, "disconnected")
        reranker.close()

    await asyncio.to_thread(blocking)


async def test_a_call_on_another_event_loop_says_so_and_disturbs_nobody(
    shared_server: NatsServer, responder: Responder, caplog: pytest.LogCaptureFixture
) -> None:
    async with await Reranker.connect(shared_server.url, options()) as reranker:
        assert (await reranker.rerank("q", DOCUMENTS)).is_reranked

        async def elsewhere() -> Reranked[str]:
            answer = await reranker.rerank("q", DOCUMENTS, 2)
            with pytest.raises(RuntimeError, match="another event loop"):
                await reranker.close()
            return answer

        calls = [reranker.rerank("q", DOCUMENTS) for _ in range(20)]
        for _ in range(2):
            answer = await asyncio.to_thread(asyncio.run, elsewhere())
            assert is_ann(answer, DOCUMENTS[:2], "refused")
            assert answer.kind == "invalid_request"
            assert "another event loop" in (answer.detail or "")
        assert all(answer.is_reranked for answer in await asyncio.gather(*calls))
        assert (await reranker.rerank("q", DOCUMENTS)).is_reranked
    assert sum("another event loop" in record.message for record in caplog.records) == 1


async def test_numbers_of_numpy_are_numbers(shared_server: NatsServer, responder: Responder) -> None:
    for whole, real in numpy_numbers():
        settings = options(budget_ms=real, retries_max=whole)
        async with await Reranker.connect(shared_server.url, settings) as reranker:
            answer = await reranker.rerank("q", DOCUMENTS, whole, budget_ms=real)
            assert answer.is_reranked
            assert answer.documents == ["c 3", "b 2"]
            refused = await reranker.rerank("q", DOCUMENTS, True)
            assert is_ann(refused, DOCUMENTS, "refused")


def numpy_numbers() -> list[tuple[Any, Any]]:
    import numpy

    return [
        (numpy.int64(2), numpy.float32(20_000)),
        (numpy.uint8(2), numpy.int32(20_000)),
        (numpy.int32(2), numpy.float64(20_000)),
    ]
