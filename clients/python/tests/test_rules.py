"""The rules that need no server: options, the breaker's states, how lists are split, how replies are read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nats_rerank import BreakerOptions, Options
from nats_rerank._breaker import SIZE_CLASSES, Breaker, size_class
from nats_rerank._types import Missing
from nats_rerank._wire import HEADERS_BYTES_MAX, Part, Scores, activated, open_reply, split


@pytest.mark.parametrize(
    "wrong",
    [
        {"subject": "rerank.*"},
        {"subject": "rerank..score"},
        {"subject": "re rank"},
        {"budget_ms": 0},
        {"budget_ms": float("nan")},
        {"retries_max": 3},
        {"parts_max": 0},
        {"switch_bucket": "a.b"},
    ],
)
def test_options_out_of_range_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Options(**wrong)


def test_breaker_options_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match="calls_min"):
        BreakerOptions(calls=5, calls_min=6)
    with pytest.raises(ValueError, match="pause_ms_max"):
        BreakerOptions(pause_ms_min=100, pause_ms_max=99)


def test_the_environment_switches_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, enabled, expected in [("false", True, False), (" On ", False, True), ("", False, False)]:
        monkeypatch.setenv("RERANK_ENABLED", variable)
        assert Options(enabled=enabled).is_enabled() is expected
    monkeypatch.setenv("RERANK_ENABLED", "perhaps")
    assert Options(read_environment=False).is_enabled()
    with pytest.raises(ValueError, match="RERANK_ENABLED"):
        Options()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def call(breaker: Breaker, failed: Any, elapsed_ms: float = 1.0) -> bool:
    """One call; whether it was let through."""
    permit = breaker.admit()
    if permit is not None:
        breaker.record(permit, failed, elapsed_ms)
    return permit is not None


def test_the_breaker_opens_tries_and_closes() -> None:
    clock = Clock()
    breaker = Breaker(BreakerOptions(calls=4, calls_min=4, failure_percent=50, pause_ms_min=1000), clock)
    assert all(call(breaker, failed) for failed in (True, False, None, False))
    assert not breaker.is_open, "three outcomes of four are known"
    assert call(breaker, True)
    assert breaker.is_open
    assert not call(breaker, False)

    clock.now = 1.001
    probe = breaker.admit()
    assert probe is not None
    assert breaker.admit() is None, "one try at a time"
    breaker.record(probe, True, 1.0)
    clock.now += 1.001
    assert not call(breaker, False), "the pause has doubled"
    clock.now += 1.0
    assert call(breaker, None), "a try that says nothing about the fleet"
    assert breaker.is_open
    assert call(breaker, False)
    assert not breaker.is_open
    assert call(breaker, True)
    assert not breaker.is_open, "what was before is forgotten"


def test_each_size_class_is_four_times_the_one_before() -> None:
    assert [size_class(size) for size in (0, 1, 4096)] == [0, 0, 0]
    for number in range(1, SIZE_CLASSES - 1):
        most = 4096 * 4**number
        assert (size_class(most // 4 + 1), size_class(most)) == (number, number)
    assert size_class(10**12) == SIZE_CLASSES - 1


def test_slow_answers_open_the_breaker() -> None:
    breaker = Breaker(BreakerOptions(calls=2, calls_min=2, failure_percent=100, slow_ms=50), Clock())
    assert call(breaker, False, 49)
    assert call(breaker, False, 51)
    assert not breaker.is_open
    assert call(breaker, False, 51)
    assert breaker.is_open


def test_what_was_asked_before_the_circuit_opened_does_not_count_behind() -> None:
    clock = Clock()
    breaker = Breaker(BreakerOptions(calls=1, calls_min=1, pause_ms_min=10), clock)
    early = breaker.admit()
    assert early is not None
    assert call(breaker, True)
    breaker.record(early, False, 1.0)
    assert breaker.is_open
    clock.now = 1.0
    assert call(breaker, False)
    breaker.record(early, True, 1.0)
    assert not breaker.is_open


def test_a_list_that_fits_is_one_request() -> None:
    (part,) = split("käse", ['a "b"', "\ud800"], 1, {"raw_scores": True}, 1 << 20, 8)
    assert json.loads(part.body) == {"query": "käse", "raw_scores": True, "top_k": 1, "documents": ['a "b"', "\ufffd"]}
    assert (part.first, part.count, part.rankings) == (0, 2, 1)


def test_a_larger_list_is_split_into_parts_of_like_size() -> None:
    texts = [f"{place:03} " + "x" * (100 + 37 * place % 90) for place in range(200)]
    bytes_max = 4096
    parts = split("q", texts, None, {}, bytes_max, 64)
    assert [text for part in parts for text in json.loads(part.body)["documents"]] == texts
    assert [part.first for part in parts] == [sum(part.count for part in parts[:place]) for place in range(len(parts))]
    sizes = [len(part.body) + HEADERS_BYTES_MAX for part in parts]
    assert max(sizes) <= bytes_max
    assert min(sizes) > bytes_max / 2


def test_what_does_not_fit_is_left_out() -> None:
    texts = ["x" * 5000, "a", "x" * 5000, "b", "x" * 5000]
    parts = split("q", texts, None, {}, 4096, 8)
    assert [(part.first, json.loads(part.body)["documents"]) for part in parts] == [(1, ["a"]), (3, ["b"])]
    assert split("q" * 5000, ["a"], None, {}, 4096, 8) == []
    many = split("q", ["x" * 3000] * 9, None, {}, 4096, 4)
    assert [part.first for part in many] == [0, 1, 2, 3]


PART = Part(10, 2, 2, b"")
GOOD = [{"index": 1, "score": 2}, {"index": 0, "score": -1.5}]


def test_a_good_reply() -> None:
    body = json.dumps({"rankings": GOOD, "model": "m\n", "later": [{}]}).encode()
    headers = {"RERANK-WORKER": "w", "Rerank-Activation": "tanh"}
    assert open_reply(headers, body, PART) == Scores([(11, 2.0), (10, -1.5)], "m ", "w", "tanh")
    headers["Rerank-Activation"] = "from the future"
    assert open_reply(headers, body, PART) == Scores([(11, 2.0), (10, -1.5)], "m ", "w", None)


def test_activations() -> None:
    assert [activated("sigmoid", logit) for logit in (0.0, 1000.0, -1000.0)] == [0.5, 1.0, 0.0]
    assert activated("sigmoid", -2.0) == pytest.approx(0.11920292)
    assert activated("tanh", 0.5) == pytest.approx(0.46211716)
    assert activated("identity", -7.5) == -7.5


@pytest.mark.parametrize(
    "rankings",
    [
        None,
        {},
        GOOD[:1],
        [*GOOD, GOOD[0]],
        [GOOD[0], GOOD[0]],
        [GOOD[0], 7],
        [GOOD[0], {"index": 2, "score": 1}],
        [GOOD[0], {"index": -1, "score": 1}],
        [GOOD[0], {"index": False, "score": 1}],
        [GOOD[0], {"index": 0.0, "score": 1}],
        [GOOD[0], {"index": 0}],
        [GOOD[0], {"index": 0, "score": "1"}],
        [GOOD[0], {"index": 0, "score": True}],
        [GOOD[0], {"index": 0, "score": float("nan")}],
        [GOOD[0], {"index": 0, "score": float("-inf")}],
        [{"index": 1, "score": 10**400}, GOOD[1]],
        [GOOD[1], GOOD[0]],
    ],
)
def test_rankings_that_do_not_fit(rankings: Any) -> None:
    reply = open_reply(None, json.dumps({"rankings": rankings, "model": "m"}).encode(), PART)
    assert isinstance(reply, Missing)
    assert reply.reason == "bad_reply"


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"[]", b"null", b"[" * 100_000, json.dumps({"rankings": GOOD}).encode()]
)
def test_bodies_that_are_no_replies(body: bytes) -> None:
    reply = open_reply({}, body, PART)
    assert isinstance(reply, Missing)
    assert reply.reason == "bad_reply"


@pytest.mark.parametrize(
    ("code", "body", "kind"),
    [
        ("429", {"error": {"code": 429, "kind": "unavailable"}}, "unavailable"),
        ("413", {"error": {"code": 413, "kind": "from the future"}}, "too_large"),
        ("418", {"error": {"code": 418, "kind": "from the future"}}, "internal"),
        ("504", b"not JSON", "deadline_exceeded"),
        ("400", {"error": "text"}, "invalid_request"),
        ("?", [], "internal"),
    ],
)
def test_refusals(code: str, body: Any, kind: str) -> None:
    written = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = open_reply({"nats-service-error-code": code}, written, PART)
    assert isinstance(reply, Missing)
    assert (reply.reason, reply.kind) == ("refused", kind)


def test_a_stream_that_captures_the_subject_is_named() -> None:
    reply = open_reply(None, b'{"stream":"EVERYTHING","seq":7}', PART)
    assert isinstance(reply, Missing)
    assert reply.reason == "bad_reply"
    assert "`EVERYTHING` captures the subject" in (reply.detail or "")
