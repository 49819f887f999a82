"""Requests and replies as they are on the wire (JSON): written in parts that fit, read as from a stranger."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

from ._types import Missing, RefusalKind

CONTENT_TYPE = "Content-Type"
TIMEOUT_MS = "Rerank-Timeout-Ms"
SERVICE_ERROR_CODE = "Nats-Service-Error-Code"
SERVICE_ERROR = "Nats-Service-Error"
WORKER = "Rerank-Worker"
ACTIVATION = "Rerank-Activation"

HEADERS_BYTES_MAX = 256
"""More than the headers of a request take; the server counts them against `max_payload` as well."""
DETAIL_CHARS_MAX = 300
WORKER_CHARS_MAX = 100
STREAM_CHARS_MAX = 100
MODEL_CHARS_MAX = 200

ACTIVATIONS = ("identity", "sigmoid", "tanh")

_CODES: dict[RefusalKind, int] = {
    "invalid_request": 400,
    "unknown_model": 404,
    "too_large": 413,
    "overloaded": 429,
    "unavailable": 429,
    "deadline_exceeded": 504,
    "internal": 500,
}


@dataclass(frozen=True)
class Part:
    """One request: the documents from `first` on, as a body that fits into a message."""

    first: int
    count: int
    rankings: int
    """How many rankings its reply has to hold."""
    body: bytes


@dataclass(frozen=True)
class Scores:
    """A reply that fits its request: (place in the call's documents, score), best first."""

    rankings: list[tuple[int, float]]
    model: str
    worker: Optional[str]
    activation: Optional[str] = None
    """What makes scores of the model's logits, if the worker named one that is known here."""


def request_headers(left_ms: float) -> dict[str, str]:
    """The headers of a request that leaves now; the budget is never written as zero, which would be malformed."""
    return {CONTENT_TYPE: "application/json", TIMEOUT_MS: f"{max(left_ms, 0.001):.3f}"}


def _json(value: Union[str, Mapping[str, Any]]) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        # A lone surrogate has no place in UTF-8: it becomes U+FFFD. (Two that belong together become their character.)
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def split(
    query: str, texts: Sequence[str], top_k: Optional[int], fields: Mapping[str, Any], bytes_max: int, parts_max: int
) -> list[Part]:
    """The requests for `texts`, in their order: one where it fits into `bytes_max`, else several of like size.

    A text that does not fit by itself is in none of them, nor is what is left after `parts_max`. Parts ask for logits
    whatever `fields` say: scores that an activation has saturated are all alike, and cannot be merged.
    """
    if top_k is not None:
        fields = {**fields, "top_k": top_k}
    encoded = [_json(text) for text in texts]
    bytes_all = sum(len(text) + 1 for text in encoded)

    def head_and_room(fields: Mapping[str, Any]) -> tuple[bytes, int]:
        head = _json({"query": query, **fields})[:-1] + b',"documents":['
        return head, bytes_max - HEADERS_BYTES_MAX - len(head) - len(b"]}")

    head, room = head_and_room(fields)
    if bytes_all > room:
        head, room = head_and_room({**fields, "raw_scores": True})
    sizes = [len(text) + 1 for text in encoded if len(text) + 1 <= room]
    bytes_all = sum(sizes)
    # Parts of like size take a like time. The texts at both ends of a part may stick out of its share by half.
    share: float = bytes_all
    if sizes and bytes_all > room:
        share = bytes_all / math.ceil(bytes_all / max(room - max(sizes), room / 2))

    parts: list[Part] = []
    first, size, before = 0, 0, 0

    def end(last: int) -> None:
        if last > first and len(parts) < parts_max:
            count = last - first
            body = b"".join((head, b",".join(encoded[first:last]), b"]}"))
            parts.append(Part(first, count, count if top_k is None else min(top_k, count), body))

    for place, text in enumerate(encoded):
        taken = len(text) + 1
        if taken > room:
            end(place)
            first, size = place + 1, 0
            continue
        if size and (size + taken > room or before + taken / 2 > share * (len(parts) + 1)):
            end(place)
            first, size = place, 0
        size += taken
        before += taken
    end(len(encoded))
    return parts


def open_reply(headers: Optional[Mapping[str, str]], body: bytes, part: Part) -> Union[Scores, Missing]:
    """Reads a reply: a refusal, or a ranking that fits the request. Anything else is a bad reply."""
    lower = {name.lower(): value for name, value in (headers or {}).items()}
    code = lower.get(SERVICE_ERROR_CODE.lower())
    if code is not None:
        return _refusal(code, lower.get(SERVICE_ERROR.lower()), body)
    try:
        reply = json.loads(body)
        if not lower and isinstance(reply, dict) and "rankings" not in reply and isinstance(reply.get("stream"), str):
            # No worker's reply is without headers: JetStream answers what a stream has stored.
            stream = printable(reply["stream"], STREAM_CHARS_MAX)
            raise _BadReply(
                f"the JetStream stream `{stream}` captures the subject and acknowledged the request before a worker "
                "could answer: take the subject out of the stream's subjects"
            )
        rankings = _rankings(reply, part)
        model = reply.get("model")
        if not isinstance(model, str):
            raise _BadReply("`model`: expected a string")
    except _BadReply as problem:
        return Missing("bad_reply", None, str(problem))
    except (ValueError, RecursionError):
        return Missing("bad_reply", None, "the reply is not JSON")
    worker, activation = lower.get(WORKER.lower()), lower.get(ACTIVATION.lower())
    return Scores(
        rankings,
        printable(model, MODEL_CHARS_MAX),
        worker and printable(worker, WORKER_CHARS_MAX),
        activation if activation in ACTIVATIONS else None,
    )


def activated(activation: str, logit: float) -> float:
    """The score for a logit. Monotone, so it never changes an order."""
    if activation == "sigmoid":
        # Written so that nothing overflows.
        part = math.exp(-abs(logit))
        return 1 / (1 + part) if logit >= 0 else part / (1 + part)
    return math.tanh(logit) if activation == "tanh" else logit


class _BadReply(Exception):
    pass


def _rankings(reply: Any, part: Part) -> list[tuple[int, float]]:
    rankings = reply.get("rankings") if isinstance(reply, dict) else None
    if not isinstance(rankings, list):
        raise _BadReply("`rankings`: expected an array")
    if len(rankings) != part.rankings:
        raise _BadReply(f"`rankings`: expected {part.rankings} of {part.count} documents, found {len(rankings)}")
    seen: set[int] = set()
    checked: list[tuple[int, float]] = []
    for ranking in rankings:
        index = ranking.get("index") if isinstance(ranking, dict) else None
        score = ranking.get("score") if isinstance(ranking, dict) else None
        if type(index) is not int or not 0 <= index < part.count:
            raise _BadReply("`rankings[].index`: expected the place of one of the documents")
        if index in seen:
            raise _BadReply("`rankings[].index`: a document is ranked more than once")
        seen.add(index)
        score = _finite(score)
        if checked and checked[-1][1] < score:
            raise _BadReply("`rankings[].score`: higher than the one before it")
        checked.append((part.first + index, score))
    return checked


def _finite(score: Any) -> float:
    if type(score) in (int, float):
        try:
            score = float(score)
        except OverflowError:
            score = math.inf
        if math.isfinite(score):
            return float(score)
    raise _BadReply("`rankings[].score`: expected a finite number")


def _refusal(code: str, message: Optional[str], body: bytes) -> Missing:
    """The kind by its name; failing that (a kind that came later), the one that stands for the code."""
    try:
        error = json.loads(body)["error"]
        name, told_code, told, scope = error.get("kind"), error.get("code"), error.get("message"), error.get("scope")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        name, told_code, told, scope = None, code.strip(), message, None
    kind: RefusalKind = "internal"
    by_code = [known for known, number in _CODES.items() if str(told_code) == str(number)]
    if isinstance(name, str) and name in _CODES:
        kind = name
    elif by_code:
        kind = by_code[0]
    if scope not in ("request", "worker"):
        # An older worker's.
        scope = "request" if kind in ("invalid_request", "too_large", "unknown_model") else "worker"
    return Missing("refused", kind, printable(told, DETAIL_CHARS_MAX) if isinstance(told, str) else None, scope)


def printable(text: str, chars_max: int) -> str:
    """A stranger's text for a person to read: no control characters, bounded."""
    return "".join(character if character.isprintable() else " " for character in text[:chars_max])
